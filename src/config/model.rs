//! A pipeline as plain data: the content of the YAML file after variables, defaults and checks.

pub use super::secret::Secret;
use crate::change::{Side, ValueKind};
pub use crate::plan::{Ephemeral, Flow, OnConflict, OnRemoval};
use crate::route::RouteSpec;
use std::path::PathBuf;
use std::time::Duration;

/// One pipeline file.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Its file.
    pub file: PathBuf,
    /// Its name: `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// The ZooKeeper store, if one is declared.
    pub zookeeper: Option<ZookeeperStore>,
    /// The Redis store, if one is declared.
    pub redis: Option<RedisStore>,
    /// Where changes are kept.
    pub stream: Stream,
    /// The routes, in the order of the file: the first that matches wins.
    pub routes: Vec<Route>,
    /// How the worker works.
    pub worker: Worker,
}

impl Pipeline {
    /// The routes in the form that the map between paths and keys needs, in their order.
    #[must_use]
    pub fn route_specs(&self) -> Vec<RouteSpec> {
        let spec = |route: &Route| RouteSpec {
            zookeeper: route.match_zookeeper.clone(),
            redis: route.match_redis.clone(),
            exclude_zookeeper: route.exclude_zookeeper.clone(),
            exclude_redis: route.exclude_redis.clone(),
            separator: route.separator.clone(),
        };
        self.routes.iter().map(spec).collect()
    }

    /// The name of the store on this side; empty if the file declares none.
    #[must_use]
    pub fn store_name(&self, side: Side) -> &str {
        let name = match side {
            Side::Zookeeper => self.zookeeper.as_ref().map(|store| store.name.as_str()),
            Side::Redis => self.redis.as_ref().map(|store| store.name.as_str()),
        };
        name.unwrap_or_default()
    }

    /// The flow of a route as the file writes it: `zk <-> cache`, `zk -> cache` or `zk`.
    #[must_use]
    pub fn flow_text(&self, flow: Flow) -> String {
        let name = |side| self.store_name(side);
        match flow {
            Flow::Both(first) => format!("{} <-> {}", name(first), name(first.other())),
            Flow::From(source) => format!("{} -> {}", name(source), name(source.other())),
            Flow::Capture(side) => name(side).to_owned(),
        }
    }

    /// Parts of the file that work and are probably a mistake, one sentence each.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let names: Vec<&str> = self.routes.iter().map(|route| route.name.as_str()).collect();
        // Patterns that cannot be used are reported as errors of the file.
        crate::route::doubts(&self.route_specs(), &names).unwrap_or_default()
    }
}

/// A ZooKeeper ensemble.
#[derive(Debug, Clone)]
pub struct ZookeeperStore {
    /// Its name in the file.
    pub name: String,
    /// `host:port[,host:port…][/chroot]`.
    pub connect: String,
    /// Session timeout requested from the ensemble. Default 10 s.
    pub session_timeout: Duration,
    /// `user:password` of the `digest` scheme.
    pub digest: Option<Secret>,
}

/// A Redis deployment.
#[derive(Debug, Clone)]
pub struct RedisStore {
    /// Its name in the file.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port. Default 6379.
    pub port: u16,
    /// Database number. Default 0.
    pub database: u32,
    /// ACL user; `None` is the default user.
    pub username: Option<String>,
    /// Password, from the URL or from `password:`.
    pub password: Option<Secret>,
}

/// Where changes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// How long full history is kept. Default 7 days.
    pub retention_age: Duration,
    /// Bytes on disk above which history is compacted. Default 1 GiB. Embedded only.
    pub retention_size: u64,
    /// In Kafka; `None`: embedded.
    pub kafka: Option<Kafka>,
}

/// A stream in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `host[:port][,host[:port]…]`.
    pub brokers: String,
    /// The topic. Default `keepstep.<pipeline>`.
    pub topic: String,
    /// The schema registry, if records have its wire format.
    pub schema_registry: Option<SchemaRegistry>,
    /// Replicas of a topic that Keepstep creates; `None`: the broker's default.
    pub replication: Option<i32>,
    /// librdkafka's properties, in the order of the file.
    pub config: Vec<(String, Property)>,
}

/// Value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// A text, as in the file.
    Text(String),
    /// From the environment or a file.
    Secret(Secret),
}

/// A schema registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaRegistry {
    /// Host name or address.
    pub host: String,
    /// Port. Default 8081.
    pub port: u16,
    /// The prefix of every path; empty or `/…`.
    pub prefix: String,
    /// The user, if the registry requires a login.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// The ACL of znodes that Keepstep creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acl {
    /// Of the nearest existing ancestor.
    Parent,
    /// `world:anyone`, all permissions.
    Open,
    /// All permissions for the authenticated user.
    Creator,
}

/// A rule that maps part of one store onto part of the other.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The direction of changes.
    pub flow: Flow,
    /// Pattern of znodes; `None` in a capture of Redis.
    pub match_zookeeper: Option<String>,
    /// Pattern of keys; `None` in a capture of ZooKeeper.
    pub match_redis: Option<String>,
    /// Patterns of znodes that are not mapped.
    pub exclude_zookeeper: Vec<String>,
    /// Patterns of keys that are not mapped.
    pub exclude_redis: Vec<String>,
    /// What `/` becomes in a key. Default `:`.
    pub separator: String,
    /// The kind of its values.
    pub value: ValueKind,
    /// Who wins a conflict. Default: the store named first in `flow`.
    pub on_conflict: OnConflict,
    /// `on_conflict` as the file writes it or would write its default (`prefer zk`), for the
    /// conflict log.
    pub on_conflict_text: String,
    /// Default `propagate`.
    pub on_delete: OnRemoval,
    /// Default `propagate`.
    pub on_expire: OnRemoval,
    /// Default `mirror`.
    pub ephemeral: Ephemeral,
    /// Default `parent`.
    pub acl: Acl,
    /// Channel on which each change written to Redis is published.
    pub publish: Option<String>,
}

/// How the worker works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Changes in one batch. Default 500.
    pub batch_changes: usize,
    /// Bytes in one batch. Default 512 KiB.
    pub batch_bytes: usize,
    /// Longest time that a change waits for others. Default 5 ms; an idle pipeline does not wait.
    pub batch_wait: Duration,
    /// Bytes of values in flight. Default 64 MiB.
    pub queue_bytes: usize,
    /// Interval of the full comparison. Default 60 s.
    pub reconcile: Duration,
    /// Whether bulk deletes that a comparison infers wait for `approve`. Default on.
    pub delete_guard: bool,
}
