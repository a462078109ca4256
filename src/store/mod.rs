//! The contract of the two kinds of store: what the pipeline asks of a ZooKeeper and of a Redis, and what they tell it.
//!
//! ```text
//!   store --Hints--> dirty set            a hint says "look at this pair", never what it holds
//!   pipeline --read/observe--> store      states are read in batches, large values by their size only
//!   pipeline --write/apply--> store       every write is a compare-and-set and carries the owner's epoch
//! ```
//!
//! Calls are batched; one bad member never fails the others. All methods may be called from several rounds at once.

mod claim;
pub mod clock;
mod error;
mod held;
mod keys;
mod limit;
mod overlap;
mod password;
pub mod preflight;
pub mod redis;
mod remedy;
mod request;
mod ties;
mod znodes;
pub mod zookeeper;

pub use claim::{Claim, HeldClaim};
pub use clock::ClockOffset;
pub use error::{StoreError, one_for_one};
pub use keys::{
    KeyEdit, KeyOutcome, KeyReading, KeyReadings, KeyState, KeyWrite, KeyspaceFacts, LeftMilestone, Moment, Scanned,
};
pub use limit::{NAME_BYTES_MAX, VALUE_BYTES_MAX, is_creatable};
pub use overlap::{overlaps, owned_by_another};
pub use password::Password;
pub use ties::{Known, Ties, difference, random_identity};
pub use znodes::{
    JOURNAL_SLOTS, JournalEntry, Look, Slot, Walked, ZnodeAcl, ZnodeBatch, ZnodeEdit, ZnodeOutcome, ZnodeReading,
    ZnodeWrite,
};

use crate::change::{LossCause, Position, Side};
pub use crate::plan::guard::{Milestone, Remembered, Taken};
use crate::plan::{Ensemble, Removal};
pub use crate::plan::{KeyOp, ZnodeOp};
use futures::future::BoxFuture;
use std::sync::Arc;

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

    /// This side may have lost data, in this way: compare everything, and tell what is missing as a loss. Not `is_certain`: others
    /// can make the server say it as often as they like.
    fn lost(&self, side: Side, cause: LossCause, why: &str, is_certain: bool);

    /// The source's connection came or went.
    fn link(&self, side: Side, link: Link);

    /// The ownership has to end, for this reason: what the store is to remember of it can be neither read nor written.
    fn end(&self, why: StoreError);
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

    /// Whether there is the root of all paths: [`StoreError::Refused`] if `connect` names a chroot that is missing.
    fn find_root(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Looks at what the pipeline will need, for `validate --connect`.
    fn preflight<'a>(
        &'a self,
        range: &'a preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<preflight::Finding>, StoreError>>;

    /// What this store says of itself and of the pipeline. Leaves no trace.
    fn ties(&self) -> BoxFuture<'_, Result<Ties, StoreError>>;

    /// The name of the first in line, if there is anybody.
    fn owner(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>>;

    /// Gives the store this identity if it has none, and answers with the one that it has. Called by the first in line only.
    fn identify(&self, identity: String) -> BoxFuture<'_, Result<String, StoreError>>;

    /// Makes the store remember the pipeline's other store, and its routes. Called by the first in line only.
    fn tie(&self, other: Known, routes: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Lays claim to a range; refused if another live pipeline writes an overlapping one.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether [`Znodes::claim`] would be refused now. Leaves no trace.
    fn look_at_claims<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Waits until this worker is first in line and none with fewer pipelines stands by; `waiting` is told who is, and how many
    /// stand by.
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

    /// The journal slots of which no sidecar is still to be written.
    fn settled_slots(&self) -> Vec<Slot>;

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

    /// What this store says of itself and of the pipeline. Leaves no trace.
    fn ties(&self) -> BoxFuture<'_, Result<Ties, StoreError>>;

    /// Gives the store this identity if it has none, and answers with the one that it has. Called by the first in line only.
    fn identify(&self, identity: String) -> BoxFuture<'_, Result<String, StoreError>>;

    /// Makes the store remember the pipeline's other store. Called by the first in line only.
    fn tie(&self, other: Known) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The claim that a worker has laid for this pipeline, unless it is void.
    fn held_claim(&self) -> BoxFuture<'_, Result<Option<HeldClaim>, StoreError>>;

    /// Lays claim to a range, and keeps it alive; refused if another live pipeline writes an overlapping one.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether [`Keyspace::claim`] would be refused now. Leaves no trace.
    fn look_at_claims<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What this store remembers of the pipeline.
    fn remembered(&self) -> BoxFuture<'_, Result<Remembered, StoreError>>;

    /// From here on every script carries this epoch; it and the ensemble's lineage are remembered, and the claim names that. Fenced if a
    /// newer owner has begun.
    fn begin(&self, now: Remembered) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Keys in the database, ours included.
    fn key_count(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Remembers how far the ensemble has come ([`Lease::so_far`]), and up to which position of the stream everything is written. What is
    /// remembered of the ensemble only rises, and nothing is written once a newer owner has begun: then it is fenced.
    fn remember(&self, now: Remembered, written: Position) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Everything that the last owner put on its stream below this position was written; `None` if it did not say so.
    fn written(&self) -> BoxFuture<'_, Result<Option<Position>, StoreError>>;

    /// Brings the sidecars up to date with a journal: newer sequences only, living buckets only. Answers whether a key was back at what
    /// its sidecar says, and not by its expiry: then the data set is an older one.
    fn complete(&self, entries: Vec<JournalEntry>) -> BoxFuture<'_, Result<bool, StoreError>>;

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

    /// Leaves a new [`Milestone`] in the data set, behind all that was observed in it until now; `None`: it may be another data set than
    /// a moment ago.
    fn leave_milestone(&self) -> BoxFuture<'_, Result<Option<LeftMilestone>, StoreError>>;

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

    /// Whether the data set is the one that was looked at by the last comparison that was concluded, without a restart since.
    fn is_life_compared(&self) -> bool;

    /// Looks whether the data set is another one than a moment ago, which not every change of it tells; waits for a second at most.
    fn look_into(&self) -> BoxFuture<'_, ()>;

    /// The data set is an older one: [`Moment::older`] until a comparison is concluded in it.
    fn note_older(&self);

    /// What is known of the server.
    fn facts(&self) -> Arc<KeyspaceFacts>;

    /// Number of the database.
    fn database(&self) -> i64;

    /// Gives everything back.
    fn close(&self) -> BoxFuture<'_, ()>;
}
