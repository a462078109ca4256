//! What `validate --connect` finds out about an ensemble.

use super::{Shared, explain, now_ms};
use crate::store::preflight::{Finding, Level, skew};
use crate::store::{StoreError, VALUE_BYTES_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, Error, MultiWriteError};

pub(super) async fn look(shared: &Shared) -> Result<Vec<Finding>, StoreError> {
    let client = shared.settings.sessions.own(shared).await?;
    let store = &shared.settings.name;
    let mut findings = Vec::new();
    match version(&shared.access().connect).await {
        Some(version) => findings.push(Finding::new(Level::Ok, store, format!("ZooKeeper {version}"), "")),
        None => findings.push(Finding::new(Level::Ok, store, "reachable; it does not tell its version (`srvr`)", "")),
    }
    for root in &shared.settings.roots {
        findings.push(watchable(shared, &client, root).await?);
        findings.push(readable(shared, &client, root).await?);
    }
    findings.extend(writable(shared, &client).await?);
    let what = format!("values up to {VALUE_BYTES_MAX} bytes are mirrored, if jute.maxbuffer is not lowered");
    findings.push(Finding::new(Level::Ok, store, what, ""));
    Ok(findings)
}

async fn watchable(shared: &Shared, client: &Client, root: &str) -> Result<Finding, StoreError> {
    let store = &shared.settings.name;
    match client.watch(root, AddWatchMode::PersistentRecursive).await {
        Ok(_) => Ok(Finding::new(Level::Ok, store, format!("{root} can be watched recursively"), "")),
        Err(Error::Unimplemented) => {
            let what = "it has no recursive watches";
            Ok(Finding::new(Level::Error, store, what, "ZooKeeper 3.6 or later is needed"))
        }
        Err(error) => Err(explain(shared, &error)),
    }
}

async fn readable(shared: &Shared, client: &Client, root: &str) -> Result<Finding, StoreError> {
    let store = &shared.settings.name;
    match client.list_children(root).await {
        Ok(children) => Ok(Finding::new(Level::Ok, store, format!("{root} has {} children", children.len()), "")),
        Err(Error::NoNode) => Ok(Finding::new(Level::Ok, store, format!("{root} does not exist yet"), "")),
        Err(Error::NoAuth) => {
            let what = format!("user `{}` may not read {root}", shared.user());
            Ok(Finding::new(
                Level::Error,
                store,
                what,
                "give it READ on the whole subtree; a missing READ also hides events",
            ))
        }
        Err(error) => Err(explain(shared, &error)),
    }
}

/// Tries to write where Keepstep keeps its state, without leaving anything, and compares the clocks where it can.
async fn writable(shared: &Shared, client: &Client) -> Result<Vec<Finding>, StoreError> {
    let store = &shared.settings.name;
    let wrong = |error: Error| explain(shared, &error);
    let exists = client.check_stat("/_keepstep").await.map_err(wrong)?.is_some();
    let path = if exists { "/_keepstep/validate" } else { "/_keepstep" };
    // The check fails, so the create of the same multi never takes effect; which of them fails first is the answer.
    let mut multi = client.new_multi_writer();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    multi.add_create(path, b"", &options).map_err(wrong)?;
    multi.add_check_version("/_keepstep/never/there", 0).map_err(wrong)?;
    match multi.commit().await {
        Err(MultiWriteError::OperationFailed { source: Error::NoAuth, .. }) => {
            let what = format!("user `{}` may not write below /_keepstep", shared.user());
            let help = "give it CREATE on /, or create /_keepstep for it";
            return Ok(vec![Finding::new(Level::Error, store, what, help)]);
        }
        Err(MultiWriteError::RequestFailed { source }) => return Err(wrong(source)),
        _ => {}
    }
    let mut findings = vec![Finding::new(Level::Ok, store, "/_keepstep can be written", "")];
    if exists {
        let before_ms = now_ms();
        let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        if let Ok((stat, sequence)) = client.create("/_keepstep/validate-", b"", &options).await {
            findings.push(skew(store, stat.ctime - i64::midpoint(before_ms, now_ms())));
            let _ = client.delete(&format!("/_keepstep/validate-{sequence}"), None).await;
        }
    }
    Ok(findings)
}

/// Asks the first server that answers for its version, by the four-letter word `srvr` (allowed by default since 3.5).
pub(super) async fn version(connect: &str) -> Option<String> {
    let hosts = connect.split('/').next()?;
    for host in hosts.split(',') {
        let ask = async {
            let mut socket = TcpStream::connect(host).await.ok()?;
            socket.write_all(b"srvr").await.ok()?;
            let mut answer = String::new();
            socket.take(4096).read_to_string(&mut answer).await.ok()?;
            let line = answer.lines().find_map(|line| line.strip_prefix("Zookeeper version: "))?;
            line.split(['-', ',']).next().map(ToOwned::to_owned)
        };
        if let Ok(Some(version)) = tokio::time::timeout(std::time::Duration::from_secs(1), ask).await {
            return Some(version);
        }
    }
    None
}
