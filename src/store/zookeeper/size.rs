//! The bytes of requests to ZooKeeper, as the client encodes them (jute): computed before a request
//! is sent, since a server that gets a larger one closes the connection.
//!
//! ```text
//!   request   = xid 4, kind 4, then the operation; a multi: each operation behind a header of 9, and one such header at the end
//!   text, data = length 4, bytes; a path is the chroot and the path
//!   ACL       = count 4, then each: permission 4, scheme, id
//! ```
//!
//! A test compares these with what the client sends.

use super::journal;
use super::place::Place;
use super::session::Acl;
use crate::store::{ZnodeOp, ZnodeWrite};

/// Bytes of one request that a server takes: the default of `jute.maxbuffer`.
pub(super) const REQUEST_BYTES_MAX: usize = 1_048_575;

/// Bytes of a request of several operations: half of what is taken, since a transaction grows on
/// its way through the ensemble, and larger ones are not faster.
pub(super) const TOGETHER_BYTES: usize = 512 * 1024;

/// What each request begins with.
const REQUEST: usize = 8;

/// What each operation of a multi begins with, and what ends it.
const OPERATION: usize = 9;

/// Length of a text or of data, and every number in an operation.
const NUMBER: usize = 4;

/// What a multi has besides its operations.
pub(super) const MULTI: usize = REQUEST + OPERATION;

/// The bytes of operations below one chroot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    chroot: usize,
    /// What a multi of the owner has besides its writes, their ancestors and their parts of the
    /// journal.
    multi: usize,
}

impl Sizes {
    pub(super) fn new(place: &Place) -> Sizes {
        let (_, chroot) = place.address();
        let sizes = Sizes { chroot: if chroot == "/" { 0 } else { chroot.len() }, multi: 0 };
        let checks = sizes.check(place.under("epoch").len()) + sizes.check(place.lineage_path().len());
        let slot = sizes.set(place.slot_path(0).len(), 0);
        Sizes { multi: MULTI + checks + slot + journal::MILESTONE_BYTES, ..sizes }
    }

    /// What a multi of the owner has besides its writes, their ancestors and their parts of the
    /// journal.
    pub(super) fn multi(self) -> usize {
        self.multi
    }

    fn path(self, length: usize) -> usize {
        NUMBER + self.chroot + length
    }

    pub(super) fn check(self, path: usize) -> usize {
        OPERATION + self.path(path) + NUMBER
    }

    pub(super) fn create(self, path: usize, data: usize, acl: usize) -> usize {
        OPERATION + self.path(path) + NUMBER + data + acl + NUMBER
    }

    pub(super) fn set(self, path: usize, data: usize) -> usize {
        OPERATION + self.path(path) + NUMBER + data + NUMBER
    }

    /// A read in a multi.
    pub(super) fn read(self, path: usize) -> usize {
        OPERATION + self.path(path) + 1
    }

    /// An operation as a request of its own.
    pub(super) fn alone(operation: usize) -> usize {
        operation - OPERATION + REQUEST
    }

    /// What a write does, besides its ancestors and its part of the journal.
    pub(super) fn write(self, op: ZnodeOp, path: usize, data: usize, acl: usize) -> usize {
        match op {
            ZnodeOp::Create => self.create(path, data, acl),
            ZnodeOp::Set(_) => self.set(path, data),
            // Emptied where it has children: the larger of both.
            ZnodeOp::Delete(_) => self.set(path, 0),
        }
    }

    /// A write in a multi of the owner with its part of the journal, without its ancestors.
    pub(super) fn member(self, write: &ZnodeWrite<'_>, acl: &[Acl]) -> usize {
        self.write(write.op, write.path.len(), write.data.len(), self::acl(acl)) + journal::entry_bytes(write.key.len())
    }

    /// A multi of the owner with one write, as far as it is known without its ancestors and their
    /// ACL.
    pub(super) fn alone_in_multi(self, op: ZnodeOp, path: usize, data: usize, key: usize) -> usize {
        self.multi + self.write(op, path, data, 0) + journal::entry_bytes(key)
    }
}

pub(super) fn acl(acl: &[Acl]) -> usize {
    acl.iter().map(|acl| 3 * NUMBER + acl.scheme().len() + acl.id().len()).sum::<usize>() + NUMBER
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::super::client::RealEnsemble;
    use super::super::session::{Access, AuthId, CreateMode, Ensemble as _, Permission, ReadOp, Session, WriteOp};
    use super::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    /// Reads one request; its bytes.
    async fn request(stream: &mut TcpStream) -> usize {
        let length = stream.read_u32().await.unwrap();
        let mut request = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut request).await.unwrap();
        request.len()
    }

    /// A session with a server that only counts, and the server's end of it.
    async fn session(chroot: &str) -> (Arc<dyn Session>, TcpStream) {
        let listener = crate::env::dial::listen("127.0.0.1:0").await.unwrap();
        let servers = format!("{}{chroot}", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            // Version, session timeout, session, password, whether it is read-only.
            let answer =
                [&[0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 16][..], &[7; 16], &[0]].concat();
            stream.write_u32(u32::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            // The client's first ping, and its answer: xid, zxid, error.
            request(&mut stream).await;
            stream.write_u32(16).await.unwrap();
            stream.write_all(&[&(-2_i32).to_be_bytes()[..], &[0; 12]].concat()).await.unwrap();
            stream
        };
        let session_timeout = std::time::Duration::from_secs(10);
        let access = Access { connect: servers, session_timeout, digest: None };
        let (session, stream) = tokio::join!(RealEnsemble.open(&access), serve);
        (session.unwrap(), stream)
    }

    #[tokio::test]
    async fn the_bytes_that_are_computed_are_the_bytes_that_are_sent() {
        for chroot in ["", "/some/chroot"] {
            let (session, mut server) = session(chroot).await;
            let access = Access {
                connect: format!("a:1,b:2{chroot}"),
                session_timeout: std::time::Duration::ZERO,
                digest: None,
            };
            let sizes = Sizes::new(&Place { name: String::new(), access, pipeline: "p".to_owned() });
            let entries = [
                Acl::new(Permission::ALL, AuthId::new("digest", "user:hash")),
                Acl::new(Permission::READ, AuthId::anyone()),
            ];
            let (mode, acl) = (CreateMode::Persistent, acl(&entries));

            let writes = [
                WriteOp::Check { path: "/a/check", version: 3 },
                WriteOp::Create { path: "/a/create", data: b"", mode, acl: &entries },
                WriteOp::Create { path: "/a/create/é", data: b"some data", mode, acl: &entries },
                WriteOp::Set { path: "/a/set", data: &[7; 1000], version: Some(2) },
            ];
            let computed = MULTI
                + sizes.check(8)
                + sizes.create(9, 0, acl)
                + sizes.create("/a/create/é".len(), 9, acl)
                + sizes.set(6, 1000);
            let sent = session.write_all(&writes);
            assert_eq!(request(&mut server).await, computed, "a multi below `{chroot}`");
            drop(sent);

            let sent = session.read_all(&[ReadOp::Data("/a"), ReadOp::Data("/a/bcd")]);
            assert_eq!(request(&mut server).await, MULTI + sizes.read(2) + sizes.read(6));
            drop(sent);

            let sent = session.create("/a/create", b"some data", mode, &entries);
            assert_eq!(request(&mut server).await, Sizes::alone(sizes.create(9, 9, acl)));
            drop(sent);
            let sent = session.set("/a/set", b"some data", Some(1));
            assert_eq!(request(&mut server).await, Sizes::alone(sizes.set(6, 9)));
            drop(sent);
        }
    }
}
