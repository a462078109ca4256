//! `keepstep run`: a worker, from its first line to its last.

use super::args::{self, Global, Listen};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{progress, text};
use crate::assembly::{self, Finished, RunOptions, StartError, Worker};
use crate::change::Side;
use crate::config::{self, Pipeline};
use crate::http::{self, Door, Site, Token};
use crate::pipeline::control::PipelineStatus;
use crate::telemetry::Metrics;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

/// How long changes that are under way may take to land once the worker is told to end.
const DRAIN: Duration = Duration::from_secs(10);
/// What a shutdown may take beyond the drain before the process ends without it.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Stores that are away are waited for. On SIGINT or SIGTERM what is under way is brought to its end, for at most 10 s; a \
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
    /// End when one full comparison finds nothing to do: 0, or 1 if pairs are quarantined
    #[arg(long, env = "KEEPSTEP_ONCE", value_parser = clap::builder::FalseyValueParser::new())]
    once: bool,
    /// With --once: how long to wait for a store
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
    let token = args.http_token_file.as_deref().map(Token::read).transpose();
    let token = token.map_err(|error| Failure::Usage(error.to_string()))?;
    let mut signals = Signals::listen().map_err(|error| Failure::Failed(format!("signals: {error}")))?;
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
        Some(worker) => attend(worker, &site, &mut signals, global).await,
        None => Ok(Exit::Done),
    };
    // Sockets go with their doors: a command that comes now finds no worker, not one that hangs.
    doors.shutdown().await;
    ended
}

/// Stays with the worker to its end.
async fn attend(mut worker: Worker, site: &Site, signals: &mut Signals, global: &Global) -> Result<Exit, Failure> {
    site.open(worker.handles.clone());
    let finished = tokio::select! {
        biased;
        () = signals.next() => None,
        finished = worker.finished() => Some(finished),
        () = progress::show(site) => None,
    };
    let statuses = site.statuses();
    tracing::info!("ending: what is under way is brought to its end");
    let drained = tokio::select! {
        biased;
        () = signals.next() => false,
        drained = tokio::time::timeout(DRAIN + DRAIN_SLACK, worker.shut_down(DRAIN)) => {
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
            format!("{}: {pairs} pairs in step, {quarantined} quarantined", text::field(row, "pipeline"))
        })?;
    }
    match out.flush() {
        // The work is done, whether somebody reads of it or not.
        Ok(()) | Err(Failure::Closed) => Ok(exit),
        Err(failure) => Err(failure),
    }
}

fn summary(status: &PipelineStatus) -> Value {
    let sum = |of: fn(&crate::pipeline::control::RouteStatus) -> u64| status.routes.iter().map(of).sum::<u64>();
    json!({
        "pipeline": status.pipeline,
        "pairs": sum(|route| route.pairs),
        "quarantined": sum(|route| route.quarantined),
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
) -> JoinSet<()> {
    let mut doors = JoinSet::new();
    if let Listen::At(address) = listen {
        doors.spawn(http::serve_tcp(address.clone(), http::router(Arc::clone(site), Door::Tcp(token))));
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

/// SIGXFSZ: a file would grow beyond the limit of the process. Without a listener the signal ends the process; with one the
/// write fails, which is a full disk to us and waited out. The number is the same on Linux and macOS.
const FILE_TOO_LARGE: i32 = 25;

/// SIGINT and SIGTERM. From here on they no longer end the process by themselves.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    _file_too_large: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            _file_too_large: signal(SignalKind::from_raw(FILE_TOO_LARGE))?,
        })
    }

    /// Waits for the next one. Cancel-safe.
    async fn next(&mut self) {
        tokio::select! {
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
