//! `keepstep validate`: checks files and stores, and prints what each route guarantees.

use super::args::{self, Global};
use super::exit::{Exit, Failure};
use super::output::{Colour, Output, Paint};
use super::{guarantees, text};
use crate::assembly;
use crate::config::{self, Pipeline};
use crate::history::StartError;
use crate::store::preflight::{Finding, Level};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `validate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the guarantees of each route. With --connect, it also checks the stores: versions, permissions, notifications, eviction, limits, \
clocks; a warning does not fail the check. It changes nothing.

Examples:
  keepstep validate settings.yaml
  keepstep validate --connect --timeout 5s settings.yaml")]
pub(super) struct Validate {
    /// The pipeline files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Also check the stores
    #[arg(long, env = "KEEPSTEP_CONNECT", value_parser = clap::builder::BoolishValueParser::new())]
    connect: bool,
    /// With --connect: how long to wait for a store
    #[arg(long, env = "KEEPSTEP_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = args::duration)]
    timeout: Duration,
}

pub(super) async fn run(args: &Validate, global: &Global) -> Result<Exit, Failure> {
    let mut out = Output::new(global.format);
    let pipelines = match config::load_all(&args.files) {
        Ok(pipelines) => pipelines,
        Err(problems) => {
            if out.json()
                && let Ok(Value::Array(rows)) = serde_json::to_value(&problems)
            {
                rows.iter().try_for_each(|row| out.line(&row.to_string()))?;
                out.flush()?;
            }
            return Err(problems.into());
        }
    };
    for pipeline in &pipelines {
        describe(pipeline, &mut out)?;
    }
    out.flush()?;
    if args.connect { connect(&pipelines, global, args.timeout, &mut out).await } else { Ok(Exit::Done) }
}

fn describe(pipeline: &Pipeline, out: &mut Output) -> Result<(), Failure> {
    let file = pipeline.file.display().to_string();
    if !out.json() {
        let ok = out.paint.with(Colour::Good, "ok");
        out.line(&format!("{}: {ok}, pipeline {}", text::printable(&file), pipeline.name))?;
    }
    for route in &pipeline.routes {
        let row = json!({
            "file": file, "pipeline": pipeline.name, "route": route.name, "flow": pipeline.flow_text(route.flow),
            "guarantees": guarantees::of(pipeline, route),
        });
        out.row(&row, route_text)?;
    }
    for doubt in pipeline.doubts() {
        let finding = Finding::new(Level::Warning, "routes", doubt, "the first matching route wins, on both sides");
        out.row(&finding_row(pipeline, &finding), finding_text)?;
    }
    Ok(())
}

fn route_text(row: &Value, paint: Paint) -> String {
    let mut lines =
        format!("  route {}: {}", paint.with(Colour::Strong, &text::field(row, "route")), text::field(row, "flow"));
    for sentence in row.get("guarantees").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        lines.push_str(&format!("\n    - {}", text::printable(sentence)));
    }
    lines
}

/// Checks the stores of every pipeline before it returns: an unreachable store hides no finding of
/// the others.
async fn connect(
    pipelines: &[Pipeline],
    global: &Global,
    timeout: Duration,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    let mut failure: Option<Failure> = None;
    for pipeline in pipelines {
        let (findings, ended) = assembly::check_connections(pipeline, &global.data_dir, timeout, &global.network).await;
        for finding in &findings {
            out.row(&finding_row(pipeline, finding), finding_text)?;
            if finding.level == Level::Error {
                exit = Exit::Differs;
            }
        }
        match ended {
            Ok(()) => {}
            Err(error @ StartError::Unreachable(_)) => failure = Some(error.into()),
            Err(error) => failure = failure.or(Some(error.into())),
        }
        out.flush()?;
    }
    failure.map_or(Ok(exit), Err)
}

fn finding_row(pipeline: &Pipeline, finding: &Finding) -> Value {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    json!({
        "pipeline": pipeline.name, "store": finding.store, "level": level, "what": finding.what, "help": finding.help,
    })
}

fn finding_text(row: &Value, paint: Paint) -> String {
    let level = text::field(row, "level");
    let colour = match level.as_str() {
        "ok" => Colour::Good,
        "warning" => Colour::Wait,
        _ => Colour::Bad,
    };
    let level = paint.with(colour, &level);
    let mut line = format!(
        "  {} {}: {level}: {}",
        text::field(row, "pipeline"),
        text::field(row, "store"),
        text::field(row, "what")
    );
    let help = text::field(row, "help");
    if !help.is_empty() {
        line.push_str(&format!("\n    help: {help}"));
    }
    line
}
