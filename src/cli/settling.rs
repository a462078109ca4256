//! What a command that compares knows of changes under way: what the pipeline's worker says of itself.

use crate::env::{self, Instant};
use crate::history::Settling;
use crate::http::client::{self, Target};
use crate::http::socket_path;
use crate::pipeline::control::PipelineStatus;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// The least time between two looks: without a worker to ask, changes that another one carries over land within it.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a worker that is behind is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long one that stays behind is waited for: then its pairs differ, and may be told so.
const BEHIND: Duration = Duration::from_secs(30);

/// Asks the worker of a pipeline, if one answers on its socket.
pub(super) struct WorkerSettling {
    target: Target,
    pipeline: String,
}

impl WorkerSettling {
    pub(super) fn new(data_dir: &Path, pipeline: &str) -> WorkerSettling {
        WorkerSettling { target: Target::Unix(socket_path(data_dir, pipeline)), pipeline: pipeline.to_owned() }
    }

    /// Age of the oldest change that is not yet carried over; `None` if nobody knows.
    async fn lag(&self) -> Option<Duration> {
        let (code, body) = client::request(&self.target, "GET", "/status").await.ok()?;
        let answer: Value = serde_json::from_slice(&body).ok().filter(|_| code == 200)?;
        let rows = answer.get("pipelines")?.as_array()?;
        let statuses = rows.iter().filter_map(|row| serde_json::from_value::<PipelineStatus>(row.clone()).ok());
        let routes = statuses.filter(|status| status.pipeline == self.pipeline).flat_map(|status| status.routes);
        // What a paused route holds back is not under way.
        let live = routes.filter(|route| route.state == crate::pipeline::control::RouteState::Live);
        Some(Duration::from_secs_f64(live.map(|route| route.lag_seconds).fold(0.0, f64::max)))
    }
}

impl Settling for WorkerSettling {
    fn settled(&self, since: Instant) -> BoxFuture<'_, ()> {
        async move {
            env::sleep(PAUSE.saturating_sub(since.elapsed())).await;
            // What waits since before the first look may be why a pair differs; what came after is another change.
            while since.elapsed() < BEHIND {
                match self.lag().await {
                    Some(lag) if lag >= since.elapsed() => env::sleep(AGAIN).await,
                    _ => return,
                }
            }
        }
        .boxed()
    }
}
