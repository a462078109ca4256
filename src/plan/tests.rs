//! The decision table, row by row.

use super::*;
use crate::change::{Digest, Side, ZkVersion};

const ENSEMBLE: Ensemble = Ensemble { id: 7, since_zxid: 10 };
const ABSENT: Znode = Znode::Absent(i64::MAX);

fn policy(flow: Flow) -> Policy {
    Policy {
        flow,
        on_conflict: OnConflict::Prefer(Side::Zookeeper),
        on_delete: OnRemoval::Propagate,
        on_expire: OnRemoval::Propagate,
        ephemeral: Ephemeral::Mirror,
    }
}

fn two_way() -> Policy {
    policy(Flow::Both(Side::Zookeeper))
}

fn version(mzxid: i64) -> ZkVersion {
    ZkVersion { czxid: 20, mzxid, version: i32::try_from(mzxid).unwrap_or(0) - 20 }
}

fn znode(mzxid: i64, value: &[u8]) -> Znode {
    Znode::Present { version: version(mzxid), digest: Digest::of(value), ephemeral: false, mtime_ms: 1_000 }
}

fn key(value: &[u8]) -> Key {
    Key::Present { digest: Digest::of(value), expires_ms: None, may_be_older: false }
}

fn gone(seen: Option<Removal>) -> Key {
    Key::Absent(Vanished { seen, now_ms: 5_000, intact: true, older: false })
}

fn base(mzxid: i64, value: &[u8]) -> Option<Base> {
    Some(Base {
        sequence: 1,
        zookeeper: Some(version(mzxid)),
        redis: Some(Digest::of(value)),
        expires_ms: None,
        ephemeral: false,
        apart: false,
        unverified: false,
        left: false,
        lost: false,
        path_id: 3,
        ensemble: 7,
    })
}

fn observe(base: Option<Base>, znode: Znode, key: Key) -> Observation {
    Observation { base, znode, key, ensemble: ENSEMBLE, seen: Seen::default() }
}

fn decide(base: Option<Base>, znode: Znode, key: Key) -> Action {
    plan(&two_way(), &observe(base, znode, key))
}

fn winner(action: Action) -> Option<Side> {
    match action {
        Action::ToRedis(Some(verdict)) | Action::ToZookeeper(Some(verdict)) => Some(verdict.winner),
        _ => None,
    }
}

#[test]
fn an_expiry_of_an_older_data_set_is_a_loss() {
    let expiring = base(30, b"a").map(|base| Base { expires_ms: Some(4_000), ..base });
    for seen in [None, Some(Removal::Expired)] {
        let gone = |older| Key::Absent(Vanished { seen, now_ms: 5_000, intact: false, older });
        assert_eq!(decide(expiring, znode(30, b"a"), gone(false)), Action::ToZookeeper(None), "it has expired");
        assert_eq!(decide(expiring, znode(30, b"a"), gone(true)), Action::ToRedis(None), "by a time of then");
    }
    let deleted = Key::Absent(Vanished { seen: Some(Removal::Deleted), now_ms: 5_000, intact: false, older: true });
    assert_eq!(decide(expiring, znode(30, b"a"), deleted), Action::ToZookeeper(None), "an application did it");
}

#[test]
fn a_key_that_is_back_at_an_older_state_leaves_the_znode_until_it_changes() {
    let from_redis = policy(Flow::From(Side::Redis));
    let older = |value| Key::Present { digest: Digest::of(value), expires_ms: None, may_be_older: true };
    for znode in [znode(31, b"newer"), ABSENT] {
        let seen = observe(base(30, b"a"), znode, older(b"a"));
        assert_eq!(plan(&from_redis, &seen), Action::Leave, "{znode:?}");
        let left = Base { apart: true, unverified: true, lost: true, ..agreed(&seen, 3, true) };
        // Whatever is known by then, and whatever becomes of the znode.
        for (znode, key) in [(znode, key(b"a")), (znode, older(b"a")), (super::tests::znode(32, b"drift"), key(b"a"))] {
            let lost = Action::Lost(Side::Redis);
            assert_eq!(plan(&from_redis, &observe(Some(left), znode, key)), lost, "{znode:?}");
        }
        let expired = Vanished { seen: Some(Removal::Expired), now_ms: 5_000, intact: true, older: false };
        let expired = observe(Some(left), znode, Key::Absent(expired));
        assert!(matches!(plan(&from_redis, &expired), Action::Lost(_) | Action::Forget), "of then: {znode:?}");
        let changed = plan(&from_redis, &observe(Some(left), znode, key(b"b")));
        match znode {
            Znode::Absent(_) => assert_eq!(changed, Action::ToZookeeper(None)),
            _ => assert_eq!(winner(changed), Some(Side::Redis), "what it replaces goes on record"),
        }
    }
    let drifted = observe(base(30, b"a"), znode(31, b"b"), key(b"a"));
    assert_eq!(winner(plan(&from_redis, &drifted)), Some(Side::Redis), "a change at the destination is reverted");
    let both = observe(base(30, b"a"), znode(31, b"b"), older(b"a"));
    assert_eq!(plan(&two_way(), &both), Action::ToRedis(None), "where a flow leads to Redis it is restored");
}

#[test]
fn an_echo_plans_to_nothing() {
    assert_eq!(decide(base(30, b"a"), znode(30, b"a"), key(b"a")), Action::Nothing);
    assert_eq!(decide(base(30, b"a"), znode(30, b"a"), Key::AsBase), Action::Nothing);
    assert_eq!(decide(base(30, b"a"), Znode::AsBase, key(b"a")), Action::Nothing);
}

#[test]
fn the_same_value_written_again_is_noted_and_not_copied() {
    assert_eq!(decide(base(30, b"a"), znode(31, b"a"), key(b"a")), Action::Agree);
    assert_eq!(decide(base(30, b"a"), znode(31, b"a"), Key::AsBase), Action::Agree);
    assert_eq!(decide(None, znode(31, b"a"), key(b"a")), Action::Agree);
}

#[test]
fn a_change_of_one_side_goes_to_the_other() {
    assert_eq!(decide(base(30, b"a"), znode(31, b"b"), key(b"a")), Action::ToRedis(None));
    assert_eq!(decide(base(30, b"a"), znode(30, b"a"), key(b"b")), Action::ToZookeeper(None));
    assert_eq!(decide(None, znode(31, b"b"), gone(None)), Action::ToRedis(None));
    assert_eq!(decide(None, ABSENT, key(b"b")), Action::ToZookeeper(None));
}

#[test]
fn a_delete_needs_a_base() {
    assert_eq!(decide(base(30, b"a"), ABSENT, key(b"a")), Action::ToRedis(None));
    assert_eq!(decide(base(30, b"a"), znode(30, b"a"), gone(Some(Removal::Deleted))), Action::ToZookeeper(None));
    assert_eq!(decide(None, znode(30, b"a"), gone(Some(Removal::Deleted))), Action::ToRedis(None));
    assert_eq!(decide(None, ABSENT, key(b"a")), Action::ToZookeeper(None));
}

#[test]
fn a_delete_of_both_sides_forgets_the_base() {
    assert_eq!(decide(base(30, b"a"), ABSENT, gone(None)), Action::Forget);
    assert_eq!(decide(None, ABSENT, gone(None)), Action::Nothing);
}

#[test]
fn a_change_beats_a_delete_under_every_rule() {
    for rule in [OnConflict::Prefer(Side::Redis), OnConflict::Latest, OnConflict::Quarantine] {
        let policy = Policy { on_conflict: rule, ..two_way() };
        let removed = observe(base(30, b"a"), znode(31, b"b"), gone(Some(Removal::Deleted)));
        assert_eq!(winner(plan(&policy, &removed)), Some(Side::Zookeeper));
        let deleted = observe(base(30, b"a"), ABSENT, key(b"c"));
        assert_eq!(winner(plan(&policy, &deleted)), Some(Side::Redis));
    }
}

#[test]
fn a_loss_of_redis_is_restored_and_never_a_delete() {
    let lost = Key::Absent(Vanished { seen: None, now_ms: 5_000, intact: false, older: false });
    assert_eq!(decide(base(30, b"a"), znode(30, b"a"), lost), Action::ToRedis(None));
    assert_eq!(decide(base(30, b"a"), znode(30, b"a"), gone(Some(Removal::Lost))), Action::ToRedis(None));
    let one_way = policy(Flow::From(Side::Redis));
    assert_eq!(plan(&one_way, &observe(base(30, b"a"), znode(30, b"a"), lost)), Action::Lost(Side::Redis));
}

#[test]
fn an_unobserved_disappearance_is_an_expiry_if_its_recorded_time_has_passed() {
    let mut expiring = base(30, b"a");
    if let Some(base) = expiring.as_mut() {
        base.expires_ms = Some(4_000);
    }
    let keep = Policy { on_expire: OnRemoval::Keep, ..two_way() };
    let lost = Key::Absent(Vanished { seen: None, now_ms: 5_000, intact: false, older: false });
    assert_eq!(plan(&keep, &observe(expiring, znode(30, b"a"), lost)), Action::KeepApart);
    assert_eq!(plan(&two_way(), &observe(expiring, znode(30, b"a"), lost)), Action::ToZookeeper(None));
}

#[test]
fn an_ensemble_that_came_back_older_is_restored() {
    let older = decide(base(30, b"b"), znode(25, b"a"), key(b"b"));
    assert_eq!(winner(older), Some(Side::Redis));
    let one_way = policy(Flow::From(Side::Zookeeper));
    let seen = observe(base(30, b"b"), znode(25, b"a"), key(b"b"));
    assert_eq!(plan(&one_way, &seen), Action::Lost(Side::Zookeeper));
}

#[test]
fn an_ensemble_that_came_back_empty_deletes_nothing() {
    let mut other = base(30, b"a");
    if let Some(base) = other.as_mut() {
        base.ensemble = 6;
    }
    assert_eq!(decide(other, ABSENT, key(b"a")), Action::ToZookeeper(None));
    let one_way = policy(Flow::From(Side::Zookeeper));
    assert_eq!(plan(&one_way, &observe(other, ABSENT, key(b"a"))), Action::Lost(Side::Zookeeper));
    assert_eq!(decide(other, ABSENT, gone(None)), Action::Forget);
    // What an application wrote after the loss is a change.
    assert_eq!(decide(other, znode(31, b"b"), key(b"a")), Action::ToRedis(None));
    assert_eq!(decide(other, znode(9, b"a"), key(b"a")), Action::Agree);
}

#[test]
fn on_a_one_way_route_the_source_decides() {
    let down = policy(Flow::From(Side::Zookeeper));
    assert_eq!(winner(plan(&down, &observe(base(30, b"a"), znode(30, b"a"), key(b"x")))), Some(Side::Zookeeper));
    assert_eq!(plan(&down, &observe(base(30, b"a"), znode(30, b"a"), gone(None))), Action::ToRedis(None));
    assert_eq!(plan(&down, &observe(None, ABSENT, key(b"x"))), Action::Nothing);
    assert_eq!(plan(&down, &observe(base(30, b"a"), ABSENT, key(b"a"))), Action::ToRedis(None));
    let up = policy(Flow::From(Side::Redis));
    assert_eq!(winner(plan(&up, &observe(base(30, b"a"), znode(31, b"x"), key(b"a")))), Some(Side::Redis));
    assert_eq!(plan(&up, &observe(base(30, b"a"), ABSENT, key(b"a"))), Action::ToZookeeper(None));
    assert_eq!(plan(&up, &observe(None, znode(30, b"x"), gone(None))), Action::Nothing);
}

#[test]
fn an_empty_znode_has_no_key_unless_the_base_says_so() {
    assert_eq!(decide(None, znode(30, b""), gone(None)), Action::Nothing);
    assert_eq!(decide(None, znode(30, b""), key(b"a")), Action::ToZookeeper(None));
    assert_eq!(decide(base(30, b""), znode(30, b""), key(b"")), Action::Nothing);
    assert_eq!(decide(base(30, b"a"), znode(31, b""), key(b"a")), Action::ToRedis(None));
}

#[test]
fn a_pair_kept_apart_joins_at_the_next_change_of_either_side() {
    let keep = Policy { on_delete: OnRemoval::Keep, ..two_way() };
    let deleted = observe(base(30, b"a"), znode(30, b"a"), gone(Some(Removal::Deleted)));
    assert_eq!(plan(&keep, &deleted), Action::KeepApart);
    let mut apart = base(30, b"a");
    if let Some(base) = apart.as_mut() {
        base.redis = None;
        base.apart = true;
    }
    assert_eq!(plan(&keep, &observe(apart, znode(30, b"a"), gone(None))), Action::Nothing);
    assert_eq!(plan(&keep, &observe(apart, znode(31, b"b"), gone(None))), Action::ToRedis(None));
    assert_eq!(plan(&keep, &observe(apart, znode(30, b"a"), key(b"c"))), Action::ToZookeeper(None));
}

/// Found by the fuzz target `planner`: it was noted anew at every look, and `run --once` did not end.
#[test]
fn an_emptied_znode_whose_key_is_kept_is_noted_once() {
    let keep = Policy { on_delete: OnRemoval::Keep, ..policy(Flow::From(Side::Zookeeper)) };
    assert_eq!(plan(&keep, &observe(base(30, b"a"), znode(31, b""), key(b"a"))), Action::KeepApart);
    let mut apart = base(31, b"a");
    if let Some(base) = apart.as_mut() {
        base.apart = true;
    }
    assert_eq!(plan(&keep, &observe(apart, znode(31, b""), key(b"a"))), Action::Nothing);
    assert_eq!(plan(&keep, &observe(apart, znode(32, b"b"), key(b"a"))), Action::ToRedis(None));
}

#[test]
fn ephemerals_flow_only_out_of_zookeeper() {
    let live = Znode::Present { version: version(30), digest: Digest::EMPTY, ephemeral: true, mtime_ms: 0 };
    assert_eq!(decide(None, live, gone(None)), Action::ToRedis(None));
    let mut owned = base(30, b"");
    if let Some(base) = owned.as_mut() {
        base.ephemeral = true;
    }
    assert_eq!(winner(decide(owned, live, key(b"x"))), Some(Side::Zookeeper));
    assert_eq!(decide(owned, live, gone(Some(Removal::Deleted))), Action::ToRedis(None));
    assert_eq!(decide(owned, ABSENT, key(b"")), Action::ToRedis(None));
    let skip = Policy { ephemeral: Ephemeral::Skip, ..two_way() };
    assert_eq!(plan(&skip, &observe(None, live, key(b"x"))), Action::Nothing);
    let up = policy(Flow::From(Side::Redis));
    assert_eq!(plan(&up, &observe(None, live, key(b"x"))), Action::NotOurs);
    // The source has the key still, as far as its base says: it is not looked at where only the znode has changed.
    assert_eq!(plan(&up, &observe(base(30, b"x"), live, Key::AsBase)), Action::NotOurs);
    assert_eq!(plan(&up, &observe(base(30, b"x"), live, gone(Some(Removal::Deleted)))), Action::Nothing);
    assert_eq!(plan(&up, &observe(None, live, Key::AsBase)), Action::Nothing);
}

#[test]
fn latest_compares_times_and_falls_back_when_it_cannot_tell() {
    let rule = Policy { on_conflict: OnConflict::Latest, ..policy(Flow::Both(Side::Redis)) };
    let at = |redis_ms: Option<i64>| {
        let seen = Seen { redis_ms, doubt_ms: 100, redis_writes: None };
        winner(plan(&rule, &Observation { seen, ..observe(base(30, b"a"), znode(31, b"b"), key(b"c")) }))
    };
    assert_eq!(at(Some(800)), Some(Side::Zookeeper));
    assert_eq!(at(Some(1_200)), Some(Side::Redis));
    assert_eq!(at(Some(950)), Some(Side::Redis), "too close: the first store");
    assert_eq!(at(None), Some(Side::Redis), "nobody watched: the first store");
    let seen = Seen { redis_ms: Some(9_000), doubt_ms: CLOCK_WAS_SET, redis_writes: None };
    let first = Policy { on_conflict: OnConflict::Latest, ..two_way() };
    let set = winner(plan(&first, &Observation { seen, ..observe(base(30, b"a"), znode(31, b"b"), key(b"c")) }));
    assert_eq!(set, Some(Side::Zookeeper), "a clock was set: the first store");
}

#[test]
fn higher_version_counts_writes_since_the_base() {
    let rule = Policy { on_conflict: OnConflict::HigherVersion, ..two_way() };
    let with = |redis_writes: Option<u32>| {
        let seen = Seen { redis_ms: None, doubt_ms: 0, redis_writes };
        winner(plan(&rule, &Observation { seen, ..observe(base(30, b"a"), znode(32, b"b"), key(b"c")) }))
    };
    assert_eq!(with(Some(1)), Some(Side::Zookeeper));
    assert_eq!(with(Some(3)), Some(Side::Redis));
    assert_eq!(with(Some(2)), Some(Side::Zookeeper), "a tie: the first store");
    assert_eq!(with(None), Some(Side::Zookeeper), "a gap: the first store");
}

/// The lineage is another one, and the data is not: an operator deleted what is ours.
#[test]
fn a_later_write_to_the_very_znode_that_was_agreed_on_is_a_change_though_the_lineage_began_after_it() {
    let mut other = base(30, b"a");
    if let Some(base) = other.as_mut() {
        base.ensemble = 6;
    }
    let later = Ensemble { id: 7, since_zxid: 50 };
    let decide = |znode, key| plan(&two_way(), &Observation { ensemble: later, ..observe(other, znode, key) });
    assert_eq!(decide(znode(31, b"b"), key(b"a")), Action::ToRedis(None));
    assert_eq!(winner(decide(znode(31, b"b"), key(b"c"))), Some(Side::Zookeeper), "both changed");
    // An older state, one of a lower version, another incarnation, and a value that went: each of them may be an older copy's.
    assert_eq!(winner(decide(znode(29, b"b"), key(b"a"))), Some(Side::Redis));
    for version in [ZkVersion { version: 9, ..version(31) }, ZkVersion { czxid: 21, ..version(31) }] {
        let znode = Znode::Present { version, digest: Digest::of(b"b"), ephemeral: false, mtime_ms: 1_000 };
        assert_eq!(winner(decide(znode, key(b"a"))), Some(Side::Redis), "{version:?}");
    }
    assert_eq!(decide(znode(31, b""), key(b"a")), Action::ToZookeeper(None));
}

#[test]
fn quarantine_touches_neither_side() {
    let rule = Policy { on_conflict: OnConflict::Quarantine, ..two_way() };
    assert_eq!(plan(&rule, &observe(base(30, b"a"), znode(31, b"b"), key(b"c"))), Action::Quarantine);
}

#[test]
fn a_zxid_that_an_older_ensemble_gives_a_second_time_is_a_change() {
    let again = ZkVersion { czxid: 20, mzxid: 30, version: 7 };
    assert_ne!(again, version(30));
    let written = Znode::Present { version: again, digest: Digest::of(b"b"), ephemeral: false, mtime_ms: 1_000 };
    assert_eq!(decide(base(30, b"a"), written, key(b"a")), Action::ToRedis(None));
    assert!(winner(decide(base(30, b"a"), written, key(b"c"))).is_some(), "both changed");
}

#[test]
fn a_sidecar_of_a_life_of_redis_that_was_not_compared_is_not_decided_on() {
    let agreed = base(30, b"a");
    assert_eq!(after_key(agreed.as_ref(), true, ENSEMBLE.id, true), Next::Decide);
    assert_eq!(after_key(agreed.as_ref(), true, ENSEMBLE.id, false), Next::Both);
}

#[test]
fn what_replaces_a_state_that_was_left_as_it_was_is_logged() {
    let left = |znode: Option<i64>, value: &[u8]| {
        let base = base(znode.unwrap_or(30), value).map(|base| Base { apart: true, left: true, ..base });
        base.map(|base| Base { zookeeper: base.zookeeper.filter(|_| znode.is_some()), ..base })
    };
    assert_eq!(decide(left(Some(30), b"b"), znode(30, b"a"), key(b"b")), Action::Nothing, "neither has changed");
    assert_eq!(winner(decide(left(Some(30), b"b"), znode(31, b"c"), key(b"b"))), Some(Side::Zookeeper));
    assert_eq!(winner(decide(left(Some(30), b"b"), znode(30, b"a"), key(b"c"))), Some(Side::Redis));
    assert_eq!(winner(decide(left(None, b"b"), znode(31, b"c"), key(b"b"))), Some(Side::Zookeeper));
    let down = policy(Flow::From(Side::Zookeeper));
    let verdict = plan(&down, &observe(left(None, b"b"), znode(31, b"c"), key(b"b")));
    assert_eq!(winner(verdict), Some(Side::Zookeeper), "a key of a destination that may not be read was dropped");
    assert_eq!(decide(left(Some(30), b"b"), znode(31, b"b"), key(b"b")), Action::Agree);
    let encoded = left(Some(30), b"b").map(|base| base.encode());
    assert_eq!(encoded.and_then(|bytes| Base::decode(&bytes)), left(Some(30), b"b"));
}

#[test]
fn what_follows_an_unverified_base_is_carried_and_what_it_replaces_is_logged() {
    let mut unverified = base(30, b"a");
    if let Some(base) = unverified.as_mut() {
        base.unverified = true;
    }
    assert_eq!(winner(decide(unverified, znode(30, b"a"), key(b"b"))), Some(Side::Redis), "under `prefer zk` as well");
    assert_eq!(winner(decide(unverified, znode(30, b"a"), gone(Some(Removal::Deleted)))), Some(Side::Redis));
    assert_eq!(decide(unverified, znode(30, b"a"), gone(Some(Removal::Lost))), Action::ToRedis(None));
    let replaced = [znode(31, b"b"), ABSENT].map(|znode| winner(decide(unverified, znode, key(b"a"))));
    assert_eq!(replaced, [Some(Side::Zookeeper); 2], "the key may hold what was written since");
    assert_eq!(
        decide(unverified, znode(31, b"b"), gone(Some(Removal::Lost))),
        Action::ToRedis(None),
        "no value is replaced"
    );
    assert_eq!(decide(unverified, znode(30, b"a"), key(b"a")), Action::Agree, "proven now");
}

#[test]
fn a_key_that_was_lost_stays_so_whatever_is_concluded_of_redis() {
    let one_way = policy(Flow::From(Side::Redis));
    let about = Circumstances {
        has_value: false,
        was_evicted: false,
        has_waited: false,
        comparing: true,
        reported: Reported::default(),
        guards_deletes: false,
        key_named: false,
        hears_redis: true,
        path_id: 3,
    };
    let vanished = |now_ms, intact| Key::Absent(Vanished { seen: None, now_ms, intact, older: false });
    let agreed = base(30, b"a").map(|base| Base { expires_ms: Some(9_000), ..base });
    let found = observe(agreed, znode(30, b"a"), vanished(5_000, false));
    assert_eq!(plan(&one_way, &found), Action::Lost(Side::Redis));
    let noted = step(Action::Lost(Side::Redis), &one_way, &found, &about);
    let lost = match noted {
        Step::Do(Record::Nothing, Task::Redis { op: KeyOp::Note, base, .. }) => base,
        _ => None,
    };
    assert_eq!(lost, agreed.map(|base| Base { lost: true, sequence: 2, ..base }));
    let decide = |znode, key| plan(&one_way, &observe(lost, znode, key));
    // A later comparison proves that nothing was lost since this one; the time of its expiry passes.
    for now_ms in [5_000, 9_500] {
        let later = observe(lost, znode(30, b"a"), vanished(now_ms, true));
        assert_eq!(plan(&one_way, &later), Action::Lost(Side::Redis));
        assert_eq!(step(Action::Lost(Side::Redis), &one_way, &later, &about), Step::Lost(Side::Redis), "once");
        assert_eq!(plan(&two_way(), &later), Action::ToRedis(None), "the route leads there now");
    }
    assert_eq!(decide(ABSENT, vanished(5_000, true)), Action::Forget);
    assert_eq!(
        decide(znode(31, b"b"), Key::AsBase),
        Action::ToZookeeper(Some(Verdict { winner: Side::Redis, reason: "the source of a one-way route decides" })),
        "which looks at the key first"
    );
    assert_ne!(decide(znode(30, b"a"), Key::AsBase), Action::Agree, "nobody looked whether it is back");
    // It is back, and may be deleted again.
    let back = observe(
        lost,
        znode(30, b"a"),
        Key::Present { digest: Digest::of(b"a"), expires_ms: Some(9_000), may_be_older: false },
    );
    assert_eq!(plan(&one_way, &back), Action::Agree);
    assert!(!crate::plan::agreed(&back, 3, false).lost);
    assert_eq!(decide(znode(30, b"a"), gone(Some(Removal::Deleted))), Action::ToZookeeper(None), "set, and deleted");
}

#[test]
fn a_base_reads_back_and_nonsense_is_no_base() {
    let mut full = base(30, b"a");
    if let Some(base) = full.as_mut() {
        base.expires_ms = Some(9);
        base.ephemeral = true;
        base.lost = true;
    }
    let bytes = full.map(|base| base.encode()).unwrap_or_default();
    assert_eq!(Base::decode(&bytes), full);
    assert_eq!(bytes.len(), 62);
    for cut in 0..bytes.len() {
        assert_eq!(Base::decode(bytes.get(..cut).unwrap_or_default()), None);
    }
}

#[test]
fn a_key_that_was_named_is_looked_at_before_its_pair_is_only_noted() {
    let about = Circumstances {
        has_value: false,
        was_evicted: false,
        has_waited: false,
        comparing: false,
        reported: Reported::default(),
        guards_deletes: true,
        key_named: true,
        hears_redis: true,
        path_id: 0,
    };
    let seen = Observation { base: None, znode: ABSENT, key: Key::AsBase, ensemble: ENSEMBLE, seen: Seen::default() };
    let policy = two_way();
    let named = step(Action::Agree, &policy, &seen, &about);
    assert_eq!(named, Step::Again(Wait::Read));
    let unnamed = step(Action::Agree, &policy, &seen, &Circumstances { key_named: false, ..about });
    assert!(matches!(unnamed, Step::Do(Record::Agreed, _)), "{unnamed:?}");
}

#[test]
fn a_znode_without_base_that_may_be_older_than_its_delete_is_looked_at_on_both_sides() {
    let found = Some(ZkVersion { czxid: 20, mzxid: 25, version: 1 });
    assert_eq!(after_znode(Known::None, found, false, 7, 25), Next::Both);
    assert_eq!(after_znode(Known::None, found, false, 7, 24), Next::Decide);
}

#[test]
fn a_base_that_a_journal_completed_with_the_wrong_incarnation_is_that_of_the_write_all_the_same() {
    let guessed = base(30, b"a")
        .map(|base| Base { zookeeper: base.zookeeper.map(|version| ZkVersion { czxid: 5, ..version }), ..base });
    assert_eq!(decide(guessed, znode(30, b"a"), gone(Some(Removal::Deleted))), Action::ToZookeeper(None));
    assert_eq!(decide(guessed, znode(30, b"a"), key(b"b")), Action::ToZookeeper(None));
    assert_eq!(decide(guessed, znode(30, b"a"), key(b"a")), Action::Agree, "and is noted as it is");
}

#[test]
fn an_absent_znode_is_lost_where_nothing_can_have_been_deleted_since_its_base() {
    assert_eq!(decide(base(30, b"a"), Znode::Absent(29), key(b"a")), Action::ToZookeeper(None));
    assert_eq!(decide(base(30, b"a"), Znode::Absent(31), key(b"a")), Action::ToRedis(None));
}

/// However a delete is met (by a comparison, or by a round to which one left the pair), it is counted first unless an event told.
#[test]
fn a_delete_that_nobody_saw_is_guarded_whoever_meets_it() {
    let seen = |znode, key| Observation { base: base(30, b"a"), znode, key, ensemble: ENSEMBLE, seen: Seen::default() };
    let intact = Key::Absent(Vanished { seen: None, now_ms: 0, intact: true, older: false });
    let (znode_gone, key_gone) = (seen(Znode::Absent(31), key(b"a")), seen(znode(30, b"a"), intact));
    let emptied = seen(znode(31, b""), key(b"a"));
    let drifted = seen(Znode::Absent(31), key(b"other"));
    let one_way = Policy { flow: Flow::From(Side::Zookeeper), ..two_way() };
    let (by_znode, by_key) = (Reported { znode: true, key: false }, Reported { znode: false, key: true });
    for comparing in [true, false] {
        let about = |told, guards_deletes| Circumstances {
            has_value: true,
            was_evicted: false,
            has_waited: false,
            comparing,
            reported: told,
            guards_deletes,
            key_named: false,
            hears_redis: true,
            path_id: 0,
        };
        for (policy, seen, told, not_told) in [
            (two_way(), znode_gone, by_znode, by_key),
            (two_way(), emptied, by_znode, by_key),
            (one_way, znode_gone, by_znode, by_key),
            (one_way, drifted, by_znode, by_key),
            (two_way(), key_gone, by_key, by_znode),
            (Policy { flow: Flow::From(Side::Redis), ..two_way() }, key_gone, by_key, by_znode),
        ] {
            let step = |told, guards| step(plan(&policy, &seen), &policy, &seen, &about(told, guards));
            assert_eq!(step(Reported::default(), true), Step::Guarded, "{seen:?}");
            assert_eq!(
                step(not_told, true),
                Step::Guarded,
                "the other side's event tells nothing of this one: {seen:?}"
            );
            let is_delete = |step| {
                let Step::Do(Record::Change(..), task) = step else { return false };
                matches!(task, Task::Redis { op: KeyOp::Delete, .. } | Task::Znode { op: ZnodeOp::Delete(_), .. })
            };
            assert!(is_delete(step(told, true)), "{seen:?}");
            assert!(is_delete(step(Reported::default(), false)), "approved, or without the guard: {seen:?}");
        }
    }
}

/// Where a newer base could not be believed, a walk that read the znode before that write, or a key that is where it was, says nothing.
#[test]
fn an_unverified_base_is_decided_on_only_after_a_look_at_both_sides() {
    let unverified = |base: Base| Base { unverified: true, ..base };
    let (plain, doubted) = (base(30, b"a"), base(30, b"a").map(unverified));
    let next = |base: &Option<Base>| after_key(base.as_ref(), true, ENSEMBLE.id, true);
    assert_eq!((next(&plain), next(&doubted)), (Next::Decide, Next::Both));
    let known = |base: Option<Base>| after_znode(base.map_or(Known::None, Known::Base), Some(version(31)), false, 7, 0);
    assert_eq!((known(plain), known(doubted)), (Next::Decide, Next::Both));
    assert!(is_doubtful(doubted.as_ref(), Some(version(30)), 7) && !is_doubtful(plain.as_ref(), Some(version(30)), 7));
    // Pairs that are left apart may be many, and each comparison meets them all.
    let apart = doubted.map(|base| Base { apart: true, ..base });
    assert!(!is_doubtful(apart.as_ref(), Some(version(30)), 7));
}
