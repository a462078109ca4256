//! Pauses: what an operator stopped stays stopped over restarts and take-overs, until it is resumed or its time is over.
//!
//! They lie where whoever owns the pipeline next finds them before it does anything: in ZooKeeper, under the owner's fence; without
//! an ensemble in the data folder. A pause holds once it is there, so a crash in between leaves what the operator was told.

use super::control::CommandError;
use super::folder;
use super::owner::Pipeline;
use super::ownership::Ownership;
use super::pauses::{PausedRoutes, Row};
use super::sources::Sources;
use crate::env::{self, lock};
use crate::store::StoreError;
use std::time::Duration;

/// How long an operator waits for the ensemble to take a pause; the command's own patience is 10 s.
const KEEP_TIMEOUT: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Takes over the pauses that were left; called once an ownership, before anything is done in it.
    pub(super) async fn find_pauses(&self) -> Result<(), StoreError> {
        let data = match self.stores.pauses().await {
            Some(pauses) => pauses?,
            None => folder::read(&self.pauses_file).await?,
        };
        // Whoever resumes leaves a list that is empty, and not nothing.
        let ours = std::mem::take(&mut *lock(&self.paused_before));
        if data.is_empty() && !ours.paused.is_empty() {
            let pipeline = &self.spec.settings.pipeline;
            tracing::warn!(pipeline, "what is paused was deleted from where it is kept; it stays paused");
            self.keep_pauses(&ours).await?;
            lock(&self.live).pauses = ours;
            return Ok(());
        }
        let rows: Vec<Row> = match data.as_slice() {
            [] => Vec::new(),
            data => serde_json::from_slice(data).unwrap_or_else(|error| {
                let pipeline = &self.spec.settings.pipeline;
                tracing::warn!(pipeline, %error, "what was paused cannot be read: nothing is");
                Vec::new()
            }),
        };
        let mut pauses = PausedRoutes::default();
        for row in rows.into_iter().filter(|row| row.until_ms.is_none_or(|until| until > env::unix_ms())) {
            // A route that the file has no more needs no pause.
            if let Some(at) = self.spec.settings.routes.iter().position(|route| route.name == row.route) {
                tracing::info!(
                    pipeline = self.spec.settings.pipeline,
                    route = row.route,
                    "the route is paused since before"
                );
                pauses.set(at, row.until_ms);
            }
        }
        lock(&self.live).pauses = pauses;
        Ok(())
    }

    /// Leaves them for the next owner.
    async fn keep_pauses(&self, pauses: &PausedRoutes) -> Result<(), StoreError> {
        let routes = self.spec.settings.routes.iter().enumerate().filter(|(at, _)| pauses.paused.contains(at));
        let rows: Vec<Row> = routes
            .map(|(at, route)| Row { route: route.name.clone(), until_ms: pauses.until.get(&at).copied() })
            .collect();
        let data = serde_json::to_vec(&rows).unwrap_or_default();
        match self.stores.keep_pauses(&data, KEEP_TIMEOUT).await {
            Some(kept) => kept,
            None => folder::replace(&self.pauses_file, data).await,
        }
    }

    /// Pauses these routes, for so long if that is given, or resumes them.
    pub(super) async fn pause(
        &self,
        route: Option<&str>,
        paused: bool,
        length: Option<Duration>,
    ) -> Result<String, CommandError> {
        let routes = self.routes_named(route)?;
        let owned = self.owned()?;
        // Two commands at a time would each keep what it knows.
        let _one = self.pausing.lock().await;
        let mut pauses = owned.books.health.pauses();
        let before = pauses.paused.clone();
        let until_ms =
            length.map(|length| env::unix_ms().saturating_add(i64::try_from(length.as_millis()).unwrap_or(i64::MAX)));
        for at in &routes {
            if paused { pauses.set(*at, until_ms) } else { pauses.end(*at) }
        }
        self.keep_pauses(&pauses).await.map_err(|error| {
            let done = if paused { "paused" } else { "resumed" };
            CommandError::Failed(format!("{error}: nothing is {done}, since the next owner would not know of it"))
        })?;
        Pipeline::apply_pauses(&owned, &pauses);
        let names = |routes: &[usize]| {
            let routes = routes.iter().filter_map(|at| self.spec.settings.routes.get(*at));
            routes.map(|route| route.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let until = until_ms.map(|until| format!(", until {}", time(until))).unwrap_or_default();
        let resumed: Vec<usize> = routes.iter().copied().filter(|at| before.contains(at)).collect();
        let done = match resumed.as_slice() {
            _ if paused => format!("paused: {}{until}", names(&routes)),
            [] => format!("not paused: {}", names(&routes)),
            resumed => format!("resumed: {}", names(resumed)),
        };
        tracing::info!(pipeline = self.spec.settings.pipeline, "{done}");
        Ok(done)
    }

    /// Resumes the routes whose time is over.
    pub(super) async fn end_pauses(&self, owned: &Ownership) {
        let is_over = |until: &i64| *until <= env::unix_ms();
        if !owned.books.health.pauses().until.values().any(is_over) {
            return;
        }
        let _one = self.pausing.lock().await;
        let mut pauses = owned.books.health.pauses();
        let over: Vec<usize> = pauses.until.iter().filter(|(_, until)| is_over(until)).map(|(at, _)| *at).collect();
        for at in over {
            pauses.end(at);
            if let Some(route) = self.spec.settings.routes.get(at) {
                tracing::info!(pipeline = self.spec.settings.pipeline, route = route.name, "the pause is over");
            }
        }
        Pipeline::apply_pauses(owned, &pauses);
        // Who reads it later sees that the time is over.
        if let Err(error) = self.keep_pauses(&pauses).await {
            tracing::debug!(pipeline = self.spec.settings.pipeline, %error, "the end of a pause is not kept");
        }
    }

    fn apply_pauses(owned: &Ownership, pauses: &PausedRoutes) {
        let before = owned.books.health.set_pauses(pauses.clone()).paused;
        for at in pauses.paused.difference(&before) {
            owned.books.dirty.pause(*at, true);
            owned.books.with_sources(Sources::pause);
        }
        let mut resumed = false;
        for at in before.difference(&pauses.paused) {
            owned.books.dirty.pause(*at, false);
            resumed = true;
        }
        if resumed {
            // Comparisons leave paused routes alone, so what they would have found is looked for now.
            owned.books.asked.ask(None, "a route was resumed");
        }
    }
}

/// Milliseconds since the epoch as RFC 3339, to the second.
pub(super) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.0}"))
}
