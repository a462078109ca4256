//! The contract of a stream: the durable, totally ordered log of changes.
//!
//! ```text
//!   pipeline --append--> stream --read--> tail, conflicts, replay
//!                          |
//!                          +-- latest(pair): the newest record of a pair, for `before` and for "is it known here?"
//! ```
//!
//! The stream is history and the proof of what was decided; it is never the only place of a value (both stores keep
//! theirs), so a lost stream loses history and nothing else.

pub mod embedded;

use crate::change::{Change, Pair, Position};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// What a stream can fail with, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Nothing was recorded; it may work later (disk full, broker away). The caller pauses capture and tries again.
    #[error("{0}")]
    Unavailable(String),
    /// Another process writes this stream. The text names it.
    #[error("{0}")]
    Owned(String),
    /// What is stored cannot be used as it is. The text says where and what to do.
    #[error("{0}")]
    Damaged(String),
    /// The caller asked for something that the stream does not have (a position, a time). The text says what it has.
    #[error("{0}")]
    OutOfRange(String),
}

/// One record as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its place.
    pub position: Position,
    /// The change.
    pub change: Change,
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

/// How long records are kept whole. Beyond either bound a record is thinned: only the newest change of each pair
/// stays, and records with a [`crate::change::Conflict`] stay until they are older than `age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Full history reaches at least this far back (unless `size` is exceeded).
    pub age: Duration,
    /// Bytes on disk above which history is thinned.
    pub size: u64,
}

/// A stream. One process writes it at a time; any number may read it.
///
/// The pipeline calls `append` from several rounds at once and relies on group commit: appends that wait together
/// share one sync.
pub trait Stream: Send + Sync {
    /// Records these changes in order, as consecutive positions, and answers with the position of the first one.
    /// `Ok` means that they are durable: they survive a kill and a power loss. On `Err` none of them counts as
    /// recorded; the caller may append them again, so a reader may see a change twice.
    fn append(&self, changes: Arc<Vec<Change>>) -> BoxFuture<'_, Result<Position, StreamError>>;

    /// The newest record of this pair, or `None` if the stream does not know the pair. Deletes are records.
    fn latest(&self, pair: &Pair) -> Result<Option<Recorded>, StreamError>;

    /// Whether the stream knows the pair. No I/O; exact but for a collision of 64-bit hashes.
    fn knows(&self, pair: &Pair) -> bool;

    /// Up to `limit` records (at least one if there is one) with positions `>= from`, in order, as far as
    /// `bytes` encoded bytes go. Thinned positions are skipped; an empty answer means that there is nothing at or
    /// after `from` yet. A record that cannot be read is reported in `damaged`, never delivered, never fatal.
    fn read(&self, from: Position, limit: usize, bytes: usize) -> Result<ReadBatch, StreamError>;

    /// The first position whose `ts_ms` is at or after `ts_ms`; one past the last if there is none.
    fn position_at(&self, ts_ms: i64) -> Result<Position, StreamError>;

    /// How far history reaches. No I/O.
    fn extent(&self) -> Extent;

    /// Waits until there is a record after `position`. Cancel-safe.
    fn wait_after(&self, position: Position) -> BoxFuture<'_, ()>;
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
