//! The server: databases, connections and settings, what it does by itself, and what befalls it.

use super::acl::User;
use super::commands::At;
use super::data::{Bytes, Keys};
use super::glob::matches;
use super::reply::{Push, Reply, Sent};
use super::version::Version;
use std::collections::{BTreeSet, VecDeque};

/// Number of databases, as by default.
pub const DATABASES: usize = 16;

/// What the server holds in memory besides data, so that a smaller `maxmemory` means that it is full.
const USED_BYTES: u64 = 1 << 20;

/// In what a double would be kinder than a server, if it were wrong: each is a fault that the conformance suite must find. The last ones
/// are rules of the scripts that are left out; the model checker must find what becomes of a pair without them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kindness {
    /// A write is done although the server is at its memory limit.
    WritesWhenFull,
    /// A flush gives a `del` event for each key.
    TellsOfFlush,
    /// SWAPDB invalidates what is tracked.
    TellsOfSwap,
    /// A key that expires gives no event of its own.
    ExpiresInSilence,
    /// An event that matches two patterns of a connection is sent once.
    SendsOnce,
    /// A script that is not loaded runs all the same.
    KnowsEveryScript,
    /// SET leaves the expiry of the key as it was.
    KeepsExpiry,
    /// OBSERVE, APPLY and COMPLETE serve an owner that another one has followed.
    IgnoresEpochs,
    /// OBSERVE leaves an older epoch in the bucket.
    ReadsWithoutRaising,
    /// APPLY writes whatever sidecar is there.
    IgnoresSidecars,
    /// APPLY and COMPLETE write whatever life of the bucket it is.
    IgnoresNonces,
    /// APPLY writes whatever the key holds.
    IgnoresValues,
    /// STATE takes what a former owner writes, and a number that falls.
    RemembersFormerOwners,
    /// STATE puts a milestone where the one before it is missing.
    PutsEveryMilestone,
}

/// Whose data it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Primary,
    Replica,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) user: usize,
    pub(super) database: usize,
    /// In the order in which they were subscribed.
    pub(super) patterns: Vec<Bytes>,
    /// Prefixes that are tracked; `None`: tracking is off.
    pub(super) tracked: Option<Vec<Bytes>>,
    /// Changed since the turn began, by the prefix that is tracked.
    invalid: BTreeSet<(Bytes, Bytes)>,
    pub(super) sent: VecDeque<Sent>,
    pub(super) is_open: bool,
}

/// What a disk or another server has of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Copy(Vec<Keys>);

/// See the module.
#[derive(Debug, Clone, Hash, PartialEq, Eq)]
pub struct Server {
    pub version: Version,
    /// Its clock, milliseconds since the epoch. The caller moves it.
    pub now_ms: i64,
    pub(super) databases: Vec<Keys>,
    pub(super) connections: Vec<Connection>,
    pub(super) settings: Vec<(String, String)>,
    /// SHA-1 of the scripts that were loaded.
    pub(super) scripts: Vec<String>,
    pub(super) users: Vec<User>,
    run: u64,
    replication: u64,
    /// Of the primary that this one was a replica of.
    former_replication: Option<u64>,
    pub(super) role: Role,
    /// Reads its data from disk, and answers nothing else meanwhile.
    pub is_loading: bool,
    /// Runs somebody's endless script.
    pub is_busy: bool,
    /// It could not save its data.
    pub is_unsaved: bool,
    pub(super) expired: u64,
    pub(super) evicted: u64,
    /// `CONFIG RESETSTAT` was called since the start.
    pub(super) is_reset: bool,
    pub(super) offset: i64,
    /// How often anything was changed, for whoever looks what it was.
    pub changes: u64,
    /// SCAN answers one key of the page before once more.
    pub scan_repeats: bool,
    pub kindness: Option<Kindness>,
}

impl Default for Server {
    fn default() -> Server {
        let settings = [
            ("notify-keyspace-events", "AK"),
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
            ("min-replicas-to-write", "0"),
            ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
        ];
        Server {
            version: Version::default(),
            now_ms: 1_800_000_000_000,
            databases: vec![Keys::default(); DATABASES],
            connections: Vec::new(),
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            scripts: Vec::new(),
            users: vec![User::of_all("default")],
            run: 1,
            replication: 1,
            former_replication: None,
            role: Role::Primary,
            is_loading: false,
            is_busy: false,
            is_unsaved: false,
            expired: 0,
            evicted: 0,
            is_reset: false,
            offset: 0,
            changes: 0,
            scan_repeats: false,
            kindness: None,
        }
    }
}

fn named_history(replication: u64) -> String {
    format!("{:040x}", 0xabcd_0000 + replication)
}

impl Server {
    /// A new connection, or the error with which the login is refused.
    pub fn connect(&mut self, database: usize, login: Option<(&str, Option<&str>)>) -> Result<usize, String> {
        let (name, password) = login.unwrap_or(("default", None));
        let found = self.users.iter().position(|user| user.name == name && user.is_on);
        let user = found.filter(|at| {
            let needed = self.users[*at].password.as_deref();
            needed.is_none_or(|needed| password == Some(needed))
        });
        let user = user.ok_or("WRONGPASS invalid username-password pair or user is disabled.")?;
        if database >= DATABASES {
            return Err("ERR DB index is out of range".to_owned());
        }
        self.connections.push(Connection {
            user,
            database,
            patterns: Vec::new(),
            tracked: None,
            invalid: BTreeSet::new(),
            sent: VecDeque::new(),
            is_open: true,
        });
        Ok(self.connections.len() - 1)
    }

    /// One command of a connection: its answer is sent to it, and what it causes to whoever asked for that.
    pub fn command(&mut self, connection: usize, words: &[Bytes]) {
        if !self.connections[connection].is_open {
            return;
        }
        let Connection { user, database, .. } = self.connections[connection];
        let at = At { connection, user, database, script: None };
        let reply = self.run(at, words).unwrap_or_else(Reply::Error);
        self.connections[connection].sent.push_back(Sent::Reply(reply));
    }

    /// The turn of the event loop ends: what is tracked and has changed in it is sent, each key once. A server ends a turn after the
    /// commands that it read at once, of one connection or of several.
    pub fn end_turn(&mut self) {
        for connection in &mut self.connections {
            let mut by_prefix: Vec<(Bytes, Vec<Bytes>)> = Vec::new();
            for (prefix, key) in std::mem::take(&mut connection.invalid) {
                match by_prefix.last_mut().filter(|(last, _)| *last == prefix) {
                    Some((_, keys)) => keys.push(key),
                    None => by_prefix.push((prefix, vec![key])),
                }
            }
            let pushes = by_prefix.into_iter().map(|(_, keys)| Sent::Push(Push::Invalidate(Some(keys))));
            if connection.is_open {
                connection.sent.extend(pushes);
            }
        }
    }

    /// What was sent to this connection since the last call.
    pub fn received(&mut self, connection: usize) -> Vec<Sent> {
        self.connections[connection].sent.drain(..).collect()
    }

    pub fn is_connected(&self, connection: usize) -> bool {
        self.connections.get(connection).is_some_and(|connection| connection.is_open)
    }

    /// Answers in place of a command that was not run.
    pub fn answer(&mut self, connection: usize, reply: Reply) {
        self.connections[connection].sent.push_back(Sent::Reply(reply));
    }

    /// The newest answer does not reach its client.
    pub fn drop_answer(&mut self, connection: usize) {
        let sent = &mut self.connections[connection].sent;
        if let Some(at) = sent.iter().rposition(|sent| matches!(sent, Sent::Reply(_))) {
            sent.remove(at);
        }
    }

    /// The client has hung up.
    pub fn hang_up(&mut self, connection: usize) {
        self.connections[connection].is_open = false;
        self.connections[connection].sent.clear();
    }

    /// The server closes a connection.
    pub fn close(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        if std::mem::replace(&mut connection.is_open, false) {
            connection.sent.push_back(Sent::Closed);
        }
    }

    pub fn close_all(&mut self) {
        (0..self.connections.len()).for_each(|connection| self.close(connection));
    }

    pub fn setting(&self, name: &str) -> &str {
        self.settings.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    /// An operator changes a setting, as `CONFIG SET` does.
    pub fn configure(&mut self, name: &str, value: &str) {
        if let Some((_, own)) = self.settings.iter_mut().find(|(own, _)| own == name) {
            value.clone_into(own);
        }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it is at its memory limit. A replica leaves that to its primary.
    pub fn is_full(&self) -> bool {
        let limit: u64 = self.setting("maxmemory").parse().unwrap_or(0);
        self.role == Role::Primary && limit != 0 && limit < USED_BYTES
    }

    /// A key as it is there, expired or not: for a test, no command sees this.
    pub fn peek(&self, database: usize, key: &[u8]) -> Option<&super::data::Entry> {
        self.databases[database].get(key)
    }

    /// Whether a key is there whose time has come.
    pub fn is_due(&self, database: usize, key: &[u8], now_ms: i64) -> bool {
        let entry = self.databases[database].get(key);
        entry.is_some_and(|entry| entry.expires_ms.is_some_and(|at| at < now_ms))
    }

    pub fn run_id(&self) -> String {
        format!("{:040x}", self.run)
    }

    pub fn replication_id(&self) -> String {
        named_history(self.replication)
    }

    /// The name of the history before the last promotion; zeros where there was none.
    pub fn former_replication_id(&self) -> String {
        self.former_replication.map_or_else(|| "0".repeat(40), named_history)
    }

    /// A key whose time has come is removed: at a command that asks for it, or whenever the server gets to it.
    pub fn expire(&mut self, database: usize, key: &[u8]) {
        let now = self.now_ms;
        let is_due = |at: i64| now > at;
        let is_expired = self.databases[database].get(key).is_some_and(|entry| entry.expires_ms.is_some_and(is_due));
        // A replica waits for its primary to say so.
        if is_expired && self.role == Role::Primary {
            self.databases[database].remove(key);
            self.gone(database, key);
        }
    }

    /// A key has expired and was removed.
    pub(super) fn gone(&mut self, database: usize, key: &[u8]) {
        self.expired += 1;
        if self.kindness != Some(Kindness::ExpiresInSilence) {
            self.notify('x', "expired", key, database);
        }
        self.changed(key);
    }

    /// Removes a key since memory is short.
    pub fn evict(&mut self, database: usize, key: &[u8]) {
        if self.databases[database].remove(key).is_some() {
            self.evicted += 1;
            self.notify('e', "evicted", key, database);
            self.changed(key);
        }
    }

    /// What a disk, a backup or a replica has at this moment.
    pub fn copy(&self) -> Copy {
        Copy(self.databases.clone())
    }

    /// Ends and starts again, with what a copy holds or with nothing: all connections and loaded scripts are gone.
    pub fn restart(&mut self, with: Option<Copy>) {
        self.close_all();
        self.databases = with.map_or_else(|| vec![Keys::default(); DATABASES], |copy| copy.0);
        self.scripts.clear();
        self.run += 1;
        self.replication += 1;
        self.former_replication = None;
        self.role = Role::Primary;
        (self.expired, self.evicted, self.is_reset, self.offset) = (0, 0, false, 0);
        (self.is_loading, self.is_busy, self.is_unsaved) = (false, false, false);
    }

    /// A replica that had this copy takes the place of the primary, behind the same address: it has its own run, its own statistics and
    /// no script, and its history goes on from that of the primary under another name.
    pub fn fail_over(&mut self, to: Copy) {
        let (replication, offset) = (self.replication, self.offset);
        self.restart(Some(to));
        (self.former_replication, self.offset) = (Some(replication), offset);
    }

    /// Becomes a replica, or a primary again, without a restart. Connections stay.
    pub fn set_role(&mut self, role: Role) {
        if self.role == Role::Replica && role == Role::Primary {
            self.former_replication = Some(self.replication);
            self.replication += 1;
        }
        self.role = role;
    }

    /// The data set of a server that had another one takes the place of this one, as at a full resynchronization: no event tells.
    pub fn resynchronize(&mut self, with: Copy) {
        self.databases = with.0;
        self.replication += 1;
        self.flushed();
    }

    /// A keyspace event of this class.
    pub(super) fn notify(&mut self, class: char, event: &str, key: &[u8], database: usize) {
        let flags = self.setting("notify-keyspace-events");
        let is_on = flags.contains(class) || (flags.contains('A') && "g$lshzxet".contains(class));
        let (by_key, by_event) = (flags.contains('K'), flags.contains('E'));
        if is_on && by_key {
            let channel = [format!("__keyspace@{database}__:").as_bytes(), key].concat();
            self.publish(&channel, event.as_bytes());
        }
        if is_on && by_event {
            let channel = format!("__keyevent@{database}__:{event}");
            self.publish(channel.as_bytes(), key);
        }
    }

    pub(super) fn subscribes(&self, connection: usize) -> bool {
        !self.connections[connection].patterns.is_empty()
    }

    /// Sends a message to everybody who subscribed to a pattern of its channel, once for each such pattern.
    pub(super) fn publish(&mut self, channel: &[u8], message: &[u8]) -> i64 {
        let mut receivers = 0;
        for connection in self.connections.iter_mut().filter(|connection| connection.is_open) {
            let matching = connection.patterns.iter().filter(|pattern| matches(pattern, channel));
            let most = if self.kindness == Some(Kindness::SendsOnce) { 1 } else { usize::MAX };
            for pattern in matching.take(most) {
                receivers += 1;
                let (channel, message) = (channel.to_vec(), message.to_vec());
                connection.sent.push_back(Sent::Push(Push::Message { pattern: pattern.clone(), channel, message }));
            }
        }
        receivers
    }

    /// The value, the type or the expiry of a key was changed.
    pub(super) fn changed(&mut self, key: &[u8]) {
        self.changes += 1;
        self.offset += i64::from(self.offset != 0);
        for connection in &mut self.connections {
            let tracked = connection.tracked.iter().flatten();
            let invalid = tracked.filter(|prefix| key.starts_with(prefix)).map(|prefix| (prefix.clone(), key.to_vec()));
            connection.invalid.extend(invalid.collect::<Vec<_>>());
        }
    }

    /// Some database was flushed: whoever tracks is told, whatever database it was.
    pub(super) fn flushed(&mut self) {
        self.changes += 1;
        for connection in self.connections.iter_mut().filter(|connection| connection.is_open) {
            if connection.tracked.is_some() {
                connection.sent.push_back(Sent::Push(Push::Invalidate(None)));
            }
        }
    }
}
