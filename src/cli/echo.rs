//! `keepstep echo`: the resolved pipeline.

use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::config;
use std::path::PathBuf;

/// Prints the resolved pipeline: variables replaced, defaults filled in, secrets masked.
#[derive(Debug, clap::Args)]
pub(super) struct Echo {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Echo, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load(&args.file)?;
    let mut out = Output::new(global.format);
    if out.json() {
        out.line(&config::echo_json(&pipeline).to_string())?;
    } else {
        out.line(&config::echo(&pipeline))?;
    }
    out.flush()?;
    Ok(Exit::Done)
}
