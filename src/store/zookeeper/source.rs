//! The watch source: persistent recursive watches on the session of all sources of this worker.
//!
//! `Disconnected -> Watching`, and back at every event of the session. Events of a reconnect are
//! lost by the server (ZOOKEEPER-4698), and zookeeper-client 0.11.2 does not even register
//! persistent watches again (`session/watch.rs:446`: `index = index.max(index)`), so every session
//! event means: watch anew, drop the old watch, let the pipeline compare everything. Each pipeline
//! does so for its own roots. Reads of this session use no one-shot watches: on servers before 3.9
//! one on the root of a recursive watch would silence it (ZOOKEEPER-4466).

use super::fault::explain;
use super::fault::no_session;
use super::session::{Error, EventType, Session, SessionState, WatchedEvent};
use super::shared::Shared;
use crate::change::Side;
use crate::env::{self, Instant, lock};
use crate::store::{FailureKind, Hints, Link, StoreError};
use futures::FutureExt as _;
use futures::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;

/// Pauses between attempts to connect grow up to the longest, and begin anew after a connection
/// that has lasted.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const LASTING: Duration = Duration::from_secs(10);

/// The events of one watch.
type Events = BoxStream<'static, WatchedEvent>;

pub(super) async fn run(shared: Arc<Shared>, hints: Arc<dyn Hints>) {
    let mut pause = PAUSE_FIRST;
    loop {
        let why = match follow(&shared, &hints, &mut pause).await {
            Ok(why) => StoreError::away(FailureKind::Session, why),
            Err(error) => error,
        };
        *lock(&shared.source) = None;
        hints.link(Side::Zookeeper, Link::Down(why));
        env::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One session, from its making to its end; answers why it ended.
async fn follow(shared: &Arc<Shared>, hints: &Arc<dyn Hints>, pause: &mut Duration) -> Result<String, StoreError> {
    let session = shared.settings.sessions.source(&shared.place).await?;
    *lock(&shared.source) = Some(Arc::clone(&session));
    let mut old = Vec::new();
    loop {
        let begun = Instant::now();
        // New watches before the old ones go: no window in between.
        let watches = watch(shared, session.handle()).await?;
        old.clear();
        hints.link(Side::Zookeeper, Link::Up);
        let state = listen(watches, hints, &mut old).await;
        if begun.elapsed() > LASTING {
            *pause = PAUSE_FIRST;
        }
        if state.is_terminated() {
            return Ok(format!("{}: the session of the source ended ({state:?})", shared.place));
        }
        let lost = |why: &str| {
            Link::Down(StoreError::away(
                FailureKind::Connection,
                format!("{}: the connection was lost{why}", shared.place),
            ))
        };
        hints.link(Side::Zookeeper, lost(""));
        // A server that hangs up again and again is not hit as often as it does.
        env::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
        let mut states = session.states();
        let mut state = session.state();
        let mut asks = std::pin::pin!(no_session(shared.ensemble(), &shared.place.access.connect).fuse());
        while state != SessionState::SyncConnected {
            if state.is_terminated() {
                return Ok(format!("{}: the session of the source ended ({state:?})", shared.place));
            }
            tokio::select! {
                biased;
                Some(next) = states.next() => state = next,
                why = &mut asks => hints.link(Side::Zookeeper, lost(&format!("; {why}"))),
            }
        }
    }
}

async fn watch(shared: &Shared, session: &dyn Session) -> Result<Vec<Events>, StoreError> {
    let mut watches = Vec::new();
    for root in &shared.settings.roots {
        let events = session.watch(root).await.map_err(|error| match error {
            Error::Unimplemented => StoreError::refused(
                FailureKind::Unsupported,
                format!("{} is too old: it has no recursive watches; ZooKeeper 3.6 or later is needed", shared.place),
            ),
            error => explain(&shared.place, &error),
        })?;
        watches.push(events);
    }
    Ok(watches)
}

/// Turns events into hints until a session event comes on any watch; that watch is put into `old`.
async fn listen(watches: Vec<Events>, hints: &Arc<dyn Hints>, old: &mut Vec<Events>) -> SessionState {
    let until_session_event = |mut events: Events| async move {
        while let Some(event) = events.next().await {
            if event.event_type == EventType::Session {
                return (event.session_state, events);
            }
            let is_deleted = event.event_type == EventType::NodeDeleted;
            hints.znode(&event.path, (event.zxid >= 0).then_some(event.zxid), is_deleted);
        }
        // Not before a terminal state, which is an event and so was answered above.
        (SessionState::Closed, events)
    };
    let mut all: FuturesUnordered<_> = watches.into_iter().map(until_session_event).collect();
    match all.next().await {
        Some((state, events)) => {
            // The others get the same session event; their remaining node events are covered by the
            // comparison.
            old.push(events);
            state
        }
        None => futures::future::pending().await,
    }
}
