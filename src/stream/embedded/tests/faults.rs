//! A disk that refuses, is full, or loses the directory.

use super::*;

#[test]
fn a_full_disk_refuses_appends_and_when_there_is_space_again_they_work() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "before")]).unwrap();
    for space in [0, 1, 40, 150] {
        bench.disk.set_space(Some(space));
        let refused = append(&stream, vec![change(2, START_MS, "refused"), change(3, START_MS, "refused")]);
        let path = bench.segments().pop().unwrap();
        let text = path.display().to_string();
        assert!(matches!(&refused, Err(StreamError::Unavailable(why)) if why.contains(&text)), "{refused:?}");
        assert!(!stream.knows(&pair_of(2)));
        assert_eq!(append(&stream, vec![change(2, START_MS, "refused again")]).is_err(), space < 300);
    }
    bench.disk.set_space(None);
    assert_eq!(append(&stream, vec![change(4, START_MS, "after")]), Ok(2));
    drop(stream);
    let stream = bench.open();
    assert_eq!(stream.damage(), Vec::<String>::new());
    let expected = [(1, change(1, START_MS, "before")), (2, change(4, START_MS, "after"))];
    assert_eq!(everything(&stream), expected);
}

#[test]
fn a_full_disk_where_a_new_segment_is_due_is_waited_out_too() {
    let bench = Bench::new(300);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "v"), change(2, START_MS, "v")]).unwrap();
    bench.disk.set_space(Some(10));
    assert!(append(&stream, vec![change(3, START_MS, "v"), change(4, START_MS, "v")]).is_err());
    assert!(append(&stream, vec![change(3, START_MS, "v"), change(4, START_MS, "v")]).is_err());
    bench.disk.set_space(None);
    assert_eq!(append(&stream, vec![change(5, START_MS, "v"), change(6, START_MS, "v")]), Ok(3));
    assert_eq!(everything(&stream).len(), 4);
}

#[test]
fn an_append_whose_sync_is_refused_is_not_recorded() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "before")]).unwrap();
    bench.disk.refuse_next_sync();
    assert!(matches!(append(&stream, vec![change(2, START_MS, "lost")]), Err(StreamError::Unavailable(_))));
    assert_eq!((everything(&stream).len(), stream.extent().last), (1, 1));
    assert_eq!(append(&stream, vec![change(3, START_MS, "after")]), Ok(2));
    drop(stream);
    assert_eq!(everything(&bench.open()).len(), 2);
}

#[test]
fn a_deleted_directory_is_made_again_and_positions_go_on() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, (0..5).map(|i| change(i, START_MS, "old")).collect()).unwrap();
    bench.disk.remove_all(&bench.path());
    assert_eq!(append(&stream, vec![change(7, START_MS, "new")]), Ok(6));
    assert!(!stream.knows(&pair_of(1)), "what was deleted is not known any more");
    assert_eq!(stream.damage().len(), 1);
    let extent = stream.extent();
    assert_eq!((extent.first, extent.last, extent.full_from), (6, 6, 6));
    let second = EmbeddedStream::open_with(&bench.path(), bench.options.clone(), "host-b:2").err().unwrap();
    assert!(matches!(second, StreamError::Owned(_)));
    drop(stream);
    assert_eq!(everything(&bench.open()), [(6, change(7, START_MS, "new"))]);
}

#[test]
fn files_that_were_put_in_the_place_of_ours_are_taken_up() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "saved")]).unwrap();
    let path = bench.segments().pop().unwrap();
    let saved = bench.read(&path);
    append(&stream, vec![change(2, START_MS, "later")]).unwrap();
    bench.remove(&path);
    bench.put(&path, saved);
    assert_eq!(append(&stream, vec![change(3, START_MS, "new")]), Ok(3));
    assert!(stream.knows(&pair_of(1)) && !stream.knows(&pair_of(2)) && stream.knows(&pair_of(3)));
    assert_eq!(everything(&stream).len(), 2);
}

#[test]
fn a_directory_that_cannot_be_made_is_unavailable_and_not_fatal() {
    let bench = Bench::new(1 << 20);
    bench.put(bench.path(), b"a file");
    let refused = EmbeddedStream::open_with(&bench.path(), bench.options.clone(), "h").err().unwrap();
    assert!(matches!(refused, StreamError::Unavailable(_)));
    bench.remove(bench.path());
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "v")]).unwrap();
    bench.disk.remove_all(&bench.path());
    bench.put(bench.path(), b"a file");
    assert!(matches!(append(&stream, vec![change(2, START_MS, "v")]), Err(StreamError::Unavailable(_))));
    bench.remove(bench.path());
    assert_eq!(append(&stream, vec![change(2, START_MS, "v")]), Ok(2));
}

#[test]
fn a_crash_at_any_step_of_an_append_or_a_new_segment_loses_nothing_acknowledged() {
    for steps in 1..60 {
        let bench = Bench::new(500);
        let stream = bench.open();
        bench.disk.read_only_after(Some(steps - 1));
        let acknowledged = (0..12).take_while(|i| append(&stream, vec![change(*i, START_MS, "v")]).is_ok()).count();
        drop(stream);
        bench.disk.read_only_after(None);
        let stream = bench.open();
        let found = everything(&stream);
        assert!(found.len() >= acknowledged, "step {steps}: {acknowledged} acknowledged, {} found", found.len());
        for (i, (position, found)) in found.iter().enumerate() {
            assert_eq!((*position, found), (i as Position + 1, &change(i as u64, START_MS, "v")));
        }
        append(&stream, vec![change(50, START_MS, "w")]).unwrap();
        assert!(stream.knows(&pair_of(50)));
    }
}

/// A log of two segments; a frame at the first position of the second one which was refused, and
/// what was acknowledged.
fn log_with_a_refused_frame() -> (Bench, Vec<u8>, Vec<(Position, Change)>) {
    let bench = Bench::new(500);
    let (other, stream) = (Bench::new(1 << 20), bench.open());
    let mut acknowledged = Vec::new();
    while bench.segments().len() < 2 {
        let change = change(acknowledged.len() as u64, START_MS, "v");
        acknowledged.push((append(&stream, vec![change.clone()]).unwrap(), change));
    }
    drop(stream);
    let first = acknowledged.len() - 1;
    let elsewhere = other.open();
    append(&elsewhere, acknowledged.iter().take(first).map(|(_, change)| change.clone()).collect()).unwrap();
    let len = elsewhere.extent().bytes as usize;
    append(&elsewhere, vec![change(first as u64, START_MS, "refused")]).unwrap();
    let bytes = other.read(other.segments().first().unwrap());
    (bench, bytes.get(len..).unwrap().to_vec(), acknowledged)
}

fn add_to(bench: &Bench, path: &Path, bytes: &[u8]) {
    bench.disk.open(path, Open::Write).unwrap().write_at(bytes, bench.len(path)).unwrap();
}

#[test]
fn a_refused_record_that_comes_back_before_the_next_segment_stands_in_the_way_of_nothing() {
    let (bench, refused, acknowledged) = log_with_a_refused_frame();
    add_to(&bench, bench.segments().first().unwrap(), &refused);
    assert_eq!(everything(&bench.reader()), acknowledged);
    let stream = bench.open();
    assert_eq!(everything(&stream), acknowledged);
    let (position, last) = acknowledged.last().unwrap();
    assert_eq!(stream.newest_record(&last.pair).unwrap().unwrap().position, *position);
    assert_eq!(append(&stream, vec![change(90, START_MS, "after")]), Ok(position + 1));
}

#[test]
fn a_segment_in_which_no_record_is_says_nothing_of_the_one_before_it() {
    for len in [0, 10, frame::FILE_HEADER, frame::FILE_HEADER + 40] {
        let (bench, frame, acknowledged) = log_with_a_refused_frame();
        let files = bench.segments();
        let (before, begun) = (files.first().unwrap(), files.last().unwrap());
        add_to(&bench, before, &frame);
        bench.disk.open(begun, Open::Write).unwrap().set_len(len).unwrap();
        let found = everything(&bench.reader());
        assert_eq!(found.len(), acknowledged.len(), "cut to {len}");
        let stream = bench.open();
        assert_eq!(everything(&stream), found, "cut to {len}");
        let next = append(&stream, vec![change(90, START_MS, "after")]).unwrap();
        assert_eq!(next, found.len() as Position + 1, "cut to {len}");
        drop(stream);
        assert_eq!(everything(&bench.open()).len(), found.len() + 1, "cut to {len}");
    }
}

#[test]
fn a_segment_that_a_merged_one_replaces_says_nothing_of_it() {
    let mut bench = Bench::new(700);
    bench.options.retention.age = Duration::from_millis(100);
    let stream = bench.open();
    for i in 0..40 {
        append(&stream, vec![change(i, START_MS, "v")]).unwrap();
    }
    let old: Vec<_> = bench.segments().into_iter().map(|path| (path.clone(), bench.read(path))).collect();
    bench.advance(1_000);
    bench.options.segment_bytes = 4_000;
    drop(stream);
    let stream = bench.open();
    stream.compact_now().unwrap();
    let found = everything(&stream);
    drop(stream);
    let gone: Vec<_> = old.iter().filter(|(path, _)| !bench.has(path)).collect();
    assert!(gone.len() > 2 && found.len() == 40, "{} files, {} records", gone.len(), found.len());
    gone.iter().for_each(|(path, bytes)| bench.put(path, bytes));
    assert_eq!(everything(&bench.reader()), found);
    assert_eq!(everything(&bench.open()), found);
    assert!(gone.iter().all(|(path, _)| !bench.has(path)));
}

fn inodes(bench: &Bench) -> Vec<(PathBuf, u64)> {
    let number = |path: &PathBuf| bench.disk.facts(path).unwrap().identity.1;
    bench.segments().into_iter().map(|path| (path.clone(), number(&path))).collect()
}

#[test]
fn an_opening_writes_into_no_file_of_an_earlier_one_and_openings_without_end_make_few_files() {
    let bench = Bench::new(2_000);
    drop(bench.open());
    let mut total = 0;
    for opening in 0..80 {
        let before = inodes(&bench);
        let stream = bench.open();
        let own = inodes(&bench).pop().unwrap();
        assert!(opening == 0 || !before.contains(&own), "opening {opening} goes on in a file of another");
        assert_eq!(append(&stream, vec![change(opening, START_MS, "v")]), Ok(opening + 1));
        assert!(opening == 0 || !before.contains(&inodes(&bench).pop().unwrap()), "opening {opening}");
        total = stream.extent().bytes;
    }
    let (files, most) = (bench.segments().len() as u64, 2 * total / bench.options.renew_bytes + 1);
    assert!((2..=most).contains(&files), "{files} files for {total} bytes");
    assert_eq!(everything(&bench.open()).len(), 80);
}

/// A log of one large segment: ten writes, and one of three records.
fn large_segment() -> (Bench, Vec<(Position, Change)>) {
    let bench = Bench::new(2_000);
    let stream = bench.open();
    let changes: Vec<Change> = (0..13).map(|i| change(i % 5, START_MS, &format!("v{i}"))).collect();
    let (single, together) = changes.split_at(10);
    for change in single {
        append(&stream, vec![change.clone()]).unwrap();
    }
    append(&stream, together.to_vec()).unwrap();
    assert_eq!(bench.segments().len(), 1);
    (bench, (1..).zip(changes).collect())
}

#[test]
fn of_a_large_segment_the_last_write_moves_to_a_file_of_the_opening_and_nothing_else_changes() {
    let (bench, mut expected) = large_segment();
    let (found, reader) = (bench.segments().pop().unwrap(), bench_reopened(&bench));
    assert_eq!(everything(&reader), expected);
    for opening in 1..4 {
        let stream = bench.open();
        assert_eq!(bench.segments(), [found.clone(), segment::path_of(&bench.path(), 11)], "opening {opening}");
        for stream in [&stream, &reader, &bench_reopened(&bench)] {
            assert_eq!(everything(stream), expected, "opening {opening}");
            assert_eq!(stream.read_here(12, 1, usize::MAX).unwrap().records.first().unwrap().position, 12);
            for (position, change) in expected.iter().skip(8) {
                let newest = stream.newest_record(&change.pair).unwrap().unwrap();
                assert_eq!((newest.position, &newest.change), (*position, change));
            }
            assert_eq!(stream.damage(), Vec::<String>::new());
        }
    }
    let stream = bench.open();
    expected.push((14, change(9, START_MS, "next")));
    assert_eq!(append(&stream, vec![change(9, START_MS, "next")]), Ok(14));
    for stream in [&stream, &reader] {
        assert_eq!(everything(stream), expected);
    }
}

#[test]
fn what_the_old_file_holds_of_a_write_that_moved_is_void_whatever_became_of_it() {
    let (bench, expected) = large_segment();
    let found = bench.segments().pop().unwrap();
    let whole = bench.read(&found);
    drop(bench.open());
    let kept = bench_reopened(&bench).log.read().segments.first().unwrap().len as usize;
    assert!(kept < whole.len());
    for (from, to) in [(kept, kept), (kept, kept + 20), (kept, whole.len()), (kept + 40, whole.len())] {
        let mut torn = whole.clone();
        torn.get_mut(from..to).unwrap().fill(0);
        for len in [torn.len(), to] {
            bench.put(&found, torn.get(..len).unwrap());
            for stream in [bench_reopened(&bench), bench.open()] {
                assert_eq!(everything(&stream), expected, "{from} to {to}");
                assert_eq!(stream.damage(), Vec::<String>::new(), "{from} to {to}");
            }
        }
    }
}

#[test]
fn a_large_segment_of_an_earlier_version_which_tells_nothing_of_its_writes_is_copied_whole() {
    let (bench, expected) = large_segment();
    let path = bench.segments().pop().unwrap();
    let mut bytes = bench.read(&path);
    let (mut offset, mut writes) = (frame::FILE_HEADER as usize, 0);
    while offset < bytes.len() {
        let (meta, _) = frame::verified(bytes.get(offset..).unwrap()).unwrap();
        let end = offset + meta.len as usize;
        writes += u32::from(meta.flags & frame::FIRST != 0);
        frame::seal(bytes.get_mut(offset..end).unwrap(), &Meta { flags: meta.flags & !frame::FIRST, ..meta });
        offset = end;
    }
    assert_eq!(writes, 11);
    bench.put(&path, &bytes);
    let before = inodes(&bench);
    let stream = bench.open();
    assert_eq!((bench.segments(), bench.read(&path)), (vec![path], bytes));
    assert_ne!(inodes(&bench), before);
    assert_eq!(everything(&stream), expected);
    assert_eq!(append(&stream, vec![change(1, START_MS, "next")]), Ok(14));
}

#[test]
fn nothing_is_compacted_or_appended_before_what_was_found_is_durable() {
    let mut bench = Bench::new(500);
    bench.options.retention.age = Duration::from_millis(100);
    let stream = bench.open();
    while bench.segments().len() < 4 {
        append(&stream, vec![change(1, START_MS, "v")]).unwrap();
    }
    let mut expected = everything(&stream);
    drop(stream);
    bench.advance(1_000);
    let before = inodes(&bench);
    let (newest, _) = before.last().unwrap();
    bench.disk.refuse_creating(Some(&newest.with_extension(segment::TEMPORARY)));
    let stream = bench.open();
    assert!(stream.compact_now().is_err());
    assert!(append(&stream, vec![change(2, START_MS, "w")]).is_err());
    assert_eq!((everything(&stream), inodes(&bench)), (expected.clone(), before.clone()));
    bench.disk.refuse_creating(None);
    stream.compact_now().unwrap();
    assert_eq!(everything(&stream), expected.split_off(expected.len() - 1), "the others were superseded");
    assert!(!before.contains(&inodes(&bench).pop().unwrap()));
    append(&stream, vec![change(2, START_MS, "w")]).unwrap();
}
