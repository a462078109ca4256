//! The source of `store::redis` on the double of its server: which hints come, and what is noticed that no event tells.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::redis::{KEY, at, held, owner, read, set};
use keepstep::change::{LossCause, Side};
use keepstep::env;
use keepstep::store::contract::*;
use keepstep::store::redis::RedisStore;
use keepstep::store::{Hints, KeyState, Link, StoreError};
use keepstep_doubles::redis::line::Double;
use keepstep_doubles::redis::reply::Reply;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// A change must be noticed within this time; most are at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was hinted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hint {
    Key(String, Option<String>),
    Everything,
    Lost(LossCause, bool),
    Up,
    Down,
    End(String),
}

#[derive(Default)]
struct Heard {
    hints: Mutex<Vec<Hint>>,
    more: Notify,
}

impl Heard {
    fn push(&self, hint: Hint) {
        self.hints.lock().unwrap().push(hint);
        self.more.notify_one();
    }

    /// Waits for this hint, and takes all up to it.
    async fn until(&self, wanted: Hint) -> Vec<Hint> {
        let found = async {
            loop {
                {
                    let mut hints = self.hints.lock().unwrap();
                    if let Some(at) = hints.iter().position(|hint| *hint == wanted) {
                        return hints.drain(..=at).collect();
                    }
                }
                self.more.notified().await;
            }
        };
        let hints = env::timeout(PATIENCE, found).await;
        hints.unwrap_or_else(|_| panic!("no {wanted:?} in {:?}", self.hints.lock().unwrap()))
    }
}

impl Hints for Heard {
    fn znode(&self, _: &str, _: Option<i64>, _: bool) {}

    fn key(&self, key: &[u8], event: Option<&str>) {
        self.push(Hint::Key(String::from_utf8_lossy(key).into_owned(), event.map(str::to_owned)));
    }

    fn everything(&self, _: Side, _: &str) {
        self.push(Hint::Everything);
    }

    fn lost(&self, _: Side, cause: LossCause, _: &str, is_certain: bool) {
        self.push(Hint::Lost(cause, is_certain));
    }

    fn link(&self, _: Side, link: Link) {
        self.push(if link == Link::Up { Hint::Up } else { Hint::Down });
    }

    fn end(&self, why: StoreError) {
        self.push(Hint::End(why.to_string()));
    }
}

/// An owner that listens.
async fn listening(double: &Double) -> (RedisStore, Arc<Heard>) {
    let store = owner(double, 1).await;
    let heard = Arc::new(Heard::default());
    store.watch(Arc::clone(&heard) as Arc<dyn Hints>);
    heard.until(Hint::Up).await;
    (store, heard)
}

fn key(name: &str, event: Option<&str>) -> Hint {
    Hint::Key(name.to_owned(), event.map(str::to_owned))
}

#[tokio::test]
async fn a_change_is_hinted_by_its_event_and_by_tracking() {
    let double = Double::default();
    let (_store, heard) = listening(&double).await;
    double.words("MSET s:a 1 other 2");
    assert_eq!(heard.until(key("s:a", None)).await, [key("s:a", Some("set")), key("s:a", None)]);
    double.words("SET s:a 2 PX 1000");
    heard.until(key("s:a", Some("expire"))).await;
    double.with(|server| {
        server.now_ms += 1001;
        server.expire(0, b"s:a");
    });
    heard.until(key("s:a", Some("expired"))).await;
    double.words("CONFIG SET notify-keyspace-events KEx");
    heard.until(Hint::Everything).await;
    double.words("SET s:b 1");
    assert_eq!(heard.until(key("s:b", None)).await.last(), Some(&key("s:b", None)), "tracking alone");
}

#[tokio::test]
async fn a_connection_that_breaks_is_replaced_and_says_so() {
    let double = Double::default();
    let (store, heard) = listening(&double).await;
    double.refuse(true);
    double.with(|server| server.close_all());
    heard.until(Hint::Down).await;
    double.words("SET s:a 1");
    double.refuse(false);
    let gap = heard.until(Hint::Up).await;
    assert!(!gap.contains(&key("s:a", Some("set"))), "it was missed: {gap:?}");
    double.words("SET s:b 1");
    heard.until(key("s:b", Some("set"))).await;
    store.unwatch().await;
    assert!(matches!(read(&store, KEY).await.state, KeyState::Value { .. }), "commands go by another connection");
}

#[tokio::test]
async fn a_flush_and_a_swap_are_found_by_the_canary() {
    let double = Double::default();
    let (store, heard) = listening(&double).await;
    let incarnation = store.incarnation();
    // Another database: the canary is still there.
    let other = double.with(|server| {
        let connection = server.connect(3, None).unwrap();
        server.command(connection, &[b"FLUSHDB".to_vec()]);
        connection
    });
    double.with(|server| server.hang_up(other));
    heard.until(Hint::Lost(LossCause::Flushed, false)).await;
    store.look_into().await;
    assert_eq!(store.incarnation(), incarnation);
    double.words("FLUSHDB");
    heard.until(Hint::Lost(LossCause::Flushed, true)).await;
    assert!(store.incarnation() > incarnation && !store.is_incarnation_compared());
    // No push tells of a swap.
    double.words("SWAPDB 0 5");
    let hints = heard.until(Hint::Lost(LossCause::Flushed, true)).await;
    assert!(!hints.contains(&Hint::Lost(LossCause::Flushed, false)), "{hints:?}");
}

#[tokio::test]
async fn an_older_copy_is_noticed_and_proves_nothing() {
    let double = Double::default();
    let (store, heard) = listening(&double).await;
    set(&store, KEY, b"one").await;
    store.compared(store.mark()).await.unwrap();
    assert!(store.is_intact());
    let copy = double.with(|server| server.copy());
    // The canary of a later ownership is not in the copy.
    store.begin(at(2)).await.unwrap();
    store.compared(store.mark()).await.unwrap();
    assert!(store.is_intact() && store.is_incarnation_compared());
    double.with(|server| server.restart(Some(copy)));
    heard.until(Hint::Lost(LossCause::Replaced, true)).await;
    heard.until(Hint::Up).await;
    let context = store.observe(&[b"s:gone"], true).await.unwrap().context;
    assert!(context.older && !context.intact && !context.compared, "{context:?}");
    // Once a comparison is concluded in it, it is the data set that counts.
    store.compared(store.mark()).await.unwrap();
    let context = store.observe(&[b"s:gone"], true).await.unwrap().context;
    assert!(!context.older && context.intact && context.events_delivered, "{context:?}");
}

#[tokio::test]
async fn an_eviction_takes_away_the_proof_that_what_is_gone_was_deleted() {
    let double = Double::default();
    let (store, heard) = listening(&double).await;
    set(&store, KEY, b"one").await;
    store.compared(store.mark()).await.unwrap();
    let intact = async || store.observe(&[KEY], true).await.unwrap().context.intact;
    double.words("SET s:b 1");
    double.words("DEL s:b");
    assert!(store.observe(&[b"s:b"], true).await.unwrap().context.intact);
    double.with(|server| server.evict(0, KEY));
    assert!(!intact().await);
    heard.until(key("s:a", Some("evicted"))).await;
    store.compared(store.mark()).await.unwrap();
    // Statistics that were set back prove nothing, however many evictions they show.
    double.words("CONFIG RESETSTAT");
    assert!(!intact().await);
}

#[tokio::test]
async fn evictions_that_no_event_tells_ask_for_a_comparison() {
    let double = Double::default();
    double.words("CONFIG SET notify-keyspace-events Kg$x");
    let (store, heard) = listening(&double).await;
    set(&store, KEY, b"one").await;
    double.with(|server| server.evict(0, KEY));
    heard.until(Hint::Lost(LossCause::Evicted, true)).await;
}

#[tokio::test]
async fn a_name_of_ours_that_something_else_has_ends_the_ownership() {
    let double = Double::default();
    let (_store, heard) = listening(&double).await;
    double.words("SET _keepstep:p theirs");
    let found = async {
        loop {
            let end = heard
                .hints
                .lock()
                .unwrap()
                .iter()
                .any(|hint| matches!(hint, Hint::End(why) if why.contains("_keepstep:p")));
            if end {
                return;
            }
            heard.more.notified().await;
        }
    };
    env::timeout(PATIENCE, found).await.unwrap();
    assert_eq!(held(&double, "_keepstep:p"), Reply::text("theirs"));
}
