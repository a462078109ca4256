//! `keepstep status`: the state of running workers, once.

use super::args::{Global, Remote};
use super::exit::{Exit, Failure};
use super::output::{Colour, Output, Paint};
use super::text;
use crate::config::{self, Secrets};
use crate::env;
use crate::http::client::{self, ClientError, Target};
use crate::http::socket_path;
use crate::pipeline::control::{PipelineState, PipelineStatus, RouteState, RouteStatus, StoreStatus};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Shows the state of running workers. Exits 75 if no worker answers.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    selected: Selected,
    /// Exit 1 unless everything is live and nothing is blocked, paused, quarantined or waiting for
    /// approval
    #[arg(long, env = "KEEPSTEP_CHECK", value_parser = clap::builder::BoolishValueParser::new())]
    check: bool,
}

/// Flags that select workers.
#[derive(Debug, clap::Args)]
pub(super) struct Selected {
    /// The pipeline file; default: every pipeline under --data-dir, or at --url
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

/// The workers that are asked, each about one pipeline or about all.
#[derive(Debug)]
pub(super) struct Workers {
    targets: Vec<(Target, Option<String>)>,
    /// The error if no worker answers.
    no_answer: String,
}

/// The status of one pipeline, as its worker gives it.
#[derive(Debug)]
pub(super) struct Answer {
    /// The row that `--format json` prints.
    pub(super) row: Value,
    status: PipelineStatus,
    worker: String,
}

pub(super) async fn run(args: &Status, global: &Global) -> Result<Exit, Failure> {
    let answers = Workers::find(&args.selected, global)?.ask().await?;
    let mut out = Output::new(global.format);
    for (index, answer) in answers.iter().enumerate() {
        if index > 0 && !out.json() {
            out.line("")?;
        }
        out.row(&answer.row, |_, paint| answer.text(paint, env::unix_ms()))?;
    }
    out.flush()?;
    let mut ended = Exit::Done;
    for answer in answers.iter().filter(|_| args.check) {
        if let Some(why) = fault(&answer.status) {
            tracing::warn!(pipeline = answer.status.pipeline, "the check failed: {why}");
            ended = Exit::Differs;
        }
    }
    Ok(ended)
}

/// Why the check fails; `None` if everything is live and nothing waits for an operator. A standby
/// is not live, because it does not know whether the owner is.
fn fault(status: &PipelineStatus) -> Option<String> {
    if status.state != PipelineState::Live {
        return Some(format!("the pipeline is {}, not live", pipeline_state(status.state).1));
    }
    let of_route = |route: &RouteStatus| match route {
        route if route.state != RouteState::Live => {
            Some(format!("route {} is {}", route.route, route_state(route.state)))
        }
        route if route.quarantined > 0 => {
            Some(format!("route {} has {} in quarantine", route.route, route.quarantined))
        }
        route if route.unreadable > 0 => Some(format!("route {} has {} unreadable", route.route, route.unreadable)),
        _ => None,
    };
    let of_routes = status.routes.iter().find_map(of_route);
    of_routes.or_else(|| (!status.ready).then(|| format!("the pipeline is not ready: {}", status.note)))
}

impl Workers {
    pub(super) fn find(selected: &Selected, global: &Global) -> Result<Workers, Failure> {
        let pipeline = selected
            .file
            .as_deref()
            .map(|file| config::load_with(file, Secrets::None))
            .transpose()?
            .map(|pipeline| pipeline.name);
        if let Some(target) = selected.remote.elsewhere()? {
            let no_answer = match &pipeline {
                Some(name) => format!("no worker of the pipeline {name} answers at {target}"),
                None => format!("no worker with a pipeline answers at {target}"),
            };
            return Ok(Workers { targets: vec![(target, pipeline)], no_answer });
        }
        let here = global.data_dir.display();
        let names = match pipeline {
            Some(name) => vec![name],
            None => pipelines_in(&global.data_dir),
        };
        let no_answer = match names.as_slice() {
            [name] => format!("no worker of the pipeline {name} answers under {here}"),
            _ => format!("no worker answers under {here}; give the worker's data folder with --data-dir"),
        };
        let targets = names.into_iter().map(|name| (Target::Unix(socket_path(&global.data_dir, &name)), Some(name)));
        Ok(Workers { targets: targets.collect(), no_answer })
    }

    /// The answers of all workers that answer; at least one.
    pub(super) async fn ask(&self) -> Result<Vec<Answer>, Failure> {
        let asked = self.targets.iter().map(|(target, pipeline)| ask(target, pipeline.as_deref()));
        let mut all = Vec::new();
        for (answer, (_, pipeline)) in futures::future::join_all(asked).await.into_iter().zip(&self.targets) {
            match answer {
                Ok(answers) => all.extend(answers),
                // A worker that has ended leaves its folder. The others are still shown.
                Err(Failure::Unreachable(text)) => tracing::debug!(?pipeline, "{text}"),
                Err(failure) if self.targets.len() == 1 => return Err(failure),
                Err(failure) => tracing::warn!(?pipeline, "{failure}"),
            }
        }
        if all.is_empty() {
            return Err(Failure::Unreachable(self.no_answer.clone()));
        }
        Ok(all)
    }
}

/// The folders in the data folder that contain a worker's socket.
fn pipelines_in(data_dir: &Path) -> Vec<String> {
    let entries = env::disk::list(data_dir).unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| entry.file_name()?.to_str().map(ToOwned::to_owned))
        .filter(|name| env::disk::exists(&socket_path(data_dir, name)))
        .collect()
}

async fn ask(target: &Target, pipeline: Option<&str>) -> Result<Vec<Answer>, Failure> {
    let (code, body) = client::request(target, "GET", "/status").await?;
    let wrong =
        || Failure::from(ClientError::Failed(format!("the server at {target} is not a Keepstep worker ({code})")));
    let answer: Value = serde_json::from_slice(&body).map_err(|_| wrong())?;
    let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (worker, version) = (field("worker"), field("version"));
    let rows = answer.get("pipelines").and_then(Value::as_array).ok_or_else(wrong)?;
    let mut all = Vec::new();
    for row in rows {
        let status: PipelineStatus = serde_json::from_value(row.clone()).map_err(|_| wrong())?;
        if pipeline.is_some_and(|pipeline| pipeline != status.pipeline) {
            continue;
        }
        let mut row = row.clone();
        if let Some(row) = row.as_object_mut() {
            row.insert("worker".to_owned(), Value::from(worker.clone()));
            row.insert("version".to_owned(), Value::from(version.clone()));
        }
        all.push(Answer { row, status, worker: format!("{worker}, version {version}") });
    }
    Ok(all)
}

impl Answer {
    /// A block of lines.
    pub(super) fn text(&self, paint: Paint, now_ms: i64) -> String {
        let status = &self.status;
        let (colour, state) = pipeline_state(status.state);
        let ready = if status.ready { "ready" } else { "not ready" };
        let mut lines = vec![format!(
            "{}  {}, {ready}",
            paint.with(Colour::Strong, &text::printable(&status.pipeline)),
            paint.with(colour, state),
        )];
        if !status.note.is_empty() {
            lines.push(format!("  {}", paint.with(Colour::Wait, &text::printable(&status.note))));
        }
        let mut facts = vec![fact("worker", text::printable(&self.worker)), fact("owner", owner(status))];
        facts.push(fact("stream", stream(status)));
        facts.push(fact(
            "counts",
            format!(
                "{}, {}, {}, {} since the worker's start; {:.1} changes a second now",
                text::count(status.changes, "change", "changes"),
                text::count(status.conflicts, "conflict", "conflicts"),
                text::count(status.gaps, "gap", "gaps"),
                text::count(status.losses, "loss", "losses"),
                status.rate
            ),
        ));
        facts.push(fact("compared", compared(status, now_ms)));
        lines.push(text::columns(&facts).trim_end().to_owned());
        lines.push(text::columns(&status.stores.iter().map(store_cells).collect::<Vec<_>>()).trim_end().to_owned());
        lines.push(text::columns(&status.routes.iter().map(route_cells).collect::<Vec<_>>()).trim_end().to_owned());
        lines.extend(status.routes.iter().flat_map(unreadable));
        lines.retain(|line| !line.is_empty());
        lines.join("\n")
    }
}

fn fact(name: &str, value: String) -> Vec<String> {
    vec![format!("  {name}"), value]
}

fn owner(status: &PipelineStatus) -> String {
    let standbys = match status.standbys {
        0 => "no standby".to_owned(),
        1 => "1 standby".to_owned(),
        count => format!("{count} standbys"),
    };
    match status.owner.as_str() {
        "" => "not known".to_owned(),
        // Only the owner knows its epoch.
        owner if status.epoch == 0 => format!("{}, {standbys}", text::printable(owner)),
        owner => format!("{}, epoch {}, {standbys}", text::printable(owner), status.epoch),
    }
}

fn stream(status: &PipelineStatus) -> String {
    let Some(history) = status.history.filter(|history| history.last > 0) else {
        return format!("position {}", status.position);
    };
    let from = text::time(history.full_from_ms);
    let bytes = if history.bytes > 0 { format!(", {} bytes", history.bytes) } else { String::new() };
    let mut line = format!("position {}, full history from {} ({from}){bytes}", status.position, history.full_from);
    if history.first < history.full_from {
        let first = text::time(history.first_ms);
        line.push_str(&format!(", before it only the newest state of each pair, from {} ({first})", history.first));
    }
    line
}

fn compared(status: &PipelineStatus, now_ms: i64) -> String {
    match (status.state, status.compared_ms) {
        (PipelineState::Snapshotting, _) => format!("{} pairs so far", status.snapshot_done),
        (_, 0) => "not yet".to_owned(),
        (_, ms) => text::ago(ms, now_ms),
    }
}

fn store_cells(store: &StoreStatus) -> Vec<String> {
    let server = if store.server.is_empty() { &store.kind } else { &store.server };
    let stands = if store.connected { "connected" } else { "away" };
    [format!("  store {}", store.name).as_str(), server, stands, &store.note].map(text::printable).to_vec()
}

fn route_cells(route: &RouteStatus) -> Vec<String> {
    let mut cells = vec![
        format!("  route {}", text::printable(&route.route)),
        text::printable(&route.flow),
        route_state(route.state).to_owned(),
        text::count(route.pairs, "pair", "pairs"),
        format!("{} pending", route.pending),
        format!("lag {:.1} s", route.lag_seconds),
        format!("{} quarantined", route.quarantined),
    ];
    if route.awaiting_approval > 0 {
        let deletes = text::count(route.awaiting_approval, "delete waits", "deletes wait");
        cells.push(format!("{deletes} for `keepstep approve`"));
    }
    cells
}

/// The names for which a permission is missing, one line each.
pub(super) fn unreadable(route: &RouteStatus) -> Vec<String> {
    let shown = route.unreadable_names.iter().map(|one| {
        let (name, reason) = (text::printable(&one.name), text::printable(&one.reason));
        format!("  route {}: no permission for {name}: {reason}", text::printable(&route.route))
    });
    let mut lines: Vec<String> = shown.collect();
    let more = route.unreadable.saturating_sub(u64::try_from(lines.len()).unwrap_or(u64::MAX));
    if more > 0 {
        lines.push(format!("  route {}: no permission for {more} more", text::printable(&route.route)));
    }
    lines
}

fn pipeline_state(state: PipelineState) -> (Colour, &'static str) {
    let colour = match state {
        PipelineState::Standby | PipelineState::Live => Colour::Good,
        PipelineState::Snapshotting => Colour::New,
        PipelineState::Connecting | PipelineState::Paused | PipelineState::Stopping => Colour::Wait,
        PipelineState::AwaitingApproval | PipelineState::Blocked | PipelineState::Waiting => Colour::Bad,
    };
    (colour, state.word())
}

fn route_state(state: RouteState) -> &'static str {
    match state {
        RouteState::Starting => "starting",
        RouteState::Live => "live",
        RouteState::Paused => "paused",
        RouteState::AwaitingApproval => "awaiting_approval",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use crate::http::fake;

    #[test]
    fn a_block_shows_state_stores_and_routes() {
        let mut status = fake::status("p");
        status.note = "Redis is away".to_owned();
        if let Some(route) = status.routes.first_mut() {
            route.unreadable = 3;
            let (name, reason) = ("/limits/api".to_owned(), "the session may not read it".to_owned());
            route.unreadable_names = vec![crate::pipeline::control::Unreadable { name, reason }];
        }
        let answer = Answer { row: Value::Null, status, worker: "host:1, version 0.1.0".to_owned() };
        let counts = "0 conflicts, 0 gaps, 0 losses since the worker's start";
        let block = answer.text(Paint::OFF, 1_700_000_005_000);
        for expected in
            ["p  live, ready", "  Redis is away", "5 s ago", "store cache", "3 pairs", "1 quarantined", counts]
        {
            assert!(block.contains(expected), "{expected} is not in {block}");
        }
        for expected in ["no permission for /limits/api: the session may not read it", "no permission for 2 more"] {
            assert!(block.contains(expected), "{expected} is not in {block}");
        }
    }

    #[test]
    fn only_folders_with_a_socket_are_pipelines() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a")).unwrap();
        std::fs::create_dir_all(folder.path().join("b")).unwrap();
        std::fs::write(folder.path().join("b/worker.sock"), "").unwrap();
        assert_eq!(pipelines_in(folder.path()), ["b"]);
        assert_eq!(pipelines_in(Path::new("/nonexistent")), Vec::<String>::new());
    }
}
