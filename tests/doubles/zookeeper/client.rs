//! The seam of `store::zookeeper` over the double of an ensemble: behaves as the client library does, on any runtime and without tasks.
//!
//! A request is sent when the method is called. Whatever happens (a request, a fault, a server that catches up) runs until nothing more
//! comes of it, so a test knows that what it waits for has come, or will not. While connections are accepted, a client that lost its
//! connection has another one at once, as if nothing had come in between; to let something come, refuse them.

use super::ensemble::{Copy, Ensemble, NotTaken, Settings};
use super::rules::Identity;
use super::tree::Right;
use super::wire::{Output, Refusal, Reply, Request};
use base64::Engine as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use keepstep::env::unix_ms;
use keepstep::store::zookeeper::session::{
    Access, Answer, Ensemble as Seam, Error, Session, SessionState, Stat, WatchedEvent,
};
use sha1::Digest as _;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// When a server applies what the leader has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// At once.
    None,
    /// When one of its clients would wait for it otherwise: for the answer to a write or to `sync`.
    UntilAsked,
    /// Not at all; whoever asks waits.
    Frozen,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut before it arrives.
    LoseRequest,
    /// It is carried out, and the connection is cut before the answer.
    LoseAnswer,
}

type When = Box<dyn FnMut(&Request) -> bool + Send>;

struct Scripted {
    fault: Fault,
    when: When,
    left: usize,
    /// Whether connections are refused from then on.
    refuses: bool,
}

/// An ensemble, with the clients that are connected to it. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct DoubleEnsemble(Arc<Mutex<World>>);

struct World {
    ensemble: Ensemble,
    lags: Vec<Lag>,
    /// The server to which clients connect.
    place: usize,
    accepts: bool,
    /// Sessions whose clients reach no server.
    cut_off: BTreeSet<i64>,
    scripted: Vec<Scripted>,
    clients: BTreeMap<u64, Client>,
    next_id: u64,
}

struct Client {
    session: i64,
    who: Vec<Identity>,
    connection: Option<u64>,
    /// Of the answers; as the client library, not of the events.
    seen_zxid: i64,
    state: watch::Sender<SessionState>,
    unanswered: VecDeque<Asked>,
    queued: VecDeque<(Request, Asked)>,
    watchers: BTreeMap<u64, Watcher>,
}

/// Who waits for an answer.
pub(super) struct Asked {
    pub(super) answer: Option<oneshot::Sender<Result<Reply, Error>>>,
    /// The watch that begins with it.
    pub(super) watcher: Option<(u64, Watcher)>,
}

pub(super) struct Watcher {
    pub(super) path: String,
    pub(super) kind: WatcherKind,
    pub(super) events: mpsc::UnboundedSender<WatchedEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatcherKind {
    Data,
    Exist,
    Recursive,
}

fn state_event(state: SessionState) -> WatchedEvent {
    WatchedEvent::new_session(state)
}

impl Client {
    fn state(&self) -> SessionState {
        *self.state.borrow()
    }

    /// Tells whoever watches; after the end of the session nobody watches any more.
    fn turn(&mut self, state: SessionState) {
        self.state.send_replace(state);
        let ends = state.is_terminated();
        let told = self.watchers.values().filter(|watcher| ends || watcher.kind == WatcherKind::Recursive);
        told.for_each(|watcher| drop(watcher.events.send(state_event(state))));
        if ends {
            self.watchers.clear();
            self.connection = None;
            self.fail(ended(state), true);
        }
    }

    /// Nobody gets an answer to what was sent, or to anything.
    fn fail(&mut self, error: Error, all: bool) {
        let queued = if all { std::mem::take(&mut self.queued) } else { VecDeque::new() };
        let queued = queued.into_iter().map(|(_, asked)| asked);
        for asked in self.unanswered.drain(..).chain(queued) {
            if let Some(answer) = asked.answer {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }

    fn deliver(&mut self, output: Output) {
        match output {
            Output::Reply { zxid, reply } => {
                self.seen_zxid = self.seen_zxid.max(zxid);
                let Some(asked) = self.unanswered.pop_front() else { return };
                if let Some((id, mut watcher)) = asked.watcher.filter(|_| !matches!(reply, Reply::Refused(_))) {
                    if matches!(reply, Reply::Exists(None)) {
                        watcher.kind = WatcherKind::Exist;
                    }
                    self.watchers.insert(id, watcher);
                }
                let has_ended = reply == Reply::Refused(Refusal::SessionExpired);
                if let Some(answer) = asked.answer {
                    let _ = answer.send(Ok(reply));
                }
                if has_ended {
                    self.turn(SessionState::Expired);
                }
            }
            Output::Event { kind, path, zxid } => {
                let event = WatchedEvent::new(kind, path.clone()).with_zxid(zxid);
                let is_above = |watcher: &Watcher| {
                    let below = path.strip_prefix(watcher.path.trim_end_matches('/'));
                    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                let is_told = |watcher: &Watcher| {
                    watcher.path == path || (watcher.kind == WatcherKind::Recursive && is_above(watcher))
                };
                let told = self.watchers.values().filter(|watcher| is_told(watcher));
                told.for_each(|watcher| drop(watcher.events.send(event.clone())));
                self.watchers.retain(|_, watcher| watcher.path != path || watcher.kind == WatcherKind::Recursive);
            }
        }
    }

    /// The one-shot watches that are set again after a reconnect. (Persistent ones are not: zookeeper-client 0.11.2.)
    fn set_watches(&self) -> Option<Request> {
        let of = |kind| {
            let watchers = self.watchers.values().filter(move |watcher| watcher.kind == kind);
            watchers.map(|watcher| watcher.path.clone()).collect::<Vec<_>>()
        };
        let (data, exist) = (of(WatcherKind::Data), of(WatcherKind::Exist));
        let any = !data.is_empty() || !exist.is_empty();
        any.then_some(Request::SetWatches { relative_zxid: self.seen_zxid, data, exist })
    }
}

/// What a request fails with once the session has ended.
fn ended(state: SessionState) -> Error {
    match state {
        SessionState::AuthFailed => Error::AuthFailed,
        SessionState::Closed => Error::ClientClosed,
        _ => Error::SessionExpired,
    }
}

impl World {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn request(&mut self, id: u64, request: Request, asked: Asked) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.state().is_terminated() {
            if let Some(answer) = asked.answer {
                let _ = answer.send(Err(ended(client.state())));
            }
            return;
        }
        match client.connection {
            Some(connection) => {
                client.unanswered.push_back(asked);
                self.carry(connection, request);
            }
            None => client.queued.push_back((request, asked)),
        }
        self.settle();
    }

    /// Sends a request, unless something happens to it.
    fn carry(&mut self, connection: u64, request: Request) {
        let scripted = self.scripted.iter_mut().find_map(|scripted| {
            let is_hit = scripted.left > 0 && (scripted.when)(&request);
            is_hit.then_some(scripted)
        });
        let Some(scripted) = scripted else {
            self.ensemble.send(connection, request, unix_ms());
            return;
        };
        scripted.left -= 1;
        self.accepts &= !scripted.refuses;
        if scripted.fault == Fault::LoseAnswer {
            self.ensemble.send(connection, request, unix_ms());
        }
        self.ensemble.cut(connection);
    }

    /// Until nothing more comes of anything.
    fn settle(&mut self) {
        loop {
            for (server, lag) in self.lags.iter().enumerate() {
                let applied = match lag {
                    Lag::None => self.ensemble.transactions(),
                    Lag::UntilAsked => self.ensemble.needed(server),
                    Lag::Frozen => 0,
                };
                self.ensemble.catch_up(server, applied);
            }
            let ids: Vec<u64> = self.clients.keys().copied().collect();
            if !ids.into_iter().fold(false, |moved, id| self.settle_one(id) || moved) {
                return;
            }
        }
    }

    /// Whether anything happened.
    fn settle_one(&mut self, id: u64) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        if client.state().is_terminated() {
            return false;
        }
        let Some(connection) = client.connection else { return self.reconnect(id) };
        let mut moved = false;
        while let Some(output) = self.ensemble.take(connection) {
            client.deliver(output);
            moved = true;
        }
        if !self.ensemble.is_open(connection) && !client.state().is_terminated() {
            client.connection = None;
            client.turn(SessionState::Disconnected);
            client.fail(Error::ConnectionLoss, false);
            moved = true;
        }
        moved
    }

    fn reconnect(&mut self, id: u64) -> bool {
        let Some(client) = self.clients.get_mut(&id).filter(|_| self.accepts) else { return false };
        if self.cut_off.contains(&client.session) {
            return false;
        }
        let taken = self.ensemble.reopen(self.place, client.session, client.seen_zxid, client.who.clone());
        let connection = match taken {
            Ok(connection) => connection,
            Err(NotTaken::Behind) => return false,
            Err(NotTaken::Expired) => {
                client.turn(SessionState::Expired);
                return true;
            }
        };
        client.connection = Some(connection);
        client.turn(SessionState::SyncConnected);
        let again = client.set_watches().map(|request| (request, Asked { answer: None, watcher: None }));
        for (request, asked) in again.into_iter().chain(std::mem::take(&mut client.queued)) {
            let Some(client) = self.clients.get_mut(&id) else { break };
            client.unanswered.push_back(asked);
            self.carry(connection, request);
        }
        true
    }

    fn unwatch(&mut self, id: u64, watcher: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(gone) = client.watchers.remove(&watcher) else { return };
        let mut others = client.watchers.values().filter(|other| other.path == gone.path).peekable();
        let only_one_shot = others.peek().is_some();
        let is_left =
            others.any(|other| (other.kind == WatcherKind::Recursive) == (gone.kind == WatcherKind::Recursive));
        if only_one_shot && (is_left || gone.kind == WatcherKind::Recursive) {
            return;
        }
        let request = Request::Unwatch { path: gone.path, only_one_shot };
        self.request(id, request, Asked { answer: None, watcher: None });
    }

    fn close(&mut self, id: u64) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        if let Some(connection) = client.connection {
            self.ensemble.send(connection, Request::Close, unix_ms());
        }
        client.turn(SessionState::Closed);
        self.settle();
    }
}

impl DoubleEnsemble {
    /// A new one, whose servers keep up.
    #[must_use]
    pub fn new(settings: Settings) -> DoubleEnsemble {
        DoubleEnsemble(Arc::new(Mutex::new(World {
            ensemble: Ensemble::new(settings),
            lags: vec![Lag::None; settings.servers],
            place: 0,
            accepts: true,
            cut_off: BTreeSet::new(),
            scripted: Vec::new(),
            clients: BTreeMap::new(),
            next_id: 0,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that names a watcher.
    pub(super) fn number(&self) -> u64 {
        self.world().id()
    }

    pub(super) fn request(&self, id: u64, request: Request, asked: Asked) {
        self.world().request(id, request, asked);
    }

    pub(super) fn unwatch(&self, id: u64, watcher: u64) {
        self.world().unwatch(id, watcher);
    }

    pub(super) fn close(&self, id: u64) {
        self.world().close(id);
    }

    pub(super) fn state(&self, id: u64) -> Option<watch::Receiver<SessionState>> {
        self.world().clients.get(&id).map(|client| client.state.subscribe())
    }

    /// Does something with the ensemble itself, and what comes of it.
    pub fn act<T>(&self, act: impl FnOnce(&mut Ensemble) -> T) -> T {
        let mut world = self.world();
        let done = act(&mut world.ensemble);
        world.settle();
        done
    }

    /// From here on no connection is accepted; those that are open stay.
    pub fn refuse_connections(&self) {
        self.world().accepts = false;
    }

    /// Connections are accepted again, and clients without one connect.
    pub fn accept_connections(&self) {
        let mut world = self.world();
        world.accepts = true;
        world.settle();
    }

    /// Clients connect to this server from here on.
    pub fn connect_to(&self, server: usize) {
        self.world().place = server;
    }

    /// How far a server is behind from here on.
    pub fn lag(&self, server: usize, lag: Lag) {
        let mut world = self.world();
        world.lags[server] = lag;
        world.settle();
    }

    /// Cuts the connection of this session.
    pub fn cut(&self, session: i64) {
        let mut world = self.world();
        let connections: Vec<u64> = world
            .clients
            .values()
            .filter(|client| client.session == session)
            .filter_map(|client| client.connection)
            .collect();
        connections.into_iter().for_each(|connection| world.ensemble.cut(connection));
        world.settle();
    }

    /// The leader ends this session, as if it had heard nothing of it for its timeout.
    pub fn expire(&self, session: i64) {
        self.act(|ensemble| ensemble.expire(session, unix_ms()));
    }

    /// The client gives its session up, as it does when it was without a connection for longer than the timeout.
    pub fn give_up(&self, session: i64) {
        let mut world = self.world();
        for client in world.clients.values_mut().filter(|client| client.session == session) {
            client.turn(SessionState::Expired);
        }
        world.settle();
    }

    /// Where its client is without a connection: it gives the session up, and the ensemble ends it.
    pub fn give_up_stranded(&self, session: i64) {
        let mut world = self.world();
        let stranded = |client: &&mut Client| client.session == session && client.connection.is_none();
        let stranded: Vec<&mut Client> = world.clients.values_mut().filter(stranded).collect();
        let is_stranded = !stranded.is_empty();
        stranded.into_iter().for_each(|client| client.turn(SessionState::Expired));
        if is_stranded {
            world.ensemble.expire(session, unix_ms());
        }
        world.settle();
    }

    /// Sessions that no client has, as in a copy from before they were closed, end.
    pub fn expire_forgotten(&self) {
        let mut world = self.world();
        let known: BTreeSet<i64> = world.clients.values().map(|client| client.session).collect();
        world.ensemble.expire_but(&known, unix_ms());
        world.settle();
    }

    /// The sessions of all clients.
    #[must_use]
    pub fn sessions(&self) -> Vec<i64> {
        self.world().clients.values().map(|client| client.session).collect()
    }

    /// A backup of what is there now.
    #[must_use]
    pub fn copy(&self) -> Copy {
        self.world().ensemble.copy()
    }

    /// All servers come back with this backup, or with nothing. See [`Ensemble::restore`].
    pub fn restore(&self, copy: Option<Copy>, new_epoch: bool) {
        self.act(|ensemble| ensemble.restore(copy, new_epoch));
    }

    /// This happens to the next so many requests of this kind.
    pub fn fail(&self, fault: Fault, times: usize, when: impl FnMut(&Request) -> bool + Send + 'static) {
        self.world().scripted.push(Scripted { fault, when: Box::new(when), left: times, refuses: false });
    }

    /// As [`DoubleEnsemble::fail`] once; then connections are refused.
    pub fn fail_and_refuse(&self, fault: Fault, when: impl FnMut(&Request) -> bool + Send + 'static) {
        self.world().scripted.push(Scripted { fault, when: Box::new(when), left: 1, refuses: true });
    }

    /// No fault that was scripted happens any more.
    pub fn forgive(&self) {
        self.world().scripted.clear();
    }

    /// The client of this session reaches no server, or it reaches them again.
    pub fn cut_off(&self, session: i64, is_cut_off: bool) {
        let mut world = self.world();
        if is_cut_off {
            world.cut_off.insert(session);
        } else {
            world.cut_off.remove(&session);
        }
        drop(world);
        if is_cut_off { self.cut(session) } else { self.accept_connections() }
    }

    /// Looks at the ensemble.
    pub fn look<T>(&self, look: impl FnOnce(&Ensemble) -> T) -> T {
        look(&self.world().ensemble)
    }

    /// How many of the faults that were scripted have not happened.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.world().scripted.iter().map(|scripted| scripted.left).sum()
    }

    /// What the ensemble holds of a znode, whoever may see it.
    #[must_use]
    pub fn data(&self, path: &str) -> Option<Vec<u8>> {
        self.world().ensemble.tree().get(path).map(|znode| znode.data.to_vec())
    }

    /// The versions of a znode, whoever may see it.
    #[must_use]
    pub fn stat(&self, path: &str) -> Option<Stat> {
        self.world().ensemble.tree().stat(path)
    }

    /// An operator gives a znode another ACL.
    pub fn give(&self, path: &str, acl: Vec<Right>) {
        self.act(|ensemble| ensemble.give(path, acl, unix_ms()));
    }
}

impl Seam for DoubleEnsemble {
    fn open<'a>(&'a self, access: &'a Access) -> Answer<'a, Arc<dyn Session>> {
        async move {
            let root = access.connect.find('/').and_then(|at| access.connect.get(at..)).unwrap_or_default();
            let who = access.digest.iter().map(|digest| {
                let digest = digest.now();
                let user = digest.split(':').next().unwrap_or_default();
                let hash = base64::engine::general_purpose::STANDARD.encode(sha1::Sha1::digest(digest.as_bytes()));
                ("digest".to_owned(), format!("{user}:{hash}"))
            });
            let who: Vec<Identity> = who.collect();
            let mut world = self.world();
            if !world.accepts {
                return Err(Error::NoHosts);
            }
            let place = world.place;
            let (connection, session) = world.ensemble.open(place, who.clone(), unix_ms());
            let id = world.id();
            let client = Client {
                session,
                who,
                connection: Some(connection),
                seen_zxid: world.ensemble.zxid(),
                state: watch::Sender::new(SessionState::SyncConnected),
                unanswered: VecDeque::new(),
                queued: VecDeque::new(),
                watchers: BTreeMap::new(),
            };
            world.clients.insert(id, client);
            world.settle();
            drop(world);
            Ok(super::handle::open(self.clone(), id, session, root.trim_end_matches('/')))
        }
        .boxed()
    }

    fn dial<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let accepts = self.world().accepts;
        let dialled = if accepts { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) };
        std::future::ready(dialled).boxed()
    }

    fn ask<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, io::Result<String>> {
        let world = self.world();
        let (major, minor, patch) = world.ensemble.version();
        let text = format!("Zookeeper version: {major}.{minor}.{patch}-double, built on a double\nMode: standalone\n");
        let answer = if world.accepts { Ok(text) } else { Err(io::ErrorKind::ConnectionRefused.into()) };
        std::future::ready(answer).boxed()
    }
}
