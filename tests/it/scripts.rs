//! The scripts of Redis against their twin in Rust, on which the model checker runs (`tests/model/twin.rs`): the same random cases
//! through both.
//!
//! A failure prints its seed; `KEEPSTEP_TEST_SEED=42` plays the same cases again.

use crate::support::{LIVE, Redis, eventually};
use fastrand::Rng;
use keepstep::change::{Digest, Side, ZkVersion};
use keepstep::plan::{Base, KeyOp};
use keepstep::store::redis::{Access, Client, RedisStore, Server, Settings};
use keepstep::store::{
    Claim, Hints, JournalEntry, KeyOutcome, KeyState, KeyWrite, Keyspace, Link, Remembered, Slot, StoreError,
};
use keepstep_model::twin::{self, Bucket, Code, Write};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const CASES: usize = 4_000;
const KEY: &[u8] = b"settings:a";
/// The twin's name for a number that the door makes up.
const FRESH: u64 = u64::MAX;

/// A store of the pipeline `twin` on this server.
pub fn store(redis: &Redis) -> RedisStore {
    let address = redis.address();
    let access =
        Access { host: address.ip().to_string(), port: address.port(), database: 0, username: None, password: None };
    let settings = Settings {
        name: "cache".to_owned(),
        pipeline: "twin".to_owned(),
        prefixes: vec![b"settings:".to_vec()],
        sidecars: true,
        ranges: "the routes".to_owned(),
        channels: Vec::new(),
        claim_ttl: Duration::from_secs(30),
    };
    RedisStore::new(settings, Arc::new(Server::new(access, Arc::new(Client))))
}

fn value(rng: &mut Rng) -> Option<Vec<u8>> {
    (rng.u8(0..4) > 0).then(|| vec![rng.u8(b'a'..=b'c')])
}

fn base(rng: &mut Rng, sequence: u32) -> Option<Base> {
    let version = ZkVersion { czxid: 3, mzxid: i64::from(rng.u8(3..6)), version: i32::from(rng.u8(0..3)) };
    (rng.u8(0..4) > 0).then(|| Base {
        sequence,
        zookeeper: rng.bool().then_some(version),
        redis: value(rng).map(|value| Digest::of(&value)),
        expires_ms: rng.bool().then_some(1_000),
        ephemeral: rng.bool(),
        apart: rng.bool(),
        unproven: rng.bool(),
        lost: rng.bool(),
        path_id: 7,
        ensemble: 1,
    })
}

/// What the door's error is to the twin.
fn code<T>(result: &Result<T, StoreError>) -> Code {
    match result {
        Ok(_) => Code::Done,
        Err(StoreError::Fenced(_)) => Code::Fenced,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_twin_of_the_scripts_answers_and_leaves_what_they_do() {
    let seed = std::env::var("KEEPSTEP_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("KEEPSTEP_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let redis = Redis::start().await;
    let mut client = redis.client().await;
    let owners = [store(&redis), store(&redis)];
    let mut epochs = [1, 2];
    for (owner, epoch) in owners.iter().zip(epochs) {
        owner.connect().await.unwrap();
        owner.begin(Remembered { epoch, ensemble: 1, zxid: 1, tide: 0 }).await.unwrap();
        // Nothing was lost: then COMPLETE alone decides what becomes of a journal.
        owner.compared(owner.mark()).await.unwrap();
    }
    owners[0].observe(&[KEY], true).await.unwrap();
    let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("_keepstep:twin:*").query_async(&mut client).await.unwrap();
    let [bucket_name] = names.as_slice() else { panic!("one bucket: {names:?}") };
    redis::cmd("DEL").arg(bucket_name).exec_async(&mut client).await.unwrap();
    let (mut twin, mut held): (Bucket, Option<Vec<u8>>) = (Bucket::default(), None);
    let mut met = [0_usize; 3];
    let mut old_nonces = vec![1];
    for case in 0..CASES {
        let at = rng.usize(0..2);
        let (owner, epoch) = (&owners[at], epochs[at]);
        let what = format!("seed {seed}, case {case}");
        match rng.u8(0..20) {
            0 => {
                redis::cmd("DEL").arg(bucket_name).exec_async(&mut client).await.unwrap();
                twin = Bucket::default();
            }
            1 => {
                // The one that is behind takes over.
                let behind = usize::from(epochs[1] < epochs[0]);
                epochs[behind] = epochs[1 - behind] + 1;
                owners[behind]
                    .begin(Remembered { epoch: epochs[behind], ensemble: 1, zxid: 1, tide: 0 })
                    .await
                    .unwrap();
            }
            2..=4 => {
                held = value(&mut rng);
                match &held {
                    Some(bytes) => redis::cmd("SET").arg(KEY).arg(bytes.as_slice()).exec_async(&mut client).await,
                    None => redis::cmd("DEL").arg(KEY).exec_async(&mut client).await,
                }
                .unwrap();
            }
            5..=8 => {
                let told = twin::observe(&mut twin, epoch, FRESH);
                let read = owner.observe(&[KEY], true).await;
                assert_eq!(code(&read), told, "{what}: observe");
                if let Ok(read) = read {
                    let reading = &read.readings[0];
                    let found = match &reading.state {
                        KeyState::Absent => None,
                        KeyState::Value { bytes, .. } => Some(bytes.clone()),
                        other => panic!("{what}: {other:?}"),
                    };
                    assert_eq!((found, Base::decode(&reading.entry)), (held.clone(), twin.entry), "{what}: observed");
                }
            }
            9..=16 => {
                let op = [KeyOp::Set, KeyOp::Delete, KeyOp::Note][rng.usize(0..3)];
                let is_right = rng.u8(0..3) > 0;
                let expect = if is_right { held.clone() } else { value(&mut rng) };
                let next = twin.entry.map_or(1, |base| base.sequence + 1);
                let entry = if is_right { twin.entry } else { base(&mut rng, next) };
                let nonce = match rng.u8(0..3) {
                    0 => 0,
                    1 => twin.nonce,
                    _ => old_nonces[rng.usize(0..old_nonces.len())],
                };
                let bytes = vec![rng.u8(b'a'..=b'c')];
                let base = base(&mut rng, next);
                let expect = expect.map(|value| Digest::of(&value));
                let have = held.as_ref().map(|value| Digest::of(value));
                let told = twin::apply(&mut twin, have, &Write { op, expect, entry, nonce, base }, epoch, FRESH);
                met[told as usize] += 1;
                if told == Code::Done {
                    match op {
                        KeyOp::Set => held = Some(bytes.clone()),
                        KeyOp::Delete => held = None,
                        KeyOp::Note => {}
                    }
                }
                let write = KeyWrite {
                    key: KEY,
                    op,
                    expect,
                    expect_entry: entry.map(|base| base.encode()).unwrap_or_default(),
                    expect_nonce: nonce,
                    life: 0,
                    milestone: None,
                    value: &bytes,
                    base,
                    publish: None,
                };
                let done = match owner.apply(&[write]).await {
                    Ok(outcomes) if outcomes == [KeyOutcome::Done] => Code::Done,
                    Ok(outcomes) if outcomes == [KeyOutcome::Refused] => Code::Refused,
                    Ok(outcomes) => panic!("{what}: {outcomes:?}"),
                    Err(error) => code(&Err::<(), _>(error)),
                };
                assert_eq!(done, told, "{what}: apply");
            }
            _ => {
                let nonce = if rng.bool() { twin.nonce } else { old_nonces[rng.usize(0..old_nonces.len())] };
                let sequence = twin.entry.map_or(1, |base| base.sequence) + rng.u32(0..3);
                let base = base(&mut rng, sequence);
                let told = twin::complete(&mut twin, epoch, nonce, sequence, base);
                let slot = Slot { number: 0, version: 1 };
                let entry = JournalEntry { slot, key: KEY.to_vec(), nonce, base, sequence, milestone: None };
                assert_eq!(code(&owner.complete(vec![entry]).await), told, "{what}: complete");
            }
        }
        let mut look = redis::cmd("HMGET");
        look.arg(bucket_name).arg("_keepstep:e").arg("_keepstep:n").arg(KEY);
        let (owner, nonce, entry): (Option<u64>, Option<u64>, Option<Vec<u8>>) =
            look.query_async(&mut client).await.unwrap();
        if twin.nonce == FRESH {
            twin.nonce = nonce.unwrap();
            old_nonces.push(twin.nonce);
        }
        let there =
            Bucket { epoch: owner, nonce: nonce.unwrap_or(0), entry: entry.and_then(|entry| Base::decode(&entry)) };
        assert_eq!(there, twin, "{what}: the bucket");
        let key: Option<Vec<u8>> = redis::cmd("GET").arg(KEY).query_async(&mut client).await.unwrap();
        assert_eq!(key, held, "{what}: the key");
    }
    assert!(met.iter().all(|count| *count > CASES / 200), "done, refused and fenced were all met: {met:?}");
}

/// The first owner, and the one after it: where the pipeline's state was written by both, in this order.
async fn overtaken(redis: &Redis, first: Remembered, second: Remembered) -> [RedisStore; 2] {
    let owners = [store(redis), store(redis)];
    for (owner, now) in owners.iter().zip([first, second]) {
        owner.connect().await.unwrap();
        owner.begin(now).await.unwrap();
    }
    owners
}

fn at(epoch: u64, ensemble: u32, zxid: i64, tide: i32) -> Remembered {
    Remembered { epoch, ensemble, zxid, tide }
}

/// Everything that Redis remembers of the pipeline.
async fn state(redis: &Redis) -> BTreeMap<String, String> {
    redis.run("HGETALL _keepstep:twin").await
}

#[tokio::test]
async fn an_owner_that_was_overtaken_writes_nothing_of_what_is_remembered() {
    let redis = Redis::start().await;
    let first = at(1, 1, 20, 2);
    let owners = overtaken(&redis, first, at(2, 1, 30, 3)).await;
    let slot = |version| [Slot { number: 3, version }];
    owners[1].mark_slots(&slot(6), at(2, 1, 40, 3)).await.unwrap();
    owners[1].compared(owners[1].mark()).await.unwrap();
    let before = state(&redis).await;
    assert_eq!((before["zxid"].as_str(), before["slot:3"].as_str(), before["epoch"].as_str()), ("40", "6", "2"));
    // It ends late, or thaws between two calls; one call of a comparison, of the canary and of an ownership that only begins is as late.
    let newer = at(1, 1, 50, 9);
    for late in [
        owners[0].remember(newer, 1).await,
        owners[0].mark_slots(&slot(5), newer).await,
        owners[0].compared(owners[0].mark()).await,
        owners[0].begin(first).await,
    ] {
        assert!(matches!(late, Err(StoreError::Fenced(_))), "{late:?}");
    }
    assert_eq!(state(&redis).await, before);
    assert_eq!(owners[1].marked_slots().await.unwrap(), slot(6));
}

#[tokio::test]
async fn what_is_remembered_only_rises_and_begins_anew_with_another_lineage_of_the_ensemble() {
    let redis = Redis::start().await;
    // Beyond what a double tells apart, and longer numbers are newer.
    let high = (1 << 53) + 2;
    let owners = overtaken(&redis, at(1, 1, high, 9), at(2, 1, 30, 10)).await;
    let remembered = async || owners[1].remembered().await.unwrap();
    assert_eq!(remembered().await, at(2, 1, high, 10), "an older zxid does not take its place");
    owners[1].remember(at(2, 1, high - 1, 9), 1).await.unwrap();
    assert_eq!(remembered().await, at(2, 1, high, 10));
    owners[1].remember(at(2, 1, high + 1, 11), 1).await.unwrap();
    assert_eq!(remembered().await, at(2, 1, high + 1, 11));
    let left_over = owners[1].remember(at(1, 1, i64::MAX, 99), 1).await;
    assert!(matches!(left_over, Err(StoreError::Fenced(_))), "of an ownership before: {left_over:?}");
    owners[0].begin(at(3, 2, 7, 0)).await.unwrap();
    assert_eq!(remembered().await, at(3, 2, 7, 0), "zxids of another lineage are others");
    // Epochs were given a second time: who is of another lineage is another owner.
    let twin = owners[1].begin(at(3, 1, high, 11)).await;
    assert!(matches!(twin, Err(StoreError::Fenced(_))), "{twin:?}");
    assert_eq!(remembered().await, at(3, 2, 7, 0));
}

#[tokio::test]
async fn what_a_flushed_redis_has_forgotten_is_remembered_again_whole() {
    let redis = Redis::start().await;
    let owner = store(&redis);
    owner.connect().await.unwrap();
    owner.begin(at(4, 1, 20, 2)).await.unwrap();
    owner.remember(at(4, 1, 25, 3), 1).await.unwrap();
    redis.run::<()>("FLUSHALL").await;
    owner.mark_slots(&[Slot { number: 0, version: 1 }], at(4, 1, 24, 3)).await.unwrap();
    assert_eq!(owner.remembered().await.unwrap(), at(4, 1, 25, 3));
    assert!(!state(&redis).await.contains_key("canary"), "that it was flushed is still to be noticed");
}

#[tokio::test]
async fn whoever_gives_up_or_renews_late_leaves_the_claim_of_the_next_owner_alone() {
    let redis = Redis::start().await;
    let owners = overtaken(&redis, at(1, 1, 20, 2), at(2, 1, 30, 3)).await;
    let claim = Claim {
        pipeline: "twin".to_owned(),
        // Two of the same name, as in two containers.
        worker: "here:1".to_owned(),
        identity: "a random one".to_owned(),
        lineage: 1,
        ensemble: String::new(),
        patterns: vec!["settings:**".to_owned()],
        writes: true,
        captures: false,
    };
    let held = async || redis.run::<Option<String>>("GET _keepstep::claim:twin").await;
    owners[0].claim(claim.clone()).await.unwrap();
    let first = held().await;
    owners[1].claim(claim.clone()).await.unwrap();
    let second = held().await;
    assert!(second.is_some() && first != second);
    let told = Arc::new(Deaf);
    owners[0].watch(Arc::clone(&told) as Arc<dyn Hints>);
    // It is renewed every four seconds; each time its set is named again.
    redis.run::<()>("DEL _keepstep::claims").await;
    eventually("a renewal", LIVE, async || {
        let named = redis.run::<bool>("SISMEMBER _keepstep::claims twin").await;
        if named { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await;
    assert_eq!(held().await, second);
    owners[0].close().await;
    assert_eq!(held().await, second);
    owners[1].close().await;
    assert_eq!(held().await, None);
}

/// Listens to nothing.
struct Deaf;

impl Hints for Deaf {
    fn znode(&self, _: &str, _: Option<i64>, _: bool) {}
    fn key(&self, _: &[u8], _: Option<&str>) {}
    fn everything(&self, _: Side, _: &str) {}
    fn lost(&self, _: Side, _: keepstep::change::LossCause, _: &str, _: bool) {}
    fn link(&self, _: Side, _: Link) {}
    fn end(&self, _: keepstep::store::StoreError) {}
}
