//! A Redis server as a state machine, and the seam `Line` of `store::redis` over it.
//!
//! ```text
//!   data.rs      what a database holds                       server.rs    connections, settings, restarts, pushes
//!   glob.rs      patterns                                    commands.rs  what each command does and which events it gives
//!   reply.rs     what a server sends                         keyed.rs     the commands on one key
//!   scripts.rs   the Lua scripts of `store::redis`, as Rust functions found by the SHA-1 of the shipped text
//!   version.rs   which server it is, and in what the supported ones differ
//!   rules.rs     what these decide, for the model checker as well
//!   line.rs      `Dial` and `Line` over it, with faults of the network
//! ```
//!
//! The server is one thread: each command is one step, and nothing happens between two of them. What a server decides
//! freely (when an expired key is removed, what is evicted, in which order SCAN goes) is a method or a field that the
//! caller chooses, and so is its [version](version::Version), Redis 7.0.15 by default.
//! `tests/it/redis_conformance.rs` holds it to a real server, and `scripts/matrix` to one of each supported kind.

mod acl;
mod commands;
pub mod data;
mod glob;
mod keyed;
pub mod line;
pub mod reply;
pub mod rules;
pub mod scripts;
pub mod server;
pub mod version;
