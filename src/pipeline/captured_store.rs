//! Which store a capture records. There is no second store to remember it (`store/ties.rs`), so the data folder does, beside the
//! stream.

use super::owner::Pipeline;
use crate::store::{Keyspace, Known, StoreError, Ties, Znodes, difference, random_identity};
use std::path::{Path, PathBuf};

/// Name of the file in the folder of a pipeline.
const FILE: &str = "store.json";

/// The store of a capture.
pub enum Captured<'a> {
    /// An ensemble.
    Znodes(&'a dyn Znodes),
    /// A Redis.
    Keys(&'a dyn Keyspace),
}

impl Captured<'_> {
    async fn ties(&self) -> Result<Ties, StoreError> {
        // What another pipeline of this name has joined it to is nothing to a capture.
        let ties = match self {
            Captured::Znodes(znodes) => znodes.ties().await,
            Captured::Keys(keys) => keys.ties().await,
        };
        ties.map(|ties| Ties { other: None, ..ties })
    }

    async fn identify(&self, identity: String) -> Result<String, StoreError> {
        match self {
            Captured::Znodes(znodes) => znodes.identify(identity).await,
            Captured::Keys(keys) => keys.identify(identity).await,
        }
    }

    /// What the store says of itself; an error if the folder remembers another one.
    async fn look(&self, pipeline: &str, file: &Path) -> Result<(Ties, Option<Known>), StoreError> {
        let ties = self.ties().await?;
        let away = |error| StoreError::Away(format!("{}: {error}", file.display()));
        let kept = crate::env::disk::read_if_any(file).map_err(away)?;
        // What cannot be read is nothing that could be held against anybody.
        let known: Option<Known> = serde_json::from_slice(&kept).ok();
        let folder = Ties {
            own: Known { identity: String::new(), address: String::new(), part: String::new(), life: String::new() },
            place: file.display().to_string(),
            other: known.clone(),
            remembered_in: format!("the folder of {}", file.display()),
            routes: Vec::new(),
            lineage: 0,
        };
        match difference(pipeline, &folder, &ties) {
            Some(what) => Err(StoreError::Refused(what)),
            None => Ok((ties, known)),
        }
    }
}

/// Where it stands in this folder of a pipeline.
#[must_use]
pub fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Whether this is the store whose changes the folder holds.
///
/// # Errors
/// `Refused`, with the difference, if it is not; `Away` if that cannot be told now.
pub async fn check(pipeline: &str, file: &Path, store: &Captured<'_>) -> Result<(), StoreError> {
    store.look(pipeline, file).await.map(|_| ())
}

impl Pipeline {
    /// The store, where the pipeline captures one.
    fn captured(&self) -> Option<Captured<'_>> {
        match (&self.znodes, &self.keys) {
            (Some(znodes), None) => Some(Captured::Znodes(znodes.as_ref())),
            (None, Some(keys)) => Some(Captured::Keys(keys.as_ref())),
            _ => None,
        }
    }

    /// Refuses another store than the one that is captured.
    pub(super) async fn refuse_another_store(&self) -> Result<(), StoreError> {
        let Some(store) = self.captured() else { return Ok(()) };
        check(&self.settings.pipeline, &self.store_file, &store).await
    }

    /// As the owner: the store has an identity, and the folder remembers it. One that is missing is written again as it was.
    pub(super) async fn remember_store(&self) -> Result<(), StoreError> {
        let Some(store) = self.captured() else { return Ok(()) };
        let (ties, known) = store.look(&self.settings.pipeline, &self.store_file).await?;
        // Another run is the same store.
        let mut own = Known { life: String::new(), ..ties.own };
        if own.identity.is_empty() {
            let before = known.as_ref().map_or_else(random_identity, |known| known.identity.clone());
            own.identity = match store.identify(before).await {
                Ok(identity) => identity,
                // A login that only reads captures all the same: of a store without an identity nothing can be remembered.
                Err(StoreError::Refused(why)) => {
                    tracing::info!(pipeline = self.settings.pipeline, "the store gets no identity: {why}");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
        }
        if known.as_ref() == Some(&own) {
            return Ok(());
        }
        let text = serde_json::to_vec(&own).unwrap_or_default();
        crate::env::disk::replace(&self.store_file, &text)
            .map_err(|error| StoreError::Away(format!("{}: {error}", self.store_file.display())))
    }
}
