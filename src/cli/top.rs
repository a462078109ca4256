//! `keepstep top`: how running workers are doing, live.

use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::{self, Output};
use super::status::{Watched, Which};
use crate::env;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Shows how running workers are doing, again and again, until Ctrl-C. Exits 75 when none answers at first.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    #[command(flatten)]
    which: Which,
    /// How often
    #[arg(long, env = "KEEPSTEP_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = super::args::duration)]
    interval: Duration,
}

/// The alternate screen without a cursor, and back (xterm).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const CLEAR: &str = "\x1b[H\x1b[2J";
/// More often than that tells nothing new: a lag is counted in tenths of a second.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &Top, global: &Global) -> Result<Exit, Failure> {
    let watched = Watched::find(&args.which, global)?;
    let mut out = Output::new(global.format);
    watched.ask().await?;
    let screen = std::io::stdout().is_terminal() && !out.json();
    if screen {
        out.raw(ENTER)?;
    }
    let ended = tokio::select! {
        biased;
        () = output::closed() => Err(Failure::Closed),
        () = super::run::interrupted() => Ok(Exit::Done),
        ended = redraw(args, &watched, screen, &mut out) => ended,
    };
    if screen {
        out.raw(LEAVE)?;
        out.flush()?;
    }
    ended
}

async fn redraw(args: &Top, watched: &Watched, screen: bool, out: &mut Output) -> Result<Exit, Failure> {
    loop {
        let asked = watched.ask().await;
        if screen {
            out.raw(CLEAR)?;
        }
        match asked {
            Ok(all) => {
                for told in all {
                    out.row(&told.row, |_, paint| told.text(paint, env::unix_ms()))?;
                    if !out.json() {
                        out.line("")?;
                    }
                }
            }
            Err(Failure::Unreachable(sentence)) if screen => out.line(&sentence)?,
            Err(Failure::Unreachable(sentence)) => tracing::warn!("{sentence}"),
            Err(failure) => return Err(failure),
        }
        out.flush()?;
        env::sleep(args.interval.max(INTERVAL_MIN)).await;
    }
}
