//! The beginning and the end of an ownership, and a look at what it stands on.
//!
//! The session lives on when an ownership ends. So its ephemeral znodes are removed by name, and
//! where that cannot be done now (the connection is away), before the pipeline connects again.

use super::fault::explain;
use super::ours::CLAIMS;
use super::session::{Error, MultiReadResult, ReadOp, Session};
use super::sessions::OpenSession;
use super::shared::Shared;
use super::tenure::Tenure;
use super::{claims, ties};
use crate::env::{Set, lock};
use crate::store::{FailureKind, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Connects.
pub(super) async fn begin(shared: &Shared) -> Result<(), StoreError> {
    if lock(&shared.tenure).as_ref().is_some_and(|tenure| tenure.session.is_usable()) {
        return Ok(());
    }
    let session = shared.settings.sessions.control(&shared.place).await?;
    if shared.may_have_left_znodes.load(Ordering::Relaxed) {
        give_back(shared, &session).await.map_err(|error| explain(&shared.place, &error))?;
    }
    shared.parents.clear();
    *lock(&shared.tenure) = Some(Arc::new(Tenure::new(session)));
    Ok(())
}

/// Ends it: nobody waits for a slot any more, and the next worker in line is let through.
pub(super) async fn end(shared: &Shared) {
    let Some(tenure) = lock(&shared.tenure).take() else { return };
    tenure.close_slots();
    // Told first: this may be cut off.
    shared.may_have_left_znodes.store(true, Ordering::Relaxed);
    if tenure.session.is_connected()
        && let Err(error) = give_back(shared, &tenure.session).await
    {
        tracing::debug!(store = shared.settings.name, %error, "the place in line is given back later");
    }
}

/// What a look at an ownership finds.
pub(super) enum Stands {
    /// It has all that it needs, and so many stand behind it in line.
    With(u64),
    /// It does not, and this is why.
    Without(String),
}

/// Whether the ensemble still has what the ownership stands on. A write finds out as well, but a
/// pipeline may have nothing to write, and another worker would take what is missing for an
/// ensemble of its own. `met`: what was there at a look before.
pub(super) async fn look(shared: &Shared, tenure: &Tenure, met: &mut Set<String>) -> Result<Stands, StoreError> {
    let wrong = |error: Error| explain(&shared.place, &error);
    let line = shared.place.under("election");
    let mine = lock(&tenure.place_in_line).clone().unwrap_or_default();
    let (epoch, fence) = tenure.fence();
    let claim = lock(&tenure.claim).clone();
    // Without these it is no ownership.
    let mut paths = vec![mine.clone(), epoch.clone(), shared.place.lineage_path(), shared.place.under("journal")];
    paths.extend(claim.clone());
    let always = paths.len();
    // A pipeline of one store has none of these.
    paths.extend([ties::path(&shared.place), ties::IDENTITY.to_owned()]);
    let reads = paths.iter().map(|path| ReadOp::Data(path));
    let reads: Vec<ReadOp<'_>> = std::iter::once(ReadOp::Children(&line)).chain(reads).collect();
    let mut results = tenure.session.read_all(&reads).await.map_err(wrong)?.into_iter();
    let names = match results.next() {
        Some(MultiReadResult::Children { children }) => children,
        Some(MultiReadResult::Error { err: Error::NoNode }) => Vec::new(),
        _ => {
            return Err(StoreError::away(
                FailureKind::Protocol,
                format!("{}: the line could not be read", shared.place),
            ));
        }
    };
    if names.iter().min().is_none_or(|first| format!("{line}/{first}") != mine) {
        return Ok(Stands::Without("our place in line is gone".to_owned()));
    }
    for (at, (path, result)) in paths.into_iter().zip(results).enumerate() {
        match result {
            MultiReadResult::Error { err: Error::NoNode } if at < always || met.contains(&path) => {
                return Ok(Stands::Without(format!("the znode {path} is gone")));
            }
            MultiReadResult::Data { stat, .. } => {
                let is_held = path == mine || Some(&path) == claim.as_ref();
                if (is_held && !tenure.holds(&stat)) || (path == epoch && stat.version != fence) {
                    return Ok(Stands::Without(format!("another worker wrote the znode {path}")));
                }
                met.insert(path);
            }
            _ => {}
        }
    }
    Ok(Stands::With(u64::try_from(names.len()).unwrap_or(1).saturating_sub(1)))
}

/// Removes what this session holds for the pipeline. It asks the ensemble what that is: a create
/// whose answer nobody waited for may have been carried out, and requests of one session are served
/// in order.
async fn give_back(shared: &Shared, session: &OpenSession) -> Result<(), Error> {
    let claim = format!("{}-", shared.settings.pipeline);
    // A pipeline's name may begin with another's: only digits follow ours.
    let is_claim = |name: &str| name.strip_prefix(&claim).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    let owner = session.id();
    let places = claims::places(shared, session);
    let Some((own, around)) = places.split_first() else { return Ok(()) };
    // Those outside of the chroot first: a worker of the version before that is next in line would
    // take them for another pipeline's.
    for place in around {
        match remove_ours(&*place.session, owner, CLAIMS, is_claim).await {
            // Where we may not look we have laid nothing.
            Ok(()) | Err(Error::NoAuth) => {}
            Err(error) => return Err(error),
        }
    }
    remove_ours(&*own.session, owner, &shared.place.under("election"), |_| true).await?;
    remove_ours(&*own.session, owner, CLAIMS, is_claim).await?;
    shared.may_have_left_znodes.store(false, Ordering::Relaxed);
    Ok(())
}

/// Removes the children of this znode that are named so and are this owner's: its session's.
async fn remove_ours(
    session: &dyn Session,
    owner: i64,
    parent: &str,
    is_named: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let mut names = match session.children(parent).await {
        Ok(names) => names,
        Err(Error::NoNode) => return Ok(()),
        Err(error) => return Err(error),
    };
    names.retain(|name| is_named(name));
    for name in names {
        let path = format!("{parent}/{name}");
        if session.stat(&path).await?.is_some_and(|stat| stat.ephemeral_owner == owner) {
            match session.delete(&path, None).await {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
