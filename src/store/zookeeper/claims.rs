//! Claims on ranges of znodes: an ephemeral znode for each live pipeline,
//! `/_keepstep/_claims/<pipeline>-0000000001`.
//!
//! A chroot is a path of znodes on the same server, so pipelines in different chroots may reach the
//! same znodes. From the inside what lies around a chroot can be found; from the outside nobody
//! knows where the chroots of others are, and to look for them would take a walk through all
//! znodes. So a pipeline in a chroot lays its claim a second time, with its patterns as they read
//! from there: in the outermost place that its login may write in, which mostly is the root of the
//! ensemble. Whoever lays a claim looks at those in its own chroot and in all around it, where the
//! login may read them.

use super::acl::OPEN;
use super::fault::explain;
use super::ours::{CLAIMS, create};
use super::session::{CreateMode, Error, Session};
use super::sessions::OpenSession;
use super::shared::Shared;
use crate::env::lock;
use crate::store::{Claim, StoreError, overlaps, owned_by_another};
use std::sync::Arc;

/// A root below which claims are laid: our chroot, or one around it.
pub(super) struct ClaimRoot {
    pub(super) session: Arc<dyn Session>,
    /// Our chroot, as it reads from this root: empty for our chroot itself.
    chroot: String,
}

/// A claim as it is written.
#[derive(serde::Serialize, serde::Deserialize)]
struct Written {
    #[serde(flatten)]
    claim: Claim,
    /// The chroot of the pipeline, as it reads from here: empty if it is this one. A version before
    /// lays claims in its chroot only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    chroot: String,
}

impl ClaimRoot {
    /// The claim as it is written here.
    fn written(&self, claim: &Claim) -> Written {
        let patterns = claim.patterns.iter().map(|pattern| format!("{}{pattern}", self.chroot)).collect();
        Written { claim: Claim { patterns, ..claim.clone() }, chroot: self.chroot.clone() }
    }

    /// Lays the claim here, and answers with its path.
    async fn lay(&self, shared: &Shared, claim: &Claim) -> Result<String, StoreError> {
        let text = serde_json::to_vec(&self.written(claim)).unwrap_or_default();
        let prefix = format!("{CLAIMS}/{}-", claim.pipeline);
        let lay = || self.session.create(&prefix, &text, CreateMode::EphemeralSequential, &OPEN);
        let mut laid = lay().await;
        // Not made beforehand: who may lay a claim need not be allowed to make the place.
        if matches!(laid, Err(Error::NoNode)) {
            create(&shared.place, &*self.session, "/_keepstep", b"", &OPEN).await?;
            create(&shared.place, &*self.session, CLAIMS, b"", &OPEN).await?;
            laid = lay().await;
        }
        laid.map(|created| created.path).map_err(|error| explain(&shared.place, &error))
    }

    /// All claims that lie here. What goes meanwhile, or may not be read, is left out.
    async fn claims(&self) -> Result<Vec<Written>, Error> {
        let names = match self.session.children(CLAIMS).await {
            // May not be read: as if it were not there, except by whoever has its own claim here.
            Err(Error::NoNode) => Vec::new(),
            Err(Error::NoAuth) if !self.chroot.is_empty() => Vec::new(),
            names => names?,
        };
        let mut claims = Vec::new();
        for name in names {
            match self.session.data(&format!("{CLAIMS}/{name}")).await {
                Ok((data, _)) => claims.extend(serde_json::from_slice::<Written>(&data)),
                Err(Error::NoNode | Error::NoAuth) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(claims)
    }
}

/// Our chroot, and those around it; the root of the ensemble is the last.
pub(super) fn places(shared: &Shared, session: &OpenSession) -> Vec<ClaimRoot> {
    let (_, chroot) = shared.place.address();
    let mut places = vec![ClaimRoot { session: session.share(), chroot: String::new() }];
    let mut outer = chroot;
    while let Some((above, _)) = outer.rsplit_once('/').filter(|_| outer != "/") {
        outer = above;
        if let Some(session) = session.rooted(if above.is_empty() { "/" } else { above }) {
            let ours = chroot.strip_prefix(above).unwrap_or(chroot);
            places.push(ClaimRoot { session, chroot: ours.to_owned() });
        }
    }
    places
}

/// Lays claim to a range, refusing one that overlaps with that of another live pipeline.
pub(super) async fn lay(shared: &Shared, claim: &Claim) -> Result<(), StoreError> {
    let tenure = shared.tenure()?;
    let places = places(shared, &tenure.session);
    let Some((own, around)) = places.split_first() else { return Ok(()) };
    let path = own.lay(shared, claim).await?;
    *lock(&tenure.claim) = Some(path.clone());
    let mut laid = vec![(own, path)];
    // A capture is in nobody's way: it leaves nothing outside of its chroot.
    for place in around.iter().rev().filter(|_| !claim.captures) {
        match place.lay(shared, claim).await {
            Ok(path) => laid.push((place, path)),
            Err(StoreError::Refused(why)) => {
                tracing::debug!(store = shared.settings.name, why = why.text(), "no claim outside of the chroot");
                continue;
            }
            Err(error) => return Err(error),
        }
        break;
    }
    // Compared when all are laid: of two that start together one is refused, or both are.
    let compared = compare(shared, &places, claim).await;
    if matches!(compared, Err(StoreError::Refused(_))) {
        for (place, path) in laid {
            let _ = place.session.delete(&path, None).await;
        }
    }
    compared
}

/// Whether [`lay`] would be refused now; nothing is laid.
pub(super) async fn look(shared: &Shared, claim: &Claim) -> Result<(), StoreError> {
    let session = shared.control()?;
    session.sync().await.map_err(|error| explain(&shared.place, &error))?;
    compare(shared, &places(shared, &session), claim).await
}

/// Refused if a claim of another pipeline overlaps this one.
async fn compare(shared: &Shared, places: &[ClaimRoot], claim: &Claim) -> Result<(), StoreError> {
    for place in places {
        let ours = place.written(claim);
        for other in place.claims().await.map_err(|error| explain(&shared.place, &error))? {
            // One of the same name in another chroot is another pipeline.
            let is_ours = other.claim.pipeline == ours.claim.pipeline && other.chroot == ours.chroot;
            if !is_ours && overlaps(&ours.claim, &other.claim) {
                return Err(owned_by_another(&shared.place.to_string(), &ours.claim, &other.claim));
            }
        }
    }
    Ok(())
}
