//! When an owner compares, and what its state is meanwhile.

use super::asked::{Reason, Rumours};
use super::blockers::Cause;
use super::control::PipelineState;
use super::owner::{Ended, Pipeline, TICK};
use super::ownership::Ownership;
use super::remedy::{self, Remedy};
use super::retry::Pauses;
use super::unheard::Unheard;
use crate::change::{GapState, Side};
use crate::env::{self, Instant, lock};
use crate::failpoint::planted;
use crate::store::StoreError;
use crate::telemetry::spans;
use std::time::Duration;
use tracing::Instrument as _;

/// Between comparisons that could not record what they found, so many times as long as the last one took passes, beside a pause.
const MISSED: u32 = 9;

impl Pipeline {
    /// A store, or the stream, that refused something holds nothing up once neither a pair nor a comparison waits for it: it was not
    /// needed any more, or the route is paused. No request comes then that could show that it serves again.
    fn unblock_if_nothing_waits(&self, owned: &Ownership, is_asked: bool) {
        let live = owned.books.health.live();
        let causes = [Cause::Writes, Cause::Reads, Cause::Stream];
        if is_asked || !causes.into_iter().any(|cause| live.blockers.has(cause)) {
            return;
        }
        let pending = owned.books.dirty.pending(self.spec.settings.routes.len());
        let waits = |(route, (count, _)): (usize, &(u64, f64))| *count > 0 && !live.pauses.paused.contains(&route);
        if !pending.iter().enumerate().any(waits) {
            owned.books.health.unblock(Cause::Writes);
            owned.books.health.unblock(Cause::Reads);
            if !owned.books.conclusion.has_missed() {
                owned.books.health.unblock(Cause::Stream);
            }
        }
    }

    /// Compares at the start, after every gap, when asked, and at the interval.
    pub(super) async fn compare_for_ever(&self, owned: &Ownership) -> Result<Ended, StoreError> {
        let mut asked = Vec::new();
        let mut is_urgent = false;
        let mut rumours = Rumours::default();
        let mut due = true;
        let mut last = Instant::now();
        let mut tick = Instant::now();
        let mut pauses = Pauses::default();
        let mut not_before = Instant::now();
        // When another one tries to record what could not be, and how long the last one took.
        let (mut missed, mut again, mut took) = (Pauses::default(), None, Duration::ZERO);
        loop {
            tokio::select! {
                biased;
                () = owned.books.asked.news() => {}
                () = env::sleep_until(tick) => {}
            }
            tick = Instant::now() + TICK;
            self.quarantine.save_if_due().await;
            if let Err(error) = owned.comparer.conclude().await
                && remedy::of_store(&error) == Remedy::EndOwnership
            {
                return Err(error);
            }
            owned.recorder.catch_up().await;
            owned.recorder.tell_losses().await;
            self.end_pauses(owned).await;
            if !owned.books.pressure.is_tight() {
                owned.books.health.unblock(Cause::Room);
            }
            self.unblock_if_nothing_waits(owned, due || !asked.is_empty());
            let news = owned.books.asked.take();
            is_urgent |= news.is_urgent;
            for reason in news.reasons {
                if planted!("a gap is not compared") && reason.side.is_some() {
                    continue;
                }
                if let Some(side) = reason.gap_in() {
                    owned.recorder.mark_gap(side, GapState::Opened, &reason.why).await;
                }
                tracing::debug!(pipeline = self.spec.settings.pipeline, ?reason, "a comparison is asked for");
                if !asked.contains(&reason) {
                    asked.push(reason);
                }
            }
            self.show_state(owned);
            let is_asked = is_urgent || (!asked.is_empty() && rumours.is_due());
            if owned.books.conclusion.has_missed() {
                // The pauses grow with what a comparison takes, so it is most of the time at rest.
                again.get_or_insert_with(|| Instant::now() + missed.pause() + took * MISSED);
            }
            if again.is_some_and(|at| at <= Instant::now()) {
                again = None;
                owned.books.asked.ask(None, "what the last one found could not be recorded");
            }
            let is_due = due || is_asked || last.elapsed() >= self.spec.settings.reconcile;
            if !is_due || !self.is_up(owned) || Instant::now() < not_before {
                continue;
            }
            let reasons = std::mem::take(&mut asked);
            // The first comparison after a start is never routine: sidecars are looked through as well.
            let reasons = if due && reasons.is_empty() { vec![Reason::of(None, "the start")] } else { reasons };
            let why = reasons.first().map_or("the interval", |reason| reason.why.as_str());
            let span = spans::comparison(&self.spec.settings.pipeline, why);
            let begun = Instant::now();
            match owned.comparer.compare(&reasons).instrument(span).await {
                Ok(acted) => {
                    let is_rumour = !std::mem::take(&mut is_urgent) && !reasons.is_empty();
                    rumours.followed(
                        is_rumour,
                        acted == 0 || owned.books.pressure.is_tight(),
                        self.spec.settings.reconcile,
                    );
                    owned.recorder.catch_up().await;
                    pauses.reset();
                    (again, took) = (None, begun.elapsed());
                    if !owned.books.conclusion.has_missed() {
                        missed.reset();
                    }
                    last = Instant::now();
                    owned.books.health.unblock(Cause::Reads);
                    if self.is_up(owned) {
                        *lock(&self.counters.unheard) = Unheard::default();
                    }
                    if owned.books.dirty.is_empty() {
                        // Nothing is left that could show that it works.
                        owned.books.health.unblock(Cause::Stream);
                        owned.books.health.unblock(Cause::Writes);
                    }
                    lock(&self.state).compared = true;
                    self.show_state(owned);
                    if self.spec.settings.once
                        && let Some(ended) = self.once(owned, acted).await
                    {
                        return Ok(ended);
                    }
                    // `--once` compares until nothing is left.
                    due = self.spec.settings.once;
                }
                Err(error) if remedy::of_store(&error) == Remedy::EndOwnership => return Err(error),
                Err(error) => {
                    owned.rounds.failed(&error);
                    asked = reasons;
                    due = true;
                    not_before = Instant::now() + pauses.pause();
                }
            }
        }
    }

    fn is_up(&self, owned: &Ownership) -> bool {
        let sources = owned.books.sources();
        let zookeeper = !owned.doors.has_znodes() || sources.hears(Side::Zookeeper);
        let redis = !owned.doors.has_keys() || sources.hears(Side::Redis);
        zookeeper && redis
    }

    fn show_state(&self, owned: &Ownership) {
        let compared = lock(&self.state).compared;
        let note = {
            let live = owned.books.health.live();
            let down = live.zookeeper_down.as_ref().or(live.redis_down.as_ref());
            down.map_or_else(|| live.blockers.reason(), ToString::to_string)
        };
        let state = match (compared, self.is_up(owned)) {
            (true, true) => PipelineState::Live,
            (true, false) => PipelineState::Waiting,
            (false, _) => PipelineState::Snapshotting,
        };
        self.set(state, &note);
    }
}
