//! `keepstep schema`: the schemas of a pipeline file and of a change, for editors and for readers
//! of the stream.

use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::{codec, config};

/// Prints the JSON Schema of a pipeline file, or the Avro schema of a change.
#[derive(Debug, clap::Args)]
pub(super) struct Schema {
    /// Which schema
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// The JSON Schema of a pipeline file
    Pipeline,
    /// The Avro schema of a change on the stream
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
