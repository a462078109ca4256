//! What an opening knows of its topic: the index, the ends, the fences, and whether it is still of use.

use super::index::{Index, Note};
use super::reader::Reader;
use super::record::{Entry, Fence, Fences, Incoming, pair_key};
use super::settings::Settings;
use super::wire::Wire;
use crate::change::{KeyedHash, Op, Pair, Position};
use crate::env::{self, Map};
use crate::stream::{Extent, Latest, Recorded, StreamError, Whole};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Records that cannot be read are each told up to this number; then they are counted.
const TOLD_MAX: u64 = 100;

/// See the module.
pub(super) struct Core {
    pub settings: Settings,
    pub wire: Wire,
    state: Mutex<State>,
    /// Position of the newest record.
    pub newest: watch::Sender<Position>,
    lost: watch::Sender<Option<StreamError>>,
    record_bytes_max: AtomicUsize,
    is_limit_asked: AtomicBool,
}

#[derive(Default)]
struct State {
    index: Index,
    fences: Fences,
    /// Of this opening, from its marker on.
    own: Option<Fence>,
    /// What the newest marker of an owner says of it.
    whole: Whole,
    /// Position of the first record that is there.
    first: Position,
    /// One past the newest record.
    next: Position,
    full_from: Position,
    full_from_ms: i64,
    first_ms: i64,
    /// Places between our own that are not ours: from, to (exclusive).
    holes: Vec<(Position, Position)>,
    stale: Map<KeyedHash, Stale>,
    foreign: Option<(Position, String)>,
    damaged: u64,
}

/// A record that was shut out and stands behind the newest valid one of its key.
#[derive(Debug, Clone)]
pub(super) struct Stale {
    pub position: Position,
    pub key: Vec<u8>,
    pub route: String,
}

impl Core {
    pub fn new(settings: Settings, wire: Wire, record_bytes_max: usize) -> Arc<Core> {
        let state = State { first: 1, next: 1, ..State::default() };
        Arc::new(Core {
            settings,
            wire,
            state: Mutex::new(state),
            newest: watch::Sender::new(0),
            lost: watch::Sender::new(None),
            record_bytes_max: AtomicUsize::new(record_bytes_max),
            is_limit_asked: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `from..end` into the index.
    pub fn read_into(&self, reader: &mut Reader, from: Position, end: Position) -> Result<(), StreamError> {
        let mut failed = None;
        let read = reader.each(from, end, |message| {
            let incoming = Incoming::read(message, &self.settings.pipeline, &self.wire);
            match self.apply(incoming) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        reader.rest();
        match failed {
            Some(error) => Err(error),
            None => read.map(|_| ()),
        }
    }

    /// Takes in a record that was read.
    fn apply(&self, incoming: Incoming) -> Result<(), StreamError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let position = incoming.position;
        let mut is_stale = false;
        if let (Some(fence), false) = (incoming.fence, matches!(incoming.entry, Entry::Foreign(_))) {
            if state.own.is_some_and(|own| fence > own) {
                let topic = &self.settings.topic;
                let why =
                    format!("another owner (epoch {}) writes topic {topic} since position {position}", fence.epoch);
                return Err(StreamError::Lost(why));
            }
            is_stale = state.fences.shuts_out(position, fence);
            if !is_stale {
                state.fences.note(position, fence);
            }
        }
        let complaint = incoming.complaint(&self.settings.topic);
        match incoming.entry {
            Entry::Away(why) => return Err(StreamError::Unavailable(why)),
            Entry::Owner if is_stale => {}
            Entry::Owner => state.whole = incoming.whole,
            Entry::Foreign(other) => {
                state.foreign.get_or_insert((position, other));
            }
            Entry::Damaged(_) => {
                state.damaged += 1;
                if state.damaged <= TOLD_MAX {
                    tracing::error!("{}; the others flow", complaint.unwrap_or_default());
                }
            }
            Entry::Change(change) if change.op == Op::Marker => {}
            Entry::Change(_) | Entry::Tombstone if is_stale => {
                let hash = KeyedHash::of(&incoming.key);
                if state.index.position(hash).is_none_or(|newest| newest < position) {
                    let route = match &incoming.entry {
                        Entry::Change(change) => change.route.clone(),
                        _ => String::new(),
                    };
                    state.stale.insert(hash, Stale { position, key: incoming.key, route });
                }
            }
            Entry::Change(change) => {
                let note = Note::of(&incoming.key, &change);
                state.index.note(position, &note, change.after.as_deref());
                if state.stale.get(&note.hash).is_some_and(|stale| stale.position < position) {
                    state.stale.remove(&note.hash);
                }
            }
            Entry::Tombstone => {
                let hash = KeyedHash::of(&incoming.key);
                state.index.end(position, hash);
                if state.stale.get(&hash).is_some_and(|stale| stale.position < position) {
                    state.stale.remove(&hash);
                }
            }
        }
        Ok(())
    }

    /// One of our records has its place.
    pub fn acknowledged(
        &self,
        position: Position,
        note: Option<&Note>,
        value: Option<&[u8]>,
    ) -> Result<(), StreamError> {
        let mut state = self.state();
        if position < state.next {
            let (topic, last) = (&self.settings.topic, state.next - 1);
            return Err(StreamError::Lost(format!(
                "topic {topic} was deleted or truncated: a record came to position {position}, and the last was at {last}; \
                 its history is lost"
            )));
        }
        // Who owns nothing has no records of its own that others stand between.
        if position > state.next && state.own.is_some() {
            let hole = (state.next, position);
            state.holes.push(hole);
        }
        if let Some(own) = state.own {
            state.fences.note(position, own);
        }
        state.next = position + 1;
        if state.first_ms == 0 {
            // The first record of an empty topic: a look at the topic tells it to the millisecond, within a minute.
            (state.first_ms, state.full_from_ms) = (env::unix_ms(), env::unix_ms());
        }
        if let Some(note) = note {
            state.index.note(position, note, value);
        }
        drop(state);
        self.newest.send_replace(position);
        Ok(())
    }

    /// The fence of an owner of this epoch, which is to begin.
    pub fn raise(&self, epoch: i64) -> Result<Fence, StreamError> {
        let mut state = self.state();
        let newest = state.fences.newest();
        let fence = match newest {
            Some(newest) if newest.epoch > epoch => {
                return Err(StreamError::Lost(format!(
                    "topic {} has an owner of epoch {}, and this one is of epoch {epoch}",
                    self.settings.topic, newest.epoch
                )));
            }
            Some(newest) if newest.epoch == epoch => Fence { epoch, session: newest.session.saturating_add(1) },
            _ => Fence { epoch, session: 1 },
        };
        state.own = Some(fence);
        Ok(fence)
    }

    pub fn own(&self) -> Option<Fence> {
        self.state().own
    }

    pub fn whole(&self) -> Whole {
        self.state().whole
    }

    pub fn set_whole(&self, whole: Whole) {
        self.state().whole = whole;
    }

    pub fn newest_fence(&self) -> Option<Fence> {
        self.state().fences.newest()
    }

    pub fn fences(&self) -> Fences {
        self.state().fences.clone()
    }

    pub fn foreign(&self) -> Option<(Position, String)> {
        self.state().foreign.clone()
    }

    pub fn next(&self) -> Position {
        self.state().next
    }

    pub fn first(&self) -> Position {
        self.state().first
    }

    /// The ends, as the broker tells them.
    pub fn set_bounds(&self, first: Position, end: Position) {
        let mut state = self.state();
        state.first = first;
        state.next = end;
        drop(state);
        self.newest.send_replace(end.saturating_sub(1));
    }

    /// The ends as an opening for reading only sees them again.
    pub fn see_bounds(&self, first: Position, end: Position) -> Result<(), StreamError> {
        let known = self.next();
        if end < known {
            let (topic, is, was) = (&self.settings.topic, end - 1, known - 1);
            let why =
                format!("topic {topic} ends at position {is}, and it ended at {was}: it was deleted or truncated");
            return Err(StreamError::Lost(why));
        }
        self.set_bounds(first, end);
        Ok(())
    }

    /// Looks from where on history is whole: compaction leaves alone what is younger than `age`.
    pub fn look_at_age(&self, reader: &mut Reader) -> Result<(), StreamError> {
        let whole = reader.position_at(env::unix_ms().saturating_sub(self.settings.age_ms()))?;
        let (first, end) = {
            let state = self.state();
            (state.first, state.next)
        };
        let full_from = whole.unwrap_or(end).clamp(first, end.max(first));
        let mut full_from_ms = 0;
        if full_from < end {
            reader.each(full_from, end, |message| {
                full_from_ms = rdkafka::message::Message::timestamp(message).to_millis().unwrap_or(0);
                ControlFlow::Break(())
            })?;
            reader.rest();
        }
        let mut first_ms = full_from_ms;
        if first < full_from {
            reader.each(first, end, |message| {
                first_ms = rdkafka::message::Message::timestamp(message).to_millis().unwrap_or(0);
                ControlFlow::Break(())
            })?;
            reader.rest();
        }
        let mut state = self.state();
        state.first_ms = first_ms;
        state.full_from = full_from;
        state.full_from_ms = full_from_ms;
        Ok(())
    }

    pub fn extent(&self) -> Extent {
        let state = self.state();
        if state.next <= state.first {
            let last = state.next.saturating_sub(1);
            return Extent { last, ..Extent::default() };
        }
        Extent {
            first: state.first,
            first_ms: state.first_ms,
            last: state.next - 1,
            full_from: state.full_from.max(state.first),
            full_from_ms: state.full_from_ms,
            bytes: 0,
        }
    }

    pub fn knows(&self, hash: KeyedHash) -> bool {
        self.state().index.knows(hash)
    }

    pub fn latest(&self, hash: KeyedHash) -> Option<Latest> {
        self.state().index.latest(hash)
    }

    /// Of these records, in order, the pairs that exist and whose newest record it is.
    pub fn pairs_that_exist(&self, records: Vec<Recorded>) -> Vec<Pair> {
        let state = self.state();
        let is_newest = |recorded: &Recorded| {
            let Recorded { position, change } = recorded;
            let exists = change.op != Op::Marker && change.after.is_some();
            exists && state.index.position(KeyedHash::of(&pair_key(&change.pair))) == Some(*position)
        };
        records.into_iter().filter(is_newest).map(|recorded| recorded.change.pair).collect()
    }

    pub fn position_of(&self, hash: KeyedHash) -> Option<Position> {
        self.state().index.position(hash)
    }

    pub fn has_holes(&self) -> bool {
        !self.state().holes.is_empty()
    }

    pub fn first_hole(&self) -> Option<(Position, Position)> {
        self.state().holes.first().copied()
    }

    pub fn close_hole(&self, hole: (Position, Position)) {
        self.state().holes.retain(|other| *other != hole);
    }

    pub fn take_stale(&self) -> Map<KeyedHash, Stale> {
        std::mem::take(&mut self.state().stale)
    }

    /// What could not be settled is settled later.
    pub fn put_back_stale(&self, stale: Map<KeyedHash, Stale>) {
        let mut state = self.state();
        for (hash, item) in stale {
            state.stale.entry(hash).or_insert(item);
        }
    }

    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, bytes: usize) {
        self.record_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// The broker found a record too large that was not: its limit has changed.
    pub fn ask_limit(&self) {
        self.is_limit_asked.store(true, Ordering::Relaxed);
    }

    pub fn take_limit_asked(&self) -> bool {
        self.is_limit_asked.swap(false, Ordering::Relaxed)
    }

    /// This opening is of no more use.
    pub fn lose(&self, error: StreamError) {
        let is_news = self.lost.send_if_modified(|lost| {
            let is_news = lost.is_none();
            lost.get_or_insert_with(|| error.clone());
            is_news
        });
        if is_news {
            tracing::error!("{error}; the stream is opened anew and both stores are compared with it");
        }
    }

    pub fn lost(&self) -> Option<StreamError> {
        self.lost.borrow().clone()
    }

    pub async fn wait_lost(&self) -> StreamError {
        let mut lost = self.lost.subscribe();
        // The sender lives as long as `self`, so this ends with an error to give.
        let _ = lost.wait_for(Option::is_some).await;
        self.lost().unwrap_or_else(|| StreamError::Lost(String::new()))
    }
}
