//! The adapter to the crate `zookeeper-client`, the only file that calls it. It decides nothing.

use super::session::{
    Access, Acl, Answer, CreateMode, Created, Ensemble, Error, MultiReadResult, MultiWriteError, MultiWriteResult,
    ReadOp, Session, SessionState, Stat, WatchedEvent, WriteOp,
};
use crate::env;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, StreamExt as _};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zookeeper_client::{Acls, AddWatchMode, Client};

/// Bytes of an answer to a four-letter word that are read.
const ANSWER_BYTES: u64 = 4096;

/// The servers of an ensemble.
pub struct RealEnsemble;

impl Ensemble for RealEnsemble {
    fn open<'a>(&'a self, access: &'a Access) -> Answer<'a, Arc<dyn Session>> {
        async move {
            let mut connector = Client::connector().with_session_timeout(access.session_timeout).with_fail_eagerly();
            if let Some(digest) = &access.digest {
                connector = connector.with_auth("digest", digest.now().as_bytes());
            }
            let client = connector.connect(&access.connect).await?;
            Ok(Arc::new(client) as Arc<dyn Session>)
        }
        .boxed()
    }

    fn dial<'a>(&'a self, server: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move { env::dial::connect(server).await.map(|_| ()) }.boxed()
    }

    fn ask<'a>(&'a self, server: &'a str, word: &'a str) -> BoxFuture<'a, io::Result<String>> {
        async move {
            let mut socket = env::dial::connect(server).await?;
            socket.write_all(word.as_bytes()).await?;
            let mut answer = String::new();
            socket.take(ANSWER_BYTES).read_to_string(&mut answer).await?;
            Ok(answer)
        }
        .boxed()
    }
}

impl Session for Client {
    fn id(&self) -> i64 {
        self.session_id().0
    }

    fn state(&self) -> SessionState {
        Client::state(self)
    }

    fn states(&self) -> BoxStream<'static, SessionState> {
        stream::unfold(self.state_watcher(), |mut watcher| async { Some((watcher.changed().await, watcher)) }).boxed()
    }

    fn rooted(&self, root: &str) -> Option<Arc<dyn Session>> {
        let client = self.clone().chroot(root).ok()?;
        Some(Arc::new(client))
    }

    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: CreateMode, acl: &[Acl]) -> Answer<'a, Created> {
        let is_sequential = matches!(mode, CreateMode::PersistentSequential | CreateMode::EphemeralSequential);
        let created = Client::create(self, path, data, &mode.with_acls(Acls::new(acl)));
        created
            .map(move |created| {
                let (stat, sequence) = created?;
                let path = if is_sequential { format!("{path}{sequence}") } else { path.to_owned() };
                Ok(Created { path, stat })
            })
            .boxed()
    }

    fn set<'a>(&'a self, path: &'a str, data: &[u8], version: Option<i32>) -> Answer<'a, Stat> {
        self.set_data(path, data, version).boxed()
    }

    fn delete<'a>(&'a self, path: &'a str, version: Option<i32>) -> Answer<'a, ()> {
        Client::delete(self, path, version).boxed()
    }

    fn data<'a>(&'a self, path: &'a str) -> Answer<'a, (Vec<u8>, Stat)> {
        self.get_data(path).boxed()
    }

    fn stat<'a>(&'a self, path: &'a str) -> Answer<'a, Option<Stat>> {
        self.check_stat(path).boxed()
    }

    fn stat_and_watch<'a>(&'a self, path: &'a str) -> Answer<'a, (Option<Stat>, BoxFuture<'static, WatchedEvent>)> {
        let watched = self.check_and_watch_stat(path);
        watched.map(|watched| watched.map(|(stat, watcher)| (stat, watcher.changed().boxed()))).boxed()
    }

    fn children<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<String>> {
        self.list_children(path).boxed()
    }

    fn acl<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Acl>> {
        self.get_acl(path).map(|answer| answer.map(|(acl, _)| acl)).boxed()
    }

    fn sync(&self) -> Answer<'_, ()> {
        Client::sync(self, "/").boxed()
    }

    fn read_all<'a>(&'a self, reads: &[ReadOp<'_>]) -> Answer<'a, Vec<MultiReadResult>> {
        let mut reader = self.new_multi_reader();
        let mut added = reads.iter().map(|read| match read {
            ReadOp::Data(path) => reader.add_get_data(path),
            ReadOp::Children(path) => reader.add_get_children(path),
        });
        match added.try_for_each(|added| added) {
            Ok(()) => reader.commit().boxed(),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn write_all<'a>(
        &'a self,
        writes: &[WriteOp<'_>],
    ) -> BoxFuture<'a, Result<Vec<MultiWriteResult>, MultiWriteError>> {
        let mut writer = self.new_multi_writer();
        let mut added = writes.iter().map(|write| match *write {
            WriteOp::Check { path, version } => writer.add_check_version(path, version),
            WriteOp::Create { path, data, mode, acl } => writer.add_create(path, data, &mode.with_acls(Acls::new(acl))),
            WriteOp::Set { path, data, version } => writer.add_set_data(path, data, version),
            WriteOp::Delete { path, version } => writer.add_delete(path, version),
        });
        match added.try_for_each(|added| added) {
            Ok(()) => writer.commit().boxed(),
            Err(source) => future::ready(Err(MultiWriteError::RequestFailed { source: Error::clone(&source) })).boxed(),
        }
    }

    fn watch<'a>(&'a self, root: &'a str) -> Answer<'a, BoxStream<'static, WatchedEvent>> {
        let watched = Client::watch(self, root, AddWatchMode::PersistentRecursive);
        let events = |watcher| {
            // After a terminal state the crate panics when it is asked again.
            stream::unfold(Some(watcher), |watcher| async {
                let mut watcher = watcher?;
                let event: WatchedEvent = zookeeper_client::PersistentWatcher::changed(&mut watcher).await;
                let has_ended = event.session_state.is_terminated();
                Some((event, (!has_ended).then_some(watcher)))
            })
        };
        watched.map(move |watched| watched.map(|watcher| events(watcher).boxed())).boxed()
    }
}
