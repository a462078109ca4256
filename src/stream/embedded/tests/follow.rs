//! The read-only opening beside a writer.

use super::*;

#[test]
fn a_reader_beside_a_writer_sees_new_records() {
    let bench = Bench::new(700);
    assert!(matches!(EmbeddedStream::open_read_only(&bench.path()), Err(StreamError::Unavailable(_))));
    let writer = bench.open();
    let reader = bench.reader();
    assert_eq!(reader.extent().last, 0);
    for i in 0..30 {
        append(&writer, vec![change(i % 4, START_MS + i as i64, &format!("v{i}"))]).unwrap();
        assert_eq!(reader.newest_record(&pair_of(i % 4)), writer.newest_record(&pair_of(i % 4)));
        assert_eq!(block_on(reader.position_at(START_MS + i as i64)), Ok(i + 1));
        assert_eq!(everything(&reader), everything(&writer));
        assert_eq!(reader.extent(), writer.extent());
    }
    assert!(matches!(append(&reader, vec![change(1, START_MS, "v")]), Err(StreamError::Unavailable(_))));
    assert!(reader.compact_now().is_err());
    assert_eq!(reader.damage(), Vec::<String>::new());
}

#[test]
fn a_reader_waits_for_what_another_process_writes() {
    let bench = Bench::new(1 << 20);
    let writer = bench.open();
    let reader = bench.reader();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (_, appended) = futures::join!(reader.wait_after(0), writer.append(Arc::new(vec![change(1, 0, "v")])));
        assert_eq!(appended, Ok(1));
    });
    assert_eq!(reader.extent().last, 1);
}

#[test]
fn a_frame_that_is_just_being_written_is_not_there_yet() {
    let bench = Bench::new(1 << 20);
    let writer = bench.open();
    append(&writer, vec![change(1, START_MS, "one")]).unwrap();
    append(&writer, vec![change(2, START_MS, "two")]).unwrap();
    drop(writer);
    let path = bench.segments().pop().unwrap();
    let whole = bench.read(&path);
    let file = bench.disk.open(&path, Open::Write).unwrap();
    file.set_len(100).unwrap();
    let reader = bench.reader();
    for len in 100..=whole.len() {
        file.write_at(whole.get(..len).unwrap(), 0).unwrap();
        let found = everything(&reader).len();
        assert_eq!(found == 2, len == whole.len(), "at {len} bytes");
    }
    assert_eq!(reader.damage(), Vec::<String>::new());
    // A writer that was refused cuts its file; the reader follows that, too.
    file.set_len(100).unwrap();
    assert!(everything(&reader).len() < 2);
}

#[test]
fn a_reader_keeps_up_with_compaction_by_another_process() {
    let mut bench = Bench::new(1_000);
    bench.options.retention.age = Duration::from_millis(100);
    let writer = bench.open();
    let reader = bench.reader();
    for round in 0..10 {
        for i in 0..20 {
            append(&writer, vec![change(i % 6, bench.now_ms.load(Ordering::SeqCst), &format!("{round}.{i}"))]).unwrap();
        }
        // Whatever the compactor is doing just now.
        assert!(everything(&reader).len() >= 6);
        bench.advance(1_000);
        writer.compact_now().unwrap();
        assert_eq!(everything(&reader), everything(&writer));
        for pair in 0..6 {
            assert_eq!(reader.newest_record(&pair_of(pair)), writer.newest_record(&pair_of(pair)));
        }
        // A segment in which no record is yet is the writer's alone.
        let last = bench.segments().last().map(|path| bench.len(path)).unwrap();
        let begun = if last == frame::FILE_HEADER { last } else { 0 };
        assert_eq!(reader.extent(), Extent { bytes: writer.extent().bytes - begun, ..writer.extent() });
    }
    assert_eq!(reader.damage(), Vec::<String>::new());
}

#[test]
fn readers_in_and_outside_the_process_stay_right_while_history_is_compacted() {
    let mut bench = Bench::new(4_000);
    bench.options.retention.size = 20_000;
    let writer = bench.open();
    let outside = bench.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in [&writer, &outside] {
            scope.spawn(|| {
                let mut last_round = false;
                while !last_round {
                    last_round = done.load(Ordering::SeqCst);
                    let mut last = 0;
                    for (position, found) in everything(reader) {
                        assert!(position > last);
                        last = position;
                        assert_eq!(found, change((position - 1) % 40, START_MS, &format!("v{}", position - 1)));
                    }
                    for pair in 0..40 {
                        if reader.knows(&pair_of(pair)) {
                            let newest = reader.newest_record(&pair_of(pair)).unwrap().unwrap();
                            assert_eq!(newest.change.pair, pair_of(pair));
                        }
                    }
                }
            });
        }
        for i in 0..2_000 {
            append(&writer, vec![change(i % 40, START_MS, &format!("v{i}"))]).unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(writer.damage(), Vec::<String>::new());
    assert_eq!(outside.damage(), Vec::<String>::new());
    writer.compact_now().unwrap();
    assert_eq!(everything(&outside), everything(&writer));
}

#[test]
fn the_list_of_pairs_is_right_while_history_is_compacted() {
    let mut bench = Bench::new(4_000);
    bench.options.retention.size = 20_000;
    let writer = bench.open();
    // Pairs 0 to 9 are written once, and every other one of them is deleted; the others change all
    // the time.
    append(&writer, (0..10).map(|i| change(i, START_MS, "once")).collect()).unwrap();
    let delete = |i| Change { op: Op::Delete, after: None, ..change(i, START_MS, "") };
    append(&writer, (0..5).map(|i| delete(2 * i)).collect()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last_round = false;
            while !last_round {
                last_round = done.load(Ordering::SeqCst);
                let found = existing(&writer, 3);
                for i in 0..10 {
                    let times = found.iter().filter(|pair| **pair == pair_of(i)).count();
                    assert_eq!(times, (i % 2) as usize, "pair {i}");
                }
            }
        });
        for i in 0..2_000 {
            append(&writer, vec![change(10 + i % 30, START_MS, &format!("v{i}"))]).unwrap();
        }
        done.store(true, Ordering::SeqCst);
    });
    writer.compact_now().unwrap();
    let mut expected: Vec<Pair> = (0..5).map(|i| pair_of(2 * i + 1)).collect();
    expected.extend((0..30).map(|i| pair_of(10 + (i + 20) % 30)));
    assert_eq!(existing(&writer, 7), expected);
    assert_eq!(existing(&bench.reader(), 7), expected);
}

/// What the stream lists, in portions of so many.
fn existing(stream: &EmbeddedStream, portion: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut from = 1;
    loop {
        let piece = stream.reading.answer(|log| existing::existing(log, from, portion)).unwrap();
        pairs.extend(piece.pairs);
        if piece.next == from {
            return pairs;
        }
        from = piece.next;
    }
}
