//! The hallway: hints to rounds, rounds to effects, and the life of an ownership. It knows the doors, never the houses
//! behind them.

mod apply;
mod behind;
mod cache;
mod capture;
mod compare;
pub mod control;
mod dirty;
mod engine;
mod held;
pub mod identity;
mod inferred;
mod keep;
mod observe;
mod owner;
mod quarantine;
mod record;
pub mod retry;
mod settle;
mod status;
mod tide;

pub use engine::{Parts, Route, Settings};
pub use owner::{Claims, Ended, Pipeline, Stores, StreamOpener};
