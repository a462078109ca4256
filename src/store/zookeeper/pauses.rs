//! What is paused: a znode that one owner leaves for the next, written under its fence.

use super::fault::explain;
use super::session::{CreateMode, Error, MultiWriteError, WriteOp};
use super::shared::Shared;
use crate::store::{FailureKind, StoreError};

fn path(shared: &Shared) -> String {
    shared.place.under("paused")
}

/// Empty if nothing was left.
pub(super) async fn find(shared: &Shared) -> Result<Vec<u8>, StoreError> {
    match shared.control()?.data(&path(shared)).await {
        Ok((data, _)) => Ok(data),
        Err(Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(explain(&shared.place, &error)),
    }
}

/// Leaves this; the znode is made when something is paused for the first time.
pub(super) async fn keep(shared: &Shared, data: &[u8]) -> Result<(), StoreError> {
    match write(shared, data, false).await? {
        Written::Done => Ok(()),
        Written::Missing => match write(shared, data, true).await? {
            Written::Done => Ok(()),
            Written::Missing => {
                Err(StoreError::away(FailureKind::Overwritten, format!("{}: {} is gone", shared.place, path(shared))))
            }
        },
    }
}

enum Written {
    Done,
    Missing,
}

async fn write(shared: &Shared, data: &[u8], creates: bool) -> Result<Written, StoreError> {
    let tenure = shared.tenure()?;
    let (epoch_path, version) = tenure.fence();
    let wrong = |error: Error| explain(&shared.place, &error);
    let path = path(shared);
    let write = if creates {
        WriteOp::Create { path: &path, data, mode: CreateMode::Persistent, acl: shared.place.private_acl() }
    } else {
        WriteOp::Set { path: &path, data, version: None }
    };
    match tenure.session.write_all(&[WriteOp::Check { path: &epoch_path, version }, write]).await {
        Ok(_) => Ok(Written::Done),
        Err(MultiWriteError::OperationFailed { index: 0, source }) => Err(StoreError::fenced(
            FailureKind::Owner,
            format!("{}: another worker owns the pipeline ({source})", shared.place),
        )
        .with_source(source)),
        Err(MultiWriteError::OperationFailed { source: Error::NoNode, .. }) => Ok(Written::Missing),
        Err(error) => Err(wrong(error.into())),
    }
}
