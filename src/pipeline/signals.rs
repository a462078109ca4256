//! What an ownership is asked for, and what holds it up, as its parts say it.

use super::asked::{Asked, Reason};
use super::blockers::Cause;
use super::engine::{Engine, lock};
use crate::change::Side;
use crate::store::{FailureKind, StoreError};

impl Engine {
    /// Asks for a comparison of everything.
    pub(super) fn ask_comparison(&self, side: Option<Side>, why: &str) {
        self.ask_for(Reason::of(side, why), true);
    }

    pub(super) fn ask_for(&self, reason: Reason, is_urgent: bool) {
        {
            let mut asked = lock(&self.asked);
            asked.is_urgent |= is_urgent;
            // Who asks many times a second asks for one.
            if !asked.reasons.contains(&reason) {
                asked.reasons.push(reason);
            }
        }
        self.compare_asked.notify_one();
    }

    /// What a comparison was asked for since the last call.
    pub(super) fn comparison_asked(&self) -> Asked {
        std::mem::take(&mut *lock(&self.asked))
    }

    /// Says what holds things up.
    pub(super) fn block(&self, what: Cause, reason: &str) {
        self.block_by(
            what,
            match what {
                // A store that takes no writes is there.
                Cause::Writes | Cause::Room => StoreError::not_now(FailureKind::Worker, reason),
                Cause::Stream | Cause::Reads => StoreError::away(FailureKind::Worker, reason),
            },
        );
    }

    /// [`Engine::block`] by an error of a known kind.
    pub(super) fn block_by(&self, what: Cause, error: StoreError) {
        let reason = error.to_string();
        if lock(&self.live).blockers.block(what, error) {
            tracing::warn!(pipeline = self.settings.pipeline, "{reason}");
        }
    }

    /// This works.
    pub(super) fn unblock(&self, what: Cause) {
        let reason = lock(&self.live).blockers.clear(what);
        if let Some(reason) = reason {
            tracing::info!(pipeline = self.settings.pipeline, "goes on, after: {reason}");
        }
    }
}
