//! From an error to its remedy. Each store has one exhaustive function that gives the remedy by the
//! kind and code of an error (`redis/fault.rs`, `zookeeper/fault.rs`); what a remedy means for a
//! whole call stands here, once.

use super::{FailureKind, StoreError};
use crate::failpoint::mark;

/// What is done about an error of a server or of the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing is known of what was asked: wait, and observe again.
    Retry,
    /// The server answers and does not do this now: wait, and ask again.
    NotNow,
    /// Where one pair is meant, it is quarantined, for this reason; a call that serves all pairs
    /// cannot work.
    Quarantine(&'static str),
    /// The session that holds the ownership is gone.
    EndOwnership,
    /// Only a person can mend it.
    Halt,
}

impl Remedy {
    /// The error of a call that serves all pairs.
    pub(super) fn of_call(self, kind: FailureKind, text: String) -> StoreError {
        mark!(match self {
            Remedy::Retry => "call: retry",
            Remedy::NotNow => "call: not now",
            Remedy::Quarantine(_) => "call: would be a quarantine",
            Remedy::EndOwnership => "call: end ownership",
            Remedy::Halt => "call: halt",
        });
        match self {
            Remedy::Retry => StoreError::away(kind, text),
            Remedy::NotNow => StoreError::not_now(kind, text),
            Remedy::EndOwnership => StoreError::fenced(kind, text),
            Remedy::Quarantine(_) | Remedy::Halt => StoreError::refused(kind, text),
        }
    }
}
