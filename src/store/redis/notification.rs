//! Reads the pushes of Redis: a pure function, so that it can be fuzzed.

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

/// What a push reports.
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

/// Reads a push. `channel_prefix` is the beginning of the channel of a keyspace event,
/// `__keyspace@0__:`. Messages on other channels, events without a change and kinds of push that
/// were not asked for report nothing.
pub fn read(channel_prefix: &[u8], push: PushInfo, report: &mut dyn FnMut(Notice)) {
    match push.kind {
        PushKind::PMessage => {
            let mut data = push.data.into_iter();
            let (pattern, channel, event) = (bytes(data.next()), bytes(data.next()), bytes(data.next()));
            if let Some(key) = channel.strip_prefix(channel_prefix) {
                let key = key.to_vec();
                match String::from_utf8(event) {
                    // Neither reports a change: `new` comes with another event that does, `keymiss`
                    // is a read.
                    Ok(event) if event == "new" || event == "keymiss" => {}
                    event => report(Notice::Event { pattern, key, event: event.ok() }),
                }
            }
        }
        PushKind::Invalidate => match push.data.into_iter().next() {
            Some(Value::Array(keys)) => {
                for key in keys {
                    report(Notice::Invalidated(bytes(Some(key))));
                }
            }
            _ => report(Notice::Everything),
        },
        PushKind::Disconnection => report(Notice::Disconnected),
        _ => {}
    }
}
