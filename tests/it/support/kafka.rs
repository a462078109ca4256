//! A real Kafka broker of one test, and hands of the test's own on its topics.

use super::eventually::eventually;
use super::port::Port;
use super::process::Process;
use super::programs;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

/// Three seconds on an idle machine; after SIGKILL a broker waits for its own old session, up to three more.
const START: Duration = Duration::from_secs(90);
/// What one question may take.
const ANSWER: Duration = Duration::from_secs(20);

/// Brokers at the same time beside the shared one: each takes 240 MB.
static BROKERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(BROKERS_MAX as usize)));
const BROKERS_MAX: u32 = 2;

/// The broker of all tests that neither stop nor configure it; each has topics of its own. The guardian ends it.
static SHARED: OnceCell<Kafka> = OnceCell::const_new();

/// A record as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    pub offset: i64,
    pub key: Vec<u8>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

/// One broker, its own controller.
pub struct Kafka {
    client: Port,
    dir: TempDir,
    process: Option<Process>,
    /// Properties that the test's own clients need.
    login: Vec<(String, String)>,
    _controller: Port,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Kafka {
    /// The broker that tests share.
    pub async fn shared() -> &'static Kafka {
        // Nobody restarts it, so it may keep the session of a broker, nine seconds, by default: one that gets no processor for
        // a second is not taken for dead, and refuses no topic.
        SHARED.get_or_init(|| Kafka::launch(None, &["broker.session.timeout.ms=9000"], &[])).await
    }

    /// A broker that the test may stop.
    pub async fn start() -> Kafka {
        Kafka::start_with(&[], &[]).await
    }

    /// With further lines of `server.properties`, and what a client of the test then needs.
    pub async fn start_with(lines: &[&str], login: &[(&str, &str)]) -> Kafka {
        let permit = BROKERS.clone().acquire_owned().await.unwrap();
        Kafka::launch(Some(permit), lines, login).await
    }

    /// Three brokers, each a controller too, which hold each partition three times and acknowledge what two of them have.
    pub async fn cluster() -> Vec<Kafka> {
        let permit = BROKERS.clone().acquire_many_owned(BROKERS_MAX).await.unwrap();
        let ports = [(); 3].map(|()| (Port::lease(), Port::lease()));
        let voters = ports.iter().zip(1..).map(|((_, port), id)| format!("{id}@127.0.0.1:{}", port.number()));
        let voters = voters.collect::<Vec<_>>().join(",");
        let lines = "default.replication.factor=3\nmin.insync.replicas=2\noffsets.topic.replication.factor=3\n\
                     controller.quorum.election.timeout.ms=500\ncontroller.quorum.fetch.timeout.ms=1000";
        let mut cluster = Vec::new();
        let mut permit = Some(permit);
        for (ports, id) in ports.into_iter().zip(1..) {
            cluster.push(Kafka::format(id, ports, &voters, permit.take(), lines, &[]).await);
        }
        for broker in &mut cluster {
            broker.spawn();
        }
        for broker in &mut cluster {
            broker.serves(3).await;
        }
        cluster
    }

    async fn launch(permit: Option<OwnedSemaphorePermit>, lines: &[&str], login: &[(&str, &str)]) -> Kafka {
        let ports = (Port::lease(), Port::lease());
        let voters = format!("1@127.0.0.1:{}", ports.1.number());
        let lines = format!("offsets.topic.replication.factor=1\n{}", lines.join("\n"));
        let mut kafka = Kafka::format(1, ports, &voters, permit, &lines, login).await;
        kafka.restart().await;
        kafka
    }

    /// A broker's folder, with nothing running in it.
    async fn format(
        id: u8,
        (client, controller): (Port, Port),
        voters: &str,
        permit: Option<OwnedSemaphorePermit>,
        lines: &str,
        login: &[(&str, &str)],
    ) -> Kafka {
        let (broker, quorum) = (client.number(), controller.number());
        let dir = tempfile::tempdir().unwrap();
        let protocol = if login.is_empty() { "PLAINTEXT" } else { "SASL_PLAINTEXT" };
        let config = format!(
            "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
             controller.listener.names=CONTROLLER\nlisteners={protocol}://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{quorum}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocol}:{protocol}\ninter.broker.listener.name={protocol}\n\
             log.dirs=data\noffsets.topic.num.partitions=1\n\
             group.initial.rebalance.delay.ms=0\nlog.cleaner.backoff.ms=200\nlog.cleaner.dedupe.buffer.size=2097152\n\
             broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=200\n{lines}\n"
        );
        fs::write(dir.path().join("server.properties"), config).unwrap();
        let mut format = programs::kafka_java();
        format.current_dir(dir.path()).args([
            "kafka.tools.StorageTool",
            "format",
            "-t",
            "MkU3OEVBNTcwNTJENDM2Qg",
            "-c",
            "server.properties",
        ]);
        let formatted = tokio::task::spawn_blocking(move || format.output()).await.unwrap().unwrap();
        assert!(formatted.status.success(), "the broker's storage is not formatted: {formatted:?}");
        let login = login.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Kafka { client, dir, process: None, login, _controller: controller, _permit: permit }
    }

    pub fn brokers(&self) -> String {
        self.client.address().to_string()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.as_mut().expect("Kafka was stopped before").kill9();
        self.process = None;
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.process.as_ref().expect("Kafka was stopped before").freeze();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.as_ref().expect("Kafka was stopped before").signal(Signal::CONT);
    }

    /// SIGTERM, and waits until it is gone.
    pub async fn terminate(&mut self) {
        let process = self.process.as_mut().expect("Kafka was stopped before");
        process.signal(Signal::TERM);
        process.end(START).await;
        self.process = None;
    }

    /// Starts again with the same ports and data, ending the old process first, and waits until it serves.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
        self.spawn();
        self.serves(1).await;
    }

    fn spawn(&mut self) {
        let mut java = programs::kafka_java();
        java.current_dir(self.dir.path()).args(["kafka.Kafka", "server.properties"]);
        self.process = Some(Process::start(&mut java, &self.dir.path().join("kafka.log")));
    }

    /// Waits until it answers and knows so many brokers.
    async fn serves(&mut self, brokers: usize) {
        let config = self.config();
        let process = self.process.as_mut().expect("Kafka was started");
        eventually("Kafka serves", START, async || {
            if let Some(status) = process.ended() {
                panic!("Kafka ended at once with {status}; it printed:\n{}", process.log());
            }
            let config = config.clone();
            let answered = tokio::task::spawn_blocking(move || {
                let consumer: BaseConsumer = config.create().unwrap();
                consumer.fetch_metadata(None, Duration::from_secs(1)).map(|metadata| metadata.brokers().len())
            });
            match answered.await.unwrap() {
                Ok(known) if known >= brokers => Ok(()),
                other => Err(format!("{other:?}; it printed:\n{}", process.log())),
            }
        })
        .await;
    }

    /// The leader of the one partition of a topic and how many replicas are in sync, as this broker knows it.
    pub async fn leader(&self, topic: &str) -> (usize, usize) {
        let (config, topic) = (self.config(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create().unwrap();
            let metadata = consumer.fetch_metadata(Some(&topic), ANSWER).unwrap();
            let partition = &metadata.topics()[0].partitions()[0];
            (usize::try_from(partition.leader()).unwrap(), partition.isr().len())
        })
        .await
        .unwrap()
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers()).set("group.id", "test").set("log_level", "0");
        for (name, value) in &self.login {
            config.set(name, value);
        }
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().remove("group.id").create().unwrap()
    }

    fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in config {
            new = new.set(name, value);
        }
        let created = self.admin().create_topics([&new], &Kafka::options()).await.unwrap();
        assert_eq!(created, [Ok(topic.to_owned())]);
    }

    /// Gives a topic more partitions.
    pub async fn add_partitions(&self, topic: &str, partitions: usize) {
        let added = self.admin().create_partitions([&NewPartitions::new(topic, partitions)], &Kafka::options()).await;
        assert_eq!(added.unwrap(), [Ok(topic.to_owned())]);
    }

    pub async fn delete_topic(&self, topic: &str) {
        let deleted = self.admin().delete_topics(&[topic], &Kafka::options()).await.unwrap();
        assert_eq!(deleted, [Ok(topic.to_owned())]);
    }

    /// As `kafka-delete-records.sh` does: everything before this offset goes.
    pub async fn delete_records(&self, topic: &str, before: i64) {
        let mut places = TopicPartitionList::new();
        places.add_partition_offset(topic, 0, Offset::Offset(before)).unwrap();
        let deleted = self.admin().delete_records(&places, &Kafka::options()).await.unwrap();
        deleted.elements()[0].error().unwrap();
    }

    /// Replaces the whole configuration of a topic.
    pub async fn configure(&self, topic: &str, config: &[(&str, &str)]) {
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in config {
            alter = alter.set(name, value);
        }
        let altered = self.admin().alter_configs([&alter], &Kafka::options()).await.unwrap();
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    }

    /// Value of a topic's configuration; `None` without a topic.
    pub async fn topic_config(&self, topic: &str, name: &str) -> Option<String> {
        let described = self.admin().describe_configs([&ResourceSpecifier::Topic(topic)], &Kafka::options()).await;
        let resource = described.unwrap().remove(0).ok()?;
        resource.get(name).and_then(|entry| entry.value.clone())
    }

    /// The number of partitions; 0 if there is no such topic.
    pub async fn partitions(&self, topic: &str) -> usize {
        let (config, topic) = (self.config(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create().unwrap();
            let metadata = consumer.fetch_metadata(Some(&topic), ANSWER).unwrap();
            metadata.topics()[0].partitions().len()
        })
        .await
        .unwrap()
    }

    /// Writes one record as any other program would.
    pub async fn produce(&self, topic: &str, key: &[u8], value: Option<&[u8]>, headers: &[(&str, &str)]) {
        let (mut config, topic, key) = (self.config(), topic.to_owned(), key.to_vec());
        let value = value.map(<[u8]>::to_vec);
        let mut owned = OwnedHeaders::new();
        for (key, value) in headers {
            owned = owned.insert(Header { key, value: Some(*value) });
        }
        tokio::task::spawn_blocking(move || {
            let producer: BaseProducer = config.remove("group.id").create().unwrap();
            let mut record = BaseRecord::<[u8], [u8]>::to(&topic).key(&key).headers(owned);
            if let Some(value) = &value {
                record = record.payload(value);
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
            producer.flush(ANSWER).unwrap();
        })
        .await
        .unwrap();
    }

    /// Everything that lies in the one partition of a topic.
    pub async fn records(&self, topic: &str) -> Vec<Raw> {
        let (mut config, topic) = (self.config(), topic.to_owned());
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer =
                config.set("enable.partition.eof", "true").set("auto.offset.reset", "error").create().unwrap();
            let mut place = TopicPartitionList::new();
            place.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
            consumer.assign(&place).unwrap();
            let mut records = Vec::new();
            loop {
                match consumer.poll(ANSWER).expect("the broker answers") {
                    Ok(message) => {
                        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                        let text =
                            |value: Option<&[u8]>| String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
                        records.push(Raw {
                            offset: message.offset(),
                            key: message.key().unwrap_or_default().to_vec(),
                            value: message.payload().map(<[u8]>::to_vec),
                            headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
                        });
                    }
                    Err(KafkaError::PartitionEOF(_)) => return records,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .unwrap()
    }
}
