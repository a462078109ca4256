//! Take-over: from SIGKILL of the owner until a change that was made meanwhile has arrived by the standby.

use crate::Outcome;
use crate::load::create_directories;
use crate::report::{Report, at, doing};
use crate::servers::{Kafka, Redis, Worker, ZooKeeper};
use std::time::{Duration, Instant};

/// The session timeout of the pipeline, which is the default.
const SESSION: Duration = Duration::from_secs(10);
const ARRIVAL: Duration = Duration::from_secs(120);
/// Owners that are killed, one after the other.
const KILLS: usize = 10;

/// The contract: within `session_timeout` + 1 s.
pub(crate) async fn run(kafka: Option<&Kafka>, report: &mut Report) -> Outcome<()> {
    let (zookeeper, redis) = (ZooKeeper::start().await?, Redis::start().await?);
    let client = zookeeper.client().await?;
    create_directories(&client, "settings", 1).await?;
    let mut connection = redis.client().await?;
    let mut owner = Worker::start_on(&zookeeper, &redis, kafka)?;
    owner.ready().await?;
    let mut took = Vec::new();
    for kill in 0..KILLS {
        let mut standby = Worker::start_on(&zookeeper, &redis, kafka)?;
        standby.ready().await?;
        doing(&format!("killing owner {} of {KILLS}", kill + 1));
        drop(owner);
        let begun = Instant::now();
        let value = format!("after {kill}");
        redis::cmd("SET").arg("settings:taken-over").arg(&value).exec_async(&mut connection).await?;
        let arrival = async {
            loop {
                match client.get_data("/settings/taken-over").await {
                    Ok((data, _)) if data == value.as_bytes() => return,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(ARRIVAL, arrival).await.map_err(|_| "nobody takes over")?;
        took.push(begun.elapsed().as_secs_f64());
        owner = standby;
    }
    let (p50, most) = (at(&took, 0.5), at(&took, 1.0));
    let work = if kafka.is_some() { "take-over after SIGKILL, stream in Kafka" } else { "take-over after SIGKILL" };
    let limit = SESSION.as_secs_f64() + 1.0;
    let shown = format!("p50 {p50:.1} s, at most {most:.1} s");
    report.row(work, &shown, "session timeout 10 s", None, "<= 11 s", most <= limit);
    Ok(())
}
