//! A disk that refuses, is full, or loses the directory.

use super::*;

#[test]
fn a_full_disk_refuses_appends_and_when_there_is_space_again_they_work() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "before")]).unwrap();
    for space in [0, 1, 40, 150] {
        bench.disk.space(Some(space));
        let refused = append(&stream, vec![change(2, START_MS, "refused"), change(3, START_MS, "refused")]);
        let path = bench.segments().pop().unwrap();
        let text = path.display().to_string();
        assert!(matches!(&refused, Err(StreamError::Unavailable(why)) if why.contains(&text)), "{refused:?}");
        assert!(!stream.knows(&pair_of(2)));
        assert_eq!(append(&stream, vec![change(2, START_MS, "refused again")]).is_err(), space < 300);
    }
    bench.disk.space(None);
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
    bench.disk.space(Some(10));
    assert!(append(&stream, vec![change(3, START_MS, "v"), change(4, START_MS, "v")]).is_err());
    assert!(append(&stream, vec![change(3, START_MS, "v"), change(4, START_MS, "v")]).is_err());
    bench.disk.space(None);
    assert_eq!(append(&stream, vec![change(5, START_MS, "v"), change(6, START_MS, "v")]), Ok(3));
    assert_eq!(everything(&stream).len(), 4);
}

#[test]
fn an_append_whose_sync_is_refused_is_not_recorded() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "before")]).unwrap();
    bench.disk.refuse_sync.store(true, Ordering::SeqCst);
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
    std::fs::remove_dir_all(bench.path()).unwrap();
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
    let saved = std::fs::read(&path).unwrap();
    append(&stream, vec![change(2, START_MS, "later")]).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, saved).unwrap();
    assert_eq!(append(&stream, vec![change(3, START_MS, "new")]), Ok(3));
    assert!(stream.knows(&pair_of(1)) && !stream.knows(&pair_of(2)) && stream.knows(&pair_of(3)));
    assert_eq!(everything(&stream).len(), 2);
}

#[test]
fn a_directory_that_cannot_be_made_is_unavailable_and_not_fatal() {
    let bench = Bench::new(1 << 20);
    std::fs::write(bench.path(), "a file").unwrap();
    let refused = EmbeddedStream::open_with(&bench.path(), bench.options.clone(), "h").err().unwrap();
    assert!(matches!(refused, StreamError::Unavailable(_)));
    std::fs::remove_file(bench.path()).unwrap();
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "v")]).unwrap();
    std::fs::remove_dir_all(bench.path()).unwrap();
    std::fs::write(bench.path(), "a file").unwrap();
    assert!(matches!(append(&stream, vec![change(2, START_MS, "v")]), Err(StreamError::Unavailable(_))));
    std::fs::remove_file(bench.path()).unwrap();
    assert_eq!(append(&stream, vec![change(2, START_MS, "v")]), Ok(2));
}

#[test]
fn a_crash_at_any_step_of_an_append_or_a_new_segment_loses_nothing_acknowledged() {
    for steps in 1..60 {
        let bench = Bench::new(500);
        let stream = bench.open();
        bench.disk.crash_after(steps);
        let acknowledged = (0..12).take_while(|i| append(&stream, vec![change(*i, START_MS, "v")]).is_ok()).count();
        drop(stream);
        bench.disk.crashed.store(false, Ordering::SeqCst);
        bench.disk.crash_after(0);
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
