//! The identity of the database, and what it remembers of a pipeline: see `store/ties.rs`.

use super::database::Database;
use super::line::cmd;
use super::reply;
use crate::env::lock;
use crate::store::{FailureKind, Known, StoreError, Ties};
use serde::{Deserialize, Serialize};

/// Made once and never written again. Two colons, as for all that no pipeline owns alone: no
/// pipeline can be named so.
pub(super) const IDENTITY: &str = "_keepstep::identity";

/// What the key of a pipeline holds.
#[derive(Serialize, Deserialize)]
struct Stores {
    zookeeper: Known,
}

pub(super) fn key(database: &Database) -> String {
    format!("_keepstep::stores:{}", database.settings.pipeline)
}

pub(super) async fn look(database: &Database) -> Result<Ties, StoreError> {
    let read = async |key: &str| {
        let mut get = cmd("GET");
        get.arg(key);
        Ok::<_, StoreError>(reply::bytes(Some(database.command(&get).await?)))
    };
    let key = key(database);
    let (identity, stores) = futures::future::try_join(read(IDENTITY), read(&key)).await?;
    let access = &database.target.access;
    let address = format!("{}:{}", access.host, access.port);
    // What cannot be read is nothing that could be held against anybody.
    let other = serde_json::from_slice::<Stores>(&stores).ok().map(|stores| stores.zookeeper);
    Ok(Ties {
        own: Known {
            identity: String::from_utf8_lossy(&identity).into_owned(),
            address,
            part: format!("database /{}", access.database),
            incarnation: lock(&database.lineage).run(),
        },
        place: database.place(),
        other,
        remembered_in: format!("the key {key} of {}:{}/{}", access.host, access.port, access.database),
        routes: Vec::new(),
        lineage: 0,
    })
}

/// Gives the database this identity, unless somebody was quicker; answers the one that it has.
pub(super) async fn identify(database: &Database, identity: &str) -> Result<String, StoreError> {
    let (mut set, mut get) = (cmd("SET"), cmd("GET"));
    set.arg(IDENTITY).arg(identity).arg("NX");
    get.arg(IDENTITY);
    database.command(&set).await?;
    match reply::text(Some(database.command(&get).await?)) {
        // A flush or a swap came between the two. Without an identity nothing is remembered: what has none is any store.
        none if none.is_empty() => {
            let place = database.place();
            let text = format!("{place} lost its data while its identity was written");
            Err(StoreError::not_now(FailureKind::Identity, text))
        }
        identity => Ok(identity),
    }
}

pub(super) async fn tie(database: &Database, zookeeper: Known) -> Result<(), StoreError> {
    let mut set = cmd("SET");
    set.arg(key(database)).arg(serde_json::to_string(&Stores { zookeeper }).unwrap_or_default());
    database.command(&set).await.map(|_| ())
}
