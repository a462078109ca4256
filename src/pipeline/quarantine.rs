//! Pairs that could not be brought in step, and why; kept in a file so that they can be listed without a worker. What an
//! operator dropped is kept in another beside it, so that a restart stays silent too. Both files are the owner's: workers that
//! share the folder and do not own the pipeline write neither, and each owner begins with what the one before it dropped.

use super::control::Quarantined;
use super::retry::Pauses;
use crate::change::brief;
use crate::env::{self, Instant, Map, lock};
use crate::telemetry::LogThrottle;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Pairs that are listed at most. More are counted; each comparison finds them again.
pub const LISTED_MAX: usize = 10_000;

/// A pair that is listed.
#[derive(Debug)]
struct Listed {
    route: usize,
    pair: Quarantined,
    /// The comparison during or after which it was last met.
    met: u64,
}

/// Reason and detail of each.
type DroppedPairs = Map<Box<[u8]>, (String, String)>;

#[derive(Debug, Default)]
struct Inner {
    pairs: Map<Box<[u8]>, Listed>,
    /// Pairs beyond the bound, with their routes, and as [`Listed::met`].
    unlisted: Map<Box<[u8]>, (usize, u64)>,
    /// Comparisons that have begun.
    comparisons: u64,
    /// It was said that there are more than are listed.
    is_full: bool,
    /// Pairs that an operator dropped: not reported again for the same reason and detail. At most [`LISTED_MAX`].
    dropped: DroppedPairs,
    /// The files say what is here, or this worker has not owned the pipeline yet.
    is_saved: bool,
    /// After a failure: when the next attempt is due.
    not_before: Option<Instant>,
    pauses: Pauses,
    said: Option<LogThrottle>,
}

/// A pair that was dropped, as its file has it.
#[derive(Debug, Serialize, Deserialize)]
struct Dropped {
    #[serde(with = "serde_bytes")]
    name: Vec<u8>,
    reason: String,
    detail: String,
}

/// See the module.
#[derive(Debug)]
pub struct Quarantine {
    inner: Mutex<Inner>,
    /// One writes the files at a time.
    writing: Mutex<()>,
    file: PathBuf,
    dropped_file: PathBuf,
}

impl Quarantine {
    /// An empty list for this file. Neither file is read or written before [`Quarantine::begin_ownership`].
    #[must_use]
    pub fn new(file: &Path) -> Quarantine {
        let dropped_file = file.with_extension("dropped.json");
        let inner = Inner { is_saved: true, ..Inner::default() };
        Quarantine { inner: Mutex::new(inner), writing: Mutex::new(()), file: file.to_owned(), dropped_file }
    }

    /// This worker owns the pipeline from now on, and no other one writes the files: reads what was dropped.
    pub async fn begin_ownership(self: &Arc<Self>) {
        let this = Arc::clone(self);
        if let Err(error) = env::tasks::blocking(move || this.begin_ownership_here()).await {
            tracing::error!(%error, "what was dropped from the quarantine was not read");
        }
    }

    fn begin_ownership_here(&self) {
        let read = dropped(&self.dropped_file);
        let mut inner = self.inner();
        // What could not be saved at the end of the last ownership of this worker is newer than the file.
        if let Some(dropped) = read.filter(|_| inner.is_saved) {
            inner.dropped = dropped;
        }
        // The list in the file is that of an earlier owner.
        inner.is_saved = false;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Puts a pair in; whether it was not listed before, which is for the caller to say. One that is there keeps its time, and its
    /// place if the reason is the same.
    pub fn put(&self, name: &[u8], route: usize, pair: Quarantined) -> bool {
        let pair = Quarantined { detail: brief::text(&pair.detail).into_owned(), ..pair };
        let mut inner = self.inner();
        if inner.dropped.get(name).is_some_and(|(reason, detail)| *reason == pair.reason && *detail == pair.detail) {
            return false;
        }
        let now = inner.comparisons;
        if let Some(known) = inner.pairs.get_mut(name) {
            known.met = now;
            if known.pair.reason != pair.reason || known.pair.detail != pair.detail {
                known.pair = Quarantined { since_ms: known.pair.since_ms, ..pair };
                inner.is_saved = false;
            }
            return false;
        }
        if inner.pairs.len() >= LISTED_MAX {
            let is_new = inner.unlisted.insert(name.into(), (route, now)).is_none();
            if is_new && !std::mem::replace(&mut inner.is_full, true) {
                let route = pair.route;
                tracing::warn!(
                    route,
                    "more than {LISTED_MAX} pairs are quarantined: further ones are counted, and neither listed nor told"
                );
            }
            return false;
        }
        inner.unlisted.remove(name);
        inner.pairs.insert(name.into(), Listed { route, pair, met: now });
        inner.is_saved = false;
        true
    }

    /// Takes a pair out, if it is in.
    pub fn remove(&self, name: &[u8]) {
        let mut inner = self.inner();
        if !inner.dropped.is_empty() && inner.dropped.remove(name).is_some() {
            inner.is_saved = false;
        }
        if !inner.pairs.is_empty() && inner.pairs.remove(name).is_some() {
            inner.is_saved = false;
            tracing::info!(pair = shortened(name), "a pair has left the quarantine");
        }
        if !inner.unlisted.is_empty() {
            inner.unlisted.remove(name);
        }
        if inner.unlisted.is_empty() && inner.pairs.len() < LISTED_MAX / 2 {
            inner.is_full = false;
        }
    }

    /// A comparison begins.
    pub fn begin_comparison(&self) {
        self.inner().comparisons += 1;
    }

    /// Pairs that a comparison of everything, which has ended, did not meet: neither side has them any more, as far as it saw, so what
    /// was the matter with them is over. `was_met`: it met this one, or does not look at its route.
    #[must_use]
    pub fn not_met(&self, was_met: impl Fn(&[u8], usize) -> bool) -> Vec<(Box<[u8]>, usize)> {
        let inner = self.inner();
        let now = inner.comparisons;
        let listed = inner.pairs.iter().map(|(name, listed)| (name, listed.route, listed.met));
        let unlisted = inner.unlisted.iter().map(|(name, (route, met))| (name, *route, *met));
        let old = listed.chain(unlisted).filter(|(name, route, met)| *met < now && !was_met(name, *route));
        old.map(|(name, route, _)| (name.clone(), route)).collect()
    }

    /// Takes a pair out and is silent about it while the same is the matter.
    pub fn drop_pair(&self, name: &[u8]) {
        let mut inner = self.inner();
        if let Some(Listed { pair, .. }) = inner.pairs.remove(name) {
            if inner.dropped.len() >= LISTED_MAX {
                inner.dropped.clear();
            }
            inner.dropped.insert(name.into(), (pair.reason, pair.detail));
            inner.is_saved = false;
        }
    }

    /// Speaks about a dropped pair again.
    pub fn forget_drop(&self, name: &[u8]) {
        let mut inner = self.inner();
        if inner.dropped.remove(name).is_some() {
            inner.is_saved = false;
        }
    }

    /// Whether the last look at this pair left its sides as they were: then its base may be older than what was looked at.
    #[must_use]
    pub fn holds(&self, name: &[u8]) -> bool {
        let inner = self.inner();
        inner.pairs.contains_key(name) || inner.dropped.contains_key(name) || inner.unlisted.contains_key(name)
    }

    /// Pairs of this route.
    #[must_use]
    pub fn count(&self, route: usize) -> u64 {
        let inner = self.inner();
        let listed = inner.pairs.values().filter(|listed| listed.route == route).count();
        let unlisted = inner.unlisted.values().filter(|(of, _)| *of == route).count();
        u64::try_from(listed + unlisted).unwrap_or(u64::MAX)
    }

    /// How many pairs of this route lack a permission, and the first of them: their path, or their key, and the detail.
    #[must_use]
    pub fn without_permission(&self, route: usize, limit: usize) -> (u64, Vec<(String, String)>) {
        let inner = self.inner();
        let pairs =
            inner.pairs.values().filter(|listed| listed.route == route && listed.pair.reason == "no_permission");
        let name = |pair: &Quarantined| {
            let key = pair.redis.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
            pair.zookeeper.clone().or(key).unwrap_or_default()
        };
        let named = pairs.clone().take(limit).map(|listed| (name(&listed.pair), listed.pair.detail.clone()));
        (u64::try_from(pairs.count()).unwrap_or(u64::MAX), named.collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.inner();
        inner.pairs.is_empty() && inner.unlisted.is_empty()
    }

    /// All listed pairs, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Quarantined> {
        let mut pairs: Vec<Quarantined> = self.inner().pairs.values().map(|listed| listed.pair.clone()).collect();
        pairs.sort_by(|a, b| (a.since_ms, &a.redis, &a.zookeeper).cmp(&(b.since_ms, &b.redis, &b.zookeeper)));
        pairs
    }

    /// Names and routes of the listed pairs that `wanted` accepts.
    #[must_use]
    pub fn names(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<(Box<[u8]>, usize)> {
        let inner = self.inner();
        inner.pairs.iter().filter(|(name, _)| wanted(name)).map(|(name, listed)| (name.clone(), listed.route)).collect()
    }

    /// Writes the files anew if the list has changed, on a thread that may wait for a disk; after a failure not before a pause.
    pub async fn save_if_due(self: &Arc<Self>) {
        let is_due = {
            let inner = self.inner();
            !inner.is_saved && inner.not_before.is_none_or(|not_before| Instant::now() >= not_before)
        };
        if is_due {
            self.save().await;
        }
    }

    /// [`Quarantine::save_if_due`], and after a failure at once.
    pub async fn save(self: &Arc<Self>) {
        let this = Arc::clone(self);
        if let Err(error) = env::tasks::blocking(move || this.save_here()).await {
            tracing::error!(%error, "the quarantine list was not saved");
        }
    }

    /// Writes to a temporary file first, so that a reader sees all of it.
    fn save_here(&self) {
        let _one = lock(&self.writing);
        if std::mem::replace(&mut self.inner().is_saved, true) {
            return;
        }
        let written = self.write().and_then(|()| self.write_dropped());
        let mut inner = self.inner();
        match written {
            Ok(()) => {
                inner.pauses.reset();
                (inner.not_before, inner.said) = (None, None);
            }
            Err(error) => {
                inner.is_saved = false;
                inner.not_before = Some(Instant::now() + inner.pauses.pause());
                if inner.said.get_or_insert_with(LogThrottle::new).is_due(&error.to_string()) {
                    tracing::warn!(file = %self.file.display(), %error, "the quarantine list could not be saved; trying again");
                }
            }
        }
    }

    fn write(&self) -> std::io::Result<()> {
        env::disk::replace(&self.file, &lines(self.list())?)
    }

    fn write_dropped(&self) -> std::io::Result<()> {
        let rows: Vec<Dropped> = self
            .inner()
            .dropped
            .iter()
            .map(|(name, (reason, detail))| Dropped {
                name: name.to_vec(),
                reason: reason.clone(),
                detail: detail.clone(),
            })
            .collect();
        if rows.is_empty() && !env::disk::exists(&self.dropped_file) {
            return Ok(());
        }
        env::disk::replace(&self.dropped_file, &lines(rows)?)
    }
}

/// One line of JSON for each; as many as are listed, so some megabytes at most.
fn lines<T: serde::Serialize>(rows: impl IntoIterator<Item = T>) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, &row)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Bytes of a name that a line of the log shows.
const NAME_SHOWN_MAX: usize = 200;

/// A name as a line of the log shows it.
pub(super) fn shortened(name: &[u8]) -> String {
    match name.get(..NAME_SHOWN_MAX) {
        Some(start) if name.len() > NAME_SHOWN_MAX => {
            format!("{}… ({} bytes)", String::from_utf8_lossy(start), name.len())
        }
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}

/// What the file says was dropped; `None` if it cannot be read. A line that cannot be read means a word too many, never one too few.
fn dropped(file: &Path) -> Option<DroppedPairs> {
    let read = env::disk::read_if_any(file);
    let text = read.inspect_err(|error| tracing::warn!(file = %file.display(), %error, "cannot read what was dropped"));
    let text = text.ok()?;
    let lines = text.split(|byte| *byte == b'\n').take(LISTED_MAX);
    let rows = lines.filter_map(|line| serde_json::from_slice::<Dropped>(line).ok());
    Some(rows.map(|row| (row.name.into(), (row.reason, row.detail))).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;

    fn pair(detail: &str) -> Quarantined {
        Quarantined {
            route: "r".to_owned(),
            zookeeper: None,
            redis: Some(b"a".to_vec()),
            reason: "wrong_type".to_owned(),
            detail: detail.to_owned(),
            since_ms: 1,
        }
    }

    #[test]
    fn what_was_dropped_stays_silent_after_a_restart_until_it_is_another_matter() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quarantine.json");
        let before = Quarantine::new(&file);
        before.put(b"a", 0, pair("a list"));
        before.drop_pair(b"a");
        before.save_here();
        let after = Quarantine::new(&file);
        after.begin_ownership_here();
        after.put(b"a", 0, pair("a list"));
        assert!(after.is_empty());
        after.put(b"a", 0, pair("a hash"));
        assert_eq!(after.list().len(), 1);
    }

    #[test]
    fn a_worker_that_owns_nothing_writes_neither_file_and_as_the_owner_has_what_was_dropped_since_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quarantine.json");
        let (owner, standby) = (Quarantine::new(&file), Quarantine::new(&file));
        owner.begin_ownership_here();
        owner.put(b"a", 0, pair("a list"));
        owner.put(b"b", 0, pair("a set"));
        owner.drop_pair(b"b");
        owner.save_here();
        let files = || [&file, &owner.dropped_file].map(|file| std::fs::read_to_string(file).unwrap());
        let before = files();
        assert!(before.iter().all(|text| !text.is_empty()));
        standby.save_here();
        assert_eq!(files(), before);
        standby.begin_ownership_here();
        standby.put(b"b", 0, pair("a set"));
        assert!(standby.is_empty());
        standby.save_here();
        assert_eq!(files(), ["", before[1].as_str()]);
    }

    #[test]
    fn what_could_not_be_saved_before_an_ownership_ended_is_there_in_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("gone");
        let quarantine = Quarantine::new(&place.join("quarantine.json"));
        quarantine.begin_ownership_here();
        quarantine.put(b"a", 0, pair("a list"));
        quarantine.drop_pair(b"a");
        quarantine.save_here();
        quarantine.begin_ownership_here();
        quarantine.put(b"a", 0, pair("a list"));
        assert!(quarantine.is_empty());
    }

    #[test]
    fn a_dropped_pair_that_heals_is_told_again_when_it_falls_ill_again() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(&folder.path().join("quarantine.json"));
        quarantine.put(b"a", 0, pair("a list"));
        quarantine.drop_pair(b"a");
        quarantine.remove(b"a");
        quarantine.put(b"a", 0, pair("a list"));
        assert_eq!(quarantine.list().len(), 1);
    }

    #[test]
    fn beyond_the_bound_pairs_are_counted_once_and_none_of_them_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(&folder.path().join("quarantine.json"));
        let name = |number: usize| number.to_be_bytes();
        let all = LISTED_MAX + 50;
        for _ in 0..2 {
            quarantine.begin_comparison();
            for number in 0..all {
                quarantine.put(&name(number), 0, pair("a list"));
            }
            assert_eq!((quarantine.count(0), quarantine.list().len()), (all as u64, LISTED_MAX));
        }
        assert!((0..all).all(|number| quarantine.holds(&name(number))));
        // A place is free: one that was counted is listed, and counted once.
        quarantine.remove(&name(0));
        quarantine.put(&name(all - 1), 0, pair("a list"));
        assert_eq!((quarantine.count(0), quarantine.list().len()), (all as u64 - 1, LISTED_MAX));
        // The next comparison meets a few only, and one pair falls ill while it runs.
        quarantine.begin_comparison();
        for number in 1..10 {
            quarantine.put(&name(number), 0, pair("a list"));
        }
        quarantine.put(b"new", 0, pair("a list"));
        let gone = quarantine.not_met(|name, _| name == 10_usize.to_be_bytes());
        assert_eq!(gone.len(), all - 11);
        gone.iter().for_each(|(name, _)| quarantine.remove(name));
        assert_eq!(quarantine.count(0), 11);
        (0..all).for_each(|number| quarantine.remove(&name(number)));
        quarantine.remove(b"new");
        assert!(quarantine.is_empty());
    }

    #[test]
    fn a_disk_that_refuses_is_told_once_and_tried_after_a_pause() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("gone");
        let quarantine = Arc::new(Quarantine::new(&place.join("quarantine.json")));
        quarantine.put(b"a", 0, pair("a list"));
        quarantine.save_here();
        let not_before = quarantine.inner().not_before;
        assert!(not_before.is_some(), "it is not tried at each look");
        assert!(quarantine.inner().said.is_some());
        std::fs::create_dir(&place).unwrap();
        quarantine.save_here();
        assert!(place.join("quarantine.json").exists() && quarantine.inner().not_before.is_none());
    }
}
