//! What is on the streams at the end.

use crate::machine::DATA;
use crate::settings::name_of;
use keepstep::change::{Change, Position};
use keepstep::env::disk::{self, Disk};
use keepstep::stream::Recorded;
use keepstep::stream::embedded::EmbeddedStream;
use keepstep_doubles::disk::VolatileDisk;
use std::path::Path;
use std::sync::Arc;

/// One record of a stream.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whose stream it is.
    pub machine: usize,
    pub pipeline: usize,
    pub position: Position,
    pub change: Change,
}

/// All records of all machines and pipelines.
#[must_use]
pub fn records(disks: &[VolatileDisk], pipelines: usize) -> Vec<Record> {
    let mut all = Vec::new();
    for (machine, disk) in disks.iter().enumerate() {
        let _installed = disk::install(Arc::new(disk.next_process()) as Arc<dyn Disk>);
        for pipeline in 0..pipelines {
            let folder = Path::new(DATA).join(name_of(pipeline)).join("stream");
            let Ok(stream) = EmbeddedStream::open_read_only(&folder) else { continue };
            let mut from = 1;
            loop {
                let Ok(batch) = stream.read_here(from, 10_000, usize::MAX) else { break };
                let of = |Recorded { position, change }| Record { machine, pipeline, position, change };
                all.extend(batch.records.into_iter().map(of));
                if batch.next <= from {
                    break;
                }
                from = batch.next;
            }
        }
    }
    all
}
