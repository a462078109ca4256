//! The engine: what one owned pipeline shares between its rounds, its comparisons and those who ask how it is.
//!
//! ```text
//!   sources --hints--> dirty set --rounds--> observe -> plan -> stream -> apply -> finish
//!                          ^                                                        |
//!                          +------------- refused, not now, named meanwhile --------+
//! ```
//!
//! Rounds run beside each other on disjoint pairs. An idle pipeline starts a round at once; while rounds are under way
//! the next one gathers, for at most `batch.wait`.

use super::asked::{Asked, Reason};
use super::blockers::{Blockers, Cause};
use super::cache::Cache;
use super::counts::Counts;
use super::dirty::DirtySet;
use super::event::event_name;
use super::hint::{Hint, News};
use super::inferred::Inferred;
use super::pressure::Pressure;
use super::quarantine::Quarantine;
use super::retry::SharedPauses;
use super::sources::Sources;
use super::stream_lag::StreamLag;
use super::unwritten::Unwritten;
use crate::change::{Change, Gap, GapState, LossCause, Side, ValueKind};
use crate::codec::json::StoreNames;
use crate::env::{self, Map, Tasks};
use crate::failpoint::caches_are_off;
use crate::plan::{Ensemble, Flow, OnConflict, Policy, Removal};
use crate::route::RouteMap;
use crate::store::clock::steady_ms;
use crate::store::{Hints, Keyspace, Lease, Link, StoreError, ZnodeAcl, Znodes, removal_of};
use crate::stream::Stream;
use crate::telemetry::{PipelineMetrics, spans};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tracing::Instrument as _;

/// Rounds that are under way at a time: one reads while another syncs the stream and a third applies.
pub(super) const ROUNDS: usize = 4;

/// One route, as the engine needs it.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// As the file writes it, `zk <-> cache`.
    pub flow: String,
    /// Its rules.
    pub policy: Policy,
    /// The rule of conflicts as the file writes it, `prefer zk`.
    pub rule: String,
    /// How its values read.
    pub value: ValueKind,
    /// ACL of znodes that are created.
    pub acl: ZnodeAcl,
    /// Channel to publish on.
    pub publish: Option<String>,
}

/// What an engine is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pipeline's name.
    pub pipeline: String,
    /// This worker (`host:pid`).
    pub worker: String,
    /// Its identity.
    pub identity: String,
    /// The routes for people, a line a route, and for whoever compares them with those of another worker's file.
    pub routes_text: Vec<String>,
    /// A claim that is not renewed for this long is void.
    pub claim_ttl: Duration,
    /// The stores' names in the file.
    pub names: StoreNames,
    /// The routes, in the order of the file.
    pub routes: Vec<Route>,
    /// Pairs in one round.
    pub batch_changes: usize,
    /// Bytes of values in one round, by the sizes seen lately; one value may exceed it.
    pub batch_bytes: usize,
    /// Longest time that a pair waits for others.
    pub batch_wait: Duration,
    /// Bytes of values in all rounds together: fewer rounds run where it is small.
    pub queue_bytes: usize,
    /// Interval of the full comparison.
    pub reconcile: Duration,
    /// Whether inferred deletes in mass wait.
    pub delete_guard: bool,
    /// Ends when one comparison finds nothing to do.
    pub once: bool,
}

/// What a pipeline is made of.
pub struct Parts {
    /// The map between paths and keys.
    pub map: RouteMap,
    /// The ZooKeeper store, if the pipeline has one.
    pub znodes: Option<Arc<dyn Znodes>>,
    /// The Redis store, if the pipeline has one.
    pub keys: Option<Arc<dyn Keyspace>>,
    /// The stream.
    pub stream: Arc<dyn Stream>,
    /// Whether it was left behind.
    pub lag: StreamLag,
    /// Where counts go.
    pub metrics: Arc<PipelineMetrics>,
}

/// What changes while a pipeline runs, besides its pairs.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    /// Why each store is not connected; `None` while it is.
    pub(super) zookeeper_down: Option<StoreError>,
    pub(super) redis_down: Option<StoreError>,
    pub(super) blockers: Blockers,
    /// What the last comparison could not read.
    pub(super) unreadable: super::unreadable::Denied,
    pub(super) paused: env::Set<usize>,
    /// Of those whose pause ends by itself: when, milliseconds since the epoch.
    pub(super) paused_until: Map<usize, i64>,
}

/// Numbers since this worker started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) changes: AtomicU64,
    /// Keys and znodes that were written.
    pub(super) writes: AtomicU64,
    /// Comparisons that have begun, and steps of the last of them: see `once.rs`.
    pub(super) comparisons: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) gaps: AtomicU64,
    /// Losses that were told, and those that are not told yet.
    pub(super) lost: AtomicU64,
    pub(super) losses: super::losses::Losses,
    pub(super) compared_ms: AtomicI64,
    pub(super) snapshot_done: AtomicU64,
    pub(super) unheard: Mutex<super::unheard::Unheard>,
}

/// How long what a store, or the stream, does not take now waits before it is tried again.
#[derive(Debug, Default)]
pub(super) struct StorePauses {
    pub(super) zookeeper: SharedPauses,
    pub(super) redis: SharedPauses,
    /// At both sides of a pair, where either may be what does not answer.
    pub(super) looks: SharedPauses,
    pub(super) stream: SharedPauses,
}

/// See the module.
pub struct Engine {
    pub(super) settings: Settings,
    pub(super) map: RouteMap,
    pub(super) znodes: Option<Arc<dyn Znodes>>,
    pub(super) keys: Option<Arc<dyn Keyspace>>,
    pub(super) stream: Arc<dyn Stream>,
    pub(super) lag: StreamLag,
    pub(super) metrics: Arc<PipelineMetrics>,
    pub(super) dirty: Arc<DirtySet>,
    pub(super) cache: Cache,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) inferred: Inferred,
    pub(super) pressure: Pressure,
    pub(super) lease: Lease,
    pub(super) live: Mutex<Live>,
    pub(super) counters: Arc<Counters>,
    /// Pairs in step, by route.
    pub(super) pairs: super::census::Census,
    pub(super) retries: StorePauses,
    /// The life of Redis' data set when this ownership began.
    pub(super) life_begun: u64,
    /// Until the first comparison is done: Redis holds next to nothing, and no base.
    pub(super) blank: AtomicBool,
    rounds: Semaphore,
    rounds_max: usize,
    pub(super) conclusion: super::conclusion::Conclusion,
    pub(super) watermark: super::watermark::Watermark,
    /// What is on the stream and perhaps not in the stores.
    pub(super) unwritten: Unwritten,
    /// Size of the larger values seen lately.
    value_bytes: AtomicUsize,
    round_ended: Notify,
    pub(super) asked: Mutex<Asked>,
    pub(super) compare_asked: Notify,
    halted: Mutex<Option<StoreError>>,
    halt: Notify,
    pub(super) counts: Counts,
    /// A rule of some route asks for them.
    counts_matter: bool,
    /// Capture only: what the stream says of each pair.
    pub(super) known: Mutex<super::known::KnownPairs>,
    /// Capture only: keys that are gone and that nobody has seen being deleted.
    pub(super) lost_keys: Mutex<env::Set<super::hint::PairName>>,
    sources: Mutex<Sources>,
    /// The rounds, so that none outlives the ownership.
    tasks: Mutex<Tasks<()>>,
    /// Goes with the engine, after everything else in it.
    alive: watch::Sender<()>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// An engine for one ownership.
    pub(super) fn new(
        settings: Settings,
        mut parts: Parts,
        lease: Lease,
        counters: Arc<Counters>,
        quarantine: Arc<Quarantine>,
        live: Live,
    ) -> Engine {
        let counts_matter = settings.routes.iter().any(|route| route.policy.on_conflict == OnConflict::HigherVersion);
        let rounds_max = (settings.queue_bytes / settings.batch_bytes.max(1)).clamp(1, ROUNDS);
        let dirty = DirtySet::default();
        for route in &live.paused {
            dirty.pause(*route, true);
        }
        Engine {
            inferred: Inferred::new(settings.routes.len(), settings.delete_guard),
            pairs: super::census::Census::new(settings.routes.len()),
            retries: StorePauses::default(),
            life_begun: parts.keys.as_ref().map_or(0, |keys| keys.life()),
            settings,
            pressure: Pressure::default(),
            map: parts.map,
            znodes: parts.znodes,
            keys: parts.keys,
            stream: parts.stream,
            unwritten: parts.lag.take_left(),
            lag: parts.lag,
            metrics: parts.metrics,
            dirty: Arc::new(dirty),
            cache: Cache::new(if caches_are_off() { 0 } else { super::cache::PAIRS_MAX }),
            quarantine,
            lease,
            live: Mutex::new(live),
            counters,
            blank: AtomicBool::new(false),
            rounds: Semaphore::new(rounds_max),
            rounds_max,
            conclusion: super::conclusion::Conclusion::default(),
            watermark: super::watermark::Watermark::default(),
            value_bytes: AtomicUsize::new(0),
            round_ended: Notify::new(),
            asked: Mutex::default(),
            compare_asked: Notify::new(),
            halted: Mutex::new(None),
            halt: Notify::new(),
            counts: Counts::default(),
            counts_matter,
            known: Mutex::default(),
            lost_keys: Mutex::default(),
            sources: Mutex::default(),
            tasks: Mutex::default(),
            alive: watch::Sender::new(()),
        }
    }

    /// What is known of both sources now. A copy: who looks at several things of it sees one moment.
    pub(super) fn sources(&self) -> Sources {
        *lock(&self.sources)
    }

    /// A route was paused.
    pub(super) fn note_pause(&self) {
        lock(&self.sources).pause();
    }

    /// Changes what is known of the sources, in one step.
    pub(super) fn with_sources<T>(&self, change: impl FnOnce(&mut Sources) -> T) -> T {
        change(&mut lock(&self.sources))
    }

    /// The lineage of the ensemble.
    pub(super) fn ensemble(&self) -> Ensemble {
        self.lease.ensemble
    }

    pub(super) fn route(&self, index: usize) -> Option<&Route> {
        self.settings.routes.get(index)
    }

    /// The store's name in the file.
    pub(super) fn store_name(&self, side: Side) -> &str {
        let name = match side {
            Side::Zookeeper => &self.settings.names.zookeeper,
            Side::Redis => &self.settings.names.redis,
        };
        name.as_deref().unwrap_or_default()
    }

    /// Whether all routes only capture.
    pub(super) fn captures(&self) -> bool {
        self.settings.routes.iter().all(|route| matches!(route.policy.flow, Flow::Capture(_)))
    }

    /// Ends the ownership: no further round begins.
    pub(super) fn halt(&self, error: StoreError) {
        lock(&self.halted).get_or_insert(error);
        self.halt.notify_waiters();
        self.halt.notify_one();
    }

    /// Whether the ownership must end.
    pub(super) fn has_halted(&self) -> bool {
        lock(&self.halted).is_some()
    }

    /// Resolves when the ownership must end.
    pub(super) async fn halted(&self) -> StoreError {
        loop {
            // Before the look: a halt in between wakes everybody who waits.
            let halt = self.halt.notified();
            if let Some(error) = lock(&self.halted).clone() {
                return error;
            }
            halt.await;
        }
    }

    /// A comparison begins.
    pub(super) fn begin_steps(&self) {
        self.counters.steps.store(0, Ordering::Relaxed);
        self.counters.comparisons.fetch_add(1, Ordering::Relaxed);
    }

    /// A comparison has come further.
    pub(super) fn step(&self) {
        self.counters.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a rule of this route asks how often a key changed.
    pub(super) fn is_counted(&self, route: usize) -> bool {
        self.route(route).is_some_and(|route| route.policy.on_conflict == OnConflict::HigherVersion)
    }

    /// Changes of this key since its base, as counted so far.
    pub(super) fn events_of(&self, name: &[u8]) -> i32 {
        if self.counts_matter { self.counts.of(name) } else { 0 }
    }

    /// Changes of this key since its base; `None` if they could not all be counted.
    pub(super) fn writes_since_base(&self, name: &[u8], route: usize) -> Option<u32> {
        let notifies = self.keys.as_ref()?.facts().notifications == Some(true);
        if notifies && self.is_counted(route) { self.counts.since_base(name) } else { None }
    }

    /// Puts a gap's beginning or end on the stream.
    pub(super) async fn mark_gap(&self, side: Side, state: GapState, reason: &str) {
        let place = match side {
            Side::Zookeeper => self.znodes.as_ref().map(|znodes| znodes.zxid()),
            Side::Redis => self.keys.as_ref().map(|keys| keys.facts().replication_offset),
        };
        let store = self.store_name(side).to_owned();
        let (from, to) = if state == GapState::Opened { (place, None) } else { (None, place) };
        let gap = Gap { state, store: store.clone(), from, to, reason: reason.to_owned() };
        let change = Change { gap: Some(gap), ..self.marker(&store) };
        if state == GapState::Opened {
            self.metrics.gaps.inc();
            self.counters.gaps.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(error) = self.stream.append(Arc::new(vec![change])).await {
            self.not_recorded(&error);
        }
    }

    /// Takes pairs from the dirty set and runs rounds over them, until dropped.
    pub(super) async fn run(self: &Arc<Self>) {
        loop {
            let (due, next) = self.dirty.due();
            if due == 0 {
                let pause = next.unwrap_or(Duration::from_secs(3600));
                tokio::select! {
                    biased;
                    () = self.dirty.changed() => {}
                    () = env::sleep(pause) => {}
                }
                continue;
            }
            let is_busy = self.rounds.available_permits() < self.rounds_max;
            let batch = self.batch();
            if is_busy && due < batch {
                // Gather while others work; a round that ends is reason enough to go on.
                let _ = env::timeout(self.settings.batch_wait, self.round_ended.notified()).await;
            }
            let Ok(permit) = self.rounds.acquire().await else { return };
            let turn = self.dirty.turn();
            let taken = self.dirty.take(&turn, batch);
            if taken.is_empty() {
                drop(permit);
                continue;
            }
            permit.forget();
            let engine = Arc::clone(self);
            let mut tasks = lock(&self.tasks);
            while let Some(ended) = tasks.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(pipeline = self.settings.pipeline, %error, "a round did not end by itself");
                }
            }
            let span = spans::round(&self.settings.pipeline, taken.len());
            let round = async move {
                // Given back however the round ends.
                let _end = RoundEnd(Arc::clone(&engine));
                // What it does not finish goes back.
                let _turn = turn;
                if engine.captures() {
                    engine.capture(taken).await;
                } else {
                    engine.round(taken).await;
                }
            };
            tasks.spawn(round.instrument(span));
        }
    }

    /// Pairs to take at once: as many as the batch may have, by number and by the sizes seen lately.
    fn batch(&self) -> usize {
        let by_bytes = self.settings.batch_bytes / self.value_bytes.load(Ordering::Relaxed).max(1);
        by_bytes.clamp(1, self.settings.batch_changes)
    }

    /// Takes in the size of a value: a rise at once, a fall over some values.
    pub(super) fn note_size(&self, bytes: usize) {
        let known = self.value_bytes.load(Ordering::Relaxed);
        let next = if bytes >= known { bytes } else { known - (known - bytes).div_ceil(16) };
        self.value_bytes.store(next, Ordering::Relaxed);
    }

    /// Waits until no round is under way; those that are after so long are cut off.
    pub(super) async fn drain(&self, limit: Duration) {
        let all = u32::try_from(self.rounds_max).unwrap_or(1);
        let is_drained = env::timeout(limit, self.rounds.acquire_many(all)).await.is_ok();
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        if !is_drained {
            tracing::info!(pipeline = self.settings.pipeline, rounds = tasks.len(), "rounds are cut off");
        }
        tasks.shutdown().await;
    }

    /// Resolves when nobody holds the engine any more, and so nobody its stream.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut alive = self.alive.subscribe();
        async move { while alive.changed().await.is_ok() {} }
    }
}

struct RoundEnd(Arc<Engine>);

impl Drop for RoundEnd {
    fn drop(&mut self) {
        self.0.rounds.add_permits(1);
        self.0.round_ended.notify_one();
    }
}

impl Hints for Engine {
    fn znode(&self, path: &str, zxid: Option<i64>, deleted: bool) {
        let Some(mapped) = self.map.of_path(path) else { return };
        let zxid = zxid.unwrap_or(i64::MAX);
        let news = News { znode: true, zxid, znode_deleted: deleted, ..News::default() };
        let hint = Hint { hints: 1, ..Hint::new(mapped.route).with(news) };
        match mapped.pair.redis {
            Some(key) => self.dirty.note(&key, hint),
            None => self.dirty.note(path.as_bytes(), hint),
        }
    }

    fn key(&self, key: &[u8], event: Option<&str>) {
        let Some(mapped) = self.map.of_key(key) else { return };
        let news = News { key: true, ..News::default() };
        let mut hint = Hint { hints: 1, ..Hint::new(mapped.route).with(news) };
        if let Some(event) = event {
            hint.news.event = Some(event_name(event));
            hint.news.removal = removal_of(event);
            if hint.news.removal == Some(Removal::Lost) {
                self.counters.losses.notice_eviction();
                self.pressure.evicted();
            }
            if !matches!(event, "expire" | "persist") {
                hint.writes = 1;
                if self.is_counted(mapped.route) {
                    self.counts.changed(key);
                }
            }
        }
        hint.key_seen_ms = steady_ms();
        self.dirty.note(key, hint);
    }

    fn everything(&self, side: Side, why: &str) {
        self.ask_for(Reason::of(Some(side), why), false);
    }

    fn lost(&self, side: Side, cause: LossCause, why: &str, is_certain: bool) {
        self.counters.losses.notice(side, cause);
        let is_eviction = cause == LossCause::Evicted;
        if is_eviction {
            self.pressure.evicted();
        }
        // Evictions go on for as long as the data does not fit.
        self.ask_for(Reason::of(Some(side), why), is_certain && !is_eviction);
    }

    fn end(&self, why: StoreError) {
        self.halt(why);
    }

    fn link(&self, side: Side, link: Link) {
        let (up, down) = match &link {
            Link::Up => (true, None),
            Link::Down(why) => (false, Some(why.clone())),
        };
        let was_up = lock(&self.sources).link(side, up);
        if side == Side::Zookeeper && !up {
            self.dirty.lost_events(side);
        }
        if !up {
            lock(&self.counters.unheard).lost(side);
        }
        {
            let mut live = lock(&self.live);
            match side {
                Side::Zookeeper => live.zookeeper_down.clone_from(&down),
                Side::Redis => live.redis_down.clone_from(&down),
            }
        }
        match down {
            None => {
                tracing::info!(
                    pipeline = self.settings.pipeline,
                    store = self.store_name(side),
                    "the source is connected"
                );
                self.ask_comparison(Some(side), "the source was connected");
            }
            Some(why) => {
                if side == Side::Redis {
                    self.counts.lost_events();
                    self.dirty.lost_events(Side::Redis);
                }
                if was_up {
                    tracing::warn!(pipeline = self.settings.pipeline, store = self.store_name(side), "{why}");
                    self.ask_for(Reason::gap(side, why.to_string()), true);
                } else {
                    self.block_by(Cause::Reads, why);
                }
            }
        }
    }
}
