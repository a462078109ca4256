//! The ZooKeeper door: the watch source, the sink with fence and journal, and the ownership of a
//! pipeline.
//!
//! ```text
//!   source session    persistent recursive watches --> Hints; reads that follow an event
//!   control session   place in line, epoch, claims; multis; walks; reads after `sync`
//! ```
//!
//! Two sessions, because a request that is too large costs its connection, and a lost connection
//! costs events. The control session is the one whose ephemeral znode holds the ownership, so a
//! worker that cannot write has lost it. All pipelines of a worker share the two (`sessions.rs`);
//! what one ownership of one pipeline holds is its own (`tenure.rs`).
//!
//! Imports go down only, and the crate of the client is called by one file:
//!
//! ```text
//!   mod.rs        the contract of the store, delegated
//!   what is done  election, ownership, claims, ties, pauses    sink, pack, edit    read, walk    source    preflight
//!   shared.rs     what they share: place, tenure, parents, sizes, watermark, sessions, each with its own lock
//!   fault.rs      errors and their remedies          session.rs   the seam          client.rs   the client library behind it
//! ```

mod acl;
mod ancestors;
mod claims;
mod client;
mod edit;
mod election;
mod fault;
mod group;
mod journal;
mod lineage;
mod ours;
mod ownership;
mod pack;
mod parents;
mod pauses;
mod place;
mod preflight;
mod read;
pub mod session;
mod sessions;
mod shared;
mod sink;
mod size;
mod source;
mod tenure;
mod ties;
mod walk;
mod watermark;

pub use client::RealEnsemble;
pub use session::Access;
pub use sessions::Sessions;
pub use shared::Settings;

use super::clock::ClockOffset;
use super::contract::{Authority, Connection, Identity, RangeClaims, Source, ZnodeEditor, ZnodeReader, ZnodeSink};
use super::{
    Claim, Hints, JournalEntry, Known, Lease, Look, Remembered, Slot, StoreError, Taken, Ties, Walk, ZnodeBatch,
    ZnodeEdit, ZnodeOp, ZnodeOutcome, ZnodeReading, ZnodeWrite, is_creatable,
};
use crate::env::{self, Task, lock};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use shared::Shared;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// A ZooKeeper store.
pub struct ZookeeperStore {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<Task<()>>>,
}

impl ZookeeperStore {
    /// A store that is not yet connected.
    #[must_use]
    pub fn new(settings: Settings) -> ZookeeperStore {
        ZookeeperStore { shared: Arc::new(Shared::new(settings)), tasks: Mutex::new(Vec::new()) }
    }
}

impl Connection for ZookeeperStore {
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ownership::begin(&self.shared).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        preflight::check(&self.shared).boxed()
    }

    fn preflight<'a>(
        &'a self,
        range: &'a super::preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<super::preflight::Finding>, StoreError>> {
        preflight::look(&self.shared, range).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.unwatch().await;
            ownership::end(&self.shared).await;
        }
        .boxed()
    }
}

impl Identity for ZookeeperStore {
    fn ties(&self) -> BoxFuture<'_, Result<Ties, StoreError>> {
        ties::look(&self.shared).boxed()
    }

    fn identify(&self, identity: String) -> BoxFuture<'_, Result<String, StoreError>> {
        async move { ties::identify(&self.shared, &identity).await }.boxed()
    }
}

impl RangeClaims for ZookeeperStore {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { claims::lay(&self.shared, &claim).await }.boxed()
    }

    fn look_at_claims<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        claims::look(&self.shared, claim).boxed()
    }
}

impl Source for ZookeeperStore {
    fn watch(&self, hints: Arc<dyn Hints>) {
        let task = env::spawn(source::run(Arc::clone(&self.shared), hints));
        lock(&self.tasks).push(task);
    }

    fn unwatch(&self) -> BoxFuture<'_, ()> {
        async move {
            let tasks = std::mem::take(&mut *lock(&self.tasks));
            tasks.iter().for_each(Task::abort);
            for task in tasks {
                let _ = task.await;
            }
            *lock(&self.shared.source) = None;
        }
        .boxed()
    }
}

impl Authority for ZookeeperStore {
    fn owner(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        election::owner(&self.shared).boxed()
    }

    fn tie(&self, other: Known, routes: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>> {
        ties::tie(&self.shared, other, routes).boxed()
    }

    fn stand<'a>(&'a self, waiting: &'a (dyn Fn(String, u64) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>> {
        election::stand(&self.shared, waiting).boxed()
    }

    fn own(&self, remembered: Remembered, taken: Taken) -> BoxFuture<'_, Result<Lease, StoreError>> {
        election::own(&self.shared, remembered, taken).boxed()
    }

    fn lost(&self) -> BoxFuture<'_, super::Lost> {
        election::lost(&self.shared).boxed()
    }

    fn journal(&self) -> BoxFuture<'_, Result<Vec<JournalEntry>, StoreError>> {
        election::journal(&self.shared).boxed()
    }

    fn zxid(&self) -> i64 {
        self.shared.watermark.zxid()
    }

    fn watermark(&self) -> i32 {
        self.shared.watermark.count()
    }

    fn advance_watermark(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        lineage::raise(&self.shared).boxed()
    }

    fn clock(&self) -> ClockOffset {
        self.shared.watermark.clock()
    }

    fn pauses(&self) -> BoxFuture<'_, Result<Vec<u8>, StoreError>> {
        pauses::find(&self.shared).boxed()
    }

    fn keep_pauses(&self, data: Vec<u8>) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { pauses::keep(&self.shared, &data).await }.boxed()
    }

    fn standbys(&self) -> u64 {
        self.shared.standbys.load(Ordering::Relaxed)
    }

    fn server(&self) -> String {
        self.shared.settings.sessions.version()
    }
}

impl ZnodeReader for ZookeeperStore {
    fn find_root(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        preflight::find_root(&self.shared).boxed()
    }

    fn read<'a>(&'a self, paths: &'a [String], look: Look) -> BoxFuture<'a, Result<Vec<ZnodeReading>, StoreError>> {
        self.shared.read(paths, look).boxed()
    }

    fn walk(&self, roots: Vec<String>, reads_ahead: bool) -> Box<dyn Walk> {
        Box::new(walk::Subtrees::new(Arc::clone(&self.shared), roots, reads_ahead))
    }
}

impl ZnodeSink for ZookeeperStore {
    fn write<'a>(&'a self, writes: &'a [ZnodeWrite<'a>]) -> BoxFuture<'a, Result<ZnodeBatch, StoreError>> {
        sink::write(&self.shared, writes).boxed()
    }

    fn fits(&self, path: &str, op: ZnodeOp, data: usize, key: usize) -> Result<(), String> {
        if op == ZnodeOp::Create {
            is_creatable(path)?;
        }
        let bytes = self.shared.sizes.alone_in_multi(op, path.len(), data, key);
        let limit = &self.shared.settings.sessions.limit;
        if limit.takes(bytes) { Ok(()) } else { Err(limit.why(bytes, "jute.maxbuffer")) }
    }

    fn release(&self, slots: &[Slot]) {
        if let Ok(tenure) = self.shared.tenure() {
            tenure.release(slots);
        }
    }

    fn settled_slots(&self) -> Vec<Slot> {
        self.shared.tenure().map(|tenure| tenure.settled_slots()).unwrap_or_default()
    }
}

impl ZnodeEditor for ZookeeperStore {
    fn edit<'a>(&'a self, edits: &'a [ZnodeEdit<'a>]) -> BoxFuture<'a, Result<Vec<ZnodeOutcome>, StoreError>> {
        edit::edit(&self.shared, edits).boxed()
    }
}

impl Drop for ZookeeperStore {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}
