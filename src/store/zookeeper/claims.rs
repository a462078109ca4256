//! Claims on ranges of znodes: an ephemeral znode for each live pipeline, `/_keepstep/_claims/<pipeline>-0000000001`.
//!
//! A chroot hides what lies outside of it, but not from its server: the claims of pipelines in an outer chroot are looked at where
//! the login may read them. What lies further in is not: nobody knows where the chroots of others are. Whichever of two such
//! pipelines starts second from the inside is refused; otherwise the claims in Redis have to tell.

use super::ours::{CLAIMS, create};
use super::{Shared, explain, lock};
use crate::store::{Claim, StoreError};
use zookeeper_client::{Acls, Client, CreateMode, Error};

/// Lays claim to a range, refusing one that overlaps with that of another live pipeline.
pub(super) async fn lay(shared: &Shared, claim: Claim) -> Result<(), StoreError> {
    let tenure = shared.tenure()?;
    let client = Client::clone(&tenure.session);
    let wrong = |error: Error| explain(shared, &error);
    create(shared, &client, "/_keepstep", b"", Acls::anyone_all()).await?;
    create(shared, &client, CLAIMS, b"", Acls::anyone_all()).await?;
    // Laid first, then compared: of two that start together one is refused, or both are.
    let text = serde_json::to_vec(&claim).unwrap_or_default();
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let prefix = format!("{CLAIMS}/{}-", claim.pipeline);
    let (_, sequence) = client.create(&prefix, &text, &options).await.map_err(wrong)?;
    *lock(&tenure.claim) = Some(format!("{prefix}{sequence}"));
    let beside = of(&client).await.map_err(wrong)?.into_iter().filter(|other| other.pipeline != claim.pipeline);
    let refused = beside.map(|other| (other, claim.clone())).chain(outside(shared, &client, &claim).await);
    if let Some((other, claim)) = refused.into_iter().find(|(other, claim)| crate::store::overlaps(claim, other)) {
        let _ = client.delete(&format!("{prefix}{sequence}"), None).await;
        return Err(StoreError::Refused(format!(
            "{}: pipeline `{}` (worker {}) owns {}, which overlaps {} of pipeline `{}`; give each range to one pipeline",
            shared.place(),
            other.pipeline,
            other.worker,
            other.patterns.join(", "),
            claim.patterns.join(", "),
            claim.pipeline
        )));
    }
    Ok(())
}

/// All claims that this client sees.
async fn of(client: &Client) -> Result<Vec<Claim>, Error> {
    let mut claims = Vec::new();
    for name in client.list_children(CLAIMS).await? {
        let Ok((data, _)) = client.get_data(&format!("{CLAIMS}/{name}")).await else { continue };
        claims.extend(serde_json::from_slice::<Claim>(&data));
    }
    Ok(claims)
}

/// The claims of pipelines in outer chroots, each with ours as it reads from there.
async fn outside(shared: &Shared, client: &Client, claim: &Claim) -> Vec<(Claim, Claim)> {
    let (_, chroot) = shared.address();
    let mut found = Vec::new();
    let mut outer = chroot;
    while let Some((above, _)) = outer.rsplit_once('/').filter(|_| outer != "/") {
        outer = above;
        let Ok(client) = client.clone().chroot(if above.is_empty() { "/" } else { above }) else { continue };
        // What may not be read is not known.
        let Ok(claims) = of(&client).await else { continue };
        let inner = chroot.strip_prefix(above).unwrap_or(chroot);
        let patterns = claim.patterns.iter().map(|pattern| format!("{inner}{pattern}")).collect();
        let ours = Claim { patterns, ..claim.clone() };
        found.extend(claims.into_iter().map(|other| (other, ours.clone())));
    }
    found
}
