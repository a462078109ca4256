//! The identity of the ensemble, by chroot, and what it remembers of a pipeline: see
//! `store/ties.rs`.

use super::acl::{OPEN, READABLE};
use super::fault::explain;
use super::ours::{create, ensure};
use super::place::Place;
use super::session::{Error, Session};
use super::shared::Shared;
use crate::store::{Known, StoreError, Ties};
use serde::{Deserialize, Serialize};

/// Made once and never written again.
pub(super) const IDENTITY: &str = "/_keepstep/_identity";

/// What the znode `stores` of a pipeline holds.
#[derive(Serialize, Deserialize)]
struct Stores {
    redis: Known,
    #[serde(default)]
    routes: Vec<String>,
}

pub(super) fn path(place: &Place) -> String {
    place.under("stores")
}

async fn data(shared: &Shared, session: &dyn Session, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
    match session.data(path).await {
        Ok((data, _)) => Ok(Some(data)),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(explain(&shared.place, &error)),
    }
}

pub(super) async fn look(shared: &Shared) -> Result<Ties, StoreError> {
    let session = shared.control()?;
    let session = session.handle();
    let (path, lineage) = (path(&shared.place), shared.place.lineage_path());
    let (identity, stores, lineage) = futures::future::try_join3(
        data(shared, session, IDENTITY),
        data(shared, session, &path),
        data(shared, session, &lineage),
    )
    .await?;
    let (address, chroot) = shared.place.address();
    // What cannot be read is nothing that could be held against anybody.
    let stores = stores.and_then(|data| serde_json::from_slice::<Stores>(&data).ok());
    let (other, routes) = stores.map_or((None, Vec::new()), |stores| (Some(stores.redis), stores.routes));
    let lineage = lineage.and_then(|data| serde_json::from_slice::<(u32, i64)>(&data).ok()).map_or(0, |(id, _)| id);
    Ok(Ties {
        own: Known {
            identity: String::from_utf8_lossy(&identity.unwrap_or_default()).into_owned(),
            address: address.to_owned(),
            part: format!("chroot {chroot}"),
            incarnation: String::new(),
        },
        place: shared.place.to_string(),
        other,
        remembered_in: format!("the znode {path} of {address}{}", chroot.trim_end_matches('/')),
        routes,
        lineage,
    })
}

/// Gives the ensemble this identity, unless somebody was quicker.
pub(super) async fn identify(shared: &Shared, identity: &str) -> Result<String, StoreError> {
    let session = shared.control()?;
    let session = session.handle();
    create(&shared.place, session, "/_keepstep", b"", &OPEN).await?;
    // Every pipeline in this chroot reads it, whatever its login.
    create(&shared.place, session, IDENTITY, identity.as_bytes(), &READABLE).await?;
    let (data, _) = session.data(IDENTITY).await.map_err(|error| explain(&shared.place, &error))?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

pub(super) async fn tie(shared: &Shared, redis: Known, routes: Vec<String>) -> Result<(), StoreError> {
    let session = shared.control()?;
    let (path, text) = (path(&shared.place), serde_json::to_vec(&Stores { redis, routes }).unwrap_or_default());
    match session.set(&path, &text, None).await {
        Ok(_) => Ok(()),
        Err(Error::NoNode) => ensure(&shared.place, session.handle(), &path, &text).await,
        Err(error) => Err(explain(&shared.place, &error)),
    }
}
