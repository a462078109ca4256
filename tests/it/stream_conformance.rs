//! What every stream does alike: one set of tests, run against the embedded stream and against Kafka.

use crate::support::{Kafka, eventually_is};
use futures::future::{BoxFuture, join_all};
use keepstep::change::{Change, Conflict, Connector, Gap, GapState, Op, Pair, Source, ValueKind};
use keepstep::stream::embedded::EmbeddedStream;
use keepstep::stream::kafka::{KafkaOpener, KafkaStream, Settings};
use keepstep::stream::{CompleteThrough, LatestValue, Recorded, Retention, Stream, StreamError};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Up to this epoch of an ensemble.
pub fn up_to(epoch: i64) -> CompleteThrough {
    CompleteThrough { epoch, ensemble: 7 }
}

/// Where a stream lies.
pub trait Place: Send + Sync {
    /// Opens it for writing and begins an ownership, the newest so far.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Stream>>;
    /// Opens it for a command that owns nothing.
    fn open_to_keep(&self) -> BoxFuture<'_, Arc<dyn Stream>>;
    /// Opens it for reading only.
    fn open_read_only(&self) -> BoxFuture<'_, Option<Arc<dyn Stream>>>;
}

pub struct Embedded {
    dir: TempDir,
}

impl Embedded {
    async fn new() -> Embedded {
        Embedded { dir: tempfile::tempdir().unwrap() }
    }
}

impl Place for Embedded {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Stream>> {
        Box::pin(async {
            let stream = self.open_to_keep().await;
            stream.begin(1, up_to(1)).await.unwrap();
            stream
        })
    }

    fn open_to_keep(&self) -> BoxFuture<'_, Arc<dyn Stream>> {
        Box::pin(async {
            let retention = Retention { age: Duration::from_secs(86_400), size: 1 << 30 };
            let dir = self.dir.path().join("stream");
            // An opening that was dropped gives its lock back when its writing thread ends, a moment later.
            let mut opened = EmbeddedStream::open(&dir, retention, "test");
            for _ in 0..200 {
                if !matches!(opened, Err(StreamError::Owned(_))) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                opened = EmbeddedStream::open(&dir, retention, "test");
            }
            Arc::new(opened.unwrap()) as Arc<dyn Stream>
        })
    }

    fn open_read_only(&self) -> BoxFuture<'_, Option<Arc<dyn Stream>>> {
        Box::pin(async {
            let stream = EmbeddedStream::open_read_only(&self.dir.path().join("stream")).ok()?;
            Some(Arc::new(stream) as Arc<dyn Stream>)
        })
    }
}

/// A topic of its own.
pub struct Topic {
    pub settings: Settings,
    epoch: AtomicI64,
}

impl Topic {
    pub async fn new() -> Topic {
        Topic::on(Kafka::shared().await)
    }

    pub fn on(kafka: &Kafka) -> Topic {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pipeline = format!("p-{}-{number}", std::process::id());
        let settings = Settings {
            topic: format!("keepstep.{pipeline}"),
            pipeline,
            worker: "test:1".to_owned(),
            brokers: kafka.brokers(),
            registry: None,
            age: Duration::from_secs(86_400),
            replication: None,
            config: Vec::new(),
            secrets: Vec::new(),
            lease: false,
        };
        Topic { settings, epoch: AtomicI64::new(0) }
    }

    /// Opened and begun with the next epoch.
    pub async fn owner(&self) -> KafkaStream {
        let stream = KafkaOpener::new(self.settings.clone()).open().await.unwrap();
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        stream.begin(epoch, up_to(epoch)).await.unwrap();
        stream
    }
}

impl Place for Topic {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Stream>> {
        Box::pin(async { Arc::new(self.owner().await) as Arc<dyn Stream> })
    }

    fn open_to_keep(&self) -> BoxFuture<'_, Arc<dyn Stream>> {
        Box::pin(async { Arc::new(KafkaOpener::new(self.settings.clone()).open().await.unwrap()) as Arc<dyn Stream> })
    }

    fn open_read_only(&self) -> BoxFuture<'_, Option<Arc<dyn Stream>>> {
        Box::pin(async {
            let stream = KafkaStream::open_read_only(self.settings.clone()).await.unwrap();
            stream.map(|stream| Arc::new(stream) as Arc<dyn Stream>)
        })
    }
}

/// When the first change of a test was recorded: an hour ago, so that nothing of it is old.
pub fn start_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap() - 3_600_000
}

pub fn pair_of(number: u64) -> Pair {
    Pair { zookeeper: Some(format!("/p/{number}")), redis: Some(format!("p:{number}").into_bytes()) }
}

pub fn change(pair: u64, ts_ms: i64, value: Option<&[u8]>) -> Change {
    let mut source = Source::new(Connector::Zookeeper, "zk", ts_ms);
    source.czxid = Some(i64::try_from(pair).unwrap() + 100);
    source.mzxid = Some(i64::try_from(pair).unwrap() + 200);
    source.version = Some(7);
    Change {
        op: if value.is_some() { Op::Update } else { Op::Delete },
        before: None,
        after: value.map(<[u8]>::to_vec),
        source,
        ts_ms,
        route: "settings".to_owned(),
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

pub fn marker(ts_ms: i64) -> Change {
    let gap =
        Gap { state: GapState::Opened, store: "zk".to_owned(), from: Some(1), to: None, reason: "away".to_owned() };
    Change { op: Op::Marker, pair: Pair { zookeeper: None, redis: None }, gap: Some(gap), ..change(0, ts_ms, None) }
}

/// A value that a command replaced.
pub fn replaced(value: &str) -> Change {
    replaced_of(1, value)
}

fn replaced_of(pair: u64, value: &str) -> Change {
    let conflict = Conflict {
        winner: "zk".to_owned(),
        loser: "cache".to_owned(),
        value: Some(value.as_bytes().to_vec()),
        mzxid: None,
        version: None,
        rule: "repair".to_owned(),
        reason: "somebody asked for it".to_owned(),
    };
    Change { op: Op::Marker, conflict: Some(conflict), epoch: 0, ..change(pair, start_ms(), Some(value.as_bytes())) }
}

/// Everything on it, read in portions of this many.
pub async fn all(stream: &dyn Stream, portion: usize) -> Vec<Recorded> {
    let mut records = Vec::new();
    let mut from = 1;
    loop {
        let batch = stream.read(from, portion, usize::MAX).await.unwrap();
        assert_eq!(batch.damaged, Vec::<String>::new());
        assert!(batch.records.len() <= portion);
        records.extend(batch.records);
        if batch.next == from {
            return records;
        }
        assert!(batch.next > from, "reading goes on");
        from = batch.next;
    }
}

async fn changes_are_read_back_in_order_at_consecutive_positions(place: impl Place) {
    let stream = place.open().await;
    let start = start_ms();
    let every_byte: Vec<u8> = (0..=255).collect();
    let first: Vec<Change> = (0..30).map(|i| change(i, start + i as i64, Some(&every_byte))).collect();
    let second: Vec<Change> = (0..12).map(|i| change(i % 3, start + 100, Some(format!("v{i}").as_bytes()))).collect();
    let third = vec![change(1, start + 200, None), marker(start + 201), change(40, start + 202, Some(b""))];
    let mut expected = Vec::new();
    for batch in [first, second, third] {
        let position = stream.append(Arc::new(batch.clone())).await.unwrap();
        expected.extend(batch.into_iter().zip(position..).map(|(change, position)| Recorded { position, change }));
    }
    assert!(expected.windows(2).all(|pair| pair[0].position < pair[1].position));
    for portion in [1, 7, 1000] {
        assert_eq!(all(stream.as_ref(), portion).await, expected);
    }
    let middle = expected[20].position;
    let batch = stream.read(middle, 5, usize::MAX).await.unwrap();
    assert_eq!(batch.records, expected[20..25]);
    assert_eq!(stream.read(middle, 100, 1).await.unwrap().records, expected[20..21], "at least one");
    drop(stream);
    assert_eq!(all(place.open_read_only().await.unwrap().as_ref(), 9).await, expected);
    assert_eq!(all(place.open().await.as_ref(), 9).await, expected, "a new ownership changes nothing");
}

async fn an_empty_stream_says_so(place: impl Place) {
    let stream = place.open().await;
    assert_eq!(all(stream.as_ref(), 5).await, []);
    assert_eq!(stream.latest(&pair_of(1)), Ok(None));
    assert!(!stream.knows(&pair_of(1)));
    let ahead = stream.extent().last + 100;
    let batch = stream.read(ahead, 5, usize::MAX).await.unwrap();
    assert_eq!((batch.records.len(), batch.next), (0, ahead));
    stream.append(Arc::new(Vec::new())).await.unwrap();
    assert_eq!(all(stream.as_ref(), 5).await, []);
}

async fn the_newest_record_of_a_pair_is_known_with_what_tells_values_apart(place: impl Place) {
    let stream = place.open().await;
    let start = start_ms();
    let batch = vec![change(1, start, Some(b"old")), change(2, start, Some(b"two")), change(3, start, Some(b"three"))];
    let first = stream.append(Arc::new(batch)).await.unwrap();
    let second = stream.append(Arc::new(vec![change(1, start, Some(b"new")), change(3, start, None)])).await.unwrap();
    let check = |stream: &dyn Stream, keeps_values: bool| {
        let latest = |pair: u64| stream.latest(&pair_of(pair)).unwrap();
        let one = latest(1).unwrap();
        assert_eq!((one.position, one.czxid, one.version), (second, Some(101), Some(7)));
        assert!(one.after.is(Some(b"new")) && !one.after.is(Some(b"old")) && !one.after.is(None));
        if keeps_values {
            assert_eq!(one.after.kept().as_deref(), Some(b"new".as_slice()));
        }
        assert_eq!(latest(2).unwrap().position, first + 1);
        let gone = latest(3).unwrap();
        assert_eq!((gone.position, gone.after), (second + 1, LatestValue::Absent));
        assert_eq!(latest(4), None);
        assert_eq!([1, 2, 3, 4].map(|pair| stream.knows(&pair_of(pair))), [true, true, true, false]);
    };
    check(stream.as_ref(), true);
    drop(stream);
    let stream = place.open().await;
    check(stream.as_ref(), false);
    let pairs = [3, 4, 1, 2, 1].map(pair_of);
    let one_by_one = pairs.iter().map(|pair| stream.latest(pair).unwrap()).collect();
    assert_eq!(stream.latest_of(pairs.to_vec()).await, Ok(one_by_one), "of many at once");
    assert_eq!(stream.latest_of(vec![pair_of(8), pair_of(9)]).await, Ok(vec![None, None]));
    assert_eq!(stream.latest_of(Vec::new()).await, Ok(Vec::new()));
}

/// The pairs that exist by the stream, asked for in portions of this many.
pub async fn existing(stream: &dyn Stream, portion: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut from = 1;
    loop {
        let piece = stream.existing(from, portion).await.unwrap();
        assert!(piece.pairs.len() <= portion);
        pairs.extend(piece.pairs);
        if piece.next == from {
            return pairs;
        }
        assert!(piece.next > from, "the list goes on");
        from = piece.next;
    }
}

async fn the_pairs_that_exist_are_named_once_each(place: impl Place) {
    let stream = place.open().await;
    assert_eq!(existing(stream.as_ref(), 5).await, []);
    let start = start_ms();
    let value = |pair: u64| change(pair, start, Some(format!("v{pair}").as_bytes()));
    let from_redis = Change { source: Source::new(Connector::Redis, "cache", start), ..change(9, start, Some(b"")) };
    let first: Vec<Change> = (0..6).map(value).chain([from_redis, marker(start)]).collect();
    stream.append(Arc::new(first)).await.unwrap();
    // Pair 2 is deleted; 3 is deleted and comes back; a value that a command replaced is no state of 7.
    let again =
        vec![change(2, start, None), change(3, start, None), value(0), value(3), replaced_of(7, "old"), value(0)];
    stream.append(Arc::new(again)).await.unwrap();
    let expected: Vec<Pair> = [1, 4, 5, 9, 3, 0].map(pair_of).to_vec();
    for portion in [1, 4, 1000] {
        assert_eq!(existing(stream.as_ref(), portion).await, expected, "in portions of {portion}");
    }
    drop(stream);
    let stream = place.open().await;
    assert_eq!(existing(stream.as_ref(), 3).await, expected, "after it was opened anew");
    // What is recorded while the list is read is in the rest of it.
    let piece = stream.existing(1, 2).await.unwrap();
    stream.append(Arc::new(vec![change(1, start, None), value(8)])).await.unwrap();
    let mut rest = piece.pairs;
    let mut from = piece.next;
    loop {
        let piece = stream.existing(from, 2).await.unwrap();
        rest.extend(piece.pairs);
        if piece.next == from {
            break;
        }
        from = piece.next;
    }
    assert!(rest.contains(&pair_of(8)), "{rest:?}");
    assert_eq!(existing(stream.as_ref(), 100).await, [4, 5, 9, 3, 0, 8].map(pair_of));
}

async fn a_place_is_found_by_its_time(place: impl Place) {
    let stream = place.open().await;
    // Behind the time at which it was opened, as every change is.
    let start = start_ms() + 3_601_000;
    let batch: Vec<Change> = (0..50).map(|i| change(i, start + i as i64 * 10, Some(b"v"))).collect();
    let first = stream.append(Arc::new(batch)).await.unwrap();
    for (ts_ms, expected) in [(start, first), (start + 5, first + 1), (start + 490, first + 49)] {
        let position = stream.position_at(ts_ms).await.unwrap();
        let found = stream.read(position, 1, usize::MAX).await.unwrap().records;
        assert_eq!(found.first().map(|found| found.position), Some(expected), "at {ts_ms}");
    }
    let beyond = stream.position_at(start + 10_000_000).await.unwrap();
    assert_eq!(stream.read(beyond, 1, usize::MAX).await.unwrap().records, []);
}

async fn the_largest_change_that_can_be_is_taken(place: impl Place) {
    let stream = place.open().await;
    let large = vec![b'x'; 1_000_000];
    let lost = Conflict {
        winner: "zk".to_owned(),
        loser: "cache".to_owned(),
        value: Some(vec![b'y'; 1_000_000]),
        mzxid: None,
        version: None,
        rule: "prefer zk".to_owned(),
        reason: "both changed".to_owned(),
    };
    let largest =
        Change { before: Some(vec![b'z'; 64 * 1024]), conflict: Some(lost), ..change(1, start_ms(), Some(&large)) };
    stream.append(Arc::new(vec![largest.clone(), change(2, start_ms(), Some(b"small"))])).await.unwrap();
    let records = all(stream.as_ref(), 10).await;
    assert!(records[0].change == largest, "it reads back as it was");
    assert_eq!(records.len(), 2);
}

/// The caller leaves it out and appends the others: so it is told which one, and nothing may have been recorded.
async fn a_change_that_is_too_large_is_named_and_the_others_go_in_without_it(place: impl Place) {
    let stream = place.open().await;
    let start = start_ms();
    let huge = change(2, start, Some(&vec![b'x'; 17 << 20]));
    let mut long = change(3, start, Some(b"v"));
    long.pair.redis = Some(vec![b'k'; 17 << 20]);
    for large in [huge, long] {
        let batch = vec![change(1, start, Some(b"one")), large, change(4, start, Some(b"four"))];
        match stream.append(Arc::new(batch)).await {
            Err(StreamError::TooLarge { index: 1, text }) => assert!(text.len() < 1000, "{} bytes", text.len()),
            other => panic!("{:?}", other.map_err(|error| error.to_string().chars().take(200).collect::<String>())),
        }
        assert_eq!(all(stream.as_ref(), 10).await.len(), 0);
    }
    let rest = vec![change(1, start, Some(b"one")), change(4, start, Some(b"four"))];
    stream.append(Arc::new(rest.clone())).await.unwrap();
    let records: Vec<Change> = all(stream.as_ref(), 10).await.into_iter().map(|recorded| recorded.change).collect();
    assert_eq!(records, rest);
}

/// What the newest record of a pair decided is known after a restart as well: the same decision is not recorded twice.
async fn the_newest_decision_of_a_pair_is_known(place: impl Place) {
    let stream = place.open().await;
    let lost = |value: &[u8]| Conflict {
        winner: "zk".to_owned(),
        loser: "cache".to_owned(),
        value: Some(value.to_vec()),
        mzxid: None,
        version: None,
        rule: "prefer zk".to_owned(),
        reason: "both changed".to_owned(),
    };
    let decided = Change { conflict: Some(lost(b"loser")), ..change(1, start_ms(), Some(b"winner")) };
    let other = Change { conflict: Some(lost(b"other")), ..decided.clone() };
    stream.append(Arc::new(vec![change(1, start_ms(), Some(b"winner")), decided.clone()])).await.unwrap();
    let check = |stream: &dyn Stream| {
        let latest = stream.latest(&pair_of(1)).unwrap().unwrap();
        // When, by whom and with which letter does not matter.
        let again = Change { ts_ms: start_ms() + 9, epoch: 7, op: Op::Create, before: None, ..decided.clone() };
        assert_eq!(latest.decision, again.decision());
        assert_ne!(latest.decision, other.decision());
        assert_ne!(latest.decision, change(1, start_ms(), Some(b"winner")).decision());
    };
    check(stream.as_ref());
    drop(stream);
    check(place.open().await.as_ref());
}

async fn appends_that_run_at_once_do_not_mix(place: impl Place) {
    let stream = place.open().await;
    let start = start_ms();
    let appends = (0..40_u64).map(|writer| {
        let stream = &stream;
        async move {
            let batch: Vec<Change> =
                (0..25).map(|i| change(writer, start, Some(format!("{writer}.{i}").as_bytes()))).collect();
            (writer, stream.append(Arc::new(batch)).await.unwrap())
        }
    });
    let placed = join_all(appends).await;
    let records = all(stream.as_ref(), 100).await;
    assert_eq!(records.len(), 1000);
    for (writer, first) in placed {
        for i in 0..25 {
            let record = records.iter().find(|record| record.position == first + i).unwrap();
            assert_eq!(record.change.after, Some(format!("{writer}.{i}").into_bytes()));
        }
        let latest = stream.latest(&pair_of(writer)).unwrap().unwrap();
        assert_eq!(latest.position, first + 24);
    }
}

async fn a_reader_beside_the_writer_waits_for_what_comes(place: impl Place) {
    let stream = place.open().await;
    let start = start_ms();
    stream.append(Arc::new(vec![change(1, start, Some(b"one"))])).await.unwrap();
    let reader = place.open_read_only().await.unwrap();
    let last = reader.extent().last;
    assert_eq!(all(reader.as_ref(), 10).await.len(), 1);
    let waits = tokio::time::timeout(Duration::from_millis(300), reader.wait_after(last)).await;
    assert!(waits.is_err(), "nothing has come yet");
    let (position, ()) =
        tokio::join!(async { stream.append(Arc::new(vec![change(2, start, Some(b"two"))])).await.unwrap() }, async {
            tokio::time::timeout(Duration::from_secs(20), reader.wait_after(last)).await.unwrap()
        });
    eventually_is("the records", Duration::from_secs(10), 2, async || all(reader.as_ref(), 10).await.len()).await;
    assert!(reader.extent().last >= position);
    tokio::time::timeout(Duration::from_secs(10), stream.wait_after(position - 1)).await.unwrap();
    let refused = reader.append(Arc::new(vec![change(3, start, Some(b"three"))])).await;
    assert!(refused.is_err(), "an opening for reading only");
}

async fn the_extent_tells_the_first_and_the_last(place: impl Place) {
    let stream = place.open().await;
    let batch: Vec<Change> = (0..10).map(|i| change(i, start_ms(), Some(b"v"))).collect();
    let first = stream.append(Arc::new(batch)).await.unwrap();
    let extent = stream.extent();
    assert!(extent.first >= 1 && extent.first <= first, "{extent:?}");
    assert!(extent.last >= first + 9, "{extent:?}");
    assert!(extent.full_from <= first, "{extent:?}");
    let newest = stream.newest_epoch().await;
    assert!(newest >= 1);
    drop(stream);
    let read = place.open_read_only().await.unwrap();
    assert_eq!((read.extent().first, read.extent().last), (extent.first, extent.last));
    assert!(read.extent().full_from <= first, "{:?}", read.extent());
    drop(read);
    assert!(place.open().await.newest_epoch().await >= newest);
}

async fn what_a_command_keeps_is_there_for_all_and_changes_nothing_for_the_next_owner(place: impl Place) {
    let owner = place.open().await;
    owner.append(Arc::new(vec![change(1, start_ms(), Some(b"one"))])).await.unwrap();
    let (newest, whole, pair) =
        (owner.newest_epoch().await, owner.complete_through(), owner.latest(&pair_of(1)).unwrap());
    assert_eq!(whole, up_to(newest));
    drop(owner);
    let command = place.open_to_keep().await;
    command.record_replaced(vec![replaced("a"), replaced("b")]).await.unwrap();
    command.record_replaced(vec![replaced("c")]).await.unwrap();
    assert_eq!((command.newest_epoch().await, command.complete_through()), (newest, whole));
    drop(command);
    let command = place.open_to_keep().await;
    assert_eq!((command.newest_epoch().await, command.complete_through()), (newest, whole), "nor later");
    assert_eq!(command.latest(&pair_of(1)).unwrap(), pair, "it is no state of the pair");
    drop(command);
    let owner = place.open().await;
    owner.append(Arc::new(vec![change(1, start_ms(), Some(b"two"))])).await.unwrap();
    for stream in [owner, place.open_read_only().await.unwrap()] {
        let lost = |record: Recorded| record.change.conflict.and_then(|conflict| conflict.value);
        let kept: Vec<Vec<u8>> = all(stream.as_ref(), 2).await.into_iter().filter_map(lost).collect();
        assert_eq!(kept, [b"a", b"b", b"c"]);
    }
}

macro_rules! conformance {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Embedded::new().await).await;
            })+
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Topic::new().await).await;
            })+
        }
    };
}

conformance!(
    changes_are_read_back_in_order_at_consecutive_positions,
    an_empty_stream_says_so,
    the_newest_record_of_a_pair_is_known_with_what_tells_values_apart,
    the_pairs_that_exist_are_named_once_each,
    a_place_is_found_by_its_time,
    the_largest_change_that_can_be_is_taken,
    a_change_that_is_too_large_is_named_and_the_others_go_in_without_it,
    the_newest_decision_of_a_pair_is_known,
    appends_that_run_at_once_do_not_mix,
    a_reader_beside_the_writer_waits_for_what_comes,
    the_extent_tells_the_first_and_the_last,
    what_a_command_keeps_is_there_for_all_and_changes_nothing_for_the_next_owner,
);
