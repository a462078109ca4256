//! How large a request and its answer may be: computed before it is sent, and learned where a
//! server takes less than is known of it.
//!
//! Neither server refuses what is too large for it: it closes the connection, and with it goes
//! everything that was under way there. So whoever sends computes the bytes of each request and
//! [`split`]s by them, what does not fit alone is never sent, and where a connection breaks in
//! spite of that, a [`Trial`] finds the one:
//!
//! ```text
//!   it broke --pause--> the same again, while no other is on trial --broke--> half of it … --> one alone --broke LOSSES times--> too large
//!                              '--> it went: another's doing                '--> it went        '--> it went
//! ```
//!
//! An answer that is too large is known by nothing but the broken connection. So where a request
//! for values has broken it twice, it is weighed from then on: the server is asked how long each
//! value is, and what comes back counts as what is sent does. As long as that is remembered such
//! requests go one at a time: their answers wait in one buffer of the server, and together they
//! would break it as well.
//!
//! What is learned is forgotten after some time, since the server's limit may have been raised, and
//! the network may have been to blame.

use super::StoreError;
use crate::env::{self, Instant};
use crate::failpoint::planted;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Times that a request of one member breaks the connection, while it is the only one on trial,
/// before it is taken as too large.
const LOSSES: u32 = 3;

/// Losses that one call bears. 128 members are halved seven times, and one of them breaks three
/// times; what goes on beyond that is no question of size.
const LOSSES_MAX: u32 = 32;

/// Pauses after a loss grow from the first to a long one while a trial may still come to its end,
/// and then to the longest. It begins anew when there was no loss for some time.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONG: Duration = Duration::from_millis(500);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
const CALM: Duration = Duration::from_secs(10);

/// How long it is remembered that requests of several members were too large: a loss each ten
/// minutes costs next to nothing.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How long it is remembered that a member alone was too large. Below the default interval of
/// comparisons, by which a pair recovers once the limit is raised.
const REMEMBERED_ALONE: Duration = Duration::from_secs(30);

/// No limit is as small as this: if a smaller request breaks the connection, the network is to
/// blame. Redis' limits are at least 1 MiB, and with a smaller `jute.maxbuffer` no ensemble works.
const LEAST: usize = 1024;

/// Cuts a list into parts of at most so many members and bytes; one that is larger than that is a
/// part of its own.
pub(super) fn split<T>(mut items: &[T], count: usize, bytes: usize, size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    while !items.is_empty() {
        let mut sum = 0;
        let fits = items.iter().take(count.max(1)).take_while(|item| {
            sum = usize::saturating_add(sum, size(item));
            sum <= bytes
        });
        let (part, rest) = items.split_at(fits.count().max(1));
        parts.push(part);
        items = rest;
    }
    parts
}

/// What a request failed with.
pub(super) enum Fault {
    /// The connection broke under it, and it is not known whether it was carried out.
    Broke(StoreError),
    /// Anything else.
    Other(StoreError),
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> StoreError {
        match fault {
            Fault::Broke(error) | Fault::Other(error) => error,
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Other(error)
    }
}

/// What to do after a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send the same again.
    Again,
    /// Send half of it.
    Split,
    /// It is one, and too large.
    TooLarge,
    /// Its size is not to blame: the store is away.
    Away,
}

/// What is known of the requests that one server, or one ensemble, takes. Shared by all who send
/// there.
pub(super) struct RequestLimit {
    together: usize,
    most: usize,
    /// The first pause after a loss.
    first: Duration,
    learned: Mutex<Learned>,
    /// Held by the one request that may break the connection again, so that no other is blamed for
    /// it.
    alone: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Learned {
    /// Requests of several members are smaller than this, from a time on.
    together: Option<(usize, Instant)>,
    /// One member of so many bytes was too large, at a time.
    too_large: Option<(usize, Instant)>,
    /// The largest request that went through, of however many members.
    passed: usize,
    losses: u32,
    lost: Option<Instant>,
    /// When one broke it that was the only one on trial.
    suspected: Option<Instant>,
}

impl RequestLimit {
    /// Requests of several members have at most `together` bytes, those of one at most `most`.
    pub(super) fn new(together: usize, most: usize) -> RequestLimit {
        RequestLimit { together, most, first: PAUSE_FIRST, learned: Mutex::default(), alone: Arc::default() }
    }

    /// The same for requests of another kind on the same connection: the trials of both wait for
    /// each other.
    pub(super) fn beside(&self) -> RequestLimit {
        RequestLimit { alone: Arc::clone(&self.alone), ..RequestLimit::new(self.together, self.most) }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that a request of several members may have now.
    pub(super) fn together(&self) -> usize {
        let learned = self.learned().together.filter(|(_, at)| at.elapsed() < REMEMBERED);
        learned.map_or(self.together, |(bytes, _)| bytes.min(self.together))
    }

    /// Whether a request of one member with so many bytes may be sent.
    pub(super) fn takes(&self, bytes: usize) -> bool {
        (bytes <= self.most && self.known(bytes).is_none()) || planted!("sizes are not counted")
    }

    fn known(&self, bytes: usize) -> Option<usize> {
        let learned = self.learned().too_large.filter(|(_, at)| at.elapsed() < REMEMBERED_ALONE);
        learned.map(|(broke, _)| broke).filter(|broke| bytes >= *broke)
    }

    /// Why one of so many bytes is too large: one sentence.
    pub(super) fn why(&self, bytes: usize, setting: &str) -> String {
        match self.known(bytes) {
            _ if bytes > self.most => {
                format!("its request alone has {bytes} bytes, and at most {} are sent", self.most)
            }
            Some(broke) => format!(
                "its request alone has {bytes} bytes, and the server closes the connection whenever one of {broke} bytes is \
                 sent; raise its {setting} if the pair is to be mirrored"
            ),
            None => format!(
                "the server closes the connection whenever its request of {bytes} bytes is sent alone; raise its {setting} \
                 if the pair is to be mirrored"
            ),
        }
    }

    /// Why the answer with a value of so many bytes is too large: one sentence.
    pub(super) fn why_answer(&self, bytes: usize, setting: &str) -> String {
        let broke = self.known(bytes).unwrap_or(bytes);
        format!(
            "the key holds {bytes} bytes, and the server closes the connection whenever it is asked alone for a value of {broke} \
             bytes; raise its {setting} if the pair is to be mirrored"
        )
    }

    /// Whether requests for values are to be weighed, and to go one at a time.
    fn is_suspected(&self) -> bool {
        self.learned().suspected.is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn broke(&self, bytes: usize) {
        let now = self.together();
        let half = (bytes / 2).max(LEAST);
        if half < now {
            self.learned().together = Some((half, Instant::now()));
        }
    }

    /// A request of so many bytes, or an answer, went through.
    pub(super) fn passed(&self, bytes: usize) {
        let mut learned = self.learned();
        learned.passed = learned.passed.max(bytes);
        if learned.too_large.is_some_and(|(broke, _)| bytes >= broke) {
            learned.too_large = None;
        }
    }

    /// Whether its size is what one of so many bytes breaks the connection by. If a larger one went
    /// through, it is not, or the limit has been lowered since: the next time nothing speaks for
    /// it.
    fn is_too_large(&self, bytes: usize) -> bool {
        let mut learned = self.learned();
        let fits = bytes < LEAST || bytes <= std::mem::take(&mut learned.passed);
        if !fits {
            learned.too_large = Some((bytes, Instant::now()));
        }
        !fits
    }

    /// How long to wait after a loss now.
    fn pause(&self) -> Duration {
        let mut learned = self.learned();
        let is_calm = learned.lost.is_none_or(|at| at.elapsed() > CALM);
        learned.losses = if is_calm { 0 } else { learned.losses.saturating_add(1) };
        learned.lost = Some(Instant::now());
        let longest = if learned.losses < LOSSES_MAX { PAUSE_LONG } else { PAUSE_LONGEST };
        (self.first * 2_u32.saturating_pow(learned.losses.min(16))).min(longest)
    }

    /// A call that may break its connection.
    pub(super) fn trial(&self) -> Trial<'_> {
        Trial { limit: self, guard: None, alone: 0, losses: 0 }
    }
}

/// See the module: one call, from its first loss on.
pub(super) struct Trial<'a> {
    limit: &'a RequestLimit,
    guard: Option<tokio::sync::MutexGuard<'a, ()>>,
    alone: u32,
    losses: u32,
}

impl Trial<'_> {
    /// Waits until no other is on trial.
    async fn begin(&mut self) {
        self.guard = Some(self.limit.alone.lock().await);
        self.alone = 0;
    }

    /// The connection broke under a request of so many members and bytes. Waits before it answers.
    pub(super) async fn broke(&mut self, members: usize, bytes: usize) -> Verdict {
        env::sleep(self.limit.pause()).await;
        self.losses += 1;
        if self.losses > LOSSES_MAX {
            return Verdict::Away;
        }
        if self.guard.is_none() {
            self.begin().await;
            return Verdict::Again;
        }
        self.limit.learned().suspected = Some(Instant::now());
        if members > 1 {
            self.alone = 0;
            self.limit.broke(bytes);
            return Verdict::Split;
        }
        self.alone += 1;
        if self.alone < LOSSES {
            return Verdict::Again;
        }
        self.alone = 0;
        if self.limit.is_too_large(bytes) { Verdict::TooLarge } else { Verdict::Away }
    }

    /// A request of so many bytes went through.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.alone = 0;
        self.limit.passed(bytes);
    }
}

/// Sends a list as one request, or as several where the connection breaks under it, and answers for
/// each member in order. Nothing may depend on whether what broke was carried out: it is sent
/// again. `size`: the bytes of a request with these members.
pub(super) async fn in_parts<'a, T: Sync, R: Send>(
    limit: &RequestLimit,
    items: &'a [T],
    size: impl Fn(&[T]) -> usize + Send,
    ask: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<R>, Fault>> + Send,
    too_large: impl Fn(&T, usize) -> R + Send,
) -> Result<Vec<R>, StoreError> {
    in_parts_on(limit.trial(), items, size, |_| std::future::ready(Ok(Vec::new())).boxed(), ask, too_large).await
}

/// [`in_parts`] for what is read. `weigh` asks for the bytes that each member's answer has; that is
/// small, and is asked for only where answers have broken the connection of late.
pub(super) async fn read_in_parts<'a, T: Sync, R: Send>(
    limit: &RequestLimit,
    items: &'a [T],
    size: impl Fn(&[T]) -> usize + Send,
    weigh: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<usize>, Fault>> + Send,
    ask: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<R>, Fault>> + Send,
    too_large: impl Fn(&T, usize) -> R + Send,
) -> Result<Vec<R>, StoreError> {
    let mut trial = limit.trial();
    if limit.is_suspected() {
        trial.begin().await;
    }
    in_parts_on(trial, items, size, weigh, ask, too_large).await
}

async fn in_parts_on<'a, T: Sync, R: Send>(
    mut trial: Trial<'_>,
    items: &'a [T],
    size: impl Fn(&[T]) -> usize + Send,
    weigh: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<usize>, Fault>> + Send,
    ask: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Vec<R>, Fault>> + Send,
    too_large: impl Fn(&T, usize) -> R + Send,
) -> Result<Vec<R>, StoreError> {
    let limit = trial.limit;
    let mut answers = Vec::with_capacity(items.len());
    let mut left = vec![items];
    while let Some(part) = left.pop() {
        let mut bytes = size(part);
        // What is not sent is not weighed either: its name alone may be too long.
        let is_weighed = limit.takes(bytes) && trial.guard.is_some() && limit.is_suspected();
        let weighed = if is_weighed { weigh(part).await } else { Ok(Vec::new()) };
        if let Ok(weights) = &weighed {
            let apart = split(weights, usize::MAX, limit.together(), |weight| *weight);
            if apart.len() > 1 {
                left.extend(cut(part, apart.iter().map(|apart| apart.len())).into_iter().rev());
                continue;
            }
            bytes = weights.iter().copied().fold(0, usize::saturating_add).max(bytes);
        }
        if let [one] = part
            && !limit.takes(bytes)
        {
            answers.push(too_large(one, bytes));
            continue;
        }
        let asked = match weighed {
            Ok(_) => ask(part).await,
            Err(fault) => Err(fault),
        };
        match asked {
            Ok(answered) => {
                trial.passed(bytes);
                answers.extend(answered);
            }
            Err(Fault::Other(error)) => return Err(error),
            Err(Fault::Broke(error)) => match (trial.broke(part.len(), bytes).await, part) {
                (Verdict::Again, part) => left.push(part),
                (Verdict::TooLarge, [one, ..]) => answers.push(too_large(one, bytes)),
                (Verdict::Split, part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    left.extend([second, first].into_iter().filter(|half| !half.is_empty()));
                }
                (Verdict::Away | Verdict::TooLarge, _) => return Err(error),
            },
        }
    }
    Ok(answers)
}

/// Cuts a list into parts of so many members.
fn cut<T>(mut items: &[T], counts: impl Iterator<Item = usize>) -> Vec<&[T]> {
    let parts = counts.filter_map(|count| {
        let (part, rest) = items.split_at_checked(count)?;
        items = rest;
        Some(part)
    });
    parts.collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop")]
mod tests {
    use super::*;
    use crate::store::FailureKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_list_is_split_by_number_and_bytes_and_loses_nothing() {
        let sizes = [1, 1, 1, 90, 10, 1000, 1, 1];
        let parts = split(&sizes, 3, 100, |size| *size);
        assert_eq!(parts, [&[1, 1, 1][..], &[90, 10], &[1000], &[1, 1]]);
        assert!(split(&[] as &[usize], 3, 100, |size| *size).is_empty());
    }

    /// Without pauses.
    fn limit() -> RequestLimit {
        RequestLimit { first: Duration::ZERO, ..RequestLimit::new(usize::MAX, usize::MAX) }
    }

    /// Members are their sizes; the server closes the connection above `most` bytes.
    async fn send(limit: &RequestLimit, sizes: &[usize], most: usize, sent: &AtomicUsize) -> Vec<String> {
        let ask = |part: &[usize]| {
            sent.fetch_add(1, Ordering::Relaxed);
            let bytes: usize = part.iter().sum();
            let answers = part.iter().map(ToString::to_string).collect();
            let answer = if bytes > most {
                Err(Fault::Broke(StoreError::away(FailureKind::Connection, "closed")))
            } else {
                Ok(answers)
            };
            std::future::ready(answer).boxed()
        };
        in_parts(limit, sizes, |sizes| sizes.iter().sum(), ask, |size, _| format!("{size} is too large")).await.unwrap()
    }

    #[tokio::test]
    async fn a_batch_that_breaks_the_connection_is_halved_until_the_one_is_found_and_all_others_go() {
        let limit = limit();
        let sent = AtomicUsize::new(0);
        let mut sizes = vec![10; 100];
        sizes.insert(63, 5000);
        let answers = send(&limit, &sizes, 4000, &sent).await;
        let expected: Vec<String> = sizes
            .iter()
            .map(|size| if *size == 10 { "10".to_owned() } else { "5000 is too large".to_owned() })
            .collect();
        assert_eq!(answers, expected);
        assert!(sent.load(Ordering::Relaxed) < 20, "{sent:?} requests");
        // It is remembered, so that others like it cost nothing.
        sent.store(0, Ordering::Relaxed);
        assert_eq!(send(&limit, &[5001], 4000, &sent).await, ["5001 is too large"]);
        assert_eq!(sent.load(Ordering::Relaxed), 0);
        assert_eq!(send(&limit, &[3999], 4000, &sent).await, ["3999"]);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_server_is_known_to_take_is_never_sent() {
        let (limit, sent) = (RequestLimit::new(100, 1000), AtomicUsize::new(0));
        assert_eq!(send(&limit, &[1001], usize::MAX, &sent).await, ["1001 is too large"]);
        assert_eq!(sent.load(Ordering::Relaxed), 0);
        assert!(limit.takes(1000) && limit.together() == 100);
        // Nor is it asked how long its value is.
        limit.learned().suspected = Some(Instant::now());
        let unasked = |_: &[usize]| async { panic!("it is sent") }.boxed();
        let unweighed = |_: &[usize]| async { panic!("it is weighed") }.boxed();
        let answer = read_in_parts(&limit, &[1001], |_| 1001, unweighed, unasked, |_, bytes| bytes).await;
        assert_eq!(answer, Ok(vec![1001]));
    }

    /// Members are the lengths of their values; the server closes the connection where answers
    /// above `most` bytes wait there together.
    async fn read(limit: &RequestLimit, lengths: &[usize], most: usize, sent: &AtomicUsize) -> Vec<String> {
        let ask = |part: &[usize]| {
            sent.fetch_add(1, Ordering::Relaxed);
            let bytes: usize = part.iter().sum();
            let answers = part.iter().map(ToString::to_string).collect();
            if bytes <= most {
                limit.passed(bytes);
            }
            let answer = if bytes > most {
                Err(Fault::Broke(StoreError::away(FailureKind::Connection, "closed")))
            } else {
                Ok(answers)
            };
            std::future::ready(answer).boxed()
        };
        let weigh = |part: &[usize]| std::future::ready(Ok(part.to_vec())).boxed();
        let too_large = |length: &usize, bytes| format!("{length} is too large with {bytes}");
        read_in_parts(limit, lengths, |part| part.len() * 50, weigh, ask, too_large).await.unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_breaks_the_connection_is_found_by_the_length_of_its_value_and_all_others_are_read() {
        let limit = RequestLimit { first: Duration::ZERO, ..RequestLimit::new(512_000, usize::MAX) };
        let sent = AtomicUsize::new(0);
        let mut lengths = vec![1; 122];
        lengths.extend([400_000; 6]);
        lengths.insert(60, 900_000);
        let expected: Vec<String> = lengths
            .iter()
            .map(|length| match length {
                900_000 => "900000 is too large with 900000".to_owned(),
                length => length.to_string(),
            })
            .collect();
        assert_eq!(read(&limit, &lengths, 600_000, &sent).await, expected);
        assert!(sent.load(Ordering::Relaxed) < 20, "{sent:?} requests");
        // What was learned costs the next ones no connection: each is sent once, apart from what
        // does not fit together.
        sent.store(0, Ordering::Relaxed);
        assert_eq!(read(&limit, &[400_000, 900_000, 599_999], 600_000, &sent).await.len(), 3);
        assert_eq!(sent.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_single_key_with_a_short_name_is_blamed_by_its_answer() {
        let (limit, sent) = (limit(), AtomicUsize::new(0));
        assert_eq!(read(&limit, &[900_000], 600_000, &sent).await, ["900000 is too large with 900000"]);
        assert_eq!(read(&limit, &[1, 2], 600_000, &sent).await, ["1", "2"]);
        assert!(limit.why_answer(900_000, "x").starts_with("the key holds 900000 bytes, and"));
    }

    #[tokio::test]
    async fn while_answers_are_suspected_one_is_read_after_the_other() {
        let (limit, under_way) = (limit(), AtomicUsize::new(0));
        read(&limit, &[900_000], 600_000, &AtomicUsize::new(0)).await;
        let ask = |part: &[usize]| {
            let (under_way, answers) = (&under_way, part.to_vec());
            async move {
                assert_eq!(under_way.fetch_add(1, Ordering::Relaxed), 0);
                tokio::task::yield_now().await;
                under_way.fetch_sub(1, Ordering::Relaxed);
                Ok(answers)
            }
            .boxed()
        };
        let weigh = |part: &[usize]| std::future::ready(Ok(part.to_vec())).boxed();
        let one = || read_in_parts(&limit, &[1], |_| 50, weigh, ask, |length, _| *length);
        let all = futures::future::join_all([one(), one(), one()]).await;
        assert!(all.iter().all(|answer| *answer == Ok(vec![1])));
    }

    #[test]
    fn pauses_grow_while_the_connection_breaks() {
        let limit = RequestLimit::new(100, 100);
        let pauses: Vec<u128> = (0..40).map(|_| limit.pause().as_millis()).collect();
        assert_eq!(pauses.get(..6), Some(&[50, 100, 200, 400, 500, 500][..]));
        assert_eq!(pauses.last(), Some(&5000));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_under_what_fits_is_away_and_blames_none() {
        let (limit, sent) = (limit(), AtomicUsize::new(0));
        send(&limit, &[4000], 5000, &sent).await;
        for sizes in [&[10; 64][..], &[3000; 64]] {
            let broken =
                || std::future::ready(Err(Fault::Broke(StoreError::away(FailureKind::Connection, "closed")))).boxed();
            let ended: Result<Vec<()>, _> =
                in_parts(&limit, sizes, |sizes| sizes.iter().sum(), |_| broken(), |size, _| panic!("{size} is blamed"))
                    .await;
            assert_eq!(ended, Err(StoreError::away(FailureKind::Connection, "closed")));
        }
        let weigh = |part: &[usize]| std::future::ready(Ok(part.to_vec())).boxed();
        let broken = |_: &[usize]| {
            std::future::ready(Err(Fault::Broke(StoreError::away(FailureKind::Connection, "closed")))).boxed()
        };
        limit.passed(4000);
        let ended: Result<Vec<()>, _> =
            read_in_parts(&limit, &[3000; 64], |_| 50, weigh, broken, |size, _| panic!("{size} is blamed")).await;
        assert_eq!(ended, Err(StoreError::away(FailureKind::Connection, "closed")));
        assert!(limit.takes(3000));
    }
}
