//! Compaction: by age and by size, at any crash, and never the last state of a pair.

use super::*;
use crate::env;
use crate::stream::embedded::file::KEPT;

fn positions(records: &[(Position, Change)]) -> Vec<Position> {
    records.iter().map(|(position, _)| *position).collect()
}

#[test]
fn age_leaves_the_newest_of_each_pair_and_young_conflicts() {
    let mut bench = Bench::new(1_000);
    bench.options.retention.age = Duration::from_millis(1_000);
    let stream = bench.open();
    for i in 0..20 {
        append(&stream, vec![change(i % 5, START_MS, &format!("v{i}"))]).unwrap();
    }
    bench.advance(1_000);
    stream.compact_now().unwrap();
    assert_eq!((stream.extent().first, stream.extent().full_from), (1, 1), "nothing is older than a second");
    let settled = vec![conflict(1, START_MS + 1_000, "settled"), marker(START_MS + 1_000)];
    append(&stream, settled).unwrap();
    append(&stream, vec![change(1, START_MS + 1_000, "newest")]).unwrap();

    bench.advance(900);
    stream.compact_now().unwrap();
    // 16 to 20 are the newest of their pairs, but for 17, which 23 supersedes.
    assert_eq!(positions(&everything(&stream)), [16, 18, 19, 20, 21, 22, 23]);
    let extent = stream.extent();
    assert_eq!((extent.first, extent.last, extent.full_from, extent.full_from_ms), (16, 23, 21, START_MS + 1_000));

    append(&stream, vec![change(9, START_MS + 1_900, "last")]).unwrap();
    bench.advance(1_001);
    stream.compact_now().unwrap();
    let left = everything(&stream);
    assert_eq!(positions(&left), [16, 18, 19, 20, 23, 24]);
    let extent = stream.extent();
    assert_eq!((extent.first, extent.last, extent.full_from, extent.full_from_ms), (16, 24, 25, START_MS + 1_900));
    drop(stream);
    let stream = bench.open();
    assert_eq!(everything(&stream), left);
    assert_eq!(stream.extent(), extent);
}

#[test]
fn age_compacts_a_stream_that_is_written_without_a_pause() {
    let mut bench = Bench::new(1 << 30);
    bench.options.retention.age = Duration::from_millis(1_000);
    bench.options.period = Duration::from_millis(20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "first")]).unwrap();
    let deadline = env::Instant::now() + Duration::from_secs(60);
    let mut number = 0;
    // Each append finds the thread at work, or at most a moment idle: never for as long as it would
    // wait for one.
    while stream.extent().first == 1 {
        assert!(env::Instant::now() < deadline, "{:?}", stream.extent());
        number += 1;
        bench.advance(1);
        append(&stream, vec![change(1, START_MS + number, &format!("v{number}"))]).unwrap();
    }
    assert!(bench.segments().len() > 1);
}

#[test]
fn a_long_history_keeps_few_files_open() {
    const SEGMENTS: u64 = 500;
    // The lock, the file that is written, and one in use.
    const MORE: usize = 3;
    let bench = Bench::new(100);
    let stream = bench.open();
    for number in 0..SEGMENTS {
        append(&stream, vec![change(number, START_MS, &format!("v{number}"))]).unwrap();
    }
    assert!(bench.segments().len() >= 499, "{}", bench.segments().len());
    let check = |stream: &EmbeddedStream| {
        assert!(bench.disk.open_files() <= file::KEPT + MORE, "{}", bench.disk.open_files());
        assert_eq!(everything(stream).len(), SEGMENTS as usize);
        for number in (0..SEGMENTS).rev() {
            assert_eq!(stream.newest_record(&pair_of(number)).unwrap().unwrap().position, number + 1);
        }
        assert_eq!(block_on(stream.position_at(START_MS)), Ok(1));
        assert!(bench.disk.open_files() <= file::KEPT + MORE, "{}", bench.disk.open_files());
    };
    check(&stream);
    check(&bench.reader());
    drop(stream);
    check(&bench.open());
}

/// A reader beside it has files of which it knows, and does not hold, replaced under it, their
/// numbers used again.
#[test]
fn a_reader_finds_each_pair_while_the_files_that_it_knows_are_replaced() {
    let mut bench = Bench::new(2_000);
    bench.options.retention.size = 20_000;
    let stream = bench.open();
    let reader = bench.reader();
    for number in 0..3_000_u64 {
        append(&stream, vec![change(number % 150, START_MS, &format!("v{number}"))]).unwrap();
        if number % 100 == 99 {
            stream.compact_now().unwrap();
            let read = everything(&reader);
            assert_eq!(read, everything(&stream), "after {number}");
            let newest = reader.newest_record(&pair_of(number % 150)).unwrap().unwrap();
            assert_eq!(newest.position, number + 1);
        }
    }
    assert_eq!((reader.damage(), stream.damage()), (Vec::new(), Vec::new()));
}

#[test]
fn a_segment_that_somebody_removed_is_given_up_and_the_others_are_read_and_compacted() {
    let mut bench = Bench::new(1_000);
    bench.options.retention.age = Duration::from_millis(1_000);
    let stream = bench.open();
    // More files than are kept open.
    for number in 0..800 {
        let pair = if number < 20 { number } else { 100 + number % 10 };
        append(&stream, vec![change(pair, START_MS, "v")]).unwrap();
    }
    let segments = bench.segments();
    let (gone, count) = (segments.first().unwrap(), segments.len());
    bench.remove(gone);
    let left = everything(&stream);
    assert!(count > KEPT && left.len() < 800 && left.len() >= 780, "{} of {count} files", left.len());
    assert_eq!(stream.newest_record(&pair_of(0)), Ok(None));
    assert!(stream.damage().iter().any(|sentence| sentence.contains("was removed")), "{:?}", stream.damage());
    bench.advance(5_000);
    stream.compact_now().unwrap();
    let compacted = everything(&stream).len();
    assert!(bench.segments().len() < count / 2 && (10..60).contains(&compacted), "{compacted} records");
}

#[test]
fn young_conflicts_and_markers_survive_size_until_they_are_old() {
    let mut bench = Bench::new(1_000);
    bench.options.retention = Retention { age: Duration::from_millis(1_000), size: 3_000 };
    let stream = bench.open();
    append(&stream, vec![conflict(1, START_MS, "settled"), marker(START_MS)]).unwrap();
    for i in 0..200 {
        append(&stream, vec![change(1, START_MS, &format!("v{i}"))]).unwrap();
    }
    stream.compact_now().unwrap();
    let left = everything(&stream);
    assert_eq!(positions(&left).get(..2), Some([1, 2].as_slice()));
    assert!(stream.extent().bytes <= 3_000);
    assert!(left.len() < 40);
    bench.advance(5_000);
    append(&stream, vec![change(1, START_MS + 5_000, "w")]).unwrap();
    stream.compact_now().unwrap();
    bench.advance(5_000);
    stream.compact_now().unwrap();
    assert_eq!(positions(&everything(&stream)), [203]);
}

#[test]
fn size_bounds_the_disk_whatever_is_written() {
    let mut bench = Bench::new(8_000);
    bench.options.retention.size = 64_000;
    let stream = bench.open();
    let mut most = 0;
    for i in 0..6_000_u64 {
        // A few hot pairs, and a slowly growing number of quiet ones.
        let pair = if i % 20 == 0 { 1_000 + i / 20 % 100 } else { i % 7 };
        append(&stream, vec![change(pair, START_MS, &format!("v{i}"))]).unwrap();
        if i % 50 == 0 {
            let files = bench.disk.list(&bench.path()).unwrap();
            // One that was listed may be gone.
            let bytes = files.iter().filter_map(|path| Some(bench.disk.facts(path).ok()?.len));
            most = most.max(bytes.sum::<u64>());
            stream.compact_now().unwrap();
        }
    }
    let schema = codec::SCHEMA.len() as u64;
    assert!(most <= 96_000 + 107 * 200 + schema, "{most} bytes on disk");
    assert!(bench.segments().len() <= 20, "{} files", bench.segments().len());
    let left = everything(&stream);
    for quiet in 0..100 {
        let pair = pair_of(1_000 + quiet);
        assert_eq!(stream.newest_record(&pair).unwrap().unwrap().change.pair, pair);
        assert!(left.iter().any(|(_, change)| change.pair == pair));
    }
}

/// Nobody asks for it here: compaction runs beside the writes, as in a worker, which wait for it
/// where it cannot keep up.
#[test]
fn size_bounds_the_disk_in_the_background_at_full_speed() {
    const SIZE: u64 = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let retention = Retention { age: Duration::from_secs(3600), size: SIZE };
    let stream = EmbeddedStream::open(dir.path(), retention, "test").unwrap();
    let value = "v".repeat(20_000);
    let (mut most, pairs) = (0, 50);
    for i in 0..300_u64 {
        let changes = (0..10).map(|j| change((i * 10 + j) % pairs, START_MS, &value)).collect();
        append(&stream, changes).unwrap();
        let bytes = std::fs::read_dir(dir.path()).unwrap().filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
        most = most.max(bytes.sum::<u64>());
    }
    let bound = SIZE + SIZE / 2 + pairs * 20_500;
    println!("{most} of {bound} bytes");
    assert!(most <= bound, "{most} bytes on disk, {bound} allowed");
    for pair in 0..pairs {
        assert!(stream.latest(&pair_of(pair)).unwrap().is_some());
    }
}

#[test]
fn small_compacted_segments_become_one_and_superseded_records_go() {
    let mut bench = Bench::new(2_000);
    bench.options.retention.age = Duration::from_millis(100);
    let stream = bench.open();
    for round in 0..60 {
        let now = bench.now_ms.load(Ordering::SeqCst);
        for i in 0..15 {
            append(&stream, vec![change(i, now, &format!("{round}.{i}"))]).unwrap();
        }
        bench.advance(1_000);
        stream.compact_now().unwrap();
    }
    assert!(bench.segments().len() <= 4, "{} files", bench.segments().len());
    let left = everything(&stream);
    assert!(left.len() <= 40, "{} records", left.len());
    assert!(
        (0..15).all(|i| stream.newest_record(&pair_of(i)).unwrap().unwrap().change.after.unwrap().starts_with(b"59."))
    );
}

#[test]
fn a_crash_at_any_step_of_compaction_leaves_every_last_state() {
    let mut steps = 1;
    loop {
        let mut bench = Bench::new(800);
        bench.options.retention.age = Duration::from_millis(100);
        let stream = bench.open();
        for i in 0..40 {
            let value = format!("v{i}");
            let ts_ms = START_MS + i as i64;
            let some = if i % 9 == 0 { conflict(i % 6, ts_ms, &value) } else { change(i % 6, ts_ms, &value) };
            append(&stream, vec![some]).unwrap();
        }
        let all = everything(&stream);
        // Everything before the 20th is old.
        bench.advance(120);
        let must_stay = |position: &Position, change: &Change| {
            let superseded = all.iter().any(|(later, other)| later > position && other.pair == change.pair);
            !superseded || (change.conflict.is_some() && change.ts_ms + 100 >= START_MS + 120)
        };
        let check = |stream: &EmbeddedStream, when: &str| {
            let left = everything(stream);
            let kept = |record: &&(Position, Change)| !left.contains(record);
            let missing: Vec<_> =
                all.iter().filter(|(position, change)| must_stay(position, change)).filter(kept).collect();
            assert!(missing.is_empty(), "step {steps}, {when}: {missing:?} are gone");
            assert!(left.iter().all(|record| all.contains(record)), "step {steps}, {when}: something is new");
            let full_from = stream.extent().full_from;
            let whole = all.iter().filter(|(position, _)| *position >= full_from).count();
            assert_eq!(
                left.iter().filter(|(position, _)| *position >= full_from).count(),
                whole,
                "step {steps}, {when}"
            );
            for pair in 0..6 {
                let last = all.iter().rfind(|(_, change)| change.pair == pair_of(pair)).unwrap();
                let found = stream.newest_record(&pair_of(pair)).unwrap().unwrap();
                assert_eq!((found.position, &found.change), (last.0, &last.1), "step {steps}, {when}");
            }
            assert_eq!(stream.damage(), Vec::<String>::new(), "step {steps}, {when}");
        };
        bench.disk.read_only_after(Some(steps - 1));
        let result = stream.compact_now();
        let crashed = bench.disk.is_read_only();
        check(&stream, "in the process that met it");
        drop(stream);
        bench.disk.read_only_after(None);
        check(&bench.reader(), "for a reader");
        let stream = bench.open();
        check(&stream, "after the next start");
        stream.compact_now().unwrap();
        check(&stream, "after compaction again");
        assert!(everything(&stream).len() < 40);
        assert_eq!(load::list(&bench.disk, &bench.path()).unwrap().temporary, Vec::<PathBuf>::new());
        if !crashed {
            assert_eq!(result, Ok(()));
            assert!(steps > 10, "compaction has that many steps");
            return;
        }
        steps += 1;
    }
}

#[test]
fn a_full_disk_does_not_stop_compaction_for_good() {
    let mut bench = Bench::new(1_000);
    bench.options.retention.age = Duration::from_millis(100);
    let stream = bench.open();
    for i in 0..40 {
        append(&stream, vec![change(i % 3, START_MS, &format!("v{i}"))]).unwrap();
    }
    bench.advance(1_000);
    bench.disk.set_space(Some(20));
    assert!(stream.compact_now().is_err());
    assert_eq!(everything(&stream).len(), 40);
    bench.disk.set_space(None);
    stream.compact_now().unwrap();
    assert_eq!(everything(&stream).len(), 3);
}

#[test]
fn a_damaged_header_of_a_compacted_segment_costs_no_record() {
    let mut bench = Bench::new(1_000);
    bench.options.retention.age = Duration::from_millis(100);
    let stream = bench.open();
    for i in 0..40 {
        append(&stream, vec![change(i % 3, START_MS, &format!("v{i}"))]).unwrap();
    }
    bench.advance(1_000);
    stream.compact_now().unwrap();
    append(&stream, vec![change(8, START_MS + 1_000, "young")]).unwrap();
    let left = everything(&stream);
    let full_from = stream.extent().full_from;
    drop(stream);
    let path = bench.segments().first().unwrap().clone();
    let bytes = bench.read(&path);
    for hit in 0..32 {
        let mut damaged = bytes.clone();
        *damaged.get_mut(hit).unwrap() ^= 0x10;
        bench.put(&path, damaged);
        let stream = bench.open();
        assert_eq!(everything(&stream), left);
        assert_eq!(stream.extent().full_from, full_from);
        assert_eq!(stream.damage().len(), 1);
    }
}

/// Redis-only pairs that frames know by one hash. XXH3 multiplies eight bytes of each sixteen,
/// mixed with a constant, with the eight beside them: where the ones cancel the constant out, the
/// others do not matter.
fn meeting_pairs() -> Vec<Pair> {
    let constant: [u8; 8] = [0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78];
    let name = |number: u8| [constant.as_slice(), &[number; 8], &[b'.'; 32]].concat();
    (0..4).map(|number| Pair { zookeeper: None, redis: Some(name(number)) }).collect()
}

#[test]
fn pairs_that_were_made_to_meet_are_each_kept_and_found() {
    let mut bench = Bench::new(1_000);
    bench.options.retention.age = Duration::from_millis(1_000);
    let pairs = meeting_pairs();
    assert!(pairs.iter().all(|pair| pair_hash(pair) == pairs.first().map_or(0, pair_hash)), "they meet in the files");
    let stream = bench.open();
    for pair in &pairs {
        append(&stream, vec![Change { pair: pair.clone(), ..change(0, START_MS, "v") }]).unwrap();
    }
    let is_found = |stream: &EmbeddedStream| {
        let found = |pair| stream.newest_record(pair).unwrap().is_some_and(|record| record.change.pair == *pair);
        pairs.iter().all(|pair| stream.knows(pair) && found(pair))
    };
    assert!(is_found(&stream));
    bench.advance(5_000);
    for i in 0..20 {
        append(&stream, vec![change(1, START_MS + 5_000, &format!("v{i}"))]).unwrap();
    }
    bench.advance(5_000);
    stream.compact_now().unwrap();
    assert!(stream.extent().full_from > 4, "nothing was compacted");
    assert_eq!(positions(&everything(&stream)).get(..4), Some([1, 2, 3, 4].as_slice()));
    assert!(is_found(&stream));
    drop(stream);
    assert!(is_found(&bench.open()), "after another start");
}
