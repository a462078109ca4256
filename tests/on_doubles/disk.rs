//! The disk in memory beside the real one: the same operations, the same answers. And that it loses what it may lose, and nothing else.
#![expect(clippy::disallowed_methods, reason = "one of the two disks is real")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use fastrand::Rng;
use keepstep::env::disk::{self, Disk, Facts, File, Open};
use keepstep_doubles::disk::{Image, Left, VolatileDisk};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HOWS: [Open; 4] = [Open::Read, Open::Write, Open::Create, Open::OpenOrCreate];
/// Below the root of each disk. The second is a folder, and what is in the file `a` cannot be.
const NAMES: [&str; 6] = ["a", "folder", "folder/b", "c", "missing/d", "a/e"];

fn folder(path: impl Into<PathBuf>) -> (PathBuf, Left) {
    (path.into(), Left::Folder)
}

fn in_memory(seed: u64) -> VolatileDisk {
    let mut rng = Rng::with_seed(seed);
    VolatileDisk::new(&Image::from([folder("/r"), folder("/r/folder")]), move |bound| rng.u64(..bound))
}

/// A disk with the files that are open on it.
struct Side {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    open: Vec<Option<File>>,
}

/// What can be compared of an answer: values, and of errors their kind.
fn answer<T>(given: io::Result<T>, shown: impl FnOnce(T) -> String) -> String {
    given.map_or_else(|error| format!("{:?}", error.kind()), shown)
}

fn shown(facts: Facts) -> String {
    // The size of a folder is the file system's own matter.
    let len = if facts.is_dir { 0 } else { facts.len };
    format!("{len} {} {} {}", facts.is_dir, facts.is_file, facts.modified.is_some() || facts.is_dir)
}

impl Side {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.disk.facts(path).is_ok_and(|facts| facts.is_dir)
    }

    fn file(&self, at: usize) -> Option<&File> {
        self.open.get(at).and_then(Option::as_ref)
    }

    /// Which of the names are the file that is open here.
    fn named(&self, at: usize) -> String {
        let Some(file) = self.file(at) else { return String::new() };
        let own = file.facts().unwrap().identity;
        let is_it = |name: &&&str| self.disk.facts(&self.path(name)).is_ok_and(|facts| facts.identity == own);
        format!("{:?}", NAMES.iter().filter(is_it).collect::<Vec<_>>())
    }

    fn act(&mut self, rng: &mut Rng) -> String {
        let name = self.path(rng.choice(NAMES).unwrap());
        let at = rng.usize(..3);
        let bytes = vec![rng.u8(..); rng.usize(1..9)];
        match rng.u32(..13) {
            0..3 => {
                let how = rng.choice(HOWS).unwrap();
                if self.is_folder(&name) {
                    return "a folder is not opened".to_owned();
                }
                let opened = self.disk.open(&name, how);
                let said = answer(opened.as_ref().map(|_| ()).map_err(|error| io::Error::from(error.kind())), |()| {
                    "open".to_owned()
                });
                *self.open.get_mut(at).unwrap() = opened.ok().or_else(|| self.open.get_mut(at).unwrap().take());
                said
            }
            3..5 => match self.file(at) {
                Some(file) => {
                    let offset = rng.u64(..12);
                    let mut room = [0; 6];
                    let read = answer(file.read_at(&mut room, offset), |read| format!("{read} {room:?}"));
                    format!("{read} {}", answer(file.facts(), shown))
                }
                None => String::new(),
            },
            5..7 => {
                let offset = rng.u64(..12);
                self.file(at).map_or_else(String::new, |file| answer(file.write_at(&bytes, offset), |()| String::new()))
            }
            7 => self.file(at).map_or_else(String::new, |file| answer(file.sync(), |()| String::new())),
            8 => {
                let len = rng.u64(..16);
                self.file(at).map_or_else(String::new, |file| answer(file.set_len(len), |()| String::new()))
            }
            9 => {
                let to = self.path(rng.choice(NAMES).unwrap());
                if self.is_folder(&name) {
                    return "a folder is not renamed".to_owned();
                }
                answer(self.disk.rename(&name, &to), |()| String::new())
            }
            10 => answer(self.disk.remove(&name), |()| String::new()),
            11 => self.file(at).map_or_else(String::new, |file| answer(file.try_lock(), |free| free.to_string())),
            _ => {
                *self.open.get_mut(at).unwrap() = None;
                answer(self.disk.create_dir_all(&name.join("deeper")), |()| String::new())
            }
        }
    }

    /// All that is seen.
    fn seen(&self) -> Vec<String> {
        let mut seen: Vec<String> = (0..3).map(|at| self.named(at)).collect();
        for name in NAMES {
            let path = self.path(name);
            seen.push(format!("{name}: {}", answer(self.disk.facts(&path), shown)));
            if !self.is_folder(&path) {
                seen.push(answer(self.disk.as_ref().read(&path), |bytes| format!("{bytes:?}")));
            }
            let inside = |paths: Vec<PathBuf>| {
                let names = paths.iter().map(|path| path.strip_prefix(&self.root).unwrap().display().to_string());
                format!("{:?}", names.collect::<Vec<_>>())
            };
            seen.push(answer(self.disk.list(&path), inside));
        }
        seen
    }
}

#[test]
fn it_answers_as_the_disk_of_this_machine_does() {
    let first = std::env::var("KEEPSTEP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = first.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    println!("seeds {first} to {}", first + 299);
    for seed in first..first + 300 {
        // In memory where there is such a place: whether a sync reaches a platter is not compared.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        std::fs::create_dir(place.path().join("folder")).unwrap();
        let real = Side { root: place.path().to_owned(), disk: disk::real(), open: vec![None, None, None] };
        let double = Side { root: PathBuf::from("/r"), disk: Arc::new(in_memory(seed)), open: vec![None, None, None] };
        let mut sides = [real, double];
        let mut rng = Rng::with_seed(seed);
        for step in 0..60 {
            let before = rng.clone();
            let [real, double] = sides.each_mut().map(|side| {
                rng = before.clone();
                side.act(&mut rng)
            });
            assert_eq!(double, real, "seed {seed}, step {step}");
            let [real, double] = sides.each_ref().map(Side::seen);
            assert_eq!(double, real, "seed {seed}, after step {step}");
        }
    }
}

const FILE: &str = "/r/a";

#[test]
fn a_power_loss_takes_what_was_not_synced_whole_or_in_part_and_nothing_else() {
    let (mut lost, mut torn, mut kept) = (0, 0, 0);
    for seed in 0..200 {
        let disk = in_memory(seed);
        let file = disk.open(Path::new(FILE), Open::Create).unwrap();
        file.write_at(b"durable", 0).unwrap();
        file.sync().unwrap();
        if seed % 2 == 0 {
            disk.sync_dir(Path::new("/r")).unwrap();
        }
        file.write_at(b" and not", 7).unwrap();
        match disk.cut_power().get(Path::new(FILE)) {
            None => {
                assert!(seed % 2 == 1, "the name was durable");
                lost += 1;
            }
            Some(Left::Folder) => panic!("it was a file"),
            Some(Left::File(bytes)) => {
                assert!(bytes.starts_with(b"durable"), "{bytes:?}");
                if bytes == b"durable and not" { kept += 1 } else { torn += 1 }
            }
        }
        assert!(disk.facts(Path::new(FILE)).is_err() && file.write_at(b"x", 0).is_err(), "there is no power");
    }
    assert!(lost > 20 && torn > 20 && kept > 20, "{lost} {torn} {kept}");
}

#[test]
fn what_a_refused_sync_left_undone_no_later_sync_makes_durable() {
    let mut losses = 0;
    for seed in 0..100 {
        let disk = in_memory(seed);
        let file = disk.open(Path::new(FILE), Open::Create).unwrap();
        disk.sync_dir(Path::new("/r")).unwrap();
        file.write_at(b"refused", 0).unwrap();
        disk.refuse_next_sync();
        assert!(file.sync().is_err());
        file.sync().unwrap();
        let mut room = [0; 7];
        file.read_exact_at(&mut room, 0).unwrap();
        assert_eq!(&room, b"refused", "it is read as if it were there");
        let left = disk.cut_power();
        losses += u32::from(left.get(Path::new(FILE)) != Some(&Left::File(b"refused".to_vec())));
    }
    assert!(losses > 20, "{losses}");
}

#[test]
fn a_full_disk_takes_a_part_and_a_killed_process_leaves_what_it_wrote_and_no_lock() {
    let disk = in_memory(1);
    let file = disk.open(Path::new(FILE), Open::Create).unwrap();
    assert!(file.try_lock().unwrap());
    disk.set_space(Some(3));
    assert_eq!(file.write_at(b"abcdef", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.set_space(None);
    assert_eq!(file.facts().unwrap().len, 3);
    let other = disk.open(Path::new(FILE), Open::Write).unwrap();
    assert!(!other.try_lock().unwrap());
    disk.kill_after(1);
    file.write_at(b"ABCDEF", 0).unwrap();
    assert!(file.write_at(b"123456", 0).is_err() && disk.was_killed());
    let next = disk.next_process();
    let file = next.open(Path::new(FILE), Open::Write).unwrap();
    assert!(file.try_lock().unwrap(), "a lock ends with its process");
    let mut room = [0; 6];
    file.read_exact_at(&mut room, 0).unwrap();
    assert_eq!(&room, b"123DEF", "the write in which it was killed is there in part");
}

#[test]
fn a_stalled_disk_and_a_bad_sector_are_played_too() {
    let disk = in_memory(2);
    let file = disk.open(Path::new(FILE), Open::Create).unwrap();
    disk.hold_syncs(true);
    std::thread::scope(|scope| {
        let syncs = scope.spawn(|| file.sync());
        while disk.syncs() == 0 {
            std::thread::yield_now();
        }
        assert!(!syncs.is_finished());
        disk.hold_syncs(false);
        syncs.join().unwrap().unwrap();
    });
    disk.refuse_reading(Some(Path::new(FILE)));
    assert!(file.read_at(&mut [0; 1], 0).is_err());
    disk.refuse_reading(None);
    assert_eq!(file.read_at(&mut [0; 1], 0).unwrap(), 0);
}

#[test]
fn a_thread_on_which_it_is_installed_sees_no_other_disk() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("a");
    std::fs::write(&path, "real").unwrap();
    let installed = disk::install(Arc::new(in_memory(3)));
    assert!(!disk::exists(&path));
    disk::replace(Path::new(FILE), b"in memory").unwrap();
    assert_eq!(disk::read_to_string(Path::new(FILE)).unwrap(), "in memory");
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(disk::exists(&path) && !disk::exists(Path::new(FILE)), "it is this thread's alone"));
    });
    drop(installed);
    assert_eq!(disk::read_to_string(&path).unwrap(), "real");
}

#[test]
fn what_is_synced_in_a_folder_that_was_made_is_there_after_a_power_loss() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let data = VolatileDisk::new(&Image::from([folder("/var")]), move |bound| rng.u64(..bound));
        let (deep, disk) = (Path::new("/var/data/pipeline/stream"), Arc::new(data.clone()) as Arc<dyn Disk>);
        disk::make_folder(disk.as_ref(), deep).unwrap();
        let file = disk.open(&deep.join("1.log"), Open::Create).unwrap();
        file.write_at(b"record", 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir(deep).unwrap();
        assert_eq!(data.cut_power().get(&deep.join("1.log")), Some(&Left::File(b"record".to_vec())), "seed {seed}");
    }
}
