//! The seam of `store::redis` over the double: `Dial` and `Line` in one process, with faults of the network.
//!
//! ```text
//!   call --first poll--> Server::command --sent, in order--> delivery task of the connection --> answer, or Pushes
//! ```

use super::data::Bytes;
use super::reply::{Push, Reply, Sent};
use super::server::Server;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use keepstep::env;
use keepstep::store::redis::Access;
use keepstep::store::redis::line::{Arg, Cmd, Dial, ErrorKind, Line, PushInfo, PushKind, Pushes, RedisError, Value};
use redis::VerbatimFormat;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// What befalls one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the server has it.
    LoseCommand,
    /// The server runs it, and the connection breaks before the answer is there.
    LoseAnswer,
    /// The server runs it, and the answer does not come in time. The connection stays.
    LateAnswer,
    /// The server does not run it and answers this error: code, and what stands behind.
    Error(String),
}

/// A fault that waits for a command of this name.
struct Plan {
    name: String,
    /// Commands of the name that still go well before.
    after: usize,
    fault: Fault,
}

#[derive(Default)]
struct World {
    server: Server,
    links: Vec<Link>,
    /// The connection of [`Double::run`].
    client: Option<usize>,
    /// Its user, where that is not the default one.
    user: Option<String>,
    plans: Vec<Plan>,
    is_refusing: bool,
    dialled: usize,
    /// The commands that the server ran, by name.
    ran: Vec<String>,
}

/// What belongs to one connection of the server.
struct Link {
    waiting: VecDeque<oneshot::Sender<Result<Value, RedisError>>>,
    arrived: Arc<Notify>,
}

/// A server and the way to it. A clone is the same one.
#[derive(Clone, Default)]
pub struct Double(Arc<Mutex<World>>);

impl Double {
    pub fn new(server: Server) -> Double {
        Double(Arc::new(Mutex::new(World { server, ..World::default() })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the server, as one turn of its event loop.
    pub fn with<T>(&self, what: impl FnOnce(&mut Server) -> T) -> T {
        let mut world = self.world();
        let result = what(&mut world.server);
        world.turn();
        result
    }

    /// Looks at the server.
    pub fn look<T>(&self, look: impl FnOnce(&Server) -> T) -> T {
        look(&self.world().server)
    }

    /// What its clock shows from here on.
    pub fn set_clock(&self, now_ms: i64) {
        self.world().server.now_ms = now_ms;
    }

    /// No fault that was planned happens any more.
    pub fn forgive(&self) {
        self.world().plans.clear();
    }

    /// Lets the next command of this name meet a fault, after so many others.
    pub fn plan(&self, name: &str, after: usize, fault: Fault) {
        self.world().plans.push(Plan { name: name.to_owned(), after, fault });
    }

    /// Faults that no command has met.
    pub fn unmet(&self) -> usize {
        self.world().plans.len()
    }

    /// Whether nobody gets a connection.
    pub fn refuse(&self, is_refusing: bool) {
        self.world().is_refusing = is_refusing;
    }

    /// Connections that were asked for.
    pub fn dialled(&self) -> usize {
        self.world().dialled
    }

    /// How often the server ran a command of this name.
    pub fn count(&self, name: &str) -> usize {
        self.world().ran.iter().filter(|ran| *ran == name).count()
    }

    /// From here on [`Double::run`] is this user, who needs no password.
    pub fn log_in(&self, user: &str) {
        let mut world = self.world();
        (world.user, world.client) = (Some(user.to_owned()), None);
    }

    /// A client of its own runs one command, as words; the answer as the server gives it.
    pub fn run(&self, words: &[&[u8]]) -> Reply {
        let mut world = self.world();
        let connection = match world.client.filter(|client| world.server.is_connected(*client)) {
            Some(client) => client,
            // Only a login can be refused.
            None => {
                let login = world.user.clone();
                world.server.connect(0, login.as_deref().map(|user| (user, None))).unwrap_or_default()
            }
        };
        world.client = Some(connection);
        world.server.command(connection, &words.iter().map(|word| word.to_vec()).collect::<Vec<_>>());
        let sent = world.server.received(connection);
        world.turn();
        let reply = sent.into_iter().find_map(|sent| match sent {
            Sent::Reply(reply) => Some(reply),
            _ => None,
        });
        reply.unwrap_or(Reply::Nil)
    }

    /// [`Double::run`] of words with spaces between.
    pub fn words(&self, command: &str) -> Reply {
        self.run(&command.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }
}

impl World {
    /// The turn ends: whoever was sent something finds it.
    fn turn(&mut self) {
        self.server.end_turn();
        for link in &self.links {
            link.arrived.notify_one();
        }
    }

    fn fault(&mut self, name: &str) -> Option<Fault> {
        let at = self.plans.iter().position(|plan| plan.name == name)?;
        match self.plans[at].after.checked_sub(1) {
            Some(after) => {
                self.plans[at].after = after;
                None
            }
            None => Some(self.plans.remove(at).fault),
        }
    }

    /// Queues a command at the server, which runs it.
    fn queue(&mut self, connection: usize, words: &[Bytes]) -> oneshot::Receiver<Result<Value, RedisError>> {
        let (answer, answered) = oneshot::channel();
        let name = String::from_utf8_lossy(&words[0]).into_owned();
        if !self.server.is_connected(connection) {
            let _ = answer.send(Err(broken()));
            return answered;
        }
        match self.fault(&name) {
            Some(Fault::LoseCommand) => {
                self.server.close(connection);
                let _ = answer.send(Err(broken()));
            }
            Some(Fault::LoseAnswer) => {
                self.server.command(connection, words);
                self.ran.push(name);
                self.server.drop_answer(connection);
                self.server.close(connection);
                let _ = answer.send(Err(broken()));
            }
            Some(Fault::LateAnswer) => {
                self.server.command(connection, words);
                self.ran.push(name);
                self.server.drop_answer(connection);
                let _ = answer.send(Err(io::Error::from(io::ErrorKind::TimedOut).into()));
            }
            Some(Fault::Error(text)) => {
                self.server.answer(connection, Reply::Error(text));
                self.links[connection].waiting.push_back(answer);
            }
            None => {
                self.server.command(connection, words);
                self.ran.push(name);
                self.links[connection].waiting.push_back(answer);
            }
        }
        answered
    }
}

fn broken() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}

struct Connection {
    double: Double,
    number: usize,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut world = self.double.world();
        world.server.hang_up(self.number);
        world.links[self.number].arrived.notify_one();
    }
}

impl Dial for Double {
    fn open<'a>(
        &'a self,
        access: &'a Access,
        pushes: Option<Pushes>,
    ) -> BoxFuture<'a, Result<Arc<dyn Line>, RedisError>> {
        async move {
            let arrived = Arc::new(Notify::new());
            let number = {
                let mut world = self.world();
                world.dialled += 1;
                if world.is_refusing {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                }
                let password = access.password.as_ref().map(|password| password.now());
                let login = access.username.as_deref().map(|name| (name, password.as_deref()));
                let connected = world.server.connect(access.database as usize, login);
                let number = connected.map_err(|error| {
                    if error.starts_with("WRONGPASS") {
                        RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed", error))
                    } else {
                        server_error(&error)
                    }
                })?;
                world.links.resize_with(number + 1, || Link { waiting: VecDeque::new(), arrived: Arc::default() });
                world.links[number].arrived = Arc::clone(&arrived);
                number
            };
            env::spawn(deliver(self.clone(), number, arrived, pushes));
            Ok(Arc::new(Connection { double: self.clone(), number }) as Arc<dyn Line>)
        }
        .boxed()
    }
}

/// The task of one connection: hands on what the server sent, in its order.
async fn deliver(double: Double, number: usize, arrived: Arc<Notify>, pushes: Option<Pushes>) {
    loop {
        let (sent, is_open) = {
            let mut world = double.world();
            (world.server.received(number), world.server.is_connected(number))
        };
        for sent in sent {
            let push = |info| pushes.iter().for_each(|pushes| pushes(info_of(&info)));
            match sent {
                Sent::Push(info) => push(info),
                Sent::Reply(reply) => {
                    if let Reply::Confirmed(info) = &reply {
                        push(info.clone());
                    }
                    let waiting = double.world().links[number].waiting.pop_front();
                    if let Some(waiting) = waiting {
                        // Whoever asked may have gone.
                        let _ = waiting.send(answer_of(reply));
                    }
                }
                Sent::Closed => {
                    let waiting = std::mem::take(&mut double.world().links[number].waiting);
                    for waiting in waiting {
                        let _ = waiting.send(Err(broken()));
                    }
                    pushes
                        .iter()
                        .for_each(|pushes| pushes(PushInfo { kind: PushKind::Disconnection, data: Vec::new() }));
                    return;
                }
            }
        }
        if !is_open {
            return;
        }
        arrived.notified().await;
    }
}

impl Line for Connection {
    fn call<'a>(&'a self, command: &'a Cmd) -> BoxFuture<'a, Result<Value, RedisError>> {
        async move {
            let answered = {
                let mut world = self.double.world();
                let answered = world.queue(self.number, &words_of(command));
                world.turn();
                answered
            };
            answered.await.unwrap_or_else(|_| Err(broken()))
        }
        .boxed()
    }

    fn pipeline(&self, commands: Vec<Cmd>) -> BoxFuture<'_, Result<Vec<Result<Value, RedisError>>, RedisError>> {
        async move {
            let all = {
                let mut world = self.double.world();
                let all: Vec<_> = commands.iter().map(|command| world.queue(self.number, &words_of(command))).collect();
                world.turn();
                all
            };
            let mut answers = Vec::with_capacity(all.len());
            for answered in all {
                match answered.await.unwrap_or_else(|_| Err(broken())) {
                    Err(error) if error.is_io_error() => return Err(error),
                    answer => answers.push(answer),
                }
            }
            Ok(answers)
        }
        .boxed()
    }
}

/// The words of a command.
pub fn words_of(command: &Cmd) -> Vec<Bytes> {
    let word = |argument| match argument {
        Arg::Simple(word) => <[u8]>::to_vec(word),
        _ => b"0".to_vec(),
    };
    command.args_iter().map(word).collect()
}

/// A server's error as the crate has it, by its own reader.
fn server_error(text: &str) -> RedisError {
    match redis::parse_redis_value(format!("-{text}\r\n").as_bytes()) {
        Ok(Value::ServerError(error)) => error.into(),
        Ok(other) => RedisError::from((ErrorKind::Client, "no error", format!("{other:?}"))),
        Err(error) => error,
    }
}

/// An answer as the seam has it.
pub fn answer_of(reply: Reply) -> Result<Value, RedisError> {
    match reply {
        Reply::Error(text) => Err(server_error(&text)),
        reply => Ok(value_of(reply)),
    }
}

fn value_of(reply: Reply) -> Value {
    match reply {
        Reply::Nil => Value::Nil,
        Reply::Int(number) => Value::Int(number),
        Reply::Text(text) => Value::BulkString(text),
        Reply::Verbatim(text) => Value::VerbatimString { format: VerbatimFormat::Text, text },
        Reply::Status("OK") => Value::Okay,
        Reply::Status(text) => Value::SimpleString(text.to_owned()),
        Reply::Array(items) => Value::Array(items.into_iter().map(value_of).collect()),
        Reply::Set(items) => Value::Set(items.into_iter().map(value_of).collect()),
        Reply::Map(pairs) => {
            Value::Map(pairs.into_iter().map(|(one, other)| (value_of(one), value_of(other))).collect())
        }
        Reply::Confirmed(push) => {
            let PushInfo { kind, data } = info_of(&push);
            Value::Push { kind, data }
        }
        Reply::Error(text) => Value::SimpleString(text),
    }
}

/// A push as the seam has it.
pub fn info_of(push: &Push) -> PushInfo {
    let text = |bytes: &Bytes| Value::BulkString(bytes.clone());
    let (kind, data) = match push {
        Push::Message { pattern, channel, message } => {
            (PushKind::PMessage, vec![text(pattern), text(channel), text(message)])
        }
        Push::Invalidate(Some(keys)) => (PushKind::Invalidate, vec![Value::Array(keys.iter().map(text).collect())]),
        Push::Invalidate(None) => (PushKind::Invalidate, vec![Value::Nil]),
        Push::Subscribed(pattern, count) => (PushKind::PSubscribe, vec![text(pattern), Value::Int(*count)]),
        Push::Unsubscribed(pattern, count) => (PushKind::PUnsubscribe, vec![text(pattern), Value::Int(*count)]),
    };
    PushInfo { kind, data }
}
