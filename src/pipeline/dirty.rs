//! The dirty set: pairs that may have changed, each held once however often it is named.
//!
//! ```text
//!   hint --> waiting --take--> busy --finish--> gone, or waiting again if it was named meanwhile
//! ```
//!
//! Memory is bounded by the number of pairs, never by the number of changes, and noting a hint never waits, so a slow
//! sink cannot push back into a socket that would then drop events. A pair is in one round at a time, which keeps the
//! order of its changes. A pair that was named several times while its round was under way is hot: it is held back for
//! a moment, so that its values collapse here and not in the store.
//!
//! Whoever takes pairs holds a [`Turn`]: what it has not finished when that is dropped (a panic, a round that is cut off) goes back.

use super::hint::{Gaps, Hint, News, PairName};
use crate::change::Side;
use crate::env::{Instant, Map, Set, lock};
use crate::failpoint::planted;
use crate::plan::{Removal, Reported};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a hot pair is held back: a value written a hundred times a second is then copied some twenty times, and its
/// last value still arrives well within 100 ms.
const HOT_HOLD: Duration = Duration::from_millis(40);

/// Hints of one side during one round that make a pair hot. A round's own write gives one or two (notification,
/// tracking) without any application.
const HOT_HINTS: u32 = 4;

/// Pause before pairs are looked at again that a round did not finish: one that ends by a panic prints a report each time.
const PUT_BACK: Duration = Duration::from_secs(1);

/// Pairs that have lost their base, or were found without one and without a znode: nothing shows of such a pair whether what is read
/// of its znode is older than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gone {
    /// How many times it happened.
    pub count: u64,
    /// The newest zxid seen when it last did.
    pub zxid: i64,
}

/// A pair in a round.
#[derive(Debug)]
struct Busy {
    /// What it was taken for.
    hint: Hint,
    /// A comparison took it, which knows of no change.
    is_compared: bool,
    /// Whose it is.
    turn: u64,
    /// What was named meanwhile.
    later: Option<Hint>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Map<PairName, Hint>,
    ready: VecDeque<PairName>,
    held: BTreeMap<(Instant, u64), PairName>,
    held_count: u64,
    parked: Vec<PairName>,
    busy: Map<PairName, Busy>,
    paused: Set<usize>,
    gaps: Gaps,
    gone: Gone,
    /// Pairs that a comparison waits for, with their routes.
    owed: Map<PairName, usize>,
    /// Pairs that the last comparison left to the rounds, by route, settled or not.
    left: Map<usize, u64>,
    turns: u64,
    /// Pairs that each turn has still to finish.
    unfinished: Map<u64, usize>,
}

impl Inner {
    fn owe(&mut self, name: &[u8], route: usize) {
        if self.owed.insert(name.into(), route).is_none() {
            *self.left.entry(route).or_default() += 1;
        }
    }

    /// Marks a pair busy.
    fn begin(&mut self, name: PairName, hint: Hint, is_compared: bool, turn: u64) {
        self.busy.insert(name, Busy { hint, is_compared, turn, later: None });
        *self.unfinished.entry(turn).or_default() += 1;
    }

    /// Ends a pair's round; answers what was named meanwhile.
    fn end(&mut self, name: &[u8]) -> Option<Hint> {
        let busy = self.busy.remove(name)?;
        if let Some(count) = self.unfinished.get_mut(&busy.turn) {
            *count -= 1;
            if *count == 0 {
                self.unfinished.remove(&busy.turn);
            }
        }
        busy.later
    }
}

/// The pairs that one round, or one batch of a comparison, has taken. Dropping it puts back what was not finished.
#[derive(Debug)]
pub struct Turn {
    dirty: Arc<DirtySet>,
    number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.dirty.put_back(self.number, std::thread::panicking());
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct DirtySet {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl DirtySet {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Notes a hint. Never waits.
    pub fn note(&self, name: &[u8], hint: Hint) {
        {
            let mut inner = self.inner();
            let key_deleted = matches!(hint.news.removal, Some(Removal::Deleted | Removal::Expired));
            let news = News { key_deleted, ..hint.news };
            let hint = Hint { news, gaps: inner.gaps.key, named_after: inner.gaps, ..hint };
            if hint.news.owed {
                inner.owe(name, hint.route);
            }
            if let Some(busy) = inner.busy.get_mut(name) {
                match &mut busy.later {
                    Some(known) => known.merge(hint),
                    later @ None => *later = Some(hint),
                }
                return;
            }
            if let Some(known) = inner.waiting.get_mut(name) {
                known.merge(hint);
                return;
            }
            inner.waiting.insert(name.into(), hint);
            inner.ready.push_back(name.into());
        }
        self.changed.notify_one();
    }

    /// Begins a turn at pairs.
    #[must_use]
    pub fn turn(self: &Arc<Self>) -> Turn {
        let mut inner = self.inner();
        inner.turns += 1;
        Turn { dirty: Arc::clone(self), number: inner.turns }
    }

    /// What this turn has not finished is looked at again, by the slow path; after a panic each pair by itself, so that only the
    /// one that caused it meets it again.
    fn put_back(&self, turn: u64, panicked: bool) {
        let left: Vec<(PairName, Hint)> = {
            let mut inner = self.inner();
            if inner.unfinished.remove(&turn).is_none() {
                return;
            }
            let of_turn = inner.busy.iter().filter(|(_, busy)| busy.turn == turn);
            let hint = |busy: &Busy| {
                let owed = busy.hint.news.owed || busy.is_compared;
                let news = News { slow: true, owed, ..busy.hint.news };
                Hint { news, alone: busy.hint.alone || panicked, ..busy.hint }
            };
            of_turn.map(|(name, busy)| (name.clone(), hint(busy))).collect()
        };
        if panicked {
            tracing::error!(
                pairs = left.len(),
                "a round ended by a panic; its pairs are looked at again, each by itself"
            );
        }
        for (name, hint) in left {
            self.finish(name, Some((hint, PUT_BACK)));
        }
    }

    /// Takes up to `limit` pairs that are due, first come first, and marks them busy.
    pub fn take(&self, turn: &Turn, limit: usize) -> Vec<(PairName, Hint)> {
        let mut inner = self.inner();
        let now = Instant::now();
        while let Some(entry) = inner.held.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let name = entry.remove();
            inner.ready.push_back(name);
        }
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some(name) = inner.ready.pop_front() else { break };
            let Some(hint) = inner.waiting.get(&name).copied() else { continue };
            if inner.paused.contains(&hint.route) {
                inner.parked.push(name);
                continue;
            }
            if hint.alone && !taken.is_empty() {
                inner.ready.push_front(name);
                break;
            }
            inner.waiting.remove(&name);
            inner.begin(name.clone(), hint, false, turn.number);
            taken.push((name, hint));
            if hint.alone {
                break;
            }
        }
        taken
    }

    /// Marks these pairs busy unless they are waiting or busy already; answers those that were marked. For comparisons:
    /// a pair that is waiting or busy is looked at anyway.
    pub fn try_take(&self, turn: &Turn, pairs: &mut dyn Iterator<Item = (&PairName, Hint)>) -> Vec<bool> {
        let mut inner = self.inner();
        pairs
            .map(|(name, hint)| {
                let is_free = !inner.busy.contains_key(name) && !inner.waiting.contains_key(name);
                if is_free {
                    inner.begin(name.clone(), hint, true, turn.number);
                }
                is_free
            })
            .collect()
    }

    /// A comparison begins: what it leaves to the rounds is counted from here on. Pairs that the one before left are still open.
    pub fn begin_comparison(&self) {
        let mut inner = self.inner();
        let mut left = Map::default();
        for route in inner.owed.values() {
            *left.entry(*route).or_default() += 1;
        }
        inner.left = left;
    }

    /// A comparison leaves a pair to whoever has it, and waits for nobody.
    pub fn leave(&self, name: &[u8], route: usize) {
        let mut inner = self.inner();
        if !inner.owed.contains_key(name) {
            *inner.left.entry(route).or_default() += 1;
        }
    }

    /// By route: pairs that the last comparison left to the rounds, and how many of them are still to be settled.
    #[must_use]
    pub fn left(&self, routes: usize) -> Vec<(u64, u64)> {
        let inner = self.inner();
        let mut left: Vec<(u64, u64)> =
            (0..routes).map(|route| (inner.left.get(&route).copied().unwrap_or(0), 0)).collect();
        for route in inner.owed.values() {
            if let Some((_, open)) = left.get_mut(*route) {
                *open += 1;
            }
        }
        left
    }

    /// Ends a pair's round. `again`: what is still to be done, not before the delay.
    pub fn finish(&self, name: PairName, again: Option<(Hint, Duration)>) {
        self.end(name, again, None);
    }

    /// Ends the round of a pair that has no base any more, and no znode by what was seen up to this zxid. Whoever takes the pair next
    /// finds it counted in [`DirtySet::gone`].
    pub fn finish_gone(&self, name: PairName, zxid: i64) {
        self.end(name, None, Some(zxid));
    }

    /// See [`Gone`].
    #[must_use]
    pub fn gone(&self) -> Gone {
        self.inner().gone
    }

    fn end(&self, name: PairName, again: Option<(Hint, Duration)>, gone: Option<i64>) {
        {
            let mut inner = self.inner();
            if let Some(zxid) = gone {
                inner.gone.count += 1;
                inner.gone.zxid = inner.gone.zxid.max(zxid);
            }
            let later = inner.end(&name).filter(|_| !planted!("a hint during a round is dropped"));
            if let Some((hint, _)) = again.filter(|(hint, _)| hint.news.owed) {
                inner.owe(&name, hint.route);
            } else if again.is_none() && later.is_none_or(|later| !later.news.owed) {
                inner.owed.remove(&name);
            }
            let (hint, delay) = match (again, later) {
                (None, None) => return,
                (None, Some(later)) => {
                    let is_hot = later.hints >= HOT_HINTS;
                    (later, if is_hot { HOT_HOLD } else { Duration::ZERO })
                }
                (Some((hint, delay)), None) => (hint, delay),
                (Some((mut hint, delay)), Some(later)) => {
                    hint.merge(later);
                    (hint, delay)
                }
            };
            inner.waiting.insert(name.clone(), hint);
            if delay.is_zero() {
                inner.ready.push_back(name);
            } else {
                inner.held_count += 1;
                let place = (Instant::now() + delay, inner.held_count);
                inner.held.insert(place, name);
            }
        }
        self.changed.notify_one();
    }

    /// Events of this side may have been lost: what was heard before explains nothing any more.
    pub fn lost_events(&self, side: Side) {
        let gaps = &mut self.inner().gaps;
        match side {
            Side::Zookeeper => gaps.znode += 1,
            Side::Redis => gaps.key += 1,
        }
    }

    /// Moves whenever events may have been lost.
    #[must_use]
    pub fn gaps(&self) -> Gaps {
        self.inner().gaps
    }

    /// Of which side of a pair in a round an event told what is there now. One that was named since the last gap was there since, so
    /// its removal was in between, and its event has come or is on its way. One that was last seen to be removed stays removed.
    #[must_use]
    pub fn reported(&self, name: &[u8], mut hint: Hint) -> Reported {
        let inner = self.inner();
        if let Some(later) = inner.busy.get(name).and_then(|busy| busy.later) {
            hint.take_names(later);
        }
        Reported {
            znode: hint.news.znode && (hint.news.znode_deleted || hint.named_after.znode == inner.gaps.znode),
            key: hint.news.key && (hint.news.key_deleted || hint.named_after.key == inner.gaps.key),
        }
    }

    /// The hint of a pair in a round with the newest event of the key that is known by now, those included that came in since it
    /// was taken; without any if events may have been lost since.
    #[must_use]
    pub fn with_newest_event(&self, name: &[u8], mut hint: Hint) -> Hint {
        let inner = self.inner();
        if let Some(later) = inner.busy.get(name).and_then(|busy| busy.later) {
            hint.take_event(later);
        }
        if hint.gaps != inner.gaps.key {
            (hint.news.event, hint.news.removal) = (None, None);
        }
        hint
    }

    /// Stops or resumes taking pairs of this route.
    pub fn pause(&self, route: usize, paused: bool) {
        {
            let mut inner = self.inner();
            if paused {
                inner.paused.insert(route);
            } else {
                inner.paused.remove(&route);
                let parked = std::mem::take(&mut inner.parked);
                inner.ready.extend(parked);
            }
        }
        self.changed.notify_one();
    }

    /// Pairs that are due now, and how long until the next held one is.
    #[must_use]
    pub fn due(&self) -> (usize, Option<Duration>) {
        let inner = self.inner();
        let now = Instant::now();
        let next = inner.held.first_key_value().map(|((due, _), _)| due.saturating_duration_since(now));
        let due_now = usize::from(next.is_some_and(|next| next.is_zero()));
        (inner.ready.len() + due_now, next)
    }

    /// Waits until something was noted, finished or resumed. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// For each route: pairs that wait or are under way, and the age of the oldest in seconds.
    #[must_use]
    pub fn pending(&self, routes: usize) -> Vec<(u64, f64)> {
        let inner = self.inner();
        let now = Instant::now();
        let mut pending = vec![(0_u64, 0_f64); routes];
        let waiting = inner.waiting.values().map(|hint| (hint.route, hint.since));
        let under_way = inner.busy.values().filter_map(|busy| {
            let hint = if busy.is_compared { busy.later } else { Some(busy.hint) };
            hint.map(|hint| (hint.route, hint.since))
        });
        for (route, since) in waiting.chain(under_way) {
            if let Some((count, oldest)) = pending.get_mut(route) {
                *count += 1;
                *oldest = oldest.max(now.saturating_duration_since(since).as_secs_f64());
            }
        }
        pending
    }

    /// Whether a pair that a comparison left to the rounds is still to be settled.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.inner().owed.is_empty()
    }

    /// Pairs that wait or are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.inner();
        inner.waiting.len() + inner.busy.len()
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.inner();
        inner.waiting.is_empty() && inner.busy.is_empty()
    }
}

#[cfg(test)]
mod tests;
