//! The znodes below `/_keepstep`: how they come to be, and who may touch them.

use super::parents::{creator, open};
use super::{Shared, explain};
use crate::store::StoreError;
use zookeeper_client::{Acl, Acls, Client, CreateMode, Error};

/// Where live workers say on what they work.
pub(super) const CLAIMS: &str = "/_keepstep/_claims";

/// Who may touch what is ours alone.
pub(super) fn private(shared: &Shared) -> Vec<Acl> {
    if shared.access().digest.is_some() { creator() } else { open() }
}

/// Creates a persistent znode and its ancestors if they are missing. What pipelines share is open, the rest is ours.
pub(super) async fn ensure(shared: &Shared, client: &Client, path: &str, data: &[u8]) -> Result<(), StoreError> {
    let acl = private(shared);
    let mut at = 1;
    while let Some(end) = path.get(at..).and_then(|rest| rest.find('/')).map(|end| at + end) {
        let ancestor = path.get(..end).unwrap_or("/");
        let shared_by_all = ancestor == "/_keepstep" || ancestor == CLAIMS;
        let acls = if shared_by_all { Acls::anyone_all() } else { Acls::new(&acl) };
        create(shared, client, ancestor, b"", acls).await?;
        at = end + 1;
    }
    create(shared, client, path, data, Acls::new(&acl)).await
}

/// Creates one persistent znode if it is missing.
pub(super) async fn create(
    shared: &Shared,
    client: &Client,
    path: &str,
    data: &[u8],
    acls: Acls<'_>,
) -> Result<(), StoreError> {
    match client.create(path, data, &CreateMode::Persistent.with_acls(acls)).await {
        Ok(_) | Err(Error::NodeExists) => Ok(()),
        // The server looks for the permission first, and then whether the znode is there.
        Err(Error::NoAuth) if matches!(client.check_stat(path).await, Ok(Some(_))) => Ok(()),
        Err(Error::NoAuth) => Err(StoreError::Refused(format!(
            "{}: user `{}` may not create {path}; Keepstep keeps its state below /_keepstep",
            shared.place(),
            shared.user()
        ))),
        Err(error) => Err(explain(shared, &error)),
    }
}
