//! What the errors of a Redis mean.

use super::Settings;
use crate::store::StoreError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What an error of a whole command means for the store.
pub(super) fn explain(settings: &Settings, error: &RedisError) -> StoreError {
    let place = settings.place();
    let user = settings.user();
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            StoreError::Refused(format!("{place} refused the login of user `{user}`: check username and password"))
        }
        ErrorKind::Server(ServerErrorKind::NoPerm) => StoreError::Refused(format!(
            "{place}: user `{user}` lacks a permission: {}",
            error.detail().unwrap_or("see ACL LOG")
        )),
        ErrorKind::RESP3NotSupported => {
            StoreError::Refused(format!("{place} is too old: Redis 7.0 or later is needed"))
        }
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => {
            StoreError::Refused(format!("{place} refused the login of user `{user}`: check username and password"))
        }
        _ if is_replica(error) => {
            StoreError::Away(format!("{place} has become a replica; waiting for it to be the master"))
        }
        _ => StoreError::Away(format!("{place}: {error}")),
    }
}

/// Whether the connection is of no use any more.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout() || error.is_unrecoverable_error()
}

/// Whether the server is a replica, so that what it holds is another's, and perhaps older.
pub(super) fn is_replica(error: &RedisError) -> bool {
    error.code() == Some("READONLY")
}

/// Whether the server is at its memory limit.
pub(super) fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

/// Whether the server did not take the call for its length, or closed the connection without a word. It closes it after the error, too,
/// which has no code of its own.
pub(super) fn may_be_too_large(error: &RedisError) -> bool {
    let is_protocol =
        error.code() == Some("ERR") && error.detail().is_some_and(|text| text.starts_with("Protocol error"));
    is_protocol || (is_broken(error) && !error.is_timeout())
}

/// Whether the user may not do it.
pub(super) fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}
