//! Change <-> Avro bytes, and the JSON forms that commands print.
//!
//! ```text
//!   Change --encode--> C3 01 | fingerprint of the schema, 8 bytes | datum      (Avro single-object encoding)
//!   Change --encode_datum--> datum                        (whoever frames it: Confluent's wire format)
//!   bytes  --decode--> Change      by our own schema, and by that of the version before: straight from the bytes (datum.rs)
//!          --WriterSchema / Decoder--> Change      by another writer's schema: apache-avro, resolved, slow
//! ```
//!
//! The schema is `schemas/change.v1.avsc`, compiled in. It has the names and the order of [`crate::change`], so serde
//! carries a [`Change`] across without a line of mapping; tests compare every byte with what apache-avro writes.

mod datum;
pub mod json;
mod named;

use crate::change::Change;
use crate::env::Map;
use apache_avro::rabin::Rabin;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::{GenericSingleObjectReader, Schema};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// The Avro schema of a [`Change`], as `keepstep schema change` prints it.
pub const SCHEMA: &str = include_str!("../../schemas/change.v1.avsc");

/// The schema before `loss` was added behind its last field. Whatever was written by it is what [`SCHEMA`] gives without the
/// byte that says `null`, so it is read in the same way, as quickly, and without anybody having to name its schema.
const SCHEMA_BEFORE_LOSS: &str = include_str!("../../schemas/older/change.v1.before-loss.avsc");

/// Avro's mark of a single-object encoding, version 1 (Avro specification, "Single-object encoding specification").
const MARK: [u8; 2] = [0xC3, 0x01];

/// [`MARK`] and the fingerprint.
const HEADER_BYTES: usize = 10;

/// CRC-64-AVRO of a schema's canonical form, in the byte order of the wire.
pub type Fingerprint = [u8; 8];

/// What a change can fail to be encoded or decoded with. None of them goes away by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A schema that is not Avro, or that ours cannot read.
    #[error("the schema cannot be used: {0}")]
    Schema(String),
    /// The change does not fit the schema.
    #[error("the change cannot be encoded: {0}")]
    Encode(String),
    /// The bytes do not begin as a single object.
    #[error("these bytes are not an Avro single object: they begin with {0:02x?}")]
    NotSingleObject(Vec<u8>),
    /// Written with a schema that is not known here.
    #[error("it was written with an unknown schema, fingerprint {}", hex(.0))]
    UnknownSchema(Fingerprint),
    /// The bytes are not a datum of their schema.
    #[error("the bytes are not a change: {0}")]
    Malformed(String),
    /// The datum is followed by something else.
    #[error("{0} bytes follow the change")]
    Trailing(usize),
}

/// The fingerprint as 16 hexadecimal digits, bytes in the order of the wire.
#[must_use]
pub fn hex(fingerprint: &Fingerprint) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The compiled-in schema with what is derived from it once.
struct Own {
    schema: &'static Schema,
    fingerprint: Fingerprint,
    /// Of [`SCHEMA_BEFORE_LOSS`].
    before_loss: Fingerprint,
    header: [u8; HEADER_BYTES],
}

static OWN_SCHEMA: LazyLock<Result<Schema, CodecError>> =
    LazyLock::new(|| Schema::parse_str(SCHEMA).map_err(|e| CodecError::Schema(e.to_string())));

static OWN: LazyLock<Result<Own, CodecError>> = LazyLock::new(|| {
    let schema = OWN_SCHEMA.as_ref().map_err(Clone::clone)?;
    let fingerprint = fingerprint(schema)?;
    let mut header = [0; HEADER_BYTES];
    for (to, from) in header.iter_mut().zip(MARK.iter().chain(&fingerprint)) {
        *to = *from;
    }
    let before_loss = Schema::parse_str(SCHEMA_BEFORE_LOSS).map_err(|e| CodecError::Schema(e.to_string()))?;
    let before_loss = self::fingerprint(&before_loss)?;
    Ok(Own { schema, fingerprint, before_loss, header })
});

fn own() -> Result<&'static Own, CodecError> {
    OWN.as_ref().map_err(Clone::clone)
}

fn fingerprint(schema: &Schema) -> Result<Fingerprint, CodecError> {
    Fingerprint::try_from(schema.fingerprint::<Rabin>().bytes.as_slice())
        .map_err(|_| CodecError::Schema("its fingerprint is not 8 bytes".to_owned()))
}

/// A reader of bare datums. It is the single-object reader with an empty header, because only that one owns its
/// schema and keeps the names in it resolved.
fn datum_reader(schema: Schema) -> Result<GenericSingleObjectReader, CodecError> {
    GenericSingleObjectReader::builder()
        .schema(schema)
        .header(Vec::new())
        .human_readable(false)
        .build()
        .map_err(|e| CodecError::Schema(e.to_string()))
}

/// The fingerprint of [`SCHEMA`].
///
/// # Errors
/// [`CodecError::Schema`] if the compiled-in schema is broken, which a test excludes.
pub fn own_fingerprint() -> Result<Fingerprint, CodecError> {
    own().map(|own| own.fingerprint)
}

/// Appends the change as a single object to `out`: 10 bytes of header and the datum. On `Err`, `out` is as it was.
///
/// # Errors
/// [`CodecError::Encode`] if the change does not fit the schema; no change that this program can build does not.
pub fn encode(change: &Change, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let before = out.len();
    out.extend_from_slice(&own()?.header);
    encode_datum(change, out).inspect_err(|_| out.truncate(before))
}

/// Appends the bare datum to `out`, for a frame of another kind. On `Err`, `out` is as it was.
///
/// # Errors
/// As [`encode`].
pub fn encode_datum(change: &Change, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let before = out.len();
    change.serialize(&mut datum::Writer { out: &mut *out }).map_err(|error| {
        out.truncate(before);
        CodecError::Encode(error.to_string())
    })
}

/// The change in a single object that was written with [`SCHEMA`], or by the version before it. For objects of other writers see [`Decoder`].
///
/// # Errors
/// Every [`CodecError`] but `Encode`; never a change that differs from what was encoded.
pub fn decode(bytes: &[u8]) -> Result<Change, CodecError> {
    let (fingerprint, datum) = split(bytes)?;
    match own()? {
        own if fingerprint == own.fingerprint => decode_datum(datum),
        own if fingerprint == own.before_loss => decode_before_loss(datum),
        _ => Err(CodecError::UnknownSchema(fingerprint)),
    }
}

/// The change in a bare datum that was written with [`SCHEMA_BEFORE_LOSS`].
fn decode_before_loss(datum: &[u8]) -> Result<Change, CodecError> {
    let mut whole = Vec::with_capacity(datum.len() + 1);
    whole.extend_from_slice(datum);
    whole.push(0);
    decode_datum(&whole)
}

/// The change in a bare datum that was written with [`SCHEMA`].
///
/// # Errors
/// [`CodecError::Malformed`], [`CodecError::Trailing`].
pub fn decode_datum(datum: &[u8]) -> Result<Change, CodecError> {
    let mut reader = datum::Reader { rest: datum };
    let change = Change::deserialize(&mut reader).map_err(|e| CodecError::Malformed(e.to_string()))?;
    nothing_left(reader.rest)?;
    Ok(change)
}

fn nothing_left(rest: &[u8]) -> Result<(), CodecError> {
    if rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(rest.len())) }
}

/// The fingerprint and the datum of a single object.
fn split(bytes: &[u8]) -> Result<(Fingerprint, &[u8]), CodecError> {
    let parts = bytes.strip_prefix(&MARK).and_then(|rest| rest.split_first_chunk::<8>());
    parts
        .map(|(fingerprint, datum)| (*fingerprint, datum))
        .ok_or_else(|| CodecError::NotSingleObject(bytes.iter().take(MARK.len()).copied().collect()))
}

/// The schema of a writer that may not be this program: an older or newer Keepstep, or whatever a schema registry
/// names. Its datums are read by Avro's rules of schema resolution.
pub struct WriterSchema {
    fingerprint: Fingerprint,
    way: Way,
}

/// How the datums of a schema are read.
enum Way {
    /// It is [`SCHEMA`].
    Own,
    /// It is [`SCHEMA_BEFORE_LOSS`].
    BeforeLoss,
    /// By Avro's rules.
    Resolved(Box<GenericSingleObjectReader>),
}

impl WriterSchema {
    /// From an Avro schema in JSON.
    ///
    /// # Errors
    /// [`CodecError::Schema`] if it is not a schema, or one whose datums cannot be resolved to [`SCHEMA`].
    pub fn parse(json: &str) -> Result<WriterSchema, CodecError> {
        let schema = Schema::parse_str(json).map_err(|e| CodecError::Schema(e.to_string()))?;
        let own = own()?;
        let fingerprint = fingerprint(&schema)?;
        if fingerprint == own.fingerprint {
            return Ok(WriterSchema { fingerprint, way: Way::Own });
        }
        if fingerprint == own.before_loss {
            return Ok(WriterSchema { fingerprint, way: Way::BeforeLoss });
        }
        SchemaCompatibility::can_read(&schema, own.schema).map_err(|e| CodecError::Schema(e.to_string()))?;
        Ok(WriterSchema { fingerprint, way: Way::Resolved(Box::new(datum_reader(schema)?)) })
    }

    /// CRC-64-AVRO of its canonical form.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The change in a bare datum of this schema.
    ///
    /// # Errors
    /// [`CodecError::Malformed`], also for an operation that a newer writer has and we have not;
    /// [`CodecError::Trailing`].
    pub fn decode_datum(&self, mut datum: &[u8]) -> Result<Change, CodecError> {
        let reader = match &self.way {
            Way::Own => return decode_datum(datum),
            Way::BeforeLoss => return decode_before_loss(datum),
            Way::Resolved(reader) => reader,
        };
        // Not `read_deser`: it has no schema resolution yet, and cannot skip an enum (apache-avro 0.22).
        let malformed = |e: apache_avro::Error| CodecError::Malformed(e.to_string());
        let schema = own()?.schema;
        let value = reader.read_value(&mut datum).and_then(|value| value.resolve(schema)).map_err(malformed)?;
        nothing_left(datum)?;
        apache_avro::from_value(&value).map_err(malformed)
    }
}

/// Decodes single objects of every schema that it was told of; it knows [`SCHEMA`] and the one before from the start.
#[derive(Default)]
pub struct Decoder {
    others: Map<Fingerprint, WriterSchema>,
}

impl Decoder {
    /// Takes up a writer's schema.
    pub fn learn(&mut self, schema: WriterSchema) {
        self.others.insert(schema.fingerprint(), schema);
    }

    /// The change in a single object.
    ///
    /// # Errors
    /// As [`decode`]; [`CodecError::UnknownSchema`] only for a schema that was not [learned](Decoder::learn).
    pub fn decode(&self, bytes: &[u8]) -> Result<Change, CodecError> {
        let (fingerprint, datum) = split(bytes)?;
        match self.others.get(&fingerprint) {
            Some(schema) => schema.decode_datum(datum),
            None => decode(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
