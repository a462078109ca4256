//! The stream as history, and the stores compared: replay, diff, repair, and the values that they replace.
//!
//! ```text
//!   stream --fold--> one state a pair --\
//!   Znodes + Keyspace --diff--> differences --repair--> the preferred side's states --\
//!                                                                                      make --> look, keep, edit
//!                                         keep: what is replaced goes to the conflict log first
//! ```
//!
//! Everything here acts as an application does: it reads plain values and changes them by compare-and-set, never a base
//! or a sidecar. So it needs no ownership, runs beside a worker or without one, and may be cut off and begun again at any
//! moment: to the routes each of its writes is a change like any other, which flows on, or is put back, by their rules.
//!
//! What is replaced is kept as a marker with a conflict: it is in the conflict log and it is no state of the pair, so
//! a replay into a scratch store, or a write that an application was quicker than, leaves the history as it was.

mod diff;
mod fold;
mod hand;
mod make;
mod scope;

pub use diff::{Comparison, DiffState, Differ, Difference, Settling, UnreadableZnode};
pub use fold::{Fold, Until};
pub use hand::{Found, Hand};
pub use make::{Keeper, Made, Maker, Reasons, Why, Wish};
pub use scope::{HistoryError, Scope};
