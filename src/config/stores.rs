//! `stores:` of a pipeline file: at most one ZooKeeper ensemble and one Redis deployment.

use super::address::{self, RedisUrl, UrlFault};
use super::keys;
use super::model::{RedisStore, Secret, ZookeeperStore};
use super::problem::allowed;
use super::reader::{Fields, Reader, Text, Value};
use super::tree::{Node, quoted};
use crate::change::Side;
use std::time::Duration;

/// The ensemble may change it (to 2 to 20 of its ticks). Below 100 ms a session expires by chance;
/// above ten minutes the lease of a dead worker lasts that long.
const SESSION_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);

/// Reserved names: keys of the rows of `diff`, `conflicts`, `quarantine` and `replay`, in which the
/// name of a store is a key too, and words in the place of a store in a conflict.
const RESERVED: &[&str] = &[
    "route", "pair", "position", "winner", "rule", "reason", "ts_ms", "state", "detail", "since_ms", "help", "stream",
    "scratch",
];

/// The stores that could be read, and the names that routes may use for them.
#[derive(Debug, Default)]
pub(super) struct Stores {
    pub(super) zookeeper: Option<ZookeeperStore>,
    pub(super) redis: Option<RedisStore>,
    /// Every declared name; the side is `None` if the declaration has none.
    pub(super) names: Vec<(String, Option<Side>)>,
}

/// Reads `stores:`.
pub(super) fn read(reader: &mut Reader<'_>, value: &Value<'_>) -> Stores {
    let mut stores = Stores::default();
    let Some(fields) = reader.entries(value, "a mapping from names to stores") else { return stores };
    for (key, store) in fields.all() {
        let name = key.text.clone();
        if !is_name(&name) {
            let help = "allowed: a letter from a to z, then letters, digits, `_` and `-`, 63 at most".to_owned();
            reader.fault(key.span, format!("{} is not a name of a store", quoted(&name)), help);
        }
        if RESERVED.contains(&name.as_str()) {
            let help = "commands use this name for another column of their output; choose another name".to_owned();
            reader.fault(key.span, format!("a store cannot be called {}", quoted(&name)), help);
        }
        let side = read_store(reader, &name, &store, &mut stores);
        stores.names.push((name, side));
    }
    if stores.names.is_empty() {
        let help = "a pipeline joins one ZooKeeper store and one Redis store, or captures one of them".to_owned();
        reader.fault(value.span, "no store is declared", help);
    }
    stores
}

fn is_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    name.len() <= 63 && name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(rest)
}

fn read_store(reader: &mut Reader<'_>, name: &str, value: &Value<'_>, stores: &mut Stores) -> Option<Side> {
    let fields = reader.fields(value, keys::STORE)?;
    let (side, inner) = match (fields.get("zookeeper"), fields.get("redis")) {
        (Some(inner), None) => (Side::Zookeeper, inner),
        (None, Some(inner)) => (Side::Redis, inner),
        (Some(_), Some(inner)) => {
            reader.fault(inner.span, format!("the store `{name}` cannot be both"), allowed(keys::STORE, None));
            return None;
        }
        (None, None) => {
            // An unknown key was reported already; it was probably meant to be the kind.
            if fields.all().next().is_none() {
                reader.fault(
                    value.span,
                    format!("the store `{name}` is neither `zookeeper` nor `redis`"),
                    allowed(keys::STORE, None),
                );
            }
            return None;
        }
    };
    if stores.names.iter().any(|(_, other)| *other == Some(side)) {
        let kind = if side == Side::Zookeeper { "ZooKeeper" } else { "Redis" };
        let help = "a pipeline joins one ZooKeeper store and one Redis store; make a second pipeline".to_owned();
        reader.fault(value.span, format!("`{name}` is a second {kind} store"), help);
        return None;
    }
    match side {
        Side::Zookeeper => {
            let store = reader.fields(&inner, keys::ZOOKEEPER).and_then(|fields| zookeeper(reader, name, &fields));
            stores.zookeeper = store;
        }
        Side::Redis => {
            let store = reader.fields(&inner, keys::REDIS).and_then(|fields| redis(reader, name, &fields));
            stores.redis = store;
        }
    }
    Some(side)
}

fn zookeeper(reader: &mut Reader<'_>, name: &str, fields: &Fields<'_>) -> Option<ZookeeperStore> {
    mode(reader, fields, "source", "watch", &["watch"], &[("observer", keys::ZOOKEEPER_SOURCE)], &[]);
    refuse_tls(reader, fields);
    let digest = digest(reader, fields);
    let session_timeout = reader.duration(fields, "session_timeout", Duration::from_secs(10), SESSION_TIMEOUT);
    let connect = reader.required(fields, "connect")?;
    let text = reader.text(&connect, "a text such as `127.0.0.1:2181`")?;
    match address::connect(&text.text) {
        Ok(connect) => Some(ZookeeperStore { name: name.to_owned(), connect, session_timeout, digest }),
        Err(reason) => {
            let help = "allowed: `host:port[,host:port…][/chroot]`".to_owned();
            reader.bad(&text, &format!("a connect string: {reason}"), help);
            None
        }
    }
}

fn digest(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Secret> {
    let auth = reader.fields(&fields.get("auth")?, keys::AUTH)?;
    if let Some(sasl) = auth.get("sasl") {
        check_keys(reader, &sasl, keys::SASL);
        reader.unsupported(sasl.span, "auth: sasl", "`auth: {digest: …}`");
    }
    let Some(value) = auth.get("digest") else {
        if auth.all().next().is_none() {
            reader.fault(fields.get("auth")?.span, "`auth` is empty", allowed(keys::AUTH, None));
        }
        return None;
    };
    let digest = reader.secret(&value)?;
    if reader.reads_secrets && digest.reveal().split_once(':').is_none_or(|(user, _)| user.is_empty()) {
        reader.fault(value.span, "this secret is not of the form `user:password`", None);
    }
    Some(digest)
}

fn redis(reader: &mut Reader<'_>, name: &str, fields: &Fields<'_>) -> Option<RedisStore> {
    mode(reader, fields, "topology", "standalone", &["standalone"], &[("sentinel", keys::TOPOLOGY)], &["cluster"]);
    mode(reader, fields, "source", "keyspace", &["keyspace"], &[], &["psync"]);
    refuse_tls(reader, fields);
    let username = fields.get("username").and_then(|value| {
        let text = reader.text(&value, "the name of a user")?;
        Some((value, text.text))
    });
    let password = fields.get("password").map(|value| (reader.secret(&value), value));
    let value = reader.required(fields, "url")?;
    let url = redis_url(reader, &value)?;
    if let (Some((place, _)), Some(_)) = (&username, &url.username) {
        reader.fault(place.span, "the user is given both here and in `url`", None);
    }
    if let (Some((_, place)), Some(_)) = (&password, &url.password) {
        reader.fault(place.span, "a password is given both here and in `url`", None);
    }
    let needs_password =
        username.as_ref().map(|(place, _)| place.span).or(url.username.is_some().then_some(value.span));
    if let (Some(span), None, None) = (needs_password, &password, &url.password) {
        reader.fault(
            span,
            "a user needs a password",
            "allowed: `password: {env: NAME}`, `password: {file: PATH}`".to_owned(),
        );
    }
    Some(RedisStore {
        name: name.to_owned(),
        host: url.host,
        port: url.port,
        database: url.database,
        username: username.map(|(_, name)| name).or(url.username),
        password: password.and_then(|(secret, _)| secret).or(url.password.map(Secret::new)),
    })
}

fn redis_url(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<RedisUrl> {
    if let Node::Sequence { span, .. } = value.node {
        reader.unsupported(*span, "a list of URLs", "one `redis://` URL");
        return None;
    }
    let text: Text<'_> = reader.text(value, "a text such as `redis://127.0.0.1:6379/0`")?;
    match address::redis_url(&text.text) {
        Ok(url) => Some(url),
        Err(UrlFault::Later(scheme)) => {
            reader.unsupported(text.scalar.span, scheme, "`redis://`");
            None
        }
        Err(UrlFault::Bad(reason)) => {
            let help = "allowed: `redis://[[user]:password@]host[:port][/database]`".to_owned();
            reader.fault(text.scalar.span, format!("this is not a Redis URL: {reason}"), help);
            None
        }
    }
}

/// A key with one supported mode and others of later versions, written as a word or as a mapping.
fn mode(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    key: &str,
    now: &str,
    words: &[&str],
    later_mappings: &[(&str, &[&str])],
    later_words: &[&str],
) {
    let Some(value) = fields.get(key) else { return };
    if let Node::Mapping { .. } = value.node
        && let [(later, keys)] = later_mappings
    {
        let Some(inner) = reader.fields(&value, keys) else { return };
        if let Some(settings) = inner.get(later) {
            check_keys(reader, &settings, if *later == "observer" { keys::OBSERVER } else { keys::SENTINEL });
            reader.unsupported(value.span, &format!("{key}: {later}"), &format!("`{key}: {now}`"));
        } else if inner.all().next().is_none() {
            reader.unexpected(&value, &format!("`{now}`"));
        }
        return;
    }
    let Some(text) = reader.text(&value, &format!("a word such as `{now}`")) else { return };
    if words.contains(&text.text.as_str()) {
        return;
    }
    // A mode with settings, given as a bare word, is the same request.
    let mut later = later_words.iter().chain(later_mappings.iter().map(|(name, _)| name));
    if later.any(|name| *name == text.text) {
        reader.unsupported(text.scalar.span, &format!("{key}: {}", text.text), &format!("`{key}: {now}`"));
        return;
    }
    let names: Vec<&str> =
        words.iter().chain(later_words).copied().chain(later_mappings.iter().map(|(name, _)| *name)).collect();
    let help = allowed(&names, Some(&text.text));
    reader.bad(&text, &format!("a value of `{}`", value.place), help);
}

/// Keys inside unsupported features are checked too, so that all problems are reported at once.
pub(super) fn check_keys<'n>(reader: &mut Reader<'_>, value: &Value<'n>, keys: &[&str]) -> Option<Fields<'n>> {
    match value.node {
        Node::Mapping { .. } => reader.fields(value, keys),
        _ => None,
    }
}

fn refuse_tls(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    if let Some(tls) = fields.get("tls") {
        check_keys(reader, &tls, keys::TLS);
        reader.unsupported(tls.span, "tls", "a connection without TLS");
    }
}
