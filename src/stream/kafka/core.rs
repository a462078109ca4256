//! What an opening knows of its topic: the index, the bounds, the fences, and whether the opening
//! is still usable. Its methods are the rules: what follows from a record that was read, from one
//! that was acknowledged, and from what the broker answers about the topic.

use super::index::{Index, Note};
use super::reader::Reader;
use super::record::{self, Entry, Fence, Fences, Incoming, pair_key};
use super::settings::Settings;
use super::topic;
use super::wire::Wire;
use crate::change::{Change, KeyedHash, Op, Pair, Position};
use crate::env::{self, Map};
use crate::stream::{CompleteThrough, Extent, Latest, Recorded, StreamError};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Records that cannot be read are each logged up to this number; then they are counted.
const LOGGED_MAX: u64 = 100;

/// See the module.
pub(super) struct Core {
    pub settings: Settings,
    pub wire: Wire,
    state: Mutex<State>,
    /// Position of the newest record.
    pub newest: watch::Sender<Position>,
    lost: watch::Sender<Option<StreamError>>,
    record_bytes_max: AtomicUsize,
    /// The broker refused a record that is not above the limit, so the limit has changed.
    is_limit_outdated: AtomicBool,
}

#[derive(Default)]
struct State {
    index: Index,
    fences: Fences,
    /// Of this opening, from its marker on.
    own: Option<Fence>,
    /// As the newest marker of an owner has it.
    complete_through: CompleteThrough,
    /// Position of the first record that is there.
    first: Position,
    /// One past the newest record.
    next: Position,
    full_from: Position,
    full_from_ms: i64,
    first_ms: i64,
    /// Positions between our own records that others wrote and that are not read yet: from, to
    /// (exclusive).
    unread: Vec<(Position, Position)>,
    stale: Map<KeyedHash, Stale>,
    /// The first record of another pipeline, and the name of that pipeline.
    other_pipeline: Option<(Position, String)>,
    damaged: u64,
}

/// A record that was shut out and follows the newest valid one of its key.
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
            is_limit_outdated: AtomicBool::new(false),
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

    /// Adds a record that was read to the index, and its fence to the fences.
    fn apply(&self, incoming: Incoming) -> Result<(), StreamError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let position = incoming.position;
        let mut is_stale = false;
        if let (Some(fence), false) = (incoming.fence, matches!(incoming.entry, Entry::OtherPipeline(_))) {
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
            Entry::Owner => state.complete_through = incoming.complete_through,
            Entry::OtherPipeline(other) => {
                state.other_pipeline.get_or_insert((position, other));
            }
            Entry::Damaged(_) => {
                state.damaged += 1;
                if state.damaged <= LOGGED_MAX {
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
        // An opening that owns nothing need not know what others wrote between its records.
        if position > state.next && state.own.is_some() {
            let unread = (state.next, position);
            state.unread.push(unread);
        }
        if let Some(own) = state.own {
            state.fences.note(position, own);
        }
        state.next = position + 1;
        if state.first_ms == 0 {
            // The first record of an empty topic: within a minute `look_at_age` reads its time to
            // the millisecond.
            (state.first_ms, state.full_from_ms) = (env::unix_ms(), env::unix_ms());
        }
        if let Some(note) = note {
            state.index.note(position, note, value);
        }
        drop(state);
        self.newest.send_replace(position);
        Ok(())
    }

    /// Claims the next fence for an owner of this epoch, which is to begin.
    pub fn claim_fence(&self, epoch: i64) -> Result<Fence, StreamError> {
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

    pub fn complete_through(&self) -> CompleteThrough {
        self.state().complete_through
    }

    /// A marker with this is on the topic.
    pub fn note_complete_through(&self, complete: CompleteThrough) {
        self.state().complete_through = complete;
    }

    /// The newest epoch of an owner; 0 if there was none.
    pub fn newest_epoch(&self) -> i64 {
        self.state().fences.newest().map_or(0, |fence| fence.epoch)
    }

    pub fn fences(&self) -> Fences {
        self.state().fences.clone()
    }

    /// Refuses a topic on which another pipeline has written.
    pub fn refuse_other_pipeline(&self) -> Result<(), StreamError> {
        match &self.state().other_pipeline {
            Some((position, other)) => Err(topic::of_another(&self.settings, *position, other)),
            None => Ok(()),
        }
    }

    /// Logs that another pipeline writes on the topic as well, if one does.
    pub fn report_other_pipeline(&self) {
        if let Some((position, other)) = &self.state().other_pipeline {
            tracing::error!(
                "pipeline `{other}` writes topic {} as well, since position {position}: give it another topic",
                self.settings.topic
            );
        }
    }

    /// One past the newest record.
    pub fn end(&self) -> Position {
        self.state().next
    }

    /// The positions that this opening knows of: the first record that is there, and one past the
    /// newest.
    pub fn bounds(&self) -> (Position, Position) {
        let state = self.state();
        (state.first, state.next)
    }

    /// Sets the bounds to what the broker answered, at the opening.
    pub fn begin_with_bounds(&self, first: Position, end: Position) {
        let mut state = self.state();
        state.first = first;
        state.next = end;
        drop(state);
        self.newest.send_replace(end.saturating_sub(1));
    }

    /// Moves the bounds on to what the broker answers now: of an opening for reading only.
    pub fn follow_bounds(&self, first: Position, end: Position) -> Result<(), StreamError> {
        self.check_end(self.end(), end)?;
        self.begin_with_bounds(first, end);
        Ok(())
    }

    /// A topic does not end before where it ended once.
    fn check_end(&self, known: Position, end: Position) -> Result<(), StreamError> {
        if end >= known {
            return Ok(());
        }
        let (topic, is, was) = (&self.settings.topic, end - 1, known - 1);
        let why = format!("topic {topic} ends at position {is}, and it ended at {was}: it was deleted or truncated");
        Err(StreamError::Lost(why))
    }

    /// Compares the topic with what this opening knows of it: whether it is there with all its
    /// records, what the largest record is if that has changed, and whether a newer owner writes,
    /// which ends this opening.
    pub fn check_topic(&self, reader: &mut Reader) -> Result<(), StreamError> {
        let topic = &self.settings.topic;
        // Asked first: what is appended while the broker answers is beyond its answer.
        let (known_first, known_end) = self.bounds();
        if reader.partitions()?.is_none() {
            return Err(StreamError::Lost(format!("topic {topic} is gone: it was deleted; its history is lost")));
        }
        let (first, end) = reader.bounds()?;
        self.check_end(known_end, end)?;
        if first > known_first {
            let why = format!("records of topic {topic} before position {first} were deleted; their history is lost");
            return Err(StreamError::Lost(why));
        }
        if self.is_limit_outdated.swap(false, Ordering::Relaxed) {
            let limit = topic::prepare(&self.settings, reader)?.record_bytes_max;
            self.record_bytes_max.store(limit, Ordering::Relaxed);
        }
        self.look_for_newer_owner(reader, known_end, end)
    }

    /// Reads the fences of these records: our own that are under way, or somebody else's.
    fn look_for_newer_owner(&self, reader: &mut Reader, from: Position, end: Position) -> Result<(), StreamError> {
        let Some(own) = self.state().own.filter(|_| from < end) else { return Ok(()) };
        let mut newer = None;
        reader.each(from, end, |message| {
            let fence = record::fence_of(message, &self.settings.pipeline);
            newer = newer.or(fence.filter(|fence| *fence > own));
            ControlFlow::Continue(())
        })?;
        reader.rest();
        if let Some(fence) = newer {
            let (epoch, topic) = (fence.epoch, &self.settings.topic);
            self.lose(StreamError::Lost(format!("another owner (epoch {epoch}) writes topic {topic} now")));
        }
        Ok(())
    }

    /// Finds the position from which on every record is still there: compaction leaves records
    /// alone that are younger than `age`.
    pub fn look_at_age(&self, reader: &mut Reader) -> Result<(), StreamError> {
        let young = reader.position_at(env::unix_ms().saturating_sub(self.settings.age_ms()))?;
        let (first, end) = self.bounds();
        let full_from = young.unwrap_or(end).clamp(first, end.max(first));
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

    /// Whether others wrote between our own records, and that is not read yet.
    pub fn has_unread(&self) -> bool {
        !self.state().unread.is_empty()
    }

    /// Reads what others wrote between our own records. After an error the next call goes on with
    /// what is left; a newer owner among the writers ends this opening.
    pub fn read_unread(&self, reader: &mut Reader) -> Result<(), StreamError> {
        loop {
            let Some((from, end)) = self.state().unread.first().copied() else { return Ok(()) };
            let read = self.read_into(reader, from, end);
            if let Err(error @ StreamError::Lost(_)) = &read {
                self.lose(error.clone());
            }
            read?;
            self.state().unread.retain(|range| *range != (from, end));
        }
    }

    /// Takes the pairs whose newest record is of a shut-out owner. They are requeued unless they
    /// are recorded once more.
    pub fn take_stale(&self) -> Map<KeyedHash, Stale> {
        std::mem::take(&mut self.state().stale)
    }

    /// The newest valid change of each of these pairs, if there is one. Pairs that a newer valid
    /// record follows are left out.
    pub fn newest_valid(
        &self,
        reader: &mut Reader,
        stale: Vec<Stale>,
    ) -> Result<Vec<(Stale, Option<Change>)>, StreamError> {
        let mut found = Vec::with_capacity(stale.len());
        for item in stale {
            let newest = self.state().index.position(KeyedHash::of(&item.key));
            match newest {
                Some(newest) if newest > item.position => {}
                Some(newest) => {
                    let change = self.read_one(reader, newest)?;
                    found.push((item, change));
                }
                None => found.push((item, None)),
            }
        }
        Ok(found)
    }

    fn read_one(&self, reader: &mut Reader, position: Position) -> Result<Option<Change>, StreamError> {
        let mut found = None;
        reader.each(position, position + 1, |message| {
            if let Entry::Change(change) = Incoming::read(message, &self.settings.pipeline, &self.wire).entry {
                found = Some(*change);
            }
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Requeues pairs that could not be recorded once more.
    pub fn requeue_stale(&self, stale: Map<KeyedHash, Stale>) {
        let mut state = self.state();
        for (hash, item) in stale {
            state.stale.entry(hash).or_insert(item);
        }
    }

    pub fn record_bytes_max(&self) -> usize {
        self.record_bytes_max.load(Ordering::Relaxed)
    }

    /// The broker refused a record as too large that is not above the limit: the next check of the
    /// topic asks for the limit.
    pub fn doubt_limit(&self) {
        self.is_limit_outdated.store(true, Ordering::Relaxed);
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
