//! What the sources tell, as hints about pairs: the only place that knows what an event of a store means for the pipeline.
//!
//! ```text
//!   source --Hints--> Inbox --names a pair--> dirty set
//!                       +-----all may differ--> a comparison is asked for, losses are noticed
//! ```
//!
//! A hint never waits, so a slow sink cannot push back into a socket that would then drop events.

use super::asked::Reason;
use super::blockers::Cause;
use super::books::Books;
use super::event::event_name;
use super::hint::{Hint, News};
use super::spec::Spec;
use crate::change::{LossCause, Side};
use crate::env::lock;
use crate::plan::Removal;
use crate::store::clock::steady_ms;
use crate::store::{Hints, Link, StoreError, removal_of};
use std::sync::Arc;

/// See the module.
pub(super) struct Inbox {
    pub(super) spec: Arc<Spec>,
    pub(super) books: Arc<Books>,
}

impl Hints for Inbox {
    fn znode(&self, path: &str, zxid: Option<i64>, deleted: bool) {
        let Some(mapped) = self.spec.map.of_path(path) else { return };
        let zxid = zxid.unwrap_or(i64::MAX);
        let news = News { znode: true, zxid, znode_deleted: deleted, ..News::default() };
        let hint = Hint { hints: 1, ..Hint::new(mapped.route).with(news) };
        match mapped.pair.redis {
            Some(key) => self.books.dirty.note(&key, hint),
            None => self.books.dirty.note(path.as_bytes(), hint),
        }
    }

    fn key(&self, key: &[u8], event: Option<&str>) {
        let Some(mapped) = self.spec.map.of_key(key) else { return };
        let news = News { key: true, ..News::default() };
        let mut hint = Hint { hints: 1, ..Hint::new(mapped.route).with(news) };
        if let Some(event) = event {
            hint.news.event = Some(event_name(event));
            hint.news.removal = removal_of(event);
            if hint.news.removal == Some(Removal::Lost) {
                self.books.counters.losses.notice_eviction();
                self.books.pressure.evicted();
            }
            if !matches!(event, "expire" | "persist") {
                hint.writes = 1;
                if self.spec.is_counted(mapped.route) {
                    self.books.counts.changed(key);
                }
            }
        }
        hint.key_seen_ms = steady_ms();
        self.books.dirty.note(key, hint);
    }

    fn everything(&self, side: Side, why: &str) {
        self.books.asked.ask_for(Reason::of(Some(side), why), false);
    }

    fn lost(&self, side: Side, cause: LossCause, why: &str, is_certain: bool) {
        self.books.counters.losses.notice(side, cause);
        let is_eviction = cause == LossCause::Evicted;
        if is_eviction {
            self.books.pressure.evicted();
        }
        // Evictions go on for as long as the data does not fit.
        self.books.asked.ask_for(Reason::of(Some(side), why), is_certain && !is_eviction);
    }

    fn end(&self, why: StoreError) {
        self.books.halt.halt(why);
    }

    fn link(&self, side: Side, link: Link) {
        let (up, down) = match &link {
            Link::Up => (true, None),
            Link::Down(why) => (false, Some(why.clone())),
        };
        let was_up = self.books.with_sources(|sources| sources.link(side, up));
        if side == Side::Zookeeper && !up {
            self.books.dirty.lost_events(side);
        }
        if !up {
            lock(&self.books.counters.unheard).lost(side);
        }
        self.books.health.set_down(side, down.clone());
        match down {
            None => {
                tracing::info!(
                    pipeline = self.spec.settings.pipeline,
                    store = self.spec.store_name(side),
                    "the source is connected"
                );
                self.books.asked.ask(Some(side), "the source was connected");
            }
            Some(why) => {
                if side == Side::Redis {
                    self.books.counts.lost_events();
                    self.books.dirty.lost_events(Side::Redis);
                }
                if was_up {
                    tracing::warn!(pipeline = self.spec.settings.pipeline, store = self.spec.store_name(side), "{why}");
                    self.books.asked.ask_for(Reason::gap(side, why.to_string()), true);
                } else {
                    self.books.health.block_by(Cause::Reads, why);
                }
            }
        }
    }
}
