//! A walk through subtrees: depth first, by batched reads bounded in number and bytes.

use super::fault::explain;
use super::read::Read;
use super::session::{Error, MultiReadResult, Session};
use super::sessions::OpenSession;
use super::shared::{Shared, stat_of};
use crate::env;
use crate::store::{FailureKind, StoreError, Walk, Walked};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;

/// Requests of [`Shared::reads_per_request`] znodes each that are under way together.
const REQUESTS: usize = 8;

/// Bytes of the paths of one step.
const PATHS_BYTES: usize = 4 << 20;

/// Steps that are under way beside the one that is looked at: the server is never without work, and
/// what is held stays within three steps.
const AHEAD: usize = 2;

/// See [`Walk`].
pub(super) struct Subtrees {
    shared: Arc<Shared>,
    session: Option<Arc<OpenSession>>,
    /// The roots, until they are read: a pattern without wildcards names the znode itself.
    roots: Vec<String>,
    /// Znodes whose children are still to be listed.
    parents: Vec<String>,
    /// The parent whose children are being read, and the names of those still to be read.
    parent: String,
    names: Vec<String>,
    denied: Vec<(String, String)>,
    /// Steps that are read before they are asked for.
    ahead: usize,
    /// The steps that are under way, the oldest first.
    under_way: VecDeque<BoxFuture<'static, Result<Answers, StoreError>>>,
}

/// Paths and what was read of them.
type Answers = Vec<(String, Read)>;

impl Subtrees {
    /// With `reads_ahead` a step may have been read before it was asked for.
    pub(super) fn new(shared: Arc<Shared>, roots: Vec<String>, reads_ahead: bool) -> Subtrees {
        let (parents, names, denied, under_way) = (Vec::new(), Vec::new(), Vec::new(), VecDeque::new());
        let ahead = if reads_ahead { AHEAD } else { 0 };
        Subtrees { shared, session: None, roots, parents, parent: String::new(), names, denied, ahead, under_way }
    }

    async fn step(&mut self) -> Result<Option<Walked>, StoreError> {
        let session = match &self.session {
            Some(session) => Arc::clone(session),
            None => {
                let session = self.shared.control()?;
                session.sync().await.map_err(|error| explain(&self.shared.place, &error))?;
                self.session = Some(Arc::clone(&session));
                session
            }
        };
        if !self.roots.is_empty() {
            let roots = std::mem::take(&mut self.roots);
            let answers = read(&self.shared, session.handle(), roots, 1).await?;
            return Ok(Some(self.keep(answers)));
        }
        // While an answer is looked at, the next ones are on their way.
        while self.under_way.len() <= self.ahead {
            let Some(paths) = self.next_paths(session.handle()).await? else { break };
            let (shared, session) = (Arc::clone(&self.shared), Arc::clone(&session));
            let per_request = shared.reads_per_request();
            let read = async move { read(&shared, session.handle(), paths, per_request).await };
            self.under_way.push_back(if self.ahead == 0 { read.boxed() } else { spawned(read).boxed() });
        }
        match self.under_way.pop_front() {
            Some(read) => read.await.map(|answers| Some(self.keep(answers))),
            None => Ok(None),
        }
    }

    /// The paths to be read next; `None` while nothing is known that is not read or under way.
    async fn next_paths(&mut self, session: &dyn Session) -> Result<Option<Vec<String>>, StoreError> {
        while self.names.is_empty() {
            let Some(parent) = self.parents.pop() else { return Ok(None) };
            self.names = match session.children(&parent).await {
                Ok(names) => names,
                Err(Error::NoNode) => Vec::new(),
                Err(Error::NoAuth) => {
                    let reason = format!("{}: the session may not list the children", self.shared.place);
                    self.denied.push((parent.clone(), reason));
                    Vec::new()
                }
                Err(error) => return Err(explain(&self.shared.place, &error)),
            };
            self.parent = if parent == "/" { String::new() } else { parent };
        }
        let per_request = self.shared.reads_per_request();
        let requests = if per_request < 16 { 1 } else { REQUESTS };
        let mut bytes = 0;
        let some = self.names.iter().rev().take(per_request * requests).take_while(|name| {
            bytes += self.parent.len() + 1 + name.len();
            bytes <= PATHS_BYTES
        });
        let first = self.names.len().saturating_sub(some.count().max(1));
        let paths = self
            .names
            .drain(first..)
            .map(|name| format!("{}/{name}", self.parent))
            .filter(|path| path != "/zookeeper" && !path.ends_with("/_keepstep"))
            .collect();
        if self.names.is_empty() {
            self.names.shrink_to_fit();
        }
        Ok(Some(paths))
    }

    fn keep(&mut self, answers: Answers) -> Walked {
        let mut walked = Vec::with_capacity(answers.len());
        for (path, answer) in answers {
            match answer {
                Ok(MultiReadResult::Data { data, stat }) => {
                    if stat.num_children > 0 {
                        self.parents.push(path.clone());
                    }
                    walked.push((path, data, stat_of(&stat)));
                }
                Ok(MultiReadResult::Error { err: Error::NoAuth }) => {
                    let reason = format!("{}: the session may not read it", self.shared.place);
                    self.denied.push((path, reason));
                }
                Err(why) => self.denied.push((path, format!("{}: {why}", self.shared.place))),
                // Gone since it was listed, which an event has reported.
                Ok(_) => {}
            }
        }
        walked
    }
}

async fn read(
    shared: &Shared,
    session: &dyn Session,
    paths: Vec<String>,
    per_request: usize,
) -> Result<Answers, StoreError> {
    let requests = shared.requests(&paths, per_request);
    let requests = requests.into_iter().map(|chunk| shared.multi_read(session, chunk));
    let answers = futures::future::try_join_all(requests).await?;
    Ok(paths.into_iter().zip(answers.into_iter().flatten()).collect())
}

/// Goes on whether anybody waits for it or not.
fn spawned(
    read: impl Future<Output = Result<Answers, StoreError>> + Send + 'static,
) -> impl Future<Output = Result<Answers, StoreError>> + Send + 'static {
    let task = env::spawn(read);
    async move {
        task.await
            .unwrap_or_else(|error| Err(StoreError::away(FailureKind::Worker, format!("a read ended early: {error}"))))
    }
}

impl Walk for Subtrees {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Walked>, StoreError>> {
        self.step().boxed()
    }

    fn denied(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.denied)
    }
}
