//! HTTP/1.1 over TCP: a listener, and connections that neither accumulate nor hang.

use super::timeout::{Activity, WriteTimeout};
use crate::env;
use crate::env::Tasks;
use crate::env::tasks::Abort;
use crate::env::world::Asked;
use crate::telemetry::LogThrottle;
use axum::Router;
use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// How often a busy address is tried again.
const BIND_RETRY: Duration = Duration::from_secs(3);
/// A client that has not sent its headers within this time is cut off, and so is an idle
/// connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that reads nothing of its answer for this time is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at the same time. A scraper, a browser and a handful of commands need ten.
const CONNECTIONS_MAX: usize = 128;
/// Pause after `accept` failed, so that a process without free file descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Serves this address until the future is dropped, and its connections with it. A busy address
/// causes a warning and is retried every few seconds; it never ends the worker.
pub async fn serve_tcp(address: String, router: Router) {
    serve_when_free(&address, router, BIND_RETRY).await;
}

async fn serve_when_free(address: &str, router: Router, retry: Duration) {
    let listener = bind(address, retry).await;
    match local_address(&listener) {
        Some(bound) => tracing::info!(address = %bound, "serving http://{bound}/"),
        None => tracing::info!(address, "serving HTTP"),
    }
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.serve(stream, router.clone()),
            Err(error) => connections.accept_failed(&error).await,
        }
    }
}

/// The address that a listener is bound to: with port 0, the port that was chosen.
#[must_use]
pub fn local_address(listener: &TcpListener) -> Option<SocketAddr> {
    listener.local_addr().ok()
}

async fn bind(address: &str, retry: Duration) -> TcpListener {
    let mut warned = false;
    loop {
        match env::dial::listen(address).await {
            Ok(listener) => return listener,
            Err(error) if !warned => {
                warned = true;
                tracing::warn!(address, %error, "HTTP is not served: the address cannot be used; retrying every {retry:?}");
            }
            Err(error) => tracing::debug!(address, %error, "the address still cannot be used"),
        }
        env::sleep(retry).await;
    }
}

/// What this router answers, without a connection.
pub async fn answer(router: Router, asked: Asked) -> (u16, Vec<u8>) {
    let request = Request::builder().method(asked.method.as_str()).uri(asked.path).header(HOST, "localhost");
    let Ok(request) = request.body(Full::new(Bytes::from(asked.body))) else { return (400, Vec::new()) };
    let Ok(response) = TowerToHyperService::new(router).call(request).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map(|body| body.to_bytes().to_vec());
    (status, body.unwrap_or_default())
}

/// The open connections of one listener. Dropping it closes them.
#[derive(Default)]
pub(super) struct Connections {
    tasks: Tasks<()>,
    open: Vec<Connection>,
    throttle: LogThrottle,
}

struct Connection {
    task: Abort,
    activity: Arc<Activity>,
}

impl Connections {
    /// Waits a moment. A listener survives every failure of `accept`: each concerns one connection,
    /// or a resource that becomes free again (accept(2)).
    pub(super) async fn accept_failed(&mut self, error: &io::Error) {
        if self.throttle.is_due(&error.to_string()) {
            tracing::warn!(%error, "a connection could not be accepted");
        }
        env::sleep(ACCEPT_RETRY).await;
    }

    /// Serves one more connection. If there are too many, the one that was inactive for longest is
    /// closed, so that no client can keep others out by holding connections open.
    pub(super) fn serve<S>(&mut self, stream: S, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.task.is_finished());
        if self.open.len() >= CONNECTIONS_MAX {
            let least_active = self.open.iter().enumerate().min_by_key(|(_, connection)| connection.activity.at());
            if let Some(at) = least_active.map(|(at, _)| at) {
                self.open.swap_remove(at).task.abort();
            }
        }
        let activity = Activity::now();
        let stream = WriteTimeout::new(stream, Arc::clone(&activity), WRITE_TIMEOUT);
        let task = self.tasks.spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended early");
            }
        });
        self.open.push(Connection { task, activity });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use crate::env::Instant;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_busy_address_is_taken_as_soon_as_it_is_free() {
        let busy = env::dial::listen("127.0.0.1:0").await.unwrap();
        let address = busy.local_addr().unwrap().to_string();
        let router = Router::new().route("/live", get(|| async { "live\n" }));
        let served = {
            let address = address.clone();
            env::spawn(async move { serve_when_free(&address, router, Duration::from_millis(10)).await })
        };
        env::sleep(Duration::from_millis(50)).await;
        assert!(!served.is_finished());
        drop(busy);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut stream = loop {
            if let Ok(stream) = env::dial::connect(&address).await {
                break stream;
            }
            assert!(Instant::now() < deadline, "nobody listens");
            env::sleep(Duration::from_millis(10)).await;
        };
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        served.abort();
    }

    #[tokio::test]
    async fn clients_that_hold_on_to_their_connections_keep_nobody_out() {
        let listener = env::dial::listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let router = Router::new().route("/live", get(|| async { "live\n" }));
        let served = {
            let address = address.clone();
            env::spawn(async move { serve_when_free(&address, router, Duration::from_millis(10)).await })
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut held = Vec::new();
        while held.len() < CONNECTIONS_MAX + 40 {
            assert!(Instant::now() < deadline, "nobody listens");
            match env::dial::connect(&address).await {
                Ok(mut stream) => {
                    // Its answers are never read.
                    stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                    held.push(stream);
                }
                Err(_) => env::sleep(Duration::from_millis(10)).await,
            }
        }
        let mut stream = env::dial::connect(&address).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = env::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok() && answer.starts_with("HTTP/1.1 200 OK\r\n"), "{read:?} {answer}");
        served.abort();
    }
}
