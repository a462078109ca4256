//! Logging: to stderr, above a progress bar if there is one.

use crate::change::brief;
use indicatif::MultiProgress;
use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::sync::LazyLock;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The form of a log line.
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
    /// Events on which somebody must act.
    Error,
    /// Events on which somebody must act if they last.
    Warn,
    /// Events that an operator wants to find in the log.
    #[default]
    Info,
    /// Details for developers.
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

/// Where progress bars are drawn. Log lines are written above them.
#[must_use]
pub fn screen() -> &'static MultiProgress {
    &SCREEN
}

/// Sends the log to stderr. Called once, before anything else; a second call has no effect.
///
/// Dependencies never log below `warn`, whatever the level: at `debug` a client may print what it
/// sends, and that may be a password. The ZooKeeper client's line for each attempt to connect
/// appears only from `debug` on: the pipeline logs once that the store is away.
pub fn install(format: LogFormat, level: LogLevel) {
    let ours = level.filter();
    let attempts = if ours >= LevelFilter::DEBUG { LevelFilter::WARN } else { ours.min(LevelFilter::ERROR) };
    let filter = Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("zookeeper_client::session", attempts)
        .with_target("keepstep", ours);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    let layer = tracing_subscriber::fmt::layer().with_writer(Stderr { format, colours });
    let subscriber = tracing_subscriber::registry().with(filter);
    let installed = match format {
        LogFormat::Text => subscriber.with(layer.with_ansi(colours).with_target(false)).try_init(),
        LogFormat::Json => subscriber.with(layer.json().flatten_event(true).with_span_list(false)).try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!(%error, "logging was already set up");
    }
}

/// Bytes of a log line, its end included. Code that logs keeps names and texts short, so that
/// nothing important is cut; this limit is for lines of dependencies.
const LINE_BYTES: usize = 1023;

/// Writes to stderr, one line at a time, while no progress bar is drawn.
#[derive(Debug, Clone, Copy)]
struct Stderr {
    format: LogFormat,
    colours: bool,
}

impl Stderr {
    /// The line with control characters escaped, since it may contain texts of servers. In JSON
    /// they are escaped already.
    fn tidied(self, line: &[u8]) -> Cow<'_, [u8]> {
        let is_plain = |byte: &u8| (b' '..0x7f).contains(byte);
        let Some((end, text)) = line.split_last() else { return Cow::Borrowed(line) };
        if self.format == LogFormat::Json || text.iter().all(is_plain) {
            return Cow::Borrowed(line);
        }
        let text = String::from_utf8_lossy(text);
        let mut out = if self.colours {
            // An escape character begins one of our colours: the subscriber escapes those in texts.
            text.split('\u{1b}').map(brief::printable).collect::<Vec<_>>().join("\u{1b}").into_bytes()
        } else {
            brief::printable(&text).into_bytes()
        };
        out.push(*end);
        Cow::Owned(out)
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let tidied = self.tidied(line);
        if tidied.len() <= LINE_BYTES {
            SCREEN.suspend(|| io::stderr().write_all(&tidied))?;
        } else {
            SCREEN.suspend(|| io::stderr().write_all(&shortened(&tidied)))?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A line with its long parts shortened. A line of JSON stays JSON.
fn shortened(line: &[u8]) -> Vec<u8> {
    let mut short = match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line) {
        Ok(mut fields) => {
            // Halved until it fits: how many bytes the quotation marks in a text add is not known
            // beforehand.
            let mut bytes = brief::TEXT_BYTES;
            loop {
                for text in fields.values_mut() {
                    if let serde_json::Value::String(text) = text {
                        *text = brief::shortened(text, bytes).into_owned();
                    }
                }
                let short = serde_json::to_vec(&fields).unwrap_or_default();
                if short.len() < LINE_BYTES || bytes < 10 {
                    break short;
                }
                bytes /= 2;
            }
        }
        Err(_) => {
            let text = String::from_utf8_lossy(line);
            brief::shortened(text.trim_end(), LINE_BYTES - 1).into_owned().into_bytes()
        }
    };
    short.push(b'\n');
    short
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Stderr;

    fn make_writer(&'a self) -> Stderr {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_others_have_written() {
        let line = "WARN it said: a\nb\u{1b}[31m\u{2028}c\n".as_bytes();
        let plain = Stderr { format: LogFormat::Text, colours: false };
        let tidied = plain.tidied(line);
        assert_eq!(String::from_utf8_lossy(&tidied), "WARN it said: a\\u{a}b\\u{1b}[31m\\u{2028}c\n");
        let coloured = Stderr { colours: true, ..plain };
        assert!(String::from_utf8_lossy(&coloured.tidied(line)).contains("\\u{a}b\u{1b}[31m"));
        let json = Stderr { format: LogFormat::Json, ..plain };
        assert_eq!(json.tidied(line).as_ref(), line);
    }

    #[test]
    fn a_long_line_is_shortened_to_one_line_and_json_stays_json() {
        let long = "x\"".repeat(300_000);
        let text = shortened(format!("2026-11-30 WARN {long} pipeline=\"settings\"\n").as_bytes());
        let json = shortened(format!("{}\n", serde_json::json!({"level": "WARN", "message": long, "n": 1})).as_bytes());
        for line in [&text, &json] {
            assert!(line.len() <= LINE_BYTES, "{}", line.len());
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        }
        assert!(String::from_utf8_lossy(&text).contains("WARN") && String::from_utf8_lossy(&text).contains("settings"));
        let json: Option<serde_json::Value> = serde_json::from_slice(&json).ok();
        assert_eq!(json.as_ref().and_then(|json| json.get("n")?.as_i64()), Some(1));
    }
}
