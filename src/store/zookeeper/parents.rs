//! Which znodes are known to exist, with their ACLs: what a create needs to know of its ancestors.
//!
//! A znode's ACL may be changed at any time without an event. So what is known of an ancestor holds
//! for [`FRESH`]: a user whose right was taken away may be given it on new znodes for so long, and
//! not longer.

use super::acl::{CREATOR, OPEN, is_masked};
use super::ancestors::{Ancestors, unknown};
use super::fault::explain;
use super::place::Place;
use super::session::{Acl, Error, Session};

use crate::env::{Instant, Map, lock};
use crate::store::request::split;
use crate::store::{StoreError, ZnodeAcl};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes of the paths of known ancestors; beyond it everything is forgotten and asked for again.
const KNOWN_BYTES: usize = 8 << 20;

/// What a known ancestor takes besides its path.
const ENTRY_BYTES: usize = 100;

/// How long the ACL of an ancestor is taken as it was read. One look-up a second costs nothing, and
/// batches of a first copy follow each other within milliseconds.
const FRESH: Duration = Duration::from_secs(1);

/// Bytes of look-ups that are under way together.
const LOOKUP_BYTES: usize = 1 << 20;

/// Requests of a look-up that are under way together.
const LOOKUPS: usize = 128;

/// Ancestors that exist, as far as we know. A wrong entry costs one refused multi.
#[derive(Default)]
pub(super) struct Parents(Mutex<Known>);

#[derive(Default)]
struct Known {
    known: Map<String, (Arc<Vec<Acl>>, Instant)>,
    bytes: usize,
}

impl Parents {
    pub(super) fn insert(&self, path: &str, acl: Arc<Vec<Acl>>) {
        lock(&self.0).insert(path, acl);
    }

    /// Forgets this path's ancestors (one of them is gone).
    pub(super) fn forget_above(&self, path: &str) {
        let mut known = lock(&self.0);
        for (_, ancestor) in Ancestors::of(path).nearest_first() {
            known.forget(ancestor);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *lock(&self.0) = Known::default();
    }
}

impl Known {
    fn insert(&mut self, path: &str, acl: Arc<Vec<Acl>>) {
        let now = Instant::now();
        if let Some(known) = self.known.get_mut(path) {
            *known = (acl, now);
            return;
        }
        self.bytes += path.len() + ENTRY_BYTES;
        if self.bytes > KNOWN_BYTES {
            self.known.clear();
            self.bytes = path.len() + ENTRY_BYTES;
        }
        self.known.insert(path.to_owned(), (acl, now));
    }

    fn get(&self, path: &str) -> Option<Arc<Vec<Acl>>> {
        self.known.get(path).filter(|(_, at)| at.elapsed() < FRESH).map(|(acl, _)| Arc::clone(acl))
    }

    fn forget(&mut self, path: &str) {
        if self.known.remove(path).is_some() {
            self.bytes -= path.len() + ENTRY_BYTES;
        }
    }
}

/// What the create of a znode needs to know of what is above it.
pub(super) struct Creation {
    /// Its ACL, and that of its missing ancestors; `None` if it may not be seen whole, so that it
    /// cannot be copied.
    pub(super) acl: Option<Arc<Vec<Acl>>>,
    /// The bytes of the paths of its missing ancestors, top first.
    pub(super) missing: Vec<usize>,
}

/// Looks up the ancestors of what is to be created, up to the nearest that exist: those of all
/// together, in some round trips.
pub(super) async fn look_up(
    place: &Place,
    parents: &Parents,
    session: &dyn Session,
    creates: &[(&str, ZnodeAcl)],
) -> Result<Vec<Creation>, StoreError> {
    let mut all: Vec<Ancestors<'_>> = creates.iter().map(|(path, _)| Ancestors::of(path)).collect();
    let mut found: Map<&str, Option<Arc<Vec<Acl>>>> = Map::default();
    {
        let known = lock(&parents.0);
        for ancestors in &mut all {
            let nearest = ancestors.nearest_first().find_map(|(nth, path)| Some((nth, path, known.get(path)?)));
            if let Some((nth, path, acl)) = nearest {
                ancestors.note(nth, true);
                found.insert(path, Some(acl));
            }
        }
    }
    loop {
        let ask = unknown(all.iter_mut(), &found);
        if ask.is_empty() {
            break;
        }
        for together in split(&ask, LOOKUPS, LOOKUP_BYTES, |path| path.len()) {
            let answers = together.iter().map(|path| session.acl(path));
            for (path, answer) in together.iter().zip(futures::future::join_all(answers).await) {
                let acl = match answer {
                    Ok(acl) => Some(Arc::new(acl)),
                    // It is there, and its ACL may not be read: no ACL to copy.
                    Err(Error::NoAuth) => Some(Arc::default()),
                    Err(Error::NoNode) => None,
                    Err(error) => return Err(explain(place, &error)),
                };
                match &acl {
                    Some(acl) if !acl.is_empty() => parents.insert(path, Arc::clone(acl)),
                    _ => lock(&parents.0).forget(path),
                }
                found.insert(path, acl);
            }
        }
    }
    let creations = all.iter().zip(creates).map(|(ancestors, (_, acl))| {
        let nearest = ancestors.nearest().and_then(|path| found.get(path).cloned().flatten());
        Creation { acl: given(*acl, nearest), missing: ancestors.missing() }
    });
    Ok(creations.collect())
}

/// The ACL of what is created below an ancestor with this one.
fn given(acl: ZnodeAcl, nearest: Option<Arc<Vec<Acl>>>) -> Option<Arc<Vec<Acl>>> {
    match (acl, nearest) {
        (ZnodeAcl::Parent, Some(nearest)) if nearest.is_empty() || is_masked(&nearest) => None,
        (ZnodeAcl::Parent, Some(nearest)) => Some(nearest),
        // Without a login the server refuses it (InvalidAcl), which the pair's quarantine reports.
        (ZnodeAcl::Creator, _) => Some(Arc::new(CREATOR.to_vec())),
        (ZnodeAcl::Open, _) | (ZnodeAcl::Parent, None) => Some(Arc::new(OPEN.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of what is known, which are those that are counted.
    fn counted(parents: &Parents) -> usize {
        let known = lock(&parents.0);
        let bytes = known.known.keys().map(|path| path.len() + ENTRY_BYTES).sum();
        assert_eq!(known.bytes, bytes);
        bytes
    }

    #[test]
    fn what_is_known_of_ancestors_is_bounded_by_the_bytes_of_their_paths() {
        let parents = Parents::default();
        let acl = Arc::new(OPEN.to_vec());
        for number in 0..200 {
            parents.insert(&format!("/{number}/{}", "x".repeat(100_000)), Arc::clone(&acl));
            parents.insert("/a", Arc::clone(&acl));
            assert!(counted(&parents) <= KNOWN_BYTES);
        }
        parents.forget_above("/a/b/c");
        assert!(lock(&parents.0).get("/a").is_none());
        counted(&parents);
    }
}
