//! What commands do with the stream and the stores: replay, diff, repair, the checks before a
//! start.
//!
//! ```text
//!   stream --fold----------> one state for each pair ----------\
//!   Znodes + Keyspace --diff--> differences --> the preferred   +--> restore: read, archive, write by compare-and-set
//!                                               side's states --/             (archive: the conflict log)
//! ```
//!
//! Everything here acts as an application does: it reads plain values and changes them by
//! compare-and-set, never a base or a sidecar. So it needs no ownership, runs beside a worker or
//! without one, and may be interrupted and run again at any moment. To the routes, each of its
//! writes is a change like any other: it flows on, or is reverted, by their rules.
//!
//! A replaced value is recorded as a marker with a conflict. So it is in the conflict log and is no
//! state of the pair: a replay into a scratch store leaves the history as it was, and so does a
//! write that lost against an application's.

mod client;
mod diff;
mod fold;
mod preflight;
mod reach;
mod restore;
mod scan;
mod scope;
mod stores;

pub use client::{Found, StoreClient};
pub use diff::{Comparison, DiffState, Differ, Difference, InFlight, UnreadableZnode};
pub use fold::{Fold, Until};
pub use preflight::{Check, Preflight, preflight};
pub use reach::StartError;
pub use restore::{Archive, Cause, DesiredState, Done, Outcome, Reasons, Restorer};
pub use scope::{HistoryError, Scope};
pub use stores::{Named, Stores, open, open_own};
