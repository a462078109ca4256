//! The records that a stream which was left behind lacks: see [`super::stream_lag`].

use super::pair::Loaded;
use super::record::Recorder;
use super::spec::Route;
use super::stream_lag::up_to;
use crate::change::{Change, Digest, Op, Side};
use crate::plan::{Key, Removal, Znode};

impl Recorder {
    /// The record of a pair in step of which the stream's newest is another state.
    pub(super) fn late_record(&self, seen: &Loaded, route: &Route) -> Option<Change> {
        let latest = self.newest(seen)?.after;
        let base = seen.observed.observation.base;
        let after = match (seen.observed.observation.znode, &seen.znode, seen.observed.observation.key) {
            (Znode::Absent(_) | Znode::Present { ephemeral: true, .. }, _, Key::Absent(_)) => {
                return self.gone_record(seen, route);
            }
            // An empty znode that only stands above others has no key.
            (Znode::Present { digest: Digest::EMPTY, ephemeral: false, .. }, _, Key::Absent(_))
                if self.books.lag.absence_counts && base.is_none_or(|base| base.redis.is_none()) =>
            {
                None
            }
            (Znode::Present { digest, .. }, Some((data, _)), Key::Present { digest: of_key, .. })
                if digest == of_key && base.is_some_and(|base| !base.apart && base.redis == Some(digest)) =>
            {
                Some(data.clone())
            }
            // Kept apart, or one side is not ours.
            _ => return None,
        };
        if latest.is(after.as_deref()) {
            return None;
        }
        let op = match (&after, latest.exists()) {
            (None, _) => Op::Delete,
            (Some(_), true) => Op::Update,
            (Some(_), false) => Op::Create,
        };
        Some(self.plain_record(seen, route, op, latest.kept(), after))
    }

    /// The record of a pair that neither side has any more and the stream still does.
    pub(super) fn gone_record(&self, seen: &Loaded, route: &Route) -> Option<Change> {
        let Key::Absent(vanished) = seen.observed.observation.key else { return None };
        let is_gone = match seen.observed.observation.znode {
            Znode::Absent(_) => true,
            // It only stands where the pair's own would be.
            Znode::Present { ephemeral, .. } => ephemeral && !route.policy.flow.leads_to(Side::Redis),
            Znode::AsBase => false,
        };
        if !is_gone {
            return None;
        }
        let latest = self.newest(seen).filter(|latest| latest.after.exists())?;
        // A write that was refused leaves nothing to the next event of the pair but that its record waits.
        let is_unwritten = seen.observed.news.unwritten || self.books.unwritten.was_recorded_only(&seen.name);
        let was_deleted = match seen.observed.observation.base {
            Some(base) => base.ensemble == self.doors.lease.ensemble.id,
            // What was recorded and not written yet was only where it came from, and has gone there.
            None if is_unwritten && latest.czxid.is_some() => true,
            None if is_unwritten => vanished.seen.map_or(vanished.intact, |seen| seen != Removal::Lost),
            // Redis has lost its base, and the znode, which had what the record says, was seen to go.
            None if seen.observed.news.znode_deleted && !self.books.unwritten.holds(&seen.name) => {
                route.policy.flow.leads_to(Side::Redis)
            }
            None => self.books.lag.absence_counts && seen.observed.news.approved,
        };
        was_deleted.then(|| self.plain_record(seen, route, Op::Delete, latest.after.kept(), None))
    }

    /// Says of the stream that it lacks nothing, once a comparison has looked at every pair and everything that it left is settled.
    pub(super) async fn catch_up(&self) {
        let lag = &self.books.lag;
        if !lag.is_lagging() || !lag.has_looked() {
            return;
        }
        match self.doors.set_complete_through(up_to(self.doors.lease)).await {
            Ok(()) => {
                lag.note_whole();
                tracing::info!(pipeline = self.spec.name(), "the stream, which was left behind, is whole again");
            }
            Err(error) => self.not_recorded(&error),
        }
    }
}
