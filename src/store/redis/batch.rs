//! Lists in as many calls as they take: a server closes the connection where an argument is longer
//! than its `proto-max-bulk-len`, or a request or its answer longer than a buffer may be.

use super::database::Database;
use super::size::KEYS_PER_CALL;
use super::{edit, size};
use crate::store::request::{Fault, RequestLimit, in_parts, read_in_parts, split};
use crate::store::{KeyEdit, KeyOutcome, KeyReading, KeyState, KeyWrite, NAME_BYTES_MAX, StoreError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicI64, Ordering};

impl Database {
    fn why(&self, limit: &RequestLimit, key: &[u8], bytes: usize) -> String {
        if key.len() > NAME_BYTES_MAX {
            let length = key.len();
            return format!(
                "{}: the key's name has {length} bytes, and at most {NAME_BYTES_MAX} are mirrored",
                self.place()
            );
        }
        format!("{}: {}", self.place(), limit.why(bytes, size::SETTINGS))
    }

    /// Sends a list by so many calls as it takes.
    async fn in_calls<'a, T: Sync, R: Send>(
        &self,
        items: &'a [T],
        weight: impl Fn(&T) -> usize + Send + Sync + Copy,
        ask: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<R>, Fault>> + Send + Sync + Copy,
        too_large: impl Fn(&T, usize) -> R + Send + Sync + Copy,
    ) -> Result<Vec<R>, StoreError> {
        let limit = &self.connections.limit;
        let bytes = |part: &[T]| part.iter().map(weight).fold(size::CALL, usize::saturating_add);
        let calls = split(items, KEYS_PER_CALL, limit.together(), weight);
        let calls = calls.into_iter().map(|call| in_parts(limit, call, bytes, ask, too_large));
        Ok(futures::future::try_join_all(calls).await?.into_iter().flatten().collect())
    }

    /// Reads keys by so many calls as it takes. `weight`: the bytes of one in a call.
    async fn read_in_calls<'a, R: Send>(
        &'a self,
        keys: &'a [&'a [u8]],
        values: bool,
        weight: impl Fn(&&'a [u8]) -> usize + Send + Sync + Copy,
        ask: impl Fn(&'a [&'a [u8]]) -> BoxFuture<'a, Result<Vec<R>, Fault>> + Send + Sync + Copy,
        unasked: impl Fn(String) -> R + Send + Sync + Copy,
    ) -> Result<Vec<R>, StoreError> {
        let reads = &self.connections.reads;
        let bytes = |part: &[&'a [u8]]| part.iter().map(weight).fold(size::CALL, usize::saturating_add);
        let weigh = |part: &'a [&'a [u8]]| {
            async move {
                let lengths = edit::lengths(self, part).await?;
                Ok(lengths.into_iter().map(|length| size::answered(length, values)).collect())
            }
            .boxed()
        };
        let too_large = |key: &&'a [u8], most: usize| {
            let is_answer = most > bytes(&[key]);
            let why = || format!("{}: {}", self.place(), reads.why_answer(most, size::ANSWER_SETTING));
            unasked(if is_answer { why() } else { self.why(reads, key, most) })
        };
        let calls = split(keys, KEYS_PER_CALL, reads.together(), weight);
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
            |key| size::or_too_long(key, size::observed(key.len(), bucket)),
            |keys| {
                async move {
                    let (readings, now_ms) = self.observe_chunk(keys, values).await?;
                    newest.fetch_max(now_ms, Ordering::Relaxed);
                    Ok(readings)
                }
                .boxed()
            },
            |why| KeyReading { state: KeyState::Unasked(why), entry: Vec::new(), nonce: 0, incarnation: 0 },
        );
        let readings = readings.await?;
        Ok((readings, newest.load(Ordering::Relaxed)))
    }

    pub(super) async fn apply_all(&self, writes: &[KeyWrite<'_>]) -> Result<Vec<KeyOutcome>, StoreError> {
        let bucket = self.buckets.longest();
        self.in_calls(
            writes,
            |write| size::written(write, bucket),
            |writes| self.apply_chunk(writes).boxed(),
            |write, bytes| KeyOutcome::Impossible("too_large", self.why(&self.connections.limit, write.key, bytes)),
        )
        .await
    }

    pub(super) async fn look_all(&self, keys: &[&[u8]], values: bool) -> Result<Vec<KeyState>, StoreError> {
        self.read_in_calls(
            keys,
            values,
            |key| size::or_too_long(key, size::ARGUMENT + key.len()),
            |keys| edit::look_chunk(self, keys, values).boxed(),
            KeyState::Unasked,
        )
        .await
    }

    pub(super) async fn edit_all(&self, edits: &[KeyEdit<'_>]) -> Result<Vec<KeyOutcome>, StoreError> {
        self.in_calls(
            edits,
            size::edited,
            |edits| edit::edit_chunk(self, edits).boxed(),
            |edit, bytes| KeyOutcome::Impossible("too_large", self.why(&self.connections.limit, edit.key, bytes)),
        )
        .await
    }
}
