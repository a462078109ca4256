//! What a decision puts on the stream.
//!
//! A change is recorded once: when the side that it comes from has moved since the base, or when it settles a conflict. A pair
//! whose write has to wait is decided again and again; what it then comes to is compared with the pair's newest record, by
//! [`Change::decision`], so that it counts as the same change for as long as neither that state nor the loser is another one.
//! A restore or a put-back is a write of ours and no change; a pair that the stream does not know gets one `r`.

use super::blockers::Cause;
use super::books::Books;
use super::doors::Doors;
use super::pair::Loaded;
use super::remedy::{self, Remedy};
use super::spec::{Route, Spec};
use crate::change::{Agreed, Change, Conflict, Connector, Digest, KeyedHash, Op, Position, Side, Source, ZkStat};
use crate::env;
use crate::failpoint::planted;
use crate::plan::{Action, Base, Key, Removal, Verdict, Znode};
use crate::store::clock::shown_ms;
use crate::stream::{Latest, LatestValue, StreamError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Previous values above this are not repeated in `before`: they are on the stream, one record earlier.
const BEFORE_BYTES_MAX: usize = 64 * 1024;

/// What is put on the stream in an ownership, and what of it is counted. The records of a stream that was left behind are in
/// [`super::lagging`], those of losses and gaps in [`super::loss`], those of commands in [`super::keep`].
pub(super) struct Recorder {
    pub(super) spec: Arc<Spec>,
    pub(super) doors: Arc<Doors>,
    pub(super) books: Arc<Books>,
}

/// A decision, as far as the stream is concerned.
pub(super) struct Recording<'a> {
    /// The side whose state goes on.
    pub(super) from: Side,
    pub(super) seen: &'a mut Loaded,
    pub(super) route: &'a Route,
    pub(super) verdict: Option<Verdict>,
}

/// What a decision is to the stream.
pub(super) enum Entry {
    /// No change. The observation has its value back.
    Nothing,
    /// A change that the stream does not have yet. The value has moved into it.
    New(Change),
    /// A change that the pair's newest record, at this position, already tells: it was recorded, and its write is still to be made.
    /// As it would be recorded now; the value has moved into it.
    Recorded(Position, Change),
}

/// What a decision puts on the stream.
pub(super) fn record(recorder: &Recorder, recording: Recording<'_>) -> Entry {
    let Recording { from, seen, route, verdict } = recording;
    let latest = recorder.take_newest(seen);
    let previous = latest.as_ref().map(|latest| &latest.after);
    let is_known = latest.is_some();
    let existed = previous.is_some_and(LatestValue::exists);
    let after = match from {
        Side::Zookeeper => value_of_znode(seen),
        Side::Redis => value_of_key(seen),
    };
    let has_moved = match seen.observed.observation.base {
        Some(base) => moved(seen, &base, from),
        None => previous.is_none_or(|previous| !previous.is(after.as_deref())),
    };
    // The stream may have been left behind: then a restore or a put-back tells it what was agreed on meanwhile.
    let is_late = recorder.books.may_lag(&seen.name) && previous.is_some_and(|previous| !previous.is(after.as_deref()));
    let is_change = verdict.is_some() || has_moved || !is_known || is_late;
    let may_wait = seen.observed.observation.base.is_none() && recorder.may_be_unwritten(seen);
    if !is_change && !may_wait {
        give_back(seen, from, after);
        return Entry::Nothing;
    }
    let op = match (&after, is_known, existed) {
        (None, _, _) => Op::Delete,
        (Some(_), false, _) if seen.observed.comparing => Op::Read,
        (Some(_), _, true) => Op::Update,
        (Some(_), _, false) => Op::Create,
    };
    let mut change = Change {
        op,
        before: None,
        source: source(recorder, seen, from),
        ts_ms: env::unix_ms(),
        route: route.name.clone(),
        value: route.value,
        pair: seen.pair.clone(),
        base: seen.observed.observation.base.map(|base| agreed(&base)),
        collapsed: collapsed(seen, from, op, latest.as_ref()),
        conflict: verdict
            .filter(|_| !planted!("a loser is not recorded"))
            .map(|verdict| conflict(recorder, seen, route, from, verdict)),
        gap: None,
        epoch: recorder.doors.epoch(),
        loss: None,
        after,
    };
    let recorded = latest.as_ref().filter(|latest| latest.decision == change.decision()).map(|latest| latest.position);
    let is_of_znode = latest.as_ref().is_some_and(|latest| latest.czxid.is_some());
    let previous = latest.map(|latest| latest.after);
    change.before = previous.and_then(LatestValue::kept).filter(|value| value.len() <= BEFORE_BYTES_MAX);
    match recorded {
        Some(position) => Entry::Recorded(position, change),
        // Of what is to be written for the first time, another write of the same value is another change.
        None if is_change || change.source.mzxid.is_some() && is_of_znode => Entry::New(change),
        None => {
            give_back(seen, from, change.after);
            Entry::Nothing
        }
    }
}

fn give_back(seen: &mut Loaded, from: Side, value: Option<Vec<u8>>) {
    match (from, value) {
        (Side::Zookeeper, Some(data)) => restore_znode(seen, data),
        (Side::Redis, value) => seen.value = value,
        (Side::Zookeeper, None) => {}
    }
}

fn value_of_znode(seen: &mut Loaded) -> Option<Vec<u8>> {
    let stands_for_empty =
        seen.observed.observation.base.is_some_and(|base| base.redis == Some(crate::change::Digest::EMPTY));
    let (data, stat) = seen.znode.as_mut()?;
    let has_key = !data.is_empty() || stat.is_ephemeral() || stands_for_empty;
    has_key.then(|| std::mem::take(data))
}

fn restore_znode(seen: &mut Loaded, data: Vec<u8>) {
    if let Some((place, _)) = seen.znode.as_mut() {
        *place = data;
    }
}

fn value_of_key(seen: &mut Loaded) -> Option<Vec<u8>> {
    match seen.observed.observation.key {
        Key::Present { .. } => seen.value.take(),
        Key::Absent(_) | Key::AsBase => None,
    }
}

/// Whether this side is another than the base has it.
fn moved(seen: &Loaded, base: &Base, side: Side) -> bool {
    match side {
        Side::Zookeeper => match seen.observed.observation.znode {
            Znode::AsBase => false,
            Znode::Absent(_) => base.zookeeper.is_some(),
            Znode::Present { version, digest, .. } if base.ensemble == seen.observed.observation.ensemble.id => {
                base.zookeeper != Some(version) && base.redis != Some(digest)
            }
            Znode::Present { digest, .. } => base.redis != Some(digest),
        },
        Side::Redis => match seen.observed.observation.key {
            Key::AsBase => false,
            Key::Absent(_) => base.redis.is_some(),
            Key::Present { digest, .. } => base.redis != Some(digest),
        },
    }
}

fn conflict(recorder: &Recorder, seen: &Loaded, route: &Route, winner: Side, verdict: Verdict) -> Conflict {
    let loser = winner.other();
    let znode = seen.znode.as_ref().filter(|_| loser == Side::Zookeeper);
    let value = match loser {
        Side::Zookeeper => znode.map(|(data, _)| data.clone()),
        Side::Redis => seen.value.clone(),
    };
    let rule = match route.policy.flow {
        crate::plan::Flow::Both(_) if !is_ephemeral(seen) => route.rule.clone(),
        crate::plan::Flow::Both(_) => "ephemeral: mirror".to_owned(),
        crate::plan::Flow::From(_) | crate::plan::Flow::Capture(_) => route.flow.clone(),
    };
    Conflict {
        winner: recorder.spec.store_name(winner).to_owned(),
        loser: recorder.spec.store_name(loser).to_owned(),
        value,
        mzxid: znode.map(|(_, stat)| stat.mzxid),
        version: znode.map(|(_, stat)| stat.version),
        rule,
        reason: verdict.reason.to_owned(),
    }
}

fn is_ephemeral(seen: &Loaded) -> bool {
    match seen.observed.observation.znode {
        Znode::Present { ephemeral, .. } => ephemeral,
        Znode::Absent(_) | Znode::AsBase => seen.observed.observation.base.is_some_and(|base| base.ephemeral),
    }
}

fn agreed(base: &Base) -> Agreed {
    Agreed {
        czxid: base.zookeeper.map(|version| version.czxid),
        mzxid: base.zookeeper.map(|version| version.mzxid),
        version: base.zookeeper.map(|version| version.version),
        digest: base.redis.map(|digest| digest.hex()),
        sequence: i64::from(base.sequence),
    }
}

/// Values between what was agreed on or recorded last and this state that nobody saw.
fn collapsed(seen: &Loaded, from: Side, op: Op, latest: Option<&Latest>) -> Option<i64> {
    match (from, op) {
        (_, Op::Read) => None,
        (Side::Zookeeper, _) => {
            let (_, stat) = seen.znode.as_ref()?;
            let agreed = seen
                .observed
                .observation
                .base
                .and_then(|base| base.zookeeper)
                .map(|agreed| (agreed.czxid, agreed.version));
            let recorded = latest.and_then(|latest| Some((latest.czxid?, latest.version?)));
            let known = [agreed, recorded].into_iter().flatten().filter(|(czxid, _)| *czxid == stat.czxid);
            let steps = known.map(|(_, version)| i64::from(stat.version.wrapping_sub(version)));
            match steps.filter(|steps| *steps >= 0).min() {
                Some(steps) => Some((steps - 1).max(0)),
                // Created or recreated: each version before this one was a value.
                None => Some(i64::from(stat.version)),
            }
        }
        (Side::Redis, _) => {
            let is_counted = seen.hint.writes > 0 && !seen.observed.comparing;
            is_counted.then(|| i64::from(seen.hint.writes) - 1)
        }
    }
}

fn source(recorder: &Recorder, seen: &Loaded, from: Side) -> Source {
    match from {
        Side::Zookeeper => {
            let stat = seen.znode.as_ref().map(|(_, stat)| *stat);
            zookeeper_source(recorder.spec.store_name(from), seen.pair.zookeeper.as_deref(), stat.as_ref())
        }
        Side::Redis => redis_source(recorder, seen),
    }
}

/// The source of a change that a znode tells.
pub(super) fn zookeeper_source(store: &str, path: Option<&str>, stat: Option<&ZkStat>) -> Source {
    let mut source = Source::new(Connector::Zookeeper, store, stat.map_or_else(env::unix_ms, |stat| stat.mtime_ms));
    source.path = path.map(ToOwned::to_owned);
    source.czxid = stat.map(|stat| stat.czxid);
    source.mzxid = stat.map(|stat| stat.mzxid);
    source.pzxid = stat.map(|stat| stat.pzxid);
    source.version = stat.map(|stat| stat.version);
    source.cversion = stat.map(|stat| stat.cversion);
    source.aversion = stat.map(|stat| stat.aversion);
    source.ephemeral_owner = stat.map(|stat| stat.ephemeral_owner);
    source
}

fn redis_source(recorder: &Recorder, seen: &Loaded) -> Source {
    let seen_ms = if seen.hint.key_seen_ms > 0 { shown_ms(seen.hint.key_seen_ms) } else { env::unix_ms() };
    let mut source = Source::new(Connector::Redis, recorder.spec.store_name(Side::Redis), seen_ms);
    source.key.clone_from(&seen.pair.redis);
    if let Key::Present { expires_ms, .. } = seen.observed.observation.key {
        source.kind = Some("string".to_owned());
        source.expiry = expires_ms;
    }
    source.event = seen.observed.news.event.map(ToOwned::to_owned);
    source.revision = seen.observed.observation.seen.redis_writes.map(i64::from);
    if let Some(facts) = recorder.doors.redis_facts() {
        source.database = recorder.doors.database();
        source.replication_id = Some(facts.replication_id.clone()).filter(|id| !id.is_empty());
        source.replication_offset = Some(facts.replication_offset);
    }
    source
}

impl Recorder {
    /// Whether the stream had a value of a pair of a capture, and the change; `None` if its newest record is this state. The value has
    /// moved into it.
    pub(super) fn captured(&self, from: Side, seen: &mut Loaded, route: &Route) -> (bool, Option<Change>) {
        let latest = self.take_newest(seen);
        let after = match from {
            Side::Zookeeper => value_of_znode(seen),
            Side::Redis => value_of_key(seen),
        };
        let existed = latest.as_ref().is_some_and(|latest| latest.after.exists());
        let op = match (&after, &latest) {
            (None, _) if !existed => return (existed, None),
            (None, _) => Op::Delete,
            (Some(_), _) if existed => Op::Update,
            (Some(_), None) if seen.observed.comparing => Op::Read,
            (Some(_), _) => Op::Create,
        };
        let change = Change {
            op,
            before: None,
            source: source(self, seen, from),
            ts_ms: env::unix_ms(),
            route: route.name.clone(),
            value: route.value,
            pair: seen.pair.clone(),
            base: None,
            // A delete of a capture counts nothing.
            collapsed: if op == Op::Delete { None } else { collapsed(seen, from, op, latest.as_ref()) },
            conflict: None,
            gap: None,
            epoch: self.doors.epoch(),
            loss: None,
            after,
        };
        let is_known = latest.as_ref().is_some_and(|latest| latest.decision == change.decision());
        let before = latest.and_then(|latest| latest.after.kept());
        (existed, (!is_known).then_some(Change { before, ..change }))
    }

    /// One `r` for a pair in step that the stream does not know.
    pub(super) fn first_record(&self, seen: &Loaded, route: &Route) -> Option<Change> {
        if self.doors.is_on_stream(&seen.pair) {
            return None;
        }
        let (data, _) = seen.znode.as_ref()?;
        let after =
            Some(data.clone()).filter(|_| seen.observed.observation.base.is_some_and(|base| base.redis.is_some()))?;
        Some(self.plain_record(seen, route, Op::Read, None, Some(after)))
    }

    /// The record of a pair whose sides were found to agree anew: only where the stream does not have that value.
    pub(super) fn agreed_record(&self, seen: &Loaded, route: &Route) -> Option<Change> {
        let base_differs = seen.observed.observation.base.is_some_and(|base| moved(seen, &base, Side::Redis));
        let is_known = self.doors.is_on_stream(&seen.pair);
        let may_differ = base_differs || seen.observed.news.unwritten || self.books.may_lag(&seen.name);
        if is_known && seen.observed.observation.base.is_some() && !may_differ {
            return None;
        }
        let after = match (&seen.znode, &seen.value) {
            (Some((data, _)), _) => data.clone(),
            (None, Some(value)) => value.clone(),
            (None, None) => return None,
        };
        let previous = self.newest(seen);
        if previous.as_ref().is_some_and(|latest| latest.after.is(Some(&after))) {
            return None;
        }
        let before = previous.and_then(|latest| latest.after.kept());
        let op = if is_known { Op::Update } else { Op::Read };
        Some(self.plain_record(seen, route, op, before, Some(after)))
    }

    /// What the stream has last of this pair.
    pub(super) fn newest(&self, seen: &Loaded) -> Option<Latest> {
        match &seen.newest {
            Some(newest) => newest.clone(),
            None => self.doors.newest(&seen.pair),
        }
    }

    /// The same for the last who asks about the pair: the value is not copied.
    fn take_newest(&self, seen: &mut Loaded) -> Option<Latest> {
        match seen.newest.take() {
            Some(newest) => newest,
            None => self.doors.newest(&seen.pair),
        }
    }

    /// Names the state of a captured pair, as the newest record would have it; `None`: it has no value.
    pub(super) fn state_of(seen: &Loaded, from: Side) -> Option<KeyedHash> {
        let mut text = Vec::with_capacity(40);
        match from {
            Side::Zookeeper => {
                let (data, stat) = seen.znode.as_ref()?;
                if data.is_empty() && !stat.is_ephemeral() {
                    return None;
                }
                text.extend_from_slice(&stat.mzxid.to_be_bytes());
                text.extend_from_slice(&stat.version.to_be_bytes());
                text.extend_from_slice(&Digest::of(data).0);
            }
            Side::Redis => match seen.observed.observation.key {
                Key::Present { digest, .. } => text.extend_from_slice(&digest.0),
                Key::Absent(_) | Key::AsBase => return None,
            },
        }
        Some(KeyedHash::of(&text))
    }

    /// Whether the stream is known to have the state of this captured pair as its newest.
    pub(super) fn is_on_record(&self, seen: &Loaded, from: Side) -> bool {
        let state = Recorder::state_of(seen, from);
        state.is_some_and(|state| self.books.recorded_states.is(&seen.name, state))
    }

    /// The newest record of this captured pair has this state from now on.
    pub(super) fn note_on_record(&self, name: &[u8], state: Option<KeyedHash>) {
        match state {
            Some(state) => self.books.recorded_states.put(name, state),
            None => self.books.recorded_states.remove(name),
        }
    }

    /// Whether what is decided about the pair by this action is compared with its newest record.
    pub(super) fn needs_newest(&self, seen: &Loaded, action: Action) -> bool {
        let news = seen.observed.news;
        if let Action::Record(from) = action {
            return !self.is_on_record(seen, from);
        }
        action != Action::Nothing
            || news.approved
            || news.unwritten
            || news.znode_deleted
            || self.books.may_lag(&seen.name)
            || seen.observed.comparing && self.books.counters.losses.is_open(Side::Redis)
    }

    /// Whether a pair without a base may be one whose newest record was never written, and not one that Redis has lost: this worker
    /// has recorded it, or waits for what stands in its way; or, in the first look of an ownership, the owner before had recorded
    /// it and ended, and Redis has kept everything since.
    fn may_be_unwritten(&self, seen: &Loaded) -> bool {
        let is_first_look = !self.books.sources().has_compared();
        let has_kept = self.books.lag.absence_counts
            && self.doors.has_keys()
            && self.doors.incarnation() == self.doors.incarnation_begun;
        let was_lost =
            matches!(seen.observed.observation.key, Key::Absent(vanished) if vanished.seen == Some(Removal::Lost));
        !was_lost
            && (seen.observed.news.unwritten || self.books.quarantine.holds(&seen.name) || is_first_look && has_kept)
    }

    pub(super) fn plain_record(
        &self,
        seen: &Loaded,
        route: &Route,
        op: Op,
        before: Option<Vec<u8>>,
        after: Option<Vec<u8>>,
    ) -> Change {
        let from = if seen.znode.is_some() { Side::Zookeeper } else { Side::Redis };
        Change {
            op,
            before: before.filter(|value| value.len() <= BEFORE_BYTES_MAX),
            after,
            source: source(self, seen, from),
            ts_ms: env::unix_ms(),
            route: route.name.clone(),
            value: route.value,
            pair: seen.pair.clone(),
            base: seen.observed.observation.base.map(|base| agreed(&base)),
            collapsed: None,
            conflict: None,
            gap: None,
            epoch: self.doors.epoch(),
            loss: None,
        }
    }

    /// An append failed: says so, and ends the ownership where the stream must be opened anew.
    pub(super) fn not_recorded(&self, error: &StreamError) {
        self.books.health.block(Cause::Stream, &format!("capture is paused: {error}"));
        match remedy::of_stream(error) {
            Remedy::EndOwnership => self.books.halt.halt(remedy::of_opening(error)),
            Remedy::AskAgain | Remedy::Refuse => {}
        }
    }

    /// Counts what the stream has taken.
    pub(super) fn recorded(&self, changes: &[Change]) {
        self.books.health.unblock(Cause::Stream);
        self.books.retries.stream.worked();
        self.books.counters.changes.fetch_add(u64::try_from(changes.len()).unwrap_or(0), Ordering::Relaxed);
        for change in changes {
            self.books.metrics.changes(&change.route, change.op).inc();
            if let Some(collapsed) = change.collapsed.and_then(|count| u64::try_from(count).ok()) {
                self.books.metrics.collapsed.inc_by(collapsed);
            }
            if let Some(conflict) = &change.conflict {
                self.books.metrics.conflicts(&conflict.rule, &conflict.winner).inc();
                self.books.counters.conflicts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
