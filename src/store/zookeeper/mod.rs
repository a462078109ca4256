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

mod claims;
mod edit;
mod election;
mod group;
mod journal;
mod lineage;
mod ours;
mod parents;
mod preflight;
mod session;
mod sink;
mod source;
mod tenure;
mod ties;
mod walk;

use super::{
    Claim, Hints, JournalEntry, Known, Lease, Look, Remembered, Slot, StoreError, Taken, Ties, Walk, ZnodeBatch,
    ZnodeEdit, ZnodeOutcome, ZnodeReading, ZnodeWrite, Znodes,
};
use crate::change::ZkStat;
use crate::worker::Worker;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parents::Parents;
use session::Session;
pub use session::{Access, Sessions};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tenure::Tenure;
use tokio::task::JoinHandle;
use zookeeper_client::{Client, Error, MultiReadResult, Stat};

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

/// Bytes that the answers of one read request should hold.
const READ_BYTES: usize = 2 * 1024 * 1024;

/// Znodes of one read request. More gains nothing, and it bounds what a request of unexpectedly large znodes answers
/// (64 MB).
const READS_MAX: usize = 64;

/// Read requests of one call that are under way together.
const READS_TOGETHER: usize = 4;

/// A ZooKeeper store.
pub struct ZookeeperStore {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the door, its source and its walks share.
struct Shared {
    settings: Settings,
    tenure: Mutex<Option<Arc<Tenure>>>,
    /// A tenure may have left znodes of ours behind.
    owes: AtomicBool,
    source: Mutex<Option<Arc<Session>>>,
    parents: Mutex<Parents>,
    newest_zxid: AtomicI64,
    /// Of the ensemble, as the last ownership of this worker left it.
    lineage: Mutex<Option<lineage::Lineage>>,
    clock_ahead_ms: AtomicI64,
    standbys: AtomicU64,
    /// Size of the larger znodes seen lately, for [`Shared::reads_per_request`].
    znode_bytes: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
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

/// What an error of a whole request means for the store.
fn explain(shared: &Shared, error: &Error) -> StoreError {
    let place = shared.place();
    match error {
        Error::AuthFailed => {
            StoreError::Refused(format!("{place} refused the login of user `{}`: check auth", shared.user()))
        }
        Error::NoAuth => {
            StoreError::Refused(format!("{place}: user `{}` lacks a permission below /_keepstep", shared.user()))
        }
        Error::SessionExpired | Error::ClientClosed => StoreError::Fenced(format!("{place}: the session ended")),
        error => StoreError::Away(format!("{place}: {error}")),
    }
}

impl Shared {
    fn place(&self) -> String {
        format!("zookeeper {} ({})", self.settings.name, self.access().connect)
    }

    fn access(&self) -> &Access {
        self.settings.sessions.access()
    }

    fn user(&self) -> &str {
        self.access().digest.as_deref().and_then(|digest| digest.split(':').next()).unwrap_or("anyone")
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

    /// Znodes to ask for in one request, by the sizes seen lately.
    fn reads_per_request(&self) -> usize {
        (READ_BYTES / self.znode_bytes.load(Ordering::Relaxed).max(1)).clamp(2, READS_MAX)
    }

    fn note_size(&self, bytes: usize) {
        // A rise is taken at once, a fall over some sixteen znodes.
        let known = self.znode_bytes.load(Ordering::Relaxed);
        let next = if bytes >= known { bytes } else { known - (known - bytes).div_ceil(16) };
        self.znode_bytes.store(next, Ordering::Relaxed);
    }

    async fn multi_read(&self, client: &Client, paths: &[String]) -> Result<Vec<MultiReadResult>, StoreError> {
        let wrong = |error: Error| explain(self, &error);
        let mut reader = client.new_multi_reader();
        for path in paths {
            reader.add_get_data(path).map_err(wrong)?;
        }
        let results = reader.commit().await.map_err(wrong)?;
        let largest = results.iter().map(|result| match result {
            MultiReadResult::Data { data, .. } => data.len(),
            _ => 0,
        });
        self.note_size(largest.max().unwrap_or(0));
        Ok(results)
    }

    async fn read(&self, paths: &[String], look: Look) -> Result<Vec<ZnodeReading>, StoreError> {
        let client = match look {
            Look::Source => lock(&self.source)
                .clone()
                .ok_or_else(|| StoreError::Away(format!("{}: the source is not connected", self.place())))?,
            Look::Synced => {
                let client = self.control()?;
                client.sync("/").await.map_err(|error| explain(self, &error))?;
                client
            }
        };
        let mut readings = Vec::with_capacity(paths.len());
        // The first request shows how large the znodes are, before more are under way together.
        let (first, rest) = paths.split_at(paths.len().min(self.reads_per_request()));
        let mut answers = vec![self.multi_read(&client, first).await?];
        let chunks: Vec<&[String]> = rest.chunks(self.reads_per_request()).collect();
        for together in chunks.chunks(READS_TOGETHER) {
            let requests = together.iter().map(|chunk| self.multi_read(&client, chunk));
            answers.extend(futures::future::try_join_all(requests).await?);
        }
        for result in answers.into_iter().flatten() {
            readings.push(match result {
                MultiReadResult::Data { data, stat } => {
                    self.note_zxid(stat.mzxid);
                    ZnodeReading::Present { data, stat: stat_of(&stat) }
                }
                MultiReadResult::Error { err: Error::NoNode } => ZnodeReading::Absent(i64::MAX),
                MultiReadResult::Error { err: Error::NoAuth } => {
                    ZnodeReading::Denied(format!("{}: the session may not read it", self.place()))
                }
                MultiReadResult::Error { err } => return Err(explain(self, &err)),
                _ => return Err(StoreError::Away(format!("{}: an unexpected answer to a read", self.place()))),
            });
        }
        if look == Look::Synced && readings.iter().any(|reading| matches!(reading, ZnodeReading::Absent(_))) {
            let dates = self.date_deletions(&client, paths, &mut readings);
            let (intact, dated) = futures::future::join(lineage::check(self, &client), dates).await;
            intact.and(dated)?;
        }
        Ok(readings)
    }

    /// Notes when those that are absent can have been deleted at the latest: a parent's pzxid is the zxid of the last creation or deletion
    /// in it. That a lagging server of the watches may still tell of a time before is known by it as well.
    async fn date_deletions(
        &self,
        client: &Client,
        paths: &[String],
        readings: &mut [ZnodeReading],
    ) -> Result<(), StoreError> {
        let mut dates: HashMap<&str, i64> = HashMap::new();
        let mut absent: Vec<(&str, &mut i64)> = Vec::new();
        for (path, reading) in paths.iter().zip(readings) {
            if let ZnodeReading::Absent(gone_zxid) = reading {
                absent.push((path.rsplit_once('/').map_or("", |(parent, _)| parent), gone_zxid));
            }
        }
        let mut parents: Vec<&str> = absent.iter().map(|(parent, _)| *parent).collect();
        parents.sort_unstable();
        parents.dedup();
        for together in parents.chunks(READS_MAX) {
            let asked = together.iter().map(|parent| pzxid_above(client, parent));
            for (parent, pzxid) in together.iter().zip(futures::future::join_all(asked).await) {
                match pzxid {
                    Ok(pzxid) => {
                        self.note_zxid(pzxid);
                        dates.insert(parent, pzxid);
                    }
                    // It may not be looked at: then the events have to tell.
                    Err(Error::NoAuth) => {}
                    Err(error) => return Err(explain(self, &error)),
                }
            }
        }
        for (parent, gone_zxid) in absent {
            *gone_zxid = dates.get(parent).copied().unwrap_or(i64::MAX);
        }
        Ok(())
    }
}

/// pzxid of the nearest ancestor that is there, of a path without its last name; 0 if there is none (a chroot that is missing).
async fn pzxid_above(client: &Client, parent: &str) -> Result<i64, Error> {
    let mut at = parent;
    loop {
        match client.check_stat(if at.is_empty() { "/" } else { at }).await? {
            Some(stat) => return Ok(stat.pzxid),
            None if at.is_empty() => return Ok(0),
            None => at = at.rsplit_once('/').map_or("", |(above, _)| above),
        }
    }
}

impl ZookeeperStore {
    /// A store that is not yet connected.
    #[must_use]
    pub fn new(settings: Settings) -> ZookeeperStore {
        let shared = Shared {
            settings,
            tenure: Mutex::new(None),
            owes: AtomicBool::new(false),
            source: Mutex::new(None),
            parents: Mutex::new(Parents::default()),
            newest_zxid: AtomicI64::new(0),
            lineage: Mutex::new(None),
            clock_ahead_ms: AtomicI64::new(0),
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

    fn preflight(&self) -> BoxFuture<'_, Result<Vec<super::preflight::Finding>, StoreError>> {
        preflight::look(&self.shared).boxed()
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
        claims::lay(&self.shared, claim).boxed()
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

    fn journal(&self) -> BoxFuture<'_, Result<Vec<JournalEntry>, StoreError>> {
        election::journal(&self.shared).boxed()
    }

    fn watch(&self, hints: Arc<dyn Hints>) {
        let task = tokio::spawn(source::run(Arc::clone(&self.shared), hints));
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

    fn release(&self, slots: &[Slot]) {
        if let Ok(tenure) = self.shared.tenure() {
            tenure.release(slots);
        }
    }

    fn edit<'a>(&'a self, edits: &'a [ZnodeEdit<'a>]) -> BoxFuture<'a, Result<Vec<ZnodeOutcome>, StoreError>> {
        edit::edit(&self.shared, edits).boxed()
    }

    fn clock_ahead_ms(&self) -> i64 {
        self.shared.clock_ahead_ms.load(Ordering::Relaxed)
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
            tasks.iter().for_each(JoinHandle::abort);
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
