//! What `validate --connect` finds out about an ensemble.

use super::acl::OPEN;
use super::fault::explain;
use super::session::{CreateMode, Error, MultiReadResult, MultiWriteError, ReadOp, Session, WriteOp};
use super::sessions::version;
use super::shared::Shared;
use crate::env::{self, Instant};
use crate::store::preflight::{Finding, Level, Names, Range, skew};
use crate::store::{FailureKind, StoreError, VALUE_BYTES_MAX};

/// See [`crate::store::contract::Connection::check`].
pub(super) async fn check(shared: &Shared) -> Result<(), StoreError> {
    let session = shared.control()?;
    has_chroot(shared, session.handle()).await?;
    try_to_write(shared, session.handle()).await.map(|_| ())
}

/// See [`crate::store::contract::ZnodeReader::find_root`].
pub(super) async fn find_root(shared: &Shared) -> Result<(), StoreError> {
    has_chroot(shared, shared.control()?.handle()).await
}

/// Without the root of the names nothing can be created: the chroot is missing.
async fn has_chroot(shared: &Shared, session: &dyn Session) -> Result<(), StoreError> {
    match session.stat("/").await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            let chroot = shared.place.access.connect.split_once('/').map_or("", |(_, chroot)| chroot);
            Err(StoreError::refused(
                FailureKind::Settings,
                format!("{}: the chroot /{chroot} does not exist: create it, or mend `connect`", shared.place),
            ))
        }
        Err(error) => Err(explain(&shared.place, &error)),
    }
}

pub(super) async fn look(shared: &Shared, range: &Range<'_>) -> Result<Vec<Finding>, StoreError> {
    let session = shared.settings.sessions.own(&shared.place).await?;
    let session = session.handle();
    let store = &shared.settings.name;
    let mut findings = Vec::new();
    match version(shared.ensemble(), &shared.place.access.connect).await {
        Some(version) => findings.push(Finding::new(Level::Ok, store, format!("ZooKeeper {version}"), "")),
        None => findings.push(Finding::new(
            Level::Warning,
            store,
            "its version is unknown: `srvr` is not answered",
            "ZooKeeper 3.6 or later is needed; add srvr to 4lw.commands.whitelist to have it checked",
        )),
    }
    has_chroot(shared, session).await?;
    for root in &shared.settings.roots {
        findings.push(watchable(shared, session, root).await?);
    }
    findings.extend(readable(shared, session, range).await?);
    findings.extend(writable(shared, session).await?);
    let what = format!("values up to {VALUE_BYTES_MAX} bytes are mirrored, if jute.maxbuffer is not lowered");
    findings.push(Finding::new(Level::Ok, store, what, ""));
    Ok(findings)
}

async fn watchable(shared: &Shared, session: &dyn Session, root: &str) -> Result<Finding, StoreError> {
    let store = &shared.settings.name;
    match session.watch(root).await {
        Ok(_) => Ok(Finding::new(Level::Ok, store, format!("{root} can be watched recursively"), "")),
        Err(Error::Unimplemented) => {
            let what = "it has no recursive watches";
            Ok(Finding::new(Level::Error, store, what, "ZooKeeper 3.6 or later is needed"))
        }
        Err(error) => Err(explain(&shared.place, &error)),
    }
}

/// Znodes whose children are asked for in one request: names only, so that even large values cost
/// nothing.
const LISTS: usize = 64;

/// Looks through the names of the routes. Listing the children of a znode needs the same READ as
/// its data.
async fn readable(shared: &Shared, session: &dyn Session, range: &Range<'_>) -> Result<Vec<Finding>, StoreError> {
    let begun = Instant::now();
    let mut names = Names::default();
    let mut open = shared.settings.roots.clone();
    while !open.is_empty() {
        if begun.elapsed() >= range.patience {
            names.is_cut = true;
            break;
        }
        let asked = open.split_off(open.len().saturating_sub(LISTS));
        let reads: Vec<ReadOp<'_>> = asked.iter().map(|path| ReadOp::Children(path)).collect();
        let answers = session.read_all(&reads).await.map_err(|error| explain(&shared.place, &error))?;
        for (path, answer) in asked.iter().zip(answers) {
            match answer {
                MultiReadResult::Children { children } => {
                    names.looked += 1;
                    let above = if path == "/" { "" } else { path };
                    let below = children.iter().map(|name| format!("{above}/{name}"));
                    open.extend(below.filter(|path| (range.has_path)(path)));
                }
                MultiReadResult::Error { err: Error::NoAuth } => {
                    names.looked += 1;
                    names.deny(path, &format!("user `{}` lacks READ", shared.place.user()));
                }
                // Not there, or not any more.
                _ => {}
            }
        }
    }
    let help = "give it READ there: whatever is below is not mirrored, and its events are hidden; or exclude it from the route";
    Ok(names.findings(&shared.settings.name, "znodes", help))
}

/// Where Keepstep keeps its state.
const STATE: &str = "/_keepstep";

/// Tries to create persistent and ephemeral znodes where Keepstep keeps its state, without leaving
/// anything. Answers whether the place exists.
async fn try_to_write(shared: &Shared, session: &dyn Session) -> Result<bool, StoreError> {
    let wrong = |error: Error| explain(&shared.place, &error);
    let exists = session.stat(STATE).await.map_err(wrong)?.is_some();
    let own = format!("{STATE}/{}", shared.settings.pipeline);
    let has_own = session.stat(&own).await.map_err(wrong)?.is_some();
    // The check fails, so the creates of the same multi never take effect; which of them fails
    // first is the answer.
    let mut writes = Vec::new();
    if !exists {
        writes.push(WriteOp::Create { path: STATE, data: b"", mode: CreateMode::Persistent, acl: &OPEN });
    }
    let place = if has_own { own.as_str() } else { STATE };
    let path = format!("{place}/validate");
    writes.push(WriteOp::Create { path: &path, data: b"", mode: CreateMode::Ephemeral, acl: &OPEN });
    writes.push(WriteOp::Check { path: "/_keepstep/never/there", version: 0 });
    match session.write_all(&writes).await {
        Err(MultiWriteError::OperationFailed { source: Error::NoAuth, .. }) => {
            let (at, user) = (&shared.place, shared.place.user());
            Err(StoreError::refused(
                FailureKind::Permission,
                format!(
                    "{at}: user `{user}` may not write below {place}: give it CREATE on /, or create /_keepstep for it"
                ),
            ))
        }
        // The check was reached, or somebody has created one of them meanwhile.
        Err(MultiWriteError::OperationFailed { source: Error::NoNode | Error::NodeExists, .. }) => Ok(exists),
        Err(MultiWriteError::OperationFailed { source, .. } | MultiWriteError::RequestFailed { source }) => {
            Err(wrong(source))
        }
        Ok(_) => {
            Err(StoreError::away(FailureKind::Protocol, format!("{}: an unexpected answer to a write", shared.place)))
        }
    }
}

/// Tries to write, and compares the clocks where it can.
async fn writable(shared: &Shared, session: &dyn Session) -> Result<Vec<Finding>, StoreError> {
    let store = &shared.settings.name;
    let exists = match try_to_write(shared, session).await {
        Ok(exists) => exists,
        Err(StoreError::Refused(what)) => {
            return Ok(vec![Finding::new(Level::Error, store, what.into_text(), "")]);
        }
        Err(error) => return Err(error),
    };
    let mut findings = vec![Finding::new(Level::Ok, store, "/_keepstep can be written", "")];
    if exists {
        let before_ms = env::unix_ms();
        let created = session.create("/_keepstep/validate-", b"", CreateMode::EphemeralSequential, &OPEN);
        if let Ok(created) = created.await {
            findings.push(skew(store, created.stat.ctime - i64::midpoint(before_ms, env::unix_ms())));
            let _ = session.delete(&created.path, None).await;
        }
    }
    Ok(findings)
}
