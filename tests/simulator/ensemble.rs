//! The way of one process to the ensemble: the double's sessions, with requests and answers that take their time.

use crate::executor::{Executor, NETWORK, ProcessId};
use crate::network::{Connection, Fate, Network, Store, Way};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use keepstep::env::world::Running;
use keepstep::store::zookeeper::session::{
    Access, Acl, Answer, CreateMode, Created, Ensemble, Error, MultiReadResult, MultiWriteError, MultiWriteResult,
    ReadOp, Session, SessionState, Stat, WatchedEvent, WriteOp,
};
use keepstep_doubles::zookeeper::{DoubleEnsemble, Fault};
use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A session that a process has opened.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    pub process: ProcessId,
    pub session: i64,
    pub timeout: Duration,
}

/// The ensemble as one process reaches it. A clone is the same one.
#[derive(Clone)]
pub struct Ensembles {
    pub network: Network,
    pub double: DoubleEnsemble,
    servers: usize,
    pub opened: Arc<Mutex<Vec<Opened>>>,
    /// Sessions of processes that were killed: they are not closed, they expire.
    pub left: Arc<Mutex<Vec<Arc<dyn Session>>>>,
}

impl Ensembles {
    #[must_use]
    pub fn new(network: Network, double: DoubleEnsemble, servers: usize) -> Ensembles {
        Ensembles { network, double, servers, opened: Arc::default(), left: Arc::default() }
    }

    /// The sessions of all processes.
    #[must_use]
    pub fn all(&self) -> Vec<Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sessions of a process.
    #[must_use]
    pub fn sessions_of(&self, process: ProcessId) -> Vec<Opened> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().filter(|opened| opened.process == process).copied().collect()
    }

    /// For one process.
    #[must_use]
    pub fn of(&self, process: ProcessId) -> Arc<dyn Ensemble> {
        Arc::new(OfProcess { ensembles: self.clone(), process })
    }

    fn executor(&self) -> &Executor {
        self.network.executor()
    }
}

struct OfProcess {
    ensembles: Ensembles,
    process: ProcessId,
}

impl Ensemble for OfProcess {
    fn open<'a>(&'a self, access: &'a Access) -> Answer<'a, Arc<dyn Session>> {
        async move {
            let ensembles = &self.ensembles;
            let connection = ensembles.network.connection(self.process, Store::Zookeeper);
            let (at, _) = connection.request();
            ensembles.executor().sleep_until(at).await;
            match connection.way() {
                Way::Open => {}
                Way::Refused => return Err(Error::NoHosts),
                Way::Silent => return std::future::pending().await,
            }
            ensembles.double.connect_to(connection.draws().below(7, ensembles.servers as u64) as usize);
            let session = ensembles.double.open(access).await?;
            ensembles.network.truth().is_session(session.id(), self.process);
            let opened = Opened { process: self.process, session: session.id(), timeout: access.session_timeout };
            ensembles.opened.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
            let guard = Arc::new(Guard { ensembles: ensembles.clone(), process: self.process, session: Some(session) });
            let inner = guard.session.clone().ok_or(Error::ClientClosed)?;
            let opened = OfSession { ensembles: ensembles.clone(), connection, inner, guard };
            ensembles.executor().sleep_until(opened.connection.back()).await;
            Ok(Arc::new(opened) as Arc<dyn Session>)
        }
        .boxed()
    }

    fn dial<'a>(&'a self, server: &'a str) -> BoxFuture<'a, io::Result<()>> {
        match self.ensembles.network.way(self.process, Store::Zookeeper) {
            Way::Open => self.ensembles.double.dial(server),
            Way::Refused => std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed(),
            Way::Silent => std::future::pending().boxed(),
        }
    }

    fn ask<'a>(&'a self, server: &'a str, word: &'a str) -> BoxFuture<'a, io::Result<String>> {
        match self.ensembles.network.way(self.process, Store::Zookeeper) {
            Way::Open => self.ensembles.double.ask(server, word),
            Way::Refused => std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed(),
            Way::Silent => std::future::pending().boxed(),
        }
    }
}

/// Keeps the session of a process that was killed from being closed.
struct Guard {
    ensembles: Ensembles,
    process: ProcessId,
    session: Option<Arc<dyn Session>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let session = self.session.take();
        if self.ensembles.executor().is_dead(self.process) {
            self.ensembles.left.lock().unwrap_or_else(PoisonError::into_inner).extend(session);
        } else if let Some(session) = session {
            // What was sent before arrives before.
            let connection = self.ensembles.network.connection(self.process, Store::Zookeeper);
            let executor = self.ensembles.executor().clone();
            self.ensembles.executor().spawn_on(NETWORK, async move {
                executor.sleep_until(connection.request().0).await;
                drop(session);
            });
        }
    }
}

struct OfSession {
    ensembles: Ensembles,
    connection: Connection,
    inner: Arc<dyn Session>,
    guard: Arc<Guard>,
}

/// Polls once: on the double a request is decided when it is sent.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|context| match future.poll_unpin(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl OfSession {
    fn send<T: Debug + Send + 'static, E: Debug + Send + 'static>(
        &self,
        asked: String,
        closed: E,
        request: impl FnOnce(Arc<dyn Session>) -> BoxFuture<'static, Result<T, E>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, E>> {
        let (answer, answered) = oneshot::channel();
        let (at, fate) = self.connection.request();
        let (ensembles, connection, inner) = (self.ensembles.clone(), self.connection.clone(), Arc::clone(&self.inner));
        self.ensembles.executor().spawn_on(NETWORK, async move {
            let executor = ensembles.executor();
            executor.sleep_until(at).await;
            match fate {
                Fate::LosesRequest => {
                    executor.mark("zookeeper: lost a request");
                    ensembles.double.fail(Fault::LoseRequest, 1, |_| true);
                }
                Fate::LosesAnswer => {
                    executor.mark("zookeeper: lost an answer");
                    ensembles.double.fail(Fault::LoseAnswer, 1, |_| true);
                }
                Fate::Arrives | Fate::Refused => {}
            }
            let process = connection.process();
            tracing::trace!(process, ?fate, "zookeeper <- {asked}");
            let denied = ensembles.double.look(keepstep_doubles::zookeeper::Ensemble::denied);
            let mut asked = request(inner);
            let at_once = poll_once(&mut asked).await;
            ensembles.double.forgive();
            if ensembles.double.look(keepstep_doubles::zookeeper::Ensemble::denied) != denied {
                executor.mark("zookeeper: a right is missing");
            }
            ensembles.network.look(connection.process());
            let done = match at_once {
                Some(done) => done,
                None => {
                    // A server that was restored or that lags decides later.
                    let done = asked.await;
                    ensembles.network.look(process);
                    done
                }
            };
            tracing::trace!(process, "zookeeper -> {}", format!("{done:?}").chars().take(400).collect::<String>());
            let sent = executor.now();
            executor.sleep_until(connection.back()).await;
            connection.arrived(false, sent);
            // Whoever asked may have gone.
            let _ = answer.send(done);
        });
        answered.map(|answered| answered.unwrap_or(Err(closed))).boxed()
    }

    fn ask<T: Debug + Send + 'static>(
        &self,
        asked: String,
        request: impl FnOnce(Arc<dyn Session>) -> BoxFuture<'static, Result<T, Error>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        self.send(asked, Error::ClientClosed, request)
    }

    /// Events take their time as well, in their order.
    fn late(&self, events: BoxStream<'static, WatchedEvent>) -> BoxStream<'static, WatchedEvent> {
        let (send, received) = mpsc::unbounded_channel();
        let (connection, executor) = (self.connection.clone(), self.ensembles.executor().clone());
        let (executor_of, arriving) = (executor.clone(), connection.clone());
        let pumping = executor.spawn_on(NETWORK, async move {
            let mut events = events;
            while let Some(event) = events.next().await {
                if send.send((executor_of.now(), connection.back(), event)).is_err() {
                    return;
                }
            }
        });
        struct Pump(Arc<dyn Running>);
        impl Drop for Pump {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let pump = Pump(pumping);
        stream::unfold((received, executor, pump, arriving), |(mut received, executor, pump, arriving)| async move {
            let (sent, at, event): (Duration, Duration, WatchedEvent) = received.recv().await?;
            executor.sleep_until(at).await;
            arriving.arrived(true, sent);
            Some((event, (received, executor, pump, arriving)))
        })
        .boxed()
    }
}

/// What is asked, where somebody traces it.
fn said(asked: impl FnOnce() -> String) -> String {
    if tracing::enabled!(tracing::Level::TRACE) { asked() } else { String::new() }
}

/// What a trace does not show.
struct Opaque<T>(T);

impl<T> Debug for Opaque<T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("done")
    }
}

/// A write with names of its own.
enum Owned {
    Check(String, i32),
    Create(String, Vec<u8>, CreateMode, Vec<Acl>),
    Set(String, Vec<u8>, Option<i32>),
    Delete(String, Option<i32>),
}

impl Owned {
    fn of(write: &WriteOp<'_>) -> Owned {
        match *write {
            WriteOp::Check { path, version } => Owned::Check(path.to_owned(), version),
            WriteOp::Create { path, data, mode, acl } => {
                Owned::Create(path.to_owned(), data.to_vec(), mode, acl.to_vec())
            }
            WriteOp::Set { path, data, version } => Owned::Set(path.to_owned(), data.to_vec(), version),
            WriteOp::Delete { path, version } => Owned::Delete(path.to_owned(), version),
        }
    }

    fn text(&self) -> String {
        match self {
            Owned::Check(path, version) => format!("check {path} {version}"),
            Owned::Create(path, data, ..) => format!("create {path} {}", String::from_utf8_lossy(data).escape_debug()),
            Owned::Set(path, data, version) => format!("set {path} {version:?} {} bytes", data.len()),
            Owned::Delete(path, version) => format!("delete {path} {version:?}"),
        }
    }

    fn write(&self) -> WriteOp<'_> {
        match self {
            Owned::Check(path, version) => WriteOp::Check { path, version: *version },
            Owned::Create(path, data, mode, acl) => WriteOp::Create { path, data, mode: *mode, acl },
            Owned::Set(path, data, version) => WriteOp::Set { path, data, version: *version },
            Owned::Delete(path, version) => WriteOp::Delete { path, version: *version },
        }
    }
}

impl Session for OfSession {
    fn id(&self) -> i64 {
        self.inner.id()
    }

    fn state(&self) -> SessionState {
        self.inner.state()
    }

    fn states(&self) -> BoxStream<'static, SessionState> {
        self.inner.states()
    }

    fn rooted(&self, root: &str) -> Option<Arc<dyn Session>> {
        let inner = self.inner.rooted(root)?;
        let (ensembles, connection) = (self.ensembles.clone(), self.connection.clone());
        Some(Arc::new(OfSession { ensembles, connection, inner, guard: Arc::clone(&self.guard) }))
    }

    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: CreateMode, acl: &[Acl]) -> Answer<'a, Created> {
        let (path, data, acl) = (path.to_owned(), data.to_vec(), acl.to_vec());
        self.ask(said(|| format!("create {path}")), move |session| {
            async move { session.create(&path, &data, mode, &acl).await }.boxed()
        })
    }

    fn set<'a>(&'a self, path: &'a str, data: &[u8], version: Option<i32>) -> Answer<'a, Stat> {
        let (path, data) = (path.to_owned(), data.to_vec());
        self.ask(said(|| format!("set {path} {version:?}")), move |session| {
            async move { session.set(&path, &data, version).await }.boxed()
        })
    }

    fn delete<'a>(&'a self, path: &'a str, version: Option<i32>) -> Answer<'a, ()> {
        let path = path.to_owned();
        self.ask(said(|| format!("delete {path} {version:?}")), move |session| {
            async move { session.delete(&path, version).await }.boxed()
        })
    }

    fn data<'a>(&'a self, path: &'a str) -> Answer<'a, (Vec<u8>, Stat)> {
        let path = path.to_owned();
        self.ask(said(|| format!("data {path}")), move |session| async move { session.data(&path).await }.boxed())
    }

    fn stat<'a>(&'a self, path: &'a str) -> Answer<'a, Option<Stat>> {
        let path = path.to_owned();
        self.ask(said(|| format!("stat {path}")), move |session| async move { session.stat(&path).await }.boxed())
    }

    fn stat_and_watch<'a>(&'a self, path: &'a str) -> Answer<'a, (Option<Stat>, BoxFuture<'static, WatchedEvent>)> {
        let path = path.to_owned();
        let (connection, executor) = (self.connection.clone(), self.ensembles.executor().clone());
        self.ask(said(|| format!("stat and watch {path}")), move |session| {
            async move {
                let (stat, changed) = session.stat_and_watch(&path).await?;
                let changed = async move {
                    let event = changed.await;
                    executor.sleep_until(connection.back()).await;
                    event
                };
                Ok(Opaque((stat, changed.boxed())))
            }
            .boxed()
        })
        .map(|answered| answered.map(|Opaque(found)| found))
        .boxed()
    }

    fn children<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<String>> {
        let path = path.to_owned();
        self.ask(said(|| format!("children {path}")), move |session| {
            async move { session.children(&path).await }.boxed()
        })
    }

    fn acl<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Acl>> {
        let path = path.to_owned();
        self.ask(said(|| format!("acl {path}")), move |session| async move { session.acl(&path).await }.boxed())
    }

    fn sync(&self) -> Answer<'_, ()> {
        self.ask(said(|| "sync".to_owned()), move |session| async move { session.sync().await }.boxed())
    }

    fn read_all<'a>(&'a self, reads: &[ReadOp<'_>]) -> Answer<'a, Vec<MultiReadResult>> {
        let reads: Vec<(bool, String)> = reads
            .iter()
            .map(|read| match read {
                ReadOp::Data(path) => (true, (*path).to_owned()),
                ReadOp::Children(path) => (false, (*path).to_owned()),
            })
            .collect();
        self.ask(said(|| format!("read {reads:?}").chars().take(300).collect()), move |session| {
            async move {
                let asked: Vec<ReadOp<'_>> = reads
                    .iter()
                    .map(|(is_data, path)| if *is_data { ReadOp::Data(path) } else { ReadOp::Children(path) })
                    .collect();
                session.read_all(&asked).await
            }
            .boxed()
        })
    }

    fn write_all<'a>(
        &'a self,
        writes: &[WriteOp<'_>],
    ) -> BoxFuture<'a, Result<Vec<MultiWriteResult>, MultiWriteError>> {
        let writes: Vec<Owned> = writes.iter().map(Owned::of).collect();
        let asked = said(|| format!("multi {}", writes.iter().map(Owned::text).collect::<Vec<_>>().join(", ")));
        self.send(asked, MultiWriteError::from(Error::ClientClosed), move |session| {
            async move {
                let asked: Vec<WriteOp<'_>> = writes.iter().map(Owned::write).collect();
                session.write_all(&asked).await
            }
            .boxed()
        })
    }

    fn watch<'a>(&'a self, root: &'a str) -> Answer<'a, BoxStream<'static, WatchedEvent>> {
        let path = root.to_owned();
        let asked = self.ask(said(|| format!("watch {path}")), move |session| {
            async move { session.watch(&path).await.map(Opaque) }.boxed()
        });
        async move { asked.await.map(|Opaque(events)| self.late(events)) }.boxed()
    }
}
