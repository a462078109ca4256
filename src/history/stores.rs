//! The stores of a command, connected. Before a command writes, it checks that they are the stores
//! of its pipeline, as a worker does: with a mistyped chroot or database number, `repair` would
//! delete everything.

use super::client::StoreClient;
use super::reach::{Deadline, StartError};
use crate::change::Side;
use crate::failpoint::planted;
use crate::store::{Keyspace, StoreError, Znodes, difference};
use std::sync::Arc;
use std::time::Duration;

/// How long a command waits for the store that it does not use. That store only confirms that the
/// other one belongs to the pipeline, and a command must work where this store is the one that was
/// lost.
const OTHER_STORE: Duration = Duration::from_secs(3);

/// A store and its names.
pub struct Named<S: ?Sized> {
    /// Its name in the pipeline file.
    pub name: String,
    /// Kind, name and address, for messages.
    pub label: String,
    /// The store.
    pub store: Arc<S>,
}

/// The stores that a command uses.
#[derive(Default)]
pub struct Stores {
    /// The ensemble, if the command needs it and the file declares it.
    pub znodes: Option<Named<dyn Znodes>>,
    /// The Redis, on the same condition.
    pub keys: Option<Named<dyn Keyspace>>,
}

impl Stores {
    /// The client of one store; `None` if it is not open.
    #[must_use]
    pub fn client(&self, side: Side) -> Option<StoreClient> {
        match side {
            Side::Zookeeper => self.znodes.as_ref().map(|named| StoreClient::Znodes(Arc::clone(&named.store))),
            Side::Redis => self.keys.as_ref().map(|named| StoreClient::Keys(Arc::clone(&named.store))),
        }
    }

    /// Both stores; `None` unless both are open.
    #[must_use]
    pub fn both(&self) -> Option<(Arc<dyn Znodes>, Arc<dyn Keyspace>)> {
        let (znodes, keys) = (self.znodes.as_ref()?, self.keys.as_ref()?);
        Some((Arc::clone(&znodes.store), Arc::clone(&keys.store)))
    }

    /// Closes the connections.
    pub async fn close(&self) {
        if let Some(znodes) = &self.znodes {
            znodes.store.close().await;
        }
        if let Some(keys) = &self.keys {
            keys.store.close().await;
        }
    }
}

/// Connects to these stores and waits at most `timeout` for one that is away.
///
/// # Errors
/// A store is not reachable in time, or its chroot does not exist.
pub async fn open(stores: Stores, timeout: Duration) -> Result<Stores, StartError> {
    let deadline = Deadline::new(timeout);
    if let Some(Named { label, store, .. }) = &stores.znodes {
        deadline.reach(label, || store.connect()).await?;
        deadline.reach(label, || store.find_root()).await?;
    }
    if let Some(Named { label, store, .. }) = &stores.keys {
        deadline.reach(label, || store.connect()).await?;
    }
    Ok(stores)
}

/// [`open`], and refuses stores that are not this pipeline's. `others` are the stores of the
/// pipeline that the command does not use, not connected.
///
/// # Errors
/// As [`open`]; or what each store remembers of the other one shows that they are not the
/// pipeline's.
pub async fn open_own(pipeline: &str, stores: Stores, others: Stores, timeout: Duration) -> Result<Stores, StartError> {
    let stores = open(stores, timeout).await?;
    if planted!("a command does not look whose the stores are") {
        return Ok(stores);
    }
    let refused = refuse_others(pipeline, &stores, others).await;
    if refused.is_err() {
        stores.close().await;
    }
    refused.map(|()| stores)
}

async fn refuse_others(pipeline: &str, stores: &Stores, others: Stores) -> Result<(), StartError> {
    let others = match open(others, OTHER_STORE).await {
        Ok(others) => others,
        // A mistake in the file, which waiting does not correct.
        Err(error @ StartError::Refused(_)) => return Err(error),
        Err(error) => {
            tracing::warn!(pipeline, %error, "cannot check that the store to be written belongs to the pipeline");
            return Ok(());
        }
    };
    let znodes = stores.znodes.as_ref().or(others.znodes.as_ref());
    let keys = stores.keys.as_ref().or(others.keys.as_ref());
    let compared = match (znodes, keys) {
        (Some(znodes), Some(keys)) => Some(futures::future::try_join(znodes.store.ties(), keys.store.ties()).await),
        // A capture has one store only.
        _ => None,
    };
    others.close().await;
    match compared {
        Some(Ok((zookeeper, redis))) => {
            difference(pipeline, &zookeeper, &redis).map_or(Ok(()), |why| Err(StartError::Refused(why)))
        }
        // A user who may not read Keepstep's own data may not own the pipeline, and may still
        // compare.
        Some(Err(StoreError::Refused(error))) => {
            tracing::warn!(pipeline, error = error.text(), "cannot check that the stores belong to the pipeline");
            Ok(())
        }
        Some(Err(error)) => Err(StartError::Unreachable(error.to_string())),
        None => Ok(()),
    }
}
