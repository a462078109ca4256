//! What is read out of the answers of a server.

use super::line::Value;

/// A number; 0 where there is none.
pub(super) fn integer(value: Option<Value>) -> i64 {
    match value {
        Some(Value::Int(number)) => number,
        Some(Value::BulkString(bytes)) => std::str::from_utf8(&bytes).ok().and_then(|t| t.parse().ok()).unwrap_or(0),
        _ => 0,
    }
}

/// The bytes of a text; empty where there is none.
pub(super) fn bytes(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::BulkString(bytes)) => bytes,
        Some(Value::SimpleString(text)) => text.into_bytes(),
        Some(Value::VerbatimString { text, .. }) => text.into_bytes(),
        Some(Value::Int(number)) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

/// [`bytes`] as a text.
pub(super) fn text(value: Option<Value>) -> String {
    String::from_utf8_lossy(&bytes(value)).into_owned()
}

/// [`bytes`] of each item.
pub(super) fn keys_of(value: Value) -> Vec<Vec<u8>> {
    match value {
        Value::Array(items) | Value::Set(items) => items.into_iter().map(|item| bytes(Some(item))).collect(),
        _ => Vec::new(),
    }
}

/// The value of the one setting that was asked for by `CONFIG GET`; `None` where the server has no
/// such setting.
pub(super) fn setting(value: Value) -> Option<String> {
    match value {
        Value::Map(pairs) => pairs.into_iter().next().map(|(_, value)| text(Some(value))),
        Value::Array(items) => items.into_iter().nth(1).map(|value| text(Some(value))),
        _ => None,
    }
}

/// A glob that matches exactly what begins with this prefix.
pub(super) fn glob(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]\\^".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}
