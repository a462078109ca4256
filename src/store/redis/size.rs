//! The bytes of the calls of scripts and of their answers, computed before a call is sent.
//!
//! What is read counts by the larger of its request and its answer; how large the answer is, only
//! the server knows ([`super::edit::lengths`]).

use crate::plan::Base;
use crate::store::{JournalEntry, KeyEdit, KeyOp, KeyWrite, NAME_BYTES_MAX, VALUE_BYTES_MAX};

/// Keys in one script call: beyond some hundred nothing is gained and the server is busy longer
/// (`facts`: 50 to 200).
pub(super) const KEYS_PER_CALL: usize = 128;

/// Bytes of values in one answer of a script; the rest is asked for again. Bounds what a batch of
/// large values holds.
pub(super) const ANSWER_BYTES: usize = 1024 * 1024 + VALUE_BYTES_MAX;

/// In a comparison, values above this come as digests: the server's SHA-1 costs about what sending
/// them would.
const DIGEST_ABOVE: usize = 1024;

/// The bytes above which a value comes as its digest.
pub(super) fn digest_above(values: bool) -> usize {
    if values { VALUE_BYTES_MAX } else { DIGEST_ABOVE }
}

/// Bytes of one call that reads or writes several keys: the server does nothing else while it reads
/// and hashes them.
pub(super) const TOGETHER_BYTES: usize = 512 * 1024;

/// Bytes of a call: the default of `proto-max-bulk-len`, which holds for each argument. What is
/// sent stays far below: a value of a megabyte, and a message with two such values in which each
/// byte is written by six letters.
pub(super) const CALL_BYTES_MAX: usize = 512 << 20;

/// What to raise where a call is too large.
pub(super) const SETTINGS: &str = "proto-max-bulk-len, client-query-buffer-limit or client-output-buffer-limit";

/// What to raise where an answer is too large.
pub(super) const ANSWER_SETTING: &str = "client-output-buffer-limit";

/// What an argument takes besides its bytes, at most: `$`, its length in ten digits, twice CR LF.
pub(super) const ARGUMENT: usize = 15;

/// What a call has besides its members: name, digest, counts, and the arguments that hold for all.
pub(super) const CALL: usize = 256;

/// Hexadecimal digits of a digest, and decimal ones of a number.
const DIGEST: usize = 40;
const NUMBER: usize = 20;

pub(super) fn observed(key: usize, bucket: usize) -> usize {
    2 * ARGUMENT + key + bucket
}

pub(super) fn written(write: &KeyWrite<'_>, bucket: usize) -> usize {
    let (channel, message) = write.publish.as_ref().map_or((0, 0), |(channel, message)| (channel.len(), message.len()));
    // A note has its key among the arguments, and its bucket twice.
    observed(write.key.len(), bucket)
        + if write.op == KeyOp::Note { bucket } else { 0 }
        + 8 * ARGUMENT
        + (1 + DIGEST + write.expect_entry.len() + NUMBER + write.value.len() + Base::ENCODED_MAX + channel + message)
}

pub(super) fn edited(edit: &KeyEdit<'_>) -> usize {
    4 * ARGUMENT + edit.key.len() + 1 + DIGEST + edit.value.map_or(0, <[u8]>::len)
}

/// Of an entry of the journal whose sidecar is brought up to date.
pub(super) fn completed(entry: &JournalEntry, bucket: usize) -> usize {
    5 * ARGUMENT + bucket + entry.key.len() + 2 * NUMBER + Base::ENCODED_MAX
}

/// A key that is too long is not asked for: its call is larger than any.
pub(super) fn or_too_long(key: &[u8], bytes: usize) -> usize {
    if key.len() > NAME_BYTES_MAX { usize::MAX } else { bytes }
}

/// Bytes of the answer for a value with so many bytes.
pub(super) fn answered(length: usize, values: bool) -> usize {
    match length {
        _ if length > VALUE_BYTES_MAX => NUMBER,
        _ if length > digest_above(values) => DIGEST,
        _ => length,
    }
}
