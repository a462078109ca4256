//! The narrow seam to an ensemble: what this room asks of a session, as plain data. `client.rs`
//! does it with the client library and decides nothing; a double of the ensemble does it without a
//! server, so that packing, sizes, election and reconnects are tested on it as they ship.
//!
//! ```text
//!   the other files of this room --> dyn Ensemble, dyn Session --> client.rs --> zookeeper-client --> servers
//!                                                              \-> a double of the ensemble
//! ```
//!
//! What holds for every request of a [`Session`]:
//!
//! - It is queued when the method is **called**, not when its future is first polled, and requests
//!   of one session reach the servers in the order of the calls. The sink relies on it: its multis
//!   are in line before the reads that ask what became of them.
//! - Dropping its future takes nothing back. A request that was queued may still be carried out,
//!   even after a reconnect, so a caller that is cut off must find out, or must have asked for
//!   something that may happen.
//! - It is carried out at most once. Nothing here repeats a request; whoever does must know that it
//!   may repeat.
//! - While the connection is away it waits, without a bound of its own, for the next connection or
//!   for the end of the session. One that was already sent fails with [`Error::ConnectionLoss`]:
//!   whether it was carried out is not known.
//! - Any other error of the server means that nothing was changed. [`Error::BadArguments`] and an
//!   [`Error::InvalidAcl`] of a whole request mean that it was not even sent.
//!   [`Error::SessionExpired`], [`Error::ClientClosed`] and [`Error::AuthFailed`] end the session;
//!   what was under way then is not known either.
//! - A server closes the connection of a request that is larger than it takes, without an answer.
//! - Names are relative to the chroot of the session.

use crate::store::Password;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::io;
use std::sync::Arc;
use std::time::Duration;
pub use zookeeper_client::{
    Acl, AuthId, CreateMode, Error, EventType, MultiReadResult, MultiWriteError, MultiWriteResult, Permission,
    SessionState, Stat, WatchedEvent,
};

/// The answer to a request that was queued when it was made.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// How an ensemble is reached, and as whom. Pipelines for which all of it is the same share their
/// sessions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// `host:port[,host:port…][/chroot]`.
    pub connect: String,
    /// Session timeout asked of the ensemble.
    pub session_timeout: Duration,
    /// `user:password` of the `digest` scheme.
    pub digest: Option<Password>,
}

/// A znode that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its path, with the sequence number that the server appended.
    pub path: String,
    /// Its versions.
    pub stat: Stat,
}

/// One operation of [`Session::write_all`]. A version of `None` is not compared.
#[derive(Debug, Clone, Copy)]
pub enum WriteOp<'a> {
    /// The znode is there, in this version.
    Check {
        /// Which one.
        path: &'a str,
        /// Its dataVersion.
        version: i32,
    },
    /// Create it.
    Create {
        /// Which one.
        path: &'a str,
        /// Its data.
        data: &'a [u8],
        /// Persistent or ephemeral; no sequence.
        mode: CreateMode,
        /// Who may touch it; not empty.
        acl: &'a [Acl],
    },
    /// Replace its data.
    Set {
        /// Which one.
        path: &'a str,
        /// Its new data.
        data: &'a [u8],
        /// The dataVersion that it must have.
        version: Option<i32>,
    },
    /// Delete it.
    Delete {
        /// Which one.
        path: &'a str,
        /// The dataVersion that it must have.
        version: Option<i32>,
    },
}

/// One operation of [`Session::read_all`].
#[derive(Debug, Clone, Copy)]
pub enum ReadOp<'a> {
    /// The data and the versions of this znode.
    Data(&'a str),
    /// The names of its children.
    Children(&'a str),
}

/// A session of an ensemble, with the connection to one of its servers. See the module for what
/// holds for every request.
///
/// The session is closed, and its ephemeral znodes go with it, when the last handle is dropped. A
/// [`Session::rooted`] one is a handle; a stream of states or of events is not, and does not keep
/// it.
pub trait Session: Send + Sync {
    /// The owner of its ephemeral znodes; the same for as long as the session lives.
    fn id(&self) -> i64;

    /// How it stands now. Behind what the servers know of it: they may have expired it while the
    /// connection is away.
    fn state(&self) -> SessionState;

    /// How it stands from here on, whenever that changes; a state that soon gave way to the next
    /// may be left out. Never ends; after a terminal state nothing comes. Asked by whoever waits
    /// for a reconnect or watches over an ownership. May be dropped at any time.
    fn states(&self) -> BoxStream<'static, SessionState>;

    /// The same session with names relative to this path of the ensemble, not of the chroot. `None`
    /// if it is no path.
    fn rooted(&self, root: &str) -> Option<Arc<dyn Session>>;

    /// Creates a znode. A repetition answers [`Error::NodeExists`], but creates another znode where
    /// the name gets a sequence number: whoever lost the answer looks for one that is its
    /// session's.
    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: CreateMode, acl: &[Acl]) -> Answer<'a, Created>;

    /// Replaces the data, if the znode has this version. A repetition with a version answers
    /// [`Error::BadVersion`].
    fn set<'a>(&'a self, path: &'a str, data: &[u8], version: Option<i32>) -> Answer<'a, Stat>;

    /// Deletes a znode without children, if it has this version. A repetition answers
    /// [`Error::NoNode`].
    fn delete<'a>(&'a self, path: &'a str, version: Option<i32>) -> Answer<'a, ()>;

    /// Reads data and versions, as the server of this connection has them; it may lag behind the
    /// others, see [`Session::sync`].
    fn data<'a>(&'a self, path: &'a str) -> Answer<'a, (Vec<u8>, Stat)>;

    /// The versions of a znode, `None` if there is none. From 3.8.4 and 3.9.2 on it asks for READ
    /// where there is one (ZOOKEEPER-2590).
    fn stat<'a>(&'a self, path: &'a str) -> Answer<'a, Option<Stat>>;

    /// As [`Session::stat`]; the future resolves at the next change of the znode, or when the
    /// session ends. Dropping it takes the watch back. Never on a session with a
    /// [`Session::watch`]: before 3.9 it would silence that one (ZOOKEEPER-4466).
    fn stat_and_watch<'a>(&'a self, path: &'a str) -> Answer<'a, (Option<Stat>, BoxFuture<'static, WatchedEvent>)>;

    /// The names of the children, in no order.
    fn children<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<String>>;

    /// The ACL. Without ADMIN there the server masks its digests.
    fn acl<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Acl>>;

    /// When it is answered, the server of this connection has everything that was acknowledged to
    /// anybody before the call; around a change of leader it may not (ZOOKEEPER-1675).
    fn sync(&self) -> Answer<'_, ()>;

    /// Reads in one request; one answer for each, in order, and an error of one is its answer.
    /// Answers may be of any size.
    fn read_all<'a>(&'a self, reads: &[ReadOp<'_>]) -> Answer<'a, Vec<MultiReadResult>>;

    /// Writes in one transaction: all of them or none. `Ok`: one result for each, in order.
    /// [`MultiWriteError::OperationFailed`]: nothing was changed, and this one is the first that
    /// was refused. [`MultiWriteError::RequestFailed`]: as any error of a request.
    fn write_all<'a>(&'a self, writes: &[WriteOp<'_>])
    -> BoxFuture<'a, Result<Vec<MultiWriteResult>, MultiWriteError>>;

    /// Watches a znode and all below it, whether it is there or not. From the answer on each change
    /// gives one event, in the order of the changes, and so does each change of the session's
    /// state, until a terminal one ends the stream. A reply may overtake the event of what it
    /// shows. The watch belongs to the connection: after a reconnect nothing comes any more but
    /// states of the session, so the caller watches anew, then drops this one, and compares
    /// everything. Dropping it takes the watch back.
    fn watch<'a>(&'a self, root: &'a str) -> Answer<'a, BoxStream<'static, WatchedEvent>>;
}

/// An ensemble, as far as it can be reached.
pub trait Ensemble: Send + Sync {
    /// Opens a session with whichever server gives one. Asked by the owner of the shared sessions,
    /// one attempt at a time, under a timeout. May be dropped: a session that comes too late is
    /// closed or expires. `Err`: no server gave a session.
    fn open<'a>(&'a self, access: &'a Access) -> Answer<'a, Arc<dyn Session>>;

    /// Opens a plain connection to this server (`host:port`) and closes it again, to find out why
    /// there is no session. May be dropped.
    fn dial<'a>(&'a self, server: &'a str) -> BoxFuture<'a, io::Result<()>>;

    /// What this server (`host:port`) answers to a four-letter word, at most 4 KiB of it. May be
    /// dropped.
    fn ask<'a>(&'a self, server: &'a str, word: &'a str) -> BoxFuture<'a, io::Result<String>>;
}
