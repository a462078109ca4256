//! A stream that was left behind: an owner elsewhere, or an earlier file, had another one, so its newest records of some
//! pairs are states that both stores have left since. A replay from it would bring them back.
//!
//! ```text
//!   begin    stream whole up to the epoch before ours, in the
//!            same ensemble (or empty)                            -> whole up to ours at once: the common start pays nothing
//!            else behind, until a comparison has looked at every pair:
//!              both sides agree, or neither has it any more     -> its state goes on record where the newest one is another
//!              known to the stream and met on neither side      -> inferred deletes, counted by the guard like others
//!   ended    nothing was left out, nothing waits                -> whole up to ours
//! ```
//!
//! Epochs alone do not tell: a data folder that was copied from another installation counts epochs of its own, and one of them may be the one
//! before ours. So the lineage of the ensemble stands beside it.
//!
//! What the stream says of itself is kept with it and changes only then, so an owner that is killed midway leaves it behind
//! for the next one. A state is recorded as the change that it is (`c`, `u`, `d` with the value before), not as `r`: the
//! stream knew the pair, and a consumer that holds the older value needs the change.

use super::dirty::PairName;
use super::engine::{Engine, Route, lock};
use super::observe::Observed;
use super::unwritten::Unwritten;
use crate::change::{Change, Digest, KeyedHash, Op, Position};
use crate::env::{Map, Set};
use crate::plan::{Key, Removal, Znode};
use crate::store::{Lease, StoreError};
use crate::stream::{Stream, StreamError, Whole};
use std::sync::atomic::{AtomicBool, Ordering};

/// What an ownership knows of its stream.
#[derive(Debug, Default)]
pub struct Behind {
    /// The newest records may be older than what was agreed on.
    pub(super) is_behind: AtomicBool,
    /// A comparison has looked at every pair, and what it left to the rounds is not done yet.
    is_compared: AtomicBool,
    /// Records that the owner before may not have written: pair and position.
    left: Vec<(PairName, Position)>,
    /// A comparison of every route has looked for those of them that neither store has.
    has_looked: AtomicBool,
    /// Neither store has lost what it held since the last ownership, so a pair that neither has was deleted.
    pub(super) absence_counts: bool,
}

/// What a stream that was left behind says while a store has lost its data since: an owner that is killed must not leave the
/// next one to take for deleted what was lost.
const AFTER_A_LOSS: i64 = -1;

/// So many records that the last owner may not have written are read at a start; where there are more, every pair is compared with its
/// newest record. A worker that is killed has written all but those of some two seconds.
const LEFT_MAX: usize = 100_000;

/// And so many bytes of names.
const LEFT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Begins this ownership on the stream, and finds out whether it was left behind. `has_kept`: both stores hold what
/// they held under the last owner. `written`: below this position that one had written everything; `None` if it did not say so.
///
/// # Errors
/// As [`Stream::begin`].
pub(super) async fn begin(
    stream: &dyn Stream,
    lease: Lease,
    has_kept: bool,
    written: Option<Position>,
) -> Result<Behind, StreamError> {
    let now = up_to(lease);
    let whole = stream.whole();
    // Before it was said, the lineage was taken to be the same.
    let is_ours = whole.ensemble == 0 || whole.ensemble == now.ensemble;
    // Where a store has lost its data, epochs may have been given a second time.
    let follows = has_kept && is_ours && whole.epoch.saturating_add(1) == now.epoch;
    let last = stream.extent().last;
    // A stream that ends before that is an older copy; what was cut out of it may have been some pair's newest record.
    let is_whole = follows && stream.damage().is_empty();
    let left = match written {
        _ if last == 0 || !is_whole => Some(Vec::new()),
        Some(written) if written <= last + 1 => left_since(stream, written).await?,
        Some(_) | None => None,
    };
    let is_behind = last > 0 && (!is_whole || left.is_none());
    let absence_counts = has_kept && is_ours && whole.epoch != AFTER_A_LOSS;
    let whole = match (is_behind, absence_counts) {
        (false, _) => now,
        (true, true) => whole,
        (true, false) => Whole { epoch: AFTER_A_LOSS, ..now },
    };
    stream.begin(now.epoch, whole).await?;
    let left = left.unwrap_or_default();
    Ok(Behind { is_behind: AtomicBool::new(is_behind), left, absence_counts, ..Behind::default() })
}

/// The pairs of the records from this position on, oldest first; `None` if there are too many.
async fn left_since(stream: &dyn Stream, written: Position) -> Result<Option<Vec<(PairName, Position)>>, StreamError> {
    let (mut left, mut bytes, mut from) = (Vec::new(), 0, written.max(1));
    loop {
        let batch = stream.read(from, 1000, 4 * 1024 * 1024).await?;
        if batch.next <= from {
            return Ok(Some(left));
        }
        from = batch.next;
        for recorded in batch.records {
            if let (Some(key), true) = (recorded.change.pair.redis, recorded.change.op != Op::Marker) {
                bytes += key.len();
                left.push((key.into(), recorded.position));
            }
        }
        if left.len() > LEFT_MAX || bytes > LEFT_BYTES_MAX {
            return Ok(None);
        }
    }
}

/// Everything up to the end of this ownership.
fn up_to(lease: Lease) -> Whole {
    Whole { epoch: i64::try_from(lease.epoch).unwrap_or(i64::MAX), ensemble: lease.ensemble.id }
}

impl Behind {
    /// What the owner before has left.
    pub(super) fn take_left(&mut self) -> Unwritten {
        let unwritten = Unwritten::default();
        for (name, position) in std::mem::take(&mut self.left) {
            unwritten.left(&name, position);
        }
        unwritten
    }
}

impl Engine {
    /// Whether the stream's newest record of this pair may be older than what was agreed on: the stream was left behind, or
    /// nobody could look at the pair when it was.
    pub(super) fn may_be_behind(&self, name: &[u8]) -> bool {
        self.behind.is_behind.load(Ordering::Acquire) || self.quarantine.holds(name) || self.unwritten.holds(name)
    }

    /// The record of a pair in step of which the stream's newest is another state.
    pub(super) fn late_record(&self, seen: &Observed, route: &Route) -> Option<Change> {
        let latest = self.newest(&seen.pair)?.after;
        let base = seen.seen.base;
        let after = match (seen.seen.znode, &seen.znode, seen.seen.key) {
            (Znode::Absent(_), _, Key::Absent(_)) => return self.gone_record(seen, route),
            // An empty znode that only stands above others has no key.
            (Znode::Present { digest: Digest::EMPTY, ephemeral: false, .. }, _, Key::Absent(_))
                if self.behind.absence_counts && base.is_none_or(|base| base.redis.is_none()) =>
            {
                None
            }
            (Znode::Present { digest, .. }, Some((data, _)), Key::Present { digest: of_key, .. })
                if digest == of_key && base.is_some_and(|base| !base.apart && base.redis == Some(digest)) =>
            {
                Some(data.clone())
            }
            // Kept apart, or one side is not ours.
            _ => return None,
        };
        if latest.is(after.as_deref()) {
            return None;
        }
        let op = match (&after, latest.exists()) {
            (None, _) => Op::Delete,
            (Some(_), true) => Op::Update,
            (Some(_), false) => Op::Create,
        };
        Some(self.plain_record(seen, route, op, latest.kept(), after))
    }

    /// The record of a pair that neither side has any more and the stream still does.
    pub(super) fn gone_record(&self, seen: &Observed, route: &Route) -> Option<Change> {
        let (Znode::Absent(_), Key::Absent(vanished)) = (seen.seen.znode, seen.seen.key) else { return None };
        let latest = self.newest(&seen.pair).filter(|latest| latest.after.exists())?;
        let was_deleted = match seen.seen.base {
            Some(base) => base.ensemble == self.lease.ensemble.id,
            // What was recorded and not written yet was only where it came from, and has gone there.
            None if seen.hint.unwritten && latest.czxid.is_some() => true,
            None if seen.hint.unwritten => vanished.seen.map_or(vanished.intact, |seen| seen != Removal::Lost),
            None => self.behind.absence_counts && seen.hint.approved,
        };
        was_deleted.then(|| self.plain_record(seen, route, Op::Delete, latest.after.kept(), None))
    }

    /// Pairs that the stream has and a comparison met on neither side, with their routes. A pair that no route maps as it is
    /// on the stream is left alone. Memory grows with these pairs.
    pub(super) async fn gone_pairs(&self, met: &Set<KeyedHash>) -> Result<Vec<(PairName, usize)>, StoreError> {
        let left = self.unwritten.left_from().filter(|_| !self.behind.has_looked.load(Ordering::Relaxed));
        let mut from = match (self.is_behind(), left) {
            (true, _) => 1,
            (false, Some(left)) => left,
            (false, None) => return Ok(Vec::new()),
        };
        let is_meant = |key: &[u8]| self.is_behind() || self.unwritten.holds(key);
        let paused = lock(&self.live).paused.clone();
        let mut gone: Map<PairName, usize> = Map::default();
        loop {
            let batch = self.stream.read(from, 1000, 4 * 1024 * 1024).await;
            let batch = batch.map_err(|error| StoreError::Away(format!("the stream is read: {error}")))?;
            if batch.next <= from {
                break;
            }
            from = batch.next;
            self.step();
            for change in batch.records.into_iter().map(|recorded| recorded.change) {
                // A marker may name a pair, whose value a command replaced: it is no state.
                let Some(key) = change.pair.redis.as_deref().filter(|_| change.op != Op::Marker) else { continue };
                if met.contains(&KeyedHash::of(key)) || !is_meant(key) {
                    continue;
                }
                let mapped = self.map.of_key(key).filter(|mapped| mapped.pair == change.pair);
                match mapped.filter(|mapped| change.after.is_some() && !paused.contains(&mapped.route)) {
                    Some(mapped) => gone.insert(key.into(), mapped.route),
                    None => gone.remove(key),
                };
            }
        }
        if self.behind.absence_counts || gone.is_empty() {
            return Ok(gone.into_iter().collect());
        }
        let pairs = gone.len();
        tracing::warn!(
            pipeline = self.settings.pipeline,
            pairs,
            "a store has lost its data since this stream was left, or it was written beside other stores: pairs that neither store has stay \
             on it as they are"
        );
        Ok(Vec::new())
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_behind.load(Ordering::Acquire)
    }

    /// A comparison has looked at every pair, and what it left to the rounds is settled.
    pub(super) fn compared_all(&self) {
        self.behind.is_compared.store(true, Ordering::Release);
    }

    /// Ends it after that.
    pub(super) async fn catch_up(&self) {
        let is_over = self.behind.is_compared.load(Ordering::Acquire);
        self.behind.has_looked.fetch_or(is_over, Ordering::Relaxed);
        if !self.is_behind() || !is_over {
            return;
        }
        match self.stream.set_whole(up_to(self.lease)).await {
            Ok(()) => {
                self.behind.is_behind.store(false, Ordering::Release);
                tracing::info!(pipeline = self.settings.pipeline, "the stream, which was left behind, is whole again");
            }
            Err(error) => self.not_recorded(&error),
        }
    }
}
