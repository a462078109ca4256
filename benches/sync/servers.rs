//! The processes: one ZooKeeper, one Redis, one worker. Each ends with the value that stands for it.

use crate::Outcome;
use crate::report::{Wait, doing};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::Client;

const START: Duration = Duration::from_secs(60);

/// Ticks of `/proc/PID/stat` in a second: fixed on Linux.
const TICKS: f64 = 100.0;

/// A child process with what it printed in a file.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Outcome<Process> {
        let out = File::create(&log)?;
        let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn();
        let child = child.map_err(|error| format!("{:?} does not start: {error}", command.get_program()))?;
        Ok(Process { child, log })
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        let id = Pid::from_raw(i32::try_from(self.id())?).ok_or("no process")?;
        Ok(kill_process(id, signal)?)
    }

    fn alive(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("ended with {status}:\n{}", fs::read_to_string(&self.log)?).into()),
        }
    }

    /// User and system time so far, in seconds.
    fn cpu(&self) -> Outcome<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        let after_name = stat.rsplit_once(") ").ok_or("an odd /proc/PID/stat")?.1;
        let ticks: f64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS)
    }

    /// A line of `/proc/PID/status` in MiB.
    fn memory(&self, name: &str) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("an odd /proc/PID/status")?;
        let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn directory() -> Outcome<TempDir> {
    let parent = env::var_os("KEEPSTEP_BENCH_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(fs::canonicalize(parent)?)?)
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/keepstep-test");
    env::var_os("KEEPSTEP_TEST_CACHE").map_or_else(home, PathBuf::from)
}

fn class_path() -> String {
    env::var("KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH").unwrap_or_else(|_| {
        let jars = cache().join("zookeeper-3.9.5");
        if jars.exists() { jars.join("*").display().to_string() } else { "/usr/share/java/zookeeper.jar".to_owned() }
    })
}

fn kafka_class_path() -> String {
    let cached = || cache().join("kafka-4.1.1/*").display().to_string();
    env::var("KEEPSTEP_TEST_KAFKA_CLASSPATH").unwrap_or_else(|_| cached())
}

fn redis_server() -> PathBuf {
    let cached = cache().join("bin/redis-server");
    let found = || if cached.exists() { cached } else { PathBuf::from("redis-server") };
    env::var_os("KEEPSTEP_TEST_REDIS").map_or_else(found, PathBuf::from)
}

fn program() -> PathBuf {
    env::var_os("KEEPSTEP_BENCH_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_keepstep").into(), PathBuf::from)
}

/// What is measured, in one paragraph.
pub(crate) fn versions() -> String {
    let redis = Command::new(redis_server()).arg("--version").output().map(|out| out.stdout).unwrap_or_default();
    let redis = String::from_utf8_lossy(&redis).trim().to_owned();
    format!("program: {}\nZooKeeper: {}\nRedis: {redis}", program().display(), class_path())
}

/// Sends `request` and reads until the other side closes.
async fn ask(address: SocketAddr, request: &str) -> Outcome<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Outcome::Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await?
}

/// A request to a worker, which refuses one whose `Host` is not its own address.
fn get(path: &str, address: SocketAddr) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
}

/// Waits until the answer contains `answer`. An answer that contains neither `answer` nor `not_yet` is an error at once: it
/// does not change by waiting.
async fn wait_for(
    process: &mut Process,
    address: SocketAddr,
    request: &str,
    answer: &str,
    not_yet: &str,
) -> Outcome<()> {
    let mut wait = Wait::new(format!("{answer:?} from {address}"), START * 10);
    loop {
        process.alive()?;
        wait.goes_on()?;
        match ask(address, request).await {
            Ok(text) if text.contains(answer) => return Ok(()),
            Ok(text) if !text.is_empty() && !text.contains(not_yet) => {
                return Err(format!("neither {answer:?} nor {not_yet:?}: {text:?}").into());
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A ZooKeeper server with room for a million znodes.
pub(crate) struct ZooKeeper {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl ZooKeeper {
    pub(crate) async fn start() -> Outcome<ZooKeeper> {
        doing("starting ZooKeeper");
        let (dir, port) = (directory()?, free_port()?);
        let config = format!(
            "tickTime=1000\ninitLimit=10\nsyncLimit=5\nadmin.enableServer=false\n4lw.commands.whitelist=*\n\
             maxClientCnxns=0\ndataDir=data\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
        );
        fs::write(dir.path().join("zoo.cfg"), config)?;
        let mut java = Command::new(env::var_os("KEEPSTEP_TEST_JAVA").unwrap_or_else(|| "java".into()));
        java.args(["-Xmx2g", "-Xms512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(class_path())
            .args(["org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"])
            .current_dir(dir.path());
        let mut process = Process::start(&mut java, dir.path().join("log"))?;
        wait_for(&mut process, local(port), "srvr", "Mode:", "not currently serving").await?;
        Ok(ZooKeeper { process, port, _dir: dir })
    }

    /// A session.
    pub(crate) async fn client(&self) -> Outcome<Client> {
        let connector = Client::connector().with_session_timeout(Duration::from_secs(20));
        Ok(connector.connect(&local(self.port).to_string()).await?)
    }

    pub(crate) fn cpu(&self) -> Outcome<f64> {
        self.process.cpu()
    }
}

/// One Kafka broker, its own controller.
pub(crate) struct Kafka {
    _process: Process,
    port: u16,
    _dir: TempDir,
}

impl Kafka {
    pub(crate) async fn start() -> Outcome<Kafka> {
        doing("starting Kafka");
        let (dir, port, quorum) = (directory()?, free_port()?, free_port()?);
        let config = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{quorum}\n\
             controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{quorum}\n\
             log.dirs=data\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n"
        );
        fs::write(dir.path().join("server.properties"), config)?;
        let java = || {
            let mut java = Command::new(env::var_os("KEEPSTEP_TEST_JAVA").unwrap_or_else(|| "java".into()));
            java.args(["-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]);
            java.arg(kafka_class_path()).current_dir(dir.path());
            java
        };
        let format = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "server.properties"];
        if !java().args(format).stdout(Stdio::null()).status()?.success() {
            return Err("the broker's storage is not formatted; run `. scripts/servers.sh; find_servers`".into());
        }
        let mut process = Process::start(java().args(["kafka.Kafka", "server.properties"]), dir.path().join("log"))?;
        let begun = Instant::now();
        while TcpStream::connect(local(port)).await.is_err() {
            process.alive()?;
            if begun.elapsed() > START {
                return Err("Kafka does not listen".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Kafka { _process: process, port, _dir: dir })
    }

    pub(crate) fn brokers(&self) -> String {
        local(self.port).to_string()
    }
}

/// A Redis server that keeps nothing on disk and notifies.
pub(crate) struct Redis {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Outcome<Redis> {
        doing("starting Redis");
        let (dir, port) = (directory()?, free_port()?);
        let mut server = Command::new(redis_server());
        server.current_dir(dir.path()).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        server.args(["--appendonly", "no", "--notify-keyspace-events", "KA"]);
        let mut process = Process::start(&mut server, dir.path().join("log"))?;
        wait_for(&mut process, local(port), "PING\r\nQUIT\r\n", "PONG", "LOADING").await?;
        Ok(Redis { process, port, _dir: dir })
    }

    pub(crate) fn cpu(&self) -> Outcome<f64> {
        self.process.cpu()
    }

    fn open(&self) -> Outcome<redis::Client> {
        Ok(redis::Client::open(format!("redis://{}/0", local(self.port)))?)
    }

    /// A connection.
    pub(crate) async fn client(&self) -> Outcome<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        Ok(self.open()?.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// A connection that hears of every change of a key below `root`.
    pub(crate) async fn events(&self, root: &str) -> Outcome<redis::aio::PubSub> {
        let mut events = self.open()?.get_async_pubsub().await?;
        events.psubscribe(format!("__keyspace@0__:{root}:*")).await?;
        Ok(events)
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub(crate) fn pause(&self) -> Outcome<()> {
        self.process.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) -> Outcome<()> {
        self.process.signal(Signal::CONT)
    }
}

/// One two-way pipeline, `/settings/**` and `settings:**`, its stream embedded or in topic `bench`, everything else as it is
/// by default.
fn pipeline(zookeeper: &ZooKeeper, redis: &Redis, kafka: Option<&Kafka>) -> String {
    let stream = kafka.map_or_else(String::new, |kafka| {
        format!("stream: {{kafka: {{brokers: \"{}\", topic: bench}}}}\n", kafka.brokers())
    });
    let text = format!(
        "version: 1\npipeline: bench\nstores:\n  zk: {{zookeeper: {{connect: \"{}\"}}}}\n  \
         cache: {{redis: {{url: \"redis://{}/0\"}}}}\nroutes:\n  - name: settings\n    flow: zk <-> cache\n    \
         match: {{zk: /settings/**, cache: \"settings:**\"}}\n",
        local(zookeeper.port),
        local(redis.port)
    );
    text + &stream
}

/// The program, with none of the variables of this machine.
fn keepstep() -> Command {
    let mut command = Command::new(program());
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KEEPSTEP_")) {
        command.env_remove(name);
    }
    command
}

/// A pipeline file and a data folder for commands, without a worker.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new(zookeeper: &ZooKeeper, redis: &Redis, kafka: Option<&Kafka>) -> Outcome<Place> {
        let dir = directory()?;
        fs::write(dir.path().join("pipeline.yaml"), pipeline(zookeeper, redis, kafka))?;
        Ok(Place { dir })
    }

    /// Where the stream of the pipeline lies.
    pub(crate) fn stream(&self) -> PathBuf {
        self.dir.path().join("data/bench/stream")
    }

    /// Runs a command to its end, which must be good: how long it took, and the most memory it had, in MiB.
    pub(crate) async fn run(&self, verb: &str, flags: &[&str]) -> Outcome<(Duration, f64)> {
        let mut command = keepstep();
        command.current_dir(self.dir.path()).arg(verb).arg("pipeline.yaml").args(flags);
        command.args(["--data-dir", "data", "--format", "json"]);
        doing(&format!("keepstep {verb} {}", flags.join(" ")));
        let begun = Instant::now();
        let mut process = Process::start(&mut command, self.dir.path().join("log"))?;
        let mut peak = 0.0_f64;
        let status = loop {
            if let Ok(most) = process.memory("VmHWM") {
                peak = peak.max(most);
            }
            match process.child.try_wait()? {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let said = fs::read_to_string(&process.log)?;
        if !status.success() {
            return Err(format!("{verb} ended with {status}:\n{said}").into());
        }
        println!("   {}", said.lines().last().unwrap_or_default());
        Ok((begun.elapsed(), peak))
    }
}

/// A worker with one two-way pipeline, `/settings/**` and `settings:**`, everything else as it is by default.
pub(crate) struct Worker {
    process: Process,
    http: SocketAddr,
    perf: Option<Process>,
    _dir: TempDir,
}

impl Worker {
    /// Starts it without waiting, on the embedded stream.
    pub(crate) fn start(zookeeper: &ZooKeeper, redis: &Redis) -> Outcome<Worker> {
        Worker::start_on(zookeeper, redis, None)
    }

    /// [`Worker::start`], with the stream in Kafka if there is one.
    pub(crate) fn start_on(zookeeper: &ZooKeeper, redis: &Redis, kafka: Option<&Kafka>) -> Outcome<Worker> {
        let (dir, http) = (directory()?, local(free_port()?));
        let file = dir.path().join("pipeline.yaml");
        fs::write(&file, pipeline(zookeeper, redis, kafka))?;
        let mut command = keepstep();
        command.arg("run").arg(&file).args(["--http", &http.to_string(), "--data-dir"]).arg(dir.path().join("data"));
        let process = Process::start(&mut command, dir.path().join("log"))?;
        Ok(Worker { process, http, perf: None, _dir: dir })
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) -> Outcome<()> {
        doing("waiting until the worker is ready");
        wait_for(&mut self.process, self.http, &get("/ready", self.http), " 200 ", " 503 ").await
    }

    pub(crate) fn cpu(&self) -> Outcome<f64> {
        self.process.cpu()
    }

    /// Resident MiB now.
    pub(crate) fn rss(&self) -> Outcome<f64> {
        self.process.memory("VmRSS")
    }

    /// The most it ever had.
    pub(crate) fn peak(&self) -> Outcome<f64> {
        self.process.memory("VmHWM")
    }

    /// What it printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.process.log).unwrap_or_default()
    }

    /// Prints the worker's own counts, if they are wanted.
    pub(crate) async fn show_metrics(&self) -> Outcome<()> {
        if env::var_os("KEEPSTEP_BENCH_METRICS").is_some() {
            let answer = ask(self.http, &get("/metrics", self.http)).await?;
            let is_count = |line: &&str| line.starts_with("keepstep_") && !line.contains("_bucket{");
            answer.lines().filter(is_count).for_each(|line| println!("      {line}"));
        }
        Ok(())
    }

    /// Begins to write a profile, if one is wanted.
    pub(crate) async fn profile(&mut self, name: &str) -> Outcome<bool> {
        let Some(dir) = env::var_os("KEEPSTEP_BENCH_PERF") else { return Ok(false) };
        fs::create_dir_all(&dir)?;
        let file = Path::new(&dir).join(format!("{name}.data"));
        let mut perf = Command::new("perf");
        perf.args(["record", "-F", "499", "--call-graph", "dwarf,8192", "-p", &self.process.id().to_string(), "-o"])
            .arg(&file);
        self.perf = Some(Process::start(&mut perf, file.with_extension("log"))?);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(true)
    }

    /// Ends the profile.
    pub(crate) async fn profiled(&mut self) -> Outcome<()> {
        if let Some(mut perf) = self.perf.take() {
            perf.signal(Signal::INT)?;
            while perf.child.try_wait()?.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}
