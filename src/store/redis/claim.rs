//! Claims on key ranges: a key with a time to live for each live pipeline, and a set that names them.

use super::calls::{bytes, keys_of};
use super::{Shared, lock};
use crate::store::{Claim, StoreError};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use std::sync::Arc;

/// Names all claims of this database. Two colons: no pipeline can be named so.
const CLAIMS: &str = "_keepstep::claims";

fn key(pipeline: &str) -> String {
    format!("_keepstep::claim:{pipeline}")
}

/// Lays the claim, then looks for others; the second of two that start together is refused, or both are.
pub(super) async fn lay(shared: &Shared, claim: Claim) -> Result<(), StoreError> {
    let mine = claim.pipeline.clone();
    *lock(&shared.claim) = Some(claim.clone());
    for command in laying(shared, &claim) {
        shared.command(&command).await?;
    }
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

/// The commands that lay the claim, or keep it alive.
fn laying(shared: &Shared, claim: &Claim) -> [Cmd; 2] {
    let text = serde_json::to_string(claim).unwrap_or_default();
    let mut set = redis::cmd("SET");
    let ttl_ms = u64::try_from(shared.settings.claim_ttl.as_millis()).unwrap_or(30_000);
    set.arg(key(&claim.pipeline)).arg(text).arg("PX").arg(ttl_ms);
    let mut add = redis::cmd("SADD");
    add.arg(CLAIMS).arg(&claim.pipeline);
    [set, add]
}

/// Keeps the claims of all these pipelines alive, in one go.
pub(super) async fn renew(
    connection: &mut MultiplexedConnection,
    stores: impl Iterator<Item = &Arc<Shared>>,
) -> Result<(), RedisError> {
    let claimed = stores.filter_map(|shared| lock(&shared.claim).clone().map(|claim| (shared, claim)));
    let claimed: Vec<(&Arc<Shared>, Claim)> = claimed.collect();
    if claimed.is_empty() {
        return Ok(());
    }
    let mut commands = redis::pipe();
    for command in claimed.iter().flat_map(|(shared, claim)| laying(shared, claim)) {
        commands.add_command(command);
    }
    let answers = connection.send_packed_commands(&commands, 0, claimed.len() * 2).await?;
    for refused in answers.into_iter().filter(|answer| matches!(answer, Value::ServerError(_))) {
        // Out of memory, for instance. The claim holds for a while yet, and is renewed again.
        tracing::debug!(?refused, "a claim could not be renewed");
    }
    for (shared, claim) in claimed {
        // Given up while this was under way.
        if lock(&shared.claim).is_none() {
            redis::cmd("DEL").arg(key(&claim.pipeline)).query_async::<()>(connection).await?;
        }
    }
    Ok(())
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
