//! What a running worker tells, and what it can be told: plain data, and the handle through which HTTP, the Unix
//! socket and the commands reach a pipeline.

use crate::change::{Change, Position};
use crate::stream::Extent;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where a pipeline stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Not yet connected to everything it needs.
    Connecting,
    /// Another worker owns the pipeline; this one takes over when it goes.
    Standby,
    /// The first full comparison is under way.
    Snapshotting,
    /// Changes flow, of every route.
    Live,
    /// A route is paused.
    Paused,
    /// Deletes in mass wait for `approve`.
    AwaitingApproval,
    /// Something holds changes up: the stream takes no records, or a store no writes.
    Blocked,
    /// A store or the stream is away; it is waited for.
    Waiting,
    /// Shutting down.
    Stopping,
}

impl PipelineState {
    /// As `status` and the page show it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            PipelineState::Connecting => "connecting",
            PipelineState::Standby => "standby",
            PipelineState::Snapshotting => "snapshotting",
            PipelineState::Live => "live",
            PipelineState::Paused => "paused",
            PipelineState::AwaitingApproval => "awaiting_approval",
            PipelineState::Blocked => "blocked",
            PipelineState::Waiting => "waiting",
            PipelineState::Stopping => "stopping",
        }
    }
}

/// Where a route stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteState {
    /// Not yet compared.
    Starting,
    /// Changes flow.
    Live,
    /// `pause` was asked.
    Paused,
    /// Deletes in mass wait for `approve`.
    AwaitingApproval,
}

/// One store as a pipeline sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its name in the pipeline file.
    pub name: String,
    /// `zookeeper` or `redis`.
    pub kind: String,
    /// Whether the connection stands.
    pub connected: bool,
    /// Product and version, as the server tells it; empty while unknown.
    pub server: String,
    /// One sentence on what is wrong or missing; empty when all is well.
    pub note: String,
}

/// Something in the range of a route for which a permission is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Path of the znode, or the key.
    pub name: String,
    /// Which store refuses it, and what.
    pub reason: String,
}

/// One route.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Its name.
    pub route: String,
    /// As the file writes it, `zk <-> cache`.
    pub flow: String,
    /// Where it stands.
    pub state: RouteState,
    /// Pairs that are in step, as last counted.
    pub pairs: u64,
    /// Pairs in quarantine.
    pub quarantined: u64,
    /// Znodes that may not be read, and pairs for which a permission is missing.
    #[serde(default)]
    pub unreadable: u64,
    /// The first of them.
    #[serde(default)]
    pub unreadable_names: Vec<Unreadable>,
    /// Pairs known to have changed and not yet settled.
    pub pending: u64,
    /// Deletes that wait for `approve`.
    pub awaiting_approval: u64,
    /// Age of the oldest change that is not yet settled, or for how long a source has not been heard, seconds; 0 when all is
    /// heard and settled.
    pub lag_seconds: f64,
}

/// One pipeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Its name.
    pub pipeline: String,
    /// Where it stands.
    pub state: PipelineState,
    /// One sentence for the operator; empty when all is well.
    pub note: String,
    /// Who owns it (`host:pid`), as far as this worker knows; empty while unknown.
    pub owner: String,
    /// The owner's epoch; 0 while unknown.
    pub epoch: u64,
    /// Other workers that wait to take over.
    pub standbys: u64,
    /// Newest position of the stream.
    pub position: Position,
    /// How far history reaches.
    pub history: Option<Extent>,
    /// The stores.
    pub stores: Vec<StoreStatus>,
    /// The routes, in the order of the file.
    pub routes: Vec<RouteStatus>,
    /// Changes recorded since this worker started.
    pub changes: u64,
    /// Settled conflicts since this worker started.
    pub conflicts: u64,
    /// Gaps since this worker started.
    pub gaps: u64,
    /// Losses told since this worker started.
    #[serde(default)]
    pub losses: u64,
    /// Changes a second, over the last seconds.
    pub rate: f64,
    /// When the last full comparison ended, milliseconds since the epoch; 0 before the first.
    pub compared_ms: i64,
    /// Whether each source has finished its first comparison, each sink is connected and the stream takes records, or this is a
    /// standby.
    pub ready: bool,
    /// The first comparison's progress: pairs looked at. How many there are nobody knows before it ends.
    pub snapshot_done: u64,
}

/// A pair that could not be brought in step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The route's name.
    pub route: String,
    /// The znode's path, if the pair has one.
    pub zookeeper: Option<String>,
    /// The Redis key, if the pair has one.
    #[serde(with = "serde_bytes")]
    pub redis: Option<Vec<u8>>,
    /// One word: `too_large`, `wrong_type`, `no_permission`, `undecodable`, `conflict` …
    pub reason: String,
    /// One sentence: what was met, and what to do.
    pub detail: String,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
}

/// What a running pipeline can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stop applying changes of this route (`None`: of all), for so long if that is given. Sources keep noting what changed.
    Pause(Option<String>, Option<Duration>),
    /// Go on.
    Resume(Option<String>),
    /// Run a full comparison now.
    Reconcile(Option<String>),
    /// Carry out the deletes that the delete guard holds.
    Approve(Option<String>),
    /// Look again at the quarantined pairs whose key matches (`None`: all).
    QuarantineRetry(Option<Vec<u8>>),
    /// Be silent about them until either side changes.
    QuarantineDrop(Option<Vec<u8>>),
    /// Put values that a command is about to replace on the stream: markers with a conflict, nothing else.
    Keep(Vec<Change>),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no route of this name; the text names those that are.
    #[error("{0}")]
    UnknownRoute(String),
    /// This worker is a standby or not yet connected; the text says so.
    #[error("{0}")]
    NotOwner(String),
    /// It went wrong, and may go right later; the text says what.
    #[error("{0}")]
    Failed(String),
    /// Nothing is meant by what was asked; the text says what there is.
    #[error("{0}")]
    Nothing(String),
}

/// A running pipeline, as HTTP and the commands see it. Every call answers within milliseconds, but
/// [`Command::Keep`], which waits for the stream's disk, and a pause and its end, which wait for the ensemble that keeps it.
pub trait Handle: Send + Sync {
    /// The pipeline's name.
    fn name(&self) -> &str;

    /// Where it stands now.
    fn status(&self) -> PipelineStatus;

    /// Pairs in quarantine, oldest first; at most the bound of the list (10,000).
    fn quarantine(&self) -> Vec<Quarantined>;

    /// Carries out a command. `Ok` says in one sentence what was done.
    fn command(&self, command: Command) -> BoxFuture<'_, Result<String, CommandError>>;
}
