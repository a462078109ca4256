//! Keepstep keeps Apache ZooKeeper and Redis in step.
//!
//! The map: what each module owns, in reading order. `docs/ARCHITECTURE.md` has the whole of it.
//!
//! ```text
//!   change   route   plan       pure: the datum, the map between paths and keys, the decision
//!   codec    stream  store      the doors: Avro and JSON, the durable log, ZooKeeper and Redis
//!   pipeline                    hints -> observe -> plan -> stream -> apply
//!   history                     replay, diff, repair: the stream and the stores seen from outside
//!   config   telemetry          the YAML file, metrics and log
//!   http     cli     assembly   what people and programs meet; where everything is plugged together
//! ```
//!
//! 1. [`change`]: what one change of one pair is, and the versions that identify a state on either side.
//! 2. [`plan`]: base, observation, rules, and `plan()`, the function that decides what is written.
//! 3. [`route`]: the one-to-one map between paths and keys, and the patterns of routes.
//! 4. [`codec`]: a change as Avro bytes, and as the JSON that commands print.
//! 5. [`stream`]: the contract of the durable log, and the embedded one behind it.
//! 6. [`store`]: the contracts `Znodes`, `Keyspace` and `Hints`, and the two stores behind them.
//! 7. [`pipeline`]: dirty set, rounds, comparisons, ownership, quarantine; knows no concrete store or stream.
//! 8. [`history`]: the fold of a stream, states made true in a store, both stores compared; acts as an application does.
//! 9. [`config`]: the pipeline file as plain data, each error with its place.
//! 10. [`telemetry`]: names of metrics and spans, counters, the log.
//! 11. [`http`]: the pages of a worker, its Unix socket, the client of both.
//! 12. [`cli`]: one file a command, and the exit codes.
//! 13. [`assembly`]: plain data to running parts.
//! 14. [`worker`]: who this process is among the workers.
//! 15. `request`: one HTTP request, for workers and schema registries.
//! 16. `failpoint`: crash points for tests, compiled out of a release.
//! 17. [`env`]: the world outside the stores: time, tasks, randomness, the disk, dialling.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "unit tests run in the real world")
)]

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
