//! What Redis remembers of a pipeline: one hash, whose fields are named here and nowhere else, and
//! the one script that writes it.
//!
//! ```text
//!   a write carries the epoch and the lineage of the ensemble of its owner
//!     the hash is of a newer owner, or of another one of this epoch   -> nothing is written: fenced
//!     else                                                            -> epoch and lineage are its own from here on
//!       zxid, tide     only rise in one lineage; they begin anew with another one, which only a newer owner can name
//!       milestone      only where the one before it still is, or as the first of a branch
//!       the others     take the new value
//! ```
//!
//! An owner that is stopped late, or is frozen between two calls and thaws, writes what it knew
//! then. Were an old number put over a newer one, an ensemble that is restored from a copy of that
//! time would not be noticed, and all that the copy lacks would be deleted in Redis. The same check
//! where it is read would not do: by then nothing shows which number replaced which.
//!
//! For the same reason a milestone is not put where the one before it is missing: over that of an
//! older data set it would claim that nothing is missing there. Nor is anything written beside
//! another canary than the owner's: another data set has just taken the place of the one that it
//! knows, and what it would say of that one would hide it.

use super::database::Database;
use super::info::Evidence;
use super::line::{Cmd, Line, RedisError, Value, cmd};
use super::own;
use super::reply::{integer, keys_of};
use super::script::Script;
use crate::change::Position;
use crate::env::lock;
use crate::store::{JOURNAL_SLOTS, LeftMilestone, Milestone, Remembered, Slot, StoreError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

/// The epoch of the newest owner.
pub(super) const EPOCH: &str = "epoch";
/// The lineage of its ensemble.
const ENSEMBLE: &str = "ensemble";
/// The newest zxid seen.
const ZXID: &str = "zxid";
/// How often the watermark was advanced; the field has the name that it got first.
const WATERMARK: &str = "tide";
/// A number of this owner: gone means flushed, swapped or replaced.
pub(super) const CANARY: &str = "canary";
/// The incarnation of the data set, as of the last comparison in step.
const INCARNATION: &str = "lineage";
/// Keys evicted in it by then.
const EVICTED: &str = "evicted_keys";
/// The data set was found to be an older one, and no comparison was concluded in it since.
const OLDER: &str = "older";
/// Of which routes these two hold: under others there are pairs that nobody has looked at. A
/// version before does not write it.
const RANGES: &str = "ranges";

/// Below this position of its stream everything was written that the owner had recorded. A version
/// before does not write it.
const WRITTEN: &str = "written";

/// The newest [`Milestone`]: branch and number. A version before does not write it.
const MILESTONE: &str = "milestone";

/// The version of a journal slot whose sidecars are written.
fn slot_field(number: usize) -> String {
    format!("slot:{number}")
}

/// `KEYS`: the hash. `ARGV`: the owner's epoch, the lineage of its ensemble, then three for each
/// field: whether it only rises (`r`) or not (`s`), its name, its value; or that a milestone goes
/// there unless a later one of its branch is there (`m`), since those that are under way at a time
/// may arrive in any order; or that nothing is written unless it holds this milestone or a later
/// one of its branch (`h`), or one of these words (`e`; empty: nothing). Answers `1` done, `0` it
/// does not, `6` fenced. Numbers are compared in two parts: a double holds 53 bits.
const SCRIPT_TEXT: &str = r"#!lua flags=allow-oom
local epoch = tonumber(ARGV[1])
local have = redis.call('HMGET', KEYS[1], 'epoch', 'ensemble')
local owner = tonumber(have[1] or '')
local same = have[2] == ARGV[2]
if owner and (owner > epoch or (owner == epoch and have[2] and not same)) then return 6 end
local function above(one, other)
  if #one ~= #other then return #one > #other end
  local high, other_high = tonumber(string.sub(one, 1, -10)) or 0, tonumber(string.sub(other, 1, -10)) or 0
  if high ~= other_high then return high > other_high end
  return tonumber(string.sub(one, -9)) > tonumber(string.sub(other, -9))
end
local function has(field, milestone)
  local branch, number = string.match(redis.call('HMGET', KEYS[1], field)[1] or '', '^(%d+):(%d+)$')
  local of, least = string.match(milestone, '^(%d+):(%d+)$')
  return branch == of and not above(least, number)
end
for a = 3, #ARGV, 3 do
  if ARGV[a] == 'h' and not has(ARGV[a + 1], ARGV[a + 2]) then return 0 end
  if ARGV[a] == 'e' then
    local held = redis.call('HMGET', KEYS[1], ARGV[a + 1])[1] or ''
    if not string.find(' ' .. ARGV[a + 2] .. ' ', ' ' .. held .. ' ', 1, true) then return 0 end
  end
end
local put = {'epoch', ARGV[1], 'ensemble', ARGV[2]}
for a = 3, #ARGV, 3 do
  local old = same and ARGV[a] == 'r' and redis.call('HMGET', KEYS[1], ARGV[a + 1])[1]
  local is_new = not old or not string.find(old, '^%d+$') or above(ARGV[a + 2], old)
  if ARGV[a] == 'h' or ARGV[a] == 'm' then is_new = ARGV[a] == 'm' and not has(ARGV[a + 1], ARGV[a + 2]) end
  if ARGV[a] == 'e' then is_new = false end
  if is_new then
    put[#put + 1], put[#put + 2] = ARGV[a + 1], ARGV[a + 2]
  end
end
redis.call('HSET', KEYS[1], unpack(put))
return 1
";

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SCRIPT_TEXT));

/// What one write changes. A new field is a constant above and a call of one of these.
#[derive(Default)]
pub(super) struct Update(Vec<(&'static str, String, String)>);

impl Update {
    fn put(mut self, rule: &'static str, field: impl Into<String>, value: impl ToString) -> Update {
        self.0.push((rule, field.into(), value.to_string()));
        self
    }

    /// Another canary, where this one still is (empty: none).
    pub(super) fn canary(self, before: &str, next: &str) -> Update {
        self.put("e", CANARY, before).put("s", CANARY, next)
    }

    /// Only where the canary of this owner is, or the one to which it may have been changed, or none: what was flushed is remembered
    /// again, and that the canary is missing still shows.
    fn beside_canary(self, database: &Database) -> Update {
        let lineage = lock(&database.lineage);
        let is_conditional = lineage.canary.is_empty() || self.0.iter().any(|(rule, ..)| *rule == "e");
        let words = format!(" {} {}", lineage.canary, lineage.next_canary);
        drop(lineage);
        if is_conditional { self } else { self.put("e", CANARY, words.trim_end()) }
    }

    fn evidence(self, evidence: &Evidence, ranges: &str) -> Update {
        // A field that the server does not report is an empty text, which proves nothing to the
        // next owner either.
        let evicted = evidence.evicted_keys.map(|keys| keys.to_string()).unwrap_or_default();
        let incarnation = evidence.incarnation.as_deref().unwrap_or_default();
        self.put("s", INCARNATION, incarnation).put("s", EVICTED, evicted).put("s", RANGES, ranges)
    }

    /// This milestone, where the one before it still is.
    fn milestone(self, before: Option<Milestone>, now: Milestone) -> Update {
        let text = |Milestone { branch, number }| format!("{branch}:{number}");
        let update = before.into_iter().fold(self, |update, before| update.put("h", MILESTONE, text(before)));
        update.put("m", MILESTONE, text(now))
    }

    fn slot(self, slot: &Slot) -> Update {
        self.put("s", slot_field(slot.number), slot.version)
    }

    /// As `owner`, who knows that everything below `written` is written.
    fn command(self, database: &Database, owner: Remembered, written: Position) -> Cmd {
        let Remembered { epoch, ensemble, zxid, watermark } = owner;
        // Each write repeats how far the ensemble has come, since a data set that was flushed
        // meanwhile has lost it. So does that it is an older one: what shows it is written over by
        // the first of these.
        let older = if lock(&database.lineage).older { "1" } else { "" };
        let update = self.put("r", ZXID, zxid.max(0)).put("r", WATERMARK, watermark.max(0)).put("s", OLDER, older);
        let Update(fields) = match written {
            // Not known yet in this ownership: what the last one has written still holds.
            0 => update,
            written => update.put("s", WRITTEN, written),
        };
        let mut command = SCRIPT.command(1);
        command.arg(key(database)).arg(epoch).arg(ensemble);
        for (rule, field, value) in fields {
            command.arg(rule).arg(field).arg(value);
        }
        command
    }
}

/// The milestones of an ownership.
#[derive(Default)]
struct Milestones {
    branch: u64,
    /// Numbers that were given; what became of the last ones may not be known.
    given: u64,
    /// The newest that Redis has confirmed; 0: none of this branch.
    left: u64,
}

impl Milestones {
    fn begin(branch: u64) -> Milestones {
        Milestones { branch, given: 0, left: 0 }
    }

    /// The next, and the one that must still be there.
    fn next(&mut self) -> (Option<Milestone>, Milestone) {
        self.given += 1;
        let of = |number| Milestone { branch: self.branch, number };
        ((self.left > 0).then(|| of(self.left)), of(self.given))
    }
}

/// What this owner knows and writes down with each change of the hash.
#[derive(Default)]
pub(super) struct State {
    /// This owner, and how far it has seen its ensemble come.
    owner: Mutex<Remembered>,
    /// Everything that this owner has put on its stream below this position is written; 0 while
    /// that is not known.
    written: AtomicU64,
    milestones: Mutex<Milestones>,
}

/// Name of the hash.
pub(super) fn key(database: &Database) -> String {
    format!("_keepstep:{}", database.settings.pipeline)
}

/// Reads some fields, in order; one that is missing is empty.
async fn read(database: &Database, fields: &[impl AsRef<str>]) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut load = cmd("HMGET");
    load.arg(key(database));
    for field in fields {
        load.arg(field.as_ref());
    }
    Ok(keys_of(database.command(&load).await?))
}

/// See [`crate::store::contract::OwnerState::remembered`].
pub(super) async fn remembered(database: &Database) -> Result<Remembered, StoreError> {
    let mut items = read(database, &[EPOCH, ENSEMBLE, ZXID, WATERMARK]).await?.into_iter().map(Value::BulkString);
    Ok(Remembered {
        epoch: u64::try_from(integer(items.next())).unwrap_or(0),
        ensemble: u32::try_from(integer(items.next())).unwrap_or(0),
        zxid: integer(items.next()),
        watermark: i32::try_from(integer(items.next())).unwrap_or(0),
    })
}

/// See [`crate::store::contract::OwnerState::written`].
pub(super) async fn written(database: &Database) -> Result<Option<Position>, StoreError> {
    let written = read(database, &[WRITTEN]).await?;
    Ok(written.first().and_then(|written| std::str::from_utf8(written).ok()?.parse().ok()))
}

/// See [`crate::store::contract::OwnerState::marked_slots`].
pub(super) async fn marked_slots(database: &Database) -> Result<Vec<Slot>, StoreError> {
    let fields: Vec<String> = (0..JOURNAL_SLOTS).map(slot_field).collect();
    let versions = read(database, &fields).await?;
    let slots = versions.iter().enumerate().filter_map(|(number, version)| {
        let version = std::str::from_utf8(version).ok()?.parse().ok()?;
        Some(Slot { number, version })
    });
    Ok(slots.collect())
}

/// The newest milestone that the data set has, and in which incarnation that is.
pub(super) async fn milestone(database: &Database) -> Result<(Option<Milestone>, u64), StoreError> {
    let incarnation = lock(&database.lineage).incarnation;
    let found = read(database, &[MILESTONE]).await?;
    if lock(&database.lineage).incarnation != incarnation {
        return Err(database.replaced());
    }
    let parse = |text: &Vec<u8>| {
        let (branch, number) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(Milestone { branch: branch.parse().ok()?, number: number.parse().ok()? })
    };
    Ok((found.first().and_then(parse), incarnation))
}

impl State {
    fn command(&self, database: &Database, update: Update) -> Cmd {
        let owner = *lock(&self.owner);
        update.beside_canary(database).command(database, owner, self.written.load(Ordering::Relaxed))
    }

    /// Writes as the owner that [`State::begin`] named last.
    async fn write(&self, database: &Database, update: Update) -> Result<(), StoreError> {
        let command = self.command(database, update);
        match database.script(&SCRIPT, &command).await? {
            Ok(Value::Int(6)) => Err(database.fenced()),
            Ok(Value::Int(0)) => Err(database.replaced()),
            Ok(_) => Ok(()),
            Err(error) => Err(own::explain_named(&database.target, &command, &error)),
        }
    }

    /// As [`State::write`], on a connection that somebody else holds; whether it was written.
    pub(super) async fn write_on(
        &self,
        line: &dyn Line,
        database: &Database,
        update: Update,
    ) -> Result<bool, RedisError> {
        Ok(SCRIPT.run(line, &self.command(database, update)).await? == Value::Int(1))
    }

    /// See [`crate::store::contract::OwnerState::begin`].
    pub(super) async fn begin(&self, database: &Database, now: Remembered) -> Result<(), StoreError> {
        database.epoch.store(now.epoch, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
        *lock(&self.owner) = now;
        *lock(&self.milestones) = Milestones::begin(database.nonce());
        let mut stored = read(database, &[INCARNATION, EVICTED, RANGES, OLDER, CANARY]).await?.into_iter();
        let incarnation = String::from_utf8_lossy(&stored.next().unwrap_or_default()).into_owned();
        let evicted = stored.next().and_then(|evicted| std::str::from_utf8(&evicted).ok()?.parse().ok());
        let ranges = String::from_utf8_lossy(&stored.next().unwrap_or_default()).into_owned();
        let older = stored.next().is_some_and(|older| older == b"1");
        let before = String::from_utf8_lossy(&stored.next().unwrap_or_default()).into_owned();
        let is_of_ours = ranges.is_empty() || ranges == database.settings.ranges;
        let canary = database.nonce().to_string();
        {
            let mut lineage = lock(&database.lineage);
            let is_told = !incarnation.is_empty() && is_of_ours;
            lineage.compared = is_told.then_some(Evidence { incarnation: Some(incarnation), evicted_keys: evicted });
            lineage.older = older;
            lineage.is_unnamed = ranges.is_empty();
            lineage.next_canary.clear();
            lineage.canary.clone_from(&canary);
            lineage.is_unreported = false;
        }
        let written = self.write(database, Update::default().canary(&before, &canary)).await;
        let mut lineage = lock(&database.lineage);
        if written.is_err() && lineage.canary == canary {
            // It is not missed: this ownership does not begin.
            lineage.canary.clear();
        }
        written
    }

    /// See [`crate::store::contract::OwnerState::remember`].
    pub(super) async fn remember(
        &self,
        database: &Database,
        now: Remembered,
        written: Position,
    ) -> Result<(), StoreError> {
        self.note(database, now)?;
        self.written.store(written, Ordering::Relaxed);
        self.write(database, Update::default()).await
    }

    /// The ensemble has come so far under this owner; what is left of an earlier ownership of this
    /// worker is fenced here, since it would speak for the ensemble of the later one.
    fn note(&self, database: &Database, now: Remembered) -> Result<(), StoreError> {
        let mut owner = lock(&self.owner);
        if (owner.epoch, owner.ensemble) != (now.epoch, now.ensemble) {
            return Err(database.fenced());
        }
        owner.zxid = owner.zxid.max(now.zxid);
        owner.watermark = owner.watermark.max(now.watermark);
        Ok(())
    }

    /// See [`crate::store::contract::KeySink::leave_milestone`].
    pub(super) async fn leave_milestone(&self, database: &Database) -> Result<Option<LeftMilestone>, StoreError> {
        let connection = database.connection().await?;
        // A connection does not outlive the server's incarnation. Where another data set takes its place
        // in the same server, the incarnation is another one as soon as that is known.
        let incarnation = lock(&database.lineage).incarnation;
        let (before, milestone) = lock(&self.milestones).next();
        let command = self.command(database, Update::default().milestone(before, milestone));
        let answer = match database.script_on(connection, &SCRIPT, &command).await? {
            Ok(Value::Int(6)) => return Err(database.fenced()),
            Ok(answer) => answer,
            Err(error) => return Err(own::explain_named(&database.target, &command, &error)),
        };
        let mut milestones = lock(&self.milestones);
        let is_of_branch = milestones.branch == milestone.branch;
        if is_of_branch && answer == Value::Int(1) {
            milestones.left = milestones.left.max(milestone.number);
            return Ok((lock(&database.lineage).incarnation == incarnation)
                .then_some(LeftMilestone { milestone, incarnation }));
        }
        if is_of_branch {
            // An older data set, or another one: milestones from here on prove nothing for this
            // branch.
            *milestones = Milestones::begin(database.nonce());
        }
        Ok(None)
    }

    /// See [`crate::store::contract::DataSet::compared`].
    pub(super) async fn compared(&self, database: &Database, evidence: &Evidence) -> Result<(), StoreError> {
        self.write(database, Update::default().evidence(evidence, &database.settings.ranges)).await
    }

    /// See [`crate::store::contract::OwnerState::mark_slots`].
    pub(super) async fn mark_slots(
        &self,
        database: &Database,
        slots: &[Slot],
        now: Remembered,
    ) -> Result<(), StoreError> {
        if slots.is_empty() {
            return Ok(());
        }
        self.note(database, now)?;
        self.write(database, slots.iter().fold(Update::default(), Update::slot)).await
    }
}
