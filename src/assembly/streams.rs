//! The streams of a pipeline: for its owner, for a command that archives values, and for reading
//! only.

use super::parts::{folder, password, uses};
use crate::change::Side;
use crate::config::model;
use crate::env;
use crate::pipeline::StreamOpener;
use crate::stream::embedded::EmbeddedStream;
use crate::stream::kafka::{self, KafkaOpener, KafkaStream};
use crate::stream::{Retention, Stream, StreamError};
use crate::worker;
use futures::FutureExt as _;
use std::path::Path;
use std::sync::Arc;

/// Opens the stream at the start of each ownership.
pub(super) fn stream_opener(pipeline: &model::Pipeline, folder: &Path) -> StreamOpener {
    if let Some(settings) = kafka_settings(pipeline) {
        let pipeline = pipeline.clone();
        let now = move || kafka_settings(&pipeline).unwrap_or_else(|| settings.clone());
        let opener = Arc::new(KafkaOpener::asking(now));
        return Box::new(move || {
            let opener = Arc::clone(&opener);
            async move { opener.open().await.map(|stream| Arc::new(stream) as Arc<dyn Stream>) }.boxed()
        });
    }
    let retention = Retention { age: pipeline.stream.retention_age, size: pipeline.stream.retention_size };
    let (stream_dir, holder) = (folder.join("stream"), worker::this().name.clone());
    Box::new(move || {
        let (stream_dir, holder) = (stream_dir.clone(), holder.clone());
        // Opening reads every segment and waits for the disk.
        let opened = env::tasks::blocking(move || open_embedded(&stream_dir, retention, &holder));
        let ended = |error| Err(StreamError::Unavailable(format!("opening the stream ended early: {error}")));
        opened.map(move |opened| opened.unwrap_or_else(ended)).boxed()
    })
}

fn open_embedded(dir: &Path, retention: Retention, holder: &str) -> Result<Arc<dyn Stream>, StreamError> {
    let stream = EmbeddedStream::open(dir, retention, holder)?;
    for damage in stream.damage() {
        tracing::error!("the stream is damaged: {damage}; both stores keep their values");
    }
    Ok(Arc::new(stream))
}

/// Opens the pipeline's stream for [`Stream::keep`], for a command that runs without a worker. An
/// owner elsewhere that writes a stream in Kafka is not disturbed.
///
/// # Errors
/// The stream cannot be opened: another process owns it, the disk or the broker fails.
pub async fn open_to_archive(pipeline: &model::Pipeline, data_dir: &Path) -> Result<Arc<dyn Stream>, StreamError> {
    if let Some(settings) = kafka_settings(pipeline) {
        let opener = KafkaOpener::new(kafka::Settings { lease: false, ..settings });
        return opener.open().await.map(|stream| Arc::new(stream) as Arc<dyn Stream>);
    }
    let folder = folder(data_dir, &pipeline.name);
    env::private::folder(&folder)
        .map_err(|error| StreamError::Unavailable(format!("{}: {error}; see --data-dir", folder.display())))?;
    stream_opener(pipeline, &folder)().await
}

/// Opens the stream of a pipeline for reading only, beside a worker or without one; `None` if there
/// is none yet.
///
/// # Errors
/// As [`EmbeddedStream::open_read_only`] and [`KafkaStream::open_read_only`].
pub async fn open_stream(pipeline: &model::Pipeline, data_dir: &Path) -> Result<Option<Arc<dyn Stream>>, StreamError> {
    if let Some(settings) = kafka_settings(pipeline) {
        let stream = KafkaStream::open_read_only(settings).await?;
        return Ok(stream.map(|stream| Arc::new(stream) as Arc<dyn Stream>));
    }
    let dir = folder(data_dir, &pipeline.name).join("stream");
    if !env::disk::is_dir(&dir) {
        return Ok(None);
    }
    Ok(Some(Arc::new(EmbeddedStream::open_read_only(&dir)?)))
}

/// [`open_stream`] with the newest record of each pair. A topic is read to its end for that.
///
/// # Errors
/// As [`open_stream`].
pub async fn open_stream_with_pairs(
    pipeline: &model::Pipeline,
    data_dir: &Path,
) -> Result<Option<Arc<dyn Stream>>, StreamError> {
    let Some(settings) = kafka_settings(pipeline) else { return open_stream(pipeline, data_dir).await };
    let Some(stream) = KafkaStream::open_read_only(settings).await? else { return Ok(None) };
    stream.read_pairs().await?;
    Ok(Some(Arc::new(stream)))
}

/// The settings of a stream in Kafka; `None` if the stream is embedded.
pub(super) fn kafka_settings(pipeline: &model::Pipeline) -> Option<kafka::Settings> {
    let topic = pipeline.stream.kafka.as_ref()?;
    let revealed = |property: &model::Property| match property {
        model::Property::Text(text) => text.clone(),
        model::Property::Secret(secret) => password(secret).now(),
    };
    let secret = |property: &model::Property| match property {
        model::Property::Secret(secret) => Some(password(secret).now()),
        model::Property::Text(_) => None,
    };
    let registry = topic.schema_registry.as_ref().map(|registry| kafka::RegistryAddress {
        host: registry.host.clone(),
        port: registry.port,
        prefix: registry.prefix.clone(),
        login: registry.user.clone().zip(registry.password.as_ref().map(|password| password.reveal().to_owned())),
    });
    Some(kafka::Settings {
        pipeline: pipeline.name.clone(),
        worker: worker::this().name.clone(),
        brokers: topic.brokers.clone(),
        topic: topic.topic.clone(),
        registry,
        age: pipeline.stream.retention_age,
        replication: topic.replication,
        config: topic.config.iter().map(|(name, property)| (name.clone(), revealed(property))).collect(),
        secrets: topic.config.iter().filter_map(|(_, property)| secret(property)).collect(),
        // With an ensemble, its election decides who owns the pipeline.
        lease: !uses(pipeline, Side::Zookeeper),
    })
}
