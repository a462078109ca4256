//! The seam [`Line`] over the crate `redis`: an adapter that decides nothing.

use super::access::Access;
use super::line::{Cmd, Dial, Line, Pushes, RedisError, Value};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo as _, Pipeline, ProtocolVersion};
use std::sync::Arc;
use std::time::Duration;

/// A command that has no answer after this long is taken as lost with its connection. The longest
/// thing asked is a script over 128 keys of at most a megabyte in all; a server that is silent for
/// longer is stopped or away.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection attempt takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One write per some commands instead of one each: bulk batches are 64 KiB and more.
const WRITE_BYTES: usize = 128 * 1024;

/// Opens connections to real servers.
pub struct Client;

/// A connection of the crate. A clone of it is another handle of the same connection.
struct Connection(MultiplexedConnection);

impl Dial for Client {
    fn open<'a>(
        &'a self,
        access: &'a Access,
        pushes: Option<Pushes>,
    ) -> BoxFuture<'a, Result<Arc<dyn Line>, RedisError>> {
        async move {
            let mut info = redis::RedisConnectionInfo::default()
                .set_db(i64::from(access.database))
                .set_protocol(ProtocolVersion::RESP3)
                .set_lib_name("keepstep", env!("CARGO_PKG_VERSION"));
            if let Some(username) = &access.username {
                info = info.set_username(username);
            }
            if let Some(password) = &access.password {
                info = info.set_password(password.now());
            }
            let address = ConnectionAddr::Tcp(access.host.clone(), access.port);
            let client = redis::Client::open(address.into_connection_info()?.set_redis_settings(info))?;
            let mut config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT_TIMEOUT))
                .set_response_timeout(Some(RESPONSE_TIMEOUT))
                .set_write_backpressure_boundary(WRITE_BYTES);
            if let Some(pushes) = pushes {
                config = config.set_push_sender(move |info| {
                    pushes(info);
                    Ok::<(), SendError>(())
                });
            }
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            Ok(Arc::new(Connection(connection)) as Arc<dyn Line>)
        }
        .boxed()
    }
}

impl Line for Connection {
    fn call<'a>(&'a self, command: &'a Cmd) -> BoxFuture<'a, Result<Value, RedisError>> {
        async move { self.0.clone().send_packed_command(command).await.and_then(answer) }.boxed()
    }

    fn pipeline(&self, commands: Vec<Cmd>) -> BoxFuture<'_, Result<Vec<Result<Value, RedisError>>, RedisError>> {
        async move {
            let count = commands.len();
            let mut pipeline = Pipeline::with_capacity(count);
            for command in commands {
                pipeline.add_command(command);
            }
            let answers = self.0.clone().send_packed_commands(&pipeline, 0, count).await?;
            Ok(answers.into_iter().map(answer).collect())
        }
        .boxed()
    }
}

/// The crate has an error of the server as a value.
fn answer(value: Value) -> Result<Value, RedisError> {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}
