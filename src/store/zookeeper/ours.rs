//! The znodes below `/_keepstep`: how they come to be, and who may touch them.

use super::acl::OPEN;
use super::fault::explain;
use super::place::Place;
use super::session::{Acl, CreateMode, Error, Session};
use crate::store::{FailureKind, StoreError};

/// Where live workers register the ranges that they work on.
pub(super) const CLAIMS: &str = "/_keepstep/_claims";

/// Creates a persistent znode and its ancestors if they are missing. What pipelines share is open,
/// the rest is ours.
pub(super) async fn ensure(place: &Place, session: &dyn Session, path: &str, data: &[u8]) -> Result<(), StoreError> {
    let acl = place.private_acl();
    let mut at = 1;
    while let Some(end) = path.get(at..).and_then(|rest| rest.find('/')).map(|end| at + end) {
        let ancestor = path.get(..end).unwrap_or("/");
        let shared_by_all = ancestor == "/_keepstep" || ancestor == CLAIMS;
        let acl = if shared_by_all { &OPEN } else { acl };
        create(place, session, ancestor, b"", acl).await?;
        at = end + 1;
    }
    create(place, session, path, data, acl).await
}

/// Creates one persistent znode if it is missing.
pub(super) async fn create(
    place: &Place,
    session: &dyn Session,
    path: &str,
    data: &[u8],
    acl: &[Acl],
) -> Result<(), StoreError> {
    match session.create(path, data, CreateMode::Persistent, acl).await {
        Ok(_) | Err(Error::NodeExists) => Ok(()),
        // The server looks for the permission first, and then whether the znode is there.
        Err(Error::NoAuth) if matches!(session.stat(path).await, Ok(Some(_))) => Ok(()),
        Err(Error::NoAuth) => Err(StoreError::refused(
            FailureKind::Permission,
            format!(
                "{}: user `{}` may not create {path}; Keepstep keeps its state below /_keepstep",
                place,
                place.user()
            ),
        )),
        Err(error) => Err(explain(place, &error)),
    }
}
