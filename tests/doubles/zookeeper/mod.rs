//! The ZooKeeper ensemble, and the seam of `store::zookeeper` over it.
//!
//! ```text
//!   tree.rs      znodes                                             transaction.rs  what a leader decides, for the model checker as well
//!   rules.rs     rights, and what a server shows to whom
//!   ensemble.rs  the log, servers, sessions, connections, watches   wire.rs    requests, answers, and their bytes
//!   client.rs    clients and scripted faults over them              handle.rs  the seam of the store room over a client
//! ```

mod client;
mod ensemble;
mod handle;
mod rules;
pub mod transaction;
mod tree;
mod wire;

pub use client::{DoubleEnsemble, Fault, Lag};
pub use ensemble::{Copy, Ensemble, NotTaken, Settings};
pub use rules::Kinder;
pub use tree::{Right, Tree, Znode};
pub use wire::{Output, Read, Refusal, Reply, Request, Write};
