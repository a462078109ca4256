//! The program itself, as a user runs it: a pipeline file, a data directory, a worker, and commands beside it.

use super::eventually::eventually;
use super::http;
use super::port::Port;
use super::process::Process;
use rustix::process::Signal;
use serde_json::Value;
use std::fmt::Display;
use std::net::SocketAddr;
#[cfg(feature = "failpoints")]
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// From the start of a worker to its first comparison of a test's few pairs. Everything is quicker on an idle machine.
const READY: Duration = Duration::from_secs(30);
/// `run` drains for at most 10 s.
const DRAIN: Duration = Duration::from_secs(15);

/// Set for a program that is not Keepstep and shall behave as if it were.
const PLAYS_KEEPSTEP: &str = "PLAYS_KEEPSTEP";

/// Where a worker looks for the crash point at which it is to end.
const FAILPOINTS: &str = "failpoints";

/// What a command left behind.
#[derive(Debug)]
pub struct Outcome {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Standard output as JSON, one object a line.
    pub fn objects(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?} of {self:?}")))
            .collect()
    }

    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Outcome {
        assert_eq!(self.code, Some(code), "exit code of a command that left {self:?}");
        self
    }
}

/// One worker's place: its pipeline file, its data directory, its address; and the worker, while it runs.
pub struct Keepstep {
    home: Arc<TempDir>,
    file: PathBuf,
    data: PathBuf,
    http: Port,
    variables: Vec<(String, String)>,
    process: Option<Process>,
}

impl Keepstep {
    /// Writes the pipeline file and starts nothing.
    pub fn new(pipeline: impl Display) -> Keepstep {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("pipeline.yaml");
        std::fs::write(&file, pipeline.to_string()).unwrap();
        Keepstep::at(Arc::new(home), file)
    }

    fn at(home: Arc<TempDir>, file: PathBuf) -> Keepstep {
        let data = home.path().join("data");
        Keepstep { home, file, data, http: Port::lease(), variables: Vec::new(), process: None }
    }

    /// Starts a worker and waits until it is ready.
    pub async fn run(pipeline: impl Display) -> Keepstep {
        let mut worker = Keepstep::new(pipeline);
        worker.start();
        worker.wait_ready().await;
        worker
    }

    /// A place for a second worker on the same pipeline file, with a data directory of its own as on another machine.
    pub fn another(&self) -> Keepstep {
        let mut other = Keepstep::at(self.home.clone(), self.file.clone());
        other.data = self.home.path().join(format!("data-{}", other.http.number()));
        other.variables.clone_from(&self.variables);
        other
    }

    /// Another file beside it, and the same data directory.
    pub fn with_file(&self, pipeline: impl Display) -> Keepstep {
        let mut other = Keepstep::at(self.home.clone(), PathBuf::new());
        other.file = self.home.path().join(format!("pipeline-{}.yaml", other.http.number()));
        std::fs::write(&other.file, pipeline.to_string()).unwrap();
        other.data.clone_from(&self.data);
        other.variables.clone_from(&self.variables);
        other
    }

    /// An environment variable of the worker and of every command.
    pub fn variable(mut self, name: &str, value: impl Display) -> Keepstep {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// The crash point at which the worker is to end, from now on; empty: none. Needs the feature `failpoints`.
    #[cfg(feature = "failpoints")]
    pub fn arm(&self, point: &str) {
        let file = self.home.path().join(FAILPOINTS);
        // Renamed into its place: the worker never reads half a name.
        let fresh = self.home.path().join("failpoints.new");
        std::fs::write(&fresh, point).unwrap();
        std::fs::rename(fresh, file).unwrap();
    }

    /// The crash point at which the worker is to be frozen when it next comes there; [`Keepstep::thaw`] lets it go on.
    #[cfg(feature = "failpoints")]
    pub fn arm_stop(&self, point: &str) {
        // A number, so that the next arming of the same point is another one.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        self.arm(&format!("{point} stop {}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
    }

    /// Waits until the worker is frozen, and arms nothing any more.
    #[cfg(feature = "failpoints")]
    pub async fn stopped(&mut self, within: Duration) {
        let process = self.process.as_ref().expect("the worker was started");
        super::eventually::eventually_is("frozen at its crash point", within, true, async || process.is_stopped())
            .await;
        self.arm("");
    }

    /// Waits for the worker to end at an armed crash point.
    #[cfg(feature = "failpoints")]
    pub async fn abort(&mut self, within: Duration) {
        let status = self.process().end(within).await;
        let log = self.log();
        self.process = None;
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "a worker ended with {status}; it printed:\n{log}");
    }

    /// Replaces the pipeline file; a worker that runs does not notice.
    pub fn rewrite(&self, pipeline: impl Display) {
        std::fs::write(&self.file, pipeline.to_string()).unwrap();
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn http(&self) -> SocketAddr {
        self.http.address()
    }

    /// The program, without arguments, with the variables of this place and none of the machine's own.
    fn program(&self) -> Command {
        let mut program = match option_env!("CARGO_BIN_EXE_keepstep") {
            Some(program) => Command::new(program),
            // An example is not told where the program is, nor is it built for it: it plays the program itself.
            None => Command::new(std::env::current_exe().unwrap()),
        };
        let inherited = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KEEPSTEP_"));
        for (name, _) in inherited {
            program.env_remove(name);
        }
        program.env(PLAYS_KEEPSTEP, "1").env("KEEPSTEP_FAILPOINTS", self.home.path().join(FAILPOINTS));
        // For a whole run of tests without what only spares work.
        if let Some(what) = std::env::var_os("KEEPSTEP_TEST_SWITCH_OFF") {
            program.env("KEEPSTEP_SWITCH_OFF", what);
        }
        // What a command asks on a terminal is answered; a test of the question sets it to nothing.
        program.env("KEEPSTEP_YES", "1");
        program.current_dir(self.home.path()).envs(self.variables.iter().map(|(name, value)| (name, value)));
        program
    }

    /// Starts the worker without waiting for it. `self.http()` is where it answers.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// [`Keepstep::start`] with further flags of `run`.
    pub fn start_with(&mut self, flags: &[&str]) {
        assert!(self.process.is_none(), "one worker a place");
        let mut program = self.program();
        program.arg("run").arg(&self.file).arg("--data-dir").arg(&self.data);
        program.args(["--http", &self.http().to_string(), "--log-format", "text"]).args(flags);
        let log = self.home.path().join(format!("worker-{}.log", self.http.number()));
        self.process = Some(Process::start(&mut program, &log));
    }

    /// Waits until `/ready` says 200: each source has finished its first comparison and each sink is connected.
    pub async fn wait_ready(&mut self) {
        let address = self.http();
        let process = self.process.as_mut().expect("the worker was started");
        eventually("the worker is ready", READY, async || {
            if let Some(status) = process.ended() {
                panic!("the worker ended at once with {status}; it printed:\n{}", process.log());
            }
            match http::request(address, "GET", "/ready", &[]).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}; it printed:\n{}", process.log())),
            }
        })
        .await;
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the worker was started")
    }

    /// What all workers of this place have logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The most memory that the worker ever had, in bytes.
    pub fn memory_peak(&mut self) -> u64 {
        self.process().memory_peak()
    }

    /// Whether the worker still runs.
    pub fn runs(&mut self) -> bool {
        self.process().ended().is_none()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process().kill9();
        self.process = None;
    }

    /// Starts again and waits until it owns its pipeline and changes flow. Until the session of its former life has
    /// expired it is a standby, which is ready too.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
        self.start();
        self.wait_ready().await;
        // Owned and compared, whatever may still hold changes up.
        const OWNED: [&str; 4] = ["live", "paused", "awaiting_approval", "blocked"];
        eventually("the pipeline is owned", READY, async || {
            let status: Value = serde_json::from_str(&self.get("/status").await.body).unwrap();
            let state = status["pipelines"][0]["state"].as_str().unwrap_or_default().to_owned();
            if OWNED.contains(&state.as_str()) { Ok(()) } else { Err(state) }
        })
        .await;
    }

    /// SIGSTOP: frozen at whatever instruction it was.
    pub fn freeze(&mut self) {
        self.process().freeze();
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.process().signal(Signal::CONT);
    }

    /// The disk is full once a file of the worker is as long as this; `None`: it has space again.
    pub fn limit_files(&self, bytes: Option<u64>) {
        self.process.as_ref().expect("the worker was started").limit_files(bytes);
    }

    /// SIGHUP.
    pub fn hang_up(&mut self) {
        self.process().signal(Signal::HUP);
    }

    /// SIGTERM, and its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.process().signal(Signal::TERM);
        let status = self.process().end(DRAIN).await;
        self.process = None;
        status.code()
    }

    /// Waits for the worker to end by itself, and gives its code.
    pub async fn code_at_end(&mut self, within: Duration) -> Option<i32> {
        let status = self.process().end(within).await;
        self.process = None;
        status.code()
    }

    /// Waits for the worker to end by itself, with this code, and gives what it logged.
    pub async fn log_at_end(&mut self, within: Duration, code: i32) -> String {
        let status = self.process().end(within).await;
        let log = self.log();
        self.process = None;
        assert_eq!(status.code(), Some(code), "exit code of a worker that printed:\n{log}");
        log
    }

    /// `keepstep VERB FILE --data-dir DIR FLAGS…`; the verb may be two words (`quarantine list`).
    pub async fn command(&self, verb: &str, flags: &[&str]) -> Outcome {
        let mut program = self.program();
        program.args(verb.split(' ')).arg(&self.file).args(flags);
        if !matches!(verb, "validate" | "echo") {
            program.arg("--data-dir").arg(&self.data);
        }
        output(program).await
    }

    /// [`Keepstep::command`] with exactly these arguments.
    pub async fn bare(&self, arguments: &[&str]) -> Outcome {
        let mut program = self.program();
        program.args(arguments);
        output(program).await
    }

    /// [`Keepstep::command`] as JSON; the command must end with 0.
    pub async fn json(&self, verb: &str, flags: &[&str]) -> Vec<Value> {
        self.command(verb, &[flags, &["--format", "json"]].concat()).await.expect(0).objects()
    }

    /// Everything on the stream so far, oldest first.
    pub async fn changes(&self) -> Vec<Value> {
        self.json("tail", &["--from", "earliest", "--no-follow"]).await
    }

    /// `/status` or whatever else the worker serves.
    pub async fn get(&self, path: &str) -> http::Answer {
        http::request(self.http(), "GET", path, &[]).await.expect("the worker answers")
    }

    /// The status of the answer, `None` if nobody answers.
    pub async fn status_of(&self, path: &str) -> Option<u16> {
        http::request(self.http(), "GET", path, &[]).await.ok().map(|answer| answer.status)
    }

    /// A `POST` with these header lines.
    pub async fn post(&self, path: &str, headers: &[&str]) -> http::Answer {
        http::request(self.http(), "POST", path, headers).await.expect("the worker answers")
    }

    /// The sum over all label sets of one metric, 0 from a worker that does not answer yet.
    pub async fn metric_or_zero(&self, name: &str) -> f64 {
        if self.status_of("/live").await == Some(200) { self.metric(name, "").await } else { 0.0 }
    }

    /// The value of one metric: the sum over all label sets whose text contains `labels` (`""`: all).
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let all = self.get("/metrics").await.body;
        all.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Keepstep {
    /// A failed test shows what its worker had to say.
    fn drop(&mut self) {
        if std::thread::panicking() && self.process.is_some() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(60)..];
            eprintln!(
                "--- the worker at {} logged ({} lines, the last):\n{}\n---",
                self.http(),
                lines.len(),
                last.join("\n")
            );
        }
    }
}

/// Runs a command to its end without holding up the test's other tasks.
async fn output(mut program: Command) -> Outcome {
    program.stdin(std::process::Stdio::null());
    let output = tokio::task::spawn_blocking(move || program.output()).await.unwrap().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
