//! The epoch through which the stream is complete, in a file beside the segments: the epoch and the
//! lineage of the ensemble. An owner elsewhere, with a stream of its own, leaves the file as it is,
//! so the next owner here finds that changes are missing.

use super::segment::TEMPORARY;
use crate::env::disk::{Disk, Open};
use crate::stream::CompleteThrough;
use std::io;
use std::path::Path;

/// Name of the file in the stream's directory.
const NAME: &str = "whole";

/// What the file holds; zeros if it is not there or cannot be read.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> CompleteThrough {
    let text = disk.read_to_string(&dir.join(NAME)).unwrap_or_default();
    let mut words = text.split_whitespace();
    let epoch = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    CompleteThrough { epoch, ensemble: words.next().and_then(|word| word.parse().ok()).unwrap_or(0) }
}

/// Replaces the file, durably. After an error the earlier one is still there.
pub(super) fn write(disk: &dyn Disk, dir: &Path, complete: CompleteThrough) -> io::Result<()> {
    let fresh = dir.join(NAME).with_extension(TEMPORARY);
    let file = disk.open(&fresh, Open::Create)?;
    file.write_at(format!("{} {}\n", complete.epoch, complete.ensemble).as_bytes(), 0)?;
    file.sync()?;
    disk.rename(&fresh, &dir.join(NAME))?;
    disk.sync_dir(dir)
}
