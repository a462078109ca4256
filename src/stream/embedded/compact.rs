//! Retention: compacts old segments to the newest record of each pair, and keeps their number
//! small.
//!
//! ```text
//!   closed segments, oldest first      full | full | full | active
//!     all older than `age`, or all bytes together above `size`:      rewrite the oldest full one
//!     two compacted neighbours that fit into one:                    rewrite both into one
//!     a compacted one that is half garbage (a quarter above `size`): rewrite it
//! ```
//!
//! Rewriting copies the frames that stay to a temporary file, syncs it, renames it over the first
//! of the old files, syncs the directory, and only then removes the others. The new file's header
//! says which positions it covers, so a crash between any two of these steps leaves either the old
//! files, or the new one and files that it visibly replaces. What stays: the newest record of each
//! pair for ever; conflicts and markers while they are younger than `age`. Each step adds at most
//! one segment to the disk before it removes the old ones. A record that may not be durable
//! supersedes nothing (`recover_tail.rs`).

use super::file::KEPT;
use super::frame::{CONFLICT, FILE_HEADER, FileHeader, MARKER, Meta, Step, Walker};
use super::index::{Location, pair_of};
use super::log::{Log, State};
use super::options::Options;
use super::segment::{self, Segment};
use crate::change::{KeyedHash, Position};
use crate::env::disk::{Disk, File, Open};
use crate::failpoint::crash_point;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Locations that are changed in the index under one lock: some hundred microseconds in which
/// appends wait.
const MOVES_AT_ONCE: usize = 4096;
/// What is written to a temporary file at once.
const WRITE_BYTES: usize = 1 << 20;

/// What is left to be done about files that were replaced.
type Leftover = Vec<PathBuf>;

pub(super) struct Compactor {
    log: Arc<Log>,
    options: Options,
    /// Held during a step: one at a time. In it, old files that could not be removed yet.
    one_step: Mutex<Leftover>,
    awake: Mutex<bool>,
    waking: Condvar,
    stop: AtomicBool,
}

/// A segment as a rewrite reads it.
struct Old {
    ordinal: u32,
    file: Arc<File>,
    path: PathBuf,
    first: Position,
    len: u64,
}

/// A rewrite that was decided on: neighbouring segments that become one.
struct Rewrite {
    old: Vec<Old>,
    ordinal: u32,
    /// Last position that they cover.
    through: Position,
}

/// A frame that a rewrite keeps.
struct Kept {
    meta: Meta,
    /// Its pair and where it was, if it was the newest of that.
    was: Option<(KeyedHash, Location)>,
    /// Where it is in the new file.
    offset: u64,
}

impl Compactor {
    pub fn new(log: Arc<Log>, options: Options) -> Compactor {
        Compactor {
            log,
            options,
            one_step: Mutex::default(),
            awake: Mutex::new(false),
            waking: Condvar::new(),
            stop: AtomicBool::new(false),
        }
    }

    /// Runs a pass when woken and once a period, until [`Compactor::stop`].
    pub fn run(&self) {
        while !self.stop.load(Ordering::Acquire) {
            if let Err(error) = self.compact() {
                // Nothing is lost by it: the old files are still there, and the next pass tries
                // again.
                tracing::warn!(stream = %self.log.dir.display(), "history could not be compacted: {error}");
            }
            let awake = self.awake.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = self.waking.wait_timeout_while(awake, self.options.period, |awake| !*awake);
            *wait.unwrap_or_else(PoisonError::into_inner).0 = false;
        }
    }

    /// Asks for a pass soon.
    pub fn wake(&self) {
        *self.awake.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.waking.notify_all();
    }

    /// Ends [`Compactor::run`] within one chunk of work.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Waits for a running step, and keeps others from beginning while the guard is held. Files
    /// that were still to be removed are forgotten: the caller is about to load the directory anew.
    pub fn stand_still(&self) -> MutexGuard<'_, Leftover> {
        let mut leftover = self.one_step.lock().unwrap_or_else(PoisonError::into_inner);
        leftover.clear();
        leftover
    }

    /// Rewrites until there is nothing to gain.
    pub fn compact(&self) -> io::Result<()> {
        while self.step()? {}
        Ok(())
    }

    /// One rewrite; false if there is nothing to gain.
    pub fn step(&self) -> io::Result<bool> {
        let mut leftover = self.one_step.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove(&mut leftover)?;
        if self.log.read().unverified_tail {
            // A record that goes with the power must not have taken with it what it superseded.
            return Err(io::Error::other("what the newest segment holds could not be made durable yet"));
        }
        if self.stop.load(Ordering::Acquire) {
            return Ok(false);
        }
        let Some(rewrite) = self.choose()? else { return Ok(false) };
        self.rewrite(&rewrite, &mut leftover)?;
        Ok(true)
    }

    /// Whether a conflict or a marker of this time has to stay.
    fn is_young(&self, ts_ms: i64) -> bool {
        ts_ms.saturating_add(self.options.age_ms()) >= (self.options.now_ms)()
    }

    /// What to rewrite next. Its files stay open from here on, so that they can be read under
    /// whatever name.
    fn choose(&self) -> io::Result<Option<Rewrite>> {
        loop {
            let mut guard = self.log.write();
            let state = &mut *guard;
            let Some((range, through)) = self.range(state) else { return Ok(None) };
            let mut old = Vec::new();
            let mut gone = None;
            for segment in state.segments.get(range).unwrap_or_default() {
                match segment.file.get() {
                    Ok(file) => {
                        let Segment { ordinal, path, first, len, .. } = segment;
                        old.push(Old { ordinal: *ordinal, file, path: path.clone(), first: *first, len: *len });
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => gone = Some(segment.ordinal),
                    Err(error) => return Err(error),
                }
            }
            let Some(gone) = gone else { return Ok(Some(Rewrite { old, ordinal: state.new_ordinal(), through })) };
            drop(guard);
            self.log.lose(gone);
        }
    }

    /// The segments to rewrite next, and the last position that they cover.
    fn range(&self, state: &State) -> Option<(std::ops::Range<usize>, Position)> {
        let closed = state.segments.split_last()?.1;
        let oversize = state.bytes() > self.options.retention.size;
        let oldest_full = closed.iter().position(|segment| !segment.compacted);
        let due = |i: &usize| closed.get(*i).is_some_and(|segment| oversize || !self.is_young(segment.ts_max));
        let range = oldest_full.filter(due).map(|i| i..i + 1).or_else(|| self.mergeable(closed)).or_else(|| {
            closed.iter().position(|segment| self.is_rubbish(state, segment, oversize)).map(|i| i..i + 1)
        })?;
        let through = state.segments.get(range.end)?.first - 1;
        Some((range, through))
    }

    /// The first run of compacted neighbours that together are no larger than one segment, and no
    /// more than may be open.
    fn mergeable(&self, closed: &[Segment]) -> Option<std::ops::Range<usize>> {
        (0..closed.len()).find_map(|start| {
            let mut bytes = 0;
            let fits = closed.iter().skip(start).take(KEPT).take_while(|segment| {
                bytes += segment.len;
                segment.compacted && bytes <= self.options.segment_bytes
            });
            let count = fits.count();
            (count > 1).then_some(start..start + count)
        })
    }

    /// Whether enough of a compacted segment is no longer needed.
    fn is_rubbish(&self, state: &State, segment: &Segment, oversize: bool) -> bool {
        let live = state.opened.get(&segment.ordinal).map_or(0, |opened| opened.live);
        let pinned = if self.is_young(segment.pinned_ts_max) { segment.pinned } else { 0 };
        let rubbish = segment.records.saturating_sub(live + pinned);
        segment.compacted && rubbish > 0 && rubbish * if oversize { 4 } else { 2 } >= segment.records
    }

    fn rewrite(&self, rewrite: &Rewrite, leftover: &mut Leftover) -> io::Result<()> {
        let Some(head) = rewrite.old.first() else { return Ok(()) };
        let disk = self.log.files.disk.as_ref();
        let temporary = head.path.with_extension(segment::TEMPORARY);
        let header = FileHeader { first: head.first, through: rewrite.through, compacted: true };
        let copied = self.copy(rewrite, header, &temporary, disk);
        let (file, kept) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                // Best effort: the next start removes it, too.
                let _ = disk.remove(&temporary);
                return Err(error);
            }
        };
        let file = Arc::new(file);
        let mut segment = Segment::new(&self.log.files, rewrite.ordinal, head.path.clone(), &file, header)?;
        for kept in &kept {
            segment.note(kept.offset, &kept.meta);
        }
        crash_point!("c11-segment-copied");
        disk.rename(&temporary, &head.path)?;
        crash_point!("c11-segment-replaced");
        // From here on the new file has the name, so memory must follow, whatever the disk answers
        // next.
        self.switch(rewrite, segment, &kept);
        leftover.extend(rewrite.old.iter().skip(1).map(|old| old.path.clone()));
        disk.sync_dir(&self.log.dir)?;
        self.remove(leftover)
    }

    /// Removes files that were replaced, once the name of what replaces them is durable.
    fn remove(&self, leftover: &mut Leftover) -> io::Result<()> {
        if leftover.is_empty() {
            return Ok(());
        }
        let disk = self.log.files.disk.as_ref();
        disk.sync_dir(&self.log.dir)?;
        while let Some(path) = leftover.last() {
            disk.remove(path)?;
            leftover.pop();
        }
        disk.sync_dir(&self.log.dir)
    }

    /// Writes the frames that stay to a file of their own and syncs it.
    fn copy(
        &self,
        rewrite: &Rewrite,
        header: FileHeader,
        path: &Path,
        disk: &dyn Disk,
    ) -> io::Result<(File, Vec<Kept>)> {
        let file = disk.open(path, Open::Create)?;
        let mut kept = Vec::new();
        let mut buffer = header.to_bytes();
        let mut written = 0;
        let decoder = Arc::clone(&self.log.read().decoder);
        let ends = rewrite.old.iter().skip(1).map(|next| next.first).chain([rewrite.through + 1]);
        for (old, end) in rewrite.old.iter().zip(ends) {
            let mut walker = Walker::new(&old.file, FILE_HEADER, old.len, old.first - 1, Some(end));
            while let Some(step) = walker.next() {
                let Step::Frame { offset, meta, payload, raw } = step else { continue };
                let was = Location::new(old.ordinal, offset);
                let pair = pair_of(&decoder, &meta, payload);
                let newest = pair.filter(|pair| self.log.read().index.get(*pair) == Some(was));
                let pinned = meta.flags & (CONFLICT | MARKER) != 0 && self.is_young(meta.ts_ms);
                if newest.is_some() || pinned {
                    let offset = written + buffer.len() as u64;
                    kept.push(Kept { meta, was: newest.map(|pair| (pair, was)), offset });
                    buffer.extend_from_slice(raw);
                }
                if buffer.len() >= WRITE_BYTES {
                    file.write_at(&buffer, written)?;
                    written += buffer.len() as u64;
                    buffer.clear();
                    if self.stop.load(Ordering::Acquire) {
                        return Err(io::Error::new(io::ErrorKind::Interrupted, "the stream is being closed"));
                    }
                }
            }
            if walker.unreadable {
                // It may be readable again: do not replace it by what is left of it.
                return Err(io::Error::other(format!("{} cannot be read", old.path.display())));
            }
        }
        file.write_at(&buffer, written)?;
        file.sync()?;
        Ok((file, kept))
    }

    /// Puts the new segment in the place of the old ones. Readers find each pair at every moment:
    /// in the old file until its location is changed, in the new one after that.
    fn switch(&self, rewrite: &Rewrite, segment: Segment, kept: &[Kept]) {
        let new = segment.ordinal;
        self.log.write().open(&segment);
        for kept in kept.chunks(MOVES_AT_ONCE) {
            let mut guard = self.log.write();
            let state = &mut *guard;
            for kept in kept {
                let Some((pair, was)) = kept.was else { continue };
                if state.index.relocate(pair, was, Location::new(new, kept.offset)) {
                    state.count(was.ordinal(), -1);
                    state.count(new, 1);
                }
            }
        }
        let mut guard = self.log.write();
        let state = &mut *guard;
        let ordinals: Vec<u32> = rewrite.old.iter().map(|old| old.ordinal).collect();
        let live: u64 = ordinals.iter().filter_map(|old| state.opened.remove(old)).map(|opened| opened.live).sum();
        if live > 0 {
            // Their newest records were damaged and are gone; the pairs are unknown now and will be
            // recorded anew.
            state.index.forget_segments(&ordinals);
        }
        let Some(start) = state.segments.iter().position(|old| ordinals.first() == Some(&old.ordinal)) else { return };
        let end = (start + ordinals.len()).min(state.segments.len());
        state.segments.splice(start..end, [segment]);
    }
}
