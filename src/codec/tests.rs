//! Tests of the Avro form: its bytes, that others can read it, and that it can evolve.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use crate::change::{Agreed, Conflict, Connector, Gap, GapState, Loss, Op, Pair, Source, ValueKind};
use apache_avro::from_value;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;

fn example() -> Change {
    let mut source = Source::new(Connector::Zookeeper, "zk", 1_000);
    source.path = Some("/s/a".to_owned());
    source.czxid = Some(1);
    source.mzxid = Some(2);
    source.version = Some(3);
    Change {
        op: Op::Update,
        before: None,
        after: Some(b"v2".to_vec()),
        source,
        ts_ms: 1_001,
        route: "s".to_owned(),
        value: ValueKind::String,
        pair: Pair { zookeeper: Some("/s/a".to_owned()), redis: Some(b"s:a".to_vec()) },
        base: Some(Agreed { czxid: Some(1), mzxid: Some(1), version: Some(2), digest: None, sequence: 9 }),
        collapsed: Some(0),
        conflict: None,
        gap: None,
        epoch: 5,
        loss: None,
    }
}

fn encoded(change: &Change) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(change, &mut bytes).unwrap();
    bytes
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A change of any shape.
fn any_change() -> impl Strategy<Value = Change> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let word = || proptest::option::of(".{0,12}");
    let long = any::<Option<i64>>;
    let int = any::<Option<i32>>;
    let op = prop_oneof![Just(Op::Read), Just(Op::Create), Just(Op::Update), Just(Op::Delete), Just(Op::Marker)];
    let connector = prop_oneof![Just(Connector::Zookeeper), Just(Connector::Redis), Just(Connector::Keepstep)];
    let value = prop_oneof![
        Just(ValueKind::String),
        Just(ValueKind::Hash),
        Just(ValueKind::List),
        Just(ValueKind::Set),
        Just(ValueKind::Zset),
        Just(ValueKind::Children),
        Just(ValueKind::Config)
    ];
    let zookeeper = (word(), long(), long(), long(), int(), int(), int(), long());
    let redis = (long(), bytes(), word(), long(), word(), long(), word(), long());
    let source = (connector, ".{0,8}", any::<i64>(), zookeeper, redis).prop_map(
        |(connector, store, ts_ms, (path, czxid, mzxid, pzxid, version, cversion, aversion, owner), redis)| {
            let (database, key, kind, expiry, event, revision, replication_id, replication_offset) = redis;
            let ephemeral_owner = owner;
            Source {
                connector,
                store,
                ts_ms,
                path,
                czxid,
                mzxid,
                pzxid,
                version,
                cversion,
                aversion,
                ephemeral_owner,
                database,
                key,
                kind,
                expiry,
                event,
                revision,
                replication_id,
                replication_offset,
            }
        },
    );
    let base = (long(), long(), int(), word(), any::<i64>())
        .prop_map(|(czxid, mzxid, version, digest, sequence)| Agreed { czxid, mzxid, version, digest, sequence });
    let conflict = (".{0,8}", ".{0,8}", bytes(), long(), int(), ".{0,8}", ".{0,8}").prop_map(
        |(winner, loser, value, mzxid, version, rule, reason)| Conflict {
            winner,
            loser,
            value,
            mzxid,
            version,
            rule,
            reason,
        },
    );
    let state = prop_oneof![Just(GapState::Opened), Just(GapState::Closed)];
    let gap = (state, ".{0,8}", long(), long(), ".{0,8}").prop_map(|(state, store, from, to, reason)| Gap {
        state,
        store,
        from,
        to,
        reason,
    });
    let loss = (".{0,8}", ".{0,8}", any::<i64>()).prop_map(|(store, cause, pairs)| Loss { store, cause, pairs });
    let option = proptest::option::of::<proptest::strategy::BoxedStrategy<_>>;
    let rest = (
        option(base.boxed()),
        long(),
        proptest::option::of(conflict),
        proptest::option::of(gap),
        any::<i64>(),
        proptest::option::of(loss),
    );
    let names = (word(), bytes()).prop_map(|(zookeeper, redis)| Pair { zookeeper, redis });
    (op, bytes(), bytes(), source, any::<i64>(), ".{0,8}", value, names, rest).prop_map(
        |(op, before, after, source, ts_ms, route, value, pair, (base, collapsed, conflict, gap, epoch, loss))| {
            Change { op, before, after, source, ts_ms, route, value, pair, base, collapsed, conflict, gap, epoch, loss }
        },
    )
}

/// What the version before `loss` wrote; read back by another implementation as well (Python's fastavro 1.13), fingerprint included.
const BEFORE_LOSS: &str = "c301\
    9c42a0a87e5e9c14\
    0400020476320004\
    7a6bd00f02082f732f610202020400020600000000000000000000\
    00d20f02730002082f732f610206733a61020202020202040012020000000a";

#[test]
fn the_bytes_of_a_change_are_the_ones_that_were_published() {
    let golden = BEFORE_LOSS.replace("9c42a0a87e5e9c14", "46dfaf4116a3fe32") + "00";
    assert_eq!(text(&encoded(&example())), golden);
    assert_eq!(hex(&own_fingerprint().unwrap()), golden.get(4..20).unwrap());
}

#[test]
fn what_the_version_before_wrote_is_read_without_its_schema() {
    let bytes: Vec<u8> = (0..BEFORE_LOSS.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(BEFORE_LOSS.get(at..at + 2).unwrap(), 16).unwrap())
        .collect();
    assert_eq!(decode(&bytes), Ok(example()));
    assert_eq!(Decoder::default().decode(&bytes), Ok(example()));
    let schema = WriterSchema::parse(SCHEMA_BEFORE_LOSS).unwrap();
    assert_eq!(schema.decode_datum(bytes.get(HEADER_BYTES..).unwrap()), Ok(example()));
    assert_eq!(
        decode(bytes.get(..bytes.len() - 1).unwrap()),
        Err(CodecError::Malformed("it ends within a number".to_owned()))
    );
    assert_eq!(decode(&[bytes.as_slice(), &[0]].concat()), Err(CodecError::Trailing(1)));
}

proptest! {
    #[test]
    fn the_pair_of_a_change_is_told_without_its_values(change in any_change()) {
        let bytes = encoded(&change);
        let Pair { zookeeper, redis } = &change.pair;
        let pair = crate::change::KeyedHash::of_pair(zookeeper.as_deref(), redis.as_deref());
        prop_assert_eq!(Decoder::default().pair_of(&bytes), Ok(pair));
    }

    #[test]
    fn every_change_reads_back_as_it_was(change in any_change()) {
        prop_assert_eq!(decode(&encoded(&change)), Ok(change));
    }

    #[test]
    fn any_reader_of_avro_sees_the_same_fields(change in any_change()) {
        let bytes = encoded(&change);
        let schema = Schema::parse_str(SCHEMA).unwrap();
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        let mut datum = bytes.get(HEADER_BYTES..).unwrap();
        let value = reader.read_value(&mut datum).unwrap();
        prop_assert!(datum.is_empty());
        prop_assert!(value.validate(&schema));
        prop_assert_eq!(&from_value::<Change>(&value).unwrap(), &change);
        // And others write what we write: from the generic value, and from the struct by the schema.
        let by_schema = GenericDatumWriter::builder(&schema).human_readable(false).build().unwrap();
        let by_schema = by_schema.write_ser_to_vec(&change).unwrap();
        prop_assert_eq!(by_schema.as_slice(), bytes.get(HEADER_BYTES..).unwrap());
        let again = GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap();
        prop_assert_eq!(again.as_slice(), bytes.get(HEADER_BYTES..).unwrap());
    }

    #[test]
    fn bytes_that_are_no_change_are_refused_and_nothing_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200,
    ) {
        let _ = decode(&bytes);
        let mut framed = encoded(&example());
        framed.truncate(HEADER_BYTES);
        framed.append(&mut bytes);
        let _ = decode(&framed);
        let whole = encoded(&example());
        if cut < whole.len() {
            prop_assert!(decode(whole.get(..cut).unwrap()).is_err());
        }
    }
}

#[test]
fn the_schema_names_every_field_as_the_struct_does() {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    fn check(record: &serde_json::Value, rust: &serde_json::Value) {
        let fields = record.get("fields").and_then(|f| f.as_array()).unwrap();
        let names: Vec<&str> = fields.iter().filter_map(|f| f.get("name").and_then(|n| n.as_str())).collect();
        let own: Vec<&str> = rust.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, own);
        for field in fields {
            assert!(field.get("doc").is_some(), "{field} has no doc");
            let kind = field.get("type").unwrap();
            let record = kind.as_array().and_then(|variants| variants.get(1)).unwrap_or(kind);
            let nullable = kind.is_array();
            assert_eq!(nullable, field.get("default").is_some_and(serde_json::Value::is_null), "{field}");
            if record.get("fields").is_some() {
                let name = field.get("name").and_then(|n| n.as_str()).unwrap();
                check(record, rust.get(name).unwrap());
            }
        }
    }
    let mut change = example();
    change.conflict = Some(Conflict {
        winner: String::new(),
        loser: String::new(),
        value: None,
        mzxid: None,
        version: None,
        rule: String::new(),
        reason: String::new(),
    });
    change.gap =
        Some(Gap { state: GapState::Opened, store: String::new(), from: None, to: None, reason: String::new() });
    change.loss = Some(Loss { store: String::new(), cause: String::new(), pairs: 0 });
    check(&schema, &serde_json::to_value(&change).unwrap());
}

/// The schema with one of its records' fields changed by `edit`.
fn edited(edit: impl FnOnce(&mut Vec<serde_json::Value>)) -> String {
    let mut schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    edit(schema.get_mut("fields").and_then(|f| f.as_array_mut()).unwrap());
    schema.to_string()
}

/// The example as a writer with another schema writes it: fields that it adds are in `more`.
fn written_by(schema: &str, more: &[(&str, Value)]) -> Vec<u8> {
    let own = Schema::parse_str(SCHEMA).unwrap();
    let bytes = encoded(&example());
    let reader = GenericDatumReader::builder(&own).build().unwrap();
    let Value::Record(fields) = reader.read_value(&mut bytes.get(HEADER_BYTES..).unwrap()).unwrap() else {
        unreachable!("a change is a record")
    };
    let theirs = Schema::parse_str(schema).unwrap();
    let Schema::Record(record) = &theirs else { unreachable!("a change is a record") };
    let fields = record.fields.iter().map(|field| {
        let known = fields.iter().find(|(name, _)| *name == field.name).map(|(_, value)| value);
        let added = more.iter().find(|(name, _)| *name == field.name).map(|(_, value)| value);
        (field.name.clone(), added.or(known).unwrap().clone())
    });
    let value = Value::Record(fields.collect());
    let mut out = MARK.to_vec();
    out.extend(theirs.fingerprint::<Rabin>().bytes);
    out.extend(GenericDatumWriter::builder(&theirs).build().unwrap().write_value_to_vec(value).unwrap());
    out
}

#[test]
fn a_newer_writers_fields_are_skipped() {
    let newer = edited(|fields| {
        fields.insert(
            3,
            serde_json::json!({"name": "colour", "type":
            {"type": "enum", "name": "Colour", "symbols": ["red", "blue"]}, "default": "red"}),
        );
        fields.push(serde_json::json!({"name": "tags", "type": {"type": "map", "values": "long"}, "default": {}}));
    });
    let more = [("colour", Value::Enum(1, "blue".to_owned())), ("tags", Value::Map(std::collections::HashMap::new()))];
    let bytes = written_by(&newer, &more);
    let mut decoder = Decoder::default();
    let fingerprint = *bytes.get(2..).unwrap().first_chunk::<8>().unwrap();
    assert_eq!(decoder.decode(&bytes), Err(CodecError::UnknownSchema(fingerprint)));
    decoder.learn(WriterSchema::parse(&newer).unwrap());
    assert_eq!(decoder.decode(&bytes), Ok(example()));
    assert_eq!(decoder.decode(&encoded(&example())), Ok(example()));
}

#[test]
fn an_older_writers_missing_fields_take_their_defaults() {
    let older = edited(|fields| {
        fields.retain(|f| !["epoch", "gap", "collapsed", "base"].contains(&f.get("name").unwrap().as_str().unwrap()));
    });
    let schema = WriterSchema::parse(&older).unwrap();
    let bytes = written_by(&older, &[]);
    let expected = Change { epoch: 0, gap: None, collapsed: None, base: None, ..example() };
    assert_eq!(schema.decode_datum(bytes.get(HEADER_BYTES..).unwrap()), Ok(expected));
}

#[test]
fn an_operation_that_is_not_known_is_an_error_and_not_another_operation() {
    let newer = edited(|fields| {
        let op = fields.first_mut().and_then(|f| f.get_mut("type")).and_then(|t| t.get_mut("symbols")).unwrap();
        op.as_array_mut().unwrap().push(serde_json::json!("x"));
    });
    let bytes = written_by(&newer, &[("op", Value::Enum(5, "x".to_owned()))]);
    let known = written_by(&newer, &[]);
    let schema = WriterSchema::parse(&newer).unwrap();
    assert_eq!(schema.decode_datum(known.get(HEADER_BYTES..).unwrap()), Ok(example()));
    assert!(matches!(schema.decode_datum(bytes.get(HEADER_BYTES..).unwrap()), Err(CodecError::Malformed(_))));
}

#[test]
fn a_schema_that_is_no_change_is_refused() {
    assert!(matches!(WriterSchema::parse("\"string\""), Err(CodecError::Schema(_))));
    assert!(matches!(WriterSchema::parse("{"), Err(CodecError::Schema(_))));
}

#[test]
fn a_change_followed_by_something_else_is_refused() {
    let mut bytes = encoded(&example());
    bytes.push(0);
    assert_eq!(decode(&bytes), Err(CodecError::Trailing(1)));
    assert_eq!(decode(b"{}"), Err(CodecError::NotSingleObject(b"{}".to_vec())));
}
