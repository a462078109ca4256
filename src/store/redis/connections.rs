//! How a worker is connected to one database of a Redis: what it has learned of the calls that the
//! server takes, and the one connection for commands that all its pipelines share.
//!
//! A connection is open while a pipeline uses it. What a connection learns of the server when it is
//! made is numbered, since two connections may report different times.

use super::access::Access;
use super::info::{Info, SECTIONS};
use super::line::{Dial, ErrorKind, Line, Pushes, RedisError, Value, cmd};
use super::{reply, size};
use crate::store::request::RequestLimit;
use crate::store::shared_connection::SharedConnection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The command connection, as long as anybody holds it.
pub(super) struct Commands {
    pub(super) line: Arc<dyn Line>,
    /// What the server reported when the connection was made.
    pub(super) server: ServerInfo,
    broken: AtomicBool,
}

impl Commands {
    pub(super) fn is_usable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// It is not used any more: the next `commands` opens another one.
    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

/// What a server reports of itself: an answer to INFO.
pub(super) struct ServerInfo {
    /// Higher than that of every answer that was asked for before.
    pub(super) number: u64,
    pub(super) info: Info,
}

/// See the module.
pub(super) struct Connections {
    pub(super) access: Access,
    dial: Arc<dyn Dial>,
    /// What is known of the calls that the server takes.
    pub(super) limit: RequestLimit,
    /// The same of those that read: the answer counts as well.
    pub(super) reads: RequestLimit,
    commands: SharedConnection<Commands, RedisError>,
    asked: AtomicU64,
}

impl Connections {
    /// No connection is open yet.
    pub(super) fn new(access: Access, dial: Arc<dyn Dial>) -> Connections {
        let limit = RequestLimit::new(size::TOGETHER_BYTES, size::CALL_BYTES_MAX);
        let reads = limit.beside();
        Connections { access, dial, limit, reads, commands: SharedConnection::default(), asked: AtomicU64::new(0) }
    }

    /// The command connection, made anew if the last one broke. Every new one learns the server's
    /// lineage first.
    pub(super) async fn commands(&self) -> Result<Arc<Commands>, RedisError> {
        let open = async {
            let line = self.open(None).await?;
            let server = self.ask(&*line).await?;
            Ok(Commands { line, server, broken: AtomicBool::new(false) })
        };
        self.commands.get(Commands::is_usable, open).await
    }

    /// Asks by this connection how the server is.
    pub(super) async fn ask(&self, line: &dyn Line) -> Result<ServerInfo, RedisError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let mut ask = cmd("INFO");
        ask.arg(&SECTIONS);
        let answer = line.call(&ask).await?;
        if !matches!(answer, Value::BulkString(_) | Value::VerbatimString { .. } | Value::SimpleString(_)) {
            return Err(RedisError::from((ErrorKind::UnexpectedReturnType, "INFO did not answer a text")));
        }
        Ok(ServerInfo { number, info: Info::parse(&reply::text(Some(answer))) })
    }

    /// Opens one connection.
    pub(super) async fn open(&self, pushes: Option<Pushes>) -> Result<Arc<dyn Line>, RedisError> {
        self.dial.open(&self.access, pushes).await
    }
}
