//! Cases 22 to 34: what happens between two steps of the worker, and between two of its reads.

use super::case::Case;
use crate::support::{Direction, Ensemble, Keepstep, LIVE, Pipeline, Proxy, Redis, eventually, eventually_is, never};
use redis::aio::MultiplexedConnection;
use std::time::Duration;

/// One pair in step, and a worker that stops at this point when it next comes there.
async fn stopping_at(name: &str, point: &str) -> Case {
    let case = Case::start(name).await;
    case.put("a", "0").await;
    case.becomes("a", Some("0")).await;
    case.settle().await;
    case.keepstep.arm_stop(point);
    case
}

async fn refused(case: &Case) -> f64 {
    case.keepstep.metric("keepstep_refused_total", "").await
}

/// Between the look at both sides and the write that was decided on, the side that is to be written changes: the compare-and-set refuses,
/// and it is a conflict.
async fn write_between_read_and_write(name: &str, is_in_redis: bool) {
    let mut case = stopping_at(name, "c4-observed").await;
    if is_in_redis {
        case.put("a", "from zk").await
    } else {
        case.set("a", "from redis").await
    }
    case.keepstep.stopped(LIVE).await;
    if is_in_redis {
        case.set("a", "from redis").await
    } else {
        case.put("a", "from zk").await
    }
    case.keepstep.thaw();
    case.becomes("a", Some("from zk")).await;
    case.settle().await;
    case.settled_conflicts(&[(Some("from zk"), Some("from redis"), "zk")]).await;
    assert!(refused(&case).await >= 1.0, "the write that was decided on too early was refused");
}

#[tokio::test]
async fn write_between_read_and_write_redis() {
    write_between_read_and_write("write_between_read_and_write_redis", true).await;
}

#[tokio::test]
async fn write_between_read_and_write_zk() {
    write_between_read_and_write("write_between_read_and_write_zk", false).await;
}

/// A worker whose session moves to a follower that lags neither rolls a key back nor takes an absence for a delete.
#[tokio::test]
async fn stale_read_after_failover_to_lagging_follower() {
    let (ensemble, redis) = tokio::join!(Ensemble::start(), Redis::start());
    let leader = ensemble.leader().await;
    let followers: Vec<usize> = (0..3).filter(|server| *server != leader).collect();
    let (quick, lagging) = (followers[0], followers[1]);
    let to_zookeeper = Proxy::start(ensemble.address(quick));
    let pipeline = Pipeline::two_way(to_zookeeper.address(), redis.url()).worker("reconcile: 2s");
    let keepstep = Keepstep::run(pipeline).await;
    // The test's own session is with the leader, which never lags.
    let leading = ensemble.address(leader).to_string();
    let (znodes, client) = (crate::support::Znodes::connect(&leading).await, redis.client().await);
    let set = async |number: usize, value: &str| {
        let mut set = redis::cmd("SET");
        set.arg(format!("settings:{number}")).arg(value).exec_async(&mut client.clone()).await.unwrap();
    };
    for number in 0..20 {
        set(number, "old").await;
    }
    let hold = async |from: usize, to: usize, value: &str| {
        eventually(format!("{from} to {to} hold {value} on both sides"), LIVE, async || {
            for number in from..to {
                let key: Option<String> =
                    redis::cmd("GET").arg(format!("settings:{number}")).query_async(&mut client.clone()).await.unwrap();
                let znode = znodes.text(&format!("/settings/{number}")).await;
                if (znode.as_deref(), key.as_deref()) != (Some(value), Some(value)) {
                    return Err(format!("{number}: znode {znode:?}, key {key:?}"));
                }
            }
            Ok(())
        })
        .await;
    };
    hold(0, 20, "old").await;
    ensemble.pause(lagging);
    for number in 0..40 {
        if number % 2 == 0 {
            set(number, "new").await;
        } else {
            znodes.put(&format!("/settings/{number}"), "new").await;
        }
    }
    hold(0, 40, "new").await;
    // It wakes up with everything still to be learned, and the worker at its door.
    to_zookeeper.lead_to(ensemble.address(lagging));
    ensemble.resume(lagging);
    keepstep.command("reconcile", &[]).await;
    never("a value goes back, or a pair goes", Duration::from_secs(3), async || {
        let mut keys = client.clone();
        for number in 0..40 {
            let key: Option<String> =
                redis::cmd("GET").arg(format!("settings:{number}")).query_async(&mut keys).await.unwrap();
            let znode = znodes.text(&format!("/settings/{number}")).await;
            if (znode.as_deref(), key.as_deref()) != (Some("new"), Some("new")) {
                return Err(format!("{number}: znode {znode:?}, key {key:?}"));
            }
        }
        Ok(())
    })
    .await;
    set(0, "newest").await;
    hold(0, 1, "newest").await;
    let changes = keepstep.changes().await;
    assert!(changes.iter().all(|change| change["op"] != "d"), "{changes:?}");
    assert!(keepstep.json("conflicts", &[]).await.is_empty());
}

/// An observation of both sides reads ZooKeeper first: while ZooKeeper does not answer, nobody asks Redis for the key.
#[tokio::test]
async fn redis_read_first_with_zk_sidecar() {
    let patient = |pipeline: Pipeline| pipeline.session_timeout("10s");
    let mut case = Case::start_with("redis_read_first_with_zk_sidecar", patient).await;
    case.in_step("a", "0").await;
    case.settle().await;
    // A write that is refused is what leads to such an observation.
    case.keepstep.arm_stop("c4-observed");
    case.put("a", "from zk").await;
    case.keepstep.stopped(LIVE).await;
    case.set("a", "from redis").await;
    let mut monitor = Monitor::start(case.redis).await;
    case.to_zookeeper.black_hole(Direction::ToClient);
    case.keepstep.thaw();
    eventually("the write arrives at Redis", LIVE, async || match monitor.scripts(&case.key("a")).await {
        0 => Err("no script".to_owned()),
        _ => Ok(()),
    })
    .await;
    never("Redis is asked before ZooKeeper", Duration::from_millis(1_500), async || {
        match monitor.scripts(&case.key("a")).await {
            1 => Ok(()),
            scripts => Err(format!("{scripts} scripts")),
        }
    })
    .await;
    case.to_zookeeper.heal();
    case.becomes("a", Some("from zk")).await;
    assert!(monitor.scripts(&case.key("a")).await > 1, "it was asked in the end, or nothing was proved");
    case.settle().await;
    case.settled_conflicts(&[(Some("from zk"), Some("from redis"), "zk")]).await;
}

/// What Redis is asked, by `MONITOR`.
struct Monitor {
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::net::TcpStream>>,
    seen: Vec<String>,
}

impl Monitor {
    async fn start(redis: &Redis) -> Monitor {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut stream = tokio::net::TcpStream::connect(redis.address()).await.unwrap();
        stream.write_all(b"MONITOR\r\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
        Monitor { lines, seen: Vec::new() }
    }

    /// How many scripts named this key so far.
    async fn scripts(&mut self, key: &str) -> usize {
        let quoted = format!("\"{key}\"");
        // Everything that was sent before now has come when nothing comes for a moment.
        while let Ok(line) = tokio::time::timeout(Duration::from_millis(50), self.lines.next_line()).await {
            self.seen.extend(line.unwrap());
        }
        self.seen.iter().filter(|line| line.contains("\"EVALSHA\"") && line.contains(&quoted)).count()
    }
}

/// Both sides change to the same value: agreed, no conflict, no write.
#[tokio::test]
async fn concurrent_same_value() {
    let mut case =
        Case::start_with("concurrent_same_value", |pipeline| pipeline.route("on_conflict: quarantine")).await;
    case.in_step("a", "0").await;
    case.settle().await;
    case.keepstep.freeze();
    case.set("a", "agreed").await;
    case.put("a", "agreed").await;
    case.keepstep.thaw();
    case.wrote(1).await;
    case.becomes("a", Some("agreed")).await;
    case.no_conflict().await;
    case.quarantine_becomes(&[]).await;
}

/// A key that went away from its value and came back is where the base has it: the znode's change wins without a conflict.
#[tokio::test]
async fn value_aba_redis() {
    let mut case = Case::start_with("value_aba_redis", |pipeline| pipeline.route("on_conflict: prefer cache")).await;
    case.in_step("a", "A").await;
    case.settle().await;
    case.keepstep.freeze();
    case.set("a", "B").await;
    case.set("a", "A").await;
    case.put("a", "Z").await;
    case.keepstep.thaw();
    case.becomes("a", Some("Z")).await;
    case.settle().await;
    case.becomes("a", Some("Z")).await;
    case.no_conflict().await;
}

/// Deleted and recreated at the very same version between decision and write: the one window that ZooKeeper leaves open
/// is detected, counted and told.
#[tokio::test]
async fn version_aba_recreate() {
    let mut case = stopping_at("version_aba_recreate", "c4-observed").await;
    case.set("a", "from redis").await;
    case.keepstep.stopped(LIVE).await;
    case.delete("a").await;
    case.put("a", "reborn").await;
    assert_eq!(case.znodes.stat(&case.path("a")).await.version, 0, "the version that the base has");
    case.keepstep.thaw();
    eventually("both sides are the same again", LIVE, async || match case.held("a").await {
        [Some(znode), Some(key)] if znode == key => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    case.settle().await;
    let counted = case.keepstep.metric("keepstep_recreate_overwrites_total", "").await;
    let told = case.keepstep.log().contains("deleted and recreated between read and write");
    assert!(counted == 1.0 && told, "{counted} counted, told: {told}; {:?}", case.conflicts().await);
    case.becomes("a", Some("from redis")).await;
}

/// One transaction over two pairs gives both the same zxid; neither is taken for the other's echo.
#[tokio::test]
async fn mzxid_shared_by_multi() {
    let case = Case::start("mzxid_shared_by_multi").await;
    for name in ["x", "y"] {
        case.put(name, "0").await;
        case.becomes(name, Some("0")).await;
    }
    for round in 1..=5 {
        let mut multi = case.znodes.client().new_multi_writer();
        for name in ["x", "y"] {
            multi.add_set_data(&case.path(name), format!("{name}{round}").as_bytes(), None).unwrap();
        }
        multi.commit().await.unwrap();
        let zxids = [case.znodes.stat(&case.path("x")).await.mzxid, case.znodes.stat(&case.path("y")).await.mzxid];
        assert_eq!(zxids[0], zxids[1]);
        for name in ["x", "y"] {
            case.becomes(name, Some(&format!("{name}{round}"))).await;
        }
    }
    case.wrote(12).await;
}

/// While a conflict is being settled both sides change again: nothing that was there is replaced without a word.
#[tokio::test]
async fn conflict_while_conflict() {
    let mut case = stopping_at("conflict_while_conflict", "c5-recorded").await;
    case.keepstep.freeze();
    case.set("a", "r1").await;
    case.put("a", "z1").await;
    case.keepstep.thaw();
    case.keepstep.stopped(LIVE).await;
    case.set("a", "r2").await;
    case.keepstep.arm_stop("c5-recorded");
    case.keepstep.thaw();
    case.keepstep.stopped(LIVE).await;
    case.put("a", "z2").await;
    case.keepstep.thaw();
    case.becomes("a", Some("z2")).await;
    case.settle().await;
    case.becomes("a", Some("z2")).await;
    assert!(case.has_logged("cache", "r2").await, "{:?}", case.conflicts().await);
}

/// The rule changes between the record of a conflict and its write: the next life decides by the new rule, and logs what it replaces.
#[tokio::test]
async fn policy_flip_midway() {
    let of = |rule: &'static str| move |pipeline: Pipeline| pipeline.route(rule).session_timeout("2s");
    let mut case = Case::start_with("policy_flip_midway", of("on_conflict: prefer zk")).await;
    case.in_step("a", "0").await;
    case.settle().await;
    case.keepstep.freeze();
    case.set("a", "from redis").await;
    case.put("a", "from zk").await;
    case.keepstep.arm("c5-recorded");
    case.keepstep.thaw();
    case.keepstep.abort(LIVE).await;
    case.keepstep.arm("");
    let file = std::fs::read_to_string(case.keepstep.file()).unwrap();
    case.keepstep.rewrite(file.replace("prefer zk", "prefer cache"));
    case.restart().await;
    case.becomes("a", Some("from redis")).await;
    case.settle().await;
    case.becomes("a", Some("from redis")).await;
    assert!(case.has_logged("zk", "from zk").await, "{:?}", case.conflicts().await);
}

/// Nobody watched, so nobody knows which change came later: the store named first wins, and the log says why.
#[tokio::test]
async fn lww_ambiguous_after_downtime() {
    let latest = |pipeline: Pipeline| pipeline.route("on_conflict: latest").session_timeout("2s");
    let mut case = Case::start_with("lww_ambiguous_after_downtime", latest).await;
    case.in_step("a", "0").await;
    case.settle().await;
    case.keepstep.kill9();
    case.put("a", "from zk").await;
    case.set("a", "from redis, later").await;
    case.restart().await;
    case.becomes("a", Some("from zk")).await;
    case.settled_conflicts(&[(Some("from zk"), Some("from redis, later"), "zk")]).await;
    let reason = case.conflicts().await[0]["reason"].to_string();
    assert!(reason.contains("no worker watched"), "{reason}");
}

/// A key that changes faster than it can be carried holds nobody else up, and its last value arrives.
#[tokio::test]
async fn hot_key_starvation() {
    let case = Case::start("hot_key_starvation").await;
    let mut client: MultiplexedConnection = case.client.clone();
    for batch in 0..20 {
        let mut pipe = redis::pipe();
        for number in 0..500 {
            pipe.cmd("SET").arg(case.key("hot")).arg(batch * 500 + number).ignore();
        }
        case.set("other", format!("{batch}")).await;
        let wanted = batch.to_string();
        let (sent, ()) = tokio::join!(pipe.exec_async(&mut client), case.becomes("other", Some(&wanted)));
        sent.unwrap();
    }
    case.becomes("hot", Some("9999")).await;
    let collapsed = case.keepstep.metric("keepstep_collapsed_total", "").await;
    let carried = case.changes("hot").await.len();
    assert!(carried < 5_000, "{carried} changes on the stream for one hot key");
    assert!(collapsed > 0.0, "the values in between are counted");
    eventually_is("changes that wait", LIVE, 0.0, async || case.keepstep.metric("keepstep_pending", "").await).await;
}
