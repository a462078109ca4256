//! From observations to effects: plan, record on the stream, apply by compare-and-set, finish.
//!
//! The order is what makes it safe: the stream has a change (and with it the loser of a conflict) before any store is
//! touched; a store has the value before its sidecar says so, or in the same atomic step; and a pair is given back only
//! when its outcome is known. A write that is refused, or whose store went away, is observed again.

use super::dirty::{Hint, PairName};
use super::engine::Engine;
use super::held::Held;
use super::observe::{Item, Observed, Sight};
use super::record::{Entry, Recording, record};
use crate::change::{Change, Digest, Position, Side};
use crate::env::Instant;
use crate::failpoint::crash_point;
use crate::plan::{
    Action, Circumstances, Key, KeyOp, Record, Step, Task, Told, Wait, Znode, agreed, lost, note, path_id, plan, step,
};
use crate::store::{LeftMilestone, StoreError};
use crate::stream::StreamError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

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
    /// Deletes that nobody saw: not carried out, and in [`super::inferred::Inferred`]. By route.
    pub(super) inferred: Vec<u64>,
}

impl Settled {
    /// Nothing yet, of so many routes.
    pub(super) fn of(routes: usize) -> Settled {
        Settled { acted: 0, inferred: vec![0; routes] }
    }
}

/// A pair on its way from the plan to the stores.
pub(super) struct Work {
    pub(super) seen: Observed,
    pub(super) task: Task,
    pub(super) change: Written,
}

/// The change that a write carries out.
pub(super) enum Written {
    /// None: a restore, a put-back, a note.
    Nothing,
    /// The one at this index of the batch.
    New(usize),
    /// One that was recorded before, at this position.
    Recorded(Position, Box<Change>),
}

impl Written {
    /// The change, and its position if the first of the batch has that one.
    pub(super) fn get<'a>(&'a self, batch: &'a [Change], first: Position) -> Option<(&'a Change, Position)> {
        match self {
            Written::Nothing => None,
            Written::New(index) => Some((batch.get(*index)?, first + u64::try_from(*index).unwrap_or(0))),
            Written::Recorded(position, change) => Some((change, *position)),
        }
    }
}

impl Engine {
    /// Settles what a round or a comparison saw.
    pub(super) async fn settle(&self, sight: Sight) -> Settled {
        let mut settled = Settled::of(self.settings.routes.len());
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
        let appending = self.unwritten.appending(self.stream.extent().last);
        let writes_znodes = works.iter().any(|work| matches!(work.task, Task::Znode { .. }));
        let milestone = async {
            let Some(keys) = self.keys.as_ref().filter(|_| writes_znodes) else { return (None, Duration::ZERO) };
            match keys.leave_milestone().await {
                Ok(left) => (left, Duration::ZERO),
                Err(error) => {
                    self.failed(&error);
                    (None, self.retries.redis.refused())
                }
            }
        };
        // Beside the append, which takes as long.
        let (recorded, (left, pause)) = futures::join!(self.put_on_stream(changes, &mut works), milestone);
        let Some((changes, position)) = recorded else {
            self.has_missed();
            let pause = self.retries.stream.refused();
            for work in works {
                let hint = work.seen.again();
                self.dirty.finish(work.seen.name, Some((hint, pause)));
            }
            return settled;
        };
        self.note_recorded(&changes, position, &works);
        drop(appending);
        for work in &mut works {
            self.read_back(work).await;
        }
        let begun = Instant::now();
        let (to_redis, to_zookeeper): (Vec<Work>, Vec<Work>) =
            works.into_iter().partition(|work| matches!(work.task, Task::Redis { .. }));
        let to_zookeeper = self.behind_milestone(to_zookeeper, left, pause);
        futures::join!(
            self.apply_redis(to_redis, &changes, position),
            self.apply_zookeeper(to_zookeeper, &changes, left)
        );
        self.metrics.apply_seconds.observe(begun.elapsed().as_secs_f64());
        settled
    }

    /// Notes which records are still to be written. One without a write is of what is there already.
    fn note_recorded(&self, changes: &[Change], first: Position, works: &[Work]) {
        for change in changes {
            if let Some(name) = change.pair.redis.as_deref() {
                self.unwritten.settled(name);
            }
        }
        for work in works {
            if let Some((_, position)) = work.change.get(changes, first) {
                self.unwritten.recorded(&work.seen.name, position);
            }
        }
    }

    /// Those whose key was read in the very data set in which the milestone lies. The others are looked at again: Redis was restarted
    /// or went away since, perhaps has taken back what was read, and nobody could tell that from what an application writes next.
    fn behind_milestone(&self, works: Vec<Work>, left: Option<LeftMilestone>, pause: Duration) -> Vec<Work> {
        let is_behind = |work: &Work| work.seen.life == 0 || left.is_some_and(|left| left.life == work.seen.life);
        let (behind, others): (Vec<Work>, Vec<Work>) = works.into_iter().partition(is_behind);
        for Work { seen, .. } in others {
            let hint = seen.again();
            self.dirty.finish(seen.name, Some((hint, pause)));
        }
        behind
    }

    /// A message that was not published yet is that of the record, which may have been decided on otherwise (`c` by the first try,
    /// `u` by the next). Where it cannot be read back now, what was decided now stands for it: the state is the same.
    async fn read_back(&self, work: &mut Work) {
        let publishes = self.route(work.seen.hint.route).is_some_and(|route| route.publish.is_some());
        let is_write = matches!(work.task, Task::Redis { op: KeyOp::Set | KeyOp::Delete, .. });
        if let Written::Recorded(position, change) = &mut work.change
            && publishes
            && is_write
            && let Ok(batch) = self.stream.read(*position, 1, 0).await
            && let Some(recorded) = batch.records.into_iter().find(|recorded| recorded.position == *position)
        {
            **change = recorded.change;
        }
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
                    let at = works.iter().position(|work| matches!(work.change, Written::New(at) if at == index));
                    let work = at.map(|at| works.remove(at));
                    for work in works.iter_mut() {
                        if let Written::New(at) = &mut work.change {
                            *at -= usize::from(*at > index);
                        }
                    }
                    self.too_large(&change, &text);
                    if let Some(work) = work {
                        if lost(&work.seen.seen) == Some(Side::Redis) {
                            self.is_stranded(&work.seen.name);
                        }
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
        self.is_decided(&seen.name);
        let index = seen.hint.route;
        if action != Action::Nothing {
            tracing::debug!(pair = ?seen.pair, ?action, "planned");
        }
        let about = Circumstances {
            has_value: seen.value.is_some(),
            was_evicted: seen.hint.event == Some("evicted"),
            has_waited: seen.hint.patience > 0,
            comparing: seen.comparing,
            told: self.told(&seen),
            guards_deletes: self.settings.delete_guard && !seen.hint.approved,
            key_named: seen.hint.key,
            hears_redis: self.sources().hears(Side::Redis),
            path_id: path_of(&seen),
        };
        self.note_missing(&seen, action);
        match step(action, &route.policy, &seen.seen, &about) {
            Step::Nothing => {
                // A stream that begins anew gets one record a pair, one that was left behind what it lacks.
                let change = match seen.comparing {
                    true if !self.stream.knows(&seen.pair) => self.first_record(&seen, route),
                    // What was recorded and could not be written may have been taken back since.
                    _ if seen.hint.approved || seen.hint.unwritten || self.may_be_behind(&seen.name) => {
                        self.late_record(&seen, route)
                    }
                    _ => None,
                };
                if change.is_none() {
                    self.unwritten.settled(&seen.name);
                }
                changes.extend(change);
                self.quarantine.remove(&seen.name);
                if seen.seen.znode != Znode::AsBase && seen.seen.key != Key::AsBase {
                    self.cache.put(&seen.name, seen.seen.base);
                    let has_base = seen.seen.base.is_some();
                    self.pairs.settled(&seen.name, index, has_base, has_base);
                }
                if seen.seen.base.is_some() {
                    self.inferred.settled(&seen.name, index);
                }
                if seen.seen.base.is_none() && matches!(seen.seen.znode, Znode::Absent(_)) {
                    self.finish_gone(seen.name, &seen.hint);
                } else {
                    self.dirty.finish(seen.name, None);
                }
            }
            Step::Lost(side) => {
                settled.acted += u64::from(!seen.comparing);
                self.note_loss(side, &seen);
                self.inferred.settled(&seen.name, index);
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
                if let Some(count) = settled.inferred.get_mut(index) {
                    *count += 1;
                }
                self.inferred.infer(seen.name.clone(), index);
                self.dirty.finish(seen.name, None);
            }
            // Before it is put on the stream: what cannot be written is no change that was made.
            Step::Do(_, task) if let Err(detail) = self.fits(&seen, task) => {
                self.quarantine(&seen.name, index, &seen.pair, "too_large", &detail);
                self.dirty.finish(seen.name, None);
            }
            Step::Do(_, task) if let Err(delay) = self.has_room(&seen, &task) => self.look_again(seen, delay, settled),
            Step::Do(recording, task) => {
                settled.acted += self.counts(&seen);
                let mut seen = seen;
                let entry = match recording {
                    Record::Nothing => self.gone_record(&seen, route).map_or(Entry::Nothing, Entry::New),
                    Record::Agreed => self.agreed_record(&seen, route).map_or(Entry::Nothing, Entry::New),
                    Record::Change(from, verdict) => record(self, Recording { from, seen: &mut seen, route, verdict }),
                };
                let change = match entry {
                    Entry::Nothing => Written::Nothing,
                    Entry::New(change) => {
                        changes.push(change);
                        Written::New(changes.len() - 1)
                    }
                    Entry::Recorded(position, change) => Written::Recorded(position, Box::new(change)),
                };
                if matches!(recording, Record::Change(..)) && !matches!(change, Written::Nothing) {
                    // Until its write is done. What was counted of the key is in the record.
                    seen.hint.unwritten = true;
                    seen.hint.writes = 0;
                }
                works.push(Work { seen, task, change });
            }
        }
    }

    /// Of which side an event told what is there now; asked only where a value is gone.
    fn told(&self, seen: &Observed) -> Told {
        let is_gone = match seen.seen.znode {
            Znode::Absent(_) => true,
            Znode::Present { digest, .. } => digest == Digest::EMPTY,
            Znode::AsBase => false,
        };
        if is_gone || matches!(seen.seen.key, Key::Absent(_)) {
            self.dirty.told(&seen.name, seen.hint)
        } else {
            Told::default()
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

    /// Whether this may be written now. A key that is restored while Redis evicts takes another's place: fewer and fewer are.
    fn has_room(&self, seen: &Observed, task: &Task) -> Result<(), Duration> {
        // Its sidecar may have been evicted with it, so what is restored has a base or none; what an application changed was named.
        let is_restore = matches!(task, Task::Redis { op: KeyOp::Set, .. })
            && matches!(seen.seen.key, Key::Absent(_))
            && !seen.hint.znode;
        if !is_restore || !self.pressure.is_felt() {
            return Ok(());
        }
        let taken = self.pressure.take();
        if taken.is_err() && self.pressure.is_tight() {
            let store = self.store_name(Side::Redis);
            self.held_up(
                Held::Room,
                &format!(
                    "store {store} evicts keys as fast as they are restored: the data does not fit, and restores slow down so that they \
                     push out fewer other keys; raise maxmemory, choose a maxmemory-policy that spares keys without expiry (noeviction, \
                     volatile-*), or narrow the routes"
                ),
            );
        }
        taken
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
        let turn = self.dirty.turn();
        let mut items = Vec::new();
        for (name, route) in names {
            self.quarantine.drop_pair(&name);
            let mapped = self.map.of_key(&name).filter(|_| !self.captures());
            let hint = Hint::new(route);
            let is_free = self.dirty.try_take(&turn, &mut std::iter::once((&name, hint))).first() == Some(&true);
            if let (Some(mapped), true) = (mapped, is_free) {
                items.push(Item { name, hint, pair: mapped.pair });
            }
        }
        let mut sight = Sight::default();
        self.see_both(items, false, &mut sight).await;
        let works = std::mem::take(&mut sight.observed).into_iter().map(|seen| {
            let base = agreed(&seen.seen, path_of(&seen), true);
            Work { seen, task: note(Some(base)), change: Written::Nothing }
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
        self.retries.stream.worked();
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

    pub(super) fn note_loss(&self, side: Side, seen: &Observed) {
        let store = self.store_name(side);
        let detail = format!(
            "store {store} lost its value, or holds an older one, and nothing flows there: the other side keeps its own until the key \
             changes"
        );
        self.quarantine(&seen.name, seen.hint.route, &seen.pair, "lost", &detail);
    }
}

fn path_of(seen: &Observed) -> u32 {
    path_id(seen.pair.zookeeper.as_deref().unwrap_or_default())
}
