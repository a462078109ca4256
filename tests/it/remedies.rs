//! From an error to its remedy: what no waiting mends ends a start with one sentence, and `validate --connect` finds it
//! beforehand; what cannot be read is reported; `run --once` always ends; the store that is away is named, with the reason.

use crate::support::{
    Ensemble, Kafka, Keepstep, LIVE, Pipeline, Redis, Registry, Scene, ZooKeeper, eventually, eventually_is,
};
use serde_json::Value;
use std::time::Duration;
use zookeeper_client::{Acl, Acls, AuthId, CreateMode, Permission};

/// From the start of a worker to its refusal, on a busy machine.
const REFUSED: Duration = Duration::from_secs(60);

/// `run` ends with 1 and one sentence that says this; `validate --connect` has the same as a finding.
async fn is_refused(keepstep: &mut Keepstep, parts: &[&str]) {
    let checked = keepstep.command("validate", &["--connect", "--format", "json"]).await.expect(1);
    let errors: Vec<String> = checked
        .objects()
        .iter()
        .filter(|row| row["level"] == "error")
        .map(|row| format!("{} {} {}", row["store"], row["what"], row["help"]))
        .collect();
    for part in parts {
        assert!(errors.iter().any(|error| error.contains(part)), "{part} is not in {errors:?}");
    }
    keepstep.start();
    let log = keepstep.log_at_end(REFUSED, 1).await;
    let sentence = log.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("no error in {log}"));
    for part in parts {
        assert!(sentence.contains(part), "{part} is not in {sentence}");
    }
    assert!(sentence.len() < 1024, "{} bytes: {sentence}", sentence.len());
}

#[tokio::test]
async fn a_node_of_a_cluster_a_sentinel_and_a_database_that_is_not_there_are_refused() {
    let zookeeper = ZooKeeper::start().await;
    let node = Redis::start_with(&["--cluster-enabled", "yes"]).await;
    is_refused(
        &mut Keepstep::new(Pipeline::two_way(zookeeper.connect_string(), node.url())),
        &["cache", "Redis Cluster"],
    )
    .await;
    let sentinel = Redis::sentinel().await;
    is_refused(
        &mut Keepstep::new(Pipeline::two_way(zookeeper.connect_string(), sentinel.url())),
        &["cache", "Sentinel"],
    )
    .await;
    let redis = Redis::start().await;
    let url = format!("redis://{}/99", redis.address());
    is_refused(
        &mut Keepstep::new(Pipeline::two_way(zookeeper.connect_string(), url)),
        &["cache", "DB index is out of range"],
    )
    .await;
}

#[tokio::test]
async fn a_command_that_is_renamed_away_is_refused() {
    let zookeeper = ZooKeeper::start().await;
    for command in ["SCAN", "EVALSHA", "SCRIPT", "HKEYS", "PEXPIRETIME", "HSET", "SADD", "PUBLISH"] {
        let redis = Redis::start_with(&["--rename-command", command, "elsewhere"]).await;
        let pipeline = Pipeline::two_way(zookeeper.connect_string(), redis.url()).route("publish: changes");
        is_refused(&mut Keepstep::new(pipeline), &["cache", command, "does not know"]).await;
    }
}

#[tokio::test]
async fn a_command_that_the_user_may_not_run_is_refused() {
    let zookeeper = ZooKeeper::start().await;
    for (rule, command) in [
        ("-scan", "SCAN"),
        ("-evalsha", "EVALSHA"),
        ("-hkeys", "HKEYS"),
        ("-hset", "HSET"),
        ("resetchannels", "PSUBSCRIBE"),
    ] {
        let user = ["--user", "keepstep", "on", ">secret", "~*", "&*", "+@all", rule];
        let redis = Redis::start_with(&user).await;
        let pipeline = Pipeline::two_way(zookeeper.connect_string(), redis.url())
            .redis("username: keepstep")
            .redis("password: {env: REDIS_PASSWORD}");
        let mut keepstep = Keepstep::new(pipeline).variable("REDIS_PASSWORD", "secret");
        is_refused(&mut keepstep, &["cache", "keepstep", command]).await;
    }
}

#[tokio::test]
async fn a_chroot_that_is_missing_is_refused() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let connect = format!("{}/nowhere", zookeeper.connect_string());
    is_refused(&mut Keepstep::new(Pipeline::two_way(connect, redis.url())), &["zk", "/nowhere", "does not exist"])
        .await;
}

#[tokio::test]
async fn sessions_that_can_have_no_ephemeral_znode_are_refused() {
    let lines = "localSessionsEnabled=true\nlocalSessionsUpgradingEnabled=false\n";
    let (ensemble, redis) = tokio::join!(Ensemble::start_with(lines), Redis::start());
    let pipeline = Pipeline::two_way(ensemble.connect_string(), redis.url());
    is_refused(&mut Keepstep::new(pipeline), &["zk", "localSessionsUpgradingEnabled=true"]).await;
}

#[tokio::test]
async fn a_topic_that_cannot_be_created_is_refused() {
    let kafka = Kafka::shared().await;
    let topic = format!("impossible-{}", std::process::id());
    let stream = format!("{{brokers: \"{}\", topic: {topic}, config: {{replication.factor: 5}}}}", kafka.brokers());
    let mut scene = Scene::prepare(&[], |pipeline| pipeline.kafka(&stream)).await;
    is_refused(&mut scene.keepstep, &["creating the topic", "replication.factor"]).await;
    assert_eq!(kafka.partitions(&topic).await, 0);
}

#[tokio::test]
async fn a_registry_that_closes_each_connection_is_spoken_with() {
    let (kafka, registry) = tokio::join!(Kafka::shared(), Registry::start_closing());
    let topic = format!("closing-{}", std::process::id());
    let stream =
        format!("{{brokers: \"{}\", topic: {topic}, schema_registry: \"{}\"}}", kafka.brokers(), registry.url());
    let scene = Scene::start_with(|pipeline| pipeline.kafka(&stream)).await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    assert!(registry.newest(&format!("{topic}-value")).is_some());
    assert_eq!(scene.keepstep.changes().await.len(), 1);
}

/// READ is missing on a znode that is no pair: everything below it is hidden.
#[tokio::test]
async fn a_znode_that_hides_others_is_reported_until_it_can_be_read() {
    let mut scene = Scene::prepare(&[], |pipeline| {
        pipeline.matches("{zk: /limits/*/*, cache: \"limits:*:*\"}").worker("reconcile: 2s")
    })
    .await;
    scene.znodes.put("/limits/web/rate", "1").await;
    scene.znodes.put("/limits/api/rate", "1").await;
    let owner = scene.zookeeper.client().await;
    owner.client().auth("digest", b"owner:secret").await.unwrap();
    let closed = [Acl::new(Permission::ALL, AuthId::new("auth", ""))];
    owner.client().set_acl("/limits/api", &closed, None).await.unwrap();

    let checked = scene.keepstep.command("validate", &["--connect"]).await.expect(1).stdout;
    assert!(checked.contains("/limits/api cannot be read"), "{checked}");
    let once = scene.keepstep.command("run", &["--once", "--http", "off"]).await.expect(1);
    assert!(once.stdout.contains("no permission for /limits/api"), "{once:?}");
    assert_eq!(scene.text("limits:web:rate").await.as_deref(), Some("1"), "the others flow");
    for format in ["text", "json"] {
        let differs = scene.keepstep.command("diff", &["--format", format]).await.expect(1).stdout;
        assert!(differs.contains("/limits/api"), "{differs}");
    }
    scene.keepstep.command("repair", &["--prefer", "cache", "--yes"]).await.expect(1);
    assert_eq!(owner.text("/limits/api/rate").await.as_deref(), Some("1"), "what is hidden is left alone");

    scene.run().await;
    let unreadable = async || scene.keepstep.json("status", &[]).await[0]["routes"][0]["unreadable"].clone();
    eventually_is("what cannot be read", LIVE, Value::from(1), unreadable).await;
    let said = scene.keepstep.command("status", &[]).await.expect(0).stdout;
    assert!(said.contains("/limits/api"), "{said}");
    assert!(scene.keepstep.get("/").await.body.contains("/limits/api"));
    assert_eq!(scene.keepstep.metric("keepstep_unreadable", "settings").await, 1.0);

    owner.client().set_acl("/limits/api", &[Acl::new(Permission::ALL, AuthId::anyone())], None).await.unwrap();
    scene.key_becomes("limits:api:rate", Some("1")).await;
    eventually_is("what cannot be read", LIVE, Value::from(0), unreadable).await;
    scene.keepstep.command("validate", &["--connect"]).await.expect(0);
    scene.keepstep.command("diff", &[]).await.expect(0);
}

/// The same where one store is captured, and where the znode is a pair itself.
#[tokio::test]
async fn a_capture_reports_what_it_cannot_read() {
    let zookeeper = ZooKeeper::start().await;
    let owner = zookeeper.client().await;
    owner.client().auth("digest", b"owner:secret").await.unwrap();
    owner.put("/limits/web/rate", "1").await;
    owner.put("/limits/web/burst", "1").await;
    let closed = [Acl::new(Permission::ALL, AuthId::new("auth", ""))];
    let options = CreateMode::Persistent.with_acls(Acls::from(closed.as_slice()));
    owner.client().create("/limits/api", b"", &options).await.unwrap();
    owner.client().set_acl("/limits/web/burst", &closed, None).await.unwrap();
    let pipeline = Pipeline::two_way(zookeeper.connect_string(), "redis://127.0.0.1:1/0").capture_zookeeper();
    let keepstep = Keepstep::new(pipeline.matches("{zk: /limits/*/*}"));
    let once = keepstep.command("run", &["--once", "--http", "off"]).await.expect(1).stdout;
    for path in ["/limits/api", "/limits/web/burst"] {
        assert!(once.contains(&format!("no permission for {path}")), "{path} is not in {once}");
    }
    let checked = keepstep.command("validate", &["--connect"]).await.expect(1).stdout;
    for path in ["/limits/api", "/limits/web/burst"] {
        assert!(checked.contains(&format!("{path} cannot be read")), "{path} is not in {checked}");
    }
}

#[tokio::test]
async fn validate_finds_the_keys_that_may_not_be_read() {
    let user = [
        "--user",
        "keepstep",
        "on",
        ">secret",
        "~settings:open*",
        "~settings:keepstep-validate",
        "~_keepstep:*",
        "&*",
        "+@all",
    ];
    let mut scene =
        Scene::prepare(&user, |pipeline| pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}"))
            .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "secret");
    scene.set("settings:open", "1").await;
    scene.keepstep.command("validate", &["--connect"]).await.expect(0);
    scene.set("settings:closed", "1").await;
    let checked = scene.keepstep.command("validate", &["--connect"]).await.expect(1).stdout;
    assert!(
        checked.contains("settings:closed cannot be read") && !checked.contains("settings:open cannot"),
        "{checked}"
    );
}

/// The data does not fit into Redis: it is there, and takes nothing.
#[tokio::test]
async fn run_once_ends_when_the_data_does_not_fit_into_redis() {
    let scene = Scene::prepare(&["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"], |pipeline| pipeline).await;
    for number in 0..20 {
        scene.znodes.put(&format!("/settings/{number}"), vec![b'x'; 400_000]).await;
    }
    let ended = scene.keepstep.command("run", &["--once", "--timeout", "3s", "--http", "off"]).await.expect(1);
    assert!(ended.stderr.contains("OOM"), "{ended:?}");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn run_once_ends_when_redis_dies_in_the_comparison() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    scene.znodes.put("/settings/a", "1").await;
    scene.keepstep.arm_stop("c12-znodes-compared");
    scene.keepstep.start_with(&["--once", "--timeout", "3s"]);
    scene.keepstep.stopped(LIVE).await;
    scene.redis.kill9();
    scene.keepstep.thaw();
    let log = scene.keepstep.log_at_end(REFUSED, 75).await;
    let error = log.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains("redis cache") && error.contains("refused") && !error.contains("zookeeper"), "{log}");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn run_once_ends_when_a_permission_is_taken_in_the_comparison() {
    let user = ["--user", "keepstep", "on", ">secret", "~*", "&*", "+@all"];
    let mut scene =
        Scene::prepare(&user, |pipeline| pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}"))
            .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "secret");
    scene.keepstep.arm_stop("c12-znodes-compared");
    scene.keepstep.start_with(&["--once", "--timeout", "3s"]);
    scene.keepstep.stopped(LIVE).await;
    scene.redis.run::<()>("ACL SETUSER keepstep -scan").await;
    scene.keepstep.thaw();
    let log = scene.keepstep.log_at_end(REFUSED, 1).await;
    let error = log.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains("redis cache") && error.contains("'scan'"), "{log}");
}

#[tokio::test]
async fn the_store_that_is_away_is_named_with_the_reason_and_the_other_is_not() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let nobody = "127.0.0.1:1";
    let without_redis = Keepstep::new(Pipeline::two_way(zookeeper.connect_string(), format!("redis://{nobody}/0")));
    let without_zookeeper = Keepstep::new(Pipeline::two_way(nobody, redis.url()));
    for (mut keepstep, away, healthy) in
        [(without_redis, "redis cache", "zookeeper zk"), (without_zookeeper, "zookeeper zk", "redis cache")]
    {
        for (verb, flags) in [
            ("validate", &["--connect"][..]),
            ("run", &["--once", "--http", "off"]),
            ("diff", &[]),
            ("repair", &["--prefer", "zk", "--yes"]),
        ] {
            let said = keepstep.command(verb, &[flags, &["--timeout", "1s"]].concat()).await.expect(75).stderr;
            let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
            assert!(error.contains(away) && error.contains("refused"), "{verb}: {said}");
            assert!(!error.contains(healthy), "{verb}: {said}");
        }
        keepstep.start();
        let status = eventually("the status names it", LIVE, async || {
            let told = keepstep.command("status", &["--format", "json"]).await;
            let row = told.stdout.lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok());
            let row = row.ok_or_else(|| format!("{told:?}"))?;
            if row["state"] == "waiting" { Ok(row) } else { Err(row.to_string()) }
        })
        .await;
        let note = status["note"].as_str().unwrap_or_default();
        assert!(note.contains(away) && note.contains("refused") && !note.contains(healthy), "{status}");
        for store in status["stores"].as_array().unwrap() {
            let is_away = away.contains(store["kind"].as_str().unwrap());
            assert_eq!(store["connected"], !is_away, "{status}");
            assert_eq!(store["note"].as_str().unwrap().contains("refused"), is_away, "{status}");
        }
        let log = keepstep.log();
        assert!(log.contains("refused") && !log.contains("no available hosts"), "{log}");
    }
}
