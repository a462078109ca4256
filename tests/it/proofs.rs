//! What proves that something is gone, the same, or later, must not be undone by others: statistics that are set back, a
//! server that turns into a replica, names that were made to meet, a name of ours that somebody else uses.

use crate::scripts;
use crate::support::{LIVE, Redis, Scene, eventually};
use keepstep::change::Digest;
use keepstep::plan::{Base, KeyOp};
use keepstep::store::contract::*;
use keepstep::store::redis::RedisStore;
use keepstep::store::{FailureKind, KeyOutcome, KeyState, KeyWrite, Remembered, StoreError};
use serde_json::Value;

/// Four names that have one hash with XXH3 of 64 bits (`src/change/hash.rs` says how they were found).
const MEETING: [&str; 4] = [
    "r:......4s4pd...........qxlta...........vszhf...........fd3da...",
    "r:......gtwcg...........uvc2a...........qw1na...........possa...",
    "r:......ghxbc...........aerid...........vcx4a...........1gita...",
    "r:......zhn2g...........ulgxa...........smxve...........vfyya...",
];

#[tokio::test]
async fn as_many_evictions_as_before_after_the_statistics_were_set_back_are_no_deletes() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.worker("reconcile: 2s")).await;
    scene.run().await;
    for key in ["evicted", "stays"] {
        scene.set(format!("settings:{key}"), "v").await;
        scene.znode_becomes(&format!("/settings/{key}"), Some("v")).await;
    }
    scene.redis.run::<()>("EXPIRE settings:evicted 1000").await;
    scene.settle().await;
    scene.keepstep.terminate().await;
    let before = scene.redis.info("evicted_keys").await;
    // So many evictions as before, none of which anybody saw.
    scene.redis.run::<()>("CONFIG SET maxmemory-policy volatile-random").await;
    scene.redis.run::<()>("CONFIG SET maxmemory 1mb").await;
    let _ = scene.redis.try_run::<()>("SET elsewhere:a 1").await;
    scene.redis.run::<()>("CONFIG SET maxmemory 0").await;
    assert_eq!(scene.text("settings:evicted").await, None, "it was not evicted");
    assert_ne!(scene.redis.info("evicted_keys").await, before);
    scene.redis.run::<()>("CONFIG RESETSTAT").await;
    assert_eq!(scene.redis.info("evicted_keys").await, before);
    scene.run().await;
    scene.key_becomes("settings:evicted", Some("v")).await;
    scene.settle().await;
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "an eviction became a delete: {changes:?}");
    // An event says what a count cannot.
    scene.del("settings:stays").await;
    scene.znode_becomes("/settings/stays", None).await;
    let found = scene.keepstep.command("validate", &["--connect"]).await;
    let said = format!("{}{}", found.stdout, found.stderr);
    assert!(said.contains("CONFIG RESETSTAT") && found.code == Some(0), "{said}");
}

fn write<'a>(key: &'a [u8], op: KeyOp, expect: Option<&str>) -> KeyWrite<'a> {
    let digest = |value: &str| Digest::of(value.as_bytes());
    let base = Base {
        sequence: 1,
        zookeeper: None,
        redis: Some(digest("new")),
        expires_ms: None,
        ephemeral: false,
        apart: false,
        unverified: false,
        lost: false,
        left: false,
        path_id: 7,
        ensemble: 1,
    };
    KeyWrite {
        key,
        op,
        expect: expect.map(digest),
        expect_entry: Vec::new(),
        expect_nonce: 0,
        incarnation: 0,
        milestone: None,
        value: b"new",
        base: (op == KeyOp::Set).then_some(base),
        publish: None,
    }
}

async fn owner(redis: &Redis) -> RedisStore {
    let store = scripts::store(redis);
    store.connect().await.unwrap();
    store.begin(Remembered { epoch: 1, ensemble: 1, zxid: 1, watermark: 0 }).await.unwrap();
    store
}

fn refused_as_a_replica<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> Result<(), String> {
    match answer {
        Err(StoreError::Away(why)) if why.kind() == FailureKind::Unready => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn a_server_that_has_become_a_replica_is_neither_read_nor_written() {
    let redis = Redis::start().await;
    let store = owner(&redis).await;
    redis.run::<()>("SET settings:a old").await;
    // Its bucket is there, so that a look writes nothing any more.
    store.observe(&[b"settings:a"], true).await.unwrap();
    redis.run::<()>("REPLICAOF 127.0.0.1 1").await;
    refused_as_a_replica(store.observe(&[b"settings:a"], true).await).unwrap();
    refused_as_a_replica(store.apply(&[write(b"settings:a", KeyOp::Set, Some("old"))]).await).unwrap();
    redis.run::<()>("REPLICAOF NO ONE").await;
    // Another replication id: the data set may be another one.
    let readings = store.observe(&[b"settings:a"], true).await.unwrap();
    assert_eq!(readings.readings[0].state, KeyState::Value { bytes: b"old".to_vec(), expires_ms: None });
    let done = store.apply(&[write(b"settings:a", KeyOp::Set, Some("old"))]).await.unwrap();
    assert_eq!(done, [KeyOutcome::Done]);
}

#[tokio::test]
async fn a_full_server_is_read_and_takes_what_frees_memory() {
    let redis = Redis::start().await;
    let store = owner(&redis).await;
    redis.run::<()>("MSET settings:a old settings:b old").await;
    redis.run::<()>("CONFIG SET maxmemory 1").await;
    let answer = store.observe(&[b"settings:a", b"settings:b"], true).await.unwrap();
    assert!(answer.readings.iter().all(|reading| matches!(reading.state, KeyState::Value { .. })), "{answer:?}");
    let writes = [
        write(b"settings:a", KeyOp::Set, Some("old")),
        write(b"settings:b", KeyOp::Delete, Some("old")),
        write(b"settings:c", KeyOp::Note, None),
    ];
    let outcomes = store.apply(&writes).await.unwrap();
    assert!(matches!(&outcomes[0], KeyOutcome::NotNow(why) if why.contains("OOM")), "{outcomes:?}");
    assert_eq!(outcomes[1..], [KeyOutcome::Done, KeyOutcome::Done]);
    assert_eq!(redis.run::<Vec<Option<String>>>("MGET settings:a settings:b").await, [Some("old".to_owned()), None]);
    let edits = [("a", Some(&b"new"[..])), ("a", None)].map(|(name, value)| (format!("settings:{name}"), value));
    for ((key, value), wanted) in edits.iter().zip(["NotNow", "Done"]) {
        let edit = keepstep::store::KeyEdit { key: key.as_bytes(), expect: Some(Digest::of(b"old")), value: *value };
        let outcomes = store.edit(&[edit]).await.unwrap();
        assert!(format!("{outcomes:?}").contains(wanted), "{outcomes:?}");
    }
}

#[tokio::test]
async fn names_that_were_made_to_meet_are_pairs_of_their_own() {
    let matches = "{zk: /r/**, cache: \"r:**\"}";
    let scene = Scene::prepare(&[], |pipeline| pipeline.matches(matches).worker("reconcile: 2s")).await;
    let paths = MEETING.map(|key| format!("/{}", key.replace(':', "/")));
    scene.znodes.put("/r", "").await;
    for key in MEETING {
        scene.set(key, "v").await;
    }
    let outcome = scene.keepstep.command("diff", &["--format", "json"]).await;
    assert_eq!((outcome.code, outcome.objects().len()), (Some(1), 4), "{}", outcome.stdout);
    // The first comparison finds them, and ends in step only with all of them.
    scene.keepstep.command("run", &["--once", "--http", "127.0.0.1:0"]).await.expect(0);
    for path in &paths {
        assert_eq!(scene.znodes.text(path).await.as_deref(), Some("v"), "{path}");
    }
    scene.keepstep.command("diff", &[]).await.expect(0);
    // The stream has each of them, once.
    let mut recorded: Vec<Value> =
        scene.keepstep.changes().await.iter().map(|row| row["pair"]["cache"].clone()).collect();
    recorded.sort_by_key(ToString::to_string);
    let mut wanted = MEETING;
    wanted.sort_unstable();
    assert_eq!(recorded, wanted.map(Value::from));
}

/// The key in which this key's base is kept.
async fn bucket_of(scene: &Scene, key: &str) -> String {
    for bucket in scene.redis.run::<Vec<String>>("KEYS _keepstep:settings:{*").await {
        if scene.redis.run::<bool>(&format!("HEXISTS {bucket} {key}")).await {
            return bucket;
        }
    }
    panic!("{key} has no base");
}

fn detail_of(rows: &[Value], key: &str) -> String {
    let row = rows.iter().find(|row| row["pair"]["cache"] == key);
    row.map(|row| row["detail"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn what_else_has_a_buckets_name_stops_the_pairs_of_that_bucket_alone() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.worker("reconcile: 1s")).await;
    scene.run().await;
    for number in 0..50 {
        scene.set(format!("settings:{number}"), "v").await;
    }
    scene.in_step(LIVE).await;
    let bucket = bucket_of(&scene, "settings:7").await;
    scene.keepstep.terminate().await;
    scene.redis.run::<()>(&format!("DEL {bucket}")).await;
    scene.redis.run::<()>(&format!("SET {bucket} mine")).await;
    for number in 0..50 {
        scene.set(format!("settings:{number}"), "w").await;
    }
    scene.run().await;
    for number in (0..50).filter(|number| *number != 7) {
        scene.znode_becomes(&format!("/settings/{number}"), Some("w")).await;
    }
    scene.quarantine_becomes(&["wrong_type"]).await;
    let detail = detail_of(&scene.keepstep.json("quarantine list", &[]).await, "settings:7");
    assert!(detail.contains(&bucket) && detail.contains("rename or delete"), "{detail}");
    // From the other side as well: its write meets the same.
    scene.znodes.put("/settings/7", "z").await;
    scene.settle().await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    assert_eq!(scene.text("settings:7").await.as_deref(), Some("w"));
    scene.redis.run::<()>(&format!("DEL {bucket}")).await;
    scene.quarantine_becomes(&[]).await;
    scene.in_step(LIVE).await;
    assert_eq!(scene.redis.run::<String>(&format!("TYPE {bucket}")).await, "hash");
}

/// A rule that counts changes forgets what it agreed on, and counts on.
#[tokio::test]
async fn higher_version_goes_on_counting_pairs_that_came_and_went() {
    let scene = Scene::start_with(|pipeline| pipeline.route("on_conflict: higher_version")).await;
    for round in 0..3 {
        scene.set("settings:a", format!("v{round}")).await;
        scene.znode_becomes("/settings/a", Some(&format!("v{round}"))).await;
        scene.znodes.put("/settings/a", format!("z{round}")).await;
        scene.key_becomes("settings:a", Some(&format!("z{round}"))).await;
        scene.del("settings:a").await;
        scene.znode_becomes("/settings/a", None).await;
    }
    scene.set("settings:a", "base").await;
    scene.znode_becomes("/settings/a", Some("base")).await;
    scene.settle().await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
    // Two writes against one.
    scene.set("settings:a", "one").await;
    scene.set("settings:a", "two").await;
    scene.znodes.put("/settings/a", "only").await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.znode_becomes("/settings/a", Some("two")).await;
    let conflicts = eventually("the conflict is listed", LIVE, async || {
        let rows = scene.keepstep.json("conflicts", &[]).await;
        if rows.is_empty() { Err("none".to_owned()) } else { Ok(rows) }
    })
    .await;
    assert_eq!(conflicts[0]["winner"], "cache", "{conflicts:?}");
    assert_eq!(conflicts[0]["reason"], "the key has more writes", "{conflicts:?}");
}

/// Milestones say how much of its own history a data set has, so over an older one none is put that would be one of the newer.
#[tokio::test]
async fn a_milestone_is_put_only_where_the_one_before_it_still_is() {
    let redis = Redis::start().await;
    let store = owner(&redis).await;
    let left = async || store.leave_milestone().await.map(|left| left.map(|left| left.milestone));
    let held = async || {
        let held: Option<String> = redis.run("HGET _keepstep:twin milestone").await;
        held.unwrap_or_default()
    };
    let first = left().await.unwrap().unwrap();
    let second = left().await.unwrap().unwrap();
    assert!(first.branch == second.branch && first.number < second.number);
    let text = |milestone: keepstep::store::Milestone| format!("{}:{}", milestone.branch, milestone.number);
    assert_eq!(held().await, text(second));
    assert!(first.is_in(Some(second)) && !second.is_in(Some(first)));
    // Those that are under way at a time may arrive in any order.
    let later = keepstep::store::Milestone { number: second.number + 5, ..second };
    redis.run::<()>(&format!("HSET _keepstep:twin milestone {}", text(later))).await;
    let third = left().await.unwrap().unwrap();
    assert!(third.is_in(Some(later)) && held().await == text(later));
    // As in a copy that was made between the two; then as in one that was made before; then as after FLUSHALL.
    for older in [Some(text(first)), Some("1:99".to_owned()), None] {
        match &older {
            Some(older) => redis.run::<()>(&format!("HSET _keepstep:twin milestone {older}")).await,
            None => redis.run::<()>("FLUSHALL").await,
        }
        assert_eq!(left().await, Ok(None), "over {older:?}");
        assert_eq!(held().await, older.unwrap_or_default(), "it stays");
        let other = left().await.unwrap().unwrap();
        assert!(other.branch != first.branch && !first.is_in(Some(other)));
        assert_eq!(held().await, text(other));
    }
    // Another owner's are those of another branch, and a former owner leaves none.
    let next = scripts::store(&redis);
    next.connect().await.unwrap();
    next.begin(Remembered { epoch: 2, ensemble: 1, zxid: 1, watermark: 0 }).await.unwrap();
    let of_next = next.leave_milestone().await.unwrap().unwrap().milestone;
    assert!(matches!(left().await, Err(StoreError::Fenced(_))));
    assert_eq!(held().await, text(of_next));
}
