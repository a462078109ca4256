//! The endpoints, by path.

use super::control::{self, Action, Parameters};
use super::exposition::{self, Exposition};
use super::page;
use super::replaced;
use super::rows;
use super::state::{AppState, Listener};
use crate::env;
use crate::pipeline::control::{PipelineStatus, RouteState};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The largest request body: a few names. Anything longer is a mistake.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// The longest that a request may take, body included. A handle answers within milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone)]
struct Shared {
    state: Arc<AppState>,
    listener: Listener,
}

/// The endpoints of a worker, as one listener serves them.
pub fn router(state: Arc<AppState>, listener: Listener) -> Router {
    let controlling = |action: Action| {
        post(
            move |State(shared): State<Shared>,
                  headers: HeaderMap,
                  query: Result<Query<Parameters>, QueryRejection>,
                  body: Result<Bytes, BytesRejection>| async move {
                control(&shared, action, &headers, query, body).await
            },
        )
    };
    Router::new()
        .route("/", get(index))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/quarantine", get(quarantine))
        .route("/pause", controlling(Action::Pause))
        .route("/resume", controlling(Action::Resume))
        .route("/reconcile", controlling(Action::Reconcile))
        .route("/approve", controlling(Action::Approve))
        .route("/quarantine/retry", controlling(Action::Retry))
        .route("/quarantine/drop", controlling(Action::Drop))
        .route("/keep", post(record_replaced).layer(DefaultBodyLimit::max(replaced::BODY_BYTES_MAX)))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(guard))
        .with_state(Shared { state, listener })
}

/// Limits the time of a request, and adds headers that protect browsers.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = match env::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    );
    response
}

/// Records replaced values for commands on this machine. On TCP this endpoint does not exist.
async fn record_replaced(
    State(shared): State<Shared>,
    query: Result<Query<Parameters>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if !matches!(shared.listener, Listener::Unix) {
        return not_found().await;
    }
    match (query, body) {
        (Ok(Query(parameters)), Ok(body)) => control::record_replaced(&shared.state, &parameters, &body).await,
        (Err(rejection), _) => rejection.into_response(),
        (_, Err(rejection)) => rejection.into_response(),
    }
}

async fn not_found() -> Response {
    let text = "no such endpoint; see /live, /ready, /metrics, /status, /quarantine and /\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(shared): State<Shared>) -> Response {
    let statuses = shared.state.statuses();
    let ready = shared.state.ready(&statuses);
    let pipelines: Vec<Value> = statuses
        .iter()
        .map(|status| {
            let routes: Vec<Value> = status
                .routes
                .iter()
                .filter(|route| route.state != RouteState::Live)
                .map(|route| json!({ "route": route.route, "state": route.state }))
                .collect();
            json!({
                "pipeline": status.pipeline, "ready": status.ready, "state": status.state, "note": status.note,
                "stores_away": away(status), "routes": routes,
            })
        })
        .collect();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, json_page(&json!({ "ready": ready, "pipelines": pipelines }))).into_response()
}

fn away(status: &PipelineStatus) -> Vec<&str> {
    status.stores.iter().filter(|store| !store.connected).map(|store| store.name.as_str()).collect()
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::accepted(accept);
    let text = exposition::page(&shared.state.metrics, &shared.state.statuses(), exposition);
    ([(header::CONTENT_TYPE, exposition.content_type())], text).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"), "worker": shared.state.worker, "pipelines": shared.state.statuses(),
    });
    json_page(&body)
}

async fn index(State(shared): State<Shared>) -> Response {
    Html(page::render(&shared.state.worker, &shared.state.statuses())).into_response()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selected {
    pipeline: Option<String>,
}

async fn quarantine(State(shared): State<Shared>, selected: Result<Query<Selected>, QueryRejection>) -> Response {
    let selected = match selected {
        Ok(Query(selected)) => selected,
        Err(rejection) => return bad_request(&rejection.body_text()),
    };
    let is_selected = |name: &str| selected.pipeline.as_deref().is_none_or(|pipeline| pipeline == name);
    let pipelines: Vec<Value> = shared
        .state
        .handles()
        .iter()
        .filter(|handle| is_selected(handle.name()))
        .map(|handle| {
            let status = handle.status();
            let names = rows::names(&status);
            let rows: Vec<Value> = handle.quarantine().iter().map(|row| rows::quarantined(row, &names)).collect();
            json!({ "pipeline": handle.name(), "state": status.state, "quarantine": rows })
        })
        .collect();
    json_page(&json!({ "pipelines": pipelines }))
}

async fn control(
    shared: &Shared,
    action: Action,
    headers: &HeaderMap,
    query: Result<Query<Parameters>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if let Some(refusal) = control::refusal(&shared.listener, headers) {
        return refusal;
    }
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_request(&rejection.body_text()),
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    match Parameters::read(Some(query), &body) {
        Ok(parameters) => control::execute(&shared.state, &parameters, action).await,
        Err(error) => bad_request(&format!("the body must be a JSON object: {error}")),
    }
}

fn bad_request(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response()
}

fn json_page(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}
