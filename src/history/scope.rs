//! The pairs of a pipeline that a command works on, and why a command failed.

use crate::change::{Change, Pair, Side};
use crate::codec::json::StoreNames;
use crate::pipeline::Route;
use crate::plan::Flow;
use crate::route::glob::Glob;
use crate::route::{Mapped, RouteMap};
use crate::store::StoreError;
use crate::stream::StreamError;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A store is away for longer than the command waits. Exit 75.
    #[error("{0}")]
    Away(String),
    /// The command cannot do its work. Exit 1. Writes made before the error stay.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for HistoryError {
    fn from(error: StoreError) -> HistoryError {
        match error {
            StoreError::Refused(why) | StoreError::NotNow(why) => HistoryError::Failed(why.into_text()),
            StoreError::Away(why) | StoreError::Fenced(why) => HistoryError::Away(why.into_text()),
        }
    }
}

impl From<StreamError> for HistoryError {
    fn from(error: StreamError) -> HistoryError {
        HistoryError::Failed(error.to_string())
    }
}

/// The selected pairs of a pipeline.
pub struct Scope {
    /// The map between paths and keys.
    pub map: RouteMap,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
    /// The stores' names in the file.
    pub names: StoreNames,
    /// Only this route.
    pub route: Option<usize>,
    /// Only pairs whose key matches; for a pair without a key, its path.
    pub key: Option<Glob>,
}

impl Scope {
    /// Whether this pair is selected.
    #[must_use]
    pub fn takes(&self, mapped: &Mapped) -> bool {
        self.route.is_none_or(|route| route == mapped.route) && self.takes_name(&mapped.pair)
    }

    pub(super) fn takes_name(&self, pair: &Pair) -> bool {
        let Some(key) = &self.key else { return true };
        let name = pair.redis.as_deref().or(pair.zookeeper.as_deref().map(str::as_bytes));
        name.is_some_and(|name| key.matches(name))
    }

    /// The pair of a change by the present map, if it has a name in this store.
    pub(super) fn mapped(&self, change: &Change, side: Side) -> Option<Mapped> {
        let by_key = || change.pair.redis.as_deref().and_then(|key| self.map.of_key(key));
        let by_path = || change.pair.zookeeper.as_deref().and_then(|path| self.map.of_path(path));
        let mapped = match side {
            Side::Redis => by_key().or_else(by_path),
            Side::Zookeeper => by_path().or_else(by_key),
        }?;
        let has_name = match side {
            Side::Redis => mapped.pair.redis.is_some(),
            Side::Zookeeper => mapped.pair.zookeeper.is_some(),
        };
        has_name.then_some(mapped)
    }

    /// The names of the selected routes to which this store is only a destination: a value written
    /// there is reverted.
    #[must_use]
    pub fn destinations_only(&self, side: Side) -> Vec<&str> {
        let selected = self.routes.iter().enumerate().filter(|(at, _)| self.route.is_none_or(|route| route == *at));
        let only = selected.filter(|(_, route)| route.policy.flow == Flow::From(side.other()));
        only.map(|(_, route)| route.name.as_str()).collect()
    }

    /// The store's name in the file.
    #[must_use]
    pub fn name(&self, side: Side) -> &str {
        let name = match side {
            Side::Zookeeper => &self.names.zookeeper,
            Side::Redis => &self.names.redis,
        };
        name.as_deref().unwrap_or_default()
    }
}
