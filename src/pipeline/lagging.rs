//! The records that a stream which was left behind lacks: see [`super::stream_lag`].

use super::engine::{Engine, Route, lock};
use super::hint::PairName;
use super::pair::Loaded;
use super::stream_lag::up_to;
use crate::change::{Change, Digest, KeyedHash, Op};
use crate::env::{Map, Set};
use crate::plan::{Key, Removal, Znode};
use crate::store::{FailureKind, StoreError};
use std::sync::atomic::Ordering;

impl Engine {
    /// Whether the stream's newest record of this pair may be older than what was agreed on: the stream was left behind, or
    /// nobody could look at the pair when it was.
    pub(super) fn may_lag(&self, name: &[u8]) -> bool {
        self.lag.is_lagging.load(Ordering::Acquire) || self.quarantine.holds(name) || self.unwritten.holds(name)
    }

    /// The record of a pair in step of which the stream's newest is another state.
    pub(super) fn late_record(&self, seen: &Loaded, route: &Route) -> Option<Change> {
        let latest = self.newest(&seen.pair)?.after;
        let base = seen.observed.observation.base;
        let after = match (seen.observed.observation.znode, &seen.znode, seen.observed.observation.key) {
            (Znode::Absent(_), _, Key::Absent(_)) => return self.gone_record(seen, route),
            // An empty znode that only stands above others has no key.
            (Znode::Present { digest: Digest::EMPTY, ephemeral: false, .. }, _, Key::Absent(_))
                if self.lag.absence_counts && base.is_none_or(|base| base.redis.is_none()) =>
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
    pub(super) fn gone_record(&self, seen: &Loaded, route: &Route) -> Option<Change> {
        let (Znode::Absent(_), Key::Absent(vanished)) =
            (seen.observed.observation.znode, seen.observed.observation.key)
        else {
            return None;
        };
        let latest = self.newest(&seen.pair).filter(|latest| latest.after.exists())?;
        let was_deleted = match seen.observed.observation.base {
            Some(base) => base.ensemble == self.lease.ensemble.id,
            // What was recorded and not written yet was only where it came from, and has gone there.
            None if seen.observed.news.unwritten && latest.czxid.is_some() => true,
            None if seen.observed.news.unwritten => vanished.seen.map_or(vanished.intact, |seen| seen != Removal::Lost),
            None => self.lag.absence_counts && seen.observed.news.approved,
        };
        was_deleted.then(|| self.plain_record(seen, route, Op::Delete, latest.after.kept(), None))
    }

    /// Pairs that the stream has and a comparison met on neither side, with their routes. A pair that no route maps as it is
    /// on the stream is left alone. Memory grows with these pairs.
    pub(super) async fn gone_pairs(&self, met: &Set<KeyedHash>) -> Result<Vec<(PairName, usize)>, StoreError> {
        let left = self.unwritten.left_from().filter(|_| !self.lag.has_looked.load(Ordering::Relaxed));
        let mut from = match (self.is_lagging(), left) {
            (true, _) => 1,
            (false, Some(left)) => left,
            (false, None) => return Ok(Vec::new()),
        };
        let is_meant = |key: &[u8]| self.is_lagging() || self.unwritten.holds(key);
        let paused = lock(&self.live).paused.clone();
        let mut gone: Map<PairName, usize> = Map::default();
        loop {
            let batch = self.stream.read(from, 1000, 4 * 1024 * 1024).await;
            let batch = batch.map_err(|error| {
                StoreError::away(FailureKind::Worker, format!("the stream is read: {error}")).with_source(error)
            })?;
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
        if self.lag.absence_counts || gone.is_empty() {
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

    pub(super) fn is_lagging(&self) -> bool {
        self.lag.is_lagging.load(Ordering::Acquire)
    }

    /// A comparison has looked at every pair, and what it left to the rounds is settled.
    pub(super) fn note_stream_complete(&self) {
        self.lag.is_compared.store(true, Ordering::Release);
    }

    /// Ends it after that.
    pub(super) async fn catch_up(&self) {
        let is_over = self.lag.is_compared.load(Ordering::Acquire);
        self.lag.has_looked.fetch_or(is_over, Ordering::Relaxed);
        if !self.is_lagging() || !is_over {
            return;
        }
        match self.stream.set_whole(up_to(self.lease)).await {
            Ok(()) => {
                self.lag.is_lagging.store(false, Ordering::Release);
                tracing::info!(pipeline = self.settings.pipeline, "the stream, which was left behind, is whole again");
            }
            Err(error) => self.not_recorded(&error),
        }
    }
}
