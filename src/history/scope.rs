//! Which pairs of a pipeline a command of history is about, and why it did not do what it was asked.

use crate::change::{Change, Pair, Side};
use crate::codec::json::StoreNames;
use crate::pipeline::Route;
use crate::plan::Flow;
use crate::route::glob::Glob;
use crate::route::{Mapped, RouteMap};
use crate::store::StoreError;
use crate::stream::StreamError;

/// Why a command of history did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A store is away for longer than is waited for; exit 75.
    #[error("{0}")]
    Away(String),
    /// It cannot be done; exit 1. What was done before stays.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for HistoryError {
    fn from(error: StoreError) -> HistoryError {
        match error {
            StoreError::Refused(why) | StoreError::NotNow(why) => HistoryError::Failed(why),
            StoreError::Away(why) | StoreError::Fenced(why) => HistoryError::Away(why),
        }
    }
}

impl From<StreamError> for HistoryError {
    fn from(error: StreamError) -> HistoryError {
        HistoryError::Failed(error.to_string())
    }
}

/// Which pairs of a pipeline are meant.
pub struct Scope {
    /// The map between paths and keys.
    pub map: RouteMap,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
    /// The stores' names in the file.
    pub names: StoreNames,
    /// Only this route.
    pub route: Option<usize>,
    /// Only pairs whose key matches (the path, where there is no key).
    pub key: Option<Glob>,
}

impl Scope {
    /// Whether this pair is meant.
    #[must_use]
    pub fn takes(&self, mapped: &Mapped) -> bool {
        self.route.is_none_or(|route| route == mapped.route) && self.takes_name(&mapped.pair)
    }

    pub(super) fn takes_name(&self, pair: &Pair) -> bool {
        let Some(key) = &self.key else { return true };
        let name = pair.redis.as_deref().or(pair.zookeeper.as_deref().map(str::as_bytes));
        name.is_some_and(|name| key.matches(name))
    }

    /// The pair of a change as the file maps it now, if it has a name in this store.
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

    /// The routes that are meant and only ever lead to this store, by name: what is written there is put back.
    #[must_use]
    pub fn destinations_only(&self, side: Side) -> Vec<&str> {
        let meant = self.routes.iter().enumerate().filter(|(at, _)| self.route.is_none_or(|route| route == *at));
        let only = meant.filter(|(_, route)| route.policy.flow == Flow::From(side.other()));
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
