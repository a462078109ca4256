//! What no client library does: a ZooKeeper session that sends data that is null, and a snapshot whose versions are changed.

use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// As much of ZooKeeper's protocol (jute records behind a length) as two requests need.
pub struct RawSession(TcpStream);

/// Jute's buffer and text: a length and the bytes; null is the length -1.
fn buffer(bytes: Option<&[u8]>) -> Vec<u8> {
    match bytes {
        None => (-1_i32).to_be_bytes().to_vec(),
        Some(bytes) => [&i32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat(),
    }
}

impl RawSession {
    pub async fn connect(server: SocketAddr) -> RawSession {
        let mut session = RawSession(TcpStream::connect(server).await.unwrap());
        // Protocol version 0, no zxid seen, a timeout of 10 s, no session yet, no password, not read-only.
        let timeout = 10_000_i32.to_be_bytes();
        let request = [&[0; 4][..], &[0; 8], &timeout, &[0; 8], &buffer(Some(&[0; 16])), &[0]].concat();
        session.exchange(&request).await;
        session
    }

    async fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        self.0.write_all(&buffer(Some(request))).await.unwrap();
        let length = usize::try_from(self.0.read_i32().await.unwrap()).unwrap();
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).await.unwrap();
        answer
    }

    async fn ask(&mut self, operation: i32, body: &[u8]) {
        let answer = self.exchange(&[&1_i32.to_be_bytes()[..], &operation.to_be_bytes(), body].concat()).await;
        // The header of a reply: xid, zxid, error.
        assert_eq!(answer[12..16], [0; 4], "error {:?}", &answer[12..16]);
    }

    /// Creates a persistent znode that anyone may do anything with.
    pub async fn create(&mut self, path: &str, data: Option<&[u8]>) {
        let anyone =
            [&1_i32.to_be_bytes()[..], &31_i32.to_be_bytes(), &buffer(Some(b"world")), &buffer(Some(b"anyone"))];
        let body = [&buffer(Some(path.as_bytes()))[..], &buffer(data), &anyone.concat(), &[0; 4]].concat();
        self.ask(1, &body).await;
    }

    /// Sets the data, whatever the version.
    pub async fn set_data(&mut self, path: &str, data: Option<&[u8]>) {
        let body = [&buffer(Some(path.as_bytes()))[..], &buffer(data), &(-1_i32).to_be_bytes()].concat();
        self.ask(5, &body).await;
    }
}

/// Gives znodes of the newest snapshot in this directory these dataVersions, seals it anew, and removes everything else, so that
/// a server starts from it.
///
/// A node is `path | data | acl i64 | czxid mzxid ctime mtime i64 | version i32 …`; a seal is the Adler-32 of all bytes
/// before it as an i64, and the text `/`.
pub fn with_versions(directory: &Path, versions: &[(&str, i32)]) {
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The name has the zxid; the times of the files are those of their copies.
    let zxid = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        u64::from_str_radix(name.strip_prefix("snapshot.")?, 16).ok()
    };
    let newest = files.iter().filter(|path| zxid(path).is_some()).max_by_key(|path| zxid(path));
    let newest = newest.expect("there is a snapshot").clone();
    let old = std::fs::read(&newest).unwrap();
    let mut new = old.clone();
    for (path, version) in versions {
        let name = buffer(Some(path.as_bytes()));
        let at = old.windows(name.len()).position(|window| window == name).expect("the znode is in the snapshot");
        let data = at + name.len();
        let length = usize::try_from(i32::from_be_bytes(old[data..data + 4].try_into().unwrap())).unwrap();
        let place = data + 4 + length + 8 + 4 * 8;
        new[place..place + 4].copy_from_slice(&version.to_be_bytes());
    }
    let (mut before, mut after, mut seals) = (Adler::default(), Adler::default(), 0);
    for at in 0..old.len() {
        let seal = [&before.value().to_be_bytes()[..], &buffer(Some(b"/"))].concat();
        if old[at..].starts_with(&seal) {
            new[at..at + 8].copy_from_slice(&after.value().to_be_bytes());
            seals += 1;
        }
        before.add(old[at]);
        after.add(new[at]);
    }
    assert!(seals > 0, "the snapshot is sealed");
    for path in files {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::write(newest, new).unwrap();
}

/// Adler-32.
struct Adler(u64, u64);

impl Default for Adler {
    fn default() -> Adler {
        Adler(1, 0)
    }
}

impl Adler {
    fn add(&mut self, byte: u8) {
        self.0 = (self.0 + u64::from(byte)) % 65_521;
        self.1 = (self.1 + self.0) % 65_521;
    }

    fn value(&self) -> u64 {
        self.1 << 16 | self.0
    }
}
