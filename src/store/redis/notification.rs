//! What a push of Redis tells the source: pure, so that it can be fuzzed.

use super::calls::bytes;
use redis::{PushInfo, PushKind, Value};

/// What a push tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This key may have changed.
    Key {
        /// Its name.
        key: Vec<u8>,
        /// What happened to it; `None` if nobody says, or not in UTF-8.
        event: Option<String>,
    },
    /// Anything may have changed: the database was flushed.
    Everything,
    /// The connection is gone.
    Disconnected,
}

/// Reads a push. `channel_prefix` is what the channel of a keyspace event begins with, `__keyspace@0__:`; messages on other channels,
/// events that tell of no change and kinds of push that were not asked for tell nothing.
pub fn read(channel_prefix: &[u8], push: PushInfo, tell: &mut dyn FnMut(Notice)) {
    match push.kind {
        PushKind::PMessage | PushKind::Message => {
            let mut data = push.data.into_iter().rev();
            let event = bytes(data.next());
            let channel = bytes(data.next());
            if let Some(key) = channel.strip_prefix(channel_prefix) {
                let key = key.to_vec();
                match String::from_utf8(event) {
                    // Neither says that a value changed: `new` comes with the event that tells, `keymiss` is a read.
                    Ok(event) if event == "new" || event == "keymiss" => {}
                    event => tell(Notice::Key { key, event: event.ok() }),
                }
            }
        }
        PushKind::Invalidate => match push.data.into_iter().next() {
            Some(Value::Array(keys)) => {
                for key in keys {
                    tell(Notice::Key { key: bytes(Some(key)), event: None });
                }
            }
            _ => tell(Notice::Everything),
        },
        PushKind::Disconnection => tell(Notice::Disconnected),
        _ => {}
    }
}
