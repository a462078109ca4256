//! What holds values is for the user that runs Keepstep alone: folders have mode 0700, files and sockets 0600.
//!
//! The process makes nothing for others, whichever part of it makes it ([`close`]), and what an earlier version left open is
//! closed when the folder is used again ([`folder`]).
#![expect(clippy::disallowed_methods, reason = "here the disk is asked")]

use super::disk;
use rustix::fs::Mode;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Bits by which anybody else gets at something.
const OTHERS: u32 = 0o077;

/// From here on the process makes nothing for others. Called once, before there is a second thread.
pub(crate) fn close() {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
}

/// Makes this folder if there is none, and closes it and what is in it to others. What belongs to another user stays as it is, with a
/// warning: it can be used all the same.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    disk::make_folder(disk::here().as_ref(), path)?;
    if super::world::here().is_some() {
        return Ok(());
    }
    if let Err(error) = close_all(path) {
        let folder = path.display();
        tracing::warn!(
            "{folder}: other users of this machine may be able to read what is in it: {error}; run `chmod -R go= {folder}`"
        );
    }
    Ok(())
}

fn close_all(path: &Path) -> io::Result<()> {
    let facts = fs::symlink_metadata(path)?;
    let mode = facts.permissions().mode();
    // What a link leads to is somebody's own decision.
    if mode & OTHERS != 0 && !facts.is_symlink() {
        gone_is_fine(fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !OTHERS)))?;
    }
    if facts.is_dir() {
        for entry in fs::read_dir(path)? {
            gone_is_fine(close_all(&entry?.path()))?;
        }
    }
    Ok(())
}

/// A worker that uses the folder just now may have removed it: a temporary file, a segment that was compacted.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_left_open_is_closed() {
        let place = tempfile::tempdir().unwrap();
        let (pipeline, stream) = (place.path().join("p"), place.path().join("p/stream"));
        fs::create_dir_all(&stream).unwrap();
        let (file, elsewhere) = (stream.join("1.log"), place.path().join("elsewhere"));
        for path in [&file, &elsewhere] {
            fs::write(path, "value").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        for path in [place.path(), &pipeline, &stream] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, pipeline.join("link")).unwrap();
        folder(&pipeline).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([&pipeline, &stream, &file].map(|path| mode(path)), [0o700, 0o700, 0o600]);
        assert_eq!([place.path(), &elsewhere].map(mode), [0o755, 0o644], "not ours");
    }
}
