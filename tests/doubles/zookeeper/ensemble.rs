//! The ensemble: one log of transactions, servers that have each applied a prefix of it, sessions that outlive connections.
//!
//! ```text
//!   client --send--> connection --> leader: decides, gives a zxid, appends to the log     (writes, opened and closed sessions)
//!                        \--> server: shows its prefix                                     (reads, watches, sync)
//!   log --apply_next--> server --> events, then the answers that waited for it --take--> client
//! ```
//!
//! What an ensemble decides freely is the caller's to choose: which server a client is with, when a server applies the next transaction,
//! when a connection is cut, when a session expires, what the leader's clock shows. Left out: quorums and elections (an acknowledged write is
//! never lost but by [`Ensemble::restore`]), quotas, containers and TTLs, throttling, read-only servers.

use super::rules::{Identity, Kinder, is_readable, show};
use super::transaction::{Change, ChangeOf, Refused, Znodes, transact, zxid_after};
use super::tree::{Right, Tree};
use super::wire::{Output, Read, Refusal, Reply, Request, Write};
use keepstep::store::zookeeper::session::{EventType, Stat};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How the servers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Of all servers.
    pub version: (u32, u32, u32),
    /// How many there are.
    pub servers: usize,
    /// `jute.maxbuffer`.
    pub request_bytes_max: usize,
    /// One way in which this is no truthful double.
    pub kinder: Option<Kinder>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { version: (3, 9, 4), servers: 1, request_bytes_max: 1_048_575, kinder: None }
    }
}

/// A transaction of the log. One that was refused is there as well, without changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Transaction {
    zxid: i64,
    time_ms: i64,
    changes: Vec<ChangeOf<Tree>>,
    /// The session that wrote it.
    by: Option<i64>,
    /// The session that it ends.
    ends: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    tree: Tree,
    /// So many transactions of the log.
    applied: usize,
}

/// The watches of a connection on one znode. Before 3.9 there is one of the two at most (ZOOKEEPER-4466).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Watches {
    one_shot: bool,
    recursive: bool,
}

/// A request whose answer was not yet sent.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pending {
    /// The leader has decided; the answer waits until the server has applied so much of the log.
    Decided { applied: usize, zxid: i64, reply: Reply },
    /// Waits until the server has applied so much.
    Sync { applied: usize },
    /// Is the server's to answer.
    Ask(Request),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Connection {
    server: usize,
    session: i64,
    who: Vec<Identity>,
    watches: BTreeMap<String, Watches>,
    pending: VecDeque<Pending>,
    out: VecDeque<Output>,
}

/// Why a server does not take a session back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// The client has seen more than this server has: it closes the connection without a word.
    Behind,
    /// The session has ended.
    Expired,
}

/// The data of an ensemble as a backup has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Copy {
    tree: Tree,
    zxid: i64,
    sessions: BTreeSet<i64>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Ensemble {
    settings: Settings,
    /// As of the whole log.
    tree: Tree,
    log: Vec<Transaction>,
    /// The zxid before the log.
    base_zxid: i64,
    servers: Vec<Server>,
    sessions: BTreeSet<i64>,
    next_session: i64,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// For a double that is too kind: the watches of the last connection of a session.
    kept_watches: BTreeMap<i64, BTreeMap<String, Watches>>,
    /// Answers that a right was missing.
    denied: u64,
}

impl Ensemble {
    /// A new one.
    #[must_use]
    pub fn new(settings: Settings) -> Ensemble {
        let servers = (0..settings.servers).map(|_| Server { tree: Tree::new(), applied: 0 });
        Ensemble {
            servers: servers.collect(),
            settings,
            tree: Tree::new(),
            log: Vec::new(),
            base_zxid: 0,
            sessions: BTreeSet::new(),
            next_session: 0x100_0000_0000_0000,
            connections: BTreeMap::new(),
            next_connection: 1,
            kept_watches: BTreeMap::new(),
            denied: 0,
        }
    }

    /// Of all servers.
    #[must_use]
    pub fn version(&self) -> (u32, u32, u32) {
        self.settings.version
    }

    /// The znodes, as of the newest transaction.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The zxid of the newest transaction.
    #[must_use]
    pub fn zxid(&self) -> i64 {
        self.log.last().map_or(self.base_zxid, |last| last.zxid)
    }

    /// How often somebody was told that a right is missing.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.denied
    }

    /// How many transactions the log has.
    #[must_use]
    pub fn transactions(&self) -> usize {
        self.log.len()
    }

    /// Which session wrote each znode, by the transactions after the first so many.
    #[must_use]
    pub fn writers_since(&self, transactions: usize) -> BTreeMap<&str, i64> {
        let since = self.log.iter().skip(transactions);
        let written = since.filter_map(|transaction| transaction.by.map(|by| (by, &transaction.changes)));
        written.flat_map(|(by, changes)| changes.iter().map(move |change| (change.path().as_str(), by))).collect()
    }

    /// Whether this session lives.
    #[must_use]
    pub fn has_session(&self, session: i64) -> bool {
        self.sessions.contains(&session)
    }

    /// The zxid of a server's prefix.
    fn server_zxid(&self, server: usize) -> i64 {
        let applied = self.servers[server].applied;
        applied.checked_sub(1).map_or(self.base_zxid, |last| self.log[last].zxid)
    }

    fn append(&mut self, changes: Vec<ChangeOf<Tree>>, (by, ends): (Option<i64>, Option<i64>), now_ms: i64) -> i64 {
        let zxid = zxid_after(self.zxid(), false, self.settings.kinder);
        self.log.push(Transaction { zxid, time_ms: now_ms, changes, by, ends });
        zxid
    }

    /// Opens a session with this server; its connection and the session. The server has then applied what opens it.
    pub fn open(&mut self, server: usize, who: Vec<Identity>, now_ms: i64) -> (u64, i64) {
        let session = self.next_session;
        self.next_session += 1;
        self.sessions.insert(session);
        self.append(Vec::new(), (None, None), now_ms);
        let all = self.log.len();
        self.catch_up(server, all);
        (self.connect(server, session, who), session)
    }

    /// Takes a session up again with this server, as a client that has seen answers up to this zxid.
    ///
    /// # Errors
    /// It is not taken.
    pub fn reopen(&mut self, server: usize, session: i64, seen_zxid: i64, who: Vec<Identity>) -> Result<u64, NotTaken> {
        if self.server_zxid(server) < seen_zxid {
            return Err(NotTaken::Behind);
        }
        if !self.sessions.contains(&session) {
            return Err(NotTaken::Expired);
        }
        let connection = self.connect(server, session, who);
        if self.settings.kinder == Some(Kinder::WatchSurvivesReconnect)
            && let (Some(watches), Some(own)) =
                (self.kept_watches.remove(&session), self.connections.get_mut(&connection))
        {
            own.watches = watches;
        }
        Ok(connection)
    }

    fn connect(&mut self, server: usize, session: i64, who: Vec<Identity>) -> u64 {
        let id = self.next_connection;
        self.next_connection += 1;
        let (watches, pending, out) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        self.connections.insert(id, Connection { server, session, who, watches, pending, out });
        id
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(&self, connection: u64) -> bool {
        self.connections.contains_key(&connection)
    }

    /// Cuts a connection: what was not answered is not, and its watches are gone.
    pub fn cut(&mut self, connection: u64) {
        if let Some(cut) = self.connections.remove(&connection) {
            self.kept_watches.insert(cut.session, cut.watches);
        }
    }

    /// What comes next on this connection.
    pub fn take(&mut self, connection: u64) -> Option<Output> {
        self.connections.get_mut(&connection)?.out.pop_front()
    }

    /// A request arrives. One that is too large closes the connection; on one that is closed nothing arrives.
    pub fn send(&mut self, connection: u64, request: Request, now_ms: i64) {
        let Some(own) = self.connections.get(&connection) else { return };
        let (session, who) = (own.session, own.who.clone());
        let is_too_large = request.bytes() > self.settings.request_bytes_max;
        if is_too_large && self.settings.kinder != Some(Kinder::AnswersOversized) {
            self.cut(connection);
            return;
        }
        let pending = match request {
            _ if is_too_large => self.decided(Err(Reply::Refused(Refusal::TooLarge)), session, now_ms),
            Request::Write(_) | Request::Multi(_) if !self.sessions.contains(&session) => {
                self.decided(Err(Reply::Refused(Refusal::SessionExpired)), session, now_ms)
            }
            Request::Write(write) => {
                let decided = self.transact(&[write], session, &who, now_ms);
                let decided = decided.map_err(|(_, refusal)| Reply::Refused(refusal));
                let decided = decided.map(|(changes, mut replies)| (changes, replies.remove(0)));
                self.decided(decided, session, now_ms)
            }
            Request::Multi(writes) => {
                let decided = self.transact(&writes, session, &who, now_ms);
                let decided = decided.map_err(|(at, refusal)| Reply::RefusedAt(at, refusal));
                let decided = decided.map(|(changes, replies)| (changes, Reply::Written(self.in_multi(replies))));
                self.decided(decided, session, now_ms)
            }
            Request::Sync => Pending::Sync { applied: self.log.len() },
            Request::Close => {
                self.end(session, now_ms);
                self.cut(connection);
                return;
            }
            ask => Pending::Ask(ask),
        };
        if let Some(own) = self.connections.get_mut(&connection) {
            own.pending.push_back(pending);
        }
        self.answer(connection);
    }

    /// The znodes that were created in a multi: before 3.7.2, 3.8.2 and 3.9.0 their versions are not told (ZOOKEEPER-4026).
    fn in_multi(&self, mut replies: Vec<Reply>) -> Vec<Reply> {
        let (major, minor, patch) = self.settings.version;
        let tells = match (major, minor) {
            (3, ..=6) => false,
            (3, 7 | 8) => patch >= 2,
            _ => true,
        };
        for reply in &mut replies {
            if let (Reply::Created { stat, .. }, false) = (reply, tells) {
                let (zxid, number) = (-1, -1);
                *stat = Stat {
                    czxid: zxid,
                    mzxid: zxid,
                    pzxid: zxid,
                    ctime: 0,
                    mtime: 0,
                    version: number,
                    cversion: number,
                    aversion: number,
                    ephemeral_owner: 0,
                    data_length: 0,
                    num_children: 0,
                };
            }
        }
        replies
    }

    /// Carries writes out on the leader's znodes, all or none.
    fn transact(
        &mut self,
        writes: &[Write],
        session: i64,
        who: &[Identity],
        now_ms: i64,
    ) -> Result<(Vec<ChangeOf<Tree>>, Vec<Reply>), (usize, Refusal)> {
        let (newest, kinder) = (self.zxid(), self.settings.kinder);
        let mut replies = Vec::with_capacity(writes.len());
        let reply = |tree: &Tree, change: Option<&ChangeOf<Tree>>| {
            replies.push(match (change, change.and_then(|change| tree.stat(change.path()))) {
                (None, _) => Reply::Checked,
                (Some(Change::Create { path, .. }), Some(stat)) => Reply::Created { path: path.clone(), stat },
                (Some(Change::Set { .. } | Change::SetAcl { .. }), Some(stat)) => Reply::Stat(stat),
                _ => Reply::Done,
            });
        };
        match transact(&mut self.tree, writes, (session, who), (newest, now_ms), kinder, reply) {
            Ok(changes) => Ok((changes, replies)),
            Err(Refused { at, refusal, kept }) => {
                if !kept.is_empty() {
                    self.append(kept, (Some(session), None), now_ms);
                }
                Err((at, refusal))
            }
        }
    }

    /// Appends what was decided to the log; a refusal takes a zxid as well.
    fn decided(&mut self, decided: Result<(Vec<ChangeOf<Tree>>, Reply), Reply>, by: i64, now_ms: i64) -> Pending {
        let (changes, reply) = match decided {
            Ok(decided) => decided,
            Err(reply) if zxid_after(self.zxid(), true, self.settings.kinder) == self.zxid() => {
                return Pending::Decided { applied: self.log.len(), zxid: self.zxid(), reply };
            }
            Err(reply) => (Vec::new(), reply),
        };
        let zxid = self.append(changes, (Some(by), None), now_ms);
        Pending::Decided { applied: self.log.len(), zxid, reply }
    }

    /// The leader ends a session that was not heard of for its timeout.
    pub fn expire(&mut self, session: i64, now_ms: i64) {
        if self.sessions.contains(&session) {
            self.end(session, now_ms);
        }
    }

    /// The leader ends all sessions but these.
    pub fn expire_but(&mut self, known: &BTreeSet<i64>, now_ms: i64) {
        let forgotten: Vec<i64> = self.sessions.difference(known).copied().collect();
        forgotten.into_iter().for_each(|session| self.end(session, now_ms));
    }

    fn end(&mut self, session: i64, now_ms: i64) {
        self.sessions.remove(&session);
        let zxid = self.zxid() + 1;
        let keeps = self.settings.kinder == Some(Kinder::KeepsEphemerals);
        let gone = if keeps { Vec::new() } else { self.tree.ephemerals(session) };
        let changes: Vec<ChangeOf<Tree>> = gone.into_iter().map(|path| Change::Delete { path }).collect();
        for change in &changes {
            self.tree.apply(change, zxid, now_ms);
        }
        self.append(changes, (None, Some(session)), now_ms);
    }

    /// An operator gives a znode another ACL.
    pub fn give(&mut self, path: &str, acl: Vec<Right>, now_ms: i64) {
        let Some(znode) = self.tree.get(path) else { return };
        let aversion = znode.aversion.wrapping_add(1);
        let change = Change::SetAcl { path: path.to_owned(), acl: acl.into(), aversion };
        let zxid = self.zxid() + 1;
        self.tree.apply(&change, zxid, now_ms);
        self.append(vec![change], (None, None), now_ms);
    }

    /// How much of the log this server must apply before all its clients have their answers.
    #[must_use]
    pub fn needed(&self, server: usize) -> usize {
        let own = self.connections.values().filter(|connection| connection.server == server);
        let needed = own.flat_map(|connection| &connection.pending).map(|pending| match pending {
            Pending::Decided { applied, .. } | Pending::Sync { applied } => *applied,
            Pending::Ask(_) => 0,
        });
        needed.max().unwrap_or(0)
    }

    /// The server applies transactions until it has so many.
    pub fn catch_up(&mut self, server: usize, applied: usize) {
        while self.servers[server].applied < applied && self.apply_next(server) {}
    }

    /// The server applies its next transaction; false if it has all.
    pub fn apply_next(&mut self, server: usize) -> bool {
        let at = self.servers[server].applied;
        let Some(transaction) = self.log.get(at).cloned() else { return false };
        for (nth, change) in transaction.changes.iter().enumerate() {
            let before = self.servers[server].tree.get(change.path()).map(|znode| Arc::clone(&znode.acl));
            self.servers[server].tree.apply(change, transaction.zxid, transaction.time_ms);
            let (kind, acl) = match change {
                Change::Create { acl, .. } => (EventType::NodeCreated, Some(Arc::clone(acl))),
                Change::Set { .. } => (EventType::NodeDataChanged, before),
                Change::Delete { .. } => (EventType::NodeDeleted, before),
                Change::SetAcl { .. } => continue,
            };
            if nth > 0 && self.settings.kinder == Some(Kinder::OneEventOfAMulti) {
                continue;
            }
            self.trigger(server, kind, change.path(), transaction.zxid, acl.as_deref().unwrap_or_default());
        }
        self.servers[server].applied += 1;
        if let Some(session) = transaction.ends {
            self.connections.retain(|_, connection| connection.session != session || connection.server != server);
        }
        let own = self.connections.iter().filter(|(_, connection)| connection.server == server);
        let own: Vec<u64> = own.map(|(id, _)| *id).collect();
        own.into_iter().for_each(|id| self.answer(id));
        true
    }

    /// One event for each connection that watches the znode, or recursively one above it.
    fn trigger(&mut self, server: usize, kind: EventType, path: &str, zxid: i64, acl: &[Right]) {
        let zxid = if self.settings.version >= (3, 9, 0) { zxid } else { -1 };
        let hides = self.hides();
        for connection in self.connections.values_mut().filter(|connection| connection.server == server) {
            let mut is_watched = false;
            let mut above = Some(path);
            while let Some(watched) = above {
                if let Some(watches) = connection.watches.get_mut(watched) {
                    is_watched |= watches.recursive;
                    if watched == path && std::mem::take(&mut watches.one_shot) {
                        is_watched = true;
                    }
                }
                above = (watched != "/").then(|| super::tree::split(watched).0);
            }
            connection.watches.retain(|_, watches| *watches != Watches::default());
            if is_watched && (!hides || is_readable(acl, &connection.who)) {
                connection.out.push_back(Output::Event { kind, path: path.to_owned(), zxid });
            }
        }
    }

    /// Whether znodes that a connection may not read are hidden from it: their events (ZOOKEEPER-4799), and that they are there
    /// (ZOOKEEPER-2590).
    fn hides(&self) -> bool {
        let version = self.settings.version;
        version >= (3, 9, 2) || (version >= (3, 8, 4) && version < (3, 9, 0))
    }

    /// Answers what can be answered on this connection, in order.
    fn answer(&mut self, id: u64) {
        let Some(mut connection) = self.connections.remove(&id) else { return };
        let server = connection.server;
        while let Some(pending) = connection.pending.pop_front() {
            let done = self.servers[server].applied;
            let (zxid, reply) = match pending {
                Pending::Decided { applied, zxid, reply } if applied <= done => (zxid, reply),
                Pending::Sync { applied } if applied <= done => (self.server_zxid(server), Reply::Done),
                Pending::Ask(request) => (self.server_zxid(server), self.ask(&mut connection, &request)),
                waits => {
                    connection.pending.push_front(waits);
                    break;
                }
            };
            self.denied += u64::from(reply.is_denied());
            connection.out.push_back(Output::Reply { zxid, reply });
        }
        self.connections.insert(id, connection);
    }

    fn ask(&self, connection: &mut Connection, request: &Request) -> Reply {
        let tree = &self.servers[connection.server].tree;
        match request {
            Request::Read(read) => {
                let shown = show(tree, read, &connection.who, self.hides());
                if let (Read::Exists { path, watch: true }, Reply::Exists(_)) = (read, &shown) {
                    self.watch(connection, path, false);
                }
                shown
            }
            Request::MultiRead(reads) => {
                Reply::Found(reads.iter().map(|read| show(tree, read, &connection.who, self.hides())).collect())
            }
            Request::Watch(_) if self.settings.version < (3, 6, 0) => Reply::Refused(Refusal::Unimplemented),
            Request::Watch(path) => {
                self.watch(connection, path, true);
                Reply::Done
            }
            Request::Unwatch { path, only_one_shot } => {
                // Before 3.9 the other kind goes with it (ZOOKEEPER-4472).
                let keeps = *only_one_shot && self.settings.version >= (3, 9, 0);
                match connection.watches.get_mut(path).filter(|watches| keeps && watches.recursive) {
                    Some(watches) => watches.one_shot = false,
                    None => drop(connection.watches.remove(path)),
                }
                Reply::Done
            }
            Request::SetWatches { relative_zxid, data, exist } => {
                for path in data {
                    let event = match tree.get(path) {
                        None => Some(EventType::NodeDeleted),
                        Some(znode) => (znode.stamp.mzxid > *relative_zxid).then_some(EventType::NodeDataChanged),
                    };
                    self.set_watch(connection, path, event);
                }
                for path in exist {
                    let event = tree.get(path).map(|_| EventType::NodeCreated);
                    self.set_watch(connection, path, event);
                }
                Reply::Done
            }
            Request::Write(_) | Request::Multi(_) | Request::Sync | Request::Close => Reply::Done,
        }
    }

    /// A one-shot watch of before the reconnect: fires at once, or is set again.
    fn set_watch(&self, connection: &mut Connection, path: &str, event: Option<EventType>) {
        match event {
            Some(kind) => connection.out.push_back(Output::Event { kind, path: path.to_owned(), zxid: -1 }),
            None => self.watch(connection, path, false),
        }
    }

    fn watch(&self, connection: &mut Connection, path: &str, recursive: bool) {
        let watches = connection.watches.entry(path.to_owned()).or_default();
        if self.settings.version < (3, 9, 0) {
            *watches = Watches::default();
        }
        watches.recursive |= recursive;
        watches.one_shot |= !recursive;
    }

    /// A backup of what is there now.
    #[must_use]
    pub fn copy(&self) -> Copy {
        Copy { tree: self.tree.clone(), zxid: self.zxid(), sessions: self.sessions.clone() }
    }

    /// All servers come back with this backup, or with nothing; all connections are cut. With a new epoch, as an ensemble of several servers
    /// that elects a leader, zxids go on far above all that there were.
    pub fn restore(&mut self, copy: Option<Copy>, new_epoch: bool) {
        let copy = copy.unwrap_or(Copy { tree: Tree::new(), zxid: 0, sessions: BTreeSet::new() });
        self.connections.clear();
        self.kept_watches.clear();
        let newest = self.zxid().max(copy.zxid);
        self.base_zxid = if new_epoch { ((newest >> 32) + 1) << 32 } else { copy.zxid };
        self.log.clear();
        for server in &mut self.servers {
            *server = Server { tree: copy.tree.clone(), applied: 0 };
        }
        self.tree = copy.tree;
        self.sessions = copy.sessions;
    }
}
