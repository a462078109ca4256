//! Tests of the embedded stream: what they share, and its everyday behaviour.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod damage;
mod every_byte;
mod faults;
mod follow;
mod model;
mod power;
mod retention;

/// The very double that `keepstep-doubles` has: that crate is built on this one, so this one cannot
/// name it.
#[path = "../../../../tests/doubles/disk/mod.rs"]
#[expect(dead_code, reason = "not each of its faults is played here")]
mod volatile;

use super::file::Files;
use super::*;
use crate::change::{Conflict, Connector, Gap, GapState, Source, ValueKind};
use crate::env::disk::{Disk, Open};
use futures::executor::block_on;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use volatile::{Image, Left, VolatileDisk};

/// When the tests' clock starts.
const START_MS: i64 = 1_000_000;

/// A change of pair `pair` at time `ts_ms`, with a value that tells it from all others.
fn change(pair: u64, ts_ms: i64, value: &str) -> Change {
    Change {
        op: Op::Update,
        before: None,
        after: Some(value.as_bytes().to_vec()),
        source: Source::new(Connector::Zookeeper, "zk", ts_ms),
        ts_ms,
        route: "r".to_owned(),
        value: ValueKind::String,
        pair: pair_of(pair),
        base: None,
        collapsed: Some(0),
        conflict: None,
        gap: None,
        epoch: 1,
        loss: None,
    }
}

fn pair_of(pair: u64) -> Pair {
    Pair { zookeeper: Some(format!("/p/{pair}")), redis: Some(format!("p:{pair}").into_bytes()) }
}

fn conflict(pair: u64, ts_ms: i64, value: &str) -> Change {
    let conflict = Some(Conflict {
        winner: "zk".to_owned(),
        loser: "cache".to_owned(),
        value: Some(b"lost".to_vec()),
        mzxid: None,
        version: None,
        rule: "prefer zk".to_owned(),
        reason: "both changed".to_owned(),
    });
    Change { conflict, ..change(pair, ts_ms, value) }
}

fn marker(ts_ms: i64) -> Change {
    let gap = Gap { state: GapState::Opened, store: "zk".to_owned(), from: None, to: None, reason: String::new() };
    let pair = Pair { zookeeper: None, redis: None };
    Change { op: Op::Marker, after: None, pair, gap: Some(gap), ..change(0, ts_ms, "") }
}

/// A disk with the folder in which streams are.
fn empty() -> Image {
    Image::from([(PathBuf::from("/data"), Left::Folder)])
}

/// A disk in memory that refuses when told to, and a clock that stands.
struct Bench {
    disk: VolatileDisk,
    now_ms: Arc<AtomicI64>,
    options: Options,
}

impl Bench {
    /// Segments of this size, that retention neither of age nor of size touches unless the test
    /// says so.
    fn new(segment_bytes: u64) -> Bench {
        let disk = VolatileDisk::new(&empty(), |bound| bound / 2);
        let now_ms = Arc::new(AtomicI64::new(START_MS));
        let clock = Arc::clone(&now_ms);
        let options = Options {
            retention: Retention { age: Duration::from_secs(1000), size: u64::MAX },
            segment_bytes,
            renew_bytes: segment_bytes / 2,
            period: Duration::from_secs(3600),
            files: Files::on(Arc::new(disk.clone())),
            now_ms: Arc::new(move || clock.load(Ordering::SeqCst)),
        };
        Bench { disk, now_ms, options }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/data/stream")
    }

    fn open(&self) -> EmbeddedStream {
        EmbeddedStream::open_with(&self.path(), self.options.clone(), "host-a:1").unwrap()
    }

    /// For reading only, beside a writer or without one.
    fn reader(&self) -> EmbeddedStream {
        EmbeddedStream::follow(self.options.files.clone(), &self.path()).unwrap()
    }

    fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        (&self.disk as &dyn Disk).read(path.as_ref()).unwrap()
    }

    /// These bytes and no others are in the file, which is made if there is none.
    fn put(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let file = self.disk.open(path.as_ref(), Open::OpenOrCreate).unwrap();
        file.write_at(bytes.as_ref(), 0).unwrap();
        file.set_len(bytes.as_ref().len() as u64).unwrap();
    }

    fn remove(&self, path: impl AsRef<Path>) {
        assert!(self.has(path.as_ref()));
        self.disk.remove(path.as_ref()).unwrap();
    }

    fn has(&self, path: impl AsRef<Path>) -> bool {
        self.disk.facts(path.as_ref()).is_ok()
    }

    fn len(&self, path: impl AsRef<Path>) -> u64 {
        self.disk.facts(path.as_ref()).unwrap().len
    }

    fn advance(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// The segments' files, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        load::list(&self.disk, &self.path()).unwrap().segments.into_iter().map(|(_, path)| path).collect()
    }
}

fn append(stream: &EmbeddedStream, changes: Vec<Change>) -> Result<Position, StreamError> {
    block_on(stream.append(Arc::new(changes)))
}

/// Everything that the stream delivers, in portions of seven.
fn everything(stream: &EmbeddedStream) -> Vec<(Position, Change)> {
    let mut all = Vec::new();
    let mut from = 0;
    loop {
        let batch = stream.read_here(from, 7, usize::MAX).unwrap();
        if batch.records.is_empty() && batch.damaged.is_empty() {
            return all;
        }
        assert!(batch.next > from);
        from = batch.next;
        all.extend(batch.records.into_iter().map(|record| (record.position, record.change)));
    }
}

#[test]
fn records_read_back_in_order_with_consecutive_positions_also_after_reopening() {
    let bench = Bench::new(2_000);
    let changes: Vec<Change> = (0..100).map(|i| change(i % 10, START_MS, &format!("v{i}"))).collect();
    let expected: Vec<(Position, Change)> = (1..).zip(changes.clone()).collect();
    let stream = bench.open();
    for (i, batch) in changes.chunks(5).enumerate() {
        assert_eq!(append(&stream, batch.to_vec()), Ok(5 * i as Position + 1));
    }
    assert!(bench.segments().len() > 3);
    assert_eq!(everything(&stream), expected);
    assert_eq!(append(&stream, Vec::new()), Ok(101));
    let extent = stream.extent();
    assert_eq!((extent.first, extent.last, extent.full_from, extent.full_from_ms), (1, 100, 1, START_MS));
    let on_disk: u64 = bench.segments().iter().map(|path| bench.len(path)).sum();
    assert_eq!(extent.bytes, on_disk);
    drop(stream);

    let stream = bench.open();
    assert_eq!(everything(&stream), expected);
    // The last write may stand in a segment of its own now.
    assert_eq!(Extent { bytes: on_disk, ..stream.extent() }, extent);
    assert!((on_disk..=on_disk + frame::FILE_HEADER).contains(&stream.extent().bytes));
    assert_eq!(append(&stream, vec![change(1, START_MS, "next")]), Ok(101));
    assert_eq!(stream.damage(), Vec::<String>::new());
}

#[test]
fn the_newest_record_of_a_pair_is_known_deletes_included_and_markers_belong_to_none() {
    let bench = Bench::new(1_000);
    let stream = bench.open();
    for i in 0..50 {
        append(&stream, vec![change(i % 7, START_MS, &format!("v{i}")), marker(START_MS)]).unwrap();
    }
    let delete = Change { op: Op::Delete, after: None, ..change(3, START_MS, "") };
    append(&stream, vec![delete.clone()]).unwrap();
    for stream in [stream, bench_reopened(&bench)] {
        assert_eq!(stream.newest_record(&pair_of(3)).unwrap().unwrap().change, delete);
        let newest = stream.newest_record(&pair_of(5)).unwrap().unwrap();
        assert_eq!((newest.position, newest.change.after.unwrap()), (95, b"v47".to_vec()));
        assert!(stream.knows(&pair_of(6)));
        assert!(!stream.knows(&pair_of(7)));
        assert_eq!(stream.newest_record(&pair_of(7)), Ok(None));
        assert!(!stream.knows(&Pair { zookeeper: None, redis: None }));
    }
}

fn bench_reopened(bench: &Bench) -> EmbeddedStream {
    // Beside the one that is open: for reading only.
    bench.reader()
}

#[test]
fn a_read_respects_its_limits_but_always_answers_with_something() {
    let bench = Bench::new(3_000);
    let stream = bench.open();
    append(&stream, (0..40).map(|i| change(i, START_MS, "0123456789")).collect()).unwrap();
    let batch = stream.read_here(5, 3, usize::MAX).unwrap();
    assert_eq!(batch.records.iter().map(|record| record.position).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(batch.next, 8);
    assert_eq!(stream.read_here(1, 100, 1).unwrap().records.len(), 1);
    assert_eq!(stream.read_here(1, 0, usize::MAX).unwrap().records.len(), 1);
    let size = 200;
    assert!((1..5).contains(&stream.read_here(1, 100, size).unwrap().records.len()));
    let none = stream.read_here(41, 100, usize::MAX).unwrap();
    assert_eq!((none.records.len(), none.next), (0, 41));
    assert_eq!(stream.read_here(900, 100, usize::MAX).unwrap().next, 900);
}

#[test]
fn a_time_leads_to_the_first_record_at_or_after_it_even_if_clocks_went_back() {
    let bench = Bench::new(1_500);
    let stream = bench.open();
    let times: Vec<i64> = (0..200).map(|i| START_MS + (i * 37) % 50 + i * 3).collect();
    for ts_ms in &times {
        append(&stream, vec![change(1, *ts_ms, "v")]).unwrap();
    }
    for ts_ms in START_MS - 5..START_MS + 700 {
        let first = times.iter().position(|time| *time >= ts_ms).map_or(201, |index| index as Position + 1);
        assert_eq!(block_on(stream.position_at(ts_ms)), Ok(first), "at {ts_ms}");
    }
}

#[test]
fn appends_that_wait_together_share_one_sync_and_keep_their_order() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    bench.disk.hold_syncs(true);
    let before = bench.disk.syncs();
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| append(&stream, vec![change(0, START_MS, "first")]));
        // The writer is in the sync of the first append when it has counted it.
        while bench.disk.syncs() == before {
            std::thread::yield_now();
        }
        let mut appends: Vec<_> = (1..=20)
            .map(|i| stream.append(Arc::new(vec![change(i, START_MS, "a"), change(i, START_MS, "b")])))
            .collect();
        for waiting in &mut appends {
            assert!(waiting.now_or_never().is_none());
        }
        assert_eq!(stream.extent().last, 0, "nothing is shown before it is durable");
        bench.disk.hold_syncs(false);
        first.join().unwrap()
    });
    assert_eq!(first, Ok(1));
    // The futures above were dropped while they waited; what they asked for is recorded all the
    // same, in order.
    assert_eq!(append(&stream, vec![change(99, START_MS, "last")]), Ok(42));
    let pairs: Vec<Pair> = everything(&stream).into_iter().map(|(_, change)| change.pair).collect();
    let expected: Vec<Pair> =
        std::iter::once(0).chain((1..=20).flat_map(|i| [i, i])).chain([99]).map(pair_of).collect();
    assert_eq!(pairs, expected);
    assert!(bench.disk.syncs() - before <= 3);
}

#[test]
fn who_waits_for_a_record_is_woken_by_it() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "v")]).unwrap();
    assert!(stream.wait_after(0).now_or_never().is_some());
    assert!(stream.wait_after(1).now_or_never().is_none());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(stream.wait_after(1)));
        append(&stream, vec![change(1, START_MS, "w")]).unwrap();
        waiting.join().unwrap();
    });
}

#[test]
fn a_second_writer_is_refused_and_told_who_writes() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    let second = EmbeddedStream::open_with(&bench.path(), bench.options.clone(), "host-b:2").err().unwrap();
    assert!(matches!(&second, StreamError::Owned(text) if text.contains("host-a:1")), "{second}");
    drop(stream);
    let stream = EmbeddedStream::open_with(&bench.path(), bench.options.clone(), "host-b:2").unwrap();
    // A lock file that was removed would keep nobody out: the owner puts it back.
    bench.remove(bench.path().join(lock::NAME));
    append(&stream, vec![change(1, START_MS, "v")]).unwrap();
    let third = EmbeddedStream::open_with(&bench.path(), bench.options.clone(), "host-c:3").err().unwrap();
    assert!(matches!(&third, StreamError::Owned(text) if text.contains("host-b:2")), "{third}");
    assert_eq!(everything(&stream).len(), 1);
}

#[test]
fn a_change_that_is_too_large_is_refused_and_the_next_one_is_not() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    let large = Change { after: Some(vec![0; FRAME_MAX]), ..change(1, START_MS, "") };
    let refused = append(&stream, vec![change(2, START_MS, "w"), large]);
    assert!(matches!(refused, Err(StreamError::TooLarge { index: 1, .. })), "{refused:?}");
    assert_eq!(append(&stream, vec![change(1, START_MS, "v")]), Ok(1));
}
