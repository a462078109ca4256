//! Connections to servers, and the sockets that are listened on.
#![expect(clippy::disallowed_methods, reason = "here servers are dialled, and nowhere else")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream};

/// `sun_path` holds 108 bytes with its NUL (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// Opens a connection. Without a bound of its own: the system's is minutes, so callers give one.
///
/// # Errors
/// No address of that name answers.
pub async fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// Listens there.
///
/// # Errors
/// The address is taken, or not of this machine.
pub async fn listen(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Connects to a Unix socket, however long its path.
///
/// # Errors
/// Nobody listens there, or this user may not connect.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddress::of(path)?;
    UnixStream::connect(&address.path).await
}

/// Listens on a new Unix socket, however long its path.
///
/// # Errors
/// There is a file of this name, or this user may not create one.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let address = UnixAddress::of(path)?;
    UnixListener::bind(&address.path)
}

/// A path in the form of a socket address. A long one goes through its open folder
/// (`/proc/self/fd/N/name`), which stays open while the address is used.
struct UnixAddress {
    path: PathBuf,
    _folder: Option<File>,
}

impl UnixAddress {
    fn of(path: &Path) -> io::Result<UnixAddress> {
        if path.as_os_str().len() <= UNIX_PATH_BYTES_MAX {
            return Ok(UnixAddress { path: path.to_path_buf(), _folder: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        };
        let folder = File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        Ok(UnixAddress { path, _folder: Some(folder) })
    }
}
