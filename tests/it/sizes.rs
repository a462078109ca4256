//! Requests have the size that servers take: what fits is mirrored however deep or long its name is, what does not is too large, and
//! neither stops a pair beside it.

use crate::support::{Keepstep, LIVE, Pipeline, Redis, Scene, ZooKeeper, eventually, eventually_is};
use serde_json::Value;
use std::time::Duration;
use zookeeper_client::{Acl, Acls, AuthId, CreateMode, Permission};

const MEBIBYTE: u64 = 1 << 20;

/// What a worker with a handful of pairs stays below, whatever their names (the contract: 250 MiB).
const MEMORY: u64 = 250 * MEBIBYTE;

/// As long as `run --once` may take with a few pairs on a busy machine.
const ONCE: Duration = Duration::from_secs(60);

fn deep(levels: usize) -> String {
    format!("settings{}", ":x".repeat(levels))
}

async fn scene_with(zookeeper: &'static [&'static str], redis: &[&str], change: fn(Pipeline) -> Pipeline) -> Scene {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start_with(zookeeper), Redis::start_with(redis));
    let pipeline = change(Pipeline::two_way(zookeeper.connect_string(), redis.url()));
    let keepstep = Keepstep::run(pipeline).await;
    let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
    Scene { redis, zookeeper, znodes, client, keepstep }
}

/// Ordinary pairs go both ways.
async fn others_flow(scene: &Scene, round: &str) {
    for number in 0..5 {
        scene.set(format!("settings:other:{number}"), format!("{round} {number}")).await;
        scene.znodes.put(&format!("/settings/third/{number}"), format!("{round} {number}")).await;
    }
    for number in 0..5 {
        let value = format!("{round} {number}");
        scene.znode_becomes(&format!("/settings/other/{number}"), Some(&value)).await;
        scene.key_becomes(&format!("settings:third:{number}"), Some(&value)).await;
    }
}

/// The commands that look at everything end, and say what is the matter; no line of any log is long.
async fn commands_end(scene: &mut Scene) {
    let differ = scene.keepstep.command("diff", &["--format", "json"]).await.expect(1);
    assert!(differ.objects().len() >= 2, "{} differences", differ.objects().len());
    let repaired =
        scene.keepstep.command("repair", &["--prefer", "cache", "--yes", "--timeout", "10s"]).await.expect(1);
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    let log = scene.keepstep.log();
    scene.keepstep.start_with(&["--once"]);
    let once = scene.keepstep.log_at_end(ONCE, 1).await;
    for line in [log, once, differ.stderr, repaired.stderr].iter().flat_map(|log| log.lines()) {
        assert!(line.len() < 1024, "a line of {} bytes: {}", line.len(), &line[..line.len().min(300)]);
    }
}

/// Names of 500, 1,200 and 30,000 levels, and one of 530,000 bytes, at a live worker and at one that starts.
#[tokio::test]
async fn deep_and_long_names_are_mirrored_or_too_large_and_hold_up_nobody() {
    let mut scene = Scene::start().await;
    scene.set(deep(500), "deep").await;
    scene.set(deep(1200), "deeper").await;
    scene.set(format!("settings:{}", "n".repeat(530_000)), "long").await;
    scene.set(deep(30_000), "deepest").await;
    let path = format!("/{}", deep(500).replace(':', "/"));
    eventually_is("the deep znode", LIVE, Some("deep".to_owned()), async || scene.znodes.text(&path).await).await;
    scene.quarantine_becomes(&["too_large"; 3]).await;
    others_flow(&scene, "first").await;
    // Below what is there now, and back.
    scene.set(format!("{}:y", deep(500)), "deep too").await;
    let below = format!("{path}/y");
    eventually_is("its child", LIVE, Some("deep too".to_owned()), async || scene.znodes.text(&below).await).await;
    scene.znodes.put(&below, "back").await;
    let key = format!("{}:y", deep(500));
    eventually_is("its key", LIVE, Some("back".to_owned()), async || scene.text(&key).await).await;
    assert!(scene.keepstep.memory_peak() < MEMORY, "{} bytes", scene.keepstep.memory_peak());

    scene.keepstep.restart().await;
    others_flow(&scene, "second").await;
    scene.quarantine_becomes(&["too_large"; 3]).await;
    assert!(scene.keepstep.memory_peak() < MEMORY, "{} bytes", scene.keepstep.memory_peak());
    for row in scene.keepstep.json("quarantine list", &[]).await {
        assert!(row["detail"].as_str().is_some_and(|detail| detail.len() < 1000), "the detail is long");
        // The name is data: whole.
        assert!(row["pair"]["cache"].as_str().is_some_and(|key| key.len() > 2_400), "the name is whole");
    }
    commands_end(&mut scene).await;

    scene.keepstep.restart().await;
    scene.del(deep(1200)).await;
    scene.del(deep(30_000)).await;
    // `repair` writes as an application does, without a journal: that fitted. The worker's own delete does not.
    scene.del(format!("settings:{}", "n".repeat(530_000))).await;
    scene.znodes.delete(&format!("/settings/{}", "n".repeat(530_000))).await;
    scene.quarantine_becomes(&[]).await;
}

/// A name with more levels than the ensemble creates in a moment is refused before anything is asked of it; the deepest ones that are
/// mirrored are created between the writes of others, and cost nobody the session.
#[tokio::test]
async fn deep_names_at_a_first_sync_and_later_hold_up_nobody_and_cost_no_session() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.session_timeout("4s")).await;
    let mirrored = |number: usize| format!("settings:m{number}{}", ":x".repeat(590));
    let refused = |number: usize| format!("settings:r{number}{}", ":x".repeat(1900));
    for number in 0..10 {
        scene.set(refused(number), "deep").await;
    }
    for number in 0..3 {
        scene.set(mirrored(number), "deep").await;
    }
    for number in 0..50 {
        scene.set(format!("settings:plain:{number}"), "v").await;
    }
    scene.run().await;
    for number in 0..50 {
        scene.znode_becomes(&format!("/settings/plain/{number}"), Some("v")).await;
    }
    scene.quarantine_becomes(&["too_large"; 10]).await;
    for number in 0..3 {
        scene.znode_becomes(&format!("/{}", mirrored(number).replace(':', "/")), Some("deep")).await;
    }
    assert_eq!(scene.znodes.text("/settings/r0").await, None, "no level of a name that is refused is created");
    // Live, with more than a moment's work at once.
    scene.set(refused(10), "deep").await;
    for number in 3..6 {
        scene.set(mirrored(number), "deep").await;
    }
    others_flow(&scene, "live").await;
    for number in 3..6 {
        scene.znode_becomes(&format!("/{}", mirrored(number).replace(':', "/")), Some("deep")).await;
    }
    scene.quarantine_becomes(&["too_large"; 11]).await;
    assert_eq!(scene.keepstep.metric("keepstep_gaps_total", "").await, 0.0, "a session was lost");
}

/// Each of the six znodes of a key takes as much of the transaction as the parent's ACL is long.
#[tokio::test]
async fn many_keys_below_a_parent_with_a_long_acl_all_arrive() {
    let scene = Scene::start().await;
    let mut acl = vec![Acl::new(Permission::ALL, AuthId::anyone())];
    acl.extend((0..30).map(|number| {
        let id = format!("somebody-with-a-long-name-{number}:{}", "0123456789abcdefghijklmnop=");
        Acl::new(Permission::READ, AuthId::new("digest", &id))
    }));
    let options = CreateMode::Persistent.with_acls(Acls::from(acl.as_slice()));
    scene.znodes.put("/settings", "").await;
    scene.znodes.client().create("/settings/team", b"", &options).await.unwrap();
    let keys: Vec<String> = (0..200)
        .map(|number| format!("settings:team:{number:016}:{number:016}:{number:016}:{number:016}"))
        .inspect(|key| assert!(key.len() >= 81, "{}", key.len()))
        .collect();
    for key in &keys {
        scene.set(key, "v").await;
    }
    scene.in_step(LIVE * 2).await;
    assert!(scene.quarantined().await.is_empty());
    let (given, _) = scene.znodes.client().get_acl(&format!("/{}", keys[7].replace(':', "/"))).await.unwrap();
    assert_eq!(given.len(), 31);
}

/// The server's own limit is not known: it closes the connection, for the requests of many as for the one that is too large alone.
#[tokio::test]
async fn a_small_jute_maxbuffer_splits_batches_and_only_what_is_too_large_alone_is_quarantined() {
    let mut scene = scene_with(&["-Djute.maxbuffer=20000"], &[], |pipeline| pipeline).await;
    let mut keys: redis::Pipeline = redis::pipe();
    for number in 0..400 {
        keys.set(format!("settings:{}:{number}", "n".repeat(150)), "v".repeat(100)).ignore();
    }
    keys.set(format!("settings:{}", "l".repeat(30_000)), "long").ignore();
    keys.set("settings:large", "x".repeat(30_000)).ignore();
    keys.exec_async(&mut scene.client.clone()).await.unwrap();
    scene.quarantine_becomes(&["too_large", "too_large"]).await;
    others_flow(&scene, "first").await;
    for number in [0, 57, 399] {
        scene.znode_becomes(&format!("/settings/{}/{number}", "n".repeat(150)), Some(&"v".repeat(100))).await;
    }
    scene.set("settings:large", "small now").await;
    scene.znode_becomes("/settings/large", Some("small now")).await;
    scene.set("settings:large", "x".repeat(30_000)).await;
    commands_end(&mut scene).await;
}

/// Each of these bytes is six letters in JSON.
fn control_characters(count: usize) -> Vec<u8> {
    vec![1; count]
}

async fn a_message_is_too_large(option: &str) {
    let publishes = |pipeline: Pipeline| pipeline.route("publish: told");
    let mut scene = scene_with(&[], &[option, "1mb"], publishes).await;
    scene.znodes.put("/settings/loud", control_characters(300_000)).await;
    scene.quarantine_becomes(&["too_large"]).await;
    others_flow(&scene, "first").await;
    assert_eq!(scene.text("settings:loud").await, None);
    let detail = scene.keepstep.json("quarantine list", &[]).await[0]["detail"].clone();
    assert!(detail.as_str().is_some_and(|detail| detail.contains("proto-max-bulk-len")), "{detail}");
    // Many at once, of which the messages fit alone.
    for number in 0..40 {
        scene.znodes.put(&format!("/settings/many/{number}"), control_characters(60_000)).await;
    }
    scene.key_becomes("settings:many:39", Some(&"\u{1}".repeat(60_000))).await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    scene.znodes.put("/settings/louder", control_characters(300_000)).await;
    scene.keepstep.start_with(&["--once"]);
    let code = scene.keepstep.code_at_end(ONCE).await;
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
    scene.keepstep.restart().await;
    for name in ["loud", "louder"] {
        scene.znodes.put(&format!("/settings/{name}"), "quiet").await;
        scene.key_becomes(&format!("settings:{name}"), Some("quiet")).await;
    }
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn a_message_beyond_proto_max_bulk_len_makes_its_pair_too_large_and_no_other() {
    a_message_is_too_large("--proto-max-bulk-len").await;
}

#[tokio::test]
async fn a_message_beyond_the_query_buffer_makes_its_pair_too_large_and_no_other() {
    a_message_is_too_large("--client-query-buffer-limit").await;
}

/// The server closes the connection where more than this waits in it to be read.
const ANSWERS: &[&str] = &["--client-output-buffer-limit", "normal 600kb 0 0"];

fn compares_often(pipeline: Pipeline) -> Pipeline {
    pipeline.worker("reconcile: 5s")
}

async fn set_length(scene: &Scene, key: &str, length: usize) {
    scene.set(key, vec![b'x'; length]).await;
}

/// The pair is named, with its length and the setting.
async fn is_too_large_to_be_answered(scene: &Scene, key: &str) {
    scene.quarantine_becomes(&["too_large"]).await;
    let row = scene.keepstep.json("quarantine list", &[]).await.remove(0);
    assert_eq!(row["pair"]["cache"].as_str(), Some(key));
    let detail = row["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("900000 bytes") && detail.contains("client-output-buffer-limit"), "{detail}");
}

async fn znode_has_length(scene: &Scene, path: &str, length: usize) {
    eventually_is(format!("the length of {path}"), LIVE, Some(length), async || {
        scene.znodes.text(path).await.map(|text| text.len())
    })
    .await;
}

/// Values that do not fit into one answer, and one that does not fit into any, before a first sync.
async fn with_large_values() -> Scene {
    let scene = Scene::prepare(ANSWERS, compares_often).await;
    for number in 0..6 {
        set_length(&scene, &format!("settings:large:{number}"), 400_000).await;
    }
    let mut small = redis::pipe();
    for number in 0..200 {
        small.set(format!("settings:small:{number}"), "1").ignore();
    }
    small.exec_async(&mut scene.client.clone()).await.unwrap();
    set_length(&scene, "settings:big", 900_000).await;
    scene
}

async fn all_but_the_largest_are_there(scene: &Scene) {
    for number in 0..6 {
        znode_has_length(scene, &format!("/settings/large/{number}"), 400_000).await;
    }
    for number in 0..200 {
        scene.znode_becomes(&format!("/settings/small/{number}"), Some("1")).await;
    }
    assert_eq!(scene.znodes.text("/settings/big").await, None);
}

#[tokio::test]
async fn a_value_whose_answer_closes_the_connection_is_too_large_and_a_first_sync_carries_all_others() {
    let mut scene = with_large_values().await;
    scene.keepstep.start();
    scene.keepstep.wait_ready().await;
    all_but_the_largest_are_there(&scene).await;
    is_too_large_to_be_answered(&scene, "settings:big").await;
    others_flow(&scene, "first").await;
    // Once it fits it is mirrored.
    scene.set("settings:big", "small now").await;
    scene.znode_becomes("/settings/big", Some("small now")).await;
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn a_value_whose_answer_closes_the_connection_is_too_large_and_holds_up_no_live_change() {
    let mut scene = Scene::prepare(ANSWERS, compares_often).await;
    scene.keepstep.start();
    scene.keepstep.wait_ready().await;
    others_flow(&scene, "first").await;
    set_length(&scene, "settings:big", 900_000).await;
    others_flow(&scene, "second").await;
    is_too_large_to_be_answered(&scene, "settings:big").await;
    // The comparisons that look at it again break nothing.
    for round in ["third", "fourth", "fifth"] {
        others_flow(&scene, round).await;
    }
    let mut client = scene.client.clone();
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "client-output-buffer-limit", "normal 0 0 0"])
        .query_async(&mut client)
        .await
        .unwrap();
    // What was learned is forgotten after half a minute, and a comparison looks at it again.
    eventually_is("the pair that fits now", LIVE * 4, Some(900_000), async || {
        scene.znodes.text("/settings/big").await.map(|text| text.len())
    })
    .await;
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn the_commands_read_all_but_the_value_whose_answer_closes_the_connection_and_name_it() {
    let mut scene = with_large_values().await;
    let validated = scene.keepstep.command("validate", &["--connect"]).await.expect(0);
    assert!(validated.stdout.contains("client-output-buffer-limit"), "{}", validated.stdout);
    let differ = scene.keepstep.command("diff", &["--format", "json"]).await.expect(1);
    assert!(differ.stdout.contains("settings:big"), "{}", differ.stdout);
    assert!(differ.stdout.contains("settings:small:199") && differ.stdout.contains("settings:large:5"));
    scene.keepstep.start_with(&["--once"]);
    let log = scene.keepstep.log_at_end(ONCE, 1).await;
    assert!(log.contains("too_large") && log.contains("client-output-buffer-limit"), "{log}");
    all_but_the_largest_are_there(&scene).await;
    set_length(&scene, "settings:large:0", 300_000).await;
    let repaired =
        scene.keepstep.command("repair", &["--prefer", "cache", "--yes", "--timeout", "30s"]).await.expect(1);
    let told = repaired.stdout + &repaired.stderr;
    assert!(told.contains("settings:big") && told.contains("client-output-buffer-limit"), "{told}");
    znode_has_length(&scene, "/settings/large/0", 300_000).await;
}

#[tokio::test]
async fn an_acl_of_a_parent_that_is_changed_holds_for_what_is_created_from_then_on() {
    let scene = Scene::start().await;
    scene.set("settings:team:0", "1").await;
    scene.znode_becomes("/settings/team/0", Some("1")).await;
    let anyone = Acl::new(Permission::ALL, AuthId::anyone());
    let with = |user: &str| [anyone.clone(), Acl::new(Permission::READ, AuthId::new("ip", user))];
    for (round, address) in ["10.0.0.1", "10.0.0.2"].iter().enumerate() {
        scene.znodes.client().set_acl("/settings/team", &with(address), None).await.unwrap();
        let mut number = 0;
        eventually("the new ACL", LIVE, async || {
            number += 1;
            let name = format!("{round}-{number}");
            scene.set(format!("settings:team:{name}"), "1").await;
            scene.znode_becomes(&format!("/settings/team/{name}"), Some("1")).await;
            let (given, _) = scene.znodes.client().get_acl(&format!("/settings/team/{name}")).await.unwrap();
            if given == with(address) { Ok(()) } else { Err(format!("{given:?}")) }
        })
        .await;
    }
}

/// The answer to a write is lost, and the journal may not be read any more: no waiting mends that, so it is told, and ends when it does.
#[tokio::test]
async fn a_journal_that_may_not_be_read_any_more_is_told_and_work_goes_on_when_it_may() {
    let scene = scene_with(&["-Djute.maxbuffer=200000"], &[], |pipeline| pipeline).await;
    others_flow(&scene, "first").await;
    let slots: Vec<String> = (0..16).map(|slot| format!("/_keepstep/settings/journal/{slot:02}")).collect();
    let without_read = Permission::WRITE | Permission::ADMIN;
    for slot in &slots {
        let acl = [Acl::new(without_read, AuthId::anyone())];
        scene.znodes.client().set_acl(slot, &acl, None).await.unwrap();
    }
    scene.set("settings:large", vec![b'x'; 300_000]).await;
    eventually_is("the log tells it", LIVE, true, async || {
        scene.keepstep.log().lines().any(|line| line.contains("journal") && line.contains("READ"))
    })
    .await;
    for slot in &slots {
        scene.znodes.client().set_acl(slot, &[Acl::new(Permission::ALL, AuthId::anyone())], None).await.unwrap();
    }
    let state = async || {
        let status: Vec<Value> = scene.keepstep.json("status", &[]).await;
        status[0]["state"].clone()
    };
    eventually_is("the state", LIVE, Value::from("live"), state).await;
    others_flow(&scene, "second").await;
    scene.quarantine_becomes(&["too_large"]).await;
}
