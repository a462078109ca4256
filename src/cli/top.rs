//! `keepstep top`: the state of running workers, live.

use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::{self, Output};
use super::status::{Selected, Workers};
use crate::env;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Shows the state of running workers repeatedly, until Ctrl-C. Exits 75 if no worker answers at
/// the start.
#[derive(Debug, clap::Args)]
pub(super) struct Top {
    #[command(flatten)]
    selected: Selected,
    /// How often the state is read
    #[arg(long, env = "KEEPSTEP_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = super::args::duration)]
    interval: Duration,
}

/// The alternate screen without a cursor, and back (xterm).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Shorter intervals would show nothing new: a lag is counted in tenths of a second.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &Top, global: &Global) -> Result<Exit, Failure> {
    let workers = Workers::find(&args.selected, global)?;
    let mut out = Output::new(global.format);
    workers.ask().await?;
    let screen = std::io::stdout().is_terminal() && !out.json();
    if screen {
        out.raw(ENTER)?;
    }
    let ended = tokio::select! {
        biased;
        () = output::closed() => Err(Failure::Closed),
        () = super::run::interrupted() => Ok(Exit::Done),
        ended = redraw(args, &workers, screen, &mut out) => ended,
    };
    if screen {
        out.raw(LEAVE)?;
        out.flush()?;
    }
    ended
}

async fn redraw(args: &Top, workers: &Workers, screen: bool, out: &mut Output) -> Result<Exit, Failure> {
    loop {
        let asked = workers.ask().await;
        if screen {
            out.raw(CLEAR)?;
        }
        match asked {
            Ok(all) => {
                for answer in all {
                    out.row(&answer.row, |_, paint| answer.text(paint, env::unix_ms()))?;
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
