//! Waits until changes in flight have finished, by the status of the pipeline's worker.

use crate::env::{self, Instant};
use crate::history::InFlight;
use crate::http::client::{self, Target};
use crate::http::socket_path;
use crate::pipeline::control::{PipelineStatus, RouteState};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// The shortest wait between two looks. Without a worker on this machine, the changes of a worker
/// elsewhere finish within it.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a worker that lags is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// The longest wait for a lagging worker. After that its pairs are reported as different.
const LONGEST: Duration = Duration::from_secs(30);

/// Asks the worker of a pipeline, if one answers on its socket.
pub(super) struct WorkerInFlight {
    target: Target,
    pipeline: String,
}

impl WorkerInFlight {
    pub(super) fn new(data_dir: &Path, pipeline: &str) -> WorkerInFlight {
        WorkerInFlight { target: Target::Unix(socket_path(data_dir, pipeline)), pipeline: pipeline.to_owned() }
    }

    /// Age of the oldest change that is in flight; `None` if no worker answers.
    async fn lag(&self) -> Option<Duration> {
        let (code, body) = client::request(&self.target, "GET", "/status").await.ok()?;
        let answer: Value = serde_json::from_slice(&body).ok().filter(|_| code == 200)?;
        let rows = answer.get("pipelines")?.as_array()?;
        let statuses = rows.iter().filter_map(|row| serde_json::from_value::<PipelineStatus>(row.clone()).ok());
        let routes = statuses.filter(|status| status.pipeline == self.pipeline).flat_map(|status| status.routes);
        // The pending changes of a paused route are not in flight.
        let live = routes.filter(|route| route.state == RouteState::Live);
        Some(Duration::from_secs_f64(live.map(|route| route.lag_seconds).fold(0.0, f64::max)))
    }
}

impl InFlight for WorkerInFlight {
    fn landed(&self, since: Instant) -> BoxFuture<'_, ()> {
        async move {
            env::sleep(PAUSE.saturating_sub(since.elapsed())).await;
            // A change that has been pending since before the first look may be the reason why a
            // pair differs; a later one is not.
            while since.elapsed() < LONGEST {
                match self.lag().await {
                    Some(lag) if lag >= since.elapsed() => env::sleep(AGAIN).await,
                    _ => return,
                }
            }
        }
        .boxed()
    }
}
