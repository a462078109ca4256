//! The keyspace source: one RESP3 connection that subscribes, tracks, and asks once a second how the server is, for all
//! pipelines of a worker.
//!
//! ```text
//!   keyspace events --by pattern--\
//!                                  +--> Listeners --> hints of each pipeline that listens
//!   tracking        --by prefix---/
//! ```
//!
//! `Disconnected -> Live`, and back at the first sign of trouble; a pipeline that begins or ends to listen meanwhile
//! changes what is subscribed and tracked, and costs the others nothing. Keyspace events carry the name of what happened;
//! tracking (BCAST) sees what they do not (FLUSHDB as a null push, writes while notifications are off). The client library
//! re-subscribes at most one of the two after a reconnect, so a broken connection is thrown away.
//!
//! Each pipeline has its own patterns, and is told only what comes by them: of an event that matches two patterns Redis
//! sends two messages, and a rule counts them. What is tracked may not overlap on one connection, so it is the outermost of
//! all prefixes.
//!
//! The subscription also puts the connection into the class `pubsub`, whose output buffer is bounded: a tracking client
//! without one can grow the server's memory without limit (measured on 7.0.15).

use super::calls::glob;
use super::fault::{explain, is_broken};
use super::info::{Info, notifies, shortcoming, turn_on};
use super::notification::{self, Notice};
use super::server::{Heard, Server};
use super::{Shared, canary, claim, lock};
use crate::change::{LossCause, Side};
use crate::env::{self, Instant, Map, Set, Task};
use crate::store::{Hints, Link, StoreError};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, RedisError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// How often the server is asked how it is. Bounds how long a swap, a replaced data set, silenced notifications or a
/// half-open connection stay unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The least time between two looks, however often databases are flushed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// From one renewal of the claims to the next; also over connections that do not last as long.
const RENEW_EVERY: Duration = Duration::from_secs(4);

/// Pipelines that begin to listen within this time are let in together.
const GATHER: Duration = Duration::from_millis(5);

/// Pauses between attempts to connect grow from the first up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A pipeline that listens. It is known by weak references only: [`Listens`] holds the hints.
pub(super) struct Member {
    prefixes: Vec<Vec<u8>>,
    store: Weak<Shared>,
    hints: Weak<dyn Hints>,
    /// It was told that the connection stands.
    is_up: AtomicBool,
}

impl Member {
    pub(super) fn tell(&self, what: impl FnOnce(&dyn Hints)) {
        if let Some(hints) = self.hints.upgrade() {
            what(&*hints);
        }
    }

    pub(super) fn everything(&self, why: &str) {
        self.tell(|hints| hints.everything(Side::Redis, why));
    }

    pub(super) fn lost(&self, cause: LossCause, why: &str) {
        self.tell(|hints| hints.lost(Side::Redis, cause, why, true));
    }
}

/// Who listens on the connection.
#[derive(Default)]
pub(super) struct Listeners {
    table: Mutex<Table>,
    changed: Notify,
    /// A database was flushed or swapped.
    doubted: Notify,
    /// The connection, while it stands.
    line: Mutex<Option<MultiplexedConnection>>,
}

#[derive(Default)]
struct Table {
    members: Vec<Arc<Member>>,
    /// By the pattern of its keyspace channels.
    by_pattern: Map<Vec<u8>, Vec<Arc<Member>>>,
    by_prefix: Map<Vec<u8>, Vec<Arc<Member>>>,
    /// Lengths of the prefixes.
    lengths: Vec<usize>,
    /// Runs while there are members.
    task: Option<Task<()>>,
}

impl Table {
    /// Brings the indexes up to date with the members.
    fn index(&mut self, database: u32) {
        self.by_pattern.clear();
        self.by_prefix.clear();
        for member in &self.members {
            for prefix in &member.prefixes {
                self.by_pattern.entry(pattern(database, prefix)).or_default().push(Arc::clone(member));
                self.by_prefix.entry(prefix.clone()).or_default().push(Arc::clone(member));
            }
        }
        self.lengths = self.by_prefix.keys().map(Vec::len).collect();
        self.lengths.sort_unstable();
        self.lengths.dedup();
    }
}

/// The channels of the keys with this prefix.
pub(super) fn pattern(database: u32, prefix: &[u8]) -> Vec<u8> {
    [format!("__keyspace@{database}__:").as_bytes(), &glob(prefix)].concat()
}

/// A pipeline listens until this is dropped.
pub(super) struct Listens {
    server: Arc<Server>,
    member: Arc<Member>,
    /// The only strong reference that is kept. It outlives the member's place in the table.
    _hints: Arc<dyn Hints>,
}

/// Lets a pipeline listen.
pub(super) fn listen(shared: &Arc<Shared>, hints: Arc<dyn Hints>) -> Listens {
    let server = Arc::clone(&shared.settings.server);
    let member = Arc::new(Member {
        prefixes: shared.settings.prefixes.clone(),
        store: Arc::downgrade(shared),
        hints: Arc::downgrade(&hints),
        is_up: AtomicBool::new(false),
    });
    {
        let mut table = lock(&server.listeners.table);
        table.members.push(Arc::clone(&member));
        table.index(server.access.database);
        if table.task.is_none() {
            table.task = Some(env::spawn(run(Arc::clone(&server))));
        }
    }
    server.listeners.changed.notify_one();
    Listens { server, member, _hints: hints }
}

impl Listens {
    /// The connection by which this pipeline is told, if it is told: an answer on it comes behind all events from before it.
    pub(super) fn line(&self) -> Option<MultiplexedConnection> {
        // In this order: told that it is up by the connection that was there, or by a newer one that has replaced a broken one.
        lock(&self.server.listeners.line).clone().filter(|_| self.member.is_up.load(Ordering::Acquire))
    }
}

impl Drop for Listens {
    fn drop(&mut self) {
        let mut table = lock(&self.server.listeners.table);
        table.members.retain(|member| !Arc::ptr_eq(member, &self.member));
        table.index(self.server.access.database);
        if table.members.is_empty()
            && let Some(task) = table.task.take()
        {
            task.abort();
            *lock(&self.server.listeners.line) = None;
        }
        drop(table);
        self.server.listeners.changed.notify_one();
    }
}

impl Listeners {
    /// Has the data set looked at before its time comes.
    pub(super) fn look_now(&self) {
        self.doubted.notify_one();
    }

    fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.table).members.clone()
    }

    /// Those that were told that the connection stands, with their stores.
    fn up(&self) -> Vec<(Arc<Member>, Arc<Shared>)> {
        let up = self.members().into_iter().filter(|member| member.is_up.load(Ordering::Relaxed));
        up.filter_map(|member| member.store.upgrade().map(|store| (member, store))).collect()
    }

    /// Called by the connection's task for each push: must not block, and does not.
    fn heard(&self, broken: &Notify, channel_prefix: &[u8], push: PushInfo) {
        notification::read(channel_prefix, push, &mut |notice| match notice {
            Notice::Event { pattern, key, event } => {
                for member in lock(&self.table).by_pattern.get(&pattern).into_iter().flatten() {
                    member.tell(|hints| hints.key(&key, event.as_deref()));
                }
            }
            Notice::Invalidated(key) => {
                let table = lock(&self.table);
                let prefixes = table.lengths.iter().filter_map(|length| key.get(..*length));
                for member in prefixes.filter_map(|prefix| table.by_prefix.get(prefix)).flatten() {
                    member.tell(|hints| hints.key(&key, None));
                }
            }
            Notice::Everything => {
                for member in &lock(&self.table).members {
                    if let Some(shared) = member.store.upgrade() {
                        lock(&shared.lineage).doubt();
                    }
                    member.tell(flushed);
                }
                self.look_now();
            }
            Notice::Disconnected => broken.notify_one(),
        });
    }
}

/// The server does not say which database was flushed; the canary tells whether it was ours.
fn flushed(hints: &dyn Hints) {
    hints.lost(Side::Redis, LossCause::Flushed, "a database was flushed", false);
}

/// Why a connection ended.
enum Ended {
    Lost,
    /// It is, or has become, one that cannot be used: a replica, one that loads its data, one that is too old.
    Unfit(Info),
    Failed(RedisError),
}

impl Ended {
    fn say(&self, shared: &Shared) -> StoreError {
        let place = shared.place();
        match self {
            Ended::Lost => StoreError::Away(format!("{place}: the connection was lost")),
            Ended::Unfit(info) => match info.check(&place) {
                Err(error) => error,
                Ok(()) => StoreError::Away(format!("{place}: it could not be used for a moment")),
            },
            Ended::Failed(error) => explain(&shared.settings, error),
        }
    }
}

/// Runs while anybody listens.
async fn run(server: Arc<Server>) {
    let mut pause = PAUSES.0;
    let mut renewed = None;
    loop {
        let ended = live(&server, &mut pause, &mut renewed).await.unwrap_or_else(Ended::Failed);
        *lock(&server.listeners.line) = None;
        for member in server.listeners.members() {
            member.is_up.store(false, Ordering::Release);
            if let Some(shared) = member.store.upgrade() {
                member.tell(|hints| hints.link(Side::Redis, Link::Down(ended.say(&shared))));
            }
        }
        env::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// One connection, from its making to its end; answers why it ended.
async fn live(server: &Arc<Server>, pause: &mut Duration, renewed: &mut Option<Instant>) -> Result<Ended, RedisError> {
    let broken = Arc::new(Notify::new());
    let pushes = {
        let (listeners, broken) = (Arc::clone(&server.listeners), Arc::clone(&broken));
        let channel_prefix = format!("__keyspace@{}__:", server.access.database).into_bytes();
        Box::new(move |push: PushInfo| listeners.heard(&broken, &channel_prefix, push))
    };
    let connection = server.open(Some(pushes)).await?;
    *lock(&server.listeners.line) = Some(connection.clone());
    let mut line = Line { server, connection, patterns: Set::default(), tracked: Some(Vec::new()), flags: None };
    let heard = server.ask(&mut line.connection).await?;
    if heard.info.check("").is_err() {
        return Ok(Ended::Unfit(heard.info));
    }
    line.flags = line.notifications().await?;
    let mut looked = Instant::now();
    loop {
        if let Some(ended) = line.let_in().await? {
            return Ok(ended);
        }
        *pause = PAUSES.0;
        if renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            line.renew().await?;
            *renewed = Some(Instant::now());
        }
        tokio::select! {
            biased;
            () = broken.notified() => return Ok(Ended::Lost),
            () = server.listeners.changed.notified() => {
                env::sleep(GATHER).await;
                continue;
            }
            () = server.listeners.doubted.notified() => {
                env::sleep(LOOK_AGAIN.saturating_sub(looked.elapsed())).await;
            }
            () = env::sleep(LOOK_EVERY.saturating_sub(looked.elapsed())) => {}
        }
        looked = Instant::now();
        if let Some(ended) = line.look().await? {
            return Ok(ended);
        }
    }
}

/// The connection, and what it was asked to tell.
struct Line<'a> {
    server: &'a Server,
    connection: MultiplexedConnection,
    patterns: Set<Vec<u8>>,
    /// `None`: it is refused, and the notifications have to do.
    tracked: Option<Vec<Vec<u8>>>,
    /// Of notify-keyspace-events, if we may ask.
    flags: Option<String>,
}

impl Line<'_> {
    /// Subscribes and tracks what the members need now, and tells new ones that the connection stands.
    async fn let_in(&mut self) -> Result<Option<Ended>, RedisError> {
        let members = self.server.listeners.members();
        let refused = self.subscribe(&members).await?;
        self.track(&members).await?;
        let new: Vec<&Arc<Member>> = members.iter().filter(|member| !member.is_up.load(Ordering::Relaxed)).collect();
        if new.is_empty() {
            return Ok(None);
        }
        let heard = self.server.ask(&mut self.connection).await?;
        if heard.info.check("").is_err() {
            return Ok(Some(Ended::Unfit(heard.info)));
        }
        for member in new {
            let Some(shared) = member.store.upgrade() else { continue };
            let pattern = |prefix: &Vec<u8>| pattern(self.server.access.database, prefix);
            if let Some(error) = member.prefixes.iter().find_map(|prefix| refused.get(&pattern(prefix))) {
                let why = explain(&shared.settings, error);
                member.tell(|hints| hints.link(Side::Redis, Link::Down(why)));
                continue;
            }
            self.report(&shared);
            note(member, &shared, &heard, true);
            // It may have been swapped while nobody listened.
            let doubts = lock(&shared.lineage).doubts();
            canary::check(&mut self.connection, &[(Arc::clone(member), Arc::clone(&shared))]).await?;
            lock(&shared.lineage).settle(doubts);
            member.is_up.store(true, Ordering::Release);
            member.tell(|hints| hints.link(Side::Redis, Link::Up));
        }
        Ok(None)
    }

    /// Answers which patterns are refused: a user may be allowed some channels and not others.
    async fn subscribe(&mut self, members: &[Arc<Member>]) -> Result<Map<Vec<u8>, RedisError>, RedisError> {
        let database = self.server.access.database;
        let prefixes = members.iter().flat_map(|member| &member.prefixes);
        let wanted: Set<Vec<u8>> = prefixes.map(|prefix| pattern(database, prefix)).collect();
        let mut refused = Map::default();
        for pattern in wanted.difference(&self.patterns.clone()) {
            match self.connection.psubscribe(pattern).await {
                Ok(()) => {
                    self.patterns.insert(pattern.clone());
                }
                Err(error) if is_broken(&error) => return Err(error),
                Err(error) => {
                    refused.insert(pattern.clone(), error);
                }
            }
        }
        for pattern in self.patterns.clone().difference(&wanted) {
            match self.connection.punsubscribe(pattern).await {
                Ok(()) => {
                    self.patterns.remove(pattern);
                }
                Err(error) if is_broken(&error) => return Err(error),
                // Not allowed: what still comes by it reaches nobody.
                Err(error) => tracing::debug!(server = self.server.access.host, %error, "PUNSUBSCRIBE is refused"),
            }
        }
        Ok(refused)
    }

    /// Tracks the outermost of all prefixes. It covers every key even while the notifications are on: PFCOUNT rewrites a
    /// value and tells tracking alone. One more prefix is added to what is tracked; a wider one, or one that nobody needs any
    /// more, means to begin anew, and what changes meanwhile is told by the notifications or found by a comparison.
    async fn track(&mut self, members: &[Arc<Member>]) -> Result<(), RedisError> {
        let Some(tracked) = &self.tracked else { return Ok(()) };
        let wanted = outermost(members.iter().flat_map(|member| member.prefixes.iter().cloned()));
        let is_tracked = |prefix: &Vec<u8>| tracked.iter().any(|outer| prefix.starts_with(outer));
        let new: Vec<Vec<u8>> = wanted.iter().filter(|prefix| !is_tracked(prefix)).cloned().collect();
        let is_wider = new.iter().any(|outer| tracked.iter().any(|prefix| prefix.starts_with(outer)));
        let is_notified = self.flags.as_deref().is_some_and(notifies);
        let is_stale = is_notified && tracked.iter().any(|prefix| !wanted.contains(prefix));
        if new.is_empty() && !is_stale {
            return Ok(());
        }
        let begins_anew = is_wider || is_stale;
        let mut commands = redis::pipe();
        if begins_anew {
            commands.cmd("CLIENT").arg(&["TRACKING", "OFF"]).ignore();
        }
        let prefixes = if begins_anew { &wanted } else { &new };
        if !prefixes.is_empty() {
            let on = commands.cmd("CLIENT").arg(&["TRACKING", "ON", "BCAST"]).ignore();
            for prefix in prefixes.iter().filter(|prefix| !prefix.is_empty()) {
                on.arg("PREFIX").arg(prefix);
            }
        }
        match commands.query_async::<()>(&mut self.connection).await {
            Ok(()) if begins_anew => self.tracked = Some(wanted),
            Ok(()) => self.tracked.get_or_insert_default().extend(new),
            Err(error) if is_broken(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(server = self.server.access.host, %error, "CLIENT TRACKING is refused; FLUSHDB is seen later");
                self.tracked = None;
            }
        }
        if begins_anew && !is_notified {
            for (member, _) in self.server.listeners.up() {
                member.everything("what is tracked was changed");
            }
        }
        Ok(())
    }

    /// How the server is, for everybody.
    async fn look(&mut self) -> Result<Option<Ended>, RedisError> {
        let up = self.server.listeners.up();
        let doubts: Vec<u64> = up.iter().map(|(_, shared)| lock(&shared.lineage).doubts()).collect();
        let heard = self.server.ask(&mut self.connection).await?;
        if heard.info.is_replica {
            return Ok(Some(Ended::Unfit(heard.info)));
        }
        for (member, shared) in &up {
            note(member, shared, &heard, false);
        }
        canary::check(&mut self.connection, &up).await?;
        for ((_, shared), doubts) in up.iter().zip(doubts) {
            lock(&shared.lineage).settle(doubts);
        }
        let now = self.notifications().await?;
        if now != self.flags {
            self.flags = now;
            for (member, shared) in &up {
                self.report(shared);
                member.everything("notify-keyspace-events was changed");
            }
        }
        Ok(None)
    }

    /// Keeps the claims alive, also of those that could not be let in: they own their pipelines all the same.
    async fn renew(&mut self) -> Result<(), RedisError> {
        let members = self.server.listeners.members();
        let stores: Vec<Arc<Shared>> = members.iter().filter_map(|member| member.store.upgrade()).collect();
        claim::renew(&mut self.connection, stores.iter()).await?;
        for shared in &stores {
            match canary::change(&mut self.connection, shared).await {
                Err(error) if is_broken(&error) => return Err(error),
                // Out of memory, for instance: tried again later.
                Err(refused) => tracing::debug!(%refused, "the canary could not be changed"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The flags of notify-keyspace-events; `None` if we may not ask.
    async fn notifications(&mut self) -> Result<Option<String>, RedisError> {
        let mut command = redis::cmd("CONFIG");
        command.arg(&["GET", "notify-keyspace-events"]);
        match command.query_async::<Vec<(String, String)>>(&mut self.connection).await {
            Ok(pairs) => Ok(pairs.into_iter().next().map(|(_, flags)| flags)),
            Err(error) if is_broken(&error) => Err(error),
            Err(error) => {
                tracing::debug!(server = self.server.access.host, %error, "CONFIG GET is refused");
                Ok(None)
            }
        }
    }

    fn report(&self, shared: &Shared) {
        let mut facts = lock(&shared.facts);
        let facts = Arc::make_mut(&mut facts);
        let flags = self.flags.as_deref();
        facts.notifications = flags.map(notifies);
        let lacking = flags.filter(|flags| !notifies(flags)).map(|flags| (shortcoming(flags), turn_on(flags)));
        facts.lacking =
            lacking.as_ref().map(|(what, how)| format!("{what}; turn them on with: {how}")).unwrap_or_default();
        if let Some((what, how)) = lacking {
            let store = &shared.settings.name;
            let is_tracked = self.tracked.is_some();
            let carried =
                if is_tracked { "tracking alone carries the changes" } else { "only comparisons find changes" };
            tracing::warn!(store, "{what}: {carried}; turn them on with: {how}");
        }
    }
}

/// Those of these prefixes that begin with no other.
fn outermost(prefixes: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = prefixes.collect();
    all.sort_unstable();
    // What begins with a prefix stands right behind it.
    all.dedup_by(|prefix, outer| prefix.starts_with(outer));
    all
}

/// Takes in the lineage; another one, or evictions that no event told, ask for a comparison.
fn note(member: &Member, shared: &Shared, heard: &Heard, is_new: bool) {
    let (replaced, evicted) = shared.take_in(heard, is_new);
    let untold = std::mem::take(&mut lock(&shared.lineage).untold);
    let silent = lock(&shared.facts).notifications == Some(false);
    if replaced || untold {
        member.lost(LossCause::Replaced, "Redis was restarted or its data set replaced");
    } else if evicted && silent {
        member.lost(LossCause::Evicted, "Redis evicted keys");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tracked_never_overlaps() {
        let all = |prefixes: &[&str]| outermost(prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()));
        assert_eq!(all(&["b:", "a:", "a:x:", "ab", "a:"]), [b"a:".to_vec(), b"ab".to_vec(), b"b:".to_vec()]);
        assert_eq!(all(&["a:", "", "b"]), [b"".to_vec()]);
        assert_eq!(all(&["a", "a:", "ab", "b"]), [b"a".to_vec(), b"b".to_vec()]);
    }
}
