//! The shipped store code on doubles of the servers: no server is needed.

#[path = "on_doubles/checker.rs"]
mod checker;
#[path = "on_doubles/disk.rs"]
mod disk;
#[path = "on_doubles/redis.rs"]
mod redis;
#[path = "on_doubles/redis_source.rs"]
mod redis_source;
#[path = "on_doubles/zookeeper.rs"]
mod zookeeper;
