//! What to do with a pair: the base, the observation, the rules, and `plan()`, all pure.
//!
//! ```text
//!   base (last agreed state) --\
//!   znode as observed ----------> plan(policy, observation) -> action
//!   key as observed ------------/
//! ```
//!
//! There is no clock, no I/O and no async here, so that every interleaving can be explored with the very function that
//! ships. Echo suppression is a consequence: after a write of ours both sides equal the base, and the echo's
//! observation plans to [`Action::Nothing`].

mod base;
mod decide;
mod policy;
#[cfg(test)]
mod tests;

pub use base::{Base, path_id};
pub use decide::{Action, Ensemble, Key, Observation, Removal, Seen, Vanished, Verdict, Znode, plan};
pub use policy::{Ephemeral, Flow, OnConflict, OnRemoval, Policy};
