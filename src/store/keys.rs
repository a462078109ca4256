//! What is sent to a Redis store and what it answers: plain data.

use crate::change::Digest;
use crate::plan::guard::Milestone;
use crate::plan::{Base, KeyOp};

/// A key as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// There is none.
    Absent,
    /// A string.
    Value {
        /// The bytes.
        bytes: Vec<u8>,
        /// Expiry, milliseconds since the epoch.
        expires_ms: Option<i64>,
    },
    /// A string whose bytes were not asked for: its digest.
    Digest {
        /// SHA-1 of the value.
        digest: Digest,
        /// Expiry, milliseconds since the epoch.
        expires_ms: Option<i64>,
    },
    /// Too large to be read.
    TooLarge(u64),
    /// Another type, by its name.
    WrongType(String),
    /// The answer was full before its turn came: ask again.
    Later,
    /// Not allowed, as the text describes.
    Denied(String),
    /// Something else has the name under which Keepstep keeps what was agreed on about this key:
    /// that name.
    Obstructed(String),
    /// The request alone is larger than the server takes, or its answer.
    Unasked(String),
}

impl KeyState {
    /// The sentence on [`KeyState::Obstructed`].
    #[must_use]
    pub fn obstructed_by(bucket: &str) -> String {
        format!(
            "the key `{bucket}` holds another type than a hash, and its name is where Keepstep keeps what was agreed on about this \
             key; rename or delete `{bucket}`"
        )
    }
}

/// A key and its sidecar, read in one atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReading {
    /// The key.
    pub state: KeyState,
    /// The sidecar's bytes; empty if there are none.
    pub entry: Vec<u8>,
    /// Names this incarnation of the bucket: a bucket that was lost and made again has another one.
    pub nonce: u64,
    /// Counts the incarnations of the data set that were seen: a restart or a replacement begins another
    /// one.
    pub incarnation: u64,
}

/// What [`crate::store::contract::KeyReader::observe`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyReadings {
    /// One for each key, in order.
    pub readings: Vec<KeyReading>,
    /// What holds for all of them.
    pub context: ReadContext,
}

/// When keys were read, and what may be concluded from their absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadContext {
    /// The server's clock, milliseconds since the epoch.
    pub now_ms: i64,
    /// Whether Redis was neither restarted nor replaced, and nothing was evicted, since the last
    /// comparison that ended in step.
    pub intact: bool,
    /// Whether it is the data set that was looked at by the last comparison that ended in step,
    /// without a restart since.
    pub compared: bool,
    /// Whether the data set was found to be an older one, and no comparison has been concluded in
    /// it since.
    pub older: bool,
    /// Whether [`Hints`] had received every event of a key that is gone before this answer was
    /// given. Otherwise a `del` that it has received may be older than a write of ours, and the
    /// event that removed that write may still be on its way.
    pub events_delivered: bool,
}

/// A change of a key as an application makes it: the sidecar is neither read nor written.
#[derive(Debug, Clone)]
pub struct KeyEdit<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value that must be there; `None`: no key.
    pub expect: Option<Digest>,
    /// The value to set; `None` removes the key.
    pub value: Option<&'a [u8]>,
}

/// One write to Redis.
#[derive(Debug, Clone)]
pub struct KeyWrite<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is done.
    pub op: KeyOp,
    /// The value that must be there (not looked at by `Note`); `None`: no key.
    pub expect: Option<Digest>,
    /// The sidecar that must be there; empty: none.
    pub expect_entry: Vec<u8>,
    /// The bucket's incarnation that must be; 0: not looked at.
    pub expect_nonce: u64,
    /// In which incarnation of the data set the pair was observed ([`KeyReading::incarnation`]); 0: not looked
    /// at. In another incarnation a `Note` is refused if the key is where the sidecar has it (the data set
    /// may be an older one), and marked as unverified if the key holds neither that nor the base's
    /// value; unless the data set has the milestone.
    pub incarnation: u64,
    /// Left in the data set after the pair was observed in it.
    pub milestone: Option<Milestone>,
    /// The value to set.
    pub value: &'a [u8],
    /// The sidecar to leave; `None`: none.
    pub base: Option<Base>,
    /// Channel and message to publish with it.
    pub publish: Option<(&'a str, String)>,
}

/// A milestone that was left, and in which incarnation of the data set ([`KeyReading::incarnation`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftMilestone {
    /// The milestone.
    pub milestone: Milestone,
    /// The incarnation.
    pub incarnation: u64,
}

/// What became of one write to Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOutcome {
    /// Done.
    Done,
    /// The state was another one: observe again.
    Refused,
    /// It cannot be done: reason (one word) and detail (one sentence).
    Impossible(&'static str, String),
    /// The server takes no writes now (memory, replica): try again later.
    NotNow(String),
}

/// What is known of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyspaceFacts {
    /// Product and version.
    pub server: String,
    /// `master_replid`.
    pub replication_id: String,
    /// `master_repl_offset`.
    pub replication_offset: i64,
    /// Whether the notifications that the source needs are on; `None` if it may not be asked.
    pub notifications: Option<bool>,
    /// What they lack, and the command that turns it on; empty if they are on.
    pub lacking: String,
    /// A sentence on a key of ours that something else has written and that holds no change back;
    /// empty if there is none.
    pub overwritten: String,
}

/// The next cursor (0 at the end) and some keys.
pub type Scanned = (u64, Vec<Vec<u8>>);
