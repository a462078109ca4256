//! The end of an ownership, once something asks for it: no further round begins, and its driver learns why.

use crate::env::lock;
use crate::store::StoreError;
use std::sync::Mutex;
use tokio::sync::Notify;

/// See the module. The first reason counts.
#[derive(Debug, Default)]
pub(super) struct Halt {
    reason: Mutex<Option<StoreError>>,
    news: Notify,
}

impl Halt {
    /// Ends the ownership.
    pub(super) fn halt(&self, error: StoreError) {
        lock(&self.reason).get_or_insert(error);
        self.news.notify_waiters();
        self.news.notify_one();
    }

    /// Whether the ownership must end.
    pub(super) fn has_halted(&self) -> bool {
        lock(&self.reason).is_some()
    }

    /// Resolves when the ownership must end. Cancel-safe.
    pub(super) async fn halted(&self) -> StoreError {
        loop {
            // Before the look: a halt in between wakes everybody who waits.
            let news = self.news.notified();
            if let Some(error) = lock(&self.reason).clone() {
                return error;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FailureKind;

    #[tokio::test]
    async fn the_first_reason_counts_and_is_told_to_whoever_asks_later() {
        let halt = Halt::default();
        assert!(!halt.has_halted());
        halt.halt(StoreError::fenced(FailureKind::Owner, "another owner"));
        halt.halt(StoreError::away(FailureKind::Worker, "the stream was lost"));
        assert!(halt.has_halted());
        assert_eq!(halt.halted().await, StoreError::fenced(FailureKind::Owner, "another owner"));
        assert_eq!(halt.halted().await, StoreError::fenced(FailureKind::Owner, "another owner"), "and to the next one");
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let halt = Halt::default();
        let later = async {
            tokio::task::yield_now().await;
            halt.halt(StoreError::away(FailureKind::Worker, "now"));
        };
        let (one, other, ()) = futures::join!(halt.halted(), halt.halted(), later);
        assert_eq!((one.to_string(), other.to_string()), ("now".to_owned(), "now".to_owned()));
    }
}
