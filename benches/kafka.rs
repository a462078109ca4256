//! The stream on Kafka beside a bare idempotent producer: the same records, the same broker, one run.
//!
//!     cargo bench --bench kafka
//!
//! `KAFKA` names brokers; without it a private one is started from the jars of `scripts/servers.sh`.
//! `KEEPSTEP_BENCH_RECORDS` (100,000) is the number of records of each measurement.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a benchmark runs in the real world")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot go on should stop")]

use futures::stream::StreamExt as _;
use keepstep::change::{Change, Connector, Op, Pair, Source, ValueKind};
use keepstep::codec;
use keepstep::stream::Stream;
use keepstep::stream::kafka::{KafkaOpener, KafkaStream, Settings};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Changes of one append, as a round of the default size makes it.
const BATCH: usize = 500;
/// Appends that wait together: as many as a pipeline has rounds.
const AT_ONCE: usize = 4;
/// Pairs that change again and again.
const PAIRS: u64 = 10_000;

fn change(number: u64) -> Change {
    let pair = number % PAIRS;
    let ts_ms = 1_790_000_000_000;
    let mut source = Source::new(Connector::Zookeeper, "zk", ts_ms);
    source.path = Some(format!("/settings/service/{pair}"));
    source.mzxid = i64::try_from(number).ok();
    Change {
        op: Op::Update,
        before: None,
        after: Some(format!("{number:0>300}").into_bytes()),
        source,
        ts_ms,
        route: "settings".to_owned(),
        value: ValueKind::String,
        pair: Pair {
            zookeeper: Some(format!("/settings/service/{pair}")),
            redis: Some(format!("settings:service:{pair}").into_bytes()),
        },
        base: None,
        collapsed: Some(0),
        conflict: None,
        gap: None,
        epoch: 1,
        loss: None,
    }
}

/// A private broker, ended with this value.
struct Broker {
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn java() -> Command {
    let home = std::env::var("HOME").unwrap_or_default();
    let cached = format!("{home}/.cache/keepstep-test/kafka-4.1.1/*");
    let class_path = std::env::var("KEEPSTEP_TEST_KAFKA_CLASSPATH").unwrap_or(cached);
    let mut java = Command::new(std::env::var("KEEPSTEP_TEST_JAVA").unwrap_or_else(|_| "java".to_owned()));
    java.args(["-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &class_path]);
    java.stdout(Stdio::null()).stderr(Stdio::null());
    java
}

fn start_broker() -> (String, Broker) {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (client, controller) = (free(), free());
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}\n\
         log.dirs=data\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n"
    );
    std::fs::write(dir.path().join("server.properties"), config).unwrap();
    let format = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "server.properties"];
    let formatted = java().current_dir(dir.path()).args(format).status().expect("java starts");
    assert!(formatted.success(), "the broker's storage is not formatted; run `. scripts/servers.sh; find_servers`");
    let process = java().current_dir(dir.path()).args(["kafka.Kafka", "server.properties"]).spawn().unwrap();
    (format!("127.0.0.1:{client}"), Broker { process, _dir: dir })
}

async fn open(brokers: &str) -> KafkaStream {
    let settings = Settings {
        pipeline: "bench".to_owned(),
        worker: "bench:1".to_owned(),
        brokers: brokers.to_owned(),
        topic: format!("keepstep.bench.{}", std::process::id()),
        registry: None,
        age: Duration::from_secs(86_400),
        replication: None,
        config: Vec::new(),
        secrets: Vec::new(),
        lease: false,
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match KafkaOpener::new(settings.clone()).open().await {
            Ok(stream) => {
                stream.begin(1, keepstep::stream::CompleteThrough { epoch: 1, ensemble: 0 }).await.unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// Records a second of a bare producer with the stream's properties, to a topic of its own kind.
fn bare(brokers: &str, topic: &str, encoded: &[(Vec<u8>, Vec<u8>)]) -> f64 {
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("bootstrap.servers", brokers),
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("compression.type", "lz4"),
        ("linger.ms", "0"),
        ("message.max.bytes", "3145728"),
    ] {
        config.set(name, value);
    }
    let producer: BaseProducer = config.create().unwrap();
    let start = Instant::now();
    for (key, value) in encoded {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(key).payload(value);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(1));
            record = back;
        }
    }
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    encoded.len() as f64 / start.elapsed().as_secs_f64()
}

async fn through_the_stream(stream: &KafkaStream, records: u64) -> f64 {
    let batches = (0..records / BATCH as u64).map(|batch| {
        let first = batch * BATCH as u64;
        Arc::new((first..first + BATCH as u64).map(change).collect::<Vec<_>>())
    });
    let batches: Vec<_> = batches.collect();
    let count = batches.len() * BATCH;
    let start = Instant::now();
    futures::stream::iter(batches)
        .for_each_concurrent(AT_ONCE, |batch| async { stream.append(batch).await.map(|_| ()).unwrap() })
        .await;
    count as f64 / start.elapsed().as_secs_f64()
}

async fn single(stream: &KafkaStream, appends: u64) -> [f64; 2] {
    let mut took = Vec::new();
    for number in 0..appends {
        let batch = Arc::new(vec![change(number)]);
        let start = Instant::now();
        stream.append(batch).await.unwrap();
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|share| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default())
}

#[tokio::main]
async fn main() {
    let records = std::env::var("KEEPSTEP_BENCH_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000_u64);
    let (brokers, _broker) = match std::env::var("KAFKA") {
        Ok(brokers) => (brokers, None),
        Err(_) => {
            let (brokers, broker) = start_broker();
            (brokers, Some(broker))
        }
    };
    let stream = open(&brokers).await;
    let topic = format!("keepstep.bench.{}", std::process::id());
    let encoded: Vec<(Vec<u8>, Vec<u8>)> = (0..records)
        .map(|number| {
            let change = change(number);
            let mut value = Vec::new();
            codec::encode(&change, &mut value).unwrap();
            (format!("{{\"zookeeper\":\"/settings/service/{}\"}}", number % PAIRS).into_bytes(), value)
        })
        .collect();
    // Once for nothing: the broker's JIT, the first segment, and the other topic, during whose creation a producer would gather
    // everything into the largest batches.
    through_the_stream(&stream, records / 4).await;
    let bare_topic = format!("{topic}.bare");
    let (servers, to) = (brokers.clone(), bare_topic.clone());
    let first = encoded.get(..encoded.len() / 4).unwrap_or_default().to_vec();
    tokio::task::spawn_blocking(move || bare(&servers, &to, &first)).await.unwrap();
    let [p50, p99] = single(&stream, 500).await;
    println!("append of one change: p50 {p50:.2} ms, p99 {p99:.2} ms");
    for round in 1..=3 {
        let ours = through_the_stream(&stream, records).await;
        // To a topic of its own, which the broker creates: the stream would read what stands between its records.
        let (to, encoded) = (bare_topic.clone(), encoded.clone());
        let brokers = brokers.clone();
        let raw = tokio::task::spawn_blocking(move || bare(&brokers, &to, &encoded)).await.unwrap();
        println!(
            "round {round}: stream {ours:>9.0} rec/s ({AT_ONCE} appends of {BATCH} at once); bare producer {raw:>9.0} rec/s; \
             ratio {:.2}",
            ours / raw
        );
    }
}
