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

use crate::plan::Removal;
use hashbrown::{HashMap, HashSet};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a hot pair is held back: a value written a hundred times a second is then copied some twenty times, and its
/// last value still arrives well within 100 ms.
const HOT_HOLD: Duration = Duration::from_millis(40);

/// Hints of one side during one round that make a pair hot. A round's own write gives one or two (notification,
/// tracking) without any application.
const HOT_HINTS: u32 = 4;

/// The name of a pair within its pipeline: the Redis key, or the path where there is no key.
pub type PairName = Box<[u8]>;

/// What is known about a pair that may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Index of the route.
    pub route: usize,
    /// The znode was named.
    pub znode: bool,
    /// The newest event of the znode: its zxid, `i64::MAX` where the server does not tell (before 3.9), 0 without one.
    pub zxid: i64,
    /// The key was named.
    pub key: bool,
    /// Both sides must be read, ZooKeeper after `sync`.
    pub slow: bool,
    /// What the last event of the key says of its disappearance; `None` where tracking alone told.
    pub removal: Option<Removal>,
    /// Name of the key's last event.
    pub event: Option<&'static str>,
    /// Gaps in the events of keys before that event; set by [`DirtySet::note`].
    pub gaps: u64,
    /// Changes of the key that were announced since the pair was last taken.
    pub writes: u32,
    /// All hints since the pair was last taken.
    pub hints: u32,
    /// When the pair was first named.
    pub since: Instant,
    /// When the key was last named by an event, milliseconds since the epoch by our clock; 0 if never.
    pub key_seen_ms: i64,
    /// Times the pair was put back because a decision had to wait.
    pub patience: u8,
    /// The pair's deletes were approved.
    pub approved: bool,
    /// A change of the pair was recorded, and its write is not done yet.
    pub unwritten: bool,
    /// A comparison left the pair to the rounds, and concludes nothing before it is settled ([`DirtySet::owes`]).
    pub owed: bool,
}

impl Hint {
    /// Nothing known yet.
    #[must_use]
    pub fn new(route: usize) -> Hint {
        Hint {
            route,
            znode: false,
            zxid: 0,
            key: false,
            slow: false,
            removal: None,
            event: None,
            gaps: 0,
            writes: 0,
            hints: 0,
            since: Instant::now(),
            key_seen_ms: 0,
            patience: 0,
            approved: false,
            unwritten: false,
            owed: false,
        }
    }

    /// Takes in what is newer.
    fn merge(&mut self, newer: Hint) {
        self.znode |= newer.znode;
        self.zxid = self.zxid.max(newer.zxid);
        self.key |= newer.key;
        self.slow |= newer.slow;
        self.take_event(newer);
        self.writes += newer.writes;
        self.hints += newer.hints;
        self.since = self.since.min(newer.since);
        self.key_seen_ms = self.key_seen_ms.max(newer.key_seen_ms);
        self.patience = self.patience.max(newer.patience);
        self.approved |= newer.approved;
        self.unwritten |= newer.unwritten;
        self.owed |= newer.owed;
    }

    fn take_event(&mut self, newer: Hint) {
        if newer.key && newer.event.is_some() {
            (self.event, self.removal, self.gaps) = (newer.event, newer.removal, newer.gaps);
        }
    }
}

/// A pair in a round.
#[derive(Debug, Default)]
struct Busy {
    /// Route and age of what it was taken for; `None` for a comparison, which knows of no change.
    taken: Option<(usize, Instant)>,
    /// What was named meanwhile.
    later: Option<Hint>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<PairName, Hint>,
    ready: VecDeque<PairName>,
    held: BTreeMap<(Instant, u64), PairName>,
    held_count: u64,
    parked: Vec<PairName>,
    busy: HashMap<PairName, Busy>,
    paused: HashSet<usize>,
    /// Times when events of keys may have been lost.
    gaps: u64,
    /// Pairs that a comparison waits for.
    owed: HashSet<PairName>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct DirtySet {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl DirtySet {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a hint. Never waits.
    pub fn note(&self, name: &[u8], hint: Hint) {
        {
            let mut inner = self.inner();
            let hint = Hint { gaps: inner.gaps, ..hint };
            if hint.owed {
                inner.owed.insert(name.into());
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

    /// Takes up to `limit` pairs that are due, first come first, and marks them busy.
    pub fn take(&self, limit: usize) -> Vec<(PairName, Hint)> {
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
            inner.waiting.remove(&name);
            inner.busy.insert(name.clone(), Busy { taken: Some((hint.route, hint.since)), later: None });
            taken.push((name, hint));
        }
        taken
    }

    /// Marks these pairs busy unless they are waiting or busy already; answers those that were marked. For comparisons:
    /// a pair that is waiting or busy is looked at anyway.
    pub fn try_take(&self, names: &mut dyn Iterator<Item = &PairName>) -> Vec<bool> {
        let mut inner = self.inner();
        names
            .map(|name| {
                let is_free = !inner.busy.contains_key(name) && !inner.waiting.contains_key(name);
                if is_free {
                    inner.busy.insert(name.clone(), Busy::default());
                }
                is_free
            })
            .collect()
    }

    /// Ends a pair's round. `again`: what is still to be done, not before the delay.
    pub fn finish(&self, name: PairName, again: Option<(Hint, Duration)>) {
        {
            let mut inner = self.inner();
            let later = inner.busy.remove(&name).and_then(|busy| busy.later);
            if again.is_some_and(|(hint, _)| hint.owed) {
                inner.owed.insert(name.clone());
            } else if again.is_none() && later.is_none_or(|later| !later.owed) {
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

    /// Events of keys may have been lost: what was heard before explains nothing any more.
    pub fn lost_events(&self) {
        self.inner().gaps += 1;
    }

    /// The hint of a pair in a round with the newest event of the key that is known by now, those included that came in since it
    /// was taken; without any if events may have been lost since.
    #[must_use]
    pub fn with_newest_event(&self, name: &[u8], mut hint: Hint) -> Hint {
        let inner = self.inner();
        if let Some(later) = inner.busy.get(name).and_then(|busy| busy.later) {
            hint.take_event(later);
        }
        if hint.gaps != inner.gaps {
            (hint.event, hint.removal) = (None, None);
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
            let later = busy.later.map(|later| (later.route, later.since));
            busy.taken.or(later)
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

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.inner();
        inner.waiting.is_empty() && inner.busy.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(hint: &mut Hint) -> Hint {
        hint.key = true;
        hint.hints = 1;
        *hint
    }

    #[test]
    fn a_pair_is_held_once_and_is_in_one_round_at_a_time() {
        let dirty = DirtySet::default();
        for _ in 0..3 {
            dirty.note(b"a", named(&mut Hint::new(0)));
        }
        let taken = dirty.take(10);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken.first().map(|(_, hint)| hint.hints), Some(3));
        dirty.note(b"a", named(&mut Hint::new(0)));
        assert!(dirty.take(10).is_empty(), "busy");
        dirty.finish(b"a".as_slice().into(), None);
        assert_eq!(dirty.take(10).len(), 1);
        dirty.finish(b"a".as_slice().into(), None);
        assert!(dirty.is_empty());
    }

    #[test]
    fn what_is_under_way_is_pending_until_it_is_finished() {
        let dirty = DirtySet::default();
        dirty.note(b"a", named(&mut Hint::new(0)));
        assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(1));
        assert_eq!(dirty.take(10).len(), 1);
        assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(1), "in its round");
        dirty.finish(b"a".as_slice().into(), None);
        assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(0));
        assert_eq!(dirty.try_take(&mut std::iter::once(&b"b".as_slice().into())), [true]);
        assert_eq!(dirty.pending(1).first().map(|(count, _)| *count), Some(0), "a comparison is no change");
    }

    #[test]
    fn a_hot_pair_is_held_back_and_not_lost() {
        let dirty = DirtySet::default();
        dirty.note(b"a", named(&mut Hint::new(0)));
        assert_eq!(dirty.take(10).len(), 1);
        for _ in 0..HOT_HINTS {
            dirty.note(b"a", named(&mut Hint::new(0)));
        }
        dirty.finish(b"a".as_slice().into(), None);
        assert!(dirty.take(10).is_empty());
        let (due, next) = dirty.due();
        assert_eq!(due, 0);
        assert!(next.is_some_and(|next| next <= HOT_HOLD));
        let asked = Instant::now();
        while dirty.take(10).is_empty() {
            assert!(asked.elapsed() < HOT_HOLD * 10, "it comes back");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_paused_route_keeps_its_hints() {
        let dirty = DirtySet::default();
        dirty.pause(0, true);
        dirty.note(b"a", named(&mut Hint::new(0)));
        dirty.note(b"b", named(&mut Hint::new(1)));
        assert_eq!(dirty.take(10).len(), 1);
        dirty.pause(0, false);
        assert_eq!(dirty.take(10).len(), 1);
    }

    #[test]
    fn an_event_without_a_name_does_not_hide_what_was_said_before() {
        let mut hint = Hint::new(0);
        hint.merge(Hint { key: true, removal: Some(Removal::Expired), event: Some("expired"), ..Hint::new(0) });
        hint.merge(Hint { key: true, ..Hint::new(0) });
        assert_eq!(hint.removal, Some(Removal::Expired));
    }

    #[test]
    fn a_pair_is_owed_until_the_round_that_was_asked_for_has_settled_it() {
        let dirty = DirtySet::default();
        let owed = Hint { owed: true, slow: true, ..Hint::new(0) };
        dirty.note(b"a", Hint::new(0));
        let first = dirty.take(1).remove(0);
        dirty.note(b"a", owed);
        dirty.finish(first.0, None);
        assert!(dirty.owes(), "the round that was under way was not the one that was asked for");
        let (name, hint) = dirty.take(1).remove(0);
        assert!(hint.owed);
        dirty.note(b"a", Hint::new(0));
        dirty.finish(name, Some((hint, Duration::ZERO)));
        assert!(dirty.owes(), "it is to be looked at again");
        let (name, _) = dirty.take(1).remove(0);
        dirty.note(b"a", Hint::new(0));
        dirty.finish(name, None);
        assert!(!dirty.owes(), "what came later is another matter");
    }

    #[test]
    fn a_removal_explains_nothing_once_a_later_event_is_known_or_events_were_lost() {
        let dirty = DirtySet::default();
        let told = |event, removal| Hint { key: true, event: Some(event), removal, ..Hint::new(0) };
        dirty.note(b"a", told("del", Some(Removal::Deleted)));
        let (name, hint) = dirty.take(1).remove(0);
        assert_eq!(dirty.with_newest_event(&name, hint).removal, Some(Removal::Deleted));
        dirty.note(b"a", told("evicted", Some(Removal::Lost)));
        assert_eq!(dirty.with_newest_event(&name, hint).removal, Some(Removal::Lost));
        dirty.lost_events();
        let blind = dirty.with_newest_event(&name, hint);
        assert_eq!((blind.event, blind.removal), (None, None));
        dirty.note(b"a", told("del", Some(Removal::Deleted)));
        assert_eq!(dirty.with_newest_event(&name, hint).removal, Some(Removal::Deleted));
    }
}
