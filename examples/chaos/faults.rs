//! The faults: which there are, in which order they come, and how often each came.
//!
//! Two lines of faults run beside each other, so that they meet: one of servers and workers, one of the ways between
//! them. Both follow the seed.

use crate::commands;
use crate::support::{Direction, Proxy};
use crate::world::World;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often each fault came.
pub type Counts = BTreeMap<&'static str, u64>;

/// Pauses between faults, ms.
const PAUSE_MS: std::ops::Range<u64> = 50..900;

/// Every fault of servers and workers, and how often it comes beside the others.
const OF_SERVERS: &[(&str, u32)] = &[
    ("worker killed", 6),
    ("all workers killed", 2),
    ("worker frozen", 3),
    ("worker frozen beyond its session", 1),
    ("ZooKeeper leader killed", 2),
    ("ZooKeeper follower killed", 2),
    ("ZooKeeper server frozen", 2),
    ("Redis restarted", 2),
    ("Redis killed", 3),
    ("Redis killed, data lost", 1),
    ("Redis killed, data older", 3),
    ("Redis and workers killed, data older", 2),
    ("Redis frozen", 2),
    ("Redis failed over", 2),
    ("FLUSHALL", 1),
    ("SWAPDB", 1),
    ("keys evicted", 1),
    ("keys evicted, statistics reset", 1),
    ("notifications off", 2),
    ("former owner ends late", 2),
    ("sidecars deleted by hand", 1),
];

/// What comes on top where the stream is in Kafka.
const OF_KAFKA: &[(&str, u32)] = &[("Kafka killed", 3), ("Kafka frozen", 4)];

/// What comes on top where the ensemble is restored.
const OF_COPIES: &[(&str, u32)] = &[("ensemble restored from a copy", 8)];

/// What comes on top where commands run: without a worker, by a worker, and beside one from another data folder.
const OF_COMMANDS: &[(&str, u32)] =
    &[("command between workers", 4), ("command by a worker", 3), ("command beside workers", 3)];

const OF_WAYS: &[(&str, u32)] = &[
    ("connections closed", 3),
    ("connections reset", 3),
    ("way refused", 2),
    ("requests swallowed", 2),
    ("replies swallowed", 2),
    ("all swallowed", 2),
    ("way slow", 2),
    ("request cut", 3),
    ("reply cut", 3),
    ("reply lost", 6),
];

fn pick(rng: &mut Rng, of: &[(&'static str, u32)]) -> &'static str {
    let all: u32 = of.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.u32(..all);
    for (name, weight) in of {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return name,
        }
    }
    unreachable!("the weights were summed")
}

fn ms(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// Injects faults for so long, one after the other in each line.
pub async fn inject(world: &mut World, seed: u64, during: Duration) -> Counts {
    let until = Instant::now() + during;
    let ways: Vec<Way> = world
        .workers
        .iter()
        .map(|worker| Way { to_zookeeper: Arc::clone(&worker.to_zookeeper), to_redis: Arc::clone(&worker.to_redis) })
        .collect();
    let of_ways = tokio::spawn(break_ways(ways, Rng::with_seed(seed ^ 0x5a5a), until));
    let mut rng = Rng::with_seed(seed);
    let of_kafka = if world.kafka.is_some() { OF_KAFKA } else { &[] };
    let of_copies = if world.restores { OF_COPIES } else { &[] };
    let of_commands = if world.commands { OF_COMMANDS } else { &[] };
    let of_servers = [OF_SERVERS, of_kafka, of_copies, of_commands].concat();
    let mut counts = Counts::new();
    while Instant::now() < until {
        tokio::time::sleep(ms(&mut rng, PAUSE_MS)).await;
        let fault = pick(&mut rng, &of_servers);
        println!("  {:>8.3?} {fault}", world.shared.now());
        world.suffer(fault, &mut rng).await;
        *counts.entry(fault).or_default() += 1;
    }
    for (fault, count) in of_ways.await.expect("the line of faults has no fault of its own") {
        *counts.entry(fault).or_default() += count;
    }
    counts
}

impl World {
    async fn suffer(&mut self, fault: &str, rng: &mut Rng) {
        let (one, primary) = (rng.usize(..self.workers.len()), self.shared.primary());
        match fault {
            "worker killed" => self.kill_workers(&[one], ms(rng, 0..500)).await,
            "all workers killed" => {
                let all: Vec<usize> = (0..self.workers.len()).collect();
                self.kill_workers(&all, ms(rng, 0..500)).await;
            }
            "worker frozen" => self.freeze_worker(one, ms(rng, 50..1500)).await,
            "worker frozen beyond its session" => self.freeze_worker(one, ms(rng, 2500..5000)).await,
            "ZooKeeper leader killed" => {
                let leader = self.ensemble.leader().await;
                self.kill_zookeeper(leader, ms(rng, 0..1500)).await;
            }
            "ZooKeeper follower killed" => {
                let leader = self.ensemble.leader().await;
                self.kill_zookeeper((leader + 1 + one % 2) % 3, ms(rng, 0..1500)).await;
            }
            "ZooKeeper server frozen" => {
                let server = rng.usize(..3);
                self.ensemble.pause(server);
                tokio::time::sleep(ms(rng, 100..3000)).await;
                self.ensemble.resume(server);
            }
            "Redis restarted" => {
                self.redis[primary].stop().await;
                tokio::time::sleep(ms(rng, 0..500)).await;
                self.redis[primary].restart().await;
            }
            "Redis killed" => {
                self.redis[primary].kill9();
                tokio::time::sleep(ms(rng, 0..500)).await;
                self.redis[primary].restart().await;
            }
            "Redis killed, data lost" => {
                self.redis[primary].restart_empty().await;
                self.shared.redis_lost();
            }
            "Redis killed, data older" => {
                let copy = self.redis[primary].back_up();
                tokio::time::sleep(ms(rng, 50..1500)).await;
                self.redis[primary].restart_from(&copy).await;
                self.shared.redis_lost();
            }
            "Redis and workers killed, data older" => {
                let copy = self.redis[primary].back_up();
                tokio::time::sleep(ms(rng, 50..1500)).await;
                for worker in &mut self.workers {
                    worker.keepstep.kill9();
                }
                self.redis[primary].restart_from(&copy).await;
                self.shared.redis_lost();
                for worker in &mut self.workers {
                    worker.keepstep.start();
                }
            }
            "ensemble restored from a copy" => self.restore_ensemble().await,
            "Redis frozen" => {
                self.redis[primary].pause();
                tokio::time::sleep(ms(rng, 100..3000)).await;
                self.redis[primary].resume();
            }
            "Redis failed over" => self.fail_over(ms(rng, 0..300)).await,
            "FLUSHALL" => {
                self.redis[primary].run::<()>("FLUSHALL").await;
                self.shared.redis_lost();
            }
            "SWAPDB" => {
                self.redis[primary].run::<()>("SWAPDB 0 1").await;
                self.shared.redis_lost();
            }
            "keys evicted" => self.evict(primary, ms(rng, 20..200), false).await,
            "keys evicted, statistics reset" => self.evict(primary, ms(rng, 20..200), true).await,
            "former owner ends late" => {
                // Frozen until another has taken over, then told to end: it gives back what it no longer has.
                self.workers[one].keepstep.freeze();
                tokio::time::sleep(ms(rng, 2500..5000)).await;
                self.workers[one].keepstep.thaw();
                let ended = self.workers[one].keepstep.terminate().await;
                if ended != Some(0) {
                    self.shared.complain(format!("A WORKER that was told to end ended with {ended:?}"));
                }
                tokio::time::sleep(ms(rng, 0..500)).await;
                self.workers[one].keepstep.start();
            }
            "command between workers" => {
                for worker in &mut self.workers {
                    worker.keepstep.kill9();
                }
                commands::run(&self.shared, &self.workers[one].keepstep, rng).await;
                for worker in &mut self.workers {
                    worker.keepstep.start();
                }
            }
            "command by a worker" => commands::run(&self.shared, &self.workers[one].keepstep, rng).await,
            "command beside workers" => {
                let beside = self.workers[one].keepstep.another();
                commands::run_beside(&self.shared, &beside, rng).await;
            }
            "notifications off" => {
                let mut client = self.redis[primary].client().await;
                redis::cmd("CONFIG").arg(&["SET", "notify-keyspace-events", ""]).exec_async(&mut client).await.unwrap();
                tokio::time::sleep(ms(rng, 50..2500)).await;
                self.redis[primary].run::<()>("CONFIG SET notify-keyspace-events KA").await;
            }
            "sidecars deleted by hand" => {
                let buckets: Vec<String> = self.redis[primary].run("KEYS _keepstep:*").await;
                let some: Vec<String> = buckets.into_iter().filter(|_| rng.bool()).collect();
                self.shared.bases_lost();
                if !some.is_empty() {
                    self.redis[primary].run::<()>(&format!("DEL {}", some.join(" "))).await;
                }
            }
            "Kafka killed" => {
                let kafka = self.kafka.as_mut().expect("the fault is in the table of Kafka");
                kafka.kill9();
                tokio::time::sleep(ms(rng, 0..1500)).await;
                kafka.restart().await;
            }
            "Kafka frozen" => {
                let kafka = self.kafka.as_ref().expect("the fault is in the table of Kafka");
                kafka.pause();
                tokio::time::sleep(ms(rng, 100..3000)).await;
                kafka.resume();
            }
            other => unreachable!("{other} is in the table and nowhere else"),
        }
    }

    async fn kill_workers(&mut self, which: &[usize], down: Duration) {
        for number in which {
            self.workers[*number].keepstep.kill9();
        }
        tokio::time::sleep(down).await;
        for number in which {
            self.workers[*number].keepstep.start();
        }
    }

    /// Memory is short for a while, and what Redis counts may be set back in it.
    async fn evict(&mut self, primary: usize, during: Duration, resets: bool) {
        let redis = &self.redis[primary];
        redis.run::<()>("CONFIG SET maxmemory-policy allkeys-random").await;
        redis.run::<()>("CONFIG SET maxmemory 1mb").await;
        self.shared.bases_lost();
        if resets {
            redis.run::<()>("CONFIG RESETSTAT").await;
        }
        tokio::time::sleep(during).await;
        redis.run::<()>("CONFIG SET maxmemory 0").await;
        redis.run::<()>("CONFIG SET maxmemory-policy noeviction").await;
        self.shared.redis_lost();
    }

    async fn freeze_worker(&mut self, number: usize, during: Duration) {
        self.workers[number].keepstep.freeze();
        tokio::time::sleep(during).await;
        self.workers[number].keepstep.thaw();
    }

    async fn kill_zookeeper(&mut self, server: usize, down: Duration) {
        self.ensemble.kill9(server);
        tokio::time::sleep(down).await;
        self.ensemble.restart(server).await;
    }
}

/// The proxies of one worker.
struct Way {
    to_zookeeper: Arc<[Proxy; 3]>,
    to_redis: Arc<Proxy>,
}

async fn break_ways(ways: Vec<Way>, mut rng: Rng, until: Instant) -> Counts {
    let mut counts = Counts::new();
    while Instant::now() < until {
        tokio::time::sleep(ms(&mut rng, PAUSE_MS)).await;
        let way = &ways[rng.usize(..ways.len())];
        // To one store or the other; to ZooKeeper by all three servers, since the client would take another one.
        let is_redis = rng.bool();
        let proxies: Vec<&Proxy> = if is_redis { vec![&way.to_redis] } else { way.to_zookeeper.iter().collect() };
        let fault = pick(&mut rng, OF_WAYS);
        let hold = ms(&mut rng, 100..3500);
        let needle: &[u8] = if is_redis { b"EVALSHA" } else { b"/settings/" };
        let bytes = rng.usize(..3000);
        for proxy in &proxies {
            match fault {
                "connections closed" => proxy.drop_connections(),
                "connections reset" => proxy.reset_connections(),
                "way refused" => proxy.cut(),
                "requests swallowed" => proxy.black_hole(Direction::ToServer),
                "replies swallowed" => proxy.black_hole(Direction::ToClient),
                "all swallowed" => {
                    proxy.black_hole(Direction::ToServer);
                    proxy.black_hole(Direction::ToClient);
                }
                "way slow" => proxy.delay(Duration::from_millis(5 + hold.as_secs() * 20)),
                "request cut" => proxy.cut_after(Direction::ToServer, bytes),
                "reply cut" => proxy.cut_after(Direction::ToClient, bytes),
                "reply lost" => proxy.lose_reply_to(needle),
                other => unreachable!("{other} is in the table and nowhere else"),
            }
        }
        if matches!(fault, "way refused" | "requests swallowed" | "replies swallowed" | "all swallowed" | "way slow") {
            tokio::time::sleep(hold).await;
            proxies.iter().for_each(|proxy| proxy.heal());
        }
        *counts.entry(fault).or_default() += 1;
    }
    counts
}
