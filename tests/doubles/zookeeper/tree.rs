//! The znodes of one server, or of the leader: how a change is carried out on them, and what a read shows.

use super::rules::{Identity, allows, stored};
use super::transaction::{Change, ChangeOf, Stamp, Status, Znodes};
use super::wire::Refusal;
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
    pub stamp: Stamp,
    pub pzxid: i64,
    pub ctime_ms: i64,
    pub mtime_ms: i64,
    pub aversion: i32,
    /// So many children were ever created: the next sequence number. Clients are shown twice that less the children that are there.
    pub creates: i32,
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
                stamp: Stamp::created(zero),
                pzxid: zero,
                ctime_ms: 0,
                mtime_ms: 0,
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

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Znode)> {
        self.znodes.iter().map(|(path, znode)| (path.as_str(), znode))
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
            czxid: znode.stamp.czxid,
            mzxid: znode.stamp.mzxid,
            pzxid: znode.pzxid,
            ctime: znode.ctime_ms,
            mtime: znode.mtime_ms,
            version: znode.stamp.version,
            cversion: znode.creates.wrapping_mul(2).wrapping_sub(num_children),
            aversion: znode.aversion,
            ephemeral_owner: znode.owner,
            data_length: i32::try_from(znode.data.len()).unwrap_or(i32::MAX),
            num_children,
        })
    }

    fn remove_name(&mut self, parent: &str, name: &str) {
        if let Some(names) = self.children.get_mut(parent) {
            names.remove(name);
            if names.is_empty() {
                self.children.remove(parent);
            }
        }
    }
}

impl Znodes for Tree {
    type Path = String;
    type Data = Arc<[u8]>;
    type Acl = Arc<[Right]>;
    type Who = [Identity];
    type Before = Before;

    fn parent(path: &String) -> String {
        split(path).0.to_owned()
    }

    fn numbered(path: &String, number: i32) -> String {
        format!("{path}{number:010}")
    }

    fn is_reserved(path: &String) -> bool {
        path == "/" || path.starts_with("/zookeeper")
    }

    fn stored(acl: &Arc<[Right]>, who: &[Identity]) -> Result<Arc<[Right]>, Refusal> {
        stored(acl, who)
    }

    fn status(&self, path: &String) -> Option<Status> {
        let Znode { stamp, aversion, owner, creates, .. } = self.get(path)?;
        Some(Status { version: stamp.version, aversion: *aversion, owner: *owner, creates: *creates })
    }

    fn allows(&self, path: &String, permissions: u8, who: &[Identity]) -> bool {
        self.get(path).is_some_and(|znode| allows(&znode.acl, permissions, who))
    }

    fn child_count(&self, path: &String) -> usize {
        Tree::child_count(self, path)
    }

    fn apply(&mut self, change: &ChangeOf<Tree>, zxid: i64, time_ms: i64) -> Before {
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
                    stamp: Stamp::created(zxid),
                    pzxid: zxid,
                    ctime_ms: time_ms,
                    mtime_ms: time_ms,
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
                    znode.stamp = znode.stamp.written(zxid, *version);
                    (znode.data, znode.mtime_ms) = (Arc::clone(data), time_ms);
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

    fn undo(&mut self, before: Before) {
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
