//! Connections to servers, and the sockets that are listened on.
#![expect(clippy::disallowed_methods, reason = "here servers are dialled, and nowhere else")]

use std::io;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};

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
