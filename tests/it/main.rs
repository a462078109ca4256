//! Keepstep from outside, against real servers: one crate, so that everything compiles and links once.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod commands;
mod conflicts;
mod deletes;
mod diff;
mod examples;
mod faults;
mod groups;
mod kafka;
mod kafka_faults;
mod kafka_stream;
mod limits;
mod losses;
mod one_way;
mod quarantine;
mod random;
mod recovery;
mod redis_events;
mod replay;
mod storage;
mod stream_conformance;
mod support;
mod support_works;
mod two_way;
mod workers;
