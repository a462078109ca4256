//! The life of a pipeline in a worker: connect, stand by, own, compare, run, lose, begin again.
//!
//! ```text
//!   Connecting -> Standby -> Snapshotting -> Live <-> Waiting
//!        ^                                     |
//!        +--- session lost, fenced, handed over
//! ```
//!
//! Nothing but a signal or a refused start ends it: whatever else fails is waited for; with `once` for as long as `once.rs` says.

use super::books::Kept;
use super::captured_store;
use super::control::PipelineState;
use super::counters::Counters;
use super::doors::Doors;
use super::health::Live;
use super::identity::Identity;
use super::ownership::Ownership;
use super::pauses::PausedRoutes;
use super::quarantine::Quarantine;
use super::remedy::{self, Remedy};
use super::retry::Pauses;
use super::spec::{Settings, Spec};
use super::stillness::Stillness;
use super::stores::{Owned, Stores, begin_stream};
use super::unheard::Unheard;
use crate::change::Side;
use crate::env::{self, Instant, lock};
use crate::failpoint::mark;
use crate::route::RouteMap;
use crate::store::{Claim, FailureKind, Lost, Remembered, StoreError};
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
    HandedOver(String),
}

/// What `status` shows beside the numbers of an ownership.
pub(super) struct State {
    pub(super) state: PipelineState,
    pub(super) note: String,
    pub(super) owner: String,
    pub(super) standbys: u64,
    pub(super) owned: Option<Arc<Ownership>>,
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
    pub(super) spec: Arc<Spec>,
    pub(super) stores: Stores,
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
    pub(super) is_opening: AtomicBool,
    stop: watch::Sender<bool>,
    /// Where pauses are kept that no ensemble can keep.
    pub(super) pauses_file: PathBuf,
    /// Where a capture keeps which store it records.
    pub(super) store_file: PathBuf,
    /// What was paused under the last ownership, if it was ours.
    pub(super) paused_before: Mutex<PausedRoutes>,
    /// Held by the command that changes them.
    pub(super) pausing: tokio::sync::Mutex<()>,
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
            owned: None,
            compared: false,
            pairs: Vec::new(),
            reached: <[Reach; 2]>::default(),
            said: LogThrottle::new(),
        };
        Pipeline {
            spec: Arc::new(Spec::new(settings, map)),
            stores,
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
            mark!(state.word());
            // Workers that take turns at what does not fit go from one of these to the other with each attempt.
            let takes_turns = matches!(state, PipelineState::Standby | PipelineState::Waiting);
            if !takes_turns || now.said.is_due(&format!("{state:?} {note}")) {
                let note = (!note.is_empty()).then_some(note);
                tracing::info!(pipeline = self.spec.settings.pipeline, state = state.word(), note, "state");
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
            let was_live = lock(&self.state).owned.is_some();
            // Its start is over: whoever relies on a standby finds it there when what is in the way has gone.
            has_started |= lock(&self.state).state == PipelineState::Standby && !self.spec.settings.once;
            self.end_ownership(matches!(ended, Ok(Ended::Stopped | Ended::Done(_) | Ended::HandedOver(_)))).await;
            if was_live {
                pauses.reset();
                said.clear();
            }
            let error = match ended {
                Ok(Ended::HandedOver(to)) => {
                    tracing::info!(
                        pipeline = self.spec.settings.pipeline,
                        to,
                        "handed over: the other worker has fewer pipelines"
                    );
                    mark!("handed over");
                    self.set(PipelineState::Standby, &format!("handed over to {to}"));
                    continue;
                }
                Ok(ended) => return ended,
                Err(error) => error,
            };
            let is_final = remedy::of_store(&error) == Remedy::Refuse && !has_started;
            if is_final {
                return Ended::Refused(error.to_string());
            }
            self.set(PipelineState::Waiting, &error.to_string());
            if said.is_due(&error.to_string()) {
                tracing::warn!(pipeline = self.spec.settings.pipeline, "{error}; trying again");
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
        let owned = lock(&self.state).owned.take();
        if let Some(owned) = owned {
            let books = &owned.books;
            books.halt.halt(StoreError::away(FailureKind::Worker, "the worker stops".to_owned()));
            {
                let mut state = lock(&self.state);
                state.pairs = books.pairs.by_route();
                // It was us, and who is the next one is not known yet.
                state.owner.clear();
            }
            owned.drain(if by_wish { DRAIN } else { DRAIN_LOST }).await;
            let last = books.health.live();
            lock(&self.paused_before).clone_from(&last.pauses);
            // The last words of `--once` name what it could not read, and what is paused.
            let words = Live { unreadable: last.unreadable, pauses: last.pauses, ..Live::default() };
            *lock(&self.live) = if self.spec.settings.once { words } else { Live::default() };
            for side in [Side::Zookeeper, Side::Redis] {
                lock(&self.counters.unheard).lost(side);
            }
            let (now, written) = owned.so_far();
            // Before the stream is free: then the next owner, who may share the folder, writes these files.
            self.quarantine.save().await;
            self.let_go(owned).await;
            // Those of an ownership before may be of another lineage of the ensemble, in which zxids were higher.
            *lock(&self.remembered) = now;
            if by_wish && self.spec.captures().is_none() {
                // A newer zxid than this is a change, an older one a loss: worth a last try, not worth waiting for. Who owned nothing
                // has nothing to say.
                let _ = env::timeout(DRAIN_LOST, self.stores.remember(now, written)).await;
            }
        }
        self.stores.close(DRAIN_LOST).await;
    }

    /// Waits until nothing works for this ownership any more: the next one, here or elsewhere, opens the stream anew.
    async fn let_go(&self, owned: Arc<Ownership>) {
        let gone = owned.doors.gone();
        drop(owned);
        self.stores.unwatch().await;
        if env::timeout(DRAIN, gone).await.is_err() {
            let pipeline = &self.spec.settings.pipeline;
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
        self.stand().await?;
        let captures = self.spec.captures().is_some();
        let lineage = self.refuse_another_owner().await?;
        let claim = self.claims.zookeeper.clone();
        self.stores.claim_znodes(claim.map(|claim| Claim { lineage, ..claim })).await?;
        self.claim_keys(lineage).await?;
        let stream = self.stream(lineage).await?;
        self.tie().await?;
        self.remember_store().await?;
        let written = if captures { None } else { self.stores.written().await? };
        let known = *lock(&self.remembered);
        let taken = self.stores.take_over(stream.as_ref(), known, captures, &self.counters.losses).await?;
        let begun = begin_stream(stream.as_ref(), &taken, written, captures).await;
        let lag = begun.map_err(|error| remedy::of_opening(&error))?;
        *has_started = true;
        self.find_pauses().await?;
        self.quarantine.begin_ownership().await;
        let Owned { lease, is_redis_blank, .. } = taken;
        let kept = Kept {
            counters: Arc::clone(&self.counters),
            quarantine: Arc::clone(&self.quarantine),
            metrics: Arc::clone(&self.metrics),
            live: lock(&self.live).clone(),
        };
        let doors = Doors::new(self.stores.clone(), stream, lease);
        let owned = Arc::new(Ownership::new(Arc::clone(&self.spec), doors, lag, kept, is_redis_blank));
        {
            let mut state = lock(&self.state);
            state.owner.clone_from(&self.spec.settings.worker);
            state.owned = Some(Arc::clone(&owned));
            state.compared = false;
        }
        tracing::info!(pipeline = self.spec.settings.pipeline, epoch = lease.epoch, "this worker owns the pipeline");
        self.set(PipelineState::Snapshotting, "");
        let span = spans::ownership(&self.spec.settings.pipeline, lease.epoch);
        self.live(&owned).instrument(span).await
    }

    /// Connects to both stores, so that each is known by its own error; before a start asks as well whether they can do what is
    /// needed: what no waiting mends ends the start.
    async fn connect(&self, starts: bool) -> Result<(), StoreError> {
        let connected = self.stores.connect().await;
        lock(&self.state).reached = connected.each_ref().map(Reach::of);
        let failed = connected.into_iter().filter_map(Result::err);
        // A refusal is final, so it counts before a store that is away.
        if let Some(error) = failed.min_by_key(|error| remedy::of_store(error) != Remedy::Refuse) {
            return Err(error);
        }
        if starts { self.stores.check().await } else { Ok(()) }
    }

    async fn claim_keys(&self, lineage: u32) -> Result<(), StoreError> {
        let claim = self.claims.redis.clone().filter(|_| self.spec.captures().is_none());
        self.stores.claim_keys(claim.map(|claim| Claim { lineage, ..claim })).await
    }

    /// Opens the stream, waiting for another process that holds it; the claim is kept alive meanwhile.
    async fn stream(&self, lineage: u32) -> Result<Arc<dyn Stream>, StoreError> {
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
                    self.claim_keys(lineage).await?;
                }
                Err(error) => return Err(remedy::of_opening(&error)),
            }
        }
    }

    /// Runs the sources, the rounds and the comparisons until something ends them.
    async fn live(&self, owned: &Arc<Ownership>) -> Result<Ended, StoreError> {
        owned.doors.watch(&owned.inbox());
        tokio::select! {
            biased;
            error = owned.books.halt.halted() => Err(error),
            lost = owned.doors.lost() => match lost {
                Lost::Gone(error) => Err(error),
                Lost::HandsOver(to) => Ok(Ended::HandedOver(to)),
            },
            error = owned.doors.stream_lost() => Err(remedy::of_opening(&error)),
            error = owned.advance.remember_for_ever() => Err(error),
            error = self.keep_tied() => Err(error),
            () = owned.scheduler.run() => Err(StoreError::away(FailureKind::Worker, "the rounds ended".to_owned())),
            ended = self.compare_for_ever(owned) => ended,
        }
    }
}
