//! The identity of the database, and what it remembers of a pipeline: see `store/ties.rs`.

use super::calls::bytes;
use super::{Shared, lock};
use crate::store::{Known, StoreError, Ties};
use serde::{Deserialize, Serialize};

/// Made once and never written again. Two colons, as for all that no pipeline owns alone: no pipeline can be named so.
pub(super) const IDENTITY: &str = "_keepstep::identity";

/// What the key of a pipeline holds.
#[derive(Serialize, Deserialize)]
struct Stores {
    zookeeper: Known,
}

pub(super) fn key(shared: &Shared) -> String {
    format!("_keepstep::stores:{}", shared.settings.pipeline)
}

pub(super) async fn look(shared: &Shared) -> Result<Ties, StoreError> {
    let read = async |key: &str| {
        let mut get = redis::cmd("GET");
        get.arg(key);
        Ok::<_, StoreError>(bytes(Some(shared.command(&get).await?)))
    };
    let key = key(shared);
    let (identity, stores) = futures::future::try_join(read(IDENTITY), read(&key)).await?;
    let access = &shared.settings.server.access;
    let address = format!("{}:{}", access.host, access.port);
    // What cannot be read is nothing that could be held against anybody.
    let other = serde_json::from_slice::<Stores>(&stores).ok().map(|stores| stores.zookeeper);
    Ok(Ties {
        own: Known {
            identity: String::from_utf8_lossy(&identity).into_owned(),
            address,
            part: format!("database /{}", access.database),
            life: lock(&shared.lineage).run(),
        },
        place: shared.place(),
        other,
        remembered_in: format!("the key {key} of {}:{}/{}", access.host, access.port, access.database),
        routes: Vec::new(),
        lineage: 0,
    })
}

/// Gives the database this identity, unless somebody was quicker.
pub(super) async fn identify(shared: &Shared, identity: &str) -> Result<String, StoreError> {
    let (mut set, mut get) = (redis::cmd("SET"), redis::cmd("GET"));
    set.arg(IDENTITY).arg(identity).arg("NX");
    get.arg(IDENTITY);
    shared.command(&set).await?;
    Ok(String::from_utf8_lossy(&bytes(Some(shared.command(&get).await?))).into_owned())
}

pub(super) async fn tie(shared: &Shared, zookeeper: Known) -> Result<(), StoreError> {
    let mut set = redis::cmd("SET");
    set.arg(key(shared)).arg(serde_json::to_string(&Stores { zookeeper }).unwrap_or_default());
    shared.command(&set).await.map(|_| ())
}
