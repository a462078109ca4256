//! Applying what was decided: Redis by scripts, ZooKeeper by multis and then the sidecars, and what each outcome means.
//!
//! A message goes out in the step that writes its change, and so only with it: also where the change was recorded long before, by
//! an earlier try or an earlier owner. A restore and a put-back of a deleted key write no change and publish nothing.

use super::dirty::{Hint, PairName};
use super::engine::Engine;
use super::held::Held;
use super::observe::Observed;
use super::retry::Pauses;
use super::settle::Work;
use crate::change::{Change, Position, Side};
use crate::env;
use crate::failpoint::crash_point;
use crate::plan::guard::Milestone;
use crate::plan::{Base, Task, lost};
use crate::store::{
    KeyOp, KeyOutcome, KeyWrite, LeftMilestone, StoreError, ZnodeOp, ZnodeOutcome, ZnodeWrite, one_for_one,
};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Engine {
    /// Applies to Redis. `first`: position of the first of these changes.
    pub(super) async fn apply_redis(&self, works: Vec<Work>, changes: &[Change], first: Position) {
        let Some(keys) = self.keys.as_ref().filter(|_| !works.is_empty()) else { return };
        let writes: Vec<KeyWrite<'_>> = works.iter().map(|work| self.key_write(work, changes, first)).collect();
        let applied = keys.apply(&writes).await;
        let outcomes = match applied.and_then(|outcomes| one_for_one("writes of keys", writes.len(), outcomes)) {
            Ok(outcomes) => {
                crash_point!("c8-keys-written");
                outcomes
            }
            Err(error) => {
                self.failed(&error);
                vec![KeyOutcome::NotNow(error.to_string()); works.len()]
            }
        };
        drop(writes);
        let takes_none = outcomes.iter().any(|outcome| matches!(outcome, KeyOutcome::NotNow(_)));
        self.works_if(!takes_none && outcomes.contains(&KeyOutcome::Done));
        // A server without memory still takes deletes.
        let is_set = |work: &Work| matches!(work.task, Task::Redis { op: KeyOp::Set, .. });
        if !takes_none
            && works.iter().zip(&outcomes).any(|(work, outcome)| is_set(work) && *outcome == KeyOutcome::Done)
        {
            self.retries.redis.worked();
        }
        for (work, outcome) in works.into_iter().zip(outcomes) {
            let Work { seen, task, .. } = work;
            let Task::Redis { op, base, .. } = task else { continue };
            match outcome {
                KeyOutcome::Done => {
                    if op != KeyOp::Note {
                        self.metrics.writes(self.store_name(Side::Redis)).inc();
                        self.counters.writes.fetch_add(1, Ordering::Relaxed);
                    }
                    self.count_agreed(&seen, i32::from(op != KeyOp::Note));
                    self.in_step(seen, base);
                }
                other => self.not_done(seen, other),
            }
        }
    }

    fn key_write<'a>(&'a self, work: &'a Work, changes: &'a [Change], first: Position) -> KeyWrite<'a> {
        let (op, expect, base) = match work.task {
            Task::Redis { op, expect, base } => (op, expect, base),
            Task::Znode { .. } => (KeyOp::Note, None, None),
        };
        let written = work.change.get(changes, first);
        let value = match (op, written) {
            (KeyOp::Set, Some((change, _))) => change.after.as_deref().unwrap_or_default(),
            (KeyOp::Set, None) => work.seen.znode.as_ref().map(|(data, _)| data.as_slice()).unwrap_or_default(),
            _ => &[],
        };
        let channel = self.route(work.seen.hint.route).and_then(|route| route.publish.as_deref());
        let publish = match (channel, written) {
            (Some(channel), Some((change, position))) if op != KeyOp::Note => {
                Some((channel, crate::codec::json::tail(position, change, &self.settings.names).to_string()))
            }
            _ => None,
        };
        KeyWrite {
            key: &work.seen.name,
            op,
            expect,
            expect_entry: work.seen.entry.clone(),
            expect_nonce: if op == KeyOp::Note { work.seen.nonce } else { 0 },
            life: work.seen.life,
            milestone: None,
            value,
            base,
            publish,
        }
    }

    /// Applies to ZooKeeper, then brings the sidecars up to date and gives the journal slots back.
    pub(super) async fn apply_zookeeper(&self, works: Vec<Work>, changes: &[Change], left: Option<LeftMilestone>) {
        let (Some(znodes), Some(keys)) = (&self.znodes, &self.keys) else { return };
        if works.is_empty() {
            return;
        }
        let writes: Vec<ZnodeWrite<'_>> =
            works.iter().filter_map(|work| self.znode_write(work, changes, left)).collect();
        let batch = match znodes.write(&writes).await {
            Ok(batch) => batch,
            Err(error) => {
                self.failed(&error);
                let pause = self.retries.zookeeper.refused();
                for Work { seen, .. } in works {
                    let hint = seen.again();
                    self.dirty.finish(seen.name, Some((hint, pause)));
                }
                return;
            }
        };
        self.retries.zookeeper.worked();
        crash_point!("c7-znodes-written");
        drop(writes);
        let mut done = Vec::with_capacity(works.len());
        for (Work { seen, .. }, outcome) in works.into_iter().zip(batch.outcomes) {
            match outcome {
                ZnodeOutcome::Done { base, recreated } => {
                    self.metrics.writes(self.store_name(Side::Zookeeper)).inc();
                    self.counters.writes.fetch_add(1, Ordering::Relaxed);
                    if recreated {
                        self.metrics.recreate_overwrites.inc();
                        tracing::warn!(pair = ?seen.pair, "a znode was deleted and recreated between read and write");
                    }
                    done.push((seen, base));
                }
                ZnodeOutcome::Refused => self.not_done(seen, KeyOutcome::Refused),
                ZnodeOutcome::Impossible(reason, detail) => {
                    self.not_done(seen, KeyOutcome::Impossible(reason, detail));
                }
            }
        }
        let mut pauses = Pauses::default();
        let outcomes = loop {
            let notes: Vec<KeyWrite<'_>> = done.iter().map(|(seen, base)| sidecar(seen, *base, left)).collect();
            let applied = keys.apply(&notes).await;
            match applied.and_then(|outcomes| one_for_one("sidecars", notes.len(), outcomes)) {
                Ok(outcomes) if outcomes.iter().any(|outcome| matches!(outcome, KeyOutcome::NotNow(_))) => {
                    self.held_up(Held::Writes, "Redis takes no writes now; the sidecars wait");
                }
                Ok(outcomes) => {
                    crash_point!("c7-sidecars-written");
                    match keys.mark_slots(&batch.slots, self.lease.so_far(Some(znodes.as_ref()))).await {
                        Ok(()) => break outcomes,
                        Err(error) => self.failed(&error),
                    }
                }
                Err(error @ StoreError::Fenced(_)) => {
                    // The next owner completes the journal, so the slots stay as they are.
                    self.halt(error);
                    return;
                }
                Err(error) => self.failed(&error),
            }
            if self.has_halted() {
                return;
            }
            env::sleep(pauses.pause()).await;
        };
        crash_point!("c7-slots-marked");
        znodes.release(&batch.slots);
        self.works_if(!outcomes.is_empty());
        for ((seen, base), outcome) in done.into_iter().zip(outcomes) {
            match outcome {
                KeyOutcome::Done => {
                    self.count_agreed(&seen, 0);
                    self.in_step(seen, base);
                }
                // The bucket was lost meanwhile: without a base the pair is looked at again.
                other => self.not_done(seen, other),
            }
        }
    }

    fn znode_write<'a>(
        &self,
        work: &'a Work,
        changes: &'a [Change],
        left: Option<LeftMilestone>,
    ) -> Option<ZnodeWrite<'a>> {
        let Task::Znode { op, base } = work.task else { return None };
        let data = match (op, work.change.get(changes, 0)) {
            (ZnodeOp::Delete(_), _) => &[],
            (_, Some((change, _))) => change.after.as_deref().unwrap_or_default(),
            (_, None) => work.seen.value.as_deref().unwrap_or_default(),
        };
        Some(ZnodeWrite {
            path: work.seen.pair.zookeeper.as_deref().unwrap_or_default(),
            op,
            data,
            key: &work.seen.name,
            base,
            nonce: work.seen.nonce,
            acl: self.route(work.seen.hint.route).map_or(crate::store::ZnodeAcl::Parent, |route| route.acl),
            milestone: behind(&work.seen, left),
        })
    }

    /// Ends the round of a pair that was found to have neither znode nor base, or lost its base: what was read of its znode before may
    /// be older.
    pub(super) fn finish_gone(&self, name: PairName, hint: &Hint) {
        let heard = if hint.zxid == i64::MAX { 0 } else { hint.zxid };
        let seen = self.znodes.as_ref().map_or(0, |znodes| znodes.zxid());
        self.dirty.finish_gone(name, seen.max(heard));
    }

    /// The pair is as its base says, which is known: it leaves the quarantine, unless the base says that its key was lost.
    fn in_step(&self, seen: Observed, base: Option<Base>) {
        self.cache.put(&seen.name, base);
        if base.is_some_and(|base| base.lost) {
            self.note_loss(Side::Redis, &seen);
        } else {
            self.unwritten.settled(&seen.name);
            self.quarantine.remove(&seen.name);
        }
        self.inferred.settled(&seen.name, seen.hint.route);
        self.pairs.settled(&seen.name, seen.hint.route, seen.seen.base.is_some(), base.is_some());
        match base {
            Some(_) => self.dirty.finish(seen.name, None),
            None => self.finish_gone(seen.name, &seen.hint),
        }
    }

    fn not_done(&self, seen: Observed, outcome: KeyOutcome) {
        let hint = seen.again();
        match outcome {
            KeyOutcome::Done => self.dirty.finish(seen.name, None),
            KeyOutcome::Refused => {
                self.metrics.refused.inc();
                self.cache.put(&seen.name, None);
                self.dirty.finish(seen.name, Some((hint, Duration::ZERO)));
            }
            KeyOutcome::NotNow(why) => {
                self.held_up(Held::Writes, &why);
                self.dirty.finish(seen.name, Some((hint, self.retries.redis.refused())));
            }
            KeyOutcome::Impossible(reason, detail) => {
                if lost(&seen.seen) == Some(Side::Redis) {
                    self.is_stranded(&seen.name);
                }
                self.quarantine(&seen.name, seen.hint.route, &seen.pair, reason, &detail);
                self.dirty.finish(seen.name, None);
            }
        }
    }

    fn works_if(&self, it_works: bool) {
        if it_works {
            self.works(Held::Writes);
            self.works(Held::Reads);
        }
    }
}

/// The milestone, if it was left in the data set in which this was observed.
fn behind(seen: &Observed, left: Option<LeftMilestone>) -> Option<Milestone> {
    left.filter(|left| left.life == seen.life).map(|left| left.milestone)
}

/// The write that brings a sidecar up to date after a write to ZooKeeper.
fn sidecar(seen: &Observed, base: Option<Base>, left: Option<LeftMilestone>) -> KeyWrite<'_> {
    KeyWrite {
        key: &seen.name,
        op: KeyOp::Note,
        expect: None,
        expect_entry: seen.entry.clone(),
        expect_nonce: seen.nonce,
        life: seen.life,
        milestone: behind(seen, left),
        value: &[],
        base,
        publish: None,
    }
}
