//! The embedded stream: a log of segment files in one directory, written by one process, read by
//! any number.
//!
//! ```text
//!   append -> Writer (one thread: group commit)  -> 00000000000000000001.log   oldest; perhaps compacted
//!                                                   00000000000000081920.log   closed
//!   Compactor (one thread: retention)           ->  00000000000000163840.log   active
//!   read, position_at -> frames, in order           9c42a0a87e5e9c14.avsc      schema of the payloads
//!   latest, knows     -> index of pairs, in memory  lock                       who writes
//! ```
//!
//! Why it is correct: the files are the only truth. A frame carries a checksum, its position and
//! its pair's hash, so index and positions are rebuilt by a scan at every start, and nothing that a
//! crash can leave is taken for a record (`frame.rs`). A record is shown to readers and
//! acknowledged only after `fdatasync` (`writer.rs`). Retention never changes a file: it writes a
//! new one beside it and renames it (`compact.rs`). Damage loses what it hit and nothing else;
//! [`EmbeddedStream::damage`] reports it, and so does each answer that passes it.
//!
//! No position is used twice while a record follows it: the positions of an append that failed or
//! was cut short are used again. Memory: 21 to 43 bytes a pair that the stream ever knew, and 24
//! bytes a 64 KiB of log.

mod compact;
mod complete;
mod existing;
mod file;
mod follow;
mod frame;
mod index;
mod load;
mod lock;
mod log;
mod options;
mod query;
mod recover_tail;
mod segment;
mod steps;
mod writer;

pub use steps::{CompactorSteps, Step, WriterSteps};
use steps::{Requests, Stepping};

use super::{CompleteThrough, ExistingPairs, Extent, Latest, ReadBatch, Recorded, Retention, Stream, StreamError};
use crate::change::{Change, KeyedHash, Op, Pair, Position};
use crate::codec;
use crate::env;
use file::Files;
use frame::{CONFLICT, FRAME_MAX, MARKER, Meta};
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use index::{NO_PAIR, known_as, pair_hash};
use log::Log;
use options::Options;
use query::Missed;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Bytes of encoded changes that may wait for the disk; further appends wait before they queue.
/// Four full groups: the disk always finds work, and a stalled disk costs no more memory than this.
const QUEUE_BYTES: usize = 16 << 20;
/// The queue is counted in these, so that it holds 1,024 appends at most.
const QUEUE_UNIT: usize = 16 << 10;
/// Requests that may wait: appends, and two more, so that a `compact_now` and a
/// `set_complete_through` find a place.
const REQUESTS: usize = QUEUE_BYTES / QUEUE_UNIT + 2;

/// How often a look is repeated where files were gone. Each time another process has finished a
/// step of compaction, or a segment that somebody removed is given up.
const LOOKS_MAX: usize = 10_000;
/// How often a read-only opening looks for new records: below what a person at `tail` notices.
const POLL: Duration = Duration::from_millis(200);

/// A stream in a directory. Dropping it writes what was handed to `append` and gives up the lock.
pub struct EmbeddedStream {
    log: Arc<Log>,
    /// `None` in an opening for reading only.
    writing: Option<Writing>,
    reading: Arc<Reading>,
}

/// What a look at the files needs, on whichever thread.
struct Reading {
    log: Arc<Log>,
    /// Another process writes.
    follows: bool,
    /// One refresh at a time.
    refreshing: Mutex<()>,
}

/// The parts of an opening for writing.
struct Writing {
    queue: Arc<Semaphore>,
    /// Dropped first, so that the writer ends.
    requests: Option<Requests>,
    compactor: Arc<compact::Compactor>,
    threads: Vec<JoinHandle<()>>,
    /// In a simulator, which has no threads.
    steps: Option<Stepping>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.requests = None;
        self.compactor.stop();
        for thread in self.threads.drain(..) {
            // It cannot panic; if it did, what it acknowledged is durable all the same.
            let _ = thread.join();
        }
        if let Some(steps) = self.steps.take() {
            steps.end();
        }
    }
}

impl EmbeddedStream {
    /// Opens the stream in `dir` for writing, and creates it if there is none. Reads every segment
    /// once: about a second a gigabyte.
    ///
    /// # Errors
    /// [`StreamError::Owned`] with `holder` of the process that writes it now;
    /// [`StreamError::Unavailable`] if the disk refuses. Damage is no error, see
    /// [`EmbeddedStream::damage`].
    pub fn open(dir: &Path, retention: Retention, holder: &str) -> Result<EmbeddedStream, StreamError> {
        EmbeddedStream::open_with(dir, Options::new(retention), holder)
    }

    /// As [`EmbeddedStream::open`], without threads: nothing is written and nothing is compacted
    /// but by the steps, on whichever thread they are called. For simulators. An append resolves
    /// after a step; [`EmbeddedStream::compact_now`] would wait for ever.
    ///
    /// # Errors
    /// As [`EmbeddedStream::open`].
    pub fn open_in_steps(
        dir: &Path,
        retention: Retention,
        holder: &str,
    ) -> Result<(EmbeddedStream, WriterSteps, CompactorSteps), StreamError> {
        EmbeddedStream::open_parts(dir, Options::new(retention), holder)
    }

    fn open_with(dir: &Path, options: Options, holder: &str) -> Result<EmbeddedStream, StreamError> {
        let (mut stream, writer, compactor) = EmbeddedStream::open_parts(dir, options, holder)?;
        let failed =
            |error: std::io::Error| StreamError::Unavailable(format!("a thread could not be started: {error}"));
        if let Some(writing) = &mut stream.writing {
            if env::world::here().is_some() {
                let woken = writing.requests.iter().map(Requests::woken).next().unwrap_or_default();
                writing.steps = Some(Stepping::begin(writer, compactor, woken));
                return Ok(stream);
            }
            writing.threads.push(env::tasks::thread("stream-write", move || writer.run()).map_err(failed)?);
            writing.threads.push(env::tasks::thread("stream-compact", move || compactor.run()).map_err(failed)?);
        }
        Ok(stream)
    }

    fn open_parts(
        dir: &Path,
        options: Options,
        holder: &str,
    ) -> Result<(EmbeddedStream, WriterSteps, CompactorSteps), StreamError> {
        let period = options.period;
        let (writer, log, compactor) = writer::Writer::open(dir.to_owned(), holder, options)?;
        let (requests, received) = std::sync::mpsc::sync_channel(REQUESTS);
        let writing = Writing {
            queue: Arc::new(Semaphore::new(QUEUE_BYTES / QUEUE_UNIT)),
            requests: Some(Requests::new(requests)),
            compactor: Arc::clone(&compactor),
            threads: Vec::new(),
            steps: None,
        };
        let reading = Reading { log: Arc::clone(&log), follows: false, refreshing: Mutex::default() };
        let stream = EmbeddedStream { log, writing: Some(writing), reading: Arc::new(reading) };
        Ok((stream, WriterSteps::new(writer, received, period), CompactorSteps::new(compactor)))
    }

    /// Opens the stream in `dir` for reading only, beside a writer or without one. It takes no lock
    /// and changes nothing. `read`, `latest`, `position_at` and `wait_after` look for what another
    /// process has written since; `extent` and `knows` answer by what was last read.
    ///
    /// # Errors
    /// [`StreamError::Unavailable`] if there is no such directory, or it cannot be read.
    pub fn open_read_only(dir: &Path) -> Result<EmbeddedStream, StreamError> {
        EmbeddedStream::follow(Files::here(), dir)
    }

    fn follow(files: Files, dir: &Path) -> Result<EmbeddedStream, StreamError> {
        let loaded = load::load(&files, dir, load::Access::Read)?;
        let complete = complete::read(files.disk.as_ref(), dir);
        let log = Log::new(dir.to_owned(), files, loaded.state);
        log.set_complete_through(complete);
        loaded.damage.into_iter().for_each(|sentence| log.report(sentence));
        let log = Arc::new(log);
        let reading = Reading { log: Arc::clone(&log), follows: true, refreshing: Mutex::default() };
        Ok(EmbeddedStream { log, writing: None, reading: Arc::new(reading) })
    }

    /// One sentence for each damaged place that was found since this opening: file, offset, bytes,
    /// positions; and for files that were removed while the stream was written. At most 1,000.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        self.log.damage()
    }

    /// Applies retention now, instead of when its timer is due. Returns when nothing is left to be
    /// compacted.
    ///
    /// # Errors
    /// [`StreamError::Unavailable`] if the disk refuses, or in an opening for reading only.
    pub fn compact_now(&self) -> Result<(), StreamError> {
        let writing = self.writing()?;
        let (done, ticked) = std::sync::mpsc::sync_channel(1);
        if let Some(requests) = &writing.requests {
            let _ = requests.send(writer::Request::Tick(done)).map(|()| ticked.recv());
        }
        writing.compactor.compact().map_err(|error| log::unavailable(&self.log.dir, &error))
    }

    fn writing(&self) -> Result<&Writing, StreamError> {
        self.writing.as_ref().ok_or_else(|| {
            StreamError::Unavailable(format!("the stream in {} is open for reading only", self.log.dir.display()))
        })
    }

    fn newest_record(&self, pair: &Pair) -> Result<Option<Recorded>, StreamError> {
        self.reading.answer(|log| query::latest(log, pair))
    }

    /// As [`Stream::read`], on this thread.
    ///
    /// # Errors
    /// As there.
    pub fn read_here(&self, from: Position, limit: usize, bytes: usize) -> Result<ReadBatch, StreamError> {
        self.reading.answer(|log| query::read(log, from, limit, bytes))
    }

    /// Asks the log's files on a thread that may wait for a disk.
    fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Log) -> Result<T, Missed> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StreamError>> {
        let reading = Arc::clone(&self.reading);
        async move {
            let ended = env::tasks::blocking(move || reading.answer(question)).await;
            ended.unwrap_or_else(|error| Err(StreamError::Unavailable(format!("a read ended early: {error}"))))
        }
        .boxed()
    }

    /// Has the writer record the epoch through which the stream is complete.
    async fn write_complete_through(&self, complete: CompleteThrough) -> Result<(), StreamError> {
        let gone = || StreamError::Unavailable("the stream is closed".to_owned());
        let (answer, answered) = oneshot::channel();
        let requests = self.writing()?.requests.as_ref().ok_or_else(gone)?;
        requests.send(writer::Request::CompleteThrough(complete, answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map_err(|error| log::unavailable(&self.log.dir, &error))
    }
}

impl Reading {
    /// Refreshes and looks, and once more where a file was gone: another process compacts beside an
    /// opening for reading only, and of one that was removed under a writer everything that was in
    /// it is gone.
    fn answer<T>(&self, look: impl Fn(&Log) -> Result<T, Missed>) -> Result<T, StreamError> {
        self.refresh()?;
        for _ in 0..LOOKS_MAX {
            match look(&self.log) {
                Ok(found) => return Ok(found),
                Err(Missed::Gone(ordinal)) if !self.follows => self.log.lose(ordinal),
                Err(Missed::Gone(_)) => self.refresh()?,
                Err(Missed::Failed(error)) => return Err(error),
            }
        }
        let dir = self.log.dir.display();
        Err(StreamError::Unavailable(format!("{dir}: its files go as fast as they are looked for")))
    }

    /// In an opening for reading only: looks what another process has written.
    fn refresh(&self) -> Result<(), StreamError> {
        if !self.follows {
            return Ok(());
        }
        let _one = self.refreshing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        follow::refresh(&self.log)
    }
}

/// The bytes of frames, and for each one its header and the hash by which the index knows its pair.
type Frames = (Vec<u8>, Vec<(Meta, Option<KeyedHash>)>);

/// The frames of these changes, complete but for positions and checksums.
fn frames(changes: &[Change]) -> Result<Frames, StreamError> {
    let mut bytes = Vec::new();
    let mut frames = Vec::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        let start = bytes.len();
        frame::begin(&mut bytes);
        codec::encode(change, &mut bytes).map_err(|error| StreamError::Damaged(error.to_string()))?;
        let len = bytes.len() - start;
        if len > FRAME_MAX {
            let text = format!("its change takes {len} bytes, and the embedded stream takes {FRAME_MAX}");
            return Err(StreamError::TooLarge { index, text });
        }
        let marker = change.op == Op::Marker;
        let flags = if change.conflict.is_some() { CONFLICT } else { 0 } | if marker { MARKER } else { 0 };
        let pair_hash = if marker { NO_PAIR } else { pair_hash(&change.pair) };
        let meta = Meta { position: 0, ts_ms: change.ts_ms, pair_hash, flags, len: len as u32 };
        frames.push((meta, (pair_hash != NO_PAIR).then(|| known_as(&change.pair))));
    }
    Ok((bytes, frames))
}

impl Stream for EmbeddedStream {
    fn damage(&self) -> Vec<String> {
        self.log.damage()
    }

    fn begin(&self, _epoch: i64, complete: CompleteThrough) -> BoxFuture<'_, Result<(), StreamError>> {
        // The lock is the fence: nobody else appends to these files while they are open here.
        async move {
            if complete != self.complete_through()
                && let Err(error) = self.write_complete_through(complete).await
            {
                // The next opening compares more than it had to.
                tracing::warn!("{error}");
            }
            Ok(())
        }
        .boxed()
    }

    fn newest_epoch(&self) -> BoxFuture<'_, i64> {
        async move {
            // One lock after the other: a reader that holds one and asks for another waits for ever behind a writer in between.
            let newest = |log: &Log| {
                let last = log.read().extent().last;
                query::read(log, last, 1, usize::MAX)
            };
            let newest = self.ask(newest).await;
            let newest = newest.unwrap_or_default().records.into_iter().next();
            newest.map_or(0, |recorded| recorded.change.epoch)
        }
        .boxed()
    }

    fn complete_through(&self) -> CompleteThrough {
        self.log.complete_through()
    }

    fn set_complete_through(&self, complete: CompleteThrough) -> BoxFuture<'_, Result<(), StreamError>> {
        self.write_complete_through(complete).boxed()
    }

    fn record_replaced(&self, mut replaced: Vec<Change>) -> BoxFuture<'_, Result<Position, StreamError>> {
        async move {
            // The lock keeps every owner out; the next one finds the epoch of the last one.
            let epoch = self.newest_epoch().await;
            replaced.iter_mut().for_each(|change| change.epoch = epoch);
            self.append(Arc::new(replaced)).await
        }
        .boxed()
    }

    fn append(&self, changes: Arc<Vec<Change>>) -> BoxFuture<'_, Result<Position, StreamError>> {
        async move {
            let writing = self.writing()?;
            let (bytes, frames) = frames(&changes)?;
            if frames.is_empty() {
                return Ok(self.log.read().next);
            }
            let gone = || StreamError::Unavailable("the stream is closed".to_owned());
            let share = bytes.len().div_ceil(QUEUE_UNIT).min(QUEUE_BYTES / QUEUE_UNIT) as u32;
            let queue = Arc::clone(&writing.queue);
            let _permit = queue.acquire_many_owned(share).await.map_err(|_| gone())?;
            let (answer, answered) = oneshot::channel();
            let request = writer::Request::Append(writer::Append { bytes, frames, answer, _permit });
            writing.requests.as_ref().ok_or_else(gone)?.send(request).map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        }
        .boxed()
    }

    fn latest(&self, pair: &Pair) -> Result<Option<Latest>, StreamError> {
        Ok(self.newest_record(pair)?.map(Latest::from))
    }

    fn latest_of(&self, pairs: Vec<Pair>) -> BoxFuture<'_, Result<Vec<Option<Latest>>, StreamError>> {
        async move {
            // An opening for reading only may learn of a pair by looking.
            if !self.reading.follows && !pairs.iter().any(|pair| self.knows(pair)) {
                return Ok(vec![None; pairs.len()]);
            }
            let newest = |log: &Log, pair: &Pair| Ok(query::latest(log, pair)?.map(Latest::from));
            self.ask(move |log| pairs.iter().map(|pair| newest(log, pair)).collect()).await
        }
        .boxed()
    }

    fn knows(&self, pair: &Pair) -> bool {
        self.log.read().index.get(known_as(pair)).is_some()
    }

    fn existing(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<ExistingPairs, StreamError>> {
        self.ask(move |log| existing::existing(log, from, limit))
    }

    fn read(&self, from: Position, limit: usize, bytes: usize) -> BoxFuture<'_, Result<ReadBatch, StreamError>> {
        self.ask(move |log| query::read(log, from, limit, bytes))
    }

    fn position_at(&self, ts_ms: i64) -> BoxFuture<'_, Result<Position, StreamError>> {
        self.ask(move |log| query::position_at(log, ts_ms))
    }

    fn extent(&self) -> Extent {
        self.log.read().extent()
    }

    fn wait_after(&self, position: Position) -> BoxFuture<'_, ()> {
        async move {
            let mut newest = self.log.newest.subscribe();
            if self.writing.is_some() {
                // The sender lives as long as `self`, so this ends with a record.
                let _ = newest.wait_for(|newest| *newest > position).await;
                return;
            }
            loop {
                // What cannot be read now may be there at the next look.
                let _ = self.ask(|_| Ok(())).await;
                if *newest.borrow_and_update() > position {
                    return;
                }
                env::sleep(POLL).await;
            }
        }
        .boxed()
    }

    fn lost(&self) -> BoxFuture<'_, StreamError> {
        // A disk that fails is waited for by whoever appends.
        pending().boxed()
    }
}

#[cfg(test)]
mod tests;
