//! The names of keyspace events.

/// The name of an event as a constant; unknown ones of newer servers are one.
pub(super) fn event_name(event: &str) -> &'static str {
    const NAMES: [&str; 24] = [
        "set",
        "del",
        "expired",
        "evicted",
        "expire",
        "persist",
        "incrby",
        "incrbyfloat",
        "append",
        "setrange",
        "setbit",
        "rename_from",
        "rename_to",
        "move_from",
        "move_to",
        "copy_to",
        "restore",
        "getset",
        "getdel",
        "pfadd",
        "lpush",
        "hset",
        "sadd",
        "zadd",
    ];
    NAMES.iter().find(|name| **name == event).copied().unwrap_or("other")
}
