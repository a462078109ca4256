//! What a push of Redis tells the source: pure, so that it can be fuzzed.

use super::line::{PushInfo, PushKind, Value};
use super::reply::{bytes, glob};

/// What the channels of keyspace events of this database begin with.
pub(super) fn channel_prefix(database: u32) -> Vec<u8> {
    format!("__keyspace@{database}__:").into_bytes()
}

/// The channels of the keys with this prefix.
pub(super) fn pattern(database: u32, prefix: &[u8]) -> Vec<u8> {
    [channel_prefix(database), glob(prefix)].concat()
}

/// What a push tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A keyspace event.
    Event {
        /// The pattern that was subscribed: an event that matches two comes twice.
        pattern: Vec<u8>,
        /// The key that may have changed.
        key: Vec<u8>,
        /// What happened to it; `None` if that is not UTF-8.
        event: Option<String>,
    },
    /// This key may have changed: tracking saw it.
    Invalidated(Vec<u8>),
    /// Anything may have changed: the database was flushed.
    Everything,
    /// The connection is gone.
    Disconnected,
}

/// Reads a push. `channel_prefix` is what the channel of a keyspace event begins with, `__keyspace@0__:`; messages on other channels,
/// events that tell of no change and kinds of push that were not asked for tell nothing.
pub fn read(channel_prefix: &[u8], push: PushInfo, tell: &mut dyn FnMut(Notice)) {
    match push.kind {
        PushKind::PMessage => {
            let mut data = push.data.into_iter();
            let (pattern, channel, event) = (bytes(data.next()), bytes(data.next()), bytes(data.next()));
            if let Some(key) = channel.strip_prefix(channel_prefix) {
                let key = key.to_vec();
                match String::from_utf8(event) {
                    // Neither says that a value changed: `new` comes with the event that tells, `keymiss` is a read.
                    Ok(event) if event == "new" || event == "keymiss" => {}
                    event => tell(Notice::Event { pattern, key, event: event.ok() }),
                }
            }
        }
        PushKind::Invalidate => match push.data.into_iter().next() {
            Some(Value::Array(keys)) => {
                for key in keys {
                    tell(Notice::Invalidated(bytes(Some(key))));
                }
            }
            _ => tell(Notice::Everything),
        },
        PushKind::Disconnection => tell(Notice::Disconnected),
        _ => {}
    }
}
