//! Up to which epoch the stream is whole: a file with one number beside the segments. An owner elsewhere, with a stream of
//! its own, leaves it as it is, so the next owner here can tell that something is missing.

use super::disk::{Disk as _, RealDisk};
use super::segment::TEMPORARY;
use std::io;
use std::path::Path;

/// Name of the file in the stream's directory.
const NAME: &str = "whole";

/// The epoch that was kept last; 0 if there is none that can be read.
pub(super) fn kept(dir: &Path) -> i64 {
    let text = std::fs::read_to_string(dir.join(NAME)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Keeps an epoch, durably. After an error the one before is still there.
pub(super) fn keep(dir: &Path, epoch: i64) -> io::Result<()> {
    let fresh = dir.join(NAME).with_extension(TEMPORARY);
    let file = RealDisk.create(&fresh)?;
    RealDisk.write_at(&file, format!("{epoch}\n").as_bytes(), 0)?;
    RealDisk.sync(&file)?;
    RealDisk.rename(&fresh, &dir.join(NAME))?;
    RealDisk.sync_dir(dir)
}
