//! The JSON Schema: it knows the keys that the parser knows, and the examples and every echo
//! conform to it.

use super::super::tree::{self, Node};
use super::super::*;
use super::{good, with_top};
use serde_json::{Value as Json, json};

fn schema() -> Json {
    serde_json::from_str(SCHEMA).unwrap()
}

#[test]
fn the_schema_has_exactly_the_keys_of_the_parser() {
    let schema = schema();
    for (place, keys) in [
        ("", keys::PIPELINE),
        ("/$defs/store", keys::STORE),
        ("/$defs/zookeeper", keys::ZOOKEEPER),
        ("/$defs/observer", keys::ZOOKEEPER_SOURCE),
        ("/$defs/observer/properties/observer", keys::OBSERVER),
        ("/$defs/auth", keys::AUTH),
        ("/$defs/sasl", keys::SASL),
        ("/$defs/redis", keys::REDIS),
        ("/$defs/topology", keys::TOPOLOGY),
        ("/$defs/topology/properties/sentinel", keys::SENTINEL),
        ("/$defs/secret", keys::SECRET),
        ("/$defs/tls", keys::TLS),
        ("/$defs/stream", keys::STREAM),
        ("/$defs/embedded", keys::EMBEDDED),
        ("/$defs/retention", keys::RETENTION),
        ("/$defs/kafka", keys::KAFKA),
        ("/$defs/kafka_retention", keys::KAFKA_RETENTION),
        ("/$defs/route", keys::ROUTE),
        ("/$defs/worker", keys::WORKER),
        ("/$defs/batch", keys::BATCH),
        ("/$defs/queue", keys::QUEUE),
        ("/$defs/limit", keys::LIMIT),
    ] {
        let object = schema.pointer(place).unwrap_or_else(|| panic!("no {place}"));
        let found: Vec<&str> =
            object.get("properties").unwrap().as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, keys, "{place}");
        assert_eq!(object.get("additionalProperties"), Some(&Json::Bool(false)), "{place}");
    }
}

#[test]
fn examples_and_echoes_conform_to_the_schema() {
    let schema = schema();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (root, faults) = tree::read(&text);
        assert!(faults.is_empty(), "{faults:?}");
        conform(&schema, &schema, &to_json(&root.unwrap()), &path.display().to_string()).unwrap();
        let pipeline = parse(&path, &text, &|_| None).unwrap();
        conform(&schema, &schema, &echo_json(&pipeline), "echo").unwrap();
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let schema = schema();
    let right = echo_json(&good(&with_top("")));
    for (pointer, wrong) in [
        ("/version", json!(2)),
        ("/pipeline", json!(["p"])),
        ("/stores/zk/zookeeper/source", json!("wach")),
        ("/stores/zk/zookeeper", json!({})),
        ("/stores/cache/redis", json!({ "url": "redis://a", "password": "inline" })),
        ("/routes", json!([])),
        ("/routes/0/acl", json!("opn")),
        ("/worker/batch", json!({ "chnges": 1 })),
        ("/worker/batch/changes", json!(-1)),
    ] {
        let mut file = right.clone();
        *file.pointer_mut(pointer).unwrap() = wrong;
        assert!(conform(&schema, &schema, &file, "").is_err(), "{pointer}");
    }
}

fn to_json(node: &Node) -> Json {
    match node {
        Node::Scalar(scalar) if scalar.is_null() => Json::Null,
        Node::Scalar(scalar) if scalar.plain => {
            serde_json::from_str(&scalar.text).unwrap_or_else(|_| json!(scalar.text))
        }
        Node::Scalar(scalar) => json!(scalar.text),
        Node::Sequence { items, .. } => items.iter().map(to_json).collect(),
        Node::Mapping { entries, .. } => {
            entries.iter().map(|entry| (entry.key.text.clone(), to_json(&entry.value))).collect()
        }
    }
}

/// As much of JSON Schema as ours uses, apart from most patterns; a word that is not known here
/// fails the test.
fn conform(root: &Json, schema: &Json, value: &Json, place: &str) -> Result<(), String> {
    let words = schema.as_object().ok_or("a schema is an object")?;
    let fields = value.as_object();
    let expect = |holds: bool, word: &str| if holds { Ok(()) } else { Err(format!("{place}: {word} {value}")) };
    let count = |wanted: &Json| usize::try_from(wanted.as_u64().unwrap()).unwrap();
    for (word, wanted) in words {
        match word.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "default" => {}
            // Of the patterns only that of a variable, without which anything could be one.
            "pattern" => {
                let variable = root.pointer("/$defs/variable/pattern") == Some(wanted);
                expect(!variable || value.as_str().is_none_or(|text| text.contains("${")), word)?;
            }
            "$ref" => {
                let target = root.pointer(wanted.as_str().unwrap().strip_prefix('#').unwrap()).ok_or("no such $ref")?;
                conform(root, target, value, place)?;
            }
            "const" => expect(value == wanted, word)?,
            "enum" => expect(wanted.as_array().unwrap().contains(value), word)?,
            "anyOf" => {
                let any = wanted.as_array().unwrap().iter().any(|one| conform(root, one, value, place).is_ok());
                expect(any, word)?;
            }
            "type" => {
                let is = |name: &Json| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("{other}"),
                };
                expect(wanted.as_array().map_or_else(|| is(wanted), |names| names.iter().any(is)), word)?;
            }
            "minimum" => expect(value.as_i64().is_none_or(|number| number >= wanted.as_i64().unwrap()), word)?,
            "minLength" => expect(value.as_str().is_none_or(|text| text.chars().count() >= count(wanted)), word)?,
            "minItems" => expect(value.as_array().is_none_or(|items| items.len() >= count(wanted)), word)?,
            "minProperties" => expect(fields.is_none_or(|fields| fields.len() >= count(wanted)), word)?,
            "maxProperties" => expect(fields.is_none_or(|fields| fields.len() <= count(wanted)), word)?,
            "required" => {
                let has = |name: &Json| fields.is_none_or(|fields| fields.contains_key(name.as_str().unwrap()));
                expect(wanted.as_array().unwrap().iter().all(has), word)?;
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    conform(root, wanted, item, place)?;
                }
            }
            "propertyNames" => {
                for name in fields.into_iter().flat_map(|fields| fields.keys()) {
                    conform(root, wanted, &json!(name), place)?;
                }
            }
            "properties" | "additionalProperties" => {
                let known = words.get("properties");
                for (name, field) in fields.into_iter().flatten() {
                    let own = known.and_then(|known| known.get(name));
                    let inner = format!("{place}.{name}");
                    match (word.as_str(), own) {
                        ("properties", Some(own)) => conform(root, own, field, &inner)?,
                        ("additionalProperties", None) if wanted.is_object() => conform(root, wanted, field, &inner)?,
                        ("additionalProperties", None) => expect(wanted == &Json::Bool(true), &inner)?,
                        _ => {}
                    }
                }
            }
            other => panic!("the schema says `{other}`, which this test does not know"),
        }
    }
    Ok(())
}
