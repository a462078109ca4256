//! Timeouts of connections: when a connection was last active, and an end for a client that does
//! not read its answer.

use crate::env::{self, Instant};
use futures::future::BoxFuture;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When a connection was last active.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// Milliseconds between the opening and the last activity.
    after: AtomicU64,
}

impl Activity {
    pub(super) fn now() -> Arc<Activity> {
        Arc::new(Activity { opened: Instant::now(), after: AtomicU64::new(0) })
    }

    fn note(&self) {
        let after = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after.store(after, Ordering::Relaxed);
    }

    pub(super) fn at(&self) -> Instant {
        self.opened + Duration::from_millis(self.after.load(Ordering::Relaxed))
    }
}

/// A connection with a limit on how long a write may stall.
pub(super) struct WriteTimeout<S> {
    stream: S,
    activity: Arc<Activity>,
    limit: Duration,
    /// Runs while the client reads nothing.
    stalled: Option<BoxFuture<'static, ()>>,
}

impl<S> WriteTimeout<S> {
    /// The connection of a client that reads nothing for this time is closed.
    pub(super) fn new(stream: S, activity: Arc<Activity>, limit: Duration) -> WriteTimeout<S> {
        WriteTimeout { stream, activity, limit, stalled: None }
    }

    /// The result of a write, or an error once it has stalled for too long.
    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            self.activity.note();
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(env::sleep(limit)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.activity.note();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, ended)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_cut_off() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut ours = WriteTimeout::new(ours, Activity::now(), Duration::from_millis(20));
        let error = ours.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn activity_is_noted() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let activity = Activity::now();
        let before = activity.at();
        env::sleep(Duration::from_millis(5)).await;
        WriteTimeout::new(ours, Arc::clone(&activity), Duration::from_secs(1)).write_all(b"a").await.unwrap();
        assert!(activity.at() > before);
    }
}
