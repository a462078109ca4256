//! Which znodes are known to exist, with their ACLs: what a create needs to know of its ancestors.

use super::{Shared, explain};
use crate::store::{StoreError, ZnodeAcl};
use std::collections::HashMap;
use std::sync::Arc;
use zookeeper_client::{Acl, Acls, Client, Error};

/// Known ancestors kept at a time; beyond it everything is forgotten and asked for again (about 200 bytes each).
const KNOWN_MAX: usize = 50_000;

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

/// Whether an ACL was shown with its digests masked (`user:x`), as it is without ADMIN (ZOOKEEPER-1392): copied as it
/// is shown, it would lock everybody out.
fn is_masked(acls: &[Acl]) -> bool {
    acls.iter().any(|acl| acl.scheme() == "digest" && acl.id().ends_with(":x"))
}

/// The ACL of what is created below the nearest existing ancestor (`None` if it may not be seen whole, so that it
/// cannot be copied), and the ancestors that are missing, top first.
pub(super) async fn above(
    shared: &Shared,
    client: &Client,
    path: &str,
    acl: ZnodeAcl,
) -> Result<(Option<Arc<Vec<Acl>>>, Vec<String>), StoreError> {
    let mut missing = Vec::new();
    let mut at = path;
    let nearest = loop {
        let Some(parent) = parent_of(at) else { break Arc::new(open()) };
        if let Some(known) = shared.parents().get(parent) {
            break known;
        }
        match client.get_acl(parent).await {
            Ok((acls, _)) => {
                let acls = Arc::new(acls);
                shared.parents().insert(parent.to_owned(), Arc::clone(&acls));
                break acls;
            }
            // It is there, and its ACL may not be read at all.
            Err(Error::NoAuth) if acl == ZnodeAcl::Parent => {
                missing.reverse();
                return Ok((None, missing));
            }
            Err(Error::NoAuth) => break Arc::new(Vec::new()),
            Err(Error::NoNode) => missing.push(parent.to_owned()),
            Err(error) => return Err(explain(shared, &error)),
        }
        at = parent;
    };
    missing.reverse();
    let acl = match acl {
        ZnodeAcl::Parent if is_masked(&nearest) => return Ok((None, missing)),
        ZnodeAcl::Parent => nearest,
        ZnodeAcl::Open => Arc::new(open()),
        // Without a login the server refuses it (InvalidAcl), and the pair's quarantine says so.
        ZnodeAcl::Creator => Arc::new(creator()),
    };
    Ok((Some(acl), missing))
}

pub(super) fn open() -> Vec<Acl> {
    Acls::anyone_all().to_vec()
}

pub(super) fn creator() -> Vec<Acl> {
    Acls::creator_all().to_vec()
}
