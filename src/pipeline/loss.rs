//! Losses: data that a store has lost. Each is one line in the log, one marker on the stream and one count, with
//! its cause and the number of pairs.
//!
//! ```text
//!   source, take-over --noticed--> open --comparisons and rounds meet what is missing--> counted --told--> gone
//! ```
//!
//! A loss that needs a comparison is told when that has ended and everything that it left to the rounds is settled. Evictions are
//! told when no more come, or once a minute. One in which no pair of ours was lost is not told.

use super::blockers::Cause;
use super::pair::Loaded;
use super::record::Recorder;
use crate::change::{Change, Connector, Gap, GapState, Op, Pair, Side, Source, ValueKind};
use crate::env;
use crate::plan::{Action, Key, lost};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Recorder {
    /// A marker about this store.
    pub(super) fn marker(&self, store: &str) -> Change {
        Change {
            op: Op::Marker,
            before: None,
            after: None,
            source: Source::new(Connector::Keepstep, store, env::unix_ms()),
            ts_ms: env::unix_ms(),
            route: String::new(),
            value: ValueKind::String,
            pair: Pair { zookeeper: None, redis: None },
            base: None,
            collapsed: None,
            conflict: None,
            gap: None,
            epoch: self.doors.epoch(),
            loss: None,
        }
    }

    /// Puts a gap's beginning or end on the stream.
    pub(super) async fn mark_gap(&self, side: Side, state: GapState, reason: &str) {
        let place = match side {
            Side::Zookeeper => self.doors.has_znodes().then(|| self.doors.zxid()),
            Side::Redis => self.doors.redis_facts().map(|facts| facts.replication_offset),
        };
        let store = self.spec.store_name(side).to_owned();
        let (from, to) = if state == GapState::Opened { (place, None) } else { (None, place) };
        let gap = Gap { state, store: store.clone(), from, to, reason: reason.to_owned() };
        let change = Change { gap: Some(gap), ..self.marker(&store) };
        if state == GapState::Opened {
            self.books.metrics.gaps.inc();
            self.books.counters.gaps.fetch_add(1, Ordering::Relaxed);
        }
        match self.doors.append(Arc::new(vec![change])).await {
            Ok(_) => self.books.health.unblock(Cause::Stream),
            Err(error) => self.not_recorded(&error),
        }
    }

    /// Counts a pair that was found to be lost, on a side that has lost data.
    pub(super) fn count_lost(&self, seen: &Loaded, action: Action) {
        if let Some(side) = self.lost_on(seen, action) {
            self.books.counters.losses.count(side, &seen.name);
        }
    }

    fn lost_on(&self, seen: &Loaded, action: Action) -> Option<Side> {
        let losses = &self.books.counters.losses;
        let by_base = match action {
            Action::Lost(side) => Some(side),
            Action::Leave => Some(Side::Redis),
            Action::ToRedis(_) | Action::ToZookeeper(_) => lost(&seen.observed.observation),
            _ => None,
        };
        // One that was noted before was told then.
        let is_told =
            seen.observed.observation.base.is_some_and(|base| base.lost) && action == Action::Lost(Side::Redis);
        if is_told {
            return None;
        }
        if let Some(side) = by_base {
            return losses.is_open(side).then_some(side);
        }
        // Without a base, or with an older one: nothing is new in the znode, going by the stream, and the key is another.
        let may_be = matches!(action, Action::Nothing | Action::ToRedis(None)) && seen.observed.comparing;
        if !may_be || !losses.is_open(Side::Redis) {
            return None;
        }
        let (data, _) = seen.znode.as_ref()?;
        let is_same = match seen.observed.observation.key {
            Key::Present { digest, .. } => digest == crate::change::Digest::of(data),
            Key::AsBase => seen.observed.observation.base.is_some(),
            Key::Absent(_) => false,
        };
        let leads_to_redis = action == Action::ToRedis(None);
        let is_absent =
            matches!(seen.observed.observation.key, Key::Absent(_)) && seen.observed.observation.base.is_none();
        if is_same || data.is_empty() || !(leads_to_redis || is_absent) {
            return None;
        }
        self.newest(seen).is_some_and(|latest| latest.after.is(Some(data))).then_some(Side::Redis)
    }

    /// Tells the losses of which everything is known: on the stream first, so that each is told once.
    pub(super) async fn tell_losses(&self) {
        for told in self.books.counters.losses.due(!self.books.dirty.owes()) {
            let store = self.spec.store_name(told.side).to_owned();
            let cause = told.cause.word();
            let loss = crate::change::Loss {
                store: store.clone(),
                cause: cause.to_owned(),
                pairs: i64::try_from(told.pairs).unwrap_or(i64::MAX),
            };
            let marker = Change { loss: Some(loss), ..self.marker(&store) };
            if let Err(error) = self.doors.append(Arc::new(vec![marker])).await {
                self.not_recorded(&error);
                return;
            }
            // Nothing else may be there to record that would show that the stream takes records again.
            self.books.health.unblock(Cause::Stream);
            self.books.counters.losses.close(told);
            self.books.counters.lost.fetch_add(1, Ordering::Relaxed);
            self.books.metrics.losses(&store, told.cause).inc();
            self.books.metrics.lost_pairs(&store, told.cause).inc_by(told.pairs);
            tracing::warn!(
                pipeline = self.spec.settings.pipeline,
                store,
                cause,
                pairs = told.pairs,
                "the store has lost data; what it lost is written back where a flow leads there, and never taken for deleted"
            );
        }
    }
}
