//! Replay: the stream made true in a store, by compare-and-set, beside a worker or without one.

use crate::support::{Kafka, Keepstep, LIVE, Pipeline, Place, Redis, Scene, eventually, never};
use serde_json::{Value, json};
use std::time::Duration;

/// Position of the newest record.
async fn position(scene: &Scene) -> u64 {
    scene
        .keepstep
        .changes()
        .await
        .last()
        .and_then(|change| change["position"].as_u64())
        .expect("the stream has records")
}

/// `a` and `b` as they were first, then changed, with `gone` deleted and `new` added; the position between the two.
async fn history(scene: &Scene) -> u64 {
    for (key, value) in [("settings:a", "a1"), ("settings:b", "b1"), ("settings:gone", "there")] {
        scene.set(key, value).await;
    }
    scene.znode_becomes("/settings/gone", Some("there")).await;
    scene.znodes.put("/settings/deep/down", "d1").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    let then = position(scene).await;
    scene.set("settings:a", "a2").await;
    scene.znodes.put("/settings/deep/down", "d2").await;
    scene.del("settings:gone").await;
    scene.set("settings:new", "new").await;
    scene.znode_becomes("/settings/new", Some("new")).await;
    scene.znode_becomes("/settings/a", Some("a2")).await;
    scene.znode_becomes("/settings/gone", None).await;
    scene.key_becomes("settings:deep:down", Some("d2")).await;
    scene.settle().await;
    then
}

fn last(rows: &[Value]) -> &Value {
    rows.last().expect("a summary")
}

/// The rows of `conflicts` for this key.
async fn conflicts_of(scene: &Scene, key: &str) -> Vec<Value> {
    scene.keepstep.json("conflicts", &["--key", key]).await
}

async fn replay_fills_an_empty_redis_and_the_worker_finds_all_in_step(place: Place) {
    let mut scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    history(&scene).await;
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("FLUSHALL").await;
    let sample = scene.keepstep.json("replay", &["--to", "cache", "--dry-run"]).await;
    assert!(sample.iter().any(|row| row["op"] == "c" && row["after"] == "a2"), "{sample:?}");
    assert_eq!(scene.redis.run::<u64>("DBSIZE").await, 0, "a dry run writes nothing");
    let rows = scene.keepstep.json("replay", &["--to", "cache"]).await;
    assert_eq!((&last(&rows)["failed"], &last(&rows)["updated"]), (&json!(0), &json!(0)), "{rows:?}");
    for (key, value) in [("settings:a", Some("a2")), ("settings:deep:down", Some("d2")), ("settings:gone", None)] {
        assert_eq!(scene.text(key).await.as_deref(), value, "{key}");
    }
    let keys = scene.redis.run::<Vec<String>>("KEYS *").await;
    assert!(keys.iter().all(|key| key.starts_with("settings:")), "only values are written: {keys:?}");
    let again = scene.keepstep.json("replay", &["--to", "cache"]).await;
    assert_eq!(last(&again)["equal"], last(&again)["pairs"], "{again:?}");
    // That Redis was flushed is told by a marker.
    let count = async |scene: &Scene| scene.keepstep.changes().await.iter().filter(|row| row["op"] != "m").count();
    let changes = count(&scene).await;
    scene.run().await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<Value>::new());
    assert!(count(&scene).await <= changes + 1, "only the last settling is news");
}

async fn what_replay_brings_back_beside_a_worker_flows_on_and_what_it_replaces_is_kept(place: Place) {
    let scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    let then = history(&scene).await;
    let rows = scene.keepstep.json("replay", &["--to", "cache", "--until", &then.to_string()]).await;
    assert_eq!(last(&rows)["failed"], 0, "{rows:?}");
    scene.znode_becomes("/settings/a", Some("a1")).await;
    scene.znode_becomes("/settings/deep/down", Some("d1")).await;
    scene.znode_becomes("/settings/gone", Some("there")).await;
    scene.key_becomes("settings:gone", Some("there")).await;
    assert_eq!(scene.text("settings:new").await.as_deref(), Some("new"), "the stream did not know it then");
    let kept = conflicts_of(&scene, "settings:a").await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!((&kept[0]["cache"], &kept[0]["rule"]), (&json!("a2"), &json!("replay")), "{kept:?}");
    assert_eq!(scene.keepstep.post("/keep", &[]).await.status, 404, "only the Unix socket takes values to keep");
    scene.settle().await;
    scene.in_step(LIVE).await;
}

async fn replay_to_zookeeper_creates_sets_and_deletes_and_leaves_unknown_pairs_alone(place: Place) {
    let mut scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    let then = history(&scene).await;
    scene.keepstep.terminate().await;
    scene.znodes.put("/settings/unknown", "mine").await;
    scene.znodes.put("/settings/a", "mangled").await;
    scene.znodes.delete("/settings/deep/down").await;
    let filter = ["--to", "zk", "--key", "settings:[ad]*"];
    let rows = scene.keepstep.json("replay", &filter).await;
    let numbers = last(&rows);
    assert_eq!((&numbers["updated"], &numbers["created"], &numbers["pairs"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(scene.znodes.text("/settings/a").await.as_deref(), Some("a2"));
    assert_eq!(scene.znodes.text("/settings/deep/down").await.as_deref(), Some("d2"));
    scene.znodes.put("/settings/gone", "undead").await;
    scene.keepstep.json("replay", &["--to", "zk"]).await;
    assert_eq!(scene.znodes.text("/settings/gone").await, None, "its last change is a delete");
    assert_eq!(scene.znodes.text("/settings/unknown").await.as_deref(), Some("mine"));
    scene.keepstep.json("replay", &["--to", "zk", "--until", &then.to_string()]).await;
    assert_eq!(scene.znodes.text("/settings/gone").await.as_deref(), Some("there"));
    let kept: Vec<Value> = conflicts_of(&scene, "*").await;
    let lost: Vec<&str> = kept.iter().filter_map(|row| row["zk"].as_str()).collect();
    for value in ["mangled", "undead", "a2", "d2"] {
        assert!(lost.contains(&value), "{value} is not in {kept:?}");
    }
}

async fn a_time_is_a_moment_and_a_kept_value_can_be_restored(place: Place) {
    let scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    scene.set("settings:a", "before").await;
    scene.znode_becomes("/settings/a", Some("before")).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let moment = scene.keepstep.changes().await.last().unwrap()["ts_ms"].as_i64().unwrap() + 1_000;
    let moment = time(moment);
    scene.set("settings:a", "after").await;
    scene.znode_becomes("/settings/a", Some("after")).await;
    scene.keepstep.command("replay", &["--to", "cache", "--until", &moment]).await.expect(0);
    scene.znode_becomes("/settings/a", Some("before")).await;
    let kept = conflicts_of(&scene, "settings:a").await;
    assert_eq!(kept[0]["cache"], "after", "{kept:?}");
    assert_eq!(kept[0]["zk"], Value::Null, "as the contract lists it: {kept:?}");
    let text = scene.keepstep.command("conflicts", &[]).await.expect(0).stdout;
    assert!(text.contains("zk=unknown  cache=\"after\""), "the replay did not look at zk: {text}");
    let lost = kept[0]["position"].to_string();
    let file = scene.keepstep.file().to_str().unwrap();
    let data = scene.keepstep.data().to_str().unwrap();
    scene.keepstep.bare(&["conflicts", "restore", file, &lost, "--yes", "--data-dir", data]).await.expect(0);
    scene.key_becomes("settings:a", Some("after")).await;
    scene.znode_becomes("/settings/a", Some("after")).await;
    for wrong in ["1", "999999"] {
        scene.keepstep.bare(&["conflicts", "restore", file, wrong, "--yes", "--data-dir", data]).await.expect(1);
    }
}

/// Milliseconds as RFC 3339, by the rules of the calendar.
fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

async fn a_scratch_store_takes_any_moment_and_a_destination_none(place: Place) {
    let mut scene = Scene::prepare(&[], |pipeline| place.of(pipeline.flow("zk -> cache"))).await;
    scene.run().await;
    scene.znodes.put("/settings/a", "a1").await;
    scene.key_becomes("settings:a", Some("a1")).await;
    let then = position(&scene).await.to_string();
    scene.znodes.put("/settings/a", "a2").await;
    scene.key_becomes("settings:a", Some("a2")).await;
    let refused = scene.keepstep.command("replay", &["--to", "cache", "--until", &then]).await.expect(2);
    assert!(refused.stderr.contains("destination"), "{refused:?}");
    let scratch = Redis::start().await;
    let own = scene.redis.url();
    scene.keepstep.command("replay", &["--to", "cache", "--until", &then, "--url", &own]).await.expect(2);
    let url = scratch.url();
    scene.keepstep.command("replay", &["--to", "cache", "--until", &then, "--url", &url]).await.expect(0);
    assert_eq!(scratch.run::<Option<String>>("GET settings:a").await.as_deref(), Some("a1"));
    assert_eq!(scene.text("settings:a").await.as_deref(), Some("a2"));
    scene.keepstep.command("replay", &["--to", "cache", "--url", &url]).await.expect(0);
    assert_eq!(scratch.run::<Option<String>>("GET settings:a").await.as_deref(), Some("a2"));
    let rows = scene.keepstep.json("replay", &["--to", "cache"]).await;
    assert_eq!(last(&rows)["equal"], 1, "what was replaced in a scratch store is no state of the pair: {rows:?}");
}

async fn bad_input_writes_nothing(place: Place) {
    let mut pipeline = None;
    let mut scene = Scene::start_with(|plain| pipeline.insert(place.of(plain)).clone()).await;
    let pipeline = pipeline.expect("the scene has a pipeline");
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("FLUSHALL").await;
    let records = scene.keepstep.changes().await;
    for (verb, flags, code, part) in [
        ("replay", &["--to", "nowhere"][..], 2, "cache"),
        ("replay", &["--to", "cache", "--route", "nowhere"], 2, "settings"),
        ("replay", &["--to", "cache", "--until", "99999"], 1, "99999"),
        ("replay", &["--to", "cache", "--until", "0"], 1, "position"),
        ("replay", &["--to", "cache", "--until", "2999-01-01T00:00:00Z"], 2, "future"),
        ("replay", &["--to", "cache", "--until", "2001-01-01T00:00:00Z"], 1, "full history"),
        ("replay", &["--to", "cache", "--until", "yesterday"], 2, "position"),
        ("replay", &["--to", "cache", "--key", "other:*"], 1, "other:*"),
        ("replay", &["--to", "cache", "--url", "http://127.0.0.1:1"], 2, "redis://"),
        ("replay", &["--to", "cache", "--url", "redis://127.0.0.1:1/0", "--timeout", "1s"], 75, "reachable"),
        ("tail", &["--no-follow", "--from", "99999"], 1, "99999"),
        ("tail", &["--from", "2999-01-01T00:00:00Z"], 2, "future"),
        ("tail", &["--no-follow", "--route", "nowhere"], 2, "settings"),
        ("conflicts", &["--from", "99999"], 1, "99999"),
        ("conflicts", &["--from", "2999-01-01T00:00:00Z"], 2, "future"),
        ("conflicts", &["--route", "nowhere"], 2, "settings"),
        ("diff", &["--route", "nowhere"], 2, "settings"),
        ("repair", &["--prefer", "nowhere", "--yes"], 2, "cache"),
        ("repair", &["--prefer", "zk", "--yes", "--route", "nowhere"], 2, "settings"),
        ("repair", &["--prefer", "zk", "--yes", "--key", "other:*"], 1, "other:*"),
        ("conflicts restore", &["99999", "--yes"], 1, "99999"),
        ("conflicts restore", &["0", "--yes"], 1, "position"),
        ("quarantine retry", &["--key", "other:*"], 75, "worker"),
    ] {
        let said = scene.keepstep.command(verb, flags).await.expect(code).stderr;
        assert!(said.contains(part), "{verb} {flags:?}: {said}");
    }
    let elsewhere = Keepstep::new(place.of(Pipeline::two_way(scene.zookeeper.connect_string(), scene.redis.url())));
    elsewhere.command("replay", &["--to", "cache"]).await.expect(1);
    scene.keepstep.rewrite(pipeline.clone().matches("{zk: /other/**, cache: \"other:**\"}"));
    let said = scene.keepstep.command("replay", &["--to", "cache"]).await.expect(1).stderr;
    assert!(said.contains("another pipeline"), "{said}");
    // Embedded, a pipeline of another name has another folder.
    scene.keepstep.rewrite(pipeline.clone().name("second"));
    let said = scene.keepstep.command("replay", &["--to", "cache"]).await.expect(1).stderr;
    let part = if matches!(place, Place::Embedded) { "there is no stream" } else { "pipeline `settings`" };
    assert!(said.contains(part), "{said}");
    scene.keepstep.rewrite(pipeline);
    assert_eq!(scene.redis.run::<u64>("DBSIZE").await, 0);
    assert_eq!(scene.znodes.text("/settings/a").await.as_deref(), Some("1"));
    assert_eq!(scene.keepstep.changes().await, records);
}

/// Writes values of 100,000 bytes, one after the other.
async fn grow(scene: &Scene, rounds: std::ops::Range<u8>) {
    for round in rounds {
        let value = vec![b'!' + round; 100_000];
        scene.set("settings:big", &value).await;
        eventually("the znode follows", LIVE, async || match scene.znodes.get("/settings/big").await {
            Some(data) if data == value => Ok(()),
            other => Err(format!("{:?}", other.map(|data| data.len()))),
        })
        .await;
    }
}

#[tokio::test]
async fn a_moment_before_full_history_is_refused_and_thinned_states_are_folded() {
    let scene = Scene::start_with(|pipeline| pipeline.embedded("{retention: {age: 7d, size: 8MiB}}")).await;
    for (key, value) in [("settings:old", "once"), ("settings:mid", "m1"), ("settings:gone", "there")] {
        scene.set(key, value).await;
    }
    scene.in_step(LIVE).await;
    grow(&scene, 0..50).await;
    let then = position(&scene).await;
    scene.set("settings:mid", "m2").await;
    scene.znode_becomes("/settings/mid", Some("m2")).await;
    scene.del("settings:gone").await;
    scene.znode_becomes("/settings/gone", None).await;
    scene.set("settings:late", "late").await;
    scene.znode_becomes("/settings/late", Some("late")).await;
    grow(&scene, 50..105).await;
    eventually("the stream is thinned, but not up to that moment", Duration::from_secs(30), async || {
        let status = scene.keepstep.json("status", &[]).await;
        match status[0]["history"]["full_from"].as_u64() {
            Some(from) if from > 5 && from <= then => Ok(()),
            other => Err(format!("{other:?}, that moment is {then}")),
        }
    })
    .await;
    let text = scene.keepstep.command("status", &[]).await.expect(0).stdout;
    assert!(text.contains("full history") && text.contains("only the newest state"), "{text}");
    let said = scene.keepstep.command("replay", &["--to", "cache", "--until", "3"]).await.expect(1).stderr;
    assert!(said.contains("full history"), "{said}");
    let changes = scene.keepstep.changes().await;
    assert!(!changes.iter().any(|change| change["after"] == "m1"), "the record of m1 is thinned");
    let scratch = Redis::start().await;
    let flags = ["--to", "cache", "--until", &then.to_string(), "--url", &scratch.url()];
    scene.keepstep.command("replay", &flags).await.expect(0);
    for (key, value) in [("old", Some("once")), ("mid", Some("m1")), ("gone", Some("there")), ("late", None)] {
        let found = scratch.run::<Option<String>>(&format!("GET settings:{key}")).await;
        assert_eq!(found.as_deref(), value, "{key}");
    }
}

async fn a_replay_that_is_cut_off_ends_in_the_same_state_when_it_is_run_again(place: Place) {
    let mut scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    for number in 0..200 {
        scene.set(format!("settings:many:{number}"), format!("v{number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("FLUSHALL").await;
    for number in 0..100 {
        scene.set(format!("settings:many:{number}"), "half").await;
    }
    let part = scene.keepstep.json("replay", &["--to", "cache", "--key", "settings:many:1*"]).await;
    assert_eq!(last(&part)["failed"], 0, "{part:?}");
    scene.keepstep.json("replay", &["--to", "cache"]).await;
    for number in 0..200 {
        assert_eq!(scene.text(format!("settings:many:{number}")).await, Some(format!("v{number}")));
    }
    assert_eq!(scene.keepstep.json("conflicts", &[]).await.len(), 100, "each value that was replaced is kept once");
    scene.run().await;
    never("anything changes any more", Duration::from_secs(2), async || {
        match scene.text("settings:many:0").await.as_deref() {
            Some("v0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    scene.in_step(LIVE).await;
}

/// Compaction is asked for by `age` alone, so that a moment before it is one of which only states are left.
#[tokio::test]
async fn in_kafka_a_moment_before_full_history_is_refused_and_status_says_how_far_it_reaches() {
    let kafka = Kafka::shared().await;
    let stream =
        format!("{{brokers: \"{}\", topic: aged-{}, retention: {{age: 4s}}}}", kafka.brokers(), std::process::id());
    let mut scene = Scene::start_with(|pipeline| pipeline.kafka(&stream)).await;
    for (key, value) in [("settings:old", "once"), ("settings:mid", "m1")] {
        scene.set(key, value).await;
        scene.znode_becomes(&format!("/{}", key.replace(':', "/")), Some(value)).await;
    }
    let then = position(&scene).await;
    scene.keepstep.terminate().await;
    let until = ["--to", "cache", "--until", &then.to_string(), "--dry-run"];
    eventually("that moment is before full history", LIVE, async || {
        let outcome = scene.keepstep.command("replay", &until).await;
        match outcome.code {
            Some(1) if outcome.stderr.contains("full history") => Ok(()),
            _ => Err(format!("{outcome:?}")),
        }
    })
    .await;
    scene.run().await;
    scene.set("settings:mid", "m2").await;
    scene.znode_becomes("/settings/mid", Some("m2")).await;
    let history = scene.keepstep.json("status", &[]).await[0]["history"].clone();
    assert!(history["full_from"].as_u64() > Some(then) && history["first"].as_u64() <= Some(then), "{history}");
    let text = scene.keepstep.command("status", &[]).await.expect(0).stdout;
    assert!(text.contains("full history") && text.contains("only the newest state"), "{text}");
    let scratch = Redis::start().await;
    let now = position(&scene).await.to_string();
    scene.keepstep.command("replay", &["--to", "cache", "--until", &now, "--url", &scratch.url()]).await.expect(0);
    for (key, value) in [("settings:old", "once"), ("settings:mid", "m2")] {
        assert_eq!(scratch.run::<Option<String>>(&format!("GET {key}")).await.as_deref(), Some(value), "{key}");
    }
}

#[tokio::test]
async fn in_kafka_a_record_that_is_damaged_or_of_a_newer_version_is_refused_unless_it_is_told_otherwise() {
    let kafka = Kafka::shared().await;
    let topic = format!("newer-{}", std::process::id());
    let stream = format!("{{brokers: \"{}\", topic: {topic}}}", kafka.brokers());
    let mut scene = Scene::start_with(|pipeline| pipeline.kafka(&stream)).await;
    scene.set("settings:a", "first-value").await;
    scene.znode_becomes("/settings/a", Some("first-value")).await;
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("FLUSHALL").await;
    let sound = kafka.records(&topic).await.into_iter().rfind(|record| record.value.is_some()).expect("a change");
    let headers: Vec<(&str, &str)> =
        sound.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // A single object names the schema that it was written with: this one nobody knows yet.
    let mut newer = sound.value.clone().expect("it has a value");
    newer[2..10].copy_from_slice(&[0xff; 8]);
    kafka.produce(&topic, &sound.key, Some(&newer), &headers).await;
    let said = scene.keepstep.command("replay", &["--to", "cache"]).await.expect(1).stderr;
    assert!(said.contains("cannot be read") && said.contains("newer version"), "{said}");
    assert_eq!(scene.redis.run::<u64>("DBSIZE").await, 0, "nothing is written");
    scene.keepstep.command("replay", &["--to", "cache", "--skip-damaged"]).await.expect(0);
    assert_eq!(scene.text("settings:a").await.as_deref(), Some("first-value"));
}

/// The only segment of the stream.
fn segment(scene: &Scene) -> std::path::PathBuf {
    let files = std::fs::read_dir(scene.keepstep.data().join("settings/stream")).unwrap();
    let mut segments =
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "log"));
    segments.next().expect("the stream has a segment")
}

#[tokio::test]
async fn a_stream_that_is_damaged_or_of_a_newer_version_is_refused_unless_it_is_told_otherwise() {
    let mut scene = Scene::start().await;
    for (key, value) in [("settings:a", "first-value"), ("settings:b", "second-value"), ("settings:c", "third-value")] {
        scene.set(key, value).await;
        scene.znode_becomes(&format!("/{}", key.replace(':', "/")), Some(value)).await;
    }
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("FLUSHALL").await;
    let (file, sound) = (segment(&scene), std::fs::read(segment(&scene)).unwrap());
    let mut newer = sound.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..28]).to_le_bytes();
    newer[28..32].copy_from_slice(&crc);
    let mut damaged = sound.clone();
    let place = damaged.windows(12).position(|bytes| bytes == b"second-value").expect("the value is in the file");
    damaged[place] ^= 1;
    for bytes in [&newer, &damaged] {
        std::fs::write(&file, bytes).unwrap();
        let said = scene.keepstep.command("replay", &["--to", "cache"]).await.expect(1).stderr;
        assert!(said.contains("cannot be read") && said.contains("--skip-damaged"), "{said}");
        assert_eq!(scene.redis.run::<u64>("DBSIZE").await, 0, "nothing is written");
    }
    scene.keepstep.command("replay", &["--to", "cache", "--skip-damaged"]).await.expect(0);
    for (key, value) in [("settings:a", Some("first-value")), ("settings:b", None), ("settings:c", Some("third-value"))]
    {
        assert_eq!(scene.text(key).await.as_deref(), value, "{key}");
    }
}

/// More than is held between the two passes over the stream (64 MiB), so that the second one has to read.
#[tokio::test]
async fn states_that_do_not_fit_into_memory_are_read_from_the_stream_again() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.capture_redis()).await;
    scene.run().await;
    let value = |number: u8, round: u8| [vec![number; 899_999], vec![round]].concat();
    for round in 0..2 {
        for number in 0..90 {
            if round == 0 || number % 3 == 0 {
                scene.set(format!("settings:{number}"), value(number, round)).await;
            }
        }
        let wanted = if round == 0 { 90 } else { 120 };
        eventually("all of them are on the stream", Duration::from_secs(60), async || {
            let rows = scene.keepstep.json("tail", &["--from", "earliest", "--no-follow", "--no-values"]).await;
            let found = rows.iter().filter(|row| row["op"] != "m").count();
            if found >= wanted { Ok(()) } else { Err(format!("{found}")) }
        })
        .await;
    }
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("FLUSHALL").await;
    let rows = scene.keepstep.json("replay", &["--to", "cache"]).await;
    assert_eq!((&last(&rows)["created"], &last(&rows)["failed"]), (&json!(90), &json!(0)), "{rows:?}");
    for number in 0..90 {
        let wanted = value(number, u8::from(number % 3 == 0));
        assert!(scene.get(format!("settings:{number}")).await == Some(wanted), "settings:{number}");
    }
}

on_both_streams!(
    replay_fills_an_empty_redis_and_the_worker_finds_all_in_step,
    what_replay_brings_back_beside_a_worker_flows_on_and_what_it_replaces_is_kept,
    replay_to_zookeeper_creates_sets_and_deletes_and_leaves_unknown_pairs_alone,
    a_time_is_a_moment_and_a_kept_value_can_be_restored,
    a_scratch_store_takes_any_moment_and_a_destination_none,
    bad_input_writes_nothing,
    a_replay_that_is_cut_off_ends_in_the_same_state_when_it_is_run_again,
);
