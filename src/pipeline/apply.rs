//! Applying what was decided: Redis by scripts, ZooKeeper by multis and then the sidecars, and what each outcome means.
//!
//! A message goes out in the step that writes its change, and so only with it: also where the change was recorded long before, by
//! an earlier try or an earlier owner. A restore and a put-back of a deleted key write no change and publish nothing; neither does the
//! write of a change that was written before, to a Redis that came back empty or older.

use super::blockers::Cause;
use super::pair::{Loaded, Misfit};
use super::remedy::{self, Remedy};
use super::retry::Pauses;
use super::round::{Outcome, Write, ZnodeWritten};
use super::rounds::Rounds;
use super::settle::{Work, Written};
use crate::change::{Change, Position, Side};
use crate::env;
use crate::failpoint::{crash_point, planted};
use crate::plan::{Base, Task};
use crate::store::{KeyOp, KeyOutcome, KeyWrite, ZnodeOp, ZnodeOutcome, ZnodeWrite};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

impl Rounds {
    /// Applies to Redis. `first`: position of the first of these changes.
    pub(super) async fn apply_redis(&self, works: Vec<Work>, changes: &[Change], first: Position) {
        if works.is_empty() {
            return;
        }
        let writes: Vec<KeyWrite<'_>> = works.iter().map(|work| self.key_write(work, changes, first)).collect();
        let outcomes = match self.doors.write_keys(&writes).await {
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
        self.unblock_if(!takes_none && outcomes.contains(&KeyOutcome::Done));
        // A server without memory still takes deletes.
        let is_set = |work: &Work| matches!(work.write.task, Task::Redis { op: KeyOp::Set, .. });
        if !takes_none
            && works.iter().zip(&outcomes).any(|(work, outcome)| is_set(work) && *outcome == KeyOutcome::Done)
        {
            self.books.retries.redis.worked();
        }
        for (Work { pair, write, .. }, outcome) in works.into_iter().zip(outcomes) {
            let is_note = !matches!(write.task, Task::Redis { op: KeyOp::Set | KeyOp::Delete, .. });
            if outcome == KeyOutcome::Done {
                if !is_note {
                    self.books.metrics.writes(self.spec.store_name(Side::Redis)).inc();
                    self.books.counters.writes.fetch_add(1, Ordering::Relaxed);
                }
                self.count_agreed(&pair, i32::from(!is_note));
            }
            let (outcome, misfit) = self.outcome(outcome);
            self.end(pair, write.key_written(outcome), misfit);
        }
    }

    /// Converts the store's outcome. The second value is the quarantine reason if the write is impossible.
    fn outcome(&self, outcome: KeyOutcome) -> (Outcome, Option<Misfit>) {
        match outcome {
            KeyOutcome::Done => (Outcome::Done, None),
            KeyOutcome::Refused => (Outcome::Refused, None),
            KeyOutcome::NotNow(why) => {
                self.books.health.block(Cause::Writes, &why);
                (Outcome::NotNow, None)
            }
            KeyOutcome::Impossible(reason, detail) => (Outcome::Impossible, Some((reason, detail))),
        }
    }

    fn key_write<'a>(&'a self, work: &'a Work, changes: &'a [Change], first: Position) -> KeyWrite<'a> {
        let (op, expect, base) = match work.write.task {
            Task::Redis { op, expect, base } => (op, expect, base),
            Task::Znode { .. } => (KeyOp::Note, None, None),
        };
        let written = work.change.get(changes, first);
        let value = match (op, written) {
            (KeyOp::Set, Some((change, _))) => change.after.as_deref().unwrap_or_default(),
            (KeyOp::Set, None) => work.pair.znode.as_ref().map(|(data, _)| data.as_slice()).unwrap_or_default(),
            _ => &[],
        };
        let channel = self.spec.route(work.pair.hint.route).and_then(|route| route.publish.as_deref());
        let publish = match (channel, written) {
            (Some(channel), Some((change, position))) if op != KeyOp::Note && is_news(&work.change) => {
                Some((channel, crate::codec::json::tail(position, change, &self.spec.settings.names).to_string()))
            }
            _ => None,
        };
        KeyWrite {
            key: &work.pair.name,
            op,
            expect,
            expect_entry: work.pair.entry.clone(),
            expect_nonce: if op == KeyOp::Note { work.pair.nonce } else { 0 },
            incarnation: work.write.incarnation,
            milestone: None,
            value,
            base,
            publish,
        }
    }

    /// Applies to ZooKeeper, then brings the sidecars up to date and gives the journal slots back.
    pub(super) async fn apply_zookeeper(&self, works: Vec<Work>, changes: &[Change]) {
        if works.is_empty() {
            return;
        }
        let writes: Vec<ZnodeWrite<'_>> = works.iter().filter_map(|work| self.znode_write(work, changes)).collect();
        let batch = match self.doors.write_znodes(&writes).await {
            Ok(batch) => batch,
            Err(error) => {
                self.failed(&error);
                for Work { pair, write, .. } in works {
                    if let ControlFlow::Break(end) = write.znode_written(ZnodeWritten::NotNow) {
                        self.end(pair, end, None);
                    }
                }
                return;
            }
        };
        self.books.retries.zookeeper.worked();
        crash_point!("c7-znodes-written");
        drop(writes);
        let mut done = Vec::with_capacity(works.len());
        for (Work { pair, write, .. }, outcome) in works.into_iter().zip(batch.outcomes) {
            let (written, misfit) = match outcome {
                ZnodeOutcome::Done { base, recreated } => {
                    self.books.metrics.writes(self.spec.store_name(Side::Zookeeper)).inc();
                    self.books.counters.writes.fetch_add(1, Ordering::Relaxed);
                    if recreated {
                        self.books.metrics.recreate_overwrites.inc();
                        tracing::warn!(pair = ?pair.pair, "a znode was deleted and recreated between read and write");
                    }
                    (ZnodeWritten::Done(base), None)
                }
                ZnodeOutcome::Refused => (ZnodeWritten::Refused, None),
                ZnodeOutcome::Impossible(reason, detail) => (ZnodeWritten::Impossible, Some((reason, detail))),
            };
            match write.znode_written(written) {
                ControlFlow::Continue(base) => done.push((pair, write, base)),
                ControlFlow::Break(end) => self.end(pair, end, misfit),
            }
        }
        let mut pauses = Pauses::default();
        let outcomes = loop {
            let notes: Vec<KeyWrite<'_>> = done.iter().map(|(pair, write, base)| sidecar(pair, write, *base)).collect();
            match self.doors.write_keys(&notes).await {
                Ok(outcomes) if outcomes.iter().any(|outcome| matches!(outcome, KeyOutcome::NotNow(_))) => {
                    self.books.health.block(Cause::Writes, "Redis takes no writes now; the sidecars wait");
                }
                Ok(outcomes) => {
                    crash_point!("c7-sidecars-written");
                    match self.doors.mark_slots(&batch.slots).await {
                        Ok(()) => break outcomes,
                        Err(error) => self.failed(&error),
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    if remedy::of_store(&error) == Remedy::EndOwnership {
                        // The next owner completes the journal, so the slots stay as they are.
                        return;
                    }
                }
            }
            if self.books.halt.has_halted() {
                return;
            }
            env::sleep(pauses.pause()).await;
        };
        crash_point!("c7-slots-marked");
        self.doors.release(&batch.slots);
        self.unblock_if(!outcomes.is_empty());
        for ((pair, write, base), outcome) in done.into_iter().zip(outcomes) {
            if outcome == KeyOutcome::Done {
                self.count_agreed(&pair, 0);
            }
            let (outcome, misfit) = self.outcome(outcome);
            self.end(pair, write.sidecar_written(base, outcome), misfit);
        }
    }

    fn znode_write<'a>(&self, work: &'a Work, changes: &'a [Change]) -> Option<ZnodeWrite<'a>> {
        let Task::Znode { op, base } = work.write.task else { return None };
        let data = match (op, work.change.get(changes, 0)) {
            (ZnodeOp::Delete(_), _) => &[],
            (_, Some((change, _))) => change.after.as_deref().unwrap_or_default(),
            (_, None) => work.pair.value.as_deref().unwrap_or_default(),
        };
        Some(ZnodeWrite {
            path: work.pair.pair.zookeeper.as_deref().unwrap_or_default(),
            op,
            data,
            key: &work.pair.name,
            base,
            nonce: work.pair.nonce,
            acl: self.spec.route(work.pair.hint.route).map_or(crate::store::ZnodeAcl::Parent, |route| route.acl),
            milestone: work.write.milestone,
        })
    }

    /// A pair was agreed on as it was observed, by so many writes of our own to its key.
    fn count_agreed(&self, pair: &Loaded, own: i32) {
        if self.spec.is_counted(pair.hint.route) {
            self.books.counts.agreed(&pair.name, pair.events, own);
        }
    }

    fn unblock_if(&self, it_works: bool) {
        if it_works {
            self.books.health.unblock(Cause::Writes);
            self.books.health.unblock(Cause::Reads);
        }
    }
}

/// Whether the change was never written before.
fn is_news(change: &Written) -> bool {
    match change {
        Written::Nothing => false,
        Written::New(_) => true,
        Written::Recorded(..) => !planted!("a change that was recorded before is not published"),
        Written::Restored(..) => planted!("a change that is restored is published again"),
    }
}

/// The write that brings a sidecar up to date after a write to ZooKeeper.
fn sidecar<'a>(pair: &'a Loaded, write: &Write, base: Option<Base>) -> KeyWrite<'a> {
    KeyWrite {
        key: &pair.name,
        op: KeyOp::Note,
        expect: None,
        expect_entry: pair.entry.clone(),
        expect_nonce: pair.nonce,
        incarnation: write.incarnation,
        milestone: write.milestone,
        value: &[],
        base,
        publish: None,
    }
}
