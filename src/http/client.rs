//! Requests to a running worker, over its Unix socket or over TCP.

use super::state::Token;
use crate::env;
use crate::request::{self, Call, CallError, Endpoint};
use axum::body::Bytes;
use axum::http::{Method, Uri, header};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The longest time that a request may take. A worker answers from memory; one that does not answer
/// is frozen or has ended.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read: 10,000 quarantined pairs with a kilobyte of names and detail
/// each, several times over.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The address of a worker.
#[derive(Debug, Clone)]
pub enum Target {
    /// Its Unix socket.
    Unix(PathBuf),
    /// Its HTTP address.
    Url {
        /// The address.
        url: Address,
        /// The token from its `--http-token-file`.
        token: Option<Token>,
    },
}

/// An address `http://host:port[/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    prefix: String,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        // The text is not quoted: it may hold a password.
        let form = "the address of a worker has the form http://HOST:PORT";
        let uri: Uri = text.parse().map_err(|_| form.to_owned())?;
        let authority = uri.authority().ok_or(form)?;
        if authority.as_str().contains('@') {
            return Err(format!("{form}, without a user; the token goes into --token-file"));
        }
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(format!("{form}; https is not supported, use a tunnel")),
            _ => return Err(form.to_owned()),
        }
        if uri.query().is_some() || authority.host().is_empty() {
            return Err(form.to_owned());
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => 80,
            None => return Err(format!("{form}, with a PORT from 1 to 65535")),
        };
        Ok(Address { host: authority.host().to_owned(), port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "http://{}:{}{}", self.host, self.port, self.prefix)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Unix(path) => write!(out, "{}", path.display()),
            Target::Url { url, .. } => write!(out, "{url}"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No worker listens at this address, or it does not answer in time.
    #[error("{0}")]
    NoWorker(String),
    /// A worker may listen there, but the request failed.
    #[error("{0}")]
    Failed(String),
}

/// Sends a request without a body; `path` begins with `/` and includes the query. Returns the
/// status and the body.
///
/// # Errors
///
/// No worker answers within ten seconds, or the answer is not HTTP.
pub async fn request(target: &Target, method: &str, path: &str) -> Result<(u16, Vec<u8>), ClientError> {
    send_body(target, method, path, Vec::new()).await
}

/// [`request`] with a body.
///
/// # Errors
///
/// As [`request`].
pub async fn send_body(
    target: &Target,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<(u16, Vec<u8>), ClientError> {
    match env::timeout(REQUEST_TIMEOUT, exchange(target, method, path, body)).await {
        Ok(answer) => answer,
        Err(_) => {
            let seconds = REQUEST_TIMEOUT.as_secs();
            Err(ClientError::NoWorker(format!("the worker at {target} does not answer within {seconds} s")))
        }
    }
}

async fn exchange(target: &Target, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), ClientError> {
    let failed = |error: &dyn std::fmt::Display| {
        ClientError::Failed(format!("the request to the worker at {target} failed: {error}"))
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| failed(&error))?;
    let (endpoint, prefix, token) = match target {
        Target::Unix(socket) => (Endpoint::Unix(socket.clone()), "", None),
        Target::Url { url, token } => {
            (Endpoint::Tcp { host: url.host.clone(), port: url.port }, url.prefix.as_str(), token.as_ref())
        }
    };
    let bearer = token.map(|token| format!("Bearer {}", token.reveal()));
    let call = Call {
        method,
        path: format!("{prefix}{path}"),
        headers: bearer.iter().map(|bearer| (header::AUTHORIZATION, bearer.as_str())).collect(),
        body: Bytes::from(body),
    };
    let (status, body) = match request::send(&endpoint, call, ANSWER_BYTES_MAX).await {
        Ok(answer) => answer,
        Err(CallError::Connect(error)) => return Err(refused(target, &error)),
        Err(CallError::Exchange(error)) => return Err(failed(&error)),
    };
    if status == hyper::StatusCode::MISDIRECTED_REQUEST.as_u16() {
        // The worker does not accept the name in `Host` for itself, whatever the request was.
        return Err(failed(&String::from_utf8_lossy(&body).trim()));
    }
    Ok((status, body.to_vec()))
}

fn refused(target: &Target, error: &io::Error) -> ClientError {
    match (target, error.kind()) {
        (_, io::ErrorKind::PermissionDenied) => {
            ClientError::Failed(format!("this user may not connect to the worker at {target}: {error}"))
        }
        (Target::Unix(_), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            ClientError::NoWorker(format!("no worker answers at {target}"))
        }
        _ => ClientError::NoWorker(format!("no worker answers at {target}: {error}")),
    }
}

/// A query parameter's value, percent-encoded.
#[must_use]
pub fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_with_a_host() {
        let address: Result<Address, _> = "http://127.0.0.1:9464/".parse();
        assert_eq!(address.map(|it| it.to_string()), Ok("http://127.0.0.1:9464".to_owned()));
        let nested: Result<Address, _> = "http://[::1]:80/keepstep".parse();
        assert_eq!(nested.map(|it| it.to_string()), Ok("http://[::1]:80/keepstep".to_owned()));
        for bad in ["http://127.0.0.1:99999", "", "127.0.0.1:9464", "https://host", "ftp://host", "http://"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_quoted() {
        let error = "http://me:s3cret@host:1".parse::<Address>().err().unwrap_or_default();
        assert!(error.contains("--token-file") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_parameter_is_percent_encoded() {
        assert_eq!(encode("a:*&b/ü"), "a%3A%2A%26b%2F%C3%BC");
    }

    #[tokio::test]
    async fn an_absent_socket_means_no_worker() {
        let target = Target::Unix(PathBuf::from("/nonexistent/worker.sock"));
        assert!(matches!(request(&target, "GET", "/status").await, Err(ClientError::NoWorker(_))));
    }
}
