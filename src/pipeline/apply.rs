//! Applying what was decided: Redis by scripts, ZooKeeper by multis and then the sidecars, and what each outcome means.

use super::dirty::Hint;
use super::engine::Engine;
use super::held::Held;
use super::observe::{AGAIN_AFTER, Observed};
use super::settle::Work;
use crate::change::{Change, Side};
use crate::failpoint::crash_point;
use crate::plan::{Base, Task};
use crate::store::{KeyOp, KeyOutcome, KeyWrite, StoreError, ZnodeOp, ZnodeOutcome, ZnodeWrite};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause before a pair is tried again that a store does not take now (out of memory, read-only).
const NOT_NOW: Duration = Duration::from_millis(500);

impl Engine {
    /// Applies to Redis; answers the pairs that are in step now, by route.
    pub(super) async fn apply_redis(&self, works: Vec<Work>, changes: &[Change], first: u64) -> Vec<(usize, u64)> {
        let Some(keys) = self.keys.as_ref().filter(|_| !works.is_empty()) else { return Vec::new() };
        let writes: Vec<KeyWrite<'_>> = works.iter().map(|work| self.key_write(work, changes, first)).collect();
        let outcomes = match keys.apply(&writes).await {
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
        let mut in_step = vec![0; self.settings.routes.len()];
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
                    self.in_step(seen, base, &mut in_step);
                }
                other => self.not_done(seen, other),
            }
        }
        in_step.into_iter().enumerate().collect()
    }

    fn key_write<'a>(&'a self, work: &'a Work, changes: &'a [Change], first: u64) -> KeyWrite<'a> {
        let (op, expect, base) = match work.task {
            Task::Redis { op, expect, base } => (op, expect, base),
            Task::Znode { .. } => (KeyOp::Note, None, None),
        };
        let change = work.change.and_then(|index| changes.get(index));
        let value = match (op, change) {
            (KeyOp::Set, Some(change)) => change.after.as_deref().unwrap_or_default(),
            (KeyOp::Set, None) => work.seen.znode.as_ref().map(|(data, _)| data.as_slice()).unwrap_or_default(),
            _ => &[],
        };
        let channel = self.route(work.seen.hint.route).and_then(|route| route.publish.as_deref());
        let publish = match (channel, change, work.change) {
            (Some(channel), Some(change), Some(index)) if op != KeyOp::Note => {
                let position = first + u64::try_from(index).unwrap_or(0);
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
            value,
            base,
            publish,
        }
    }

    /// Applies to ZooKeeper, then brings the sidecars up to date and gives the journal slots back.
    pub(super) async fn apply_zookeeper(&self, works: Vec<Work>, changes: &[Change]) -> Vec<(usize, u64)> {
        let (Some(znodes), Some(keys)) = (&self.znodes, &self.keys) else { return Vec::new() };
        if works.is_empty() {
            return Vec::new();
        }
        let writes: Vec<ZnodeWrite<'_>> = works.iter().filter_map(|work| self.znode_write(work, changes)).collect();
        let batch = match znodes.write(&writes).await {
            Ok(batch) => batch,
            Err(error) => {
                self.failed(&error);
                for Work { seen, .. } in works {
                    let hint = seen.again();
                    self.dirty.finish(seen.name, Some((hint, AGAIN_AFTER)));
                }
                return Vec::new();
            }
        };
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
        let outcomes = loop {
            let notes: Vec<KeyWrite<'_>> = done.iter().map(|(seen, base)| sidecar(seen, *base)).collect();
            match keys.apply(&notes).await {
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
                    return Vec::new();
                }
                Err(error) => self.failed(&error),
            }
            if self.has_halted() {
                return Vec::new();
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        };
        crash_point!("c7-slots-marked");
        znodes.release(&batch.slots);
        self.works_if(!outcomes.is_empty());
        let mut in_step = vec![0; self.settings.routes.len()];
        for ((seen, base), outcome) in done.into_iter().zip(outcomes) {
            match outcome {
                KeyOutcome::Done => {
                    self.count_agreed(&seen, 0);
                    self.in_step(seen, base, &mut in_step);
                }
                // The bucket was lost meanwhile: without a base the pair is looked at again.
                other => self.not_done(seen, other),
            }
        }
        in_step.into_iter().enumerate().collect()
    }

    fn znode_write<'a>(&self, work: &'a Work, changes: &'a [Change]) -> Option<ZnodeWrite<'a>> {
        let Task::Znode { op, base } = work.task else { return None };
        let change = work.change.and_then(|index| changes.get(index));
        let data = match (op, change) {
            (ZnodeOp::Delete(_), _) => &[],
            (_, Some(change)) => change.after.as_deref().unwrap_or_default(),
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
        })
    }

    /// A pair was found to have neither znode nor base, or lost its base: what was read of its znode before may be older.
    pub(super) fn is_gone(&self, hint: &Hint) {
        let heard = if hint.zxid == i64::MAX { 0 } else { hint.zxid };
        let seen = self.znodes.as_ref().map_or(0, |znodes| znodes.zxid());
        self.gone_zxid.fetch_max(seen.max(heard), Ordering::Relaxed);
        self.forgotten.fetch_add(1, Ordering::Release);
    }

    /// The pair is in step: its base is known, and it leaves the quarantine.
    fn in_step(&self, seen: Observed, base: Option<Base>, in_step: &mut [u64]) {
        if base.is_none() {
            self.is_gone(&seen.hint);
        }
        self.cache.put(&seen.name, base);
        self.quarantine.remove(&seen.name);
        self.inferred.settled(&seen.name, seen.hint.route);
        let change = i64::from(base.is_some()) - i64::from(seen.seen.base.is_some());
        if let Some(pairs) = self.pairs.get(seen.hint.route)
            && !seen.comparing
        {
            pairs.fetch_add(change, Ordering::Relaxed);
        }
        if let Some(place) = in_step.get_mut(seen.hint.route) {
            *place += u64::from(base.is_some());
        }
        self.dirty.finish(seen.name, None);
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
                self.dirty.finish(seen.name, Some((hint, NOT_NOW)));
            }
            KeyOutcome::Impossible(reason, detail) => {
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

/// The write that brings a sidecar up to date after a write to ZooKeeper.
fn sidecar(seen: &Observed, base: Option<Base>) -> KeyWrite<'_> {
    KeyWrite {
        key: &seen.name,
        op: KeyOp::Note,
        expect: None,
        expect_entry: seen.entry.clone(),
        expect_nonce: seen.nonce,
        life: seen.life,
        value: &[],
        base,
        publish: None,
    }
}
