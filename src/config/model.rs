//! A pipeline as plain data: what the YAML file says after variables, defaults and checks.

use crate::change::ValueKind;
pub use crate::plan::{Ephemeral, Flow, OnConflict, OnRemoval};
use crate::route::RouteSpec;
use std::path::PathBuf;
use std::time::Duration;

/// A secret. It has no `Display`, and its `Debug` is a mask, so that it cannot end in a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    text: String,
    /// Where it is read again.
    file: Option<PathBuf>,
}

impl Secret {
    /// Wraps the secret.
    #[must_use]
    pub fn new(text: String) -> Secret {
        Secret { text, file: None }
    }

    /// One that a file holds, which may come to hold another.
    #[must_use]
    pub(super) fn in_file(text: String, file: PathBuf) -> Secret {
        Secret { text, file: Some(file) }
    }

    /// The secret itself, as it was when the pipeline file was read. Empty where none was asked for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The secret as it is now, for the client that logs in.
    ///
    /// # Errors
    /// A file that cannot be read now, since it is being replaced; with the reason.
    pub fn now(&self) -> Result<String, String> {
        let Some(file) = &self.file else { return Ok(self.text.clone()) };
        super::reader::secret_in(file).map_err(|reason| format!("the secret file {} {reason}", file.display()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("***")
    }
}

/// One pipeline file.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The file it was read from.
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
    /// The routes as the map between paths and keys takes them, in their order.
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

    /// What is probably not meant, and works: a sentence each.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let names: Vec<&str> = self.routes.iter().map(|route| route.name.as_str()).collect();
        // Patterns that cannot be used are errors of the file, and told there.
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
    /// Session timeout asked of the ensemble. Default 10 s.
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
    /// Full history is kept this long. Default 7 days.
    pub retention_age: Duration,
    /// Bytes on disk above which history is thinned. Default 1 GiB. Embedded only.
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
    /// Replicas of a topic that is created; `None`: as the broker is configured.
    pub replication: Option<i32>,
    /// librdkafka's properties, in the order of the file.
    pub config: Vec<(String, Property)>,
}

/// Value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// As the file writes it.
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
    /// What stands before every path; empty or `/…`.
    pub prefix: String,
    /// The user, if it asks for one.
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
    /// Which way changes go.
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
    /// How values read.
    pub value: ValueKind,
    /// Who wins a conflict. Default: the store named first in `flow`.
    pub on_conflict: OnConflict,
    /// `on_conflict` as the file writes it or would write its default (`prefer zk`), for the conflict log.
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
    /// Whether deletes in mass that a comparison infers wait for `approve`. Default on.
    pub delete_guard: bool,
}
