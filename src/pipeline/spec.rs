//! What a pipeline is told once: its routes, its rules and its bounds.

use crate::change::{Side, ValueKind};
use crate::codec::json::StoreNames;
use crate::plan::{Flow, OnConflict, Policy};
use crate::route::{Mapped, RouteMap};
use crate::store::ZnodeAcl;
use std::time::Duration;

/// One route, as the file writes it and as the plan needs it.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// As the file writes it, `zk <-> cache`.
    pub flow: String,
    /// Its rules.
    pub policy: Policy,
    /// The rule of conflicts as the file writes it, `prefer zk`.
    pub rule: String,
    /// How its values read.
    pub value: ValueKind,
    /// ACL of znodes that are created.
    pub acl: ZnodeAcl,
    /// Channel to publish on.
    pub publish: Option<String>,
}

/// Everything but the map between paths and keys.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pipeline's name.
    pub pipeline: String,
    /// This worker (`host:pid`).
    pub worker: String,
    /// Its identity.
    pub identity: String,
    /// The routes for people, a line a route, and for whoever compares them with those of another worker's file.
    pub routes_text: Vec<String>,
    /// A claim that is not renewed for this long is void.
    pub claim_ttl: Duration,
    /// The stores' names in the file.
    pub names: StoreNames,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
    /// Pairs in one round.
    pub batch_changes: usize,
    /// Bytes of values in one round, by the sizes seen lately; one value may exceed it.
    pub batch_bytes: usize,
    /// Longest time that a pair waits for others.
    pub batch_wait: Duration,
    /// Bytes of values in all rounds together: fewer rounds run where it is small.
    pub queue_bytes: usize,
    /// Interval of the full comparison.
    pub reconcile: Duration,
    /// Whether inferred deletes in mass wait.
    pub delete_guard: bool,
    /// Ends when one comparison finds nothing to do.
    pub once: bool,
}

/// See the module. Never changes: an ownership keeps the one with which it began.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) settings: Settings,
    /// Between paths and keys.
    pub(super) map: RouteMap,
    /// The rule of some route asks how often a key changed.
    pub(super) counts_matter: bool,
}

impl Spec {
    pub(super) fn new(settings: Settings, map: RouteMap) -> Spec {
        let counts_matter = settings.routes.iter().any(|route| route.policy.on_conflict == OnConflict::HigherVersion);
        Spec { settings, map, counts_matter }
    }

    /// The pipeline's name.
    pub(super) fn name(&self) -> &str {
        &self.settings.pipeline
    }

    pub(super) fn route(&self, index: usize) -> Option<&Route> {
        self.settings.routes.get(index)
    }

    /// The store's name in the file.
    pub(super) fn store_name(&self, side: Side) -> &str {
        let name = match side {
            Side::Zookeeper => &self.settings.names.zookeeper,
            Side::Redis => &self.settings.names.redis,
        };
        name.as_deref().unwrap_or_default()
    }

    /// The store that is captured, where no route writes to any.
    pub(super) fn captures(&self) -> Option<Side> {
        let mut sides = self.settings.routes.iter().map(|route| match route.policy.flow {
            Flow::Capture(side) => Some(side),
            Flow::Both(_) | Flow::From(_) => None,
        });
        let first = sides.next()??;
        sides.all(|side| side == Some(first)).then_some(first)
    }

    /// The pair of this name: a key, or a path where an ensemble is captured.
    pub(super) fn pair_of(&self, name: &[u8]) -> Option<Mapped> {
        match self.captures() {
            Some(Side::Zookeeper) => self.map.of_path(std::str::from_utf8(name).ok()?),
            Some(Side::Redis) | None => self.map.of_key(name),
        }
    }

    /// Whether a rule of this route asks how often a key changed.
    pub(super) fn is_counted(&self, route: usize) -> bool {
        self.route(route).is_some_and(|route| route.policy.on_conflict == OnConflict::HigherVersion)
    }
}
