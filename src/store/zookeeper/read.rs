//! Reads of znodes: many in one request, requests split by their bytes and by what their answers
//! hold.

use super::ancestors::{Ancestors, unknown};
use super::fault::{explain, is_broken};
use super::session::{Error, MultiReadResult, ReadOp, Session};
use super::shared::{READ_BYTES, READS_MAX, Shared, stat_of};
use super::{lineage, size};
use crate::env::{Map, lock};
use crate::store::request::{Fault, in_parts, split};
use crate::store::{FailureKind, Look, StoreError, ZnodeReading, is_creatable};
use futures::FutureExt as _;
use std::sync::atomic::Ordering;

/// Read requests of one call that are under way together.
const READS_TOGETHER: usize = 4;

/// Bytes of the paths whose stats are under way together.
const STATS_BYTES: usize = 1 << 20;

/// What was read of one path; an error: its request alone is too large, and why.
pub(super) type Read = Result<MultiReadResult, String>;

impl Shared {
    /// Znodes to ask for in one request, by the sizes seen lately.
    pub(super) fn reads_per_request(&self) -> usize {
        (READ_BYTES / self.znode_bytes.load(Ordering::Relaxed).max(1)).clamp(2, READS_MAX)
    }

    fn note_size(&self, bytes: usize) {
        // A rise is taken at once, a fall over some sixteen znodes.
        let known = self.znode_bytes.load(Ordering::Relaxed);
        let next = if bytes >= known { bytes } else { known - (known - bytes).div_ceil(16) };
        self.znode_bytes.store(next, Ordering::Relaxed);
    }

    /// Cuts paths into requests of at most so many.
    pub(super) fn requests<'a>(&self, paths: &'a [String], count: usize) -> Vec<&'a [String]> {
        split(paths, count, self.settings.sessions.limit.together(), |path| self.sizes.read(path.len()))
    }

    /// Reads these in one request, or in several if the connection breaks under it.
    pub(super) async fn multi_read(&self, session: &dyn Session, paths: &[String]) -> Result<Vec<Read>, StoreError> {
        let limit = &self.settings.sessions.limit;
        let bytes =
            |paths: &[String]| size::MULTI + paths.iter().map(|path| self.sizes.read(path.len())).sum::<usize>();
        let too_large = |_: &String, bytes| Err(limit.why(bytes, "jute.maxbuffer"));
        in_parts(limit, paths, bytes, |paths| self.read_once(session, paths).boxed(), too_large).await
    }

    async fn read_once(&self, session: &dyn Session, paths: &[String]) -> Result<Vec<Read>, Fault> {
        let wrong = |error: Error| explain(&self.place, &error);
        let reads: Vec<ReadOp<'_>> = paths.iter().map(|path| ReadOp::Data(path)).collect();
        let results = match session.read_all(&reads).await {
            Ok(results) => results,
            Err(error) if is_broken(&error) => return Err(Fault::Broke(wrong(error))),
            Err(error) => return Err(wrong(error).into()),
        };
        let largest = results.iter().map(|result| match result {
            MultiReadResult::Data { data, .. } => data.len(),
            _ => 0,
        });
        self.note_size(largest.max().unwrap_or(0));
        if results.len() != paths.len() {
            let what = format!("{}: a read of {} znodes answered {}", self.place, paths.len(), results.len());
            return Err(StoreError::away(FailureKind::Protocol, what).into());
        }
        Ok(results.into_iter().map(Ok).collect())
    }

    /// See [`crate::store::contract::ZnodeReader::read`].
    pub(super) async fn read(&self, paths: &[String], look: Look) -> Result<Vec<ZnodeReading>, StoreError> {
        let session = match look {
            Look::Source => lock(&self.source).clone().ok_or_else(|| {
                StoreError::away(FailureKind::Session, format!("{}: the source is not connected", self.place))
            })?,
            Look::Synced => {
                let session = self.control()?;
                session.sync().await.map_err(|error| explain(&self.place, &error))?;
                session
            }
        };
        let session = session.handle();
        let mut readings = Vec::with_capacity(paths.len());
        // The first request shows how large the znodes are, before more are under way together.
        let first = self.requests(paths, self.reads_per_request()).first().map_or(0, |first| first.len());
        let (first, rest) = paths.split_at(first);
        let mut answers = vec![self.multi_read(session, first).await?];
        let requests = self.requests(rest, self.reads_per_request());
        for together in requests.chunks(READS_TOGETHER) {
            let requests = together.iter().map(|chunk| self.multi_read(session, chunk));
            answers.extend(futures::future::try_join_all(requests).await?);
        }
        for result in answers.into_iter().flatten() {
            readings.push(match result {
                Ok(MultiReadResult::Data { data, stat }) => {
                    self.watermark.note_zxid(stat.mzxid);
                    ZnodeReading::Present { data, stat: stat_of(&stat) }
                }
                Ok(MultiReadResult::Error { err: Error::NoNode }) => ZnodeReading::Absent(i64::MAX),
                Ok(MultiReadResult::Error { err: Error::NoAuth }) => {
                    ZnodeReading::Denied(format!("{}: the session may not read it", self.place))
                }
                Err(why) => ZnodeReading::TooLarge(format!("{}: {why}", self.place)),
                Ok(MultiReadResult::Error { err }) => return Err(explain(&self.place, &err)),
                Ok(_) => {
                    return Err(StoreError::away(
                        FailureKind::Protocol,
                        format!("{}: an unexpected answer to a read", self.place),
                    ));
                }
            });
        }
        if look == Look::Synced && readings.iter().any(|reading| matches!(reading, ZnodeReading::Absent(_))) {
            let dates = self.date_deletions(session, paths, &mut readings);
            let (intact, dated) = futures::future::join(lineage::check(self, session), dates).await;
            intact.and(dated)?;
        }
        Ok(readings)
    }

    /// Notes when those that are absent can have been deleted at the latest: pzxid of the nearest
    /// ancestor that is there (0 if there is none, a chroot that is missing), which is the zxid of
    /// the last creation or deletion in it. That a lagging server of the watches may still show an
    /// earlier state is known by it as well. Where no znode is ever created it is not asked for.
    async fn date_deletions(
        &self,
        session: &dyn Session,
        paths: &[String],
        readings: &mut [ZnodeReading],
    ) -> Result<(), StoreError> {
        let is_dated = |path: &str, reading: &ZnodeReading| {
            matches!(reading, ZnodeReading::Absent(_)) && is_creatable(path).is_ok()
        };
        let absent = paths.iter().zip(&*readings).filter(|(path, reading)| is_dated(path, reading));
        // Those with the same parent have the same ancestors.
        let mut all: Map<&str, Ancestors<'_>> =
            absent.map(|(path, _)| (parent_of(path), Ancestors::of(path))).collect();
        let mut found: Map<&str, Option<i64>> = Map::default();
        loop {
            let ask = unknown(all.values_mut(), &found);
            if ask.is_empty() {
                break;
            }
            for together in split(&ask, READS_MAX, STATS_BYTES, |path| path.len()) {
                let asked = together.iter().map(|path| session.stat(path));
                for (path, stat) in together.iter().zip(futures::future::join_all(asked).await) {
                    let pzxid = match stat {
                        Ok(stat) => stat.map(|stat| stat.pzxid),
                        // It may not be read: then only events report the change.
                        Err(Error::NoAuth) => Some(i64::MAX),
                        Err(error) => return Err(explain(&self.place, &error)),
                    };
                    if let Some(pzxid) = pzxid.filter(|pzxid| *pzxid != i64::MAX) {
                        self.watermark.note_zxid(pzxid);
                    }
                    found.insert(path, pzxid);
                }
            }
        }
        for (path, reading) in paths.iter().zip(readings) {
            if let (ZnodeReading::Absent(gone_zxid), Some(ancestors)) = (reading, all.get(parent_of(path))) {
                *gone_zxid = ancestors.nearest().and_then(|path| found.get(path).copied().flatten()).unwrap_or(0);
            }
        }
        Ok(())
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
