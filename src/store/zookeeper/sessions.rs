//! The two sessions that all pipelines of a worker share on one ensemble, and what they need to
//! know only once.
//!
//! ```text
//!   pipeline 1 --\                 /--> source session    a persistent recursive watch for each root; reads after an event
//!   pipeline 2 ---+--> Sessions --+
//!   pipeline … --/                 \--> control session   places in line, claims, multis, walks, reads after `sync`
//! ```
//!
//! A session does not end with an ownership, so whatever a pipeline put there goes by a request of
//! its own (see [`super::tenure`]); it ends when the last pipeline lets go of it. The client
//! dispatches the events of one session to the watchers of all paths, so each pipeline listens by
//! itself and none is known here.

use super::acl::OPEN;
use super::fault::{Unopened, unopened};
use super::group::Group;
use super::place::Place;
use super::session::{Access, CreateMode, Ensemble, Error, Session, SessionState};
use super::size::{REQUEST_BYTES_MAX, TOGETHER_BYTES};
use crate::env::{self, Instant, lock};
use crate::store::request::RequestLimit;
use crate::store::shared_connection::SharedConnection;
use crate::store::{FailureKind, StoreError};
use futures::stream::StreamExt as _;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An attempt to connect takes at most this long; the pipeline tries again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer to [`Sessions::probe`] serves all pipelines of a worker for this long: each asks about
/// once a second.
const PROBE_FRESH: Duration = Duration::from_millis(900);

/// A probe takes at most this long.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A session, as long as anybody holds it.
pub(super) struct OpenSession {
    session: Arc<dyn Session>,
    given_up: AtomicBool,
}

impl OpenSession {
    fn new(session: Arc<dyn Session>) -> OpenSession {
        OpenSession { session, given_up: AtomicBool::new(false) }
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.session.state().is_terminated() && !self.given_up.load(Ordering::Relaxed)
    }

    /// The ensemble will not take it back: whoever connects from here on gets another one.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.session.state() == SessionState::SyncConnected
    }

    /// The session itself.
    pub(super) fn handle(&self) -> &dyn Session {
        &*self.session
    }

    /// Another handle of it.
    pub(super) fn share(&self) -> Arc<dyn Session> {
        Arc::clone(&self.session)
    }
}

impl Deref for OpenSession {
    type Target = dyn Session;

    fn deref(&self) -> &(dyn Session + 'static) {
        &*self.session
    }
}

/// What an ensemble shows of itself on a session of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// The zxid of a znode that was created now.
    Zxid(i64),
    /// Our state is not there.
    Blank,
    /// There was no answer.
    Silent,
}

/// See the module.
pub struct Sessions {
    access: Access,
    ensemble: Arc<dyn Ensemble>,
    control: SharedConnection<OpenSession, Unopened>,
    source: SharedConnection<OpenSession, Unopened>,
    /// What all pipelines know of other workers.
    pub(super) group: Group,
    version: Mutex<String>,
    probed: tokio::sync::Mutex<Option<(Instant, Probe)>>,
    /// What is known of the requests that the ensemble takes.
    pub(super) limit: RequestLimit,
}

impl Sessions {
    /// No session is open yet.
    #[must_use]
    pub fn new(access: Access, ensemble: Arc<dyn Ensemble>) -> Sessions {
        Sessions {
            access,
            ensemble,
            control: SharedConnection::default(),
            source: SharedConnection::default(),
            group: Group::default(),
            version: Mutex::default(),
            probed: tokio::sync::Mutex::default(),
            limit: RequestLimit::new(TOGETHER_BYTES, REQUEST_BYTES_MAX),
        }
    }

    /// How the ensemble is reached.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// The ensemble itself.
    pub(super) fn ensemble(&self) -> &dyn Ensemble {
        &*self.ensemble
    }

    /// Product and version, as far as known.
    pub(super) fn version(&self) -> String {
        lock(&self.version).clone()
    }

    /// The session for everything but watches. Waits for one that is reconnecting.
    pub(super) async fn control(&self, asking: &Place) -> Result<Arc<OpenSession>, StoreError> {
        let open = async {
            let session = self.open().await?;
            if let Some(version) = version(&*self.ensemble, &self.access.connect).await {
                *lock(&self.version) = format!("ZooKeeper {version}");
            }
            Ok(session)
        };
        self.ready(asking, self.control.get(OpenSession::is_usable, open).await).await
    }

    /// The session of the watches. Waits for one that is reconnecting.
    pub(super) async fn source(&self, asking: &Place) -> Result<Arc<OpenSession>, StoreError> {
        self.ready(asking, self.source.get(OpenSession::is_usable, self.open()).await).await
    }

    /// A session of one's own, for a look that shares nothing.
    pub(super) async fn own(&self, asking: &Place) -> Result<OpenSession, StoreError> {
        match self.open().await {
            Ok(session) => Ok(session),
            Err(why) => Err(unopened(asking, &*self.ensemble, why).await),
        }
    }

    async fn open(&self) -> Result<OpenSession, Unopened> {
        match env::timeout(CONNECT_TIMEOUT, self.ensemble.open(&self.access)).await {
            Ok(Ok(session)) => Ok(OpenSession::new(session)),
            Ok(Err(error)) => Err(Some(error)),
            Err(_) => Err(None),
        }
    }

    /// Asks on a session of its own how far the ensemble is, by a znode with this prefix that goes
    /// with the session.
    pub(super) async fn probe(&self, prefix: &str) -> Probe {
        let mut probed = self.probed.lock().await;
        if let Some((_, probe)) = probed.filter(|(at, _)| at.elapsed() < PROBE_FRESH) {
            return probe;
        }
        let ask = async {
            let session = self.open().await.ok()?;
            match session.create(prefix, b"", CreateMode::EphemeralSequential, &OPEN).await {
                Ok(created) => Some(Probe::Zxid(created.stat.czxid)),
                Err(Error::NoNode) => Some(Probe::Blank),
                Err(_) => None,
            }
        };
        let probe = env::timeout(PROBE_TIMEOUT, ask).await.ok().flatten().unwrap_or(Probe::Silent);
        *probed = Some((Instant::now(), probe));
        probe
    }

    /// A session that answers, or the error as the pipeline that asks reports it.
    async fn ready(
        &self,
        asking: &Place,
        got: Result<Arc<OpenSession>, Unopened>,
    ) -> Result<Arc<OpenSession>, StoreError> {
        let session = match got {
            Ok(session) => session,
            Err(why) => return Err(unopened(asking, &*self.ensemble, why).await),
        };
        let mut states = session.states();
        let connected = async {
            while !session.is_connected() {
                if session.state().is_terminated() {
                    return false;
                }
                states.next().await;
            }
            true
        };
        match env::timeout(CONNECT_TIMEOUT, connected).await {
            Ok(true) => Ok(session),
            Ok(false) => Err(StoreError::away(FailureKind::Session, format!("{}: the session ended", asking))),
            Err(_) => Err(unopened(asking, &*self.ensemble, None).await),
        }
    }
}

/// Asks the first server that answers for its version, by the four-letter word `srvr` (allowed by
/// default since 3.5).
pub(super) async fn version(ensemble: &dyn Ensemble, connect: &str) -> Option<String> {
    let hosts = connect.split('/').next()?;
    for host in hosts.split(',') {
        let ask = async {
            let answer = ensemble.ask(host, "srvr").await.ok()?;
            let line = answer.lines().find_map(|line| line.strip_prefix("Zookeeper version: "))?;
            line.split(['-', ',']).next().map(ToOwned::to_owned)
        };
        if let Ok(Some(version)) = env::timeout(std::time::Duration::from_secs(1), ask).await {
            return Some(version);
        }
    }
    None
}
