//! The writer, in steps (`steps.rs`): takes all appends that wait, writes them with one write and
//! one sync, then answers.
//!
//! ```text
//!   append --encoded frames--> queue (bounded in bytes) --> group: positions, checksums -> write -> fdatasync
//!                                                                    -> index, newest position -> answers
//! ```
//!
//! An answer is given only after the sync, and nobody in this process can read a record before
//! that. After a refused write or sync the file is opened anew and cut to its last durable length
//! before anything else is written: what the kernel did with pages whose sync failed is unknown, so
//! the same file handle is not asked again.
//!
//! What is read in a file and what is on the disk can differ once a sync was refused, and no later
//! sync need make up for it. So that a refused record never takes the place of an acknowledged one,
//! there are two rules:
//!
//! 1. A writer appends to files only that it has made itself: a new one, or a copy of the newest
//!    one or of its end (`recover_tail.rs`). An earlier process may have ended between a refusal
//!    and the cut.
//! 2. Nothing is written, here or in the next segment, before the cut of what was refused is
//!    durable.
//!
//! Once a segment holds a record, all earlier segments are complete and never written again: a
//! frame in an earlier one at or behind the first position of a later one is void (`load.rs`).

use super::file::LogFile;
use super::frame::{self, FILE_HEADER, FIRST, FileHeader, Meta};
use super::index::Location;
use super::load::{self, Access};
use super::lock::OwnerLock;
use super::log::{Log, unavailable};
use super::options::Options;
use super::segment::{self, Segment};
use super::{compact, complete, recover_tail};
use crate::change::{KeyedHash, Position};
use crate::codec;
use crate::env::disk::{Disk, File, Identity, Open, make_folder};
use crate::failpoint::{crash_point, planted};
use crate::stream::{CompleteThrough, StreamError};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Bytes that are written at once at most, unless a single append is larger: some ten batches,
/// which a disk writes in tens of milliseconds, so that the first of a group does not wait long for
/// the last.
const GROUP_BYTES: usize = 4 << 20;

/// What the thread is asked.
pub(super) enum Request {
    /// To record these changes.
    Append(Append),
    /// To begin a new segment if the active one is old enough, and to answer when that is done.
    Tick(std::sync::mpsc::SyncSender<()>),
    /// To record the epoch through which the stream is complete.
    CompleteThrough(CompleteThrough, oneshot::Sender<std::io::Result<()>>),
}

/// Changes on their way into the log.
pub(super) struct Append {
    /// Their frames, complete but for positions and checksums.
    pub bytes: Vec<u8>,
    /// Their headers as they will be written (positions count from 0), and the hashes by which the
    /// index knows their pairs.
    pub frames: Vec<(Meta, Option<KeyedHash>)>,
    pub answer: oneshot::Sender<Result<Position, StreamError>>,
    /// Its share of the queue, given back when it is dropped.
    pub _permit: OwnedSemaphorePermit,
}

pub(super) struct Writer {
    log: Arc<Log>,
    options: Options,
    disk: Arc<dyn Disk>,
    holder: String,
    lock: OwnerLock,
    compactor: Arc<compact::Compactor>,
    /// The segment that is written; its file, durable length and the time of its first record are
    /// in [`Log`] too.
    path: PathBuf,
    identity: Identity,
    /// Open for as long as it is written.
    file: Option<Arc<File>>,
    len: u64,
    /// When its first record was written, milliseconds since the epoch.
    since_ms: Option<i64>,
    /// Whether the last write or sync was refused, so that the file has to be opened anew.
    broken: bool,
}

impl Writer {
    /// Takes the lock, loads the directory and makes it ready to be appended to.
    pub fn open(
        dir: PathBuf,
        holder: &str,
        options: Options,
    ) -> Result<(Writer, Arc<Log>, Arc<compact::Compactor>), StreamError> {
        let disk = Arc::clone(&options.files.disk);
        make_folder(disk.as_ref(), &dir).map_err(|error| unavailable(&dir, &error))?;
        let lock = OwnerLock::acquire(disk.as_ref(), &dir, holder)?;
        let log = Arc::new(Log::new(dir, options.files.clone(), super::log::State::default()));
        let compactor = Arc::new(compact::Compactor::new(Arc::clone(&log), options.clone()));
        let mut writer = Writer {
            log: Arc::clone(&log),
            options,
            disk,
            holder: holder.to_owned(),
            lock,
            compactor: Arc::clone(&compactor),
            path: PathBuf::new(),
            identity: (0, 0),
            file: None,
            len: 0,
            since_ms: None,
            broken: false,
        };
        writer.load(1)?;
        Ok((writer, log, compactor))
    }

    /// Loads the directory; the next record will be at `floor` or behind it.
    fn load(&mut self, floor: Position) -> Result<(), StreamError> {
        let mut loaded = load::load(&self.log.files, &self.log.dir, Access::Write)?;
        self.write_schema()?;
        self.log.set_complete_through(complete::read(self.disk.as_ref(), &self.log.dir));
        for sentence in loaded.damage {
            self.log.report(sentence);
        }
        let appendable = loaded.appendable && loaded.state.next >= floor;
        loaded.state.next = loaded.state.next.max(floor);
        // What was compacted was synced before it had its name.
        let unverified_tail = loaded.state.segments.last().is_some_and(|last| !last.compacted);
        loaded.state.unverified_tail = unverified_tail;
        *self.log.write() = loaded.state;
        self.broken = false;
        self.adopt();
        if appendable {
            self.recover_tail_if_possible();
        } else {
            if unverified_tail {
                recover_tail::recover_tail(&self.log, &self.options)?;
            }
            self.roll()?;
        }
        self.log.publish();
        Ok(())
    }

    /// Puts the schema of what will be written beside it, so that programs with another schema can
    /// read it.
    fn write_schema(&self) -> Result<(), StreamError> {
        let fingerprint = codec::own_fingerprint().map_err(|e| StreamError::Damaged(e.to_string()))?;
        let path = self.log.dir.join(format!("{}.{}", codec::hex(&fingerprint), segment::SCHEMA));
        if self.disk.exists(&path) {
            return Ok(());
        }
        let temporary = path.with_extension(segment::TEMPORARY);
        let write = || {
            let file = self.disk.open(&temporary, Open::Create)?;
            file.write_at(codec::SCHEMA.as_bytes(), 0)?;
            file.sync()?;
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(&self.log.dir)
        };
        write().map_err(|e| unavailable(&path, &e))
    }

    /// Serves one request, and with an append those that wait behind it. Returns a request that it
    /// took from the queue and did not serve.
    pub fn serve(&mut self, request: Request, waiting: &Receiver<Request>) -> Option<Request> {
        match request {
            Request::Append(first) => return self.group(first, waiting),
            Request::Tick(done) => {
                self.tick();
                let _ = done.send(());
            }
            Request::CompleteThrough(complete, done) => {
                let written = complete::write(self.disk.as_ref(), &self.log.dir, complete);
                if written.is_ok() {
                    self.log.set_complete_through(complete);
                }
                let _ = done.send(written);
            }
        }
        None
    }

    /// The stream was dropped. Best effort: the next opening would take a refused write for
    /// records, and no sync makes it durable.
    pub fn end(&mut self) {
        if self.broken {
            let _ = self.reopen();
        }
    }

    /// Begins a new segment if the active one is old, so that age can compact it. Before that,
    /// tries again to recover the tail if the opening could not.
    pub fn tick(&mut self) {
        if self.log.read().unverified_tail {
            self.recover_tail_if_possible();
        }
        let old = |since: i64| since.saturating_add(self.options.roll_ms()) <= (self.options.now_ms)();
        if !self.broken
            && !self.log.read().unverified_tail
            && self.since_ms.is_some_and(old)
            && let Err(error) = self.roll()
        {
            tracing::warn!(stream = %self.log.dir.display(), "a new segment could not be begun: {error}");
        }
    }

    /// Records this append and those that wait behind it. Returns a request that is not part of the
    /// group.
    fn group(&mut self, first: Append, requests: &Receiver<Request>) -> Option<Request> {
        let mut bytes = first.bytes.len();
        let mut group = vec![first];
        let mut ahead = None;
        while bytes < GROUP_BYTES {
            match requests.try_recv() {
                Ok(Request::Append(append)) => {
                    bytes += append.bytes.len();
                    group.push(append);
                }
                Ok(other) => {
                    ahead = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let result = self.record(&mut group);
        for append in group {
            // If the caller no longer waits, its changes are recorded all the same.
            let position = append.frames.first().map_or(0, |(meta, _)| meta.position);
            let _ = append.answer.send(result.clone().map(|()| position));
        }
        ahead
    }

    /// Writes a group and makes it durable and visible.
    fn record(&mut self, group: &mut [Append]) -> Result<(), StreamError> {
        self.make_ready()?;
        let bytes: usize = group.iter().map(|append| append.bytes.len()).sum();
        if self.len > FILE_HEADER && self.len + bytes as u64 > self.options.segment_bytes {
            self.roll()?;
            self.keep_bounded();
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let first = self.log.read().next;
        let mut position = first;
        for append in &mut *group {
            let mut rest = append.bytes.as_mut_slice();
            for (meta, _) in &mut append.frames {
                meta.position = position;
                meta.flags |= if position == first { FIRST } else { 0 };
                position += 1;
                let Some((frame, behind)) = rest.split_at_mut_checked(meta.len as usize) else { break };
                frame::seal(frame, meta);
                rest = behind;
            }
        }
        let file = self.file.clone().ok_or_else(|| StreamError::Unavailable("the stream has no segment".to_owned()))?;
        let joined: Vec<u8>;
        let bytes = match &*group {
            [only] => &only.bytes,
            many => {
                joined = many.iter().map(|append| append.bytes.as_slice()).collect::<Vec<_>>().concat();
                &joined
            }
        };
        crash_point!("c2-half-written", file.write_at(bytes.get(..bytes.len() / 2).unwrap_or_default(), self.len));
        crash_point!("c2-written-not-synced", file.write_at(bytes, self.len));
        let sync = || if planted!("records are acknowledged unsynced") { Ok(()) } else { file.sync() };
        let written = file.write_at(bytes, self.len).and_then(|()| sync());
        if let Err(error) = written {
            self.broken = true;
            return Err(unavailable(&self.path, &error));
        }
        crash_point!("c3-synced-not-answered");
        self.show(group);
        Ok(())
    }

    /// Writes can be faster than the thread that compacts. A quarter above `size` they wait for it:
    /// with the active segment and the one that is being rewritten, an eighth each, the disk then
    /// holds 1.5 times `size`, and the pairs.
    fn keep_bounded(&self) {
        let size = self.options.retention.size;
        let is_behind = {
            let state = self.log.read();
            // The active one is not compacted, and the compactor's thread may be rewriting one more
            // just now.
            let not_compacted = state.segments.iter().filter(|segment| !segment.compacted).count();
            state.bytes() > size.saturating_add(size / 4) && not_compacted > 2
        };
        if is_behind && let Err(error) = self.compactor.compact() {
            tracing::warn!(stream = %self.log.dir.display(), "history could not be compacted: {error}");
        }
    }

    /// Lets everybody see a group that is durable.
    fn show(&mut self, group: &[Append]) {
        let mut guard = self.log.write();
        let state = &mut *guard;
        let Some(mut segment) = state.segments.pop() else { return };
        for (meta, pair) in group.iter().flat_map(|append| &append.frames) {
            state.set_newest(*pair, Location::new(segment.ordinal, segment.len));
            segment.note(segment.len, meta);
            state.next = meta.position + 1;
        }
        self.len = segment.len;
        self.since_ms = self.since_ms.or_else(|| Some((self.options.now_ms)()));
        state.segments.push(segment);
        drop(guard);
        self.log.publish();
    }

    /// Makes sure that what is written next is written where it will be found, and that nothing
    /// refused is there.
    fn make_ready(&mut self) -> Result<(), StreamError> {
        if !self.lock.in_place(self.disk.as_ref())
            || self.disk.facts(&self.path).ok().map(|facts| facts.identity) != Some(self.identity)
        {
            self.begin_anew()?;
        }
        if self.broken {
            self.reopen()?;
        }
        if self.log.read().unverified_tail { self.recover_tail() } else { Ok(()) }
    }

    /// Makes durable what this opening found, in a file that is appended to then.
    fn recover_tail(&mut self) -> Result<(), StreamError> {
        let recovered = recover_tail::recover_tail(&self.log, &self.options);
        self.adopt();
        // A tail that cannot be read stays where it is.
        if recovered? { Ok(()) } else { self.roll() }
    }

    /// [`Writer::recover_tail`] where nobody waits for it. If the disk is full, the tail can be
    /// read all the same; the next append or the timer tries again.
    fn recover_tail_if_possible(&mut self) {
        if let Err(error) = self.recover_tail() {
            tracing::warn!(stream = %self.log.dir.display(), "what was found could not be copied: {error}");
        }
    }

    /// Makes the last segment the one that is written.
    fn adopt(&mut self) {
        if let Some(last) = self.log.read().segments.last() {
            self.path = last.path.clone();
            self.identity = last.file.identity();
            self.file = last.file.get_to_write().ok();
            self.len = last.len;
            self.since_ms = last.oldest.map(|(_, ts_ms)| ts_ms);
        }
    }

    /// After a refused write: opens the file again and truncates it to its durable length.
    fn reopen(&mut self) -> Result<(), StreamError> {
        let reopened = self.disk.open(&self.path, Open::Write).and_then(|file| {
            file.set_len(self.len)?;
            file.sync()?;
            let file = Arc::new(file);
            Ok((LogFile::new(&self.log.files, &self.path, &file)?, file))
        });
        let (log_file, file) = reopened.map_err(|e| unavailable(&self.path, &e))?;
        self.log.write().replace_file(log_file);
        self.file = Some(file);
        self.broken = false;
        Ok(())
    }

    /// Another process removed or replaced the files while they were written: loads the files that
    /// are there now, if any, and goes on behind the positions that were given out already.
    fn begin_anew(&mut self) -> Result<(), StreamError> {
        let dir = self.log.dir.clone();
        make_folder(self.disk.as_ref(), &dir).map_err(|error| unavailable(&dir, &error))?;
        if !self.lock.in_place(self.disk.as_ref()) {
            self.lock = OwnerLock::acquire(self.disk.as_ref(), &dir, &self.holder)?;
        }
        if self.disk.facts(&self.path).ok().map(|facts| facts.identity) == Some(self.identity) {
            return Ok(());
        }
        let compactor = Arc::clone(&self.compactor);
        let _compaction = compactor.stand_still();
        let floor = self.log.read().next;
        self.load(floor)?;
        self.log.report(format!(
            "{}: the stream's files were removed or replaced while it was written; it goes on at position {floor}",
            dir.display()
        ));
        Ok(())
    }

    /// Begins a new segment.
    fn roll(&mut self) -> Result<(), StreamError> {
        let (first, ordinal) = {
            let mut state = self.log.write();
            (state.next, state.new_ordinal())
        };
        let path = segment::path_of(&self.log.dir, first);
        let header = FileHeader { first, through: 0, compacted: false };
        let created = self.disk.open(&path, Open::Create).and_then(|file| {
            file.write_at(&header.to_bytes(), 0)?;
            file.sync()?;
            self.disk.sync_dir(&self.log.dir)?;
            let file = Arc::new(file);
            Ok((Segment::new(&self.log.files, ordinal, path.clone(), &file, header)?, file))
        });
        let (segment, file) = match created {
            Ok(created) => created,
            Err(error) => {
                // Best effort: an empty file is also removed by the next start, and written over by
                // the next attempt.
                let _ = self.disk.remove(&path);
                let kind = if error.kind() == ErrorKind::NotFound { &self.log.dir } else { &path };
                return Err(unavailable(kind, &error));
            }
        };
        crash_point!("c11-segment-begun");
        self.path = path;
        self.identity = segment.file.identity();
        self.file = Some(file);
        self.len = FILE_HEADER;
        self.since_ms = None;
        let mut state = self.log.write();
        state.unverified_tail = false;
        state.open(&segment);
        state.segments.push(segment);
        drop(state);
        self.compactor.wake();
        Ok(())
    }
}
