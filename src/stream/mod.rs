//! The contract of a stream: the durable, totally ordered log of changes.
//!
//! ```text
//!   pipeline --append--> stream --read--> tail, conflicts, replay
//!                          |
//!                          +-- latest(pair): what is known of a pair's newest record, for `before` and for "is it news?"
//! ```
//!
//! The methods that read history (`read`, `position_at`, `existing`) may cross a network. Those
//! that every change needs (`latest_of`, `knows`) never do: they answer from memory or a local
//! file, and where a value is not at hand, with its hash.
//!
//! The stream is history and the proof of what was decided; it is never the only place of a value
//! (both stores keep theirs), so a lost stream loses history and nothing else.

pub mod embedded;
pub mod kafka;

use crate::change::{Change, Digest, KeyedHash, Pair, Position};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// What a stream can fail with, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Nothing was recorded; it may work later (disk full, no broker answers). The caller pauses
    /// capture and tries again.
    #[error("{0}")]
    Unavailable(String),
    /// Another process writes this stream. The text names it.
    #[error("{0}")]
    Owned(String),
    /// It may not be used as it is: credentials, rights, a topic that does not fit. The text says
    /// what to change.
    #[error("{0}")]
    Refused(String),
    /// This change is larger than the stream takes; `index` is its place in the append. Nothing of
    /// the append was recorded: the caller leaves it out and appends the others. The text is shown
    /// with the pair and does not name it.
    #[error("{text}")]
    TooLarge {
        /// Place of the change in the append.
        index: usize,
        /// One sentence with its size and the limit.
        text: String,
    },
    /// What was recorded is gone, or somebody else owns the stream now: this opening is of no more
    /// use. The caller gives it up and opens the stream anew.
    #[error("{0}")]
    Lost(String),
    /// What is stored cannot be used as it is. The text says where and what to do.
    #[error("{0}")]
    Damaged(String),
    /// The caller asked for something that the stream does not have (a position, a time). The text
    /// says what it has.
    #[error("{0}")]
    OutOfRange(String),
}

impl StreamError {
    /// Whether the stream must be opened anew before anything else can be done with it.
    #[must_use]
    pub fn ends_opening(&self) -> bool {
        matches!(self, StreamError::Owned(_) | StreamError::Lost(_))
    }
}

/// One record as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its place.
    pub position: Position,
    /// The change.
    pub change: Change,
}

/// The epoch through which a stream is complete: it has every state that was agreed on up to there,
/// by whichever owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompleteThrough {
    /// The epoch; 0 if it is unknown. A negative one has the meaning that the caller gives it.
    pub epoch: i64,
    /// Lineage of the ensemble whose owners had these epochs: epochs of another ensemble begin
    /// again. 0 if it is unknown.
    pub ensemble: u32,
}

/// What is known of a pair's newest record without reading it back over a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// Its place.
    pub position: Position,
    /// Its `after`.
    pub after: LatestValue,
    /// Its `source.czxid`.
    pub czxid: Option<i64>,
    /// Its `source.version`.
    pub version: Option<i32>,
    /// Its [`Change::decision`]: what has the same is on the stream already.
    pub decision: Digest,
}

/// The `after` of a pair's newest record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LatestValue {
    /// It is a delete.
    Absent,
    /// The value.
    Kept(Vec<u8>),
    /// The value is not at hand; this is its hash.
    Hash(KeyedHash),
}

impl LatestValue {
    /// Whether the pair has a value.
    #[must_use]
    pub fn exists(&self) -> bool {
        !matches!(self, LatestValue::Absent)
    }

    /// Whether it is this value.
    #[must_use]
    pub fn is(&self, after: Option<&[u8]>) -> bool {
        match (self, after) {
            (LatestValue::Absent, after) => after.is_none(),
            (LatestValue::Kept(value), after) => after == Some(value),
            (LatestValue::Hash(hash), after) => after.is_some_and(|after| KeyedHash::of(after) == *hash),
        }
    }

    /// The value, if it is at hand.
    #[must_use]
    pub fn kept(self) -> Option<Vec<u8>> {
        match self {
            LatestValue::Kept(value) => Some(value),
            LatestValue::Absent | LatestValue::Hash(_) => None,
        }
    }
}

impl From<Recorded> for Latest {
    fn from(recorded: Recorded) -> Latest {
        let Recorded { position, change } = recorded;
        let decision = change.decision();
        let after = change.after.map_or(LatestValue::Absent, LatestValue::Kept);
        Latest { position, after, czxid: change.source.czxid, version: change.source.version, decision }
    }
}

/// How far history reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, Default)]
pub struct Extent {
    /// Position of the oldest record; 0 when the stream is empty.
    pub first: Position,
    /// `ts_ms` of the oldest record; 0 when the stream is empty.
    #[serde(default)]
    pub first_ms: i64,
    /// Position of the newest record; 0 when the stream is empty.
    pub last: Position,
    /// From this position on, every record is still there; before it only the newest of each pair.
    pub full_from: Position,
    /// `ts_ms` of the record at `full_from`; 0 when the stream is empty.
    pub full_from_ms: i64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// How long every record is kept. Beyond either bound history is compacted: only the newest change
/// of each pair stays, and records with a [`crate::change::Conflict`] stay until they are older
/// than `age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Full history reaches at least this far back (unless `size` is exceeded).
    pub age: Duration,
    /// Bytes on disk above which history is compacted.
    pub size: u64,
}

/// A stream. One process writes it at a time; any number may read it.
///
/// The pipeline calls `append` from several rounds at once and relies on group commit: appends that
/// wait together share one sync.
///
/// No method blocks the thread that calls or polls it, with one exception: whatever reads or syncs
/// a file waits on a thread of the stream's own or on one for blocking work. The exception is
/// `latest`, which may read one record of a local file before it answers. It is for commands; a
/// pipeline asks `latest_of`.
pub trait Stream: Send + Sync {
    /// An ownership with this epoch begins: called once by the owner, before its first append.
    /// After `Ok`, no reader will see a record of an older epoch behind the records of this one.
    /// `complete`: what [`Stream::complete_through`] answers from then on.
    fn begin(&self, epoch: i64, complete: CompleteThrough) -> BoxFuture<'_, Result<(), StreamError>>;

    /// The newest epoch that a record of an owner on this stream carries; 0 if there is none. The
    /// next owner needs a higher one. It says nothing about the stores: a stream from another
    /// installation has epochs of its own. No network.
    fn newest_epoch(&self) -> BoxFuture<'_, i64>;

    /// The epoch through which this stream is complete, as this opening found or set it. Later
    /// owners may have recorded to another stream. No I/O.
    fn complete_through(&self) -> CompleteThrough;

    /// Records that the stream is complete through this epoch, also for later openings. `Err`
    /// leaves it as it was.
    fn set_complete_through(&self, complete: CompleteThrough) -> BoxFuture<'_, Result<(), StreamError>>;

    /// Records replaced values (markers with a conflict) for a command that owns nothing, on an
    /// opening for writing for which [`Stream::begin`] is not called. They are no state of a pair,
    /// so the owner of the stream goes on undisturbed, the newest epoch stays, and no later owner
    /// shuts them out. `Ok` and `Err` as of [`Stream::append`].
    fn record_replaced(&self, replaced: Vec<Change>) -> BoxFuture<'_, Result<Position, StreamError>>;

    /// Records these changes in order, as consecutive positions, and answers with the position of
    /// the first one. `Ok` means that they are durable: they survive a kill and a power loss. On
    /// `Err` none of them counts as recorded; the caller may append them again, so a reader may see
    /// a change twice.
    fn append(&self, changes: Arc<Vec<Change>>) -> BoxFuture<'_, Result<Position, StreamError>>;

    /// What is known of the newest record of this pair, or `None` if the stream does not know the
    /// pair. Deletes are records. No network; it may wait for a local file, so it is not for the
    /// threads of a worker's runtime.
    fn latest(&self, pair: &Pair) -> Result<Option<Latest>, StreamError>;

    /// [`Stream::latest`] of many pairs, one answer each in the same order, for the pairs of a
    /// round. One job on a thread for blocking work for all of them, and none if the stream knows
    /// no pair among them. No network. Cancel-safe.
    fn latest_of(&self, pairs: Vec<Pair>) -> BoxFuture<'_, Result<Vec<Option<Latest>>, StreamError>>;

    /// Whether the stream knows the pair. No I/O; exact but for a collision of 64-bit hashes.
    fn knows(&self, pair: &Pair) -> bool;

    /// The pairs that exist by this stream, in pieces: those whose newest record is not a delete,
    /// up to `limit` of them (at least one) from position `from` on. Begin with 1 and go on with
    /// `next`; a piece whose `next` is its `from` was the last. All pieces together name each pair
    /// once; one that is recorded meanwhile may be named again, and one that is deleted meanwhile
    /// may have been named. For an opening for writing. Cancel-safe: the same piece may be asked
    /// for again.
    fn existing(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<ExistingPairs, StreamError>>;

    /// Up to `limit` records (at least one if there is one) with positions `>= from`, in order, as
    /// far as `bytes` encoded bytes go. Compacted positions are skipped; where there is nothing at
    /// or after `from` yet the answer is empty and `next` is `from`. A record that cannot be read
    /// is reported in `damaged`, never delivered, never fatal.
    fn read(&self, from: Position, limit: usize, bytes: usize) -> BoxFuture<'_, Result<ReadBatch, StreamError>>;

    /// The first position whose `ts_ms` is at or after `ts_ms`; one past the last if there is none.
    fn position_at(&self, ts_ms: i64) -> BoxFuture<'_, Result<Position, StreamError>>;

    /// How far history reaches. No I/O.
    fn extent(&self) -> Extent;

    /// One sentence for each damaged place that was found since this opening; none if only reading
    /// finds them.
    fn damage(&self) -> Vec<String> {
        Vec::new()
    }

    /// Waits until there is a record after `position`. Cancel-safe.
    fn wait_after(&self, position: Position) -> BoxFuture<'_, ()>;

    /// Resolves with [`StreamError::Lost`] when this opening is of no more use. Cancel-safe.
    fn lost(&self) -> BoxFuture<'_, StreamError>;
}

/// An answer of [`Stream::read`].
#[derive(Debug, Clone, Default)]
pub struct ReadBatch {
    /// The records, in order.
    pub records: Vec<Recorded>,
    /// Where to read on.
    pub next: Position,
    /// One sentence for each damaged place that was passed: file, offset, bytes skipped.
    pub damaged: Vec<String>,
}

/// An answer of [`Stream::existing`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExistingPairs {
    /// The pairs, in the order of their newest records. There may be none though others follow.
    pub pairs: Vec<Pair>,
    /// The position to go on with.
    pub next: Position,
}
