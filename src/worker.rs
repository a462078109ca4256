//! Who this process is among the workers: a name for people, and an identity that no other process has.
//!
//! Containers of one image may have the same host name, and each its own process numbers, so `host:pid` names several workers.
//! Whatever compares workers compares identities: random, and kept for the life of the process.

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
pub fn this() -> &'static Worker {
    static THIS: LazyLock<Worker> = LazyLock::new(|| Worker { name: name(), identity: random_identity() });
    &THIS
}

fn name() -> String {
    if let Some(name) = crate::failpoint::worker_name() {
        return name;
    }
    format!("{}:{}", env::process::host_name(), env::process::id())
}
