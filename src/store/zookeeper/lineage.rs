//! The lineage: which life of the ensemble's data this is, and a tide that only rises, so that an older copy is told from a newer one.
//!
//! Zxids alone do not tell: an ensemble of several servers that is restored from a copy elects a leader, whose zxids begin anew
//! above all that there were. So the owner writes its lineage znode again whenever something has changed, and remembers the version
//! that this gives, here and in Redis. A znode of a lower version is an older one, and with it the ensemble.

use super::ours::ensure;
use super::{Shared, explain, lock};
use crate::plan::Ensemble;
use crate::plan::guard::is_older;
use crate::store::clock::steady_ms;
use crate::store::{Remembered, StoreError};
use zookeeper_client::{Client, Error, MultiWriteError, MultiWriteResult};

/// The lineage znode as this owner left it.
pub(super) struct Lineage {
    data: Vec<u8>,
    /// Its version.
    pub(super) tide: i32,
}

fn path(shared: &Shared) -> String {
    shared.under("lineage")
}

/// Names the lineage, a new one if the ensemble is an older copy or has none. `found`: what it shows so far.
pub(super) async fn find(
    shared: &Shared,
    client: &Client,
    found: Remembered,
    remembered: Remembered,
) -> Result<Ensemble, StoreError> {
    let wrong = |error: Error| explain(shared, &error);
    let path = path(shared);
    let known = match client.get_data(&path).await {
        Ok((data, stat)) => serde_json::from_slice::<(u32, i64)>(&data).ok().map(|known| (known, stat.version)),
        Err(Error::NoNode) => None,
        Err(error) => return Err(wrong(error)),
    };
    let (ensemble, tide) = match known {
        Some(((id, since_zxid), tide)) if !is_older(Remembered { ensemble: id, tide, ..found }, remembered) => {
            (Ensemble { id, since_zxid }, tide)
        }
        Some((_, version)) => {
            tracing::error!(
                store = shared.settings.name,
                "the ensemble came back older than it was; its losses are restored"
            );
            let fresh = fresh(found.zxid);
            let stat = client.set_data(&path, &encode(fresh), Some(version)).await.map_err(wrong)?;
            (fresh, stat.version)
        }
        None => {
            if remembered.ensemble != 0 {
                tracing::error!(
                    store = shared.settings.name,
                    "the ensemble came back without our state; its losses are restored"
                );
            }
            let fresh = fresh(found.zxid);
            ensure(shared, client, &path, &encode(fresh)).await?;
            let (_, stat) = client.get_data(&path).await.map_err(wrong)?;
            (fresh, stat.version)
        }
    };
    *lock(&shared.lineage) = Some(Lineage { data: encode(ensemble), tide });
    Ok(ensemble)
}

fn encode(ensemble: Ensemble) -> Vec<u8> {
    serde_json::to_vec(&(ensemble.id, ensemble.since_zxid)).unwrap_or_default()
}

/// A lineage that begins now. Its name only has to differ from those before.
fn fresh(zxid: i64) -> Ensemble {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let id = xxhash_rust::xxh3::xxh3_64(&nanos.to_be_bytes()) >> 32;
    Ensemble { id: u32::try_from(id).unwrap_or(1).max(1), since_zxid: zxid }
}

/// Raises the tide, as the owner. The zxid that this gives is not noted as seen: it would call for the next one.
pub(super) async fn raise(shared: &Shared) -> Result<(), StoreError> {
    let Some(data) = lock(&shared.lineage).as_ref().map(|lineage| lineage.data.clone()) else {
        return Err(StoreError::Fenced(format!("{}: not the owner", shared.place())));
    };
    let tenure = shared.tenure()?;
    let (epoch_path, version) = tenure.fence();
    let wrong = |error: Error| explain(shared, &error);
    let mut multi = tenure.session.new_multi_writer();
    multi.add_check_version(&epoch_path, version).map_err(wrong)?;
    multi.add_set_data(&path(shared), &data, None).map_err(wrong)?;
    let sent_ms = steady_ms();
    match multi.commit().await {
        Ok(results) => {
            let Some(MultiWriteResult::SetData { stat }) = results.last() else {
                return Err(StoreError::Away(format!("{}: an unexpected answer to a write", shared.place())));
            };
            lock(&shared.clock).measure(sent_ms, steady_ms(), stat.mtime);
            note(shared, stat.version);
            Ok(())
        }
        Err(MultiWriteError::OperationFailed { index: 0, source }) => {
            Err(StoreError::Fenced(format!("{}: another worker owns the pipeline ({source})", shared.place())))
        }
        Err(MultiWriteError::OperationFailed { source: Error::NoNode, .. }) => Err(gone(shared)),
        Err(error) => Err(wrong(error.into())),
    }
}

/// The lineage znode and the version that it has, as far as this owner knows: what each write checks.
pub(super) fn mark(shared: &Shared) -> (String, i32) {
    (path(shared), lock(&shared.lineage).as_ref().map_or(0, |lineage| lineage.tide))
}

/// Refuses to go on if the ensemble came back older than it was under this owner: what is absent there says nothing, and neither
/// do versions.
pub(super) async fn check(shared: &Shared, client: &Client) -> Result<(), StoreError> {
    let Some(tide) = lock(&shared.lineage).as_ref().map(|lineage| lineage.tide) else { return Ok(()) };
    match client.check_stat(&path(shared)).await {
        Ok(Some(stat)) if stat.version >= tide => {
            note(shared, stat.version);
            Ok(())
        }
        Ok(Some(_)) => Err(StoreError::Fenced(format!("{}: the ensemble came back older", shared.place()))),
        Ok(None) => Err(gone(shared)),
        Err(error) => Err(explain(shared, &error)),
    }
}

fn note(shared: &Shared, version: i32) {
    if let Some(lineage) = lock(&shared.lineage).as_mut() {
        lineage.tide = lineage.tide.max(version);
    }
}

fn gone(shared: &Shared) -> StoreError {
    StoreError::Fenced(format!("{}: the ensemble came back without our state", shared.place()))
}
