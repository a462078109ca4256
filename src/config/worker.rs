//! `stream:` and `worker:` of a pipeline file: both optional, every key with its default and its
//! bounds.

use super::kafka;
use super::keys;
use super::model::{Stream, Worker};
use super::reader::{Fields, Reader};
use super::tree::{Node, Span};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const DAY: Duration = Duration::from_secs(86_400);

/// Reads `stream:`; the embedded one with its defaults if it is not there. `pipeline`: its name.
pub(super) fn read_stream(reader: &mut Reader<'_>, fields: &Fields<'_>, pipeline: &str) -> Stream {
    let mut stream = Stream { retention_age: 7 * DAY, retention_size: GIB, kafka: None };
    // The lower bounds are for tests; ten years and 64 TiB are beyond any use.
    let age = Duration::from_millis(1)..=3650 * DAY;
    let Some(fields) = reader.optional_fields(fields, "stream", keys::STREAM) else { return stream };
    if let Some(value) = fields.get("kafka") {
        if let Some(embedded) = fields.get("embedded") {
            reader.fault(embedded.span, "a stream has one place", "allowed: `embedded` or `kafka`".to_owned());
        }
        let Some(fields) = reader.fields(&value, keys::KAFKA) else { return stream };
        stream.kafka = kafka::read(reader, &fields, pipeline);
        if let Some(retention) = reader.optional_fields(&fields, "retention", keys::KAFKA_RETENTION) {
            stream.retention_age = reader.duration(&retention, "age", stream.retention_age, age);
        }
        return stream;
    }
    let Some(embedded) = reader.optional_fields(&fields, "embedded", keys::EMBEDDED) else { return stream };
    let Some(retention) = reader.optional_fields(&embedded, "retention", keys::RETENTION) else { return stream };
    stream.retention_age = reader.duration(&retention, "age", stream.retention_age, age);
    stream.retention_size = reader.size(&retention, "size", stream.retention_size, KIB..=64 * TIB);
    stream
}

/// Reads `worker:`; the defaults if it is not there.
pub(super) fn read_worker(reader: &mut Reader<'_>, pipeline: &Fields<'_>) -> Worker {
    let mut worker = Worker {
        batch_changes: 500,
        batch_bytes: 512 * 1024,
        batch_wait: Duration::from_millis(5),
        queue_bytes: 64 * 1024 * 1024,
        reconcile: Duration::from_secs(60),
        delete_guard: true,
    };
    let Some(fields) = reader.optional_fields(pipeline, "worker", keys::WORKER) else { return worker };
    if let Some(batch) = reader.optional_fields(&fields, "batch", keys::BATCH) {
        let changes = reader.count(&batch, "changes", to_u64(worker.batch_changes), 1..=100_000);
        worker.batch_changes = to_usize(changes);
        worker.batch_bytes = to_usize(reader.size(&batch, "bytes", to_u64(worker.batch_bytes), KIB..=64 * MIB));
        worker.batch_wait =
            reader.duration(&batch, "wait", worker.batch_wait, Duration::ZERO..=Duration::from_secs(10));
    }
    if let Some(queue) = reader.optional_fields(&fields, "queue", keys::QUEUE) {
        worker.queue_bytes = to_usize(reader.size(&queue, "bytes", to_u64(worker.queue_bytes), KIB..=64 * GIB));
    }
    worker.reconcile = reader.duration(&fields, "reconcile", worker.reconcile, Duration::from_secs(1)..=DAY);
    if let Some(span) = bare_limit(&fields) {
        reader.unsupported(span, "limit", "`{writes: 0, reads: 0}`, which is none");
    } else if let Some(limit) = reader.optional_fields(&fields, "limit", keys::LIMIT) {
        refuse_limit(reader, &limit, "writes");
        refuse_limit(reader, &limit, "reads");
    }
    let switch = [("on", true), ("off", false), ("true", true), ("false", false)];
    worker.delete_guard = reader.choice(&fields, "delete_guard", &switch, worker.delete_guard);
    worker
}

/// The place of a limit that is written as one number for all.
fn bare_limit(worker: &Fields<'_>) -> Option<Span> {
    match worker.get("limit")?.node {
        Node::Scalar(scalar) if scalar.text.parse::<u64>().is_ok_and(|limit| limit > 0) => Some(scalar.span),
        _ => None,
    }
}

fn refuse_limit(reader: &mut Reader<'_>, limit: &Fields<'_>, key: &str) {
    let number = reader.count(limit, key, 0, 0..=u64::from(u32::MAX));
    if let (true, Some(value)) = (number > 0, limit.get(key)) {
        reader.unsupported(value.node.span(), &format!("limit: {key}"), "0, which is none");
    }
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
