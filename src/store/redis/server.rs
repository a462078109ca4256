//! The connections that all pipelines of a worker share on one database of a Redis.
//!
//! ```text
//!   pipeline 1 --\                /--> source connection (RESP3)   events and tracking of all their keys  (`source.rs`)
//!   pipeline 2 ---+--> Server ---+
//!   pipeline … --/                \--> command connection          scripts, SCAN, claims; multiplexed
//! ```
//!
//! Each is open while a pipeline uses it. What a connection learns of the server when it is made is numbered, since two
//! connections may tell different times.

use super::info::{Info, SECTIONS};
use super::size;
use super::source::Listeners;
use crate::store::Password;
use crate::store::held::Held;
use crate::store::request::RequestLimit;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo, RedisError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A command that has no answer after this long is taken as lost with its connection. The longest thing asked is a
/// script over 128 keys of at most a megabyte in all; a server that is silent for longer is stopped or away.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection attempt takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How a database is reached, and as whom. Pipelines for which all of it is the same share their connections.
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

/// Where pushes go.
pub(super) type Pushes = Box<dyn Fn(PushInfo) + Send + Sync>;

/// The command connection, as long as anybody holds it.
pub(super) struct Commands {
    pub(super) connection: MultiplexedConnection,
    /// What the server said of itself when it was made.
    pub(super) heard: Heard,
    broken: AtomicBool,
}

impl Commands {
    pub(super) fn is_whole(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// It is of no use any more: whoever connects from here on gets another one.
    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

/// An answer to INFO.
pub(super) struct Heard {
    /// Higher than that of every answer that was asked for before.
    pub(super) number: u64,
    pub(super) info: Info,
}

/// See the module.
pub struct Server {
    pub(super) access: Access,
    /// What is known of the calls that it takes.
    pub(super) limit: RequestLimit,
    /// The same of those that read: the answer counts as well.
    pub(super) reads: RequestLimit,
    commands: Held<Commands, RedisError>,
    pub(super) listeners: Arc<Listeners>,
    asked: AtomicU64,
}

impl Server {
    /// No connection is open yet.
    #[must_use]
    pub fn new(access: Access) -> Server {
        let limit = RequestLimit::new(size::TOGETHER_BYTES, size::CALL_BYTES_MAX);
        let reads = limit.beside();
        Server { access, limit, reads, commands: Held::default(), listeners: Arc::default(), asked: AtomicU64::new(0) }
    }

    /// The command connection, made anew if the last one broke. Every new one learns the server's lineage first.
    pub(super) async fn commands(&self) -> Result<Arc<Commands>, RedisError> {
        let open = async {
            let mut connection = self.open(None).await?;
            let heard = self.ask(&mut connection).await?;
            Ok(Commands { connection, heard, broken: AtomicBool::new(false) })
        };
        self.commands.get(Commands::is_whole, open).await
    }

    /// Asks a connection how the server is.
    pub(super) async fn ask(&self, connection: &mut MultiplexedConnection) -> Result<Heard, RedisError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut ask = redis::cmd("INFO");
        ask.arg(&SECTIONS);
        let text: String = ask.query_async(connection).await?;
        Ok(Heard { number, info: Info::parse(&text) })
    }

    /// Opens one connection (RESP3).
    pub(super) async fn open(&self, pushes: Option<Pushes>) -> Result<MultiplexedConnection, RedisError> {
        let mut info = redis::RedisConnectionInfo::default()
            .set_db(i64::from(self.access.database))
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("keepstep", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.access.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.access.password {
            info = info.set_password(password.now());
        }
        let address = ConnectionAddr::Tcp(self.access.host.clone(), self.access.port);
        let client = Client::open(address.into_connection_info()?.set_redis_settings(info))?;
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
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}
