//! One connection that many pipelines share: the first that asks opens it, the last that drops it
//! closes it.
//!
//! ```text
//!   pipeline --Arc--> connection <--Weak-- SharedConnection
//! ```
//!
//! Nothing here, and nothing in a connection, refers to a pipeline, so no connection keeps one
//! alive.

use crate::env::Instant;
use std::sync::{Arc, Weak};
use tokio::sync::Mutex;

/// See the module. `E` is the error of an attempt to open one.
pub(super) struct SharedConnection<T, E>(Mutex<Last<T, E>>);

/// The results of the last attempts.
struct Last<T, E> {
    opened: Weak<T>,
    failed: Option<(Instant, E)>,
}

impl<T, E> Default for SharedConnection<T, E> {
    fn default() -> SharedConnection<T, E> {
        SharedConnection(Mutex::new(Last { opened: Weak::new(), failed: None }))
    }
}

impl<T, E: Clone> SharedConnection<T, E> {
    /// The connection that is open and `usable`, or else a new one. One attempt runs at a time.
    /// Callers that waited for an attempt that failed get its error: otherwise a hundred pipelines
    /// would wait for a hundred timeouts, one after the other.
    pub(super) async fn get(
        &self,
        usable: impl Fn(&T) -> bool + Send,
        open: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<Arc<T>, E> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(open) = last.opened.upgrade().filter(|open| usable(open)) {
            return Ok(open);
        }
        if let Some((_, error)) = last.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(error.clone());
        }
        match open.await {
            Ok(opened) => {
                let opened = Arc::new(opened);
                *last = Last { opened: Arc::downgrade(&opened), failed: None };
                Ok(opened)
            }
            Err(error) => {
                last.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn many_share_one_and_the_last_closes_it() -> Result<(), ()> {
        let shared: SharedConnection<u8, ()> = SharedConnection::default();
        let open = || async { Ok(1) };
        let (first, second) = tokio::join!(shared.get(|_| true, open()), shared.get(|_| true, open()));
        let (first, second) = (first?, second?);
        assert!(Arc::ptr_eq(&first, &second));
        let closed = Arc::downgrade(&first);
        drop(first);
        assert!(closed.upgrade().is_some());
        drop(second);
        assert!(closed.upgrade().is_none());
        assert_eq!(*shared.get(|_| true, async { Ok(2) }).await?, 2);
        Ok(())
    }

    #[tokio::test]
    async fn one_that_is_of_no_use_any_more_is_replaced_while_others_still_hold_it() -> Result<(), ()> {
        let shared: SharedConnection<u8, ()> = SharedConnection::default();
        let old = shared.get(|_| true, async { Ok(1) }).await?;
        let new = shared.get(|open| *open != 1, async { Ok(2) }).await?;
        assert_eq!((*old, *new), (1, 2));
        Ok(())
    }

    #[tokio::test]
    async fn callers_that_waited_for_an_attempt_that_failed_get_its_error() {
        let shared: SharedConnection<u8, &str> = SharedConnection::default();
        let attempts = AtomicUsize::new(0);
        let open = || async {
            attempts.fetch_add(1, Ordering::Relaxed);
            crate::env::sleep(Duration::from_millis(20)).await;
            Err("away")
        };
        let asked = (0..100).map(|_| shared.get(|_| true, open()));
        let answers = futures::future::join_all(asked).await;
        assert!(answers.into_iter().all(|answer| answer == Err("away")));
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
        assert_eq!(shared.get(|_| true, open()).await, Err("away"));
        assert_eq!(attempts.load(Ordering::Relaxed), 2, "whoever asks later tries again");
    }
}
