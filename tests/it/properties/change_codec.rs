//! A change as bytes: it reads back, also from a writer with more fields or with fewer, and bytes that are no change are refused.

use super::draw::Draw;
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use keepstep::change::{Agreed, Change, Conflict, Connector, Gap, GapState, Loss, Op, Pair, Source, ValueKind};
use keepstep::codec::{self, WriterSchema};
use std::sync::LazyLock;

/// The mark of a single object and a fingerprint.
const HEADER_BYTES: usize = 10;
/// What an older writer may not have known.
const LATER: [&str; 5] = ["loss", "epoch", "gap", "collapsed", "base"];

/// Another writer's schema: for Avro, and as Keepstep reads it.
struct Other {
    avro: Schema,
    own: WriterSchema,
}

fn other(edit: impl FnOnce(&mut Vec<serde_json::Value>)) -> Other {
    let mut schema: serde_json::Value = serde_json::from_str(codec::SCHEMA).expect("the schema is JSON");
    edit(schema["fields"].as_array_mut().expect("a record has fields"));
    let text = schema.to_string();
    Other {
        avro: Schema::parse_str(&text).expect("still a schema"),
        own: WriterSchema::parse(&text).expect("still one"),
    }
}

static OWN: LazyLock<Schema> = LazyLock::new(|| Schema::parse_str(codec::SCHEMA).expect("our own schema"));
static OLDER: LazyLock<Other> = LazyLock::new(|| {
    other(|fields| fields.retain(|field| !LATER.contains(&field["name"].as_str().expect("a field has a name"))))
});
static NEWER: LazyLock<Other> = LazyLock::new(|| {
    other(|fields| {
        fields.insert(2, serde_json::json!({"name": "later", "type": ["null", "long"], "default": null}));
        fields.push(serde_json::json!({"name": "tags", "type": {"type": "map", "values": "long"}, "default": {}}));
    })
});

pub fn check(data: &[u8]) {
    // As bytes: refused, or a change that is written as it was read.
    if let Ok(change) = codec::decode(data) {
        assert_eq!(codec::decode(&encoded(&change)), Ok(change));
    }
    let _ = codec::decode_datum(data);
    let _ = OLDER.own.decode_datum(data);
    let _ = NEWER.own.decode_datum(data);
    // As choices: a change.
    let change = change(&mut Draw(data));
    let bytes = encoded(&change);
    assert_eq!(codec::decode(&bytes).as_ref(), Ok(&change));
    assert_eq!(NEWER.own.decode_datum(&written_by(&NEWER, &bytes)).as_ref(), Ok(&change), "by a newer writer");
    let known = Change { loss: None, epoch: 0, gap: None, collapsed: None, base: None, ..change };
    assert_eq!(OLDER.own.decode_datum(&written_by(&OLDER, &bytes)), Ok(known), "by an older writer");
    // Cut short it is no change.
    let cut = usize::from(*data.first().unwrap_or(&0)) % bytes.len();
    assert!(codec::decode(&bytes[..cut]).is_err(), "cut at {cut} of {}", bytes.len());
}

fn encoded(change: &Change) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(change, &mut bytes).expect("a change can be written");
    bytes
}

/// What a writer with that schema writes for the same change.
fn written_by(other: &Other, ours: &[u8]) -> Vec<u8> {
    let reader = GenericDatumReader::builder(&OWN).build().expect("a reader");
    let Ok(Value::Record(fields)) = reader.read_value(&mut &ours[HEADER_BYTES..]) else {
        panic!("any reader reads it")
    };
    let Schema::Record(record) = &other.avro else { panic!("a change is a record") };
    let value = record.fields.iter().map(|field| {
        let known = fields.iter().find(|(name, _)| *name == field.name).map(|(_, value)| value.clone());
        let value = known.unwrap_or_else(|| match field.name.as_str() {
            "later" => Value::Union(1, Box::new(Value::Long(7))),
            _ => Value::Map([("a".to_owned(), Value::Long(1))].into()),
        });
        (field.name.clone(), value)
    });
    let writer = GenericDatumWriter::builder(&other.avro).build().expect("a writer");
    writer.write_value_to_vec(Value::Record(value.collect())).expect("it fits the schema")
}

fn change(draw: &mut Draw<'_>) -> Change {
    let connector = draw.one_of(&[Connector::Zookeeper, Connector::Redis, Connector::Keepstep]);
    let store = draw.text();
    let mut source = Source::new(connector, &store, draw.long());
    source.path = draw.maybe(Draw::text);
    source.czxid = draw.maybe(Draw::long);
    source.mzxid = draw.maybe(Draw::long);
    source.version = draw.maybe(|draw| draw.long() as i32);
    source.key = draw.maybe(Draw::bytes);
    source.event = draw.maybe(Draw::text);
    Change {
        op: draw.one_of(&[Op::Read, Op::Create, Op::Update, Op::Delete, Op::Marker]),
        before: draw.maybe(Draw::bytes),
        after: draw.maybe(Draw::bytes),
        source,
        ts_ms: draw.long(),
        route: draw.text(),
        value: draw.one_of(&[ValueKind::String, ValueKind::Hash, ValueKind::List, ValueKind::Set, ValueKind::Zset]),
        pair: Pair { zookeeper: draw.maybe(Draw::text), redis: draw.maybe(Draw::bytes) },
        base: draw.maybe(|draw| Agreed {
            czxid: draw.maybe(Draw::long),
            mzxid: draw.maybe(Draw::long),
            version: draw.maybe(|draw| draw.long() as i32),
            digest: None,
            sequence: draw.long(),
        }),
        collapsed: draw.maybe(Draw::long),
        conflict: draw.maybe(|draw| Conflict {
            winner: draw.text(),
            loser: draw.text(),
            value: draw.maybe(Draw::bytes),
            mzxid: draw.maybe(Draw::long),
            version: draw.maybe(|draw| draw.long() as i32),
            rule: draw.text(),
            reason: draw.text(),
        }),
        gap: draw.maybe(|draw| Gap {
            state: draw.one_of(&[GapState::Opened, GapState::Closed]),
            store: draw.text(),
            from: draw.maybe(Draw::long),
            to: draw.maybe(Draw::long),
            reason: draw.text(),
        }),
        epoch: draw.long(),
        loss: draw.maybe(|draw| Loss { store: draw.text(), cause: draw.text(), pairs: draw.long() }),
    }
}
