//! The owner's eye on its topic: whether it is still the one that was opened.

use super::core::Core;
use super::reader::Reader;
use super::{record, topic};
use crate::env::{self, Instant};
use crate::stream::StreamError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How often an owner looks at its topic: so late it learns, without an append, that the topic is gone.
const PERIOD: Duration = Duration::from_secs(3);
/// How often it looks from where on history is whole.
const AGE_PERIOD: Duration = Duration::from_secs(60);

/// A thread that looks at the topic now and then, until it is dropped.
pub(super) struct Watch {
    _stop: SyncSender<()>,
}

impl Watch {
    pub fn start(core: Arc<Core>) -> Result<Watch, StreamError> {
        let (stop, stopped) = sync_channel(1);
        env::tasks::thread("kafka-watch", move || watch(&core, &stopped))
            .map_err(|error| StreamError::Unavailable(format!("a thread could not be started: {error}")))?;
        Ok(Watch { _stop: stop })
    }
}

fn watch(core: &Core, stopped: &Receiver<()>) {
    let mut reader = None;
    let mut gone = 0_u32;
    let mut aged = Instant::now();
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) && core.lost().is_none() {
        if reader.is_none() {
            reader = Reader::open(&core.settings).ok();
        }
        let Some(reader) = reader.as_mut() else { continue };
        match look(core, reader) {
            Ok(()) => gone = 0,
            // A broker that has just started may not know its topics yet.
            Err(error @ StreamError::Lost(_)) => {
                gone += 1;
                if gone > 1 {
                    core.lose(error);
                }
            }
            Err(error) => tracing::debug!("{error}"),
        }
        if aged.elapsed() >= AGE_PERIOD {
            aged = Instant::now();
            if let Err(error) = core.look_at_age(reader) {
                tracing::debug!("{error}");
            }
        }
    }
}

/// Compares the topic with what this opening knows of it.
fn look(core: &Core, reader: &mut Reader) -> Result<(), StreamError> {
    let topic = &core.settings.topic;
    let known = core.next();
    if reader.partitions()?.is_none() {
        return Err(StreamError::Lost(format!("topic {topic} is gone: it was deleted; its history is lost")));
    }
    let (first, end) = reader.bounds()?;
    if end < known {
        let (is, was) = (end - 1, known - 1);
        let why = format!("topic {topic} ends at position {is}, and it ended at {was}: it was deleted or truncated");
        return Err(StreamError::Lost(why));
    }
    if first > core.first() {
        let why = format!("records of topic {topic} before position {first} were deleted; their history is lost");
        return Err(StreamError::Lost(why));
    }
    if core.take_limit_asked() {
        core.set_limit(topic::prepare(&core.settings, reader)?.record_bytes_max);
    }
    let Some(own) = core.own() else { return Ok(()) };
    if end <= known {
        return Ok(());
    }
    // Ours that are under way, or somebody else's.
    let mut newer = None;
    reader.each(known, end, |message| {
        let fence = record::fence_of(message, &core.settings.pipeline);
        newer = newer.or(fence.filter(|fence| *fence > own));
        ControlFlow::Continue(())
    })?;
    reader.rest();
    if let Some(fence) = newer {
        core.lose(StreamError::Lost(format!("another owner (epoch {}) writes topic {topic} now", fence.epoch)));
    }
    Ok(())
}
