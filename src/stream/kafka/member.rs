//! The lease of a capture without ZooKeeper: to be the one member of a consumer group that has the
//! partition.
//!
//! The group coordinator gives the one partition to one member and takes it away when that one is
//! silent for [`SESSION`]. What a frozen member may still write is shut out by the fence in every
//! record.

use super::client::{self, Context, explain};
use super::reader::PARTITION;
use super::settings::Settings;
use crate::env;
use crate::stream::StreamError;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long one attempt waits for the partition before the error names the member that has it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two calls that keep the membership alive.
const TURN: Duration = Duration::from_millis(50);
/// The longest that leaving the group is waited for: the coordinator need not wait for the
/// session's end then.
const LEAVE: Duration = Duration::from_secs(1);

/// Whether this member has the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Another member has the partition; who, if known.
    Waiting(String),
    Owns,
    /// It had the partition and lost it, or the group refuses it.
    Over(StreamError),
}

/// A member of the group. Dropping it leaves the group.
pub(super) struct Member {
    standing: watch::Receiver<Standing>,
    group: String,
    stop: Option<SyncSender<()>>,
    left: Mutex<Receiver<()>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop = None;
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = left.recv_timeout(LEAVE);
    }
}

impl Member {
    /// Joins the group of this topic's pipeline.
    pub fn join(settings: &Settings) -> Result<Member, StreamError> {
        let group = format!("keepstep.{}", settings.pipeline);
        let context = Context::new(settings);
        let failed = |error| explain(settings, "joining the group", &error);
        let consumer: BaseConsumer<Context> =
            client::member(settings, &group).create_with_context(context.clone()).map_err(failed)?;
        consumer.subscribe(&[&settings.topic]).map_err(failed)?;
        let (changes, standing) = watch::channel(Standing::Waiting(String::new()));
        let (stop, stopped) = sync_channel(1);
        let (leaves, left) = sync_channel(1);
        let mut steps = MemberSteps {
            consumer,
            context,
            settings: settings.clone(),
            group: group.clone(),
            standing: changes,
            turn: 0,
        };
        let thread = move || {
            while stopped.try_recv() == Err(TryRecvError::Empty) && steps.step().is_continue() {}
            steps.consumer.unsubscribe();
            drop(steps);
            let _ = leaves.send(());
        };
        env::tasks::thread("kafka-lease", thread)
            .map_err(|error| StreamError::Unavailable(format!("a thread could not be started: {error}")))?;
        Ok(Member { standing, group, stop: Some(stop), left: Mutex::new(left) })
    }

    /// Waits a while for the lease.
    pub async fn wait(&self) -> Result<(), StreamError> {
        let mut standing = self.standing.clone();
        let settled = standing.wait_for(|standing| !matches!(standing, Standing::Waiting(_)));
        let settled = env::timeout(PATIENCE, settled).await;
        let now = match settled {
            Ok(Ok(standing)) => standing.clone(),
            Ok(Err(_)) => Standing::Over(StreamError::Unavailable(format!("group {} ended", self.group))),
            Err(_) => self.standing.borrow().clone(),
        };
        match now {
            Standing::Owns => Ok(()),
            Standing::Over(error) => Err(error),
            Standing::Waiting(owner) if owner.is_empty() => {
                Err(StreamError::Owned(format!("group {} has not given the lease yet", self.group)))
            }
            Standing::Waiting(owner) => Err(StreamError::Owned(format!("{owner} owns the pipeline"))),
        }
    }

    /// Resolves when the lease is lost.
    pub async fn released(&self) -> StreamError {
        let mut standing = self.standing.clone();
        let _ = standing.wait_for(|standing| *standing != Standing::Owns).await;
        let now = self.standing.borrow().clone();
        match now {
            Standing::Over(error) => error,
            Standing::Owns | Standing::Waiting(_) => {
                StreamError::Lost(format!("the lease in group {} is lost", self.group))
            }
        }
    }
}

/// The work of a member in steps, which its thread calls one after the other.
struct MemberSteps {
    consumer: BaseConsumer<Context>,
    context: Context,
    settings: Settings,
    group: String,
    standing: watch::Sender<Standing>,
    /// Steps without the partition.
    turn: u32,
}

impl MemberSteps {
    /// Keeps the membership alive for [`TURN`] and looks whether it has the partition; `Break` once
    /// the membership is over.
    fn step(&mut self) -> ControlFlow<()> {
        if let Some(Err(error)) = self.consumer.poll(TURN)
            && error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
        {
            let why = format!("Kafka does not allow it: give this user Read on group {}", self.group);
            self.standing.send_replace(Standing::Over(StreamError::Refused(why)));
            return ControlFlow::Break(());
        }
        if let Some(refusal) = self.context.refusal() {
            self.standing.send_replace(Standing::Over(refusal));
            return ControlFlow::Break(());
        }
        let assigned = self.consumer.assignment().ok();
        let has = assigned.as_ref().is_some_and(|all| all.find_partition(&self.settings.topic, PARTITION).is_some());
        let owned = *self.standing.borrow() == Standing::Owns;
        match (owned, has) {
            (false, true) => {
                if let Some(assigned) = &assigned {
                    // It holds the lease and fetches nothing.
                    let _ = self.consumer.pause(assigned);
                }
                self.standing.send_replace(Standing::Owns);
            }
            (true, false) => {
                let why = format!("the lease in group {} is lost: another worker may own the pipeline", self.group);
                self.standing.send_replace(Standing::Over(StreamError::Lost(why)));
                return ControlFlow::Break(());
            }
            (true, true) => {}
            (false, false) => {
                self.turn = self.turn.wrapping_add(1);
                if self.turn.is_multiple_of(40) {
                    let owner = self.owner().unwrap_or_default();
                    self.standing.send_replace(Standing::Waiting(owner));
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Who else is in the group: the names that workers give themselves.
    fn owner(&self) -> Option<String> {
        let groups = self.consumer.fetch_group_list(Some(&self.group), Duration::from_secs(1)).ok()?;
        let group = groups.groups().first()?;
        let others = group.members().iter().map(|member| member.client_id().to_owned());
        let others: Vec<String> = others.filter(|name| *name != self.settings.worker).collect();
        (!others.is_empty()).then(|| others.join(", "))
    }
}
