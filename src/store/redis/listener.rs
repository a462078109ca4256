//! The keyspace source: one RESP3 connection that subscribes, tracks, and asks once a second how
//! the server is, for all pipelines of a worker.
//!
//! ```text
//!   keyspace events --by pattern--\
//!                                  +--> Subscribers --> hints of each pipeline that listens
//!   tracking        --by prefix---/
//! ```
//!
//! `Disconnected -> Live`, and back at the first sign of trouble; a pipeline that begins or ends to
//! listen meanwhile changes what is subscribed and tracked, and costs the others nothing. Keyspace
//! events carry the name of what happened; tracking (BCAST) sees what they do not (FLUSHDB as a
//! null push, writes while notifications are off). The client library re-subscribes at most one of
//! the two after a reconnect, so a broken connection is thrown away.
//!
//! What is tracked may not overlap on one connection, so it is the outermost of all prefixes.
//!
//! The subscription also puts the connection into the class `pubsub`, whose output buffer is
//! bounded: a tracking client without one can grow the server's memory without limit (measured on
//! 7.0.15).

use super::connections::ServerInfo;
use super::database::Database;
use super::fault::is_broken;
use super::info::{Info, notifies, shortcoming, turn_on};
use super::line::{Cmd, Line, PushInfo, RedisError, cmd};
use super::lineage::Shown;
use super::notification::{channel_prefix, pattern};
use super::part::Part;
use super::server::Server;
use super::subscribers::Subscriber;
use super::{canary, reply};
use crate::change::{LossCause, Side};
use crate::env::{self, Instant, Map, Set, lock};
use crate::store::{FailureKind, Hints, Link, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;

/// How often the server is asked how it is. Bounds how long a swap, a replaced data set, silenced
/// notifications or a half-open connection stay unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The least time between two looks, however often databases are flushed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// From one renewal of the claims to the next; also over connections that do not last as long.
const RENEW_EVERY: Duration = Duration::from_secs(4);

/// Pipelines that begin to listen within this time are let in together.
const GATHER: Duration = Duration::from_millis(5);

/// Pauses between attempts to connect grow from the first up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A pipeline listens until this is dropped.
pub(super) struct Subscription {
    server: Arc<Server>,
    member: Arc<Subscriber>,
    /// The only strong reference that is kept. It outlives the member's place in the table.
    _hints: Arc<dyn Hints>,
}

/// Lets a pipeline listen.
pub(super) fn listen(server: &Arc<Server>, part: &Arc<Part>, hints: Arc<dyn Hints>) -> Subscription {
    let member = Arc::new(Subscriber::new(part, &hints));
    let database = server.connections.access.database;
    server.subscribers.add(Arc::clone(&member), database, || env::spawn(run(Arc::clone(server))));
    Subscription { server: Arc::clone(server), member, _hints: hints }
}

impl Subscription {
    /// The connection by which this pipeline gets its hints, if it does: an answer on it comes
    /// behind all events from before it.
    pub(super) fn line(&self) -> Option<Arc<dyn Line>> {
        // In this order: notified that it is up by the connection that was there, or by a newer one
        // that has replaced a broken one.
        self.server.subscribers.line().filter(|_| self.member.is_up.load(Ordering::Acquire))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.server.subscribers.remove(&self.member, self.server.connections.access.database);
    }
}

/// Why a connection ended.
enum Ended {
    Lost,
    /// It is, or has become, one that cannot be used: a replica, one that loads its data, one that
    /// is too old.
    Unfit(Info),
    Failed(RedisError),
}

impl Ended {
    fn explain(&self, database: &Database) -> StoreError {
        let place = database.place();
        match self {
            Ended::Lost => StoreError::away(FailureKind::Connection, format!("{place}: the connection was lost")),
            Ended::Unfit(info) => match info.check(&place) {
                Err(error) => error,
                Ok(()) => StoreError::away(FailureKind::Unready, format!("{place}: it could not be used for a moment")),
            },
            Ended::Failed(error) => database.explain(error),
        }
    }
}

/// Runs while anybody listens.
async fn run(server: Arc<Server>) {
    let mut pause = PAUSES.0;
    let mut renewed = None;
    loop {
        let ended = live(&server, &mut pause, &mut renewed).await.unwrap_or_else(Ended::Failed);
        server.subscribers.set_line(None);
        for member in server.subscribers.all() {
            member.is_up.store(false, Ordering::Release);
            if let Some(part) = member.part() {
                member.notify(|hints| hints.link(Side::Redis, Link::Down(ended.explain(&part.database))));
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
        let (subscribers, broken) = (Arc::clone(&server.subscribers), Arc::clone(&broken));
        let channel_prefix = channel_prefix(server.connections.access.database);
        Box::new(move |push: PushInfo| subscribers.receive(&broken, &channel_prefix, push))
    };
    let line = server.connections.open(Some(pushes)).await?;
    server.subscribers.set_line(Some(Arc::clone(&line)));
    let mut source = Source { server, line, patterns: Set::default(), tracked: Some(Vec::new()), flags: None };
    let server_info = source.ask().await?;
    if server_info.info.check("").is_err() {
        return Ok(Ended::Unfit(server_info.info));
    }
    source.flags = source.notifications().await?;
    let mut looked = Instant::now();
    loop {
        if let Some(ended) = source.let_in().await? {
            return Ok(ended);
        }
        *pause = PAUSES.0;
        if renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            source.renew().await?;
            *renewed = Some(Instant::now());
        }
        tokio::select! {
            biased;
            () = broken.notified() => return Ok(Ended::Lost),
            () = server.subscribers.changed.notified() => {
                env::sleep(GATHER).await;
                continue;
            }
            () = server.subscribers.doubted.notified() => {
                env::sleep(LOOK_AGAIN.saturating_sub(looked.elapsed())).await;
            }
            () = env::sleep(LOOK_EVERY.saturating_sub(looked.elapsed())) => {}
        }
        looked = Instant::now();
        if let Some(ended) = source.look().await? {
            return Ok(ended);
        }
    }
}

/// The connection, and what the server was asked to send on it.
struct Source<'a> {
    server: &'a Server,
    line: Arc<dyn Line>,
    patterns: Set<Vec<u8>>,
    /// `None`: it is refused, and the notifications have to do.
    tracked: Option<Vec<Vec<u8>>>,
    /// Of notify-keyspace-events, if we may ask.
    flags: Option<String>,
}

impl Source<'_> {
    async fn ask(&self) -> Result<ServerInfo, RedisError> {
        self.server.connections.ask(&*self.line).await
    }

    /// Subscribes and tracks what the members need now, and notifies new ones that the connection
    /// stands.
    async fn let_in(&mut self) -> Result<Option<Ended>, RedisError> {
        let members = self.server.subscribers.all();
        let refused = self.subscribe(&members).await?;
        self.track(&members).await?;
        let new: Vec<&Arc<Subscriber>> =
            members.iter().filter(|member| !member.is_up.load(Ordering::Relaxed)).collect();
        if new.is_empty() {
            return Ok(None);
        }
        let server_info = self.ask().await?;
        if server_info.info.check("").is_err() {
            return Ok(Some(Ended::Unfit(server_info.info)));
        }
        for member in new {
            let Some(part) = member.part() else { continue };
            let database = &part.database;
            let pattern = |prefix: &Vec<u8>| pattern(self.server.connections.access.database, prefix);
            if let Some(error) = member.prefixes.iter().find_map(|prefix| refused.get(&pattern(prefix))) {
                let why = database.explain(error);
                member.notify(|hints| hints.link(Side::Redis, Link::Down(why)));
                continue;
            }
            self.report(database);
            note(member, database, &server_info, true);
            // It may have been swapped while nobody listened.
            let doubts = lock(&database.lineage).doubts();
            canary::check(&*self.line, &[(Arc::clone(member), Arc::clone(&part))]).await?;
            lock(&database.lineage).settle(doubts);
            member.is_up.store(true, Ordering::Release);
            member.notify(|hints| hints.link(Side::Redis, Link::Up));
        }
        Ok(None)
    }

    /// Answers which patterns are refused: a user may be allowed some channels and not others.
    async fn subscribe(&mut self, members: &[Arc<Subscriber>]) -> Result<Map<Vec<u8>, RedisError>, RedisError> {
        let database = self.server.connections.access.database;
        let prefixes = members.iter().flat_map(|member| &member.prefixes);
        let wanted: Set<Vec<u8>> = prefixes.map(|prefix| pattern(database, prefix)).collect();
        let mut refused = Map::default();
        for pattern in wanted.difference(&self.patterns.clone()) {
            let mut subscribe = cmd("PSUBSCRIBE");
            subscribe.arg(pattern);
            match self.line.call(&subscribe).await {
                Ok(_) => {
                    self.patterns.insert(pattern.clone());
                }
                Err(error) if is_broken(&error) => return Err(error),
                Err(error) => {
                    refused.insert(pattern.clone(), error);
                }
            }
        }
        for pattern in self.patterns.clone().difference(&wanted) {
            let mut unsubscribe = cmd("PUNSUBSCRIBE");
            unsubscribe.arg(pattern);
            match self.line.call(&unsubscribe).await {
                Ok(_) => {
                    self.patterns.remove(pattern);
                }
                Err(error) if is_broken(&error) => return Err(error),
                // Not allowed: what still comes by it reaches nobody.
                Err(error) => {
                    tracing::debug!(server = self.server.connections.access.host, %error, "PUNSUBSCRIBE is refused")
                }
            }
        }
        Ok(refused)
    }

    /// Tracks the outermost of all prefixes. It covers every key even while the notifications are
    /// on: PFCOUNT rewrites a value, which only tracking reports. One more prefix is added to what
    /// is tracked; a wider one, or one that nobody needs any more, means to begin anew; changes
    /// meanwhile are reported by the notifications or found by a comparison.
    async fn track(&mut self, members: &[Arc<Subscriber>]) -> Result<(), RedisError> {
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
        let mut commands = Vec::new();
        if begins_anew {
            commands.push(tracking("OFF"));
        }
        let prefixes = if begins_anew { &wanted } else { &new };
        if !prefixes.is_empty() {
            let mut on = tracking("ON");
            on.arg("BCAST");
            for prefix in prefixes.iter().filter(|prefix| !prefix.is_empty()) {
                on.arg("PREFIX").arg(prefix);
            }
            commands.push(on);
        }
        let answers = self.line.pipeline(commands).await?;
        match answers.into_iter().find_map(Result::err).map_or(Ok(()), Err) {
            Ok(()) if begins_anew => self.tracked = Some(wanted),
            Ok(()) => self.tracked.get_or_insert_default().extend(new),
            Err(error) if is_broken(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(server = self.server.connections.access.host, %error, "CLIENT TRACKING is refused; FLUSHDB is seen later");
                self.tracked = None;
            }
        }
        if begins_anew && !is_notified {
            for (member, _) in self.server.subscribers.up() {
                member.everything("what is tracked was changed");
            }
        }
        Ok(())
    }

    /// How the server is, for everybody.
    async fn look(&mut self) -> Result<Option<Ended>, RedisError> {
        let up = self.server.subscribers.up();
        let doubts: Vec<u64> = up.iter().map(|(_, part)| lock(&part.database.lineage).doubts()).collect();
        let server_info = self.ask().await?;
        if server_info.info.is_replica {
            return Ok(Some(Ended::Unfit(server_info.info)));
        }
        for (member, part) in &up {
            note(member, &part.database, &server_info, false);
        }
        canary::check(&*self.line, &up).await?;
        for ((_, part), doubts) in up.iter().zip(doubts) {
            lock(&part.database.lineage).settle(doubts);
        }
        let now = self.notifications().await?;
        if now != self.flags {
            self.flags = now;
            for (member, part) in &up {
                self.report(&part.database);
                member.everything("notify-keyspace-events was changed");
            }
        }
        Ok(None)
    }

    /// Keeps the claims alive, also of those that could not be let in: they own their pipelines all
    /// the same.
    async fn renew(&mut self) -> Result<(), RedisError> {
        let members = self.server.subscribers.all();
        let parts: Vec<Arc<Part>> = members.iter().filter_map(|member| member.part()).collect();
        let renewals = parts.iter().map(|part| part.claims.renew(&*self.line, &part.database));
        futures::future::try_join_all(renewals).await?;
        for part in &parts {
            match canary::change(&*self.line, part).await {
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
        let mut command = cmd("CONFIG");
        command.arg("GET").arg("notify-keyspace-events");
        match self.line.call(&command).await {
            Ok(answer) => Ok(reply::setting(answer)),
            Err(error) if is_broken(&error) => Err(error),
            Err(error) => {
                tracing::debug!(server = self.server.connections.access.host, %error, "CONFIG GET is refused");
                Ok(None)
            }
        }
    }

    fn report(&self, database: &Database) {
        let mut facts = lock(&database.facts);
        let facts = Arc::make_mut(&mut facts);
        let flags = self.flags.as_deref();
        facts.notifications = flags.map(notifies);
        let lacking = flags.filter(|flags| !notifies(flags)).map(|flags| (shortcoming(flags), turn_on(flags)));
        facts.lacking =
            lacking.as_ref().map(|(what, how)| format!("{what}; turn them on with: {how}")).unwrap_or_default();
        if let Some((what, how)) = lacking {
            let store = &database.settings.name;
            let is_tracked = self.tracked.is_some();
            let carried =
                if is_tracked { "tracking alone carries the changes" } else { "only comparisons find changes" };
            tracing::warn!(store, "{what}: {carried}; turn them on with: {how}");
        }
    }
}

fn tracking(how: &str) -> Cmd {
    let mut command = cmd("CLIENT");
    command.arg("TRACKING").arg(how);
    command
}

/// Those of these prefixes that begin with no other.
fn outermost(prefixes: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = prefixes.collect();
    all.sort_unstable();
    // What begins with a prefix stands right behind it.
    all.dedup_by(|prefix, outer| prefix.starts_with(outer));
    all
}

/// Notes the lineage; another one, or evictions that no event reported, ask for a comparison.
fn note(member: &Subscriber, database: &Database, server_info: &ServerInfo, is_new: bool) {
    let Shown { replaced, evicted } = database.observe_info(server_info, is_new);
    let is_unreported = std::mem::take(&mut lock(&database.lineage).is_unreported);
    let silent = lock(&database.facts).notifications == Some(false);
    if replaced == Some(LossCause::Flushed) {
        let why = "a database was flushed or swapped, and nothing shows which one";
        member.notify(|hints| hints.lost(Side::Redis, LossCause::Flushed, why, false));
    } else if replaced.is_some() || is_unreported {
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
