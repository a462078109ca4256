//! When an owner compares, and what its state is meanwhile.

use super::asked::{Reason, Rumours};
use super::blockers::Cause;
use super::control::PipelineState;
use super::engine::{Engine, lock};
use super::owner::{Ended, Pipeline, TICK};
use super::retry::Pauses;
use super::unheard::Unheard;
use crate::change::{GapState, Side};
use crate::env::{self, Instant};
use crate::store::StoreError;
use crate::telemetry::spans;
use std::sync::Arc;
use tracing::Instrument as _;

impl Pipeline {
    /// Compares at the start, after every gap, when asked, and at the interval.
    pub(super) async fn compare_for_ever(&self, engine: &Arc<Engine>) -> Result<Ended, StoreError> {
        let mut asked = Vec::new();
        let mut is_urgent = false;
        let mut rumours = Rumours::default();
        let mut due = true;
        let mut last = Instant::now();
        let mut tick = Instant::now();
        let mut pauses = Pauses::default();
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = engine.compare_asked.notified() => {}
                () = env::sleep_until(tick) => {}
            }
            tick = Instant::now() + TICK;
            self.quarantine.save_if_due().await;
            if let Err(error @ StoreError::Fenced(_)) = engine.conclude().await {
                return Err(error);
            }
            engine.catch_up().await;
            engine.tell_losses().await;
            self.end_pauses(engine).await;
            if !engine.pressure.is_tight() {
                engine.unblock(Cause::Room);
            }
            let news = engine.comparison_asked();
            is_urgent |= news.is_urgent;
            for reason in news.reasons {
                if let Some(side) = reason.gap_in() {
                    engine.mark_gap(side, GapState::Opened, &reason.why).await;
                }
                tracing::debug!(pipeline = self.settings.pipeline, ?reason, "a comparison is asked for");
                if !asked.contains(&reason) {
                    asked.push(reason);
                }
            }
            self.show_state(engine);
            let is_asked = is_urgent || (!asked.is_empty() && rumours.is_due());
            let is_due = due || is_asked || last.elapsed() >= self.settings.reconcile;
            if !is_due || !self.is_up(engine) || Instant::now() < not_before {
                continue;
            }
            let reasons = std::mem::take(&mut asked);
            // The first comparison after a start is never routine: sidecars are looked through as well.
            let reasons = if due && reasons.is_empty() { vec![Reason::of(None, "the start")] } else { reasons };
            let why = reasons.first().map_or("the interval", |reason| reason.why.as_str());
            let span = spans::comparison(&self.settings.pipeline, why);
            let compared = if engine.captures() {
                engine.compare_capture(&reasons).instrument(span).await
            } else {
                engine.compare(&reasons).instrument(span).await
            };
            match compared {
                Ok(acted) => {
                    let is_rumour = !std::mem::take(&mut is_urgent) && !reasons.is_empty();
                    rumours.followed(is_rumour, acted == 0 || engine.pressure.is_tight(), self.settings.reconcile);
                    engine.catch_up().await;
                    pauses.reset();
                    last = Instant::now();
                    engine.unblock(Cause::Reads);
                    if self.is_up(engine) {
                        *lock(&self.counters.unheard) = Unheard::default();
                    }
                    if engine.dirty.is_empty() {
                        // Nothing is left that could show that it works.
                        engine.unblock(Cause::Stream);
                        engine.unblock(Cause::Writes);
                    }
                    lock(&self.state).compared = true;
                    self.show_state(engine);
                    if self.settings.once
                        && let Some(ended) = self.once(engine, acted).await
                    {
                        return Ok(ended);
                    }
                    // `--once` compares until nothing is left.
                    due = self.settings.once;
                }
                Err(error @ StoreError::Fenced(_)) => return Err(error),
                Err(error) => {
                    engine.failed(&error);
                    asked = reasons;
                    due = true;
                    not_before = Instant::now() + pauses.pause();
                }
            }
        }
    }

    fn is_up(&self, engine: &Engine) -> bool {
        let sources = engine.sources();
        let zookeeper = self.znodes.is_none() || sources.hears(Side::Zookeeper);
        let redis = self.keys.is_none() || sources.hears(Side::Redis);
        zookeeper && redis
    }

    fn show_state(&self, engine: &Engine) {
        let compared = lock(&self.state).compared;
        let note = {
            let live = lock(&engine.live);
            let down = live.zookeeper_down.as_ref().or(live.redis_down.as_ref());
            down.map_or_else(|| live.blockers.reason(), ToString::to_string)
        };
        let state = match (compared, self.is_up(engine)) {
            (true, true) => PipelineState::Live,
            (true, false) => PipelineState::Waiting,
            (false, _) => PipelineState::Snapshotting,
        };
        self.set(state, &note);
    }
}
