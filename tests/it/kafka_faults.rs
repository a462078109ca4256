//! Faults of the brokers under a running pipeline: nothing is lost, nothing doubled in the stores, everything said.

use crate::support::{Kafka, Keepstep, LIVE, Scene, eventually, eventually_is};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// From a broker's return until changes flow: its start, the next attempt, and a round.
const BACK: Duration = Duration::from_secs(60);

fn on(kafka: &Kafka, topic: &str) -> String {
    format!("{{brokers: \"{}\", topic: {topic}, config: {{delivery.timeout.ms: 4000}}}}", kafka.brokers())
}

#[tokio::test]
async fn a_broker_that_is_killed_under_load_pauses_the_pipeline_and_nothing_is_lost() {
    let mut kafka = Kafka::start().await;
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 5s").kafka(&on(&kafka, "killed"))).await;
    for i in 0..100 {
        scene.set(format!("settings:{}", i % 20), format!("before-{i}")).await;
    }
    kafka.kill9();
    nothing_is_lost_while_it_is_away(&scene, &mut kafka).await;
}

#[tokio::test]
async fn a_broker_that_is_restarted_in_order_under_load_is_waited_for_and_nothing_is_lost() {
    let mut kafka = Kafka::start().await;
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 5s").kafka(&on(&kafka, "restarted"))).await;
    for i in 0..100 {
        scene.set(format!("settings:{}", i % 20), format!("before-{i}")).await;
    }
    kafka.terminate().await;
    nothing_is_lost_while_it_is_away(&scene, &mut kafka).await;
}

async fn nothing_is_lost_while_it_is_away(scene: &Scene, kafka: &mut Kafka) {
    for i in 0..100 {
        scene.set(format!("settings:{}", i % 20), format!("while-{i}")).await;
    }
    scene.znodes.put("/settings/from-zk", "1").await;
    eventually("it says that it is paused", LIVE, async || {
        let note = scene.keepstep.json("status", &[]).await[0]["note"].clone();
        if note.as_str().is_some_and(|note| note.contains("paused")) { Ok(()) } else { Err(note.to_string()) }
    })
    .await;
    assert_eq!(scene.get("settings:from-zk").await, None, "no store is changed before the stream has the change");
    kafka.restart().await;
    eventually_is("the key", BACK, Some("1".to_owned()), async || scene.text("settings:from-zk").await).await;
    scene.in_step(BACK).await;
    for pair in 0..20 {
        let newest = format!("while-{}", 80 + pair);
        assert_eq!(scene.znodes.text(&format!("/settings/{pair}")).await, Some(newest));
    }
    let changes = scene.keepstep.changes().await;
    for pair in 0..20 {
        let key = format!("settings:{pair}");
        let last = changes.iter().rfind(|change| change["pair"]["cache"] == key.as_str()).unwrap();
        assert_eq!(last["after"], format!("while-{}", 80 + pair), "the stream ends with what the stores hold");
    }
}

#[tokio::test]
async fn a_topic_that_is_deleted_under_a_pipeline_is_told_loudly_and_begun_anew() {
    let kafka = Kafka::shared().await;
    let topic = format!("deleted-{}", std::process::id());
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic))).await;
    for i in 0..10 {
        scene.set(format!("settings:{i}"), "1").await;
    }
    scene.in_step(LIVE).await;
    kafka.delete_topic(&topic).await;
    eventually("one `r` a pair on the new topic", BACK, async || {
        let changes = scene.keepstep.command("tail", &["--from", "earliest", "--no-follow", "--format", "json"]).await;
        let reads = changes.objects().iter().filter(|change| change["op"] == "r").count();
        if reads == 10 { Ok(()) } else { Err(format!("{reads} of 10; {}", scene.keepstep.log())) }
    })
    .await;
    let log = scene.keepstep.log();
    assert!(log.contains("ERROR") && log.contains("its history is lost"), "{log}");
    scene.set("settings:0", "2").await;
    scene.znode_becomes("/settings/0", Some("2")).await;
}

#[tokio::test]
async fn an_owner_that_was_frozen_and_thaws_leaves_nothing_on_the_stream_that_is_read() {
    let kafka = Kafka::shared().await;
    let topic = format!("frozen-{}", std::process::id());
    let mut scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s").kafka(&on(kafka, &topic))).await;
    let mut standby = scene.keepstep.another();
    standby.start();
    standby.wait_ready().await;
    let is_live = async |keepstep: &Keepstep| {
        let status = keepstep.command("status", &["--format", "json"]).await.objects();
        status.first().is_some_and(|status| status["state"] == "live")
    };
    // Work that the frozen owner has in its hands.
    for i in 0..50 {
        scene.set(format!("settings:{i}"), "old").await;
    }
    scene.keepstep.freeze();
    eventually_is("the second worker is live", LIVE, true, async || is_live(&standby).await).await;
    for i in 0..50 {
        scene.set(format!("settings:{i}"), "new").await;
    }
    scene.in_step(LIVE).await;
    scene.keepstep.thaw();
    eventually_is("the thawed worker is live", LIVE, false, async || is_live(&scene.keepstep).await).await;
    scene.set("settings:after", "1").await;
    scene.znode_becomes("/settings/after", Some("1")).await;
    scene.in_step(LIVE).await;
    for keepstep in [&standby, &scene.keepstep] {
        let changes = keepstep.changes().await;
        for i in 0..50 {
            let key = format!("settings:{i}");
            let last = changes.iter().rfind(|change| change["pair"]["cache"] == key.as_str()).unwrap();
            assert_eq!(last["after"], "new", "{key}");
        }
    }
}

/// Writes to both stores until it is stopped; then it says what it wrote last. Each pair is written on one side only.
async fn write(scene: &Scene, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let (znodes, mut client) = (scene.zookeeper.client().await, scene.client.clone());
    tokio::spawn(async move {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            for pair in 0..10 {
                let key = format!("settings:r{pair}");
                redis::cmd("SET").arg(key).arg(round).exec_async(&mut client).await.unwrap();
                znodes.put(&format!("/settings/z{pair}"), round.to_string()).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        round
    })
}

#[tokio::test]
async fn the_leader_of_the_partition_dies_under_load_and_nothing_is_lost() {
    let mut cluster = Kafka::cluster().await;
    let brokers = cluster.iter().map(Kafka::brokers).collect::<Vec<_>>().join(",");
    let stream = format!("{{brokers: \"{brokers}\", topic: failover}}");
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 5s").kafka(&stream)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = write(&scene, Arc::clone(&stop)).await;
    eventually_is("a znode of the load is there", LIVE, true, async || {
        scene.znodes.text("/settings/r9").await.is_some()
    })
    .await;
    for round in 0..3 {
        eventually_is("all three are in sync", BACK, 3, async || cluster[0].leader("failover").await.1).await;
        let (leader, _) = cluster[0].leader("failover").await;
        cluster[leader - 1].kill9();
        let begun = Instant::now();
        let value = format!("{round}");
        scene.set("settings:after", &value).await;
        eventually_is("the znode", BACK, Some(value), async || scene.znodes.text("/settings/after").await).await;
        println!("leader {leader} was killed; changes flow again after {:?}", begun.elapsed());
        cluster[leader - 1].restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let last = load.await.unwrap().to_string();
    scene.in_step(BACK).await;
    let changes = scene.keepstep.changes().await;
    for pair in 0..10 {
        let (r, z) = (format!("settings:r{pair}"), format!("settings:z{pair}"));
        assert_eq!(scene.znodes.text(&format!("/settings/r{pair}")).await.as_ref(), Some(&last));
        assert_eq!(scene.text(&z).await.as_ref(), Some(&last));
        for key in [r, z] {
            let of: Vec<u64> = changes
                .iter()
                .filter(|change| change["pair"]["cache"] == key.as_str())
                .map(|change| change["after"].as_str().unwrap().parse().unwrap())
                .collect();
            assert!(of.is_sorted(), "{key} goes back on the stream: {of:?}");
            assert_eq!(of.last().map(ToString::to_string).as_ref(), Some(&last), "the stream ends with the last value");
        }
    }
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<Value>::new());
    let log = scene.keepstep.log();
    assert!(!log.contains("its history is lost"), "{log}");
}

/// What holds the pipeline up, in its own words, and how many pairs wait.
async fn held_up(scene: &Scene) -> (String, u64) {
    let status = scene.keepstep.json("status", &[]).await[0].clone();
    (status["note"].as_str().unwrap_or_default().to_owned(), status["routes"][0]["pending"].as_u64().unwrap())
}

#[tokio::test]
async fn while_all_brokers_are_away_for_a_minute_memory_does_not_grow_with_what_changes_and_nothing_is_lost() {
    const PAIRS: usize = 500;
    /// Long enough that what is under way has been given up more than ten times.
    const AWAY: Duration = Duration::from_secs(60);
    let mut kafka = Kafka::start().await;
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 5s").kafka(&on(&kafka, "away"))).await;
    let value = |round: usize| format!("{round:0>2000}");
    let mut client = scene.client.clone();
    let mut put = async |round: usize| {
        let mut pipe = redis::pipe();
        (0..PAIRS).for_each(|pair| {
            pipe.set(format!("settings:{pair}"), value(round)).ignore();
        });
        pipe.exec_async(&mut client).await.unwrap();
    };
    for round in 0..20 {
        put(round).await;
    }
    scene.in_step(LIVE).await;
    let memory = async || scene.keepstep.metric("process_resident_memory_bytes", "").await;
    kafka.kill9();
    let (begun, mut before, mut round, mut looks) = (Instant::now(), 0.0_f64, 20, 0);
    scene.znodes.put("/settings/from-zk", "1").await;
    while begun.elapsed() < AWAY {
        put(round).await;
        round += 1;
        // A megabyte each time.
        tokio::time::sleep(Duration::from_millis(150)).await;
        if begun.elapsed() < AWAY / 6 {
            before = before.max(memory().await);
        } else if round % 20 == 0 {
            let (note, pending) = held_up(&scene).await;
            assert!(
                note.contains("paused: kafka"),
                "after {:?} it says `{note}`\n{}",
                begun.elapsed(),
                scene.keepstep.log()
            );
            assert!(pending <= PAIRS as u64 + 1, "{pending} pairs wait, and there are no more than {PAIRS}");
            looks += 1;
        }
    }
    let after = memory().await;
    println!("{round} rounds, {looks} looks at the status; memory {before} -> {after}");
    assert!(looks > 0 && round > 60, "{round} rounds, {looks} looks at the status");
    assert!(after < before + 32e6, "{before} bytes became {after} after {round} rounds");
    assert_eq!(scene.get("settings:from-zk").await, None, "no store is changed before the stream has the change");
    kafka.restart().await;
    let back = Instant::now();
    let newest = value(round - 1);
    eventually_is("the last value", BACK, Some(newest.clone()), async || scene.znodes.text("/settings/499").await)
        .await;
    scene.in_step(BACK).await;
    println!("in step {:?} after the broker was back", back.elapsed());
    assert_eq!(scene.text("settings:from-zk").await.as_deref(), Some("1"));
    eventually_is("what holds it up, and what waits", LIVE, (String::new(), 0), async || held_up(&scene).await).await;
    let changes = scene.keepstep.changes().await;
    for pair in (0..PAIRS).map(|pair| pair.to_string()).chain(["from-zk".to_owned()]) {
        let key = format!("settings:{pair}");
        let last = changes.iter().rfind(|change| change["pair"]["cache"] == key.as_str()).unwrap();
        let wanted = if pair == "from-zk" { "1" } else { newest.as_str() };
        assert_eq!(last["after"], wanted, "the stream ends with what the stores hold");
    }
    let log = scene.keepstep.log();
    assert!(!log.contains("is lost"), "{log}");
    // One when it begins, and one a minute.
    let told = log.lines().filter(|line| line.contains("capture is paused")).count();
    assert!((1..=4).contains(&told), "{told} lines:\n{log}");
}

#[tokio::test]
async fn a_topic_that_is_truncated_under_a_pipeline_is_told_loudly_and_both_stores_are_compared() {
    let kafka = Kafka::shared().await;
    let topic = format!("truncated-{}", std::process::id());
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic))).await;
    for i in 0..10 {
        scene.set(format!("settings:{i}"), "1").await;
        scene.znode_becomes(&format!("/settings/{i}"), Some("1")).await;
    }
    let end = kafka.records(&topic).await.last().unwrap().offset;
    // A topic that is only compacted refuses it: somebody made it another one first.
    kafka.configure(&topic, &[("cleanup.policy", "compact,delete")]).await;
    kafka.delete_records(&topic, end - 2).await;
    kafka.configure(&topic, &[("cleanup.policy", "compact")]).await;
    eventually("each pair is on the stream again", BACK, async || {
        let changes = scene.keepstep.changes().await;
        let known = (0..10).filter(|i| changes.iter().any(|it| it["pair"]["cache"] == format!("settings:{i}"))).count();
        if known == 10 { Ok(()) } else { Err(format!("{known} of 10; {}", scene.keepstep.log())) }
    })
    .await;
    let log = scene.keepstep.log();
    assert!(log.contains("ERROR") && log.contains("history is lost"), "{log}");
    scene.set("settings:0", "2").await;
    scene.znode_becomes("/settings/0", Some("2")).await;
}

#[tokio::test]
async fn what_others_write_into_the_topic_of_a_running_pipeline_is_told_with_its_position_and_changes_flow() {
    let kafka = Kafka::shared().await;
    let topic = format!("others-{}", std::process::id());
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&on(kafka, &topic))).await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    let place = kafka.records(&topic).await.last().unwrap().offset + 2;
    kafka.produce(&topic, b"no key of ours", Some(b"no record of ours"), &[]).await;
    scene.set("settings:a", "2").await;
    scene.znode_becomes("/settings/a", Some("2")).await;
    let theirs = [("keepstep.pipeline", "second"), ("keepstep.route", "r"), ("keepstep.op", "c")];
    kafka.produce(&topic, b"{}", Some(b"whatever"), &theirs).await;
    scene.set("settings:a", "3").await;
    scene.znode_becomes("/settings/a", Some("3")).await;
    eventually("both are told", LIVE, async || {
        let log = scene.keepstep.log();
        let told = [format!("position {place} of topic {topic} cannot be read"), "pipeline `second`".to_owned()];
        if told.iter().all(|part| log.contains(part)) { Ok(()) } else { Err(log) }
    })
    .await;
    let changes = scene.keepstep.changes().await;
    let values: Vec<&Value> = changes.iter().map(|change| &change["after"]).collect();
    assert_eq!(values, ["1", "2", "3"], "readers pass over what is not ours");
}

#[tokio::test]
async fn wrong_credentials_and_missing_rights_end_a_run_with_1_and_the_reason() {
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" \
                 password=\"admin-pw\" user_admin=\"admin-pw\" user_keepstep=\"right\" user_nobody=\"right\";";
    let login = ["SASL_PLAINTEXT", "PLAIN", "admin", "admin-pw"];
    let names = ["security.protocol", "sasl.mechanisms", "sasl.username", "sasl.password"];
    let login: Vec<(&str, &str)> = names.into_iter().zip(login).collect();
    let lines = [
        "sasl.enabled.mechanisms=PLAIN",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        &format!("listener.name.sasl_plaintext.plain.sasl.jaas.config={plain}"),
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:admin;User:keepstep;User:ANONYMOUS",
    ];
    let kafka = Kafka::start_with(&lines, &login).await;
    let stream = |user: &str| {
        format!(
            "{{brokers: \"{}\", topic: guarded, config: {{security.protocol: SASL_PLAINTEXT, sasl.mechanisms: PLAIN, \
             sasl.username: {user}, sasl.password: {{env: KAFKA_PASSWORD}}}}}}",
            kafka.brokers()
        )
    };
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.kafka(&stream("keepstep"))).await;
    let plain = std::fs::read_to_string(scene.keepstep.file()).unwrap();
    for (user, password, part) in [("keepstep", "wrong-one", "refuses this client"), ("nobody", "right", "Create")] {
        let mut worker = Keepstep::new(plain.replace("sasl.username: keepstep", &format!("sasl.username: {user}")))
            .variable("KAFKA_PASSWORD", password);
        worker.start();
        let log = worker.log_at_end(BACK, 1).await;
        assert!(log.contains(part) && !log.contains("wrong-one"), "{log}");
    }
    scene.keepstep = scene.keepstep.variable("KAFKA_PASSWORD", "right");
    scene.run().await;
    scene.settle().await;
}
