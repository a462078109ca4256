//! The ground itself holds: servers start, die and come back; the proxy breaks what it is told to break.

use crate::support::{Direction, Ensemble, Proxy, Redis, Znodes, ZooKeeper, eventually, eventually_is, never};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_redis_server_starts_and_keeps_its_address_over_a_restart() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    redis.run::<()>("SET kept 1").await;
    let (address, first) = (redis.address(), redis.info("run_id").await);

    redis.kill9();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "a killed server refuses");
    redis.restart().await;

    assert_eq!(redis.address(), address);
    assert_eq!(redis.run::<String>("GET kept").await, "1");
    assert_ne!(redis.info("run_id").await, first);
    redis.stop().await;
    redis.restart().await;
    assert_eq!(redis.run::<String>("GET kept").await, "1");
}

#[tokio::test]
async fn a_redis_server_takes_options_users_and_notification_flags() {
    let redis = Redis::start_with(&[
        "--user",
        "keepstep",
        "on",
        ">secret",
        "~settings:*",
        "+@all",
        "--notify-keyspace-events",
        "",
        "--maxmemory",
        "8mb",
    ])
    .await;
    assert_eq!(redis.run::<(String, String)>("CONFIG GET notify-keyspace-events").await.1, "");
    assert_eq!(redis.run::<(String, u64)>("CONFIG GET maxmemory").await.1, 8 << 20);
    let mut limited = redis.client_as("keepstep:secret@").await;
    redis::cmd("SET").arg("settings:a").arg("1").exec_async(&mut limited).await.unwrap();
    let refused = redis::cmd("SET").arg("other").arg("1").exec_async(&mut limited).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOPERM"));
    assert!(redis.try_run::<()>("SET").await.is_err());
}

#[tokio::test]
async fn a_paused_redis_server_is_silent_until_it_is_resumed() {
    let mut redis = Redis::start().await;
    redis.pause();
    let url = redis.url();
    let ask = async || {
        let mut client = redis::Client::open(url.as_str()).unwrap().get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<String>(&mut client).await
    };
    let answer = tokio::time::timeout(Duration::from_millis(300), ask()).await;
    assert!(!matches!(answer, Ok(Ok(_))), "a paused server answered {answer:?}");
    redis.resume();
    eventually_is("the answer", SOON, Some("PONG".to_owned()), async || ask().await.ok()).await;
}

#[tokio::test]
async fn a_zookeeper_server_starts_and_keeps_its_data_over_a_kill() {
    let mut zookeeper = ZooKeeper::start().await;
    let znodes = zookeeper.client().await;
    znodes.put("/settings/deep/a", "1").await;
    znodes.put("/settings/deep/a", "2").await;
    assert_eq!(znodes.stat("/settings/deep/a").await.version, 1);
    assert!(zookeeper.four_letters("srvr").await.contains("Mode: standalone"));

    zookeeper.kill9();
    zookeeper.restart().await;

    let znodes = zookeeper.client().await;
    assert_eq!(znodes.text("/settings/deep/a").await.as_deref(), Some("2"));
    assert_eq!(znodes.tree("/settings").await.len(), 2);
    znodes.delete("/settings/deep/a").await;
    assert_eq!(znodes.get("/settings/deep/a").await, None);
    assert_eq!(znodes.look("/settings/deep").await.map(|(_, stat)| stat.num_children), Some(0));
    zookeeper.restart_empty().await;
    assert_eq!(zookeeper.client().await.get("/settings").await, None);
}

#[tokio::test]
async fn an_ensemble_elects_a_leader_and_another_when_that_one_dies() {
    let mut ensemble = Ensemble::start().await;
    let znodes = ensemble.client().await;
    znodes.put("/a", "before").await;
    let first = ensemble.leader().await;

    ensemble.kill9(first);
    let second = ensemble.leader().await;
    assert_ne!(first, second);
    eventually("a write to the two that are left", SOON, async || {
        znodes.client().set_data("/a", b"after", None).await.map_err(|error| error.to_string())
    })
    .await;

    ensemble.restart(first).await;
    let back = Znodes::connect(&ensemble.address(first).to_string()).await;
    back.client().sync("/").await.unwrap();
    assert_eq!(back.text("/a").await.as_deref(), Some("after"));
    ensemble.restart_all().await;
    assert_eq!(ensemble.client().await.text("/a").await.as_deref(), Some("after"));
}

#[tokio::test]
async fn an_ephemeral_znode_goes_with_its_session() {
    let zookeeper = ZooKeeper::start().await;
    let (owner, other) = (zookeeper.client().await, zookeeper.client().await);
    owner.put_ephemeral("/member", "here").await;
    assert_eq!(other.text("/member").await.as_deref(), Some("here"));
    drop(owner);
    eventually_is("the znode", SOON, None, async || other.text("/member").await).await;
}

/// A counter behind a proxy: what it holds says whether a request arrived, the answer whether the reply did.
struct Counter {
    redis: Redis,
    proxy: Proxy,
}

impl Counter {
    async fn start() -> Counter {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.address());
        Counter { redis, proxy }
    }

    async fn connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(format!("redis://{}", self.proxy.address()))?.get_multiplexed_async_connection().await
    }

    async fn value(&self) -> u64 {
        self.redis.run::<Option<u64>>("GET counter").await.unwrap_or(0)
    }
}

async fn increment(connection: &mut redis::aio::MultiplexedConnection) -> redis::RedisResult<u64> {
    redis::cmd("INCR").arg("counter").query_async(connection).await
}

#[tokio::test]
async fn a_cut_proxy_closes_and_refuses_until_it_is_healed() {
    let counter = Counter::start().await;
    let mut connection = counter.connect().await.unwrap();
    assert_eq!(increment(&mut connection).await.unwrap(), 1);

    counter.proxy.cut();
    assert!(increment(&mut connection).await.is_err());
    eventually("a connect is refused", SOON, async || match counter.connect().await {
        Ok(_) => Err("it was taken".to_owned()),
        Err(error) if error.is_connection_refusal() => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    assert_eq!(counter.value().await, 1);

    counter.proxy.heal();
    let mut connection =
        eventually("a connection", SOON, async || counter.connect().await.map_err(|error| error.to_string())).await;
    assert_eq!(increment(&mut connection).await.unwrap(), 2);

    counter.proxy.drop_connections();
    assert!(increment(&mut connection).await.is_err());
    assert_eq!(increment(&mut counter.connect().await.unwrap()).await.unwrap(), 3);
}

#[tokio::test]
async fn a_lost_reply_leaves_the_request_done() {
    let counter = Counter::start().await;
    let mut connection = counter.connect().await.unwrap();
    counter.proxy.lose_reply_to(b"INCR");
    redis::cmd("PING").exec_async(&mut connection).await.unwrap();
    assert!(!counter.proxy.lost_a_reply());
    assert!(increment(&mut connection).await.is_err());
    assert!(counter.proxy.lost_a_reply());
    assert_eq!(counter.value().await, 1);

    let mut connection = counter.connect().await.unwrap();
    counter.proxy.lose_next_reply();
    assert!(increment(&mut connection).await.is_err());
    assert_eq!(counter.value().await, 2);
}

#[tokio::test]
async fn a_black_hole_swallows_one_direction_and_leaves_connections_open() {
    let counter = Counter::start().await;
    let mut connection = counter.connect().await.unwrap();
    counter.proxy.black_hole(Direction::ToClient);
    assert!(increment(&mut connection).await.unwrap_err().is_timeout());
    assert_eq!(counter.value().await, 1);

    counter.proxy.heal();
    let mut connection =
        eventually("a connection", SOON, async || counter.connect().await.map_err(|error| error.to_string())).await;
    counter.proxy.black_hole(Direction::ToServer);
    assert!(increment(&mut connection).await.unwrap_err().is_timeout());
    never("a request gets through", Duration::from_millis(200), async || match counter.value().await {
        1 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
}

#[tokio::test]
async fn a_delay_holds_requests_and_replies_back() {
    let counter = Counter::start().await;
    let mut connection = counter.connect().await.unwrap();
    counter.proxy.delay(Duration::from_millis(100));
    let start = Instant::now();
    assert_eq!(increment(&mut connection).await.unwrap(), 1);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
#[should_panic(expected = "still not: the moon")]
async fn waiting_in_vain_says_what_for() {
    eventually::<()>("the moon", Duration::from_millis(30), async || Err("a lamp".to_owned())).await;
}

#[tokio::test]
#[should_panic(expected = "though never expected, a knock")]
async fn an_unwanted_thing_fails_at_once() {
    never("a knock", Duration::from_secs(60), async || Err("one".to_owned())).await;
}

#[tokio::test]
async fn a_reset_and_a_cut_in_the_middle_of_a_message_end_the_connection() {
    let counter = Counter::start().await;
    let mut connection = counter.connect().await.unwrap();
    counter.proxy.reset_connections();
    assert!(increment(&mut connection).await.is_err());
    assert_eq!(counter.value().await, 0, "the request did not arrive");

    let mut connection = counter.connect().await.unwrap();
    counter.proxy.cut_after(Direction::ToServer, 10);
    assert!(increment(&mut connection).await.is_err());
    assert!(counter.proxy.has_cut());
    assert_eq!(counter.value().await, 0, "ten bytes are no request");

    let mut connection = counter.connect().await.unwrap();
    counter.proxy.cut_after(Direction::ToClient, 1);
    assert!(increment(&mut connection).await.is_err());
    assert_eq!(counter.value().await, 1, "one byte is no answer, but the request was served");
}

#[tokio::test]
async fn a_proxy_can_be_pointed_at_another_server() {
    let counter = Counter::start().await;
    let other = Redis::start().await;
    let mut connection = counter.connect().await.unwrap();
    assert_eq!(increment(&mut connection).await.unwrap(), 1);
    counter.proxy.lead_to(other.address());
    assert!(increment(&mut connection).await.is_err(), "the connection to the first is closed");
    for wanted in 1..=3 {
        assert_eq!(increment(&mut counter.connect().await.unwrap()).await.unwrap(), wanted);
    }
    assert_eq!(counter.value().await, 1);
}

#[tokio::test]
async fn a_redis_server_comes_back_with_an_older_copy_and_with_nothing() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    redis.run::<()>("SET kept 1").await;
    let copy = redis.back_up();
    redis.run::<()>("SET kept 2").await;
    redis.restart_from(&copy).await;
    assert_eq!(redis.run::<String>("GET kept").await, "1");
    redis.restart_empty().await;
    assert_eq!(redis.run::<Option<String>>("GET kept").await, None);
}

#[tokio::test]
async fn a_frozen_server_of_an_ensemble_is_done_without_and_comes_back() {
    let ensemble = Ensemble::start().await;
    let frozen = ensemble.leader().await;
    ensemble.pause(frozen);
    let other = Znodes::connect(&ensemble.address((frozen + 1) % 3).to_string()).await;
    eventually("a write to the two that are left", SOON, async || {
        other.try_put("/a", "1").await.map_err(|error| error.to_string())
    })
    .await;
    ensemble.resume(frozen);
    eventually_is("the znode on the one that was frozen", SOON, Some("1".to_owned()), async || {
        match Znodes::try_connect(&ensemble.address(frozen).to_string()).await {
            Some(back) => back.text("/a").await,
            None => None,
        }
    })
    .await;
}
