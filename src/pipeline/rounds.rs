//! What the rounds of an ownership work with, whichever pairs they have.
//!
//! ```text
//!   observe (read) --> settle (plan, record) --> apply (write) --> the books
//! ```
//!
//! What a round decides about a pair is in [`super::round`]; here are the parts that ask for it, each in a file of its own.

use super::advance::Advance;
use super::books::Books;
use super::doors::Doors;
use super::record::Recorder;
use super::spec::Spec;
use std::sync::Arc;

/// See the module.
pub(super) struct Rounds {
    pub(super) spec: Arc<Spec>,
    pub(super) doors: Arc<Doors>,
    pub(super) books: Arc<Books>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) advance: Arc<Advance>,
}

impl Rounds {
    /// Changes of this key since its base, as counted so far.
    pub(super) fn events_of(&self, name: &[u8]) -> i32 {
        if self.spec.counts_matter { self.books.counts.of(name) } else { 0 }
    }

    /// Changes of this key since its base; `None` if they could not all be counted.
    pub(super) fn writes_since_base(&self, name: &[u8], route: usize) -> Option<u32> {
        let notifies = self.doors.redis_facts()?.notifications == Some(true);
        if notifies && self.spec.is_counted(route) { self.books.counts.since_base(name) } else { None }
    }
}
