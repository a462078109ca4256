//! Keys as a command beside a worker sees and changes them: no sidecar, no epoch, only the value
//! and its digest.

use super::calls::Applied;
use super::database::Database;
use super::fault::is_denied;
use super::line::Value;
use super::script::{self, Script};
use super::size::{ANSWER_BYTES, digest_above};
use crate::change::Digest;
use crate::store::request::Fault;
use crate::store::{KeyEdit, KeyOutcome, KeyState, VALUE_BYTES_MAX, one_for_one};

/// One call of [`crate::store::contract::KeyEditor::look`].
pub(super) async fn look_chunk(database: &Database, keys: &[&[u8]], values: bool) -> Result<Vec<KeyState>, Fault> {
    look_below(database, keys, digest_above(values), VALUE_BYTES_MAX).await
}

/// The bytes of each value that is a string, without the values.
pub(super) async fn lengths(database: &Database, keys: &[&[u8]]) -> Result<Vec<usize>, Fault> {
    let states = look_below(database, keys, 0, 0).await?;
    let length = |state| match state {
        KeyState::TooLarge(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        _ => 0,
    };
    Ok(states.into_iter().map(length).collect())
}

async fn look_below(
    database: &Database,
    keys: &[&[u8]],
    digest_above: usize,
    large_above: usize,
) -> Result<Vec<KeyState>, Fault> {
    let mut command = script::LOOK.command(keys.len());
    command.arg(keys);
    command.arg(ANSWER_BYTES).arg(digest_above).arg(large_above);
    match database.script(&script::LOOK, &command).await? {
        Ok(Value::BulkString(packed)) => {
            database.connections.reads.passed(packed.len());
            let mut rest = packed.as_slice();
            let mut states = Vec::with_capacity(keys.len());
            while let Some(([code, length @ ..], parts)) = rest.split_first_chunk::<5>() {
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                let Some((value, after)) = parts.split_at_checked(length) else { break };
                states.push(state(*code, value));
                rest = after;
            }
            // What is missing would be asked for again and again.
            Ok(one_for_one(&database.place(), keys.len(), states)?)
        }
        Ok(other) => Err(database.unexpected(&format!("{other:?}")).into()),
        Err(error) if is_denied(&error) && keys.len() > 1 => {
            let mut states = Vec::with_capacity(keys.len());
            for key in keys {
                states.extend(Box::pin(look_below(database, &[*key], digest_above, large_above)).await?);
            }
            Ok(states)
        }
        Err(error) if is_denied(&error) => {
            Ok(vec![database.denied(keys.first().copied().unwrap_or_default(), &error.to_string())])
        }
        Err(error) => Err(database.explain(&error).into()),
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

/// One call of [`crate::store::contract::KeyEditor::edit`].
pub(super) async fn edit_chunk(database: &Database, edits: &[KeyEdit<'_>]) -> Result<Vec<KeyOutcome>, Fault> {
    let why = match edit_by(database, &script::EDIT, edits).await? {
        Applied::Each(outcomes) => return Ok(outcomes),
        Applied::Full(why) => why,
    };
    // At its memory limit the server takes what frees memory.
    let is_delete = |edit: &KeyEdit<'_>| edit.value.is_none();
    let deletes: Vec<KeyEdit<'_>> = edits.iter().filter(|edit| is_delete(edit)).cloned().collect();
    let deleted = match deletes.as_slice() {
        [] => Applied::Each(Vec::new()),
        deletes => edit_by(database, &script::EDIT_FREEING, deletes).await?,
    };
    Ok(deleted.among(edits.iter().map(is_delete), &why))
}

async fn edit_by(database: &Database, script: &Script, edits: &[KeyEdit<'_>]) -> Result<Applied, Fault> {
    let mut command = script.command(edits.len());
    for edit in edits {
        command.arg(edit.key);
    }
    command.arg(VALUE_BYTES_MAX);
    for edit in edits {
        command.arg(if edit.value.is_some() { "s" } else { "d" });
        command.arg(edit.expect.map(|digest| digest.hex()).unwrap_or_default());
        command.arg(edit.value.unwrap_or_default());
    }
    match database.outcomes(edits.len(), database.script(script, &command).await?)? {
        Some(applied) => Ok(applied),
        None => {
            let mut outcomes = Vec::with_capacity(edits.len());
            for edit in edits {
                outcomes.extend(Box::pin(edit_chunk(database, std::slice::from_ref(edit))).await?);
            }
            Ok(Applied::Each(outcomes))
        }
    }
}
