//! The contract of the two kinds of store: what the pipeline asks of a ZooKeeper and of a Redis,
//! and what they report to it.
//!
//! ```text
//!   store --Hints--> dirty set            a hint says "look at this pair", never what it holds
//!   pipeline --read/observe--> store      states are read in batches, large values by their size only
//!   pipeline --write/apply--> store       every write is a compare-and-set and carries the owner's epoch
//! ```
//!
//! Calls are batched; one bad member never fails the others. All methods may be called from several
//! rounds at once.

mod claim;
pub mod clock;
pub mod contract;
mod error;
mod hints;
mod keys;
mod lease;
mod limit;
mod overlap;
mod password;
pub mod preflight;
pub mod redis;
mod remedy;
mod request;
mod shared_connection;
mod ties;
mod znodes;
pub mod zookeeper;

pub use claim::{Claim, HeldClaim};
pub use clock::ClockOffset;
pub use contract::{Keyspace, Walk, Znodes, so_far};
pub use error::{Failure, FailureKind, StoreError, one_for_one};
pub use hints::{Hints, Link, removal_of};
pub use keys::{
    KeyEdit, KeyOutcome, KeyReading, KeyReadings, KeyState, KeyWrite, KeyspaceFacts, LeftMilestone, ReadContext,
    Scanned,
};
pub use lease::{Lease, Lost};
pub use limit::{NAME_BYTES_MAX, VALUE_BYTES_MAX, is_creatable};
pub use overlap::{overlaps, owned_by_another};
pub use password::Password;
pub use ties::{Known, Ties, difference, random_identity};
pub use znodes::{
    JOURNAL_SLOTS, JournalEntry, Look, Slot, Walked, ZnodeAcl, ZnodeBatch, ZnodeEdit, ZnodeOutcome, ZnodeReading,
    ZnodeWrite,
};

pub use crate::plan::guard::{Milestone, Remembered, Taken};
pub use crate::plan::{KeyOp, ZnodeOp};
