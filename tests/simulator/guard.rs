//! The delete guard: deletes in mass that a comparison infers wait for approval.
//!
//! Deletes count here that certainly nobody saw: an application made them while no worker was there. A worker that was started after them
//! has inferred each of them, and by the contract it applies none of them if they are more than 100 and more than half of the route.

use crate::executor::ProcessId;
use crate::settings::{Flow, Settings};
use crate::truth::{Author, Pair, State};
use crate::what::Side;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So many of a route always go through.
const FREE: usize = 100;

/// What the play knows of deletes, workers and approvals.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// When an application deleted this side of a pair, and no worker was there.
    pub unseen: BTreeMap<(usize, bool), Duration>,
    /// When a worker was started.
    pub started: BTreeMap<ProcessId, Duration>,
    /// When a worker was given an approval, by which command, unless that has answered that no delete waited.
    pub approved: Vec<(ProcessId, Duration, ProcessId)>,
}

fn sides(pair: &Pair, side: Side) -> (&[State], &[State]) {
    match side {
        Side::Zookeeper => (&pair.zookeeper, &pair.redis),
        Side::Redis => (&pair.redis, &pair.zookeeper),
    }
}

fn at(states: &[State], moment: Duration) -> Option<&State> {
    states.get(..states.partition_point(|state| state.at <= moment))?.last()
}

impl Known {
    /// An application deleted it, and nobody was there.
    pub fn delete(&mut self, pair: usize, side: Side, at: Duration) {
        self.unseen.insert((pair, side == Side::Redis), at);
    }

    fn deleted(&self, pair: usize, side: Side) -> Option<Duration> {
        self.unseen.get(&(pair, side == Side::Redis)).copied()
    }

    /// Whether this pair may differ because its delete waits for approval. `began`: when the ownership began. A delete that its owner can
    /// have seen does not wait.
    #[must_use]
    pub fn may_wait(&self, number: usize, pair: &Pair, began: Duration) -> bool {
        [Side::Zookeeper, Side::Redis].into_iter().any(|side| {
            let (deleted, other) = sides(pair, side);
            let is_there = |states: &[State]| states.last().is_some_and(|state| state.value.is_some());
            let is_unseen = deleted.last().is_some_and(|last| {
                let is_delete = matches!(last.by, Author::Application | Author::Command(_) | Author::Expiry);
                is_delete && (last.at < began || Some(last.at) == self.deleted(number, side))
            });
            is_unseen && !is_there(deleted) && is_there(other)
        })
    }

    /// What is wrong about all deletes of all workers.
    #[must_use]
    pub fn judge(&self, pairs: &[Pair], settings: &Settings) -> Vec<String> {
        let mut wrong = Vec::new();
        if settings.guard.is_off || self.unseen.is_empty() {
            return wrong;
        }
        for (process, started) in &self.started {
            for route in 0..settings.routes.len() {
                for side in [Side::Zookeeper, Side::Redis] {
                    wrong.extend(self.of(*process, *started, route, side, pairs, settings));
                }
            }
        }
        wrong
    }

    fn of(
        &self,
        process: ProcessId,
        started: Duration,
        route: usize,
        side: Side,
        pairs: &[Pair],
        settings: &Settings,
    ) -> Option<String> {
        let own = || pairs.iter().enumerate().filter(|(_, pair)| pair.route == route);
        let approved = self.approved.iter().filter(|(of, ..)| *of == process).map(|(_, at, _)| *at).min();
        let end = approved.unwrap_or(Duration::MAX);
        // As it was deleted, when this worker was started.
        let is_inferred = |number: usize, pair: &Pair| {
            let (deleted, _) = sides(pair, side);
            let when = self.deleted(number, side)?;
            let is_so = when < started && at(deleted, started).is_some_and(|state| state.at == when);
            is_so.then_some(when)
        };
        let mut applied = BTreeSet::new();
        for (number, pair) in own() {
            let Some(when) = is_inferred(number, pair) else { continue };
            let (deleted, other) = sides(pair, side);
            let by_worker = other.iter().any(|state| {
                let is_still = at(deleted, state.at).is_some_and(|state| state.at == when);
                let is_delete = state.by == Author::Worker(process) && state.value.is_none();
                is_delete && state.at < end && is_still
            });
            if by_worker {
                applied.insert(number);
            }
        }
        let is_many = |number: usize| number > FREE && number * 2 > settings.pairs;
        let flow = settings.routes[route].flow;
        let has_bases = pairs.iter().all(|pair| pair.last_loss().is_none());
        // All that it can have inferred, unless a base was lost: nothing but a worker has touched them until the end.
        let inferred = own().filter(|(number, pair)| {
            let Some(when) = is_inferred(*number, pair) else { return false };
            let (deleted, other) = sides(pair, side);
            let is_untouched = deleted.iter().all(|state| state.at <= when || state.at >= end);
            let was_there = at(other, started).is_some_and(|state| state.value.is_some());
            let only_deleted = other
                .iter()
                .filter(|state| state.at > started && state.at < end)
                .all(|state| matches!(state.by, Author::Worker(_)) && state.value.is_none());
            is_untouched && was_there && only_deleted
        });
        let inferred = inferred.count();
        let is_one_way = flow != Flow::Both;
        let too_many = is_many(applied.len()) || (has_bases && !is_one_way && is_many(inferred) && !applied.is_empty());
        too_many.then(|| {
            format!(
                "unguarded: process {process} deleted {} of {} pairs of route {route} that it inferred, of {inferred} in all, and nobody \
                 had approved it",
                applied.len(),
                settings.pairs
            )
        })
    }
}
