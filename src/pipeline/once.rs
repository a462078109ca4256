//! `run --once` always ends: with success when a comparison finds nothing to do, or when nothing has moved for `--timeout`, with
//! what is in the way.
//!
//! Something moves when a pair is written, when the pipeline comes further than it was before (owning, comparing, live), when a
//! comparison comes further than the last one did since a pair was written, and when fewer pairs wait than since then. So a
//! comparison that is repeated for ever, because a store takes no writes or a phase of it is refused, counts once.

use super::control::PipelineState;
use super::owner::{DRAIN, Ended, Pipeline, TICK};
use super::ownership::Ownership;
use super::stillness::{Progress, Stillness, rank};
use crate::env::{self, Instant, lock};
use crate::store::{FailureKind, StoreError};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// An attempt that is under way ends by itself, with its reason. It is waited for this much longer.
const ATTEMPT: Duration = Duration::from_secs(30);

/// Pairs are not blamed before a store that has fallen silent would have been noticed: a request is answered within five seconds,
/// or has failed.
const SILENCE: Duration = Duration::from_secs(7);

impl Pipeline {
    fn progress(&self, is_first: bool) -> Progress {
        let (state, owned) = {
            let state = lock(&self.state);
            (state.state, state.owned.clone())
        };
        let counters = &self.counters;
        // A capture writes nothing but its records.
        let recorded = match (&owned, self.spec.captures()) {
            (Some(_), Some(_)) => counters.changes.load(Ordering::Relaxed),
            _ => 0,
        };
        Progress {
            rank: rank(state),
            done: counters.writes.load(Ordering::Relaxed) + recorded,
            comparisons: counters.comparisons.load(Ordering::Relaxed),
            steps: counters.steps.load(Ordering::Relaxed),
            pending: owned.map_or(0, |owned| owned.books.dirty.len()),
            is_opening: is_first && self.is_opening.load(Ordering::Relaxed),
        }
    }

    /// With `once`: resolves when nothing has moved for so long. A worker waits for ever. `last`: why the last attempt ended.
    pub(super) async fn stuck(&self, still: &mut Stillness, patience: Duration, last: Option<&StoreError>) -> Ended {
        if !self.spec.settings.once {
            return std::future::pending().await;
        }
        let mut looked = Instant::now();
        loop {
            env::sleep(TICK).await;
            let for_long = still.note(self.progress(last.is_none()), looked.elapsed());
            looked = Instant::now();
            if for_long < patience {
                continue;
            }
            match self.in_the_way(last, for_long) {
                Some(error) => return ended(error, patience),
                None if for_long >= patience + ATTEMPT => {
                    let error = StoreError::not_now(
                        FailureKind::Worker,
                        format!("pipeline `{}` came no further", self.spec.settings.pipeline),
                    );
                    return ended(error, patience);
                }
                None => {}
            }
        }
    }

    /// What keeps the pipeline from going on; `None` while an attempt is under way, or a request.
    fn in_the_way(&self, last: Option<&StoreError>, for_long: Duration) -> Option<StoreError> {
        let (state, note, owned) = {
            let state = lock(&self.state);
            (state.state, state.note.clone(), state.owned.clone())
        };
        let pipeline = &self.spec.settings.pipeline;
        if state == PipelineState::Standby {
            return Some(StoreError::not_now(
                FailureKind::Worker,
                format!("pipeline `{pipeline}`: {note}; `--once` needs it for itself"),
            ));
        }
        let Some(owned) = owned else { return last.cloned() };
        let live = owned.books.health.live();
        let down = live.zookeeper_down.clone().or_else(|| live.redis_down.clone());
        down.or_else(|| live.blockers.error()).or_else(|| {
            let pending = owned.books.dirty.len();
            let what = || format!("pipeline `{pipeline}`: {pending} pairs wait, and none of them came further");
            (for_long >= SILENCE).then(|| StoreError::not_now(FailureKind::Worker, what()))
        })
    }

    /// With `once`: what a comparison's end means. `None`: compare again.
    pub(super) async fn once(&self, owned: &Ownership, acted: u64) -> Option<Ended> {
        let settled = async {
            while !owned.books.dirty.is_empty() {
                env::sleep(Duration::from_millis(10)).await;
            }
        };
        // Pairs that are held back (a store takes no writes) must not keep a comparison from saying so.
        let is_settled = env::timeout(DRAIN, settled).await.is_ok();
        // What the rounds inferred is decided about: let through (then pairs are under way again), or held.
        let is_concluded = is_settled && owned.comparer.conclude().await.is_ok();
        let waits = owned.books.inferred.any_held();
        if acted > 0 || !is_concluded || owned.books.inferred.is_open() || !owned.books.dirty.is_empty() {
            return if waits { Some(Ended::Done(true)) } else { None };
        }
        let is_partial = {
            let live = owned.books.health.live();
            !live.unreadable.is_empty() || !live.pauses.paused.is_empty()
        };
        Some(Ended::Done(waits || is_partial || !self.quarantine.is_empty()))
    }
}

fn ended(error: StoreError, patience: Duration) -> Ended {
    let text = format!("{error}; nothing has moved for {} s (--timeout)", patience.as_secs_f64());
    match error {
        StoreError::Away(_) | StoreError::Fenced(_) => Ended::Unreachable(text),
        StoreError::NotNow(_) | StoreError::Refused(_) => Ended::Stuck(text),
    }
}
