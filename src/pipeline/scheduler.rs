//! Starts rounds over the pairs that wait, several beside each other on disjoint pairs.
//!
//! ```text
//!   sources --hints--> dirty set --rounds--> observe -> plan -> stream -> apply -> finish
//!                          ^                                                        |
//!                          +------------- refused, not now, named meanwhile --------+
//! ```
//!
//! An idle pipeline starts a round at once; while rounds are under way the next one gathers, for at most `batch.wait`.

use super::rounds::Rounds;
use crate::env::{self, Tasks, lock};
use crate::telemetry::spans;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tracing::Instrument as _;

/// Rounds that are under way at a time: one reads while another syncs the stream and a third applies.
const ROUNDS: usize = 4;

/// See the module.
pub(super) struct Scheduler {
    rounds: Arc<Rounds>,
    turns: Arc<Turns>,
    turns_max: usize,
    /// The rounds, so that none outlives the ownership.
    tasks: Mutex<Tasks<()>>,
}

/// Rounds that may still begin, and the news that one has ended.
struct Turns {
    free: Semaphore,
    ended: Notify,
}

/// A round that is under way: given back however it ends.
struct UnderWay(Arc<Turns>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.free.add_permits(1);
        self.0.ended.notify_one();
    }
}

impl Scheduler {
    pub(super) fn new(rounds: Arc<Rounds>) -> Scheduler {
        let settings = &rounds.spec.settings;
        let turns_max = (settings.queue_bytes / settings.batch_bytes.max(1)).clamp(1, ROUNDS);
        let turns = Arc::new(Turns { free: Semaphore::new(turns_max), ended: Notify::new() });
        Scheduler { rounds, turns, turns_max, tasks: Mutex::default() }
    }

    /// Takes pairs from the dirty set and runs rounds over them, until dropped.
    pub(super) async fn run(&self) {
        let dirty = Arc::clone(&self.rounds.books.dirty);
        loop {
            let (due, next) = dirty.due();
            if due == 0 {
                let pause = next.unwrap_or(Duration::from_secs(3600));
                tokio::select! {
                    biased;
                    () = dirty.changed() => {}
                    () = env::sleep(pause) => {}
                }
                continue;
            }
            let is_busy = self.turns.free.available_permits() < self.turns_max;
            let batch = self.batch();
            if is_busy && due < batch {
                // Gather while others work; a round that ends is reason enough to go on.
                let _ = env::timeout(self.rounds.spec.settings.batch_wait, self.turns.ended.notified()).await;
            }
            let Ok(permit) = self.turns.free.acquire().await else { return };
            let turn = dirty.turn();
            let taken = dirty.take(&turn, batch);
            if taken.is_empty() {
                drop(permit);
                continue;
            }
            permit.forget();
            let (rounds, under_way) = (Arc::clone(&self.rounds), UnderWay(Arc::clone(&self.turns)));
            let mut tasks = lock(&self.tasks);
            while let Some(ended) = tasks.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(pipeline = self.rounds.spec.settings.pipeline, %error, "a round did not end by itself");
                }
            }
            let span = spans::round(&self.rounds.spec.settings.pipeline, taken.len());
            let round = async move {
                // Given back however the round ends.
                let _under_way = under_way;
                // What it does not finish goes back.
                let _turn = turn;
                rounds.round(taken).await;
            };
            tasks.spawn(round.instrument(span));
        }
    }

    /// Pairs to take at once: as many as the batch may have, by number and by the sizes seen lately.
    fn batch(&self) -> usize {
        let settings = &self.rounds.spec.settings;
        self.rounds.books.sizes.count_in(settings.batch_bytes).clamp(1, settings.batch_changes)
    }

    /// Waits until no round is under way; those that are after so long are cut off.
    pub(super) async fn drain(&self, limit: Duration) {
        let all = u32::try_from(self.turns_max).unwrap_or(1);
        let is_drained = env::timeout(limit, self.turns.free.acquire_many(all)).await.is_ok();
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        if !is_drained {
            tracing::info!(pipeline = self.rounds.spec.settings.pipeline, rounds = tasks.len(), "rounds are cut off");
        }
        tasks.shutdown().await;
    }
}
