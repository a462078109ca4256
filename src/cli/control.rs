//! `keepstep approve`, `pause`, `resume` and `reconcile`: commands for a running worker.

use super::args::{self, Global, Remote};
use super::confirmation::Confirmation;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::selection;
use super::text;
use crate::config::{self, Secrets};
use crate::http::client::{self, Target};
use serde_json::{Value, json};
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
    args.confirmation.check(&format!("approve applies the held deletes of {of}"))?;
    let held = if args.confirmation.yes { None } else { held(&args.selected, &pipeline.name, global).await? };
    match held {
        // Nothing is sent: what is held from now on was not asked for.
        Some(0) => return print("approve", &args.selected, &pipeline.name, "no delete waits for approval", global),
        Some(held) => {
            let deletes = text::count(held, "held delete", "held deletes");
            args.confirmation.ask(&format!("Apply {deletes} of {of}?"))?;
        }
        None => args.confirmation.ask(&format!("Apply the held deletes of {of}?"))?,
    }
    run("approve", &args.selected, global).await
}

/// How many deletes of the selected routes wait for approval; `None` if the worker does not own the pipeline.
async fn held(args: &Selected, pipeline: &str, global: &Global) -> Result<Option<u64>, Failure> {
    let target = args.remote.target(&global.data_dir, pipeline)?;
    let (code, body) = client::request(&target, "GET", "/status").await?;
    let status = serde_json::from_slice(&body).ok().filter(|_| code == 200);
    let status: Value = status.ok_or_else(|| Failure::Failed(format!("the worker at {target} answers {code}")))?;
    Ok(held_in(&status, pipeline, args.route.as_deref()))
}

fn held_in(status: &Value, pipeline: &str, route: Option<&str>) -> Option<u64> {
    let pipelines = status.get("pipelines")?.as_array()?;
    let pipeline = pipelines.iter().find(|it| text::field(it, "pipeline") == pipeline)?;
    // Only the owner knows its epoch.
    pipeline.get("epoch")?.as_u64().filter(|epoch| *epoch > 0)?;
    let routes = pipeline.get("routes")?.as_array()?;
    let selected = routes.iter().filter(|it| route.is_none_or(|route| text::field(it, "route") == route));
    Some(selected.filter_map(|it| it.get("awaiting_approval").and_then(Value::as_u64)).sum())
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
    print(verb, args, &pipeline.name, &sentence, global)
}

fn print(verb: &str, args: &Selected, pipeline: &str, sentence: &str, global: &Global) -> Result<Exit, Failure> {
    let mut out = Output::new(global.format);
    let row = json!({ "pipeline": pipeline, "command": verb, "route": args.route, "done": sentence });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_deletes_are_counted_by_route_and_only_by_the_owner() {
        let status = |epoch: u64| {
            let routes = json!([{"route": "a", "awaiting_approval": 200}, {"route": "b", "awaiting_approval": 0}]);
            json!({"pipelines": [{"pipeline": "p", "epoch": epoch, "routes": routes}]})
        };
        assert_eq!(held_in(&status(3), "p", None), Some(200));
        assert_eq!(held_in(&status(3), "p", Some("b")), Some(0));
        assert_eq!(held_in(&status(0), "p", None), None);
        assert_eq!(held_in(&status(3), "q", None), None);
    }
}
