//! Real ZooKeeper servers of one test: one alone, or an ensemble of three.

use super::eventually::eventually;
use super::port::Port;
use super::process::Process;
use super::programs;
use super::znodes::Znodes;
use rustix::process::Signal;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Below a second for one and five for three on an idle machine.
const START: Duration = Duration::from_secs(60);

/// JVMs that live at the same time in one test process: more than six make each other late on two cores. A test asks
/// for all it needs at once; one that asked twice could wait for another that does the same.
static JVMS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(6)));

async fn permits(count: u32) -> OwnedSemaphorePermit {
    JVMS.clone().acquire_many_owned(count).await.unwrap()
}

/// Session timeouts from 1 s (two of `tickTime`) to 40 s: that of the tests' own sessions, which nobody waits for.
const COMMON: &str = "tickTime=500\nmaxSessionTimeout=40000\ninitLimit=10\nsyncLimit=5\nadmin.enableServer=false\n4lw.commands.whitelist=*\n\
                      maxClientCnxns=0\ndataDir=data\n";

/// One server process with its directory; the directory and the ports survive a restart.
struct Server {
    client: Port,
    dir: TempDir,
    config: String,
    /// Who is in the ensemble, and the two ports on which they meet.
    dynamic: Option<(String, [Port; 2])>,
    /// System properties, as `-D` flags.
    properties: &'static [&'static str],
    process: Option<Process>,
}

impl Server {
    fn new(client: Port, config: String) -> Server {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        Server { client, dir, config, dynamic: None, properties: &[], process: None }
    }

    /// Without waiting until it serves: a server of an ensemble does so only with a second one.
    fn launch(&mut self) {
        // Written anew each time: a server rewrites both files when it starts.
        fs::write(self.dir.path().join("zoo.cfg"), &self.config).unwrap();
        if let Some((dynamic, _)) = &self.dynamic {
            fs::write(self.dir.path().join("zoo.dynamic"), dynamic).unwrap();
        }
        let mut java = programs::zookeeper_java();
        java.current_dir(self.dir.path())
            .args(self.properties)
            .args(["org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"]);
        self.process = Some(Process::start(&mut java, &self.dir.path().join("zookeeper.log")));
    }

    async fn serves(&mut self) {
        let address = self.client.address();
        let process = self.process.as_mut().expect("it was launched");
        let mut threads_by = Some(Instant::now() + START / 2);
        eventually("ZooKeeper serves", START, async || {
            if threads_by.is_some_and(|by| Instant::now() > by) {
                // A JVM prints where each of its threads is.
                process.signal(Signal::QUIT);
                threads_by = None;
            }
            if let Some(status) = process.ended() {
                panic!("ZooKeeper ended at once with {status}; it printed:\n{}", process.log());
            }
            match four_letters(address, "srvr").await {
                Ok(answer) if answer.contains("Mode:") => Ok(()),
                other => Err(format!("{other:?}; it printed:\n{}", process.log())),
            }
        })
        .await;
    }

    fn kill9(&mut self) {
        self.process.as_mut().expect("ZooKeeper was stopped before").kill9();
        self.process = None;
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("ZooKeeper was stopped before").signal(signal);
    }

    fn freeze(&self) {
        self.process.as_ref().expect("ZooKeeper was stopped before").freeze();
    }

    /// Where snapshots and logs are.
    fn data(&self) -> PathBuf {
        self.dir.path().join("data/version-2")
    }

    /// Ends it and forgets everything it has stored, as if the disk had been replaced.
    fn wipe(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
        clear(&self.dir.path().join("data"));
    }
}

/// Removes everything below the directory but the server's name.
fn clear(data: &Path) {
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A server that is asked while it starts may answer nothing and leave the connection open for ever (3.9.5: a
/// NullPointerException in `ZooKeeperServer.removeCnxn`), hence the bound.
async fn four_letters(address: SocketAddr, word: &str) -> std::io::Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await?
}

/// One server alone.
pub struct ZooKeeper {
    server: Server,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ZooKeeper {
    pub async fn start() -> ZooKeeper {
        ZooKeeper::start_with(&[]).await
    }

    /// With these system properties, e.g. `-Djute.maxbuffer=300000`.
    pub async fn start_with(properties: &'static [&'static str]) -> ZooKeeper {
        ZooKeeper::launch(properties, Some(permits(1).await)).await
    }

    /// Two servers that have nothing to do with each other.
    pub async fn start_two() -> (ZooKeeper, ZooKeeper) {
        let mut second = permits(2).await;
        let first = second.split(1);
        tokio::join!(ZooKeeper::launch(&[], first), ZooKeeper::launch(&[], Some(second)))
    }

    /// A server that many tests share until the process ends: it does not count as one of those that live at the same time,
    /// or it would keep the others waiting for as long.
    #[cfg(feature = "failpoints")]
    pub async fn start_shared() -> ZooKeeper {
        ZooKeeper::launch(&[], None).await
    }

    async fn launch(properties: &'static [&'static str], permit: Option<OwnedSemaphorePermit>) -> ZooKeeper {
        let client = Port::lease();
        let config = format!("{COMMON}clientPort={}\nclientPortAddress=127.0.0.1\n", client.number());
        let mut server = Server { properties, ..Server::new(client, config) };
        server.launch();
        server.serves().await;
        ZooKeeper { server, _permit: permit }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.client.address()
    }

    pub fn connect_string(&self) -> String {
        self.address().to_string()
    }

    /// A session of the test's own.
    pub async fn client(&self) -> Znodes {
        Znodes::connect(&self.connect_string()).await
    }

    /// The answer to `srvr`, `mntr`, `wchs`, `cons` …
    pub async fn four_letters(&self, word: &str) -> String {
        four_letters(self.address(), word).await.expect("ZooKeeper answers")
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.server.kill9();
    }

    /// Starts again with the same port and data, ending the old process first if it still runs.
    pub async fn restart(&mut self) {
        if self.server.process.is_some() {
            self.server.kill9();
        }
        self.server.launch();
        self.server.serves().await;
    }

    /// Comes back with the same port and no data.
    pub async fn restart_empty(&mut self) {
        self.server.wipe();
        self.restart().await;
    }

    /// A copy of everything it has stored, as a backup would be; it is killed for it.
    pub fn back_up(&mut self) -> TempDir {
        self.server.kill9();
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.server.data(), copy.path());
        copy
    }

    /// Comes back with the data of an earlier [`ZooKeeper::back_up`].
    pub async fn restart_from(&mut self, backup: &TempDir) {
        self.server.wipe();
        fs::create_dir(self.server.data()).unwrap();
        copy_files(backup.path(), &self.server.data());
        self.restart().await;
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn pause(&self) {
        self.server.freeze();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.signal(Signal::CONT);
    }
}

/// Three servers with a quorum of two. Only here can a read be older than a write that was acknowledged before it.
pub struct Ensemble {
    servers: Vec<Server>,
    _permit: OwnedSemaphorePermit,
}

impl Ensemble {
    pub async fn start() -> Ensemble {
        Ensemble::start_with("").await
    }

    /// With further lines of each server's `zoo.cfg`.
    pub async fn start_with(lines: &str) -> Ensemble {
        let permit = permits(3).await;
        let ports: [[Port; 3]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| Port::lease()));
        let mut dynamic = String::new();
        for ([client, quorum, election], id) in ports.iter().zip(1..) {
            let [client, quorum, election] = [client, quorum, election].map(Port::number);
            writeln!(dynamic, "server.{id}=127.0.0.1:{quorum}:{election}:participant;127.0.0.1:{client}").unwrap();
        }
        let config =
            format!("{COMMON}standaloneEnabled=false\nreconfigEnabled=true\ndynamicConfigFile=zoo.dynamic\n{lines}");
        let mut servers = Vec::new();
        for ([client, quorum, election], id) in ports.into_iter().zip(1..) {
            let mut server = Server::new(client, config.clone());
            fs::write(server.dir.path().join("data/myid"), format!("{id}\n")).unwrap();
            server.dynamic = Some((dynamic.clone(), [quorum, election]));
            servers.push(server);
        }
        let mut ensemble = Ensemble { servers, _permit: permit };
        ensemble.restart_all().await;
        ensemble
    }

    /// The addresses of all three.
    pub fn connect_string(&self) -> String {
        self.servers.iter().map(|server| server.client.address().to_string()).collect::<Vec<_>>().join(",")
    }

    /// The address of one, counted from 0.
    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].client.address()
    }

    /// A session of the test's own, with whichever server answers.
    pub async fn client(&self) -> Znodes {
        Znodes::connect(&self.connect_string()).await
    }

    /// The server that leads at the moment.
    pub async fn leader(&self) -> usize {
        eventually("the ensemble has a leader", START, async || {
            for server in 0..self.servers.len() {
                let answer = four_letters(self.address(server), "srvr").await.unwrap_or_default();
                if answer.contains("Mode: leader") {
                    return Ok(server);
                }
            }
            Err("no server says that it leads".to_owned())
        })
        .await
    }

    /// SIGKILL for one.
    pub fn kill9(&mut self, server: usize) {
        self.servers[server].kill9();
    }

    /// SIGSTOP for one: its connections stay open and it does not answer.
    pub fn pause(&self, server: usize) {
        self.servers[server].freeze();
    }

    /// SIGCONT.
    pub fn resume(&self, server: usize) {
        self.servers[server].signal(Signal::CONT);
    }

    /// Starts one again with the same ports and data and waits until it serves, ending its old process first.
    pub async fn restart(&mut self, server: usize) {
        let server = &mut self.servers[server];
        if server.process.is_some() {
            server.kill9();
        }
        server.launch();
        server.serves().await;
    }

    /// Starts all three again, ending those that still run, and waits until all serve.
    pub async fn restart_all(&mut self) {
        for server in &mut self.servers {
            if server.process.is_some() {
                server.kill9();
            }
            server.launch();
        }
        for server in &mut self.servers {
            server.serves().await;
        }
    }

    /// A copy of what each has stored, taken while they run, as a backup is.
    pub fn back_up(&self) -> Vec<TempDir> {
        let copies = self.servers.iter().map(|server| {
            let copy = tempfile::tempdir().unwrap();
            copy_files(&server.data(), copy.path());
            copy
        });
        copies.collect()
    }

    /// All come back with the data of an earlier [`Ensemble::back_up`].
    pub async fn restore(&mut self, backup: &[TempDir]) {
        for (server, copy) in self.servers.iter_mut().zip(backup) {
            server.wipe();
            fs::create_dir(server.data()).unwrap();
            copy_files(copy.path(), &server.data());
        }
        self.restart_all().await;
    }
}
