//! Up to where the stream is whole: a file beside the segments with the epoch and the lineage of the ensemble. An owner elsewhere, with a stream of
//! its own, leaves it as it is, so the next owner here can tell that something is missing.

use super::segment::TEMPORARY;
use crate::env::disk::{Disk, Open};
use crate::stream::Whole;
use std::io;
use std::path::Path;

/// Name of the file in the stream's directory.
const NAME: &str = "whole";

/// What was kept last; zeros for what cannot be read.
pub(super) fn kept(disk: &dyn Disk, dir: &Path) -> Whole {
    let text = disk.read_to_string(&dir.join(NAME)).unwrap_or_default();
    let mut words = text.split_whitespace();
    let epoch = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    Whole { epoch, ensemble: words.next().and_then(|word| word.parse().ok()).unwrap_or(0) }
}

/// Keeps it, durably. After an error what was before is still there.
pub(super) fn keep(disk: &dyn Disk, dir: &Path, whole: Whole) -> io::Result<()> {
    let fresh = dir.join(NAME).with_extension(TEMPORARY);
    let file = disk.open(&fresh, Open::Create)?;
    file.write_at(format!("{} {}\n", whole.epoch, whole.ensemble).as_bytes(), 0)?;
    file.sync()?;
    disk.rename(&fresh, &dir.join(NAME))?;
    disk.sync_dir(dir)
}
