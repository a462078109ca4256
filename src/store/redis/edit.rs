//! Keys as a command beside a worker sees and changes them: no sidecar, no epoch, only the value and its digest.

use super::Shared;
use super::calls::{ANSWER_BYTES, Applied, digest_above};
use super::fault::{explain, is_denied, is_full, remedy};
use super::script::Script;
use crate::change::Digest;
use crate::store::remedy::Remedy;
use crate::store::request::Fault;
use crate::store::{KeyEdit, KeyOutcome, KeyState, StoreError, VALUE_BYTES_MAX, one_for_one};
use redis::Value;

/// One call of [`crate::store::Keyspace::look`].
pub(super) async fn look_chunk(shared: &Shared, keys: &[&[u8]], values: bool) -> Result<Vec<KeyState>, Fault> {
    look_below(shared, keys, digest_above(values), VALUE_BYTES_MAX).await
}

/// The bytes of each value that is a string, without the values.
pub(super) async fn lengths(shared: &Shared, keys: &[&[u8]]) -> Result<Vec<usize>, Fault> {
    let states = look_below(shared, keys, 0, 0).await?;
    let length = |state| match state {
        KeyState::TooLarge(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        _ => 0,
    };
    Ok(states.into_iter().map(length).collect())
}

async fn look_below(
    shared: &Shared,
    keys: &[&[u8]],
    digest_above: usize,
    large_above: usize,
) -> Result<Vec<KeyState>, Fault> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(&shared.look.sha).arg(keys.len()).arg(keys);
    command.arg(ANSWER_BYTES).arg(digest_above).arg(large_above);
    match shared.script(&shared.look, &command).await? {
        Ok(Value::BulkString(packed)) => {
            shared.settings.server.reads.passed(packed.len());
            let mut rest = packed.as_slice();
            let mut states = Vec::with_capacity(keys.len());
            while let Some(([code, length @ ..], parts)) = rest.split_first_chunk::<5>() {
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                let Some((value, after)) = parts.split_at_checked(length) else { break };
                states.push(state(*code, value));
                rest = after;
            }
            // What is missing would be asked for again and again.
            Ok(one_for_one(&shared.place(), keys.len(), states)?)
        }
        Ok(other) => Err(StoreError::Away(format!("{}: a script answered {other:?}", shared.place())).into()),
        Err(error) if is_denied(&error) && keys.len() > 1 => {
            let mut states = Vec::with_capacity(keys.len());
            for key in keys {
                states.extend(Box::pin(look_below(shared, &[*key], digest_above, large_above)).await?);
            }
            Ok(states)
        }
        Err(error) if is_denied(&error) => {
            Ok(vec![shared.denied(keys.first().copied().unwrap_or_default(), &error.to_string())])
        }
        Err(error) => Err(explain(&shared.settings, &error).into()),
    }
}

fn state(code: u8, value: &[u8]) -> KeyState {
    let text = || String::from_utf8_lossy(value).into_owned();
    match code {
        0 => KeyState::Absent,
        1 => KeyState::Value { bytes: value.to_vec(), expires_ms: None },
        2 => match Digest::from_hex(value) {
            Some(digest) => KeyState::Digest { digest, expires_ms: None },
            None => KeyState::Later,
        },
        3 => KeyState::TooLarge(text().parse().unwrap_or(0)),
        4 => KeyState::WrongType(text()),
        7 => KeyState::Denied(text()),
        _ => KeyState::Later,
    }
}

/// One call of [`crate::store::Keyspace::edit`].
pub(super) async fn edit_chunk(shared: &Shared, edits: &[KeyEdit<'_>]) -> Result<Vec<KeyOutcome>, Fault> {
    let full = match edit_by(shared, &shared.edit, edits).await? {
        Applied::Each(outcomes) => return Ok(outcomes),
        Applied::Full(why) => KeyOutcome::NotNow(why),
    };
    // At its memory limit the server takes what frees memory.
    let deletes: Vec<KeyEdit<'_>> = edits.iter().filter(|edit| edit.value.is_none()).cloned().collect();
    let deleted = if deletes.is_empty() {
        Vec::new()
    } else {
        match edit_by(shared, &shared.edit_freeing, &deletes).await? {
            Applied::Each(outcomes) => outcomes,
            Applied::Full(_) => vec![full.clone(); deletes.len()],
        }
    };
    let mut deleted = deleted.into_iter();
    let outcome = |edit: &KeyEdit<'_>| if edit.value.is_none() { deleted.next() } else { Some(full.clone()) };
    Ok(edits.iter().filter_map(outcome).collect())
}

async fn edit_by(shared: &Shared, script: &Script, edits: &[KeyEdit<'_>]) -> Result<Applied, Fault> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(&script.sha).arg(edits.len());
    for edit in edits {
        command.arg(edit.key);
    }
    command.arg(VALUE_BYTES_MAX);
    for edit in edits {
        command.arg(if edit.value.is_some() { "s" } else { "d" });
        command.arg(edit.expect.map(|digest| digest.hex()).unwrap_or_default());
        command.arg(edit.value.unwrap_or_default());
    }
    match shared.script(script, &command).await? {
        Ok(Value::Array(codes)) => {
            let codes = one_for_one(&shared.place(), edits.len(), codes)?;
            let outcomes = codes.into_iter().map(|code| shared.outcome(code)).collect::<Result<_, _>>()?;
            Ok(Applied::Each(outcomes))
        }
        Ok(other) => Err(StoreError::Away(format!("{}: a script answered {other:?}", shared.place())).into()),
        Err(error) if is_denied(&error) && edits.len() > 1 => {
            let mut outcomes = Vec::with_capacity(edits.len());
            for edit in edits {
                outcomes.extend(Box::pin(edit_chunk(shared, std::slice::from_ref(edit))).await?);
            }
            Ok(Applied::Each(outcomes))
        }
        Err(error) if is_denied(&error) => {
            let denied = KeyOutcome::Impossible("no_permission", format!("{}: {error}", shared.place()));
            Ok(Applied::Each(vec![denied]))
        }
        Err(error) if is_full(&error) => Ok(Applied::Full(format!("{}: {error}", shared.place()))),
        Err(error) if remedy(&error) == Remedy::NotNow => {
            Ok(Applied::Each(vec![KeyOutcome::NotNow(format!("{}: {error}", shared.place())); edits.len()]))
        }
        Err(error) => Err(explain(&shared.settings, &error).into()),
    }
}
