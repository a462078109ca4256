//! The same with the stream in Kafka: latency end to end, and what a replay makes of a topic in an empty Redis.

use crate::history::{MEMORY, SCRIPT_KEYS, SCRIPTS, change, rate, raw_script, replayed};
use crate::report::{Report, doing};
use crate::servers::{Kafka, Place, Redis, ZooKeeper};
use crate::{Outcome, Sizes};
use futures::{StreamExt, TryStreamExt, stream};
use keepstep::stream::Stream;
use keepstep::stream::kafka::{KafkaOpener, Settings};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a broker may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// Changes for each pair that is replayed.
const CHANGES_OF_A_PAIR: usize = 50;

/// One change at a time, both ways.
pub(crate) async fn latency(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    let kafka = Kafka::start().await?;
    crate::latency::run(sizes, Some(&kafka), report).await
}

/// Puts the changes on the topic as a worker does.
async fn write_topic(kafka: &Kafka, changes: usize, pairs: usize) -> Outcome<()> {
    let settings = Settings {
        pipeline: "bench".to_owned(),
        worker: "bench:1".to_owned(),
        brokers: kafka.brokers(),
        topic: "bench".to_owned(),
        registry: None,
        age: Duration::from_secs(7 * 86_400),
        replication: None,
        config: Vec::new(),
        secrets: Vec::new(),
        lease: false,
    };
    let begun = Instant::now();
    let stream = loop {
        match KafkaOpener::new(settings.clone()).open().await {
            Ok(stream) => break stream,
            Err(error) if begun.elapsed() > Duration::from_secs(60) => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    stream.begin(1, keepstep::stream::CompleteThrough { epoch: 1, ensemble: 0 }).await?;
    for first in (0..changes).step_by(2_000) {
        let some = (first..changes.min(first + 2_000)).map(|number| change(number, pairs)).collect();
        stream.append(Arc::new(some)).await?;
    }
    Ok(())
}

/// Reads the topic to its end and says how many records there are, portion by portion.
fn consume(brokers: &str, portions: &mpsc::Sender<usize>) -> Outcome<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "bare").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create()?;
    let mut place = TopicPartitionList::new();
    place.add_partition_offset("bench", 0, Offset::Beginning)?;
    consumer.assign(&place)?;
    let (mut count, mut heard) = (0, Instant::now());
    loop {
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(_)) => (count, heard) = (count + 1, Instant::now()),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) => return Err(error.into()),
            // It answers with nothing before its time, too.
            None if heard.elapsed() < SILENCE => {}
            None => return Err("the broker is silent".into()),
        }
        if count == SCRIPT_KEYS {
            portions.blocking_send(std::mem::take(&mut count))?;
        }
    }
    portions.blocking_send(count)?;
    Ok(())
}

/// A bare consumer of the topic, and every change by scripts.
async fn bare(kafka: &Kafka, client: &MultiplexedConnection, changes: usize, pairs: usize) -> Outcome<Duration> {
    let begun = Instant::now();
    let (brokers, (sender, receiver)) = (kafka.brokers(), mpsc::channel(SCRIPTS));
    let consumer = tokio::task::spawn_blocking(move || consume(&brokers, &sender));
    let portions = stream::unfold((receiver, 0), |(mut receiver, first)| async move {
        let count = receiver.recv().await?;
        Some(((first, count), (receiver, first + count)))
    });
    portions
        // The owner's marker is a record and no change.
        .map(|(first, count)| raw_script(client, first.min(changes)..changes.min(first + count), pairs))
        .buffered(SCRIPTS)
        .try_collect::<()>()
        .await?;
    consumer.await??;
    Ok(begun.elapsed())
}

/// Replay of many changes over fewer pairs.
pub(crate) async fn replay(sizes: Sizes, report: &mut Report) -> Outcome<()> {
    let changes = sizes.replayed / 2;
    let pairs = changes / CHANGES_OF_A_PAIR;
    let (zookeeper, redis, kafka) = (ZooKeeper::start().await?, Redis::start().await?, Kafka::start().await?);
    let client = redis.client().await?;
    doing(&format!("writing {changes} changes to the topic"));
    write_topic(&kafka, changes, pairs).await?;
    let place = Place::new(&zookeeper, &redis, Some(&kafka))?;
    for _ in 0..sizes.rounds {
        redis::cmd("FLUSHALL").exec_async(&mut client.clone()).await?;
        let raw = bare(&kafka, &client, changes, pairs).await?;
        let (took, peak) = replayed(&place, &client, pairs).await?;
        let ratio = rate(changes, took) / rate(changes, raw);
        let work = format!("replay of {changes} changes over {pairs} pairs from Kafka into an empty Redis");
        let shown = format!("{:.0} changes/s, {peak:.0} MiB", rate(changes, took));
        let limit = format!("{:.0} changes/s by a bare consumer and scripts", rate(changes, raw));
        report.row(&work, &shown, &limit, Some(ratio), ">= 0.7, <= 300 MiB", ratio >= 0.7 && peak <= MEMORY);
    }
    Ok(())
}
