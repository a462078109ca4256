//! Damage: whatever the files hold, no record is delivered that was not appended, and what is sound
//! is found.

use super::*;
use crate::env;
use crate::stream::embedded::frame::{FILE_HEADER, FileHeader, Step, Walker};
use std::collections::BTreeMap;

/// A log of `count` records in one file, its bytes, and where each frame begins.
fn one_file(count: u64) -> (Bench, PathBuf, Vec<u8>, Vec<(u64, Position)>) {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    for i in 0..count {
        append(&stream, vec![change(i, START_MS, &format!("v{i}"))]).unwrap();
    }
    drop(stream);
    let path = bench.segments().pop().unwrap();
    let bytes = bench.read(&path);
    let file = bench.disk.open(&path, Open::Read).unwrap();
    let mut walker = Walker::new(&file, FILE_HEADER, bytes.len() as u64, 0, None);
    let mut frames = Vec::new();
    while let Some(Step::Frame { offset, meta, .. }) = walker.next() {
        frames.push((offset, meta.position));
    }
    assert_eq!(frames.len() as u64, count);
    (bench, path, bytes, frames)
}

#[test]
fn one_damaged_byte_anywhere_loses_at_most_the_record_it_hit() {
    let (bench, path, bytes, frames) = one_file(100);
    let whole = {
        let mut whole = BTreeMap::new();
        let file = bench.disk.open(&path, Open::Read).unwrap();
        let mut walker = Walker::new(&file, FILE_HEADER, bytes.len() as u64, 0, None);
        while let Some(Step::Frame { meta, payload, .. }) = walker.next() {
            whole.insert(meta.position, payload.to_vec());
        }
        whole
    };
    for hit in 0..bytes.len() {
        let mut damaged = bytes.clone();
        *damaged.get_mut(hit).unwrap() ^= if hit % 2 == 0 { 0xFF } else { 1 << (hit % 8) };
        bench.put(&path, &damaged);
        let loaded = load::load(&bench.options.files, &bench.path(), load::Access::Write).unwrap();
        let segment = loaded.state.segments.first().unwrap();
        let mut found = BTreeMap::new();
        let file = segment.file.get().unwrap();
        let mut walker = Walker::new(&file, FILE_HEADER, segment.len, 0, None);
        while let Some(step) = walker.next() {
            if let Step::Frame { meta, payload, .. } = step {
                found.insert(meta.position, payload.to_vec());
            }
        }
        let lost = frames.iter().rev().find(|(offset, _)| *offset <= hit as u64).map(|(_, position)| *position);
        let mut expected = whole.clone();
        if let Some(lost) = lost {
            expected.remove(&lost);
        }
        assert!(found == expected, "byte {hit}: found {:?}, {:?}", found.keys(), loaded.damage);
        assert!(!loaded.damage.is_empty(), "byte {hit} was not noticed");
    }
}

#[test]
fn a_damaged_log_opens_tells_what_it_lost_and_takes_records() {
    for hit in (0..9_000).step_by(211) {
        let (bench, path, mut bytes, frames) = one_file(100);
        let Some(byte) = bytes.get_mut(hit) else { break };
        *byte ^= 0x55;
        bench.put(&path, &bytes);
        let stream = bench.open();
        assert!(!stream.damage().is_empty());
        let lost = frames.iter().rev().find(|(offset, _)| *offset <= hit as u64).map(|(_, position)| *position);
        let mut told = Vec::new();
        let mut positions = Vec::new();
        let mut from = 1;
        while from <= stream.extent().last {
            let batch = stream.read_here(from, 7, usize::MAX).unwrap();
            told.extend(batch.damaged);
            for record in batch.records {
                assert_eq!(record.change, change(record.position - 1, START_MS, &format!("v{}", record.position - 1)));
                positions.push(record.position);
            }
            from = batch.next;
        }
        assert_eq!(positions, (1..=100).filter(|position| Some(*position) != lost).collect::<Vec<_>>());
        assert_eq!(told.len(), usize::from(lost.is_some_and(|lost| lost < 100)), "told once: {told:?}");
        let next = append(&stream, vec![change(1, START_MS, "more")]).unwrap();
        assert!(next >= 100);
        assert_eq!(everything(&stream).last().unwrap().0, next);
    }
}

#[test]
fn an_append_that_was_cut_short_at_any_byte_is_cut_off_and_the_rest_stays() {
    let (bench, path, bytes, frames) = one_file(12);
    let keep = frames.iter().rev().nth(2).unwrap().0 as usize;
    for len in keep..bytes.len() {
        bench.put(&path, bytes.get(..len).unwrap());
        let stream = bench.open();
        let ends = frames.iter().skip(1).map(|(offset, _)| *offset).chain([bytes.len() as u64]);
        let left = ends.filter(|end| *end <= len as u64).count() as Position;
        assert_eq!(everything(&stream).len() as Position, left);
        assert_eq!(append(&stream, vec![change(77, START_MS, "after")]), Ok(left + 1));
        drop(stream);
        let stream = bench.open();
        assert_eq!(stream.damage(), Vec::<String>::new());
        assert_eq!(everything(&stream).last().unwrap().1, change(77, START_MS, "after"));
    }
}

#[test]
fn zeros_or_noise_behind_the_last_record_are_cut_off() {
    let noise: Vec<u8> = (0..70_000_u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    for tail in [vec![0; 5_000], noise] {
        let (bench, path, bytes, _) = one_file(5);
        bench.put(&path, [bytes.clone(), tail].concat());
        let stream = bench.open();
        assert_eq!(everything(&stream).len(), 5);
        assert_eq!(bench.read(&path), bytes);
        assert_eq!(append(&stream, vec![change(1, START_MS, "v")]), Ok(6));
    }
}

#[test]
fn a_value_that_imitates_frames_is_not_taken_for_records() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "one")]).unwrap();
    // A value made of frames of the very log it stands in, with positions that come later and fit.
    let mut forged = Vec::new();
    for position in 3..6 {
        let (mut bytes, frames) = frames(&[change(9, START_MS, "forged")]).unwrap();
        frame::seal(&mut bytes, &Meta { position, ..frames.first().unwrap().0 });
        forged.extend(bytes);
    }
    let bait = Change { after: Some(forged), ..change(2, START_MS, "") };
    append(&stream, vec![bait]).unwrap();
    append(&stream, vec![change(3, START_MS, "three")]).unwrap();
    assert_eq!(everything(&stream).len(), 3);
    drop(stream);
    assert_eq!(everything(&bench.open()).len(), 3);
}

#[test]
fn a_search_through_millions_of_bytes_that_look_like_frames_ends() {
    let (bench, path, bytes, _) = one_file(5);
    // Each eight bytes claim a large frame at a position that fits, and none has the right
    // checksum.
    let mut bait = Vec::new();
    while bait.len() < 3 << 20 {
        bait.extend(1_000_000_u32.to_le_bytes());
        bait.extend(7_u32.to_le_bytes());
        bait.extend(7_u64.to_le_bytes());
    }
    bench.put(&path, [bytes, bait].concat());
    let start = env::Instant::now();
    assert_eq!(everything(&bench.open()).len(), 5);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_removed_segment_is_told_and_the_others_are_read() {
    let bench = Bench::new(1_000);
    let stream = bench.open();
    for i in 0..40 {
        append(&stream, vec![change(i, START_MS, "v")]).unwrap();
    }
    drop(stream);
    let segments = bench.segments();
    let gone = segments.get(1).unwrap();
    let (first, next) = (segment::first_of(gone).unwrap(), segment::first_of(segments.get(2).unwrap()).unwrap());
    bench.remove(gone);
    let stream = bench.open();
    assert_eq!(stream.damage().len(), 1);
    let expected: Vec<Position> = (1..first).chain(next..=40).collect();
    assert_eq!(everything(&stream).into_iter().map(|(position, _)| position).collect::<Vec<_>>(), expected);
    assert!(!stream.knows(&pair_of(first)));
}

#[test]
fn a_record_that_rots_while_the_stream_is_open_is_forgotten_not_delivered() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, (0..10).map(|i| change(i, START_MS, "v")).collect()).unwrap();
    let path = bench.segments().pop().unwrap();
    let mut bytes = bench.read(&path);
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).unwrap() ^= 1;
    bench.put(&path, &bytes);
    let batch = stream.read_here(1, 100, usize::MAX).unwrap();
    assert_eq!((batch.records.len(), batch.damaged.len(), batch.next), (9, 1, 11));
    let lost: Vec<u64> = (0..10).filter(|i| stream.newest_record(&pair_of(*i)).unwrap().is_none()).collect();
    assert_eq!(lost.len(), 1);
    let lost = *lost.first().unwrap();
    assert!(!stream.knows(&pair_of(lost)));
    assert!(!stream.damage().is_empty());
    append(&stream, vec![change(lost, START_MS, "again")]).unwrap();
    assert!(stream.newest_record(&pair_of(lost)).unwrap().is_some());
}

#[test]
fn a_record_of_an_unknown_schema_is_told_and_passed() {
    let bench = Bench::new(1 << 20);
    let stream = bench.open();
    append(&stream, vec![change(1, START_MS, "one")]).unwrap();
    append(&stream, vec![change(2, START_MS, "two")]).unwrap();
    append(&stream, vec![change(3, START_MS, "three")]).unwrap();
    drop(stream);
    // The second record as a program with another schema would have written it.
    let path = bench.segments().pop().unwrap();
    let mut bytes = bench.read(&path);
    let file = bench.disk.open(&path, Open::Read).unwrap();
    let mut walker = Walker::new(&file, FILE_HEADER, bytes.len() as u64, 0, None);
    let _ = walker.next();
    let Some(Step::Frame { offset, meta, raw, .. }) = walker.next() else { unreachable!("there are three") };
    let mut raw = raw.to_vec();
    *raw.get_mut(frame::FRAME_HEADER + 2).unwrap() ^= 0xFF;
    frame::seal(&mut raw, &meta);
    let at = offset as usize;
    bytes.get_mut(at..at + raw.len()).unwrap().copy_from_slice(&raw);
    bench.put(&path, bytes);
    let stream = bench.open();
    let batch = stream.read_here(1, 100, usize::MAX).unwrap();
    assert_eq!(batch.records.iter().map(|record| record.position).collect::<Vec<_>>(), [1, 3]);
    assert!(batch.damaged.iter().any(|sentence| sentence.contains("unknown schema")), "{:?}", batch.damaged);
}

#[test]
fn a_records_schema_is_learned_from_the_directory() {
    let bench = Bench::new(1 << 20);
    drop(bench.open());
    let mut schema: serde_json::Value = serde_json::from_str(codec::SCHEMA).unwrap();
    let fields = schema.get_mut("fields").and_then(|fields| fields.as_array_mut()).unwrap();
    fields.push(serde_json::json!({"name": "later", "type": ["null", "long"], "default": null}));
    let newer = codec::WriterSchema::parse(&schema.to_string()).unwrap();
    bench.put(bench.path().join("newer.avsc"), schema.to_string());
    // What a newer program writes: its fingerprint, our fields, and `null` for the one that it
    // added.
    let mut payload = vec![0xC3, 0x01];
    payload.extend(newer.fingerprint());
    codec::encode_datum(&change(1, START_MS, "from the future"), &mut payload).unwrap();
    payload.push(0);
    let mut bytes = vec![0; frame::FRAME_HEADER];
    bytes.extend(payload);
    let meta = Meta { position: 1, ts_ms: START_MS, pair_hash: pair_hash(&pair_of(1)), flags: 0, len: 0 };
    frame::seal(&mut bytes, &meta);
    let path = bench.segments().pop().unwrap();
    let header = FileHeader { first: 1, through: 0, compacted: false }.to_bytes();
    bench.put(&path, [header, bytes].concat());
    let stream = bench.open();
    assert_eq!(stream.newest_record(&pair_of(1)).unwrap().unwrap().change, change(1, START_MS, "from the future"));
}
