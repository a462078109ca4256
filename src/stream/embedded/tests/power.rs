//! Power losses at random moments, and a disk that refuses at random: whatever was acknowledged is
//! there afterwards, and nothing that was not appended.
//!
//! A failure prints its seed; `KEEPSTEP_TEST_SEED=42` plays the same operations and the same losses
//! again: the writer and the compactor are driven in steps, on the test's own thread.

use super::*;
use fastrand::Rng;
use std::collections::BTreeMap;

const PAIRS: u64 = 9;
const AGE_MS: i64 = 400;

/// One log with its losses, and what must be true of it.
struct Plant {
    seed: u64,
    rng: Rng,
    now_ms: Arc<AtomicI64>,
    renew_bytes: u64,
    disk: VolatileDisk,
    opened: Option<(EmbeddedStream, WriterSteps, CompactorSteps)>,
    /// What was acknowledged; and what was refused and an opening has found and made durable, which
    /// counts as much from then on.
    all: BTreeMap<Position, Change>,
    /// What was refused, and may be there all the same: the contract says that a reader may see it.
    tried: Vec<Change>,
    acknowledged: Position,
    crashes: u32,
    kept_by_luck: usize,
    /// Looks at a stream that the disk did not let make durable what it had found.
    not_secured: u32,
    operations: u64,
    refused: u64,
}

/// A disk with these files, which decides by these numbers.
fn on_disk(image: &Image, mut rng: Rng) -> VolatileDisk {
    VolatileDisk::new(image, move |bound| rng.u64(..bound))
}

impl Plant {
    fn new(seed: u64) -> Plant {
        let mut rng = Rng::with_seed(seed);
        let disk = on_disk(&empty(), rng.fork());
        let renew_bytes = rng.choice([100, 400]).unwrap();
        let mut plant = Plant {
            seed,
            rng,
            now_ms: Arc::new(AtomicI64::new(START_MS)),
            renew_bytes,
            disk,
            opened: None,
            all: BTreeMap::new(),
            tried: Vec::new(),
            acknowledged: 0,
            crashes: 0,
            kept_by_luck: 0,
            not_secured: 0,
            operations: 0,
            refused: 0,
        };
        plant.open();
        plant
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/data/stream")
    }

    fn files(&self) -> Files {
        Files::on(Arc::new(self.disk.clone()))
    }

    fn has_crashed(&self) -> bool {
        self.disk.has_no_power()
    }

    fn options(&self) -> Options {
        let clock = Arc::clone(&self.now_ms);
        Options {
            retention: Retention { age: Duration::from_millis(AGE_MS as u64), size: 6_000 },
            segment_bytes: 700,
            renew_bytes: self.renew_bytes,
            period: Duration::from_secs(3600),
            files: self.files(),
            now_ms: Arc::new(move || clock.load(Ordering::SeqCst)),
        }
    }

    /// Opens the stream; the power may go while it does.
    fn open(&mut self) {
        loop {
            match EmbeddedStream::open_parts(&self.path(), self.options(), "host-a:1") {
                Ok(opened) => return self.opened = Some(opened),
                Err(_) if self.has_crashed() => self.lose_power(),
                // A disk that refuses is asked again.
                Err(error) => assert!(error.to_string().contains("I/O error"), "seed {}: {error}", self.seed),
            }
        }
    }

    /// What the crash left is on the disk of the next life.
    fn lose_power(&mut self) {
        self.close();
        self.start_anew();
        if self.rng.u32(..4) == 0 {
            self.disk.cut_power_after(self.rng.u64(..12));
        }
        if self.rng.u32(..4) == 0 {
            self.disk.refuse_one_in(self.rng.choice([3, 6, 12]).unwrap());
        }
    }

    /// The process comes to its end.
    fn close(&mut self) {
        if let Some((stream, mut writer, _)) = self.opened.take() {
            drop(stream);
            while writer.step() != Step::Ended {}
        }
    }

    fn appended(&mut self, changes: Vec<Change>) -> Result<Position, StreamError> {
        let (stream, writer, compactor) = self.opened.as_mut().unwrap();
        let mut append = stream.append(Arc::new(changes));
        let answer = loop {
            if let Some(answer) = (&mut append).now_or_never() {
                break answer;
            }
            writer.step();
        };
        if self.rng.bool() {
            // As far as a thread would have come meanwhile.
            let _ = compactor.step();
        }
        answer
    }

    fn compact(&mut self) {
        let (_, writer, compactor) = self.opened.as_mut().unwrap();
        writer.tick();
        while compactor.step().is_ok_and(|more| more) {}
    }

    /// The disk as a power loss leaves it, in its place.
    fn start_anew(&mut self) {
        self.operations += self.disk.operations();
        self.refused += self.disk.refused();
        let image = self.disk.cut_power();
        self.crashes += 1;
        self.disk = on_disk(&image, self.rng.fork());
    }

    fn recover(&mut self) {
        loop {
            self.lose_power();
            self.recover_twice();
            self.open();
            if self.check() {
                return;
            }
        }
    }

    /// What is read before a recovery, after it and after one more is the same, also if the disk
    /// refuses or the power goes amid it.
    fn recover_twice(&mut self) {
        let read = |plant: &Plant| everything(&EmbeddedStream::follow(plant.files(), &plant.path()).unwrap());
        if self.disk.facts(&self.path()).is_err() {
            // Not even the folder was durable.
            return;
        }
        let before = read(self);
        for times in 1..=2 {
            let _ = load::load(&self.files(), &self.path(), load::Access::Write);
            if self.has_crashed() {
                self.start_anew();
            }
            assert_eq!(read(self), before, "seed {}: after {times} recoveries", self.seed);
        }
    }

    fn append(&mut self) {
        let now = self.now_ms.load(Ordering::SeqCst);
        let count = self.rng.usize(1..4);
        let changes: Vec<Change> = (0..count)
            .map(|_| {
                let value = format!("{:x}", self.rng.u64(..));
                let pair = self.rng.u64(..PAIRS);
                if self.rng.u32(..10) == 0 { conflict(pair, now, &value) } else { change(pair, now, &value) }
            })
            .collect();
        match self.appended(changes.clone()) {
            Ok(first) => {
                assert!(first > self.acknowledged, "seed {}: {first} was given out before", self.seed);
                self.all.extend((first..).zip(changes));
                self.acknowledged = first + count as Position - 1;
            }
            Err(_) => self.tried.extend(changes),
        }
    }

    /// Everything that is delivered was appended, and everything that has to be there is, where it
    /// was put. False if the power went before all was read.
    fn check(&mut self) -> bool {
        let seed = self.seed;
        let now = self.now_ms.load(Ordering::SeqCst);
        let (stream, _, _) = self.opened.as_ref().unwrap();
        let Some(found) = read_all(stream) else { return self.assert_no_power() };
        let newest: Vec<_> = (0..PAIRS).map(|pair| stream.newest_record(&pair_of(pair))).collect();
        let extent = stream.extent();
        let is_secured = !stream.log.read().unverified_tail;
        if self.has_crashed() {
            return false;
        }
        assert!(found.is_sorted_by(|(one, _), (other, _)| one < other), "seed {seed}: out of order");
        let found: BTreeMap<Position, Change> = found.into_iter().collect();
        let mut known = self.all.clone();
        for (position, found) in &found {
            match self.all.get(position) {
                Some(appended) => assert_eq!(found, appended, "seed {seed}: at {position}"),
                None => {
                    assert!(
                        self.tried.contains(found),
                        "seed {seed}: {position} holds what nobody appended: {found:?}"
                    );
                    known.insert(*position, found.clone());
                }
            }
        }
        assert!(extent.last >= self.acknowledged, "seed {seed}: {extent:?}, {} acknowledged", self.acknowledged);
        for (position, change) in &self.all {
            let superseded = known.range(position + 1..).any(|(_, later)| later.pair == change.pair);
            let is_young = change.ts_ms + AGE_MS >= now;
            let must_stay = *position >= extent.full_from || !superseded || (change.conflict.is_some() && is_young);
            assert!(!must_stay || found.contains_key(position), "seed {seed}: {position} is gone, of {extent:?}");
        }
        for (pair, newest) in (0..PAIRS).zip(newest) {
            let last = known.iter().rfind(|(_, change)| change.pair == pair_of(pair));
            let newest = newest.unwrap();
            let newest = newest.as_ref().map(|record| (&record.position, &record.change));
            assert_eq!(newest, last, "seed {seed}: the newest of pair {pair}");
        }
        if is_secured {
            self.kept_by_luck += known.len() - self.all.len();
            self.all = known;
            self.acknowledged = extent.last;
        } else {
            self.not_secured += 1;
        }
        true
    }

    fn assert_no_power(&self) -> bool {
        assert!(self.has_crashed(), "seed {}: it cannot be read", self.seed);
        false
    }

    /// A process ends while the disk refuses, and the next one finds what was refused, compacts,
    /// and loses the power.
    fn end_behind_a_refusal(&mut self) {
        self.disk.refuse_one_in(self.rng.choice([2, 3, 4]).unwrap());
        self.append();
        self.close();
        self.open();
        let _ = self.check();
        self.now_ms.fetch_add(AGE_MS, Ordering::SeqCst);
        for _ in 0..3 {
            self.compact();
        }
        self.recover();
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..60 => self.append(),
            60..70 => drop(self.now_ms.fetch_add(self.rng.i64(1..200), Ordering::SeqCst)),
            70..80 => self.compact(),
            80..84 => {
                self.close();
                self.open();
                let _ = self.check();
            }
            84..86 => self.end_behind_a_refusal(),
            86..92 => self.disk.cut_power_after(self.rng.u64(..25)),
            // Not each one: then nothing could ever be opened.
            92..96 => self.disk.refuse_one_in(self.rng.choice([0, 3, 6, 12]).unwrap()),
            _ => self.recover(),
        }
        if self.has_crashed() {
            self.recover();
        }
    }
}

/// [`everything`]; `None` if it cannot be read.
fn read_all(stream: &EmbeddedStream) -> Option<Vec<(Position, Change)>> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let batch = stream.read_here(from, 7, usize::MAX).ok()?;
        if batch.records.is_empty() && batch.damaged.is_empty() {
            return Some(all);
        }
        from = batch.next;
        all.extend(batch.records.into_iter().map(|record| (record.position, record.change)));
    }
}

/// Plays one seed to its end.
fn play(seed: u64) -> Plant {
    let mut plant = Plant::new(seed);
    for _ in 0..60 {
        plant.step();
    }
    plant.recover();
    plant.recover();
    loop {
        plant.disk.refuse_one_in(0);
        plant.append();
        if !plant.has_crashed() {
            break;
        }
        plant.recover();
    }
    assert!(plant.check() || plant.has_crashed());
    plant.lose_power();
    plant
}

/// Seeds that found a fault, or do so when a rule of the writer is taken out.
const FOUND: [u64; 5] = [467, 713, 486, 20, 6];

#[test]
fn power_losses_and_refusals_at_any_moment_lose_nothing_acknowledged_and_invent_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let given = number("KEEPSTEP_TEST_SEED");
    let first = given.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let runs = number("KEEPSTEP_TEST_RUNS").unwrap_or(if given.is_some() { 1 } else { 120 });
    println!("seeds {first} to {}", first + runs - 1);
    let (mut crashes, mut lucky, mut not_secured, mut refused, mut operations) = (0, 0, 0, 0, 0);
    for seed in (first..first + runs).chain(FOUND.into_iter().filter(|_| given.is_none())) {
        let plant = play(seed);
        crashes += plant.crashes;
        lucky += plant.kept_by_luck;
        not_secured += plant.not_secured;
        refused += plant.refused;
        operations += plant.operations;
    }
    println!(
        "{operations} operations, {refused} refused; {crashes} power losses; {lucky} records not acknowledged found and kept; \
         {not_secured} looks at what was found and could not be made durable yet"
    );
    let did = crashes > 400 && lucky > 10 && not_secured > 10 && refused > 400;
    assert!(runs < 120 || did, "the test did something: {crashes} {lucky} {not_secured} {refused}");
}

#[test]
fn the_same_seed_plays_the_same_game() {
    for seed in FOUND {
        let [one, other] = [play(seed), play(seed)];
        assert_eq!((one.operations, one.refused, one.crashes), (other.operations, other.refused, other.crashes));
        assert_eq!((one.all, one.acknowledged), (other.all, other.acknowledged), "seed {seed}");
    }
}
