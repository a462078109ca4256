//! The hallway: hints to rounds, rounds to effects, and the life of an ownership. It knows the doors, never the houses
//! behind them.

mod apply;
mod asked;
mod behind;
mod cache;
mod capture;
pub mod captured_store;
mod census;
mod compare;
pub mod control;
mod counts;
mod dirty;
mod engine;
mod event;
mod held;
pub mod identity;
mod inferred;
mod keep;
mod loss;
mod observe;
mod once;
mod owner;
mod pause;
mod pressure;
mod quarantine;
mod record;
pub mod retry;
mod schedule;
mod settle;
pub mod sources;
mod status;
mod tide;
mod unheard;
mod unreadable;
mod unwritten;

pub use engine::{Parts, Route, Settings};
pub use owner::{Claims, Ended, Pipeline, Stores, StreamOpener};
