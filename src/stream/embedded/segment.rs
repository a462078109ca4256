//! One file of the log: what is known of it in memory, and the scan that finds it out.

use super::file::{Files, LogFile};
use super::frame::{CONFLICT, Damage, FILE_HEADER, FIRST, FileHeader, MARKER, Meta, Step, Walker};
use crate::change::Position;
use crate::env::disk::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes of log between two entries of the sparse index, at which a read can begin: reading up to
/// one costs tens of microseconds, and a gigabyte of log needs 400 KB of them.
const SPARSE_BYTES: u64 = 64 << 10;

/// Ends of file names in the directory: segments, files that are being written, schemas of writers.
pub(super) const SEGMENT: &str = "log";
/// See [`SEGMENT`].
pub(super) const TEMPORARY: &str = "tmp";
/// See [`SEGMENT`].
pub(super) const SCHEMA: &str = "avsc";

/// The file of the segment that begins with this position. Twenty digits hold every position, so
/// names sort.
pub(super) fn path_of(dir: &Path, first: Position) -> PathBuf {
    dir.join(format!("{first:020}.{SEGMENT}"))
}

/// The position in a segment's name; `None` for any other file.
pub(super) fn first_of(path: &Path) -> Option<Position> {
    let digits = path.file_stem()?.to_str().filter(|stem| stem.len() == 20)?;
    (path.extension()? == SEGMENT).then(|| digits.parse().ok())?
}

/// A place at which a frame begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sparse {
    /// The frame's position.
    pub position: Position,
    /// The frame's offset.
    pub offset: u64,
    /// The largest `ts_ms` of the segment's frames before it.
    pub ts_max_before: i64,
}

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its number in the index of pairs; a rewritten segment has a new one.
    pub ordinal: u32,
    pub path: PathBuf,
    pub file: Arc<LogFile>,
    /// First position that it covers.
    pub first: Position,
    /// Last position that it covers if it is compacted, else 0.
    pub through: Position,
    /// Whether only newest records, conflicts and markers are left.
    pub compacted: bool,
    /// Bytes that count: the header, and the frames that are complete and durable.
    pub len: u64,
    /// Frames.
    pub records: u64,
    /// Frames that compaction keeps while they are young, superseded or not: conflicts and markers.
    pub pinned: u64,
    /// The largest `ts_ms` of those.
    pub pinned_ts_max: i64,
    /// Position and `ts_ms` of the first frame.
    pub oldest: Option<(Position, i64)>,
    /// Position of the last frame; 0 if there is none.
    pub last: Position,
    /// The largest `ts_ms`; `i64::MIN` if there is no frame.
    pub ts_max: i64,
    pub sparse: Vec<Sparse>,
    /// Offset and position of the first frame of the last write, if the frames have that mark, else
    /// of the first frame. Everything before it is durable, even if that write was refused.
    pub last_write: (u64, Position),
    /// Length and time of the file, where it is not written any more and another process may
    /// replace it.
    closed: Option<(u64, Option<SystemTime>)>,
}

impl Segment {
    /// An empty one. The caller holds the file until it has its name, and for as long as it works
    /// with it.
    pub fn new(
        files: &Files,
        ordinal: u32,
        path: PathBuf,
        file: &Arc<File>,
        header: FileHeader,
    ) -> io::Result<Segment> {
        Ok(Segment {
            ordinal,
            file: Arc::new(LogFile::new(files, &path, file)?),
            path,
            first: header.first,
            through: header.through,
            compacted: header.compacted,
            len: FILE_HEADER,
            records: 0,
            pinned: 0,
            pinned_ts_max: i64::MIN,
            oldest: None,
            last: 0,
            ts_max: i64::MIN,
            sparse: Vec::new(),
            last_write: (FILE_HEADER, header.first),
            closed: None,
        })
    }

    /// Whether the file with this name is still the one that was read. One that is closed and was
    /// replaced leaves its number to the next one, so the length, and of a file that is not written
    /// any more the time, must be the same as well.
    pub fn is_at(&self, path: &Path) -> bool {
        let Ok(now) = self.file.disk().facts(path) else { return false };
        let is_same = now.identity == self.file.identity() && now.len >= self.len;
        is_same && self.closed.is_none_or(|closed| (now.len, now.modified) == closed)
    }

    /// Nothing is written to the file any more.
    pub fn close(&mut self) {
        let facts = self.file.get().and_then(|file| file.facts());
        self.closed = facts.ok().map(|facts| (facts.len, facts.modified));
    }

    /// Gives up the frames from this offset and position on: `other` has them all.
    pub fn give_up(&mut self, (offset, position): (u64, Position), other: &Segment) {
        self.len = offset;
        self.last = position - 1;
        self.records = self.records.saturating_sub(other.records);
        self.pinned = self.pinned.saturating_sub(other.pinned);
        self.oldest = self.oldest.filter(|(oldest, _)| *oldest < position);
        self.sparse.retain(|sparse| sparse.offset < offset);
        // The times stay: they are bounds.
    }

    /// Adds a frame at `offset`, behind all others, to what is known of the segment.
    pub fn note(&mut self, offset: u64, meta: &Meta) {
        if self.sparse.last().is_none_or(|sparse| offset - sparse.offset >= SPARSE_BYTES) {
            self.sparse.push(Sparse { position: meta.position, offset, ts_max_before: self.ts_max });
        }
        self.oldest.get_or_insert((meta.position, meta.ts_ms));
        self.last = meta.position;
        self.ts_max = self.ts_max.max(meta.ts_ms);
        self.records += 1;
        if meta.flags & (CONFLICT | MARKER) != 0 {
            self.pinned += 1;
            self.pinned_ts_max = self.pinned_ts_max.max(meta.ts_ms);
        }
        if meta.flags & FIRST != 0 {
            self.last_write = (offset, meta.position);
        }
        self.len = offset + u64::from(meta.len);
    }

    /// Whether its last frame is the one before `limit`, so that nothing behind it can count.
    pub fn reaches(&self, limit: Option<Position>) -> bool {
        limit.is_some_and(|limit| self.last + 1 >= limit)
    }

    /// One past the last position that it is known to cover.
    pub fn next(&self) -> Position {
        self.first.max(self.last + 1).max(if self.compacted { self.through + 1 } else { 0 })
    }

    /// Where to begin looking for `position`: an offset, and the position of the frames before it
    /// at most.
    pub fn start_for(&self, position: Position) -> (u64, Position) {
        self.start(self.sparse.partition_point(|sparse| sparse.position <= position))
    }

    /// Where to begin looking for the first frame at or after `ts_ms`.
    pub fn start_for_time(&self, ts_ms: i64) -> (u64, Position) {
        self.start(self.sparse.partition_point(|sparse| sparse.ts_max_before < ts_ms))
    }

    fn start(&self, passed: usize) -> (u64, Position) {
        match passed.checked_sub(1).and_then(|last| self.sparse.get(last)) {
            Some(sparse) => (sparse.offset, sparse.position - 1),
            None => (FILE_HEADER, self.first.saturating_sub(1)),
        }
    }

    /// Reads the frames from the end of the segment as it is known up to the end of the file, and
    /// calls `found` with each one's offset, header and payload.
    ///
    /// Damage in the middle is passed and returned. Where nothing sound follows, the segment ends
    /// and `tail` is set: an append that another process is just writing, or that was cut short by
    /// a crash.
    pub fn scan(&mut self, limit: Option<Position>, mut found: impl FnMut(u64, &Meta, &[u8])) -> io::Result<Scanned> {
        let file = self.file.get()?;
        let after = self.last.max(self.first.saturating_sub(1));
        let mut walker = Walker::new(&file, self.len, file.facts()?.len, after, limit);
        let mut scanned = Scanned::default();
        while let Some(step) = walker.next() {
            match step {
                Step::Frame { offset, meta, payload, .. } => {
                    self.note(offset, &meta);
                    found(offset, &meta, payload);
                }
                Step::Damage(damage) if damage.before.is_none() => scanned.tail = Some(damage),
                Step::Damage(damage) => scanned.damage.push(damage),
            }
        }
        scanned.unreadable = walker.unreadable;
        Ok(scanned)
    }

    /// One sentence on a damaged place.
    pub fn describe(&self, damage: &Damage) -> String {
        let Damage { offset, bytes, after, before } = damage;
        let path = self.path.display();
        match before {
            Some(before) if after + 1 == *before => format!("{path}: {bytes} bytes at offset {offset} are damaged"),
            Some(before) => format!(
                "{path}: {bytes} bytes at offset {offset} are damaged: what was at positions {} to {} is lost",
                after + 1,
                before - 1
            ),
            None => {
                format!("{path}: {bytes} bytes at offset {offset} are damaged: what was after position {after} is lost")
            }
        }
    }
}

/// What a scan found beside frames.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Damaged places with sound frames behind them.
    pub damage: Vec<Damage>,
    /// Bytes at the end with nothing sound behind them.
    pub tail: Option<Damage>,
    /// Whether the disk refused to read something.
    pub unreadable: bool,
}
