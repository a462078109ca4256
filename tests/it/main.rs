//! Keepstep from outside, against real servers: one crate, so that everything compiles and links once.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests run in the real world")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

/// Makes of each `async fn name(place: Place)` two tests: `embedded::name` and `kafka::name`.
macro_rules! on_both_streams {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::support::Place::Embedded).await;
            })+
        }
        mod kafka {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::support::Place::kafka().await).await;
            })+
        }
    };
}

mod amplification;
#[cfg(feature = "failpoints")]
mod behind;
mod bounded;
mod captures;
mod claims;
mod commands;
mod conflicts;
#[cfg(feature = "failpoints")]
mod crashes;
mod deletes;
mod diff;
mod doors;
mod examples;
mod faults;
mod groups;
mod history;
mod identity;
mod kafka;
mod kafka_faults;
mod kafka_stream;
mod limits;
mod losses;
mod losses_told;
mod lost_at_the_source;
mod memory;
#[cfg(feature = "failpoints")]
mod named;

mod older;
mod once;
mod one_way;
mod operating;
mod own_keys;
mod own_state;
mod pauses;
#[cfg(not(feature = "failpoints"))]
mod plain;
mod proofs;
mod properties;
mod put_back;
mod quarantine;
mod random;
mod recovery;
mod redis_conformance;
mod redis_events;
mod remedies;
mod replay;
mod scripts;
mod sharing;
mod silent_loss;
mod sizes;
mod storage;
mod stream_conformance;
mod support;
mod support_works;
mod told;
mod transitions;
mod two_way;
mod unwritten;
mod upgrade;
mod workers;
mod zookeeper_conformance;
