//! A child process: its output in a file, its signals by its own id, its end with the value that stands for it.

use super::eventually::PATIENCE;
use super::guardian;
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process, prlimit, waitid};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may run on after SIGSTOP.
const FREEZE: Duration = Duration::from_secs(20);

/// A running server or worker.
pub struct Process {
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Process {
    /// Starts the command; what it prints is appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let out = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()));
        guardian::watch(child.id());
        Process { child, log: log.to_owned(), ended: false }
    }

    /// Everything it has printed so far, in all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The most memory that it ever had, in bytes.
    pub fn memory_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// Lets none of its files grow beyond this, or beyond what this process itself may write.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(Some(self.id()), Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum })
            .expect("the limit of a child can be set");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).expect("the process is there to be signalled");
    }

    /// SIGSTOP, once it has taken effect: on a busy machine a process runs on for a while, since a thread of its own must take
    /// the signal.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let begun = Instant::now();
        while !self.is_stopped() {
            assert!(begun.elapsed() < FREEZE * PATIENCE, "process {} was told to stop and does not", self.child.id());
            std::thread::yield_now();
        }
    }

    /// Whether a signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        // Left to be waited for again: it is only looked at here.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.id()), options).unwrap().is_some()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().unwrap();
        if status.is_some() && !self.ended {
            self.ended = true;
            guardian::forget(self.child.id());
        }
        status
    }

    /// Waits for its end. Fails the test when it still runs after `within`, [`PATIENCE`] times.
    pub async fn end(&mut self, within: Duration) -> ExitStatus {
        let within = within * PATIENCE;
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "process {} still runs after {within:?}; it printed:\n{}",
                self.child.id(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&mut self) {
        if self.ended().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
            self.ended();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}
