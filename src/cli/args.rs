//! Flags that several commands have, and the form of their values.

use super::exit::Failure;
use crate::assembly::Network;
use crate::env;
use crate::http::client::{Address, Target};
use crate::http::{self, Token};
use crate::telemetry::logs::{LogFormat, LogLevel};
use std::path::{Path, PathBuf};

/// How results are printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of every command. They may stand before or after its name.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Everywhere")]
pub(super) struct Global {
    /// How results are printed on stdout: `text` for people, or `json`, one object a line
    #[arg(long, global = true, env = "KEEPSTEP_FORMAT", value_enum, value_name = "FORMAT", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub(super) format: Format,
    /// How the log on stderr is printed: `text` or `json`
    #[arg(long, global = true, env = "KEEPSTEP_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value = "text")]
    #[arg(hide_possible_values = true)]
    pub(super) log_format: LogFormat,
    /// The lowest level that is logged: off, error, warn, info, debug or trace
    #[arg(long, global = true, env = "KEEPSTEP_LOG_LEVEL", value_enum, value_name = "LEVEL", default_value = "info")]
    #[arg(hide_possible_values = true)]
    pub(super) log_level: LogLevel,
    /// The folder with a worker's data: one folder for each pipeline, with its stream and its
    /// socket
    #[arg(long, global = true, env = "KEEPSTEP_DATA_DIR", value_name = "FOLDER", default_value = "./data")]
    pub(super) data_dir: PathBuf,
    /// The ways to the stores.
    #[arg(skip)]
    pub(super) network: Network,
}

/// Flags of commands that talk to a running worker.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Remote {
    /// Address of a worker elsewhere, as in its `run --http`: `http://HOST:PORT`
    // A plain text that is parsed later, because clap would quote a wrong value, and the value may
    // hold a password.
    #[arg(long, env = "KEEPSTEP_URL", value_name = "URL", hide_env_values = true)]
    pub(super) url: Option<String>,
    /// With --url: file with the token from the worker's --http-token-file
    #[arg(long, env = "KEEPSTEP_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

impl Remote {
    /// The address of the worker of this pipeline.
    pub(super) fn target(&self, data_dir: &Path, pipeline: &str) -> Result<Target, Failure> {
        Ok(match self.elsewhere()? {
            Some(target) => target,
            None => Target::Unix(http::socket_path(data_dir, pipeline)),
        })
    }

    /// The worker at `--url`, if that is given.
    pub(super) fn elsewhere(&self) -> Result<Option<Target>, Failure> {
        let Some(url) = &self.url else { return Ok(None) };
        let url: Address = url.parse().map_err(|error| Failure::Usage(format!("--url: {error}")))?;
        let token = self.token_file.as_deref().map(Token::read).transpose();
        let token = token.map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(Some(Target::Url { url, token }))
    }
}

pub(super) use crate::http::duration;

/// Where reading a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
    /// At this position.
    Position(u64),
    /// At the first record recorded at or after this time, milliseconds since the epoch.
    Time(i64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text {
            "earliest" => return Ok(From::Earliest),
            "latest" => return Ok(From::Latest),
            _ => {}
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(From::Position).map_err(|_| "this number is too large for a position".to_owned());
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(From::Time(time.as_millisecond()));
        }
        let before = duration(text).ok().and_then(|before| i64::try_from(before.as_millis()).ok());
        before.map(|before| From::Time(env::unix_ms().saturating_sub(before))).ok_or_else(|| {
            "give earliest, latest, a position (42), a time (2026-11-22T17:00:00Z) or a time before now (10m)"
                .to_owned()
        })
    }
}

/// The address of the HTTP endpoints: `HOST:PORT`, or `off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listen {
    /// Nowhere.
    Off,
    /// At this address.
    At(String),
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if text == "off" {
            return Ok(Listen::Off);
        }
        let wrong = || "give HOST:PORT, such as 127.0.0.1:9464, or `off` to serve nothing".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = match bare {
            Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b'_'))
            }
        };
        if !fits || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Listen::At(text.to_owned()))
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test may stop")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_length_of_time_has_a_unit_or_is_seconds() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(duration("1d12h"), Ok(Duration::from_secs(36 * 3_600)));
        for wrong in ["", "-1s", "soon", "1x"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_place_in_the_stream_is_a_word_a_position_or_a_time() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        assert_eq!("latest".parse(), Ok(From::Latest));
        assert_eq!("42".parse(), Ok(From::Position(42)));
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(From::Time(1_700_000_000_000)));
        assert_eq!("2023-11-14T23:13:20.5+01:00".parse(), Ok(From::Time(1_700_000_000_500)));
        let before = env::unix_ms();
        let Ok(From::Time(ms)) = "10m".parse() else { panic!("10m is a time before now") };
        assert!((before - 600_000..=env::unix_ms() - 600_000).contains(&ms));
        for wrong in ["", "-1", "-10m", "now", "2023-11-14", "99999999999999999999"] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_to_listen_at_has_a_host_and_a_port() {
        for right in ["127.0.0.1:9464", "0.0.0.0:0", "localhost:80", "[::1]:9464", "off"] {
            assert!(right.parse::<Listen>().is_ok(), "{right}");
        }
        for wrong in ["", "9464", ":9464", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", "::1:9464", "http://a:1"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
