//! Claims: two live pipelines do not own one range, through whatever chroot either reaches it.

use crate::identity::{filled, refused, usual};
use crate::support::{Keepstep, LIVE, Pipeline, Redis, Scene, ZooKeeper, eventually_is};
use serde_json::Value;
use zookeeper_client::{Acl, AuthId, Permission};

/// What lies in the claims of this chroot.
async fn claims(scene: &Scene, chroot: &str) -> Vec<Value> {
    let folder = format!("{chroot}/_keepstep/_claims");
    let mut claims = Vec::new();
    for name in scene.znodes.client().list_children(&folder).await.unwrap_or_default() {
        let text = scene.znodes.text(&format!("{folder}/{name}")).await;
        claims.extend(text.map(|text| serde_json::from_str::<Value>(&text).unwrap()));
    }
    claims
}

/// From the outside nobody knows where the chroots of others are: the one further in lays its claim outside as well.
#[tokio::test]
async fn a_claim_on_the_same_znodes_through_an_inner_chroot_is_found() {
    let scene = Scene::prepare(&[], usual).await;
    scene.znodes.put("/tenants/a/settings", "").await;
    let (other, servers) = (Redis::start().await, scene.zookeeper.connect_string());
    let inside = |name: &str| usual(Pipeline::two_way(format!("{servers}/tenants/a"), other.url())).name(name);
    let mut inner = Keepstep::run(inside("inner")).await;
    let outside = |chroot: &str, name: &str, zk: &str, keys: &str| {
        usual(Pipeline::two_way(format!("{servers}{chroot}"), scene.redis.url()))
            .name(name)
            .matches(&format!("{{zk: \"{zk}\", cache: \"{keys}\"}}"))
    };
    // In every chroot around it, whatever is literal in the pattern; one of the same name is another pipeline too.
    for (chroot, name, zk, keys) in [
        ("", "outer", "/**", "all:**"),
        ("", "inner", "/tenants/a/settings/*", "all:*"),
        ("/tenants", "outer", "/*/settings/**", "all:*:**"),
    ] {
        let ours = format!("of pipeline `{name}`");
        refused(outside(chroot, name, zk, keys), &["pipeline `inner` (", "/tenants/a/settings/**", &ours]).await;
    }
    // Beside each other they run, and so does a capture of the same znodes.
    let beside = Keepstep::run(outside("/tenants", "beside", "/b/**", "beside:**")).await;
    let root = Keepstep::run(outside("", "root", "/tenants/a/other/**", "root:**")).await;
    let capture = Keepstep::run(
        Pipeline::two_way(&servers, "redis://127.0.0.1:1/0")
            .name("capture")
            .capture_zookeeper()
            .matches("{zk: /tenants/**}"),
    )
    .await;
    let names = |claims: &[Value]| {
        let mut names: Vec<String> =
            claims.iter().map(|claim| claim["pipeline"].as_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&claims(&scene, "").await), ["beside", "capture", "inner", "root"]);
    assert_eq!(names(&claims(&scene, "/tenants").await), ["beside"], "the outermost place is enough");

    // A standby takes over from a worker that ends: the claim outside goes and comes with the one in the chroot.
    let mut next = inner.another();
    next.start();
    next.wait_ready().await;
    eventually_is("a standby", LIVE, Value::from("standby"), async || {
        next.json("status", &[]).await[0]["state"].clone()
    })
    .await;
    assert_eq!(inner.terminate().await, Some(0));
    eventually_is("the standby", LIVE, Value::from("live"), async || {
        next.json("status", &[]).await[0]["state"].clone()
    })
    .await;
    assert_eq!(names(&claims(&scene, "").await), ["beside", "capture", "inner", "root"]);
    assert_eq!(next.terminate().await, Some(0));
    assert_eq!(names(&claims(&scene, "").await), ["beside", "capture", "root"]);
    assert_eq!(claims(&scene, "/tenants/a").await, [] as [Value; 0]);
    for mut worker in [beside, root, capture] {
        assert_eq!(worker.terminate().await, Some(0));
    }

    // With nobody inside, the outer one may have it, and is found from the inside.
    let _outer = Keepstep::run(outside("", "outer", "/tenants/**", "all:**")).await;
    refused(inside("inner"), &["`outer`", "/tenants/**", "`inner`"]).await;
}

/// Where the login may create nothing outside of its chroot, the claim is laid in the outermost place that is there for it.
#[tokio::test]
async fn a_claim_that_may_not_be_laid_outside_keeps_no_pipeline_from_its_work() {
    let scene = Scene::prepare(&[], usual).await;
    scene.znodes.put("/tenants/a/settings", "").await;
    let servers = scene.zookeeper.connect_string();
    let anyone = |permission| [Acl::new(permission, AuthId::anyone())];
    let fixed = anyone(Permission::READ | Permission::ADMIN);
    scene.znodes.client().set_acl("/", &fixed, None).await.unwrap();
    let other = Redis::start().await;
    let inside = || usual(Pipeline::two_way(format!("{servers}/tenants/a"), other.url())).name("inner");
    let mut inner = Keepstep::run(inside()).await;
    assert_eq!(claims(&scene, "/tenants").await.len(), 1, "one level further out");
    assert_eq!(claims(&scene, "/tenants").await[0]["chroot"], "/a");
    assert_eq!(inner.terminate().await, Some(0));
    assert_eq!(claims(&scene, "/tenants").await.len(), 0);

    // It is enough that the place was made for it.
    let client = scene.znodes.client();
    client.set_acl("/", &anyone(Permission::ALL), None).await.unwrap();
    scene.znodes.put("/_keepstep", "").await;
    client.set_acl("/", &fixed, None).await.unwrap();
    let _inner = Keepstep::run(inside()).await;
    assert_eq!(claims(&scene, "").await.len(), 1);
    let outer = usual(Pipeline::two_way(&servers, scene.redis.url())).name("outer");
    refused(outer.matches("{zk: /tenants/*/settings/**, cache: \"all:*:**\"}"), &["`inner`", "`outer`"]).await;
}

/// The finding is what `run` says; a claim of the pipeline itself is none.
#[tokio::test]
async fn validate_connect_finds_a_range_that_another_live_pipeline_owns() {
    let scene = filled().await;
    let (zookeeper, redis) = (ZooKeeper::start().await, Redis::start().await);
    let other =
        |zk: &str, cache: &str, matches: &str| usual(Pipeline::two_way(zk, cache)).name("other").matches(matches);
    let (servers, url) = (scene.zookeeper.connect_string(), scene.redis.url());
    // The same znodes, with another Redis; the same keys, with another ensemble; both.
    let wider = "{zk: /settings/**, cache: \"other:**\"}";
    let said =
        ["zk", "pipeline `settings` (worker ", "owns /settings/**, which overlaps", "give each range to one pipeline"];
    refused(other(&servers, &redis.url(), wider), &said).await;
    let keys = "{zk: /other/*, cache: \"settings:*\"}";
    let said = ["cache", "owns settings:**, which overlaps settings:* of pipeline `other`"];
    refused(other(&zookeeper.connect_string(), &url, keys), &said).await;

    let beside = Keepstep::new(other(&servers, &url, "{zk: /other/**, cache: \"other:**\"}"));
    for checked in [&scene.keepstep, &beside] {
        let rows = checked.json("validate", &["--connect"]).await;
        let free =
            rows.iter().filter(|row| row["what"].as_str().is_some_and(|what| what.contains("no other live pipeline")));
        assert_eq!(free.count(), 2, "{rows:?}");
    }
    let looked = zookeeper.client().await.tree("").await;
    assert!(looked.iter().all(|(path, _)| !path.contains("_claims/")), "{looked:?}");
}
