//! A walk through subtrees: depth first, by batched reads bounded in number and bytes.

use super::session::Session;
use super::{Shared, explain, stat_of};
use crate::store::{StoreError, Walk, Walked};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::Arc;
use zookeeper_client::{Client, Error, MultiReadResult};

/// Requests of [`Shared::reads_per_request`] znodes each that are under way together.
const REQUESTS: usize = 8;

/// See [`Walk`].
pub(super) struct Subtrees {
    shared: Arc<Shared>,
    client: Option<Arc<Session>>,
    /// The roots, until they are read: a pattern without wildcards names the znode itself.
    roots: Vec<String>,
    /// Znodes whose children are still to be listed.
    parents: Vec<String>,
    /// The parent whose children are being read, and the names of those still to be read.
    parent: String,
    names: Vec<String>,
    denied: Vec<(String, String)>,
}

impl Subtrees {
    pub(super) fn new(shared: Arc<Shared>, roots: Vec<String>) -> Subtrees {
        let (parents, names, denied) = (Vec::new(), Vec::new(), Vec::new());
        Subtrees { shared, client: None, roots, parents, parent: String::new(), names, denied }
    }

    async fn step(&mut self) -> Result<Option<Walked>, StoreError> {
        let client = match &self.client {
            Some(client) => Arc::clone(client),
            None => {
                let client = self.shared.control()?;
                client.sync("/").await.map_err(|error| explain(&self.shared, &error))?;
                self.client = Some(Arc::clone(&client));
                client
            }
        };
        if !self.roots.is_empty() {
            let roots = std::mem::take(&mut self.roots);
            return self.read(&client, roots, 1).await.map(Some);
        }
        while self.names.is_empty() {
            let Some(parent) = self.parents.pop() else { return Ok(None) };
            self.names = match client.list_children(&parent).await {
                Ok(names) => names,
                Err(Error::NoNode) => Vec::new(),
                Err(Error::NoAuth) => {
                    let reason = format!("{}: the session may not list the children", self.shared.place());
                    self.denied.push((parent.clone(), reason));
                    Vec::new()
                }
                Err(error) => return Err(explain(&self.shared, &error)),
            };
            self.parent = if parent == "/" { String::new() } else { parent };
        }
        let per_request = self.shared.reads_per_request();
        let requests = if per_request < 16 { 1 } else { REQUESTS };
        let first = self.names.len().saturating_sub(per_request * requests);
        let paths: Vec<String> = self
            .names
            .drain(first..)
            .map(|name| format!("{}/{name}", self.parent))
            .filter(|path| path != "/zookeeper" && path != "/_keepstep")
            .collect();
        if self.names.is_empty() {
            self.names.shrink_to_fit();
        }
        self.read(&client, paths, per_request).await.map(Some)
    }

    async fn read(&mut self, client: &Client, paths: Vec<String>, per_request: usize) -> Result<Walked, StoreError> {
        let requests = paths.chunks(per_request.max(1)).map(|chunk| self.shared.multi_read(client, chunk));
        let answers = futures::future::try_join_all(requests).await?;
        let mut walked = Vec::with_capacity(paths.len());
        for (path, answer) in paths.into_iter().zip(answers.into_iter().flatten()) {
            match answer {
                MultiReadResult::Data { data, stat } => {
                    if stat.num_children > 0 {
                        self.parents.push(path.clone());
                    }
                    walked.push((path, data, stat_of(&stat)));
                }
                MultiReadResult::Error { err: Error::NoAuth } => {
                    let reason = format!("{}: the session may not read it", self.shared.place());
                    self.denied.push((path, reason));
                }
                // Gone since it was listed: its event has told.
                MultiReadResult::Error { .. } => {}
                _ => {}
            }
        }
        Ok(walked)
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
