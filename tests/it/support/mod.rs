//! What a test stands on: real servers on free ports, a proxy that breaks connections, and the program itself.
//!
//! Everything a test starts is its own: a private directory, a leased port, a process that ends with the value that
//! stands for it. Waiting is always for a condition with a deadline ([`eventually`]), never for a span of time.

mod eventually;
mod guardian;
mod http;
mod kafka;
mod keepstep;
mod pipeline;
mod place;
mod port;
mod process;
mod programs;
mod proxy;
mod redis;
mod registry;
mod scene;
mod znodes;
mod zookeeper;

pub use eventually::{eventually, eventually_is, never};
pub use kafka::{Kafka, Raw};
pub use keepstep::Keepstep;
pub use pipeline::Pipeline;
pub use place::Place;
pub use programs::{kafka_java, python};
pub use proxy::{Direction, Proxy};
pub use redis::Redis;
pub use registry::Registry;
pub use scene::{LIVE, Scene, Writes, in_step};
pub use znodes::Znodes;
pub use zookeeper::{Ensemble, ZooKeeper};
