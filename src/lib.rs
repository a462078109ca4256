//! Keepstep keeps Apache ZooKeeper and Redis in step.
#![forbid(unsafe_code)]

pub mod change;
pub mod pipeline;
pub mod stream;
