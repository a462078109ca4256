//! What `validate --connect` looks at.

use super::parts::{self, Network};
use super::stores::stores;
use super::streams::kafka_settings;
use crate::change::Side;
use crate::config::model;
use crate::history::{self, Check, Preflight, StartError};
use crate::pipeline::captured_store;
use crate::store::preflight::Finding;
use crate::stream::kafka;
use futures::FutureExt as _;
use std::path::Path;
use std::time::Duration;

/// Looks at the stores and at the stream of a pipeline, and waits at most `timeout` for one that is
/// away. What was found is returned beside the error of a store that cannot be looked at.
pub async fn check_connections(
    pipeline: &model::Pipeline,
    data_dir: &Path,
    timeout: Duration,
    network: &Network,
) -> (Vec<Finding>, Result<(), StartError>) {
    let used: Vec<Side> =
        [Side::Zookeeper, Side::Redis].into_iter().filter(|side| parts::uses(pipeline, *side)).collect();
    let (map, stores) = match parts::map(pipeline).and_then(|map| Ok((map, stores(pipeline, &used, network)?))) {
        Ok(parts) => parts,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let preflight = Preflight {
        pipeline: pipeline.name.clone(),
        map,
        stores,
        claims: parts::claims(pipeline),
        captured_file: captured_store::file(&parts::folder(data_dir, &pipeline.name)),
        stream: stream_checks(pipeline),
    };
    history::preflight(preflight, timeout).await
}

/// The topic, and the schema registry if there is one.
fn stream_checks(pipeline: &model::Pipeline) -> Vec<Check> {
    let Some(settings) = kafka_settings(pipeline) else { return Vec::new() };
    let topic = settings.clone();
    let mut checks = vec![Check {
        label: format!("kafka {}", settings.brokers),
        look: Box::new(move || kafka::look(topic.clone()).boxed()),
    }];
    if let Some(registry) = &settings.registry {
        let label = format!("the schema registry at {}", registry.place());
        checks.push(Check { label, look: Box::new(move || kafka::look_at_registry(settings.clone()).boxed()) });
    }
    checks
}
