//! What each opening does first: finds the schema, and reads the topic to its end.

use super::client::blocking;
use super::core::Core;
use super::reader::Reader;
use super::registry::{Registry, RegistryError};
use super::settings::Settings;
use super::topic;
use super::wire::Wire;
use crate::codec;
use crate::env::Instant;
use crate::stream::StreamError;
use std::sync::Arc;

/// What a worker will find, in one sentence. Creates nothing.
///
/// # Errors
/// As [`super::KafkaOpener::open`].
pub async fn look(settings: Settings) -> Result<String, StreamError> {
    blocking(move || topic::look(&settings)).await
}

/// Whether the schema registry answers, in one sentence. Registers nothing.
///
/// # Errors
/// It does not, or something else does.
pub async fn look_at_registry(settings: Settings) -> Result<String, StreamError> {
    if let Some(address) = settings.registry {
        Registry::new(address).reach().await.map_err(registry_error)?;
    }
    Ok("the schema registry answers".to_owned())
}

/// How values are written and read. A writer registers the schema.
pub(super) async fn wire(settings: &Settings, writes: bool) -> Result<Wire, StreamError> {
    let Some(address) = settings.registry.clone() else { return Ok(Wire::single_object()) };
    let registry = Registry::new(address);
    if !writes {
        return Ok(Wire::registered(registry, None));
    }
    // TopicNameStrategy, the default of every client.
    let subject = format!("{}-value", settings.topic);
    let id = registry.register(&subject, codec::SCHEMA).await.map_err(registry_error)?;
    Ok(Wire::registered(registry, Some(id)))
}

fn registry_error(error: RegistryError) -> StreamError {
    match error {
        RegistryError::Away(why) => StreamError::Unavailable(why),
        RegistryError::Refused(why) => StreamError::Refused(why),
    }
}

/// Reads the topic to its end.
pub(super) fn scan(settings: Settings, wire: Wire) -> Result<Arc<Core>, StreamError> {
    let begun = Instant::now();
    let mut reader = Reader::open(&settings)?;
    let facts = topic::prepare(&settings, &mut reader)?;
    let (first, end) = reader.bounds()?;
    let core = Core::new(settings, wire, facts.record_bytes_max);
    core.read_into(&mut reader, first, end)?;
    core.refuse_other_pipeline()?;
    let topic = &core.settings.topic;
    core.begin_with_bounds(first, end);
    core.look_at_age(&mut reader)?;
    if end > first {
        tracing::info!(topic, records = end - first, ms = begun.elapsed().as_millis(), "the stream was read");
    }
    Ok(core)
}
