//! A schema registry that speaks the documented API of Confluent's, as far as a client of Avro needs it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use keepstep::codec::WriterSchema;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Kept {
    schemas: Vec<String>,
    /// Ids by subject, oldest first.
    subjects: HashMap<String, Vec<usize>>,
    compatibility: HashMap<String, String>,
}

type Shared = Arc<Mutex<Kept>>;

/// One registry, which keeps nothing beyond its life.
pub struct Registry {
    address: SocketAddr,
    kept: Shared,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn refused(status: StatusCode, code: u32, message: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "error_code": code, "message": message })))
}

async fn register(
    State(kept): State<Shared>,
    Path(subject): Path<String>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let schema = body["schema"].as_str().unwrap_or_default().to_owned();
    // Our own reader stands for "reads what was written before": every version must be readable by it.
    if body["schemaType"] != "AVRO" || WriterSchema::parse(&schema).is_err() {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, 42201, "Invalid schema");
    }
    let mut kept = kept.lock().unwrap();
    let known = kept.schemas.iter().position(|other| *other == schema);
    let id = known.unwrap_or_else(|| {
        kept.schemas.push(schema);
        kept.schemas.len() - 1
    });
    let versions = kept.subjects.entry(subject).or_default();
    if !versions.contains(&id) {
        versions.push(id);
    }
    (StatusCode::OK, Json(json!({ "id": id + 1 })))
}

async fn schema(State(kept): State<Shared>, Path(id): Path<usize>) -> (StatusCode, Json<Value>) {
    match kept.lock().unwrap().schemas.get(id.wrapping_sub(1)) {
        Some(schema) => (StatusCode::OK, Json(json!({ "schema": schema }))),
        None => refused(StatusCode::NOT_FOUND, 40403, "Schema not found"),
    }
}

async fn subjects(State(kept): State<Shared>) -> Json<Value> {
    Json(kept.lock().unwrap().subjects.keys().cloned().collect())
}

async fn configure(
    State(kept): State<Shared>,
    Path(subject): Path<String>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let level = body["compatibility"].as_str().unwrap_or_default().to_owned();
    kept.lock().unwrap().compatibility.insert(subject, level);
    (StatusCode::OK, Json(body))
}

impl Registry {
    pub async fn start() -> Registry {
        Registry::serve(|router| router).await
    }

    /// It closes each connection behind its answer.
    pub async fn start_closing() -> Registry {
        let closes = async |mut response: Response| {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        };
        Registry::serve(|router| router.layer(map_response(closes))).await
    }

    async fn serve(change: impl FnOnce(Router) -> Router) -> Registry {
        let kept = Shared::default();
        let router = Router::new()
            .route("/subjects/{subject}/versions", post(register))
            .route("/subjects", get(subjects))
            .route("/schemas/ids/{id}", get(schema))
            .route("/config/{subject}", put(configure))
            .with_state(kept.clone());
        let router = change(router);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Registry { address, kept, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn compatibility(&self, subject: &str) -> Option<String> {
        self.kept.lock().unwrap().compatibility.get(subject).cloned()
    }

    /// Id and text of the newest schema of a subject.
    pub fn newest(&self, subject: &str) -> Option<(u32, String)> {
        let kept = self.kept.lock().unwrap();
        let index = *kept.subjects.get(subject)?.last()?;
        Some((u32::try_from(index + 1).unwrap(), kept.schemas[index].clone()))
    }
}
