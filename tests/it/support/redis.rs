//! A real Redis server of one test.

use super::eventually::eventually;
use super::port::Port;
use super::process::Process;
use super::programs;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Half a second here; the rest is for a machine that compiles beside us.
const START: Duration = Duration::from_secs(20);

/// What every test server is started with; a later argument of the same name wins.
const DEFAULTS: [&str; 12] = [
    "--bind",
    "127.0.0.1",
    "--save",
    "",
    "--appendonly",
    "no",
    "--notify-keyspace-events",
    "KA",
    "--enable-debug-command",
    "local",
    "--loglevel",
    "notice",
];

/// A Redis server on its own port and directory, which survive a [`Redis::restart`].
pub struct Redis {
    port: Port,
    dir: TempDir,
    options: Vec<String>,
    is_sentinel: bool,
    process: Option<Process>,
}

impl Redis {
    /// Notifications on, nothing kept on disk.
    pub async fn start() -> Redis {
        Redis::start_with(&[]).await
    }

    /// With further options as on the command line, e.g. `["--appendonly", "yes"]`, `["--maxmemory", "4mb"]`,
    /// `["--user", "keepstep", "on", ">secret", "~settings:*", "+@all"]`.
    pub async fn start_with(options: &[&str]) -> Redis {
        let mut redis = Redis {
            port: Port::lease(),
            dir: tempfile::tempdir().unwrap(),
            options: options.iter().map(ToString::to_string).collect(),
            is_sentinel: false,
            process: None,
        };
        redis.launch().await;
        redis
    }

    /// A Sentinel that watches nothing.
    pub async fn sentinel() -> Redis {
        let (port, dir) = (Port::lease(), tempfile::tempdir().unwrap());
        fs::write(dir.path().join("sentinel.conf"), "bind 127.0.0.1\n").unwrap();
        let mut redis = Redis { port, dir, options: Vec::new(), is_sentinel: true, process: None };
        redis.launch().await;
        redis
    }

    async fn launch(&mut self) {
        let mut command = programs::redis_server();
        command.current_dir(self.dir.path());
        if self.is_sentinel {
            command.args(["sentinel.conf", "--sentinel"]);
        }
        command.args(["--port", &self.port.number().to_string()]);
        if !self.is_sentinel {
            command.args(DEFAULTS);
        }
        command.args(&self.options);
        self.process = Some(Process::start(&mut command, &self.dir.path().join("redis.log")));
        let client = redis::Client::open(format!("redis://{}", self.address())).unwrap();
        let process = self.process.as_mut().unwrap();
        eventually("Redis answers", START, async || {
            if let Some(status) = process.ended() {
                panic!("Redis ended at once with {status}; it printed:\n{}", process.log());
            }
            // Loading and a refused password are answers too; only a connection that fails means that it is not there.
            let mut connection = client.get_multiplexed_async_connection().await.map_err(|error| error.to_string())?;
            match redis::cmd("PING").query_async::<String>(&mut connection).await {
                Err(error) if error.code() == Some("LOADING") => Err(error.to_string()),
                _ => Ok(()),
            }
        })
        .await;
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("Redis was stopped before")
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Database 0, without a user.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address())
    }

    /// A connection of the test's own, with time enough for a slow answer.
    pub async fn client(&self) -> MultiplexedConnection {
        self.client_as("").await
    }

    /// [`Redis::client`] as somebody: `"user:password@"`.
    pub async fn client_as(&self, login: &str) -> MultiplexedConnection {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(30)));
        redis::Client::open(format!("redis://{login}{}", self.address()))
            .unwrap()
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .expect("Redis is there")
    }

    /// One command, as words: `redis.run("SET settings:a 1")`. For words with spaces or bytes use `redis::cmd`.
    pub async fn run<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_run(command).await.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// [`Redis::run`] that may be refused.
    pub async fn try_run<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split_whitespace();
        let mut request = redis::cmd(words.next().expect("a command has a name"));
        request.arg(words.collect::<Vec<_>>());
        request.query_async(&mut self.client().await).await
    }

    /// One figure of `INFO`, e.g. `run_id`.
    pub async fn info(&self, name: &str) -> String {
        let all: String = self.run("INFO everything").await;
        let prefix = format!("{name}:");
        all.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().trim().to_owned()
    }

    /// SIGTERM: an orderly end, with the data set saved if it was told to.
    pub async fn stop(&mut self) {
        self.process().signal(Signal::TERM);
        self.process().end(START).await;
        self.process = None;
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process().kill9();
        self.process = None;
    }

    /// Starts again on the same port, directory and options, ending the old process first if it still runs.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
        self.launch().await;
    }

    /// A copy of everything it has on disk, while it runs; the end of an append-only file may be torn, which it tolerates.
    pub fn back_up(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_all(self.dir.path(), copy.path());
        copy
    }

    /// Comes back, after a SIGKILL, with the data of an earlier [`Redis::back_up`].
    pub async fn restart_from(&mut self, backup: &TempDir) {
        self.wipe();
        copy_all(backup.path(), self.dir.path());
        self.launch().await;
    }

    /// Comes back, after a SIGKILL, with no data.
    pub async fn restart_empty(&mut self) {
        self.wipe();
        self.launch().await;
    }

    fn wipe(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else if path.extension().is_some_and(|extension| extension == "rdb") {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn pause(&mut self) {
        self.process().freeze();
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.process().signal(Signal::CONT);
    }
}

/// Everything but the server's log.
fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir_all(&copy).unwrap();
            copy_all(&path, &copy);
        } else if path.extension().is_none_or(|extension| extension != "log") {
            fs::copy(&path, &copy).unwrap();
        }
    }
}
