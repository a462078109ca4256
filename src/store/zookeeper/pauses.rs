//! What is paused: a znode that one owner leaves for the next, written under its fence.

use super::ours::private;
use super::{Shared, explain};
use crate::store::StoreError;
use zookeeper_client::{Acls, CreateMode, Error, MultiWriteError};

fn path(shared: &Shared) -> String {
    shared.under("paused")
}

/// Empty if nothing was left.
pub(super) async fn find(shared: &Shared) -> Result<Vec<u8>, StoreError> {
    match shared.control()?.get_data(&path(shared)).await {
        Ok((data, _)) => Ok(data),
        Err(Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(explain(shared, &error)),
    }
}

/// Leaves this; the znode is made when something is paused for the first time.
pub(super) async fn keep(shared: &Shared, data: &[u8]) -> Result<(), StoreError> {
    match write(shared, data, false).await? {
        Written::Done => Ok(()),
        Written::Missing => match write(shared, data, true).await? {
            Written::Done => Ok(()),
            Written::Missing => Err(StoreError::Away(format!("{}: {} is gone", shared.place(), path(shared)))),
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
    let wrong = |error: Error| explain(shared, &error);
    let path = path(shared);
    let acl = private(shared);
    let mut multi = tenure.session.new_multi_writer();
    multi.add_check_version(&epoch_path, version).map_err(wrong)?;
    if creates {
        let options = CreateMode::Persistent.with_acls(Acls::new(&acl));
        multi.add_create(&path, data, &options).map_err(wrong)?;
    } else {
        multi.add_set_data(&path, data, None).map_err(wrong)?;
    }
    match multi.commit().await {
        Ok(_) => Ok(Written::Done),
        Err(MultiWriteError::OperationFailed { index: 0, source }) => {
            Err(StoreError::Fenced(format!("{}: another worker owns the pipeline ({source})", shared.place())))
        }
        Err(MultiWriteError::OperationFailed { source: Error::NoNode, .. }) => Ok(Written::Missing),
        Err(error) => Err(wrong(error.into())),
    }
}
