//! `plan()` on arbitrary triples of base, znode and key, under arbitrary rules.

use super::draw::Draw;
use keepstep::change::{Digest, Side, ZkVersion};
use keepstep::plan::{
    Action, Base, Ensemble, Ephemeral, Flow, Key, Observation, OnConflict, OnRemoval, Policy, Removal, Seen, Vanished,
    Znode, agreed, plan,
};

/// Every base is of this path.
const PATH: u32 = 3;

const SIDES: [Side; 2] = [Side::Zookeeper, Side::Redis];

pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    let policy = policy(&mut draw);
    let seen = observation(&mut draw);
    let action = plan(&policy, &seen);
    let context = || format!("{action:?}\nof {policy:?}\n{seen:#?}");
    assert_eq!(plan(&policy, &seen), action, "not a function: {}", context());
    stays_on_its_way(&policy, &seen, action, &context);
    deletes_with_reason(&seen, action, &context);
    replaces_with_reason(&seen, action, &context);
    if seen.znode != Znode::AsBase && seen.key != Key::AsBase {
        rests(&policy, &seen, action, &context);
    }
}

/// If nobody else does anything, no further value is written: what cannot be done stays so, all else is in step, at most after one
/// more note (an empty value whose key was deleted and is kept apart stands for nothing, and is forgotten).
fn rests(policy: &Policy, seen: &Observation, action: Action, context: &dyn Fn() -> String) {
    let next = after(seen, action);
    let again = plan(policy, &next);
    let rests = match (action, again) {
        (Action::Quarantine | Action::NotOurs | Action::Lost(_) | Action::Record(_), again) => again == action,
        (Action::Leave, again) => again == Action::Lost(Side::Redis),
        (Action::KeepApart, Action::Forget) => plan(policy, &after(&next, again)) == Action::Nothing,
        (_, again) => again == Action::Nothing,
    };
    assert!(rests, "no rest: then {again:?}\nof {next:#?}\nafter {}", context());
}

fn policy(draw: &mut Draw<'_>) -> Policy {
    let side = draw.one_of(&SIDES);
    let removal = [OnRemoval::Propagate, OnRemoval::Keep];
    Policy {
        flow: draw.one_of(&[Flow::Both(side), Flow::From(side), Flow::Capture(side)]),
        on_conflict: draw.one_of(&[
            OnConflict::Prefer(Side::Zookeeper),
            OnConflict::Prefer(Side::Redis),
            OnConflict::Latest,
            OnConflict::HigherVersion,
            OnConflict::Quarantine,
        ]),
        on_delete: draw.one_of(&removal),
        on_expire: draw.one_of(&removal),
        ephemeral: draw.one_of(&[Ephemeral::Mirror, Ephemeral::Skip]),
    }
}

fn digest(draw: &mut Draw<'_>) -> Digest {
    draw.one_of(&[Digest::EMPTY, Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")])
}

fn version(draw: &mut Draw<'_>) -> ZkVersion {
    let czxid = i64::from(draw.one_of(&[1_u8, 5, 20]));
    ZkVersion {
        czxid,
        mzxid: czxid + i64::from(draw.below(12)),
        version: draw.one_of(&[0, 1, 2, -2, i32::MAX, i32::MIN]),
    }
}

fn observation(draw: &mut Draw<'_>) -> Observation {
    let base = draw.maybe(|draw| Base {
        sequence: u32::from(draw.byte()),
        zookeeper: draw.maybe(version),
        redis: draw.maybe(digest),
        expires_ms: draw.maybe(|draw| i64::from(draw.byte()) * 100),
        ephemeral: draw.below(4) == 1,
        apart: draw.below(4) == 1,
        unverified: draw.below(4) == 1,
        lost: draw.below(4) == 1,
        left: draw.below(8) == 1,
        path_id: PATH,
        ensemble: u32::from(draw.below(2)),
    });
    // A base that is not kept apart says that both sides had it, or that there is nothing.
    let base = base.map(|base| match (base.apart, base.zookeeper, base.redis) {
        (false, None, _) | (false, _, None) => Base {
            zookeeper: Some(base.zookeeper.unwrap_or(ZkVersion { czxid: 5, mzxid: 6, version: 1 })),
            redis: Some(base.redis.unwrap_or(Digest::EMPTY)),
            ..base
        },
        _ => base,
    });
    let znode = match draw.below(8) {
        0 => Znode::AsBase,
        1 | 2 => Znode::Absent(if draw.flag() { i64::MAX } else { i64::from(draw.below(40)) }),
        3 if base.and_then(|base| base.zookeeper).is_some() => Znode::Present {
            version: base.and_then(|base| base.zookeeper).expect("it was just asked"),
            digest: base.and_then(|base| base.redis).unwrap_or(Digest::of(b"a")),
            ephemeral: base.is_some_and(|base| base.ephemeral),
            mtime_ms: 500,
        },
        _ => Znode::Present {
            version: version(draw),
            digest: digest(draw),
            ephemeral: draw.below(4) == 1,
            mtime_ms: i64::from(draw.byte()) * 10,
        },
    };
    let key = match draw.below(6) {
        0 => Key::AsBase,
        1 | 2 => Key::Absent(Vanished {
            seen: draw.maybe(|draw| draw.one_of(&[Removal::Deleted, Removal::Expired, Removal::Lost])),
            now_ms: i64::from(draw.byte()) * 100,
            intact: draw.flag(),
            older: draw.flag(),
        }),
        _ => Key::Present {
            digest: digest(draw),
            expires_ms: draw.maybe(|draw| i64::from(draw.byte()) * 100),
            may_be_older: draw.flag(),
        },
    };
    Observation {
        base,
        znode,
        key,
        ensemble: Ensemble { id: u32::from(draw.below(2)), since_zxid: i64::from(draw.below(30)) },
        seen: Seen {
            redis_ms: draw.maybe(|draw| i64::from(draw.byte()) * 10),
            doubt_ms: 100,
            redis_writes: draw.maybe(|draw| u32::from(draw.below(4))),
        },
    }
}

/// The value that the znode stands for.
fn znode_value(seen: &Observation) -> Option<Digest> {
    let stands_for_empty =
        seen.base.is_some_and(|base| base.redis == Some(Digest::EMPTY) && base.zookeeper.is_some() && !base.apart);
    match seen.znode {
        Znode::AsBase => seen.base.and_then(|base| base.redis),
        Znode::Absent(_) => None,
        Znode::Present { digest, ephemeral, .. } => {
            (digest != Digest::EMPTY || ephemeral || stands_for_empty).then_some(digest)
        }
    }
}

fn key_value(seen: &Observation) -> Option<Digest> {
    match seen.key {
        Key::AsBase => seen.base.and_then(|base| base.redis),
        Key::Absent(_) => None,
        Key::Present { digest, .. } => Some(digest),
    }
}

/// Nothing goes where no flow leads, and a verdict names the side that is written from.
fn stays_on_its_way(policy: &Policy, seen: &Observation, action: Action, context: &dyn Fn() -> String) {
    let is_ephemeral = match seen.znode {
        Znode::Present { ephemeral, .. } => ephemeral,
        // One that is gone is in the way of no key.
        Znode::Absent(_) if policy.flow == Flow::From(Side::Redis) => false,
        Znode::Absent(_) | Znode::AsBase => seen.base.is_some_and(|base| base.ephemeral),
    };
    let is_left_alone = is_ephemeral && policy.ephemeral == Ephemeral::Skip;
    if let Flow::Capture(side) = policy.flow {
        let does = if is_left_alone { Action::Nothing } else { Action::Record(side) };
        assert_eq!(action, does, "a capture records, and writes nothing: {}", context());
    }
    assert!(!matches!(action, Action::Record(side) if policy.flow != Flow::Capture(side)), "{}", context());
    let (to, from, verdict) = match action {
        Action::ToRedis(verdict) => (Side::Redis, Side::Zookeeper, verdict),
        Action::ToZookeeper(verdict) => (Side::Zookeeper, Side::Redis, verdict),
        _ => return,
    };
    assert!(policy.flow.leads_to(to), "against the flow: {}", context());
    assert!(verdict.is_none_or(|verdict| verdict.winner == from && !verdict.reason.is_empty()), "{}", context());
    assert!(!(is_ephemeral && to == Side::Zookeeper), "an ephemeral is its session's: {}", context());
    assert!(!is_left_alone, "it is not mapped: {}", context());
}

/// No base, no delete; and a loss is no delete.
fn deletes_with_reason(seen: &Observation, action: Action, context: &dyn Fn() -> String) {
    let deletes = match action {
        Action::ToRedis(_) => znode_value(seen).is_none() && key_value(seen).is_some(),
        Action::ToZookeeper(_) => key_value(seen).is_none() && znode_value(seen).is_some(),
        _ => false,
    };
    if !deletes {
        return;
    }
    let base = seen.base.unwrap_or_else(|| panic!("a delete without a base: {}", context()));
    if let (Action::ToZookeeper(_), Key::Absent(vanished)) = (action, seen.key) {
        let has_expired = base.expires_ms.is_some_and(|expires_ms| expires_ms <= vanished.now_ms);
        let is_lost = match vanished.seen {
            Some(removal) => removal == Removal::Lost || (removal == Removal::Expired && vanished.older),
            None => (!has_expired || vanished.older) && !vanished.intact,
        };
        assert!(!is_lost, "a loss of Redis became a delete: {}", context());
    }
    if let Action::ToRedis(_) = action {
        assert!(base.zookeeper.is_some(), "ZooKeeper had nothing that could be deleted: {}", context());
        let agreed_at = base.zookeeper.map_or(0, |agreed| agreed.mzxid);
        let is_lost = matches!(seen.znode, Znode::Absent(gone_zxid)
            if base.ensemble != seen.ensemble.id || gone_zxid < agreed_at);
        assert!(!is_lost, "a loss of the ensemble became a delete: {}", context());
    }
}

/// A value that is replaced by another was the base's, or there is a verdict that puts it into the conflict log.
fn replaces_with_reason(seen: &Observation, action: Action, context: &dyn Fn() -> String) {
    let agreed = seen.base.and_then(|base| base.redis);
    match (action, seen.key, seen.znode) {
        (Action::ToRedis(None), Key::Present { digest, .. }, _) if znode_value(seen) != Some(digest) => {
            assert!(Some(digest) == agreed, "the key's value is nowhere: {}", context());
        }
        (Action::ToZookeeper(None), _, Znode::Present { version, digest, .. })
            if znode_value(seen).is_some() && key_value(seen) != Some(digest) =>
        {
            let is_the_bases = seen.base.is_some_and(|base| {
                let is_same = base.zookeeper.is_some_and(|agreed| agreed.is_same_write(version));
                is_same && base.ensemble == seen.ensemble.id
            });
            assert!(is_the_bases || Some(digest) == agreed, "the znode's value is nowhere: {}", context());
        }
        _ => {}
    }
}

/// The next full observation, if nobody but us does anything.
fn after(seen: &Observation, action: Action) -> Observation {
    let next = agreed(seen, PATH, false);
    let absent = Key::Absent(Vanished { seen: None, now_ms: 0, intact: true, older: false });
    let mut then = *seen;
    match action {
        Action::Nothing | Action::Quarantine | Action::NotOurs | Action::Lost(_) | Action::Record(_) => {}
        Action::Agree => then.base = Some(next),
        Action::KeepApart => then.base = Some(Base { apart: true, ..next }),
        Action::Leave => then.base = Some(Base { apart: true, unverified: true, lost: true, ..next }),
        Action::Forget => then.base = None,
        Action::ToRedis(_) => match (seen.znode, znode_value(seen)) {
            (Znode::Present { version, ephemeral, .. }, Some(value)) => {
                then.key = Key::Present { digest: value, expires_ms: None, may_be_older: false };
                then.base =
                    Some(Base { zookeeper: Some(version), redis: Some(value), expires_ms: None, ephemeral, ..next });
            }
            _ => (then.key, then.base) = (absent, None),
        },
        Action::ToZookeeper(_) => match seen.key {
            Key::Present { digest, expires_ms, .. } => {
                let version = ZkVersion { czxid: 90, mzxid: 99, version: 7 };
                then.znode = Znode::Present { version, digest, ephemeral: false, mtime_ms: 9_000 };
                then.base =
                    Some(Base { zookeeper: Some(version), redis: Some(digest), expires_ms, ephemeral: false, ..next });
            }
            Key::Absent(_) | Key::AsBase => (then.znode, then.key, then.base) = (Znode::Absent(100), absent, None),
        },
    }
    then
}
