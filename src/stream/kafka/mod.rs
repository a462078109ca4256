//! The stream on Kafka: one topic with one partition, compacted, written by one owner, read by any
//! number.
//!
//! ```text
//!   open    topic created or checked -> read to its end -> index of pairs, in memory, without values
//!   begin   marker with this owner's fence -> records with an older fence behind it are dropped by every reader
//!   append  records -> producer (idempotent, acks=all) -> places -> index          position = offset + 1
//!   read, position_at -> a consumer at places that we name; no group, nothing committed
//! ```
//!
//! Why it is correct: Kafka keeps order and loses nothing that it acknowledged. What it cannot do
//! without a transaction is refuse an owner that was frozen and wakes up: so every record carries
//! its owner's fence (epoch, session), and a record is valid only if no newer fence is before it
//! (`record.rs`). The owner notices such records by the positions that are missing between its own,
//! and records the pair's newest valid change once more, so that compaction keeps the right one
//! (`audit.rs`). Nothing is ever read from `latest` on: a topic that was deleted or truncated ends
//! the opening, loudly, and the next one compares both stores with what is left.
//!
//! Memory: about 130 bytes a pair, 16 MiB of values for `before`, and queues of fixed size.

mod audit;
mod client;
mod core;
mod index;
mod member;
mod opener;
mod opening;
mod read;
mod reader;
mod record;
mod registry;
mod settings;
mod stream;
mod topic;
mod watch;
mod wire;
mod writer;

pub use opener::KafkaOpener;
pub use opening::{look, look_at_registry};
pub use registry::RegistryAddress;
pub use settings::Settings;
pub use stream::KafkaStream;
