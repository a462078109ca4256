//! The raw limits: the same work through the same crates, without a stream, a comparison or a conflict.

use crate::Outcome;
use crate::load::{directories, key, path, value};
use crate::servers::{Redis, ZooKeeper};
use futures::{StreamExt, TryStreamExt, stream};
use redis::aio::MultiplexedConnection;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use zookeeper_client::{AddWatchMode, Client, EventType, MultiReadResult};

/// Pairs in one portion, and portions in flight.
const PORTION: usize = 500;
const PORTIONS: usize = 4;

/// Tasks that end with this value.
pub(crate) struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What was named and not yet read, each once.
#[derive(Default)]
struct Dirty {
    named: Mutex<(HashSet<String>, VecDeque<String>)>,
    news: Notify,
}

impl Dirty {
    fn note(&self, name: String) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.0.insert(name.clone()) {
            named.1.push_back(name);
        }
        drop(named);
        self.news.notify_one();
    }

    async fn take(&self) -> Vec<String> {
        loop {
            {
                let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
                let count = named.1.len().min(PORTION);
                if count > 0 {
                    let taken: Vec<String> = named.1.drain(..count).collect();
                    for name in &taken {
                        named.0.remove(name);
                    }
                    return taken;
                }
            }
            self.news.notified().await;
        }
    }
}

fn key_of(path: &str) -> String {
    path.trim_start_matches('/').replace('/', ":")
}

fn path_of(key: &str) -> String {
    format!("/{}", key.replace(':', "/"))
}

/// Reads znodes in one request, which is sent at once.
fn read(client: &Client, paths: Vec<String>) -> impl Future<Output = Outcome<Vec<(String, Vec<u8>)>>> + use<'_> {
    let mut multi = client.new_multi_reader();
    let added = paths.iter().try_for_each(|path| multi.add_get_data(path));
    let sent = multi.commit();
    async move {
        added?;
        let found = paths.into_iter().zip(sent.await?).filter_map(|(path, result)| match result {
            MultiReadResult::Data { data, .. } => Some((path, data)),
            _ => None,
        });
        Ok(found.collect())
    }
}

async fn set(mut connection: MultiplexedConnection, found: Vec<(String, Vec<u8>)>) -> Outcome<()> {
    let mut pipe = redis::pipe();
    for (path, data) in &found {
        pipe.set(key_of(path), data).ignore();
    }
    Ok(pipe.exec_async(&mut connection).await?)
}

/// A recursive watch, a set of what it named, multi-reads, pipelines of SET.
pub(crate) async fn zookeeper_to_redis(zookeeper: &ZooKeeper, redis: &Redis, root: &str) -> Outcome<Tasks> {
    let (client, connection) = (zookeeper.client().await?, redis.client().await?);
    let mut watcher = client.watch(&format!("/{root}"), AddWatchMode::PersistentRecursive).await?;
    let dirty = Arc::new(Dirty::default());
    let named = Arc::clone(&dirty);
    let watch = tokio::spawn(async move {
        loop {
            let event = watcher.changed().await;
            if matches!(event.event_type, EventType::NodeDataChanged | EventType::NodeCreated) {
                named.note(event.path);
            }
        }
    });
    let copy = tokio::spawn(async move {
        let portions = stream::unfold(dirty, |dirty| async {
            let taken = dirty.take().await;
            Some((taken, dirty))
        });
        let ended = portions
            .map(|paths| read(&client, paths))
            .buffered(PORTIONS)
            .map_ok(|found| set(connection.clone(), found))
            .try_buffered(PORTIONS)
            .try_collect::<()>()
            .await;
        eprintln!("the raw loop ended: {ended:?}");
    });
    Ok(Tasks(vec![watch, copy]))
}

/// One event, one GET, one set: for latency.
pub(crate) async fn redis_to_zookeeper(zookeeper: &ZooKeeper, redis: &Redis, root: &str) -> Outcome<Tasks> {
    let (client, mut connection) = (zookeeper.client().await?, redis.client().await?);
    let mut events = redis.events(root).await?;
    let copy = tokio::spawn(async move {
        let mut messages = events.on_message();
        while let Some(message) = messages.next().await {
            let Some((_, key)) = message.get_channel_name().split_once("__:") else { continue };
            let held = redis::cmd("GET").arg(key).query_async::<Vec<u8>>(&mut connection).await;
            if let Ok(held) = held {
                let _ = client.set_data(&path_of(key), &held, None).await;
            }
        }
    });
    Ok(Tasks(vec![copy]))
}

/// Copies everything: lists the directories, then multi-reads and pipelines of SET.
pub(crate) async fn copy(zookeeper: &ZooKeeper, redis: &Redis, root: &str, pairs: usize) -> Outcome<()> {
    let (client, connection) = (zookeeper.client().await?, redis.client().await?);
    let (client, connection) = (&client, &connection);
    let paths = stream::iter(directories(root, pairs))
        .map(|directory| async move {
            let children = client.list_children(&directory).await?;
            Outcome::Ok(children.into_iter().map(|child| format!("{directory}/{child}")).collect::<Vec<String>>())
        })
        .buffered(PORTIONS);
    let portions = paths.map_ok(|paths| {
        let parts: Vec<Outcome<Vec<String>>> = paths.chunks(PORTION).map(|part| Ok(part.to_vec())).collect();
        stream::iter(parts)
    });
    portions
        .try_flatten()
        .map_ok(|paths| read(client, paths))
        .try_buffered(PORTIONS)
        .map_ok(|found| set(connection.clone(), found))
        .try_buffered(PORTIONS)
        .try_collect::<()>()
        .await
}

/// Names and values as the load makes them.
pub(crate) fn pair(root: &str, pair: usize, write: usize) -> (String, String, String) {
    (path(root, pair), key(root, pair), value(write))
}
