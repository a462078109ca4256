//! The keyspace source: one RESP3 connection that subscribes, tracks, and asks once a second how the server is.
//!
//! `Disconnected -> Subscribing -> Live`, and back at the first sign of trouble. Keyspace events carry the name of what
//! happened; tracking (BCAST) sees what they do not (FLUSHDB as a null push, writes while notifications are off). The
//! client library re-subscribes at most one of the two after a reconnect, so a broken connection is thrown away.
//!
//! The subscription also puts the connection into the class `pubsub`, whose output buffer is bounded: a tracking client
//! without one can grow the server's memory without limit (measured on 7.0.15).

use super::calls::{glob, integer};
use super::info::{Info, notifies, turn_on};
use super::notification::{self, Notice};
use super::{Shared, claim, connection, lock};
use crate::change::Side;
use crate::store::{Hints, Link, StoreError};
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;

/// How often the server is asked how it is. Bounds how long a swap, a replaced data set, silenced notifications or a
/// half-open connection stay unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pauses between attempts to connect grow up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);

pub(super) async fn run(shared: Arc<Shared>, hints: Arc<dyn Hints>) {
    let mut pause = Duration::from_millis(50);
    loop {
        let why = match live(&shared, &hints, &mut pause).await {
            Ok(why) => why,
            Err(error) => error.to_string(),
        };
        hints.link(Side::Redis, Link::Down(why));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection, from its making to its end; answers why it ended.
async fn live(shared: &Arc<Shared>, hints: &Arc<dyn Hints>, pause: &mut Duration) -> Result<String, StoreError> {
    let broken = Arc::new(Notify::new());
    let pushes = {
        let (hints, broken) = (Arc::clone(hints), Arc::clone(&broken));
        let channel_prefix = format!("__keyspace@{}__:", shared.settings.database).into_bytes();
        Box::new(move |push: PushInfo| heard(&*hints, &broken, &channel_prefix, push))
    };
    let mut connection = connection::open(&shared.settings, Some(pushes)).await?;
    let info = shared.info(&mut connection).await?;
    info.check(&shared.place())?;
    subscribe(shared, &mut connection).await?;
    let mut flags = notifications(shared, &mut connection).await;
    let tracked = track(shared, &mut connection).await;
    report(shared, flags.as_deref(), tracked);
    note(shared, hints, &info);
    hints.link(Side::Redis, Link::Up);
    *pause = Duration::from_millis(50);
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            biased;
            () = broken.notified() => return Ok(format!("{}: the connection was lost", shared.place())),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let info = shared.info(&mut connection).await?;
        if info.is_replica {
            return Ok(format!("{} has become a replica", shared.place()));
        }
        note(shared, hints, &info);
        check_canary(shared, hints, &mut connection).await?;
        looks += 1;
        let now = notifications(shared, &mut connection).await;
        if now != flags {
            flags = now;
            report(shared, flags.as_deref(), tracked);
            hints.everything(Side::Redis, "notify-keyspace-events was changed");
        }
        if looks.is_multiple_of(4) {
            claim::renew(shared).await?;
        }
    }
}

/// Called by the connection's task for each push: must not block, and does not.
fn heard(hints: &dyn Hints, broken: &Notify, channel_prefix: &[u8], push: PushInfo) {
    notification::read(channel_prefix, push, &mut |notice| match notice {
        Notice::Key { key, event } => hints.key(&key, event.as_deref()),
        Notice::Everything => hints.everything(Side::Redis, "the database was flushed"),
        Notice::Disconnected => broken.notify_one(),
    });
}

async fn subscribe(shared: &Shared, connection: &mut MultiplexedConnection) -> Result<(), StoreError> {
    for prefix in &shared.settings.prefixes {
        let channels = [format!("__keyspace@{}__:", shared.settings.database).as_bytes(), &glob(prefix)].concat();
        connection.psubscribe(channels).await.map_err(|error| connection::explain(&shared.settings, &error))?;
    }
    Ok(())
}

/// Turns tracking on; without the permission the notifications have to do. It covers every key even while the
/// notifications are on: PFCOUNT rewrites a value and tells tracking alone.
async fn track(shared: &Shared, connection: &mut MultiplexedConnection) -> bool {
    let mut command = redis::cmd("CLIENT");
    command.arg(&["TRACKING", "ON", "BCAST"]);
    if !shared.settings.prefixes.iter().any(Vec::is_empty) {
        for prefix in &shared.settings.prefixes {
            command.arg("PREFIX").arg(prefix);
        }
    }
    match command.query_async::<()>(connection).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(store = shared.settings.name, %error, "CLIENT TRACKING is refused; FLUSHDB is seen later");
            false
        }
    }
}

/// The flags of notify-keyspace-events; `None` if we may not ask.
async fn notifications(shared: &Shared, connection: &mut MultiplexedConnection) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg(&["GET", "notify-keyspace-events"]);
    match command.query_async::<Vec<(String, String)>>(connection).await {
        Ok(pairs) => pairs.into_iter().next().map(|(_, flags)| flags),
        Err(error) => {
            tracing::debug!(store = shared.settings.name, %error, "CONFIG GET is refused");
            None
        }
    }
}

fn report(shared: &Shared, flags: Option<&str>, tracked: bool) {
    let mut facts = lock(&shared.facts);
    let facts = Arc::make_mut(&mut facts);
    facts.notifications = flags.map(notifies);
    facts.turn_on = flags.filter(|flags| !notifies(flags)).map(turn_on).unwrap_or_default();
    if facts.notifications == Some(false) {
        let store = &shared.settings.name;
        let carried = if tracked { "tracking alone carries the changes" } else { "only comparisons find changes" };
        tracing::warn!(store, "notifications are off: {carried}; turn them on with: {}", facts.turn_on);
    }
}

/// Takes in the lineage; another one, or evictions that no event told, ask for a comparison.
fn note(shared: &Shared, hints: &Arc<dyn Hints>, info: &Info) {
    let (replaced, evicted) = lock(&shared.lineage).note(info);
    let silent = lock(&shared.facts).notifications == Some(false);
    if replaced {
        hints.everything(Side::Redis, "Redis was restarted or its data set replaced");
    } else if evicted && silent {
        hints.everything(Side::Redis, "Redis evicted keys");
    }
}

/// Looks for the field that this owner left: a data set without it is another one, or was flushed.
async fn check_canary(
    shared: &Shared,
    hints: &Arc<dyn Hints>,
    connection: &mut MultiplexedConnection,
) -> Result<(), StoreError> {
    let canary = lock(&shared.lineage).canary.clone();
    if canary.is_empty() {
        return Ok(());
    }
    let mut command = redis::cmd("HMGET");
    command.arg(shared.state_key()).arg(&["canary", "epoch"]);
    let (found, epoch): (Option<String>, Option<u64>) =
        command.query_async(connection).await.map_err(|error| connection::explain(&shared.settings, &error))?;
    let is_newer_owner = epoch > Some(shared.epoch.load(Ordering::Relaxed));
    if is_newer_owner || found.as_deref() == Some(canary.as_str()) {
        return Ok(());
    }
    {
        let mut lineage = lock(&shared.lineage);
        lineage.generation += 1;
        lineage.life += 1;
        lineage.compared = None;
        // Another one than before: the data set that went may come back (SWAPDB), and is then an older one.
        lineage.canary = shared.nonce.fetch_add(1, Ordering::Relaxed).to_string();
    }
    let canary = lock(&shared.lineage).canary.clone();
    let mut save = redis::cmd("HSET");
    save.arg(shared.state_key()).arg("canary").arg(&canary).arg("epoch").arg(shared.epoch.load(Ordering::Relaxed));
    let saved: Result<Value, _> = save.query_async(connection).await;
    let saved = saved.map(|value| integer(Some(value)));
    tracing::warn!(
        store = shared.settings.name,
        ?saved,
        "our own state is gone from Redis: the data set is another one"
    );
    hints.everything(Side::Redis, "the data set was flushed, swapped or replaced");
    Ok(())
}
