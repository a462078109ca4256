//! Which routes are paused, and until when.

use crate::env::{Map, Set};
use serde::{Deserialize, Serialize};

/// A route that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) route: String,
    /// When the pause ends, milliseconds since the epoch; `None`: when it is resumed.
    pub(super) until_ms: Option<i64>,
}

/// Which routes are paused, and until when.
#[derive(Debug, Clone, Default)]
pub(super) struct PausedRoutes {
    pub(super) paused: Set<usize>,
    pub(super) until: Map<usize, i64>,
}

impl PausedRoutes {
    pub(super) fn set(&mut self, route: usize, until_ms: Option<i64>) {
        self.paused.insert(route);
        match until_ms {
            Some(until) => self.until.insert(route, until),
            None => self.until.remove(&route),
        };
    }

    pub(super) fn end(&mut self, route: usize) {
        self.paused.remove(&route);
        self.until.remove(&route);
    }
}
