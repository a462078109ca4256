//! From observations to effects: plan, record on the stream, apply by compare-and-set, finish.
//!
//! The order is what makes it safe: the stream has a change (and with it the loser of a conflict) before any store is
//! touched; a store has the value before its sidecar says so, or in the same atomic step; and a pair is given back only
//! when its outcome is known. A write that is refused, or whose store went away, is observed again.

use super::blockers::Cause;
use super::facts::PairInBooks;
use super::hint::{Hint, PairName};
use super::observe::{Batch, Ended, Pending};
use super::pair::{Item, Loaded, Misfit};
use super::record::{Entry, Recorder, Recording, record};
use super::round::{Decision, Delay, End, Reading, Write};
use super::rounds::Rounds;
use super::settled::Settled;
use super::spec::Route;
use crate::change::{Change, KeyedHash, Position, Side};
use crate::env::Instant;
use crate::failpoint::{crash_point, mark, planted};
use crate::plan::{Action, KeyOp, Record, Task};
use crate::store::LeftMilestone;
use crate::stream::StreamError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// A pair on its way from the plan to the stores.
pub(super) struct Work {
    pub(super) pair: Loaded,
    pub(super) write: Write,
    pub(super) change: Written,
}

/// A state of a capture on its way to the stream.
struct Captured {
    pair: Loaded,
    /// The stream had a value of the pair.
    had_value: bool,
    /// Its change in the batch.
    index: usize,
    /// Names the state that is recorded; `None`: a delete.
    state: Option<KeyedHash>,
}

/// What was decided about the pairs of a batch.
#[derive(Default)]
struct Decided {
    works: Vec<Work>,
    captured: Vec<Captured>,
    changes: Vec<Change>,
}

impl Decided {
    fn push(&mut self, change: Change) -> usize {
        self.changes.push(change);
        self.changes.len() - 1
    }

    /// Takes the pair out whose change, at this index, the stream does not take, if it is one that waits for it.
    fn take_out(&mut self, index: usize) -> Option<(Loaded, End)> {
        let is_work = |work: &Work| matches!(work.change, Written::New(at) if at == index);
        let taken = match self.works.iter().position(is_work) {
            Some(at) => {
                let Work { pair, write, .. } = self.works.remove(at);
                Some((pair, write.too_large()))
            }
            None => self.captured.iter().position(|captured| captured.index == index).map(|at| {
                let Captured { pair, .. } = self.captured.remove(at);
                let end = pair.observed.too_large();
                (pair, end)
            }),
        };
        for work in &mut self.works {
            if let Written::New(at) = &mut work.change {
                *at -= usize::from(*at > index);
            }
        }
        for captured in &mut self.captured {
            captured.index -= usize::from(captured.index > index);
        }
        taken
    }
}

/// The change that a write carries out.
pub(super) enum Written {
    /// None: a restore, a put-back, a note.
    Nothing,
    /// The one at this index of the batch.
    New(usize),
    /// One that was recorded before, at this position.
    Recorded(Position, Box<Change>),
    /// The same, and it was written before as well: the store has lost it since.
    Restored(Position, Box<Change>),
}

impl Written {
    /// Returns the change and its position; `first` is the position of the first change of the batch.
    pub(super) fn get<'a>(&'a self, batch: &'a [Change], first: Position) -> Option<(&'a Change, Position)> {
        match self {
            Written::Nothing => None,
            Written::New(index) => Some((batch.get(*index)?, first + u64::try_from(*index).unwrap_or(0))),
            Written::Recorded(position, change) | Written::Restored(position, change) => Some((change, *position)),
        }
    }
}

impl Rounds {
    /// Settles what a round or a comparison has read.
    pub(super) async fn settle(&self, batch: Batch) -> Settled {
        let mut settled = Settled::of(self.spec.settings.routes.len());
        for ended in batch.ended {
            if let End::Quarantine { news, .. } = ended.end {
                settled.acted += u64::from(news.slow);
            }
            self.settle_ended(ended, Some(&mut settled));
        }
        let mut decided = Decided::default();
        for pair in self.with_newest(batch.observed).await {
            crash_point!("c4-observed");
            let bytes = pair.znode.as_ref().map_or(0, |(data, _)| data.len()) + pair.value.as_ref().map_or(0, Vec::len);
            self.books.sizes.note(bytes);
            self.decide(pair, &mut decided, &mut settled);
        }
        if decided.works.is_empty() && decided.changes.is_empty() {
            return settled;
        }
        let appending = self.books.unwritten.appending(self.doors.extent().last);
        let writes_znodes = decided.works.iter().any(|work| matches!(work.write.task, Task::Znode { .. }));
        let milestone = async {
            if !writes_znodes {
                return Err(Delay::None);
            }
            match self.doors.leave_milestone().await {
                Ok(left) => left.ok_or(Delay::None),
                Err(error) => {
                    self.failed(&error);
                    Err(Delay::Redis)
                }
            }
        };
        // Beside the append, which takes as long.
        let (recorded, left) = futures::join!(self.put_on_stream(&mut decided), milestone);
        let Decided { mut works, captured, .. } = decided;
        let Some((changes, position)) = recorded else {
            self.books.conclusion.count_missed();
            for work in works {
                self.end(work.pair, work.write.not_recorded(), None);
            }
            for Captured { pair, .. } in captured {
                let end = pair.observed.not_recorded();
                self.end(pair, end, None);
            }
            return settled;
        };
        self.note_recorded(&changes, position, &works);
        drop(appending);
        for Captured { pair, had_value, index, state } in captured {
            let has_value = changes.get(index).is_some_and(|change| change.after.is_some());
            self.recorder.note_on_record(&pair.name, state);
            self.end(pair, End::OnRecord { had_value, has_value }, None);
        }
        for work in &mut works {
            self.read_back(work).await;
        }
        let begun = Instant::now();
        let (to_redis, to_zookeeper): (Vec<Work>, Vec<Work>) =
            works.into_iter().partition(|work| matches!(work.write.task, Task::Redis { .. }));
        let to_zookeeper = self.after_milestone(to_zookeeper, left);
        futures::join!(self.apply_redis(to_redis, &changes, position), self.apply_zookeeper(to_zookeeper, &changes));
        self.books.metrics.apply_seconds.observe(begun.elapsed().as_secs_f64());
        settled
    }

    /// Asks the stream, once for all of them, what it has last of those pairs that are compared with that.
    async fn with_newest(&self, mut observed: Vec<Loaded>) -> Vec<Loaded> {
        let needs = |pair: &&mut Loaded| {
            let route = self.spec.route(pair.hint.route);
            route.is_some_and(|route| self.recorder.needs_newest(pair, pair.observed.plan(&route.policy)))
        };
        let asking: Vec<&mut Loaded> = observed.iter_mut().filter(needs).collect();
        if !asking.is_empty() {
            let newest = self.doors.newest_of(asking.iter().map(|pair| pair.pair.clone()).collect()).await;
            let newest = newest.into_iter().flatten();
            asking.into_iter().zip(newest).for_each(|(pair, newest)| pair.newest = Some(newest));
        }
        observed
    }

    /// Applies the end of a pair's round.
    pub(super) fn end(&self, loaded: Loaded, end: End, misfit: Option<Misfit>) {
        let Loaded { name, hint, pair, .. } = loaded;
        end.settle(&mut PairInBooks { rounds: self, name, hint, pair: &pair, misfit, settled: None });
    }

    /// Notes which records are still to be written. A record without a write describes a state that both stores already have.
    fn note_recorded(&self, changes: &[Change], first: Position, works: &[Work]) {
        for change in changes {
            if let Some(name) = change.pair.redis.as_deref() {
                self.books.unwritten.settled(name);
            }
        }
        for work in works {
            match (&work.change, work.change.get(changes, first)) {
                (Written::Restored(position, _), _) => self.books.unwritten.restored(&work.pair.name, *position),
                (_, Some((_, position))) => self.books.unwritten.recorded(&work.pair.name, position),
                (_, None) => {}
            }
        }
    }

    /// Keeps the works for which the milestone was written after the read. `Err`: none was written, and how long the others wait.
    fn after_milestone(&self, works: Vec<Work>, left: Result<LeftMilestone, Delay>) -> Vec<Work> {
        let delay = left.err().unwrap_or(Delay::None);
        let mut behind = Vec::with_capacity(works.len());
        for Work { pair, write, change } in works {
            match write.milestone_written(left.ok(), delay) {
                ControlFlow::Continue(write) => behind.push(Work { pair, write, change }),
                ControlFlow::Break(end) => self.end(pair, end, None),
            }
        }
        behind
    }

    /// Takes the message from the existing record, even if this try decided another operation (`c` by the first try, `u` by the
    /// next). If the record cannot be read now, the present decision stands for it: the state is the same.
    async fn read_back(&self, work: &mut Work) {
        let publishes = self.spec.route(work.pair.hint.route).is_some_and(|route| route.publish.is_some());
        let is_write = matches!(work.write.task, Task::Redis { op: KeyOp::Set | KeyOp::Delete, .. });
        if let Written::Recorded(position, change) = &mut work.change
            && publishes
            && is_write
            && !planted!("a message is what was decided, and not what was recorded")
            && let Some(recorded) = self.doors.record_at(*position).await
        {
            **change = recorded;
        }
    }

    /// Records the changes and answers with them and the position of the first; `None` if the stream takes nothing now.
    /// A change that is larger than it takes is left out, and its pair, with its work, quarantined.
    async fn put_on_stream(&self, decided: &mut Decided) -> Option<(Arc<Vec<Change>>, Position)> {
        let mut changes = std::mem::take(&mut decided.changes);
        loop {
            let shared = Arc::new(changes);
            if shared.is_empty() {
                return Some((shared, 0));
            }
            match self.doors.append(Arc::clone(&shared)).await {
                Ok(first) => {
                    crash_point!("c5-recorded");
                    self.recorder.recorded(&shared);
                    return Some((shared, first));
                }
                Err(StreamError::TooLarge { index, text }) if index < shared.len() => {
                    changes = Arc::unwrap_or_clone(shared);
                    let change = changes.remove(index);
                    match decided.take_out(index) {
                        Some((pair, end)) => self.end(pair, end, Some(("too_large", text))),
                        None => self.too_large(&change, &text),
                    }
                }
                Err(error) => {
                    self.recorder.not_recorded(&error);
                    return None;
                }
            }
        }
    }

    /// Quarantines the pair of a change that the stream does not take.
    pub(super) fn too_large(&self, change: &Change, text: &str) {
        let route = self.spec.settings.routes.iter().position(|route| route.name == change.route);
        let path = change.pair.zookeeper.as_ref().map(String::as_bytes);
        if let (Some(route), Some(name)) = (route, change.pair.redis.as_deref().or(path)) {
            self.quarantine(name, route, &change.pair, "too_large", text);
        }
    }

    /// Plans one pair and turns the action into work.
    fn decide(&self, pair: Loaded, decided: &mut Decided, settled: &mut Settled) {
        let Some(route) = self.spec.route(pair.hint.route) else { return self.books.dirty.finish(pair.name, None) };
        let action = pair.observed.plan(&route.policy);
        mark!(word_of(action));
        self.books.conclusion.forget_stranded(&pair.name);
        if action != Action::Nothing {
            tracing::debug!(pair = ?pair.pair, ?action, "planned");
        }
        self.recorder.count_lost(&pair, action);
        let facts = self.facts_of(&pair, route);
        let decision = pair.observed.decide(action, &facts);
        let misfit = facts.too_large.into_inner().map(|detail| ("too_large", detail));
        match decision {
            Decision::End(end) => {
                match end {
                    End::AsItIs { .. } => decided.changes.extend(self.record_as_it_is(&pair, route)),
                    End::Lost(_) => settled.acted += u64::from(!pair.observed.comparing),
                    End::Again(_) => settled.acted += self.counts(&pair),
                    _ => {}
                }
                let ended = Ended { item: Item { name: pair.name, hint: pair.hint, pair: pair.pair }, end, misfit };
                self.settle_ended(ended, Some(settled));
            }
            Decision::Capture(from) => self.capture(pair, from, decided, settled),
            Decision::Write(recording, write) => {
                settled.acted += self.counts(&pair);
                let mut pair = pair;
                let entry = match recording {
                    Record::Nothing => self.recorder.gone_record(&pair, route).map_or(Entry::Nothing, Entry::New),
                    Record::Agreed => self.recorder.agreed_record(&pair, route).map_or(Entry::Nothing, Entry::New),
                    Record::Change(from, verdict) => {
                        record(&self.recorder, Recording { from, seen: &mut pair, route, verdict })
                    }
                };
                let change = match entry {
                    Entry::Nothing => Written::Nothing,
                    Entry::New(change) => Written::New(decided.push(change)),
                    Entry::Recorded(position, change) if self.is_written(&pair.name, position) => {
                        Written::Restored(position, Box::new(change))
                    }
                    Entry::Recorded(position, change) => Written::Recorded(position, Box::new(change)),
                };
                let is_change = matches!(recording, Record::Change(..)) && !matches!(change, Written::Nothing);
                if is_change {
                    // What was counted of the key is in the record.
                    pair.hint.writes = 0;
                }
                let write = if is_change { write.with_change() } else { write };
                decided.works.push(Work { pair, write, change });
            }
        }
    }

    /// Whether the pair's newest record is known to have been written: of one in quarantine as well, unless it waits for that.
    fn is_written(&self, name: &[u8], position: Position) -> bool {
        self.books.unwritten.was_written(name).unwrap_or_else(|| !self.books.lag.is_before(position))
    }

    /// Records the state of a pair of a capture, unless it is the newest there.
    fn capture(&self, mut pair: Loaded, from: Side, decided: &mut Decided, settled: &mut Settled) {
        let Some(route) = self.spec.route(pair.hint.route) else { return self.books.dirty.finish(pair.name, None) };
        if self.recorder.is_on_record(&pair, from) {
            return self.end(pair, End::OnRecord { had_value: true, has_value: true }, None);
        }
        let state = Recorder::state_of(&pair, from);
        let (had_value, change) = self.recorder.captured(from, &mut pair, route);
        match change {
            Some(change) => {
                settled.acted += self.counts(&pair);
                // From here on until it is recorded, nobody knows which state the stream has last: an append that fails may be there.
                self.recorder.note_on_record(&pair.name, None);
                let index = decided.push(change);
                decided.captured.push(Captured { pair, had_value, index, state });
            }
            None => {
                self.recorder.note_on_record(&pair.name, state);
                self.end(pair, End::OnRecord { had_value, has_value: had_value }, None);
            }
        }
    }

    /// A stream that begins anew gets one record a pair, one that was left behind what it lacks.
    fn record_as_it_is(&self, pair: &Loaded, route: &Route) -> Option<Change> {
        let news = pair.observed.news;
        let change = match pair.observed.comparing {
            true if !self.doors.is_on_stream(&pair.pair) => self.recorder.first_record(pair, route),
            // What was recorded and could not be written may have been taken back since.
            _ if news.approved || news.unwritten || news.znode_deleted || self.books.may_lag(&pair.name) => {
                self.recorder.late_record(pair, route)
            }
            _ => None,
        };
        if change.is_none() {
            self.books.unwritten.settled(&pair.name);
        }
        change
    }

    /// A pair in quarantine is tried again by each comparison, and is no reason for another one: `run --once` would never end.
    fn counts(&self, pair: &Loaded) -> u64 {
        u64::from(!self.books.quarantine.holds(&pair.name))
    }

    /// Whether Redis has room for a key that is restored; `Err`: how long to wait for it.
    pub(super) fn room(&self) -> Result<(), Duration> {
        if !self.books.pressure.is_felt() {
            return Ok(());
        }
        let taken = self.books.pressure.take();
        if taken.is_err() && self.books.pressure.is_tight() {
            let store = self.spec.store_name(Side::Redis);
            self.books.health.block(
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
        let turn = self.books.dirty.turn();
        let mut items = Vec::new();
        for (name, route) in names {
            self.books.quarantine.drop_pair(&name);
            let mapped = self.spec.map.of_key(&name).filter(|_| self.spec.captures().is_none());
            let hint = Hint::new(route);
            let is_free = self.books.dirty.try_take(&turn, &mut std::iter::once((&name, hint))).first() == Some(&true);
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
            let again = again.map(|again| (item.hint.with(again.news), self.delay_of(again.delay)));
            self.books.dirty.finish(item.name, again);
        }
    }
}

/// Each arm of the plan, by a word.
#[cfg(feature = "failpoints")]
fn word_of(action: Action) -> &'static str {
    match action {
        Action::Nothing => "plan: nothing",
        Action::Agree => "plan: agree",
        Action::Forget => "plan: forget",
        Action::KeepApart => "plan: keep apart",
        Action::Leave => "plan: leave",
        Action::ToRedis(None) => "plan: to redis",
        Action::ToRedis(Some(_)) => "plan: to redis, conflict",
        Action::ToZookeeper(None) => "plan: to zookeeper",
        Action::ToZookeeper(Some(_)) => "plan: to zookeeper, conflict",
        Action::Quarantine => "plan: quarantine",
        Action::NotOurs => "plan: not ours",
        Action::Lost(_) => "plan: lost",
        Action::Record(_) => "plan: record",
    }
}
