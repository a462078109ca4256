//! `keepstep schema`: what a pipeline file and a change look like, for editors and for readers of the stream.

use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::{codec, config};

/// Prints the JSON Schema of a pipeline file, or the Avro schema of a change.
#[derive(Debug, clap::Args)]
pub(super) struct Schema {
    /// Of what
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// The pipeline file: JSON Schema
    Pipeline,
    /// A change on the stream: Avro
    Change,
}

pub(super) fn run(args: &Schema, global: &Global) -> Result<Exit, Failure> {
    let schema = match args.what {
        What::Pipeline => config::SCHEMA,
        What::Change => codec::SCHEMA,
    };
    let mut out = Output::new(global.format);
    if out.json() {
        let parsed: serde_json::Value = serde_json::from_str(schema)
            .map_err(|error| Failure::Failed(format!("the compiled-in schema is broken: {error}")))?;
        out.line(&parsed.to_string())?;
    } else {
        out.line(schema)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}
