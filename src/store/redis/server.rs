//! The connections that all pipelines of a worker share on one database of a Redis.
//!
//! ```text
//!   pipeline 1 --\                /--> source connection   events and tracking of all their keys  (`listener.rs`)
//!   pipeline 2 ---+--> Server ---+
//!   pipeline … --/                \--> command connection  scripts, SCAN, claims; multiplexed     (`connections.rs`)
//! ```

use super::access::Access;
use super::connections::Connections;
use super::line::Dial;
use super::subscribers::Subscribers;
use std::sync::Arc;

/// See the module.
pub struct Server {
    pub(super) connections: Arc<Connections>,
    pub(super) subscribers: Arc<Subscribers>,
}

impl Server {
    /// No connection is open yet; `dial` opens them.
    #[must_use]
    pub fn new(access: Access, dial: Arc<dyn Dial>) -> Server {
        Server { connections: Arc::new(Connections::new(access, dial)), subscribers: Arc::default() }
    }
}
