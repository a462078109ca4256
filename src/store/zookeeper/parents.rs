//! Which znodes are known to exist, with their ACLs: what a create needs to know of its ancestors.

use super::{Shared, explain};
use crate::store::{StoreError, ZnodeAcl};
use std::collections::HashMap;
use std::sync::Arc;
use zookeeper_client::{Acl, Acls, Client, Error};

/// Known ancestors kept at a time; beyond it everything is forgotten and asked for again (about 200 bytes each).
const KNOWN_MAX: usize = 50_000;

/// Look-ups that are under way together.
const LOOKUPS_TOGETHER: usize = 128;

/// Ancestors that exist, as far as we know. A wrong entry costs one refused multi.
#[derive(Default)]
pub(super) struct Parents {
    known: HashMap<String, Arc<Vec<Acl>>>,
}

impl Parents {
    pub(super) fn insert(&mut self, path: String, acl: Arc<Vec<Acl>>) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(path, acl);
    }

    pub(super) fn get(&self, path: &str) -> Option<Arc<Vec<Acl>>> {
        self.known.get(path).cloned()
    }

    /// Forgets this path's ancestors (one of them is gone).
    pub(super) fn forget_above(&mut self, path: &str) {
        let mut path = path;
        while let Some(parent) = parent_of(path) {
            self.known.remove(parent);
            path = parent;
        }
    }
}

/// The parent's path; `None` for the root.
pub(super) fn parent_of(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() > 1 => Some("/"),
        0 => None,
        end => path.get(..end),
    }
}

/// What a call has found out about ancestors: the ACL of those that exist, `None` of those that do not.
pub(super) type Looked = HashMap<String, Option<Arc<Vec<Acl>>>>;

/// Looks up the ancestors of what is to be created, each once and all of a level together, up to the nearest that
/// exist.
pub(super) async fn look_up(shared: &Shared, client: &Client, paths: &[&str]) -> Result<Looked, StoreError> {
    let mut looked = Looked::new();
    let mut ask: Vec<String> = unknown(shared, &looked, paths.iter().copied());
    while !ask.is_empty() {
        for together in ask.chunks(LOOKUPS_TOGETHER) {
            let answers = together.iter().map(|path| client.get_acl(path));
            for (path, answer) in together.iter().zip(futures::future::join_all(answers).await) {
                let known = match answer {
                    Ok((acls, _)) => {
                        let acls = Arc::new(acls);
                        shared.parents().insert(path.clone(), Arc::clone(&acls));
                        Some(acls)
                    }
                    // It is there, and its ACL may not be read: no ACL to copy.
                    Err(Error::NoAuth) => Some(Arc::default()),
                    Err(Error::NoNode) => None,
                    Err(error) => return Err(explain(shared, &error)),
                };
                looked.insert(path.clone(), known);
            }
        }
        let missing: Vec<String> = ask.into_iter().filter(|path| looked.get(path) == Some(&None)).collect();
        ask = unknown(shared, &looked, missing.iter().map(String::as_str));
    }
    Ok(looked)
}

/// The distinct parents of these paths about which nothing is known.
fn unknown<'a>(shared: &Shared, looked: &Looked, paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let known = shared.parents();
    let mut ask: Vec<String> = paths
        .filter_map(parent_of)
        .filter(|parent| !looked.contains_key(*parent) && known.get(parent).is_none())
        .map(ToOwned::to_owned)
        .collect();
    ask.sort_unstable();
    ask.dedup();
    ask
}

/// Whether an ACL was shown with its digests masked (`user:x`), as it is without ADMIN (ZOOKEEPER-1392): copied as it
/// is shown, it would lock everybody out.
fn is_masked(acls: &[Acl]) -> bool {
    acls.iter().any(|acl| acl.scheme() == "digest" && acl.id().ends_with(":x"))
}

/// The ACL of what is created below the nearest existing ancestor (`None` if it may not be seen whole, so that it
/// cannot be copied), and the ancestors that are missing, top first.
pub(super) fn above(
    shared: &Shared,
    looked: &Looked,
    path: &str,
    acl: ZnodeAcl,
) -> (Option<Arc<Vec<Acl>>>, Vec<String>) {
    let mut missing = Vec::new();
    let mut at = path;
    let nearest = loop {
        let Some(parent) = parent_of(at) else { break Arc::new(open()) };
        if let Some(known) = shared.parents().get(parent) {
            break known;
        }
        match looked.get(parent) {
            Some(Some(acls)) if acls.is_empty() && acl == ZnodeAcl::Parent => {
                missing.reverse();
                return (None, missing);
            }
            Some(Some(acls)) => break Arc::clone(acls),
            Some(None) | None => missing.push(parent.to_owned()),
        }
        at = parent;
    };
    missing.reverse();
    let acl = match acl {
        ZnodeAcl::Parent if is_masked(&nearest) => return (None, missing),
        ZnodeAcl::Parent => nearest,
        ZnodeAcl::Open => Arc::new(open()),
        // Without a login the server refuses it (InvalidAcl), and the pair's quarantine says so.
        ZnodeAcl::Creator => Arc::new(creator()),
    };
    (Some(acl), missing)
}

pub(super) fn open() -> Vec<Acl> {
    Acls::anyone_all().to_vec()
}

pub(super) fn creator() -> Vec<Acl> {
    Acls::creator_all().to_vec()
}
