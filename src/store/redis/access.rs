//! Where a Redis is and as whom it is used, and what it is called in messages.

use crate::store::Password;

/// How a database is reached, and as whom. Pipelines for which all of it is the same share their
/// connections.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database number.
    pub database: u32,
    /// ACL user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Password>,
}

/// A Redis as messages name it.
pub(super) struct Target {
    /// The store's name in the pipeline file.
    pub(super) name: String,
    pub(super) access: Access,
}

impl Target {
    /// What every message about this store begins with.
    pub(super) fn place(&self) -> String {
        format!("redis {} ({}:{})", self.name, self.access.host, self.access.port)
    }

    pub(super) fn user(&self) -> &str {
        self.access.username.as_deref().unwrap_or("default")
    }
}
