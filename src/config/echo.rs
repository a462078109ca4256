//! The resolved pipeline, written as a pipeline file again: with all defaults, secrets masked.

use super::model::{Acl, Ephemeral, Kafka, OnRemoval, Pipeline, Property, RedisStore, Route, ZookeeperStore};
use super::quantity::{show_duration, show_size};
use crate::change::Side;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The mask of a secret. Reading it back is an error, like every text in the place of a secret.
const MASK: &str = "***";

/// The pipeline as YAML in the shape of the pipeline file. It reads back as the same pipeline,
/// apart from masked secrets.
#[must_use]
pub fn echo(pipeline: &Pipeline) -> String {
    let mut out = String::new();
    write_block(&mut out, &echo_json(pipeline), 0);
    out
}

/// The same as JSON, for `--format json`.
#[must_use]
pub fn echo_json(pipeline: &Pipeline) -> Value {
    let mut stores = Map::new();
    if let Some(store) = &pipeline.zookeeper {
        stores.insert(store.name.clone(), json!({ "zookeeper": zookeeper(store) }));
    }
    if let Some(store) = &pipeline.redis {
        stores.insert(store.name.clone(), json!({ "redis": redis(store) }));
    }
    let (stream, worker) = (&pipeline.stream, &pipeline.worker);
    json!({
        "version": 1,
        "pipeline": pipeline.name,
        "stores": stores,
        "stream": match &stream.kafka {
            Some(place) => json!({ "kafka": kafka(place, stream.retention_age) }),
            None => json!({ "embedded": { "retention": {
                "age": show_duration(stream.retention_age),
                "size": show_size(stream.retention_size),
            } } }),
        },
        "routes": pipeline.routes.iter().map(|item| route(pipeline, item)).collect::<Vec<_>>(),
        "worker": {
            "batch": {
                "changes": worker.batch_changes,
                "bytes": size(worker.batch_bytes),
                "wait": show_duration(worker.batch_wait),
            },
            "queue": { "bytes": size(worker.queue_bytes) },
            "reconcile": show_duration(worker.reconcile),
            "limit": { "writes": 0, "reads": 0 },
            "delete_guard": if worker.delete_guard { "on" } else { "off" },
        },
    })
}

fn size(bytes: usize) -> String {
    show_size(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn zookeeper(store: &ZookeeperStore) -> Value {
    let mut fields = Map::new();
    fields.insert("connect".to_owned(), json!(store.connect));
    fields.insert("source".to_owned(), json!("watch"));
    fields.insert("session_timeout".to_owned(), json!(show_duration(store.session_timeout)));
    if store.digest.is_some() {
        fields.insert("auth".to_owned(), json!({ "digest": MASK }));
    }
    Value::Object(fields)
}

fn redis(store: &RedisStore) -> Value {
    let host = if store.host.contains(':') { format!("[{}]", store.host) } else { store.host.clone() };
    let mut fields = Map::new();
    fields.insert("url".to_owned(), json!(format!("redis://{host}:{}/{}", store.port, store.database)));
    fields.insert("topology".to_owned(), json!("standalone"));
    fields.insert("source".to_owned(), json!("keyspace"));
    if let Some(username) = &store.username {
        fields.insert("username".to_owned(), json!(username));
    }
    if store.password.is_some() {
        fields.insert("password".to_owned(), json!(MASK));
    }
    Value::Object(fields)
}

fn kafka(place: &Kafka, age: Duration) -> Value {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    put("brokers", json!(place.brokers));
    put("topic", json!(place.topic));
    if let Some(registry) = &place.schema_registry {
        let host = if registry.host.contains(':') { format!("[{}]", registry.host) } else { registry.host.clone() };
        let login = match (&registry.user, &registry.password) {
            (Some(user), Some(_)) => format!("{user}:{MASK}@"),
            _ => String::new(),
        };
        put("schema_registry", json!(format!("http://{login}{host}:{}{}", registry.port, registry.prefix)));
    }
    put("retention", json!({ "age": show_duration(age) }));
    let mut config: Map<String, Value> = Map::new();
    for (name, property) in &place.config {
        let shown = match property {
            Property::Text(text) => json!(text),
            Property::Secret(_) => json!(MASK),
        };
        config.insert(name.clone(), shown);
    }
    if let Some(replication) = place.replication {
        config.insert("replication.factor".to_owned(), json!(replication));
    }
    if !config.is_empty() {
        put("config", Value::Object(config));
    }
    Value::Object(fields)
}

fn route(pipeline: &Pipeline, route: &Route) -> Value {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    let name = |side: Side| pipeline.store_name(side);
    put("name", json!(route.name));
    put("flow", json!(pipeline.flow_text(route.flow)));
    let patterns = [(Side::Zookeeper, &route.match_zookeeper), (Side::Redis, &route.match_redis)];
    let patterns =
        patterns.into_iter().filter_map(|(side, pattern)| Some((name(side).to_owned(), json!(pattern.as_ref()?))));
    put("match", Value::Object(patterns.collect()));
    let excludes = [(Side::Zookeeper, &route.exclude_zookeeper), (Side::Redis, &route.exclude_redis)];
    let excludes = excludes.into_iter().filter(|(_, list)| !list.is_empty());
    let excludes: Map<String, Value> = excludes.map(|(side, list)| (name(side).to_owned(), json!(list))).collect();
    if !excludes.is_empty() {
        put("exclude", Value::Object(excludes));
    }
    put("separator", json!(route.separator));
    put("value", json!(route.value));
    put("on_conflict", json!(route.on_conflict_text));
    put("on_delete", json!(removal(route.on_delete)));
    put("on_expire", json!(removal(route.on_expire)));
    put(
        "ephemeral",
        json!(match route.ephemeral {
            Ephemeral::Mirror => "mirror",
            Ephemeral::Skip => "skip",
        }),
    );
    put(
        "acl",
        json!(match route.acl {
            Acl::Parent => "parent",
            Acl::Open => "open",
            Acl::Creator => "creator",
        }),
    );
    if let Some(channel) = &route.publish {
        put("publish", json!(channel));
    }
    Value::Object(fields)
}

fn removal(rule: OnRemoval) -> &'static str {
    match rule {
        OnRemoval::Propagate => "propagate",
        OnRemoval::Keep => "keep",
    }
}

/// Writes a mapping or a list at its own indentation, each line with an end.
fn write_block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                out.push_str(&" ".repeat(indent));
                write_entry(out, key, value, indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push_str("- ");
                let mut lines = String::new();
                write_block(&mut lines, item, indent + 2);
                out.push_str(lines.trim_start());
            }
        }
        scalar => {
            out.push_str(&write_flow(scalar));
            out.push('\n');
        }
    }
}

fn write_entry(out: &mut String, key: &str, value: &Value, indent: usize) {
    let nested = match value {
        Value::Object(fields) => !fields.values().all(is_short) || matches!(key, "zookeeper" | "redis"),
        Value::Array(items) => !items.iter().all(is_short),
        _ => false,
    };
    out.push_str(&write_text(key));
    if nested {
        out.push_str(":\n");
        write_block(out, value, indent + 2);
    } else {
        out.push_str(&format!(": {}\n", write_flow(value)));
    }
}

/// Whether a value fits into the braces of its parent.
fn is_short(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::Array(items) => items.iter().all(|item| !item.is_array() && !item.is_object()),
        _ => true,
    }
}

/// A value on one line.
fn write_flow(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{}: {}", write_text(key), write_flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(write_flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => write_text(text),
        other => other.to_string(),
    }
}

/// A text: without quotes if every YAML reader takes it for a text, else in double quotes. A `$` is
/// doubled, because a single one would begin a variable.
fn write_text(text: &str) -> String {
    if is_bare(text) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '$' => quoted.push_str("$$"),
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            other if other.is_control() || matches!(other, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(other)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a text needs no quotes, not even inside braces.
fn is_bare(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.:*<> ".contains(&byte);
    if !text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '/' || first == '_')
        || !text.bytes().all(inside)
        || text.ends_with(' ')
    {
        return false;
    }
    // A colon inside a word, as in an address, does not begin a mapping.
    let inner_colon = |behind: &str| behind.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '/');
    if !text.split(':').skip(1).all(inner_colon) {
        return false;
    }
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let like_number = text.parse::<f64>().is_ok() || ["0x", "0o", "0b"].iter().any(|base| text.starts_with(base));
        return !like_number && text.contains(|other: char| other.is_ascii_alphabetic() || other == '.');
    }
    !["null", "true", "false", "yes", "no", "y", "n"].contains(&text.to_lowercase().as_str())
}
