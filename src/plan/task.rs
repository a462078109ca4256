//! From an action to what is done: the write with the state that it expects and the base that follows, or a reason to look
//! again first.

use super::{Action, Base, Flow, Key, Observation, OnConflict, Policy, Verdict, Znode};
use crate::change::{Digest, Side, ZkVersion};

/// What a write does to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyOp {
    /// Set it.
    Set,
    /// Remove it.
    Delete,
    /// Touch the sidecar only.
    Note,
}

/// What a write does to a znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZnodeOp {
    /// It must not exist; missing ancestors are created empty.
    Create,
    /// It must have this dataVersion.
    Set(i32),
    /// It must have this dataVersion. A znode with children is emptied instead.
    Delete(i32),
}

/// What is to be done for one pair, once the stream has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// In Redis.
    Redis {
        /// What is done.
        op: KeyOp,
        /// The value that must be there (not looked at by a note); `None`: no key.
        expect: Option<Digest>,
        /// The base to leave; `None`: none.
        base: Option<Base>,
    },
    /// In ZooKeeper, and then the base in Redis.
    Znode {
        /// What is done.
        op: ZnodeOp,
        /// The base to leave, but for the zxids that only the transaction gives; after a delete its sequence only.
        base: Base,
    },
}

/// What goes on the stream before a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Nothing.
    Nothing,
    /// That both sides were found to agree anew.
    Agreed,
    /// The change of this side, with the loser if a conflict was settled.
    Change(Side, Option<Verdict>),
}

/// Why a pair is looked at again before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Something was not read that is needed: at once.
    Read,
    /// The rule asks when or how often the key changed, and its event may still be on its way.
    Event,
    /// The key was just evicted, and would be again.
    Evicted,
}

/// What is done for one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is in step, or not ours to touch.
    Nothing,
    /// This side lost its data and nothing leads there; that is noted.
    Lost(Side),
    /// A conflict that nobody may settle.
    Quarantine,
    /// The key stands for an ephemeral znode that this route may not write.
    NotOurs,
    /// Look again, at both sides.
    Again(Wait),
    /// A delete that nobody saw happen: counted before it is carried out.
    Guarded,
    /// This side is captured: put what it holds on the stream, if it is not there, and write nothing.
    Record(Side),
    /// Put this on the stream, then do it.
    Do(Record, Task),
}

/// On which sides an event told of what is there now. That a value is gone is inferred where none did, whoever looks: a comparison,
/// or a round to which one left the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reported {
    /// The znode's.
    pub znode: bool,
    /// The key's.
    pub key: bool,
}

/// What a step depends on besides policy and observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// The key's bytes were read.
    pub has_value: bool,
    /// The last event of the key was an eviction.
    pub was_evicted: bool,
    /// The pair has waited for an event, or after an eviction, already.
    pub has_waited: bool,
    /// A comparison found it.
    pub comparing: bool,
    /// What was seen as it happened.
    pub reported: Reported,
    /// Deletes that nobody saw are counted first, and this one was not approved.
    pub guards_deletes: bool,
    /// The key was named, so it may not be as the base has it.
    pub key_named: bool,
    /// Events of the key arrive.
    pub hears_redis: bool,
    /// Name of the path ([`super::path_id`]).
    pub path_id: u32,
}

/// What an action of [`super::plan`] comes to.
#[must_use]
pub fn step(action: Action, policy: &Policy, seen: &Observation, about: &Circumstances) -> Step {
    // A write finds out by its compare-and-set that the key is not as it was assumed; nothing else would.
    let is_write = matches!(action, Action::ToRedis(_) | Action::ToZookeeper(_));
    if about.key_named && seen.key == Key::AsBase && !is_write {
        return Step::Again(Wait::Read);
    }
    match action {
        Action::Nothing => Step::Nothing,
        Action::Lost(side) => lost(side, seen),
        Action::Record(side) => Step::Record(side),
        Action::Quarantine => Step::Quarantine,
        Action::NotOurs => Step::NotOurs,
        Action::Agree => Step::Do(Record::Agreed, note(Some(agreed(seen, about.path_id, false)))),
        Action::Forget => Step::Do(Record::Nothing, note(None)),
        Action::KeepApart => Step::Do(Record::Nothing, note(Some(kept_apart(policy.flow, seen, about.path_id)))),
        Action::Leave => {
            let base = Base { unverified: true, lost: true, ..agreed(seen, about.path_id, true) };
            Step::Do(Record::Nothing, note(Some(base)))
        }
        Action::ToRedis(verdict) => to_redis(policy, seen, about, verdict),
        Action::ToZookeeper(verdict) => to_zookeeper(policy, seen, about, verdict),
    }
}

/// What Redis lost is noted in the base first: what is concluded of Redis as a whole, now or by a later owner, must not make a delete
/// of it. What the ensemble lost is told by the lineage in the base.
fn lost(side: Side, seen: &Observation) -> Step {
    match seen.base {
        Some(base) if side == Side::Redis && !base.lost => {
            let noted = Base { sequence: base.sequence.wrapping_add(1), lost: true, ..base };
            Step::Do(Record::Nothing, note(Some(noted)))
        }
        _ => Step::Lost(side),
    }
}

fn to_redis(policy: &Policy, seen: &Observation, about: &Circumstances, verdict: Option<Verdict>) -> Step {
    let (version, digest, ephemeral) = match seen.znode {
        Znode::AsBase => return Step::Again(Wait::Read),
        Znode::Absent(_) => return delete_key(seen, about, verdict),
        Znode::Present { version, digest, ephemeral, .. } => (version, digest, ephemeral),
    };
    let is_emptied = digest == Digest::EMPTY && !ephemeral && seen.base.is_none_or(|base| base.redis != Some(digest));
    if is_emptied {
        return delete_key(seen, about, verdict);
    }
    if must_wait(policy, seen, about, verdict) {
        return Step::Again(Wait::Event);
    }
    if about.was_evicted && !about.has_waited && verdict.is_none() {
        return Step::Again(Wait::Evicted);
    }
    // The loser's value is needed for the conflict log.
    if verdict.is_some() && matches!(seen.key, Key::AsBase | Key::Present { .. }) && !about.has_value {
        return Step::Again(Wait::Read);
    }
    let base = Base { zookeeper: Some(version), redis: Some(digest), ephemeral, ..next_base(seen, about.path_id) };
    let task = Task::Redis { op: KeyOp::Set, expect: expected_key(seen), base: Some(base) };
    Step::Do(Record::Change(Side::Zookeeper, verdict), task)
}

fn delete_key(seen: &Observation, about: &Circumstances, verdict: Option<Verdict>) -> Step {
    let is_ephemeral = seen.base.is_some_and(|base| base.ephemeral);
    if about.guards_deletes && !about.reported.znode && !is_ephemeral {
        return Step::Guarded;
    }
    if verdict.is_some() && !about.has_value {
        return Step::Again(Wait::Read);
    }
    let task = Task::Redis { op: KeyOp::Delete, expect: expected_key(seen), base: None };
    Step::Do(Record::Change(Side::Zookeeper, verdict), task)
}

fn to_zookeeper(policy: &Policy, seen: &Observation, about: &Circumstances, verdict: Option<Verdict>) -> Step {
    let agreed = seen.base.and_then(|base| base.zookeeper);
    let (digest, expires_ms) = match seen.key {
        Key::AsBase => return Step::Again(Wait::Read),
        Key::Present { .. } if !about.has_value => return Step::Again(Wait::Read),
        Key::Absent(_) => (None, None),
        Key::Present { digest, expires_ms, .. } => (Some(digest), expires_ms),
    };
    if must_wait(policy, seen, about, verdict) {
        return Step::Again(Wait::Event);
    }
    // The loser's value is needed for the conflict log.
    if verdict.is_some() && seen.znode == Znode::AsBase {
        return Step::Again(Wait::Read);
    }
    let expected = match seen.znode {
        Znode::Present { version, .. } => Some(version),
        Znode::Absent(_) => None,
        Znode::AsBase => agreed,
    };
    let op = match (digest, expected) {
        (Some(_), Some(version)) => ZnodeOp::Set(version.version),
        (Some(_), None) => ZnodeOp::Create,
        (None, Some(version)) => ZnodeOp::Delete(version.version),
        (None, None) => return Step::Do(Record::Nothing, note(None)),
    };
    if digest.is_none() && about.guards_deletes && !about.reported.key {
        return Step::Guarded;
    }
    let czxid = expected.map_or(0, |version| version.czxid);
    let version = expected.map_or(0, |version| match version.version.wrapping_add(1) {
        // -1 means "any version" to ZooKeeper, which skips it (ZOOKEEPER PR #2064).
        -1 => 0,
        next => next,
    });
    let zookeeper = Some(ZkVersion { czxid, mzxid: 0, version });
    let base = Base { zookeeper, redis: digest, expires_ms, ..next_base(seen, about.path_id) };
    Step::Do(Record::Change(Side::Redis, verdict), Task::Znode { op, base })
}

/// Whether a rule asks when or how often the key changed, and that may become known in a moment.
fn must_wait(policy: &Policy, seen: &Observation, about: &Circumstances, verdict: Option<Verdict>) -> bool {
    let asks = match policy.on_conflict {
        OnConflict::Latest => seen.seen.redis_ms.is_none(),
        OnConflict::HigherVersion => seen.seen.redis_writes == Some(0),
        OnConflict::Prefer(_) | OnConflict::Quarantine => false,
    };
    verdict.is_some() && asks && !about.has_waited && !about.comparing && about.hears_redis
}

/// The task that touches the sidecar only.
#[must_use]
pub fn note(base: Option<Base>) -> Task {
    Task::Redis { op: KeyOp::Note, expect: None, base }
}

/// The base that names the states as they are.
#[must_use]
pub fn agreed(seen: &Observation, path_id: u32, apart: bool) -> Base {
    let base = seen.base;
    let (zookeeper, ephemeral) = match seen.znode {
        Znode::Present { version, ephemeral, .. } => (Some(version), ephemeral),
        Znode::Absent(_) => (None, false),
        Znode::AsBase => (base.and_then(|base| base.zookeeper), base.is_some_and(|base| base.ephemeral)),
    };
    let (redis, expires_ms) = match seen.key {
        Key::Present { digest, expires_ms, .. } => (Some(digest), expires_ms),
        Key::Absent(_) => (None, None),
        Key::AsBase => (base.and_then(|base| base.redis), base.and_then(|base| base.expires_ms)),
    };
    // A key that was not looked at is still the one that was lost.
    let lost = seen.key == Key::AsBase && base.is_some_and(|base| base.lost);
    Base { zookeeper, redis, expires_ms, ephemeral, apart, lost, ..next_base(seen, path_id) }
}

/// The base of a pair that is kept apart. On a one-way route the destination's state stays as it was agreed: what somebody else
/// wrote there meanwhile was not, and goes on record when the source replaces it.
fn kept_apart(flow: Flow, seen: &Observation, path_id: u32) -> Base {
    let left = seen.base.is_some_and(|base| base.left);
    let now = Base { left, ..agreed(seen, path_id, true) };
    match (flow, seen.base) {
        (Flow::From(Side::Redis), Some(base)) => Base { zookeeper: base.zookeeper, ..now },
        (Flow::From(Side::Zookeeper), Some(base)) => Base { redis: base.redis, expires_ms: base.expires_ms, ..now },
        _ => now,
    }
}

/// A base that follows the one seen, with nothing in it yet.
fn next_base(seen: &Observation, path_id: u32) -> Base {
    Base {
        sequence: seen.base.map_or(0, |base| base.sequence).wrapping_add(1),
        zookeeper: None,
        redis: None,
        expires_ms: None,
        ephemeral: false,
        apart: false,
        unverified: false,
        left: false,
        lost: false,
        path_id,
        ensemble: seen.ensemble.id,
    }
}

/// The digest that must be found in the key.
fn expected_key(seen: &Observation) -> Option<Digest> {
    match seen.key {
        Key::AsBase => seen.base.and_then(|base| base.redis),
        Key::Absent(_) => None,
        Key::Present { digest, .. } => Some(digest),
    }
}
