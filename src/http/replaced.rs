//! The body of a request in which a command gives replaced values to the worker that owns the
//! stream: each as Avro bytes, after their length (`u32`, big-endian). Only the Unix socket accepts
//! it.

use crate::change::Change;
use crate::codec::{self, CodecError};

/// The largest body. A record holds at most two values of 1,000,000 bytes, and a command sends some
/// megabytes at a time.
pub(super) const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Makes the body.
///
/// # Errors
/// A change that does not fit the schema.
pub fn pack(changes: &[Change]) -> Result<Vec<u8>, CodecError> {
    let (mut body, mut one) = (Vec::new(), Vec::new());
    for change in changes {
        one.clear();
        codec::encode(change, &mut one)?;
        body.extend(u32::try_from(one.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(&one);
    }
    Ok(body)
}

/// Reads the body.
pub(super) fn unpack(body: &[u8]) -> Result<Vec<Change>, CodecError> {
    let cut = || CodecError::Malformed("the body is cut short".to_owned());
    let mut changes = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (one, after) = after.split_at_checked(length).ok_or_else(cut)?;
        changes.push(codec::decode(one)?);
        rest = after;
    }
    Ok(changes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use crate::change::{Conflict, Connector, Op, Pair, Source, ValueKind};

    #[test]
    fn what_is_packed_is_unpacked_and_a_cut_body_is_refused() {
        let conflict = Conflict {
            winner: "stream".to_owned(),
            loser: "cache".to_owned(),
            value: Some(vec![0xff, 0]),
            mzxid: None,
            version: None,
            rule: "replay".to_owned(),
            reason: "asked for".to_owned(),
        };
        let change = Change {
            op: Op::Marker,
            before: None,
            after: Some(b"v".to_vec()),
            source: Source::new(Connector::Keepstep, "stream", 1),
            ts_ms: 1,
            route: "r".to_owned(),
            value: ValueKind::String,
            pair: Pair { zookeeper: Some("/a".to_owned()), redis: Some(b"a".to_vec()) },
            base: None,
            collapsed: None,
            conflict: Some(conflict),
            gap: None,
            epoch: 0,
            loss: None,
        };
        let changes = vec![change.clone(), change];
        let body = pack(&changes).unwrap();
        assert_eq!(unpack(&body).unwrap(), changes);
        assert_eq!(unpack(&[]).unwrap(), []);
        assert!(unpack(body.get(..body.len() - 1).unwrap()).is_err());
    }
}
