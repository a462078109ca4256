//! What the model checker takes for the scripts of Redis (`tests/model/twin.rs`) against the double, through the shipped store: the
//! same random cases. `tests/it/redis_conformance.rs` holds the double to a real server.
//!
//! A failure prints its seed; `KEEPSTEP_TEST_SEED=42` plays the same cases again.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use crate::redis::store;
use fastrand::Rng;
use keepstep::change::{Digest, ZkVersion};
use keepstep::plan::{Base, KeyOp};
use keepstep::store::contract::*;
use keepstep::store::{JournalEntry, KeyOutcome, KeyState, KeyWrite, Remembered, Slot, StoreError};
use keepstep_doubles::redis::line::Double;
use keepstep_doubles::redis::reply::Reply;
use keepstep_model::twin::{self, Bucket, Code, Write};

const CASES: usize = 4_000;
const KEY: &[u8] = b"s:a";
/// The twin's name for a number that the store makes up.
const FRESH: u64 = u64::MAX;

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

/// What the store's error is to the twin.
fn code<T>(result: &Result<T, StoreError>) -> Code {
    match result {
        Ok(_) => Code::Done,
        Err(StoreError::Fenced(_)) => Code::Fenced,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_twin_of_the_model_answers_and_leaves_what_the_scripts_do() {
    let said = std::env::var("KEEPSTEP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = said.unwrap_or_else(|| fastrand::u64(..));
    println!("KEEPSTEP_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let double = Double::default();
    let owners = [store(&double, "twin"), store(&double, "twin")];
    let mut epochs = [1, 2];
    for (owner, epoch) in owners.iter().zip(epochs) {
        owner.connect().await.unwrap();
        owner.begin(Remembered { epoch, ensemble: 1, zxid: 1, tide: 0 }).await.unwrap();
        // Nothing was lost: then COMPLETE alone decides what becomes of a journal.
        owner.compared(owner.mark()).await.unwrap();
    }
    owners[0].observe(&[KEY], true).await.unwrap();
    let scanned = owners[0].scan(0, b"_keepstep:twin:").await.unwrap().1;
    let [bucket] = scanned.as_slice() else { panic!("one bucket: {scanned:?}") };
    double.run(&[b"DEL", bucket]);
    let (mut twin, mut held): (Bucket, Option<Vec<u8>>) = (Bucket::default(), None);
    let mut met = [0_usize; 3];
    let mut old_nonces = vec![1];
    for case in 0..CASES {
        let at = rng.usize(0..2);
        let (owner, epoch) = (&owners[at], epochs[at]);
        let what = format!("seed {seed}, case {case}");
        match rng.u8(0..20) {
            0 => {
                double.run(&[b"DEL", bucket]);
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
                    Some(bytes) => double.run(&[b"SET", KEY, bytes]),
                    None => double.run(&[b"DEL", KEY]),
                };
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
        let field = |name: &[u8]| match double.run(&[b"HMGET", bucket, name]) {
            Reply::Array(fields) => match fields.first() {
                Some(Reply::Text(text)) => Some(text.clone()),
                _ => None,
            },
            other => panic!("{what}: {other:?}"),
        };
        let number = |name| field(name).map(|text| String::from_utf8_lossy(&text).parse::<u64>().unwrap());
        let (owner, nonce, entry) = (number(b"_keepstep:e"), number(b"_keepstep:n"), field(KEY));
        if twin.nonce == FRESH {
            twin.nonce = nonce.unwrap();
            old_nonces.push(twin.nonce);
        }
        let there =
            Bucket { epoch: owner, nonce: nonce.unwrap_or(0), entry: entry.and_then(|entry| Base::decode(&entry)) };
        assert_eq!(there, twin, "{what}: the bucket");
        let key = match double.run(&[b"GET", KEY]) {
            Reply::Text(text) => Some(text),
            _ => None,
        };
        assert_eq!(key, held, "{what}: the key");
    }
    assert!(met.iter().all(|count| *count > CASES / 200), "done, refused and fenced were all met: {met:?}");
}
