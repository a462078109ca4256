//! Keepstep keeps Apache ZooKeeper and Redis synchronized.
//!
//! The map: what each module owns, in reading order. `docs/ARCHITECTURE.md` has entry points and an
//! hour's reading path.
//!
//! ```text
//!   change   route   plan       pure: the datum, the map between paths and keys, the decision
//!   codec    stream  store      Avro and JSON, the durable log, ZooKeeper and Redis
//!   pipeline                    hints -> observe -> plan -> stream -> apply
//!   history                     replay, diff, repair: what commands do with the stream and the stores
//!   config   telemetry          the YAML file, metrics and log
//!   http     cli                endpoints of a worker, commands
//!   assembly                    the composition root
//! ```
//!
//! 1. [`change`]: one change of one pair, and the versions that identify a state on either side.
//! 2. [`plan`]: base, observation, rules, and `plan()`, the function that decides what is written.
//! 3. [`route`]: the one-to-one map between paths and keys, and the patterns of routes.
//! 4. [`codec`]: a change as Avro bytes, and as the JSON that commands print.
//! 5. [`stream`]: the contract of the durable log, and the embedded log and Kafka behind it.
//! 6. [`store`]: the contracts `Znodes`, `Keyspace` and `Hints`, and the two stores behind them.
//! 7. [`pipeline`]: dirty set, rounds, comparisons, ownership, quarantine; knows no concrete store
//!    or stream.
//! 8. [`history`]: the fold of a stream, restoring states, comparing both stores; acts as an
//!    application does.
//! 9. [`config`]: the pipeline file as plain data, each error with its place.
//! 10. [`telemetry`]: the names of metrics, counters, spans, the log.
//! 11. [`http`]: the endpoints of a worker, its Unix socket, the client of both.
//! 12. [`cli`]: one file for each command, and the exit codes.
//! 13. [`assembly`]: from plain data to stores, streams and pipelines.
//! 14. [`worker`]: the name and the identity of this process among the workers.
//! 15. `request`: the HTTP client, for workers and schema registries.
//! 16. `failpoint`: crash points for tests, compiled out of a release.
//! 17. [`env`]: the world outside the stores: time, tasks, randomness, the disk, dialling.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "unit tests run in the real world")
)]

// Doubles are written against the crate by its name, and some unit tests run on them.
#[cfg(test)]
extern crate self as keepstep;

pub mod assembly;
pub mod change;
pub mod cli;
pub mod codec;
pub mod config;
pub mod env;
mod failpoint;
pub mod history;
pub mod http;
pub mod pipeline;
pub mod plan;
mod request;
pub mod route;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod worker;
