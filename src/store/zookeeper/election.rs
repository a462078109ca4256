//! Ownership: a place in line, the epoch, the lineage (`lineage.rs`), the journal slots; claims on
//! ranges are in `claims.rs`.
//!
//! ```text
//!   /_keepstep/<pipeline>/election/w-0000000001   ephemeral, one for each worker; the first in line owns
//!   /_keepstep/<pipeline>/epoch                   raised by each owner; every multi checks its version
//!   /_keepstep/<pipeline>/lineage                 names this incarnation of the ensemble's data; its version is the watermark
//!   /_keepstep/<pipeline>/journal/00 … 15
//! ```

use super::fault::explain;
use super::group::Card;
use super::journal::{self, SLOTS};
use super::ours::ensure;
use super::ownership::Stands;
use super::session::{CreateMode, Error, MultiWriteError, MultiWriteResult, Session, SessionState, Stat, WriteOp};
use super::sessions::Probe;
use super::shared::{RETRY_PAUSE, Shared};
use super::tenure::Tenure;
use super::watermark::Lineage;
use super::{group, lineage, ownership};
use crate::env::{self, Instant, Set, lock};
use crate::failpoint::crash_point;
use crate::store::clock::steady_ms;
use crate::store::{FailureKind, JournalEntry, Lease, Lost, Remembered, Slot, StoreError, Taken};
use futures::stream::StreamExt as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a standby looks at the line even when no watch fires, and an owner counts its
/// standbys.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A look at the group serves all owned pipelines of a worker for this long, so a hundred of them
/// cost as much as two. Below [`LOOK_EVERY`], or the second look of an owner would be its first.
const OWNERS_FRESH: Duration = Duration::from_secs(1);

/// Times that a worker which is first in line lets another go before. Views of different workers
/// agree within milliseconds; a worker that is wanted and never comes must not keep the pipeline
/// without an owner.
const STEPS_BACK: u32 = 3;
/// A session that is away for so long is asked about: a server that restarts is usually back by
/// then.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// Waits until this worker is first in line, and no other should be.
pub(super) async fn stand(shared: &Shared, waiting: &(dyn Fn(String, u64) + Send + Sync)) -> Result<(), StoreError> {
    let tenure = shared.tenure()?;
    let session = tenure.session.handle();
    let line = shared.place.under("election");
    ensure(&shared.place, session, &line, b"").await?;
    let known = lock(&tenure.place_in_line).clone();
    let mut mine = match known {
        Some(path) if is_ours(shared, &tenure, &path).await? => path,
        _ => line_up(shared, &tenure, &line).await?,
    };
    let mut steps_back = 0;
    loop {
        let is_held = is_ours(shared, &tenure, &mine).await?;
        let names = line_of(shared, session, &line).await?;
        let at = names.iter().position(|name| format!("{line}/{name}") == mine);
        let Some(at) = at.filter(|_| is_held) else {
            tracing::warn!(pipeline = shared.settings.pipeline, "our place in line was deleted; we line up again");
            env::sleep(RETRY_PAUSE).await;
            ensure(&shared.place, session, &line, b"").await?;
            mine = line_up(shared, &tenure, &line).await?;
            continue;
        };
        let Some(before) = at.checked_sub(1).and_then(|before| names.get(before)) else {
            let may_step_back = names.len() > 1 && steps_back < STEPS_BACK && !shared.settings.once;
            if may_step_back && !should_own(shared, session).await? {
                steps_back += 1;
                let left = std::mem::replace(&mut mine, line_up(shared, &tenure, &line).await?);
                session.delete(&left, None).await.map_err(|error| explain(&shared.place, &error))?;
                continue;
            }
            return Ok(());
        };
        let Some((first, card)) = first_of(shared, session, &line, &names).await? else { continue };
        // One of ours that is not `mine` belongs to a session that we gave up; an ensemble that
        // came back older has it.
        let is_ours = first != mine && card.identity == shared.settings.worker.identity;
        if is_ours || is_dead(&card) {
            tracing::info!(owner = card.name, "the owner's process or session is gone; its place in line is cleared");
            let _ = session.delete(&first, None).await;
            continue;
        }
        waiting(card.name, u64::try_from(names.len()).unwrap_or(1) - 1);
        let watched = session.stat_and_watch(&format!("{line}/{before}")).await;
        if let Ok((Some(_), changed)) = watched {
            let _ = env::timeout(LOOK_EVERY, changed).await;
        }
    }
}

/// Whether this place in line is there, and ours.
async fn is_ours(shared: &Shared, tenure: &Tenure, place: &str) -> Result<bool, StoreError> {
    let stat = tenure.session.stat(place).await.map_err(|error| explain(&shared.place, &error))?;
    Ok(stat.is_some_and(|stat| tenure.holds(&stat)))
}

/// The name of the first in line, if there is anybody. Waits for nothing.
pub(super) async fn owner(shared: &Shared) -> Result<Option<String>, StoreError> {
    let session = shared.control()?;
    let session = session.handle();
    let line = shared.place.under("election");
    loop {
        let names = line_of(shared, session, &line).await?;
        if names.is_empty() {
            return Ok(None);
        }
        // One that went since has made room for the next.
        if let Some((_, card)) = first_of(shared, session, &line, &names).await? {
            return Ok(Some(card.name));
        }
    }
}

/// The place of the first in this line, and who it is; `None` if that one has gone since the line
/// was read.
async fn first_of(
    shared: &Shared,
    session: &dyn Session,
    line: &str,
    names: &[String],
) -> Result<Option<(String, Card)>, StoreError> {
    let Some(first) = names.first().map(|first| format!("{line}/{first}")) else { return Ok(None) };
    match session.data(&first).await {
        Ok((data, _)) => Ok(Some((first, Card::read(&String::from_utf8_lossy(&data))))),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(explain(&shared.place, &error)),
    }
}

/// Takes a place at the end of the line.
async fn line_up(shared: &Shared, tenure: &Tenure, line: &str) -> Result<String, StoreError> {
    let prefix = format!("{line}/w-");
    let settings = &shared.settings;
    let card = Card {
        name: settings.worker.name.clone(),
        machine: env::process::machine(),
        once: settings.once,
        identity: settings.worker.identity.clone(),
        routes: settings.routes_digest.clone(),
    };
    let card = card.text();
    let created = tenure
        .session
        .create(&prefix, card.as_bytes(), CreateMode::EphemeralSequential, shared.place.private_acl())
        .await;
    let path = created.map_err(|error| explain(&shared.place, &error))?.path;
    *lock(&tenure.place_in_line) = Some(path.clone());
    Ok(path)
}

/// Whether the pipelines are spread evenly if this worker owns this one.
async fn should_own(shared: &Shared, session: &dyn Session) -> Result<bool, StoreError> {
    let wanted = group::wanted(&shared.settings.sessions.group, &shared.place, session, group::FRESH).await?;
    Ok(wanted.is_none_or(|wanted| wanted.is(&shared.settings.worker)))
}

/// Whether the worker of this card ran here and its process is gone, so that its session need not
/// be waited for. Were this wrong, the fence would still stop the older owner.
fn is_dead(card: &Card) -> bool {
    let pid = card.name.rsplit(':').next().and_then(|pid| pid.parse().ok());
    let is_here = !card.machine.is_empty() && card.machine == env::process::machine();
    is_here && pid.is_some_and(env::process::is_gone)
}

/// The line, first come first; empty as well where there is none.
async fn line_of(shared: &Shared, session: &dyn Session, line: &str) -> Result<Vec<String>, StoreError> {
    match session.children(line).await {
        Ok(mut names) => {
            names.sort();
            Ok(names)
        }
        Err(Error::NoNode) => Ok(Vec::new()),
        Err(error) => Err(explain(&shared.place, &error)),
    }
}

/// Raises the epoch and names the lineage.
///
/// ```text
///   1  check(place in line) + set(epoch, as it was)                 fences the owner before; shows the zxid
///   2  look at the lineage                                          nobody else can change it now
///   3  check(place in line) + set(epoch, raised) + lineage if new   what shows that the ensemble is older goes with what it meant
/// ```
///
/// An owner that dies between 1 and 3 leaves everything for the next one to conclude the same; one
/// that is frozen there and thaws behind a newer owner writes nothing.
pub(super) async fn own(shared: &Shared, remembered: Remembered, taken: Taken) -> Result<Lease, StoreError> {
    let tenure = shared.tenure()?;
    let session = tenure.session.handle();
    let wrong = |error: Error| explain(&shared.place, &error);
    let epoch_path = shared.place.under("epoch");
    ensure(&shared.place, session, &epoch_path, b"0").await?;
    let (data, stat) = session.data(&epoch_path).await.map_err(wrong)?;
    let last: u64 = std::str::from_utf8(&data).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mine = lock(&tenure.place_in_line).clone().unwrap_or_default();
    let sent_ms = steady_ms();
    let stands = WriteOp::Check { path: &mine, version: 0 };
    let fence = WriteOp::Set { path: &epoch_path, data: &data, version: Some(stat.version) };
    let stat = written(shared, session.write_all(&[stands, fence]).await, 1)?;
    shared.watermark.measure_clock(sent_ms, stat.mtime);
    crash_point!("c10-found-in-zookeeper");
    let found = Remembered { epoch: last, zxid: stat.mzxid, ..Remembered::default() };
    let named = lineage::look(shared, session, found, remembered).await?;
    let epoch = taken.next(last.max(remembered.epoch));
    let raised = epoch.to_string();
    let raise = WriteOp::Set { path: &epoch_path, data: raised.as_bytes(), version: Some(stat.version) };
    let (lineage_path, lineage_data) = (shared.place.lineage_path(), named.data());
    let name = named.write(&lineage_path, &lineage_data, shared.place.private_acl());
    let results = session.write_all(&[stands, raise, name]).await;
    let watermark = named.watermark(results.as_ref().ok().and_then(|results| results.get(2)));
    let stat = written(shared, results, 1)?;
    *lock(&tenure.fence) = (epoch_path, stat.version);
    shared.watermark.begin(Lineage::new(named.ensemble, watermark), stat.mzxid);
    Ok(Lease { epoch, ensemble: named.ensemble, lost: named.lost })
}

/// What this write of a transaction left.
fn written(
    shared: &Shared,
    committed: Result<Vec<MultiWriteResult>, MultiWriteError>,
    at: usize,
) -> Result<Stat, StoreError> {
    match committed.map_err(|error| explain(&shared.place, &error.into()))?.into_iter().nth(at) {
        Some(MultiWriteResult::SetData { stat }) => Ok(stat),
        _ => Err(StoreError::away(FailureKind::Protocol, format!("{}: the epoch could not be raised", shared.place))),
    }
}

/// Reads every slot, creating those that are missing, and notes their versions.
pub(super) async fn journal(shared: &Shared) -> Result<Vec<JournalEntry>, StoreError> {
    let tenure = shared.tenure()?;
    let session = tenure.session.handle();
    let mut entries = Vec::new();
    for slot in 0..SLOTS {
        let path = shared.place.slot_path(slot);
        // Looked at first: a create that is refused is a transaction of the ensemble, too, and a
        // take-over has to be quick.
        let (data, stat) = match session.data(&path).await {
            Err(Error::NoNode) => {
                ensure(&shared.place, session, &path, b"").await?;
                session.data(&path).await
            }
            read => read,
        }
        .map_err(|error| explain(&shared.place, &error))?;
        tenure.note_slot(slot, stat.version);
        entries.extend(journal::read(Slot { number: slot, version: stat.version }, &data, stat.mzxid));
    }
    tenure.free_all_slots();
    Ok(entries)
}

/// Resolves when the ownership is lost or should be another's; counts the standbys meanwhile. What
/// an operator deletes of ours ends it as well: the next one, here or elsewhere, makes it again.
pub(super) async fn lost(shared: &Shared) -> Lost {
    let fenced = |kind, why: String| Lost::Gone(StoreError::fenced(kind, format!("{}: {why}", shared.place)));
    let Ok(tenure) = shared.tenure() else { return fenced(FailureKind::Session, "there is no session".to_owned()) };
    let session = &tenure.session;
    let mut states = session.states();
    let mut before = None;
    let mut met = Set::default();
    let mut away_since = None;
    loop {
        let state = session.state();
        if !session.is_usable() {
            return fenced(FailureKind::Session, format!("the session ended ({state:?})"));
        }
        away_since = if state == SessionState::Disconnected { away_since.or(Some(Instant::now())) } else { None };
        if away_since.is_some_and(|since| since.elapsed() >= SUSPECT_AFTER)
            && let Some(why) = came_back_older(shared).await
        {
            // Neither session would be taken back.
            session.give_up();
            if let Some(source) = lock(&shared.source).as_ref() {
                source.give_up();
            }
            return Lost::Gone(StoreError::fenced(FailureKind::Identity, why));
        }
        tokio::select! {
            biased;
            _ = states.next() => {}
            () = env::sleep(SUSPECT_AFTER), if away_since.is_some() => {}
            () = env::sleep(LOOK_EVERY), if away_since.is_none() => {
                let look = ownership::look(shared, &tenure, &mut met);
                let standbys = match env::timeout(LOOK_EVERY, look).await {
                    Ok(Ok(Stands::With(standbys))) => standbys,
                    Ok(Ok(Stands::Without(what))) => return fenced(FailureKind::Overwritten, what),
                    Ok(Err(_)) | Err(_) => continue,
                };
                shared.standbys.store(standbys, Ordering::Relaxed);
                let look = async {
                    let has_others = standbys > 0 && !shared.settings.once;
                    let group = &shared.settings.sessions.group;
                    if has_others { group::wanted(group, &shared.place, session.handle(), OWNERS_FRESH).await } else { Ok(None) }
                };
                let Ok(Ok(wanted)) = env::timeout(LOOK_EVERY, look).await else { continue };
                let wanted = wanted.filter(|wanted| !wanted.is(&shared.settings.worker));
                // Twice the same: workers that start stand in one line after the other.
                if let Some(other) = &wanted
                    && before == wanted
                {
                    return Lost::HandsOver(other.name.clone());
                }
                before = wanted;
            }
        }
    }
}

/// Asks on a session of its own whether the ensemble is older than what was seen of it, and returns
/// a sentence if it is. A server that is behind what a session has seen closes its connections
/// without a word, so ours would only learn it by expiring. A wrong yes costs nothing but a
/// take-over by ourselves.
async fn came_back_older(shared: &Shared) -> Option<String> {
    let newest = shared.watermark.zxid();
    let how = match shared.settings.sessions.probe(&shared.place.under("probe-")).await {
        Probe::Zxid(zxid) if zxid < newest => "older",
        Probe::Blank => "without our state",
        Probe::Zxid(_) | Probe::Silent => return None,
    };
    Some(format!("{}: the ensemble came back {how}", shared.place))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn card(pid: u32, machine: &str) -> Card {
        Card { name: format!("host:{pid}"), machine: machine.to_owned(), ..Card::default() }
    }

    /// With `hidepid=2` a process of another user has no folder in `/proc`, and it lives all the
    /// same: the first process, of root, for one, whoever asks.
    #[test]
    fn only_a_process_that_the_kernel_does_not_know_is_dead() {
        let mut child = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
        let here = env::process::machine();
        assert!(!here.is_empty());
        for pid in [1, env::process::id(), child.id()] {
            assert!(!is_dead(&card(pid, &here)), "{pid}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&card(child.id(), &here)));
        for elsewhere in ["", "another boot pid:[4026531836]"] {
            assert!(!is_dead(&card(child.id(), elsewhere)), "{elsewhere}");
        }
        assert!(!is_dead(&Card { name: "host".to_owned(), machine: here, ..Card::default() }));
    }
}
