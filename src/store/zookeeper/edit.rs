//! Znodes as a command beside a worker changes them: single requests, each a compare-and-set by
//! dataVersion.
//!
//! Requests of one session are served in their order, so a batch is sent at once and a parent that
//! is created first, or a child that is deleted first, is there, or gone, when the next one comes.

use super::fault::{explain, is_broken};
use super::pack::{no_acl, refusal, too_large};
use super::parents::{Creation, look_up};
use super::session::{CreateMode, Error, Session};
use super::shared::Shared;
use super::size::{self, Sizes};
use crate::env::{Map, Set};
use crate::store::request::{Fault, in_parts, split};
use crate::store::{StoreError, ZnodeAcl, ZnodeEdit, ZnodeOp, ZnodeOutcome, is_creatable};
use futures::FutureExt as _;

/// Requests under way at a time: enough to hide the round trip, few enough to be fair to a worker
/// beside us.
const TOGETHER: usize = 128;

/// Bytes under way at a time.
const TOGETHER_BYTES: usize = 4 * 1024 * 1024;

const DONE: ZnodeOutcome = ZnodeOutcome::Done { base: None, recreated: false };

/// Where each znode is created.
type Creations<'a> = Map<&'a str, Creation>;

/// See [`crate::store::contract::ZnodeEditor::edit`].
pub(super) async fn edit(shared: &Shared, edits: &[ZnodeEdit<'_>]) -> Result<Vec<ZnodeOutcome>, StoreError> {
    let session = shared.control()?;
    let session = session.handle();
    let places = look_up_all(shared, session, edits).await?;
    create_ancestors(shared, session, &places).await?;
    let bytes = |edit: &ZnodeEdit<'_>| {
        let acl = places.get(edit.path).and_then(|place| place.acl.as_ref()).map_or(0, |acl| size::acl(acl));
        Sizes::alone(shared.sizes.write(edit.op, edit.path.len(), edit.data.len(), acl))
    };
    let limit = &shared.settings.sessions.limit;
    let mut outcomes = Vec::with_capacity(edits.len());
    for together in split(edits, TOGETHER, TOGETHER_BYTES, bytes) {
        let answers = in_parts(
            limit,
            together,
            // Each is a request of its own.
            |edits| edits.iter().map(bytes).max().unwrap_or(0),
            |edits| all(shared, session, &places, edits).boxed(),
            |edit, bytes| too_large(shared, edit.path, &limit.why(bytes, "jute.maxbuffer")),
        );
        outcomes.extend(answers.await?);
    }
    Ok(outcomes)
}

async fn all(
    shared: &Shared,
    session: &dyn Session,
    places: &Creations<'_>,
    edits: &[ZnodeEdit<'_>],
) -> Result<Vec<ZnodeOutcome>, Fault> {
    let requests = edits.iter().map(|edit| one(shared, session, places, edit));
    futures::future::join_all(requests).await.into_iter().collect()
}

async fn look_up_all<'a>(
    shared: &Shared,
    session: &dyn Session,
    edits: &[ZnodeEdit<'a>],
) -> Result<Creations<'a>, StoreError> {
    let creates = edits.iter().filter(|edit| edit.op == ZnodeOp::Create && is_creatable(edit.path).is_ok());
    let creates: Vec<(&str, ZnodeAcl)> = creates.map(|edit| (edit.path, edit.acl)).collect();
    let places = look_up(&shared.place, &shared.parents, session, &creates).await?;
    Ok(creates.into_iter().map(|(path, _)| path).zip(places).collect())
}

/// Creates the missing ancestors of the znodes that are to be created, empty. A create that fails
/// here fails again below, where the error names its path.
async fn create_ancestors(shared: &Shared, session: &dyn Session, places: &Creations<'_>) -> Result<(), StoreError> {
    let mut made: Set<&str> = Set::default();
    for (path, place) in places {
        let Some(acl) = &place.acl else { continue };
        let missing: Vec<&str> = place.missing.iter().filter_map(|end| path.get(..*end)).collect();
        let missing: Vec<&str> = missing.into_iter().filter(|path| made.insert(path)).collect();
        for together in split(&missing, TOGETHER, TOGETHER_BYTES, |path| path.len()) {
            let answers = together.iter().map(|path| session.create(path, b"", CreateMode::Persistent, acl));
            for (path, answer) in together.iter().zip(futures::future::join_all(answers).await) {
                match answer {
                    Ok(_) | Err(Error::NodeExists) => shared.parents.insert(path, std::sync::Arc::clone(acl)),
                    Err(error) if is_unknown(&error) => return Err(explain(&shared.place, &error)),
                    Err(_) => {}
                }
            }
        }
    }
    Ok(())
}

async fn one(
    shared: &Shared,
    session: &dyn Session,
    places: &Creations<'_>,
    edit: &ZnodeEdit<'_>,
) -> Result<ZnodeOutcome, Fault> {
    let answer = match edit.op {
        ZnodeOp::Create => {
            if let Err(why) = is_creatable(edit.path) {
                return Ok(too_large(shared, edit.path, &why));
            }
            let Some(acl) = places.get(edit.path).and_then(|place| place.acl.as_ref()) else {
                return Ok(no_acl(shared, edit.path));
            };
            session.create(edit.path, edit.data, CreateMode::Persistent, acl).await.map(|_| ())
        }
        ZnodeOp::Set(version) => session.set(edit.path, edit.data, Some(version)).await.map(|_| ()),
        ZnodeOp::Delete(version) => match session.delete(edit.path, Some(version)).await {
            Err(Error::NotEmpty) => session.set(edit.path, b"", Some(version)).await.map(|_| ()),
            answer => answer,
        },
    };
    match answer {
        Ok(()) => Ok(DONE),
        Err(Error::NoNode) if edit.op == ZnodeOp::Create => {
            // An ancestor went meanwhile: looked up again at the next try.
            shared.parents.forget_above(edit.path);
            Ok(ZnodeOutcome::Refused)
        }
        Err(Error::NodeExists | Error::BadVersion | Error::NoNode) => Ok(ZnodeOutcome::Refused),
        Err(error) if is_broken(&error) => Err(Fault::Broke(explain(&shared.place, &error))),
        Err(error) if is_unknown(&error) => Err(explain(&shared.place, &error).into()),
        Err(error) => Ok(refusal(shared, edit.path, &error)),
    }
}

/// Whether nothing is known of what became of the request.
fn is_unknown(error: &Error) -> bool {
    is_broken(error)
        || matches!(error, Error::SessionExpired | Error::ClientClosed | Error::AuthFailed | Error::Timeout)
}
