//! What each address answers, through either door.

use super::fake::{self, Fake};
use super::{AppState, Listener, Token, router};
use crate::env;
use crate::pipeline::control::{Command, Handle};
use crate::telemetry::Metrics;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;

struct Answer {
    code: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn state(pipelines: &[Arc<Fake>]) -> Arc<AppState> {
    let state = AppState::new(Arc::new(Metrics::new()));
    state.show(pipelines.iter().map(|fake| Arc::clone(fake) as Arc<dyn Handle>).collect());
    state
}

fn guarded(state: &Arc<AppState>) -> Router {
    router(Arc::clone(state), Listener::Tcp(Token::new("s3cret")))
}

async fn ask(router: &Router, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = TowerToHyperService::new(router.clone()).call(request).await.unwrap();
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { code, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

async fn get(router: &Router, path: &str) -> Answer {
    ask(router, "GET", path, None, "").await
}

#[tokio::test]
async fn a_worker_is_live_before_it_has_pipelines_and_ready_only_with_them() {
    let state = AppState::new(Arc::new(Metrics::new()));
    let router = router(Arc::clone(&state), Listener::Tcp(None));
    assert_eq!(get(&router, "/live").await.code, 200);
    assert_eq!(get(&router, "/ready").await.code, 503);
    assert_eq!(get(&router, "/metrics").await.code, 200);
    state.show(vec![Fake::new("p")]);
    assert_eq!(get(&router, "/ready").await.code, 200);
}

#[tokio::test]
async fn a_worker_with_one_pipeline_that_is_not_ready_says_which_and_why() {
    let mut status = fake::status("q");
    status.ready = false;
    status.note = "ZooKeeper is away".to_owned();
    let waiting = Arc::new(Fake { status, received: std::sync::Mutex::default(), standby: false });
    let answer = get(&router(state(&[Fake::new("p"), waiting]), Listener::Tcp(None)), "/ready").await;
    assert_eq!(answer.code, 503);
    let body: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(body.pointer("/pipelines/1/note").and_then(|it| it.as_str()), Some("ZooKeeper is away"));
    assert_eq!(body.pointer("/pipelines/0/ready"), Some(&serde_json::Value::Bool(true)));
}

#[tokio::test]
async fn the_status_names_the_worker_and_its_pipelines() {
    let answer = get(&router(state(&[Fake::new("p")]), Listener::Tcp(None)), "/status").await;
    let body: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(body.pointer("/pipelines/0/pipeline").and_then(|it| it.as_str()), Some("p"));
    assert_eq!(body.pointer("/pipelines/0/state").and_then(|it| it.as_str()), Some("live"));
    let worker = body.pointer("/worker").and_then(|it| it.as_str()).unwrap();
    assert!(worker.ends_with(&format!(":{}", env::process::id())), "{worker}");
}

#[tokio::test]
async fn metrics_are_plain_text_unless_open_metrics_is_asked_for() {
    let router = router(state(&[Fake::new("p")]), Listener::Tcp(None));
    let answer = get(&router, "/metrics").await;
    assert!(answer.header(header::CONTENT_TYPE).starts_with("text/plain; version=0.0.4"));
    assert!(answer.text.contains("keepstep_pairs{pipeline=\"p\",route=\"settings\"} 3"), "{}", answer.text);
}

#[tokio::test]
async fn without_a_token_file_nothing_can_be_steered_over_tcp() {
    let fake = Fake::new("p");
    let router = router(state(std::slice::from_ref(&fake)), Listener::Tcp(None));
    for path in ["/pause", "/resume", "/reconcile", "/approve", "/quarantine/retry", "/quarantine/drop"] {
        assert_eq!(ask(&router, "POST", path, Some("s3cret"), "").await.code, 404, "{path}");
    }
    assert_eq!(fake.received(), []);
}

#[tokio::test]
async fn a_wrong_token_is_401_and_the_right_one_steers() {
    let fake = Fake::new("p");
    let router = guarded(&state(std::slice::from_ref(&fake)));
    for token in [None, Some(""), Some("s3cre"), Some("other")] {
        let answer = ask(&router, "POST", "/pause", token, "").await;
        assert_eq!(answer.code, 401, "{token:?}");
        assert_eq!(answer.header(header::WWW_AUTHENTICATE), "Bearer");
    }
    assert_eq!(fake.received(), []);
    let answer = ask(&router, "POST", "/pause?route=settings", Some("s3cret"), "").await;
    assert_eq!((answer.code, answer.text.as_str()), (200, "done\n"));
    assert_eq!(fake.received(), [Command::Pause(Some("settings".to_owned()), None)]);
}

#[tokio::test]
async fn the_unix_socket_needs_no_token() {
    let fake = Fake::new("p");
    let router = router(state(std::slice::from_ref(&fake)), Listener::Unix);
    assert_eq!(ask(&router, "POST", "/approve", None, "").await.code, 200);
    assert_eq!(ask(&router, "POST", "/quarantine/retry?key=a%3A*", None, "").await.code, 200);
    assert_eq!(ask(&router, "POST", "/quarantine/drop", None, r#"{"key":"b"}"#).await.code, 200);
    let expected = [
        Command::Approve(None),
        Command::QuarantineRetry(Some(b"a:*".to_vec())),
        Command::QuarantineDrop(Some(b"b".to_vec())),
    ];
    assert_eq!(fake.received(), expected);
}

#[tokio::test]
async fn an_unknown_pipeline_or_route_is_404_and_a_misspelt_parameter_400() {
    let fake = Fake::new("p");
    let router = router(state(std::slice::from_ref(&fake)), Listener::Unix);
    let answer = ask(&router, "POST", "/pause?pipeline=q", None, "").await;
    assert!(answer.code == 404 && answer.text.contains("the pipelines here are: p"), "{}", answer.text);
    assert_eq!(ask(&router, "POST", "/pause?route=nope", None, "").await.code, 404);
    assert_eq!(ask(&router, "POST", "/pause?rout=settings", None, "").await.code, 400);
    assert_eq!(ask(&router, "POST", "/pause", None, "{\"rout\":1}").await.code, 400);
    assert_eq!(ask(&router, "POST", "/pause", None, &"x".repeat(20_000)).await.code, 413);
    assert_eq!(fake.received(), []);
}

#[tokio::test]
async fn a_standby_answers_409() {
    let standby = Arc::new(Fake { status: fake::status("p"), received: std::sync::Mutex::default(), standby: true });
    let router = router(state(&[standby]), Listener::Unix);
    let answer = ask(&router, "POST", "/resume", None, "").await;
    assert!(answer.code == 409 && answer.text.contains("owned by host:2"), "{}", answer.text);
}

#[tokio::test]
async fn without_a_pipeline_name_every_pipeline_is_told() {
    let (p, q) = (Fake::new("p"), Fake::new("q"));
    let router = router(state(&[Arc::clone(&p), Arc::clone(&q)]), Listener::Unix);
    let answer = ask(&router, "POST", "/reconcile", None, "").await;
    assert_eq!((answer.code, answer.text.as_str()), (200, "p: done\nq: done\n"));
    assert_eq!(ask(&router, "POST", "/reconcile?pipeline=q", None, "").await.code, 200);
    assert_eq!((p.received().len(), q.received().len()), (1, 2));
}

#[tokio::test]
async fn steering_takes_post_only() {
    let router = guarded(&state(&[Fake::new("p")]));
    assert_eq!(ask(&router, "GET", "/pause", Some("s3cret"), "").await.code, 405);
    assert_eq!(get(&router, "/nothing").await.code, 404);
}

#[tokio::test]
async fn the_quarantine_is_told_with_the_names_of_the_stores() {
    let router = router(state(&[Fake::new("p"), Fake::new("q")]), Listener::Tcp(None));
    let answer = get(&router, "/quarantine?pipeline=q").await;
    let body: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(body.pointer("/pipelines/0/pipeline").and_then(|it| it.as_str()), Some("q"));
    let row = body.pointer("/pipelines/0/quarantine/0/pair").unwrap();
    assert_eq!(row.to_string(), r#"{"zk":"/settings/big","cache":"settings:big"}"#);
}

#[tokio::test]
async fn the_page_is_html_that_may_run_nothing() {
    let answer = get(&router(state(&[Fake::new("p")]), Listener::Tcp(None)), "/").await;
    assert!(answer.header(header::CONTENT_TYPE).starts_with("text/html"));
    assert!(answer.header(header::CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"));
    assert!(answer.text.starts_with("<!doctype html>"));
}
