//! What the pipeline and the commands ask of a store, by role. [`Znodes`] is a ZooKeeper store in
//! all its roles, [`Keyspace`] a Redis.
//!
//! ```text
//!   both        Connection  Identity  RangeClaims  Source
//!   ZooKeeper   Authority  ZnodeReader  ZnodeSink  ZnodeEditor
//!   Redis       OwnerState  KeyReader  KeySink  KeyEditor  DataSet
//! ```
//!
//! What holds for every method, unless it says otherwise:
//! - *Who calls, and when:* any task, several at once, after [`Connection::connect`] has returned.
//!   A call on a store that is not connected is [`StoreError::Away`].
//! - *Cancellation:* dropping the future takes nothing back that was sent: a write may still be
//!   carried out. Nobody who drops one knows its outcome; whoever needs it observes again.
//! - *Repeats:* a call may be repeated after any error but [`StoreError::Fenced`] and
//!   [`StoreError::Refused`], which no repeat mends.
//! - *`Ok`* means that the server has answered for every member. Answers are one for one, in the
//!   order of the members; one bad member fails no other.
//! - *`Err`* means that nothing is known of any member: each may have been carried out, before or
//!   after.

use super::claim::{Claim, HeldClaim};
use super::clock::ClockOffset;
use super::error::StoreError;
use super::hints::Hints;
use super::keys::{KeyEdit, KeyOutcome, KeyReadings, KeyState, KeyWrite, KeyspaceFacts, LeftMilestone, Scanned};
use super::lease::{Lease, Lost};
use super::preflight;
use super::ties::{Known, Ties};
use super::znodes::{JournalEntry, Look, Slot, Walked, ZnodeBatch, ZnodeEdit, ZnodeOutcome, ZnodeReading, ZnodeWrite};
use crate::change::{LossCause, Position};
use crate::plan::ZnodeOp;
use crate::plan::guard::{Remembered, Taken};
use futures::future::BoxFuture;
use std::sync::Arc;

/// A store can be reached, and does what is needed.
pub trait Connection: Send + Sync {
    /// Connects, checks version and login; a ZooKeeper store becomes a candidate for the ownership.
    /// Called by the owner's task before each ownership, and by commands. One attempt, bounded by
    /// the connection timeout. May be cancelled and repeated. After `Err` nothing is open that
    /// [`Connection::close`] would not close.
    fn connect(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Asks whether the store can do what the pipeline needs; [`StoreError::Refused`] names what it
    /// cannot. Called before a worker starts. Changes nothing; may be cancelled and repeated.
    fn check(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Looks at what the pipeline will need, for `validate --connect`. Changes nothing; may be
    /// cancelled and repeated.
    fn preflight<'a>(
        &'a self,
        range: &'a preflight::Range<'a>,
    ) -> BoxFuture<'a, Result<Vec<preflight::Finding>, StoreError>>;

    /// Releases everything: watches, candidacy, claims, the share in the connections. Called at the
    /// end of each ownership, also after a failed [`Connection::connect`]. May be cancelled and
    /// repeated: anything that cannot be released now is released before the next `connect`
    /// returns, or ends with the session.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Which store this is, and which one the pipeline had before.
pub trait Identity: Send + Sync {
    /// The identity of this store, and what it remembers of the pipeline. Leaves no trace; may be
    /// cancelled and repeated.
    fn ties(&self) -> BoxFuture<'_, Result<Ties, StoreError>>;

    /// Gives the store this identity if it has none, and answers with the one that it has. Called
    /// by the first candidate only. May be repeated: the first one that arrived stays.
    fn identify(&self, identity: String) -> BoxFuture<'_, Result<String, StoreError>>;
}

/// Which pipeline writes which range of a store.
pub trait RangeClaims: Send + Sync {
    /// Claims a range and keeps the claim alive until [`Connection::close`];
    /// [`StoreError::Refused`] if another live pipeline writes an overlapping one. Called before
    /// each ownership; may be repeated, and then replaces the claim. After a cancellation or `Err`
    /// the claim may be there.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether [`RangeClaims::claim`] would be refused now. Leaves no trace; may be cancelled and
    /// repeated.
    fn look_at_claims<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Reports which pairs may have changed.
pub trait Source: Send + Sync {
    /// Starts to report: subscribes, then [`super::hints::Link::Up`]; again after every reconnect,
    /// with [`super::hints::Link::Down`] in between. Called once per ownership; returns at once.
    /// Runs until [`Source::unwatch`].
    fn watch(&self, hints: Arc<dyn Hints>);

    /// Stops to report. Once this resolves, nothing more is reported and `hints` is let go. May be
    /// cancelled and repeated.
    fn unwatch(&self) -> BoxFuture<'_, ()>;
}

/// Who owns a pipeline. The ensemble decides it.
pub trait Authority: Send + Sync {
    /// The name of the first candidate, if there is any. Leaves no trace; may be cancelled and
    /// repeated.
    fn owner(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>>;

    /// Makes the store remember the pipeline's other store, and its routes. Called by the first
    /// candidate only. May be repeated.
    fn tie(&self, other: Known, routes: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Waits until this worker is the first candidate and no candidate with fewer pipelines stands
    /// by; `waiting` is given the name of the owner and how many stand by. May be cancelled: the
    /// candidacy stays until [`Connection::close`].
    fn stand<'a>(&'a self, waiting: &'a (dyn Fn(String, u64) + Send + Sync)) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes the ownership: raises the epoch above every other and above `taken`, and names the
    /// ensemble's lineage, a new one if it came back empty or older than what is remembered. Both
    /// are written as one; until then what shows that it is older stays as it was, so an owner that
    /// dies midway hides nothing from the next. Called once, after [`Authority::stand`]. After a
    /// cancellation or `Err` the epoch may be raised, and nobody owns.
    fn own(&self, remembered: Remembered, taken: Taken) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Resolves when the ownership is lost, or when another worker should have it. May be cancelled
    /// and repeated.
    fn lost(&self) -> BoxFuture<'_, Lost>;

    /// Reads the journal that the previous owner left. Called once, after [`Authority::own`]: from
    /// then on nobody else writes it. May be cancelled and repeated.
    fn journal(&self) -> BoxFuture<'_, Result<Vec<JournalEntry>, StoreError>>;

    /// The newest zxid seen. At hand.
    fn zxid(&self) -> i64;

    /// How often the watermark was advanced in this lineage, as far as this owner knows. At hand.
    fn watermark(&self) -> i32;

    /// Advances the watermark: leaves a mark in the ensemble that an older copy of it lacks, whatever
    /// zxids that copy begins with. Called by the owner, one at a time. After a cancellation or
    /// `Err` it may be raised by one.
    fn advance_watermark(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// How far the ensemble's clock is ahead of ours: measured by [`Authority::own`], and by each
    /// [`Authority::raise_tide`]. At hand.
    fn clock(&self) -> ClockOffset;

    /// What [`Authority::keep_pauses`] left, of whichever owner; empty if nothing. May be cancelled
    /// and repeated.
    fn pauses(&self) -> BoxFuture<'_, Result<Vec<u8>, StoreError>>;

    /// Leaves this for the next owner. Called by the owner, one at a time; fenced. May be repeated.
    fn keep_pauses(&self, data: Vec<u8>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Workers that wait to take over. At hand.
    fn standbys(&self) -> u64;

    /// Product and version, as far as known. At hand.
    fn server(&self) -> String;
}

/// What znodes hold.
pub trait ZnodeReader: Send + Sync {
    /// Whether there is the root of all paths: [`StoreError::Refused`] if `connect` names a chroot
    /// that is missing. Changes nothing; may be cancelled and repeated.
    fn find_root(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Reads znodes. Called by rounds and commands. Changes nothing; may be cancelled and repeated.
    fn read<'a>(&'a self, paths: &'a [String], look: Look) -> BoxFuture<'a, Result<Vec<ZnodeReading>, StoreError>>;

    /// Walks the subtrees below these roots. With `reads_ahead` what a step answers may have been
    /// read before it was asked for. A step may not be cancelled; the walk may be dropped between
    /// two steps.
    fn walk(&self, roots: Vec<String>, reads_ahead: bool) -> Box<dyn Walk>;
}

/// A walk through the subtrees of the routes.
pub trait Walk: Send {
    /// The next znodes, at most some hundred and some megabytes; `None` at the end.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Walked>, StoreError>>;

    /// Paths that the session could not read so far, with the reason.
    fn denied(&mut self) -> Vec<(String, String)>;
}

/// Writes znodes as the owner.
pub trait ZnodeSink: Send + Sync {
    /// Writes, all in as few transactions as the limits allow, each with the fence and a journal
    /// slot. Called by rounds of the owner. Returns only when the outcome of each member is known,
    /// lost answers included, or with [`StoreError::Fenced`] when the ownership is lost. Not
    /// cancelled while the ownership lasts: the slots of what was sent stay taken until it ends.
    /// After `Ok` the slots in the answer are the caller's until [`ZnodeSink::release`].
    fn write<'a>(&'a self, writes: &'a [ZnodeWrite<'a>]) -> BoxFuture<'a, Result<ZnodeBatch, StoreError>>;

    /// Whether a transaction that does this alone is small enough, by what is known without asking.
    /// What the ancestors and their ACL add is found by [`ZnodeSink::write`]. At hand.
    ///
    /// # Errors
    /// One sentence with the reason.
    fn fits(&self, path: &str, op: ZnodeOp, data: usize, key: usize) -> Result<(), String>;

    /// Frees these slots: the sidecars hold what is in them, and Redis has marked them
    /// ([`OwnerState::mark_slots`]). At hand. A slot of another ownership is left alone.
    fn release(&self, slots: &[Slot]);

    /// The journal slots of which no sidecar is still to be written. At hand.
    fn settled_slots(&self) -> Vec<Slot>;
}

/// Writes znodes as an application would.
pub trait ZnodeEditor: Send + Sync {
    /// Changes znodes for commands, beside a worker or without one: no ownership is needed and none
    /// is checked. Each is its own compare-and-set, carried out in the order given. After a
    /// cancellation or `Err`: look again. `Done` names no base.
    fn edit<'a>(&'a self, edits: &'a [ZnodeEdit<'a>]) -> BoxFuture<'a, Result<Vec<ZnodeOutcome>, StoreError>>;
}

/// What Redis remembers of a pipeline's owners. Every write carries the epoch and is
/// [`StoreError::Fenced`] once a newer owner has begun.
pub trait OwnerState: Send + Sync {
    /// Makes the store remember the pipeline's other store. Called by the first candidate only. May
    /// be repeated.
    fn tie(&self, other: Known) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The claim that a worker has laid for this pipeline, unless it is void. Leaves no trace; may
    /// be cancelled and repeated.
    fn held_claim(&self) -> BoxFuture<'_, Result<Option<HeldClaim>, StoreError>>;

    /// What this store remembers of the pipeline's owners. Called before [`Authority::own`]. Leaves
    /// no trace; may be cancelled and repeated.
    fn remembered(&self) -> BoxFuture<'_, Result<Remembered, StoreError>>;

    /// From here on every script carries this epoch; it and the ensemble's lineage are remembered,
    /// and the claim names that lineage. Called once, after [`Authority::own`].
    fn begin(&self, now: Remembered) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Remembers how far the ensemble has come ([`so_far`]), and up to which position of the stream
    /// everything is written. What is remembered of the ensemble only rises. Called by the owner's
    /// task, and once when it ends. May be repeated.
    fn remember(&self, now: Remembered, written: Position) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Everything that the last owner put on its stream below this position was written; `None` if
    /// that owner left no position. May be cancelled and repeated.
    fn written(&self) -> BoxFuture<'_, Result<Option<Position>, StoreError>>;

    /// Brings the sidecars up to date with a journal: newer sequences only, living buckets only.
    /// Called once, after [`OwnerState::begin`], before anything is observed. Answers whether a key
    /// was back at its sidecar's value, and not by its expiry: then the data set is an older one.
    /// May be repeated.
    fn complete(&self, entries: Vec<JournalEntry>) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Records that the sidecars hold what is in these slots, so that no later owner completes
    /// them. Without this mark the older entry of a pair that was deleted and made anew would be
    /// taken for the newer one. `now` is remembered as well, as by [`OwnerState::remember`]: an
    /// ensemble that comes back older than a write of ours is noticed. Called before
    /// [`ZnodeSink::release`]. May be repeated.
    fn mark_slots<'a>(&'a self, slots: &'a [Slot], now: Remembered) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The slots that were marked last. May be cancelled and repeated.
    fn marked_slots(&self) -> BoxFuture<'_, Result<Vec<Slot>, StoreError>>;
}

/// What keys and their sidecars hold.
pub trait KeyReader: Send + Sync {
    /// Reads keys and their sidecars. Called by rounds and comparisons of the owner. Values above
    /// some size come as digests unless `values` is set. Raises the epoch of the buckets, so nobody
    /// else changes a base between this and a write; otherwise changes nothing. May be cancelled
    /// and repeated.
    fn observe<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<KeyReadings, StoreError>>;

    /// Some keys with this prefix, from `cursor` (0 at first); the next cursor is 0 at the end.
    /// Repeats are possible. Changes nothing; may be cancelled and repeated.
    fn scan<'a>(&'a self, cursor: u64, prefix: &'a [u8]) -> BoxFuture<'a, Result<Scanned, StoreError>>;

    /// Keys that have a sidecar, some buckets at a time, as [`KeyReader::scan`].
    fn scan_sidecars(&self, cursor: u64) -> BoxFuture<'_, Result<Scanned, StoreError>>;

    /// Keys in the database, ours included. Changes nothing; may be cancelled and repeated.
    fn key_count(&self) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// Writes keys and sidecars as the owner.
pub trait KeySink: Send + Sync {
    /// Writes; each is its own compare-and-set and carries the epoch. Members of one call must be
    /// distinct keys. Called by rounds of the owner. May be repeated after an error: a member that
    /// was carried out is refused then, and observed again.
    fn apply<'a>(&'a self, writes: &'a [KeyWrite<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>>;

    /// Leaves a new [`crate::plan::guard::Milestone`] in the data set, behind all that was observed
    /// in it until now; `None`: it may be another data set than a moment ago. Called by rounds
    /// before [`ZnodeSink::write`]. May be cancelled and repeated: each one is another number.
    fn leave_milestone(&self) -> BoxFuture<'_, Result<Option<LeftMilestone>, StoreError>>;
}

/// Reads and writes keys as an application would.
pub trait KeyEditor: Send + Sync {
    /// Reads keys and leaves no trace: for commands beside a worker or without one. Values above
    /// some size come as digests unless `values` is set. May be cancelled and repeated.
    fn look<'a>(&'a self, keys: &'a [&'a [u8]], values: bool) -> BoxFuture<'a, Result<Vec<KeyState>, StoreError>>;

    /// Changes keys: the sidecars stay as they are, so to the routes it is news. Each is its own
    /// compare-and-set. Members of one call must be distinct keys; may be repeated after an error.
    fn edit<'a>(&'a self, edits: &'a [KeyEdit<'a>]) -> BoxFuture<'a, Result<Vec<KeyOutcome>, StoreError>>;
}

/// Which data set Redis holds, and what its absences prove.
pub trait DataSet: Send + Sync {
    /// A mark for [`DataSet::compared`], taken before the comparison begins. At hand.
    fn mark(&self) -> u64;

    /// A comparison found everything in step or has settled it: from here on an unobserved
    /// disappearance is a delete again, unless Redis is restarted or replaced or evicts. `begun` is
    /// what [`DataSet::mark`] answered before it began; anything that happened since makes this
    /// call do nothing. May be repeated.
    fn compared(&self, begun: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether an unobserved disappearance may be treated as a delete: nothing has happened to the
    /// data set since the last comparison that was concluded. At hand.
    fn is_intact(&self) -> bool;

    /// How data may have been lost since that comparison; `None` as well where there was none. At
    /// hand.
    fn lost_since_compared(&self) -> Option<LossCause>;

    /// The incarnation of the data set now ([`super::keys::KeyReading::incarnation`]). At hand.
    fn incarnation(&self) -> u64;

    /// Whether the data set is the one that was looked at by the last comparison that was
    /// concluded, without a restart since. At hand.
    fn is_incarnation_compared(&self) -> bool;

    /// Checks whether the data set was replaced a moment ago, which not every replacement shows at
    /// once; waits for a second at most. May be cancelled and repeated.
    fn look_into(&self) -> BoxFuture<'_, ()>;

    /// The data set is an older one: [`super::keys::ReadContext::older`] until a comparison is concluded
    /// in it. At hand.
    fn note_older(&self);

    /// What is known of the server. At hand.
    fn facts(&self) -> Arc<KeyspaceFacts>;

    /// Number of the database. At hand.
    fn database(&self) -> i64;
}

/// A ZooKeeper store in all its roles.
pub trait Znodes:
    Connection + Identity + RangeClaims + Source + Authority + ZnodeReader + ZnodeSink + ZnodeEditor
{
}

impl<T: Connection + Identity + RangeClaims + Source + Authority + ZnodeReader + ZnodeSink + ZnodeEditor> Znodes for T {}

/// A Redis store in all its roles.
pub trait Keyspace:
    Connection + Identity + RangeClaims + Source + OwnerState + KeyReader + KeySink + KeyEditor + DataSet
{
}

impl<T> Keyspace for T where
    T: Connection + Identity + RangeClaims + Source + OwnerState + KeyReader + KeySink + KeyEditor + DataSet
{
}

/// What is to be remembered of this owner's ensemble, which it has seen come so far.
#[must_use]
pub fn so_far(lease: &Lease, znodes: Option<&dyn Znodes>) -> Remembered {
    let (zxid, watermark) = znodes.map_or((0, 0), |znodes| (znodes.zxid(), znodes.watermark()));
    Remembered { epoch: lease.epoch, ensemble: lease.ensemble.id, zxid, watermark }
}
