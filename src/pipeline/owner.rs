//! The life of a pipeline in a worker: connect, stand by, own, compare, run, lose, begin again.
//!
//! ```text
//!   Connecting -> Standby -> Snapshotting -> Live <-> Waiting
//!        ^                                     |
//!        +--- session lost, fenced, handed over
//! ```
//!
//! Nothing but a signal or a refused start ends it: whatever else fails is waited for; with `once` for as long as `once.rs` says.

use super::captured_store;
use super::control::PipelineState;
use super::engine::{Counters, Engine, Live, Parts, Settings, lock};
use super::identity::Identity;
use super::pauses::Pauses as Paused;
use super::quarantine::Quarantine;
use super::retry::Pauses;
use super::stillness::Stillness;
use super::stream_lag;
use super::takeover::{Marking, Owning};
use super::unheard::Unheard;
use crate::change::{LossCause, Side};
use crate::env::{self, Instant};
use crate::failpoint::crash_point;
use crate::plan::Ensemble;
use crate::route::RouteMap;
use crate::store::so_far;
use crate::store::{Claim, FailureKind, Hints, Keyspace, Lease, Lost, Remembered, StoreError, Taken, Znodes};
use crate::stream::{Stream, StreamError};
use crate::telemetry::{LogThrottle, PipelineMetrics, spans};
use futures::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tracing::Instrument as _;

/// Opens the pipeline's stream; called once for each ownership.
pub type StreamOpener = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Stream>, StreamError>> + Send + Sync>;

/// A worker that stops finishes what is under way for at most this long.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

/// An ownership that is lost waits this long for its rounds: they fail by themselves.
const DRAIN_LOST: Duration = Duration::from_secs(2);

/// How often the list of quarantined pairs is saved and a finished `--once` is noticed.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// The doors of a pipeline; a capture has one of them.
pub type Stores = (Option<Arc<dyn Znodes>>, Option<Arc<dyn Keyspace>>);

/// A Redis of fewer keys than this, none of them ours, is filled without asking first what each key holds.
const BLANK_BELOW: u64 = 1_000;

/// What the pipeline claims in each store.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// In ZooKeeper.
    pub zookeeper: Option<Claim>,
    /// In Redis.
    pub redis: Option<Claim>,
}

/// How a pipeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// `--once`: one comparison found nothing to do. `true`: but pairs are quarantined or wait for approval.
    Done(bool),
    /// It may not start; the text says why. Exit 1.
    Refused(String),
    /// `--once`: nothing moved for too long, since a store or the stream is away. Exit 75.
    Unreachable(String),
    /// `--once`: nothing moved for too long, for another reason. Exit 1.
    Stuck(String),
    /// It was told to stop.
    Stopped,
    /// Another worker, with fewer pipelines, takes over; [`Pipeline::run`] stands by and does not end with this.
    Moved(String),
}

/// What `status` shows beside the engine's numbers.
pub(super) struct State {
    pub(super) state: PipelineState,
    pub(super) note: String,
    pub(super) owner: String,
    pub(super) standbys: u64,
    pub(super) engine: Option<Arc<Engine>>,
    pub(super) compared: bool,
    /// Pairs in step by route, as the last ownership left them.
    pub(super) pairs: Vec<u64>,
    /// ZooKeeper and Redis, as the last attempt to connect found them.
    pub(super) reached: [Reach; 2],
    said: LogThrottle,
}

/// How a connection stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Reach {
    pub(super) is_connected: bool,
    /// Why not; empty while it is, and before the first attempt has ended.
    pub(super) why: String,
}

impl Reach {
    fn of(connected: &Result<(), StoreError>) -> Reach {
        let why = connected.as_ref().err().map(ToString::to_string).unwrap_or_default();
        Reach { is_connected: connected.is_ok(), why }
    }
}

/// One pipeline of a worker.
pub struct Pipeline {
    pub(super) settings: Settings,
    pub(super) map: RouteMap,
    pub(super) znodes: Option<Arc<dyn Znodes>>,
    pub(super) keys: Option<Arc<dyn Keyspace>>,
    claims: Claims,
    open_stream: StreamOpener,
    metrics: Arc<PipelineMetrics>,
    pub(super) counters: Arc<Counters>,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) state: Mutex<State>,
    pub(super) live: Mutex<Live>,
    pub(super) rate: Mutex<(Instant, u64, f64)>,
    remembered: Mutex<Remembered>,
    pub(super) identity: Identity,
    /// Redis holds next to nothing, and nothing of ours.
    blank: AtomicBool,
    pub(super) is_opening: AtomicBool,
    stop: watch::Sender<bool>,
    /// Where pauses are kept that no ensemble can keep.
    pub(super) pauses_file: PathBuf,
    /// Where a capture keeps which store it records.
    pub(super) store_file: PathBuf,
    /// What was paused under the last ownership, if it was ours.
    pub(super) paused_before: Mutex<Paused>,
    /// Held by the command that changes them.
    pub(super) pausing: tokio::sync::Mutex<()>,
}

/// What a stream that cannot be opened means for its pipeline.
fn refused_or_away(error: StreamError) -> StoreError {
    match error {
        StreamError::Refused(why) => StoreError::refused(FailureKind::Worker, why),
        error => StoreError::away(FailureKind::Worker, error.to_string()).with_source(error),
    }
}

/// A Redis that has lost what it remembers of the pipeline, and nothing else, holds bases.
async fn has_no_base(keys: &dyn Keyspace) -> bool {
    let mut cursor = 0;
    loop {
        match keys.scan_sidecars(cursor).await {
            Ok((_, found)) if !found.is_empty() => return false,
            Ok((0, _)) => return true,
            Ok((next, _)) => cursor = next,
            Err(_) => return false,
        }
    }
}

impl Pipeline {
    /// A pipeline that does nothing until [`Pipeline::run`].
    #[must_use]
    pub fn new(
        settings: Settings,
        map: RouteMap,
        stores: Stores,
        claims: Claims,
        open_stream: StreamOpener,
        metrics: Arc<PipelineMetrics>,
        quarantine_file: &Path,
    ) -> Pipeline {
        for route in &settings.routes {
            metrics.introduce_route(&route.name);
        }
        let state = State {
            state: PipelineState::Connecting,
            note: String::new(),
            owner: String::new(),
            standbys: 0,
            engine: None,
            compared: false,
            pairs: Vec::new(),
            reached: <[Reach; 2]>::default(),
            said: LogThrottle::new(),
        };
        Pipeline {
            settings,
            map,
            znodes: stores.0,
            keys: stores.1,
            claims,
            open_stream,
            metrics,
            counters: Arc::new(Counters { unheard: Mutex::new(Unheard::both()), ..Counters::default() }),
            quarantine: Arc::new(Quarantine::new(quarantine_file)),
            state: Mutex::new(state),
            live: Mutex::default(),
            rate: Mutex::new((Instant::now(), 0, 0.0)),
            remembered: Mutex::default(),
            identity: Identity::default(),
            blank: AtomicBool::new(false),
            is_opening: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            pauses_file: quarantine_file.with_file_name("paused.json"),
            store_file: captured_store::file(quarantine_file.parent().unwrap_or(quarantine_file)),
            paused_before: Mutex::default(),
            pausing: tokio::sync::Mutex::default(),
        }
    }

    /// Tells it to stop; [`Pipeline::run`] ends within ten seconds.
    pub fn stop(&self) {
        self.set(PipelineState::Stopping, "");
        self.stop.send_replace(true);
    }

    pub(super) fn set(&self, state: PipelineState, note: &str) {
        let mut now = lock(&self.state);
        if now.state != state {
            // Workers that take turns at what does not fit go from one of these to the other with each attempt.
            let takes_turns = matches!(state, PipelineState::Standby | PipelineState::Waiting);
            if !takes_turns || now.said.is_due(&format!("{state:?} {note}")) {
                tracing::info!(pipeline = self.settings.pipeline, state = state.word(), note, "state");
            }
            if !takes_turns {
                now.said.clear();
            }
        }
        if now.state != PipelineState::Stopping {
            now.state = state;
        }
        note.clone_into(&mut now.note);
    }

    /// Says what is waited for, in the state that there is.
    pub(super) fn note(&self, note: &str) {
        note.clone_into(&mut lock(&self.state).note);
    }

    /// Runs until told to stop, until a start is refused, or (with `once`) until all is in step or nothing has moved for as long as
    /// `patience`.
    pub async fn run(&self, patience: Duration) -> Ended {
        let mut stop = self.stop.subscribe();
        let mut pauses = Pauses::default();
        let mut said = LogThrottle::new();
        let mut still = Stillness::default();
        let mut last: Option<StoreError> = None;
        let mut has_started = false;
        loop {
            let ended = tokio::select! {
                biased;
                ended = self.ownership(&mut has_started) => ended,
                _ = stop.wait_for(|stop| *stop) => Ok(Ended::Stopped),
                stuck = self.stuck(&mut still, patience, last.as_ref()) => Ok(stuck),
            };
            let was_live = lock(&self.state).engine.is_some();
            // Its start is over: whoever relies on a standby finds it there when what is in the way has gone.
            has_started |= lock(&self.state).state == PipelineState::Standby && !self.settings.once;
            self.end_ownership(matches!(ended, Ok(Ended::Stopped | Ended::Done(_) | Ended::Moved(_)))).await;
            if was_live {
                pauses.reset();
                said.clear();
            }
            let error = match ended {
                Ok(Ended::Moved(to)) => {
                    tracing::info!(
                        pipeline = self.settings.pipeline,
                        to,
                        "handed over: the other worker has fewer pipelines"
                    );
                    self.set(PipelineState::Standby, &format!("handed over to {to}"));
                    continue;
                }
                Ok(ended) => return ended,
                Err(error) => error,
            };
            let is_final = matches!(error, StoreError::Refused(_)) && !has_started;
            if is_final {
                return Ended::Refused(error.to_string());
            }
            self.set(PipelineState::Waiting, &error.to_string());
            if said.is_due(&error.to_string()) {
                tracing::warn!(pipeline = self.settings.pipeline, "{error}; trying again");
            }
            last = Some(error);
            tokio::select! {
                biased;
                () = env::sleep(pauses.pause()) => {}
                _ = stop.wait_for(|stop| *stop) => return Ended::Stopped,
                stuck = self.stuck(&mut still, patience, last.as_ref()) => return stuck,
            }
        }
    }

    /// Gives everything back; rounds under way finish first.
    async fn end_ownership(&self, by_wish: bool) {
        let engine = lock(&self.state).engine.take();
        if let Some(engine) = engine {
            engine.halt(StoreError::away(FailureKind::Worker, "the worker stops"));
            {
                let mut state = lock(&self.state);
                state.pairs = engine.pairs.by_route();
                // It was us, and who is the next one is not known yet.
                state.owner.clear();
            }
            engine.drain(if by_wish { DRAIN } else { DRAIN_LOST }).await;
            {
                // The last words of `--once` name what it could not read, and what is paused.
                let last = if self.settings.once { lock(&engine.live).clone() } else { Live::default() };
                *lock(&self.live) = Live { unreadable: last.unreadable, paused: last.paused, ..Live::default() };
            }
            *lock(&self.paused_before) = Paused::of(&engine);
            for side in [Side::Zookeeper, Side::Redis] {
                lock(&self.counters.unheard).lost(side);
            }
            let (captures, now) = (engine.captures(), so_far(&engine.lease, self.znodes.as_deref()));
            let written = engine.written();
            self.let_go(engine).await;
            // Those of an ownership before may be of another lineage of the ensemble, in which zxids were higher.
            *lock(&self.remembered) = now;
            if by_wish
                && !captures
                && let (Some(keys), Some(_)) = (&self.keys, &self.znodes)
            {
                // A newer zxid than this is a change, an older one a loss: worth a last try, not worth waiting for. Who owned nothing
                // has nothing to say.
                let _ = env::timeout(DRAIN_LOST, keys.remember(now, written)).await;
            }
        }
        let close = async {
            if let Some(keys) = &self.keys {
                keys.close().await;
            }
            if let Some(znodes) = &self.znodes {
                znodes.close().await;
            }
        };
        let _ = env::timeout(DRAIN_LOST, close).await;
        self.quarantine.save().await;
    }

    /// Waits until nothing works for this ownership any more: the next one, here or elsewhere, opens the stream anew.
    async fn let_go(&self, engine: Arc<Engine>) {
        let gone = engine.gone();
        drop(engine);
        if let Some(keys) = &self.keys {
            keys.unwatch().await;
        }
        if let Some(znodes) = &self.znodes {
            znodes.unwatch().await;
        }
        if env::timeout(DRAIN, gone).await.is_err() {
            let pipeline = &self.settings.pipeline;
            tracing::error!(pipeline, "something still works for an ownership that has ended; its stream stays open");
        }
    }

    /// One ownership, from its making to its end.
    async fn ownership(&self, has_started: &mut bool) -> Result<Ended, StoreError> {
        if lock(&self.state).state != PipelineState::Waiting {
            self.set(PipelineState::Connecting, "");
        }
        self.connect(!*has_started).await?;
        self.refuse_other_stores().await?;
        self.refuse_another_store().await?;
        if let Some(znodes) = &self.znodes {
            self.stand(znodes.as_ref()).await?;
        }
        let captures =
            self.settings.routes.iter().all(|route| matches!(route.policy.flow, crate::plan::Flow::Capture(_)));
        let lineage = self.refuse_another_owner().await?;
        if let (Some(znodes), Some(claim)) = (&self.znodes, &self.claims.zookeeper) {
            znodes.claim(Claim { lineage, ..claim.clone() }).await?;
        }
        self.claim_keys(lineage, captures).await?;
        let stream = self.stream(lineage, captures).await?;
        self.tie().await?;
        self.remember_store().await?;
        let written = match &self.keys {
            Some(keys) if !captures => keys.written().await?,
            _ => None,
        };
        let (lease, has_kept) = self.lease(stream.as_ref(), captures).await?;
        let lag = stream_lag::begin(stream.as_ref(), lease, has_kept, written).await.map_err(refused_or_away)?;
        *has_started = true;
        self.find_pauses().await?;
        let parts = Parts {
            map: self.map.clone(),
            znodes: self.znodes.clone(),
            keys: self.keys.clone(),
            stream,
            lag,
            metrics: Arc::clone(&self.metrics),
        };
        let engine = Arc::new(Engine::new(
            self.settings.clone(),
            parts,
            lease,
            Arc::clone(&self.counters),
            Arc::clone(&self.quarantine),
            lock(&self.live).clone(),
        ));
        {
            let mut state = lock(&self.state);
            state.owner.clone_from(&self.settings.worker);
            state.engine = Some(Arc::clone(&engine));
            state.compared = false;
        }
        tracing::info!(pipeline = self.settings.pipeline, epoch = lease.epoch, "this worker owns the pipeline");
        self.set(PipelineState::Snapshotting, "");
        let span = spans::ownership(&self.settings.pipeline, lease.epoch);
        self.live(&engine).instrument(span).await
    }

    /// Connects to both stores, so that each is known by its own error; before a start asks as well whether they can do what is
    /// needed: what no waiting mends ends the start.
    async fn connect(&self, starts: bool) -> Result<(), StoreError> {
        let zookeeper = async {
            match &self.znodes {
                Some(znodes) => znodes.connect().await,
                None => Ok(()),
            }
        };
        let redis = async {
            match &self.keys {
                Some(keys) => keys.connect().await,
                None => Ok(()),
            }
        };
        let (zookeeper, redis) = futures::future::join(zookeeper, redis).await;
        lock(&self.state).reached = [Reach::of(&zookeeper), Reach::of(&redis)];
        // A refusal is final, so it counts before a store that is away.
        let refused = [&zookeeper, &redis].into_iter().find(|one| matches!(one, Err(StoreError::Refused(_)))).cloned();
        refused.unwrap_or(Ok(()))?;
        zookeeper?;
        redis?;
        if let (Some(znodes), true) = (&self.znodes, starts) {
            znodes.check().await?;
        }
        if let (Some(keys), true) = (&self.keys, starts) {
            keys.check().await?;
        }
        Ok(())
    }

    async fn claim_keys(&self, lineage: u32, captures: bool) -> Result<(), StoreError> {
        match (&self.keys, &self.claims.redis) {
            (Some(keys), Some(claim)) if !captures => keys.claim(Claim { lineage, ..claim.clone() }).await,
            _ => Ok(()),
        }
    }

    /// Opens the stream, waiting for another process that holds it; the claim is kept alive meanwhile.
    async fn stream(&self, lineage: u32, captures: bool) -> Result<Arc<dyn Stream>, StoreError> {
        let mut pauses = Pauses::default();
        loop {
            self.is_opening.store(true, Ordering::Relaxed);
            let opened = (self.open_stream)().await;
            self.is_opening.store(false, Ordering::Relaxed);
            match opened {
                Ok(stream) => return Ok(stream),
                Err(StreamError::Owned(who)) => {
                    self.set(PipelineState::Standby, &who);
                    env::sleep(pauses.pause()).await;
                    self.refuse_another_owner().await?;
                    self.claim_keys(lineage, captures).await?;
                }
                Err(error) => return Err(refused_or_away(error)),
            }
        }
    }

    /// Takes the ownership in every store, and completes what the owner before left in the journal. Answers as well whether
    /// both stores are still those of the last owner.
    async fn lease(&self, stream: &dyn Stream, captures: bool) -> Result<(Lease, bool), StoreError> {
        let redis = self.keys.as_ref().filter(|_| !captures);
        let in_redis = match redis {
            Some(keys) => keys.remembered().await?,
            None => Remembered::default(),
        };
        let mut blank = false;
        if let (Some(keys), true) = (redis, in_redis == Remembered::default()) {
            // Where it may not be asked, every key is looked at.
            blank = keys.key_count().await.is_ok_and(|count| count < BLANK_BELOW) && has_no_base(keys.as_ref()).await;
        }
        self.blank.store(blank, Ordering::Relaxed);
        let owning = Owning::new(in_redis, *lock(&self.remembered), Taken::on_stream(stream.newest_epoch()));
        let lease = match &self.znodes {
            Some(znodes) => znodes.own(owning.remembered(), owning.taken()).await?,
            None => {
                let ensemble = Ensemble { id: 0, since_zxid: 0 };
                Lease { epoch: owning.taken().next(in_redis.epoch), ensemble, lost: None }
            }
        };
        let owned = owning.owned(lease);
        crash_point!("c10-fenced-in-zookeeper");
        if let Some(keys) = redis {
            keys.begin(so_far(&lease, self.znodes.as_deref())).await?;
        }
        let is_gone = owned.is_first() && stream.extent().last > 0;
        self.counters.losses.notice_at_start(
            lease.lost,
            redis.and_then(|keys| if is_gone { Some(LossCause::Flushed) } else { keys.lost_since_compared() }),
        );
        crash_point!("c10-begun-in-redis");
        let has_kept = owned.are_stores_unchanged;
        if let Some(znodes) = &self.znodes {
            let entries = znodes.journal().await?;
            if let Some(keys) = redis {
                let marked = keys.marked_slots().await?;
                let mut completing = owned.journal(entries, |entry| entry.slot, &marked);
                let has_fallen_back = keys.complete(std::mem::take(&mut completing.left)).await?;
                let Marking { is_older, slots } = completing.completed(has_fallen_back, znodes.tide());
                if is_older && !keys.is_life_compared() {
                    keys.note_older();
                }
                crash_point!("c10-journal-completed");
                keys.mark_slots(&slots, so_far(&lease, Some(znodes.as_ref()))).await?;
            }
        }
        Ok((lease, has_kept))
    }

    /// Runs the sources, the rounds and the comparisons until something ends them.
    async fn live(&self, engine: &Arc<Engine>) -> Result<Ended, StoreError> {
        engine.blank.store(self.blank.load(Ordering::Relaxed), Ordering::Relaxed);
        if engine.captures() {
            let known = engine
                .load_known()
                .await
                .map_err(|error| StoreError::away(FailureKind::Worker, error.to_string()).with_source(error))?;
            *lock(&engine.known) = known;
        }
        if let Some(znodes) = &self.znodes {
            znodes.watch(Arc::clone(engine) as Arc<dyn Hints>);
        }
        if let Some(keys) = &self.keys {
            keys.watch(Arc::clone(engine) as Arc<dyn Hints>);
        }
        let lost = async {
            match &self.znodes {
                Some(znodes) => znodes.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = engine.halted() => Err(error),
            lost = lost => match lost {
                Lost::Gone(error) => Err(error),
                Lost::Moves(to) => Ok(Ended::Moved(to)),
            },
            error = engine.stream.lost() => Err(StoreError::away(FailureKind::Worker, error.to_string()).with_source(error)),
            error = engine.remember_for_ever() => Err(error),
            error = self.keep_tied() => Err(error),
            () = engine.run() => Err(StoreError::away(FailureKind::Worker, "the rounds ended")),
            ended = self.compare_for_ever(engine) => ended,
        }
    }
}
