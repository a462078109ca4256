//! Completing a journal: the sidecars of pairs whose write to ZooKeeper was noted in a journal slot
//! are brought up to date.

use super::calls::late;
use super::database::Database;
use super::line::Value;
use super::size::{self, KEYS_PER_CALL};
use super::{script, state};
use crate::env::lock;
use crate::plan::Base;
use crate::plan::guard::Late;
use crate::store::request::split;
use crate::store::{JournalEntry, KeyState, StoreError};
use std::sync::atomic::Ordering;

impl Database {
    /// See [`crate::store::contract::OwnerState::complete`].
    pub(super) async fn complete(&self, entries: Vec<JournalEntry>) -> Result<bool, StoreError> {
        // Since these were written Redis may have come back with an older state of itself, sidecars
        // included.
        let may_be_older = !lock(&self.lineage).is_incarnation_compared();
        let mut is_older = false;
        let bucket = self.buckets.longest();
        let bytes = |entry: &JournalEntry| size::completed(entry, bucket);
        for chunk in split(&entries, KEYS_PER_CALL, size::TOGETHER_BYTES, bytes) {
            // What the sidecar of each is to hold; `None`: it stays.
            let mut notes: Vec<Option<Option<Base>>> = chunk.iter().map(|entry| Some(entry.base)).collect();
            if may_be_older {
                is_older |= self.believe(chunk, &mut notes).await?;
            }
            self.note(chunk, &notes).await?;
        }
        Ok(is_older)
    }

    /// Takes back from `notes` what an older data set contradicts; whether a key shows that it is
    /// an older one.
    async fn believe(&self, chunk: &[JournalEntry], notes: &mut [Option<Option<Base>>]) -> Result<bool, StoreError> {
        let keys: Vec<&[u8]> = chunk.iter().map(|entry| entry.key.as_slice()).collect();
        let (readings, _) = self.observe_all(&keys, false).await?;
        let (found, incarnation) =
            if chunk.iter().any(|entry| entry.milestone.is_some()) { state::milestone(self).await? } else { (None, 0) };
        let mut is_older = false;
        for ((note, reading), entry) in notes.iter_mut().zip(&readings).zip(chunk) {
            // The data set has what was observed before this was written.
            if reading.incarnation == incarnation && entry.milestone.is_some_and(|milestone| milestone.is_in(found)) {
                continue;
            }
            let becomes = late(reading, entry.base.as_ref());
            // Only what is newer than what is there is noted.
            let noted = Base::decode(&reading.entry).map(|noted| Base { sequence: entry.sequence, ..noted });
            *note = becomes.note(noted, entry.base, entry.milestone);
            let expires = entry.base.is_some_and(|base| base.expires_ms.is_some());
            let is_read = matches!(reading.state, KeyState::Absent | KeyState::Value { .. } | KeyState::Digest { .. });
            is_older |= becomes == Late::TakenBack && is_read && !expires;
        }
        Ok(is_older)
    }

    async fn note(&self, chunk: &[JournalEntry], notes: &[Option<Option<Base>>]) -> Result<(), StoreError> {
        let to_note = || chunk.iter().zip(notes).filter_map(|(entry, note)| Some((entry, (*note)?)));
        let count = to_note().count();
        if count == 0 {
            return Ok(());
        }
        let mut command = script::COMPLETE.command(count);
        for (entry, _) in to_note() {
            command.arg(self.buckets.of(&entry.key));
        }
        command.arg(self.epoch.load(Ordering::Relaxed));
        for (entry, note) in to_note() {
            let base = note.map(|base| base.encode()).unwrap_or_default();
            command.arg(&entry.key).arg(entry.nonce).arg(entry.sequence).arg(base);
        }
        match self.script(&script::COMPLETE, &command).await? {
            Ok(Value::Int(6)) => Err(self.fenced()),
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(&error)),
        }
    }
}
