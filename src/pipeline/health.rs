//! What holds a pipeline up, which of its stores are connected, and which routes are paused: what its status shows beside its pairs.

use super::blockers::{Blockers, Cause};
use super::pauses::PausedRoutes;
use super::unreadable::Denied;
use crate::change::Side;
use crate::env::{Set, lock};
use crate::store::{FailureKind, StoreError};
use std::sync::Mutex;

/// What changes while a pipeline runs, besides its pairs.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    /// Why each store is not connected; `None` while it is.
    pub(super) zookeeper_down: Option<StoreError>,
    pub(super) redis_down: Option<StoreError>,
    pub(super) blockers: Blockers,
    /// What the last comparison could not read.
    pub(super) unreadable: Denied,
    pub(super) pauses: PausedRoutes,
}

/// See the module. One lock; every call is short.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The pipeline's name, for the log.
    pipeline: String,
    live: Mutex<Live>,
}

impl Health {
    pub(super) fn new(pipeline: &str, live: Live) -> Health {
        Health { pipeline: pipeline.to_owned(), live: Mutex::new(live) }
    }

    /// All of it, as it is now.
    pub(super) fn live(&self) -> Live {
        lock(&self.live).clone()
    }

    /// The routes that are paused.
    pub(super) fn paused(&self) -> Set<usize> {
        lock(&self.live).pauses.paused.clone()
    }

    /// Which routes are paused, and until when.
    pub(super) fn pauses(&self) -> PausedRoutes {
        lock(&self.live).pauses.clone()
    }

    /// Replaces the pauses; answers with those before.
    pub(super) fn set_pauses(&self, pauses: PausedRoutes) -> PausedRoutes {
        std::mem::replace(&mut lock(&self.live).pauses, pauses)
    }

    /// Replaces what cannot be read; answers with what could not be before.
    pub(super) fn set_unreadable(&self, denied: Denied) -> Denied {
        std::mem::replace(&mut lock(&self.live).unreadable, denied)
    }

    /// The source of this side is connected, or is not, for this reason.
    pub(super) fn set_down(&self, side: Side, why: Option<StoreError>) {
        let mut live = lock(&self.live);
        match side {
            Side::Zookeeper => live.zookeeper_down = why,
            Side::Redis => live.redis_down = why,
        }
    }

    /// Something holds things up that a store or the stream answers for, for this reason.
    pub(super) fn block(&self, what: Cause, reason: &str) {
        let reason = reason.to_owned();
        let error = match what {
            // A store that takes no writes is there.
            Cause::Writes | Cause::Room => StoreError::not_now(FailureKind::Worker, reason),
            Cause::Stream | Cause::Reads => StoreError::away(FailureKind::Worker, reason),
        };
        self.block_by(what, error);
    }

    /// The same by an error of a known kind.
    pub(super) fn block_by(&self, what: Cause, error: StoreError) {
        let reason = error.to_string();
        if lock(&self.live).blockers.block(what, error) {
            tracing::warn!(pipeline = self.pipeline, "{reason}");
        }
    }

    /// This works.
    pub(super) fn unblock(&self, what: Cause) {
        let reason = lock(&self.live).blockers.clear(what);
        if let Some(reason) = reason {
            tracing::info!(pipeline = self.pipeline, "goes on, after: {reason}");
        }
    }
}
