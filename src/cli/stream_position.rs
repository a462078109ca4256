//! From a position or a time on the command line to a position in the stream.

use super::args::From;
use super::exit::Failure;
use super::text;
use crate::assembly;
use crate::change::Position;
use crate::config::Pipeline;
use crate::env::disk;
use crate::stream::Stream;
use std::path::Path;

/// The error where no worker has run with this data folder. An empty answer would look like
/// "nothing happened".
pub(super) fn no_folder(pipeline: &Pipeline, data_dir: &Path) -> Failure {
    let (name, folder) = (&pipeline.name, data_dir.display());
    Failure::Failed(format!(
        "there is no data of the pipeline {name} under {folder}; give the worker's data folder with --data-dir"
    ))
}

/// The error of a command that finds no stream; `None` if a worker has run here and its stream is
/// still empty.
pub(super) fn no_stream(pipeline: &Pipeline, data_dir: &Path) -> Option<Failure> {
    let never_ran = pipeline.stream.kafka.is_none() && !disk::is_dir(&assembly::folder(data_dir, &pipeline.name));
    never_ran.then(|| no_folder(pipeline, data_dir))
}

/// The position to begin at. Position 1 is the first of every stream.
pub(super) async fn position(stream: &dyn Stream, from: From, now_ms: i64) -> Result<Position, Failure> {
    let extent = stream.extent();
    let end = extent.last.saturating_add(1);
    let position = match from {
        From::Earliest => return Ok(1),
        From::Latest => return Ok(end),
        From::Position(position) if position > end => return Err(beyond(position, extent.last)),
        From::Position(position) => position.max(1),
        From::Time(ms) => {
            not_in_future(ms, now_ms)?;
            stream.position_at(ms).await?
        }
    };
    if position < extent.full_from && extent.first > 0 {
        tracing::warn!(
            full_from = extent.full_from,
            since = %text::time(extent.full_from_ms),
            "history before position {} is compacted: it has only the newest change of each pair",
            extent.full_from
        );
    }
    Ok(position)
}

/// The error for a position that does not exist yet. `last` is 0 for an empty stream.
pub(super) fn beyond(position: Position, last: Position) -> Failure {
    Failure::Failed(match last {
        0 => format!("there is no position {position}: the stream is empty"),
        last => format!("there is no position {position}: the stream ends at {last}"),
    })
}

/// Refuses a time in the future.
pub(super) fn not_in_future(ms: i64, now_ms: i64) -> Result<(), Failure> {
    if ms > now_ms {
        return Err(Failure::Usage(format!(
            "{} is in the future; use `--from latest` to wait for new changes",
            text::time(ms)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_future_is_wrong_usage() {
        assert!(matches!(not_in_future(11, 10), Err(Failure::Usage(_))));
        assert!(not_in_future(10, 10).is_ok());
    }
}
