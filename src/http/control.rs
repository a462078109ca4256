//! The endpoints that control a worker: who may use them, their parameters, and their answers.

use super::state::{AppState, Listener};
use crate::pipeline::control::{Command, CommandError, Handle};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Pause,
    Resume,
    Reconcile,
    Approve,
    Retry,
    Drop,
}

/// The parameters of a request, from its query or from a JSON body. An unknown one is refused: a
/// misspelt `route` must not pause everything.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    pipeline: Option<String>,
    route: Option<String>,
    key: Option<String>,
    /// With `pause`: its length.
    r#for: Option<String>,
}

impl Parameters {
    /// The parameters of the body, completed by those of the query.
    pub(super) fn read(query: Option<Parameters>, body: &[u8]) -> Result<Parameters, serde_json::Error> {
        let query = query.unwrap_or_default();
        let body: Parameters =
            if body.trim_ascii().is_empty() { Parameters::default() } else { serde_json::from_slice(body)? };
        Ok(Parameters {
            pipeline: body.pipeline.or(query.pipeline),
            route: body.route.or(query.route),
            key: body.key.or(query.key),
            r#for: body.r#for.or(query.r#for),
        })
    }

    /// The command; the error explains which parameter is wrong.
    fn command(&self, action: Action) -> Result<Command, String> {
        let (route, key) = (self.route.clone(), self.key.clone().map(String::into_bytes));
        let length = self.r#for.as_deref().map(duration).transpose()?;
        if length.is_some() && action != Action::Pause {
            return Err("only a pause has a `for`".to_owned());
        }
        if length.is_some_and(|length| length.is_zero()) {
            return Err("a pause cannot have the length 0: give `for` a length such as 10m".to_owned());
        }
        Ok(match action {
            Action::Pause => Command::Pause(route, length),
            Action::Resume => Command::Resume(route),
            Action::Reconcile => Command::Reconcile(route),
            Action::Approve => Command::Approve(route),
            Action::Retry => Command::QuarantineRetry(key),
            Action::Drop => Command::QuarantineDrop(key),
        })
    }
}

/// A duration: `30s`, `500ms`, `2m`, `1m30s`, `7d`; a plain number is seconds.
///
/// # Errors
///
/// The expected form.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let wrong = || "give a duration such as 30s, 500ms, 2m, 1h or 7d".to_owned();
    // jiff's days depend on a calendar; these have 24 hours.
    let (days, rest) = text.split_once('d').unwrap_or(("0", text));
    let days: u64 = days.parse().map_err(|_| wrong())?;
    let rest = match rest {
        "" if days > 0 => Duration::ZERO,
        rest => {
            rest.parse().ok().and_then(|rest: jiff::SignedDuration| Duration::try_from(rest).ok()).ok_or_else(wrong)?
        }
    };
    days.checked_mul(86_400).and_then(|days| Duration::from_secs(days).checked_add(rest)).ok_or_else(wrong)
}

/// The refusal of a request that may not control the worker; `None`: it may.
#[must_use]
pub(super) fn refusal(listener: &Listener, headers: &HeaderMap) -> Option<Response> {
    let token = match listener {
        Listener::Unix => return None,
        Listener::Tcp(None) => {
            let text = "control over HTTP is off; `keepstep run --http-token-file FILE` turns it on\n";
            return Some((StatusCode::NOT_FOUND, text).into_response());
        }
        Listener::Tcp(Some(token)) => token,
    };
    if bearer(headers).is_some_and(|offered| token.admits(offered)) {
        return None;
    }
    let text = "this needs the header `Authorization: Bearer TOKEN` with the token of --http-token-file\n";
    Some((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response())
}

/// The scheme is not case-sensitive (RFC 9110, 11.1); exactly one header counts.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else { return None };
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Sends the command to every selected pipeline, and answers in sentences, one on each line.
///
/// Without `pipeline`, all pipelines are selected. The request succeeds if one of them executed the
/// command. Otherwise the answer is the refusal of the first pipeline that this worker does not
/// own, or else the first refusal.
pub(super) async fn execute(state: &AppState, parameters: &Parameters, action: Action) -> Response {
    let selected = match selected(state, parameters.pipeline.as_deref()) {
        Ok(selected) => selected,
        Err(refusal) => return refusal,
    };
    let command = match parameters.command(action) {
        Ok(command) => command,
        Err(wrong) => return (StatusCode::BAD_REQUEST, line(&wrong)).into_response(),
    };
    let several = selected.len() > 1;
    let mut done = Vec::new();
    let mut refused: Vec<CommandError> = Vec::new();
    for handle in selected {
        match handle.command(command.clone()).await {
            Ok(sentence) if several => done.push(format!("{}: {sentence}", handle.name())),
            Ok(sentence) => done.push(sentence),
            Err(error) => refused.push(error),
        }
    }
    if done.is_empty() {
        let not_owner = refused.iter().find(|error| matches!(error, CommandError::NotOwner(_)));
        return match not_owner.or(refused.first()) {
            Some(CommandError::NotOwner(text)) => (StatusCode::CONFLICT, line(text)).into_response(),
            Some(CommandError::UnknownRoute(text) | CommandError::Nothing(text)) => {
                (StatusCode::NOT_FOUND, line(text)).into_response()
            }
            Some(CommandError::Failed(text)) => (StatusCode::SERVICE_UNAVAILABLE, line(text)).into_response(),
            None => not_started(),
        };
    }
    // That a pipeline does not have the route is no failure if another one has it. That another
    // worker owns it is.
    done.extend(refused.into_iter().filter_map(|error| match error {
        CommandError::NotOwner(text) | CommandError::Failed(text) => Some(format!("not done: {text}")),
        CommandError::UnknownRoute(_) | CommandError::Nothing(_) => None,
    }));
    (StatusCode::OK, line(&done.join("\n"))).into_response()
}

/// Puts replaced values on the stream of the pipeline that the parameters name.
pub(super) async fn record_replaced(state: &AppState, parameters: &Parameters, body: &[u8]) -> Response {
    let selected = match selected(state, parameters.pipeline.as_deref()) {
        Ok(selected) => selected,
        Err(refusal) => return refusal,
    };
    let [handle] = selected.as_slice() else {
        return (StatusCode::BAD_REQUEST, "give the parameter `pipeline`\n").into_response();
    };
    let changes = match super::replaced::unpack(body) {
        Ok(changes) => changes,
        Err(error) => return (StatusCode::BAD_REQUEST, line(&error.to_string())).into_response(),
    };
    match handle.command(Command::Keep(changes)).await {
        Ok(sentence) => (StatusCode::OK, line(&sentence)).into_response(),
        Err(CommandError::NotOwner(text)) => (StatusCode::CONFLICT, line(&text)).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, line(&error.to_string())).into_response(),
    }
}

#[expect(clippy::result_large_err, reason = "the error is the response itself, made once a request")]
fn selected<'a>(state: &'a AppState, pipeline: Option<&str>) -> Result<Vec<&'a Arc<dyn Handle>>, Response> {
    let all = state.handles();
    let Some(pipeline) = pipeline else { return Ok(all.iter().collect()) };
    let selected: Vec<_> = all.iter().filter(|handle| handle.name() == pipeline).collect();
    if !selected.is_empty() {
        return Ok(selected);
    }
    if all.is_empty() {
        return Err(not_started());
    }
    let names: Vec<&str> = all.iter().map(|handle| handle.name()).collect();
    let text = format!("no pipeline of that name runs here; the pipelines here are: {}\n", names.join(", "));
    Err((StatusCode::NOT_FOUND, text).into_response())
}

fn not_started() -> Response {
    (StatusCode::CONFLICT, "the pipelines of this worker have not started yet\n").into_response()
}

fn line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;

    #[test]
    fn the_body_decides_before_the_query() {
        let query = Parameters { pipeline: Some("p".to_owned()), route: Some("a".to_owned()), ..Parameters::default() };
        let parameters = Parameters::read(Some(query), br#"{"route": "b"}"#).unwrap();
        assert_eq!((parameters.pipeline.as_deref(), parameters.route.as_deref()), (Some("p"), Some("b")));
    }

    #[test]
    fn a_misspelt_parameter_is_refused() {
        assert!(Parameters::read(None, br#"{"rout": "b"}"#).is_err());
        assert!(Parameters::read(None, b" ").is_ok());
    }

    #[test]
    fn a_bearer_token_is_read_from_one_header_only() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.append(header::AUTHORIZATION, "bearer  abc".parse().unwrap());
        assert_eq!(bearer(&headers), Some(&b"abc"[..]));
        headers.append(header::AUTHORIZATION, "Bearer abc".parse().unwrap());
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, "Basic abc".parse().unwrap());
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, "B".parse().unwrap());
        assert_eq!(bearer(&headers), None);
    }
}
