//! The double of a Redis server beside a real one: the same random commands go through the seam `Line` to both, and what
//! comes back must be the same: answers, pushes, and all that can be seen.
//!
//! What may differ: times, run ids (compared by whether they changed), the order of SCAN and of fields, the text behind an
//! error's code, and how many invalidations of one turn come together. A failure prints its seed and the last commands;
//! `KEEPSTEP_TEST_SEED=42` plays the same again.

mod pair;
mod steps;

use crate::support::Redis;
use fastrand::Rng;
use futures::future::BoxFuture;
use keepstep::change::Digest;
use keepstep::store::contract::*;
use keepstep::store::redis::line::{Cmd, Dial, Line, PushKind, Pushes, RedisError, Value};
use keepstep::store::redis::{Access, Client, RedisStore, Server as Shared, Settings};
use keepstep::store::{Claim, JournalEntry, KeyEdit, KeyOp, KeyWrite, Remembered, Slot};
use keepstep_doubles::redis::line::{Double, words_of};
use keepstep_doubles::redis::scripts;
use keepstep_doubles::redis::server::Kindness;
use keepstep_doubles::redis::version::Version;
use pair::{Pair, Pushed, Side, plain, words_of_load};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use steps::{Known, Step, evalsha, shown, step, words};

const STEPS: usize = 3_000;
/// So many plays, each of the next seed, may be needed until something rare has come up: one play in forty misses a flush
/// that has subscribers, so that ten in a row never do.
const PLAYS: u64 = 10;
/// Both sides are compared as a whole after so many steps.
const LOOK_EVERY: usize = 40;

fn access(redis: &Redis) -> Access {
    let address = redis.address();
    Access { host: address.ip().to_string(), port: address.port(), database: 0, username: None, password: None }
}

/// A double of the server that this one is.
async fn double_of(redis: &Redis) -> Double {
    let info: String = redis.run("INFO server").await;
    let version = Version::of_info(&info).unwrap_or_else(|| panic!("no version: {info}"));
    let double = Double::default();
    double.with(|server| server.version = version);
    double
}

/// Plays random steps on both; the difference, if there is one, and how often each answer came.
async fn play(
    redis: &Redis,
    double: &Double,
    texts: &[String],
    seed: u64,
    steps: usize,
) -> Result<BTreeMap<String, usize>, String> {
    for command in [
        "REPLICAOF NO ONE",
        "CONFIG SET maxmemory 0 min-replicas-to-write 0",
        "FLUSHALL",
        "SCRIPT FLUSH",
        "CONFIG RESETSTAT",
    ] {
        redis.run::<()>(command).await;
    }
    redis.run::<()>("CONFIG SET notify-keyspace-events KA").await;
    let user =
        "ACL SETUSER limited reset on >secret ~s:a ~s:c ~_keepstep:t:* &news &__key* +@all -persist -acl -config";
    redis.run::<()>(user).await;
    double.words(&user.replace(" reset", ""));
    let why = |error: RedisError| error.to_string();
    let real = Side::open(&Client, &access(redis)).await.map_err(why)?;
    let other = Side::open(double, &access(redis)).await.map_err(why)?;
    let pair = Pair { double, sides: [real, other], texts };
    let mut rng = Rng::with_seed(seed);
    let (mut known, mut met, mut last) = (Known::default(), BTreeMap::new(), Vec::new());
    for number in 0..steps {
        let step = step(&mut rng, &mut known);
        let what = match &step {
            Step::Run(at, words) => format!("{at}: {}", shown(words)),
            Step::Pipeline(at, all) => format!("{at}: {}", all.iter().map(shown).collect::<Vec<_>>().join("; ")),
            Step::Expire(key) => format!("{key} expires"),
        };
        let script = match &step {
            Step::Run(_, words) => {
                scripts::ALL.iter().find(|script| words.get(1).is_some_and(|sha| sha == script.sha.as_bytes()))
            }
            _ => None,
        };
        last.push(what);
        let before = last.len().saturating_sub(12);
        let told = |why: String| {
            format!("seed {seed}, step {number}: {why}\nthe last steps:\n  {}", last[before..].join("\n  "))
        };
        let answer = pair.take(step).await.map_err(told)?;
        if let Some(script) = script {
            *met.entry(script.name.to_owned()).or_default() += 1;
        }
        if let Some(code) = answer.strip_prefix("error ") {
            *met.entry(code.to_owned()).or_default() += 1;
        }
        pair.learn(&mut known).await;
        if number % LOOK_EVERY == 0 {
            pair.look(&mut known).await.map_err(told)?;
        }
    }
    Ok(met)
}

/// Keeps what the shipped room loads.
struct Recorder {
    double: Double,
    texts: Arc<Mutex<BTreeSet<String>>>,
}

struct Recorded {
    line: Arc<dyn Line>,
    texts: Arc<Mutex<BTreeSet<String>>>,
}

impl Dial for Recorder {
    fn open<'a>(
        &'a self,
        access: &'a Access,
        pushes: Option<Pushes>,
    ) -> BoxFuture<'a, Result<Arc<dyn Line>, RedisError>> {
        Box::pin(async move {
            let line = self.double.open(access, pushes).await?;
            Ok(Arc::new(Recorded { line, texts: Arc::clone(&self.texts) }) as Arc<dyn Line>)
        })
    }
}

impl Line for Recorded {
    fn call<'a>(&'a self, command: &'a Cmd) -> BoxFuture<'a, Result<Value, RedisError>> {
        if let [script, load, text] = words_of(command).as_slice()
            && (script.as_slice(), load.as_slice()) == (b"SCRIPT", b"LOAD")
        {
            self.texts.lock().unwrap().insert(String::from_utf8_lossy(text).into_owned());
        }
        self.line.call(command)
    }

    fn pipeline(&self, commands: Vec<Cmd>) -> BoxFuture<'_, Result<Vec<Result<Value, RedisError>>, RedisError>> {
        self.line.pipeline(commands)
    }
}

/// The texts of all scripts, as the shipped room loads them.
async fn shipped() -> Vec<String> {
    let texts: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let double = Double::default();
    let dial = Recorder { double: double.clone(), texts: Arc::clone(&texts) };
    let access = Access { host: "double".to_owned(), port: 1, database: 0, username: None, password: None };
    let settings = Settings {
        name: "cache".to_owned(),
        pipeline: "p".to_owned(),
        prefixes: vec![b"s:".to_vec()],
        sidecars: true,
        channels: Vec::new(),
        claim_ttl: Duration::from_secs(30),
        ranges: String::new(),
    };
    let store = RedisStore::new(settings, Arc::new(Shared::new(access, Arc::new(dial))));
    store.check().await.unwrap();
    let claim = |lineage| Claim {
        pipeline: "p".to_owned(),
        worker: String::new(),
        identity: String::new(),
        lineage,
        ensemble: String::new(),
        patterns: Vec::new(),
        writes: true,
        captures: false,
    };
    store.claim(claim(0)).await.unwrap();
    store.begin(Remembered { epoch: 1, ensemble: 1, zxid: 1, watermark: 0 }).await.unwrap();
    store.look(&[b"s:a"], true).await.unwrap();
    let write = |op| KeyWrite {
        key: b"s:a",
        op,
        expect: None,
        expect_entry: Vec::new(),
        expect_nonce: 0,
        incarnation: 0,
        milestone: None,
        value: b"v",
        base: None,
        publish: None,
    };
    let delete = KeyEdit { key: b"s:a", expect: None, value: None };
    let nonce = store.observe(&[b"s:a"], true).await.unwrap().readings[0].nonce;
    let entry = JournalEntry {
        slot: Slot { number: 0, version: 1 },
        key: b"s:a".to_vec(),
        nonce,
        base: None,
        sequence: 1,
        milestone: None,
    };
    store.compared(store.mark()).await.unwrap();
    store.complete(vec![entry]).await.unwrap();
    for limit in ["0", "1"] {
        double.words(&format!("CONFIG SET maxmemory {limit}"));
        store.apply(&[write(KeyOp::Delete)]).await.unwrap();
        store.edit(std::slice::from_ref(&delete)).await.unwrap();
    }
    store.close().await;
    let texts = texts.lock().unwrap();
    texts.iter().cloned().collect()
}

fn seed() -> u64 {
    let said = std::env::var("KEEPSTEP_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = said.unwrap_or_else(|| fastrand::u64(..));
    println!("KEEPSTEP_TEST_SEED={seed}");
    seed
}

#[tokio::test]
async fn each_script_that_ships_has_its_function_in_the_double() {
    let texts = shipped().await;
    let shas: BTreeSet<String> = texts.iter().map(|text| Digest::of(text.as_bytes()).hex()).collect();
    let known: BTreeSet<String> = scripts::ALL.iter().map(|script| script.sha.to_owned()).collect();
    assert_eq!(shas, known, "left: the texts that ship; right: tests/doubles/redis/scripts.rs");
}

#[tokio::test]
async fn the_double_answers_pushes_and_shows_what_a_server_does() {
    let redis = Redis::start().await;
    redis.run::<()>("DEBUG SET-ACTIVE-EXPIRE 0").await;
    let texts = shipped().await;
    let codes = ["OOM", "READONLY", "NOREPLICAS", "NOPERM", "WRONGTYPE", "NOSCRIPT", "ERR"];
    let mut unmet: BTreeSet<&str> = scripts::ALL.iter().map(|script| script.name).chain(codes).collect();
    let first = seed();
    for seed in (0..PLAYS).map(|play| first.wrapping_add(play)) {
        let met =
            play(&redis, &double_of(&redis).await, &texts, seed, STEPS).await.unwrap_or_else(|why| panic!("{why}"));
        unmet.retain(|name| !met.contains_key(*name));
        if unmet.is_empty() {
            return;
        }
    }
    panic!("{unmet:?} was not met in {PLAYS} plays from seed {first} on");
}

#[tokio::test]
async fn a_double_that_is_kinder_than_a_server_is_found() {
    let redis = Redis::start().await;
    redis.run::<()>("DEBUG SET-ACTIVE-EXPIRE 0").await;
    let texts = shipped().await;
    let first = seed();
    let mut agreed = BTreeSet::new();
    'kindness: for kindness in [
        Kindness::WritesWhenFull,
        Kindness::TellsOfFlush,
        Kindness::TellsOfSwap,
        Kindness::ExpiresInSilence,
        Kindness::SendsOnce,
        Kindness::KnowsEveryScript,
        Kindness::KeepsExpiry,
        Kindness::IgnoresEpochs,
        Kindness::ReadsWithoutRaising,
        Kindness::IgnoresSidecars,
        Kindness::IgnoresNonces,
        Kindness::IgnoresValues,
        Kindness::RemembersFormerOwners,
        Kindness::PutsEveryMilestone,
    ] {
        for seed in (0..PLAYS).map(|play| first.wrapping_add(play)) {
            let double = double_of(&redis).await;
            double.with(|server| server.kindness = Some(kindness));
            if play(&redis, &double, &texts, seed, STEPS).await.is_err() {
                // What was found is the kindness, and nothing else: without one, the same play ends in agreement.
                if agreed.insert(seed) {
                    let strict = play(&redis, &double_of(&redis).await, &texts, seed, STEPS).await;
                    assert!(strict.is_ok(), "what was found was something else: {strict:?}");
                }
                continue 'kindness;
            }
        }
        panic!("{kindness:?} was not found in {PLAYS} plays of {STEPS} steps from seed {first} on");
    }
}

/// What can be seen after a restart: the data, the scripts, and whether the ids are others.
async fn after(side: &Side) -> Vec<String> {
    let mut seen = Vec::new();
    for words in [
        words(&["GET", "s:a"]),
        words(&["HGETALL", "h"]),
        words(&["DBSIZE"]),
        evalsha("LOOK", &["s:a"], words(&["10", "10", "10"])),
    ] {
        let answer = side.run(0, &words).await;
        seen.push(plain(&words, answer));
    }
    seen
}

async fn ids(side: &Side) -> [String; 2] {
    let info = side.run(0, &words(&["INFO", "everything"])).await.unwrap();
    let Value::VerbatimString { text, .. } = info else { panic!("{info:?}") };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    ["run_id:", "master_replid:"].map(field)
}

#[tokio::test]
async fn the_double_comes_back_and_evicts_as_a_server_does() {
    let mut redis = Redis::start().await;
    let double = double_of(&redis).await;
    let texts = shipped().await;
    for rule in ["reset on >secret ~* &* +@all"] {
        redis.run::<()>(&format!("ACL SETUSER limited {rule}")).await;
        double.words(&format!("ACL SETUSER limited {}", rule.replace("reset ", "")));
    }
    let at = access(&redis);
    let open = async || [Side::open(&Client, &at).await.unwrap(), Side::open(&double, &at).await.unwrap()];
    let pair = Pair { double: &double, sides: open().await, texts: &texts };
    for text in &texts {
        pair.both(0, &words_of_load(text)).await.unwrap();
    }
    for command in ["SET s:a one", "HSET h f 1", "PSUBSCRIBE __key*", "CLIENT TRACKING ON BCAST"] {
        pair.both(0, &words(&command.split(' ').collect::<Vec<_>>())).await.unwrap();
    }
    pair.pushes().await.unwrap();
    assert_eq!(after(&pair.sides[0]).await, after(&pair.sides[1]).await);
    // Memory runs short: every key goes, each with its event.
    redis.run::<()>("SAVE").await;
    let (backup, copy) = (redis.back_up(), double.with(|server| server.copy()));
    redis.run::<()>("CONFIG SET maxmemory-policy allkeys-random maxmemory 1").await;
    let _ = redis.try_run::<()>("SET s:a refused").await;
    redis.run::<()>("CONFIG SET maxmemory 0").await;
    double.with(|server| {
        server.evict(0, b"s:a");
        server.evict(0, b"h");
    });
    let pushed = |side: &Side| std::mem::take(&mut *side.ends[0].pushed.lock().unwrap());
    for side in &pair.sides {
        side.run(0, &words(&["PING"])).await.unwrap();
    }
    let [real, other] = [0, 1].map(|at| Pushed::of(pushed(&pair.sides[at])));
    let of = |pushed: &Pushed| pushed.messages.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!((of(&real).len(), of(&real), real.invalid), (2, of(&other), other.invalid));
    assert_eq!(
        (redis.info("evicted_keys").await, after(&pair.sides[0]).await),
        ("2".to_owned(), after(&pair.sides[1]).await)
    );
    // Restarted from a copy, and empty.
    let mut last = [ids(&pair.sides[0]).await, ids(&pair.sides[1]).await];
    for with in [Some(copy), None] {
        match &with {
            Some(_) => redis.restart_from(&backup).await,
            None => redis.restart_empty().await,
        }
        double.with(|server| server.restart(with));
        for side in &pair.sides {
            assert!(side.run(0, &words(&["PING"])).await.is_err(), "the connection is gone");
        }
        redis.run::<()>("ACL SETUSER limited reset on >secret ~* &* +@all").await;
        let sides = open().await;
        assert_eq!(after(&sides[0]).await, after(&sides[1]).await);
        for (last, side) in last.iter_mut().zip(&sides) {
            let now = ids(side).await;
            assert!(now.iter().zip(last.iter()).all(|(now, before)| now != before), "{now:?} after {last:?}");
            *last = now;
        }
    }
    for side in &pair.sides {
        let pushes = pushed(side);
        assert_eq!(pushes.last().map(|push| &push.kind), Some(&PushKind::Disconnection));
    }
}
