//! A session with the double, as the client library gives one: plain types to requests, replies to plain types.

use super::client::{Asked, DoubleEnsemble, Watcher, WatcherKind};
use super::tree::Right;
use super::wire::{Read, Refusal, Reply, Request, Write};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use keepstep::store::zookeeper::session::{
    Acl, Answer, AuthId, CreateMode, Created, Error, EventType, MultiReadResult, MultiWriteError, MultiWriteResult,
    Permission, ReadOp, Session, SessionState, Stat, WatchedEvent, WriteOp,
};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Closes the session when the last handle goes.
struct Guard {
    ensemble: DoubleEnsemble,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ensemble.close(self.id);
    }
}

/// The handle of a session that was opened; the root is empty for that of the ensemble.
pub(super) fn open(ensemble: DoubleEnsemble, id: u64, session: i64, root: &str) -> Arc<dyn Session> {
    Arc::new(Handle { guard: Arc::new(Guard { ensemble, id }), session, root: root.to_owned() })
}

struct Handle {
    guard: Arc<Guard>,
    session: i64,
    /// Empty for the root of the ensemble.
    root: String,
}

/// Takes a watch back.
struct Watching {
    ensemble: DoubleEnsemble,
    client: u64,
    watcher: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.ensemble.unwatch(self.client, self.watcher);
    }
}

fn right(acl: &Acl) -> Right {
    let all = [Permission::READ, Permission::WRITE, Permission::CREATE, Permission::DELETE, Permission::ADMIN];
    let given = all.into_iter().enumerate().filter(|(_, one)| acl.permission().has(*one));
    let permissions = given.map(|(bit, _)| 1 << bit).sum();
    Right { permissions, scheme: acl.scheme().to_owned(), id: acl.id().to_owned() }
}

fn acl(right: &Right) -> Acl {
    let all = [Permission::READ, Permission::WRITE, Permission::CREATE, Permission::DELETE, Permission::ADMIN];
    let given = all.into_iter().enumerate().filter(|(bit, _)| right.permissions & (1 << bit) != 0);
    let permission = given.fold(Permission::NONE, |sum, (_, one)| sum | one);
    Acl::new(permission, AuthId::new(&right.scheme, &right.id))
}

fn error(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NoNode => Error::NoNode,
        Refusal::NodeExists => Error::NodeExists,
        Refusal::BadVersion => Error::BadVersion,
        Refusal::NotEmpty => Error::NotEmpty,
        Refusal::NoAuth => Error::NoAuth,
        Refusal::InvalidAcl => Error::InvalidAcl,
        Refusal::NoChildrenForEphemerals => Error::NoChildrenForEphemerals,
        Refusal::SessionExpired => Error::SessionExpired,
        Refusal::BadArguments => Error::UnexpectedErrorCode(-8),
        Refusal::Unimplemented => Error::Unimplemented,
        Refusal::TooLarge => Error::MarshallingError,
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::UnexpectedError(format!("{reply:?}"))
}

fn version(expected: Option<i32>) -> i32 {
    expected.unwrap_or(-1)
}

impl Handle {
    /// The path on the servers, if it is one.
    fn full(&self, path: &str, is_prefix: bool) -> Result<String, Error> {
        if path == "/" {
            return Ok(if self.root.is_empty() { path.to_owned() } else { self.root.clone() });
        }
        let is_path = path.starts_with('/') && !path.contains("//") && (is_prefix || !path.ends_with('/'));
        let is_relative = path.split('/').any(|name| name == "." || name == "..");
        if !is_path || is_relative || path.contains('\0') {
            return Err(Error::BadArguments(&"not a path"));
        }
        Ok(format!("{}{path}", self.root))
    }

    fn write(&self, write: &WriteOp<'_>) -> Result<Write, Error> {
        Ok(match *write {
            WriteOp::Check { path, version } => Write::Check { path: self.full(path, false)?, version },
            WriteOp::Set { path, data, version: expected } => {
                Write::Set { path: self.full(path, false)?, data: data.into(), version: version(expected) }
            }
            WriteOp::Delete { path, version: expected } => {
                Write::Delete { path: self.full(path, false)?, version: version(expected) }
            }
            WriteOp::Create { acl: [], .. } => return Err(Error::InvalidAcl),
            WriteOp::Create { path, data, mode, acl } => {
                let sequential = matches!(mode, CreateMode::EphemeralSequential | CreateMode::PersistentSequential);
                let ephemeral = matches!(mode, CreateMode::EphemeralSequential | CreateMode::Ephemeral);
                let (path, acl) = (self.full(path, sequential)?, acl.iter().map(right).collect());
                Write::Create { path, data: data.into(), acl, ephemeral, sequential }
            }
        })
    }

    /// Sends a request now, and answers with its reply.
    fn send(
        &self,
        request: Result<Request, Error>,
        watcher: Option<(u64, Watcher)>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + 'static {
        let sent = request.map(|request| {
            let (answer, reply) = oneshot::channel();
            self.guard.ensemble.request(self.guard.id, request, Asked { answer: Some(answer), watcher });
            reply
        });
        async move {
            match sent?.await {
                Ok(Ok(Reply::Refused(refusal))) => Err(error(refusal)),
                Ok(reply) => reply,
                Err(_) => Err(Error::ClientClosed),
            }
        }
    }

    fn ask<T: Send + 'static>(
        &self,
        request: Result<Request, Error>,
        read: impl FnOnce(Reply) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T> {
        let reply = self.send(request, None);
        async move { read(reply.await?) }.boxed()
    }

    /// A watch that begins with the answer to a request: whoever drops the stream takes it back.
    fn watcher(&self, path: &str, kind: WatcherKind) -> (u64, Watcher, BoxStream<'static, WatchedEvent>) {
        let (events, received) = mpsc::unbounded_channel();
        let id = self.guard.ensemble.number();
        let watching = Watching { ensemble: self.guard.ensemble.clone(), client: self.guard.id, watcher: id };
        let root = self.root.clone();
        let stream = stream::unfold((received, watching), |(mut received, watching)| async {
            let event: WatchedEvent = received.recv().await?;
            Some((event, (received, watching)))
        });
        let stream = stream.map(move |mut event| {
            if event.event_type != EventType::Session {
                let below = event.path.strip_prefix(&root).unwrap_or(&event.path);
                event.path = if below.is_empty() { "/".to_owned() } else { below.to_owned() };
            }
            event
        });
        (id, Watcher { path: path.to_owned(), kind, events }, stream.boxed())
    }
}

impl Session for Handle {
    fn id(&self) -> i64 {
        self.session
    }

    fn state(&self) -> SessionState {
        self.guard.ensemble.state(self.guard.id).map_or(SessionState::Closed, |state| *state.borrow())
    }

    fn states(&self) -> BoxStream<'static, SessionState> {
        let Some(states) = self.guard.ensemble.state(self.guard.id) else { return stream::pending().boxed() };
        stream::unfold(states, |mut states| async {
            match states.changed().await {
                Ok(()) => {
                    let state = *states.borrow_and_update();
                    Some((state, states))
                }
                Err(_) => std::future::pending().await,
            }
        })
        .boxed()
    }

    fn rooted(&self, root: &str) -> Option<Arc<dyn Session>> {
        let root = root.starts_with('/').then(|| root.trim_end_matches('/').to_owned())?;
        Some(Arc::new(Handle { guard: Arc::clone(&self.guard), session: self.session, root }))
    }

    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: CreateMode, acl: &[Acl]) -> Answer<'a, Created> {
        let root = self.root.len();
        let write = self.write(&WriteOp::Create { path, data, mode, acl });
        self.ask(write.map(Request::Write), move |reply| match reply {
            Reply::Created { path, stat } => {
                Ok(Created { path: path.get(root..).unwrap_or_default().to_owned(), stat })
            }
            other => Err(unexpected(&other)),
        })
    }

    fn set<'a>(&'a self, path: &'a str, data: &[u8], version: Option<i32>) -> Answer<'a, Stat> {
        let write = self.write(&WriteOp::Set { path, data, version });
        self.ask(write.map(Request::Write), |reply| match reply {
            Reply::Stat(stat) => Ok(stat),
            other => Err(unexpected(&other)),
        })
    }

    fn delete<'a>(&'a self, path: &'a str, version: Option<i32>) -> Answer<'a, ()> {
        let write = self.write(&WriteOp::Delete { path, version });
        self.ask(write.map(Request::Write), |_| Ok(()))
    }

    fn data<'a>(&'a self, path: &'a str) -> Answer<'a, (Vec<u8>, Stat)> {
        let read = self.full(path, false).map(|path| Request::Read(Read::Data(path)));
        self.ask(read, |reply| match reply {
            Reply::Data { data, stat } => Ok((data, stat)),
            other => Err(unexpected(&other)),
        })
    }

    fn stat<'a>(&'a self, path: &'a str) -> Answer<'a, Option<Stat>> {
        let read = self.full(path, false).map(|path| Request::Read(Read::Exists { path, watch: false }));
        self.ask(read, |reply| match reply {
            Reply::Exists(stat) => Ok(stat),
            other => Err(unexpected(&other)),
        })
    }

    fn stat_and_watch<'a>(&'a self, path: &'a str) -> Answer<'a, (Option<Stat>, BoxFuture<'static, WatchedEvent>)> {
        let full = self.full(path, false);
        let (id, watcher, events) = self.watcher(full.as_deref().unwrap_or_default(), WatcherKind::Data);
        let request = full.map(|path| Request::Read(Read::Exists { path, watch: true }));
        let reply = self.send(request, Some((id, watcher)));
        async move {
            let mut events = events;
            match reply.await? {
                Reply::Exists(stat) => {
                    let changed = async move {
                        match events.next().await {
                            Some(event) => event,
                            None => std::future::pending().await,
                        }
                    };
                    Ok((stat, changed.boxed()))
                }
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn children<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<String>> {
        let read = self.full(path, false).map(|path| Request::Read(Read::Children(path)));
        self.ask(read, |reply| match reply {
            Reply::Children(names) => Ok(names),
            other => Err(unexpected(&other)),
        })
    }

    fn acl<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Acl>> {
        let read = self.full(path, false).map(|path| Request::Read(Read::Acl(path)));
        self.ask(read, |reply| match reply {
            Reply::Acl(rights) => Ok(rights.iter().map(acl).collect()),
            other => Err(unexpected(&other)),
        })
    }

    fn sync(&self) -> Answer<'_, ()> {
        self.ask(Ok(Request::Sync), |_| Ok(()))
    }

    fn read_all<'a>(&'a self, reads: &[ReadOp<'_>]) -> Answer<'a, Vec<MultiReadResult>> {
        let reads = reads.iter().map(|read| match read {
            ReadOp::Data(path) => self.full(path, false).map(Read::Data),
            ReadOp::Children(path) => self.full(path, false).map(Read::Children),
        });
        let reads: Result<Vec<Read>, Error> = reads.collect();
        if reads.as_ref().is_ok_and(Vec::is_empty) {
            return std::future::ready(Ok(Vec::new())).boxed();
        }
        self.ask(reads.map(Request::MultiRead), |reply| match reply {
            Reply::Found(found) => found.into_iter().map(found_one).collect(),
            other => Err(unexpected(&other)),
        })
    }

    fn write_all<'a>(
        &'a self,
        writes: &[WriteOp<'_>],
    ) -> BoxFuture<'a, Result<Vec<MultiWriteResult>, MultiWriteError>> {
        let root = self.root.len();
        let writes: Result<Vec<Write>, Error> = writes.iter().map(|write| self.write(write)).collect();
        if writes.as_ref().is_ok_and(Vec::is_empty) {
            return std::future::ready(Ok(Vec::new())).boxed();
        }
        let reply = self.send(writes.map(Request::Multi), None);
        async move {
            match reply.await? {
                Reply::Written(written) => written.into_iter().map(|reply| Ok(written_one(reply, root)?)).collect(),
                Reply::RefusedAt(index, refusal) => {
                    Err(MultiWriteError::OperationFailed { index, source: error(refusal) })
                }
                other => Err(unexpected(&other).into()),
            }
        }
        .boxed()
    }

    fn watch<'a>(&'a self, root: &'a str) -> Answer<'a, BoxStream<'static, WatchedEvent>> {
        let full = self.full(root, false);
        let (id, watcher, events) = self.watcher(full.as_deref().unwrap_or_default(), WatcherKind::Recursive);
        let reply = self.send(full.map(Request::Watch), Some((id, watcher)));
        async move { reply.await.map(|_| events) }.boxed()
    }
}

fn found_one(reply: Reply) -> Result<MultiReadResult, Error> {
    Ok(match reply {
        Reply::Data { data, stat } => MultiReadResult::Data { data, stat },
        Reply::Children(children) => MultiReadResult::Children { children },
        Reply::Refused(refusal) => MultiReadResult::Error { err: error(refusal) },
        other => return Err(unexpected(&other)),
    })
}

fn written_one(reply: Reply, root: usize) -> Result<MultiWriteResult, Error> {
    Ok(match reply {
        Reply::Created { path, stat } => {
            MultiWriteResult::Create { path: path.get(root..).unwrap_or_default().to_owned(), stat }
        }
        Reply::Stat(stat) => MultiWriteResult::SetData { stat },
        Reply::Checked => MultiWriteResult::Check,
        Reply::Done => MultiWriteResult::Delete,
        other => return Err(unexpected(&other)),
    })
}
