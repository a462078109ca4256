//! A connection that says when it last moved, and that does not wait for ever for a client that reads nothing.

use crate::env::{self, Instant};
use futures::future::BoxFuture;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When a connection last moved.
#[derive(Debug)]
pub(super) struct Moved {
    opened: Instant,
    /// Milliseconds after that.
    after: AtomicU64,
}

impl Moved {
    pub(super) fn now() -> Arc<Moved> {
        Arc::new(Moved { opened: Instant::now(), after: AtomicU64::new(0) })
    }

    fn note(&self) {
        let after = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after.store(after, Ordering::Relaxed);
    }

    pub(super) fn at(&self) -> Instant {
        self.opened + Duration::from_millis(self.after.load(Ordering::Relaxed))
    }
}

/// See the module.
pub(super) struct Patient<S> {
    stream: S,
    moved: Arc<Moved>,
    limit: Duration,
    /// Runs while the client takes nothing of what is written.
    waits: Option<BoxFuture<'static, ()>>,
}

impl<S> Patient<S> {
    /// A client that takes nothing for so long has its connection ended.
    pub(super) fn new(stream: S, moved: Arc<Moved>, limit: Duration) -> Patient<S> {
        Patient { stream, moved, limit, waits: None }
    }

    /// What a write came to, once the client's patience with us is taken into account.
    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            self.moved.note();
            return written;
        }
        let limit = self.limit;
        let waits = self.waits.get_or_insert_with(|| Box::pin(env::sleep(limit)));
        match waits.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.moved.note();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
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
    async fn a_client_that_reads_nothing_is_not_waited_for() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut ours = Patient::new(ours, Moved::now(), Duration::from_millis(20));
        let error = ours.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_moves_is_noted() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let moved = Moved::now();
        let before = moved.at();
        env::sleep(Duration::from_millis(5)).await;
        Patient::new(ours, Arc::clone(&moved), Duration::from_secs(1)).write_all(b"a").await.unwrap();
        assert!(moved.at() > before);
    }
}
