//! The doors of an ownership: its two stores and its stream, as everything else in it asks them (*ports*, in the usual term). While a
//! worker owns a pipeline, this is the only file that waits for them.
//!
//! ```text
//!   rounds, comparisons, the owner --questions--> Doors --one call each--> ZooKeeper, Redis, stream
//!                                  <--answers----       one answer a question, or an error of the whole call
//! ```
//!
//! A call that fails says so once, for all its questions; what follows from an error is decided in [`super::remedy`]. Which store a
//! pipeline lacks is known here as well: a capture has one, and asks the other for nothing.
//!
//! [`super::stores`] is what is asked before there is an ownership, and the taking over itself.
//!
//! Whoever holds the doors holds the stream open: the next ownership waits until nobody does ([`Doors::gone`]).

use super::stores::{READ_BYTES, READ_RECORDS, Stores};
use crate::change::{Change, Pair, Position};
use crate::plan::{Ensemble, Task};
use crate::store::{
    ClockOffset, FailureKind, Hints, KeyOutcome, KeyReadings, KeyWrite, KeyspaceFacts, Lease, LeftMilestone, Look,
    Lost, Remembered, Scanned, Slot, StoreError, Walk, Walked, ZnodeBatch, ZnodeReading, ZnodeWrite, one_for_one,
};
use crate::stream::{CompleteThrough, ExistingPairs, Extent, Latest, ReadBatch, Stream, StreamError};
use std::sync::Arc;
use tokio::sync::watch;

/// See the module.
pub(super) struct Doors {
    stores: Stores,
    stream: Arc<dyn Stream>,
    /// Writes carry its epoch.
    pub(super) lease: Lease,
    /// The incarnation of Redis' data set when this ownership began.
    pub(super) incarnation_begun: u64,
    /// Goes with the doors, after everything else in them.
    alive: watch::Sender<()>,
}

fn lacks(store: &str) -> StoreError {
    StoreError::away(FailureKind::Worker, format!("the pipeline has no {store} store"))
}

/// A walk over the znodes of the routes.
pub(super) struct ZnodeWalk(Box<dyn Walk>);

impl ZnodeWalk {
    /// The next znodes, `None` at the end. Not to be cut off.
    pub(super) async fn next(&mut self) -> Result<Option<Walked>, StoreError> {
        self.0.next().await
    }

    /// Those that may not be read, since the last call, each with the reason.
    pub(super) fn denied(&mut self) -> Vec<(String, String)> {
        self.0.denied()
    }
}

impl Doors {
    pub(super) fn new(stores: Stores, stream: Arc<dyn Stream>, lease: Lease) -> Doors {
        let incarnation_begun = stores.keys.as_ref().map_or(0, |keys| keys.incarnation());
        Doors { stores, stream, lease, incarnation_begun, alive: watch::Sender::new(()) }
    }

    /// Resolves when nobody holds the doors any more, and so nobody the stream.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut alive = self.alive.subscribe();
        async move { while alive.changed().await.is_ok() {} }
    }

    /// The lineage of the ensemble.
    pub(super) fn ensemble(&self) -> Ensemble {
        self.lease.ensemble
    }

    /// The epoch as records carry it.
    pub(super) fn epoch(&self) -> i64 {
        i64::try_from(self.lease.epoch).unwrap_or(i64::MAX)
    }

    /// How far both stores have come.
    pub(super) fn so_far(&self) -> Remembered {
        self.stores.so_far(&self.lease)
    }

    /// Whether the pipeline has an ensemble.
    pub(super) fn has_znodes(&self) -> bool {
        self.stores.znodes.is_some()
    }

    /// Whether the pipeline has a Redis.
    pub(super) fn has_keys(&self) -> bool {
        self.stores.keys.is_some()
    }

    /// Has both stores tell of changes from now on.
    pub(super) fn watch(&self, hints: &Arc<dyn Hints>) {
        if let Some(znodes) = &self.stores.znodes {
            znodes.watch(Arc::clone(hints));
        }
        if let Some(keys) = &self.stores.keys {
            keys.watch(Arc::clone(hints));
        }
    }

    /// Resolves when the session that holds the ownership is gone, or another worker takes over. Cancel-safe.
    pub(super) async fn lost(&self) -> Lost {
        match &self.stores.znodes {
            Some(znodes) => znodes.lost().await,
            None => std::future::pending().await,
        }
    }

    // ZooKeeper.

    /// Reads znodes.
    pub(super) async fn read(&self, paths: &[String], look: Look) -> Result<Vec<ZnodeReading>, StoreError> {
        let Some(znodes) = &self.stores.znodes else { return Err(lacks("ZooKeeper")) };
        one_for_one("znodes", paths.len(), znodes.read(paths, look).await?)
    }

    /// Walks over everything at and below these paths; `None` without an ensemble.
    pub(super) fn walk(&self, roots: Vec<String>) -> Option<ZnodeWalk> {
        self.stores.znodes.as_ref().map(|znodes| ZnodeWalk(znodes.walk(roots, false)))
    }

    /// Writes znodes, with their journal.
    pub(super) async fn write_znodes(&self, writes: &[ZnodeWrite<'_>]) -> Result<ZnodeBatch, StoreError> {
        let Some(znodes) = &self.stores.znodes else { return Err(lacks("ZooKeeper")) };
        let batch = znodes.write(writes).await?;
        Ok(ZnodeBatch { outcomes: one_for_one("writes of znodes", writes.len(), batch.outcomes)?, ..batch })
    }

    /// Gives slots of the journal back whose marks are in Redis.
    pub(super) fn release(&self, slots: &[Slot]) {
        if let Some(znodes) = &self.stores.znodes {
            znodes.release(slots);
        }
    }

    /// Whether a transaction can hold what is to be written to ZooKeeper; the error is one for people.
    pub(super) fn fits(&self, pair: &Pair, name: &[u8], value: Option<&[u8]>, task: Task) -> Result<(), String> {
        let (Task::Znode { op, .. }, Some(znodes), Some(path)) = (task, &self.stores.znodes, &pair.zookeeper) else {
            return Ok(());
        };
        znodes.fits(path, op, value.map_or(0, <[u8]>::len), name.len())
    }

    /// The newest zxid that was seen; 0 without an ensemble.
    pub(super) fn zxid(&self) -> i64 {
        self.stores.znodes.as_ref().map_or(0, |znodes| znodes.zxid())
    }

    /// How far the clocks are apart; `None` without an ensemble.
    pub(super) fn clock(&self) -> Option<ClockOffset> {
        self.stores.znodes.as_ref().map(|znodes| znodes.clock())
    }

    /// Advances the watermark of the ensemble.
    pub(super) async fn advance_watermark(&self) -> Result<(), StoreError> {
        match &self.stores.znodes {
            Some(znodes) => znodes.advance_watermark().await,
            None => Ok(()),
        }
    }

    // Redis.

    /// Reads keys and their sidecars, each of them.
    pub(super) async fn observe(&self, names: &[&[u8]], values: bool) -> Result<KeyReadings, StoreError> {
        let Some(keys) = &self.stores.keys else { return Err(lacks("Redis")) };
        let answer = keys.observe(names, values).await?;
        let readings = one_for_one("keys", names.len(), answer.readings)?;
        Ok(KeyReadings { readings, context: answer.context })
    }

    /// Some keys with this prefix; the next cursor is 0 at the end.
    pub(super) async fn scan(&self, cursor: u64, prefix: &[u8]) -> Result<Scanned, StoreError> {
        match &self.stores.keys {
            Some(keys) => keys.scan(cursor, prefix).await,
            None => Ok((0, Vec::new())),
        }
    }

    /// Some keys that have a sidecar; the next cursor is 0 at the end.
    pub(super) async fn scan_sidecars(&self, cursor: u64) -> Result<Scanned, StoreError> {
        match &self.stores.keys {
            Some(keys) => keys.scan_sidecars(cursor).await,
            None => Ok((0, Vec::new())),
        }
    }

    /// Writes keys and sidecars, each by its own compare-and-set.
    pub(super) async fn write_keys(&self, writes: &[KeyWrite<'_>]) -> Result<Vec<KeyOutcome>, StoreError> {
        let Some(keys) = &self.stores.keys else { return Err(lacks("Redis")) };
        one_for_one("writes of keys", writes.len(), keys.apply(writes).await?)
    }

    /// Leaves a milestone in Redis, if it is not there.
    pub(super) async fn leave_milestone(&self) -> Result<Option<LeftMilestone>, StoreError> {
        match &self.stores.keys {
            Some(keys) => keys.leave_milestone().await,
            None => Ok(None),
        }
    }

    /// Marks slots of the journal whose sidecars are written.
    pub(super) async fn mark_slots(&self, slots: &[Slot]) -> Result<(), StoreError> {
        match &self.stores.keys {
            Some(keys) => keys.mark_slots(slots, self.so_far()).await,
            None => Ok(()),
        }
    }

    /// A data set that came back older has the marks of then, and the sidecars. What the journal says of the time in between belongs to
    /// an incarnation that is gone: the next owner would write it over what is agreed on from here on.
    pub(super) async fn mark_settled_slots(&self) -> Result<(), StoreError> {
        let Some((znodes, keys)) = self.stores.both() else { return Ok(()) };
        if keys.is_incarnation_compared() {
            return Ok(());
        }
        self.mark_slots(&znodes.settled_slots()).await
    }

    /// Remembers in Redis how far both stores and the writing of the stream have come.
    pub(super) async fn remember(&self, written: Position) -> Result<(), StoreError> {
        match &self.stores.keys {
            Some(keys) => keys.remember(self.so_far(), written).await,
            None => Ok(()),
        }
    }

    /// Looks whether the data set is still the one that it was.
    pub(super) async fn look_into_redis(&self) {
        if let Some(keys) = &self.stores.keys {
            keys.look_into().await;
        }
    }

    /// The mark of the data set and of everything that happened to it so far.
    pub(super) fn redis_mark(&self) -> u64 {
        self.stores.keys.as_ref().map_or(0, |keys| keys.mark())
    }

    /// A comparison that began at this mark has looked at every pair.
    pub(super) async fn compared(&self, mark: u64) -> Result<(), StoreError> {
        match &self.stores.keys {
            Some(keys) => keys.compared(mark).await,
            None => Ok(()),
        }
    }

    /// Whether a key that is missing was deleted, and not lost.
    pub(super) fn is_redis_intact(&self) -> bool {
        self.stores.keys.as_ref().is_none_or(|keys| keys.is_intact())
    }

    /// The incarnation of Redis' data set; 0 without one.
    pub(super) fn incarnation(&self) -> u64 {
        self.stores.keys.as_ref().map_or(0, |keys| keys.incarnation())
    }

    /// What is known of the Redis server.
    pub(super) fn redis_facts(&self) -> Option<Arc<KeyspaceFacts>> {
        self.stores.redis_facts()
    }

    /// The number of its database.
    pub(super) fn database(&self) -> Option<i64> {
        self.stores.keys.as_ref().map(|keys| keys.database())
    }

    // The stream.

    /// Puts changes on the stream.
    pub(super) async fn append(&self, changes: Arc<Vec<Change>>) -> Result<Position, StreamError> {
        self.stream.append(changes).await
    }

    /// Some records from this position on.
    pub(super) async fn records(&self, from: Position) -> Result<ReadBatch, StreamError> {
        self.stream.read(from, READ_RECORDS, READ_BYTES).await
    }

    /// The change at this position, if it can be read now.
    pub(super) async fn record_at(&self, position: Position) -> Option<Change> {
        let batch = self.stream.read(position, 1, 0).await.ok()?;
        batch.records.into_iter().find(|recorded| recorded.position == position).map(|recorded| recorded.change)
    }

    /// Some pairs of which the stream has a value, from this position on: see [`Stream::existing`].
    pub(super) async fn existing(&self, from: Position, limit: usize) -> Result<ExistingPairs, StreamError> {
        self.stream.existing(from, limit).await
    }

    /// What the stream has last of these pairs, asked for on a thread that may wait for the disk; one answer each. `None`: one of them
    /// cannot be read.
    pub(super) async fn newest_of(&self, pairs: Vec<Pair>) -> Option<Vec<Option<Latest>>> {
        let count = pairs.len();
        self.stream.latest_of(pairs).await.ok().filter(|newest| newest.len() == count)
    }

    /// What the stream has last of this pair, for the few questions that nobody foresaw: a record of a local file may be read.
    pub(super) fn newest(&self, pair: &Pair) -> Option<Latest> {
        if self.stream.knows(pair) { self.stream.latest(pair).ok().flatten() } else { None }
    }

    /// Whether the stream knows the pair.
    pub(super) fn is_on_stream(&self, pair: &Pair) -> bool {
        self.stream.knows(pair)
    }

    /// How far history reaches.
    pub(super) fn extent(&self) -> Extent {
        self.stream.extent()
    }

    /// Records the epoch through which the stream is complete.
    pub(super) async fn set_complete_through(&self, complete: CompleteThrough) -> Result<(), StreamError> {
        self.stream.set_complete_through(complete).await
    }

    /// Resolves when the stream must be opened anew. Cancel-safe.
    pub(super) async fn stream_lost(&self) -> StreamError {
        self.stream.lost().await
    }
}
