//! `keepstep approve`, `pause`, `resume` and `reconcile`: commands for a running worker.

use super::args::{self, Global, Remote};
use super::confirmation::Confirmation;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::selection;
use super::text;
use crate::config::{self, Secrets};
use crate::http::client::{self, Target};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// The pipeline, or one of its routes.
#[derive(Debug, clap::Args)]
pub(super) struct Selected {
    /// The pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only this route
    #[arg(long, env = "KEEPSTEP_ROUTE", value_name = "NAME")]
    route: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Arguments of `approve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The delete guard holds deletes that a comparison infers if they are more than 100 and more than half of a route. `keepstep status` \
shows how many, `keepstep diff` lists them as missing or extra. To revert them instead, make the store that lacks the pairs equal to \
the other one: `keepstep repair FILE --prefer STORE`.

Examples:
  keepstep approve settings.yaml
  keepstep approve settings.yaml --route settings --yes")]
pub(super) struct Approve {
    #[command(flatten)]
    selected: Selected,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn approve(args: &Approve, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&args.selected.file, Secrets::None)?;
    selection::known_route(&pipeline, args.selected.route.as_deref())?;
    let of = args.selected.route.as_ref().map_or_else(|| pipeline.name.clone(), |route| format!("route {route}"));
    args.confirmation.ask(&format!("Apply the held deletes of {of}?"))?;
    run("approve", &args.selected, global).await
}

/// The pipeline, and the length of the pause.
#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    selected: Selected,
    /// Resume automatically after this time; without it the pause lasts until `keepstep resume`,
    /// also after restarts and takeovers
    #[arg(long = "for", env = "KEEPSTEP_FOR", value_name = "TIME", value_parser = args::duration)]
    length: Option<Duration>,
}

pub(super) async fn pause(args: &Pause, global: &Global) -> Result<Exit, Failure> {
    let length = args.length.map(|length| format!("{}ms", length.as_millis()));
    control("pause", &args.selected, length.as_deref().map(|length| ("for", length)), global).await
}

pub(super) async fn run(verb: &str, args: &Selected, global: &Global) -> Result<Exit, Failure> {
    control(verb, args, None, global).await
}

async fn control(verb: &str, args: &Selected, more: Option<(&str, &str)>, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&args.file, Secrets::None)?;
    selection::known_route(&pipeline, args.route.as_deref())?;
    let target = args.remote.target(&global.data_dir, &pipeline.name)?;
    let parameter = args.route.as_deref().map(|route| ("route", route));
    let parameters: Vec<(&str, &str)> = parameter.into_iter().chain(more).collect();
    let sentence = send(&target, verb, &pipeline.name, &parameters).await?;
    let mut out = Output::new(global.format);
    let row = json!({ "pipeline": pipeline.name, "command": verb, "route": args.route, "done": sentence });
    out.row(&row, |row, _| text::field(row, "done"))?;
    out.flush()?;
    Ok(Exit::Done)
}

/// Sends the command to the worker, and returns its answer, a sentence.
pub(super) async fn send(
    target: &Target,
    verb: &str,
    pipeline: &str,
    parameters: &[(&str, &str)],
) -> Result<String, Failure> {
    let mut path = format!("/{verb}?pipeline={}", client::encode(pipeline));
    for (name, value) in parameters {
        path.push_str(&format!("&{name}={}", client::encode(value)));
    }
    let (code, body) = client::request(target, "POST", &path).await?;
    let sentence = String::from_utf8_lossy(&body).trim().to_owned();
    match code {
        200 => Ok(sentence),
        401 => Err(Failure::Failed(format!("the worker at {target} does not accept the token; see --token-file"))),
        _ => Err(Failure::Failed(if sentence.is_empty() { format!("the worker answers {code}") } else { sentence })),
    }
}
