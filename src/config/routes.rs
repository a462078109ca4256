//! `routes:` of a pipeline file: flow, patterns and policies of each route, checked against the
//! stores.

use super::keys;
use super::model::{Acl, Ephemeral, Flow, OnConflict, OnRemoval, Route};
use super::problem::allowed;
use super::reader::{Fields, Reader, Text, Value};
use super::stores::Stores;
use super::tree::quoted;
use crate::change::{Side, ValueKind};
use crate::route::{Pattern, PatternError, check_separator, same_wildcards};

/// The form of a pattern, for errors.
const WILDCARDS: &str =
    "allowed: `*` for exactly one segment, `**` as the last one for one or more, and literal segments";

/// Longest name of a Redis channel to publish on, in bytes.
const CHANNEL_BYTES_MAX: usize = 512;

/// Reads `routes:`.
pub(super) fn read(reader: &mut Reader<'_>, value: &Value<'_>, stores: &Stores) -> Vec<Route> {
    let Some(items) = reader.items(value, "a list of routes") else { return Vec::new() };
    if items.is_empty() {
        reader.fault(value.span, "`routes` is empty", "a pipeline needs at least one route".to_owned());
    }
    let mut names: Vec<String> = Vec::new();
    let mut routes: Vec<Route> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(route) = read_route(reader, item, stores, &mut names) else { continue };
        if let Some(first) = routes.first()
            && captured(first.flow) != captured(route.flow)
        {
            let message =
                format!("the flow of `{}` cannot be in one pipeline with that of `{}`", route.name, first.name);
            let help = "a pipeline joins two stores, or captures one of them: give this route a pipeline of its own";
            reader.fault(item.span, message, help.to_owned());
        }
        routes.push(route);
    }
    routes
}

/// The store that a flow captures; `None` if it joins two.
fn captured(flow: Flow) -> Option<Side> {
    match flow {
        Flow::Capture(side) => Some(side),
        Flow::Both(_) | Flow::From(_) => None,
    }
}

fn read_route(reader: &mut Reader<'_>, value: &Value<'_>, stores: &Stores, names: &mut Vec<String>) -> Option<Route> {
    let fields = reader.fields(value, keys::ROUTE)?;
    let name = read_name(reader, &fields, names);
    let flow = reader.required(&fields, "flow").and_then(|flow| read_flow(reader, &flow, stores));
    let separator = read_separator(reader, &fields);
    let patterns = read_match(reader, &fields, flow.as_ref(), stores, separator.as_deref());
    let exclude = read_exclude(reader, &fields, flow.as_ref(), stores, separator.as_deref());
    read_value_kind(reader, &fields);
    let on_conflict = read_on_conflict(reader, &fields, flow.as_ref(), stores);
    let removal = [("propagate", OnRemoval::Propagate), ("keep", OnRemoval::Keep)];
    let on_delete = reader.choice(&fields, "on_delete", &removal, OnRemoval::Propagate);
    let on_expire = reader.choice(&fields, "on_expire", &removal, OnRemoval::Propagate);
    let ephemeral = read_ephemeral(reader, &fields);
    let acls = [("parent", Acl::Parent), ("open", Acl::Open), ("creator", Acl::Creator)];
    let acl = reader.choice(&fields, "acl", &acls, Acl::Parent);
    let publish = fields.get("publish").and_then(|value| read_publish(reader, &value));
    let (on_conflict, on_conflict_text) = on_conflict?;
    let (match_zookeeper, match_redis) = patterns?;
    Some(Route {
        name: name?,
        flow: flow?.flow,
        match_zookeeper,
        match_redis,
        exclude_zookeeper: exclude.zookeeper,
        exclude_redis: exclude.redis,
        separator: separator?,
        value: ValueKind::String,
        on_conflict,
        on_conflict_text,
        on_delete,
        on_expire,
        ephemeral,
        acl,
        publish,
    })
}

fn read_name(reader: &mut Reader<'_>, fields: &Fields<'_>, names: &mut Vec<String>) -> Option<String> {
    let value = reader.required(fields, "name")?;
    let text = reader.text(&value, "the name of the route")?;
    if !super::is_name(&text.text) {
        reader.bad(&text, "a name of a route", super::NAME_FORM.to_owned());
        return None;
    }
    if names.contains(&text.text) {
        let message = format!("a second route is called {}", reader.source.quote(text.scalar));
        reader.fault(text.scalar.span, message, "every route of a pipeline needs a name of its own".to_owned());
    }
    names.push(text.text.clone());
    Some(text.text)
}

/// A flow and the names of its stores, in the order of the flow.
struct FlowOf {
    flow: Flow,
    first: String,
}

fn read_flow(reader: &mut Reader<'_>, value: &Value<'_>, stores: &Stores) -> Option<FlowOf> {
    let text = reader.text(value, "a flow such as `zk <-> cache`")?;
    let words: Vec<&str> = match text.text.split_once("<->") {
        Some((first, second)) => vec![first.trim(), "<->", second.trim()],
        None => match text.text.split_once("->") {
            Some((first, second)) => vec![first.trim(), "->", second.trim()],
            None => vec![text.text.trim()],
        },
    };
    let help = allowed(&possible_flows(stores), None);
    match words.as_slice() {
        [only] => {
            let side = side_of(reader, &text, only, stores, &help)?;
            Some(FlowOf { flow: Flow::Capture(side), first: (*only).to_owned() })
        }
        [first, arrow, second] => {
            let sides = (side_of(reader, &text, first, stores, &help), side_of(reader, &text, second, stores, &help));
            let (Some(from), Some(to)) = sides else { return None };
            if from == to {
                reader.bad(&text, "a flow: it joins the ZooKeeper store and the Redis store", help);
                return None;
            }
            let flow = if *arrow == "->" { Flow::From(from) } else { Flow::Both(from) };
            Some(FlowOf { flow, first: (*first).to_owned() })
        }
        _ => None,
    }
}

/// Every flow that the stores make possible.
fn possible_flows(stores: &Stores) -> Vec<String> {
    let name_of = |side| stores.names.iter().find(|(_, other)| *other == Some(side)).map(|(name, _)| name.as_str());
    match (name_of(Side::Zookeeper), name_of(Side::Redis)) {
        (Some(zk), Some(redis)) => vec![
            format!("{zk} -> {redis}"),
            format!("{redis} -> {zk}"),
            format!("{zk} <-> {redis}"),
            zk.to_owned(),
            redis.to_owned(),
        ],
        (Some(only), None) | (None, Some(only)) => vec![only.to_owned()],
        (None, None) => Vec::new(),
    }
}

fn side_of(reader: &mut Reader<'_>, text: &Text<'_>, name: &str, stores: &Stores, help: &str) -> Option<Side> {
    match stores.names.iter().find(|(declared, _)| declared == name) {
        // Without a side, its declaration is wrong and was reported there.
        Some((_, side)) => *side,
        None if stores.names.is_empty() => None,
        None => {
            let names: Vec<&str> = stores.names.iter().map(|(name, _)| name.as_str()).collect();
            let nearest = super::problem::nearest(name, &names).map(|name| format!("; did you mean `{name}`?"));
            let help = format!("{help}{}", nearest.unwrap_or_default());
            if name.is_empty() || name.contains(char::is_whitespace) || text.has_variables() {
                reader.bad(text, "a flow between declared stores", help);
            } else {
                let span = reader.source.find(text.scalar, name);
                reader.fault(span, format!("there is no store {}", quoted(name)), help);
            }
            None
        }
    }
}

fn read_separator(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<String> {
    let Some(value) = fields.get("separator") else { return Some(":".to_owned()) };
    let text = reader.text(&value, "a text such as `\":\"`")?;
    if let Err(error) = check_separator(&text.text) {
        let help = "allowed: 1 to 8 bytes without `/`, `*`, `%` and control characters".to_owned();
        reader.bad(&text, &format!("a separator: {error}"), help);
        return None;
    }
    Some(text.text)
}

/// Whether a route with this flow has names on that side.
fn involves(flow: Flow, side: Side) -> bool {
    !matches!(flow, Flow::Capture(only) if only != side)
}

/// The values of `match` or `exclude` by side. A key that is no store of the flow is a fault.
fn by_side<'n>(
    reader: &mut Reader<'_>,
    fields: &Fields<'n>,
    flow: Option<&FlowOf>,
    stores: &Stores,
) -> Vec<(Side, Value<'n>)> {
    let taken = |side: Option<Side>| side.is_none_or(|side| flow.is_none_or(|flow| involves(flow.flow, side)));
    let names: Vec<&str> =
        stores.names.iter().filter(|(_, side)| taken(*side)).map(|(name, _)| name.as_str()).collect();
    let mut values = Vec::new();
    for (key, value) in fields.all() {
        match stores.names.iter().find(|(name, _)| *name == key.text) {
            Some((_, Some(side))) if taken(Some(*side)) => values.push((*side, value)),
            Some((_, None)) => {}
            None if stores.names.is_empty() => {}
            Some(_) => {
                let message = format!("the flow of this route does not touch {}", quoted(&key.text));
                reader.fault(key.span, message, allowed(&names, None));
            }
            None => {
                let message = format!("there is no store {}", quoted(&key.text));
                reader.fault(key.span, message, allowed(&names, Some(&key.text)));
            }
        }
    }
    values
}

/// The patterns of both sides; `None` if one that the flow needs is missing or wrong.
fn read_match(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    flow: Option<&FlowOf>,
    stores: &Stores,
    separator: Option<&str>,
) -> Option<(Option<String>, Option<String>)> {
    let value = reader.required(fields, "match")?;
    let entries = reader.entries(&value, "a mapping from stores to patterns")?;
    let (mut zookeeper, mut redis) = (None, None);
    for (side, value) in by_side(reader, &entries, flow, stores) {
        let Some(text) = reader.text(&value, "a pattern") else { continue };
        let Some(pattern) = read_pattern(reader, side, &text, separator) else { continue };
        if let Err(error) = pattern.check_reserved(separator.unwrap_or(":")) {
            let help = "ZooKeeper's and Keepstep's own znodes and keys are never mapped".to_owned();
            reader.fault(text.scalar.span, error.to_string(), help);
        }
        match side {
            Side::Zookeeper => zookeeper = Some((text, pattern)),
            Side::Redis => redis = Some((text, pattern)),
        }
    }
    if let (Some((_, one)), Some((text, other))) = (&zookeeper, &redis)
        && !same_wildcards(one, other)
    {
        let message = format!("{}: {}", reader.source.quote(text.scalar), PatternError::Wildcards);
        reader.fault(text.scalar.span, message, WILDCARDS.to_owned());
    }
    let flow = flow?;
    for (name, side) in &stores.names {
        let Some(side) = *side else { continue };
        if involves(flow.flow, side) && entries.get(name).is_none() {
            reader.fault(value.span, format!("`match` has no pattern for `{name}`"), None);
        }
    }
    Some((zookeeper.map(|(text, _)| text.text), redis.map(|(text, _)| text.text)))
}

/// The patterns of both sides that a route excludes.
#[derive(Default)]
struct Exclude {
    zookeeper: Vec<String>,
    redis: Vec<String>,
}

fn read_exclude(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    flow: Option<&FlowOf>,
    stores: &Stores,
    separator: Option<&str>,
) -> Exclude {
    let mut exclude = Exclude::default();
    let Some(value) = fields.get("exclude") else { return exclude };
    if value.node.kind() == "nothing" {
        return exclude;
    }
    let Some(entries) = reader.entries(&value, "a mapping from stores to lists of patterns") else { return exclude };
    for (side, value) in by_side(reader, &entries, flow, stores) {
        for item in reader.items(&value, "a list of patterns").unwrap_or_default() {
            let Some(text) = reader.text(&item, "a pattern") else { continue };
            if read_pattern(reader, side, &text, separator).is_some() {
                match side {
                    Side::Zookeeper => exclude.zookeeper.push(text.text),
                    Side::Redis => exclude.redis.push(text.text),
                }
            }
        }
    }
    exclude
}

fn read_pattern(reader: &mut Reader<'_>, side: Side, text: &Text<'_>, separator: Option<&str>) -> Option<Pattern> {
    let pattern = match side {
        Side::Zookeeper => Pattern::of_znodes(&text.text),
        Side::Redis => Pattern::of_keys(&text.text, separator?),
    };
    let error = match pattern {
        Ok(pattern) => return Some(pattern),
        Err(error) => error,
    };
    let mut reason = error.to_string();
    if let PatternError::PartialWildcard(segment) | PatternError::IllegalName(segment) = &error
        && text.has_variables()
    {
        reason = reason.replace(&format!("`{segment}`"), "a segment of it");
    }
    let help = match (side, &error) {
        (Side::Redis, PatternError::PartialWildcard(_)) => {
            format!("{WILDCARDS}; the separator between segments is {}", quoted(separator.unwrap_or(":")))
        }
        _ => WILDCARDS.to_owned(),
    };
    reader.bad(text, &format!("a pattern: {reason}"), help);
    None
}

fn read_value_kind(reader: &mut Reader<'_>, fields: &Fields<'_>) {
    const LATER: [&str; 6] = ["hash", "list", "set", "zset", "children", "config"];
    let Some(value) = fields.get("value") else { return };
    let Some(text) = reader.text(&value, "a word such as `string`") else { return };
    if text.text == "string" {
        return;
    }
    if LATER.contains(&text.text.as_str()) {
        reader.unsupported(text.scalar.span, &format!("value: {}", text.text), "`value: string`");
        return;
    }
    let names: Vec<&str> = ["string"].into_iter().chain(LATER).collect();
    let help = allowed(&names, Some(&text.text));
    reader.bad(&text, &format!("a value of `{}`", value.place), help);
}

fn read_on_conflict(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    flow: Option<&FlowOf>,
    stores: &Stores,
) -> Option<(OnConflict, String)> {
    let Some(value) = fields.get("on_conflict") else {
        let FlowOf { flow: Flow::Both(side) | Flow::From(side) | Flow::Capture(side), first } = flow?;
        return Some((OnConflict::Prefer(*side), format!("prefer {first}")));
    };
    let text = reader.text(&value, "a rule such as `latest`")?;
    let words: Vec<&str> = text.text.split_whitespace().collect();
    let rule = match words.as_slice() {
        ["latest"] => OnConflict::Latest,
        ["higher_version"] => OnConflict::HigherVersion,
        ["quarantine"] => OnConflict::Quarantine,
        ["merge"] => {
            let instead = "`prefer <store>`, `latest`, `higher_version`, `quarantine`";
            reader.unsupported(text.scalar.span, "on_conflict: merge", instead);
            return None;
        }
        ["prefer", name] if stores.names.iter().any(|(declared, side)| declared == name && side.is_none()) => {
            return None;
        }
        ["prefer", name] => match stores.names.iter().find(|(declared, _)| declared == name) {
            Some((_, Some(side))) => OnConflict::Prefer(*side),
            _ => return bad_rule(reader, &text, stores),
        },
        _ => return bad_rule(reader, &text, stores),
    };
    Some((rule, words.join(" ")))
}

fn bad_rule(reader: &mut Reader<'_>, text: &Text<'_>, stores: &Stores) -> Option<(OnConflict, String)> {
    if stores.names.is_empty() && text.text.starts_with("prefer ") {
        return None;
    }
    let mut rules: Vec<String> = stores.names.iter().map(|(name, _)| format!("prefer {name}")).collect();
    rules.extend(["latest", "higher_version", "quarantine"].map(str::to_owned));
    // A store that is named by its kind is no typing error: the nearest name may be that of the
    // other store.
    let kind = match text.text.split_whitespace().nth(1) {
        Some("zookeeper") => Some(Side::Zookeeper),
        Some("redis") => Some(Side::Redis),
        _ => None,
    };
    let named = stores.names.iter().find(|(_, side)| kind.is_some() && *side == kind);
    let help = match named {
        Some((name, _)) => format!("{}; did you mean `prefer {name}`?", allowed(&rules, None)),
        None => allowed(&rules, Some(&text.text)),
    };
    reader.bad(text, "a rule for conflicts", help);
    None
}

fn read_ephemeral(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Ephemeral {
    let words = [("mirror", Some(Ephemeral::Mirror)), ("lease", None), ("skip", Some(Ephemeral::Skip))];
    let chosen = reader.choice(fields, "ephemeral", &words, Some(Ephemeral::Mirror));
    if let (None, Some(value)) = (chosen, fields.get("ephemeral")) {
        reader.unsupported(value.node.span(), "ephemeral: lease", "`mirror`, `skip`");
    }
    chosen.unwrap_or(Ephemeral::Mirror)
}

fn read_publish(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.text(value, "the name of a Redis channel")?;
    if text.text.is_empty() || text.text.len() > CHANNEL_BYTES_MAX {
        let help = format!("allowed: 1 to {CHANNEL_BYTES_MAX} bytes");
        reader.bad(&text, "a name of a channel", help);
        return None;
    }
    Some(text.text)
}
