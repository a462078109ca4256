//! The shipped planner and its guards through every interleaving of small worlds, and the checker against planted faults.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "it is a test, which fails by panicking; numbers of the model are small"
)]

pub mod cases;
mod comparison;
pub mod config;
mod driver;
mod ensemble;
pub mod events;
mod facts;
pub mod news;
mod ownership;
pub mod redis;
pub mod search;
mod truth;
mod words;
pub mod world;
mod writes;
