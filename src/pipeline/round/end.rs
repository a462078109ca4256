//! How a pair's round ends, and what that changes in what the worker keeps of the pair: one function, in one order.

use crate::change::Side;
use crate::pipeline::hint::News;
use crate::plan::Base;
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its events report what the base has already.
    Echo,
    /// Nothing is to be done.
    AsItIs {
        /// What it was compared with.
        base: Option<Base>,
        /// Both sides were read.
        is_whole: bool,
        /// There is neither znode nor base.
        is_gone: bool,
        /// For what it was read.
        news: News,
    },
    /// A write left the pair with this base.
    InStep {
        /// `None`: it has none any more.
        base: Option<Base>,
        /// It had one before.
        had_base: bool,
        /// For what it was read.
        news: News,
    },
    /// The stream has what the store of a capture holds.
    OnRecord {
        /// It had a value of the pair before.
        had_value: bool,
        /// It has one now.
        has_value: bool,
    },
    /// The key of a capture is gone, and nobody saw it being deleted: it stays on the stream as it is.
    Missing,
    /// This side lost its data and nothing flows there.
    Lost(Side),
    /// It is left as it is until somebody does something about it.
    Quarantine {
        /// For what it was read.
        news: News,
        /// Why.
        reason: Reason,
        /// Redis lost the key: no comparison may conclude that absent keys were deleted while the pair is as it is.
        blocks_conclusion: bool,
    },
    /// A delete that no event reported: it is counted before it is carried out.
    Guarded,
    /// A compare-and-set found another state.
    Refused(Again),
    /// The pair is looked at again.
    Again(Again),
}

/// Why a pair is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Both sides changed, and nobody may settle it.
    Conflict,
    /// The znode is ephemeral, and its key was changed: ephemeral znodes are only written to Redis, never from it.
    Ephemeral,
    /// What was read cannot be mirrored.
    Unfit,
    /// What is to be written fits into no request or record.
    TooLarge,
    /// A store never takes the write.
    Impossible,
}

/// How long a pair waits before it is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delay {
    /// Not at all.
    None,
    /// Until the key's event may have arrived.
    Event,
    /// After an eviction.
    Evicted,
    /// For this duration, because Redis evicts restored keys.
    Room(Duration),
    /// The shared delay of the stream, which grows while it fails.
    Stream,
    /// The shared delay of ZooKeeper, which grows while it fails.
    Zookeeper,
    /// The shared delay of Redis, which grows while it fails.
    Redis,
    /// The shared delay of reads of both stores: it is not known which of them failed.
    Either,
}

/// A pair that is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// For what.
    pub news: News,
    /// When.
    pub delay: Delay,
}

impl Again {
    /// Both sides are read, and the comparison that found the pair waits for that.
    #[must_use]
    pub fn both(news: News, comparing: bool, delay: Delay) -> Again {
        let waited = news.waited || matches!(delay, Delay::Event | Delay::Evicted | Delay::Room(_));
        Again { news: News { slow: true, waited, owed: news.owed || comparing, ..news }, delay }
    }
}

/// What the books of a worker keep of a pair, as far as the end of a round changes it.
pub trait PairBooks {
    /// Remembers the base, or forgets it.
    fn remember(&mut self, base: Option<Base>);

    /// A compare-and-set was refused: what is remembered of the base is forgotten.
    fn refused(&mut self);

    /// Counts the pair among those in step, or no more.
    fn count(&mut self, had_base: bool, has_base: bool);

    /// The pair leaves the quarantine.
    fn release(&mut self);

    /// The pair goes into quarantine; `is_news`: an event named it, which is news even of a pair that was dropped.
    fn quarantine(&mut self, reason: Reason, is_news: bool);

    /// The pair goes into quarantine, as this side lost its data.
    fn quarantine_lost(&mut self, side: Side);

    /// The key of a capture is there, or was seen being deleted: it is not missed any more.
    fn found(&mut self);

    /// The key of a capture is gone, and nobody saw it being deleted: it is counted as lost, once.
    fn miss(&mut self);

    /// Redis lost the key: no comparison may conclude that absent keys were deleted while the pair is as it is.
    fn block_conclusion(&mut self);

    /// The pair's delete is counted among those that no event reported.
    fn infer(&mut self);

    /// There is nothing to be deleted of the pair any more.
    fn not_inferred(&mut self);

    /// The pair's newest record is in the stores.
    fn mark_written(&mut self);

    /// Ends the round of a pair without znode and base, and stores the newest zxid in the same step: the next reader needs the zxid to
    /// detect an older read.
    fn finish_gone(&mut self, news: News);

    /// The pair's round ends; it is looked at again only if it was named meanwhile.
    fn finish(&mut self);

    /// The pair's round ends, and it is looked at again.
    fn finish_again(&mut self, again: Again);
}

impl End {
    /// Applies the end of a pair's round. The pair is given back last: whoever takes it next finds everything as it is.
    pub fn settle(self, books: &mut impl PairBooks) {
        match self {
            End::Echo => books.finish(),
            End::AsItIs { base, is_whole, is_gone, news } => {
                books.release();
                if is_whole {
                    books.remember(base);
                    books.count(base.is_some(), base.is_some());
                }
                if base.is_some() {
                    books.not_inferred();
                }
                give_back(books, is_gone, news);
            }
            End::InStep { base, had_base, news } => {
                books.remember(base);
                if base.is_some_and(|base| base.lost) {
                    books.quarantine_lost(Side::Redis);
                } else {
                    books.mark_written();
                    books.release();
                }
                books.not_inferred();
                books.count(had_base, base.is_some());
                give_back(books, base.is_none(), news);
            }
            End::OnRecord { had_value, has_value } => {
                books.found();
                books.release();
                books.count(had_value, has_value);
                books.finish();
            }
            End::Missing => {
                books.miss();
                books.finish();
            }
            End::Lost(side) => {
                books.quarantine_lost(side);
                books.not_inferred();
                books.finish();
            }
            End::Quarantine { news, reason, blocks_conclusion } => {
                if blocks_conclusion {
                    books.block_conclusion();
                }
                books.quarantine(reason, reason == Reason::Unfit && (news.znode || news.key));
                books.finish();
            }
            End::Guarded => {
                books.infer();
                books.finish();
            }
            End::Refused(again) => {
                books.refused();
                books.finish_again(again);
            }
            End::Again(again) => books.finish_again(again),
        }
    }
}

fn give_back(books: &mut impl PairBooks, is_gone: bool, news: News) {
    if is_gone {
        books.finish_gone(news);
    } else {
        books.finish();
    }
}
