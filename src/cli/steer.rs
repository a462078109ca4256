//! `keepstep approve`, `pause`, `resume` and `reconcile`: what a running worker is told.

use super::args::{self, Global, Remote};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::place;
use super::text;
use super::which::Confirmation;
use crate::config::{self, Secrets};
use crate::http::client::{self, Target};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// The pipeline and, if not all of it is meant, the route.
#[derive(Debug, clap::Args)]
pub(super) struct Steer {
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
Deletes that a comparison infers, of more than 100 pairs and more than half of a route, wait: `keepstep status` says how many, \
`keepstep diff` lists them as missing or extra. To undo them instead, make the store that lacks the pairs equal to the other: \
`keepstep repair FILE --prefer STORE`.

Examples:
  keepstep approve settings.yaml
  keepstep approve settings.yaml --route settings --yes")]
pub(super) struct Approve {
    #[command(flatten)]
    steer: Steer,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn approve(args: &Approve, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&args.steer.file, Secrets::None)?;
    place::known_route(&pipeline, args.steer.route.as_deref())?;
    let of = args.steer.route.as_ref().map_or_else(|| pipeline.name.clone(), |route| format!("route {route}"));
    args.confirmation.ask(&format!("Carry out the deletes of {of} that wait?"))?;
    run("approve", &args.steer, global).await
}

/// The pipeline, and how long.
#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    steer: Steer,
    /// Go on by itself after this time; without it the pause lasts until `keepstep resume`, over restarts and take-overs
    #[arg(long = "for", env = "KEEPSTEP_FOR", value_name = "TIME", value_parser = args::duration)]
    length: Option<Duration>,
}

pub(super) async fn pause(args: &Pause, global: &Global) -> Result<Exit, Failure> {
    let length = args.length.map(|length| format!("{}ms", length.as_millis()));
    ask("pause", &args.steer, length.as_deref().map(|length| ("for", length)), global).await
}

pub(super) async fn run(verb: &str, args: &Steer, global: &Global) -> Result<Exit, Failure> {
    ask(verb, args, None, global).await
}

async fn ask(verb: &str, args: &Steer, more: Option<(&str, &str)>, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load_with(&args.file, Secrets::None)?;
    place::known_route(&pipeline, args.route.as_deref())?;
    let target = args.remote.target(&global.data_dir, &pipeline.name)?;
    let parameter = args.route.as_deref().map(|route| ("route", route));
    let parameters: Vec<(&str, &str)> = parameter.into_iter().chain(more).collect();
    let sentence = tell(&target, verb, &pipeline.name, &parameters).await?;
    let mut out = Output::new(global.format);
    let row = json!({ "pipeline": pipeline.name, "command": verb, "route": args.route, "done": sentence });
    out.row(&row, |row, _| text::field(row, "done"))?;
    out.flush()?;
    Ok(Exit::Done)
}

/// Tells the worker, and answers with its sentence.
pub(super) async fn tell(
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
