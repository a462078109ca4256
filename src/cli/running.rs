//! The pipelines of this process while they run.

use super::exit::{Exit, Failure};
use crate::env::{self, Tasks};
use crate::pipeline::control::Handle;
use crate::pipeline::{Ended, Pipeline};
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub(super) struct Running {
    pipelines: Vec<Arc<Pipeline>>,
    tasks: Tasks<Ended>,
    differs: bool,
}

impl Running {
    /// Starts the pipelines. `patience`: with `--once`, how long nothing may move.
    pub(super) fn start(pipelines: Vec<Arc<Pipeline>>, patience: Duration) -> Running {
        let mut tasks = Tasks::default();
        for pipeline in &pipelines {
            let pipeline = Arc::clone(pipeline);
            tasks.spawn(async move { pipeline.run(patience).await });
        }
        Running { pipelines, tasks, differs: false }
    }

    /// One handle for each pipeline, in the order of the files.
    pub(super) fn handles(&self) -> Vec<Arc<dyn Handle>> {
        self.pipelines.iter().map(|pipeline| Arc::clone(pipeline) as Arc<dyn Handle>).collect()
    }

    /// Resolves when the last pipeline of `--once` is done, or when the start of one was refused.
    /// Cancel-safe.
    pub(super) async fn finished(&mut self) -> Result<Exit, Failure> {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ended::Done(differs)) => self.differs |= differs,
                Ok(Ended::Refused(why) | Ended::Stuck(why)) => return Err(Failure::Failed(why)),
                Ok(Ended::Unreachable(why)) => return Err(Failure::Unreachable(why)),
                Ok(Ended::Stopped | Ended::HandedOver(_)) => {}
                Err(error) => return Err(Failure::Failed(format!("a pipeline ended unexpectedly: {error}"))),
            }
        }
        Ok(if self.differs { Exit::Differs } else { Exit::Done })
    }

    /// Stops every pipeline. Changes in flight have the time `drain` to finish.
    pub(super) async fn shut_down(mut self, drain: Duration) {
        for pipeline in &self.pipelines {
            pipeline.stop();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = env::timeout(drain, all).await;
    }
}
