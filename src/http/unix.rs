//! The Unix socket of a worker: only its user may open it, and one worker of a data folder serves
//! it at a time.
//!
//! The worker that holds the lock on `worker.sock.lock` serves the socket. The kernel releases the
//! lock when the process ends, in whatever way, so the holder may replace the socket, and a standby
//! with the same data folder takes it over. One that stands by gives the socket up for one that
//! does not, which shows that it waits by the lock on `worker.sock.wanted`: commands are for whoever
//! owns the pipeline.
#![cfg_attr(
    not(test),
    expect(clippy::disallowed_methods, reason = "a socket is a name on the real disk, which no simulator has")
)]

use super::serve::Connections;
use crate::env;
use axum::Router;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;

/// How often a worker tries to take over the socket of another one: a standby answers within a
/// second after its takeover.
const RETRY: Duration = Duration::from_secs(1);

/// The socket of the worker of a pipeline.
#[must_use]
pub fn socket_path(data_dir: &Path, pipeline: &str) -> PathBuf {
    data_dir.join(pipeline).join("worker.sock")
}

/// Serves this socket until the future is dropped, and its connections with it; then the socket is
/// removed. While another worker serves the socket, this one waits; if it stands by, it gives the
/// socket up within a second for one that does not. A socket that is removed, alone or with its
/// folder, is created again.
pub async fn serve_unix(path: PathBuf, router: Router, stands_by: impl Fn() -> bool) {
    let mut connections = Connections::default();
    loop {
        let (listener, owned) = claim(&path, &stands_by).await;
        tracing::debug!(path = %path.display(), "serving the worker's socket");
        while owned.is_there() {
            if stands_by() && is_wanted(&path) {
                break;
            }
            match env::timeout(RETRY, listener.accept()).await {
                Ok(Ok((stream, _))) => connections.serve(stream, router.clone()),
                Ok(Err(error)) => connections.accept_failed(&error).await,
                Err(_) => {}
            }
        }
        if owned.is_there() {
            tracing::debug!(path = %path.display(), "the socket is left to the owner of the pipeline");
        } else {
            tracing::warn!(path = %path.display(), "the worker's socket was removed; creating it again");
        }
    }
}

/// A socket that this worker serves. It is removed while the lock is still held, so never that of
/// the next holder. A file that somebody else has put in its place is not removed.
struct Owned {
    path: PathBuf,
    lock_path: PathBuf,
    socket: Option<Inode>,
    lock: Option<Inode>,
    _lock: File,
}

/// Identifies a file independently of its name.
type Inode = (u64, u64);

fn inode(path: &Path) -> Option<Inode> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Owned {
    /// Whether commands still find the socket, and other workers the lock.
    fn is_there(&self) -> bool {
        self.socket.is_some() && inode(&self.path) == self.socket && inode(&self.lock_path) == self.lock
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if inode(&self.path) == self.socket {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where a worker that does not stand by waits for the socket.
fn wanted_path(path: &Path) -> PathBuf {
    beside(path, "", ".wanted")
}

/// Whether a worker waits for the socket that does not stand by.
fn is_wanted(path: &Path) -> bool {
    let wanted = File::options().append(true).open(wanted_path(path));
    wanted.is_ok_and(|wanted| matches!(wanted.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Shows that the socket is wanted, until the file is dropped. `None`: another one shows it already, or it cannot be shown.
fn want(path: &Path) -> Option<File> {
    let wanted = File::options().create(true).append(true).open(wanted_path(path)).ok()?;
    wanted.try_lock().is_ok().then_some(wanted)
}

async fn claim(path: &Path, stands_by: &impl Fn() -> bool) -> (UnixListener, Owned) {
    let mut warned = false;
    let mut wanted = None;
    loop {
        let is_for_another = stands_by() && is_wanted(path);
        match if is_for_another { Err(Claim::OfAnother) } else { try_claim(path) } {
            Ok(claimed) => return claimed,
            Err(Claim::OfAnother) => {
                tracing::debug!(path = %path.display(), "another worker serves the socket");
                wanted = if stands_by() { None } else { wanted.or_else(|| want(path)) };
            }
            Err(Claim::Failed(error)) if !warned => {
                warned = true;
                tracing::warn!(path = %path.display(), %error, "the worker's socket cannot be served, so commands do not find this worker; retrying every second");
            }
            Err(Claim::Failed(_)) => {}
        }
        env::sleep(RETRY).await;
    }
}

enum Claim {
    OfAnother,
    Failed(io::Error),
}

impl From<io::Error> for Claim {
    fn from(error: io::Error) -> Claim {
        Claim::Failed(error)
    }
}

fn try_claim(path: &Path) -> Result<(UnixListener, Owned), Claim> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let lock_path = beside(path, "", ".lock");
    let lock = File::options().create(true).append(true).open(&lock_path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Claim::OfAnother),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    // Bound under another name, closed to other users, and renamed only then: nobody can connect
    // before, and a stale socket is replaced in one step.
    let draft = beside(path, ".", &format!(".{}", env::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = env::dial::listen_unix(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::rename(&draft, path)?;
    let (socket, lock_file) = (inode(path), lock.metadata().ok().map(|found| (found.dev(), found.ino())));
    Ok((listener, Owned { path: path.to_path_buf(), lock_path, socket, lock: lock_file, _lock: lock }))
}

/// The path with its last name changed.
fn beside(path: &Path, before: &str, after: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{before}{name}{after}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::super::client::{self, Target};
    use super::*;
    use crate::env::Instant;
    use axum::routing::get;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn answers(text: &'static str) -> Router {
        Router::new().route("/", get(move || async move { text }))
    }

    async fn ask(path: &Path) -> Option<String> {
        let answer = client::request(&Target::Unix(path.to_path_buf()), "GET", "/").await.ok()?;
        String::from_utf8(answer.1).ok()
    }

    async fn ask_until(path: &Path, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(path).await.as_deref() != Some(expected) {
            assert!(Instant::now() < deadline, "nobody answers {expected}");
            env::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn only_its_user_may_open_the_socket_and_it_goes_with_the_worker() {
        let folder = tempfile::tempdir().unwrap();
        let path = socket_path(folder.path(), "p");
        let served = env::spawn(serve_unix(path.clone(), answers("one"), || false));
        ask_until(&path, "one").await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        served.abort();
        let _ = served.await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let served = env::spawn(serve_unix(path.clone(), answers("one"), || false));
        ask_until(&path, "one").await;
        served.abort();
    }

    #[tokio::test]
    async fn whoever_stands_by_leaves_the_socket_to_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = socket_path(folder.path(), "p");
        let owner = Arc::new(AtomicUsize::new(1));
        let serve = |number: usize, text| {
            let owner = Arc::clone(&owner);
            let stands_by = move || owner.load(Ordering::Relaxed) != number;
            env::spawn(serve_unix(path.clone(), answers(text), stands_by))
        };
        let one = serve(1, "one");
        ask_until(&path, "one").await;
        let two = serve(2, "two");
        for (number, text) in [(2, "two"), (1, "one")] {
            owner.store(number, Ordering::Relaxed);
            ask_until(&path, text).await;
        }
        // Nobody owns the pipeline: it stays where it is.
        owner.store(3, Ordering::Relaxed);
        env::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(ask(&path).await.as_deref(), Some("one"));
        one.abort();
        ask_until(&path, "two").await;
        two.abort();
    }

    #[tokio::test]
    async fn a_live_socket_is_left_alone_and_taken_over_when_its_worker_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.sock");
        let first = env::spawn(serve_unix(path.clone(), answers("one"), || false));
        ask_until(&path, "one").await;
        let second = env::spawn(serve_unix(path.clone(), answers("two"), || false));
        env::sleep(Duration::from_millis(50)).await;
        assert_eq!(ask(&path).await.as_deref(), Some("one"));
        first.abort();
        ask_until(&path, "two").await;
        second.abort();
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(200)).join("worker.sock");
        let served = env::spawn(serve_unix(path.clone(), answers("far"), || false));
        ask_until(&path, "far").await;
        served.abort();
    }

    #[tokio::test]
    async fn a_socket_that_is_removed_comes_back_and_so_does_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = socket_path(folder.path(), "p");
        let served = env::spawn(serve_unix(path.clone(), answers("one"), || false));
        ask_until(&path, "one").await;
        fs::remove_file(&path).unwrap();
        ask_until(&path, "one").await;
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        ask_until(&path, "one").await;
        // A foreign file in its place is replaced as well.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        ask_until(&path, "one").await;
        served.abort();
    }
}
