//! Keepstep keeps Apache ZooKeeper and Redis in step.
#![forbid(unsafe_code)]

pub mod assembly;
pub mod change;
pub mod cli;
pub mod codec;
pub mod config;
pub mod http;
pub mod pipeline;
pub mod plan;
pub mod route;
pub mod store;
pub mod stream;
pub mod telemetry;
