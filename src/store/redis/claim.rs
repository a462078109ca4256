//! Claims on key ranges: a key with a time to live for each live pipeline, and a set that names them.
//!
//! A claim is of one ownership, told by a number of its own: the next owner of the pipeline lays its claim over it, and whoever was late
//! neither keeps its own alive over that one nor takes that one away.

use super::calls::{bytes, integer, keys_of, run};
use super::fault::is_broken;
use super::script::Script;
use super::{Shared, lock, own};
use crate::store::{Claim, HeldClaim, StoreError, overlaps, owned_by_another};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Names all claims of this database. Two colons: no pipeline can be named so.
pub(super) const CLAIMS: &str = "_keepstep::claims";

pub(super) fn key(pipeline: &str) -> String {
    format!("_keepstep::claim:{pipeline}")
}

/// `KEYS`: a claim. `ARGV`: our claim, its time to live in milliseconds, our claim as it is from here on. Keeps it alive, or lays it anew
/// where it had run out; `0`: it is another's.
const KEEP: &str = r"#!lua flags=allow-oom
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
return 1
";

/// `KEYS`: a claim. `ARGV`: our claim. Removes it if it is ours.
const GIVE_UP: &str = r"#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
";

/// The scripts of claims.
pub(super) struct Scripts {
    keep: Script,
    give_up: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        Scripts { keep: Script::new(KEEP), give_up: Script::new(GIVE_UP) }
    }
}

/// A claim as it was laid.
#[derive(Clone)]
pub(super) struct Laid {
    key: String,
    text: String,
    claim: Claim,
}

/// What is written: the claim, and what tells it from others of its pipeline.
#[derive(serde::Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    claim: &'a Claim,
    ownership: u64,
}

impl Laid {
    fn new(shared: &Shared, claim: &Claim) -> Laid {
        let written = Written { claim, ownership: shared.nonce.fetch_add(1, Ordering::Relaxed) };
        let text = serde_json::to_string(&written).unwrap_or_default();
        Laid { key: key(&claim.pipeline), text, claim: claim.clone() }
    }

    fn keeping(&self, shared: &Shared) -> Cmd {
        self.becoming(shared, self)
    }

    /// In place of this claim, if it is still there, another one of the same worker.
    fn becoming(&self, shared: &Shared, now: &Laid) -> Cmd {
        let mut keep = redis::cmd("EVALSHA");
        keep.arg(&shared.claims.keep.sha).arg(1).arg(&self.key).arg(&self.text).arg(ttl_ms(shared)).arg(&now.text);
        keep
    }

    fn giving_up(&self, shared: &Shared) -> Cmd {
        let mut give_up = redis::cmd("EVALSHA");
        give_up.arg(&shared.claims.give_up.sha).arg(1).arg(&self.key).arg(&self.text);
        give_up
    }
}

fn ttl_ms(shared: &Shared) -> u64 {
    u64::try_from(shared.settings.claim_ttl.as_millis()).unwrap_or(30_000)
}

/// Lays the claim, then looks for others; the second of two that start together is refused, or both are.
pub(super) async fn lay(shared: &Shared, claim: Claim) -> Result<(), StoreError> {
    let laid = Laid::new(shared, &claim);
    *lock(&shared.claim) = Some(laid.clone());
    // Over that of an owner before: the election has decided.
    let mut set = redis::cmd("SET");
    set.arg(&laid.key).arg(&laid.text).arg("PX").arg(ttl_ms(shared));
    let mut add = redis::cmd("SADD");
    add.arg(CLAIMS).arg(&claim.pipeline);
    for command in [set, add] {
        shared.command(&command).await?;
    }
    let looked = look(shared, &claim).await;
    if matches!(looked, Err(StoreError::Refused(_))) {
        give_up(shared).await;
    }
    looked
}

/// Refused if the claim of another pipeline overlaps this one. Lays nothing.
pub(super) async fn look(shared: &Shared, claim: &Claim) -> Result<(), StoreError> {
    let others = others(shared, &claim.pipeline).await?;
    match others.iter().find(|other| overlaps(claim, other)) {
        Some(other) => Err(owned_by_another(&shared.place(), claim, other)),
        None => Ok(()),
    }
}

/// Names in the claim the lineage of the ensemble by which the pipeline is owned from here on.
pub(super) async fn name_lineage(shared: &Shared, lineage: u32) -> Result<(), StoreError> {
    let before = lock(&shared.claim).clone();
    let Some(before) = before.filter(|laid| laid.claim.lineage != lineage) else { return Ok(()) };
    let now = Laid::new(shared, &Claim { lineage, ..before.claim.clone() });
    *lock(&shared.claim) = Some(now.clone());
    let command = before.becoming(shared, &now);
    let answer = shared.script(&shared.claims.keep, &command).await?;
    answer.map(|_| ()).map_err(|error| own::explain_named(&shared.settings, &command, &error))
}

/// The claim that lies there for our pipeline, whoever laid it.
pub(super) async fn held(shared: &Shared) -> Result<Option<HeldClaim>, StoreError> {
    let key = key(&shared.settings.pipeline);
    let (mut get, mut until) = (redis::cmd("GET"), redis::cmd("PEXPIRETIME"));
    get.arg(&key);
    until.arg(&key);
    let claim = serde_json::from_slice(&bytes(Some(shared.command(&get).await?))).ok();
    let until_ms = integer(Some(shared.command(&until).await?));
    Ok(claim.filter(|_| until_ms > 0).map(|claim| HeldClaim { claim, until_ms }))
}

/// Keeps the claims of all these pipelines alive, in one go.
pub(super) async fn renew(
    connection: &mut MultiplexedConnection,
    stores: impl Iterator<Item = &Arc<Shared>>,
) -> Result<(), RedisError> {
    let renewals = stores.map(|shared| renew_one(connection.clone(), shared));
    futures::future::try_join_all(renewals).await.map(|_| ())
}

async fn renew_one(mut connection: MultiplexedConnection, shared: &Shared) -> Result<(), RedisError> {
    let Some(laid) = lock(&shared.claim).clone() else { return Ok(()) };
    let mut add = redis::cmd("SADD");
    add.arg(CLAIMS).arg(&shared.settings.pipeline);
    let keep = laid.keeping(shared);
    let kept = run(&mut connection, &shared.claims.keep, &keep).await;
    let added = add.query_async::<()>(&mut connection).await;
    let mut overwritten = String::new();
    for (command, result) in [(&keep, kept.map(|_| ())), (&add, added)] {
        match result {
            Err(error) if is_broken(&error) => return Err(error),
            // This ownership goes on: whoever else begins here waits until it can see the claims.
            Err(error) if own::is_of_another_type(&error) => {
                overwritten = own::explain_named(&shared.settings, command, &error).to_string();
            }
            // Out of memory, for instance. The claim holds for a while yet, and is renewed again.
            Err(refused) => tracing::debug!(%refused, "a claim could not be renewed"),
            Ok(()) => {}
        }
    }
    shared.say_overwritten(overwritten);
    // Given up while this was under way.
    if lock(&shared.claim).is_none() {
        run(&mut connection, &shared.claims.give_up, &laid.giving_up(shared)).await?;
    }
    Ok(())
}

/// Takes the claim back, if the server can still be reached.
pub(super) async fn give_up(shared: &Shared) {
    let laid = lock(&shared.claim).take();
    if let Some(laid) = laid {
        // It expires by itself where this fails.
        let _ = shared.script(&shared.claims.give_up, &laid.giving_up(shared)).await;
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
