//! Which pair a change is of, without its values: what a stream asks of every record when it is
//! opened, and when it lists its pairs.

use super::datum::Reader;
use super::{CodecError, Decoder, own, split};
use crate::change::{self, Connector, KeyedHash, Op, ValueKind};
use serde::Deserialize;

/// The fields of [`crate::change::Change`] up to its pair, borrowed. A test holds it to the schema.
#[derive(Deserialize)]
struct Beginning<'b> {
    _op: Op,
    #[serde(borrow)]
    _before: Option<&'b [u8]>,
    #[serde(borrow)]
    after: Option<&'b [u8]>,
    #[serde(borrow)]
    _source: Source<'b>,
    _ts_ms: i64,
    _route: &'b str,
    _value: ValueKind,
    #[serde(borrow)]
    pair: Pair<'b>,
}

#[derive(Deserialize)]
struct Source<'b> {
    _connector: Connector,
    _store: &'b str,
    _ts_ms: i64,
    #[serde(borrow)]
    _path: Option<&'b str>,
    _czxid: Option<i64>,
    _mzxid: Option<i64>,
    _pzxid: Option<i64>,
    _version: Option<i32>,
    _cversion: Option<i32>,
    _aversion: Option<i32>,
    _ephemeral_owner: Option<i64>,
    _database: Option<i64>,
    #[serde(borrow)]
    _key: Option<&'b [u8]>,
    #[serde(borrow)]
    _kind: Option<&'b str>,
    _expiry: Option<i64>,
    #[serde(borrow)]
    _event: Option<&'b str>,
    _revision: Option<i64>,
    #[serde(borrow)]
    _replication_id: Option<&'b str>,
    _replication_offset: Option<i64>,
}

#[derive(Deserialize)]
struct Pair<'b> {
    #[serde(borrow)]
    zookeeper: Option<&'b str>,
    #[serde(borrow)]
    redis: Option<&'b [u8]>,
}

impl Decoder {
    /// The hash of the pair that the change in a single object is of.
    ///
    /// # Errors
    /// As [`Decoder::decode`], though nothing behind the pair is looked at.
    pub fn pair_of(&self, bytes: &[u8]) -> Result<KeyedHash, CodecError> {
        let (fingerprint, datum) = split(bytes)?;
        if fingerprint != own()?.fingerprint {
            let pair = self.decode(bytes)?.pair;
            return Ok(KeyedHash::of_pair(pair.zookeeper.as_deref(), pair.redis.as_deref()));
        }
        let pair = beginning(datum)?.pair;
        Ok(KeyedHash::of_pair(pair.zookeeper, pair.redis))
    }

    /// The pair that the change in a single object is of, unless the change is a delete.
    ///
    /// # Errors
    /// As [`Decoder::decode`], though nothing behind the pair is looked at.
    pub fn pair_if_exists(&self, bytes: &[u8]) -> Result<Option<change::Pair>, CodecError> {
        let (fingerprint, datum) = split(bytes)?;
        if fingerprint != own()?.fingerprint {
            let change = self.decode(bytes)?;
            return Ok(change.after.is_some().then_some(change.pair));
        }
        let Beginning { after, pair, .. } = beginning(datum)?;
        let Pair { zookeeper, redis } = pair;
        let named = || change::Pair { zookeeper: zookeeper.map(str::to_owned), redis: redis.map(<[u8]>::to_vec) };
        Ok(after.map(|_| named()))
    }
}

fn beginning(datum: &[u8]) -> Result<Beginning<'_>, CodecError> {
    Beginning::deserialize(&mut Reader { rest: datum }).map_err(|error| CodecError::Malformed(error.to_string()))
}
