//! The stores of a pipeline before there is an ownership, and the taking over: what is asked, in the order that [`super::takeover`]
//! and [`super::stream_lag`] demand.

use super::hint::PairName;
use super::losses::Losses;
use super::stream_lag::{Beginning, FoundStream, LeftRecords, StreamLag};
use super::takeover::{Marking, Owning};
use crate::change::{LossCause, Op, Position};
use crate::env;
use crate::failpoint::{crash_point, planted};
use crate::plan::Ensemble;
use crate::store::{Claim, FailureKind, Keyspace, KeyspaceFacts, Lease, Remembered, StoreError, Taken, Znodes, so_far};
use crate::stream::{Stream, StreamError};
use std::sync::Arc;
use std::time::Duration;

/// Records of one reading of the stream, and their bytes.
pub(super) const READ_RECORDS: usize = 1000;
pub(super) const READ_BYTES: usize = 4 * 1024 * 1024;

/// A Redis of fewer keys than this, none of them ours, is filled without asking first what each key holds.
const BLANK_BELOW: u64 = 1_000;

/// What a worker has once it owns a pipeline.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) lease: Lease,
    /// Both stores are still those of the last owner.
    pub(super) are_stores_unchanged: bool,
    /// Redis holds next to nothing, and nothing of ours.
    pub(super) is_redis_blank: bool,
}

/// The stores of a pipeline; a capture has one of them.
#[derive(Clone, Default)]
pub struct Stores {
    /// The ensemble.
    pub znodes: Option<Arc<dyn Znodes>>,
    /// The Redis.
    pub keys: Option<Arc<dyn Keyspace>>,
}

impl Stores {
    /// Both, where the pipeline joins them.
    pub(super) fn both(&self) -> Option<(&dyn Znodes, &dyn Keyspace)> {
        self.znodes.as_deref().zip(self.keys.as_deref())
    }

    /// Connects to both, so that each is known by its own error.
    pub(super) async fn connect(&self) -> [Result<(), StoreError>; 2] {
        let zookeeper = async {
            match &self.znodes {
                Some(znodes) => znodes.connect().await,
                None => Ok(()),
            }
        };
        let redis = async {
            match &self.keys {
                Some(keys) => keys.connect().await,
                None => Ok(()),
            }
        };
        let (zookeeper, redis) = futures::future::join(zookeeper, redis).await;
        [zookeeper, redis]
    }

    /// Whether both can do what is needed.
    pub(super) async fn check(&self) -> Result<(), StoreError> {
        if let Some(znodes) = &self.znodes {
            znodes.check().await?;
        }
        if let Some(keys) = &self.keys {
            keys.check().await?;
        }
        Ok(())
    }

    /// Stops listening to both.
    pub(super) async fn unwatch(&self) {
        if let Some(keys) = &self.keys {
            keys.unwatch().await;
        }
        if let Some(znodes) = &self.znodes {
            znodes.unwatch().await;
        }
    }

    /// Gives back what was claimed, and closes both, for at most this long.
    pub(super) async fn close(&self, limit: Duration) {
        let close = async {
            if let Some(keys) = &self.keys {
                keys.close().await;
            }
            if let Some(znodes) = &self.znodes {
                znodes.close().await;
            }
        };
        let _ = env::timeout(limit, close).await;
    }

    /// Claims the ranges of a pipeline that writes to Redis.
    pub(super) async fn claim_keys(&self, claim: Option<Claim>) -> Result<(), StoreError> {
        match (&self.keys, claim) {
            (Some(keys), Some(claim)) => keys.claim(claim).await,
            _ => Ok(()),
        }
    }

    /// Claims the ranges of a pipeline in ZooKeeper.
    pub(super) async fn claim_znodes(&self, claim: Option<Claim>) -> Result<(), StoreError> {
        match (&self.znodes, claim) {
            (Some(znodes), Some(claim)) => znodes.claim(claim).await,
            _ => Ok(()),
        }
    }

    /// Below this position of the stream, the owner before had written everything; `None` if it did not say so.
    pub(super) async fn written(&self) -> Result<Option<Position>, StoreError> {
        match &self.keys {
            Some(keys) => keys.written().await,
            None => Ok(None),
        }
    }

    /// Remembers in Redis how far an ownership that ends has come.
    pub(super) async fn remember(&self, now: Remembered, written: Position) -> Result<(), StoreError> {
        match self.both() {
            Some((_, keys)) => keys.remember(now, written).await,
            None => Ok(()),
        }
    }

    /// How far an ownership with this lease has come.
    pub(super) fn so_far(&self, lease: &Lease) -> Remembered {
        so_far(lease, self.znodes.as_deref())
    }

    /// What was paused, as it lies in ZooKeeper; `None` without an ensemble.
    pub(super) async fn pauses(&self) -> Option<Result<Vec<u8>, StoreError>> {
        match &self.znodes {
            Some(znodes) => Some(znodes.pauses().await),
            None => None,
        }
    }

    /// Leaves there what is paused, within this time; `None` without an ensemble.
    pub(super) async fn keep_pauses(&self, data: &[u8], limit: Duration) -> Option<Result<(), StoreError>> {
        let znodes = self.znodes.as_ref()?;
        let kept = env::timeout(limit, znodes.keep_pauses(data.to_vec())).await;
        Some(kept.unwrap_or_else(|_| {
            Err(StoreError::away(FailureKind::Connection, format!("ZooKeeper does not answer within {limit:?}")))
        }))
    }

    /// Whether Redis holds next to nothing, and no base: one that has lost what it remembers of the pipeline, and nothing else, holds bases.
    async fn is_blank(keys: &dyn Keyspace) -> bool {
        // Where it may not be asked, every key is looked at.
        if !keys.key_count().await.is_ok_and(|count| count < BLANK_BELOW) {
            return false;
        }
        let mut cursor = 0;
        loop {
            match keys.scan_sidecars(cursor).await {
                Ok((_, found)) if !found.is_empty() => return false,
                Ok((0, _)) => return true,
                Ok((next, _)) => cursor = next,
                Err(_) => return false,
            }
        }
    }

    /// Takes the ownership in every store, and completes what the owner before left in the journal. `known`: what this process knows of the
    /// ensemble from an ownership before; `losses`: where it is noted what a store has lost.
    pub(super) async fn take_over(
        &self,
        stream: &dyn Stream,
        known: Remembered,
        captures: bool,
        losses: &Losses,
    ) -> Result<Owned, StoreError> {
        let redis = self.keys.as_deref().filter(|_| !captures);
        let in_redis = match redis {
            Some(keys) => keys.remembered().await?,
            None => Remembered::default(),
        };
        let is_redis_blank = match redis.filter(|_| in_redis == Remembered::default()) {
            Some(keys) => Stores::is_blank(keys).await,
            None => false,
        };
        let owning = Owning::new(in_redis, known, Taken::on_stream(stream.newest_epoch().await));
        let lease = match &self.znodes {
            Some(znodes) => znodes.own(owning.remembered(), owning.taken()).await?,
            None => {
                let ensemble = Ensemble { id: 0, since_zxid: 0 };
                Lease { epoch: owning.taken().next(in_redis.epoch), ensemble, lost: None }
            }
        };
        let owned = owning.owned(lease);
        crash_point!("c10-fenced-in-zookeeper");
        if let Some(keys) = redis {
            keys.begin(self.so_far(&lease)).await?;
        }
        let is_gone = owned.is_first() && stream.extent().last > 0;
        losses.notice_at_start(
            lease.lost,
            redis.and_then(|keys| if is_gone { Some(LossCause::Flushed) } else { keys.lost_since_compared() }),
        );
        crash_point!("c10-begun-in-redis");
        let are_stores_unchanged = owned.are_stores_unchanged;
        if let Some(znodes) = &self.znodes {
            let entries = znodes.journal().await?;
            if let Some(keys) = redis {
                let marked = keys.marked_slots().await?;
                let mut completing = owned.journal(entries, |entry| entry.slot, &marked);
                if planted!("the journal is not completed") {
                    completing.left.clear();
                }
                let has_fallen_back = keys.complete(std::mem::take(&mut completing.left)).await?;
                let Marking { is_older, slots } = completing.completed(has_fallen_back, znodes.watermark());
                if is_older && !keys.is_incarnation_compared() {
                    keys.note_older();
                }
                crash_point!("c10-journal-completed");
                keys.mark_slots(&slots, self.so_far(&lease)).await?;
            }
        }
        Ok(Owned { lease, are_stores_unchanged, is_redis_blank })
    }

    /// How many others stand in line for the pipeline.
    pub(super) fn standbys(&self) -> u64 {
        self.znodes.as_ref().map_or(0, |znodes| znodes.standbys())
    }

    /// The server of the ensemble to which the session is, `host:port (version)`.
    pub(super) fn zookeeper_server(&self) -> Option<String> {
        self.znodes.as_ref().map(|znodes| znodes.server())
    }

    /// What is known of the Redis server.
    pub(super) fn redis_facts(&self) -> Option<Arc<KeyspaceFacts>> {
        self.keys.as_ref().map(|keys| keys.facts())
    }
}

/// Begins this ownership on the stream, and finds out whether it was left behind. `written`: below this position the owner before
/// had written everything; `None` if it did not say so.
///
/// # Errors
/// As [`Stream::begin`].
pub(super) async fn begin_stream(
    stream: &dyn Stream,
    owned: &Owned,
    written: Option<Position>,
    captures: bool,
) -> Result<StreamLag, StreamError> {
    let found = FoundStream {
        whole: stream.complete_through(),
        last: stream.extent().last,
        is_damaged: !stream.damage().is_empty(),
    };
    let beginning = Beginning::new(found, owned.lease, owned.are_stores_unchanged, written);
    let left = match beginning.reads_from() {
        Some(from) => left_since(stream, from).await?,
        None => LeftRecords::default(),
    };
    let (epoch, whole, lag) = beginning.begun(left);
    stream.begin(epoch, whole).await?;
    // A capture compares each pair with its newest record anyway.
    Ok(if captures { StreamLag::default() } else { lag })
}

/// The pairs of the records from this position on, oldest first, as far as they count.
async fn left_since(stream: &dyn Stream, mut from: Position) -> Result<LeftRecords, StreamError> {
    let mut left = LeftRecords::default();
    loop {
        let batch = stream.read(from, READ_RECORDS, READ_BYTES).await?;
        if batch.next <= from {
            return Ok(left);
        }
        from = batch.next;
        for recorded in batch.records {
            if let (Some(key), true) = (recorded.change.pair.redis, recorded.change.op != Op::Marker) {
                left.add(PairName::from(key), recorded.position);
            }
        }
        if left.are_too_many() {
            return Ok(left);
        }
    }
}
