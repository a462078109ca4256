//! Opening the stream of a pipeline for writing, once for each ownership.

use super::client::blocking;
use super::member::Member;
use super::opening::{scan, wire};
use super::reader::Reader;
use super::settings::Settings;
use super::stream::{KafkaStream, QUEUE_BYTES, QUEUE_UNIT};
use super::topic;
use crate::stream::StreamError;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

/// Opens the stream of a pipeline for writing, once for each ownership. Where ownership is a lease
/// in a consumer group, it stays a member of the group between attempts.
pub struct KafkaOpener {
    /// Asked for at each opening: a password among them may have changed.
    settings: Box<dyn Fn() -> Settings + Send + Sync>,
    member: tokio::sync::Mutex<Option<Member>>,
}

impl KafkaOpener {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(settings: Settings) -> KafkaOpener {
        KafkaOpener::asking(move || settings.clone())
    }

    /// As [`KafkaOpener::new`], with settings that are asked for at each opening.
    #[must_use]
    pub fn asking(settings: impl Fn() -> Settings + Send + Sync + 'static) -> KafkaOpener {
        KafkaOpener { settings: Box::new(settings), member: tokio::sync::Mutex::default() }
    }

    /// Creates the topic or checks it, and reads it to its end.
    ///
    /// # Errors
    /// [`StreamError::Refused`] for a topic that does not fit or that another pipeline writes, for
    /// credentials and rights; [`StreamError::Owned`] while another worker has the lease;
    /// [`StreamError::Unavailable`] if no broker or no schema registry answers.
    pub async fn open(&self) -> Result<KafkaStream, StreamError> {
        let mut kept = self.member.lock().await;
        let current = (self.settings)();
        let mut member = None;
        if current.lease {
            let settings = current.clone();
            let joined = match kept.take() {
                Some(joined) => joined,
                None => {
                    // The group is of the topic's subscribers: there must be one.
                    blocking(move || {
                        let mut reader = Reader::open(&settings)?;
                        topic::prepare(&settings, &mut reader)?;
                        Member::join(&settings)
                    })
                    .await?
                }
            };
            if let Err(error) = joined.wait().await {
                if !matches!(error, StreamError::Refused(_)) {
                    *kept = Some(joined);
                }
                return Err(error);
            }
            member = Some(joined);
        }
        let wire = wire(&current, true).await?;
        let core = blocking(move || scan(current, wire)).await?;
        Ok(KafkaStream {
            core,
            reading: Arc::default(),
            writing: OnceLock::new(),
            keeping: tokio::sync::OnceCell::new(),
            queue: Arc::new(Semaphore::new(QUEUE_BYTES / QUEUE_UNIT)),
            auditing: tokio::sync::Mutex::new(()),
            member,
            is_read_only: false,
        })
    }
}
