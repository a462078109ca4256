//! What an opening finds at the end of the newest segment is made durable before anything relies on
//! it.
//!
//! ```text
//!   found    ... | earlier writes | last write        which a sync may have refused: it may be read here and not be on the disk
//!   small    a copy of all of the file, renamed over it
//!   large    ... | earlier writes | (void)   and   last write | ...        a copy of its end, named as the next segment
//! ```
//!
//! Why the last write is all that can be in doubt: a writer writes behind what is durable only, in
//! files of its own making, and begins the next file only then (`writer.rs`). So each frame that
//! begins a write proves that everything before it is durable ([`FIRST`](super::frame::FIRST)), and
//! all files but the newest are durable. A second sync proves nothing after one that was refused; a
//! copy does. Its name appears when its bytes are durable, and from then on what the file before
//! holds of it is void (`load.rs`): at each moment either the one or the other counts.
//!
//! The cost of an opening: [`RENEWED`](super::options::RENEWED) of a segment or one write,
//! whichever is more. A newest segment that an earlier version wrote has no such marks, so all of
//! it is copied, once.

use super::file::LogFile;
use super::frame::{FILE_HEADER, FileHeader};
use super::index::{Location, pair_of};
use super::log::{Log, unavailable};
use super::options::Options;
use super::segment::{self, Segment};
use crate::env::disk::{Disk, File, Open};
use crate::stream::StreamError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// Copies the end of the newest segment, or all of it, to a file of ours, which is the newest
/// segment then. False if it cannot be read: then nothing was changed.
///
/// # Errors
/// [`StreamError::Unavailable`] if the disk refuses. The copy may be in use all the same, and is
/// copied anew by the next call.
pub(super) fn recover_tail(log: &Log, options: &Options) -> Result<bool, StreamError> {
    let disk = log.files.disk.as_ref();
    let (old, len, (offset, position)) = {
        let state = log.read();
        let Some(last) = state.segments.last() else { return Ok(true) };
        let file = last.file.get().map_err(|error| unavailable(&last.path, &error))?;
        ((last.path.clone(), file), last.len, last.last_write)
    };
    let (old_path, old_file) = old;
    let copies_all = len <= options.renew_bytes || offset <= FILE_HEADER;
    let path = if copies_all { old_path } else { segment::path_of(&log.dir, position) };
    let temporary = path.with_extension(segment::TEMPORARY);
    let begun = FileHeader { first: position, through: 0, compacted: false };
    let (head, from) = if copies_all { (Vec::new(), 0) } else { (begun.to_bytes(), offset) };
    let copied = copy(disk, &head, (&old_file, from, len), &temporary);
    let switched = copied.and_then(|copy| match copy {
        None => Ok(false),
        Some(file) if copies_all => {
            let file = LogFile::new(&log.files, &path, &Arc::new(file))?;
            disk.rename(&temporary, &path)?;
            log.write().replace_file(file);
            Ok(true)
        }
        Some(file) => split(log, disk, (offset, position), (file, begun), (&temporary, path.clone())),
    });
    if !matches!(switched, Ok(true)) {
        // Best effort: the next start removes it, too.
        let _ = disk.remove(&temporary);
    }
    let done = switched.map_err(|error| unavailable(&path, &error))?;
    if done {
        // Memory follows the new name already; what relies on it waits until the name is durable.
        disk.sync_dir(&log.dir).map_err(|error| unavailable(&log.dir, &error))?;
        log.write().unverified_tail = false;
    }
    Ok(done)
}

/// A new file with these bytes and then those of the old one in this range, all of it durable;
/// `None` if the old one cannot be read.
fn copy(disk: &dyn Disk, head: &[u8], (old, from, end): (&File, u64, u64), path: &Path) -> io::Result<Option<File>> {
    let file = disk.open(path, Open::Create)?;
    let (mut bytes, mut read, mut written) = (head.to_vec(), from, 0);
    while read < end || !bytes.is_empty() {
        let kept = bytes.len();
        let portion = (end - read).min(COPY_BYTES);
        bytes.resize(kept + portion as usize, 0);
        if old.read_exact_at(bytes.get_mut(kept..).unwrap_or_default(), read).is_err() {
            return Ok(None);
        }
        file.write_at(&bytes, written)?;
        read += portion;
        written += bytes.len() as u64;
        bytes.clear();
    }
    file.sync()?;
    Ok(Some(file))
}

/// Lets the copy of the newest segment's end be the newest segment. False if it does not hold the
/// same.
fn split(
    log: &Log,
    disk: &dyn Disk,
    at: (u64, crate::change::Position),
    (file, header): (File, FileHeader),
    (temporary, path): (&Path, PathBuf),
) -> io::Result<bool> {
    let (ordinal, file) = (log.write().new_ordinal(), Arc::new(file));
    let mut new = Segment::new(&log.files, ordinal, path.clone(), &file, header)?;
    let mut newest = Vec::new();
    let decoder = Arc::clone(&log.read().decoder);
    new.scan(None, |offset, meta, payload| newest.push((pair_of(&decoder, meta, payload), offset)))?;
    let (len, last) = log.read().segments.last().map_or((0, 0), |old| (old.len, old.last));
    if (new.len, new.last) != (FILE_HEADER + len - at.0, last) {
        return Ok(false);
    }
    disk.rename(temporary, &path)?;
    let mut guard = log.write();
    let state = &mut *guard;
    state.open(&new);
    for (pair, offset) in newest {
        state.set_newest(pair, Location::new(ordinal, offset));
    }
    if let Some(old) = state.segments.last_mut() {
        old.give_up(at, &new);
    }
    state.segments.push(new);
    Ok(true)
}
