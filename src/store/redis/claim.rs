//! Claims on key ranges: a key with a time to live for each live pipeline, and a set that names
//! them.
//!
//! A claim belongs to one ownership and has a number of its own: the next owner of the pipeline
//! lays its claim over it, and whoever was late neither keeps its own alive over that one nor takes
//! that one away.

use super::database::Database;
use super::fault::is_broken;
use super::line::{Cmd, Line, RedisError, cmd};
use super::own;
use super::reply::{bytes, integer, keys_of};
use super::script::Script;
use crate::env::lock;
use crate::store::{Claim, HeldClaim, StoreError, overlaps, owned_by_another};
use std::sync::{LazyLock, Mutex};

/// Names all claims of this database. Two colons: no pipeline can be named so.
pub(super) const CLAIMS: &str = "_keepstep::claims";

pub(super) fn key(pipeline: &str) -> String {
    format!("_keepstep::claim:{pipeline}")
}

/// `KEYS`: a claim. `ARGV`: our claim, its time to live in milliseconds, our claim as it is from
/// here on. Keeps it alive, or lays it anew where it had run out; `0`: it is another's.
const KEEP_TEXT: &str = r"#!lua flags=allow-oom
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
return 1
";

/// `KEYS`: a claim. `ARGV`: our claim. Removes it if it is ours.
const GIVE_UP_TEXT: &str = r"#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
";

static KEEP: LazyLock<Script> = LazyLock::new(|| Script::new(KEEP_TEXT));
static GIVE_UP: LazyLock<Script> = LazyLock::new(|| Script::new(GIVE_UP_TEXT));

/// A claim as it was laid.
#[derive(Clone)]
struct Laid {
    key: String,
    text: String,
    claim: Claim,
}

/// What is written: the claim, and the number that distinguishes it from others of its pipeline.
#[derive(serde::Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    claim: &'a Claim,
    ownership: u64,
}

impl Laid {
    fn new(database: &Database, claim: &Claim) -> Laid {
        let written = Written { claim, ownership: database.nonce() };
        let text = serde_json::to_string(&written).unwrap_or_default();
        Laid { key: key(&claim.pipeline), text, claim: claim.clone() }
    }

    fn keeping(&self, database: &Database) -> Cmd {
        self.becoming(database, self)
    }

    /// In place of this claim, if it is still there, another one of the same worker.
    fn becoming(&self, database: &Database, now: &Laid) -> Cmd {
        let mut keep = KEEP.command(1);
        keep.arg(&self.key).arg(&self.text).arg(ttl_ms(database)).arg(&now.text);
        keep
    }

    fn giving_up(&self) -> Cmd {
        let mut give_up = GIVE_UP.command(1);
        give_up.arg(&self.key).arg(&self.text);
        give_up
    }
}

fn ttl_ms(database: &Database) -> u64 {
    u64::try_from(database.settings.claim_ttl.as_millis()).unwrap_or(30_000)
}

/// Refused if the claim of another pipeline overlaps this one. Lays nothing.
pub(super) async fn look(database: &Database, claim: &Claim) -> Result<(), StoreError> {
    let others = others(database, &claim.pipeline).await?;
    match others.iter().find(|other| overlaps(claim, other)) {
        Some(other) => Err(owned_by_another(&database.place(), claim, other)),
        None => Ok(()),
    }
}

/// The claim that lies there for our pipeline, whoever laid it.
pub(super) async fn held(database: &Database) -> Result<Option<HeldClaim>, StoreError> {
    let key = key(&database.settings.pipeline);
    let (mut get, mut until) = (cmd("GET"), cmd("PEXPIRETIME"));
    get.arg(&key);
    until.arg(&key);
    let claim = serde_json::from_slice(&bytes(Some(database.command(&get).await?))).ok();
    let until_ms = integer(Some(database.command(&until).await?));
    Ok(claim.filter(|_| until_ms > 0).map(|claim| HeldClaim { claim, until_ms }))
}

async fn others(database: &Database, mine: &str) -> Result<Vec<Claim>, StoreError> {
    let mut members = cmd("SMEMBERS");
    members.arg(CLAIMS);
    let mut claims = Vec::new();
    for name in keys_of(database.command(&members).await?) {
        let name = String::from_utf8_lossy(&name).into_owned();
        if name == mine {
            continue;
        }
        let mut get = cmd("GET");
        get.arg(key(&name));
        if let Ok(claim) = serde_json::from_slice(&bytes(Some(database.command(&get).await?))) {
            claims.push(claim);
        }
    }
    Ok(claims)
}

/// The claim of this pipeline, as this worker has laid it.
#[derive(Default)]
pub(super) struct Claims {
    laid: Mutex<Option<Laid>>,
}

impl Claims {
    /// Lays the claim, then looks for others; the second of two that start together is refused, or
    /// both are.
    pub(super) async fn lay(&self, database: &Database, claim: Claim) -> Result<(), StoreError> {
        let laid = Laid::new(database, &claim);
        *lock(&self.laid) = Some(laid.clone());
        // Over that of an owner before: the election has decided.
        let mut set = cmd("SET");
        set.arg(&laid.key).arg(&laid.text).arg("PX").arg(ttl_ms(database));
        let mut add = cmd("SADD");
        add.arg(CLAIMS).arg(&claim.pipeline);
        for command in [set, add] {
            database.command(&command).await?;
        }
        let looked = look(database, &claim).await;
        if matches!(looked, Err(StoreError::Refused(_))) {
            self.give_up(database).await;
        }
        looked
    }

    /// Names in the claim the lineage of the ensemble by which the pipeline is owned from here on.
    pub(super) async fn name_lineage(&self, database: &Database, lineage: u32) -> Result<(), StoreError> {
        let before = lock(&self.laid).clone();
        let Some(before) = before.filter(|laid| laid.claim.lineage != lineage) else { return Ok(()) };
        let now = Laid::new(database, &Claim { lineage, ..before.claim.clone() });
        *lock(&self.laid) = Some(now.clone());
        let command = before.becoming(database, &now);
        let answer = database.script(&KEEP, &command).await?;
        answer.map(|_| ()).map_err(|error| own::explain_named(&database.target, &command, &error))
    }

    /// Keeps the claim alive.
    pub(super) async fn renew(&self, line: &dyn Line, database: &Database) -> Result<(), RedisError> {
        let Some(laid) = lock(&self.laid).clone() else { return Ok(()) };
        let mut add = cmd("SADD");
        add.arg(CLAIMS).arg(&database.settings.pipeline);
        let keep = laid.keeping(database);
        let kept = KEEP.run(line, &keep).await;
        let added = line.call(&add).await;
        let mut overwritten = String::new();
        for (command, result) in [(&keep, kept), (&add, added)] {
            match result {
                Err(error) if is_broken(&error) => return Err(error),
                // This ownership goes on: whoever else begins here waits until it can see the
                // claims.
                Err(error) if own::is_of_another_type(&error) => {
                    overwritten = own::explain_named(&database.target, command, &error).to_string();
                }
                // Out of memory, for instance. The claim holds for a while yet, and is renewed
                // again.
                Err(refused) => tracing::debug!(%refused, "a claim could not be renewed"),
                Ok(_) => {}
            }
        }
        database.report_overwritten(overwritten);
        // Given up while this was under way.
        if lock(&self.laid).is_none() {
            GIVE_UP.run(line, &laid.giving_up()).await?;
        }
        Ok(())
    }

    /// Takes the claim back, if the server can still be reached.
    pub(super) async fn give_up(&self, database: &Database) {
        let laid = lock(&self.laid).take();
        if let Some(laid) = laid {
            // It expires by itself where this fails.
            let _ = database.script(&GIVE_UP, &laid.giving_up()).await;
        }
    }
}
