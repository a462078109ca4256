//! From observations to effects: plan, record on the stream, apply by compare-and-set, finish.
//!
//! The order is what makes it safe: the stream has a change (and with it the loser of a conflict) before any store is
//! touched; a store has the value before its sidecar says so, or in the same atomic step; and a pair is given back only
//! when its outcome is known. A write that is refused, or whose store went away, is observed again.

use super::blockers::Cause;
use super::engine::{Engine, Route};
use super::hint::{Hint, PairName};
use super::observe::{Batch, Ended, Pending};
use super::pair::{Item, Loaded, Misfit, PairLeaves};
use super::record::{Entry, Recording, record};
use super::round::{Decision, End, Pause, Reading, Write};
use super::settled::Settled;
use crate::change::{Change, Pair, Position, Side};
use crate::env::Instant;
use crate::failpoint::crash_point;
use crate::plan::{Action, KeyOp, Record, Task};
use crate::store::{FailureKind, LeftMilestone, StoreError};
use crate::stream::StreamError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A pair on its way from the plan to the stores.
pub(super) struct Work {
    pub(super) pair: Loaded,
    pub(super) write: Write,
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
    /// Returns the change and its position; `first` is the position of the first change of the batch.
    pub(super) fn get<'a>(&'a self, batch: &'a [Change], first: Position) -> Option<(&'a Change, Position)> {
        match self {
            Written::Nothing => None,
            Written::New(index) => Some((batch.get(*index)?, first + u64::try_from(*index).unwrap_or(0))),
            Written::Recorded(position, change) => Some((change, *position)),
        }
    }
}

impl Engine {
    /// Settles what a round or a comparison has read.
    pub(super) async fn settle(&self, batch: Batch) -> Settled {
        let mut settled = Settled::of(self.settings.routes.len());
        for ended in batch.ended {
            if let End::Quarantine { news, .. } = ended.end {
                settled.acted += u64::from(news.slow);
            }
            self.settle_ended(ended, Some(&mut settled));
        }
        let mut works = Vec::with_capacity(batch.observed.len());
        let mut changes = Vec::new();
        for pair in batch.observed {
            crash_point!("c4-observed");
            let bytes = pair.znode.as_ref().map_or(0, |(data, _)| data.len()) + pair.value.as_ref().map_or(0, Vec::len);
            self.note_size(bytes);
            self.decide(pair, &mut works, &mut changes, &mut settled);
        }
        if works.is_empty() && changes.is_empty() {
            return settled;
        }
        let appending = self.unwritten.appending(self.stream.extent().last);
        let writes_znodes = works.iter().any(|work| matches!(work.write.task, Task::Znode { .. }));
        let milestone = async {
            let Some(keys) = self.keys.as_ref().filter(|_| writes_znodes) else { return Err(Pause::None) };
            match keys.leave_milestone().await {
                Ok(left) => left.ok_or(Pause::None),
                Err(error) => {
                    self.failed(&error);
                    Err(Pause::Redis)
                }
            }
        };
        // Beside the append, which takes as long.
        let (recorded, left) = futures::join!(self.put_on_stream(changes, &mut works), milestone);
        let Some((changes, position)) = recorded else {
            self.count_missed();
            for work in works {
                self.end(work.pair, work.write.not_recorded(), None);
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
            works.into_iter().partition(|work| matches!(work.write.task, Task::Redis { .. }));
        let to_zookeeper = self.after_milestone(to_zookeeper, left);
        futures::join!(self.apply_redis(to_redis, &changes, position), self.apply_zookeeper(to_zookeeper, &changes));
        self.metrics.apply_seconds.observe(begun.elapsed().as_secs_f64());
        settled
    }

    /// Applies the end of a pair's round.
    pub(super) fn end(&self, loaded: Loaded, end: End, misfit: Option<Misfit>) {
        let Loaded { name, hint, pair, .. } = loaded;
        end.settle(&mut PairLeaves { engine: self, name, hint, pair: &pair, misfit, settled: None });
    }

    /// Notes which records are still to be written. A record without a write describes a state that both stores already have.
    fn note_recorded(&self, changes: &[Change], first: Position, works: &[Work]) {
        for change in changes {
            if let Some(name) = change.pair.redis.as_deref() {
                self.unwritten.settled(name);
            }
        }
        for work in works {
            if let Some((_, position)) = work.change.get(changes, first) {
                self.unwritten.recorded(&work.pair.name, position);
            }
        }
    }

    /// Keeps the works for which the milestone was written after the read. `Err`: none was written, and how long the others wait.
    fn after_milestone(&self, works: Vec<Work>, left: Result<LeftMilestone, Pause>) -> Vec<Work> {
        let pause = left.err().unwrap_or(Pause::None);
        let mut behind = Vec::with_capacity(works.len());
        for Work { pair, write, change } in works {
            match write.milestone_written(left.ok(), pause) {
                ControlFlow::Continue(write) => behind.push(Work { pair, write, change }),
                ControlFlow::Break(end) => self.end(pair, end, None),
            }
        }
        behind
    }

    /// Takes the message from the existing record, even if this try decided another operation (`c` by the first try, `u` by the
    /// next). If the record cannot be read now, the present decision stands for it: the state is the same.
    async fn read_back(&self, work: &mut Work) {
        let publishes = self.route(work.pair.hint.route).is_some_and(|route| route.publish.is_some());
        let is_write = matches!(work.write.task, Task::Redis { op: KeyOp::Set | KeyOp::Delete, .. });
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
                    match work {
                        Some(work) => self.end(work.pair, work.write.too_large(), Some(("too_large", text))),
                        None => self.too_large(&change, &text),
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
        self.block(Cause::Stream, &format!("capture is paused: {error}"));
        if error.ends_opening() {
            self.halt(StoreError::away(FailureKind::Worker, error.to_string()).with_source(error.clone()));
        }
    }

    /// Plans one pair and turns the action into work.
    fn decide(&self, pair: Loaded, works: &mut Vec<Work>, changes: &mut Vec<Change>, settled: &mut Settled) {
        let Some(route) = self.route(pair.hint.route) else { return self.dirty.finish(pair.name, None) };
        let action = pair.observed.plan(&route.policy);
        self.forget_stranded(&pair.name);
        if action != Action::Nothing {
            tracing::debug!(pair = ?pair.pair, ?action, "planned");
        }
        self.note_missing(&pair, action);
        let facts = self.facts_of(&pair, route);
        let decision = pair.observed.decide(action, &facts);
        let misfit = facts.too_large.into_inner().map(|detail| ("too_large", detail));
        match decision {
            Decision::End(end) => {
                match end {
                    End::AsItIs { .. } => self.record_as_it_is(&pair, route, changes),
                    End::Lost(_) => settled.acted += u64::from(!pair.observed.comparing),
                    End::Again(_) => settled.acted += self.counts(&pair),
                    _ => {}
                }
                let ended = Ended { item: Item { name: pair.name, hint: pair.hint, pair: pair.pair }, end, misfit };
                self.settle_ended(ended, Some(settled));
            }
            Decision::Write(recording, write) => {
                settled.acted += self.counts(&pair);
                let mut pair = pair;
                let entry = match recording {
                    Record::Nothing => self.gone_record(&pair, route).map_or(Entry::Nothing, Entry::New),
                    Record::Agreed => self.agreed_record(&pair, route).map_or(Entry::Nothing, Entry::New),
                    Record::Change(from, verdict) => record(self, Recording { from, seen: &mut pair, route, verdict }),
                };
                let change = match entry {
                    Entry::Nothing => Written::Nothing,
                    Entry::New(change) => {
                        changes.push(change);
                        Written::New(changes.len() - 1)
                    }
                    Entry::Recorded(position, change) => Written::Recorded(position, Box::new(change)),
                };
                let is_change = matches!(recording, Record::Change(..)) && !matches!(change, Written::Nothing);
                if is_change {
                    // What was counted of the key is in the record.
                    pair.hint.writes = 0;
                }
                let write = if is_change { write.with_change() } else { write };
                works.push(Work { pair, write, change });
            }
        }
    }

    /// A stream that begins anew gets one record a pair, one that was left behind what it lacks.
    fn record_as_it_is(&self, pair: &Loaded, route: &Route, changes: &mut Vec<Change>) {
        let news = pair.observed.news;
        let change = match pair.observed.comparing {
            true if !self.stream.knows(&pair.pair) => self.first_record(pair, route),
            // What was recorded and could not be written may have been taken back since.
            _ if news.approved || news.unwritten || self.may_lag(&pair.name) => self.late_record(pair, route),
            _ => None,
        };
        if change.is_none() {
            self.unwritten.settled(&pair.name);
        }
        changes.extend(change);
    }

    /// Whether a transaction can hold what is to be written to ZooKeeper; the error is one for people.
    pub(super) fn fits(&self, pair: &Pair, name: &[u8], value: Option<&[u8]>, task: Task) -> Result<(), String> {
        let (Task::Znode { op, .. }, Some(znodes), Some(path)) = (task, &self.znodes, &pair.zookeeper) else {
            return Ok(());
        };
        znodes.fits(path, op, value.map_or(0, <[u8]>::len), name.len())
    }

    /// A pair in quarantine is tried again by each comparison, and is no reason for another one: `run --once` would never end.
    fn counts(&self, pair: &Loaded) -> u64 {
        u64::from(!self.quarantine.holds(&pair.name))
    }

    /// Whether Redis has room for a key that is restored; `Err`: how long to wait for it.
    pub(super) fn room(&self) -> Result<(), Duration> {
        if !self.pressure.is_felt() {
            return Ok(());
        }
        let taken = self.pressure.take();
        if taken.is_err() && self.pressure.is_tight() {
            let store = self.store_name(Side::Redis);
            self.block(
                Cause::Room,
                &format!(
                    "store {store} evicts keys as fast as they are restored: the data does not fit, and restores slow down so that they \
                     push out fewer other keys; raise maxmemory, choose a maxmemory-policy that spares keys without expiry (noeviction, \
                     volatile-*), or narrow the routes"
                ),
            );
        }
        taken
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
        let mut batch = Batch::default();
        let pending = items.into_iter().map(|item| Pending::new(Reading::both(item.hint.news, false), item));
        self.read(pending.collect(), &mut batch).await;
        let works = std::mem::take(&mut batch.observed).into_iter().map(|pair| {
            let write = pair.observed.keep_apart(pair.path_id());
            Work { pair, write, change: Written::Nothing }
        });
        self.apply_redis(works.collect(), &[], 0).await;
        for Ended { item, end, .. } in batch.ended {
            let again = if let End::Again(again) = end { Some(again) } else { None };
            let again = again.map(|again| (item.hint.with(again.news), self.pause_of(again.pause)));
            self.dirty.finish(item.name, again);
        }
    }

    /// Counts what the stream has taken.
    pub(super) fn recorded(&self, changes: &[Change]) {
        self.unblock(Cause::Stream);
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
}
