//! Whether the stores are those of this pipeline, and whether its owner works on the same two.
//!
//! ```text
//!   connect -> standing by: has the owner the same stores? -> first in line: is nobody at work elsewhere? -> tie -> own
//! ```
//!
//! Identities (`store/ties.rs`) tell a store from another one, and one that lost its data from one that is another. Where they cannot,
//! since one is missing or there is a copy of a store, the claim in Redis does: a worker that owns the pipeline keeps it alive, so a
//! claim whose end moves is proof that somebody is at work on this very Redis, and by which lineage of an ensemble.
//! None of this decides who owns: the line and the fence do.

use crate::env;
use crate::store::preflight::{Finding, Level};
use crate::store::{HeldClaim, Keyspace, StoreError, Ties, Znodes, difference};
use crate::telemetry::LogThrottle;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How often a claim is looked at. A claim is renewed every 4 s.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at a Redis without an identity before it is taken for another one than the owner's: that owner notices within a second or
/// two that its data set went, and renews its claim every 4 s.
pub(super) const LOOKS_WITHOUT: u32 = 8;

/// Looks at a claim that was laid through another lineage of an ensemble before it is taken for another ensemble than ours. Where an operator
/// deleted our state, or an owner has just begun another lineage, it is not: such an owner notices within two to four seconds, and gives its
/// claim up or lays it anew.
const LOOKS_ELSEWHERE: u32 = 6;

/// Bytes of a route that are shown of a difference.
const SHOWN_BYTES: usize = 250;

/// What a worker knows of its pipeline's stores.
#[derive(Default)]
pub(super) struct Identity {
    /// It was the owner, or saw the owner at work on its own Redis.
    pub(super) proven: AtomicBool,
    /// How the owner's routes differ from those of our file; empty: not at all, as far as is known.
    pub(super) other_routes: Mutex<String>,
    pub(super) said: Mutex<LogThrottle>,
    /// Redis as this owner tied it.
    pub(super) tied: Mutex<Option<Ties>>,
}

/// Looks at a claim until its end moves.
#[derive(Default)]
pub(super) struct Watching {
    pub(super) until_ms: Option<i64>,
    /// Looks in a row at one that is not of our ensemble.
    pub(super) elsewhere: u32,
}

impl Watching {
    /// Whether somebody has kept the claim alive since the last look.
    pub(super) fn moves(&mut self, held: &HeldClaim) -> bool {
        let moves = self.until_ms.is_some_and(|before| before < held.until_ms);
        self.until_ms = Some(held.until_ms);
        moves
    }

    /// Whether it was elsewhere, as it is by this look, for so long that this is believed.
    pub(super) fn is_believed(&mut self, is_elsewhere: bool) -> bool {
        self.elsewhere = if is_elsewhere { self.elsewhere.saturating_add(1) } else { 0 };
        self.elsewhere > LOOKS_ELSEWHERE
    }
}

/// The claim is laid through the ensemble that we have.
pub(super) fn is_here(held: &HeldClaim, zookeeper: &Ties) -> bool {
    held.claim.lineage != 0 && held.claim.lineage == zookeeper.lineage
}

pub(super) async fn both(znodes: &dyn Znodes, keys: &dyn Keyspace) -> Result<(Ties, Ties), StoreError> {
    futures::future::try_join(znodes.ties(), keys.ties()).await
}

pub(super) fn elsewhere(pipeline: &str, held: &HeldClaim, zookeeper: &Ties, redis: &Ties) -> String {
    format!(
        "pipeline `{pipeline}` is at work through another ensemble or chroot: worker {} owns it in {} with zookeeper {}, and this \
         file has {}; give this pipeline another name, or stop the other worker",
        held.claim.worker, redis.place, held.claim.ensemble, zookeeper.place
    )
}

pub(super) fn with_another_redis(pipeline: &str, owner: &str, zookeeper: &Ties, redis: &Ties) -> String {
    let known = zookeeper.other.as_ref().map(|known| format!("{}, {}", known.address, known.part)).unwrap_or_default();
    format!(
        "pipeline `{pipeline}` is at work with another Redis: worker {owner} owns it with {known}, and keeps no claim alive in {}, which \
         this file has; give this pipeline another name, or stop the other worker",
        redis.place
    )
}

/// Whether nothing but a claim that is kept alive shows that this is the Redis which the owner has: it has no identity, or was started
/// at another time than that one, and may be a copy of it.
pub(super) fn is_unverified(zookeeper: &Ties, redis: &Ties) -> bool {
    let known = zookeeper.other.as_ref().filter(|known| !known.is_same_run(&redis.own));
    known.is_some_and(|known| redis.own.identity.is_empty() || !known.incarnation.is_empty())
}

/// How the routes of the owner differ from those of our file, in a sentence; empty if they do not, or if the owner does not tell.
pub(super) fn other_routes(ours: &[String], owners: &[String]) -> String {
    if owners.is_empty() || ours == owners {
        return String::new();
    }
    let only = |these: &[String], those: &[String]| {
        let mut text =
            these.iter().find(|route| !those.contains(route)).cloned().unwrap_or_else(|| "no such route".to_owned());
        if text.len() > SHOWN_BYTES {
            text.truncate(text.floor_char_boundary(SHOWN_BYTES));
            text.push('…');
        }
        text
    };
    if ours.iter().all(|route| owners.contains(route)) && ours.len() == owners.len() {
        return "this worker's file has other routes: the same ones in another order".to_owned();
    }
    format!("this worker's file has other routes: {} (the owner: {})", only(ours, owners), only(owners, ours))
}

/// Whether the stores are those of the pipeline, for `validate --connect`.
pub async fn look(pipeline: &str, znodes: &dyn Znodes, keys: &dyn Keyspace) -> Result<Finding, StoreError> {
    let wrong = |what: String| Ok(Finding::new(Level::Error, "stores", what, ""));
    let mut watching = Watching::default();
    for look in 0..LOOKS_WITHOUT + LOOKS_ELSEWHERE {
        let (zookeeper, redis) = both(znodes, keys).await?;
        if let Some(what) = difference(pipeline, &zookeeper, &redis) {
            return wrong(what);
        }
        let held = keys.held_claim().await?;
        let owner = znodes.owner().await?;
        let moves = held.as_ref().is_some_and(|held| watching.moves(held));
        let is_elsewhere = held.as_ref().is_some_and(|held| !is_here(held, &zookeeper) && held.claim.lineage != 0);
        let is_believed = watching.is_believed(is_elsewhere);
        let is_without = owner.is_some() && is_unverified(&zookeeper, &redis);
        match held {
            Some(held) if is_believed && moves => return wrong(elsewhere(pipeline, &held, &zookeeper, &redis)),
            _ if !is_elsewhere && (!is_without || moves) => {
                let known = zookeeper.other.is_some() || redis.other.is_some();
                let what = match known {
                    true => format!("they are those of pipeline `{pipeline}`, or came back empty"),
                    false => format!("no pipeline `{pipeline}` has been at work here"),
                };
                return Ok(Finding::new(Level::Ok, "stores", what, ""));
            }
            // Whoever keeps a claim alive elsewhere renews it within the looks that are left after those at which it is not believed.
            _ if !is_elsewhere && look + 1 >= LOOKS_WITHOUT => break,
            _ => env::sleep(LOOK_EVERY).await,
        }
    }
    let (zookeeper, redis) = both(znodes, keys).await?;
    match znodes.owner().await? {
        Some(owner) if is_unverified(&zookeeper, &redis) => {
            wrong(with_another_redis(pipeline, &owner, &zookeeper, &redis))
        }
        _ => Ok(Finding::new(Level::Ok, "stores", "whoever claimed them is gone", "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_route_that_differs_is_shown_from_both_sides() {
        let ours = routes(&["a: same", "b: here"]);
        assert_eq!(other_routes(&ours, &ours), "");
        assert_eq!(other_routes(&ours, &[]), "", "an owner of the version before tells nothing");
        let told = other_routes(&ours, &routes(&["a: same", "b: there"]));
        assert!(told.contains("b: here") && told.contains("b: there") && !told.contains("same"), "{told}");
        let told = other_routes(&ours, &routes(&["a: same"]));
        assert!(told.contains("b: here") && told.contains("no such route"), "{told}");
        let told = other_routes(&ours, &routes(&["b: here", "a: same"]));
        assert!(told.contains("another order"), "{told}");
        let long = routes(&[&"é".repeat(10_000)]);
        assert!(other_routes(&long, &ours).len() < 1_000);
    }

    #[test]
    fn a_claim_whose_end_moves_is_kept_alive_and_a_copy_of_one_is_not() {
        let mut watching = Watching::default();
        let claim = crate::store::Claim {
            pipeline: "p".to_owned(),
            worker: "host:1".to_owned(),
            identity: "abc".to_owned(),
            lineage: 1,
            ensemble: "zk".to_owned(),
            patterns: Vec::new(),
            writes: true,
            captures: false,
        };
        let looks = [(10, false), (10, false), (14, true), (14, false)];
        for (until_ms, moves) in looks {
            assert_eq!(watching.moves(&HeldClaim { claim: claim.clone(), until_ms }), moves, "{until_ms}");
        }
    }

    #[test]
    fn an_owner_whose_state_was_deleted_is_given_time_to_notice_before_it_is_taken_for_one_elsewhere() {
        let mut watching = Watching::default();
        for _ in 0..LOOKS_ELSEWHERE {
            assert!(!watching.is_believed(true));
        }
        assert!(watching.is_believed(true));
        assert!(!watching.is_believed(false));
        assert!(!watching.is_believed(true), "it was here meanwhile");
    }
}
