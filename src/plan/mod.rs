//! What to do with a pair: the base, the observation, the rules, and `plan()`, all pure.
//!
//! ```text
//!   base (last agreed state) --\
//!   znode as observed ----------> plan(policy, observation) -> action
//!   key as observed ------------/                                       |
//!                                                                      step() -> stream record + compare-and-set
//! ```
//!
//! [`path()`] says what is read for an observation, [`step()`] what an action does, [`guard`] what the stores' own state adds.
//!
//! There is no clock, no I/O and no async here, so that every interleaving can be explored with the very function that
//! ships. Echo suppression is a consequence: after a write of ours both sides equal the base, and the echo's
//! observation plans to [`Action::Nothing`].

mod base;
mod bulk;
mod decide;
pub mod guard;
mod path;
mod policy;
mod task;
#[cfg(test)]
mod tests;

pub use base::{Base, path_id};
pub use bulk::{Bulk, bulk};
pub use decide::{
    Action, CLOCK_WAS_SET, Ensemble, Key, Observation, Removal, Seen, Vanished, Verdict, Znode, lost, plan,
};
pub use path::{Known, Named, Next, Path, after_key, after_znode, is_doubtful, path};
pub use policy::{Ephemeral, Flow, OnConflict, OnRemoval, Policy};
pub use task::{Circumstances, KeyOp, Record, Reported, Step, Task, Wait, ZnodeOp, agreed, note, step};
