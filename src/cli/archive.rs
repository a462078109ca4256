//! Records the values that a command is about to replace on the stream: through the worker that
//! owns the stream, or directly if no worker owns it.

use crate::assembly;
use crate::change::Change;
use crate::config::Pipeline;
use crate::env::{self, Instant};
use crate::history::{Archive, HistoryError};
use crate::http::client::{self, ClientError, Target};
use crate::http::{replaced, socket_path};
use crate::stream::{Stream, StreamError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of values in one request to a worker, which takes several times more.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Pause before the next search for the owner of the stream: a worker that takes over opens its
/// socket within a second.
const AGAIN: Duration = Duration::from_millis(200);

/// Who writes the stream.
enum Writer {
    Unknown,
    Worker,
    /// This command. It does not own the pipeline.
    Command(Arc<dyn Stream>),
}

/// See the module.
pub(super) struct StreamArchive {
    pipeline: Pipeline,
    data_dir: PathBuf,
    worker: Target,
    path: String,
    patience: Duration,
    writer: tokio::sync::Mutex<Writer>,
}

impl StreamArchive {
    /// Opens nothing before the first value is to be recorded.
    pub(super) fn new(pipeline: &Pipeline, data_dir: &Path, patience: Duration) -> StreamArchive {
        StreamArchive {
            pipeline: pipeline.clone(),
            data_dir: data_dir.to_owned(),
            worker: Target::Unix(socket_path(data_dir, &pipeline.name)),
            path: format!("/keep?pipeline={}", client::encode(&pipeline.name)),
            patience,
            writer: tokio::sync::Mutex::new(Writer::Unknown),
        }
    }

    async fn record(&self, changes: Vec<Change>) -> Result<(), HistoryError> {
        let mut writer = self.writer.lock().await;
        let begun = Instant::now();
        loop {
            let trouble = match &*writer {
                Writer::Worker => match self.send(&changes).await? {
                    None => return Ok(()),
                    Some(why) => {
                        *writer = Writer::Unknown;
                        why
                    }
                },
                Writer::Command(stream) => return Ok(stream.record_replaced(changes).await.map(|_| ())?),
                Writer::Unknown => match self.send(&changes).await? {
                    None => {
                        *writer = Writer::Worker;
                        return Ok(());
                    }
                    Some(why) => match self.open(&why).await {
                        Ok(stream) => {
                            *writer = Writer::Command(stream);
                            continue;
                        }
                        Err(StreamError::Owned(who)) => {
                            format!("{who} owns the stream and does not accept values from this command")
                        }
                        Err(error) => return Err(error.into()),
                    },
                },
            };
            if begun.elapsed() >= self.patience {
                return Err(HistoryError::Failed(format!(
                    "{trouble}; a value that cannot be archived is not replaced"
                )));
            }
            env::sleep(AGAIN).await;
        }
    }

    /// Opens the stream in this process, since no worker has it open.
    async fn open(&self, why: &str) -> Result<Arc<dyn Stream>, StreamError> {
        let folder = assembly::folder(&self.data_dir, &self.pipeline.name).join("stream");
        if self.pipeline.stream.kafka.is_none() && !env::disk::is_dir(&folder) {
            tracing::warn!(
                folder = %folder.display(),
                "{why}, and there is no stream here: a new stream begins, for the values that are replaced; see --data-dir"
            );
        }
        assembly::open_to_archive(&self.pipeline, &self.data_dir).await
    }

    /// Sends the values to the worker. `Some`: no worker owns the stream, with the reason.
    async fn send(&self, changes: &[Change]) -> Result<Option<String>, HistoryError> {
        let mut rest = changes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|change| {
                let lost = change.conflict.as_ref().and_then(|conflict| conflict.value.as_ref());
                bytes += change.after.as_ref().map_or(0, Vec::len) + lost.map_or(0, Vec::len);
                bytes <= REQUEST_BYTES
            });
            let (some, others) = rest.split_at(fits.count().max(1));
            let body = replaced::pack(some).map_err(|error| HistoryError::Failed(error.to_string()))?;
            match client::send_body(&self.worker, "POST", &self.path, body).await {
                Ok((200, _)) => rest = others,
                // A standby, or a worker that is not ready: another worker may own the stream, or
                // none.
                Ok((404 | 409, why)) => return Ok(Some(String::from_utf8_lossy(&why).trim().to_owned())),
                Ok((code, why)) => {
                    let why = String::from_utf8_lossy(&why);
                    return Err(HistoryError::Failed(format!(
                        "the worker does not record the replaced value ({code}): {}",
                        why.trim()
                    )));
                }
                Err(ClientError::NoWorker(why)) => return Ok(Some(why)),
                Err(ClientError::Failed(why)) => return Err(HistoryError::Failed(why)),
            }
        }
        Ok(None)
    }
}

impl Archive for StreamArchive {
    fn record_replaced(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), HistoryError>> {
        self.record(changes).boxed()
    }
}
