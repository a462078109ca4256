//! The lineage: which incarnation of the ensemble's data this is, and a watermark that only rises, so that an
//! older copy can be distinguished from a newer one.
//!
//! Zxids alone do not show that: an ensemble of several servers that is restored from a copy elects
//! a leader, whose zxids begin anew above all that there were. So the owner writes its lineage
//! znode again whenever something has changed, and remembers the version that this gives, here and
//! in Redis. A znode of a lower version is an older one, and with it the ensemble.

use super::fault::explain;
use super::session::{Acl, CreateMode, Error, MultiWriteError, MultiWriteResult, Session, WriteOp};
use super::shared::Shared;
use super::watermark::{Lineage, encode};
use crate::change::LossCause;
use crate::env;
use crate::plan::Ensemble;
use crate::plan::guard::is_older;
use crate::store::clock::steady_ms;
use crate::store::{FailureKind, Remembered, StoreError};

/// Attempts to advance the watermark: only our own raises come in between, of which two can be under way,
/// and lost answers.
const TRIES: usize = 4;

/// The lineage that the next owner works in, and what has to be written for it.
pub(super) struct Named {
    pub(super) ensemble: Ensemble,
    /// How the ensemble has lost data, if a new one begins for that.
    pub(super) lost: Option<LossCause>,
    how: How,
}

enum How {
    /// It stands there, in this version.
    Known(i32),
    /// It takes the place of another one, of this version.
    Replaces(i32),
    /// There is none.
    Creates,
}

impl Named {
    /// What the lineage znode then holds.
    pub(super) fn data(&self) -> Vec<u8> {
        encode(self.ensemble)
    }

    /// What has to be written in the transaction in which the ownership begins: this data, with
    /// this ACL if the znode is created.
    pub(super) fn write<'a>(&self, path: &'a str, data: &'a [u8], acl: &'a [Acl]) -> WriteOp<'a> {
        match self.how {
            How::Known(version) => WriteOp::Check { path, version },
            How::Replaces(version) => WriteOp::Set { path, data, version: Some(version) },
            How::Creates => WriteOp::Create { path, data, mode: CreateMode::Persistent, acl },
        }
    }

    /// The watermark after that, by what the write answered.
    pub(super) fn watermark(&self, written: Option<&MultiWriteResult>) -> i32 {
        match (&self.how, written) {
            (_, Some(MultiWriteResult::SetData { stat })) => stat.version,
            (How::Known(version) | How::Replaces(version), _) => *version,
            (How::Creates, _) => 0,
        }
    }
}

/// Finds out the lineage, a new one if the ensemble is an older copy or has none; writes nothing.
/// `found`: what it shows so far.
pub(super) async fn look(
    shared: &Shared,
    session: &dyn Session,
    found: Remembered,
    remembered: Remembered,
) -> Result<Named, StoreError> {
    let known = match session.data(&shared.place.lineage_path()).await {
        Ok((data, stat)) => Some((decode(&data), stat.version)),
        Err(Error::NoNode) => None,
        Err(error) => return Err(explain(&shared.place, &error)),
    };
    let store = &shared.settings.name;
    Ok(match known {
        Some((Some((id, since_zxid)), watermark))
            if !is_older(Remembered { ensemble: id, watermark, ..found }, remembered) =>
        {
            Named { ensemble: Ensemble { id, since_zxid }, lost: None, how: How::Known(watermark) }
        }
        Some((_, version)) => {
            tracing::error!(store, "the ensemble came back older than it was; its losses are restored");
            Named { ensemble: fresh(found.zxid), lost: Some(LossCause::Older), how: How::Replaces(version) }
        }
        None => {
            if remembered.ensemble != 0 {
                tracing::error!(store, "the ensemble came back without our state; its losses are restored");
            }
            let lost = (remembered.ensemble != 0).then_some(LossCause::Emptied);
            Named { ensemble: fresh(found.zxid), lost, how: How::Creates }
        }
    })
}

fn decode(data: &[u8]) -> Option<(u32, i64)> {
    serde_json::from_slice(data).ok()
}

/// A lineage that begins now. Its name only has to differ from those before.
fn fresh(zxid: i64) -> Ensemble {
    let id = env::random::number() >> 32;
    Ensemble { id: u32::try_from(id).unwrap_or(1).max(1), since_zxid: zxid }
}

/// Advances the watermark, as the owner and from where this owner knows it to be, so that nothing is
/// written to an ensemble that came back older. The zxid that this gives is not noted as seen: it
/// would call for the next one.
pub(super) async fn raise(shared: &Shared) -> Result<(), StoreError> {
    let tenure = shared.tenure()?;
    let (epoch_path, version) = tenure.fence();
    let wrong = |error: Error| explain(&shared.place, &error);
    for _ in 0..TRIES {
        let Some(Lineage { data, watermark }) = shared.watermark.lineage() else {
            return Err(StoreError::fenced(FailureKind::Owner, format!("{}: not the owner", shared.place)));
        };
        let path = shared.place.lineage_path();
        let fence = WriteOp::Check { path: &epoch_path, version };
        let raise = WriteOp::Set { path: &path, data: &data, version: Some(watermark) };
        let sent_ms = steady_ms();
        match tenure.session.write_all(&[fence, raise]).await {
            Ok(results) => {
                let Some(MultiWriteResult::SetData { stat }) = results.last() else {
                    return Err(StoreError::away(
                        FailureKind::Protocol,
                        format!("{}: an unexpected answer to a write", shared.place),
                    ));
                };
                shared.watermark.measure_clock(sent_ms, stat.mtime);
                shared.watermark.note_watermark(stat.version);
                return Ok(());
            }
            Err(MultiWriteError::OperationFailed { index: 0, source }) => {
                let text = format!("{}: another worker owns the pipeline ({source})", shared.place);
                return Err(StoreError::fenced(FailureKind::Owner, text).with_source(source));
            }
            // We raised it meanwhile, or the answer to that was lost; or this is an older copy.
            Err(MultiWriteError::OperationFailed { source: Error::BadVersion | Error::NoNode, .. }) => {
                check(shared, tenure.session.handle()).await?;
            }
            Err(error) => return Err(wrong(error.into())),
        }
    }
    Err(StoreError::away(FailureKind::Protocol, format!("{}: the watermark could not be advanced", shared.place)))
}

/// Refuses to go on if the ensemble came back older than it was under this owner: what is absent
/// there says nothing, and neither do versions. Nor under another lineage: that is of a later
/// owner, whose epoch may have our version if the znode was deleted by hand.
pub(super) async fn check(shared: &Shared, session: &dyn Session) -> Result<(), StoreError> {
    let Some(Lineage { data: ours, watermark }) = shared.watermark.lineage() else { return Ok(()) };
    match session.data(&shared.place.lineage_path()).await {
        Ok((_, stat)) if stat.version < watermark => {
            Err(StoreError::fenced(FailureKind::Identity, format!("{}: the ensemble came back older", shared.place)))
        }
        Ok((data, _)) if decode(&data) != decode(&ours) => Err(StoreError::fenced(
            FailureKind::Owner,
            format!("{}: another worker owns the pipeline, in another lineage", shared.place),
        )),
        Ok((_, stat)) => {
            shared.watermark.note_watermark(stat.version);
            Ok(())
        }
        Err(Error::NoNode) => Err(gone(shared)),
        Err(error) => Err(explain(&shared.place, &error)),
    }
}

fn gone(shared: &Shared) -> StoreError {
    StoreError::fenced(FailureKind::Identity, format!("{}: the ensemble came back without our state", shared.place))
}
