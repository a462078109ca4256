//! From observations to effects: plan, record on the stream, apply by compare-and-set, finish.
//!
//! The order is what makes it safe: the stream has a change (and with it the loser of a conflict) before any store is
//! touched; a store has the value before its sidecar says so, or in the same atomic step; and a pair is given back only
//! when its outcome is known. A write that is refused, or whose store went away, is observed again.

use super::dirty::{Hint, PairName};
use super::engine::Engine;
use super::held::Held;
use super::observe::{AGAIN_AFTER, Item, Observed, Sight};
use super::record::{Recording, record};
use crate::change::{Change, Position, Side};
use crate::failpoint::crash_point;
use crate::plan::{Action, Circumstances, Key, Record, Step, Task, Wait, Znode, agreed, note, path_id, plan, step};
use crate::store::StoreError;
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
            self.has_missed();
            for work in works {
                let hint = work.seen.again();
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
        self.held_up(Held::Stream, &format!("capture is paused: {error}"));
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
        let about = Circumstances {
            has_value: seen.value.is_some(),
            was_evicted: seen.hint.event == Some("evicted"),
            has_waited: seen.hint.patience > 0,
            comparing: seen.comparing,
            guards_deletes: self.settings.delete_guard && !seen.hint.approved,
            key_named: seen.hint.key,
            hears_redis: self.redis_up.load(Ordering::Relaxed),
            path_id: path_of(&seen),
        };
        match step(action, &route.policy, &seen.seen, &about) {
            Step::Nothing => {
                // A stream that begins anew gets one record a pair, one that was left behind what it lacks.
                let change = match seen.comparing {
                    true if !self.stream.knows(&seen.pair) => self.first_record(&seen, route),
                    _ if seen.hint.approved || self.may_be_behind(&seen.name) => self.late_record(&seen, route),
                    _ => None,
                };
                changes.extend(change);
                self.quarantine.remove(&seen.name);
                if seen.seen.base.is_none() && matches!(seen.seen.znode, Znode::Absent(_)) {
                    self.is_gone(&seen.hint);
                }
                if seen.seen.znode != Znode::AsBase && seen.seen.key != Key::AsBase {
                    self.cache.put(&seen.name, seen.seen.base);
                }
                if seen.seen.base.is_some()
                    && let Some(place) = settled.in_step.get_mut(index)
                {
                    *place += 1;
                }
                self.dirty.finish(seen.name, None);
            }
            Step::Lost(side) => {
                settled.acted += u64::from(!seen.comparing);
                self.note_loss(side, &seen);
                self.dirty.finish(seen.name, None);
            }
            Step::Quarantine => {
                let detail =
                    "both sides hold a value that the other never had; make them equal, or restore one of them";
                self.quarantine(&seen.name, index, &seen.pair, "conflict", detail);
                self.dirty.finish(seen.name, None);
            }
            Step::NotOurs => {
                let detail = "the key stands for an ephemeral znode, and ephemerals flow only out of ZooKeeper";
                self.quarantine(&seen.name, index, &seen.pair, "ephemeral", detail);
                self.dirty.finish(seen.name, None);
            }
            Step::Again(wait) => {
                let delay = match wait {
                    Wait::Read => Duration::ZERO,
                    Wait::Event => EVENT_MAY_COME,
                    Wait::Evicted => EVICTED,
                };
                self.look_again(seen, delay, settled);
            }
            Step::Guarded => {
                settled.inferred.push((seen.name.clone(), index));
                self.dirty.finish(seen.name, None);
            }
            // Before it is put on the stream: what cannot be written is no change that was made.
            Step::Do(_, task) if let Err(detail) = self.fits(&seen, task) => {
                self.quarantine(&seen.name, index, &seen.pair, "too_large", &detail);
                self.dirty.finish(seen.name, None);
            }
            Step::Do(recording, task) => {
                settled.acted += self.counts(&seen);
                let mut seen = seen;
                let change = match recording {
                    Record::Nothing => self.gone_record(&seen, route),
                    Record::Agreed => self.agreed_record(&seen, route),
                    Record::Change(from, verdict) => record(self, Recording { from, seen: &mut seen, route, verdict }),
                };
                let change = change.map(|change| push(changes, change));
                works.push(Work { seen, task, change });
            }
        }
    }

    /// Whether a transaction can hold what is to be written to ZooKeeper.
    fn fits(&self, seen: &Observed, task: Task) -> Result<(), String> {
        let (Task::Znode { op, .. }, Some(znodes), Some(path)) = (task, &self.znodes, &seen.pair.zookeeper) else {
            return Ok(());
        };
        znodes.fits(path, op, seen.value.as_ref().map_or(0, Vec::len), seen.name.len())
    }

    /// A pair in quarantine is tried again by each comparison, and is no reason for another one: `run --once` would never end.
    fn counts(&self, seen: &Observed) -> u64 {
        u64::from(!self.quarantine.holds(&seen.name))
    }

    /// Puts a pair back for the slow path.
    fn look_again(&self, seen: Observed, delay: Duration, settled: &mut Settled) {
        settled.acted += self.counts(&seen);
        let patience = seen.hint.patience + u8::from(delay > Duration::ZERO && seen.hint.patience < u8::MAX);
        let hint = Hint { patience, ..seen.again() };
        self.dirty.finish(seen.name, Some((hint, delay)));
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
            let base = agreed(&seen.seen, path_of(&seen), true);
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
        self.works(Held::Stream);
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

fn path_of(seen: &Observed) -> u32 {
    path_id(seen.pair.zookeeper.as_deref().unwrap_or_default())
}
