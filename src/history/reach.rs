//! Waiting for a store until a deadline, and why a command could not start. What a store's error
//! means for a command is decided here and in `scope.rs`.

use crate::env::{self, Instant};
use crate::pipeline::retry::Pauses;
use crate::store::{FailureKind, StoreError};
use futures::future::BoxFuture;
use std::time::Duration;

/// Why a worker, or a command, did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Waiting does not help: another configuration is needed. Exit 1.
    #[error("{0}")]
    Refused(String),
    /// A store was not reachable in time. Exit 75.
    #[error("{0}")]
    Unreachable(String),
    /// A store answered and could not do its work in time, or was not asked before the deadline.
    /// Exit 1.
    #[error("{0}")]
    Stuck(String),
}

/// Until when a command waits for its stores.
pub(super) struct Deadline {
    timeout: Duration,
    at: Instant,
}

impl Deadline {
    pub(super) fn new(timeout: Duration) -> Deadline {
        Deadline { timeout, at: Instant::now() + timeout }
    }

    /// Tries until `attempt` succeeds. An error names the store by its label and gives the reason
    /// of the last attempt.
    ///
    /// # Errors
    /// [`StartError::Refused`] at once; the other kinds at the deadline.
    pub(super) async fn reach<'a, T>(
        &self,
        label: &str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StartError> {
        let seconds = self.timeout.as_secs_f64();
        if Instant::now() >= self.at {
            // The store was not asked, so it must not be reported as away.
            let why = format!(
                "{label} was not looked at: the timeout of {seconds} s was over before; raise it with --timeout"
            );
            return Err(StartError::Stuck(why));
        }
        let mut pauses = Pauses::default();
        let mut last = StoreError::away(FailureKind::Connection, format!("{label}: no answer"));
        let attempts = async {
            loop {
                match attempt().await {
                    Ok(answer) => return Ok(answer),
                    Err(StoreError::Refused(why)) => return Err(StartError::Refused(why.into_text())),
                    // `Fenced` too: a command owns nothing, and a session that has ended is
                    // replaced.
                    Err(error) => last = error,
                }
                env::sleep(pauses.pause()).await;
            }
        };
        if let Ok(reached) = env::timeout_at(self.at, attempts).await {
            return reached;
        }
        let why = format!("{last}; not reachable within {seconds} s (--timeout)");
        Err(match last {
            StoreError::Away(_) | StoreError::Fenced(_) => StartError::Unreachable(why),
            StoreError::NotNow(_) | StoreError::Refused(_) => StartError::Stuck(why),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_store_that_was_never_asked_is_not_reported_as_away() {
        let deadline = Deadline::new(Duration::ZERO);
        let reached = deadline.reach("zookeeper zk (h:1)", || async { Ok::<(), StoreError>(()) }.boxed()).await;
        assert!(
            matches!(&reached, Err(StartError::Stuck(why)) if why.contains("was not looked at") && !why.contains("no answer")),
            "{reached:?}"
        );
    }

    #[tokio::test]
    async fn a_store_that_hangs_is_named_as_away() {
        let deadline = Deadline::new(Duration::from_millis(20));
        let reached = deadline.reach("redis cache (h:1)", || std::future::pending::<Result<(), StoreError>>().boxed());
        let error = reached.await;
        assert!(matches!(&error, Err(StartError::Unreachable(why)) if why.contains("redis cache")), "{error:?}");
    }
}
