//! What a worker says of itself is true: its headline, its lag, whether it is ready.

use crate::support::{Keepstep, LIVE, Pipeline, Proxy, Redis, Scene, ZooKeeper, eventually, eventually_is};
use serde_json::{Value, json};

async fn status(worker: &Keepstep) -> Value {
    let status: Value = serde_json::from_str(&worker.get("/status").await.body).unwrap();
    status["pipelines"][0].clone()
}

#[tokio::test]
async fn deletes_that_wait_are_the_headline() {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    for number in 0..120 {
        scene.znodes.put(&format!("/settings/{number}"), "v").await;
    }
    scene.in_step(LIVE).await;
    assert_eq!(scene.keepstep.command("status", &["--check"]).await.code, Some(0));
    let mut keepstep = scene.keepstep;
    keepstep.terminate().await;
    for number in 0..120 {
        scene.znodes.delete(&format!("/settings/{number}")).await;
    }
    keepstep.start();
    eventually_is("the state", LIVE, json!("awaiting_approval"), async || match keepstep.status_of("/live").await {
        Some(_) => status(&keepstep).await["state"].clone(),
        None => Value::Null,
    })
    .await;
    let told = status(&keepstep).await;
    assert!(told["note"].as_str().unwrap().contains("120 deletes of route settings"), "{told}");
    let text = keepstep.command("status", &[]).await.expect(0).stdout;
    assert!(text.starts_with("settings  awaiting_approval, ready"), "{text}");
    assert!(keepstep.get("/").await.body.contains("awaiting approval"));
    assert_eq!(keepstep.command("status", &["--check"]).await.code, Some(1));
    keepstep.command("approve", &["--yes"]).await.expect(0);
    eventually_is("the state", LIVE, json!("live"), async || status(&keepstep).await["state"].clone()).await;
}

/// The time that a source cannot be heard is lag, whether or not anything has changed there.
#[tokio::test]
async fn lag_grows_while_a_source_cannot_be_heard() {
    let (zookeeper, redis) = tokio::join!(ZooKeeper::start(), Redis::start());
    let proxy = Proxy::start(redis.address());
    let pipeline = Pipeline::two_way(zookeeper.connect_string(), format!("redis://{}/0", proxy.address()));
    let keepstep = Keepstep::run(pipeline).await;
    let lag = async || keepstep.metric("keepstep_lag_seconds", "settings").await;
    eventually("nothing lags", LIVE, async || match lag().await {
        lag if lag < 0.5 => Ok(()),
        lag => Err(format!("{lag} s")),
    })
    .await;
    proxy.cut();
    eventually("the lag grows", LIVE, async || match lag().await {
        lag if lag > 3.0 => Ok(()),
        lag => Err(format!("{lag} s")),
    })
    .await;
    assert_eq!(keepstep.status_of("/ready").await, Some(503));
    assert_eq!(keepstep.command("status", &["--check"]).await.code, Some(1));
    proxy.heal();
    eventually("nothing lags", LIVE, async || match lag().await {
        lag if lag < 0.5 => Ok(()),
        lag => Err(format!("{lag} s")),
    })
    .await;
}
