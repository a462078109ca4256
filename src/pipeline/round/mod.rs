//! A round, seen from one of its pairs: what is read, what is decided, what each answer means. No I/O, no clock, no lock.
//!
//! ```text
//!   news --Reading::begin--> Reading --answers--> Observed --decide--> Write --answers--> End --settle--> the books
//!                               |                    |                   |                 ^
//!                               +--------------------+-------------------+-----------------+
//! ```
//!
//! Each state is a value of its own type that an answer consumes, so an answer that does not belong to a state cannot be
//! written down. The drivers (`observe`, `settle`, `apply`) keep the bytes, ask the stores for many pairs at once, and hand each
//! pair its answer. The exhaustive checker (`tests/model`) drives the same types, one request at a time.
//!
//! Why one pair and not the batch: nothing that is decided about a pair depends on another pair of its round. What does
//! depend on all of them (deletes in bulk, the end of a comparison) is decided elsewhere, between rounds.

mod end;
mod facts;
mod observed;
mod reading;
mod write;

#[cfg(test)]
mod tests;

pub use end::{Again, Delay, End, PairBooks, Reason};
pub use facts::{Facts, Hindrance, NewestRecord};
pub use observed::{Decision, Observed};
pub use reading::{Ask, FoundKey, FoundZnode, KeyAnswer, Next, Reading, Stage};
pub use write::{Outcome, Write, ZnodeWritten};
