//! What can be read without a worker: places in the stream of a pipeline, and its quarantine in the data folder.

use super::args::From;
use super::exit::Failure;
use super::text;
use crate::assembly;
use crate::change::Position;
use crate::config::Pipeline;
use crate::env::disk;
use crate::pipeline::control::Quarantined;
use crate::route::glob::Glob;
use crate::stream::Stream;
use std::io::ErrorKind;
use std::path::Path;

/// What is said where no worker has left anything: an empty answer would be taken for one.
pub(super) fn no_folder(pipeline: &Pipeline, data_dir: &Path) -> Failure {
    let (name, folder) = (&pipeline.name, data_dir.display());
    Failure::Failed(format!(
        "no worker of {name} has left anything under {folder}; --data-dir names the folder that it runs with"
    ))
}

/// The failure of a command that finds no stream where it looks; `None` if there is only nothing on it yet.
pub(super) fn no_stream(pipeline: &Pipeline, data_dir: &Path) -> Option<Failure> {
    let is_elsewhere = pipeline.stream.kafka.is_none() && !disk::is_dir(&assembly::folder(data_dir, &pipeline.name));
    is_elsewhere.then(|| no_folder(pipeline, data_dir))
}

/// The quarantine as the last worker left it; `None` if there never was one.
pub(super) fn quarantine(data_dir: &Path, pipeline: &str) -> Result<Option<Vec<Quarantined>>, Failure> {
    let folder = data_dir.join(pipeline);
    let path = folder.join("quarantine.json");
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let text = match disk::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(disk::is_dir(&folder).then(Vec::new)),
        Err(error) => return Err(failed(error)),
    };
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(error) => tracing::warn!(path = %path.display(), line = index + 1, %error, "a line is passed over"),
        }
    }
    Ok(Some(rows))
}

/// The position at which to begin. 1 is the first of every stream.
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
            "history before position {} is thinned to the newest change of each pair",
            extent.full_from
        );
    }
    Ok(position)
}

/// The refusal of a position that does not exist yet; `last` is 0 for an empty stream.
pub(super) fn beyond(position: Position, last: Position) -> Failure {
    Failure::Failed(match last {
        0 => format!("there is no position {position}: the stream is empty"),
        last => format!("there is no position {position}: the stream ends at {last}"),
    })
}

/// A time that is still to come begins nothing.
pub(super) fn not_in_future(ms: i64, now_ms: i64) -> Result<(), Failure> {
    if ms > now_ms {
        return Err(Failure::Usage(format!(
            "{} is in the future; `--from latest` waits for what comes",
            text::time(ms)
        )));
    }
    Ok(())
}

/// Refuses a route that the file does not have.
pub(super) fn known_route(pipeline: &Pipeline, route: Option<&str>) -> Result<(), Failure> {
    match route {
        Some(route) if !pipeline.routes.iter().any(|known| known.name == route) => {
            let (file, names) = (pipeline.file.display(), route_names(pipeline));
            Err(Failure::Usage(format!("{file} has no route {}; it has: {names}", text::printable(route))))
        }
        _ => Ok(()),
    }
}

/// Says so where a path is given and keys are meant: nothing would match, and `tail` would wait for ever.
pub(super) fn warn_of_a_path(pipeline: &Pipeline, key: Option<&Glob>) {
    let Some(glob) = key.map(Glob::text).filter(|glob| glob.starts_with('/')) else { return };
    let patterns: Option<Vec<&str>> = pipeline.routes.iter().map(|route| route.match_redis.as_deref()).collect();
    if let Some(patterns) = patterns.filter(|patterns| patterns.iter().all(|pattern| !pattern.starts_with('/'))) {
        let keys = patterns.join(", ");
        tracing::warn!("--key {glob} matches keys of Redis and not paths, and the keys of this pipeline are {keys}");
    }
}

/// The routes of the file, for a sentence.
pub(super) fn route_names(pipeline: &Pipeline) -> String {
    let names: Vec<&str> = pipeline.routes.iter().map(|route| route.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_that_never_ran_here_has_no_quarantine_and_one_that_did_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(quarantine(folder.path(), "p").unwrap(), None);
        std::fs::create_dir(folder.path().join("p")).unwrap();
        assert_eq!(quarantine(folder.path(), "p").unwrap(), Some(Vec::new()));
    }

    #[test]
    fn the_quarantine_is_read_line_by_line_and_a_torn_line_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("p")).unwrap();
        let row = Quarantined {
            route: "settings".to_owned(),
            zookeeper: Some("/a".to_owned()),
            redis: Some(vec![0xff]),
            reason: "too_large".to_owned(),
            detail: "big".to_owned(),
            since_ms: 1,
        };
        let text = format!("{}\n{{\"route\":", serde_json::to_string(&row).unwrap());
        std::fs::write(folder.path().join("p/quarantine.json"), text).unwrap();
        assert_eq!(quarantine(folder.path(), "p").unwrap(), Some(vec![row]));
    }

    #[test]
    fn a_time_in_the_future_is_wrong_usage() {
        assert!(matches!(not_in_future(11, 10), Err(Failure::Usage(_))));
        assert!(not_in_future(10, 10).is_ok());
    }
}
