//! Reading for a round: each pair's [`Reading`] says what it asks for, and the stores are asked for many pairs at once.
//!
//! ```text
//!   znodes named by an event --> keys named by an event --> both sides, ZooKeeper first --> both again, where doubted
//! ```
//!
//! A pair moves on as its answers come; what it is read for, and when enough is known, is decided in [`super::round`].

use super::blockers::Cause;
use super::facts::PairInBooks;
use super::pair::{Item, Loaded, Misfit, ZnodeData};
use super::remedy::{self, Remedy};
use super::round::{Ask, End, FoundKey, FoundZnode, KeyAnswer, Next, Reading};
use super::rounds::Rounds;
use super::sources::Sources;
use crate::change::{Digest, Pair, ZkStat};
use crate::env;
use crate::failpoint::crash_point;
use crate::pipeline::hint::{Hint, PairName};
use crate::plan::{Base, Known, Znode, path_id};
use crate::store::clock::steady_ms;
use crate::store::{KeyReading, KeyState, Look, ReadContext, StoreError, VALUE_BYTES_MAX, ZnodeReading};

/// Before `latest` decides, the clocks are compared once more if that is longer ago: one small write to the ensemble.
const CLOCK_FRESH_MS: i64 = 2000;

/// A pair that is being read.
pub(super) struct Pending {
    pub(super) item: Item,
    reading: Reading,
    /// The znode that was read before the key.
    znode: Option<ZnodeReading>,
}

impl Pending {
    pub(super) fn new(reading: Reading, item: Item) -> Pending {
        Pending { item, reading, znode: None }
    }

    pub(super) fn walked(reading: Reading, item: Item, znode: ZnodeReading) -> Pending {
        Pending { item, reading, znode: Some(znode) }
    }
}

/// A pair whose round has ended.
pub(super) struct Ended {
    pub(super) item: Item,
    pub(super) end: End,
    pub(super) misfit: Option<Misfit>,
}

/// What came of reading.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) observed: Vec<Loaded>,
    pub(super) ended: Vec<Ended>,
}

impl Batch {
    pub(super) fn end(&mut self, item: Item, end: End) {
        self.ended.push(Ended { item, end, misfit: None });
    }
}

impl Rounds {
    /// One round over pairs that were taken from the dirty set.
    pub(super) async fn round(&self, taken: Vec<(PairName, Hint)>) {
        crash_point!("c1-hint-taken");
        let mut batch = Batch::default();
        let mut pending = Vec::with_capacity(taken.len());
        let sources = self.books.sources();
        for (name, hint) in taken {
            let Some(mapped) = self.spec.pair_of(&name) else {
                self.books.dirty.finish(name, None);
                continue;
            };
            let item = Item { name, hint, pair: mapped.pair };
            let next = self.facts(&item, sources).map(|facts| Reading::begin(hint.news, &facts));
            match next {
                Some(Next::Read(reading)) => pending.push(Pending::new(reading, item)),
                Some(Next::End(end)) => batch.end(item, end),
                Some(Next::Observed(_)) | None => self.books.dirty.finish(item.name, None),
            }
        }
        self.read(pending, &mut batch).await;
        self.settle(batch).await;
    }

    /// Reads until enough is known of each pair.
    pub(super) async fn read(&self, mut pending: Vec<Pending>, batch: &mut Batch) {
        let mut has_compared_clocks = false;
        // Each pair asks six times at most: its znode, its key, and twice for both.
        while let Some(ask) = [Ask::Znode, Ask::Key, Ask::SyncedZnode]
            .into_iter()
            .find(|ask| pending.iter().any(|pending| pending.reading.ask() == *ask))
        {
            let (now, later): (Vec<Pending>, Vec<Pending>) =
                pending.into_iter().partition(|pending| pending.reading.ask() == ask);
            pending = later;
            if ask == Ask::SyncedZnode && !std::mem::replace(&mut has_compared_clocks, true) {
                self.compare_clocks(&now).await;
            }
            let read = match ask {
                Ask::Znode => self.read_znodes(now, Look::Source, batch).await,
                Ask::SyncedZnode => self.read_znodes(now, Look::Synced, batch).await,
                Ask::Key => self.read_keys_or_end(now, batch).await,
            };
            pending.extend(read);
        }
    }

    async fn read_keys_or_end(&self, pending: Vec<Pending>, batch: &mut Batch) -> Vec<Pending> {
        let assumes_nothing = pending.iter().any(|pending| pending.reading.assumes_nothing());
        match self.read_keys(pending, true, batch).await {
            Ok(more) => {
                if assumes_nothing {
                    self.books.retries.looks.worked();
                }
                more
            }
            Err((failed, error)) => {
                self.end_failed(failed, &error, batch);
                Vec::new()
            }
        }
    }

    /// Ends the rounds of pairs after a store failed as a whole.
    fn end_failed(&self, failed: Vec<Pending>, error: &StoreError, batch: &mut Batch) {
        self.failed(error);
        for Pending { item, reading, .. } in failed {
            batch.end(item, reading.failed());
        }
    }

    /// Reads znodes; answers the pairs of which more is to be read.
    async fn read_znodes(&self, pending: Vec<Pending>, look: Look, batch: &mut Batch) -> Vec<Pending> {
        let paths: Vec<String> = pending.iter().map(|pending| pending.item.path().to_owned()).collect();
        let readings = match self.doors.read(&paths, look).await {
            Ok(readings) => readings,
            Err(error) => {
                self.end_failed(pending, &error, batch);
                return Vec::new();
            }
        };
        if pending.iter().any(|pending| pending.reading.assumes_nothing()) {
            self.books.retries.looks.worked();
        }
        let sources = self.books.sources();
        let mut more = Vec::new();
        for (Pending { item, reading, .. }, znode) in pending.into_iter().zip(readings) {
            let next = self.facts(&item, sources).map(|facts| {
                if look == Look::Source {
                    let is_known = self.books.cache.get(&item.name) != Known::Unknown;
                    let counter =
                        if is_known { &self.books.metrics.cache_hits } else { &self.books.metrics.cache_misses };
                    counter.inc();
                }
                reading.znode(found_znode(&znode), &facts)
            });
            match next {
                Some(Next::Read(reading)) => more.push(Pending { item, reading, znode: Some(znode) }),
                Some(Next::Observed(observed)) => {
                    let events = self.events_of(&item.name);
                    let entry = observed.observation.base.map(|base| base.encode()).unwrap_or_default();
                    let znode = fit_znode(znode).unwrap_or_default();
                    let loaded = Loaded { entry, znode, ..Loaded::new(item, observed, events) };
                    batch.observed.push(loaded);
                }
                Some(Next::End(end)) => batch.ended.push(Ended { item, end, misfit: fit_znode(znode).err() }),
                None => self.books.dirty.finish(item.name, None),
            }
        }
        more
    }

    /// Reads keys, with their bytes or their digests alone; answers the pairs of which more is to be read.
    ///
    /// # Errors
    ///
    /// The pairs, and why none of them could be read.
    pub(super) async fn read_keys(
        &self,
        pending: Vec<Pending>,
        values: bool,
        batch: &mut Batch,
    ) -> Result<Vec<Pending>, (Vec<Pending>, StoreError)> {
        // What was counted of a key before it was read is in what is read.
        let events: Vec<i32> = pending.iter().map(|pending| self.events_of(&pending.item.name)).collect();
        let names: Vec<&[u8]> = pending.iter().map(|pending| &*pending.item.name).collect();
        let answer = match self.doors.observe(&names, values).await {
            Ok(answer) => answer,
            Err(error) => return Err((pending, error)),
        };
        // Asked after the keys were read: what is compared by now is compared as they are.
        let sources = self.books.sources();
        let mut more = Vec::new();
        for ((pending, reading), events) in pending.into_iter().zip(answer.readings).zip(events) {
            more.extend(self.read_key(pending, (reading, answer.context), events, sources, batch));
        }
        Ok(more)
    }

    /// Hands a pair its key; answers the pair if more is to be read of it.
    fn read_key(
        &self,
        pending: Pending,
        (key, context): (KeyReading, ReadContext),
        events: i32,
        sources: Sources,
        batch: &mut Batch,
    ) -> Option<Pending> {
        let Pending { item, reading, znode } = pending;
        // If the znode is assumed to equal the base, an earlier read of it is ignored.
        let znode = znode.filter(|_| reading.is_after_znode());
        let Some(mut facts) = self.facts(&item, sources) else {
            self.books.dirty.finish(item.name, None);
            return None;
        };
        facts.znode = match &znode {
            Some(ZnodeReading::Present { data, stat }) => Some((data, stat)),
            _ => None,
        };
        facts.value = match &key.state {
            KeyState::Value { bytes, .. } => Some(bytes),
            _ => None,
        };
        let next = reading.key(answer_of(&item, &key, context), &facts);
        match next {
            Next::Read(reading) => Some(Pending { item, reading, znode }),
            Next::Observed(observed) => {
                let KeyReading { state, entry, nonce, .. } = key;
                let value = if let KeyState::Value { bytes, .. } = state { Some(bytes) } else { None };
                let znode = znode.map(fit_znode).and_then(Result::ok).flatten();
                batch.observed.push(Loaded { entry, nonce, znode, value, ..Loaded::new(item, observed, events) });
                None
            }
            Next::End(end) => {
                let misfit = znode.and_then(|znode| fit_znode(znode).err()).or_else(|| unfit_key(key.state));
                batch.ended.push(Ended { item, end, misfit });
                None
            }
        }
    }

    /// Measures how far the clocks are apart if the rule of one of these asks for it. A clock may have been set since the last
    /// change, and only a measurement shows that.
    async fn compare_clocks(&self, pending: &[Pending]) {
        let asks = |pending: &Pending| !pending.reading.comparing && self.asks_for_times(&pending.item);
        let Some(clock) = self.doors.clock().filter(|_| pending.iter().any(asks)) else { return };
        if clock.is_older_than(CLOCK_FRESH_MS, steady_ms())
            && let Err(error) = self.advance.measure_clocks().await
        {
            self.failed(&error);
        }
    }

    /// A store failed as a whole: what follows for the pipeline.
    pub(super) fn failed(&self, error: &StoreError) {
        match remedy::of_store(error) {
            Remedy::AskAgain | Remedy::Refuse => self.books.health.block_by(Cause::Reads, error.clone()),
            Remedy::EndOwnership => self.books.halt.halt(error.clone()),
        }
    }

    /// Ends the round of a pair that was not fully read.
    pub(super) fn settle_ended(&self, ended: Ended, settled: Option<&mut super::settled::Settled>) {
        let Ended { item: Item { name, hint, pair }, end, misfit } = ended;
        end.settle(&mut PairInBooks { rounds: self, name, hint, pair: &pair, misfit, settled });
    }

    /// The pair's quarantine entry, or nothing if the route is unknown.
    pub(super) fn quarantine(&self, name: &[u8], route: usize, pair: &Pair, reason: &str, detail: &str) {
        let Some(rules) = self.spec.route(route) else { return };
        let entry = super::control::Quarantined {
            route: rules.name.clone(),
            zookeeper: pair.zookeeper.clone(),
            redis: pair.redis.clone(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            since_ms: env::unix_ms(),
        };
        let is_new = self.books.quarantine.put(name, route, entry);
        if is_new {
            let shown = |name: Option<&[u8]>| name.map(super::quarantine::shortened);
            tracing::warn!(
                pipeline = self.spec.settings.pipeline,
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

/// The base that a sidecar holds, if it was agreed for this very path.
fn base_of(item: &Item, entry: &[u8]) -> Option<Base> {
    Base::decode(entry).filter(|base| base.path_id == path_id(item.path()))
}

/// A key as the machine asks for it.
fn answer_of(item: &Item, reading: &KeyReading, context: ReadContext) -> KeyAnswer {
    let key = match &reading.state {
        KeyState::Absent => FoundKey::Absent,
        KeyState::Value { bytes, expires_ms } => {
            FoundKey::Value { digest: Digest::of(bytes), expires_ms: *expires_ms, has_bytes: true }
        }
        KeyState::Digest { digest, expires_ms } => {
            FoundKey::Value { digest: *digest, expires_ms: *expires_ms, has_bytes: false }
        }
        KeyState::Later => FoundKey::Later,
        KeyState::Denied(_) => FoundKey::Unfit { is_denied: true },
        KeyState::TooLarge(_) | KeyState::WrongType(_) | KeyState::Obstructed(_) | KeyState::Unasked(_) => {
            FoundKey::Unfit { is_denied: false }
        }
    };
    KeyAnswer {
        key,
        base: base_of(item, &reading.entry),
        has_sidecar: !reading.entry.is_empty(),
        incarnation: reading.incarnation,
        context,
    }
}

/// Why a key cannot be mirrored.
pub(super) fn unfit_key(state: KeyState) -> Option<Misfit> {
    match state {
        KeyState::TooLarge(bytes) => {
            Some(("too_large", format!("the key holds {bytes} bytes, and at most {VALUE_BYTES_MAX} are mirrored")))
        }
        KeyState::WrongType(kind) => {
            Some(("wrong_type", format!("the key is a {kind}, and this route carries strings")))
        }
        KeyState::Denied(detail) => Some(("no_permission", detail)),
        KeyState::Obstructed(bucket) => Some(("wrong_type", KeyState::obstructed_by(&bucket))),
        KeyState::Unasked(detail) => Some(("too_large", detail)),
        KeyState::Absent | KeyState::Value { .. } | KeyState::Digest { .. } | KeyState::Later => None,
    }
}

/// The znode as data and stat, or why it cannot be mirrored.
pub(super) fn fit_znode(reading: ZnodeReading) -> Result<Option<ZnodeData>, Misfit> {
    match reading {
        ZnodeReading::Absent(_) => Ok(None),
        ZnodeReading::Present { data, .. } if data.len() > VALUE_BYTES_MAX => {
            let detail = format!("the znode holds {} bytes, and at most {VALUE_BYTES_MAX} are mirrored", data.len());
            Err(("too_large", detail))
        }
        ZnodeReading::Present { data, stat } => Ok(Some((data, stat))),
        ZnodeReading::Denied(detail) => Err(("no_permission", detail)),
        ZnodeReading::TooLarge(detail) => Err(("too_large", detail)),
    }
}

/// A znode as the machine asks for it.
pub(super) fn found_znode(reading: &ZnodeReading) -> FoundZnode {
    match reading {
        ZnodeReading::Denied(_) | ZnodeReading::TooLarge(_) => FoundZnode { znode: Znode::AsBase, fits: false },
        ZnodeReading::Absent(gone_zxid) => FoundZnode { znode: Znode::Absent(*gone_zxid), fits: true },
        ZnodeReading::Present { data, stat } => {
            FoundZnode { znode: present(data, stat), fits: data.len() <= VALUE_BYTES_MAX }
        }
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
