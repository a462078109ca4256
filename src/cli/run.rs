//! `keepstep run`: a worker, from its first line to its last.

use super::args::{self, Global, Listen};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{progress, text};
use crate::assembly::{self, Finished, RunOptions, StartError, Worker};
use crate::change::Side;
use crate::config::{self, Pipeline};
use crate::env::{self, Tasks};
use crate::http::{self, Door, Site, Token};
use crate::pipeline::control::{PipelineStatus, RouteState};
use crate::telemetry::Metrics;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long changes that are under way may take to land once the worker is told to end.
const DRAIN: Duration = Duration::from_secs(10);
/// What a shutdown may take beyond the drain before the process ends without it.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// Characters of what is wrong with the files that a line of the log shows.
const PROBLEMS_MAX: usize = 800;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Stores that are away are waited for. SIGHUP reads the files again and says what changed in them. On SIGINT or SIGTERM what is under way is brought to its end, for at most 10 s; a \
second signal stops at once.

Examples:
  keepstep run settings.yaml                         until Ctrl-C
  keepstep run settings.yaml sessions.yaml           two pipelines in one worker
  keepstep run --once --timeout 1m settings.yaml     bring the stores in step, then end
  keepstep run --http 0.0.0.0:9464 --http-token-file token settings.yaml")]
pub(super) struct Run {
    /// The pipeline files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// End when one full comparison finds nothing to do: 0, or 1 if pairs are quarantined, wait for approval, cannot be read or are paused
    #[arg(long, env = "KEEPSTEP_ONCE", value_parser = clap::builder::BoolishValueParser::new())]
    once: bool,
    /// With --once: how long nothing may move before it ends with the reason
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
    /// Where /live, /ready, /metrics, /status and a page to read are served; `off` serves nothing
    #[arg(long, env = "KEEPSTEP_HTTP", value_name = "HOST:PORT", default_value = "127.0.0.1:9464")]
    http: Listen,
    /// File with the token that POST /pause, /resume, /reconcile and /approve need; without one they are off
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
    introduce(&metrics, &pipelines);
    let site = Site::new(Arc::clone(&metrics));
    let mut doors = open_doors(&site, &args.http, token, &global.data_dir, &pipelines);
    let options = RunOptions { data_dir: global.data_dir.clone(), once: args.once, timeout: args.timeout };
    let started = tokio::select! {
        biased;
        // A signal counts before a start that it makes pointless.
        () = signals.next() => None,
        started = assembly::start(pipelines, options, metrics) => Some(started?),
    };
    let ended = match started {
        Some(worker) => attend(worker, &site, &files, &mut signals, global).await,
        None => Ok(Exit::Done),
    };
    // Sockets go with their doors: a command that comes now finds no worker, not one that hangs.
    doors.shutdown().await;
    ended
}

/// Stays with the worker to its end.
async fn attend(
    mut worker: Worker,
    site: &Site,
    files: &Files,
    signals: &mut Signals,
    global: &Global,
) -> Result<Exit, Failure> {
    site.open(worker.handles.clone());
    let mut hangups = signals.hangups();
    let finished = tokio::select! {
        biased;
        () = signals.next() => None,
        finished = worker.finished() => Some(finished),
        () = progress::show(site) => None,
        () = files.read_again_at(&mut hangups) => None,
    };
    let statuses = site.statuses();
    tracing::info!("ending: what is under way is brought to its end");
    let drained = tokio::select! {
        biased;
        () = signals.next() => false,
        drained = env::timeout(DRAIN + DRAIN_SLACK, worker.shut_down(DRAIN)) => {
            if drained.is_err() {
                tracing::warn!("not everything came to its end in time; the next start goes on from there");
            }
            true
        }
    };
    match (drained, finished) {
        (false, _) => {
            tracing::warn!("a second signal: stopped at once");
            Ok(Exit::Cut)
        }
        (true, None) => Ok(Exit::Done),
        (true, Some(finished)) => report(finished, &statuses, global),
    }
}

/// Says how `--once` went.
fn report(
    finished: Result<Finished, StartError>,
    statuses: &[PipelineStatus],
    global: &Global,
) -> Result<Exit, Failure> {
    let exit = match finished? {
        Finished::Done => Exit::Done,
        Finished::Differs => Exit::Differs,
    };
    let mut out = Output::new(global.format);
    for status in statuses {
        out.row(&summary(status), |row, _| {
            let (pairs, quarantined) = (text::field(row, "pairs"), text::field(row, "quarantined"));
            let mut lines =
                vec![format!("{}: {pairs} pairs in step, {quarantined} quarantined", text::field(row, "pipeline"))];
            lines.extend(status.routes.iter().filter(|route| route.awaiting_approval > 0).map(|route| {
                let (route, deletes) = (text::printable(&route.route), route.awaiting_approval);
                format!("  route {route}: {deletes} deletes wait for `keepstep approve`, and are not carried out")
            }));
            lines.extend(status.routes.iter().flat_map(super::status::unreadable));
            lines.extend(
                paused(status).map(|route| format!("  route {}: paused, and not looked at", text::printable(route))),
            );
            lines.join("\n")
        })?;
    }
    match out.flush() {
        // The work is done, whether somebody reads of it or not.
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

fn open_doors(
    site: &Arc<Site>,
    listen: &Listen,
    token: Option<Token>,
    data_dir: &Path,
    pipelines: &[Pipeline],
) -> Tasks<()> {
    let mut doors = Tasks::default();
    if let Listen::At(address) = listen {
        let router = http::guard_host(http::router(Arc::clone(site), Door::Tcp(token)), address);
        doors.spawn(http::serve_tcp(address.clone(), router));
    }
    for pipeline in pipelines {
        let router = http::router(Arc::clone(site), Door::Unix);
        doors.spawn(http::serve_unix(http::socket_path(data_dir, &pipeline.name), router));
    }
    doors
}

/// Makes the counters of these pipelines appear at zero.
fn introduce(metrics: &Metrics, pipelines: &[Pipeline]) {
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

/// The pipeline files, and what they said when the worker started.
struct Files {
    paths: Vec<PathBuf>,
    /// Name and resolved text of each.
    known: Vec<(String, String)>,
}

fn texts(pipelines: &[Pipeline]) -> Vec<(String, String)> {
    pipelines.iter().map(|pipeline| (pipeline.name.clone(), config::echo(pipeline))).collect()
}

impl Files {
    /// At each SIGHUP: says what has changed in the files. Nothing of it is taken over yet, and a bad file changes nothing.
    async fn read_again_at(&self, hangups: &mut Option<Signal>) {
        let Some(hangups) = hangups else { return std::future::pending().await };
        while hangups.recv().await.is_some() {
            match config::load_all(&self.paths) {
                Ok(pipelines) => self.say_what_changed(&texts(&pipelines)),
                Err(problems) => {
                    let text = problems.to_string();
                    let text = text
                        .char_indices()
                        .nth(PROBLEMS_MAX)
                        .map_or(text.as_str(), |(end, _)| text.get(..end).unwrap_or_default());
                    tracing::error!("SIGHUP: the files cannot be used, and nothing is changed:\n{}", text.trim_end());
                }
            }
        }
        std::future::pending().await
    }

    fn say_what_changed(&self, now: &[(String, String)]) {
        let changed: Vec<&str> =
            now.iter().filter(|pipeline| !self.known.contains(pipeline)).map(|(name, _)| name.as_str()).collect();
        let gone = self.known.iter().filter(|(name, _)| !now.iter().any(|(known, _)| known == name));
        let gone: Vec<&str> = gone.map(|(name, _)| name.as_str()).collect();
        if changed.is_empty() && gone.is_empty() {
            tracing::info!("SIGHUP: the files say what they said at the start");
        } else {
            let changed = [changed, gone].concat().join(", ");
            tracing::warn!("SIGHUP: {changed} changed; a running worker does not take this over yet: restart it");
        }
    }
}

/// SIGXFSZ: a file would grow beyond the limit of the process. Without a listener the signal ends the process; with one the
/// write fails, which is a full disk to us and waited out. The number is the same on Linux and macOS.
const FILE_TOO_LARGE: i32 = 25;

/// SIGINT and SIGTERM. From here on they no longer end the process by themselves.
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

    /// SIGHUP too does not end the process from here on.
    fn with_hangup(mut self) -> std::io::Result<Signals> {
        self.hangup = Some(signal(SignalKind::hangup())?);
        Ok(self)
    }

    /// Those that come from here on, and came since [`Signals::with_hangup`]; for whoever asks first.
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
        // Then they end the process, as they do without a listener.
        Err(_) => std::future::pending().await,
    }
}
