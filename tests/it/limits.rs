//! What cannot be mirrored is quarantined with its reason, everything else flows on, and it heals by itself.

use crate::support::{Keepstep, LIVE, Pipeline, Redis, Scene, ZooKeeper, eventually, eventually_is};
use zookeeper_client::{Acl, Acls, AuthId, CreateMode, Permission};

const MEBIBYTE: usize = 1 << 20;

#[tokio::test]
async fn a_value_that_zookeeper_does_not_take_is_too_large_until_it_is_smaller() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    scene.set("settings:small", "1").await;
    scene.set("settings:large", vec![b'x'; MEBIBYTE + 1]).await;
    scene.set("settings:larger", vec![b'x'; 8 * MEBIBYTE]).await;
    scene.quarantine_becomes(&["too_large", "too_large"]).await;
    scene.settle().await;
    assert_eq!(scene.znodes.get("/settings/large").await, None);
    assert_eq!(scene.keepstep.metric("keepstep_quarantined", "settings").await, 2.0);
    let row = &scene.keepstep.json("quarantine list", &["--key", "settings:large"]).await[0];
    assert_eq!(row["pair"]["cache"], "settings:large");
    assert!(row["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{row}");

    scene.set("settings:large", "small now").await;
    scene.znode_becomes("/settings/large", Some("small now")).await;
    scene.del("settings:larger").await;
    scene.quarantine_becomes(&[]).await;
}

/// Such a server does not refuse the write: it drops the connection, and every write beside it with it.
#[tokio::test]
async fn a_value_beyond_the_jute_maxbuffer_of_the_ensemble_is_too_large_and_all_others_flow() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start_with(&["-Djute.maxbuffer=200000"]), Redis::start());
    let keepstep = Keepstep::run(Pipeline::two_way(zookeeper.connect_string(), redis.url())).await;
    let (znodes, client) = tokio::join!(zookeeper.client(), redis.client());
    let scene = Scene { redis, zookeeper, znodes, client, keepstep };
    scene.set("settings:large", vec![b'x'; 300_000]).await;
    for number in 0..20 {
        scene.set(format!("settings:{number}"), format!("v{number}")).await;
    }
    scene.quarantine_becomes(&["too_large"]).await;
    for number in 0..20 {
        scene.znode_becomes(&format!("/settings/{number}"), Some(&format!("v{number}"))).await;
    }
    scene.set("settings:large", "small now").await;
    scene.znode_becomes("/settings/large", Some("small now")).await;
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn many_large_values_at_once_all_arrive() {
    let scene = Scene::start().await;
    for number in 0..12 {
        scene.set(format!("settings:{number}"), vec![b'a' + number; 400_000]).await;
    }
    scene.in_step(LIVE).await;
    for number in 0..12 {
        scene.znodes.put(&format!("/settings/{number}"), vec![b'A' + number; 400_000]).await;
    }
    scene.in_step(LIVE).await;
}

/// A key of another type is quarantined until it is a string.
#[tokio::test]
async fn wrongtype() {
    let scene = Scene::start().await;
    scene.redis.run::<()>("HSET settings:hash a 1").await;
    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.redis.run::<()>("SADD settings:set 1").await;
    scene.redis.run::<()>("ZADD settings:zset 1 a").await;
    scene.redis.run::<()>("XADD settings:stream * a 1").await;
    scene.quarantine_becomes(&["wrong_type"; 5]).await;
    scene.settle().await;
    assert_eq!(scene.znodes.tree("/settings").await.len(), 1);
    scene.redis.run::<()>("DEL settings:hash settings:list settings:set settings:zset").await;
    scene.redis.run::<()>("SET settings:stream 1").await;
    scene.znode_becomes("/settings/stream", Some("1")).await;
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn a_key_that_redis_does_not_let_us_touch_lacks_permission_until_it_does() {
    // The keys of the ancestors may be looked at: a comparison does.
    let keys = ["~settings:open", "~settings:closed", "~settings:open:*", "~_keepstep:*"];
    let user = [&["--user", "keepstep", "on", ">secret"], &keys[..], &["&*", "+@all"]].concat();
    let mut scene = Scene::prepare(&user, |pipeline| {
        pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}").worker("reconcile: 2s")
    })
    .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "secret");
    scene.run().await;
    scene.znodes.put("/settings/closed/a", "1").await;
    scene.set("settings:closed:b", "1").await;
    scene.znodes.put("/settings/open/c", "1").await;
    scene.key_becomes("settings:open:c", Some("1")).await;
    scene.quarantine_becomes(&["no_permission", "no_permission"]).await;
    scene.set("settings:open:c", "2").await;
    scene.znode_becomes("/settings/open/c", Some("2")).await;

    scene.redis.run::<()>("ACL SETUSER keepstep ~settings:*").await;
    scene.key_becomes("settings:closed:a", Some("1")).await;
    scene.znode_becomes("/settings/closed/b", Some("1")).await;
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn a_znode_that_zookeeper_does_not_let_us_touch_lacks_permission_until_it_does() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    scene.znodes.put("/settings/read-only", "1").await;
    scene.znodes.put("/settings/hidden", "1").await;
    scene.znodes.put("/settings/open", "1").await;
    scene.in_step(LIVE).await;
    scene.settle().await;
    let owner = scene.zookeeper.client().await;
    owner.client().auth("digest", b"owner:secret").await.unwrap();
    let everything = || Acl::new(Permission::ALL, AuthId::new("auth", ""));
    let read_only = [everything(), Acl::new(Permission::READ, AuthId::anyone())];
    owner.client().set_acl("/settings/read-only", &read_only, None).await.unwrap();
    owner.client().set_acl("/settings/hidden", &[everything()], None).await.unwrap();

    scene.set("settings:read-only", "2").await;
    owner.put("/settings/hidden", "2").await;
    scene.quarantine_becomes(&["no_permission", "no_permission"]).await;
    scene.set("settings:open", "2").await;
    scene.znode_becomes("/settings/open", Some("2")).await;

    for path in ["/settings/read-only", "/settings/hidden"] {
        owner.client().set_acl(path, &[Acl::new(Permission::ALL, AuthId::anyone())], None).await.unwrap();
    }
    scene.znode_becomes("/settings/read-only", Some("2")).await;
    scene.key_becomes("settings:hidden", Some("2")).await;
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn a_new_znode_has_the_acl_of_its_parent_or_what_the_route_says() {
    let digest = |pipeline: crate::support::Pipeline| pipeline.zookeeper("auth: {digest: {env: ZK_AUTH}}");
    for (acl, ids) in [("parent", vec!["digest", "ip"]), ("open", vec!["world"]), ("creator", vec!["digest"])] {
        let mut scene = Scene::prepare(&[], |pipeline| digest(pipeline).route(&format!("acl: {acl}"))).await;
        scene.keepstep = scene.keepstep.variable("ZK_AUTH", "keepstep:secret");
        let creator = scene.zookeeper.client().await;
        creator.client().auth("digest", b"keepstep:secret").await.unwrap();
        let own = [
            Acl::new(Permission::ALL, AuthId::new("auth", "")),
            Acl::new(Permission::READ, AuthId::new("ip", "127.0.0.1")),
        ];
        let options = CreateMode::Persistent.with_acls(Acls::from(own.as_slice()));
        creator.client().create("/settings", b"", &options).await.unwrap();
        scene.run().await;
        scene.set("settings:a:b", "1").await;
        eventually("the znode", LIVE, async || creator.get("/settings/a/b").await.ok_or("no such znode".to_owned()))
            .await;
        let (given, _) = creator.client().get_acl("/settings/a/b").await.unwrap();
        let mut schemes: Vec<&str> = given.iter().map(Acl::scheme).collect();
        schemes.sort_unstable();
        assert_eq!(schemes, ids, "acl: {acl}");
    }
}

/// The rules of `ACL SETUSER keepstep` in docs/operations.md.
fn documented_rules() -> Vec<String> {
    let page = include_str!("../../docs/operations.md");
    let (_, rules) = page.split_once("ACL SETUSER keepstep ").expect("the page shows a user");
    let (rules, _) = rules.split_once("\n\n").expect("its rules end with an empty line");
    rules.split_whitespace().map(|rule| rule.replace("PASSWORD", "secret")).collect()
}

#[tokio::test]
async fn the_acl_user_of_the_docs_may_do_all_that_a_worker_does() {
    let rules = documented_rules();
    let rules: Vec<&str> = ["--user", "keepstep"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    let mut scene = Scene::prepare(&rules, |pipeline| {
        pipeline.redis("username: keepstep").redis("password: {env: REDIS_PASSWORD}").worker("reconcile: 2s")
    })
    .await;
    scene.keepstep = scene.keepstep.variable("REDIS_PASSWORD", "secret");
    scene.keepstep.command("validate", &["--connect"]).await.expect(0);
    scene.run().await;
    for run in ["first", "second"] {
        scene.znodes.put("/settings/from-zk", run).await;
        scene.set("settings:from-redis", run).await;
        scene.key_becomes("settings:from-zk", Some(run)).await;
        scene.znode_becomes("/settings/from-redis", Some(run)).await;
        scene.del("settings:from-zk").await;
        scene.znodes.delete("/settings/from-redis").await;
        scene.znode_becomes("/settings/from-zk", None).await;
        scene.key_becomes("settings:from-redis", None).await;
        let compared = scene.keepstep.metric("keepstep_comparisons_total", "").await;
        eventually_is("a comparison", LIVE, true, async || {
            scene.keepstep.metric("keepstep_comparisons_total", "").await >= compared + 2.0
        })
        .await;
        let log = scene.keepstep.log();
        let denied: Vec<&str> = log
            .lines()
            .filter(|line| ["NOPERM", "refused", "not allowed"].iter().any(|word| line.contains(word)))
            .collect();
        assert!(denied.is_empty(), "{denied:?}");
        scene.keepstep.restart().await;
    }
    let quarantined = scene.keepstep.json("quarantine list", &[]).await;
    assert!(quarantined.is_empty(), "{quarantined:?}");
    scene.keepstep.command("diff", &[]).await.expect(0);
}
