//! Calls to Redis: the sink connection, the scripts in chunks, and what their answers mean.

use super::connections::Commands;
use super::database::Database;
use super::fault::{is_denied, is_full, remedy, remedy_in_script};
use super::line::{RedisError, Value};
use super::reply::{bytes, integer};
use super::script::{self, Script};
use super::size::{ANSWER_BYTES, digest_above};
use super::state;
use crate::change::{Digest, brief};
use crate::env::lock;
use crate::failpoint::crash_in_flight;
use crate::plan::Base;
use crate::plan::guard::{self, Late};
use crate::store::remedy::Remedy;
use crate::store::request::Fault;
use crate::store::{
    KeyOp, KeyOutcome, KeyReading, KeyState, KeyWrite, Milestone, StoreError, VALUE_BYTES_MAX, one_for_one,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of what stands before each reading in the answer of `OBSERVE`.
const HEAD_BYTES: usize = 21;

/// Above every epoch that a bucket can have: the largest integer that Lua's numbers hold exactly.
const EPOCH_MAX: u64 = 1 << 53;

/// What stands before each reading in the answer of `OBSERVE`.
struct Head {
    code: u8,
    expires: i64,
    /// Of value, sidecar and nonce.
    lengths: [usize; 3],
}

impl Head {
    fn parse(head: [u8; HEAD_BYTES]) -> Head {
        let [code, e0, e1, e2, e3, e4, e5, e6, e7, v0, v1, v2, v3, s0, s1, s2, s3, n0, n1, n2, n3] = head;
        let length = |bytes: [u8; 4]| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
        Head {
            code,
            expires: i64::from_be_bytes([e0, e1, e2, e3, e4, e5, e6, e7]),
            lengths: [length([v0, v1, v2, v3]), length([s0, s1, s2, s3]), length([n0, n1, n2, n3])],
        }
    }
}

impl Database {
    pub(super) async fn observe_chunk(&self, keys: &[&[u8]], values: bool) -> Result<(Vec<KeyReading>, i64), Fault> {
        let nonce = self.nonce();
        let mut command = script::OBSERVE.command(keys.len() * 2);
        for key in keys {
            command.arg(*key).arg(self.buckets.of(key));
        }
        if self.settings.sidecars {
            command.arg(self.epoch.load(Ordering::Relaxed)).arg(nonce);
        } else {
            // What only reads is fenced by nobody, and leaves nothing: there may be buckets of an
            // earlier pipeline of this name.
            command.arg(EPOCH_MAX).arg("");
        }
        command.arg(ANSWER_BYTES).arg(digest_above(values));
        command.arg(VALUE_BYTES_MAX);
        let connection = self.connection().await?;
        // A connection does not outlive the server's incarnation, so this is the incarnation of what is read.
        let incarnation = lock(&self.lineage).incarnation;
        match self.script_on(connection, &script::OBSERVE, &command).await? {
            Ok(value) => {
                let (mut readings, now_ms) = self.readings(value, keys.len(), incarnation)?;
                for (reading, key) in readings.iter_mut().zip(keys) {
                    if let KeyState::Denied(why) = &reading.state {
                        reading.state = self.denied(key, why);
                    }
                }
                Ok((readings, now_ms))
            }
            Err(error) if is_denied(&error) && keys.len() > 1 => {
                let mut readings = Vec::with_capacity(keys.len());
                let mut now_ms = 0;
                for key in keys {
                    let (one, now) = Box::pin(self.observe_chunk(&[*key], values)).await?;
                    readings.extend(one);
                    now_ms = now;
                }
                Ok((readings, now_ms))
            }
            Err(error) if is_denied(&error) => {
                let state = self.denied(keys.first().copied().unwrap_or_default(), &error.to_string());
                Ok((vec![KeyReading { state, entry: Vec::new(), nonce: 0, incarnation }], 0))
            }
            Err(error) => Err(self.explain(&error).into()),
        }
    }

    /// A key that this user may not read, with a sentence that names the store.
    pub(super) fn denied(&self, key: &[u8], why: &str) -> KeyState {
        let (place, user) = (self.place(), self.target.user());
        let key = brief::name(key);
        KeyState::Denied(format!(
            "{place}: user `{user}` may not read the key `{key}` (STRLEN, GET, TYPE, PEXPIRETIME): {why}"
        ))
    }

    pub(super) fn readings(
        &self,
        value: Value,
        count: usize,
        incarnation: u64,
    ) -> Result<(Vec<KeyReading>, i64), StoreError> {
        let odd = |what: String| self.unexpected(&what);
        let Value::Array(items) = value else { return Err(odd(format!("{value:?}"))) };
        let mut items = items.into_iter();
        let now_ms = integer(items.next()) * 1000 + integer(items.next()) / 1000;
        let packed = bytes(items.next());
        self.connections.reads.passed(packed.len());
        let mut rest = packed.as_slice();
        let mut readings = Vec::with_capacity(count);
        while let Some((head, parts)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let Head { code, expires, lengths: [value, entry, nonce] } = Head::parse(*head);
            let cut = parts.split_at_checked(value).and_then(|(value, rest)| {
                let (entry, rest) = rest.split_at_checked(entry)?;
                let (nonce, rest) = rest.split_at_checked(nonce)?;
                Some((value, entry, nonce, rest))
            });
            let Some((value, entry, nonce, after)) = cut else { return Err(odd("less than it announced".to_owned())) };
            rest = after;
            let expires_ms = (expires >= 0).then_some(expires);
            let text = || String::from_utf8_lossy(value).into_owned();
            let state = match code {
                0 => KeyState::Absent,
                1 => KeyState::Value { bytes: value.to_vec(), expires_ms },
                2 => match Digest::from_hex(value) {
                    Some(digest) => KeyState::Digest { digest, expires_ms },
                    None => KeyState::Later,
                },
                3 => KeyState::TooLarge(text().parse().unwrap_or(0)),
                4 => KeyState::WrongType(text()),
                6 => return Err(self.fenced()),
                7 => KeyState::Denied(text()),
                8 => KeyState::Obstructed(text()),
                _ => KeyState::Later,
            };
            let nonce = std::str::from_utf8(nonce).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            readings.push(KeyReading { state, entry: entry.to_vec(), nonce, incarnation });
        }
        if readings.len() != count || !rest.is_empty() {
            return Err(odd(format!("{} readings of {count}", readings.len())));
        }
        Ok((readings, now_ms))
    }

    /// What becomes of each write; only notes that come in another incarnation of the data set than they
    /// were observed in are looked at, and of these those of which nothing shows that what was
    /// observed is in it.
    async fn late(&self, writes: &[KeyWrite<'_>], incarnation: u64) -> Result<Vec<Late>, Fault> {
        let in_another_incarnation =
            |write: &KeyWrite<'_>| guard::is_late(write.op, write.incarnation, incarnation, None, None);
        let found = if writes.iter().any(|write| write.milestone.is_some() && in_another_incarnation(write)) {
            self.milestone_in(incarnation).await?
        } else {
            None
        };
        let lacks = |write: &KeyWrite<'_>| write.milestone.is_some_and(|milestone| !milestone.is_in(found));
        if writes.iter().any(|write| in_another_incarnation(write) && lacks(write)) {
            // It was left in the data set before the write that is noted here, so this one is from
            // before that.
            lock(&self.lineage).older = true;
        }
        let is_late =
            |write: &&KeyWrite<'_>| guard::is_late(write.op, write.incarnation, incarnation, write.milestone, found);
        let keys: Vec<&[u8]> = writes.iter().filter(is_late).map(|write| write.key).collect();
        if keys.is_empty() {
            return Ok(vec![Late::AsItIs; writes.len()]);
        }
        let (readings, _) = self.observe_chunk(&keys, false).await?;
        if readings.iter().any(|reading| reading.incarnation != incarnation) {
            return Err(self.replaced().into());
        }
        let mut readings = readings.iter();
        let becomes = writes.iter().map(|write| {
            let reading = if is_late(&write) { readings.next() } else { None };
            reading.map_or(Late::AsItIs, |reading| late(reading, write.base.as_ref()))
        });
        Ok(becomes.collect())
    }

    /// The newest milestone that the data set of this incarnation has.
    async fn milestone_in(&self, incarnation: u64) -> Result<Option<Milestone>, StoreError> {
        let (found, found_in) = state::milestone(self).await?;
        if found_in == incarnation { Ok(found) } else { Err(self.replaced()) }
    }

    pub(super) async fn apply_chunk(&self, writes: &[KeyWrite<'_>]) -> Result<Vec<KeyOutcome>, Fault> {
        let connection = self.connection().await?;
        let incarnation = lock(&self.lineage).incarnation;
        let late = self.late(writes, incarnation).await?;
        if late.iter().all(|late| *late == Late::AsItIs) {
            return self.apply_or_free(connection, writes).await;
        }
        let notes = writes.iter().zip(&late).map(|(write, late)| {
            let base = late.note(Base::decode(&write.expect_entry), write.base, write.milestone)?;
            Some(KeyWrite { base, ..write.clone() })
        });
        let notes: Vec<Option<KeyWrite<'_>>> = notes.collect();
        let rest: Vec<KeyWrite<'_>> = notes.iter().flatten().cloned().collect();
        let done = if rest.is_empty() { Vec::new() } else { self.apply_or_free(connection, &rest).await? };
        let mut done = done.into_iter();
        let outcomes = late.into_iter().zip(notes).filter_map(|(late, note)| {
            let outcome = if note.is_some() { done.next()? } else { KeyOutcome::Refused };
            // What was to be noted is not.
            let is_refused = late == Late::TakenBack && outcome == KeyOutcome::Done;
            Some(if is_refused { KeyOutcome::Refused } else { outcome })
        });
        Ok(outcomes.collect())
    }

    /// Applies; where the server is at its memory limit, only what frees memory.
    async fn apply_or_free(
        &self,
        connection: Arc<Commands>,
        writes: &[KeyWrite<'_>],
    ) -> Result<Vec<KeyOutcome>, Fault> {
        let why = match self.apply_on(Arc::clone(&connection), &script::APPLY, writes).await? {
            Applied::Each(outcomes) => return Ok(outcomes),
            Applied::Full(why) => why,
        };
        let frees = |write: &KeyWrite<'_>| match write.op {
            KeyOp::Delete => true,
            KeyOp::Note => write.base.is_none(),
            KeyOp::Set => false,
        };
        let freeing: Vec<KeyWrite<'_>> = writes.iter().filter(|write| frees(write)).cloned().collect();
        let freed = match freeing.as_slice() {
            [] => Applied::Each(Vec::new()),
            freeing => self.apply_on(connection, &script::APPLY_FREEING, freeing).await?,
        };
        Ok(freed.among(writes.iter().map(frees), &why))
    }

    async fn apply_on(
        &self,
        connection: Arc<Commands>,
        script: &Script,
        writes: &[KeyWrite<'_>],
    ) -> Result<Applied, Fault> {
        let nonce = self.nonce();
        self.has_written.store(true, Ordering::Relaxed);
        let mut command = script.command(writes.len() * 2);
        for write in writes {
            let bucket = self.buckets.of(write.key);
            match write.op {
                KeyOp::Set | KeyOp::Delete => command.arg(write.key).arg(bucket),
                KeyOp::Note => command.arg(&bucket).arg(&bucket),
            };
        }
        command.arg(self.epoch.load(Ordering::Relaxed)).arg(nonce).arg(VALUE_BYTES_MAX);
        for write in writes {
            command.arg(match write.op {
                KeyOp::Set => "s",
                KeyOp::Delete => "d",
                KeyOp::Note => "n",
            });
            command.arg(write.expect.map(|digest| digest.hex()).unwrap_or_default()).arg(write.expect_entry.as_slice());
            match write.expect_nonce {
                0 => command.arg(""),
                nonce => command.arg(nonce),
            };
            command.arg(if write.op == KeyOp::Note { write.key } else { write.value });
            command.arg(write.base.map(|base| base.encode()).unwrap_or_default());
            match &write.publish {
                Some((channel, message)) => command.arg(*channel).arg(message.as_str()),
                None => command.arg("").arg(""),
            };
        }
        let answer = crash_in_flight!("c6-sent-to-redis", self.script_on(connection, script, &command))?;
        match self.outcomes(writes.len(), answer)? {
            Some(Applied::Each(outcomes)) => {
                let outcomes = writes.iter().zip(outcomes).map(|(write, outcome)| match outcome {
                    // Nothing of the user's is in it: our own keys are refused, and every pair waits for the right to them.
                    KeyOutcome::Impossible("no_permission", why) if write.op == KeyOp::Note => KeyOutcome::NotNow(why),
                    outcome => outcome,
                });
                Ok(Applied::Each(outcomes.collect()))
            }
            Some(full) => Ok(full),
            None => {
                let mut outcomes = Vec::with_capacity(writes.len());
                for write in writes {
                    outcomes.extend(Box::pin(self.apply_chunk(std::slice::from_ref(write))).await?);
                }
                Ok(Applied::Each(outcomes))
            }
        }
    }

    /// What the answer of `APPLY` or `EDIT` means for its writes; `None`: one of them is forbidden,
    /// and only one by one it shows which.
    pub(super) fn outcomes(&self, count: usize, answer: Result<Value, RedisError>) -> Result<Option<Applied>, Fault> {
        let error = match answer {
            Ok(Value::Array(codes)) => {
                let codes = one_for_one(&self.place(), count, codes)?;
                let outcomes = codes.into_iter().map(|code| self.outcome(code)).collect::<Result<_, _>>()?;
                return Ok(Some(Applied::Each(outcomes)));
            }
            Ok(other) => return Err(self.unexpected(&format!("{other:?}")).into()),
            Err(error) => error,
        };
        let text = || format!("{}: {error}", self.place());
        if is_denied(&error) {
            let denied = || KeyOutcome::Impossible("no_permission", text());
            return Ok((count <= 1).then(|| Applied::Each(vec![denied()])));
        }
        if is_full(&error) {
            return Ok(Some(Applied::Full(text())));
        }
        if remedy(&error) == Remedy::NotNow {
            return Ok(Some(Applied::Each(vec![KeyOutcome::NotNow(text()); count])));
        }
        Err(self.explain(&error).into())
    }

    pub(super) fn outcome(&self, code: Value) -> Result<KeyOutcome, StoreError> {
        let text = match code {
            Value::Int(1) => return Ok(KeyOutcome::Done),
            Value::Int(2) => {
                if !self.publish_refused.swap(true, Ordering::Relaxed) {
                    let place = self.place();
                    tracing::warn!(
                        "{place}: PUBLISH is refused, so changes are written and not published; allow the channel"
                    );
                }
                return Ok(KeyOutcome::Done);
            }
            Value::Int(0) => return Ok(KeyOutcome::Refused),
            Value::Int(6) => return Err(self.fenced()),
            other => String::from_utf8_lossy(&bytes(Some(other))).into_owned(),
        };
        if let Some(bucket) = text.strip_prefix("BUCKET ") {
            return Ok(KeyOutcome::Impossible("wrong_type", KeyState::obstructed_by(bucket)));
        }
        let (remedy, kind) = remedy_in_script(&text);
        Ok(match remedy {
            Remedy::Quarantine(reason @ "wrong_type") => {
                KeyOutcome::Impossible(reason, format!("{}: the key holds another type than a string", self.place()))
            }
            Remedy::Quarantine(reason) => KeyOutcome::Impossible(reason, format!("{}: {text}", self.place())),
            Remedy::NotNow => KeyOutcome::NotNow(format!("{}: {text}", self.place())),
            remedy => return Err(remedy.of_call(kind, format!("{}: {text}", self.place()))),
        })
    }
}

/// What came of a call that writes.
pub(super) enum Applied {
    /// One outcome for each write.
    Each(Vec<KeyOutcome>),
    /// Nothing was done: the server is at its memory limit. With the text of its error.
    Full(String),
}

impl Applied {
    /// The outcomes of a list of which only those that free memory were sent again, which this came
    /// of. `frees`: of each, whether it does.
    pub(super) fn among(self, frees: impl Iterator<Item = bool>, why: &str) -> Vec<KeyOutcome> {
        let full = || KeyOutcome::NotNow(why.to_owned());
        let mut freed = match self {
            Applied::Each(outcomes) => Some(outcomes.into_iter()),
            Applied::Full(_) => None,
        };
        let outcome = |frees| match freed.as_mut() {
            Some(freed) if frees => freed.next(),
            _ => Some(full()),
        };
        frees.filter_map(outcome).collect()
    }
}

/// [`guard::late`] for a key as read. Of one that cannot be read nothing is noted: where both sides
/// hold the same, that is found again.
pub(super) fn late(reading: &KeyReading, base: Option<&Base>) -> Late {
    let now = match &reading.state {
        KeyState::Absent => None,
        KeyState::Value { bytes, .. } => Some(Digest::of(bytes)),
        KeyState::Digest { digest, .. } => Some(*digest),
        KeyState::TooLarge(_)
        | KeyState::WrongType(_)
        | KeyState::Later
        | KeyState::Denied(_)
        | KeyState::Unasked(_)
        // Were the base noted and the key an older one, that would look like a change.
        | KeyState::Obstructed(_) => return Late::TakenBack,
    };
    guard::late(now, Base::decode(&reading.entry).as_ref(), base)
}
