//! Rounds: from hints to observations, by the fast path where one side is known and by the slow path where not.
//!
//! - A znode was named: read it on the source's session; the key is assumed to be as the base has it, even if it was
//!   named as well (our own writes name it), since the compare-and-set checks that. If the znode turns out to be as the
//!   base has it, the key is looked at next. An event that is not newer than the base is an echo and needs no read.
//! - A key was named: read it with its sidecar; the znode is assumed to be as the base has it. Only while the watch
//!   stands, has not named the znode, and a comparison has ended since it was laid.
//! - Otherwise, or when an assumption was refused, or when the pair is in quarantine (its base may be older than what was seen
//!   of it): ZooKeeper first, after `sync`, then Redis. What ZooKeeper shows as
//!   absent or older than the base is believed only after a second such observation.

use super::dirty::{Hint, PairName};
use super::engine::{Engine, lock};
use super::held::Held;
use super::retry::SharedPauses;
use crate::change::{Digest, Pair, Side, ZkStat, ZkVersion};
use crate::env;
use crate::failpoint::crash_point;
use crate::plan::{
    Base, CLOCK_WAS_SET, Flow, Key, Known, Named, Next, Observation, OnConflict, Path, Removal, Seen, Vanished, Znode,
    after_key, after_znode, is_doubtful, path, path_id,
};
use crate::store::clock::steady_ms;
use crate::store::{
    KeyReading, KeyReadings, KeyState, Keyspace, Look, Moment, StoreError, VALUE_BYTES_MAX, ZnodeReading, one_for_one,
};
use std::time::Duration;

/// Times closer than this, beside the doubt in how far the clocks are apart, are not told apart by `latest`: the way of an event
/// from Redis to us, with room to spare.
const DOUBT_MS: i64 = 100;

/// Before `latest` decides, the clocks are compared once more if that is longer ago: one small write to the ensemble.
const CLOCK_FRESH_MS: i64 = 2000;

/// A znode's data and versions.
pub(super) type ZnodeData = (Vec<u8>, ZkStat);

/// Why a state cannot be mirrored: reason (one word) and detail (one sentence).
pub(super) type Misfit = (&'static str, String);

/// One pair as observed, with what its decision will need.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) name: PairName,
    pub(super) hint: Hint,
    pub(super) pair: Pair,
    pub(super) seen: Observation,
    /// The sidecar's bytes as read (or as known), for the compare-and-set.
    pub(super) entry: Vec<u8>,
    pub(super) nonce: u64,
    /// The life of the data set in which the key was read; 0 if it was not.
    pub(super) life: u64,
    pub(super) znode: Option<(Vec<u8>, ZkStat)>,
    /// The key's bytes, where they were read.
    pub(super) value: Option<Vec<u8>>,
    /// Changes of the key since its base that were counted before it was read.
    pub(super) events: i32,
    /// Found by a comparison.
    pub(super) comparing: bool,
}

/// A pair that cannot be observed: it goes into quarantine.
pub(super) struct Unfit {
    pub(super) name: PairName,
    pub(super) hint: Hint,
    pub(super) pair: Pair,
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

impl Observed {
    /// What is left to do if nothing came of it: a look at both sides, for which the comparison that saw it waits.
    pub(super) fn again(&self) -> Hint {
        Hint { slow: true, owed: self.hint.owed || self.comparing, ..self.hint }
    }
}

/// What came of observing.
#[derive(Default)]
pub(super) struct Sight {
    pub(super) observed: Vec<Observed>,
    pub(super) unfit: Vec<Unfit>,
    /// Nothing to do, or to be looked at again.
    pub(super) finished: Vec<(PairName, Option<(Hint, Duration)>)>,
    /// To be looked at by the slow path, in this round.
    slow: Vec<Item>,
}

/// A pair on its way through a round.
pub(super) struct Item {
    pub(super) name: PairName,
    pub(super) hint: Hint,
    pub(super) pair: Pair,
}

impl Item {
    fn path(&self) -> &str {
        self.pair.zookeeper.as_deref().unwrap_or_default()
    }
}

impl Engine {
    /// One round over pairs that were taken from the dirty set.
    pub(super) async fn round(&self, taken: Vec<(PairName, Hint)>) {
        crash_point!("c1-hint-taken");
        let mut sight = Sight::default();
        let (mut znodes, mut keys) = (Vec::new(), Vec::new());
        let watched = self.sources().is_watched();
        for (name, hint) in taken {
            let Some(mapped) = self.map.of_key(&name) else {
                sight.finished.push((name, None));
                continue;
            };
            let item = Item { name, hint, pair: mapped.pair };
            let slow = hint.slow || self.quarantine.holds(&item.name);
            let named = Named { znode: hint.znode, zxid: hint.zxid, key: hint.key, slow };
            match path(named, self.cache.get(&item.name), self.ensemble().id, watched) {
                Path::Echo => sight.finished.push((item.name, None)),
                Path::Znode => znodes.push(item),
                Path::Key => keys.push(item),
                Path::Both => sight.slow.push(item),
            }
        }
        keys.extend(self.see_znodes(znodes, &mut sight).await);
        self.see_keys(keys, &mut sight).await;
        let slow = std::mem::take(&mut sight.slow);
        self.see_both(slow, false, &mut sight).await;
        self.settle(sight).await;
    }

    /// The fast path of the ZooKeeper source; answers the items whose key is to be looked at instead.
    async fn see_znodes(&self, items: Vec<Item>, sight: &mut Sight) -> Vec<Item> {
        let mut keys = Vec::new();
        let Some(znodes) = self.znodes.as_ref().filter(|_| !items.is_empty()) else { return keys };
        let paths: Vec<String> = items.iter().map(|item| item.path().to_owned()).collect();
        let read = znodes.read(&paths, Look::Source).await;
        let readings = match read.and_then(|readings| one_for_one("znodes", paths.len(), readings)) {
            Ok(readings) => readings,
            Err(error) => {
                self.again(items, &error, &self.retries.zookeeper, sight);
                return keys;
            }
        };
        let gone = self.dirty.gone();
        for (item, reading) in items.into_iter().zip(readings) {
            let known = self.cache.get(&item.name);
            let counter = if known == Known::Unknown { &self.metrics.cache_misses } else { &self.metrics.cache_hits };
            counter.inc();
            let next = match &reading {
                // Whatever the base says, it goes into quarantine.
                ZnodeReading::Denied(_) | ZnodeReading::TooLarge(_) if known != Known::Unknown && !item.hint.key => {
                    Next::Decide
                }
                ZnodeReading::Denied(_) | ZnodeReading::TooLarge(_) => Next::Both,
                reading => after_znode(known, version_of(reading), item.hint.key, self.ensemble().id, gone.zxid),
            };
            match next {
                Next::Decide => {}
                Next::Key => {
                    keys.push(item);
                    continue;
                }
                Next::Both => {
                    sight.slow.push(item);
                    continue;
                }
            }
            let base = match known {
                Known::Base(base) => Some(base),
                Known::None | Known::Unknown => None,
            };
            let events = self.events_of(&item.name);
            let seen = znode_of(&reading);
            match self.fit_znode(reading) {
                Ok(znode) => {
                    let seen = Observation {
                        base,
                        znode: seen,
                        key: Key::AsBase,
                        ensemble: self.ensemble(),
                        seen: Seen::default(),
                    };
                    let entry = base.map(|base| base.encode()).unwrap_or_default();
                    let Item { name, hint, pair } = item;
                    sight.observed.push(Observed {
                        name,
                        hint,
                        pair,
                        seen,
                        entry,
                        nonce: 0,
                        life: 0,
                        znode,
                        value: None,
                        events,
                        comparing: false,
                    });
                }
                Err((reason, detail)) => sight.unfit(item, reason, detail),
            }
        }
        keys
    }

    /// The fast path of the Redis source.
    async fn see_keys(&self, items: Vec<Item>, sight: &mut Sight) {
        let Some(keys) = self.keys.as_ref().filter(|_| !items.is_empty()) else { return };
        let events: Vec<i32> = items.iter().map(|item| self.events_of(&item.name)).collect();
        let names: Vec<&[u8]> = items.iter().map(|item| &*item.name).collect();
        let answer = match self.observe(keys.as_ref(), &names, true).await {
            Ok(answer) => answer,
            Err(error) => return self.again(items, &error, &self.retries.redis, sight),
        };
        let sources = self.sources();
        for ((item, reading), events) in items.into_iter().zip(answer.readings).zip(events) {
            let base = self.base_of(&item, &reading.entry);
            let is_compared = sources.is_compared(reading.life);
            if after_key(base.as_ref(), !reading.entry.is_empty(), self.ensemble().id, is_compared) == Next::Both {
                sight.slow.push(item);
                continue;
            }
            self.saw_key(item, reading, Znode::AsBase, None, answer.moment, events, false, sight);
        }
    }

    /// The slow path: both sides, ZooKeeper first.
    pub(super) async fn see_both(&self, items: Vec<Item>, comparing: bool, sight: &mut Sight) {
        if items.is_empty() {
            return;
        }
        if !comparing {
            self.compare_clocks(&items).await;
        }
        let (items, looks) = match self.look_twice(items).await {
            Ok(seen) => seen,
            Err((mut items, error)) => {
                items.iter_mut().for_each(|item| item.hint.owed |= comparing);
                return self.again(items, &error, &self.retries.looks, sight);
            }
        };
        self.retries.looks.worked();
        let (znodes, answer, events) = looks;
        for (((item, znode), reading), events) in items.into_iter().zip(znodes).zip(answer.readings).zip(events) {
            let seen = znode_of(&znode);
            match self.fit_znode(znode) {
                Ok(znode) => {
                    self.saw_key(item, reading, seen, znode, answer.moment, events, comparing, sight);
                }
                Err(misfit) => self.saw_misfit(item, &reading, answer.moment, misfit, sight),
            }
        }
    }

    /// The znode cannot be mirrored; of the key it is taken in whether it is lost.
    pub(super) fn saw_misfit(
        &self,
        item: Item,
        reading: &KeyReading,
        moment: Moment,
        (reason, detail): Misfit,
        sight: &mut Sight,
    ) {
        if !reading.entry.is_empty() && !moment.intact {
            self.is_stranded(&item.name);
        }
        sight.unfit(item, reason, detail);
    }

    /// Measures how far the clocks are apart if the rule of one of these asks for it. A clock may have been set since the last
    /// change, and only a measurement tells.
    async fn compare_clocks(&self, items: &[Item]) {
        let asks = |item: &Item| {
            let route = self.route(item.hint.route);
            item.hint.key && route.is_some_and(|route| route.policy.on_conflict == OnConflict::Latest)
        };
        let Some(znodes) = self.znodes.as_ref().filter(|_| items.iter().any(asks)) else { return };
        if znodes.clock().is_older_than(CLOCK_FRESH_MS, steady_ms())
            && let Err(error) = self.raise_tide_now().await
        {
            self.failed(&error);
        }
    }

    async fn look_twice(
        &self,
        items: Vec<Item>,
    ) -> Result<(Vec<Item>, (Vec<ZnodeReading>, KeyReadings, Vec<i32>)), (Vec<Item>, StoreError)> {
        match self.look(&items).await {
            Ok((znodes, answer, events)) => {
                let is_doubted = items.iter().zip(&znodes).zip(&answer.readings).any(|((item, znode), reading)| {
                    is_doubted(self.base_of(item, &reading.entry).as_ref(), znode, self.ensemble().id)
                });
                if !is_doubted {
                    return Ok((items, (znodes, answer, events)));
                }
                match self.look(&items).await {
                    Ok(seen) => Ok((items, seen)),
                    Err(error) => Err((items, error)),
                }
            }
            Err(error) => Err((items, error)),
        }
    }

    async fn look(&self, items: &[Item]) -> Result<(Vec<ZnodeReading>, KeyReadings, Vec<i32>), StoreError> {
        let (Some(znodes), Some(keys)) = (&self.znodes, &self.keys) else {
            return Err(StoreError::Away("a store is missing".to_owned()));
        };
        let paths: Vec<String> = items.iter().map(|item| item.path().to_owned()).collect();
        let seen = one_for_one("znodes", paths.len(), znodes.read(&paths, Look::Synced).await?)?;
        let events = items.iter().map(|item| self.events_of(&item.name)).collect();
        let names: Vec<&[u8]> = items.iter().map(|item| &*item.name).collect();
        Ok((seen, self.observe(keys.as_ref(), &names, true).await?, events))
    }

    /// Reads keys and their sidecars, each of them.
    pub(super) async fn observe(
        &self,
        keys: &dyn Keyspace,
        names: &[&[u8]],
        values: bool,
    ) -> Result<KeyReadings, StoreError> {
        let answer = keys.observe(names, values).await?;
        let readings = one_for_one("keys", names.len(), answer.readings)?;
        Ok(KeyReadings { readings, moment: answer.moment })
    }

    /// The base that a sidecar holds, if it was agreed for this very path.
    pub(super) fn base_of(&self, item: &Item, entry: &[u8]) -> Option<Base> {
        Base::decode(entry).filter(|base| base.path_id == path_id(item.path()))
    }

    /// Turns a key as read into an observation.
    #[expect(clippy::too_many_arguments, reason = "the two halves of an observation, each from its own answer")]
    pub(super) fn saw_key(
        &self,
        item: Item,
        reading: KeyReading,
        znode: Znode,
        data: Option<(Vec<u8>, ZkStat)>,
        moment: Moment,
        events: i32,
        comparing: bool,
        sight: &mut Sight,
    ) {
        let base = self.base_of(&item, &reading.entry);
        let mut hint = item.hint;
        let (key, value) = match reading.state {
            KeyState::Absent => {
                hint = self.dirty.with_newest_event(&item.name, hint);
                let seen = hint.removal.filter(|_| hint.event.is_some() && moment.told);
                // It was seen and recorded before Redis was restarted, and could not be carried out then.
                let is_recorded = || self.newest(&item.pair).is_some_and(|newest| !newest.after.exists());
                let seen = seen.or_else(|| (hint.unwritten && is_recorded()).then_some(Removal::Deleted));
                // Whatever is there once a comparison has looked at all was put there since.
                let is_looked_at = || {
                    let was_paused = lock(&self.conclusion.passed_over).contains(&hint.route);
                    self.sources().is_looked_at(reading.life) && !was_paused
                };
                let older = moment.older && !is_looked_at();
                (Key::Absent(Vanished { seen, now_ms: moment.now_ms, intact: moment.intact, older }), None)
            }
            KeyState::Value { bytes, expires_ms } => {
                let digest = Digest::of(&bytes);
                let is_held = is_as_base(base.as_ref(), digest, znode);
                let znode_data = data.as_ref().map(|(data, _)| data.as_slice());
                let may_be_older = is_held && self.may_be_older(&item, &bytes, znode_data, moment);
                (Key::Present { digest, expires_ms, may_be_older }, Some(bytes))
            }
            // Nothing is written from it: it is looked at again, with its value.
            KeyState::Digest { digest, expires_ms } => (Key::Present { digest, expires_ms, may_be_older: false }, None),
            KeyState::Later => {
                hint.owed |= comparing;
                sight.finished.push((item.name, Some((hint, Duration::ZERO))));
                return;
            }
            KeyState::TooLarge(bytes) => {
                let detail = format!("the key holds {bytes} bytes, and at most {VALUE_BYTES_MAX} are mirrored");
                return sight.unfit(item, "too_large", detail);
            }
            KeyState::WrongType(kind) => {
                let detail = format!("the key is a {kind}, and this route carries strings");
                return sight.unfit(item, "wrong_type", detail);
            }
            KeyState::Denied(detail) => {
                // Nor its sidecar: nobody knows what it holds.
                if !moment.intact {
                    self.is_stranded(&item.name);
                }
                return sight.unfit(item, "no_permission", detail);
            }
            KeyState::Obstructed(bucket) => return sight.unfit(item, "wrong_type", KeyState::obstructed_by(&bucket)),
            KeyState::Unasked(detail) => return sight.unfit(item, "too_large", detail),
        };
        let watched = hint.key && hint.key_seen_ms > 0 && !comparing;
        let mtime_ms = data.as_ref().map_or(i64::MAX, |(_, stat)| stat.mtime_ms);
        let converted =
            self.znodes.as_ref().and_then(|znodes| znodes.clock().convert(hint.key_seen_ms, mtime_ms, steady_ms()));
        let seen = Seen {
            redis_ms: watched.then(|| converted.map_or(hint.key_seen_ms, |converted| converted.ms)),
            doubt_ms: converted.map_or(CLOCK_WAS_SET, |converted| converted.doubt_ms.saturating_add(DOUBT_MS)),
            redis_writes: if comparing { None } else { self.writes_since_base(&item.name, item.hint.route) },
        };
        let seen = Observation { base, znode, key, ensemble: self.ensemble(), seen };
        let Item { name, hint, pair } = item;
        sight.observed.push(Observed {
            name,
            hint,
            pair,
            seen,
            entry: reading.entry,
            nonce: reading.nonce,
            life: reading.life,
            znode: data,
            value,
            events,
            comparing,
        });
    }

    /// Whether a key that is as its base has it may be an older state: what the stream has last of the pair is another value, and the
    /// znode holds that one. In a data set that was not compared since it may have come back older, that other value is enough; and where
    /// the stream cannot tell, that Redis did come back older. Where only one side is written from, nothing else tells this from a change
    /// at the destination.
    fn may_be_older(&self, item: &Item, value: &[u8], znode: Option<&[u8]>, moment: Moment) -> bool {
        let is_source = |route: &super::engine::Route| route.policy.flow == Flow::From(Side::Redis);
        if !self.route(item.hint.route).is_some_and(is_source) {
            return false;
        }
        let is_true = !self.is_behind() && !self.unwritten.holds(&item.name);
        let newest = self.newest(&item.pair).filter(|_| is_true);
        // A znode that was deleted stays, empty, where others are below it.
        let deleted = newest.as_ref().is_some_and(|newest| !newest.after.exists());
        let znode_value = znode.filter(|data| !(deleted && data.is_empty()));
        match newest {
            Some(newest) => !newest.after.is(Some(value)) && (!moment.compared || newest.after.is(znode_value)),
            None => moment.older && !moment.compared,
        }
    }

    /// The znode as data and stat, or why it cannot be mirrored.
    pub(super) fn fit_znode(&self, reading: ZnodeReading) -> Result<Option<ZnodeData>, Misfit> {
        match reading {
            ZnodeReading::Absent(_) => Ok(None),
            ZnodeReading::Present { data, .. } if data.len() > VALUE_BYTES_MAX => {
                let detail =
                    format!("the znode holds {} bytes, and at most {VALUE_BYTES_MAX} are mirrored", data.len());
                Err(("too_large", detail))
            }
            ZnodeReading::Present { data, stat } => Ok(Some((data, stat))),
            ZnodeReading::Denied(detail) => Err(("no_permission", detail)),
            ZnodeReading::TooLarge(detail) => Err(("too_large", detail)),
        }
    }

    /// Puts items back after a store failed as a whole.
    fn again(&self, items: Vec<Item>, error: &StoreError, pauses: &SharedPauses, sight: &mut Sight) {
        self.failed(error);
        let pause = pauses.refused();
        for Item { name, hint, .. } in items {
            sight.finished.push((name, Some((Hint { slow: true, ..hint }, pause))));
        }
    }

    /// Takes in that a store failed as a whole.
    pub(super) fn failed(&self, error: &StoreError) {
        match error {
            StoreError::Away(_) | StoreError::NotNow(_) | StoreError::Refused(_) => {
                self.held_up_by(Held::Reads, error.clone());
            }
            StoreError::Fenced(_) => self.halt(error.clone()),
        }
    }

    /// The pair's quarantine entry, or nothing if the route is unknown.
    pub(super) fn quarantine(&self, name: &[u8], route: usize, pair: &Pair, reason: &str, detail: &str) {
        let Some(rules) = self.route(route) else { return };
        let entry = super::control::Quarantined {
            route: rules.name.clone(),
            zookeeper: pair.zookeeper.clone(),
            redis: pair.redis.clone(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            since_ms: env::unix_ms(),
        };
        let is_new = self.quarantine.put(name, route, entry);
        if is_new {
            let shown = |name: Option<&[u8]>| name.map(super::quarantine::shortened);
            tracing::warn!(
                pipeline = self.settings.pipeline,
                route = rules.name,
                key = shown(pair.redis.as_deref()),
                path = shown(pair.zookeeper.as_deref().map(str::as_bytes)),
                reason,
                "a pair is quarantined: {}",
                super::quarantine::shortened(detail.as_bytes())
            );
        }
    }
}

impl Sight {
    pub(super) fn unfit(&mut self, item: Item, reason: &'static str, detail: String) {
        let Item { name, hint, pair } = item;
        self.unfit.push(Unfit { name, hint, pair, reason, detail });
    }
}

/// Whether the key is as the base has it, and the znode is not.
fn is_as_base(base: Option<&Base>, key: Digest, znode: Znode) -> bool {
    base.is_some_and(|base| {
        let has_moved = match znode {
            Znode::AsBase => false,
            Znode::Absent(_) => base.zookeeper.is_some(),
            Znode::Present { version, .. } => base.zookeeper != Some(version),
        };
        base.redis == Some(key) && has_moved
    })
}

/// [`is_doubtful`] for what was read: what may not be read is not doubted, it goes into quarantine.
pub(super) fn is_doubted(base: Option<&Base>, reading: &ZnodeReading, ensemble: u32) -> bool {
    !matches!(reading, ZnodeReading::Denied(_) | ZnodeReading::TooLarge(_))
        && is_doubtful(base, version_of(reading), ensemble)
}

fn version_of(reading: &ZnodeReading) -> Option<ZkVersion> {
    match reading {
        ZnodeReading::Present { stat, .. } => Some(stat.version()),
        ZnodeReading::Absent(_) | ZnodeReading::Denied(_) | ZnodeReading::TooLarge(_) => None,
    }
}

/// What was read of a znode; not looked at where that was denied.
pub(super) fn znode_of(reading: &ZnodeReading) -> Znode {
    match reading {
        ZnodeReading::Denied(_) | ZnodeReading::TooLarge(_) => Znode::AsBase,
        ZnodeReading::Absent(gone_zxid) => Znode::Absent(*gone_zxid),
        ZnodeReading::Present { data, stat } => present(data, stat),
    }
}

pub(super) fn present(data: &[u8], stat: &ZkStat) -> Znode {
    Znode::Present {
        version: stat.version(),
        digest: Digest::of(data),
        ephemeral: stat.is_ephemeral(),
        mtime_ms: stat.mtime_ms,
    }
}
