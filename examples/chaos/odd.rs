//! Names that are odd, long or deep, written beside everything else: each is mirrored or quarantined for its size, and none
//! may hold up the others.

use crate::history::ODD;
use crate::world::Shared;
use fastrand::Rng;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

const PAUSE_MS: std::ops::Range<u64> = 100..600;

/// Writes them until the load ends.
pub struct Odd(JoinHandle<()>);

impl Odd {
    pub async fn end(self) {
        self.0.await.expect("an application has no fault of its own");
    }
}

pub fn start(shared: &Arc<Shared>, seed: u64) -> Odd {
    let (shared, rng) = (Arc::clone(shared), Rng::with_seed(seed ^ 0x0dd));
    Odd(tokio::spawn(write(shared, rng)))
}

/// What cannot be mirrored by its size alone.
pub fn is_expected(row: &Value) -> bool {
    row["pair"]["cache"].as_str().is_some_and(|key| key.starts_with(ODD))
        && (row["state"] == "quarantined" || row["reason"] == "too_large")
}

fn name(rng: &mut Rng) -> Vec<u8> {
    let number = rng.u32(..4);
    let tail: Vec<u8> = match rng.u32(..9) {
        // The second has more levels than are mirrored: to create them would take longer than a session of this run lasts.
        0 => ":s".repeat(if rng.bool() { 150 } else { 1900 }).into_bytes(),
        1 => format!(":{}", "n".repeat(530_000)).into_bytes(),
        2 => ":".repeat(30_000).into_bytes(),
        3 => b":a::b:".to_vec(),
        4 => b":.:..:%:%2E:100%".to_vec(),
        5 => vec![b':', 0, 7, 0xff, b'/', 0xc3],
        6 => ":\u{2603}\u{fffd}\u{e000}".to_owned().into_bytes(),
        7 => format!(":{}", "deep:".repeat(60)).into_bytes(),
        _ => b":zookeeper:/:[*?]".to_vec(),
    };
    [format!("{ODD}{number}").into_bytes(), tail].concat()
}

async fn write(shared: Arc<Shared>, mut rng: Rng) {
    let mut connection: Option<(usize, MultiplexedConnection)> = None;
    while !shared.stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE_MS))).await;
        let primary = shared.primary();
        if connection.as_ref().is_none_or(|(server, _)| *server != primary) {
            connection = shared.connect(primary).await.ok().map(|open| (primary, open));
        }
        let Some((_, open)) = &mut connection else { continue };
        let key = name(&mut rng);
        let command = match rng.u32(..4) {
            0 => redis::cmd("DEL").arg(key).to_owned(),
            _ => redis::cmd("SET").arg(key).arg(rng.u32(..)).to_owned(),
        };
        if command.exec_async(open).await.is_err() {
            connection = None;
        }
    }
}
