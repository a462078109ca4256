//! The closet where everything is plugged together: plain data in, running pipelines out. No logic lives here.

use crate::change::Digest;
use crate::codec::json::StoreNames;
use crate::config::model;
use crate::env::{self, Map, Tasks};
use crate::history::Scope;
use crate::pipeline::control::Handle;
use crate::pipeline::{Claims, Ended, Pipeline, Route, Settings, StreamOpener};
use crate::plan::{Flow, Policy};
use crate::route::{RouteMap, RouteSpec};
use crate::store::{Claim, Keyspace, Password, ZnodeAcl, Znodes, redis, zookeeper};
use crate::stream::embedded::EmbeddedStream;
use crate::stream::kafka::{self, KafkaOpener, KafkaStream};
use crate::stream::{Retention, Stream, StreamError};
use crate::telemetry::Metrics;
use crate::worker;
use futures::FutureExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

mod look;
mod stores;

pub use crate::store::preflight::{Finding, Level};
pub use look::check_connections;
pub use stores::{Stores, open_scratch, open_stores};

/// What `run` is told beside the pipelines.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where a worker keeps what it keeps, a folder a pipeline.
    pub data_dir: PathBuf,
    /// End when one full comparison finds nothing to do.
    pub once: bool,
    /// With `once`: how long a store may be away.
    pub timeout: Duration,
}

/// How `--once` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// All pairs are in step.
    Done,
    /// Pairs are quarantined or wait for approval.
    Differs,
}

/// Why a worker, or a check, did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// It may not; exit 1.
    #[error("{0}")]
    Refused(String),
    /// A store was not reachable in time; exit 75.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing moved for too long; exit 1.
    #[error("{0}")]
    Stuck(String),
}

/// The running pipelines.
pub struct Worker {
    /// One for each pipeline, in the order given.
    pub handles: Vec<Arc<dyn Handle>>,
    pipelines: Vec<Arc<Pipeline>>,
    running: Tasks<Ended>,
    differs: bool,
}

impl Worker {
    /// Resolves when the last pipeline of `--once` is done, or when a start was refused.
    pub async fn finished(&mut self) -> Result<Finished, StartError> {
        while let Some(ended) = self.running.join_next().await {
            match ended {
                Ok(Ended::Done(differs)) => self.differs |= differs,
                Ok(Ended::Refused(why)) => return Err(StartError::Refused(why)),
                Ok(Ended::Unreachable(why)) => return Err(StartError::Unreachable(why)),
                Ok(Ended::Stuck(why)) => return Err(StartError::Stuck(why)),
                Ok(Ended::Stopped | Ended::Moved(_)) => {}
                Err(error) => return Err(StartError::Refused(format!("a pipeline ended early: {error}"))),
            }
        }
        Ok(if self.differs { Finished::Differs } else { Finished::Done })
    }

    /// Stops every pipeline; what is under way is finished within `drain`.
    pub async fn shut_down(mut self, drain: Duration) {
        for pipeline in &self.pipelines {
            pipeline.stop();
        }
        let all = async { while self.running.join_next().await.is_some() {} };
        let _ = env::timeout(drain, all).await;
    }
}

/// What the pipelines of one worker have in common.
#[derive(Default)]
struct Member {
    once: bool,
    ensembles: Mutex<Map<zookeeper::Access, Arc<zookeeper::Sessions>>>,
    servers: Mutex<Map<redis::Access, Arc<redis::Server>>>,
}

impl Member {
    /// The sessions of all pipelines that reach an ensemble in the same way.
    fn sessions(&self, access: zookeeper::Access) -> Arc<zookeeper::Sessions> {
        let mut all = self.ensembles.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = all.entry(access).or_insert_with_key(|access| {
            Arc::new(zookeeper::Sessions::new(access.clone(), Arc::new(zookeeper::RealEnsemble)))
        });
        Arc::clone(sessions)
    }

    /// The connections of all pipelines that reach a Redis in the same way.
    fn server(&self, access: redis::Access) -> Arc<redis::Server> {
        let mut all = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let server = all.entry(access).or_insert_with_key(|access| Arc::new(redis::Server::new(access.clone())));
        Arc::clone(server)
    }
}

/// Starts the pipelines; they connect, and wait for what is away, by themselves.
pub async fn start(
    pipelines: Vec<model::Pipeline>,
    options: RunOptions,
    metrics: Arc<Metrics>,
) -> Result<Worker, StartError> {
    let member = Member { once: options.once, ..Member::default() };
    let mut started = Vec::new();
    let mut running = Tasks::default();
    for pipeline in &pipelines {
        let pipeline = Arc::new(assemble(pipeline, &options, &member, &metrics)?);
        let patience = options.timeout;
        let task = Arc::clone(&pipeline);
        running.spawn(async move { task.run(patience).await });
        started.push(pipeline);
    }
    let handles = started.iter().map(|pipeline| Arc::clone(pipeline) as Arc<dyn Handle>).collect();
    Ok(Worker { handles, pipelines: started, running, differs: false })
}

/// What the commands of history know of a pipeline: its map, its routes, its names.
pub fn scope(pipeline: &model::Pipeline) -> Result<Scope, StartError> {
    let routes = pipeline.routes.iter().map(|rules| route(pipeline, rules)).collect();
    Ok(Scope { map: map(pipeline)?, routes, names: names(pipeline), route: None, key: None })
}

/// Opens the pipeline's stream for [`Stream::keep`], for a command that no worker can help. An owner elsewhere that writes a stream in Kafka
/// goes on undisturbed.
pub async fn open_to_keep(pipeline: &model::Pipeline, data_dir: &Path) -> Result<Arc<dyn Stream>, StreamError> {
    if let Some(settings) = kafka_settings(pipeline) {
        let opener = KafkaOpener::new(kafka::Settings { lease: false, ..settings });
        return opener.open().await.map(|stream| Arc::new(stream) as Arc<dyn Stream>);
    }
    let folder = folder(data_dir, &pipeline.name);
    env::private::folder(&folder)
        .map_err(|error| StreamError::Unavailable(format!("{}: {error}; see --data-dir", folder.display())))?;
    stream_opener(pipeline, &folder)().await
}

/// Whether a route reads or writes this side; a store that is only captured needs no other.
fn uses(pipeline: &model::Pipeline, side: crate::change::Side) -> bool {
    pipeline.routes.iter().any(|route| !matches!(route.flow, Flow::Capture(captured) if captured != side))
}

fn zookeeper_place(store: &model::ZookeeperStore) -> String {
    format!("zookeeper {} ({})", store.name, store.connect)
}

fn redis_place(store: &model::RedisStore) -> String {
    format!("redis {} ({}:{})", store.name, store.host, store.port)
}

/// The folder of a pipeline.
#[must_use]
pub fn folder(data_dir: &Path, pipeline: &str) -> PathBuf {
    data_dir.join(pipeline)
}

fn assemble(
    pipeline: &model::Pipeline,
    options: &RunOptions,
    member: &Member,
    metrics: &Arc<Metrics>,
) -> Result<Pipeline, StartError> {
    let map = map(pipeline)?;
    let folder = folder(&options.data_dir, &pipeline.name);
    env::private::folder(&folder)
        .map_err(|error| StartError::Refused(format!("{}: {error}; see --data-dir", folder.display())))?;
    let znodes = pipeline
        .zookeeper
        .as_ref()
        .filter(|_| uses(pipeline, crate::change::Side::Zookeeper))
        .map(|store| Arc::new(zookeeper_store(pipeline, store, &map, member)) as Arc<dyn Znodes>);
    let keys = pipeline
        .redis
        .as_ref()
        .filter(|_| uses(pipeline, crate::change::Side::Redis))
        .map(|store| Arc::new(redis_store(pipeline, store, &map, member)) as Arc<dyn Keyspace>);
    let settings = Settings {
        pipeline: pipeline.name.clone(),
        worker: worker::this().name.clone(),
        identity: worker::this().identity.clone(),
        routes_text: routes_text(pipeline),
        claim_ttl: claim_ttl(pipeline),
        names: names(pipeline),
        routes: pipeline.routes.iter().map(|rules| route(pipeline, rules)).collect(),
        batch_changes: pipeline.worker.batch_changes,
        batch_bytes: pipeline.worker.batch_bytes,
        batch_wait: pipeline.worker.batch_wait,
        queue_bytes: pipeline.worker.queue_bytes,
        reconcile: pipeline.worker.reconcile,
        delete_guard: pipeline.worker.delete_guard,
        once: options.once,
    };
    let open = stream_opener(pipeline, &folder);
    let stores = (znodes, keys);
    let quarantine = folder.join("quarantine.json");
    let metrics = Arc::new(metrics.of(&pipeline.name));
    Ok(Pipeline::new(settings, map, stores, claims(pipeline), open, metrics, &quarantine))
}

/// Bytes of all routes of a pipeline that its owner shows other workers; beyond that it shows one digest of them.
const ROUTES_BYTES_MAX: usize = 64 * 1024;

/// What each route says, in a line.
fn routes_text(pipeline: &model::Pipeline) -> Vec<String> {
    let of = |rules: &model::Route| {
        let shown = route(pipeline, rules);
        let names = [&rules.match_zookeeper, &rules.match_redis].map(|name| name.as_deref().unwrap_or("-"));
        let exclude = [&rules.exclude_zookeeper, &rules.exclude_redis].map(|names| names.join(" "));
        format!(
            "route {}: {}, match {} and {}, exclude [{}] and [{}], separator {:?}, value {:?}, on_conflict {}, on_delete {:?}, \
             on_expire {:?}, ephemeral {:?}, acl {:?}, publish {}",
            shown.name,
            shown.flow,
            names[0],
            names[1],
            exclude[0],
            exclude[1],
            rules.separator,
            rules.value,
            rules.on_conflict_text,
            rules.on_delete,
            rules.on_expire,
            rules.ephemeral,
            rules.acl,
            rules.publish.as_deref().unwrap_or("-"),
        )
    };
    let lines: Vec<String> = pipeline.routes.iter().map(of).collect();
    if lines.iter().map(String::len).sum::<usize>() <= ROUTES_BYTES_MAX {
        return lines;
    }
    vec![format!("{} routes, digest {}", lines.len(), Digest::of(lines.join("\n").as_bytes()).hex())]
}

/// What opens the stream for each ownership.
fn stream_opener(pipeline: &model::Pipeline, folder: &Path) -> StreamOpener {
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
        // It reads every segment, and waits for the disk.
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

/// Opens the stream of a pipeline for reading only, beside a worker or without one; `None` if there is none yet.
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

/// [`open_stream`], and it knows the newest record of each pair: a topic is read to its end for that.
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

/// What the stream in Kafka is told; `None` where it is embedded.
fn kafka_settings(pipeline: &model::Pipeline) -> Option<kafka::Settings> {
    let place = pipeline.stream.kafka.as_ref()?;
    let revealed = |property: &model::Property| match property {
        model::Property::Text(text) => text.clone(),
        model::Property::Secret(secret) => password(secret).now(),
    };
    let secret = |property: &model::Property| match property {
        model::Property::Secret(secret) => Some(password(secret).now()),
        model::Property::Text(_) => None,
    };
    let registry = place.schema_registry.as_ref().map(|registry| kafka::RegistryAddress {
        host: registry.host.clone(),
        port: registry.port,
        prefix: registry.prefix.clone(),
        login: registry.user.clone().zip(registry.password.as_ref().map(|password| password.reveal().to_owned())),
    });
    Some(kafka::Settings {
        pipeline: pipeline.name.clone(),
        worker: worker::this().name.clone(),
        brokers: place.brokers.clone(),
        topic: place.topic.clone(),
        registry,
        age: pipeline.stream.retention_age,
        replication: place.replication,
        config: place.config.iter().map(|(name, property)| (name.clone(), revealed(property))).collect(),
        secrets: place.config.iter().filter_map(|(_, property)| secret(property)).collect(),
        // Where there is an ensemble, its election decides.
        lease: !uses(pipeline, crate::change::Side::Zookeeper),
    })
}

fn map(pipeline: &model::Pipeline) -> Result<RouteMap, StartError> {
    let specs: Vec<RouteSpec> = pipeline
        .routes
        .iter()
        .map(|route| RouteSpec {
            zookeeper: route.match_zookeeper.clone(),
            redis: route.match_redis.clone(),
            exclude_zookeeper: route.exclude_zookeeper.clone(),
            exclude_redis: route.exclude_redis.clone(),
            separator: route.separator.clone(),
        })
        .collect();
    RouteMap::new(&specs).map_err(|error| StartError::Refused(format!("{}: {error}", pipeline.file.display())))
}

/// The stores' names, as the stream and the commands show them.
#[must_use]
pub fn names(pipeline: &model::Pipeline) -> StoreNames {
    StoreNames {
        zookeeper: pipeline.zookeeper.as_ref().map(|store| store.name.clone()),
        redis: pipeline.redis.as_ref().map(|store| store.name.clone()),
    }
}

fn zookeeper_store(
    pipeline: &model::Pipeline,
    store: &model::ZookeeperStore,
    map: &RouteMap,
    member: &Member,
) -> zookeeper::ZookeeperStore {
    zookeeper::ZookeeperStore::new(zookeeper::Settings {
        name: store.name.clone(),
        sessions: member.sessions(zookeeper::Access {
            connect: store.connect.clone(),
            session_timeout: store.session_timeout,
            digest: store.digest.as_ref().map(password),
        }),
        pipeline: pipeline.name.clone(),
        worker: worker::this().clone(),
        routes_digest: Digest::of(routes_text(pipeline).join("\n").as_bytes()).hex(),
        once: member.once,
        roots: map.roots(),
    })
}

fn redis_store(
    pipeline: &model::Pipeline,
    store: &model::RedisStore,
    map: &RouteMap,
    member: &Member,
) -> redis::RedisStore {
    redis::RedisStore::new(redis::Settings {
        name: store.name.clone(),
        server: member.server(redis::Access {
            host: store.host.clone(),
            port: store.port,
            database: store.database,
            username: store.username.clone(),
            password: store.password.as_ref().map(password),
        }),
        pipeline: pipeline.name.clone(),
        prefixes: map.key_prefixes(),
        channels: pipeline.routes.iter().filter_map(|route| route.publish.clone()).collect(),
        claim_ttl: claim_ttl(pipeline),
        sidecars: pipeline.routes.iter().any(|route| !matches!(route.flow, Flow::Capture(_))),
        ranges: ranges(pipeline),
    })
}

/// Names which pairs the routes have.
fn ranges(pipeline: &model::Pipeline) -> String {
    let of = |rules: &model::Route| {
        let matches = [&rules.match_zookeeper, &rules.match_redis].map(|name| name.as_deref().unwrap_or_default());
        let excludes = [&rules.exclude_zookeeper, &rules.exclude_redis];
        format!("{:?} {matches:?} {excludes:?} {:?}\n", rules.flow, rules.separator)
    };
    Digest::of(pipeline.routes.iter().map(of).collect::<String>().as_bytes()).hex()
}

/// The secret as a store asks for it.
fn password(secret: &model::Secret) -> Password {
    let known = secret.clone();
    Password::new(secret.reveal().to_owned(), move || known.now())
}

/// Renewed every four seconds; a worker that is gone blocks no other for longer than its session would.
fn claim_ttl(pipeline: &model::Pipeline) -> Duration {
    let session = pipeline.zookeeper.as_ref().map_or(Duration::from_secs(10), |store| store.session_timeout);
    session + Duration::from_secs(5)
}

fn side_name(pipeline: &model::Pipeline, side: crate::change::Side) -> String {
    let name = match side {
        crate::change::Side::Zookeeper => pipeline.zookeeper.as_ref().map(|store| store.name.clone()),
        crate::change::Side::Redis => pipeline.redis.as_ref().map(|store| store.name.clone()),
    };
    name.unwrap_or_default()
}

fn route(pipeline: &model::Pipeline, rules: &model::Route) -> Route {
    let flow = match rules.flow {
        Flow::Both(first) => format!("{} <-> {}", side_name(pipeline, first), side_name(pipeline, first.other())),
        Flow::From(from) => format!("{} -> {}", side_name(pipeline, from), side_name(pipeline, from.other())),
        Flow::Capture(side) => side_name(pipeline, side),
    };
    Route {
        name: rules.name.clone(),
        flow,
        policy: Policy {
            flow: rules.flow,
            on_conflict: rules.on_conflict,
            on_delete: rules.on_delete,
            on_expire: rules.on_expire,
            ephemeral: rules.ephemeral,
        },
        rule: rules.on_conflict_text.clone(),
        value: rules.value,
        acl: match rules.acl {
            model::Acl::Parent => ZnodeAcl::Parent,
            model::Acl::Open => ZnodeAcl::Open,
            model::Acl::Creator => ZnodeAcl::Creator,
        },
        publish: rules.publish.clone(),
    }
}

fn claims(pipeline: &model::Pipeline) -> Claims {
    let claim = |side: crate::change::Side| {
        let patterns = pipeline.routes.iter().filter_map(|route| match side {
            crate::change::Side::Zookeeper => route.match_zookeeper.clone(),
            crate::change::Side::Redis => route.match_redis.clone(),
        });
        Claim {
            pipeline: pipeline.name.clone(),
            worker: worker::this().name.clone(),
            identity: worker::this().identity.clone(),
            lineage: 0,
            ensemble: pipeline.zookeeper.as_ref().map(|store| store.connect.clone()).unwrap_or_default(),
            patterns: patterns.collect(),
            writes: pipeline.routes.iter().any(|route| route.flow.leads_to(side)),
            captures: pipeline.routes.iter().all(|route| matches!(route.flow, Flow::Capture(_))),
        }
    };
    Claims {
        zookeeper: pipeline.zookeeper.as_ref().map(|_| claim(crate::change::Side::Zookeeper)),
        redis: pipeline.redis.as_ref().map(|_| claim(crate::change::Side::Redis)),
    }
}
