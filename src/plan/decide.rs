//! `plan()`: the decision table, from an observation to an action.

use super::{Base, Ephemeral, Flow, OnConflict, OnRemoval, Policy};
use crate::change::{Digest, Side, ZkVersion};

/// Which lineage of the ensemble an observation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ensemble {
    /// Name of the lineage; another one begins when the ensemble comes back empty or older.
    pub id: u32,
    /// The zxid at which the lineage began: a znode whose mzxid is at or below it is left over from before.
    pub since_zxid: i64,
}

/// A znode as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Znode {
    /// Not looked at: assumed to be as the base has it (absent without a base). The compare-and-set checks it.
    AsBase,
    /// There is none; believed only after `sync` and a second look where a base says otherwise. The number is the newest zxid
    /// at which it can have been deleted (pzxid of the nearest ancestor that is left), `i64::MAX` where that is not known: a base
    /// with a newer one is from an incarnation of the ensemble that is gone.
    Absent(i64),
    /// There is one.
    Present {
        /// Identity of its state.
        version: ZkVersion,
        /// Digest of its data.
        digest: Digest,
        /// Whether a session owns it.
        ephemeral: bool,
        /// mtime by the ensemble's clock.
        mtime_ms: i64,
    },
}

/// What is known about the disappearance of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vanished {
    /// What was seen to remove it; `None` if nobody saw it.
    pub seen: Option<Removal>,
    /// The Redis server's clock at the observation, milliseconds since the epoch.
    pub now_ms: i64,
    /// Whether Redis was neither restarted nor replaced, and nothing was evicted, since the pair was last in step.
    pub intact: bool,
    /// Redis came back with an older data set, or may have, going by the znode, and was not compared since: a time of expiry is one of then.
    pub older: bool,
}

/// What removed a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Removal {
    /// An application.
    Deleted,
    /// Its expiry time.
    Expired,
    /// Eviction, a flush, a lost or replaced data set.
    Lost,
}

/// A key as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Not looked at: assumed to be as the base has it (absent without a base). The compare-and-set checks it.
    AsBase,
    /// There is none.
    Absent(Vanished),
    /// There is one.
    Present {
        /// Digest of its canonical value.
        digest: Digest,
        /// Its expiry time, milliseconds since the epoch.
        expires_ms: Option<i64>,
        /// Redis was restarted or its data set replaced since the pair was last in step, and nothing shows that this is not an
        /// older state of the key.
        may_be_older: bool,
    },
}

/// What is known of the times and numbers of changes, for the rules that ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// When the key was last seen to change, by the ensemble's clock; `None` if no worker watched.
    pub redis_ms: Option<i64>,
    /// Times closer than this are not told apart, milliseconds; [`CLOCK_WAS_SET`] where they cannot be compared at all.
    pub doubt_ms: i64,
    /// Changes of the key since the base; `None` if they could not all be counted.
    pub redis_writes: Option<u32>,
}

/// Everything `plan()` looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// The last agreed state, if any (and if it was agreed for this path).
    pub base: Option<Base>,
    /// The znode.
    pub znode: Znode,
    /// The key.
    pub key: Key,
    /// The ensemble's lineage now.
    pub ensemble: Ensemble,
    /// Times and numbers.
    pub seen: Seen,
}

/// How a difference was settled, for the conflict log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whose state stays.
    pub winner: Side,
    /// Why, one sentence.
    pub reason: &'static str,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// In step, or not ours to touch.
    Nothing,
    /// Both sides agree on the state observed: note it as the base.
    Agree,
    /// Both sides have no key: forget the base.
    Forget,
    /// Leave the sides as they are and note both states, so that only a further change joins them again.
    KeepApart,
    /// The key is back at an older state, with its base: leave the znode until the key changes, and note both states.
    Leave,
    /// Write the znode's value to the key (remove the key if the znode has none).
    ToRedis(Option<Verdict>),
    /// Write the key's value to the znode (remove it if there is no key).
    ToZookeeper(Option<Verdict>),
    /// A conflict that nobody may settle.
    Quarantine,
    /// The key stands for an ephemeral znode that this route may not write.
    NotOurs,
    /// This side lost its data and nothing leads there: report it, change nothing.
    Lost(Side),
    /// This side is captured: what it holds goes on the stream if its newest record is another state.
    Record(Side),
}

const DELETE_LOSES: &str = "a change beats a delete";
const SOURCE_DECIDES: &str = "the source of a one-way route decides";
const EPHEMERAL_DECIDES: &str = "an ephemeral znode decides over its key";
const UNPROVEN: &str = "Redis was restarted or its data replaced, and the key may not have followed this value";
const UNPROVEN_KEY: &str = "Redis was restarted or its data replaced, and nothing tells whether the key holds an older value or was written since";
const LEFT: &str = "`quarantine drop` had left both sides as they were, so neither value was agreed on";
const ENSEMBLE_LOST: &str = "the ensemble came back empty or older";

/// The ways that the pair's changes flow: [`Flow`] without a capture, and one way for an ephemeral znode.
#[derive(Clone, Copy)]
enum Ways {
    /// From this side to the other one.
    From(Side),
    /// In both directions; this store is named first.
    Both(Side),
}

/// The state of one side against the base.
struct Sides {
    /// Value of the znode, `None` if it stands for no key.
    znode: Option<Digest>,
    znode_changed: bool,
    znode_lost: bool,
    key: Option<Digest>,
    key_changed: bool,
}

/// Decides what to do with a pair.
///
/// Rules: `docs/ARCHITECTURE.md`, "The decision table". A pure function of its arguments; a delete needs a base; a loss
/// never becomes a delete; every value that is replaced was the base's or gets a [`Verdict`] for the conflict log.
#[must_use]
pub fn plan(policy: &Policy, seen: &Observation) -> Action {
    let is_ephemeral = match seen.znode {
        Znode::Present { ephemeral, .. } => ephemeral,
        Znode::AsBase => seen.base.is_some_and(|base| base.ephemeral),
        // One that is gone is in the way of no key where only keys are followed.
        Znode::Absent(_) => seen.base.is_some_and(|base| base.ephemeral) && policy.flow != Flow::From(Side::Redis),
    };
    if is_ephemeral && policy.ephemeral == Ephemeral::Skip {
        return Action::Nothing;
    }
    let ways = match policy.flow {
        Flow::Capture(side) => return Action::Record(side),
        flow if is_ephemeral && !flow.leads_to(Side::Redis) => {
            let key_exists = match seen.key {
                Key::Present { .. } => true,
                Key::AsBase => seen.base.is_some_and(|base| base.redis.is_some()),
                Key::Absent(_) => false,
            };
            return if key_exists { Action::NotOurs } else { Action::Nothing };
        }
        _ if is_ephemeral => Ways::From(Side::Zookeeper),
        Flow::From(source) => Ways::From(source),
        Flow::Both(first) => Ways::Both(first),
    };
    let sides = compare(seen);
    if sides.znode == sides.key && !in_doubt(seen) {
        return agree(seen, &sides);
    }
    if sides.znode_lost {
        return restore_znode(ways, &sides);
    }
    let action = match ways {
        Ways::From(Side::Zookeeper) => from_zookeeper(policy, seen, &sides, is_ephemeral),
        Ways::From(Side::Redis) => from_redis(policy, seen, &sides),
        Ways::Both(first) => both(policy, first, seen, &sides),
    };
    let is_left = seen.base.is_some_and(|base| base.left);
    let is_unverified = seen.base.is_some_and(|base| base.unverified);
    match action {
        Action::ToZookeeper(None) if is_left && sides.znode.is_some() => {
            Action::ToZookeeper(Some(Verdict { winner: Side::Redis, reason: LEFT }))
        }
        Action::ToRedis(None) if is_left && sides.key.is_some() => {
            Action::ToRedis(Some(Verdict { winner: Side::Zookeeper, reason: LEFT }))
        }
        Action::ToZookeeper(None) if is_unverified && sides.znode.is_some() => {
            Action::ToZookeeper(Some(Verdict { winner: Side::Redis, reason: UNPROVEN }))
        }
        Action::ToRedis(None) if is_unverified && sides.key.is_some() => {
            Action::ToRedis(Some(Verdict { winner: Side::Zookeeper, reason: UNPROVEN_KEY }))
        }
        action => action,
    }
}

/// A side that was not looked at has no known value where the base is one that was kept apart, nor has a key that was lost.
fn in_doubt(seen: &Observation) -> bool {
    let unseen = seen.znode == Znode::AsBase || seen.key == Key::AsBase;
    seen.base.is_some_and(|base| unseen && base.apart || seen.key == Key::AsBase && base.lost)
}

fn compare(seen: &Observation) -> Sides {
    let base = seen.base;
    let stands_for_empty =
        base.is_some_and(|base| base.redis == Some(Digest::EMPTY) && base.zookeeper.is_some() && !base.apart);
    let znode = match seen.znode {
        Znode::AsBase => base.and_then(|base| base.redis),
        Znode::Absent(_) => None,
        Znode::Present { digest, ephemeral, .. } => {
            let no_key = digest == Digest::EMPTY && !ephemeral && !stands_for_empty;
            if no_key { None } else { Some(digest) }
        }
    };
    let same_lineage = base.is_none_or(|base| base.ensemble == seen.ensemble.id);
    let (znode_changed, znode_lost) = match (seen.znode, base) {
        (Znode::AsBase, _) => (false, false),
        (_, None) => (znode.is_some(), false),
        (Znode::Absent(gone_zxid), Some(base)) => {
            let is_from_before = base.zookeeper.is_some_and(|agreed| agreed.mzxid > gone_zxid);
            (base.zookeeper.is_some(), base.zookeeper.is_some() && (!same_lineage || is_from_before))
        }
        (Znode::Present { version, .. }, Some(base)) => match base.zookeeper {
            None => (znode.is_some(), false),
            // An ensemble that came back older may give a zxid a second time: the version tells, for once.
            Some(agreed) if same_lineage => (!agreed.is_same_write(version), version.mzxid < agreed.mzxid),
            Some(_) if znode == base.redis => (false, false),
            // Our state was deleted, and the data was not: no older copy has a later write to the very znode that was agreed on.
            Some(agreed) if znode.is_some() && agreed.is_followed_by(version) => (true, false),
            Some(_) => (true, version.mzxid <= seen.ensemble.since_zxid),
        },
    };
    let key = match seen.key {
        Key::AsBase => base.and_then(|base| base.redis),
        Key::Absent(_) => None,
        Key::Present { digest, .. } => Some(digest),
    };
    let key_changed = seen.key != Key::AsBase && key != base.and_then(|base| base.redis);
    Sides { znode, znode_changed, znode_lost, key, key_changed }
}

/// Both sides hold the same: is there anything to note?
fn agree(seen: &Observation, sides: &Sides) -> Action {
    let Some(base) = seen.base else {
        return if sides.znode.is_some() { Action::Agree } else { Action::Nothing };
    };
    if sides.znode.is_none() {
        return Action::Forget;
    }
    let version_noted = match seen.znode {
        Znode::AsBase => true,
        Znode::Absent(_) => false,
        Znode::Present { version, ephemeral, .. } => {
            base.zookeeper == Some(version) && base.ephemeral == ephemeral && base.ensemble == seen.ensemble.id
        }
    };
    let key_noted = match seen.key {
        Key::AsBase => true,
        Key::Absent(_) => false,
        Key::Present { expires_ms, .. } => !sides.key_changed && base.expires_ms == expires_ms && !base.lost,
    };
    if version_noted && key_noted && !base.apart && !base.unverified { Action::Nothing } else { Action::Agree }
}

/// The ensemble lost the znode or holds an older state of it: a loss is restored, never followed.
fn restore_znode(ways: Ways, sides: &Sides) -> Action {
    let is_two_way = match ways {
        Ways::From(Side::Zookeeper) => return Action::Lost(Side::Zookeeper),
        Ways::From(Side::Redis) => false,
        Ways::Both(_) => true,
    };
    let verdict = Verdict { winner: Side::Redis, reason: ENSEMBLE_LOST };
    match (sides.key, sides.znode) {
        (Some(_), Some(_)) => Action::ToZookeeper(Some(verdict)),
        (Some(_), None) => Action::ToZookeeper(None),
        // The key went as well: what is left is the older value, and a delete never results from a loss.
        (None, Some(_)) if is_two_way => Action::ToRedis(None),
        (None, _) => Action::Lost(Side::Zookeeper),
    }
}

fn from_zookeeper(policy: &Policy, seen: &Observation, sides: &Sides, is_ephemeral: bool) -> Action {
    let reason = if is_ephemeral { EPHEMERAL_DECIDES } else { SOURCE_DECIDES };
    let drifted = sides.key.is_some() && (sides.key_changed || seen.base.is_none());
    let verdict = drifted.then_some(Verdict { winner: Side::Zookeeper, reason });
    // An emptied znode is kept apart as well, and has a version that says so.
    if !sides.znode_changed && !sides.key_changed && seen.base.is_some_and(|base| base.apart) {
        return Action::Nothing;
    }
    if sides.znode.is_some() {
        return Action::ToRedis(verdict);
    }
    // Only the key exists: deleted at the source, or never there.
    if seen.base.is_none_or(|base| base.zookeeper.is_none()) {
        return Action::Nothing;
    }
    if policy.on_delete == OnRemoval::Keep && !is_ephemeral { Action::KeepApart } else { Action::ToRedis(verdict) }
}

fn from_redis(policy: &Policy, seen: &Observation, sides: &Sides) -> Action {
    let drifted = sides.znode.is_some() && (sides.znode_changed || seen.base.is_none());
    let verdict = drifted.then_some(Verdict { winner: Side::Redis, reason: SOURCE_DECIDES });
    if sides.key.is_some() {
        return match seen.base {
            // Left at an older state, whatever becomes of the znode.
            Some(base) if base.apart && base.unverified && !sides.key_changed => Action::Lost(Side::Redis),
            Some(base) if base.apart && !sides.znode_changed && !sides.key_changed => Action::Nothing,
            Some(_) if sides.znode_changed && !sides.key_changed && may_be_older(seen.key) => Action::Leave,
            _ => Action::ToZookeeper(verdict),
        };
    }
    if seen.base.is_none_or(|base| base.redis.is_none()) {
        return Action::Nothing;
    }
    match removal(seen) {
        Removal::Lost => Action::Lost(Side::Redis),
        Removal::Deleted if policy.on_delete == OnRemoval::Keep => Action::KeepApart,
        Removal::Expired if policy.on_expire == OnRemoval::Keep => Action::KeepApart,
        Removal::Deleted | Removal::Expired => Action::ToZookeeper(verdict),
    }
}

fn may_be_older(key: Key) -> bool {
    matches!(key, Key::Present { may_be_older: true, .. })
}

fn both(policy: &Policy, first: Side, seen: &Observation, sides: &Sides) -> Action {
    let Some(_) = seen.base else {
        return match (sides.znode, sides.key) {
            (Some(_), None) => Action::ToRedis(None),
            (None, Some(_)) => Action::ToZookeeper(None),
            _ => conflict(policy, first, seen),
        };
    };
    match (sides.znode_changed, sides.key_changed) {
        (false, false) => Action::Nothing,
        (true, false) if sides.znode.is_some() => Action::ToRedis(None),
        (true, false) => match policy.on_delete {
            OnRemoval::Keep => Action::KeepApart,
            OnRemoval::Propagate => Action::ToRedis(None),
        },
        (false, true) if sides.key.is_some() => Action::ToZookeeper(None),
        (false, true) => match removal(seen) {
            Removal::Lost => Action::ToRedis(None),
            Removal::Deleted if policy.on_delete == OnRemoval::Keep => Action::KeepApart,
            Removal::Expired if policy.on_expire == OnRemoval::Keep => Action::KeepApart,
            Removal::Deleted | Removal::Expired => Action::ToZookeeper(None),
        },
        (true, true) => match (sides.znode, sides.key) {
            (Some(_), None) if removal(seen) == Removal::Lost => Action::ToRedis(None),
            (Some(_), None) => Action::ToRedis(Some(Verdict { winner: Side::Zookeeper, reason: DELETE_LOSES })),
            (None, Some(_)) => Action::ToZookeeper(Some(Verdict { winner: Side::Redis, reason: DELETE_LOSES })),
            _ => conflict(policy, first, seen),
        },
    }
}

/// The side that has lost what the base says it held, or came back at an older state, without anybody having changed it. `None` also
/// if there is no base.
#[must_use]
pub fn lost(seen: &Observation) -> Option<Side> {
    let had_key = seen.base.is_some_and(|base| base.redis.is_some());
    match seen.key {
        _ if compare(seen).znode_lost => Some(Side::Zookeeper),
        Key::Absent(_) if had_key && removal(seen) == Removal::Lost => Some(Side::Redis),
        Key::Present { may_be_older: true, .. } => Some(Side::Redis),
        _ => None,
    }
}

/// Why a key is gone. What was seen decides; else a loss that was found before; else its recorded expiry; else it is a delete only
/// where nothing else can explain it. An older state expires by a time of then, whoever sees it.
fn removal(seen: &Observation) -> Removal {
    let Key::Absent(vanished) = seen.key else {
        return Removal::Lost;
    };
    let is_older = vanished.older || seen.base.is_some_and(|base| base.apart && base.unverified);
    match vanished.seen {
        Some(Removal::Expired) if is_older => return Removal::Lost,
        Some(removal) => return removal,
        None => {}
    }
    if seen.base.is_some_and(|base| base.lost) {
        return Removal::Lost;
    }
    match seen.base.and_then(|base| base.expires_ms) {
        Some(expires_ms) if expires_ms <= vanished.now_ms && !is_older => Removal::Expired,
        _ if vanished.intact => Removal::Deleted,
        _ => Removal::Lost,
    }
}

/// Both sides hold a value that the other never had.
fn conflict(policy: &Policy, first: Side, seen: &Observation) -> Action {
    let verdict = match policy.on_conflict {
        OnConflict::Quarantine => return Action::Quarantine,
        OnConflict::Prefer(winner) => Verdict { winner, reason: "the route prefers this store" },
        OnConflict::Latest => latest(first, seen),
        OnConflict::HigherVersion => higher_version(first, seen),
    };
    match verdict.winner {
        Side::Zookeeper => Action::ToRedis(Some(verdict)),
        Side::Redis => Action::ToZookeeper(Some(verdict)),
    }
}

/// [`Seen::doubt_ms`] where a clock was set between two times.
pub const CLOCK_WAS_SET: i64 = i64::MAX;

fn latest(first: Side, seen: &Observation) -> Verdict {
    let (Znode::Present { mtime_ms, .. }, Some(redis_ms)) = (seen.znode, seen.seen.redis_ms) else {
        let reason = "no worker watched when Redis changed, so the store named first in `flow` wins";
        return Verdict { winner: first, reason };
    };
    if seen.seen.doubt_ms == CLOCK_WAS_SET {
        let reason = "a clock was set between the two changes, so the store named first in `flow` wins";
        return Verdict { winner: first, reason };
    }
    let ahead = mtime_ms.saturating_sub(redis_ms);
    if ahead.abs() <= seen.seen.doubt_ms {
        let reason = "the two times are too close to tell, so the store named first in `flow` wins";
        return Verdict { winner: first, reason };
    }
    if ahead > 0 {
        Verdict { winner: Side::Zookeeper, reason: "the znode's mtime is later" }
    } else {
        Verdict { winner: Side::Redis, reason: "the key was seen to change later" }
    }
}

fn higher_version(first: Side, seen: &Observation) -> Verdict {
    let agreed = seen.base.and_then(|base| base.zookeeper);
    let znode_writes = match (seen.znode, agreed) {
        (Znode::Present { version, .. }, Some(agreed)) if agreed.czxid == version.czxid => {
            Some(i64::from(version.version.wrapping_sub(agreed.version)))
        }
        _ => None,
    };
    let (Some(znode_writes), Some(redis_writes)) = (znode_writes, seen.seen.redis_writes) else {
        let reason = "the changes could not all be counted, so the store named first in `flow` wins";
        return Verdict { winner: first, reason };
    };
    match znode_writes.cmp(&i64::from(redis_writes)) {
        std::cmp::Ordering::Greater => Verdict { winner: Side::Zookeeper, reason: "the znode has more writes" },
        std::cmp::Ordering::Less => Verdict { winner: Side::Redis, reason: "the key has more writes" },
        std::cmp::Ordering::Equal => {
            let reason = "both sides have as many writes, so the store named first in `flow` wins";
            Verdict { winner: first, reason }
        }
    }
}
