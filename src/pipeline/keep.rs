//! Values that a command is about to replace: put on the stream by whoever owns it.

use super::control::CommandError;
use super::record::Recorder;
use crate::change::{Change, Op};
use crate::env;
use std::sync::Arc;

impl Recorder {
    /// Appends these markers; `Ok` means that they are durable. Anything but a marker with a conflict is refused, since
    /// what the stream says of a pair's state is this owner's to say.
    pub(super) async fn keep(&self, mut changes: Vec<Change>) -> Result<String, CommandError> {
        if changes.iter().any(|change| change.op != Op::Marker || change.conflict.is_none()) {
            return Err(CommandError::Failed("only replaced values can be kept".to_owned()));
        }
        for change in &mut changes {
            change.epoch = self.doors.epoch();
            change.ts_ms = env::unix_ms();
        }
        let changes = Arc::new(changes);
        let appended = self.doors.append(Arc::clone(&changes)).await;
        appended.map_err(|error| CommandError::Failed(format!("the stream takes nothing: {error}")))?;
        self.recorded(&changes);
        Ok(format!("{} values are kept", changes.len()))
    }
}
