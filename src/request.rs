//! One HTTP/1.1 request over a connection that is open: the one client for workers and schema registries.
//!
//! The connection is driven by a task of its own, so the answer counts even if the other end closes, or resets, the connection
//! behind it: whoever waited for either of the two would sometimes take the end for the answer.

use crate::env::Tasks;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends the request; answers with the status and the body, of which at most so many bytes are read.
///
/// # Errors
/// The connection ended before the answer did, or the answer is no HTTP or longer than that.
pub async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<(u16, Bytes), Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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
            let request = Request::builder().uri("/subjects").header("host", "registry").body(Full::default())?;
            let (status, body) = send(ours, request, 100).await.map_err(|error| format!("turn {turn}: {error}"))?;
            assert_eq!((status, body.as_ref()), (200, b"{}".as_slice()));
            assert!(served.await?);
        }
        Ok(())
    }
}
