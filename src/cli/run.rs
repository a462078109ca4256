//! `keepstep run`: a worker, from its start to its end.

use super::args::{self, Global, Listen};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::running::Running;
use super::{progress, text};
use crate::assembly;
use crate::change::Side;
use crate::config::{self, Pipeline};
use crate::env::{self, Tasks};
use crate::http::{self, AppState, Listener, Token};
use crate::pipeline::control::{PipelineStatus, RouteState};
use crate::telemetry::Metrics;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long changes in flight may take to finish after the worker was asked to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// How much longer a shutdown may take than the drain. After that the process ends without waiting.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// How many characters of the problems of the files a log line shows.
const PROBLEMS_MAX: usize = 800;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The worker waits for stores that are away. SIGHUP re-reads the files and logs which of them changed. On SIGINT or SIGTERM the worker \
drains changes in flight for at most 10 s; a second signal stops it at once.

Examples:
  keepstep run settings.yaml                         run until Ctrl-C
  keepstep run settings.yaml sessions.yaml           two pipelines in one worker
  keepstep run --once --timeout 1m settings.yaml     synchronize once, then end
  keepstep run --http 0.0.0.0:9464 --http-token-file token settings.yaml")]
pub(super) struct Run {
    /// The pipeline files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// End when one full comparison finds nothing to do: exit 0, or 1 if pairs are quarantined,
    /// wait for approval, cannot be read or are paused
    #[arg(long, env = "KEEPSTEP_ONCE", value_parser = clap::builder::BoolishValueParser::new())]
    once: bool,
    /// With --once: give up with the reason when nothing has moved for this time
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
    /// Address that serves /live, /ready, /metrics, /status and a human-readable page; `off` serves
    /// nothing
    #[arg(long, env = "KEEPSTEP_HTTP", value_name = "HOST:PORT", default_value = "127.0.0.1:9464")]
    http: Listen,
    /// File with the token that POST /pause, /resume, /reconcile, /approve, /quarantine/retry and
    /// /quarantine/drop require; without it they are off
    #[arg(long, env = "KEEPSTEP_HTTP_TOKEN_FILE", value_name = "FILE")]
    http_token_file: Option<PathBuf>,
}

pub(super) async fn run(args: Run, global: &Global) -> Result<Exit, Failure> {
    let pipelines = config::load_all(&args.files)?;
    for pipeline in &pipelines {
        pipeline.doubts().iter().for_each(|doubt| tracing::warn!(pipeline = pipeline.name, "{doubt}"));
    }
    let files = Files { paths: args.files, known: texts(&pipelines) };
    let token = args.http_token_file.as_deref().map(Token::read).transpose();
    let token = token.map_err(|error| Failure::Usage(error.to_string()))?;
    let mut signals = Signals::listen()
        .and_then(Signals::with_hangup)
        .map_err(|error| Failure::Failed(format!("signals: {error}")))?;
    let metrics = Arc::new(Metrics::new());
    register_counters(&metrics, &pipelines);
    let state = AppState::new(Arc::clone(&metrics));
    let mut servers = serve(&state, &args.http, token, &global.data_dir, &pipelines);
    let started = tokio::select! {
        biased;
        // A signal that has arrived already makes the start pointless.
        () = signals.next() => None,
        started = async { assembly::pipelines(&pipelines, &global.data_dir, args.once, &metrics, global.network.clone()) } => Some(started?),
    };
    let ended = match started {
        Some(started) => {
            let running = Running::start(started, args.timeout);
            attend(running, &state, &files, &mut signals, global).await
        }
        None => Ok(Exit::Done),
    };
    // The sockets are removed with their servers: a command that comes now finds no worker, instead
    // of one that does not answer.
    servers.shutdown().await;
    ended
}

/// Waits for the end of the pipelines, or for a signal, and shuts down.
async fn attend(
    mut running: Running,
    state: &AppState,
    files: &Files,
    signals: &mut Signals,
    global: &Global,
) -> Result<Exit, Failure> {
    state.show(running.handles());
    let mut hangups = signals.hangups();
    let finished = tokio::select! {
        biased;
        () = signals.next() => None,
        finished = running.finished() => Some(finished),
        () = progress::first_comparisons(state) => None,
        () = files.log_changes_at(&mut hangups) => None,
    };
    let statuses = state.statuses();
    tracing::info!("shutting down: draining changes in flight");
    let drained = tokio::select! {
        biased;
        () = signals.next() => false,
        drained = env::timeout(DRAIN + DRAIN_SLACK, running.shut_down(DRAIN)) => {
            if drained.is_err() {
                tracing::warn!("drain timed out; the next start resumes");
            }
            true
        }
    };
    match (drained, finished) {
        (false, _) => {
            tracing::warn!("second signal: stopped at once");
            Ok(Exit::Interrupted)
        }
        (true, None) => Ok(Exit::Done),
        (true, Some(finished)) => report(finished, &statuses, global),
    }
}

/// Prints the result of `--once`.
fn report(finished: Result<Exit, Failure>, statuses: &[PipelineStatus], global: &Global) -> Result<Exit, Failure> {
    let exit = finished?;
    let mut out = Output::new(global.format);
    for status in statuses {
        out.row(&summary(status), |row, _| {
            let pairs = text::count(row.get("pairs").and_then(Value::as_u64).unwrap_or(0), "pair", "pairs");
            let (pipeline, quarantined) = (text::field(row, "pipeline"), text::field(row, "quarantined"));
            let mut lines = vec![format!("{pipeline}: {pairs} in step, {quarantined} quarantined")];
            lines.extend(status.routes.iter().filter(|route| route.awaiting_approval > 0).map(|route| {
                let deletes = text::count(route.awaiting_approval, "delete waits", "deletes wait");
                format!("  route {}: {deletes} for `keepstep approve`, not applied", text::printable(&route.route))
            }));
            lines.extend(status.routes.iter().flat_map(super::status::unreadable));
            lines.extend(
                paused(status).map(|route| format!("  route {}: paused, and not looked at", text::printable(route))),
            );
            lines.join("\n")
        })?;
    }
    match out.flush() {
        // The work is done, even if nobody reads the result.
        Ok(()) | Err(Failure::Closed) => Ok(exit),
        Err(failure) => Err(failure),
    }
}

fn paused(status: &PipelineStatus) -> impl Iterator<Item = &str> {
    status.routes.iter().filter(|route| route.state == RouteState::Paused).map(|route| route.route.as_str())
}

fn summary(status: &PipelineStatus) -> Value {
    let sum = |of: fn(&crate::pipeline::control::RouteStatus) -> u64| status.routes.iter().map(of).sum::<u64>();
    json!({
        "pipeline": status.pipeline,
        "pairs": sum(|route| route.pairs),
        "quarantined": sum(|route| route.quarantined),
        "unreadable": sum(|route| route.unreadable),
        "unreadable_names": status.routes.iter().flat_map(|route| &route.unreadable_names).collect::<Vec<_>>(),
        "awaiting_approval": sum(|route| route.awaiting_approval),
        "paused": paused(status).collect::<Vec<_>>(),
        "changes": status.changes,
        "conflicts": status.conflicts,
    })
}

/// Serves HTTP on the address of `--http` and on one Unix socket for each pipeline.
fn serve(
    state: &Arc<AppState>,
    listen: &Listen,
    token: Option<Token>,
    data_dir: &Path,
    pipelines: &[Pipeline],
) -> Tasks<()> {
    let mut servers = Tasks::default();
    if let Listen::At(address) = listen {
        let router = http::guard_host(http::router(Arc::clone(state), Listener::Tcp(token)), address);
        servers.spawn(http::serve_tcp(address.clone(), router));
    }
    for pipeline in pipelines {
        let router = http::router(Arc::clone(state), Listener::Unix);
        let (state, name) = (Arc::clone(state), pipeline.name.clone());
        let stands_by = move || state.stands_by(&name);
        servers.spawn(http::serve_unix(http::socket_path(data_dir, &pipeline.name), router, stands_by));
    }
    servers
}

/// Registers the counters of these pipelines, so that they are served as zero before the first
/// event.
fn register_counters(metrics: &Metrics, pipelines: &[Pipeline]) {
    for pipeline in pipelines {
        let of = metrics.of(&pipeline.name);
        let zookeeper = pipeline.zookeeper.as_ref().map(|store| (Side::Zookeeper, store.name.as_str()));
        let redis = pipeline.redis.as_ref().map(|store| (Side::Redis, store.name.as_str()));
        let stores = [zookeeper, redis];
        for (side, store) in stores.into_iter().flatten() {
            of.introduce_store(side, store);
            for route in &pipeline.routes {
                let _ = of.conflicts(&route.on_conflict_text, store);
            }
        }
        for route in &pipeline.routes {
            of.introduce_route(&route.name);
        }
    }
}

/// The pipeline files, and their content when the worker started.
struct Files {
    paths: Vec<PathBuf>,
    /// Name and resolved text of each.
    known: Vec<(String, String)>,
}

fn texts(pipelines: &[Pipeline]) -> Vec<(String, String)> {
    pipelines.iter().map(|pipeline| (pipeline.name.clone(), config::echo(pipeline))).collect()
}

impl Files {
    /// At each SIGHUP, logs which files have changed. Changes are not applied yet, and a bad file
    /// changes nothing.
    async fn log_changes_at(&self, hangups: &mut Option<Signal>) {
        let Some(hangups) = hangups else { return std::future::pending().await };
        while hangups.recv().await.is_some() {
            match config::load_all(&self.paths) {
                Ok(pipelines) => self.log_changes(&texts(&pipelines)),
                Err(problems) => {
                    let text = problems.to_string();
                    let text = text
                        .char_indices()
                        .nth(PROBLEMS_MAX)
                        .map_or(text.as_str(), |(end, _)| text.get(..end).unwrap_or_default());
                    tracing::error!(
                        "SIGHUP: the files cannot be used; the worker continues unchanged:\n{}",
                        text.trim_end()
                    );
                }
            }
        }
        std::future::pending().await
    }

    fn log_changes(&self, now: &[(String, String)]) {
        let changed: Vec<&str> =
            now.iter().filter(|pipeline| !self.known.contains(pipeline)).map(|(name, _)| name.as_str()).collect();
        let gone = self.known.iter().filter(|(name, _)| !now.iter().any(|(known, _)| known == name));
        let gone: Vec<&str> = gone.map(|(name, _)| name.as_str()).collect();
        if changed.is_empty() && gone.is_empty() {
            tracing::info!("SIGHUP: the files have not changed since the start");
        } else {
            let changed = [changed, gone].concat().join(", ");
            tracing::warn!("SIGHUP: {changed} changed; a running worker does not apply changes yet: restart it");
        }
    }
}

/// SIGXFSZ: a file would grow beyond the limit of the process. Without a handler the signal ends
/// the process. With one, the write fails, and the worker waits as it does for a full disk. The
/// number is the same on Linux and macOS.
const FILE_TOO_LARGE: i32 = 25;

/// SIGINT and SIGTERM. With a `Signals`, they no longer end the process by themselves.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    _file_too_large: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
            _file_too_large: signal(SignalKind::from_raw(FILE_TOO_LARGE))?,
        })
    }

    /// SIGHUP does not end the process either from here on.
    fn with_hangup(mut self) -> std::io::Result<Signals> {
        self.hangup = Some(signal(SignalKind::hangup())?);
        Ok(self)
    }

    /// All hangups since [`Signals::with_hangup`]; `None` after the first call.
    fn hangups(&mut self) -> Option<Signal> {
        self.hangup.take()
    }

    /// Waits for the next one. Cancel-safe.
    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn interrupted() {
    match Signals::listen() {
        Ok(mut signals) => signals.next().await,
        // Then a signal ends the process, as it does without a handler.
        Err(_) => std::future::pending().await,
    }
}
