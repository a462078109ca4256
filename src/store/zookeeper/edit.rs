//! Znodes as a command beside a worker changes them: single requests, each a compare-and-set by dataVersion.
//!
//! Requests of one session are served in their order, so a batch is sent at once and a parent that is created first, or
//! a child that is deleted first, is there, or gone, when the next one comes.

use super::parents::{Looked, above, look_up};
use super::{Shared, explain};
use crate::store::{StoreError, ZnodeEdit, ZnodeOp, ZnodeOutcome};
use std::collections::HashSet;
use zookeeper_client::{Acls, Client, CreateMode, Error};

/// Requests under way at a time: enough to hide the round trip, few enough to be fair to a worker beside us.
const TOGETHER: usize = 128;

/// Bytes under way at a time.
const TOGETHER_BYTES: usize = 4 * 1024 * 1024;

const DONE: ZnodeOutcome = ZnodeOutcome::Done { base: None, recreated: false };

/// See [`crate::store::Znodes::edit`].
pub(super) async fn edit(shared: &Shared, edits: &[ZnodeEdit<'_>]) -> Result<Vec<ZnodeOutcome>, StoreError> {
    let client = shared.control()?;
    let looked = create_ancestors(shared, &client, edits).await?;
    let mut outcomes = Vec::with_capacity(edits.len());
    let mut rest = edits;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(TOGETHER).take_while(|edit| {
            bytes += edit.data.len();
            bytes <= TOGETHER_BYTES
        });
        let (together, others) = rest.split_at(fits.count().max(1));
        let requests = together.iter().map(|edit| one(shared, &client, &looked, edit));
        for outcome in futures::future::join_all(requests).await {
            outcomes.push(outcome?);
        }
        rest = others;
    }
    Ok(outcomes)
}

/// Creates what is missing above the znodes that are to be created, empty. What fails here fails again below, where it
/// is told by its path.
async fn create_ancestors(shared: &Shared, client: &Client, edits: &[ZnodeEdit<'_>]) -> Result<Looked, StoreError> {
    let creates = || edits.iter().filter(|edit| edit.op == ZnodeOp::Create);
    let paths: Vec<&str> = creates().map(|edit| edit.path).collect();
    let looked = look_up(shared, client, &paths).await?;
    let mut made: HashSet<String> = HashSet::new();
    for edit in creates() {
        let (Some(acl), missing) = above(shared, &looked, edit.path, edit.acl) else { continue };
        for path in missing {
            if made.contains(&path) {
                continue;
            }
            match client.create(&path, b"", &CreateMode::Persistent.with_acls(Acls::new(&acl))).await {
                Ok(_) | Err(Error::NodeExists) => {
                    shared.parents().insert(path.clone(), std::sync::Arc::clone(&acl));
                    made.insert(path);
                }
                Err(error) if is_broken(&error) => return Err(explain(shared, &error)),
                Err(_) => break,
            }
        }
    }
    Ok(looked)
}

async fn one(
    shared: &Shared,
    client: &Client,
    looked: &Looked,
    edit: &ZnodeEdit<'_>,
) -> Result<ZnodeOutcome, StoreError> {
    let answer = match edit.op {
        ZnodeOp::Create => {
            let (Some(acl), _) = above(shared, looked, edit.path, edit.acl) else {
                let detail = format!("{}: {}: the parent's ACL cannot be copied", shared.place(), edit.path);
                return Ok(ZnodeOutcome::Impossible("no_permission", detail));
            };
            client.create(edit.path, edit.data, &CreateMode::Persistent.with_acls(Acls::new(&acl))).await.map(|_| ())
        }
        ZnodeOp::Set(version) => client.set_data(edit.path, edit.data, Some(version)).await.map(|_| ()),
        ZnodeOp::Delete(version) => match client.delete(edit.path, Some(version)).await {
            Err(Error::NotEmpty) => client.set_data(edit.path, b"", Some(version)).await.map(|_| ()),
            answer => answer,
        },
    };
    let impossible =
        |reason, what: &str| Ok(ZnodeOutcome::Impossible(reason, format!("{}: {}: {what}", shared.place(), edit.path)));
    match answer {
        Ok(()) => Ok(DONE),
        Err(Error::NoNode) if edit.op == ZnodeOp::Create => {
            // An ancestor went meanwhile: looked up again at the next try.
            shared.parents().forget_above(edit.path);
            Ok(ZnodeOutcome::Refused)
        }
        Err(Error::NodeExists | Error::BadVersion | Error::NoNode) => Ok(ZnodeOutcome::Refused),
        Err(Error::NoAuth) => {
            impossible("no_permission", "the session may not write here; see the ACLs of it and its parent")
        }
        Err(Error::NoChildrenForEphemerals) => {
            impossible("ephemeral_parent", "an ephemeral znode can have no children")
        }
        Err(Error::QuotaExceeded) => impossible("quota", "the quota of this subtree is exceeded"),
        Err(Error::InvalidAcl) => impossible("no_permission", "the ACL is refused; is the session authenticated?"),
        Err(error) if is_broken(&error) => Err(explain(shared, &error)),
        Err(error) => impossible("refused", &error.to_string()),
    }
}

/// Whether nothing is known of what became of the request.
fn is_broken(error: &Error) -> bool {
    matches!(
        error,
        Error::ConnectionLoss | Error::SessionExpired | Error::ClientClosed | Error::AuthFailed | Error::Timeout
    )
}
