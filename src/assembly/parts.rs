//! The parts of a pipeline, each built from what the pipeline file says about it. Nothing here
//! connects.

use crate::change::{Digest, Side};
use crate::codec::json::StoreNames;
use crate::config::model;
use crate::env::Map;
use crate::history::{Scope, StartError};
use crate::pipeline::{Claims, Route, Settings};
use crate::plan::{Flow, Policy};
use crate::route::RouteMap;
use crate::store::{Claim, Password, ZnodeAcl, redis, zookeeper};
use crate::worker;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The ways to the servers: the client libraries, or a simulator's doubles of the servers.
#[derive(Clone)]
pub struct Network {
    /// To ensembles.
    pub ensembles: Arc<dyn zookeeper::session::Ensemble>,
    /// To Redis servers.
    pub servers: Arc<dyn redis::line::Dial>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Network")
    }
}

impl Default for Network {
    fn default() -> Network {
        Network { ensembles: Arc::new(zookeeper::RealEnsemble), servers: Arc::new(redis::Client) }
    }
}

/// The connections that the pipelines of one process share.
#[derive(Default)]
pub(super) struct Connections {
    network: Network,
    ensembles: Mutex<Map<zookeeper::Access, Arc<zookeeper::Sessions>>>,
    servers: Mutex<Map<redis::Access, Arc<redis::Server>>>,
}

impl Connections {
    pub(super) fn over(network: Network) -> Connections {
        Connections { network, ..Connections::default() }
    }

    /// The sessions of all pipelines that reach an ensemble in the same way.
    fn sessions(&self, access: zookeeper::Access) -> Arc<zookeeper::Sessions> {
        let mut all = self.ensembles.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = all.entry(access).or_insert_with_key(|access| {
            Arc::new(zookeeper::Sessions::new(access.clone(), Arc::clone(&self.network.ensembles)))
        });
        Arc::clone(sessions)
    }

    /// The connections of all pipelines that reach a Redis in the same way.
    fn server(&self, access: redis::Access) -> Arc<redis::Server> {
        let mut all = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let server = all.entry(access).or_insert_with_key(|access| {
            Arc::new(redis::Server::new(access.clone(), Arc::clone(&self.network.servers)))
        });
        Arc::clone(server)
    }
}

/// The folder of a pipeline.
#[must_use]
pub fn folder(data_dir: &Path, pipeline: &str) -> PathBuf {
    data_dir.join(pipeline)
}

/// The stores' names, as the stream and the commands show them.
#[must_use]
pub fn names(pipeline: &model::Pipeline) -> StoreNames {
    StoreNames {
        zookeeper: pipeline.zookeeper.as_ref().map(|store| store.name.clone()),
        redis: pipeline.redis.as_ref().map(|store| store.name.clone()),
    }
}

/// The map, the routes and the names of a pipeline, for the commands of [`crate::history`].
///
/// # Errors
/// As the map between paths and keys.
pub fn scope(pipeline: &model::Pipeline) -> Result<Scope, StartError> {
    let routes = pipeline.routes.iter().map(|rules| route(pipeline, rules)).collect();
    Ok(Scope { map: map(pipeline)?, routes, names: names(pipeline), route: None, key: None })
}

/// The map between paths and keys.
///
/// # Errors
/// A pattern that cannot be used. The pipeline file was checked, so there is none.
pub(super) fn map(pipeline: &model::Pipeline) -> Result<RouteMap, StartError> {
    RouteMap::new(&pipeline.route_specs())
        .map_err(|error| StartError::Refused(format!("{}: {error}", pipeline.file.display())))
}

/// Whether a route reads or writes this side. A capture of one store needs no other.
pub(super) fn uses(pipeline: &model::Pipeline, side: Side) -> bool {
    pipeline.routes.iter().any(|route| !matches!(route.flow, Flow::Capture(captured) if captured != side))
}

/// How messages name the ensemble.
pub(super) fn zookeeper_label(store: &model::ZookeeperStore) -> String {
    format!("zookeeper {} ({})", store.name, store.connect)
}

/// How messages name the Redis.
pub(super) fn redis_label(store: &model::RedisStore) -> String {
    format!("redis {} ({}:{})", store.name, store.host, store.port)
}

/// The ensemble of a pipeline, not connected. `once`: for a command or `run --once`.
pub(super) fn zookeeper_store(
    pipeline: &model::Pipeline,
    store: &model::ZookeeperStore,
    map: &RouteMap,
    (connections, once): (&Connections, bool),
) -> zookeeper::ZookeeperStore {
    zookeeper::ZookeeperStore::new(zookeeper::Settings {
        name: store.name.clone(),
        sessions: connections.sessions(zookeeper::Access {
            connect: store.connect.clone(),
            session_timeout: store.session_timeout,
            digest: store.digest.as_ref().map(password),
        }),
        pipeline: pipeline.name.clone(),
        worker: worker::this(),
        routes_digest: Digest::of(routes_text(pipeline).join("\n").as_bytes()).hex(),
        once,
        roots: map.roots(),
    })
}

/// The Redis of a pipeline, not connected.
pub(super) fn redis_store(
    pipeline: &model::Pipeline,
    store: &model::RedisStore,
    map: &RouteMap,
    connections: &Connections,
) -> redis::RedisStore {
    let server = connections.server(redis::Access {
        host: store.host.clone(),
        port: store.port,
        database: store.database,
        username: store.username.clone(),
        password: store.password.as_ref().map(password),
    });
    let settings = redis::Settings {
        name: store.name.clone(),
        pipeline: pipeline.name.clone(),
        prefixes: map.key_prefixes(),
        channels: pipeline.routes.iter().filter_map(|route| route.publish.clone()).collect(),
        claim_ttl: claim_ttl(pipeline),
        sidecars: pipeline.routes.iter().any(|route| !matches!(route.flow, Flow::Capture(_))),
        ranges: ranges(pipeline),
    };
    redis::RedisStore::new(settings, server)
}

/// What a worker of this pipeline needs to know beside its stores and its stream.
pub(super) fn settings(pipeline: &model::Pipeline, once: bool) -> Settings {
    Settings {
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
        once,
    }
}

/// Bytes of all routes of a pipeline that its owner shows to other workers. Beyond them it shows
/// one digest.
const ROUTES_BYTES_MAX: usize = 64 * 1024;

/// Each route as one line, so that workers can compare their files.
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

/// A digest of the routes: it changes with the set of pairs that they map.
fn ranges(pipeline: &model::Pipeline) -> String {
    let of = |rules: &model::Route| {
        let matches = [&rules.match_zookeeper, &rules.match_redis].map(|name| name.as_deref().unwrap_or_default());
        let excludes = [&rules.exclude_zookeeper, &rules.exclude_redis];
        format!("{:?} {matches:?} {excludes:?} {:?}\n", rules.flow, rules.separator)
    };
    Digest::of(pipeline.routes.iter().map(of).collect::<String>().as_bytes()).hex()
}

/// A secret in the form in which the clients of the stores read it at each login.
pub(super) fn password(secret: &model::Secret) -> Password {
    let known = secret.clone();
    Password::new(secret.reveal().to_owned(), move || known.now())
}

/// How long a claim in Redis lasts. It is renewed every four seconds; the claim of a worker that
/// has died blocks no other worker for longer than its ZooKeeper session would.
fn claim_ttl(pipeline: &model::Pipeline) -> Duration {
    let session = pipeline.zookeeper.as_ref().map_or(Duration::from_secs(10), |store| store.session_timeout);
    session + Duration::from_secs(5)
}

/// The route as the pipeline takes it.
pub(super) fn route(pipeline: &model::Pipeline, rules: &model::Route) -> Route {
    Route {
        name: rules.name.clone(),
        flow: pipeline.flow_text(rules.flow),
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

/// What the pipeline claims in each store.
pub(super) fn claims(pipeline: &model::Pipeline) -> Claims {
    let claim = |side: Side| {
        let patterns = pipeline.routes.iter().filter_map(|route| match side {
            Side::Zookeeper => route.match_zookeeper.clone(),
            Side::Redis => route.match_redis.clone(),
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
        zookeeper: pipeline.zookeeper.as_ref().map(|_| claim(Side::Zookeeper)),
        redis: pipeline.redis.as_ref().map(|_| claim(Side::Redis)),
    }
}
