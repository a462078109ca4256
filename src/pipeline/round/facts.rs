//! What a round must know about its pair and its worker. Every answer is at hand: none waits for a store.

use crate::pipeline::hint::News;
use crate::plan::{Ensemble, Known, Policy, Reported, Seen, Task};
use std::time::Duration;

/// What the newest record of the pair on the stream says of the state that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestRecord {
    /// The newest record has the same value as the key that was read.
    pub is_key: bool,
    /// The newest record has the same value as the znode that was read. A znode that is empty since its pair was deleted has none.
    pub is_znode: bool,
}

/// Why a write cannot be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// No request can hold it.
    TooLarge,
    /// Redis evicts keys as fast as they are restored: wait so long.
    NoRoom(Duration),
}

/// What the round must know about the pair and the worker. A method that must be called at a certain moment documents it.
pub trait Facts {
    /// The rules of the pair's route.
    fn policy(&self) -> &Policy;

    /// The name of the pair's path ([`crate::plan::path_id`]).
    fn path_id(&self) -> u32;

    /// The lineage of the ensemble in this ownership.
    fn ensemble(&self) -> Ensemble;

    /// Whether deletes that no event reported are counted before they are carried out.
    fn guards_deletes(&self) -> bool;

    /// Whether every change of the znode since its base was reported ([`crate::pipeline::sources::Sources::is_watched`]).
    fn is_watched(&self) -> bool;

    /// Whether a comparison has ended that began in this incarnation of Redis' data set.
    fn is_compared(&self, incarnation: u64) -> bool;

    /// Whether a comparison that included this pair's route has ended in this incarnation of the data set; other routes may have been paused.
    fn is_route_compared(&self, incarnation: u64) -> bool;

    /// Whether events of keys arrive.
    fn hears_redis(&self) -> bool;

    /// Whether the pair is in quarantine: its base may be older than what was read of it.
    fn is_quarantined(&self) -> bool;

    /// What is remembered of the pair's base.
    fn known(&self) -> Known;

    /// The newest zxid seen when a pair last lost its base. Asked after the znode was read.
    fn gone_zxid(&self) -> i64;

    /// Returns the news with the newest event of the key, including events that arrived after the pair was taken, and with no event if
    /// events may have been lost since. Asked after the key was read.
    fn newest_event(&self, news: News) -> News;

    /// For each side: whether an event reported its present state. Asked after both were read.
    fn reported(&self, news: News) -> Reported;

    /// The newest record of the pair; `None` unless it is certainly the pair's latest state.
    fn newest_record(&self) -> Option<NewestRecord>;

    /// Whether the newest record of the pair is a delete that is not carried out yet.
    fn is_delete_unwritten(&self) -> bool;

    /// Whether Redis has lost data of which this key may be a part: nobody saw the key being deleted.
    fn may_be_lost(&self) -> bool;

    /// When and how often the key changed, as far as a rule asks for it.
    fn times(&self, news: News, comparing: bool) -> Seen;

    /// Whether this write cannot be made now; `is_restore`: a key is put back that no application changed.
    fn hindrance(&self, task: &Task, is_restore: bool) -> Option<Hindrance>;
}
