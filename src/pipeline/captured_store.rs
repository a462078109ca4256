//! Which store a capture records. There is no second store to remember it (`store/ties.rs`), so the data folder does, beside the
//! stream.

use super::folder;
use crate::store::{FailureKind, Keyspace, Known, StoreError, Ties, Znodes, difference};
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

    pub(super) async fn identify(&self, identity: String) -> Result<String, StoreError> {
        match self {
            Captured::Znodes(znodes) => znodes.identify(identity).await,
            Captured::Keys(keys) => keys.identify(identity).await,
        }
    }

    /// What the store says of itself; an error if the folder remembers another one.
    pub(super) async fn look(&self, pipeline: &str, file: &Path) -> Result<(Ties, Option<Known>), StoreError> {
        let ties = self.ties().await?;
        let kept = folder::read(file).await?;
        // What cannot be read is nothing that could be held against anybody.
        let known: Option<Known> = serde_json::from_slice(&kept).ok();
        let remembered = Ties {
            own: Known {
                identity: String::new(),
                address: String::new(),
                part: String::new(),
                incarnation: String::new(),
            },
            place: file.display().to_string(),
            other: known.clone(),
            remembered_in: format!("the folder of {}", file.display()),
            routes: Vec::new(),
            lineage: 0,
        };
        match difference(pipeline, &remembered, &ties) {
            Some(what) => Err(StoreError::refused(FailureKind::Identity, what)),
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
