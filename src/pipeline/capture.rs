//! Capture-only pipelines: changes of one store go to the stream and nowhere else.
//!
//! What is known of each pair is what the stream says of it, so a restart records nothing for pairs that did not
//! change. A key that is gone because Redis lost its data is no delete: it stays known, and only the loss is on the stream.

use super::asked::Reason;
use super::blockers::Cause;
use super::engine::{Engine, lock};
use super::hint::{Hint, PairName};
use super::known::{KnownPairs, Recorded};
use super::record::zookeeper_source;
use super::unreadable::Denied;
use crate::change::{Change, Connector, Digest, GapState, Op, Pair, Side, Source};
use crate::env;
use crate::plan::Removal;
use crate::store::clock::shown_ms;
use crate::store::{FailureKind, KeyState, Look, StoreError, VALUE_BYTES_MAX, ZnodeReading, one_for_one};
use crate::stream::StreamError;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Pairs read in one step of a comparison.
const STEP: usize = 512;

/// A state that was read.
struct State {
    value: Option<Vec<u8>>,
    source: Source,
    mzxid: Option<i64>,
    version: Option<i32>,
}

fn name_of(pair: &Pair) -> Option<PairName> {
    match (&pair.redis, &pair.zookeeper) {
        (Some(key), _) => Some(key.as_slice().into()),
        (None, Some(path)) => Some(path.as_bytes().into()),
        (None, None) => None,
    }
}

impl Engine {
    /// Reads the whole stream for what it says of each pair.
    pub(super) async fn load_known(&self) -> Result<KnownPairs, StreamError> {
        let mut known = KnownPairs::default();
        let mut from = 1;
        loop {
            let batch = self.stream.read(from, 1000, 4 * 1024 * 1024).await?;
            if batch.next <= from {
                return Ok(known);
            }
            self.step();
            for recorded in batch.records {
                let change = recorded.change;
                // A marker may name a pair, whose value a command replaced: it is no state.
                let Some(name) = name_of(&change.pair).filter(|_| change.op != Op::Marker) else { continue };
                match change.after {
                    Some(value) => {
                        known.insert(name, Recorded { mzxid: change.source.mzxid, digest: Digest::of(&value) });
                    }
                    None => {
                        known.remove(&name);
                    }
                }
            }
            from = batch.next;
        }
    }

    /// One round of a capture.
    pub(super) async fn capture(&self, taken: Vec<(PairName, Hint)>) {
        let names: Vec<(PairName, Hint)> = taken;
        match self.record_states(&names, false).await {
            Ok(_) => {
                self.unblock(Cause::Reads);
                for (name, _) in names {
                    self.dirty.finish(name, None);
                }
            }
            Err(error) => {
                self.failed(&error);
                let pause = self.retries.stream.refused();
                for (name, hint) in names {
                    self.dirty.finish(name, Some((hint, pause)));
                }
            }
        }
    }

    /// Reads these pairs and records those that differ from what the stream says; answers how many.
    async fn record_states(&self, names: &[(PairName, Hint)], comparing: bool) -> Result<u64, StoreError> {
        let states = if self.znodes.is_some() && self.keys.is_none() {
            self.znode_states(names).await?
        } else {
            self.key_states(names, comparing).await?
        };
        let mut changes = Vec::new();
        let mut after = Vec::new();
        {
            let known = lock(&self.known);
            for ((name, hint), state) in names.iter().zip(states) {
                let Some(state) = state else { continue };
                let was = known.contains_key(name);
                let Some((change, recorded)) = self.captured(name, hint, state, known.get(name), comparing) else {
                    self.pairs.settled(name, hint.route, was, was);
                    continue;
                };
                changes.push(change);
                after.push((name.clone(), hint.route, was, recorded));
            }
        }
        let changes = loop {
            if changes.is_empty() {
                return Ok(0);
            }
            let shared = Arc::new(changes);
            match self.stream.append(Arc::clone(&shared)).await {
                Ok(_) => break shared,
                Err(StreamError::TooLarge { index, text }) if index < shared.len() => {
                    changes = Arc::unwrap_or_clone(shared);
                    self.too_large(&changes.remove(index), &text);
                    after.remove(index);
                }
                Err(error) => {
                    self.not_recorded(&error);
                    return Err(
                        StoreError::away(FailureKind::Worker, format!("capture is paused: {error}")).with_source(error)
                    );
                }
            }
        };
        self.recorded(&changes);
        let mut known = lock(&self.known);
        for (name, route, was, recorded) in after {
            self.pairs.settled(&name, route, was, recorded.is_some());
            match recorded {
                Some(recorded) => known.insert(name, recorded),
                None => known.remove(&name),
            };
        }
        Ok(u64::try_from(changes.len()).unwrap_or(0))
    }

    fn captured(
        &self,
        name: &PairName,
        hint: &Hint,
        state: State,
        known: Option<&Recorded>,
        comparing: bool,
    ) -> Option<(Change, Option<Recorded>)> {
        let route = self.route(hint.route)?;
        let mapped = self.map.of_key(name).or_else(|| self.map.of_path(std::str::from_utf8(name).ok()?))?;
        let recorded = state.value.as_ref().map(|value| Recorded { mzxid: state.mzxid, digest: Digest::of(value) });
        let is_same = match (known, &recorded) {
            (None, None) => true,
            (Some(known), Some(now)) => known == now,
            _ => false,
        };
        if is_same {
            return None;
        }
        let previous = self.stream.latest(&mapped.pair).ok().flatten();
        let op = match (&state.value, known, &previous) {
            (None, _, _) => Op::Delete,
            (Some(_), Some(_), _) => Op::Update,
            (Some(_), None, None) if comparing => Op::Read,
            (Some(_), None, _) => Op::Create,
        };
        let collapsed = match (state.version, hint.writes) {
            _ if op == Op::Read || op == Op::Delete => None,
            (Some(version), _) => {
                let before = previous.as_ref().filter(|latest| latest.czxid == state.source.czxid);
                let from = before.and_then(|latest| latest.version).map_or(0, |version| version.wrapping_add(1));
                Some(i64::from(version.wrapping_sub(from)).max(0))
            }
            (None, 0) => None,
            (None, writes) => Some(i64::from(writes) - 1),
        };
        let change = Change {
            op,
            before: previous.and_then(|latest| latest.after.kept()),
            after: state.value,
            source: state.source,
            ts_ms: env::unix_ms(),
            route: route.name.clone(),
            value: route.value,
            pair: mapped.pair,
            base: None,
            collapsed,
            conflict: None,
            gap: None,
            epoch: i64::try_from(self.lease.epoch).unwrap_or(i64::MAX),
            loss: None,
        };
        Some((change, recorded))
    }

    async fn znode_states(&self, names: &[(PairName, Hint)]) -> Result<Vec<Option<State>>, StoreError> {
        let Some(znodes) = &self.znodes else { return Ok(Vec::new()) };
        let paths: Vec<String> = names.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        let readings = one_for_one("znodes", paths.len(), znodes.read(&paths, Look::Source).await?)?;
        let store = self.store_name(Side::Zookeeper);
        let mut states = Vec::with_capacity(names.len());
        for (((name, hint), path), reading) in names.iter().zip(paths).zip(readings) {
            let pair = Pair { zookeeper: Some(path.clone()), redis: None };
            let skips = |ephemeral: bool| {
                let policy = self.route(hint.route).map(|route| route.policy.ephemeral);
                ephemeral && policy == Some(crate::plan::Ephemeral::Skip)
            };
            states.push(match reading {
                ZnodeReading::Absent(_) => Some(State {
                    value: None,
                    source: zookeeper_source(store, Some(&path), None),
                    mzxid: None,
                    version: None,
                }),
                ZnodeReading::Denied(detail) => {
                    self.quarantine(name, hint.route, &pair, "no_permission", &detail);
                    None
                }
                ZnodeReading::TooLarge(detail) => {
                    self.quarantine(name, hint.route, &pair, "too_large", &detail);
                    None
                }
                ZnodeReading::Present { data, .. } if data.len() > VALUE_BYTES_MAX => {
                    self.quarantine(name, hint.route, &pair, "too_large", &format!("{} bytes", data.len()));
                    None
                }
                ZnodeReading::Present { stat, .. } if skips(stat.is_ephemeral()) => None,
                ZnodeReading::Present { data, stat } => {
                    self.quarantine.remove(name);
                    let has_key = !data.is_empty() || stat.is_ephemeral();
                    Some(State {
                        value: has_key.then_some(data),
                        source: zookeeper_source(store, Some(&path), Some(&stat)),
                        mzxid: Some(stat.mzxid),
                        version: Some(stat.version),
                    })
                }
            });
        }
        Ok(states)
    }

    async fn key_states(&self, names: &[(PairName, Hint)], comparing: bool) -> Result<Vec<Option<State>>, StoreError> {
        let Some(keys) = &self.keys else { return Ok(Vec::new()) };
        let asked: Vec<&[u8]> = names.iter().map(|(name, _)| &**name).collect();
        let answer = self.observe(keys.as_ref(), &asked, true).await?;
        let facts = keys.facts();
        let mut states = Vec::with_capacity(names.len());
        for ((name, hint), reading) in names.iter().zip(answer.readings) {
            let pair = Pair { zookeeper: None, redis: Some(name.to_vec()) };
            let seen_ms = if hint.key_seen_ms > 0 { shown_ms(hint.key_seen_ms) } else { env::unix_ms() };
            let mut source = Source::new(Connector::Redis, self.store_name(Side::Redis), seen_ms);
            source.key = Some(name.to_vec());
            source.database = Some(keys.database());
            source.event = hint.news.event.map(ToOwned::to_owned);
            source.replication_id = Some(facts.replication_id.clone()).filter(|id| !id.is_empty());
            source.replication_offset = Some(facts.replication_offset);
            let is_loss = match hint.news.removal.filter(|_| hint.news.event.is_some()) {
                Some(removal) => removal == Removal::Lost,
                None => {
                    !answer.moment.intact
                        || self.counters.losses.is_open(Side::Redis)
                        || lock(&self.lost_keys).contains(name)
                }
            };
            let unfit = |reason: &str, detail: &str| self.quarantine(name, hint.route, &pair, reason, detail);
            states.push(match reading.state {
                KeyState::Absent
                    if is_loss && (comparing || hint.news.event.is_none() || hint.news.removal.is_some()) =>
                {
                    // Also when Redis has been intact for long: nobody has seen it being deleted.
                    if lock(&self.lost_keys).insert(name.clone()) {
                        self.counters.losses.count(Side::Redis, name);
                    }
                    None
                }
                KeyState::Absent => {
                    lock(&self.lost_keys).remove(name);
                    self.quarantine.remove(name);
                    Some(State { value: None, source, mzxid: None, version: None })
                }
                KeyState::Value { bytes, expires_ms } => {
                    lock(&self.lost_keys).remove(name);
                    self.quarantine.remove(name);
                    source.kind = Some("string".to_owned());
                    source.expiry = expires_ms;
                    Some(State { value: Some(bytes), source, mzxid: None, version: None })
                }
                KeyState::TooLarge(bytes) => {
                    unfit(
                        "too_large",
                        &format!("the key holds {bytes} bytes, and at most {VALUE_BYTES_MAX} are mirrored"),
                    );
                    None
                }
                KeyState::WrongType(kind) => {
                    unfit("wrong_type", &format!("the key is a {kind}, and this route carries strings"));
                    None
                }
                KeyState::Denied(detail) => {
                    unfit("no_permission", &detail);
                    None
                }
                KeyState::Obstructed(bucket) => {
                    unfit("wrong_type", &KeyState::obstructed_by(&bucket));
                    None
                }
                KeyState::Unasked(detail) => {
                    unfit("too_large", &detail);
                    None
                }
                KeyState::Digest { .. } | KeyState::Later => {
                    self.dirty.note(name, *hint);
                    None
                }
            });
        }
        Ok(states)
    }

    /// Compares the store with what the stream says; answers how many pairs differed.
    pub(super) async fn compare_capture(&self, asked: &[Reason]) -> Result<u64, StoreError> {
        let gaps: Vec<Side> = asked.iter().filter_map(Reason::gap_in).collect();
        self.begin_steps();
        let begun = env::Instant::now();
        let mark = self.keys.as_ref().map_or(0, |keys| keys.mark());
        let paused = lock(&self.live).paused.clone();
        let mut missing: env::Set<PairName> = lock(&self.known).keys().cloned().collect();
        self.pairs.begin();
        let mut acted = 0;
        let mut batch: Vec<(PairName, Hint)> = Vec::new();
        if let (Some(znodes), None) = (&self.znodes, &self.keys) {
            let mut walk = znodes.walk(self.map.roots(), false);
            let mut denied = Denied::default();
            loop {
                let walked = walk.next().await?;
                self.step();
                for (path, reason) in walk.denied() {
                    self.deny(&path, &reason, &mut denied);
                }
                let Some(walked) = walked else { break };
                for (path, ..) in walked {
                    if let Some(mapped) = self.map.of_path(&path) {
                        batch.push((path.into_bytes().into(), Hint::new(mapped.route)));
                    }
                }
                acted += self.compare_step(&mut batch, &mut missing).await?;
            }
            self.set_unreadable(denied);
        }
        if let Some(keys) = &self.keys {
            for prefix in self.map.key_prefixes() {
                let mut cursor = 0;
                loop {
                    let (next, found) = keys.scan(cursor, &prefix).await?;
                    self.step();
                    for key in found {
                        if let Some(mapped) = self.map.of_key(&key) {
                            batch.push((key.into(), Hint::new(mapped.route)));
                        }
                    }
                    cursor = next;
                    if batch.len() >= STEP || cursor == 0 {
                        acted += self.compare_step(&mut batch, &mut missing).await?;
                    }
                    if cursor == 0 {
                        break;
                    }
                }
            }
        }
        let gone = missing.into_iter().filter_map(|name| {
            let mapped = self.map.of_key(&name).or_else(|| self.map.of_path(std::str::from_utf8(&name).ok()?))?;
            Some((name, Hint::new(mapped.route)))
        });
        let gone: Vec<(PairName, Hint)> = gone.filter(|(_, hint)| !paused.contains(&hint.route)).collect();
        for step in gone.chunks(STEP) {
            acted += self.record_states(step, true).await?;
        }
        self.pairs.end(|_| false);
        if let Some(keys) = &self.keys {
            keys.compared(mark).await?;
        }
        if paused.is_empty() {
            self.counters.losses.compared(begun);
        }
        for side in gaps {
            self.mark_gap(side, GapState::Closed, &format!("a comparison recorded {acted} pairs")).await;
        }
        self.metrics.comparisons.inc();
        self.counters.compared_ms.store(env::unix_ms(), Ordering::Relaxed);
        self.quarantine.save().await;
        Ok(acted)
    }

    async fn compare_step(
        &self,
        batch: &mut Vec<(PairName, Hint)>,
        missing: &mut env::Set<PairName>,
    ) -> Result<u64, StoreError> {
        let mut acted = 0;
        for (name, _) in batch.iter() {
            missing.remove(name);
            self.pairs.met(name);
        }
        for step in batch.chunks(STEP) {
            let turn = self.dirty.turn();
            let free = self.dirty.try_take(&turn, &mut step.iter().map(|(name, hint)| (name, *hint)));
            let taken: Vec<(PairName, Hint)> =
                step.iter().zip(free).filter(|(_, free)| *free).map(|(item, _)| item.clone()).collect();
            let paused = lock(&self.live).paused.clone();
            let due: Vec<(PairName, Hint)> =
                taken.iter().filter(|(_, hint)| !paused.contains(&hint.route)).cloned().collect();
            let result = self.record_states(&due, true).await;
            for (name, _) in taken {
                self.dirty.finish(name, None);
            }
            acted += result?;
            self.counters.snapshot_done.fetch_add(u64::try_from(step.len()).unwrap_or(0), Ordering::Relaxed);
        }
        batch.clear();
        Ok(acted)
    }
}
