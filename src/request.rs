//! The HTTP client of this program, for workers and schema registries: dials, sends one HTTP/1.1
//! request, reads the answer, and closes.
//!
//! hyper's own connection with a connector over [`env::dial`], without a pool: a command sends a
//! handful of requests in its life. A task of its own drives the connection, so the answer counts
//! even if the server closes, or resets, the connection behind it: a caller that waited for either
//! of the two would sometimes take the end for the answer.

use crate::env::{self, Tasks};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On a Unix socket.
    Unix(PathBuf),
    /// On a TCP port.
    Tcp {
        /// Host name or address; one of IPv6 in brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Headers beside `Host`.
    pub headers: Vec<(hyper::header::HeaderName, &'a str)>,
    /// The body; may be empty.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there, or this user may not connect.
    #[error(transparent)]
    Connect(io::Error),
    /// The connection ended before the answer did, the answer is not HTTP, or it is too long.
    #[error(transparent)]
    Exchange(Box<dyn Error + Send + Sync>),
}

/// Sends the request; returns the status and the body, of which at most `bytes_max` bytes are read.
/// Without a time limit: the caller has one. May be cancelled; then the connection is closed.
///
/// # Errors
/// See [`CallError`].
pub async fn send(endpoint: &Endpoint, call: Call<'_>, bytes_max: usize) -> Result<(u16, Bytes), CallError> {
    match endpoint {
        Endpoint::Unix(socket) => {
            if let Some(world) = env::world::here() {
                let asked =
                    env::world::Asked { method: call.method.to_string(), path: call.path, body: call.body.to_vec() };
                let (status, body) = world.ask_worker(socket, asked).await.map_err(|error| match error.kind() {
                    io::ErrorKind::ConnectionRefused => CallError::Connect(error),
                    _ => CallError::Exchange(error.into()),
                })?;
                return Ok((status, Bytes::from(body)));
            }
            let stream = env::dial::connect_unix(socket).await.map_err(CallError::Connect)?;
            exchange(stream, "localhost", call, bytes_max).await.map_err(CallError::Exchange)
        }
        Endpoint::Tcp { host, port } => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let stream = env::dial::connect((bare, *port)).await.map_err(CallError::Connect)?;
            exchange(stream, &format!("{host}:{port}"), call, bytes_max).await.map_err(CallError::Exchange)
        }
    }
}

async fn exchange<S>(
    stream: S,
    host: &str,
    call: Call<'_>,
    bytes_max: usize,
) -> Result<(u16, Bytes), Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::builder().method(call.method).uri(call.path).body(Full::new(call.body))?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
    for (name, value) in call.headers {
        request.headers_mut().insert(name, HeaderValue::from_str(value)?);
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this call.
    let mut driver = Tasks::default();
    // Its error is that of the sender.
    driver.spawn(async move { connection.await.is_ok() });
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), bytes_max).collect().await?.to_bytes();
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A server that answers and closes at once, as those do that keep no connection open.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_answer_of_a_server_that_closes_each_connection_is_taken() -> Result<(), Box<dyn Error + Send + Sync>> {
        for turn in 0..500 {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let server = async move {
                let mut request = [0; 1024];
                let read = theirs.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
                let wrote = theirs.write_all(answer).await;
                read.is_ok() && wrote.is_ok()
            };
            let served = crate::env::spawn(server);
            let (method, path) = (Method::GET, "/subjects".to_owned());
            let call = Call { method, path, headers: Vec::new(), body: Bytes::new() };
            let answer = exchange(ours, "registry", call, 100).await;
            let (status, body) = answer.map_err(|error| format!("turn {turn}: {error}"))?;
            assert_eq!((status, body.as_ref()), (200, b"{}".as_slice()));
            assert!(served.await?);
        }
        Ok(())
    }
}
