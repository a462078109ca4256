//! The stores of a pipeline, opened for a command: they own nothing and claim nothing. Whose stores they are is looked at first, as a
//! worker does: with a chroot or a database that is another one by a slip of the pen, `repair` would delete everything.

use super::look::Deadline;
use super::{Member, StartError, map, redis_place, redis_store, zookeeper_place, zookeeper_store};
use crate::change::Side;
use crate::config::model;
use crate::store::{Keyspace, StoreError, Znodes, difference};
use std::sync::Arc;
use std::time::Duration;

/// How long the other store is waited for, which only says whether the one that is written is the pipeline's: a command must do its
/// work where the other one is what was lost.
const OTHER_STORE: Duration = Duration::from_secs(3);

/// The stores of a pipeline, connected, for a command.
#[derive(Clone, Default)]
pub struct Stores {
    /// The ZooKeeper store, if it was asked for.
    pub znodes: Option<Arc<dyn Znodes>>,
    /// The Redis store, if it was asked for.
    pub keys: Option<Arc<dyn Keyspace>>,
}

impl Stores {
    /// Gives the connections back.
    pub async fn close(&self) {
        if let Some(znodes) = &self.znodes {
            znodes.close().await;
        }
        if let Some(keys) = &self.keys {
            keys.close().await;
        }
    }
}

/// Connects to these stores of a pipeline; waits for one that is away, at most so long.
///
/// # Errors
/// One is not reachable in time, or the stores are not those of the pipeline.
pub async fn open_stores(pipeline: &model::Pipeline, sides: &[Side], timeout: Duration) -> Result<Stores, StartError> {
    let stores = open_scratch(pipeline, sides, timeout).await?;
    let refused = refuse_others(pipeline, &stores).await;
    if refused.is_err() {
        stores.close().await;
    }
    refused.map(|()| stores)
}

/// As [`open_stores`], whosever they are.
///
/// # Errors
/// One is not reachable in time, or not there at all.
pub async fn open_scratch(pipeline: &model::Pipeline, sides: &[Side], timeout: Duration) -> Result<Stores, StartError> {
    let map = map(pipeline)?;
    let member = Member { once: true, ..Member::default() };
    let wanted = |side| sides.contains(&side);
    let zookeeper = pipeline.zookeeper.as_ref().filter(|_| wanted(Side::Zookeeper));
    let redis = pipeline.redis.as_ref().filter(|_| wanted(Side::Redis));
    let stores = Stores {
        znodes: zookeeper.map(|store| Arc::new(zookeeper_store(pipeline, store, &map, &member)) as Arc<dyn Znodes>),
        keys: redis.map(|store| Arc::new(redis_store(pipeline, store, &map, &member)) as Arc<dyn Keyspace>),
    };
    let deadline = Deadline::new(timeout);
    if let (Some(znodes), Some(store)) = (&stores.znodes, zookeeper) {
        deadline.reach(&zookeeper_place(store), || znodes.connect()).await?;
        deadline.reach(&zookeeper_place(store), || znodes.find_root()).await?;
    }
    if let (Some(keys), Some(store)) = (&stores.keys, redis) {
        deadline.reach(&redis_place(store), || keys.connect()).await?;
    }
    Ok(stores)
}

/// Refuses stores that are not this pipeline's, by what each remembers of the other. A capture has one only.
async fn refuse_others(pipeline: &model::Pipeline, open: &Stores) -> Result<(), StartError> {
    let missing: Vec<Side> = [(Side::Zookeeper, open.znodes.is_none()), (Side::Redis, open.keys.is_none())]
        .into_iter()
        .filter_map(|(side, is_missing)| is_missing.then_some(side))
        .collect();
    let others = match missing.is_empty() {
        true => Stores::default(),
        false => match open_scratch(pipeline, &missing, OTHER_STORE).await {
            Ok(others) => others,
            // A slip of the pen in the file, which no waiting mends.
            Err(error @ StartError::Refused(_)) => return Err(error),
            Err(error) => {
                tracing::warn!("whether the store that is written is the pipeline's is not known: {error}");
                return Ok(());
            }
        },
    };
    let znodes = open.znodes.as_ref().or(others.znodes.as_ref());
    let keys = open.keys.as_ref().or(others.keys.as_ref());
    let refused = match (znodes, keys) {
        (Some(znodes), Some(keys)) => {
            match futures::future::try_join(znodes.ties(), keys.ties()).await {
                Ok((zookeeper, redis)) => difference(&pipeline.name, &zookeeper, &redis),
                // Who may not read what is ours may not own the pipeline, and may still compare.
                Err(StoreError::Refused(why)) => {
                    tracing::warn!("whether the stores are the pipeline's is not known: {why}");
                    None
                }
                Err(error) => {
                    others.close().await;
                    return Err(StartError::Unreachable(error.to_string()));
                }
            }
        }
        _ => None,
    };
    others.close().await;
    refused.map_or(Ok(()), |why| Err(StartError::Refused(why)))
}
