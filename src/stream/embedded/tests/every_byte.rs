//! A log of some forty records in several segments, compacted ones among them: cut at every byte,
//! and every byte damaged.

use super::*;
use std::collections::BTreeMap;

/// What a log holds: the payloads by their positions.
type Records = BTreeMap<Position, Vec<u8>>;

/// A log, the bytes of its files, and what each file holds, with the end of each of its frames.
struct Sample {
    bench: Bench,
    files: Vec<(PathBuf, Vec<u8>)>,
    frames: Vec<BTreeMap<Position, (u64, u64)>>,
    whole: Records,
}

/// The records that a directory gives to who opens it for writing, and what it says of damage.
fn recover(bench: &Bench) -> (Records, Vec<String>) {
    let loaded = load::load(&bench.options.files, &bench.path(), load::Access::Write).unwrap();
    let mut records = Records::new();
    for (segment, limit) in with_limits(&loaded.state.segments) {
        walk(segment, limit, |_, meta, payload| {
            assert!(records.insert(meta.position, payload.to_vec()).is_none(), "{} twice", meta.position);
        });
    }
    assert!(records.keys().all(|position| *position < loaded.state.next), "a position would be given out again");
    (records, loaded.damage)
}

/// Each segment with the first position of the one behind it.
fn with_limits(segments: &[segment::Segment]) -> impl Iterator<Item = (&segment::Segment, Option<Position>)> {
    segments.iter().zip(segments.iter().skip(1).map(|next| Some(next.first)).chain([None]))
}

/// Gives each sound frame of a segment: its offset, its header, its payload.
fn walk(segment: &segment::Segment, limit: Option<Position>, mut found: impl FnMut(u64, &Meta, &[u8])) {
    let file = segment.file.get().unwrap();
    let mut walker = frame::Walker::new(&file, frame::FILE_HEADER, segment.len, segment.first - 1, limit);
    while let Some(step) = walker.next() {
        if let frame::Step::Frame { offset, meta, payload, .. } = step {
            found(offset, &meta, payload);
        }
    }
}

/// Where the frames of a segment begin and end.
fn frames_of(segment: &segment::Segment, limit: Option<Position>) -> BTreeMap<Position, (u64, u64)> {
    let mut frames = BTreeMap::new();
    walk(segment, limit, |offset, meta, _| {
        frames.insert(meta.position, (offset, offset + u64::from(meta.len)));
    });
    frames
}

fn sample() -> Sample {
    let mut bench = Bench::new(900);
    bench.options.retention.age = Duration::from_millis(500);
    let stream = bench.open();
    for i in 0..24 {
        append(&stream, vec![change(i % 12, START_MS, &format!("{i}"))]).unwrap();
    }
    bench.advance(2_000);
    stream.compact_now().unwrap();
    for i in 0..32 {
        append(&stream, vec![change(i % 8, START_MS + 2_000, &format!("{i}"))]).unwrap();
    }
    drop(stream);
    // Compaction may have been stopped between a file and those that it replaces: they go, and in
    // them nothing counts.
    recover(&bench);
    let loaded = load::load(&bench.options.files, &bench.path(), load::Access::Read).unwrap();
    let segments = &loaded.state.segments;
    assert_eq!(segments.len(), bench.segments().len(), "each file counts");
    assert!(segments.len() >= 4 && segments.iter().any(|segment| segment.compacted), "{} segments", segments.len());
    let frames = with_limits(segments).map(|(segment, limit)| frames_of(segment, limit)).collect();
    let files = bench.segments().into_iter().map(|path| (path.clone(), bench.read(path))).collect();
    let (whole, damage) = recover(&bench);
    assert!(whole.len() > 35 && damage.is_empty(), "{} records, {damage:?}", whole.len());
    Sample { bench, files, frames, whole }
}

impl Sample {
    /// Puts this in the place of one file and everything else back as it was.
    fn damage(&self, hit: usize, bytes: &[u8]) {
        for path in self.bench.segments() {
            if !self.files.iter().any(|(known, _)| *known == path) {
                self.bench.remove(path);
            }
        }
        for (at, (path, whole)) in self.files.iter().enumerate() {
            let bytes = if at == hit { bytes } else { whole };
            if !self.bench.has(path) || self.bench.read(path) != *bytes {
                self.bench.put(path, bytes);
            }
        }
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        self.bench.segments().iter().map(|path| self.bench.read(path)).collect()
    }

    /// What must be true whatever was done to a file: `expected` is there and nothing else, a
    /// second recovery finds what the first left, and the log takes records.
    fn holds(&self, what: &str, expected: &Records, told: bool, append_too: bool) {
        let (found, damage) = recover(&self.bench);
        assert!(found == *expected, "{what}: {} records, not {}; {damage:?}", found.len(), expected.len());
        assert!(!told || !damage.is_empty(), "{what}: nothing was said");
        let left = self.bytes();
        assert!(recover(&self.bench).0 == found, "{what}: a second recovery finds something else");
        assert!(self.bytes() == left, "{what}: a second recovery changes the files");
        if append_too {
            let stream = self.bench.open();
            let new = append(&stream, vec![change(1, START_MS + 2_000, "after")]).unwrap();
            assert!(found.keys().all(|position| *position < new), "{what}: {new} was given out again");
            drop(stream);
            let (mut later, _) = recover(&self.bench);
            assert!(later.remove(&new).is_some(), "{what}: the new record is not there");
            // The thread that compacts has seen the log, too: it may take what is superseded, and
            // no last state.
            let mut newest = BTreeMap::new();
            for (position, payload) in &found {
                let pair = codec::decode(payload).unwrap().pair;
                newest.insert((pair.zookeeper, pair.redis), *position);
            }
            for (pair, position) in newest {
                let is_there =
                    later.get(&position) == found.get(&position) || pair == (pair_of(1).zookeeper, pair_of(1).redis);
                assert!(is_there, "{what}: an append lost {position}");
            }
            assert!(later.iter().all(|(position, payload)| found.get(position) == Some(payload)), "{what}: invented");
        }
    }
}

#[test]
fn a_log_that_is_cut_at_any_byte_keeps_every_record_before_it_and_of_the_other_segments() {
    let sample = sample();
    let mut cuts = 0;
    for (hit, ((_, whole), frames)) in sample.files.iter().zip(&sample.frames).enumerate() {
        for len in 0..whole.len() {
            sample.damage(hit, whole.get(..len).unwrap());
            let mut expected = sample.whole.clone();
            let gone = frames.iter().filter(|(_, (_, end))| *end > len as u64);
            gone.for_each(|(position, _)| drop(expected.remove(position)));
            // Where a file ends with a frame nobody can tell that there was more; nor in one that
            // is empty.
            let told = len > frame::FILE_HEADER as usize && !frames.values().any(|(_, end)| *end == len as u64);
            sample.holds(&format!("file {hit} cut at {len}"), &expected, told, len % 16 == 0);
            cuts += 1;
        }
    }
    println!("{} records, {} files, {cuts} cuts", sample.whole.len(), sample.files.len());
}

#[test]
fn a_log_with_any_byte_damaged_loses_at_most_the_record_that_was_hit_and_says_so() {
    let sample = sample();
    let mut flips = 0;
    for (hit, ((_, whole), frames)) in sample.files.iter().zip(&sample.frames).enumerate() {
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            *damaged.get_mut(at).unwrap() ^= if at % 2 == 0 { 0xFF } else { 1 << (at % 8) };
            sample.damage(hit, &damaged);
            let mut expected = sample.whole.clone();
            let struck = frames.iter().find(|(_, (start, end))| (*start..*end).contains(&(at as u64)));
            struck.into_iter().for_each(|(position, _)| drop(expected.remove(position)));
            sample.holds(&format!("file {hit}, byte {at}"), &expected, true, at % 16 == 0);
            flips += 1;
        }
    }
    println!("{} records, {} files, {flips} bytes", sample.whole.len(), sample.files.len());
}
