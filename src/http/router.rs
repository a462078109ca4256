//! Which address shows what.

use super::keep;
use super::page;
use super::rows;
use super::site::{Door, Site};
use super::steer::{self, Ask, Verb};
use crate::env;
use crate::pipeline::control::{PipelineStatus, RouteState};
use crate::telemetry::Exposition;
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
    site: Arc<Site>,
    door: Door,
}

/// The pages of a worker as one door shows them.
pub fn router(site: Arc<Site>, door: Door) -> Router {
    let steering = |verb: Verb| {
        post(
            move |State(shared): State<Shared>,
                  headers: HeaderMap,
                  query: Result<Query<Ask>, QueryRejection>,
                  body: Result<Bytes, BytesRejection>| async move {
                steer(&shared, verb, &headers, query, body).await
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
        .route("/pause", steering(Verb::Pause))
        .route("/resume", steering(Verb::Resume))
        .route("/reconcile", steering(Verb::Reconcile))
        .route("/approve", steering(Verb::Approve))
        .route("/quarantine/retry", steering(Verb::Retry))
        .route("/quarantine/drop", steering(Verb::Drop))
        .route("/keep", post(keep_values).layer(DefaultBodyLimit::max(keep::BODY_BYTES_MAX)))
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(guard))
        .with_state(Shared { site, door })
}

/// Bounds the time of a request, and says to browsers what these pages are not.
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

/// Only commands on this machine keep values; on other doors it is not there.
async fn keep_values(
    State(shared): State<Shared>,
    query: Result<Query<Ask>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if !matches!(shared.door, Door::Unix) {
        return nothing().await;
    }
    match (query, body) {
        (Ok(Query(ask)), Ok(body)) => steer::keep(&shared.site, &ask, &body).await,
        (Err(rejection), _) => rejection.into_response(),
        (_, Err(rejection)) => rejection.into_response(),
    }
}

async fn nothing() -> Response {
    let text = "there is nothing here; see /live, /ready, /metrics, /status, /quarantine and /\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(shared): State<Shared>) -> Response {
    let statuses = shared.site.statuses();
    let ready = shared.site.ready(&statuses);
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
    let text = shared.site.metrics.text(&shared.site.statuses(), exposition);
    ([(header::CONTENT_TYPE, exposition.content_type())], text).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"), "worker": shared.site.worker, "pipelines": shared.site.statuses(),
    });
    json_page(&body)
}

async fn index(State(shared): State<Shared>) -> Response {
    Html(page::render(&shared.site.worker, &shared.site.statuses())).into_response()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    pipeline: Option<String>,
}

async fn quarantine(State(shared): State<Shared>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let which = match which {
        Ok(Query(which)) => which,
        Err(rejection) => return bad_request(&rejection.body_text()),
    };
    let meant = |name: &str| which.pipeline.as_deref().is_none_or(|pipeline| pipeline == name);
    let pipelines: Vec<Value> = shared
        .site
        .handles()
        .iter()
        .filter(|handle| meant(handle.name()))
        .map(|handle| {
            let status = handle.status();
            let names = rows::names(&status);
            let rows: Vec<Value> = handle.quarantine().iter().map(|row| rows::quarantined(row, &names)).collect();
            json!({ "pipeline": handle.name(), "state": status.state, "quarantine": rows })
        })
        .collect();
    json_page(&json!({ "pipelines": pipelines }))
}

async fn steer(
    shared: &Shared,
    verb: Verb,
    headers: &HeaderMap,
    query: Result<Query<Ask>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    if let Some(refusal) = steer::refusal(&shared.door, headers) {
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
    match Ask::read(Some(query), &body) {
        Ok(ask) => steer::carry_out(&shared.site, &ask, verb).await,
        Err(error) => bad_request(&format!("the body is not what is expected, a JSON object: {error}")),
    }
}

fn bad_request(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response()
}

fn json_page(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value}\n")).into_response()
}
