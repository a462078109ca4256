//! Pairs that could not be brought in step, and why; kept in a file so that they can be listed without a worker. What an
//! operator dropped is kept in another beside it, so that a restart stays silent too.

use super::control::Quarantined;
use crate::change::{KeyedHash, brief};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pairs that are listed at most. More are counted; each comparison finds them again.
pub const LISTED_MAX: usize = 10_000;

#[derive(Debug, Default)]
struct Inner {
    pairs: HashMap<Box<[u8]>, (usize, Quarantined)>,
    /// Pairs beyond the bound, by route.
    unlisted: HashMap<usize, std::collections::HashSet<KeyedHash>>,
    /// Pairs that an operator wants no more word of, with what was the matter; at most [`LISTED_MAX`].
    dropped: HashMap<Box<[u8]>, (String, String)>,
    is_saved: bool,
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
    file: PathBuf,
    dropped_file: PathBuf,
}

impl Quarantine {
    /// An empty list that is saved to this file; what was dropped is read from the one beside it.
    #[must_use]
    pub fn new(file: &Path) -> Quarantine {
        let dropped_file = file.with_extension("dropped.json");
        let dropped = dropped(&dropped_file);
        let inner = Inner { is_saved: false, dropped, ..Inner::default() };
        Quarantine { inner: Mutex::new(inner), file: file.to_owned(), dropped_file }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a pair in; whether it was not in before, which is for the caller to say. One that is there keeps its time, and its
    /// place if the reason is the same.
    pub fn put(&self, name: &[u8], route: usize, pair: Quarantined) -> bool {
        let pair = Quarantined { detail: brief::text(&pair.detail).into_owned(), ..pair };
        let mut inner = self.inner();
        if inner.dropped.get(name).is_some_and(|(reason, detail)| *reason == pair.reason && *detail == pair.detail) {
            return false;
        }
        if let Some((_, known)) = inner.pairs.get_mut(name) {
            if known.reason != pair.reason || known.detail != pair.detail {
                *known = Quarantined { since_ms: known.since_ms, ..pair };
                inner.is_saved = false;
            }
            return false;
        }
        if inner.pairs.len() >= LISTED_MAX {
            inner.unlisted.entry(route).or_default().insert(KeyedHash::of(name));
            return true;
        }
        inner.pairs.insert(name.into(), (route, pair));
        inner.is_saved = false;
        true
    }

    /// Takes a pair out, if it is in.
    pub fn remove(&self, name: &[u8]) {
        let mut inner = self.inner();
        if !inner.dropped.is_empty() && inner.dropped.remove(name).is_some() {
            inner.is_saved = false;
        }
        if inner.pairs.is_empty() {
            return;
        }
        if inner.pairs.remove(name).is_some() {
            inner.is_saved = false;
            tracing::info!(pair = shortened(name), "a pair has left the quarantine");
        } else if !inner.unlisted.is_empty() {
            let hash = KeyedHash::of(name);
            inner.unlisted.values_mut().for_each(|names| {
                names.remove(&hash);
            });
        }
    }

    /// Takes a pair out and is silent about it while the same is the matter.
    pub fn drop_pair(&self, name: &[u8]) {
        let mut inner = self.inner();
        if let Some((_, pair)) = inner.pairs.remove(name) {
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
        let is_unlisted = || {
            let hash = KeyedHash::of(name);
            inner.unlisted.values().any(|names| names.contains(&hash))
        };
        inner.pairs.contains_key(name) || inner.dropped.contains_key(name) || is_unlisted()
    }

    /// Pairs of this route.
    #[must_use]
    pub fn count(&self, route: usize) -> u64 {
        let inner = self.inner();
        let listed = inner.pairs.values().filter(|(of, _)| *of == route).count();
        let unlisted = inner.unlisted.get(&route).map_or(0, std::collections::HashSet::len);
        u64::try_from(listed + unlisted).unwrap_or(u64::MAX)
    }

    /// How many pairs of this route lack a permission, and the first of them: their path, or their key, and the detail.
    #[must_use]
    pub fn without_permission(&self, route: usize, limit: usize) -> (u64, Vec<(String, String)>) {
        let inner = self.inner();
        let pairs = inner.pairs.values().filter(|(of, pair)| *of == route && pair.reason == "no_permission");
        let name = |pair: &Quarantined| {
            let key = pair.redis.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
            pair.zookeeper.clone().or(key).unwrap_or_default()
        };
        let named = pairs.clone().take(limit).map(|(_, pair)| (name(pair), pair.detail.clone()));
        (u64::try_from(pairs.count()).unwrap_or(u64::MAX), named.collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner().pairs.is_empty()
    }

    /// All listed pairs, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Quarantined> {
        let mut pairs: Vec<Quarantined> = self.inner().pairs.values().map(|(_, pair)| pair.clone()).collect();
        pairs.sort_by(|a, b| (a.since_ms, &a.redis, &a.zookeeper).cmp(&(b.since_ms, &b.redis, &b.zookeeper)));
        pairs
    }

    /// Names and routes of the listed pairs that `wanted` accepts.
    #[must_use]
    pub fn names(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Vec<(Box<[u8]>, usize)> {
        let inner = self.inner();
        inner.pairs.iter().filter(|(name, _)| wanted(name)).map(|(name, (route, _))| (name.clone(), *route)).collect()
    }

    /// Writes the file anew if the list has changed: to a temporary file first, so that a reader sees all of it.
    pub fn save(&self) {
        if std::mem::replace(&mut self.inner().is_saved, true) {
            return;
        }
        if let Err(error) = self.write().and_then(|()| self.write_dropped()) {
            tracing::warn!(file = %self.file.display(), %error, "the quarantine list could not be saved");
            self.inner().is_saved = false;
        }
    }

    fn write(&self) -> std::io::Result<()> {
        let temporary = self.file.with_extension("new");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&temporary)?);
        for pair in self.list() {
            serde_json::to_writer(&mut file, &pair)?;
            file.write_all(b"\n")?;
        }
        file.into_inner()?.sync_all()?;
        std::fs::rename(temporary, &self.file)
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
        if rows.is_empty() && !self.dropped_file.exists() {
            return Ok(());
        }
        let temporary = self.dropped_file.with_extension("new");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&temporary)?);
        for row in rows {
            serde_json::to_writer(&mut file, &row)?;
            file.write_all(b"\n")?;
        }
        file.into_inner()?.sync_all()?;
        std::fs::rename(temporary, &self.dropped_file)
    }
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

/// What the file says was dropped. One that cannot be read means a word too many, never one too few.
fn dropped(file: &Path) -> HashMap<Box<[u8]>, (String, String)> {
    let Ok(file) = std::fs::File::open(file) else { return HashMap::new() };
    let lines = std::io::BufReader::new(file).lines().map_while(Result::ok).take(LISTED_MAX);
    let rows = lines.filter_map(|line| serde_json::from_str::<Dropped>(&line).ok());
    rows.map(|row| (row.name.into(), (row.reason, row.detail))).collect()
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
        before.save();
        let after = Quarantine::new(&file);
        after.put(b"a", 0, pair("a list"));
        assert!(after.is_empty());
        after.put(b"a", 0, pair("a hash"));
        assert_eq!(after.list().len(), 1);
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
}
