//! Where the log goes: to stderr, above a progress bar if there is one.

use indicatif::MultiProgress;
use std::io::{self, IsTerminal as _, Write};
use std::sync::LazyLock;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least important level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What needs somebody's hands.
    Error,
    /// What will need them if it goes on.
    Warn,
    /// What an operator wants to have seen.
    #[default]
    Info,
    /// What a developer asks for.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    fn filter(self) -> LevelFilter {
        match self {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Where progress bars are drawn. A line of the log is written above them.
#[must_use]
pub fn screen() -> &'static MultiProgress {
    &SCREEN
}

/// Sends the log to stderr. Called once, first thing; a second call changes nothing.
///
/// Dependencies never log below `warn`, whatever level is asked for: at `debug` a client may print what it sends, and
/// that may be a password. What the ZooKeeper client says of each attempt to connect is for whoever asks for `debug`: the
/// pipeline says once that the store is away.
pub fn install(format: LogFormat, level: LogLevel) {
    let ours = level.filter();
    let attempts = if ours >= LevelFilter::DEBUG { LevelFilter::WARN } else { ours.min(LevelFilter::ERROR) };
    let filter = Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("zookeeper_client::session", attempts)
        .with_target("keepstep", ours);
    let layer = tracing_subscriber::fmt::layer().with_writer(Stderr);
    let subscriber = tracing_subscriber::registry().with(filter);
    let installed = match format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
            subscriber.with(layer.with_ansi(colours).with_target(false)).try_init()
        }
        LogFormat::Json => subscriber.with(layer.json().flatten_event(true).with_span_list(false)).try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!(%error, "logging was already set up");
    }
}

/// Writes to stderr while no progress bar is in the way.
#[derive(Debug, Clone, Copy)]
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        SCREEN.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        Stderr
    }
}
