//! The znodes of one server, or of the leader: what a transaction does to them, and what a read shows.

use keepstep::store::zookeeper::session::Stat;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One entry of an ACL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Right {
    /// READ 1, WRITE 2, CREATE 4, DELETE 8, ADMIN 16.
    pub permissions: u8,
    /// `world`, `digest`, `auth`.
    pub scheme: String,
    /// `anyone`, `user:hash`, nothing.
    pub id: String,
}

impl Right {
    /// Everybody, everything.
    #[must_use]
    pub fn open() -> Right {
        Right { permissions: 31, scheme: "world".to_owned(), id: "anyone".to_owned() }
    }
}

/// A znode, without the names of its children.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Znode {
    pub data: Arc<[u8]>,
    pub acl: Arc<[Right]>,
    /// The session of an ephemeral znode, else 0.
    pub owner: i64,
    pub czxid: i64,
    pub mzxid: i64,
    pub pzxid: i64,
    pub ctime_ms: i64,
    pub mtime_ms: i64,
    pub version: i32,
    pub aversion: i32,
    /// So many children were ever created: the next sequence number. Clients are shown twice that less the children that are there.
    pub creates: i32,
}

/// What a transaction does to one znode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    Create { path: String, data: Arc<[u8]>, acl: Arc<[Right]>, owner: i64 },
    Set { path: String, data: Arc<[u8]>, version: i32 },
    SetAcl { path: String, acl: Arc<[Right]>, aversion: i32 },
    Delete { path: String },
}

impl Change {
    /// The znode.
    #[must_use]
    pub fn path(&self) -> &str {
        let (Change::Create { path, .. }
        | Change::Set { path, .. }
        | Change::SetAcl { path, .. }
        | Change::Delete { path }) = self;
        path
    }
}

/// The znode and its parent as they were before a change.
pub struct Before([(String, Option<Znode>); 2]);

/// All znodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tree {
    znodes: BTreeMap<String, Znode>,
    children: BTreeMap<String, BTreeSet<String>>,
}

/// The path above, and the name below it.
#[must_use]
pub fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

impl Tree {
    /// That of a new ensemble.
    #[must_use]
    pub fn new() -> Tree {
        let mut tree = Tree { znodes: BTreeMap::new(), children: BTreeMap::new() };
        for path in ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"] {
            let acl = Arc::from([Right::open()]);
            let (data, zero) = (Arc::from([]), 0);
            let znode = Znode {
                data,
                acl,
                owner: 0,
                czxid: zero,
                mzxid: zero,
                pzxid: zero,
                ctime_ms: 0,
                mtime_ms: 0,
                version: 0,
                aversion: 0,
                creates: 0,
            };
            tree.znodes.insert(path.to_owned(), znode);
            if path != "/" {
                let (parent, name) = split(path);
                tree.children.entry(parent.to_owned()).or_default().insert(name.to_owned());
            }
        }
        tree
    }

    /// The znode, if it is there.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Znode> {
        self.znodes.get(path)
    }

    /// How many children it has.
    #[must_use]
    pub fn child_count(&self, path: &str) -> usize {
        self.children.get(path).map_or(0, BTreeSet::len)
    }

    /// Their names.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<String> {
        self.children.get(path).into_iter().flatten().cloned().collect()
    }

    /// The ephemeral znodes of this session.
    #[must_use]
    pub fn ephemerals(&self, session: i64) -> Vec<String> {
        let owned = self.znodes.iter().filter(|(_, znode)| znode.owner == session);
        owned.map(|(path, _)| path.clone()).collect()
    }

    /// As clients are shown it.
    #[must_use]
    pub fn stat(&self, path: &str) -> Option<Stat> {
        let znode = self.get(path)?;
        let num_children = i32::try_from(self.child_count(path)).unwrap_or(i32::MAX);
        Some(Stat {
            czxid: znode.czxid,
            mzxid: znode.mzxid,
            pzxid: znode.pzxid,
            ctime: znode.ctime_ms,
            mtime: znode.mtime_ms,
            version: znode.version,
            cversion: znode.creates.wrapping_mul(2).wrapping_sub(num_children),
            aversion: znode.aversion,
            ephemeral_owner: znode.owner,
            data_length: i32::try_from(znode.data.len()).unwrap_or(i32::MAX),
            num_children,
        })
    }

    /// Carries a change out that the leader has decided.
    pub fn apply(&mut self, change: &Change, zxid: i64, time_ms: i64) -> Before {
        let path = change.path();
        let (parent, name) = split(path);
        let before = |path: &str| (path.to_owned(), self.znodes.get(path).cloned());
        let before = Before([before(parent), before(path)]);
        match change {
            Change::Create { data, acl, owner, .. } => {
                let znode = Znode {
                    data: Arc::clone(data),
                    acl: Arc::clone(acl),
                    owner: *owner,
                    czxid: zxid,
                    mzxid: zxid,
                    pzxid: zxid,
                    ctime_ms: time_ms,
                    mtime_ms: time_ms,
                    version: 0,
                    aversion: 0,
                    creates: 0,
                };
                self.znodes.insert(path.to_owned(), znode);
                self.children.entry(parent.to_owned()).or_default().insert(name.to_owned());
                if let Some(parent) = self.znodes.get_mut(parent) {
                    parent.creates = parent.creates.wrapping_add(1);
                    parent.pzxid = zxid;
                }
            }
            Change::Set { data, version, .. } => {
                if let Some(znode) = self.znodes.get_mut(path) {
                    (znode.data, znode.version, znode.mzxid, znode.mtime_ms) =
                        (Arc::clone(data), *version, zxid, time_ms);
                }
            }
            Change::SetAcl { acl, aversion, .. } => {
                if let Some(znode) = self.znodes.get_mut(path) {
                    (znode.acl, znode.aversion) = (Arc::clone(acl), *aversion);
                }
            }
            Change::Delete { .. } => {
                self.znodes.remove(path);
                self.remove_name(parent, name);
                if let Some(parent) = self.znodes.get_mut(parent) {
                    parent.pzxid = zxid;
                }
            }
        }
        before
    }

    fn remove_name(&mut self, parent: &str, name: &str) {
        if let Some(names) = self.children.get_mut(parent) {
            names.remove(name);
            if names.is_empty() {
                self.children.remove(parent);
            }
        }
    }

    /// Takes back a change of a transaction of which a later one is refused.
    pub fn undo(&mut self, before: Before) {
        for (path, znode) in before.0 {
            let (parent, name) = split(&path);
            let (parent, name) = (parent.to_owned(), name.to_owned());
            match znode {
                Some(znode) => {
                    self.znodes.insert(path.clone(), znode);
                    if path != "/" {
                        self.children.entry(parent).or_default().insert(name);
                    }
                }
                None => {
                    self.znodes.remove(&path);
                    self.remove_name(&parent, &name);
                }
            }
        }
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}
