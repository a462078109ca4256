//! This process among the workers: a name for people, and an identity that no other process has.
//!
//! Containers of one image may have the same host name and the same process numbers, so several
//! workers may have one `host:pid`. Code that compares workers compares identities, which are
//! random and kept until the process ends.

use crate::env;
use crate::store::random_identity;
use std::sync::LazyLock;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// `host:pid`, for people.
    pub name: String,
    /// 32 hexadecimal digits.
    pub identity: String,
}

/// This process.
#[must_use]
pub fn this() -> Worker {
    if let Some(world) = env::world::here() {
        return Worker { name: name(), identity: world.process().identity };
    }
    static THIS: LazyLock<Worker> = LazyLock::new(|| Worker { name: name(), identity: random_identity() });
    THIS.clone()
}

fn name() -> String {
    if let Some(name) = crate::failpoint::worker_name() {
        return name;
    }
    format!("{}:{}", env::process::host_name(), env::process::id())
}
