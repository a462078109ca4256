//! The contract of the two kinds of store: what the pipeline asks of a ZooKeeper and of a Redis, and what they tell it.
//!
//! ```text
//!   store --Hints--> dirty set            a hint says "look at this pair", never what it holds
//!   pipeline --read/observe--> store      states are read in batches, large values by their size only
//!   pipeline --write/apply--> store       every write is a compare-and-set and carries the owner's epoch
//! ```
//!
//! Calls are batched; one bad member never fails the others. All methods may be called from several rounds at once.

pub mod clock;
mod held;
mod limit;
mod overlap;
mod password;
pub mod preflight;
pub mod redis;
mod remedy;
mod request;
pub mod zookeeper;

pub use clock::ClockOffset;
pub use limit::{NAME_BYTES_MAX, VALUE_BYTES_MAX, is_creatable};
pub use overlap::overlaps;
pub use password::Password;

use crate::change::{Digest, LossCause, Side, ZkStat, brief};
pub use crate::plan::guard::{Remembered, Taken};
use crate::plan::{Base, Ensemble, Removal};
pub use crate::plan::{KeyOp, ZnodeOp};
use futures::future::BoxFuture;
use std::sync::Arc;

/// What a store can fail with as a whole, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not reachable now. Nothing is known of what was under way; wait, and observe again.
    #[error("{}", brief::text(.0))]
    Away(String),
    /// It answers, and does not do this now: no memory left, a disk that it cannot write, too few replicas. Wait, and observe
    /// again.
    #[error("{0}")]
    NotNow(String),
    /// It will not serve us: a refused login, a server too old, a range that another pipeline owns. Exit 1.
    #[error("{}", brief::text(.0))]
    Refused(String),
    /// Another worker owns the pipeline now. Stop writing and stand by.
    #[error("{}", brief::text(.0))]
    Fenced(String),
}

/// How the connection of a source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Events arrive from here on; everything before must be compared.
    Up,
    /// Events are being missed, for this reason.
    Down(StoreError),
}

/// Where a source puts what it hears. Never blocks; a pair is held once however often it is named.
pub trait Hints: Send + Sync {
    /// This znode may have changed. `zxid` is the event's where the server tells it (3.9 and later). `deleted`: the event says that
    /// it was deleted.
    fn znode(&self, path: &str, zxid: Option<i64>, deleted: bool);

    /// This key may have changed. `event` is the keyspace event's name, `None` where tracking told.
    fn key(&self, key: &[u8], event: Option<&str>);

    /// Anything may have changed on this side: compare everything.
    fn everything(&self, side: Side, why: &str);

    /// This side may have lost data, in this way: compare everything, and tell what is missing as a loss.
    fn lost(&self, side: Side, cause: LossCause, why: &str);

    /// The source's connection came or went.
    fn link(&self, side: Side, link: Link);
}

/// The answers to so many questions. Fewer or more than that are an error of the whole call: which of them answers what is not known,
/// and nobody must be left waiting for one.
///
/// # Errors
/// [`StoreError::Away`].
pub fn one_for_one<A>(what: &str, questions: usize, answers: Vec<A>) -> Result<Vec<A>, StoreError> {
    if answers.len() == questions {
        return Ok(answers);
    }
    Err(StoreError::Away(format!("{what}: {} answers to {questions} questions", answers.len())))
}

/// What a keyspace event says of the key's disappearance; `None` if the event does not remove keys (or is one of a newer
/// server that we do not know), so that the disappearance counts as unseen.
#[must_use]
pub fn removal_of(event: &str) -> Option<Removal> {
    match event {
        "del" | "rename_from" | "move_from" => Some(Removal::Deleted),
        "expired" => Some(Removal::Expired),
        "evicted" => Some(Removal::Lost),
        _ => None,
    }
}

/// Where a znode is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// On the session of the source: at least as new as the event that led here.
    Source,
    /// On the session of the sink, after `sync`: at least as new as everything acknowledged before the call.
    Synced,
}

/// A znode as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZnodeReading {
    /// There is none. By [`Look::Synced`] with the newest zxid at which it can have been deleted: pzxid of the nearest ancestor
    /// that is left. `i64::MAX`: that is not known.
    Absent(i64),
    /// There is one.
    Present {
        /// Its data.
        data: Vec<u8>,
        /// Its versions.
        stat: ZkStat,
    },
    /// The session may not read it. The text names path and permission.
    Denied(String),
    /// The request alone is larger than the server takes.
    TooLarge(String),
}

/// One write to ZooKeeper.
#[derive(Debug, Clone)]
pub struct ZnodeWrite<'a> {
    /// The path.
    pub path: &'a str,
    /// What is done.
    pub op: ZnodeOp,
    /// The data to write; empty for a delete.
    pub data: &'a [u8],
    /// The Redis key of the pair, for the journal.
    pub key: &'a [u8],
    /// What the sidecar will say, but for the zxids that only the transaction gives.
    pub base: Base,
    /// Which bucket the sidecar was read from ([`KeyReading::nonce`]), for the journal.
    pub nonce: u64,
    /// The ACL of what is created.
    pub acl: ZnodeAcl,
}

/// A change of a znode as an application makes it: without the fence of an owner and without a journal.
#[derive(Debug, Clone)]
pub struct ZnodeEdit<'a> {
    /// The path.
    pub path: &'a str,
    /// What is done.
    pub op: ZnodeOp,
    /// The data to write; empty for a delete.
    pub data: &'a [u8],
    /// The ACL of what is created.
    pub acl: ZnodeAcl,
}

/// The ACL of znodes that are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZnodeAcl {
    /// That of the nearest existing ancestor.
    Parent,
    /// `world:anyone`, everything.
    Open,
    /// Everything for the authenticated user.
    Creator,
}

/// What became of one write to ZooKeeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZnodeOutcome {
    /// Done. The base with its zxids filled in, or `None` where the pair has no base any more.
    Done {
        /// What the sidecar must say now.
        base: Option<Base>,
        /// The znode that was overwritten was another incarnation than the one that was read.
        recreated: bool,
    },
    /// The state was another one: observe again.
    Refused,
    /// It cannot be done: reason (one word) and detail (one sentence).
    Impossible(&'static str, String),
}

/// The result of [`Znodes::write`].
#[derive(Debug)]
pub struct ZnodeBatch {
    /// One for each write, in order.
    pub outcomes: Vec<ZnodeOutcome>,
    /// The journal slots that hold the bases of what was done: once the sidecars say the same, tell
    /// [`Keyspace::mark_slots`], then give them back with [`Znodes::release`].
    pub slots: Vec<Slot>,
}

/// Slots, and so multis whose sidecars are not yet written, at a time. Measured: one is enough for the rate, sixteen
/// hide the round trip to Redis.
pub const JOURNAL_SLOTS: usize = 16;

/// A journal slot in a certain state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Which one.
    pub number: usize,
    /// The dataVersion of its znode.
    pub version: i32,
}

/// A base that the journal holds: a write to ZooKeeper whose sidecar may not have been brought up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Where it stands.
    pub slot: Slot,
    /// The pair's key.
    pub key: Vec<u8>,
    /// The bucket it belongs to.
    pub nonce: u64,
    /// The base; `None` where the pair has none any more.
    pub base: Option<Base>,
    /// Its sequence (also where the base is `None`).
    pub sequence: u32,
}

/// Some znodes of a walk through a subtree.
pub type Walked = Vec<(String, Vec<u8>, ZkStat)>;

/// The next cursor (0 at the end) and some keys.
pub type Scanned = (u64, Vec<Vec<u8>>);

/// A walk through the subtrees of the routes.
pub trait Walk: Send {
    /// The next znodes, at most some hundred and some megabytes; `None` at the end.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Walked>, StoreError>>;

    /// Paths that the session could not read so far, with the reason.
    fn denied(&mut self) -> Vec<(String, String)>;
}

/// The ownership of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Higher than that of every owner before.
    pub epoch: u64,
    /// The lineage of the ensemble.
    pub ensemble: Ensemble,
    /// The ensemble has lost data since the last owner, in this way.
    pub lost: Option<LossCause>,
}

impl Lease {
    /// What is to be remembered of this owner's ensemble, which it has seen come so far.
    #[must_use]
    pub fn so_far(&self, znodes: Option<&dyn Znodes>) -> Remembered {
        let (zxid, tide) = znodes.map_or((0, 0), |znodes| (znodes.zxid(), znodes.tide()));
        Remembered { epoch: self.epoch, ensemble: self.ensemble.id, zxid, tide }
    }
}

/// A range of names that a pipeline claims.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// The pipeline.
    pub pipeline: String,
    /// The worker (`host:pid`).
    pub worker: String,
    /// Patterns of the side where the claim is laid.
    pub patterns: Vec<String>,
    /// Whether it writes there.
    pub writes: bool,
    /// Whether it only captures.
    pub captures: bool,
}

/// Why an ownership ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// It is gone, or cannot be relied on.
    Gone(StoreError),
    /// This worker has more pipelines than that one, which stands by for it: give it up in order.
    Moves(String),
}

/// The ZooKeeper door.
pub trait Znodes: Send + Sync {
    /// Connects, checks version and login, and stands for ownership. One attempt, bounded by the connection timeout.
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Asks whether the store can do what the pipeline needs; [`StoreError::Refused`] names what it cannot. Called once connected,
    /// before a worker starts. Changes nothing.
    fn check(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Looks at what the pipeline will need, for `validate --connect`.
    fn preflight<'a>(
        &'a self,
        range: &'a preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<preflight::Finding>, StoreError>>;

    /// Lays claim to a range; refused if another live pipeline writes an overlapping one.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Waits until this worker is first in line and none with fewer pipelines stands by; `waiting` is told who is, and how many stand by.
    fn stand<'a>(&'a self, waiting: &'a (dyn Fn(String, u64) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes the ownership: raises the epoch above every other and above `taken`, and names the ensemble's lineage, a new one if it came
    /// back empty or older than what is remembered. Both are written as one; until then what shows that it is older stays as it was, so
    /// an owner that dies midway hides nothing from the next. Called after [`Znodes::stand`].
    fn own(&self, remembered: Remembered, taken: Taken) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// The newest zxid seen.
    fn zxid(&self) -> i64;

    /// How often the tide was raised in this lineage, as far as this owner knows.
    fn tide(&self) -> i32;

    /// Raises the tide: leaves a mark in the ensemble by which an older copy of it is told, whatever zxids that begins with.
    fn raise_tide(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What [`Znodes::keep_pauses`] left, of whichever owner; empty if nothing.
    fn pauses(&self) -> BoxFuture<'_, Result<Vec<u8>, StoreError>>;

    /// Leaves this for the next owner, as the owner.
    fn keep_pauses(&self, data: Vec<u8>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What the journal of the owner before says; called once, after [`Znodes::own`].
    fn journal(&self) -> BoxFuture<'_, Result<Vec<JournalEntry>, StoreError>>;

    /// Starts the source: watches, then tells [`Link::Up`]; again after every reconnect. Runs until [`Znodes::unwatch`].
    fn watch(&self, hints: Arc<dyn Hints>);

    /// Stops the source. Once this resolves it tells nothing more and has let go of the hints.
    fn unwatch(&self) -> BoxFuture<'_, ()>;

    /// Resolves when the ownership is lost, or when another worker should have it.
    fn lost(&self) -> BoxFuture<'_, Lost>;

    /// Reads znodes, in order.
    fn read<'a>(&'a self, paths: &'a [String], look: Look) -> BoxFuture<'a, Result<Vec<ZnodeReading>, StoreError>>;

    /// Walks the subtrees below these roots. With `reads_ahead` what a step answers may have been read before it was asked for.
    fn walk(&self, roots: Vec<String>, reads_ahead: bool) -> Box<dyn Walk>;

    /// Writes, all in as few transactions as the limits allow, each with the fence and a journal slot. Returns only
    /// when the outcome of each is known, or with [`StoreError::Fenced`] when the ownership is lost.
    fn write<'a>(&'a self, writes: &'a [ZnodeWrite<'a>]) -> BoxFuture<'a, Result<ZnodeBatch, StoreError>>;

    /// Whether a transaction that does this alone is small enough, by what is known without asking: an error says why not. What the
    /// ancestors and their ACL add is found by [`Znodes::write`].
    ///
    /// # Errors
    /// One sentence.
    fn fits(&self, path: &str, op: ZnodeOp, data: usize, key: usize) -> Result<(), String>;

    /// The sidecars say what these slots say: they may be used again.
    fn release(&self, slots: &[Slot]);

    /// Changes znodes as an application would, for commands beside a worker or without one: no ownership is needed and
    /// none is checked. Each is its own compare-and-set, carried out in the order given. After an error nothing is known
    /// of any of them: look again. `Done` names no base.
    fn edit<'a>(&'a self, edits: &'a [ZnodeEdit<'a>]) -> BoxFuture<'a, Result<Vec<ZnodeOutcome>, StoreError>>;

    /// How far the ensemble's clock is ahead of ours: measured by [`Znodes::own`], and by each [`Znodes::raise_tide`].
    fn clock(&self) -> ClockOffset;

    /// Workers that wait to take over.
    fn standbys(&self) -> u64;

    /// Product and version, as far as known.
    fn server(&self) -> String;

    /// Gives everything back: the watches, the place in line, the claims, the share in the sessions. What cannot be given
    /// back now is before the next [`Znodes::connect`] ends.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A key as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// There is none.
    Absent,
    /// A string.
    Value {
        /// The bytes.
        bytes: Vec<u8>,
        /// Expiry, milliseconds since the epoch.
        expires_ms: Option<i64>,
    },
    /// A string whose bytes were not asked for: its digest.
    Digest {
        /// SHA-1 of the value.
        digest: Digest,
        /// Expiry, milliseconds since the epoch.
        expires_ms: Option<i64>,
    },
    /// Too large to be read.
    TooLarge(u64),
    /// Another type, by its name.
    WrongType(String),
    /// The answer was full before its turn came: ask again.
    Later,
    /// Not allowed. The text says what.
    Denied(String),
    /// Something else has the name under which Keepstep keeps what was agreed on about this key: that name.
    Obstructed(String),
    /// The request alone is larger than the server takes, or its answer.
    Unasked(String),
}

impl KeyState {
    /// The sentence on [`KeyState::Obstructed`].
    #[must_use]
    pub fn obstructed_by(bucket: &str) -> String {
        format!(
            "the key `{bucket}` holds another type than a hash, and its name is where Keepstep keeps what was agreed on about this \
             key; rename or delete `{bucket}`"
        )
    }
}

/// A key and its sidecar, read in one atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReading {
    /// The key.
    pub state: KeyState,
    /// The sidecar's bytes; empty if there are none.
    pub entry: Vec<u8>,
    /// Names this life of the bucket: a bucket that was lost and made again has another one.
    pub nonce: u64,
    /// Counts the lives of the data set that were seen: a restart or a replacement begins another one.
    pub life: u64,
}

/// What [`Keyspace::observe`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReadings {
    /// One for each key, in order.
    pub readings: Vec<KeyReading>,
    /// What holds for all of them.
    pub moment: Moment,
}

/// When keys were read, and what may be concluded from their absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The server's clock, milliseconds since the epoch.
    pub now_ms: i64,
    /// Whether Redis was neither restarted nor replaced, and nothing was evicted, since the last comparison that ended
    /// in step.
    pub intact: bool,
    /// Whether every event of a key that is gone had been told to [`Hints`] before this answer was given. Without it a `del` that
    /// was told may be older than a write of ours, and what took that write away still on its way.
    pub told: bool,
}

/// A change of a key as an application makes it: the sidecar is neither read nor written.
#[derive(Debug, Clone)]
pub struct KeyEdit<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value that must be there; `None`: no key.
    pub expect: Option<Digest>,
    /// The value to set; `None` removes the key.
    pub value: Option<&'a [u8]>,
}

/// One write to Redis.
#[derive(Debug, Clone)]
pub struct KeyWrite<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is done.
    pub op: KeyOp,
    /// The value that must be there (not looked at by `Note`); `None`: no key.
    pub expect: Option<Digest>,
    /// The sidecar that must be there; empty: none.
    pub expect_entry: Vec<u8>,
    /// The bucket's life that must be; 0: not looked at.
    pub expect_nonce: u64,
    /// In which life of the data set the pair was observed ([`KeyReading::life`]); 0: not looked at. In another life a
    /// `Note` is refused if the key is back where the sidecar has it (the data set is an older one), and marked as unproven
    /// if the key holds neither that nor what the base says.
    pub life: u64,
    /// The value to set.
    pub value: &'a [u8],
    /// The sidecar to leave; `None`: none.
    pub base: Option<Base>,
    /// Channel and message to publish with it.
    pub publish: Option<(&'a str, String)>,
}

/// What became of one write to Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOutcome {
    /// Done.
    Done,
    /// The state was another one: observe again.
    Refused,
    /// It cannot be done: reason (one word) and detail (one sentence).
    Impossible(&'static str, String),
    /// The server takes no writes now (memory, replica): try again later.
    NotNow(String),
}

/// What is known of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyspaceFacts {
    /// Product and version.
    pub server: String,
    /// `master_replid`.
    pub replication_id: String,
    /// `master_repl_offset`.
    pub replication_offset: i64,
    /// Whether the notifications that the source needs are on; `None` if it may not be asked.
    pub notifications: Option<bool>,
    /// What they lack, and the command that turns it on; empty if they are on.
    pub lacking: String,
}

/// The Redis door.
pub trait Keyspace: Send + Sync {
    /// Connects, checks version and login. One attempt, bounded by the connection timeout.
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Asks whether the store can do what the pipeline needs; [`StoreError::Refused`] names what it cannot. Called once connected,
    /// before a worker starts. Changes nothing.
    fn check(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Looks at what the pipeline will need, for `validate --connect`.
    fn preflight<'a>(
        &'a self,
        range: &'a preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<preflight::Finding>, StoreError>>;

    /// Lays claim to a range, and keeps it alive; refused if another live pipeline writes an overlapping one.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What this store remembers of the pipeline.
    fn remembered(&self) -> BoxFuture<'_, Result<Remembered, StoreError>>;

    /// From here on every script carries this epoch; it and the ensemble's lineage are remembered. Fenced if a newer owner has begun.
    fn begin(&self, now: Remembered) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Keys in the database, ours included.
    fn key_count(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Remembers how far the ensemble has come ([`Lease::so_far`]). Numbers only rise, and nothing is written once a newer owner has
    /// begun: then it is fenced.
    fn remember(&self, now: Remembered) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Brings the sidecars up to date with a journal: newer sequences only, living buckets only.
    fn complete(&self, entries: Vec<JournalEntry>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The sidecars say what these slots say, so that no later owner need complete them. Without this mark the older
    /// entry of a pair that was deleted and made anew would be taken for the newer one.
    /// `now` is remembered as well, as by [`Keyspace::remember`]: an ensemble that comes back older than a write of ours is noticed.
    fn mark_slots<'a>(&'a self, slots: &'a [Slot], now: Remembered) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The slots that were marked last.
    fn marked_slots(&self) -> BoxFuture<'_, Result<Vec<Slot>, StoreError>>;

    /// Starts the source: subscribes and tracks, then tells [`Link::Up`]; again after every reconnect.
    fn watch(&self, hints: Arc<dyn Hints>);

    /// Stops the source. Once this resolves it tells nothing more and has let go of the hints.
    fn unwatch(&self) -> BoxFuture<'_, ()>;

    /// Reads keys and their sidecars. Values above some size come as digests unless `values` is set.
    fn observe<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<KeyReadings, StoreError>>;

    /// Writes; each is its own compare-and-set. Members of one call must be distinct keys.
    fn apply<'a>(&'a self, writes: &'a [KeyWrite<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>>;

    /// Reads keys and leaves no trace: for commands beside a worker or without one. Values above some size come as
    /// digests unless `values` is set.
    fn look<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<Vec<KeyState>, StoreError>>;

    /// Changes keys as an application would: the sidecars stay as they are, so to the routes it is news. Each is its
    /// own compare-and-set. Members of one call must be distinct keys; may be repeated after an error.
    fn edit<'a>(&'a self, edits: &'a [KeyEdit<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>>;

    /// Some keys with this prefix, from `cursor` (0 at first); the next cursor is 0 at the end. Repeats are possible.
    fn scan<'a>(&'a self, cursor: u64, prefix: &'a [u8]) -> BoxFuture<'a, Result<Scanned, StoreError>>;

    /// Keys that have a sidecar, some buckets at a time, as [`Keyspace::scan`].
    fn scan_sidecars(&self, cursor: u64) -> BoxFuture<'_, Result<Scanned, StoreError>>;

    /// A comparison found everything in step or has settled it: what vanishes unseen from here on is a delete again,
    /// unless Redis is restarted or replaced or evicts. `begun` is what [`Keyspace::mark`] answered before it began.
    fn compared(&self, begun: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether what vanishes unseen now is a delete: nothing has happened since a comparison that was concluded.
    fn is_intact(&self) -> bool;

    /// How data may have been lost since that comparison; `None` as well where there was none.
    fn lost_since_compared(&self) -> Option<LossCause>;

    /// A mark for [`Keyspace::compared`].
    fn mark(&self) -> u64;

    /// The life of the data set now ([`KeyReading::life`]).
    fn life(&self) -> u64;

    /// What is known of the server.
    fn facts(&self) -> Arc<KeyspaceFacts>;

    /// Number of the database.
    fn database(&self) -> i64;

    /// Gives everything back.
    fn close(&self) -> BoxFuture<'_, ()>;
}
