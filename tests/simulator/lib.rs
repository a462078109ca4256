//! The deterministic simulator: shipped workers, from the pipeline file to the stream, on doubles of ZooKeeper, Redis and the disk. What
//! happens follows from a seed; the same seed does the same again.
//!
//! ```text
//!   seed --plan.rs, settings.rs, what.rs--> a plan --play.rs, happen.rs--> machines with workers, applications, faults
//!                                                          |  executor.rs   whose turn it is, and what time
//!                                                          |  network.rs    delays and losses of messages; ensemble.rs, server.rs: the seams
//!                                                          |  truth.rs      every state of every pair, and who made it
//!                                                          v
//!                                            judge.rs, published.rs (streams.rs): nothing lost, nothing invented, rest and equality --> shrink.rs: a short story
//! ```
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a part of the tests: it stops where it is wrong, and its queues are bounded by what is played"
)]

pub mod draws;
pub mod ensemble;
pub mod executor;
mod flood;
mod guard;
mod happen;
pub mod judge;
pub mod machine;
pub mod network;
pub mod operator;
pub mod plan;
pub mod planted;
pub mod play;
pub mod published;
mod rest;
pub mod rights;
pub mod server;
pub mod settings;
pub mod shrink;
mod special;
mod statuses;
pub mod stores;
pub mod streams;
pub mod truth;
mod twice;
pub mod what;
mod world;
mod znodes;
