//! Where a command puts the values that it is about to replace: on the stream, through the worker that owns it, or by
//! itself where no worker does.

use super::exit::Failure;
use crate::assembly;
use crate::change::Change;
use crate::config::Pipeline;
use crate::env::{self, Instant};
use crate::history::{HistoryError, Keeper};
use crate::http::client::{self, ClientError, Target};
use crate::http::{keep, socket_path};
use crate::stream::{Stream, StreamError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of values in one request to a worker; it takes some times more.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Pause before the stream's owner is looked for again: a worker that takes over opens its socket within a second.
const AGAIN: Duration = Duration::from_millis(200);

/// Who writes the stream.
enum Way {
    Unknown,
    Worker,
    /// This command, which owns nothing.
    Own(Arc<dyn Stream>),
}

/// See the module.
pub(super) struct StreamKeeper {
    pipeline: Pipeline,
    data_dir: PathBuf,
    worker: Target,
    path: String,
    patience: Duration,
    way: tokio::sync::Mutex<Way>,
}

impl StreamKeeper {
    /// Nothing is opened before the first value is to be kept.
    pub(super) fn new(pipeline: &Pipeline, data_dir: &Path, patience: Duration) -> StreamKeeper {
        StreamKeeper {
            pipeline: pipeline.clone(),
            data_dir: data_dir.to_owned(),
            worker: Target::Unix(socket_path(data_dir, &pipeline.name)),
            path: format!("/keep?pipeline={}", client::encode(&pipeline.name)),
            patience,
            way: tokio::sync::Mutex::new(Way::Unknown),
        }
    }

    async fn put(&self, changes: Vec<Change>) -> Result<(), HistoryError> {
        let mut way = self.way.lock().await;
        let begun = Instant::now();
        loop {
            let trouble = match &*way {
                Way::Worker => match self.tell(&changes).await? {
                    None => return Ok(()),
                    Some(why) => {
                        *way = Way::Unknown;
                        why
                    }
                },
                Way::Own(stream) => return Ok(stream.keep(changes).await.map(|_| ())?),
                Way::Unknown => match self.tell(&changes).await? {
                    None => {
                        *way = Way::Worker;
                        return Ok(());
                    }
                    Some(why) => match self.open(&why).await {
                        Ok(stream) => {
                            *way = Way::Own(stream);
                            continue;
                        }
                        Err(StreamError::Owned(who)) => format!("{who} writes the stream, and does not take values"),
                        Err(error) => return Err(error.into()),
                    },
                },
            };
            if begun.elapsed() >= self.patience {
                return Err(HistoryError::Failed(format!("{trouble}; nothing is replaced that cannot be kept")));
            }
            env::sleep(AGAIN).await;
        }
    }

    /// Opens the stream for ourselves, since no worker does.
    async fn open(&self, why: &str) -> Result<Arc<dyn Stream>, StreamError> {
        let folder = assembly::folder(&self.data_dir, &self.pipeline.name).join("stream");
        if self.pipeline.stream.kafka.is_none() && !env::disk::is_dir(&folder) {
            tracing::warn!(
                folder = %folder.display(),
                "{why}, and there is no stream here: a new one begins, for what is replaced; see --data-dir"
            );
        }
        assembly::open_to_keep(&self.pipeline, &self.data_dir).await
    }

    /// Hands the values to the worker; `Some` says why there is none that owns the stream.
    async fn tell(&self, changes: &[Change]) -> Result<Option<String>, HistoryError> {
        let mut rest = changes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|change| {
                let lost = change.conflict.as_ref().and_then(|conflict| conflict.value.as_ref());
                bytes += change.after.as_ref().map_or(0, Vec::len) + lost.map_or(0, Vec::len);
                bytes <= REQUEST_BYTES
            });
            let (some, others) = rest.split_at(fits.count().max(1));
            let body = keep::pack(some).map_err(|error| HistoryError::Failed(error.to_string()))?;
            match client::send_body(&self.worker, "POST", &self.path, body).await {
                Ok((200, _)) => rest = others,
                // A standby, or one that is not ready: somebody else may own the stream, or nobody.
                Ok((404 | 409, why)) => return Ok(Some(String::from_utf8_lossy(&why).trim().to_owned())),
                Ok((code, why)) => {
                    let why = String::from_utf8_lossy(&why);
                    return Err(HistoryError::Failed(format!("the worker keeps no value ({code}): {}", why.trim())));
                }
                Err(ClientError::NoWorker(why)) => return Ok(Some(why)),
                Err(ClientError::Failed(why)) => return Err(HistoryError::Failed(why)),
            }
        }
        Ok(None)
    }
}

impl Keeper for StreamKeeper {
    fn keep(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), HistoryError>> {
        self.put(changes).boxed()
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Failure {
        match error {
            HistoryError::Away(text) => Failure::Unreachable(text),
            HistoryError::Failed(text) => Failure::Failed(text),
        }
    }
}
