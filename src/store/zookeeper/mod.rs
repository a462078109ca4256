//! The ZooKeeper door: the watch source, the sink with fence and journal, and the ownership of a pipeline.
//!
//! ```text
//!   source session    persistent recursive watches --> Hints; reads that follow an event
//!   control session   place in line, epoch, claims; multis; walks; reads after `sync`
//! ```
//!
//! Two sessions, because a request that is too large costs its connection, and a lost connection costs events. The
//! control session is the one whose ephemeral znode holds the ownership, so a worker that cannot write has lost it. All
//! pipelines of a worker share the two (`session.rs`); what one ownership of one pipeline holds is its own (`tenure.rs`).

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
mod pack;
mod parents;
mod pauses;
mod preflight;
mod read;
pub mod session;
mod sessions;
mod sink;
mod size;
mod source;
mod tenure;
mod ties;
mod walk;

use super::clock::ClockOffset;
use super::{
    Claim, Hints, JournalEntry, Known, Lease, Look, Remembered, Slot, StoreError, Taken, Ties, Walk, ZnodeBatch,
    ZnodeEdit, ZnodeOp, ZnodeOutcome, ZnodeReading, ZnodeWrite, Znodes,
};
use crate::change::ZkStat;
use crate::env::{self, Task};
use crate::worker::Worker;
pub use client::RealEnsemble;
use fault::explain;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parents::Parents;
pub use session::Access;
use session::{Ensemble, Error, Stat};
use sessions::OpenSession;
pub use sessions::Sessions;
use size::Sizes;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tenure::Tenure;

/// How an ensemble is reached and which part of it a pipeline uses.
#[derive(Clone)]
pub struct Settings {
    /// The store's name in the pipeline file.
    pub name: String,
    /// The sessions that it shares with the other pipelines of this worker.
    pub sessions: Arc<Sessions>,
    /// The pipeline.
    pub pipeline: String,
    /// This worker.
    pub worker: Worker,
    /// Names the routes of this worker's file: workers with others are not given a pipeline to spread them.
    pub routes_digest: String,
    /// The worker ends when all is in step, so it is given no pipeline that another can have.
    pub once: bool,
    /// Deepest literal ancestors of what the routes can match.
    pub roots: Vec<String>,
}

/// Pause before a read of the journal is tried again after a lost connection. The client waits for the reconnect
/// itself, so this only keeps a flapping connection from spinning.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of one request that a server takes: the default of `jute.maxbuffer`.
const REQUEST_BYTES_MAX: usize = 1_048_575;

/// Bytes of a request of several operations: half of what is taken, since a transaction grows on its way through the ensemble, and
/// larger ones are not faster.
const TOGETHER_BYTES: usize = 512 * 1024;

/// Bytes that the answers of one read request should hold.
const READ_BYTES: usize = 2 * 1024 * 1024;

/// Znodes of one read request. More gains nothing, and it bounds what a request of unexpectedly large znodes answers
/// (64 MB).
const READS_MAX: usize = 64;

/// A ZooKeeper store.
pub struct ZookeeperStore {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<Task<()>>>,
}

/// What the door, its source and its walks share.
struct Shared {
    settings: Settings,
    tenure: Mutex<Option<Arc<Tenure>>>,
    /// A tenure may have left znodes of ours behind.
    owes: AtomicBool,
    source: Mutex<Option<Arc<OpenSession>>>,
    parents: Mutex<Parents>,
    sizes: Sizes,
    newest_zxid: AtomicI64,
    /// Of the ensemble, as the last ownership of this worker left it.
    lineage: Mutex<Option<lineage::Lineage>>,
    clock: Mutex<ClockOffset>,
    standbys: AtomicU64,
    /// Size of the larger znodes seen lately, for [`Shared::reads_per_request`].
    znode_bytes: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stat_of(stat: &Stat) -> ZkStat {
    ZkStat {
        czxid: stat.czxid,
        mzxid: stat.mzxid,
        pzxid: stat.pzxid,
        ctime_ms: stat.ctime,
        mtime_ms: stat.mtime,
        version: stat.version,
        cversion: stat.cversion,
        aversion: stat.aversion,
        ephemeral_owner: stat.ephemeral_owner,
        num_children: stat.num_children,
    }
}

/// Whether the connection broke under a request, so that nothing is known of what became of it.
fn is_broken(error: &Error) -> bool {
    matches!(error, Error::ConnectionLoss | Error::Custom(_))
}

impl Shared {
    fn place(&self) -> String {
        format!("zookeeper {} ({})", self.settings.name, self.access().connect)
    }

    fn access(&self) -> &Access {
        self.settings.sessions.access()
    }

    fn ensemble(&self) -> &dyn Ensemble {
        self.settings.sessions.ensemble()
    }

    fn user(&self) -> &str {
        self.access().digest.as_ref().and_then(|digest| digest.first().split(':').next()).unwrap_or("anyone")
    }

    /// The servers, and the chroot (`/` where there is none).
    fn address(&self) -> (&str, &str) {
        let connect = self.access().connect.as_str();
        connect.find('/').and_then(|at| connect.split_at_checked(at)).unwrap_or((connect, "/"))
    }

    fn under(&self, name: &str) -> String {
        format!("/_keepstep/{}/{name}", self.settings.pipeline)
    }

    fn slot_path(&self, slot: usize) -> String {
        self.under(&format!("journal/{slot:02}"))
    }

    fn parents(&self) -> MutexGuard<'_, Parents> {
        lock(&self.parents)
    }

    fn note_zxid(&self, zxid: i64) {
        self.newest_zxid.fetch_max(zxid, Ordering::Relaxed);
    }
}

impl ZookeeperStore {
    /// A store that is not yet connected.
    #[must_use]
    pub fn new(settings: Settings) -> ZookeeperStore {
        let shared = Shared {
            sizes: Sizes::below(&settings.sessions.access().connect),
            settings,
            tenure: Mutex::new(None),
            owes: AtomicBool::new(false),
            source: Mutex::new(None),
            parents: Mutex::new(Parents::default()),
            newest_zxid: AtomicI64::new(0),
            lineage: Mutex::new(None),
            clock: Mutex::default(),
            standbys: AtomicU64::new(0),
            znode_bytes: AtomicUsize::new(READ_BYTES / 8),
        };
        ZookeeperStore { shared: Arc::new(shared), tasks: Mutex::new(Vec::new()) }
    }
}

impl Znodes for ZookeeperStore {
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        tenure::begin(&self.shared).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        preflight::check(&self.shared).boxed()
    }

    fn find_root(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        preflight::find_root(&self.shared).boxed()
    }

    fn preflight<'a>(
        &'a self,
        range: &'a super::preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<super::preflight::Finding>, StoreError>> {
        preflight::look(&self.shared, range).boxed()
    }

    fn ties(&self) -> BoxFuture<'_, Result<Ties, StoreError>> {
        ties::look(&self.shared).boxed()
    }

    fn owner(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        election::owner(&self.shared).boxed()
    }

    fn identify(&self, identity: String) -> BoxFuture<'_, Result<String, StoreError>> {
        async move { ties::identify(&self.shared, &identity).await }.boxed()
    }

    fn tie(&self, other: Known, routes: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>> {
        ties::tie(&self.shared, other, routes).boxed()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { claims::lay(&self.shared, &claim).await }.boxed()
    }

    fn look_at_claims<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>> {
        claims::look(&self.shared, claim).boxed()
    }

    fn stand<'a>(&'a self, waiting: &'a (dyn Fn(String, u64) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>> {
        election::stand(&self.shared, waiting).boxed()
    }

    fn own(&self, remembered: Remembered, taken: Taken) -> BoxFuture<'_, Result<Lease, StoreError>> {
        election::own(&self.shared, remembered, taken).boxed()
    }

    fn zxid(&self) -> i64 {
        self.shared.newest_zxid.load(Ordering::Relaxed)
    }

    fn tide(&self) -> i32 {
        lock(&self.shared.lineage).as_ref().map_or(0, |lineage| lineage.tide)
    }

    fn raise_tide(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        lineage::raise(&self.shared).boxed()
    }

    fn pauses(&self) -> BoxFuture<'_, Result<Vec<u8>, StoreError>> {
        pauses::find(&self.shared).boxed()
    }

    fn keep_pauses(&self, data: Vec<u8>) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { pauses::keep(&self.shared, &data).await }.boxed()
    }

    fn journal(&self) -> BoxFuture<'_, Result<Vec<JournalEntry>, StoreError>> {
        election::journal(&self.shared).boxed()
    }

    fn watch(&self, hints: Arc<dyn Hints>) {
        let task = env::spawn(source::run(Arc::clone(&self.shared), hints));
        lock(&self.tasks).push(task);
    }

    fn lost(&self) -> BoxFuture<'_, super::Lost> {
        election::lost(&self.shared).boxed()
    }

    fn read<'a>(&'a self, paths: &'a [String], look: Look) -> BoxFuture<'a, Result<Vec<ZnodeReading>, StoreError>> {
        self.shared.read(paths, look).boxed()
    }

    fn walk(&self, roots: Vec<String>, reads_ahead: bool) -> Box<dyn Walk> {
        Box::new(walk::Subtrees::new(Arc::clone(&self.shared), roots, reads_ahead))
    }

    fn write<'a>(&'a self, writes: &'a [ZnodeWrite<'a>]) -> BoxFuture<'a, Result<ZnodeBatch, StoreError>> {
        sink::write(&self.shared, writes).boxed()
    }

    fn fits(&self, path: &str, op: ZnodeOp, data: usize, key: usize) -> Result<(), String> {
        self.shared.fits(path, op, data, key)
    }

    fn settled_slots(&self) -> Vec<Slot> {
        self.shared.tenure().map(|tenure| tenure.settled_slots()).unwrap_or_default()
    }

    fn release(&self, slots: &[Slot]) {
        if let Ok(tenure) = self.shared.tenure() {
            tenure.release(slots);
        }
    }

    fn edit<'a>(&'a self, edits: &'a [ZnodeEdit<'a>]) -> BoxFuture<'a, Result<Vec<ZnodeOutcome>, StoreError>> {
        edit::edit(&self.shared, edits).boxed()
    }

    fn clock(&self) -> ClockOffset {
        *lock(&self.shared.clock)
    }

    fn standbys(&self) -> u64 {
        self.shared.standbys.load(Ordering::Relaxed)
    }

    fn server(&self) -> String {
        self.shared.settings.sessions.version()
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

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.unwatch().await;
            tenure::end(&self.shared).await;
        }
        .boxed()
    }
}

impl Drop for ZookeeperStore {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}
