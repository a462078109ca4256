//! The shipped planner and its guards through every interleaving of small worlds, and the checker against planted faults.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "it is a test, which fails by panicking; numbers of the model are small"
)]

mod apply;
pub mod cases;
pub mod config;
pub mod events;
pub mod news;
pub mod redis;
mod round;
pub mod search;
mod truth;
mod words;
mod worker;
pub mod world;
