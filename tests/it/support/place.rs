//! Where a pipeline has its stream: tests of what an operator does run once for each kind.

use super::kafka::Kafka;
use super::pipeline::Pipeline;
use std::sync::atomic::{AtomicU64, Ordering};

/// One kind of stream.
#[derive(Clone, Copy)]
pub enum Place {
    /// Files in the worker's folder.
    Embedded,
    /// A topic of the broker that the tests share.
    Kafka(&'static Kafka),
}

impl Place {
    pub async fn kafka() -> Place {
        Place::Kafka(Kafka::shared().await)
    }

    /// The pipeline with its stream there: in Kafka, in a topic that no other test has.
    pub fn of(self, pipeline: Pipeline) -> Pipeline {
        match self {
            Place::Embedded => pipeline,
            Place::Kafka(kafka) => {
                static NEXT: AtomicU64 = AtomicU64::new(0);
                let topic = format!("place-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
                pipeline.kafka(&format!("{{brokers: \"{}\", topic: {topic}}}", kafka.brokers()))
            }
        }
    }
}
