//! `keepstep approve`, `pause`, `resume` and `reconcile`: what a running worker is told.

use super::args::{Global, Remote};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::place;
use super::text;
use super::which::Confirmation;
use crate::config;
use crate::http::client::{self, Target};
use serde_json::json;
use std::path::PathBuf;

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
pub(super) struct Approve {
    #[command(flatten)]
    steer: Steer,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn approve(args: &Approve, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load(&args.steer.file)?;
    let of = args.steer.route.as_ref().map_or_else(|| pipeline.name.clone(), |route| format!("route {route}"));
    args.confirmation.ask(&format!("Carry out the deletes of {of} that wait?"))?;
    run("approve", &args.steer, global).await
}

pub(super) async fn run(verb: &str, args: &Steer, global: &Global) -> Result<Exit, Failure> {
    let pipeline = config::load(&args.file)?;
    place::known_route(&pipeline, args.route.as_deref())?;
    let target = args.remote.target(&global.data_dir, &pipeline.name)?;
    let parameter = args.route.as_deref().map(|route| ("route", route));
    let sentence = tell(&target, verb, &pipeline.name, parameter).await?;
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
    parameter: Option<(&str, &str)>,
) -> Result<String, Failure> {
    let mut path = format!("/{verb}?pipeline={}", client::encode(pipeline));
    if let Some((name, value)) = parameter {
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
