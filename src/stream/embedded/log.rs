//! The state that all parts of the embedded stream share: the segments, the index of pairs, the
//! damage that was found.

use super::file::{Files, LogFile};
use super::index::{Location, PairIndex};
use super::segment::Segment;
use crate::change::{KeyedHash, Position};
use crate::codec::Decoder;
use crate::env::Map;
use crate::stream::{CompleteThrough, Extent, StreamError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// Sentences on damage that are kept: enough to see what happened, bounded if all of a disk rots.
const DAMAGE_MAX: usize = 1000;

/// The shared half of an [`super::EmbeddedStream`].
pub(super) struct Log {
    pub dir: PathBuf,
    pub files: Files,
    state: RwLock<State>,
    damage: Mutex<Vec<String>>,
    /// What the file beside the segments held when it was last read or written.
    complete_through: Mutex<CompleteThrough>,
    /// The newest position. Changes after `state` does.
    pub newest: watch::Sender<Position>,
}

/// A file that locations in the index point into.
pub(super) struct Opened {
    pub file: Arc<LogFile>,
    /// Pairs whose newest record is in it.
    pub live: u64,
}

/// Segments and index.
#[derive(Default)]
pub(super) struct State {
    /// In the order of their positions; the last one is written to.
    pub segments: Vec<Segment>,
    /// By ordinal. While a segment is rewritten, its old and its new form are both in it.
    pub opened: Map<u32, Opened>,
    pub index: PairIndex,
    /// Whether the last segment was found by this opening and has not been copied yet: the end of
    /// it may not be on the disk (`recover_tail.rs`). Nothing is appended or compacted then.
    pub unverified_tail: bool,
    /// The position of the next record.
    pub next: Position,
    /// The ordinal of the next segment.
    pub next_ordinal: u32,
    pub decoder: Arc<Decoder>,
    /// Files with schemas that `decoder` was made of.
    pub schemas: usize,
}

impl State {
    /// An ordinal that was not used before.
    pub fn new_ordinal(&mut self) -> u32 {
        self.next_ordinal += 1;
        self.next_ordinal
    }

    /// Lets locations point into this segment.
    pub fn open(&mut self, segment: &Segment) {
        self.opened.insert(segment.ordinal, Opened { file: Arc::clone(&segment.file), live: 0 });
    }

    /// Lets everybody use this file for the last segment; its bytes are the same.
    pub fn replace_file(&mut self, file: LogFile) {
        let file = Arc::new(file);
        if let Some(segment) = self.segments.last_mut() {
            if let Some(opened) = self.opened.get_mut(&segment.ordinal) {
                opened.file = Arc::clone(&file);
            }
            segment.file = file;
        }
    }

    /// Sets the newest record of a pair.
    pub fn set_newest(&mut self, pair: Option<KeyedHash>, location: Location) {
        let Some(pair) = pair else { return };
        if let Some(old) = self.index.set(pair, location) {
            self.count(old.ordinal(), -1);
        }
        self.count(location.ordinal(), 1);
    }

    /// Counts pairs whose newest record is in a segment.
    pub fn count(&mut self, ordinal: u32, by: i64) {
        if let Some(opened) = self.opened.get_mut(&ordinal) {
            opened.live = opened.live.saturating_add_signed(by);
        }
    }

    /// Gives up a segment whose file is gone: pairs whose newest record was in it are unknown now,
    /// and will be recorded anew.
    fn lose(&mut self, ordinal: u32) -> Option<PathBuf> {
        let at = self.segments.iter().position(|segment| segment.ordinal == ordinal);
        self.opened.remove(&ordinal);
        self.index.forget_segments(&[ordinal]);
        at.map(|at| self.segments.remove(at).path)
    }

    /// Index of the segment that covers `position`, or of the first one behind it.
    pub fn segment_for(&self, position: Position) -> usize {
        self.segments.partition_point(|segment| segment.first <= position).saturating_sub(1)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    pub fn extent(&self) -> Extent {
        let last = self.next.saturating_sub(1);
        let Some((first, first_ms)) = self.segments.iter().find_map(|segment| segment.oldest) else {
            return Extent { last, full_from: self.next, bytes: self.bytes(), ..Extent::default() };
        };
        let full_start =
            self.segments.iter().rposition(|segment| segment.compacted).map_or(0, |compacted| compacted + 1);
        let full = self.segments.get(full_start..).unwrap_or_default();
        let (full_from, full_from_ms) = full.iter().find_map(|segment| segment.oldest).unwrap_or_else(|| {
            // Every segment is compacted: all records together give the state since the newest of
            // the compacted records.
            (self.next, self.segments.iter().map(|segment| segment.ts_max).max().unwrap_or(0))
        });
        let full_from = match full.first() {
            Some(segment) if full_start > 0 => segment.first.min(full_from),
            _ => full_from,
        };
        Extent { first, first_ms, last, full_from, full_from_ms, bytes: self.bytes() }
    }
}

impl Log {
    pub fn new(dir: PathBuf, files: Files, state: State) -> Log {
        let newest = watch::Sender::new(state.next.saturating_sub(1));
        let (state, damage, complete_through) = (RwLock::new(state), Mutex::default(), Mutex::default());
        Log { dir, files, state, damage, complete_through, newest }
    }

    // A thread that panicked cannot have left the state half changed in a way that a later reader
    // would believe: every frame is checked again when it is read. So poison is ignored.

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn complete_through(&self) -> CompleteThrough {
        *self.complete_through.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file beside the segments holds this.
    pub fn set_complete_through(&self, complete: CompleteThrough) {
        *self.complete_through.lock().unwrap_or_else(PoisonError::into_inner) = complete;
    }

    fn damage_list(&self) -> MutexGuard<'_, Vec<String>> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a sentence on damage, once, and logs it.
    pub fn report(&self, sentence: String) {
        let mut list = self.damage_list();
        if list.len() < DAMAGE_MAX && !list.contains(&sentence) {
            tracing::warn!(stream = %self.dir.display(), "{sentence}");
            list.push(sentence);
        }
    }

    /// Gives up a segment whose file is gone, unless it is the one that is written: whoever writes
    /// it finds that out.
    pub fn lose(&self, ordinal: u32) {
        let mut state = self.write();
        if state.segments.last().is_some_and(|last| last.ordinal == ordinal) {
            return;
        }
        let lost = state.lose(ordinal);
        drop(state);
        if let Some(path) = lost {
            self.report(format!("{}: the file was removed; what it held is lost", path.display()));
        }
    }

    /// The sentences on damage, oldest first.
    pub fn damage(&self) -> Vec<String> {
        self.damage_list().clone()
    }

    /// Wakes those who wait for records.
    pub fn publish(&self) {
        let newest = self.read().next.saturating_sub(1);
        self.newest.send_replace(newest);
    }
}

/// An error of the operating system, with what it happened to.
pub(super) fn unavailable(what: &std::path::Path, error: &std::io::Error) -> StreamError {
    StreamError::Unavailable(format!("{}: {error}", what.display()))
}
