//! A test's own hand in ZooKeeper: one session and the few things that tests do with znodes.

use std::time::Duration;
use zookeeper_client::{Acls, Client, CreateMode, Error, Stat};

/// One session.
#[derive(Clone)]
pub struct Znodes {
    client: Client,
}

impl Znodes {
    pub async fn connect(servers: &str) -> Znodes {
        let client = Client::connector().with_session_timeout(Duration::from_secs(40)).connect(servers).await;
        Znodes { client: client.unwrap_or_else(|error| panic!("no session with {servers}: {error}")) }
    }

    /// A session, if a server answers now.
    pub async fn try_connect(servers: &str) -> Option<Znodes> {
        let connector = Client::connector().with_session_timeout(Duration::from_secs(10)).with_fail_eagerly();
        connector.connect(servers).await.ok().map(|client| Znodes { client })
    }

    /// The session itself, for what is not here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates the znode, and empty ancestors, or replaces its data.
    pub async fn put(&self, path: &str, data: impl AsRef<[u8]>) {
        self.try_put(path, data).await.unwrap_or_else(|error| panic!("writing {path}: {error}"));
    }

    /// [`Znodes::put`] that may fail, because the server is gone or the session is not allowed to.
    pub async fn try_put(&self, path: &str, data: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write(path, data.as_ref(), CreateMode::Persistent).await
    }

    /// Creates the znode as an ephemeral of this session.
    pub async fn put_ephemeral(&self, path: &str, data: impl AsRef<[u8]>) {
        let written = self.write(path, data.as_ref(), CreateMode::Ephemeral).await;
        written.unwrap_or_else(|error| panic!("writing {path}: {error}"));
    }

    async fn write(&self, path: &str, data: &[u8], mode: CreateMode) -> Result<(), Error> {
        loop {
            let done = match self.client.set_data(path, data, None).await {
                Ok(_) => Ok(()),
                Err(Error::NoNode) => {
                    let parent = path.rsplit_once('/').expect("a path begins with a slash").0;
                    if !parent.is_empty() {
                        self.client.mkdir(parent, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
                    }
                    self.client.create(path, data, &mode.with_acls(Acls::anyone_all())).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => return Ok(()),
                // Somebody, Keepstep for one, was faster with the other half: look again.
                Err(Error::NodeExists | Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The data, `None` if there is no such znode.
    pub async fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.look(path).await.map(|(data, _)| data)
    }

    /// The data as text, for readable failures.
    pub async fn text(&self, path: &str) -> Option<String> {
        self.get(path).await.map(|data| String::from_utf8_lossy(&data).into_owned())
    }

    /// Data and stat, `None` if there is no such znode.
    pub async fn look(&self, path: &str) -> Option<(Vec<u8>, Stat)> {
        match self.client.get_data(path).await {
            Ok(found) => Some(found),
            Err(Error::NoNode) => None,
            Err(error) => panic!("reading {path}: {error}"),
        }
    }

    /// The stat of a znode that is there.
    pub async fn stat(&self, path: &str) -> Stat {
        self.client.check_stat(path).await.unwrap().unwrap_or_else(|| panic!("{path} is not there"))
    }

    /// Deletes the znode, which has no children. One that is gone already is fine.
    pub async fn delete(&self, path: &str) {
        match self.client.delete(path, None).await {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => panic!("deleting {path}: {error}"),
        }
    }

    /// Every znode below the path, itself not included, with its data; sorted by path.
    pub async fn tree(&self, root: &str) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut open = vec![if root.is_empty() { "/".to_owned() } else { root.to_owned() }];
        while let Some(path) = open.pop() {
            let children = match self.client.list_children(&path).await {
                Ok(children) => children,
                Err(Error::NoNode) => continue,
                Err(error) => panic!("listing {path}: {error}"),
            };
            for child in children {
                let child = format!("{}/{child}", path.trim_end_matches('/'));
                if let Some(data) = self.get(&child).await {
                    found.push((child.clone(), data));
                    open.push(child);
                }
            }
        }
        found.sort();
        found
    }
}
