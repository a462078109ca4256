//! A change as bytes: an Avro single object, or the wire format of a schema registry.
//!
//! ```text
//!   without a registry   C3 01 | fingerprint, 8 bytes | datum
//!   with one             00 | id of the schema, 4 bytes | datum
//! ```
//!
//! Both are read wherever they can be: a registry may have been added later, or taken away.

use super::registry::{Registry, RegistryError};
use crate::change::Change;
use crate::codec::{self, Decoder, WriterSchema};
use crate::env::Map;
use std::sync::{Arc, Mutex, PoisonError};

/// First byte of the registry's wire format.
const MAGIC: u8 = 0;

/// Why bytes are no change.
#[derive(Debug)]
pub(super) enum WireError {
    /// They never will be.
    Damaged(String),
    /// The registry that knows their schema does not answer.
    Away(String),
}

/// How changes are written and read.
pub(super) struct Wire {
    decoder: Decoder,
    registry: Option<Registered>,
}

struct Registered {
    registry: Registry,
    /// Of our own schema; `None` in an opening for reading, which registers nothing.
    own: Option<u32>,
    known: Mutex<Map<u32, Arc<WriterSchema>>>,
}

impl Wire {
    /// Single objects.
    pub fn single_object() -> Wire {
        Wire { decoder: Decoder::default(), registry: None }
    }

    /// The registry's format; `own` is the id under which it knows our schema.
    pub fn registered(registry: Registry, own: Option<u32>) -> Wire {
        let registered = Registered { registry, own, known: Mutex::default() };
        Wire { decoder: Decoder::default(), registry: Some(registered) }
    }

    pub fn encode(&self, change: &Change) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(256 + change.after.as_ref().map_or(0, Vec::len));
        let encoded = match self.registry.as_ref().and_then(|registered| registered.own) {
            None => codec::encode(change, &mut bytes),
            Some(id) => {
                bytes.push(MAGIC);
                bytes.extend_from_slice(&id.to_be_bytes());
                codec::encode_datum(change, &mut bytes)
            }
        };
        encoded.map(|()| bytes).map_err(|error| error.to_string())
    }

    /// Reads a change. May ask the registry, once a schema: never on a thread that runs tasks.
    pub fn decode(&self, bytes: &[u8]) -> Result<Change, WireError> {
        let damaged = |error: codec::CodecError| WireError::Damaged(error.to_string());
        let Some((MAGIC, rest)) = bytes.split_first().map(|(first, rest)| (*first, rest)) else {
            return self.decoder.decode(bytes).map_err(damaged);
        };
        let Some((id, datum)) = rest.split_first_chunk::<4>() else {
            return Err(WireError::Damaged(format!("{} bytes are too few", bytes.len())));
        };
        let id = u32::from_be_bytes(*id);
        let Some(registered) = &self.registry else {
            let why = format!("it names schema {id} of a schema registry; set `stream.kafka.schema_registry`");
            return Err(WireError::Damaged(why));
        };
        if registered.own == Some(id) {
            return codec::decode_datum(datum).map_err(damaged);
        }
        registered.schema(id)?.decode_datum(datum).map_err(damaged)
    }
}

impl Registered {
    fn schema(&self, id: u32) -> Result<Arc<WriterSchema>, WireError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = known().get(&id) {
            return Ok(Arc::clone(schema));
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return Err(WireError::Away(format!("schema {id} is not known")));
        };
        let json = runtime.block_on(self.registry.schema(id)).map_err(|error| match error {
            RegistryError::Away(why) => WireError::Away(why),
            RegistryError::Refused(why) => WireError::Damaged(why),
        })?;
        let schema = WriterSchema::parse(&json).map_err(|error| WireError::Damaged(error.to_string()))?;
        Ok(Arc::clone(known().entry(id).or_insert_with(|| Arc::new(schema))))
    }
}
