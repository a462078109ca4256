//! The bytes of a segment file: its header, its frames, and the walk over them that passes damage.
//!
//! ```text
//!   header  "KEEPSTEP" | version u16 | flags u16 | first u64 | through u64 | crc32c u32                   32 bytes
//!   frame   len u32 | crc32c u32 | position u64 | ts_ms i64 | pair_hash u64 | flags u8 | payload      33 bytes + n
//! ```
//!
//! Little-endian. `len` counts what follows the checksum; the checksum covers `len` and what
//! follows it, so that a damaged length is noticed too. A run of zeros, what a file system leaves
//! of an unfinished write, is no frame.

use crate::change::Position;
use crate::env::disk::File;

/// Bytes of a segment's header.
pub(super) const FILE_HEADER: u64 = 32;
/// Bytes of a frame before its payload.
pub(super) const FRAME_HEADER: usize = 33;
/// Bytes of `len` and the checksum, which `len` does not count.
const PREFIX: usize = 8;
/// The largest frame. A change holds at most three values of 1,000,000 bytes (before, after, the
/// loser of a conflict); five times that leaves room for names, and bounds what a damaged length
/// can make a reader load.
pub(super) const FRAME_MAX: usize = 16 << 20;
/// How much is read at once: large enough that a call costs nothing beside the copy, small beside a
/// worker's memory.
const CHUNK: usize = 256 << 10;
/// What a disk that cannot read is asked for in one piece, its usual unit of damage.
const BLOCK: usize = 4096;
/// A search for the next frame may checksum this many bytes for each byte that it searches. A value
/// that imitates frames could otherwise make the search quadratic; honest data needs next to none.
const SEARCH_FACTOR: u64 = 16;

const MAGIC: [u8; 8] = *b"KEEPSTEP";
const VERSION: u16 = 1;
/// Of a segment: only the newest records of their pairs, conflicts and markers are left.
const THINNED: u16 = 1;

/// Of a frame: the change settled a conflict.
pub(super) const CONFLICT: u8 = 1;
/// Of a frame: a marker, which belongs to no pair.
pub(super) const MARKER: u8 = 2;
/// Of a frame: the first of what was written at once. All before it in its file was durable when it
/// was written.
pub(super) const FIRST: u8 = 4;

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    /// First position that the file covers; its name has it too.
    pub first: Position,
    /// Last position that a compacted file covers, which may be more than it holds; 0 for one that
    /// is not compacted.
    pub through: Position,
    /// Whether it was compacted.
    pub compacted: bool,
}

impl FileHeader {
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(if self.compacted { THINNED } else { 0 }.to_le_bytes());
        bytes.extend(self.first.to_le_bytes());
        bytes.extend(self.through.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// `None` if it is cut short, damaged or of another version.
    pub fn read(file: &File) -> Option<FileHeader> {
        let mut bytes = [0; FILE_HEADER as usize];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        let sound = crc32c::crc32c(covered) == u32::from_le_bytes(*crc)
            && covered.starts_with(&MAGIC)
            && u16_at(covered, 8)? == VERSION;
        let (flags, first, through) = (u16_at(covered, 10)?, u64_at(covered, 12)?, u64_at(covered, 20)?);
        sound.then_some(FileHeader { first, through, compacted: flags & THINNED != 0 })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub position: Position,
    pub ts_ms: i64,
    pub pair_hash: u64,
    pub flags: u8,
    /// Bytes of the frame, header included.
    pub len: u32,
}

/// Begins a frame in `out`; the payload is appended next, then [`seal`] completes it.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.resize(out.len() + FRAME_HEADER, 0);
}

/// Completes a frame that lacks only its header.
pub(super) fn seal(frame: &mut [u8], meta: &Meta) {
    let counted = (frame.len() - PREFIX.min(frame.len())) as u32;
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = frame.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    put(0, &counted.to_le_bytes());
    put(8, &meta.position.to_le_bytes());
    put(16, &meta.ts_ms.to_le_bytes());
    put(24, &meta.pair_hash.to_le_bytes());
    put(32, &[meta.flags]);
    let crc = checksum(frame).unwrap_or(0);
    if let Some(to) = frame.get_mut(4..PREFIX) {
        to.copy_from_slice(&crc.to_le_bytes());
    }
}

fn checksum(frame: &[u8]) -> Option<u32> {
    Some(crc32c::crc32c_append(crc32c::crc32c(frame.get(..4)?), frame.get(PREFIX..)?))
}

/// What the first bytes of a frame claim, unchecked; `None` if no frame begins so.
fn claimed(bytes: &[u8]) -> Option<Meta> {
    let len = u32_at(bytes, 0)?.checked_add(PREFIX as u32)?;
    let ts_ms = u64_at(bytes, 16)?.cast_signed();
    let (position, pair_hash, flags) = (u64_at(bytes, 8)?, u64_at(bytes, 24)?, *bytes.get(32)?);
    let possible = (FRAME_HEADER..=FRAME_MAX).contains(&(len as usize)) && position > 0;
    possible.then_some(Meta { position, ts_ms, pair_hash, flags, len })
}

/// The frame at the start of these bytes, if all of it is there and its checksum is right.
pub(super) fn verified(bytes: &[u8]) -> Option<(Meta, &[u8])> {
    let meta = claimed(bytes)?;
    let frame = bytes.get(..meta.len as usize)?;
    let sound = checksum(frame)? == u32_at(frame, 4)?;
    sound.then_some((meta, frame.get(FRAME_HEADER..)?))
}

/// The frame at this offset, read alone; `None` if it cannot be read or is damaged.
pub(super) fn read_one(file: &File, offset: u64) -> Option<(Meta, Vec<u8>)> {
    let mut bytes = vec![0; BLOCK];
    let mut got = read_some(file, &mut bytes, offset);
    let len = claimed(bytes.get(..got)?)?.len as usize;
    if len > got {
        bytes.resize(len, 0);
        got = read_some(file, &mut bytes, offset);
    }
    let (meta, payload) = verified(bytes.get(..got)?)?;
    Some((meta, payload.to_vec()))
}

/// As many bytes as there are and can be read.
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    got
}

/// One step of a walk.
#[derive(Debug)]
pub(super) enum Step<'w> {
    /// A sound frame.
    Frame {
        /// Where it begins in the file.
        offset: u64,
        meta: Meta,
        payload: &'w [u8],
        /// The frame as it is in the file.
        raw: &'w [u8],
    },
    /// Bytes that are no frame.
    Damage(Damage),
}

/// Bytes of a file that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    pub offset: u64,
    pub bytes: u64,
    /// Position of the last frame before it.
    pub after: Position,
    /// Position of the first frame behind it; `None` where nothing sound follows.
    pub before: Option<Position>,
}

/// Walks the frames of a file in order.
pub(super) struct Walker<'f> {
    file: &'f File,
    /// Where the next frame begins.
    offset: u64,
    /// Where the walk ends.
    end: u64,
    /// The last position that was passed.
    after: Position,
    /// Positions from here on cannot be in this file.
    limit: Position,
    /// Where the next file begins, if there is one: frames here from that position on were refused
    /// once, and the power went before their truncation was durable.
    next_file: Position,
    buffer: Vec<u8>,
    /// Offset in the file of the buffer's first byte.
    base: u64,
    /// Whether the disk refused to read something; it then counts as zeros.
    pub unreadable: bool,
}

impl<'f> Walker<'f> {
    /// From `offset` (the start of a frame) up to `end`, where the frames before `offset` end with
    /// position `after` and the next file begins with position `limit` (`None` for the last file).
    pub fn new(file: &'f File, offset: u64, end: u64, after: Position, limit: Option<Position>) -> Walker<'f> {
        // A file whose successor is not known holds at most as many frames as fit.
        let fit = end.saturating_sub(offset) / FRAME_HEADER as u64 + 1;
        let next_file = limit.unwrap_or(Position::MAX);
        let limit = limit.unwrap_or(after.saturating_add(fit + 1));
        Walker { file, offset, end, after, limit, next_file, buffer: Vec::new(), base: offset, unreadable: false }
    }

    /// The next frame or damaged place; `None` at the end. Frames at or before the last position,
    /// or of the next file, are passed over.
    pub fn next(&mut self) -> Option<Step<'_>> {
        loop {
            if self.offset >= self.end {
                return None;
            }
            let offset = self.offset;
            let Some(meta) = self.sound_at(offset) else { return Some(Step::Damage(self.search(offset))) };
            self.offset += u64::from(meta.len);
            if meta.position <= self.after || meta.position >= self.next_file {
                continue;
            }
            self.after = meta.position;
            let start = (offset - self.base) as usize;
            let raw = self.buffer.get(start..start + meta.len as usize).unwrap_or_default();
            let payload = raw.get(FRAME_HEADER..).unwrap_or_default();
            return Some(Step::Frame { offset, meta, payload, raw });
        }
    }

    /// The frame at this offset, if there is a sound one.
    fn sound_at(&mut self, offset: u64) -> Option<Meta> {
        let meta = claimed(self.bytes(offset, FRAME_HEADER)?)?;
        verified(self.bytes(offset, meta.len as usize)?).map(|(meta, _)| meta)
    }

    /// Moves to the first sound frame behind `from` whose position fits here, or to the end.
    fn search(&mut self, from: u64) -> Damage {
        let mut budget = (self.end - from).saturating_mul(SEARCH_FACTOR);
        let (after, limit, end) = (self.after, self.limit, self.end);
        let mut at = from + 1;
        let mut before = None;
        while at < self.end {
            let Some(bytes) = self.bytes(at, FRAME_HEADER) else { break };
            let fits = |meta: &Meta| meta.position > after && meta.position < limit && at + u64::from(meta.len) <= end;
            if let Some(meta) = claimed(bytes).filter(fits) {
                let Some(left) = budget.checked_sub(u64::from(meta.len)) else { break };
                budget = left;
                if self.sound_at(at).is_some() {
                    before = Some(meta.position);
                    break;
                }
            }
            at += 1;
        }
        self.offset = if before.is_some() { at } else { self.end };
        Damage { offset: from, bytes: self.offset - from, after: self.after, before }
    }

    /// Exactly these bytes of the file, or `None` if they go beyond the end.
    fn bytes(&mut self, offset: u64, len: usize) -> Option<&[u8]> {
        if offset + len as u64 > self.end {
            return None;
        }
        let held = offset >= self.base && offset + len as u64 <= self.base + self.buffer.len() as u64;
        if !held {
            self.load(offset, len);
        }
        let start = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        self.buffer.get(start..start + len)
    }

    /// Fills the buffer from `offset` with at least `len` bytes, keeping what it already has of
    /// them.
    fn load(&mut self, offset: u64, len: usize) {
        let have = offset.checked_sub(self.base).and_then(|skip| usize::try_from(skip).ok());
        match have.filter(|skip| *skip < self.buffer.len()) {
            Some(skip) => drop(self.buffer.drain(..skip)),
            None => self.buffer.clear(),
        }
        self.base = offset;
        let mut got = self.buffer.len();
        let want = len.max(CHUNK).min((self.end - offset) as usize);
        self.buffer.resize(want, 0);
        while got < want {
            let place = offset + got as u64;
            let Some(rest) = self.buffer.get_mut(got..) else { break };
            match self.file.read_at(rest, place) {
                // Another process cut the file: it ends here.
                Ok(0) => {
                    self.end = place;
                    break;
                }
                Ok(n) => got += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // Read block by block what can be read; the rest stays zeros, which are no
                    // frame.
                    let block = rest.len().min(BLOCK - (place % BLOCK as u64) as usize);
                    let part = rest.get_mut(..block).unwrap_or_default();
                    if self.file.read_exact_at(part, place).is_err() {
                        part.fill(0);
                        self.unreadable = true;
                    }
                    got += block;
                }
            }
        }
        self.buffer.truncate(got);
    }
}
