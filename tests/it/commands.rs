//! The commands from outside: what they print, how they end, and what a running worker answers.

use crate::support::{Keepstep, LIVE, Pipeline, Place, Scene, eventually, eventually_is, never};
use serde_json::{Value, json};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::Duration;

/// An address where nobody listens: port 1 of this machine.
const NOBODY: &str = "127.0.0.1:1";

fn unreachable() -> Pipeline {
    Pipeline::two_way(NOBODY, format!("redis://{NOBODY}/0"))
}

#[tokio::test]
async fn validate_ends_with_0_for_a_good_file_and_78_for_a_bad_one() {
    Keepstep::new(unreachable()).command("validate", &[]).await.expect(0);
    let bad = Keepstep::new(unreachable().route("on_conflit: latest").worker("reconcil: 1s"));
    let said = bad.command("validate", &[]).await.expect(78).stderr;
    for part in ["on_conflit", "on_conflict", "reconcil", "reconcile", "pipeline.yaml:"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    bad.command("run", &[]).await.expect(78);
    bad.command("echo", &[]).await.expect(78);
    bad.command("tail", &["--no-follow"]).await.expect(78);
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let keepstep = Keepstep::new(unreachable());
    keepstep.bare(&["run"]).await.expect(2);
    keepstep.bare(&["nonsense"]).await.expect(2);
    keepstep.command("run", &["--nonsense"]).await.expect(2);
    keepstep.bare(&["--help"]).await.expect(0);
    keepstep.bare(&["--version"]).await.expect(0);
}

#[tokio::test]
async fn a_store_that_is_not_reachable_in_time_ends_with_75() {
    let keepstep = Keepstep::new(unreachable());
    keepstep.command("validate", &["--connect", "--timeout", "1s"]).await.expect(75);
    keepstep.command("run", &["--once", "--timeout", "1s", "--http", "off"]).await.expect(75);
    keepstep.command("status", &[]).await.expect(75);
    keepstep.command("pause", &[]).await.expect(75);
}

#[tokio::test]
async fn validate_connect_says_what_the_stores_are() {
    let scene = Scene::prepare(&[], |pipeline| pipeline).await;
    let rows = scene.keepstep.json("validate", &["--connect"]).await;
    let said = format!("{rows:?}");
    for part in ["zk", "cache", "\"ok\""] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let text = scene.keepstep.command("validate", &["--connect"]).await.expect(0).stdout;
    assert!(text.contains("settings"), "{text}");
    assert_eq!(scene.redis.run::<u64>("DBSIZE").await, 0, "nothing is changed anywhere");
    let tree = scene.znodes.tree("").await;
    assert!(tree.iter().all(|(path, _)| path.starts_with("/zookeeper")), "{tree:?}");
}

#[tokio::test]
async fn a_refused_login_ends_a_run_with_1() {
    let user = ["--user", "keepstep", "on", ">secret", "~*", "&*", "+@all"];
    let mut scene =
        Scene::prepare(&user, |pipeline| pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}"))
            .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "wrong-one");
    scene.keepstep.start();
    let log = scene.keepstep.log_at_end(LIVE, 1).await;
    assert!(!log.contains("wrong-one"), "{log}");
    assert!(log.contains("cache"), "it names the store: {log}");
}

#[tokio::test]
async fn echo_and_errors_mask_secrets() {
    let text = |url: &str| Pipeline::two_way("127.0.0.1:2181", url).redis("password: {env: REDIS_PASSWORD}");
    let keepstep = Keepstep::new(text("redis://127.0.0.1:6379/0").zookeeper("auth: {digest: {env: ZK_AUTH}}"))
        .variable("REDIS_PASSWORD", "s3cret-one")
        .variable("ZK_AUTH", "user:s3cret-two");
    for format in ["text", "json"] {
        let echoed = keepstep.command("echo", &["--format", format]).await.expect(0);
        let said = format!("{echoed:?}");
        assert!(!said.contains("s3cret"), "{said}");
        assert!(echoed.stdout.contains("127.0.0.1:6379") && echoed.stdout.contains("reconcile"), "{said}");
    }
    let inside = Keepstep::new(Pipeline::two_way("127.0.0.1:2181", "redis://user:s3cret-three@127.0.0.1:6379/0"));
    let said = format!("{:?}", inside.command("echo", &[]).await);
    assert!(!said.contains("s3cret"), "{said}");
    let inline =
        Keepstep::new(Pipeline::two_way("127.0.0.1:2181", "redis://127.0.0.1/0").redis("password: s3cret-four"));
    let refused = inline.command("validate", &[]).await.expect(78);
    assert!(!format!("{refused:?}").contains("s3cret"), "{refused:?}");
    let missing = Keepstep::new(text("redis://127.0.0.1:6379/0")).command("validate", &[]).await.expect(78);
    assert!(missing.stderr.contains("REDIS_PASSWORD"), "{missing:?}");
}

#[tokio::test]
async fn echo_of_an_echo_is_the_same_pipeline() {
    let keepstep = Keepstep::new(Pipeline::two_way("127.0.0.1:2181", "redis://127.0.0.1:6379/3").route("publish: p"));
    let once = keepstep.command("echo", &[]).await.expect(0).stdout;
    keepstep.rewrite(&once);
    assert_eq!(keepstep.command("echo", &[]).await.expect(0).stdout, once);
}

#[tokio::test]
async fn run_once_brings_the_stores_in_step_and_ends() {
    let scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.set("settings:a", "1").await;
    scene.znodes.put("/settings/b", "2").await;
    scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(0);
    assert_eq!(scene.znodes.text("/settings/a").await.as_deref(), Some("1"));
    assert_eq!(scene.text("settings:b").await.as_deref(), Some("2"));

    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.set("settings:c", "3").await;
    scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(1);
    assert_eq!(scene.znodes.text("/settings/c").await.as_deref(), Some("3"));
    let listed = scene.keepstep.json("quarantine list", &[]).await;
    assert_eq!(listed.len(), 1, "it can be asked for without a worker: {listed:?}");
    assert_eq!(
        (listed[0]["reason"].as_str(), listed[0]["pair"]["cache"].as_str()),
        (Some("wrong_type"), Some("settings:list"))
    );

    scene.redis.run::<()>("DEL settings:list").await;
    scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(0);
    let changes = scene.keepstep.changes().await;
    scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(0);
    assert_eq!(scene.keepstep.changes().await, changes, "a restart puts nothing on the stream for what did not change");
}

#[tokio::test]
async fn a_signal_ends_a_run_with_0_and_a_restart_goes_on() {
    let mut scene = Scene::start().await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    let before = scene.keepstep.changes().await;
    scene.run().await;
    scene.set("settings:b", "2").await;
    scene.znode_becomes("/settings/b", Some("2")).await;
    let after = scene.keepstep.changes().await;
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(after.len(), before.len() + 1, "{after:?}");
}

#[tokio::test]
async fn the_socket_is_the_owners_alone_and_commands_go_through_it() {
    let scene = Scene::start().await;
    let socket = std::fs::read_dir(scene.keepstep.data().join("settings"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|entry| entry.file_type().unwrap().is_socket())
        .expect("the worker has a socket in its folder");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let status = scene.keepstep.json("status", &[]).await;
    assert_eq!(status.len(), 1, "{status:?}");
    assert_eq!((&status[0]["pipeline"], &status[0]["state"]), (&json!("settings"), &json!("live")));
    assert_eq!(status[0]["routes"][0]["route"], "settings");
    scene.keepstep.command("status", &[]).await.expect(0);

    scene.keepstep.command("pause", &["--route", "settings"]).await.expect(0);
    scene.route_becomes("paused").await;
    scene.set("settings:a", "1").await;
    never("a paused route carries a change", Duration::from_secs(2), async || {
        match scene.znodes.text("/settings/a").await {
            None => Ok(()),
            Some(value) => Err(value),
        }
    })
    .await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.keepstep.command("reconcile", &[]).await.expect(0);
    scene.keepstep.command("pause", &["--route", "nonsense"]).await.expect(2);
    scene.route_becomes("live").await;
}

#[tokio::test]
async fn what_rewrites_or_deletes_in_bulk_needs_yes_where_nobody_can_be_asked() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.keepstep = scene.keepstep.variable("KEEPSTEP_YES", "");
    scene.run().await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    let position = scene.keepstep.changes().await[0]["position"].to_string();
    for (verb, flags) in [
        ("repair", &["--prefer", "zk"][..]),
        ("replay", &["--to", "cache"]),
        ("approve", &[]),
        ("quarantine drop", &[]),
    ] {
        let refused = scene.keepstep.command(verb, flags).await.expect(2).stderr;
        assert!(refused.contains("--yes"), "{refused}");
        let allowed = scene.keepstep.command(verb, &[flags, &["--yes"]].concat()).await;
        assert_ne!(allowed.code, Some(2), "{allowed:?}");
    }
    scene.keepstep.command("replay", &["--to", "cache", "--dry-run"]).await.expect(0);
    // That there is no conflict is found before anybody is asked.
    scene
        .keepstep
        .bare(&["conflicts", "restore", &scene.keepstep.file().display().to_string(), &position])
        .await
        .expect(1);
}

async fn tail_shows_what_is_asked_for_with_a_worker_and_without_one(place: Place) {
    let mut scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    for number in 0..5 {
        scene.set(format!("settings:{number}"), "1").await;
        scene.znode_becomes(&format!("/settings/{number}"), Some("1")).await;
    }
    let all = scene.keepstep.changes().await;
    assert_eq!(all.len(), 5, "{all:?}");
    let tail = async |flags: &[&str]| scene.keepstep.json("tail", &[flags, &["--no-follow"]].concat()).await;
    assert_eq!(tail(&["--from", "earliest", "--limit", "2"]).await, all[..2]);
    assert_eq!(tail(&["--from", "earliest", "--key", "settings:[34]"]).await, all[3..]);
    let third = all[2]["position"].to_string();
    assert_eq!(tail(&["--from", &third]).await, all[2..]);
    assert_eq!(tail(&["--from", "latest"]).await, Vec::<Value>::new());
    assert_eq!(tail(&["--from", "1h"]).await, all);
    assert_eq!(tail(&["-n", "2"]).await, all[3..]);
    assert_eq!(tail(&["-n", "1", "--key", "settings:[0-2]"]).await, all[2..3]);
    assert_eq!(tail(&["-n", "9"]).await, all);
    assert_eq!(tail(&["-n", "0"]).await, Vec::<Value>::new());
    assert_eq!(tail(&["--from", "2026-01-01T00:00:00Z", "--route", "settings"]).await, all);
    let text = scene.keepstep.command("tail", &["--from", "earliest", "--no-follow"]).await.expect(0).stdout;
    assert_eq!(text.lines().count(), 5, "{text}");
    scene.keepstep.kill9();
    assert_eq!(scene.keepstep.changes().await, all);
}

async fn tail_follows_and_ends_at_its_limit(place: Place) {
    let scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    let follower = scene.keepstep.command("tail", &["--limit", "2", "--from", "earliest", "--format", "json"]);
    let writer = async {
        scene.set("settings:a", "1").await;
        scene.znode_becomes("/settings/a", Some("1")).await;
        scene.set("settings:b", "2").await;
    };
    let (outcome, ()) = tokio::time::timeout(LIVE, async { tokio::join!(follower, writer) }).await.expect("it ends");
    let rows = outcome.expect(0).objects();
    assert_eq!(rows.iter().map(|row| &row["after"]).collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test]
async fn the_pages_answer_and_steering_needs_the_token() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    let token = scene.keepstep.data().with_file_name("token");
    std::fs::write(&token, "open-sesame\n").unwrap();
    scene.keepstep.start_with(&["--http-token-file", token.to_str().unwrap()]);
    scene.keepstep.wait_ready().await;
    for (page, part) in
        [("/live", ""), ("/ready", ""), ("/metrics", "keepstep_pairs{"), ("/status", "\"settings\""), ("/", "settings")]
    {
        let answer = scene.keepstep.get(page).await;
        assert!(answer.status == 200 && answer.body.contains(part), "{page}: {answer:?}");
    }
    let metrics = scene.keepstep.get("/metrics").await.body;
    let named = metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in named {
        assert!(line.starts_with("keepstep_") || line.starts_with("process_"), "{line}");
    }
    assert_eq!(scene.keepstep.post("/pause", &[]).await.status, 401);
    assert_eq!(scene.keepstep.post("/pause", &["Authorization: Bearer wrong"]).await.status, 401);
    assert_eq!(scene.keepstep.post("/pause", &["Authorization: Bearer open-sesame"]).await.status, 200);
    scene.route_becomes("paused").await;
    assert_eq!(scene.keepstep.post("/resume", &["Authorization: Bearer open-sesame"]).await.status, 200);
    scene.route_becomes("live").await;
}

#[tokio::test]
async fn without_a_token_file_steering_over_http_is_off() {
    let scene = Scene::start().await;
    for path in ["/pause", "/resume", "/reconcile", "/approve"] {
        assert_eq!(scene.keepstep.post(path, &["Authorization: Bearer "]).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let scene = Scene::start().await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.set("settings:a", "2").await;
    scene.znode_becomes("/settings/a", Some("2")).await;
    let metric = async |name: &str, labels: &str| scene.keepstep.metric(name, labels).await;
    assert_eq!(metric("keepstep_changes_total", "op=\"c\"").await, 1.0);
    assert_eq!(metric("keepstep_changes_total", "op=\"u\"").await, 1.0);
    assert!(metric("keepstep_writes_total", "store=\"zk\"").await >= 2.0);
    eventually_is("the pairs", LIVE, 1.0, async || metric("keepstep_pairs", "route=\"settings\"").await).await;
    assert_eq!(metric("keepstep_gaps_total", "").await, 0.0);
    assert!(metric("process_resident_memory_bytes", "").await > 0.0);
    let memory = metric("process_resident_memory_bytes", "").await;
    assert!(memory < 250e6, "{memory} bytes");
}

#[tokio::test]
async fn quarantine_retry_looks_again_and_drop_is_silent_until_a_change() {
    let scene = Scene::start().await;
    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    let shown = scene.keepstep.command("quarantine show", &["--key", "settings:l*"]).await.expect(0).stdout;
    assert!(shown.contains("wrong_type") && shown.contains("settings:list"), "{shown}");
    scene.keepstep.command("quarantine retry", &[]).await.expect(0);
    scene.quarantine_becomes(&["wrong_type"]).await;
    scene.keepstep.command("quarantine drop", &["--key", "settings:list"]).await.expect(0);
    scene.quarantine_becomes(&[]).await;
    scene.redis.run::<()>("RPUSH settings:list 2").await;
    scene.quarantine_becomes(&["wrong_type"]).await;
}

#[tokio::test]
async fn retention_thins_the_stream_and_forgets_no_pair() {
    let scene = Scene::start_with(|pipeline| pipeline.embedded("{retention: {age: 7d, size: 1MiB}}")).await;
    scene.set("settings:old", "once").await;
    scene.znode_becomes("/settings/old", Some("once")).await;
    for round in 0..80_u8 {
        let value = vec![b'a' + round % 26; 100_000];
        scene.set("settings:big", &value).await;
        eventually_is("the znode", LIVE, Some(value), async || scene.znodes.get("/settings/big").await).await;
    }
    eventually("the stream is thinned", Duration::from_secs(30), async || {
        let kept = scene.keepstep.changes().await;
        let bytes: usize = kept.iter().map(|change| change.to_string().len()).sum();
        let of = |key: &str| kept.iter().rfind(|change| change["pair"]["cache"] == key).map(|change| &change["after"]);
        assert_eq!(of("settings:old"), Some(&json!("once")));
        assert_eq!(of("settings:big").and_then(Value::as_str).map(str::len), Some(100_000));
        if bytes < 6 << 20 { Ok(()) } else { Err(format!("{} changes, {bytes} bytes", kept.len())) }
    })
    .await;
}

#[tokio::test]
async fn schemas_are_json() {
    let keepstep = Keepstep::new(unreachable());
    for what in ["pipeline", "change"] {
        let text = keepstep.bare(&["schema", what]).await.expect(0).stdout;
        let schema: Value = serde_json::from_str(&text).unwrap();
        assert!(schema.is_object(), "{what}");
    }
}

#[tokio::test]
async fn a_busy_address_is_a_warning_and_retried() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    let busy = tokio::net::TcpListener::bind(scene.keepstep.http()).await.unwrap();
    scene.keepstep.start();
    eventually("the worker is live all the same", LIVE, async || {
        let status = scene.keepstep.command("status", &["--format", "json"]).await;
        if status.stdout.contains("\"live\"") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    drop(busy);
    scene.keepstep.wait_ready().await;
}

on_both_streams!(tail_shows_what_is_asked_for_with_a_worker_and_without_one, tail_follows_and_ends_at_its_limit,);
