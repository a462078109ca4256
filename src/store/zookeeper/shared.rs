//! What the parts of the room share: the settings and the few things that have a lock of their own,
//! each with one purpose.

use super::parents::Parents;
use super::place::Place;
use super::session::{Ensemble, Stat};
use super::sessions::{OpenSession, Sessions};
use super::size::Sizes;
use super::tenure::Tenure;
use super::watermark::Watermark;
use crate::change::ZkStat;
use crate::env::lock;
use crate::store::{FailureKind, StoreError};
use crate::worker::Worker;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// Names the routes of this worker's file: workers with others are not given a pipeline to
    /// spread them.
    pub routes_digest: String,
    /// The worker ends when all is in step, so it is given no pipeline that another can have.
    pub once: bool,
    /// Deepest literal ancestors of what the routes can match.
    pub roots: Vec<String>,
}

/// Pause before a read of the journal is tried again after a lost connection. The client waits for
/// the reconnect itself, so this only keeps a flapping connection from spinning.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that the answers of one read request should hold.
pub(super) const READ_BYTES: usize = 2 * 1024 * 1024;

/// Znodes of one read request. More gains nothing, and it bounds what a request of unexpectedly
/// large znodes answers (64 MB).
pub(super) const READS_MAX: usize = 64;

/// See the module.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) place: Place,
    /// The ownership, or what leads to it.
    pub(super) tenure: Mutex<Option<Arc<Tenure>>>,
    /// An ownership may have left znodes of ours behind.
    pub(super) may_have_left_znodes: AtomicBool,
    pub(super) source: Mutex<Option<Arc<OpenSession>>>,
    pub(super) parents: Parents,
    pub(super) sizes: Sizes,
    pub(super) watermark: Watermark,
    pub(super) standbys: AtomicU64,
    /// Size of the larger znodes seen lately, for [`Shared::reads_per_request`].
    pub(super) znode_bytes: AtomicUsize,
}

pub(super) fn stat_of(stat: &Stat) -> ZkStat {
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

impl Shared {
    pub(super) fn new(settings: Settings) -> Shared {
        let access = settings.sessions.access().clone();
        let place = Place { name: settings.name.clone(), access, pipeline: settings.pipeline.clone() };
        Shared {
            sizes: Sizes::new(&place),
            place,
            settings,
            tenure: Mutex::new(None),
            may_have_left_znodes: AtomicBool::new(false),
            source: Mutex::new(None),
            parents: Parents::default(),
            watermark: Watermark::default(),
            standbys: AtomicU64::new(0),
            znode_bytes: AtomicUsize::new(READ_BYTES / 8),
        }
    }

    pub(super) fn ensemble(&self) -> &dyn Ensemble {
        self.settings.sessions.ensemble()
    }

    /// The ownership, or what leads to it; an error before it begins and after its end.
    pub(super) fn tenure(&self) -> Result<Arc<Tenure>, StoreError> {
        lock(&self.tenure)
            .clone()
            .ok_or_else(|| StoreError::away(FailureKind::Session, format!("{}: not connected", self.place)))
    }

    /// The session for everything but watches.
    pub(super) fn control(&self) -> Result<Arc<OpenSession>, StoreError> {
        self.tenure().map(|tenure| Arc::clone(&tenure.session))
    }
}
