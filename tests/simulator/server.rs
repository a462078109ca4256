//! The way of one process to the Redis: the double's connections, with commands and answers that take their time.

use crate::executor::{Executor, NETWORK, ProcessId};
use crate::network::{Connection, Fate, Network, Store, Way};
use crate::stores::{mark_of, refused_for_the_moment};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use keepstep::env;
use keepstep::store::redis::Access;
use keepstep::store::redis::line::{Cmd, Dial, Line, PushInfo, PushKind, Pushes, RedisError, Value};
use keepstep_doubles::redis::data::Kind;
use keepstep_doubles::redis::line::{Double, Fault, words_of};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// As the store's: below it an epoch is an owner's.
const EPOCH_MAX: u64 = 1 << 53;

/// As the client library's.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The Redis as one process reaches it. A clone is the same one.
#[derive(Clone)]
pub struct Servers {
    pub network: Network,
    pub double: Double,
    open: Arc<Mutex<Vec<(ProcessId, Weak<Link>)>>>,
    /// The newest epoch that each bucket was shown.
    epochs: Arc<Mutex<BTreeMap<Vec<u8>, u64>>>,
    /// The newest epoch that was shown to what Redis remembers, and what that is.
    state: Arc<Mutex<(u64, Option<Kind>)>>,
}

/// What Redis remembers of the pipeline.
const STATE: &[u8] = b"_keepstep:sim";

fn broken() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

impl Servers {
    #[must_use]
    pub fn new(network: Network, double: Double) -> Servers {
        Servers { network, double, open: Arc::default(), epochs: Arc::default(), state: Arc::default() }
    }

    /// For one process.
    #[must_use]
    pub fn of(&self, process: ProcessId) -> Arc<dyn Dial> {
        Arc::new(OfProcess { servers: self.clone(), process })
    }

    /// Data were lost, and with them what buckets were shown.
    pub fn forget_epochs(&self) {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (0, None);
    }

    /// A script of an owner has run: `EVALSHA sha n [key bucket]… epoch …`.
    fn note_epoch(&self, process: ProcessId, words: &[Vec<u8>], has_written: bool) {
        let number = |at: usize| words.get(at).and_then(|word| std::str::from_utf8(word).ok()?.parse::<u64>().ok());
        let Some(keys) = number(2).map(|keys| keys as usize).filter(|keys| *keys >= 1) else { return };
        if keys == 1 && words.get(3).is_some_and(|key| key == STATE) {
            return self.note_state(process, number(4).filter(|epoch| *epoch < EPOCH_MAX));
        }
        let buckets = words.get(3..3 + keys).unwrap_or_default().iter().skip(1).step_by(2);
        let Some(epoch) = number(3 + keys).filter(|epoch| *epoch < EPOCH_MAX) else { return };
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        for bucket in buckets.filter(|bucket| bucket.starts_with(b"_keepstep:sim")) {
            let shown = epochs.entry(bucket.clone()).or_default();
            if has_written && epoch < *shown {
                let (at, bucket) = (self.network.executor().now().as_secs_f64(), String::from_utf8_lossy(bucket));
                self.network.truth().accuse(format!(
                    "{at:.6} unfenced: process {process} wrote with epoch {epoch}, and {bucket} was shown {shown}"
                ));
            }
            *shown = (*shown).max(epoch);
        }
    }

    /// A script of an owner, or of who was one, has run on what Redis remembers.
    fn note_state(&self, process: ProcessId, epoch: Option<u64>) {
        let now = self.double.look(|server| server.peek(0, STATE).map(|entry| entry.kind.clone()));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let has_written = state.1 != now;
        state.1 = now;
        let Some(epoch) = epoch else { return };
        if has_written && epoch < state.0 {
            let at = self.network.executor().now().as_secs_f64();
            let shown = state.0;
            self.network.truth().accuse(format!(
                "{at:.6} unfenced: process {process} wrote what Redis remembers with epoch {epoch}, and it was shown {shown}"
            ));
        }
        state.0 = state.0.max(epoch);
    }

    fn note(&self, process: ProcessId, link: &Arc<Link>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push((process, Arc::downgrade(link)));
    }

    /// Cuts the connections of a process.
    pub fn cut(&self, process: ProcessId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, link)| link.strong_count() > 0);
        let links: Vec<Arc<Link>> =
            open.iter().filter(|(of, _)| *of == process).filter_map(|(_, link)| link.upgrade()).collect();
        drop(open);
        links.iter().for_each(|link| link.cut());
    }
}

struct OfProcess {
    servers: Servers,
    process: ProcessId,
}

/// What comes back on a connection, in its order; beside it when it was sent, and when it arrives.
enum Back {
    Push(PushInfo),
    Answer(oneshot::Sender<Result<Value, RedisError>>, Result<Value, RedisError>),
    End,
}

struct Link {
    servers: Servers,
    connection: Connection,
    /// `None`: it was cut.
    inner: Mutex<Option<Arc<dyn Line>>>,
    back: mpsc::UnboundedSender<(Duration, Duration, Back)>,
}

impl Link {
    fn inner(&self) -> Option<Arc<dyn Line>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn cut(&self) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        if inner.is_some() {
            let now = self.connection.network().executor().now();
            let _ = self.back.send((now, now, Back::End));
        }
    }

    fn answer(&self, answer: oneshot::Sender<Result<Value, RedisError>>, answered: Result<Value, RedisError>) {
        let now = self.connection.network().executor().now();
        let _ = self.back.send((now, self.connection.back(), Back::Answer(answer, answered)));
    }

    /// Sends a command now.
    fn send(self: &Arc<Self>, command: Cmd) -> oneshot::Receiver<Result<Value, RedisError>> {
        let (answer, answered) = oneshot::channel();
        let (at, fate) = self.connection.request();
        let link = Arc::clone(self);
        let executor = self.connection.network().executor().clone();
        self.connection.network().executor().spawn_on(NETWORK, async move {
            executor.sleep_until(at).await;
            if link.connection.way() == Way::Silent {
                // Nobody hears of it; the caller's time runs out.
                executor.sleep_until(executor.now() + RESPONSE_TIMEOUT * 2).await;
                return;
            }
            let Some(inner) = link.inner() else {
                link.answer(answer, Err(broken()));
                return;
            };
            let double = &link.servers.double;
            let name = String::from_utf8_lossy(words_of(&command).first().map_or(&[][..], Vec::as_slice)).into_owned();
            let fault = match fate {
                Fate::LosesRequest => Some(Fault::LoseCommand),
                Fate::LosesAnswer => Some(Fault::LoseAnswer),
                Fate::Refused => {
                    let draws = link.connection.draws().with(at.as_nanos() as u64);
                    refused_for_the_moment(&name, draws).map(|text| Fault::Error(text.to_owned()))
                }
                Fate::Arrives => None,
            };
            let is_faulty = fault.is_some();
            if let Some(fault) = fault {
                executor.mark(match fault {
                    Fault::LoseCommand => "redis: lost a command",
                    Fault::LoseAnswer => "redis: lost an answer",
                    Fault::LateAnswer => "redis: late answer",
                    Fault::Error(_) => "redis: refused for the moment",
                });
                double.plan(&name, 0, fault);
            }
            double.set_clock(env::unix_ms());
            let process = link.connection.process();
            tracing::trace!(process, ?fate, "redis <- {}", shown(&command));
            let before = link.connection.network().look(process);
            let mut asked = inner.call(&command);
            let at_once = poll_fn(|context| match asked.poll_unpin(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
            double.forgive();
            let has_written = link.connection.network().look(process) != before;
            let done = match at_once {
                Some(done) => done,
                None => asked.await,
            };
            // A script that the server does not have shows nothing.
            if !is_faulty && done.is_ok() {
                link.servers.note_epoch(process, &words_of(&command), has_written);
            }
            mark_errors(&executor, &done);
            tracing::trace!(process, "redis -> {}", text_of(&done));
            link.answer(answer, done);
        });
        answered
    }
}

/// Counts the errors that a command, or a script for one of its keys, was answered.
fn mark_errors(executor: &Executor, answered: &Result<Value, RedisError>) {
    match answered {
        Err(error) => error.code().and_then(mark_of).into_iter().for_each(|mark| executor.mark(mark)),
        Ok(Value::Array(items)) => {
            for item in items {
                let text = match item {
                    Value::BulkString(text) => text.as_slice(),
                    Value::SimpleString(text) => text.as_bytes(),
                    _ => continue,
                };
                let code = text.split(|byte| *byte == b' ').next().unwrap_or_default();
                let mark = std::str::from_utf8(code).ok().and_then(mark_of);
                mark.into_iter().for_each(|mark| executor.mark(mark));
            }
        }
        Ok(_) => {}
    }
}

fn shown(command: &Cmd) -> String {
    let words = words_of(command);
    words
        .iter()
        .map(|word| String::from_utf8_lossy(word).chars().take(60).collect::<String>().escape_debug().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

fn text_of(answered: &Result<Value, RedisError>) -> String {
    format!("{answered:?}").chars().take(400).collect()
}

/// The connection that the store's code has.
struct Open(Arc<Link>);

impl Drop for Open {
    fn drop(&mut self) {
        // What was sent before arrives before.
        let link = Arc::clone(&self.0);
        let executor = link.connection.network().executor().clone();
        let at = link.connection.request().0;
        executor.clone().spawn_on(NETWORK, async move {
            executor.sleep_until(at).await;
            link.cut();
        });
    }
}

impl Dial for OfProcess {
    fn open<'a>(
        &'a self,
        access: &'a Access,
        pushes: Option<Pushes>,
    ) -> BoxFuture<'a, Result<Arc<dyn Line>, RedisError>> {
        let opening = async move {
            let servers = &self.servers;
            let connection = servers.network.connection(self.process, Store::Redis);
            let executor = servers.network.executor().clone();
            executor.sleep_until(connection.request().0).await;
            match connection.way() {
                Way::Open => {}
                Way::Refused => return Err(RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused))),
                Way::Silent => return std::future::pending().await,
            }
            let (back, mut received) = mpsc::unbounded_channel();
            let (pushed, pushing) = (back.clone(), connection.clone());
            let push = Box::new(move |info: PushInfo| {
                let _ = pushed.send((pushing.network().executor().now(), pushing.back(), Back::Push(info)));
            });
            let inner = servers.double.open(access, Some(push)).await?;
            let link = Arc::new(Link { servers: servers.clone(), connection, inner: Mutex::new(Some(inner)), back });
            servers.note(self.process, &link);
            let (hands_on, arriving) = (executor.clone(), link.connection.clone());
            // A task of the process: while it is frozen, nothing is handed on.
            executor.spawn_on(self.process, async move {
                let mut has_ended = false;
                while let Some((sent, at, back)) = received.recv().await {
                    hands_on.sleep_until(at).await;
                    if !matches!(back, Back::End) {
                        arriving.arrived(matches!(back, Back::Push(_)), sent);
                    }
                    match back {
                        Back::Push(info) => {
                            has_ended |= info.kind == PushKind::Disconnection;
                            pushes.iter().for_each(|pushes| pushes(info.clone()));
                        }
                        // Whoever asked may have gone.
                        Back::Answer(answer, answered) => drop(answer.send(answered)),
                        Back::End if !has_ended => {
                            has_ended = true;
                            let kind = PushKind::Disconnection;
                            pushes.iter().for_each(|pushes| pushes(PushInfo { kind: kind.clone(), data: Vec::new() }));
                        }
                        Back::End => {}
                    }
                }
            });
            executor.sleep_until(link.connection.back()).await;
            Ok(Arc::new(Open(link)) as Arc<dyn Line>)
        };
        async move { env::timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| Err(timed_out())) }.boxed()
    }
}

async fn in_time(answered: oneshot::Receiver<Result<Value, RedisError>>) -> Result<Value, RedisError> {
    match env::timeout(RESPONSE_TIMEOUT, answered).await {
        Ok(answered) => answered.unwrap_or_else(|_| Err(broken())),
        Err(_) => Err(timed_out()),
    }
}

impl Line for Open {
    fn call<'a>(&'a self, command: &'a Cmd) -> BoxFuture<'a, Result<Value, RedisError>> {
        async move { in_time(self.0.send(command.clone())).await }.boxed()
    }

    fn pipeline(&self, commands: Vec<Cmd>) -> BoxFuture<'_, Result<Vec<Result<Value, RedisError>>, RedisError>> {
        async move {
            let sent: Vec<_> = commands.into_iter().map(|command| self.0.send(command)).collect();
            let mut answers = Vec::with_capacity(sent.len());
            for answered in sent {
                match in_time(answered).await {
                    Err(error) if error.is_io_error() => return Err(error),
                    answer => answers.push(answer),
                }
            }
            Ok(answers)
        }
        .boxed()
    }
}
