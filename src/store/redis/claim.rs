//! Claims on key ranges: a key with a time to live for each live pipeline, and a set that names them.

use super::calls::{bytes, keys_of};
use super::{Shared, lock};
use crate::store::{Claim, StoreError};

/// Names all claims of this database. Two colons: no pipeline can be named so.
const CLAIMS: &str = "_keepstep::claims";

fn key(pipeline: &str) -> String {
    format!("_keepstep::claim:{pipeline}")
}

/// Lays the claim, then looks for others; the second of two that start together is refused, or both are.
pub(super) async fn lay(shared: &Shared, claim: Claim) -> Result<(), StoreError> {
    let mine = claim.pipeline.clone();
    *lock(&shared.claim) = Some(claim.clone());
    renew(shared).await?;
    let others = others(shared, &mine).await?;
    if let Some(other) = others.iter().find(|other| crate::store::overlaps(&claim, other)) {
        give_up(shared).await;
        return Err(StoreError::Refused(format!(
            "{}: pipeline `{}` (worker {}) owns {}, which overlaps {} of pipeline `{mine}`; give each range to one pipeline",
            shared.place(),
            other.pipeline,
            other.worker,
            other.patterns.join(", "),
            claim.patterns.join(", "),
        )));
    }
    Ok(())
}

/// Keeps the claim alive.
pub(super) async fn renew(shared: &Shared) -> Result<(), StoreError> {
    let Some(claim) = lock(&shared.claim).clone() else { return Ok(()) };
    let text = serde_json::to_string(&claim).unwrap_or_default();
    let mut set = redis::cmd("SET");
    let ttl_ms = u64::try_from(shared.settings.claim_ttl.as_millis()).unwrap_or(30_000);
    set.arg(key(&claim.pipeline)).arg(text).arg("PX").arg(ttl_ms);
    shared.command(&set).await?;
    let mut add = redis::cmd("SADD");
    add.arg(CLAIMS).arg(&claim.pipeline);
    shared.command(&add).await.map(|_| ())
}

/// Takes the claim back, if the server can still be reached.
pub(super) async fn give_up(shared: &Shared) {
    let claim = lock(&shared.claim).take();
    if let Some(claim) = claim {
        let mut remove = redis::cmd("DEL");
        remove.arg(key(&claim.pipeline));
        // It expires by itself where this fails.
        let _ = shared.command(&remove).await;
    }
}

async fn others(shared: &Shared, mine: &str) -> Result<Vec<Claim>, StoreError> {
    let mut members = redis::cmd("SMEMBERS");
    members.arg(CLAIMS);
    let mut claims = Vec::new();
    for name in keys_of(shared.command(&members).await?) {
        let name = String::from_utf8_lossy(&name).into_owned();
        if name == mine {
            continue;
        }
        let mut get = redis::cmd("GET");
        get.arg(key(&name));
        if let Ok(claim) = serde_json::from_slice(&bytes(Some(shared.command(&get).await?))) {
            claims.push(claim);
        }
    }
    Ok(claims)
}
