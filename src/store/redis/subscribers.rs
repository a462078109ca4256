//! The pipelines that listen on a source connection, and which of them a push concerns.
//!
//! Each pipeline has its own patterns, and receives only what comes by them: of an event that
//! matches two patterns Redis sends two messages, and a rule counts them.

use super::line::{Line, PushInfo};
use super::notification::{self, Notice, pattern};
use super::part::Part;
use crate::change::{LossCause, Side};
use crate::env::{Map, Task, lock};
use crate::store::Hints;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::Notify;

/// A pipeline that listens. It is known by weak references only: [`super::listener::Subscription`]
/// holds the hints.
pub(super) struct Subscriber {
    pub(super) prefixes: Vec<Vec<u8>>,
    part: Weak<Part>,
    hints: Weak<dyn Hints>,
    /// It was notified that the connection stands. Set and cleared by the listener's task.
    pub(super) is_up: AtomicBool,
}

impl Subscriber {
    pub(super) fn new(part: &Arc<Part>, hints: &Arc<dyn Hints>) -> Subscriber {
        Subscriber {
            prefixes: part.database.settings.prefixes.clone(),
            part: Arc::downgrade(part),
            hints: Arc::downgrade(hints),
            is_up: AtomicBool::new(false),
        }
    }

    /// `None`: the pipeline has ended.
    pub(super) fn part(&self) -> Option<Arc<Part>> {
        self.part.upgrade()
    }

    pub(super) fn notify(&self, what: impl FnOnce(&dyn Hints)) {
        if let Some(hints) = self.hints.upgrade() {
            what(&*hints);
        }
    }

    pub(super) fn everything(&self, why: &str) {
        self.notify(|hints| hints.everything(Side::Redis, why));
    }

    pub(super) fn lost(&self, cause: LossCause, why: &str) {
        self.notify(|hints| hints.lost(Side::Redis, cause, why, true));
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Subscribers {
    /// Locked while hints are given: a hint must not call back into this.
    table: Mutex<Table>,
    /// A pipeline began or ceased to listen.
    pub(super) changed: Notify,
    /// A database was flushed or swapped.
    pub(super) doubted: Notify,
    /// The source connection, while it stands.
    line: Mutex<Option<Arc<dyn Line>>>,
}

#[derive(Default)]
struct Table {
    members: Vec<Arc<Subscriber>>,
    /// By the pattern of its keyspace channels.
    by_pattern: Map<Vec<u8>, Vec<Arc<Subscriber>>>,
    by_prefix: Map<Vec<u8>, Vec<Arc<Subscriber>>>,
    /// Lengths of the prefixes.
    lengths: Vec<usize>,
    /// Runs while there are members.
    task: Option<Task<()>>,
}

impl Table {
    /// Brings the indexes up to date with the members.
    fn index(&mut self, database: u32) {
        self.by_pattern.clear();
        self.by_prefix.clear();
        for member in &self.members {
            for prefix in &member.prefixes {
                self.by_pattern.entry(pattern(database, prefix)).or_default().push(Arc::clone(member));
                self.by_prefix.entry(prefix.clone()).or_default().push(Arc::clone(member));
            }
        }
        self.lengths = self.by_prefix.keys().map(Vec::len).collect();
        self.lengths.sort_unstable();
        self.lengths.dedup();
    }
}

impl Subscribers {
    /// Adds one; `listen` begins the task of the connection where this is the first.
    pub(super) fn add(&self, subscriber: Arc<Subscriber>, database: u32, listen: impl FnOnce() -> Task<()>) {
        let mut table = lock(&self.table);
        table.members.push(subscriber);
        table.index(database);
        if table.task.is_none() {
            table.task = Some(listen());
        }
        drop(table);
        self.changed.notify_one();
    }

    /// Removes one, and ends the task of the connection with the last.
    pub(super) fn remove(&self, subscriber: &Arc<Subscriber>, database: u32) {
        let mut table = lock(&self.table);
        table.members.retain(|member| !Arc::ptr_eq(member, subscriber));
        table.index(database);
        if table.members.is_empty()
            && let Some(task) = table.task.take()
        {
            task.abort();
            *lock(&self.line) = None;
        }
        drop(table);
        self.changed.notify_one();
    }

    /// Has the data set looked at before its time comes.
    pub(super) fn look_now(&self) {
        self.doubted.notify_one();
    }

    pub(super) fn all(&self) -> Vec<Arc<Subscriber>> {
        lock(&self.table).members.clone()
    }

    /// Those that were notified that the connection stands, with their pipelines.
    pub(super) fn up(&self) -> Vec<(Arc<Subscriber>, Arc<Part>)> {
        let up = self.all().into_iter().filter(|member| member.is_up.load(Ordering::Relaxed));
        up.filter_map(|member| member.part().map(|part| (member, part))).collect()
    }

    /// The source connection, while it stands.
    pub(super) fn line(&self) -> Option<Arc<dyn Line>> {
        lock(&self.line).clone()
    }

    pub(super) fn set_line(&self, line: Option<Arc<dyn Line>>) {
        *lock(&self.line) = line;
    }

    /// Called by the connection's task for each push: must not block, and does not. `broken` is
    /// notified when it was the last.
    pub(super) fn receive(&self, broken: &Notify, channel_prefix: &[u8], push: PushInfo) {
        notification::read(channel_prefix, push, &mut |notice| match notice {
            Notice::Event { pattern, key, event } => {
                for member in lock(&self.table).by_pattern.get(&pattern).into_iter().flatten() {
                    member.notify(|hints| hints.key(&key, event.as_deref()));
                }
            }
            Notice::Invalidated(key) => {
                let table = lock(&self.table);
                let prefixes = table.lengths.iter().filter_map(|length| key.get(..*length));
                for member in prefixes.filter_map(|prefix| table.by_prefix.get(prefix)).flatten() {
                    member.notify(|hints| hints.key(&key, None));
                }
            }
            Notice::Everything => {
                for member in &lock(&self.table).members {
                    if let Some(part) = member.part() {
                        lock(&part.database.lineage).doubt();
                    }
                    member.notify(flushed);
                }
                self.look_now();
            }
            Notice::Disconnected => broken.notify_one(),
        });
    }
}

/// The server does not report which database was flushed; the canary shows whether it was ours.
fn flushed(hints: &dyn Hints) {
    hints.lost(Side::Redis, LossCause::Flushed, "a database was flushed", false);
}
