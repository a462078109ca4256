//! The two sessions that all pipelines of a worker share on one ensemble, and what they need to know only once.
//!
//! ```text
//!   pipeline 1 --\                 /--> source session    a persistent recursive watch for each root; reads after an event
//!   pipeline 2 ---+--> Sessions --+
//!   pipeline … --/                 \--> control session   places in line, claims, multis, walks, reads after `sync`
//! ```
//!
//! A session does not end with an ownership, so whatever a pipeline put there goes by a request of its own (see
//! [`super::tenure`]); it ends when the last pipeline lets go of it. The client dispatches the events of one session to
//! the watchers of all paths, so each pipeline listens by itself and none is known here.

use super::fault::unopened;
use super::group::Group;
use super::{Shared, lock, preflight};
use crate::env::{self, Instant};
use crate::store::held::Held;
use crate::store::request::RequestLimit;
use crate::store::{Password, StoreError};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zookeeper_client::{Acls, Client, CreateMode, Error, SessionState};

/// An attempt to connect takes at most this long; the pipeline tries again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer to [`Sessions::probe`] serves all pipelines of a worker for this long: each asks about once a second.
const PROBE_FRESH: Duration = Duration::from_millis(900);

/// A probe takes at most this long.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How an ensemble is reached, and as whom. Pipelines for which all of it is the same share their sessions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// `host:port[,host:port…][/chroot]`.
    pub connect: String,
    /// Session timeout asked of the ensemble.
    pub session_timeout: Duration,
    /// `user:password` of the `digest` scheme.
    pub digest: Option<Password>,
}

/// A session, as long as anybody holds it.
pub(super) struct Session {
    client: Client,
    given_up: AtomicBool,
}

impl Session {
    pub(super) fn is_usable(&self) -> bool {
        !self.client.state().is_terminated() && !self.given_up.load(Ordering::Relaxed)
    }

    /// The ensemble will not take it back: whoever connects from here on gets another one.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.state() == SessionState::SyncConnected
    }

    /// The owner of its ephemeral znodes.
    pub(super) fn id(&self) -> i64 {
        self.client.session_id().0
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Why no session was opened; without an error there was no answer.
pub(super) type Unopened = Option<Error>;

/// What an ensemble shows of itself on a session of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// The zxid of a znode that was created now.
    Zxid(i64),
    /// Our state is not there.
    Blank,
    /// It did not tell.
    Silent,
}

/// See the module.
pub struct Sessions {
    access: Access,
    control: Held<Session, Unopened>,
    source: Held<Session, Unopened>,
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
    pub fn new(access: Access) -> Sessions {
        Sessions {
            access,
            control: Held::default(),
            source: Held::default(),
            group: Group::default(),
            version: Mutex::default(),
            probed: tokio::sync::Mutex::default(),
            limit: RequestLimit::new(super::TOGETHER_BYTES, super::REQUEST_BYTES_MAX),
        }
    }

    /// How the ensemble is reached.
    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Product and version, as far as known.
    pub(super) fn version(&self) -> String {
        lock(&self.version).clone()
    }

    /// The session for everything but watches. Waits for one that is reconnecting.
    pub(super) async fn control(&self, asking: &Shared) -> Result<Arc<Session>, StoreError> {
        let open = async {
            let session = self.open().await?;
            if let Some(version) = preflight::version(&self.access.connect).await {
                *lock(&self.version) = format!("ZooKeeper {version}");
            }
            Ok(session)
        };
        ready(asking, self.control.get(Session::is_usable, open).await).await
    }

    /// The session of the watches. Waits for one that is reconnecting.
    pub(super) async fn source(&self, asking: &Shared) -> Result<Arc<Session>, StoreError> {
        ready(asking, self.source.get(Session::is_usable, self.open()).await).await
    }

    /// A session of one's own, for a look that shares nothing.
    pub(super) async fn own(&self, asking: &Shared) -> Result<Session, StoreError> {
        match self.open().await {
            Ok(session) => Ok(session),
            Err(why) => Err(unopened(asking, why).await),
        }
    }

    async fn open(&self) -> Result<Session, Unopened> {
        let mut connector = Client::connector().with_session_timeout(self.access.session_timeout).with_fail_eagerly();
        if let Some(digest) = &self.access.digest {
            connector = connector.with_auth("digest", digest.now().as_bytes());
        }
        match env::timeout(CONNECT_TIMEOUT, connector.connect(&self.access.connect)).await {
            Ok(Ok(client)) => Ok(Session { client, given_up: AtomicBool::new(false) }),
            Ok(Err(error)) => Err(Some(error)),
            Err(_) => Err(None),
        }
    }

    /// Asks on a session of its own how far the ensemble is, by a znode with this prefix that goes with the session.
    pub(super) async fn probe(&self, prefix: &str) -> Probe {
        let mut probed = self.probed.lock().await;
        if let Some((_, probe)) = probed.filter(|(at, _)| at.elapsed() < PROBE_FRESH) {
            return probe;
        }
        let ask = async {
            let session = self.open().await.ok()?;
            let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
            match session.create(prefix, b"", &options).await {
                Ok((stat, _)) => Some(Probe::Zxid(stat.czxid)),
                Err(Error::NoNode) => Some(Probe::Blank),
                Err(_) => None,
            }
        };
        let probe = env::timeout(PROBE_TIMEOUT, ask).await.ok().flatten().unwrap_or(Probe::Silent);
        *probed = Some((Instant::now(), probe));
        probe
    }
}

/// A session that answers, or the error as the pipeline that asks says it.
async fn ready(asking: &Shared, got: Result<Arc<Session>, Unopened>) -> Result<Arc<Session>, StoreError> {
    let session = match got {
        Ok(session) => session,
        Err(why) => return Err(unopened(asking, why).await),
    };
    let mut states = session.state_watcher();
    let connected = async {
        while !session.is_connected() {
            if session.state().is_terminated() {
                return false;
            }
            states.changed().await;
        }
        true
    };
    match env::timeout(CONNECT_TIMEOUT, connected).await {
        Ok(true) => Ok(session),
        Ok(false) => Err(StoreError::Away(format!("{}: the session ended", asking.place()))),
        Err(_) => Err(unopened(asking, None).await),
    }
}
