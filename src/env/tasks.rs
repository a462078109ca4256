//! What runs beside what: tasks, work that blocks, threads.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "here tasks are begun, and nowhere else")]

use super::disk;
use super::world::{self, Running, World};
use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use std::any::Any;
use std::fmt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use thiserror::Error;
use tokio::sync::oneshot;
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
            Ok(said) => Failed::of_panic(said.as_ref()),
            Err(_) => Failed::CutOff,
        }
    }
}

impl Failed {
    fn of_panic(said: &(dyn Any + Send)) -> Failed {
        let text = said.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| said.downcast_ref::<String>().cloned());
        Failed::Panicked(text.unwrap_or_else(|| "no text".to_owned()))
    }
}

/// A task that goes on when this is dropped.
pub struct Task<T>(Of<T>);

enum Of<T> {
    Machine(JoinHandle<T>),
    World { running: Arc<dyn Running>, ended: oneshot::Receiver<Result<T, Failed>> },
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Task").field("is_finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl<T> Task<T> {
    /// Cuts it off where it next waits.
    pub fn abort(&self) {
        match &self.0 {
            Of::Machine(task) => task.abort(),
            Of::World { running, .. } => running.abort(),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Of::Machine(task) => task.is_finished(),
            Of::World { running, .. } => running.has_ended(),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Failed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, Failed>> {
        match &mut self.0 {
            Of::Machine(task) => Poll::Ready(ready!(Pin::new(task).poll(context)).map_err(Failed::from)),
            Of::World { ended, .. } => {
                Poll::Ready(ready!(Pin::new(ended).poll(context)).unwrap_or(Err(Failed::CutOff)))
            }
        }
    }
}

/// Begins a task.
pub fn spawn<F>(work: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task(match world::here() {
        Some(world) => spawn_in(&world, work),
        None => Of::Machine(tokio::spawn(work)),
    })
}

fn spawn_in<F>(world: &Arc<dyn World>, work: F) -> Of<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (end, ended) = oneshot::channel();
    let told = Arc::clone(world);
    let running = world.spawn(Box::pin(async move {
        let result = AssertUnwindSafe(work).catch_unwind().await.map_err(|said| {
            let failed = Failed::of_panic(said.as_ref());
            told.panicked(&failed.to_string());
            failed
        });
        // Whoever began it may have gone.
        let _ = end.send(result);
    }));
    Of::World { running, ended }
}

/// Tasks that end with this.
#[derive(Debug)]
pub struct Tasks<T>(All<T>);

#[derive(Debug)]
enum All<T> {
    Machine(JoinSet<T>),
    World(FuturesUnordered<Task<T>>),
}

impl<T> Default for Tasks<T> {
    fn default() -> Tasks<T> {
        Tasks(if world::here().is_some() { All::World(FuturesUnordered::new()) } else { All::Machine(JoinSet::new()) })
    }
}

impl<T> Drop for All<T> {
    fn drop(&mut self) {
        match self {
            // It does so itself.
            All::Machine(_) => {}
            All::World(tasks) => tasks.iter().for_each(Task::abort),
        }
    }
}

impl<T: Send + 'static> Tasks<T> {
    /// Begins one.
    pub fn spawn(&mut self, work: impl Future<Output = T> + Send + 'static) -> Abort {
        match &mut self.0 {
            All::Machine(tasks) => Abort(Aborted::Machine(tasks.spawn(work))),
            All::World(tasks) => {
                let task = spawn(work);
                let abort = match &task.0 {
                    Of::World { running, .. } => Aborted::World(Arc::clone(running)),
                    Of::Machine(task) => Aborted::Machine(task.abort_handle()),
                };
                tasks.push(task);
                Abort(abort)
            }
        }
    }

    /// Waits for one to end; nothing if there is none. May be dropped at any time: none is lost.
    pub async fn join_next(&mut self) -> Option<Result<T, Failed>> {
        match &mut self.0 {
            All::Machine(tasks) => Some(tasks.join_next().await?.map_err(Failed::from)),
            All::World(tasks) => tasks.next().await,
        }
    }

    /// One that has ended, if any has.
    pub fn try_join_next(&mut self) -> Option<Result<T, Failed>> {
        match &mut self.0 {
            All::Machine(tasks) => Some(tasks.try_join_next()?.map_err(Failed::from)),
            All::World(tasks) => tasks.next().now_or_never().flatten(),
        }
    }

    /// How many have not been told to have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            All::Machine(tasks) => tasks.len(),
            All::World(tasks) => tasks.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts all of them off, and waits until none runs.
    pub async fn shutdown(&mut self) {
        match &mut self.0 {
            All::Machine(tasks) => tasks.shutdown().await,
            All::World(tasks) => {
                tasks.iter().for_each(Task::abort);
                while tasks.next().await.is_some() {}
            }
        }
    }
}

/// Cuts one task off.
pub struct Abort(Aborted);

enum Aborted {
    Machine(AbortHandle),
    World(Arc<dyn Running>),
}

impl Abort {
    /// Where it next waits.
    pub fn abort(&self) {
        match &self.0 {
            Aborted::Machine(task) => task.abort(),
            Aborted::World(running) => running.abort(),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Aborted::Machine(task) => task.is_finished(),
            Aborted::World(running) => running.has_ended(),
        }
    }
}

/// Runs what blocks, as a file system does, on a thread of its own, or here where no runtime is. It goes on when this is dropped.
///
/// # Errors
/// It panicked, or the program ends.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    if let Some(world) = world::here() {
        let turn = world.turn_of_a_thread();
        return spawn(async move {
            turn.await;
            work()
        })
        .await;
    }
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
