//! Connections to Redis: how they are made, and what their errors mean.

use super::Settings;
use crate::store::StoreError;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisError,
    ServerErrorKind,
};
use std::time::Duration;

/// A command that has no answer after this long is taken as lost with its connection. The longest thing asked is a
/// script over 128 keys of at most a megabyte in all; a server that is silent for longer is stopped or away.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection attempt takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Opens one connection; pushes go to `pushes` (RESP3).
pub(super) async fn open(
    settings: &Settings,
    pushes: Option<Box<dyn Fn(redis::PushInfo) + Send + Sync>>,
) -> Result<MultiplexedConnection, StoreError> {
    let mut info = redis::RedisConnectionInfo::default()
        .set_db(i64::from(settings.database))
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("keepstep", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &settings.username {
        info = info.set_username(username);
    }
    if let Some(password) = &settings.password {
        info = info.set_password(password);
    }
    let address = ConnectionAddr::Tcp(settings.host.clone(), settings.port);
    let info = address.into_connection_info().map_err(|error| explain(settings, &error))?.set_redis_settings(info);
    let client = Client::open(info).map_err(|error| explain(settings, &error))?;
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        // One write per some commands instead of one each: bulk batches are 64 KiB and more.
        .set_write_backpressure_boundary(128 * 1024);
    if let Some(pushes) = pushes {
        config = config.set_push_sender(move |info| {
            pushes(info);
            Ok::<(), redis::aio::SendError>(())
        });
    }
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| explain(settings, &error))
}

/// What an error of a whole command means for the store.
pub(super) fn explain(settings: &Settings, error: &RedisError) -> StoreError {
    let place = format!("redis {} ({}:{})", settings.name, settings.host, settings.port);
    let user = settings.username.as_deref().unwrap_or("default");
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
        _ => StoreError::Away(format!("{place}: {error}")),
    }
}

/// Whether the connection is of no use any more.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout() || error.is_unrecoverable_error()
}
