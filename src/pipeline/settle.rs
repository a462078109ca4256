//! From observations to effects: plan, record on the stream, apply by compare-and-set, finish.
//!
//! The order is what makes it safe: the stream has a change (and with it the loser of a conflict) before any store is
//! touched; a store has the value before its sidecar says so, or in the same atomic step; and a pair is given back only
//! when its outcome is known. A write that is refused, or whose store went away, is observed again.

use super::dirty::{Hint, PairName};
use super::engine::{Engine, Route};
use super::observe::{AGAIN_AFTER, Item, Observed, Sight};
use super::record::{Recording, record};
use crate::change::{Change, Digest, Position, Side, ZkVersion};
use crate::failpoint::crash_point;
use crate::plan::{Action, Base, Key, Verdict, Znode, path_id, plan};
use crate::store::{KeyOp, StoreError, ZnodeOp};
use crate::stream::StreamError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Pause before a conflict is looked at again whose rule needs to know when or how often the key changed, while the
/// key's event may still be on its way.
const EVENT_MAY_COME: Duration = Duration::from_millis(30);

/// Pause before an evicted key is restored: under memory pressure it will be evicted again.
const EVICTED: Duration = Duration::from_secs(1);

/// What a comparison learns from what was settled.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Pairs that were not in step.
    pub(super) acted: u64,
    /// Deletes that only the comparison inferred, not carried out.
    pub(super) inferred: Vec<(PairName, usize)>,
    /// Pairs by route that are in step with a value on both sides, or are now.
    pub(super) in_step: Vec<u64>,
}

/// What is to be done for one pair, once the stream has it.
pub(super) enum Task {
    Redis { op: KeyOp, expect: Option<Digest>, base: Option<Base> },
    Znode { op: ZnodeOp, base: Base },
}

/// A pair on its way from the plan to the stores.
pub(super) struct Work {
    pub(super) seen: Observed,
    pub(super) task: Task,
    /// Index of its change in the batch, if it has one.
    pub(super) change: Option<usize>,
}

impl Engine {
    /// Settles what a round or a comparison saw.
    pub(super) async fn settle(&self, sight: Sight) -> Settled {
        let mut settled = Settled { in_step: vec![0; self.settings.routes.len()], ..Settled::default() };
        for (name, again) in sight.finished {
            self.dirty.finish(name, again);
        }
        for unfit in sight.unfit {
            settled.acted += u64::from(unfit.hint.slow);
            if unfit.hint.znode || unfit.hint.key {
                // A side has changed: that is news even of a pair that was dropped.
                self.quarantine.forget_drop(&unfit.name);
            }
            self.quarantine(&unfit.name, unfit.hint.route, &unfit.pair, unfit.reason, &unfit.detail);
            self.dirty.finish(unfit.name, None);
        }
        let mut works = Vec::with_capacity(sight.observed.len());
        let mut changes = Vec::new();
        for seen in sight.observed {
            crash_point!("c4-observed");
            let bytes = seen.znode.as_ref().map_or(0, |(data, _)| data.len()) + seen.value.as_ref().map_or(0, Vec::len);
            self.note_size(bytes);
            self.decide(seen, &mut works, &mut changes, &mut settled);
        }
        if works.is_empty() && changes.is_empty() {
            return settled;
        }
        let Some((changes, position)) = self.put_on_stream(changes, &mut works).await else {
            for work in works {
                let hint = Hint { slow: true, ..work.seen.hint };
                self.dirty.finish(work.seen.name, Some((hint, AGAIN_AFTER)));
            }
            return settled;
        };
        let begun = Instant::now();
        let (to_redis, to_zookeeper): (Vec<Work>, Vec<Work>) =
            works.into_iter().partition(|work| matches!(work.task, Task::Redis { .. }));
        let (redis, zookeeper) = futures::join!(
            self.apply_redis(to_redis, &changes, position),
            self.apply_zookeeper(to_zookeeper, &changes)
        );
        self.metrics.apply_seconds.observe(begun.elapsed().as_secs_f64());
        for (route, count) in redis.into_iter().chain(zookeeper) {
            if let Some(place) = settled.in_step.get_mut(route) {
                *place += count;
            }
        }
        settled
    }

    /// Records the changes and answers with them and the position of the first; `None` if the stream takes nothing now.
    /// A change that is larger than it takes is left out, and its pair, with its work, quarantined.
    async fn put_on_stream(
        &self,
        mut changes: Vec<Change>,
        works: &mut Vec<Work>,
    ) -> Option<(Arc<Vec<Change>>, Position)> {
        loop {
            let shared = Arc::new(changes);
            if shared.is_empty() {
                return Some((shared, 0));
            }
            match self.stream.append(Arc::clone(&shared)).await {
                Ok(first) => {
                    crash_point!("c5-recorded");
                    self.recorded(&shared);
                    return Some((shared, first));
                }
                Err(StreamError::TooLarge { index, text }) if index < shared.len() => {
                    changes = Arc::unwrap_or_clone(shared);
                    let change = changes.remove(index);
                    let at = works.iter().position(|work| work.change == Some(index));
                    let work = at.map(|at| works.remove(at));
                    for place in works.iter_mut().filter_map(|work| work.change.as_mut()).filter(|at| **at > index) {
                        *place -= 1;
                    }
                    self.too_large(&change, &text);
                    if let Some(work) = work {
                        self.dirty.finish(work.seen.name, None);
                    }
                }
                Err(error) => {
                    self.not_recorded(&error);
                    return None;
                }
            }
        }
    }

    /// Quarantines the pair of a change that the stream does not take.
    pub(super) fn too_large(&self, change: &Change, text: &str) {
        let route = self.settings.routes.iter().position(|route| route.name == change.route);
        let path = change.pair.zookeeper.as_ref().map(String::as_bytes);
        if let (Some(route), Some(name)) = (route, change.pair.redis.as_deref().or(path)) {
            self.quarantine(name, route, &change.pair, "too_large", text);
        }
    }

    /// An append failed: says so, and ends the ownership where the stream must be opened anew.
    pub(super) fn not_recorded(&self, error: &StreamError) {
        self.note(&format!("capture is paused: {error}"));
        if error.ends_opening() {
            self.halt(StoreError::Away(error.to_string()));
        }
    }

    /// Plans one pair and turns the action into work.
    fn decide(&self, seen: Observed, works: &mut Vec<Work>, changes: &mut Vec<Change>, settled: &mut Settled) {
        let Some(route) = self.route(seen.hint.route) else { return self.dirty.finish(seen.name, None) };
        let action = plan(&route.policy, &seen.seen);
        let index = seen.hint.route;
        if action != Action::Nothing {
            tracing::debug!(pair = ?seen.pair, ?action, "planned");
        }
        match action {
            Action::Nothing => {
                self.quarantine.remove(&seen.name);
                if seen.seen.znode != Znode::AsBase && seen.seen.key != Key::AsBase {
                    self.cache.put(&seen.name, seen.seen.base);
                }
                if seen.seen.base.is_some()
                    && let Some(place) = settled.in_step.get_mut(index)
                {
                    *place += 1;
                }
                // A stream that begins anew gets one record a pair.
                if seen.comparing
                    && let Some(change) = self.first_record(&seen, route)
                {
                    changes.push(change);
                }
                self.dirty.finish(seen.name, None);
            }
            Action::Lost(side) => {
                settled.acted += u64::from(!seen.comparing);
                self.note_loss(side, &seen);
                self.dirty.finish(seen.name, None);
            }
            Action::Quarantine => {
                let detail =
                    "both sides hold a value that the other never had; make them equal, or restore one of them";
                self.quarantine(&seen.name, index, &seen.pair, "conflict", detail);
                self.dirty.finish(seen.name, None);
            }
            Action::NotOurs => {
                let detail = "the key stands for an ephemeral znode, and ephemerals flow only out of ZooKeeper";
                self.quarantine(&seen.name, index, &seen.pair, "ephemeral", detail);
                self.dirty.finish(seen.name, None);
            }
            Action::Agree => {
                settled.acted += 1;
                let base = self.agreed(&seen, false);
                let change = self.agreed_record(&seen, route).map(|change| push(changes, change));
                works.push(Work { seen, task: note(Some(base)), change });
            }
            Action::Forget => {
                settled.acted += 1;
                works.push(Work { seen, task: note(None), change: None });
            }
            Action::KeepApart => {
                settled.acted += 1;
                let base = self.agreed(&seen, true);
                works.push(Work { seen, task: note(Some(base)), change: None });
            }
            Action::ToRedis(verdict) => self.to_redis(seen, route, verdict, works, changes, settled),
            Action::ToZookeeper(verdict) => self.to_zookeeper(seen, route, verdict, works, changes, settled),
        }
    }

    fn to_redis(
        &self,
        mut seen: Observed,
        route: &Route,
        verdict: Option<Verdict>,
        works: &mut Vec<Work>,
        changes: &mut Vec<Change>,
        settled: &mut Settled,
    ) {
        let Znode::Present { version, digest, ephemeral, .. } = seen.seen.znode else {
            if seen.seen.znode == Znode::AsBase {
                return self.look_again(seen, Duration::ZERO, settled);
            }
            return self.delete_key(seen, route, verdict, works, changes, settled);
        };
        let is_emptied =
            digest == Digest::EMPTY && !ephemeral && seen.seen.base.is_none_or(|b| b.redis != Some(digest));
        if is_emptied {
            return self.delete_key(seen, route, verdict, works, changes, settled);
        }
        if self.must_wait(&seen, route, verdict) {
            return self.look_again(seen, EVENT_MAY_COME, settled);
        }
        if seen.hint.event == Some("evicted") && seen.hint.patience == 0 && verdict.is_none() {
            seen.hint.patience = 1;
            return self.look_again(seen, EVICTED, settled);
        }
        // The loser's value is needed for the conflict log.
        if verdict.is_some() && matches!(seen.seen.key, Key::AsBase | Key::Present { .. }) && seen.value.is_none() {
            return self.look_again(seen, Duration::ZERO, settled);
        }
        settled.acted += 1;
        let base = Base { zookeeper: Some(version), redis: Some(digest), ephemeral, ..self.next_base(&seen) };
        let change =
            self.recorded_change(Side::Zookeeper, &mut seen, route, verdict).map(|change| push(changes, change));
        let task = Task::Redis { op: KeyOp::Set, expect: expected_key(&seen), base: Some(base) };
        works.push(Work { seen, task, change });
    }

    fn delete_key(
        &self,
        mut seen: Observed,
        route: &Route,
        verdict: Option<Verdict>,
        works: &mut Vec<Work>,
        changes: &mut Vec<Change>,
        settled: &mut Settled,
    ) {
        let is_ephemeral = seen.seen.base.is_some_and(|base| base.ephemeral);
        if self.is_guarded(&seen) && !is_ephemeral {
            settled.inferred.push((seen.name.clone(), seen.hint.route));
            return self.dirty.finish(seen.name, None);
        }
        if verdict.is_some() && seen.value.is_none() {
            return self.look_again(seen, Duration::ZERO, settled);
        }
        settled.acted += 1;
        let change =
            self.recorded_change(Side::Zookeeper, &mut seen, route, verdict).map(|change| push(changes, change));
        let task = Task::Redis { op: KeyOp::Delete, expect: expected_key(&seen), base: None };
        works.push(Work { seen, task, change });
    }

    fn to_zookeeper(
        &self,
        mut seen: Observed,
        route: &Route,
        verdict: Option<Verdict>,
        works: &mut Vec<Work>,
        changes: &mut Vec<Change>,
        settled: &mut Settled,
    ) {
        let (agreed, digest, expires_ms) = match seen.seen.key {
            Key::AsBase => return self.look_again(seen, Duration::ZERO, settled),
            Key::Absent(_) => (seen.seen.base.and_then(|base| base.zookeeper), None, None),
            Key::Present { .. } if seen.value.is_none() => return self.look_again(seen, Duration::ZERO, settled),
            Key::Present { digest, expires_ms } => {
                (seen.seen.base.and_then(|base| base.zookeeper), Some(digest), expires_ms)
            }
        };
        if self.must_wait(&seen, route, verdict) {
            return self.look_again(seen, EVENT_MAY_COME, settled);
        }
        // The loser's value is needed for the conflict log.
        if verdict.is_some() && seen.seen.znode == Znode::AsBase {
            return self.look_again(seen, Duration::ZERO, settled);
        }
        let expected = match seen.seen.znode {
            Znode::Present { version, .. } => Some(version),
            Znode::Absent => None,
            Znode::AsBase => agreed,
        };
        let op = match (digest, expected) {
            (Some(_), Some(version)) => ZnodeOp::Set(version.version),
            (Some(_), None) => ZnodeOp::Create,
            (None, Some(version)) => ZnodeOp::Delete(version.version),
            (None, None) => {
                settled.acted += 1;
                return works.push(Work { seen, task: note(None), change: None });
            }
        };
        if digest.is_none() && self.is_guarded(&seen) {
            settled.inferred.push((seen.name.clone(), seen.hint.route));
            return self.dirty.finish(seen.name, None);
        }
        settled.acted += 1;
        let czxid = expected.map_or(0, |version| version.czxid);
        let version = expected.map_or(0, |version| match version.version.wrapping_add(1) {
            // -1 means "any version" to ZooKeeper, which skips it (ZOOKEEPER PR #2064).
            -1 => 0,
            next => next,
        });
        let zookeeper = Some(ZkVersion { czxid, mzxid: 0, version });
        let base = Base { zookeeper, redis: digest, expires_ms, ..self.next_base(&seen) };
        let change = self.recorded_change(Side::Redis, &mut seen, route, verdict).map(|change| push(changes, change));
        works.push(Work { seen, task: Task::Znode { op, base }, change });
    }

    /// Whether a rule asks when or how often the key changed, and that may become known in a moment.
    fn must_wait(&self, seen: &Observed, route: &Route, verdict: Option<Verdict>) -> bool {
        use crate::plan::OnConflict;
        let asks = match route.policy.on_conflict {
            OnConflict::Latest => seen.seen.seen.redis_ms.is_none(),
            OnConflict::HigherVersion => seen.seen.seen.redis_writes == Some(0),
            OnConflict::Prefer(_) | OnConflict::Quarantine => false,
        };
        verdict.is_some() && asks && seen.hint.patience == 0 && !seen.comparing && self.redis_up.load(Ordering::Relaxed)
    }

    /// Puts a pair back for the slow path.
    fn look_again(&self, seen: Observed, delay: Duration, settled: &mut Settled) {
        settled.acted += 1;
        let patience = seen.hint.patience + u8::from(delay > Duration::ZERO && seen.hint.patience < u8::MAX);
        self.dirty.finish(seen.name, Some((Hint { slow: true, patience, ..seen.hint }, delay)));
    }

    /// Whether a delete was only inferred: such are counted before they are carried out.
    fn is_guarded(&self, seen: &Observed) -> bool {
        seen.comparing && self.settings.delete_guard && !seen.hint.approved
    }

    /// A base that follows the one seen, with nothing in it yet.
    fn next_base(&self, seen: &Observed) -> Base {
        Base {
            sequence: seen.seen.base.map_or(0, |base| base.sequence).wrapping_add(1),
            zookeeper: None,
            redis: None,
            expires_ms: None,
            ephemeral: false,
            apart: false,
            unproven: false,
            path_id: path_id(seen.pair.zookeeper.as_deref().unwrap_or_default()),
            ensemble: self.ensemble().id,
        }
    }

    /// The base that names the states as they are.
    pub(super) fn agreed(&self, seen: &Observed, apart: bool) -> Base {
        let (zookeeper, ephemeral) = match seen.seen.znode {
            Znode::Present { version, ephemeral, .. } => (Some(version), ephemeral),
            Znode::Absent => (None, false),
            Znode::AsBase => {
                (seen.seen.base.and_then(|base| base.zookeeper), seen.seen.base.is_some_and(|base| base.ephemeral))
            }
        };
        let (redis, expires_ms) = match seen.seen.key {
            Key::Present { digest, expires_ms } => (Some(digest), expires_ms),
            Key::Absent(_) => (None, None),
            Key::AsBase => {
                (seen.seen.base.and_then(|base| base.redis), seen.seen.base.and_then(|base| base.expires_ms))
            }
        };
        Base { zookeeper, redis, expires_ms, ephemeral, apart, ..self.next_base(seen) }
    }

    fn recorded_change(
        &self,
        from: Side,
        seen: &mut Observed,
        route: &Route,
        verdict: Option<Verdict>,
    ) -> Option<Change> {
        record(self, Recording { from, seen, route, verdict })
    }

    /// Leaves pairs as they are until either side changes: both states become their base.
    pub(super) async fn keep_apart(&self, names: Vec<(PairName, usize)>) {
        let mut items = Vec::new();
        for (name, route) in names {
            self.quarantine.drop_pair(&name);
            let mapped = self.map.of_key(&name).filter(|_| !self.captures());
            let is_free = self.dirty.try_take(&mut std::iter::once(&name)).first() == Some(&true);
            if let (Some(mapped), true) = (mapped, is_free) {
                items.push(Item { name, hint: Hint::new(route), pair: mapped.pair });
            }
        }
        let mut sight = Sight::default();
        self.see_both(items, false, &mut sight).await;
        let works = std::mem::take(&mut sight.observed).into_iter().map(|seen| {
            let base = self.agreed(&seen, true);
            Work { seen, task: note(Some(base)), change: None }
        });
        let works: Vec<Work> = works.collect();
        self.apply_redis(works, &[], 0).await;
        for unfit in sight.unfit {
            self.dirty.finish(unfit.name, None);
        }
        for (name, again) in sight.finished {
            self.dirty.finish(name, again);
        }
    }

    /// Counts what the stream has taken.
    pub(super) fn recorded(&self, changes: &[Change]) {
        self.counters.changes.fetch_add(u64::try_from(changes.len()).unwrap_or(0), Ordering::Relaxed);
        for change in changes {
            self.metrics.changes(&change.route, change.op).inc();
            if let Some(collapsed) = change.collapsed.and_then(|count| u64::try_from(count).ok()) {
                self.metrics.collapsed.inc_by(collapsed);
            }
            if let Some(conflict) = &change.conflict {
                self.metrics.conflicts(&conflict.rule, &conflict.winner).inc();
                self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn note_loss(&self, side: Side, seen: &Observed) {
        let store = self.store_name(side);
        let detail = format!("store {store} lost its value, and nothing flows there: the other side keeps its own");
        self.quarantine(&seen.name, seen.hint.route, &seen.pair, "lost", &detail);
    }
}

fn push(changes: &mut Vec<Change>, change: Change) -> usize {
    changes.push(change);
    changes.len() - 1
}

fn note(base: Option<Base>) -> Task {
    Task::Redis { op: KeyOp::Note, expect: None, base }
}

/// The digest that must be found in the key.
fn expected_key(seen: &Observed) -> Option<Digest> {
    match seen.seen.key {
        Key::AsBase => seen.seen.base.and_then(|base| base.redis),
        Key::Absent(_) => None,
        Key::Present { digest, .. } => Some(digest),
    }
}
