//! The drills of docs/recovery.md, each run line by line as it stands there, against real servers.

use crate::support::{Kafka, LIVE, Place, Redis, Scene, Writes, eventually, kafka_java};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// The commands of one drill, in their order, each with the exit code that it must have.
fn commands(drill: &str) -> Vec<(String, i32)> {
    let page = include_str!("../../docs/recovery.md");
    let mut sections = page.split("\n## ");
    let section = sections.find(|section| section.lines().next() == Some(drill)).expect("the page has this drill");
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    lines
        .map(|line| {
            let (command, remark) = line.split_once("   ").unwrap_or((line, ""));
            (command.trim().to_owned(), i32::from(remark.contains("exits with 1")))
        })
        .collect()
}

/// Runs a drill. `words` are what the page has as examples, and what stands for it here.
async fn drill(scene: &mut Scene, name: &str, words: &[(&str, String)]) {
    let commands = commands(name);
    assert!(commands.len() > 2, "{commands:?}");
    let file = scene.keepstep.file().to_str().unwrap().to_owned();
    let mut words = words.to_vec();
    words.push(("settings.embedded.yaml", file.replace("pipeline.yaml", "pipeline.embedded.yaml")));
    words.push(("settings.yaml", file));
    let here = |argument: &str| {
        let word = argument.trim_matches('\'');
        words.iter().find(|(example, _)| word == *example).map_or_else(|| word.to_owned(), |(_, here)| here.clone())
    };
    for (line, code) in commands {
        let arguments: Vec<String> = line.split(' ').skip(1).map(here).collect();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match line.split(' ').next().unwrap() {
            "systemctl" if arguments[0] == "stop" => assert_eq!(scene.keepstep.terminate().await, Some(0)),
            "systemctl" => scene.run().await,
            "rm" => std::fs::remove_dir_all(scene.keepstep.data().join("settings/stream")).unwrap(),
            "cp" => std::fs::copy(arguments[0], arguments[1]).map(|_| ()).unwrap(),
            "sed" => {
                let mut script = line.split('\'').nth(1).expect("a script in quotes").to_owned();
                for (example, here) in &words {
                    script = script.replace(example, here);
                }
                let before = std::fs::read_to_string(scene.keepstep.file()).unwrap();
                let done = Command::new("sed").args(["-i", &script]).arg(scene.keepstep.file()).status().unwrap();
                let after = std::fs::read_to_string(scene.keepstep.file()).unwrap();
                assert!(done.success() && before != after, "{script} did nothing to {before}");
            }
            "kafka-topics.sh" => {
                let mut tool = kafka_java();
                tool.arg("org.apache.kafka.tools.TopicCommand").args(&arguments);
                let ended = tokio::task::spawn_blocking(move || tool.output()).await.unwrap().unwrap();
                assert!(ended.status.success(), "{line}: {ended:?}");
            }
            "keepstep" => {
                let data = scene.keepstep.data().to_str().unwrap();
                arguments.extend(["--data-dir", data]);
                scene.keepstep.bare(&arguments).await.expect(code);
            }
            other => panic!("the page has a command that this test does not know: {other}"),
        }
    }
}

/// Two subtrees, all of them in step.
async fn filled(place: Place, flow: &str) -> Scene {
    let mut scene = Scene::prepare(&[], |pipeline| place.of(pipeline.flow(flow).worker("reconcile: 2s"))).await;
    scene.run().await;
    for number in 0..12 {
        for tree in ["db", "web"] {
            let value = format!("{tree}{number}");
            match flow {
                "cache -> zk" => scene.set(format!("settings:{tree}:{number}"), value).await,
                _ => scene.znodes.put(&format!("/settings/{tree}/{number}"), value).await,
            }
        }
    }
    scene.in_step(LIVE).await;
    scene
}

/// Every pair has its first value on both sides, and there is nothing else.
async fn whole(scene: &Scene) {
    scene.in_step(LIVE).await;
    for number in 0..12 {
        for tree in ["db", "web"] {
            let wanted = Some(format!("{tree}{number}"));
            assert_eq!(scene.text(format!("settings:{tree}:{number}")).await, wanted);
            assert_eq!(scene.znodes.text(&format!("/settings/{tree}/{number}")).await, wanted);
        }
    }
    assert_eq!(scene.redis.run::<Vec<String>>("KEYS settings:*").await.len(), 24);
}

/// Position and time of the newest record.
async fn newest(scene: &Scene) -> (u64, i64) {
    let changes = scene.keepstep.changes().await;
    let last = changes.last().expect("the stream has records");
    (last["position"].as_u64().unwrap(), last["ts_ms"].as_i64().unwrap())
}

async fn deletes(scene: &Scene) -> Vec<Value> {
    scene.keepstep.json("tail", &["--op", "delete", "--from", "earliest", "--no-follow"]).await
}

async fn redis_wiped(place: Place) {
    let mut scene = filled(place, "cache -> zk").await;
    scene.redis.run::<()>("FLUSHALL").await;
    let left = scene.keepstep.command("diff", &["--format", "json"]).await.expect(1).objects();
    assert_eq!(left.iter().filter(|row| row["state"] == "extra").count(), 24, "only ZooKeeper has them: {left:?}");
    drill(&mut scene, "Redis is wiped", &[]).await;
    whole(&scene).await;
    assert_eq!(deletes(&scene).await, Vec::<Value>::new());
    let mut scene = filled(place, "zk <-> cache").await;
    scene.redis.run::<()>("FLUSHALL").await;
    whole(&scene).await;
    drill(&mut scene, "Redis is wiped", &[]).await;
    whole(&scene).await;
}

async fn a_subtree_deleted_by_mistake(place: Place) {
    for flow in ["zk <-> cache", "zk -> cache"] {
        let mut scene = filled(place, flow).await;
        let (then, _) = newest(&scene).await;
        for number in 0..12 {
            scene.znodes.delete(&format!("/settings/db/{number}")).await;
        }
        scene.znodes.delete("/settings/db").await;
        eventually("the deletes are carried over", LIVE, async || {
            match scene.redis.run::<Vec<String>>("KEYS settings:db:*").await.len() {
                0 => Ok(()),
                left => Err(format!("{left} are left")),
            }
        })
        .await;
        let first = deletes(&scene).await[0]["position"].as_u64().unwrap();
        assert_eq!(first, then + 1, "the page says: the position before the first delete");
        drill(&mut scene, "A subtree was deleted by mistake", &[("4711", then.to_string())]).await;
        whole(&scene).await;
    }
}

async fn an_ensemble_rebuilt_from_nothing(place: Place) {
    for flow in ["zk -> cache", "zk <-> cache"] {
        let mut scene = filled(place, flow).await;
        scene.zookeeper.restart_empty().await;
        scene.znodes = scene.zookeeper.client().await;
        eventually("the worker is back", Duration::from_secs(30), async || {
            match scene.keepstep.status_of("/ready").await {
                Some(200) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        if flow == "zk <-> cache" {
            scene.in_step(Duration::from_secs(32)).await;
        }
        drill(&mut scene, "The ensemble is rebuilt from nothing", &[]).await;
        whole(&scene).await;
        assert_eq!(deletes(&scene).await, Vec::<Value>::new());
    }
}

async fn a_stream_lost_with_both_stores_alive(place: Place) {
    let mut scene = filled(place, "zk <-> cache").await;
    match place {
        Place::Embedded => drill(&mut scene, "The stream is lost", &[]).await,
        Place::Kafka(kafka) => {
            let file = std::fs::read_to_string(scene.keepstep.file()).unwrap();
            let topic = file.split("topic: ").nth(1).and_then(|rest| rest.split('}').next()).expect("it has a topic");
            let words = [("127.0.0.1:9092", kafka.brokers()), ("keepstep.settings", topic.to_owned())];
            drill(&mut scene, "The stream in Kafka is lost", &words).await;
        }
    }
    whole(&scene).await;
    let changes = scene.keepstep.changes().await;
    assert_eq!(changes.iter().filter(|change| change["op"] == "r").count(), 24, "{changes:?}");
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<Value>::new());
    scene.settle().await;
}

async fn back_to_a_moment_for_one_subtree(place: Place) {
    let mut scene = filled(place, "zk <-> cache").await;
    let (_, last_ms) = newest(&scene).await;
    // The page's moment is a full second.
    let moment = jiff::Timestamp::from_second(last_ms / 1_000 + 1).unwrap();
    while jiff::Timestamp::now() <= moment + jiff::SignedDuration::from_millis(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 0..12 {
        scene.set(format!("settings:db:{number}"), "mangled").await;
        scene.set(format!("settings:web:{number}"), format!("newer{number}")).await;
    }
    scene.in_step(LIVE).await;
    let scratch = Redis::start().await;
    let words = [("2026-11-22T14:03:00Z", moment.to_string()), ("redis://127.0.0.1:6390/0", scratch.url())];
    drill(&mut scene, "Back to a moment, for one subtree", &words).await;
    scene.in_step(LIVE).await;
    for number in 0..12 {
        let (db, web) = (format!("settings:db:{number}"), format!("/settings/web/{number}"));
        assert_eq!(scene.text(&db).await, Some(format!("db{number}")));
        assert_eq!(scratch.run::<Option<String>>(&format!("GET {db}")).await, Some(format!("db{number}")));
        assert_eq!(scene.znodes.text(&format!("/settings/db/{number}")).await, Some(format!("db{number}")));
        assert_eq!(scene.znodes.text(&web).await, Some(format!("newer{number}")), "the other subtree is left alone");
    }
    let kept = scene.keepstep.json("conflicts", &["--key", "settings:db:*"]).await;
    assert_eq!(kept.iter().filter(|row| row["cache"] == "mangled").count(), 12, "{kept:?}");
}

async fn moved_to_a_new_redis(place: Place) {
    let mut scene = filled(place, "zk <-> cache").await;
    let old = scene.redis.url();
    let new = Redis::start().await;
    let words = [("redis://127.0.0.1:6379/0", old), ("redis://127.0.0.1:6380/0", new.url())];
    let filled = std::mem::replace(&mut scene.redis, new);
    scene.client = scene.redis.client().await;
    drill(&mut scene, "Moved to a new Redis", &words).await;
    whole(&scene).await;
    scene.settle().await;
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<Value>::new());
    assert_eq!(filled.run::<Vec<String>>("KEYS settings:*").await.len(), 24, "the old one is left as it was");
}

#[tokio::test]
async fn moved_from_the_embedded_stream_to_kafka() {
    let kafka = Kafka::shared().await;
    let mut scene = filled(Place::Embedded, "zk <-> cache").await;
    let (then, _) = newest(&scene).await;
    scene.set("settings:db:0", "later").await;
    scene.znode_becomes("/settings/db/0", Some("later")).await;
    scene.set("settings:db:0", "db0").await;
    scene.znode_becomes("/settings/db/0", Some("db0")).await;
    let scratch = Redis::start().await;
    let writes = Writes::watch(&scene).await;
    let words = [
        ("127.0.0.1:9092", kafka.brokers()),
        ("keepstep.settings", format!("moved-{}", std::process::id())),
        ("4711", then.to_string()),
        ("redis://127.0.0.1:6390/0", scratch.url()),
    ];
    drill(&mut scene, "Moved from the embedded stream to Kafka", &words).await;
    assert_eq!(writes.seen(), Vec::<String>::new(), "both stores are left as they are");
    whole(&scene).await;
    let changes = scene.keepstep.changes().await;
    assert_eq!(changes.iter().filter(|change| change["op"] == "r").count(), 24, "{changes:?}");
    assert_eq!(scratch.run::<Vec<String>>("KEYS settings:*").await.len(), 24);
    assert_eq!(scratch.run::<Option<String>>("GET settings:db:0").await.as_deref(), Some("db0"));
    scene.settle().await;
    let old = scene.keepstep.file().with_file_name("pipeline.embedded.yaml");
    let (old, data) = (old.to_str().unwrap(), scene.keepstep.data().to_str().unwrap());
    let until = (then + 1).to_string();
    let replay = ["replay", old, "--to", "cache", "--key", "settings:db:0", "--until", &until, "--data-dir", data];
    scene.keepstep.bare(&replay).await.expect(0);
    scene.znode_becomes("/settings/db/0", Some("later")).await;
    let kept = scene.keepstep.json("conflicts", &[]).await;
    assert_eq!((kept.len(), kept[0]["cache"].as_str()), (1, Some("db0")), "in the new conflict log: {kept:?}");

    // And back again: the old stream gets what changed since.
    scene.set("settings:db:1", "since").await;
    scene.znode_becomes("/settings/db/1", Some("since")).await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    std::fs::copy(old, scene.keepstep.file()).unwrap();
    scene.run().await;
    scene.settle().await;
    scene.in_step(LIVE).await;
    eventually("the stream has what changed since", LIVE, async || {
        let changes = scene.keepstep.changes().await;
        let last = |key: &str| changes.iter().rfind(|change| change["pair"]["cache"] == key).map(|last| &last["after"]);
        match (last("settings:db:0"), last("settings:db:1")) {
            (Some(first), Some(second)) if first == "later" && second == "since" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn stores_that_differ_and_one_is_right(place: Place) {
    let mut scene = filled(place, "zk <-> cache").await;
    scene.keepstep.terminate().await;
    scene.set("settings:db:1", "wrong").await;
    scene.del("settings:db:2").await;
    scene.set("settings:extra", "extra").await;
    drill(&mut scene, "The stores differ, and one of them is right", &[]).await;
    scene.run().await;
    whole(&scene).await;
}

on_both_streams!(
    redis_wiped,
    a_subtree_deleted_by_mistake,
    an_ensemble_rebuilt_from_nothing,
    a_stream_lost_with_both_stores_alive,
    back_to_a_moment_for_one_subtree,
    moved_to_a_new_redis,
    stores_that_differ_and_one_is_right,
);
