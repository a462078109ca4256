//! The JSON forms of a change: one object a line, as `tail`, `conflicts` and a route's `publish` channel show it.
//!
//! Keys stand in the order of the contract. A name or a value is a string if it is UTF-8, else `{"base64": …}`,
//! absent `null`; the value of a collection is the JSON that it is kept as.

use crate::change::{Agreed, Change, Conflict, Gap, Loss, Pair, Position, Source, ValueKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// What the pipeline file calls the stores. A pipeline that only captures has one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreNames {
    /// The ZooKeeper store.
    pub zookeeper: Option<String>,
    /// The Redis store.
    pub redis: Option<String>,
}

/// A record as `tail` prints it. `conflict`, `gap` and `loss` are there only if the change has them, `base` and `collapsed`
/// always; `source` leaves out what is not known.
#[must_use]
pub fn tail(position: Position, change: &Change, names: &StoreNames) -> Value {
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| row.insert(key.to_owned(), value);
    put("position", json!(position));
    put("ts_ms", json!(change.ts_ms));
    put("route", json!(change.route));
    put("pair", pair(&change.pair, names));
    put("op", json!(change.op.letter()));
    put("before", value(change.before.as_deref(), change.value));
    put("after", value(change.after.as_deref(), change.value));
    put("source", source(&change.source));
    put("base", change.base.as_ref().map_or(Value::Null, agreed));
    put("collapsed", json!(change.collapsed));
    if let Some(lost) = &change.conflict {
        put("conflict", conflict(lost, change.value));
    }
    if let Some(found) = &change.gap {
        put("gap", gap(found));
    }
    if let Some(found) = &change.loss {
        put("loss", loss(found));
    }
    Value::Object(row)
}

/// A record as `conflicts` prints it; `None` if it settled none. The two values stand under the stores' names,
/// ZooKeeper's first; a loser or winner that is no store of the pipeline (a scratch store, the stream itself) is added
/// under its own.
#[must_use]
pub fn conflicts(position: Position, change: &Change, names: &StoreNames) -> Option<Value> {
    let lost = change.conflict.as_ref()?;
    let of = |name: &str| {
        let bytes = if name == lost.loser {
            lost.value.as_deref()
        } else if name == lost.winner {
            change.after.as_deref()
        } else {
            None
        };
        value(bytes, change.value)
    };
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| row.insert(key.to_owned(), value);
    put("position", json!(position));
    put("ts_ms", json!(change.ts_ms));
    put("route", json!(change.route));
    put("pair", pair(&change.pair, names));
    for name in
        [&names.zookeeper, &names.redis, &Some(lost.loser.clone()), &Some(lost.winner.clone())].into_iter().flatten()
    {
        put(name, of(name));
    }
    put("winner", json!(lost.winner));
    put("rule", json!(lost.rule));
    put("reason", json!(lost.reason));
    Some(Value::Object(row))
}

/// The pair's names under the names of their stores.
#[must_use]
pub fn pair(pair: &Pair, names: &StoreNames) -> Value {
    let mut row = Map::new();
    if let Some(name) = &names.zookeeper {
        row.insert(name.clone(), json!(pair.zookeeper));
    }
    if let Some(name) = &names.redis {
        row.insert(name.clone(), optional(pair.redis.as_deref()));
    }
    Value::Object(row)
}

/// A value as its route reads it. What a collection's route holds but is not JSON is shown as a string.
#[must_use]
pub fn value(bytes: Option<&[u8]>, kind: ValueKind) -> Value {
    let Some(bytes) = bytes else { return Value::Null };
    let parsed = match kind {
        ValueKind::String | ValueKind::Children => None,
        ValueKind::Hash | ValueKind::List | ValueKind::Set | ValueKind::Zset | ValueKind::Config => {
            serde_json::from_slice(bytes).ok()
        }
    };
    parsed.unwrap_or_else(|| text(bytes))
}

/// Bytes as a string if they are UTF-8, else `{"base64": …}`.
#[must_use]
pub fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => json!({"base64": STANDARD.encode(bytes)}),
    }
}

fn optional(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, text)
}

fn source(source: &Source) -> Value {
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            row.insert(key.to_owned(), value);
        }
    };
    put("connector", json!(source.connector));
    put("store", json!(source.store));
    put("ts_ms", json!(source.ts_ms));
    put("path", json!(source.path));
    put("czxid", json!(source.czxid));
    put("mzxid", json!(source.mzxid));
    put("pzxid", json!(source.pzxid));
    put("version", json!(source.version));
    put("cversion", json!(source.cversion));
    put("aversion", json!(source.aversion));
    put("ephemeral_owner", json!(source.ephemeral_owner));
    put("database", json!(source.database));
    put("key", optional(source.key.as_deref()));
    put("type", json!(source.kind));
    put("expiry", json!(source.expiry));
    put("event", json!(source.event));
    put("revision", json!(source.revision));
    put("replication_id", json!(source.replication_id));
    put("replication_offset", json!(source.replication_offset));
    Value::Object(row)
}

fn agreed(base: &Agreed) -> Value {
    json!({
        "czxid": base.czxid, "mzxid": base.mzxid, "version": base.version, "digest": base.digest,
        "sequence": base.sequence,
    })
}

fn conflict(lost: &Conflict, kind: ValueKind) -> Value {
    json!({
        "winner": lost.winner, "loser": lost.loser, "value": value(lost.value.as_deref(), kind),
        "mzxid": lost.mzxid, "version": lost.version, "rule": lost.rule, "reason": lost.reason,
    })
}

fn gap(gap: &Gap) -> Value {
    json!({"state": gap.state, "store": gap.store, "from": gap.from, "to": gap.to, "reason": gap.reason})
}

fn loss(loss: &Loss) -> Value {
    json!({"store": loss.store, "cause": loss.cause, "pairs": loss.pairs})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Connector, GapState, Op};

    fn names() -> StoreNames {
        StoreNames { zookeeper: Some("zk".to_owned()), redis: Some("cache".to_owned()) }
    }

    fn change() -> Change {
        let mut source = Source::new(Connector::Zookeeper, "zk", 7);
        source.mzxid = Some(17);
        source.version = Some(3);
        Change {
            op: Op::Update,
            before: None,
            after: Some(b"v2".to_vec()),
            source,
            ts_ms: 9,
            route: "settings".to_owned(),
            value: ValueKind::String,
            pair: Pair { zookeeper: Some("/settings/a".to_owned()), redis: Some(b"settings:a".to_vec()) },
            base: Some(Agreed { czxid: Some(1), mzxid: Some(2), version: Some(0), digest: None, sequence: 4 }),
            collapsed: Some(0),
            conflict: None,
            gap: None,
            epoch: 1,
            loss: None,
        }
    }

    fn settled(value: Option<&[u8]>, winner: &str, loser: &str) -> Option<Conflict> {
        Some(Conflict {
            winner: winner.to_owned(),
            loser: loser.to_owned(),
            value: value.map(<[u8]>::to_vec),
            mzxid: None,
            version: None,
            rule: "prefer zk".to_owned(),
            reason: "both sides changed".to_owned(),
        })
    }

    #[test]
    fn tail_prints_the_keys_of_the_contract_in_their_order() {
        let expected = concat!(
            r#"{"position":42,"ts_ms":9,"route":"settings","pair":{"zk":"/settings/a","cache":"settings:a"},"#,
            r#""op":"u","before":null,"after":"v2","source":{"connector":"zookeeper","store":"zk","ts_ms":7,"#,
            r#""mzxid":17,"version":3},"base":{"czxid":1,"mzxid":2,"version":0,"digest":null,"sequence":4},"#,
            r#""collapsed":0}"#
        );
        assert_eq!(tail(42, &change(), &names()).to_string(), expected);
    }

    #[test]
    fn what_is_not_utf8_is_base64_and_collections_are_json() {
        let mut change = change();
        change.after = Some(vec![0xFF, 0]);
        change.pair.redis = Some(vec![0xFE]);
        change.base = None;
        let row = tail(1, &change, &names());
        assert_eq!(row.get("after"), Some(&json!({"base64": "/wA="})));
        assert_eq!(row.get("pair"), Some(&json!({"zk": "/settings/a", "cache": {"base64": "/g=="}})));
        assert_eq!(row.get("base"), Some(&Value::Null));
        assert_eq!(value(Some(br#"{"b":"1","a":["x",2]}"#), ValueKind::Hash).to_string(), r#"{"b":"1","a":["x",2]}"#);
        assert_eq!(value(Some(b"{broken"), ValueKind::List), json!("{broken"));
        assert_eq!(value(Some(b"[1]"), ValueKind::Children), json!("[1]"));
    }

    #[test]
    fn a_marker_shows_its_gap_and_a_capture_shows_one_name() {
        let mut change = change();
        change.op = Op::Marker;
        change.pair = Pair { zookeeper: None, redis: None };
        change.gap = Some(Gap {
            state: GapState::Opened,
            store: "cache".to_owned(),
            from: Some(5),
            to: None,
            reason: "connection lost".to_owned(),
        });
        let only = StoreNames { zookeeper: None, redis: Some("cache".to_owned()) };
        let row = tail(1, &change, &only);
        assert_eq!(row.get("pair"), Some(&json!({"cache": null})));
        let gap = json!({"state": "opened", "store": "cache", "from": 5, "to": null, "reason": "connection lost"});
        assert_eq!(row.get("gap"), Some(&gap));
        assert_eq!(conflicts(1, &change, &only), None);
    }

    #[test]
    fn a_conflict_shows_both_values_under_the_names_of_their_stores() {
        let mut change = change();
        change.conflict = settled(Some(b"lost"), "zk", "cache");
        let expected = concat!(
            r#"{"position":3,"ts_ms":9,"route":"settings","pair":{"zk":"/settings/a","cache":"settings:a"},"#,
            r#""zk":"v2","cache":"lost","winner":"zk","rule":"prefer zk","reason":"both sides changed"}"#
        );
        assert_eq!(conflicts(3, &change, &names()).map(|row| row.to_string()).as_deref(), Some(expected));

        change.conflict = settled(None, "cache", "zk");
        let row = conflicts(3, &change, &names());
        assert_eq!(row.as_ref().and_then(|row| row.get("zk")), Some(&Value::Null));
        assert_eq!(row.as_ref().and_then(|row| row.get("cache")), Some(&json!("v2")));

        change.conflict = settled(Some(b"lost"), "stream", "scratch");
        let row = conflicts(3, &change, &names());
        assert_eq!(row.as_ref().and_then(|row| row.get("scratch")), Some(&json!("lost")));
    }
}
