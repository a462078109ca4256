//! A client of a schema registry, as far as a writer of one schema needs it: Confluent's REST API,
//! version 1.
//!
//! <https://docs.confluent.io/platform/current/schema-registry/develop/api.html>

use crate::change::brief;
use crate::env;
use crate::request::{self, Call, CallError, Endpoint};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};
use std::time::Duration;

/// The longest that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read. Ours is a schema of 5 KB.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What is repeated of its reason.
const SAID_BYTES: usize = 300;
const JSON: &str = "application/vnd.schemaregistry.v1+json";

/// Where a registry answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAddress {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The prefix of every path; empty or `/…`.
    pub prefix: String,
    /// User and password, if it asks for them.
    pub login: Option<(String, String)>,
}

impl RegistryAddress {
    /// As it is named in a sentence; without the login.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}{}", self.host, self.port, self.prefix)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RegistryError {
    /// It may answer later.
    Away(String),
    /// It will not: the schema, the login or the subject is refused.
    Refused(String),
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    address: RegistryAddress,
}

impl Registry {
    pub fn new(address: RegistryAddress) -> Registry {
        Registry { address }
    }

    /// Makes the subject take only schemas that read what older ones wrote, and registers this one.
    /// Answers with its id, the same for the same schema.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let compatibility = json!({ "compatibility": "BACKWARD" });
        match self.ask(Method::PUT, &format!("/config/{subject}"), Some(&compatibility)).await {
            Ok(_) => {}
            // A read-only configuration is the operator's decision; registering is what counts.
            Err(RegistryError::Refused(why)) => tracing::warn!("compatibility of {subject} stays as it is: {why}"),
            Err(error) => return Err(error),
        }
        let body = json!({ "schema": schema, "schemaType": "AVRO" });
        let answer = self.ask(Method::POST, &format!("/subjects/{subject}/versions"), Some(&body)).await?;
        let id = answer.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.no_registry("names no id for a schema that it took"))
    }

    /// Asks for its subjects, to see that it answers and takes the login.
    pub async fn reach(&self) -> Result<(), RegistryError> {
        let subjects = self.ask(Method::GET, "/subjects", None).await?;
        if subjects.is_array() { Ok(()) } else { Err(self.no_registry("names no subjects")) }
    }

    /// The schema of this id.
    pub async fn schema(&self, id: u32) -> Result<String, RegistryError> {
        let answer = self.ask(Method::GET, &format!("/schemas/ids/{id}"), None).await?;
        let schema = answer.get("schema").and_then(Value::as_str).map(str::to_owned);
        schema.ok_or_else(|| self.no_registry(&format!("answers without the schema {id}")))
    }

    /// The error of an answer that is none of a registry: a web page, another service.
    fn no_registry(&self, what: &str) -> RegistryError {
        let place = self.place();
        RegistryError::Refused(format!(
            "what answers at {place} is no schema registry, or not at this path: it {what}; check `schema_registry`"
        ))
    }

    fn place(&self) -> String {
        self.address.place()
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, RegistryError> {
        let away = |why: &dyn std::fmt::Display| {
            RegistryError::Away(format!("the schema registry at {} does not answer: {why}", self.place()))
        };
        match env::timeout(REQUEST_TIMEOUT, self.exchange(method, path, body)).await {
            Err(_) => Err(away(&format!("nothing within {} s", REQUEST_TIMEOUT.as_secs()))),
            Ok(Err(error)) => Err(away(&error)),
            Ok(Ok((status, answer))) => {
                let said = answer.get("message").and_then(Value::as_str).unwrap_or("no reason given");
                let said = brief::shortened(said, SAID_BYTES);
                match status {
                    200..300 => Ok(answer),
                    // Too many requests, or too slow ones, are a matter of time.
                    408 | 429 | 500.. => Err(away(&format!("{status}: {said}"))),
                    _ => Err(RegistryError::Refused(format!(
                        "the schema registry at {} refuses {path}: {status}: {said}",
                        self.place()
                    ))),
                }
            }
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value), CallError> {
        let RegistryAddress { host, port, prefix, login } = &self.address;
        let login = login.as_ref().map(|(user, password)| STANDARD.encode(format!("{user}:{password}")));
        let login = login.map(|login| format!("Basic {login}"));
        let call = Call {
            method,
            path: format!("{prefix}{path}"),
            headers: [(ACCEPT, JSON), (CONTENT_TYPE, JSON)]
                .into_iter()
                .chain(login.as_deref().map(|login| (AUTHORIZATION, login)))
                .collect(),
            body: body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())),
        };
        let endpoint = Endpoint::Tcp { host: host.clone(), port: *port };
        let (status, bytes) = request::send(&endpoint, call, ANSWER_BYTES_MAX).await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// What a registry is, that answers everything with this.
    async fn answering(head: &str, body: &str) -> Result<(), RegistryError> {
        let listener = env::dial::listen("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let served = env::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let address = RegistryAddress { host: "127.0.0.1".to_owned(), port, prefix: "/api".to_owned(), login: None };
        let reached = Registry::new(address).reach().await;
        served.abort();
        reached
    }

    #[tokio::test]
    async fn what_answers_with_a_web_page_is_no_registry() {
        assert_eq!(answering("200 OK", "[\"a-value\"]").await, Ok(()));
        for body in ["<html>welcome</html>", "{}", ""] {
            let reached = answering("200 OK", body).await;
            assert!(
                matches!(&reached, Err(RegistryError::Refused(why)) if why.contains("schema_registry")),
                "{reached:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_long_reason_is_repeated_in_part() {
        let body = json!({ "message": "x\u{1b}[31m".repeat(20_000) }).to_string();
        let reached = answering("422 Unprocessable", &body).await;
        assert!(matches!(&reached, Err(RegistryError::Refused(why)) if why.len() < 1_000), "{reached:?}");
    }
}
