//! What a pipeline tells of itself, and how it is steered.

use super::blockers::Cause;
use super::control::{
    Command, CommandError, Handle, PipelineState, PipelineStatus, Quarantined, RouteState, RouteStatus, StoreStatus,
    Unreadable,
};
use super::hint::{Hint, PairName};
use super::owner::{Pipeline, Reach};
use super::ownership::Ownership;
use super::unreadable::LISTED_MAX;
use crate::change::Side;
use crate::change::brief::count;
use crate::env::{Instant, lock};
use crate::plan::Flow;
use crate::route::glob;
use crate::store::StoreError;
use crate::store::preflight::shown;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The rate is that of the time since this long ago, or longer.
const RATE_OVER: Duration = Duration::from_secs(2);

/// A paused route, and when it goes on.
fn paused_until(route: &str, until_ms: Option<i64>) -> String {
    match until_ms {
        Some(ms) => format!("{route} until {} or `keepstep resume`", super::pause::time(ms)),
        None => format!("{route} until `keepstep resume`"),
    }
}

fn pairs_are(number: usize) -> String {
    if number == 1 { "1 pair is".to_owned() } else { format!("{number} pairs are") }
}

impl Pipeline {
    fn routes(&self, owned: Option<&Ownership>, state: PipelineState, compared: bool) -> Vec<RouteStatus> {
        let count = self.spec.settings.routes.len();
        let is_standby = state == PipelineState::Standby;
        let pending = owned.map(|owned| owned.books.dirty.pending(count)).unwrap_or_default();
        let (live, awaiting) = match owned {
            Some(owned) => (owned.books.health.live(), owned.books.inferred.held()),
            None => (lock(&self.live).clone(), vec![0; count]),
        };
        let (paused, denied) = (live.pauses.paused, live.unreadable);
        let in_step = match owned {
            Some(owned) => owned.books.pairs.by_route(),
            // What it knew when it was the owner is not true any more.
            None if is_standby => Vec::new(),
            None => lock(&self.state).pairs.clone(),
        };
        let routes = self.spec.settings.routes.iter().enumerate();
        routes
            .map(|(at, route)| {
                let waits = awaiting.get(at).copied().unwrap_or(0);
                let (pending, oldest) = pending.get(at).copied().unwrap_or((0, 0.0));
                let (mut unreadable, mut unreadable_names) = denied.of_route(at);
                let (pairs, named) = self.quarantine.without_permission(at, LISTED_MAX);
                unreadable += pairs;
                unreadable_names.extend(
                    named.into_iter().map(|(name, reason)| Unreadable { name: shown(&name), reason: shown(&reason) }),
                );
                unreadable_names.truncate(LISTED_MAX);
                RouteStatus {
                    route: route.name.clone(),
                    flow: route.flow.clone(),
                    state: if paused.contains(&at) {
                        RouteState::Paused
                    } else if waits > 0 {
                        RouteState::AwaitingApproval
                    } else if compared && !is_standby {
                        RouteState::Live
                    } else {
                        RouteState::Starting
                    },
                    pairs: in_step.get(at).copied().unwrap_or(0),
                    quarantined: if is_standby { 0 } else { self.quarantine.count(at) },
                    unreadable: if is_standby { 0 } else { unreadable },
                    unreadable_names: if is_standby { Vec::new() } else { unreadable_names },
                    pending,
                    awaiting_approval: u64::try_from(waits).unwrap_or(0),
                    lag_seconds: if is_standby { 0.0 } else { oldest.max(self.unheard_seconds(route.policy.flow)) },
                }
            })
            .collect()
    }

    /// How the connections stand: the sources of an owner, or the last attempt of one that owns nothing.
    fn reached(&self, owned: Option<&Ownership>) -> [Reach; 2] {
        let Some(owned) = owned else { return lock(&self.state).reached.clone() };
        let live = owned.books.health.live();
        let sources = owned.books.sources();
        let of = |side: Side, down: &Option<StoreError>| Reach {
            is_connected: sources.hears(side),
            why: down.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        [of(Side::Zookeeper, &live.zookeeper_down), of(Side::Redis, &live.redis_down)]
    }

    /// For how long changes of a route with this flow may have been missed.
    fn unheard_seconds(&self, flow: Flow) -> f64 {
        let sources = match flow {
            Flow::Both(_) => &[Side::Zookeeper, Side::Redis][..],
            Flow::From(Side::Zookeeper) | Flow::Capture(Side::Zookeeper) => &[Side::Zookeeper],
            Flow::From(Side::Redis) | Flow::Capture(Side::Redis) => &[Side::Redis],
        };
        lock(&self.counters.unheard).longest(sources).as_secs_f64()
    }

    /// What is true of the pipeline as a whole while its changes flow: the worst of what holds something up, in words.
    fn headline(owned: &Ownership, routes: &[RouteStatus]) -> (PipelineState, String) {
        let live = owned.books.health.live();
        let held = live.blockers.reason();
        if !held.is_empty() {
            return (PipelineState::Blocked, held);
        }
        let in_state = |state: RouteState| routes.iter().filter(move |route| route.state == state);
        let waits: Vec<String> = in_state(RouteState::AwaitingApproval)
            .map(|route| format!("{} of route {}", count(route.awaiting_approval, "delete", "deletes"), route.route))
            .collect();
        if !waits.is_empty() {
            let is_one = in_state(RouteState::AwaitingApproval).map(|route| route.awaiting_approval).sum::<u64>() == 1;
            let wait = if is_one { "waits" } else { "wait" };
            return (PipelineState::AwaitingApproval, format!("{} {wait} for `keepstep approve`", waits.join(", ")));
        }
        let paused = routes.iter().enumerate().filter(|(_, route)| route.state == RouteState::Paused);
        let paused: Vec<String> =
            paused.map(|(at, route)| paused_until(&route.route, live.pauses.until.get(&at).copied())).collect();
        if !paused.is_empty() {
            return (PipelineState::Paused, format!("paused: {}", paused.join(", ")));
        }
        (PipelineState::Live, String::new())
    }

    fn store_statuses(&self, owned: Option<&Ownership>) -> Vec<StoreStatus> {
        let mut stores = Vec::new();
        let [zookeeper, redis] = self.reached(owned);
        if let (Some(name), Some(server)) = (&self.spec.settings.names.zookeeper, self.stores.zookeeper_server()) {
            stores.push(StoreStatus {
                name: name.clone(),
                kind: "zookeeper".to_owned(),
                connected: zookeeper.is_connected,
                server,
                note: zookeeper.why,
            });
        }
        if let (Some(name), Some(facts)) = (&self.spec.settings.names.redis, self.stores.redis_facts()) {
            stores.push(StoreStatus {
                name: name.clone(),
                kind: "redis".to_owned(),
                connected: redis.is_connected,
                server: facts.server.clone(),
                note: [&redis.why, &facts.overwritten, &facts.lacking]
                    .into_iter()
                    .find(|note| !note.is_empty())
                    .cloned()
                    .unwrap_or_default(),
            });
        }
        stores
    }

    /// Changes a second over the last seconds.
    fn rate(&self) -> f64 {
        let changes = self.counters.changes.load(Ordering::Relaxed);
        let mut rate = lock(&self.rate);
        let (since, before, last) = *rate;
        let elapsed = since.elapsed();
        if elapsed < RATE_OVER {
            return last;
        }
        let fresh = changes.saturating_sub(before);
        let now = f64::from(u32::try_from(fresh).unwrap_or(u32::MAX)) / elapsed.as_secs_f64();
        *rate = (Instant::now(), changes, now);
        now
    }

    pub(super) fn owned(&self) -> Result<Arc<Ownership>, CommandError> {
        let state = lock(&self.state);
        state.owned.clone().ok_or_else(|| {
            let pipeline = &self.spec.settings.pipeline;
            CommandError::NotOwner(match state.owner.as_str() {
                "" => format!("this worker does not own `{pipeline}`; who does is not known"),
                owner => format!("this worker does not own `{pipeline}` ({owner} does)"),
            })
        })
    }

    /// The routes of this name, all where none is given.
    pub(super) fn routes_named(&self, route: Option<&str>) -> Result<Vec<usize>, CommandError> {
        let Some(wanted) = route else { return Ok((0..self.spec.settings.routes.len()).collect()) };
        match self.spec.settings.routes.iter().position(|route| route.name == wanted) {
            Some(at) => Ok(vec![at]),
            None => {
                let names: Vec<&str> = self.spec.settings.routes.iter().map(|route| route.name.as_str()).collect();
                Err(CommandError::UnknownRoute(format!(
                    "there is no route `{wanted}`; there are: {}",
                    names.join(", ")
                )))
            }
        }
    }

    async fn execute(&self, command: Command) -> Result<String, CommandError> {
        match command {
            Command::Pause(route, length) => self.pause(route.as_deref(), true, length).await,
            Command::Resume(route) => self.pause(route.as_deref(), false, None).await,
            Command::Reconcile(route) => {
                self.routes_named(route.as_deref())?;
                self.owned()?.books.asked.ask(None, "asked for by an operator");
                Ok("a full comparison begins".to_owned())
            }
            Command::Approve(route) => {
                let routes = self.routes_named(route.as_deref())?;
                let owned = self.owned()?;
                let mut approved = 0_usize;
                for at in routes {
                    let names = owned.books.inferred.approve(at);
                    approved += names.len();
                    owned.comparer.carry_out(names, at);
                }
                Ok(match approved {
                    0 => "no delete waits for approval".to_owned(),
                    1 => "1 delete is approved".to_owned(),
                    approved => format!("{approved} deletes are approved"),
                })
            }
            Command::Keep(changes) => {
                let owned = self.owned()?;
                tokio::select! {
                    biased;
                    kept = owned.recorder.keep(changes) => kept,
                    error = owned.books.halt.halted() => Err(CommandError::NotOwner(error.to_string())),
                }
            }
            Command::QuarantineRetry(glob) => {
                let owned = self.owned()?;
                let names = self.quarantined(glob.as_deref())?;
                for (name, route) in &names {
                    self.quarantine.forget_drop(name);
                    owned.books.dirty.note(name, Hint::new(*route).slow());
                }
                Ok(format!("{} looked at again", pairs_are(names.len())))
            }
            Command::QuarantineDrop(glob) => {
                let owned = self.owned()?;
                let names = self.quarantined(glob.as_deref())?;
                let number = names.len();
                tokio::select! {
                    biased;
                    () = owned.rounds.keep_apart(names) => {}
                    error = owned.books.halt.halted() => return Err(CommandError::NotOwner(error.to_string())),
                }
                self.quarantine.save().await;
                Ok(format!("{} left alone until either side changes", pairs_are(number)))
            }
        }
    }

    /// The quarantined pairs that are meant. That a pattern matches none is told: it may be misspelt.
    fn quarantined(&self, wanted: Option<&[u8]>) -> Result<Vec<(PairName, usize)>, CommandError> {
        let names = self.quarantine.names(&|name| wanted.is_none_or(|pattern| glob::matches(pattern, name)));
        match wanted {
            Some(pattern) if names.is_empty() => Err(CommandError::Nothing(format!(
                "no quarantined pair matches {}; see `keepstep quarantine list`",
                String::from_utf8_lossy(pattern)
            ))),
            _ => Ok(names),
        }
    }
}

impl Handle for Pipeline {
    fn name(&self) -> &str {
        &self.spec.settings.pipeline
    }

    fn status(&self) -> PipelineStatus {
        let (state, note, owner, mut standbys, owned, compared) = {
            let state = lock(&self.state);
            let owned = state.owned.clone();
            (state.state, state.note.clone(), state.owner.clone(), state.standbys, owned, state.compared)
        };
        let owned = owned.as_deref();
        if owned.is_some() {
            standbys = self.stores.standbys();
        }
        let history = owned.map(|owned| owned.doors.extent());
        let stores = self.store_statuses(owned);
        let is_standby = state == PipelineState::Standby;
        let routes = self.routes(owned, state, compared);
        let (state, note) = match owned {
            Some(owned) if state == PipelineState::Live => Pipeline::headline(owned, &routes),
            _ => (state, note),
        };
        // Without the stream nothing is recorded, and so nothing is carried over.
        let can_record = owned.is_none_or(|owned| !owned.books.health.live().blockers.has(Cause::Stream));
        let ready = is_standby || (compared && can_record && stores.iter().all(|store| store.connected));
        let since_start = |count: &AtomicU64| if is_standby { 0 } else { count.load(Ordering::Relaxed) };
        PipelineStatus {
            pipeline: self.spec.settings.pipeline.clone(),
            state,
            note,
            owner,
            epoch: owned.map_or(0, |owned| owned.doors.lease.epoch),
            standbys,
            position: history.map_or(0, |extent| extent.last),
            history,
            routes,
            stores,
            changes: since_start(&self.counters.changes),
            conflicts: since_start(&self.counters.conflicts),
            gaps: since_start(&self.counters.gaps),
            losses: since_start(&self.counters.lost),
            rate: if is_standby { 0.0 } else { self.rate() },
            compared_ms: self.counters.compared_ms.load(Ordering::Relaxed),
            ready,
            snapshot_done: self.counters.snapshot_done.load(Ordering::Relaxed),
        }
    }

    fn quarantine(&self) -> Vec<Quarantined> {
        // What a standby knows is of a time when it was the owner.
        if lock(&self.state).state == PipelineState::Standby { Vec::new() } else { self.quarantine.list() }
    }

    fn command(&self, command: Command) -> BoxFuture<'_, Result<String, CommandError>> {
        self.execute(command).boxed()
    }
}
