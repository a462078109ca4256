//! Pipelines that are ready to run. They connect, and wait for what is away, by themselves.

use super::parts::{self, Connections, Network, folder};
use super::streams::stream_opener;
use crate::change::Side;
use crate::config::model;
use crate::env;
use crate::history::StartError;
use crate::pipeline::{Pipeline, Stores};
use crate::store::{Keyspace, Znodes};
use crate::telemetry::Metrics;
use std::path::Path;
use std::sync::Arc;

/// The pipelines of these files, in their order. `once`: for `run --once`.
///
/// # Errors
/// The folder of a pipeline cannot be used.
pub fn pipelines(
    files: &[model::Pipeline],
    data_dir: &Path,
    once: bool,
    metrics: &Metrics,
    network: Network,
) -> Result<Vec<Arc<Pipeline>>, StartError> {
    let connections = Connections::over(network);
    files.iter().map(|file| assemble(file, data_dir, (&connections, once), metrics).map(Arc::new)).collect()
}

fn assemble(
    pipeline: &model::Pipeline,
    data_dir: &Path,
    (connections, once): (&Connections, bool),
    metrics: &Metrics,
) -> Result<Pipeline, StartError> {
    let map = parts::map(pipeline)?;
    let folder = folder(data_dir, &pipeline.name);
    env::private::folder(&folder)
        .map_err(|error| StartError::Refused(format!("{}: {error}; see --data-dir", folder.display())))?;
    let zookeeper = pipeline.zookeeper.as_ref().filter(|_| parts::uses(pipeline, Side::Zookeeper));
    let redis = pipeline.redis.as_ref().filter(|_| parts::uses(pipeline, Side::Redis));
    let znodes = zookeeper
        .map(|store| Arc::new(parts::zookeeper_store(pipeline, store, &map, (connections, once))) as Arc<dyn Znodes>);
    let keys = redis.map(|store| Arc::new(parts::redis_store(pipeline, store, &map, connections)) as Arc<dyn Keyspace>);
    let open = stream_opener(pipeline, &folder);
    let quarantine = folder.join("quarantine.json");
    let metrics = Arc::new(metrics.of(&pipeline.name));
    let settings = parts::settings(pipeline, once);
    Ok(Pipeline::new(settings, map, Stores { znodes, keys }, parts::claims(pipeline), open, metrics, &quarantine))
}
