//! Every kind of write that Redis has for a string ends with the same value in ZooKeeper, whatever event it gives.

use crate::support::{LIVE, Scene, eventually};
use redis::Value;

/// Commands, in order; keys all begin with `settings:`. After each line both sides must be the same again.
const LINES: &[&str] = &[
    "SET settings:a 1",
    "SET settings:a 1",
    "SET settings:a 2 EX 1000",
    "SET settings:a 3 KEEPTTL",
    "PERSIST settings:a",
    "GETSET settings:a 4",
    "SET settings:a 5 GET",
    "APPEND settings:a 6",
    "SETRANGE settings:a 5 tail",
    "SETBIT settings:a 7 1",
    "BITFIELD settings:a SET u8 0 65",
    "SETEX settings:b 1000 1",
    "PSETEX settings:b 100000 2",
    "SETNX settings:b 3",
    "SETNX settings:c 1",
    "INCR settings:n",
    "INCRBY settings:n 41",
    "DECR settings:n",
    "DECRBY settings:n 10",
    "INCRBYFLOAT settings:n 0.5",
    "MSET settings:m1 1 settings:m2 2 settings:m3 3",
    "MSETNX settings:m4 4 settings:m5 5",
    "BITOP AND settings:bits settings:m1 settings:m2",
    "BITOP NOT settings:bits settings:m1",
    "BITOP OR settings:bits settings:none1 settings:none2",
    "PFADD settings:hll a b c",
    "PFADD settings:hll d",
    // It writes its count into the value that it reads, and no event says so: tracking does.
    "PFCOUNT settings:hll",
    "PFMERGE settings:hll2 settings:hll",
    "GETEX settings:a EX 1000",
    "GETEX settings:a PERSIST",
    "EXPIRE settings:a 1000",
    "PEXPIRE settings:b 100000",
    "RENAME settings:a settings:renamed",
    "RENAME settings:renamed settings:b",
    "RENAMENX settings:b settings:b2",
    "COPY settings:b2 settings:copy",
    "COPY settings:m1 settings:copy REPLACE",
    "COPY settings:m1 settings:elsewhere DB 1",
    "MOVE settings:m2 1",
    "GETDEL settings:m3",
    "GETEX settings:m4 PXAT 1",
    "EXPIRE settings:m5 -1",
    "PEXPIREAT settings:c 1",
    "SET settings:short 1 PX 50",
    "DEL settings:n settings:none",
    "UNLINK settings:hll settings:hll2",
];

#[tokio::test]
async fn every_write_to_a_string_reaches_zookeeper_at_once() {
    let scene = Scene::start().await;
    for line in LINES {
        let _: Value = scene.redis.run(line).await;
        // `SETNX` of a key that is there, and the like, change nothing: then it is the state that counts.
        eventually(&format!("both sides are the same after {line}"), LIVE, async || {
            let keys = scene.keys_by_path().await;
            let tree = scene.znodes.tree("/settings").await.into_iter().collect();
            if keys == tree { Ok(()) } else { Err(format!("keys {keys:?}, znodes {tree:?}")) }
        })
        .await;
    }
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "m"), "no gap was opened: {changes:?}");
}

#[tokio::test]
async fn a_transaction_and_a_script_reach_zookeeper_whole() {
    let scene = Scene::start().await;
    let mut client = scene.client.clone();
    let mut unit = redis::pipe();
    unit.atomic().cmd("SET").arg("settings:x").arg("1").cmd("SET").arg("settings:y").arg("2");
    unit.cmd("INCR").arg("settings:x").cmd("DEL").arg("settings:y");
    unit.exec_async(&mut client).await.unwrap();
    scene.znode_becomes("/settings/x", Some("2")).await;
    let script = "redis.call('SET', KEYS[1], 'a') redis.call('APPEND', KEYS[1], 'b') redis.call('SET', KEYS[2], 'c')";
    redis::cmd("EVAL").arg(script).arg(2).arg(&["settings:x", "settings:z"]).exec_async(&mut client).await.unwrap();
    scene.znode_becomes("/settings/x", Some("ab")).await;
    scene.znode_becomes("/settings/z", Some("c")).await;
    scene.in_step(LIVE).await;
    assert_eq!(scene.znodes.get("/settings/y").await, None);
}

#[tokio::test]
async fn a_restored_key_reaches_zookeeper() {
    let scene = Scene::start().await;
    let mut client = scene.client.clone();
    scene.set("settings:from", "dumped").await;
    let dump: Vec<u8> = redis::cmd("DUMP").arg("settings:from").query_async(&mut client).await.unwrap();
    redis::cmd("RESTORE").arg("settings:to").arg(0).arg(&dump).exec_async(&mut client).await.unwrap();
    scene.znode_becomes("/settings/to", Some("dumped")).await;
    let with_ttl = redis::cmd("RESTORE").arg("settings:to").arg(1).arg(&dump).arg("REPLACE").arg("ABSTTL").clone();
    with_ttl.exec_async(&mut client).await.unwrap();
    scene.znode_becomes("/settings/to", None).await;
}

#[tokio::test]
async fn a_key_that_becomes_another_type_is_quarantined_and_heals_when_it_is_a_string_again() {
    let scene = Scene::start().await;
    scene.set("settings:list", "a string").await;
    scene.znode_becomes("/settings/list", Some("a string")).await;
    scene.redis.run::<()>("RPUSH elsewhere:source 3 1 2").await;
    scene.redis.run::<()>("SORT elsewhere:source STORE settings:list").await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    scene.settle().await;
    assert_eq!(scene.znodes.text("/settings/list").await.as_deref(), Some("a string"), "left as it was");
    scene.set("settings:list", "healed").await;
    scene.znode_becomes("/settings/list", Some("healed")).await;
    scene.quarantine_becomes(&[]).await;
}

#[tokio::test]
async fn an_expiry_is_a_delete() {
    let scene = Scene::start().await;
    scene.redis.run::<()>("SET settings:session 1 PX 1500").await;
    scene.znode_becomes("/settings/session", Some("1")).await;
    scene.znode_becomes("/settings/session", None).await;
    let changes = scene.keepstep.changes().await;
    let last = changes.iter().rfind(|change| change["pair"]["cache"] == "settings:session").unwrap();
    assert_eq!(last["op"], "d", "{last}");
}
