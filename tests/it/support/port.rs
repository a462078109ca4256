//! Ports that no other test, in this process or another, has at the same time.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that Linux (from 32768) and macOS (from 49152) give to outgoing connections: nobody takes the port
/// of a server while it is down for a restart.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1, ours until it is dropped, whether or not something listens on it.
pub struct Port {
    number: u16,
    /// The lease: a file that is locked while we live, so that a killed test leaves nothing behind.
    _lock: File,
}

impl Port {
    pub fn lease() -> Port {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let dir = std::env::temp_dir().join("keepstep-test-ports");
        fs::create_dir_all(&dir).unwrap();
        // Processes begin at different places, or each would walk over the leases of the others.
        let start = std::process::id().wrapping_mul(211);
        for _ in 0..COUNT {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + u16::try_from(start.wrapping_add(step) % u32::from(COUNT)).unwrap();
            let lock = File::create(dir.join(number.to_string())).unwrap();
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
