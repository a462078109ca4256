//! The stores of a command. They own nothing and claim nothing.

use super::parts::{self, Connections, Network};
use crate::change::Side;
use crate::config::model;
use crate::history::{self, Named, StartError, Stores};
use crate::store::{Keyspace, Znodes};
use std::sync::Arc;
use std::time::Duration;

/// The declared stores among these sides, not connected.
pub(super) fn stores(pipeline: &model::Pipeline, sides: &[Side], network: &Network) -> Result<Stores, StartError> {
    let map = parts::map(pipeline)?;
    let connections = Connections::over(network.clone());
    let zookeeper = pipeline.zookeeper.as_ref().filter(|_| sides.contains(&Side::Zookeeper));
    let redis = pipeline.redis.as_ref().filter(|_| sides.contains(&Side::Redis));
    Ok(Stores {
        znodes: zookeeper.map(|store| Named {
            name: store.name.clone(),
            label: parts::zookeeper_label(store),
            store: Arc::new(parts::zookeeper_store(pipeline, store, &map, (&connections, true))) as Arc<dyn Znodes>,
        }),
        keys: redis.map(|store| Named {
            name: store.name.clone(),
            label: parts::redis_label(store),
            store: Arc::new(parts::redis_store(pipeline, store, &map, &connections)) as Arc<dyn Keyspace>,
        }),
    })
}

/// Connects to these stores of a pipeline and waits at most `timeout` for one that is away.
///
/// # Errors
/// A store is not reachable in time, or the stores are not those of the pipeline.
pub async fn open_stores(
    pipeline: &model::Pipeline,
    sides: &[Side],
    timeout: Duration,
    network: &Network,
) -> Result<Stores, StartError> {
    let others: Vec<Side> = [Side::Zookeeper, Side::Redis].into_iter().filter(|side| !sides.contains(side)).collect();
    history::open_own(&pipeline.name, stores(pipeline, sides, network)?, stores(pipeline, &others, network)?, timeout)
        .await
}

/// As [`open_stores`], for stores that may belong to anybody.
///
/// # Errors
/// A store is not reachable in time, or does not exist.
pub async fn open_scratch(
    pipeline: &model::Pipeline,
    sides: &[Side],
    timeout: Duration,
    network: &Network,
) -> Result<Stores, StartError> {
    history::open(stores(pipeline, sides, network)?, timeout).await
}
