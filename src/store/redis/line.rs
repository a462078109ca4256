//! The narrow seam to a Redis server: one connection that takes commands and passes on what the
//! server pushes.
//!
//! ```text
//!   this room  --Cmd-->  Line  --> client.rs: the crate `redis`, a real server
//!              <-Value--      '--> tests/doubles/redis: a state machine of a server
//! ```
//!
//! The adapter over the crate decides nothing: scripts, batches, sizes, reconnects, what an error
//! means and what is asked again stand above the seam, so that they run on the double as well. What
//! crosses the seam is plain data of the crate (a command as its packed words, an answer as a
//! value); `tests/tidy/main.rs` forbids the rest of the crate in this room.

use super::access::Access;
use futures::future::BoxFuture;
pub use redis::{Arg, Cmd, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value, cmd};
use std::sync::Arc;

/// Receives what the server sends without being asked: messages of subscriptions, invalidations,
/// and at the end [`PushKind::Disconnection`], once. Called on the connection's own task in the
/// order in which the server sent, and between the answers as it sent them: whoever has an answer,
/// has been given every push before it. It must not block.
pub type Pushes = Box<dyn Fn(PushInfo) + Send + Sync>;

/// One connection to a server, logged in, on one database, in RESP3. It never reconnects: after the
/// first failure of the connection each call fails. It is closed when the last reference is
/// dropped.
///
/// The server runs the commands of one connection in the order in which they were queued, each as a
/// whole. Between connections there is no order.
pub trait Line: Send + Sync {
    /// Sends one command and waits for its answer.
    ///
    /// Called by everything in this room, many at a time. The command is queued when the future is
    /// first polled; that may wait while the queue is full. The future may be dropped: a command
    /// that was queued by then still runs. A call ends after some seconds without an answer; the
    /// connection stays as it is, and the command may still run, or run later.
    ///
    /// `Ok`: the server ran the command, and this is its answer. `Err` with a code of the server:
    /// the server refused it (a script may have run up to its failing command). Any other `Err`:
    /// nobody knows whether it ran. Whoever repeats a command must be able to bear that it runs
    /// twice.
    fn call<'a>(&'a self, command: &'a Cmd) -> BoxFuture<'a, Result<Value, RedisError>>;

    /// Sends commands one behind the other and waits for all their answers, which come in the order
    /// of the commands. Other callers' commands may run in between.
    ///
    /// As [`Line::call`] for each; a command that the server refuses does not keep the later ones
    /// from running. The outer `Err` is that of the connection: nobody knows which of them ran.
    fn pipeline(&self, commands: Vec<Cmd>) -> BoxFuture<'_, Result<Vec<Result<Value, RedisError>>, RedisError>>;
}

/// Opens connections.
pub trait Dial: Send + Sync {
    /// Opens a connection: one attempt, bounded in time. Without `pushes` what the server sends
    /// unasked is dropped.
    ///
    /// Called for a first connection and for each that replaces a broken one; several may be open
    /// at a time. The future may be dropped: the server may see a connection that comes and goes.
    /// `Err` leaves nothing open.
    fn open<'a>(
        &'a self,
        access: &'a Access,
        pushes: Option<Pushes>,
    ) -> BoxFuture<'a, Result<Arc<dyn Line>, RedisError>>;
}
