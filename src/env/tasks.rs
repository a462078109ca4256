//! What runs beside what: tasks, work that blocks, threads.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "here tasks are begun, and nowhere else")]

use super::disk;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use thiserror::Error;
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};

/// A task did not end by itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failed {
    /// It panicked; with what it said, where that is text.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// It was cut off.
    #[error("it was cut off")]
    CutOff,
}

impl From<JoinError> for Failed {
    fn from(error: JoinError) -> Failed {
        match error.try_into_panic() {
            Ok(said) => {
                let text = said.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| said.downcast_ref::<String>().cloned());
                Failed::Panicked(text.unwrap_or_else(|| "no text".to_owned()))
            }
            Err(_) => Failed::CutOff,
        }
    }
}

/// A task that goes on when this is dropped.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<T>);

impl<T> Task<T> {
    /// Cuts it off where it next waits.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Failed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, Failed>> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).map_err(Failed::from))
    }
}

/// Begins a task.
pub fn spawn<F>(work: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task(tokio::spawn(work))
}

/// Tasks that end with this.
#[derive(Debug)]
pub struct Tasks<T>(JoinSet<T>);

impl<T> Default for Tasks<T> {
    fn default() -> Tasks<T> {
        Tasks(JoinSet::new())
    }
}

impl<T: Send + 'static> Tasks<T> {
    /// Begins one.
    pub fn spawn(&mut self, work: impl Future<Output = T> + Send + 'static) -> Abort {
        Abort(self.0.spawn(work))
    }

    /// Waits for one to end; nothing if there is none. May be dropped at any time: none is lost.
    pub async fn join_next(&mut self) -> Option<Result<T, Failed>> {
        Some(self.0.join_next().await?.map_err(Failed::from))
    }

    /// One that has ended, if any has.
    pub fn try_join_next(&mut self) -> Option<Result<T, Failed>> {
        Some(self.0.try_join_next()?.map_err(Failed::from))
    }

    /// How many have not been told to have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cuts all of them off, and waits until none runs.
    pub async fn shutdown(&mut self) {
        self.0.shutdown().await;
    }
}

/// Cuts one task off.
#[derive(Debug)]
pub struct Abort(AbortHandle);

impl Abort {
    /// Where it next waits.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Runs what blocks, as a file system does, on a thread of its own, or here where no runtime is. It goes on when this is dropped.
///
/// # Errors
/// It panicked, or the program ends.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            let disk = disk::installed();
            let work = move || {
                let _disk = disk.map(disk::install);
                work()
            };
            Ok(runtime.spawn_blocking(work).await?)
        }
        Err(_) => Ok(work()),
    }
}

/// Begins a thread.
///
/// # Errors
/// The system has none left.
pub fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

#[cfg(test)]
#[expect(clippy::panic, reason = "that is what is tested")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn how_a_task_ended_is_told() {
        let mut tasks = Tasks::default();
        let _ = tasks.spawn(async { 1 });
        assert_eq!(tasks.join_next().await, Some(Ok(1)));
        let _ = tasks.spawn(async { panic!("no {}", "way") });
        assert_eq!(tasks.join_next().await, Some(Err(Failed::Panicked("no way".to_owned()))));
        tasks.spawn(std::future::pending()).abort();
        assert_eq!(tasks.join_next().await, Some(Err(Failed::CutOff)));
        assert_eq!(tasks.join_next().await, None);
        assert_eq!(blocking(|| 2).await, Ok(2));
        assert_eq!(spawn(async { 3 }).await, Ok(3));
    }
}
