//! The bytes of the calls of scripts, computed before they are sent, and calls in parts: a server closes the connection where an argument
//! is longer than its `proto-max-bulk-len`, or a request or its answer longer than a buffer may be.
//!
//! What is read counts by the larger of its request and its answer; how large the answer is, only the server knows ([`super::edit::lengths`]).

use super::calls::digest_above;
use super::{KEYS_PER_CALL, Shared, edit};
use crate::plan::Base;
use crate::store::request::{Fault, RequestLimit, in_parts, read_in_parts, split};
use crate::store::{
    JournalEntry, KeyEdit, KeyOutcome, KeyReading, KeyState, KeyWrite, NAME_BYTES_MAX, StoreError, VALUE_BYTES_MAX,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicI64, Ordering};

/// Bytes of one call that reads or writes several keys: the server is held while it reads and hashes them.
pub(super) const TOGETHER_BYTES: usize = 512 * 1024;

/// Bytes of a call: the default of `proto-max-bulk-len`, which holds for each argument. What is sent stays far below: a value of a
/// megabyte, and a message with two such values in which each byte is written by six letters.
pub(super) const CALL_BYTES_MAX: usize = 512 << 20;

/// What to raise where a call is too large.
pub(super) const SETTINGS: &str = "proto-max-bulk-len, client-query-buffer-limit or client-output-buffer-limit";

/// What to raise where an answer is too large.
const ANSWER_SETTING: &str = "client-output-buffer-limit";

/// What an argument takes besides its bytes, at most: `$`, its length in ten digits, twice CR LF.
const ARGUMENT: usize = 15;

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
    observed(write.key.len(), bucket)
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
fn or_too_long(key: &[u8], bytes: usize) -> usize {
    if key.len() > NAME_BYTES_MAX { usize::MAX } else { bytes }
}

/// Of what is told of a value with so many bytes.
fn answered(length: usize, values: bool) -> usize {
    match length {
        _ if length > VALUE_BYTES_MAX => NUMBER,
        _ if length > digest_above(values) => DIGEST,
        _ => length,
    }
}

impl Shared {
    fn why(&self, limit: &RequestLimit, key: &[u8], bytes: usize) -> String {
        if key.len() > NAME_BYTES_MAX {
            let length = key.len();
            return format!(
                "{}: the key's name has {length} bytes, and at most {NAME_BYTES_MAX} are mirrored",
                self.place()
            );
        }
        format!("{}: {}", self.place(), limit.why(bytes, SETTINGS))
    }

    /// Sends a list by so many calls as it takes.
    async fn in_calls<'a, T: Sync, R: Send>(
        &self,
        items: &'a [T],
        size: impl Fn(&T) -> usize + Send + Sync + Copy,
        ask: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<R>, Fault>> + Send + Sync + Copy,
        too_large: impl Fn(&T, usize) -> R + Send + Sync + Copy,
    ) -> Result<Vec<R>, StoreError> {
        let limit = &self.settings.server.limit;
        let bytes = |part: &[T]| part.iter().map(size).fold(CALL, usize::saturating_add);
        let calls = split(items, KEYS_PER_CALL, limit.together(), size);
        let calls = calls.into_iter().map(|call| in_parts(limit, call, bytes, ask, too_large));
        Ok(futures::future::try_join_all(calls).await?.into_iter().flatten().collect())
    }

    /// Reads keys by so many calls as it takes. `size`: the bytes of one in a call.
    async fn read_in_calls<'a, R: Send>(
        &'a self,
        keys: &'a [&'a [u8]],
        values: bool,
        size: impl Fn(&&'a [u8]) -> usize + Send + Sync + Copy,
        ask: impl Fn(&'a [&'a [u8]]) -> BoxFuture<'a, Result<Vec<R>, Fault>> + Send + Sync + Copy,
        unasked: impl Fn(String) -> R + Send + Sync + Copy,
    ) -> Result<Vec<R>, StoreError> {
        let reads = &self.settings.server.reads;
        let bytes = |part: &[&'a [u8]]| part.iter().map(size).fold(CALL, usize::saturating_add);
        let weigh = |part: &'a [&'a [u8]]| {
            async move {
                let lengths = edit::lengths(self, part).await?;
                Ok(lengths.into_iter().map(|length| answered(length, values)).collect())
            }
            .boxed()
        };
        let too_large = |key: &&'a [u8], most: usize| {
            let is_answer = most > bytes(&[key]);
            let why = || format!("{}: {}", self.place(), reads.why_answer(most, ANSWER_SETTING));
            unasked(if is_answer { why() } else { self.why(reads, key, most) })
        };
        let calls = split(keys, KEYS_PER_CALL, reads.together(), size);
        let calls = calls.into_iter().map(|call| read_in_parts(reads, call, bytes, weigh, ask, too_large));
        Ok(futures::future::try_join_all(calls).await?.into_iter().flatten().collect())
    }

    /// Keys and sidecars, and the server's time.
    pub(super) async fn observe_all(&self, keys: &[&[u8]], values: bool) -> Result<(Vec<KeyReading>, i64), StoreError> {
        let bucket = self.buckets.longest();
        let newest = AtomicI64::new(0);
        let newest = &newest;
        let readings = self.read_in_calls(
            keys,
            values,
            |key| or_too_long(key, observed(key.len(), bucket)),
            |keys| {
                async move {
                    let (readings, now_ms) = self.observe_chunk(keys, values).await?;
                    newest.fetch_max(now_ms, Ordering::Relaxed);
                    Ok(readings)
                }
                .boxed()
            },
            |why| KeyReading { state: KeyState::Unasked(why), entry: Vec::new(), nonce: 0, life: 0 },
        );
        let readings = readings.await?;
        Ok((readings, newest.load(Ordering::Relaxed)))
    }

    pub(super) async fn apply_all(&self, writes: &[KeyWrite<'_>]) -> Result<Vec<KeyOutcome>, StoreError> {
        let bucket = self.buckets.longest();
        self.in_calls(
            writes,
            |write| written(write, bucket),
            |writes| self.apply_chunk(writes).boxed(),
            |write, bytes| KeyOutcome::Impossible("too_large", self.why(&self.settings.server.limit, write.key, bytes)),
        )
        .await
    }

    pub(super) async fn look_all(&self, keys: &[&[u8]], values: bool) -> Result<Vec<KeyState>, StoreError> {
        self.read_in_calls(
            keys,
            values,
            |key| or_too_long(key, ARGUMENT + key.len()),
            |keys| edit::look_chunk(self, keys, values).boxed(),
            KeyState::Unasked,
        )
        .await
    }

    pub(super) async fn edit_all(&self, edits: &[KeyEdit<'_>]) -> Result<Vec<KeyOutcome>, StoreError> {
        self.in_calls(
            edits,
            edited,
            |edits| edit::edit_chunk(self, edits).boxed(),
            |edit, bytes| KeyOutcome::Impossible("too_large", self.why(&self.settings.server.limit, edit.key, bytes)),
        )
        .await
    }
}
