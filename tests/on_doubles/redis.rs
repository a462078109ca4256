//! `store::redis` on the double of its server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use keepstep::change::{Digest, ZkVersion};
use keepstep::plan::{Base, KeyOp};
use keepstep::store::contract::*;
use keepstep::store::redis::{Access, RedisStore, Server, Settings};
use keepstep::store::{
    Claim, FailureKind, JournalEntry, KeyEdit, KeyOutcome, KeyReading, KeyState, KeyWrite, Remembered, Slot, StoreError,
};
use keepstep_doubles::redis::line::{Double, Fault};
use keepstep_doubles::redis::reply::Reply;
use keepstep_doubles::redis::server::Role;
use std::sync::Arc;
use std::time::Duration;

pub const KEY: &[u8] = b"s:a";

fn server(double: &Double) -> Arc<Server> {
    let access = Access { host: "double".to_owned(), port: 1, database: 0, username: None, password: None };
    Arc::new(Server::new(access, Arc::new(double.clone())))
}

/// A store of this pipeline on connections of its own.
pub fn store(double: &Double, pipeline: &str) -> RedisStore {
    let settings = Settings {
        name: "cache".to_owned(),
        pipeline: pipeline.to_owned(),
        prefixes: vec![b"s:".to_vec()],
        sidecars: true,
        channels: Vec::new(),
        claim_ttl: Duration::from_secs(30),
        ranges: "the routes".to_owned(),
    };
    RedisStore::new(settings, server(double))
}

pub fn at(epoch: u64) -> Remembered {
    Remembered { epoch, ensemble: 1, zxid: 10, watermark: 0 }
}

pub async fn owner(double: &Double, epoch: u64) -> RedisStore {
    let store = store(double, "p");
    store.connect().await.unwrap();
    store.begin(at(epoch)).await.unwrap();
    store
}

fn base(sequence: u32, redis: Option<&[u8]>) -> Base {
    Base {
        sequence,
        zookeeper: Some(ZkVersion { czxid: 3, mzxid: 4, version: 1 }),
        redis: redis.map(Digest::of),
        expires_ms: None,
        ephemeral: false,
        apart: false,
        unverified: false,
        lost: false,
        left: false,
        path_id: 7,
        ensemble: 1,
    }
}

/// A write by what was read.
fn write<'a>(key: &'a [u8], read: &KeyReading, op: KeyOp, value: &'a [u8], base: Option<Base>) -> KeyWrite<'a> {
    let expect = match &read.state {
        KeyState::Value { bytes, .. } => Some(Digest::of(bytes)),
        _ => None,
    };
    KeyWrite {
        key,
        op,
        expect,
        expect_entry: read.entry.clone(),
        expect_nonce: read.nonce,
        incarnation: read.incarnation,
        milestone: None,
        value,
        base,
        publish: None,
    }
}

pub async fn read(store: &RedisStore, key: &[u8]) -> KeyReading {
    store.observe(&[key], true).await.unwrap().readings.remove(0)
}

pub async fn set(store: &RedisStore, key: &[u8], value: &[u8]) -> Vec<KeyOutcome> {
    let read = read(store, key).await;
    let sequence = Base::decode(&read.entry).map_or(1, |base| base.sequence + 1);
    let write = write(key, &read, KeyOp::Set, value, Some(base(sequence, Some(value))));
    store.apply(&[write]).await.unwrap()
}

pub fn held(double: &Double, key: &str) -> Reply {
    double.words(&format!("GET {key}"))
}

fn is_away<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Away(why)) => why.into_text(),
        other => panic!("not away: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_applied_is_observed_with_its_sidecar() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    let absent = read(&store, KEY).await;
    assert_eq!((&absent.state, absent.entry.is_empty(), absent.nonce != 0), (&KeyState::Absent, true, true));
    let first = base(1, Some(b"one"));
    assert_eq!(set(&store, KEY, b"one").await, [KeyOutcome::Done]);
    let found = read(&store, KEY).await;
    assert_eq!(found.state, KeyState::Value { bytes: b"one".to_vec(), expires_ms: None });
    assert_eq!((Base::decode(&found.entry), found.nonce), (Some(first), absent.nonce));
    assert_eq!(held(&double, "s:a"), Reply::text("one"));
    // A note leaves the value, a delete takes it and the sidecar.
    let note = write(KEY, &found, KeyOp::Note, b"", Some(base(2, Some(b"one"))));
    assert_eq!(store.apply(&[note]).await.unwrap(), [KeyOutcome::Done]);
    let noted = read(&store, KEY).await;
    assert_eq!((Base::decode(&noted.entry).unwrap().sequence, held(&double, "s:a")), (2, Reply::text("one")));
    let delete = write(KEY, &noted, KeyOp::Delete, b"", None);
    assert_eq!(store.apply(&[delete]).await.unwrap(), [KeyOutcome::Done]);
    let gone = read(&store, KEY).await;
    assert_eq!((gone.state, gone.entry), (KeyState::Absent, Vec::new()));
    assert_eq!(held(&double, "s:a"), Reply::Nil);
}

#[tokio::test]
async fn a_write_that_meets_another_state_is_refused_and_changes_nothing() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    set(&store, KEY, b"one").await;
    let found = read(&store, KEY).await;
    let next = || write(KEY, &found, KeyOp::Set, b"two", Some(base(2, Some(b"two"))));
    let others = [
        KeyWrite { expect: Some(Digest::of(b"other")), ..next() },
        KeyWrite { expect: None, ..next() },
        KeyWrite { expect_entry: base(9, None).encode(), ..next() },
        KeyWrite { expect_nonce: found.nonce + 1, ..next() },
    ];
    for other in others {
        let what = format!("{other:?}");
        assert_eq!(store.apply(&[other]).await.unwrap(), [KeyOutcome::Refused], "{what}");
        assert_eq!((held(&double, "s:a"), read(&store, KEY).await), (Reply::text("one"), found.clone()), "{what}");
    }
    // One bad member fails no other.
    let other = write(b"s:b", &read(&store, b"s:b").await, KeyOp::Set, b"b", Some(base(1, Some(b"b"))));
    let both = store.apply(&[KeyWrite { expect: None, ..next() }, other]).await.unwrap();
    assert_eq!(both, [KeyOutcome::Refused, KeyOutcome::Done]);
    assert_eq!(store.apply(&[next()]).await.unwrap(), [KeyOutcome::Done]);
}

#[tokio::test]
async fn whoever_is_of_an_older_epoch_is_fenced_and_writes_nothing() {
    let double = Double::default();
    let old = owner(&double, 1).await;
    set(&old, KEY, b"one").await;
    let seen = read(&old, KEY).await;
    let new = owner(&double, 2).await;
    read(&new, KEY).await;
    let late = write(KEY, &seen, KeyOp::Set, b"late", Some(base(2, Some(b"late"))));
    assert!(matches!(old.apply(&[late]).await, Err(StoreError::Fenced(_))));
    assert!(matches!(old.observe(&[KEY], true).await, Err(StoreError::Fenced(_))));
    let entry = JournalEntry {
        slot: Slot { number: 0, version: 1 },
        key: KEY.to_vec(),
        nonce: seen.nonce,
        base: Some(base(9, None)),
        sequence: 9,
        milestone: None,
    };
    old.compared(old.mark()).await.unwrap_err();
    assert!(matches!(old.complete(vec![entry]).await, Err(StoreError::Fenced(_))));
    assert!(matches!(old.remember(at(1), 5).await, Err(StoreError::Fenced(_))));
    assert_eq!((held(&double, "s:a"), new.written().await.unwrap()), (Reply::text("one"), None));
    assert_eq!(Base::decode(&read(&new, KEY).await.entry).unwrap().sequence, 1);
}

#[tokio::test]
async fn what_is_one_list_goes_in_calls_of_some_keys_and_some_bytes() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    let names: Vec<Vec<u8>> = (0..300).map(|number| format!("s:{number:03}").into_bytes()).collect();
    let keys: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    // Loads the scripts.
    set(&store, KEY, b"one").await;
    let calls = || double.count("EVALSHA");
    let before = calls();
    let readings = store.observe(&keys, true).await.unwrap().readings;
    assert_eq!((readings.len(), calls() - before), (300, 3), "128 keys a call");
    let write_all = |value: &'static [u8], count: usize| {
        let all = keys.iter().zip(&readings).take(count);
        all.map(|(key, read)| write(key, read, KeyOp::Set, value, Some(base(1, Some(value))))).collect::<Vec<_>>()
    };
    let large: &'static [u8] = vec![b'x'; 200 * 1024].leak();
    let before = calls();
    let outcomes = store.apply(&write_all(large, 5)).await.unwrap();
    assert_eq!((outcomes, calls() - before), (vec![KeyOutcome::Done; 5], 3), "half a megabyte a call");
    let before = calls();
    let rest = write_all(b"v", 300).split_off(5);
    assert_eq!((store.apply(&rest).await.unwrap(), calls() - before), (vec![KeyOutcome::Done; 295], 3));
}

#[tokio::test]
async fn a_write_that_broke_its_connection_is_sent_again_and_done_once() {
    for (fault, outcome) in [(Fault::LoseCommand, KeyOutcome::Done), (Fault::LoseAnswer, KeyOutcome::Refused)] {
        let double = Double::default();
        let store = owner(&double, 1).await;
        set(&store, KEY, b"one").await;
        let found = read(&store, KEY).await;
        let next = write(KEY, &found, KeyOp::Set, b"two", Some(base(2, Some(b"two"))));
        let dialled = double.dialled();
        double.plan("EVALSHA", 0, fault.clone());
        assert_eq!(store.apply(&[next]).await.unwrap(), [outcome], "{fault:?}");
        assert_eq!((double.unmet(), double.dialled()), (0, dialled + 1));
        assert_eq!(held(&double, "s:a"), Reply::text("two"));
        assert_eq!(Base::decode(&read(&store, KEY).await.entry).unwrap().sequence, 2);
    }
}

#[tokio::test]
async fn a_write_without_an_answer_in_time_may_have_been_done() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    set(&store, KEY, b"one").await;
    let found = read(&store, KEY).await;
    let next = || write(KEY, &found, KeyOp::Set, b"two", Some(base(2, Some(b"two"))));
    let dialled = double.dialled();
    double.plan("EVALSHA", 0, Fault::LateAnswer);
    is_away(store.apply(&[next()]).await);
    assert_eq!((double.unmet(), held(&double, "s:a")), (0, Reply::text("two")));
    assert_eq!(store.apply(&[next()]).await.unwrap(), [KeyOutcome::Refused]);
    assert_eq!(double.dialled(), dialled + 1, "a connection that fell silent is replaced");
}

#[tokio::test]
async fn a_long_call_that_broke_is_sent_again_and_refused_where_it_was_done() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    set(&store, b"s:first", b"loads the script").await;
    let names: Vec<Vec<u8>> = (0..40).map(|number| format!("s:{number:03}").into_bytes()).collect();
    let keys: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let readings = store.observe(&keys, true).await.unwrap().readings;
    let write = |(key, read)| write(key, read, KeyOp::Set, b"v", Some(base(1, Some(b"v"))));
    let writes: Vec<KeyWrite<'_>> = keys.iter().copied().zip(&readings).map(write).collect();
    double.plan("EVALSHA", 0, Fault::LoseAnswer);
    assert_eq!(store.apply(&writes).await.unwrap(), vec![KeyOutcome::Refused; 40]);
    assert_eq!((double.unmet(), held(&double, "s:039")), (0, Reply::text("v")));
}

#[tokio::test]
async fn a_script_that_the_server_has_forgotten_is_loaded_again() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    set(&store, KEY, b"one").await;
    double.words("SCRIPT FLUSH");
    let before = double.count("SCRIPT");
    assert_eq!(set(&store, KEY, b"two").await, [KeyOutcome::Done]);
    assert_eq!(double.count("SCRIPT") - before, 2, "OBSERVE and APPLY");
    assert_eq!(held(&double, "s:a"), Reply::text("two"));
}

#[tokio::test]
async fn at_its_memory_limit_the_server_still_takes_what_frees_memory() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    for key in [KEY, b"s:b"] {
        set(&store, key, b"one").await;
    }
    let (a, b) = (read(&store, KEY).await, read(&store, b"s:b").await);
    double.words("CONFIG SET maxmemory 1");
    let set = write(KEY, &a, KeyOp::Set, b"two", Some(base(2, Some(b"two"))));
    let delete = write(b"s:b", &b, KeyOp::Delete, b"", None);
    let outcomes = store.apply(&[set, delete]).await.unwrap();
    assert!(
        matches!(&outcomes[..], [KeyOutcome::NotNow(why), KeyOutcome::Done] if why.contains("OOM")),
        "{outcomes:?}"
    );
    assert_eq!((held(&double, "s:a"), held(&double, "s:b")), (Reply::text("one"), Reply::Nil));
    let edits = [
        KeyEdit { key: KEY, expect: Some(Digest::of(b"one")), value: None },
        KeyEdit { key: b"s:c", expect: None, value: Some(b"new") },
    ];
    let outcomes = store.edit(&edits).await.unwrap();
    assert!(matches!(&outcomes[..], [KeyOutcome::Done, KeyOutcome::NotNow(_)]), "{outcomes:?}");
}

#[tokio::test]
async fn what_a_server_does_not_do_now_is_told_from_what_it_never_does() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    set(&store, KEY, b"one").await;
    let found = read(&store, KEY).await;
    let next = || write(KEY, &found, KeyOp::Set, b"two", Some(base(2, Some(b"two"))));
    double.words("CONFIG SET min-replicas-to-write 1");
    let outcomes = store.apply(&[next()]).await.unwrap();
    assert!(matches!(&outcomes[..], [KeyOutcome::NotNow(why)] if why.contains("NOREPLICAS")), "{outcomes:?}");
    double.words("CONFIG SET min-replicas-to-write 0");
    double.plan("EVALSHA", 0, Fault::Error("NOPERM this user has no permissions".to_owned()));
    let outcomes = store.apply(&[next()]).await.unwrap();
    assert!(matches!(&outcomes[..], [KeyOutcome::Impossible("no_permission", _)]), "{outcomes:?}");
    double.with(|server| server.is_busy = true);
    assert!(
        matches!(store.remembered().await, Err(StoreError::NotNow(why)) if why.kind() == FailureKind::Resources && why.text().contains("BUSY"))
    );
    double.with(|server| server.is_busy = false);
    double.words("DEL s:a");
    double.words("RPUSH s:a item");
    assert_eq!(read(&store, KEY).await.state, KeyState::WrongType("list".to_owned()));
    let outcomes = store.apply(&[next()]).await.unwrap();
    assert!(matches!(&outcomes[..], [KeyOutcome::Impossible("wrong_type", _)]), "{outcomes:?}");
}

#[tokio::test]
async fn a_server_that_has_become_a_replica_is_neither_read_nor_written() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    set(&store, KEY, b"one").await;
    let found = read(&store, KEY).await;
    double.with(|server| server.set_role(Role::Replica));
    let next = write(KEY, &found, KeyOp::Set, b"two", Some(base(2, Some(b"two"))));
    assert!(is_away(store.observe(&[KEY], true).await).contains("replica"));
    assert!(is_away(store.apply(&[next]).await).contains("replica"));
    double.with(|server| server.set_role(Role::Primary));
    assert_eq!(read(&store, KEY).await.state, found.state);
}

#[tokio::test]
async fn a_journal_raises_the_sidecars_that_are_older_and_of_the_same_life() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    store.compared(store.mark()).await.unwrap();
    set(&store, KEY, b"one").await;
    let nonce = read(&store, KEY).await.nonce;
    let entry = |sequence, nonce, base| JournalEntry {
        slot: Slot { number: 3, version: 1 },
        key: KEY.to_vec(),
        nonce,
        base,
        sequence,
        milestone: None,
    };
    let left = async || Base::decode(&read(&store, KEY).await.entry).map(|base| base.sequence);
    let completed = async |entry| store.complete(vec![entry]).await.unwrap();
    assert!(!completed(entry(1, nonce, Some(base(1, None)))).await);
    assert_eq!(left().await, Some(1), "the same is there");
    completed(entry(5, nonce + 1, Some(base(5, None)))).await;
    assert_eq!(left().await, Some(1), "of another life of the bucket");
    completed(entry(5, nonce, Some(base(5, None)))).await;
    assert_eq!(left().await, Some(5));
    completed(entry(6, nonce, None)).await;
    assert_eq!(left().await, None);
    let slots = [Slot { number: 3, version: 8 }];
    store.mark_slots(&slots, at(1)).await.unwrap();
    assert_eq!(owner(&double, 2).await.marked_slots().await.unwrap(), slots);
}

#[tokio::test]
async fn a_key_that_an_older_copy_took_back_is_no_base_of_a_journal() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    set(&store, KEY, b"one").await;
    let copy = double.with(|server| server.copy());
    set(&store, KEY, b"two").await;
    double.with(|server| server.restart(Some(copy)));
    let next = owner(&double, 2).await;
    let found = read(&next, KEY).await;
    assert_eq!(found.state, KeyState::Value { bytes: b"one".to_vec(), expires_ms: None });
    let noted = base(3, Some(b"three"));
    let entry = JournalEntry {
        slot: Slot { number: 0, version: 1 },
        key: KEY.to_vec(),
        nonce: found.nonce,
        base: Some(noted),
        sequence: 3,
        milestone: None,
    };
    assert!(next.complete(vec![entry]).await.unwrap(), "the key is where its sidecar has it");
    let left = Base::decode(&read(&next, KEY).await.entry).unwrap();
    assert_eq!((left.redis, left.unverified), (Some(Digest::of(b"one")), true));
}

#[tokio::test]
async fn a_milestone_is_left_only_behind_the_one_before() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    let first = store.leave_milestone().await.unwrap().unwrap();
    let copy = double.with(|server| server.copy());
    let second = store.leave_milestone().await.unwrap().unwrap();
    assert_eq!(second.milestone.branch, first.milestone.branch);
    assert!(second.milestone.number > first.milestone.number);
    // An older copy, which has the first alone.
    double.with(|server| server.resynchronize(copy));
    assert_eq!(store.leave_milestone().await.unwrap(), None);
    let other = store.leave_milestone().await.unwrap().unwrap();
    assert_ne!(other.milestone.branch, first.milestone.branch, "another branch begins");
}

fn claim(pipeline: &str) -> Claim {
    Claim {
        pipeline: pipeline.to_owned(),
        worker: "here:1".to_owned(),
        identity: "a random one".to_owned(),
        lineage: 1,
        ensemble: String::new(),
        patterns: vec!["s:**".to_owned()],
        writes: true,
        captures: false,
    }
}

#[tokio::test]
async fn the_second_of_two_claims_that_overlap_is_refused_until_the_first_runs_out() {
    let double = Double::default();
    let (first, second) = (owner(&double, 1).await, store(&double, "other"));
    first.claim(claim("p")).await.unwrap();
    assert_eq!(first.held_claim().await.unwrap().unwrap().claim, claim("p"));
    assert!(matches!(second.claim(claim("other")).await, Err(StoreError::Refused(_))));
    assert_eq!(second.held_claim().await.unwrap(), None, "it was taken back");
    double.with(|server| server.now_ms += 30_001);
    assert_eq!(first.held_claim().await.unwrap(), None);
    second.claim(claim("other")).await.unwrap();
    second.close().await;
    assert_eq!(second.held_claim().await.unwrap(), None);
}

#[tokio::test]
async fn a_scan_finds_each_key_whatever_its_order() {
    let double = Double::default();
    double.with(|server| server.scan_repeats = true);
    let store = owner(&double, 1).await;
    let names: Vec<String> = (0..2500).map(|number| format!("s:{number}")).collect();
    for name in &names {
        double.run(&[b"SET", name.as_bytes(), b"v"]);
    }
    set(&store, KEY, b"one").await;
    let (mut cursor, mut found) = (0, std::collections::BTreeSet::new());
    loop {
        let (next, keys) = store.scan(cursor, b"s:").await.unwrap();
        found.extend(keys);
        if next == 0 {
            break;
        }
        cursor = next;
    }
    assert_eq!(found.len(), names.len() + 1);
    let (_, sidecars) = store.scan_sidecars(0).await.unwrap();
    assert!(found.iter().all(|key| key.starts_with(b"s:")) && sidecars.contains(&KEY.to_vec()));
}

#[tokio::test]
async fn a_start_asks_for_each_command_and_names_those_that_are_forbidden() {
    let double = Double::default();
    store(&double, "p").check().await.unwrap();
    double.words("ACL SETUSER default -smembers -pexpiretime");
    let refused = store(&double, "p").check().await;
    let Err(StoreError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert_eq!(why.kind(), FailureKind::Permission);
    assert!(why.text().contains("SMEMBERS") && why.text().contains("PEXPIRETIME"), "{why}");
}

#[tokio::test]
async fn an_identity_that_a_swap_takes_while_it_is_written_is_an_error_and_not_an_empty_one() {
    let double = Double::default();
    let store = owner(&double, 1).await;
    // The first command is with the server when it is polled, and the swap comes before the second.
    let (identified, ()) = tokio::join!(store.identify("own".to_owned()), async {
        double.words("SWAPDB 0 1");
    });
    let refused = identified.unwrap_err();
    assert!(matches!(&refused, StoreError::NotNow(failure) if failure.kind() == FailureKind::Identity), "{refused}");
    assert_eq!(store.identify("another".to_owned()).await.unwrap(), "another");
}
