//! A real server and a double, asked the same, and what comes back in a form in which what may differ is left out.

use super::steps::{BUCKETS, CLAIM, KEYS, Known, STATE, Step, Words, shown, words};
use futures::future::try_join_all;
use keepstep::env;
use keepstep::store::Password;
use keepstep::store::redis::Access;
use keepstep::store::redis::line::{Cmd, Dial, Line, PushInfo, PushKind, RedisError, Value};
use keepstep_doubles::redis::data::{Kind, field};
use keepstep_doubles::redis::line::Double;
use keepstep_doubles::redis::scripts;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub fn command(words: &Words) -> Cmd {
    let mut command = Cmd::new();
    words.iter().for_each(|word| {
        command.arg(word.as_slice());
    });
    command
}

/// A connection, and what was pushed on it.
pub struct End {
    pub line: Arc<dyn Line>,
    pub pushed: Arc<Mutex<Vec<PushInfo>>>,
}

/// Three connections to one server: two of everybody, the last of a user who may not do everything.
pub struct Side {
    pub ends: Vec<End>,
}

impl Side {
    pub async fn open(dial: &dyn Dial, access: &Access) -> Result<Side, RedisError> {
        let mut ends = Vec::new();
        for username in [None, None, Some("limited".to_owned())] {
            let pushed: Arc<Mutex<Vec<PushInfo>>> = Arc::default();
            let kept = Arc::clone(&pushed);
            let pushes = Box::new(move |info| kept.lock().unwrap().push(info));
            let secret = || Password::new("secret".to_owned(), || Ok("secret".to_owned()));
            let password = username.as_ref().map(|_| secret());
            let line = dial.open(&Access { username, password, ..access.clone() }, Some(pushes)).await?;
            ends.push(End { line, pushed });
        }
        Ok(Side { ends })
    }

    pub async fn run(&self, at: usize, words: &Words) -> Result<Value, RedisError> {
        self.ends[at].line.call(&command(words)).await
    }

    /// What was pushed on each connection: the messages in their order, the keys that are invalid, and how many flushes.
    pub async fn pushes(&self) -> Result<Vec<Pushed>, RedisError> {
        let ping = command(&words(&["PING"]));
        // An answer comes behind all that was sent before.
        try_join_all(self.ends.iter().map(|end| end.line.call(&ping))).await?;
        Ok(self.ends.iter().map(|end| Pushed::of(std::mem::take(&mut *end.pushed.lock().unwrap()))).collect())
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// What, and by which pattern. Which of its patterns comes first is the server's choice.
    pub messages: Vec<(String, String)>,
    pub invalid: BTreeSet<String>,
    pub flushes: usize,
    pub others: Vec<String>,
}

impl Pushed {
    pub fn of(pushes: Vec<PushInfo>) -> Pushed {
        let mut all = Pushed::default();
        for PushInfo { kind, data } in pushes {
            match (kind, data.as_slice()) {
                (PushKind::PMessage, [pattern, channel, message]) => {
                    all.messages.push((format!("{channel:?} {message:?}"), format!("{pattern:?}")));
                }
                (PushKind::Invalidate, [Value::Array(keys)]) => {
                    all.invalid.extend(keys.iter().map(|key| format!("{key:?}")));
                }
                (PushKind::Invalidate, _) => all.flushes += 1,
                (kind, _) => all.others.push(format!("{kind:?} {data:?}")),
            }
        }
        all.messages.chunk_by_mut(|one, other| one.0 == other.0).for_each(<[_]>::sort);
        all
    }
}

/// An answer in a form in which what may differ is left out.
pub fn plain(words: &Words, answer: Result<Value, RedisError>) -> String {
    let name = String::from_utf8_lossy(&words[0]).into_owned();
    let script = scripts::ALL.iter().find(|script| words.get(1).is_some_and(|sha| sha == script.sha.as_bytes()));
    let value = match answer {
        Err(error) => return format!("error {}", error.code().unwrap_or("of the connection")),
        Ok(value) => value,
    };
    match (name.as_str(), script.map(|script| script.name), value) {
        ("TIME", ..) => "a time".to_owned(),
        ("HKEYS", _, Value::Array(mut items)) => {
            items.sort_by_key(|item| format!("{item:?}"));
            format!("{items:?}")
        }
        (_, Some("OBSERVE"), Value::Array(items)) => match items.as_slice() {
            [_, _, Value::BulkString(packed)] => format!("{:?}", unpacked(packed, 21)),
            other => format!("{other:?}"),
        },
        (_, Some("LOOK"), Value::BulkString(packed)) => format!("{:?}", unpacked(&packed, 5)),
        (_, Some("APPLY" | "APPLY_FREEING" | "EDIT" | "EDIT_FREEING"), Value::Array(items)) => {
            let code = |item: &Value| match item {
                Value::BulkString(text) if !text.starts_with(b"BUCKET") => first_word(text),
                other => format!("{other:?}"),
            };
            items.iter().map(code).collect::<Vec<_>>().join(", ")
        }
        (_, _, Value::Set(mut items)) => {
            items.sort_by_key(|item| format!("{item:?}"));
            format!("{items:?}")
        }
        (_, _, Value::Map(mut pairs)) => {
            pairs.sort_by_key(|pair| format!("{pair:?}"));
            format!("{pairs:?}")
        }
        (_, _, value) => format!("{value:?}"),
    }
}

pub fn first_word(text: &[u8]) -> String {
    String::from_utf8_lossy(text).split(' ').next().unwrap_or_default().to_owned()
}

/// The readings of OBSERVE and LOOK; of an error that the script caught only its code.
pub fn unpacked(mut packed: &[u8], head: usize) -> Vec<String> {
    let mut readings = Vec::new();
    while packed.len() >= head {
        let (front, rest) = packed.split_at(head);
        let at = if head == 5 { 1 } else { 9 };
        let lengths: Vec<usize> =
            front[at..].chunks(4).map(|length| u32::from_be_bytes(length.try_into().unwrap()) as usize).collect();
        let (value, after) = rest.split_at(lengths[0]);
        let (others, after) = after.split_at(lengths[1..].iter().sum());
        let value = if front[0] == 7 { first_word(value) } else { format!("{value:?}") };
        readings.push(format!("{} {:?} {value} {others:?}", front[0], &front[1..at]));
        packed = after;
    }
    readings
}

/// A real server, a double, and connections to both.
pub struct Pair<'a> {
    pub double: &'a Double,
    pub sides: [Side; 2],
    /// The scripts, in the text that ships.
    pub texts: &'a [String],
}

impl Pair<'_> {
    pub async fn both(&self, at: usize, words: &Words) -> Result<String, String> {
        let real = plain(words, self.sides[0].run(at, words).await);
        self.double.with(|server| server.now_ms = env::unix_ms());
        let double = plain(words, self.sides[1].run(at, words).await);
        if real != double {
            return Err(format!("{}\n  real:   {real}\n  double: {double}", shown(words)));
        }
        Ok(real)
    }

    pub async fn pushes(&self) -> Result<(), String> {
        let why = |error: RedisError| error.to_string();
        let (real, double) = (self.sides[0].pushes().await.map_err(why)?, self.sides[1].pushes().await.map_err(why)?);
        if real != double {
            return Err(format!("pushed\n  real:   {real:?}\n  double: {double:?}"));
        }
        Ok(())
    }

    pub async fn take(&self, step: Step) -> Result<String, String> {
        let answer = match step {
            Step::Run(at, words) => {
                let answer = self.both(at, &words).await?;
                if answer == "error NOSCRIPT" {
                    for text in self.texts {
                        self.both(0, &words_of_load(text)).await?;
                    }
                }
                answer
            }
            Step::Pipeline(at, all) => {
                let mut answers = Vec::new();
                self.double.with(|server| server.now_ms = env::unix_ms());
                for side in &self.sides {
                    let sent = side.ends[at].line.pipeline(all.iter().map(command).collect());
                    let sent = sent.await.map_err(|error| error.to_string())?;
                    answers.push(all.iter().zip(sent).map(|(words, sent)| plain(words, sent)).collect::<Vec<_>>());
                }
                if answers[0] != answers[1] {
                    return Err(format!("a pipeline\n  real:   {:?}\n  double: {:?}", answers[0], answers[1]));
                }
                format!("{:?}", answers[0])
            }
            Step::Expire(key) => {
                let soon = env::unix_ms() + 25;
                let expire = words(&["PEXPIREAT", key, &soon.to_string()]);
                let real = plain(&expire, self.sides[0].run(0, &expire).await);
                // On a machine that was busy, the server may have come to it too late, and have deleted the key instead.
                // Nothing tells, so that neither side keeps anything of it.
                let is_certain = env::unix_ms() < soon;
                self.double.with(|server| server.now_ms = soon - 1);
                let double = plain(&expire, self.sides[1].run(0, &expire).await);
                tokio::time::sleep(Duration::from_millis(30)).await;
                if !is_certain {
                    let delete = words(&["DEL", key]);
                    self.double.with(|server| server.now_ms = env::unix_ms());
                    for side in &self.sides {
                        let _ = side.run(0, &delete).await;
                        side.pushes().await.map_err(|error| error.to_string())?;
                    }
                } else if real != double {
                    return Err(format!("{}\n  real:   {real}\n  double: {double}", shown(&expire)));
                }
                real
            }
        };
        self.pushes().await?;
        Ok(answer)
    }

    /// Everything that can be seen.
    pub async fn look(&self, known: &mut Known) -> Result<(), String> {
        for key in KEYS.iter().chain(&BUCKETS).chain(&[STATE, CLAIM]) {
            let kind = self.both(0, &words(&["TYPE", key])).await?;
            let read = match kind.as_str() {
                "simple-string(\"string\")" => "GET",
                "simple-string(\"hash\")" => "HGETALL",
                "simple-string(\"set\")" => "SMEMBERS",
                _ => "TYPE",
            };
            self.both(0, &words(&[read, key])).await?;
            if *key != CLAIM {
                self.both(0, &words(&["PEXPIRETIME", key])).await?;
            }
        }
        self.both(0, &words(&["DBSIZE"])).await?;
        let mut seen = Vec::new();
        for side in &self.sides {
            let mut found = Vec::new();
            for kind in [None, Some("hash")] {
                let (mut cursor, mut keys) = ("0".to_owned(), BTreeSet::new());
                loop {
                    let mut scan = words(&["SCAN", &cursor, "COUNT", "2", "MATCH", "[s_]*"]);
                    scan.extend(kind.iter().flat_map(|kind| words(&["TYPE", kind])));
                    match side.run(0, &scan).await.map_err(|error| error.to_string())? {
                        Value::Array(mut page) if page.len() == 2 => {
                            keys.extend(page.pop().map(|keys| texts(&keys)).unwrap_or_default());
                            cursor =
                                page.pop().map(|next| texts(&Value::Array(vec![next])).concat()).unwrap_or_default();
                        }
                        other => return Err(format!("SCAN: {other:?}")),
                    }
                    if cursor == "0" {
                        break;
                    }
                }
                found.push(keys);
            }
            let info = side.run(0, &words(&["INFO"])).await.map_err(|error| error.to_string())?;
            let Value::VerbatimString { text, .. } = info else { return Err(format!("INFO: {info:?}")) };
            let field = |name: &str| {
                let prefix = format!("{name}:");
                text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
            };
            let version = ["redis_version", "server_name", "valkey_version", "redis_mode", "server_mode"];
            seen.push((found, version.map(field), ["role", "loading", "expired_keys", "evicted_keys"].map(field)));
        }
        if seen[0] != seen[1] {
            return Err(format!("seen\n  real:   {:?}\n  double: {:?}", seen[0], seen[1]));
        }
        self.learn(known).await;
        self.pushes().await
    }

    /// What the next scripts may expect.
    pub async fn learn(&self, known: &mut Known) {
        known.values.clear();
        known.sidecars.clear();
        self.double.with(|server| {
            for key in KEYS {
                if let Some(Kind::Text(text)) = server.peek(0, key.as_bytes()).map(|entry| &entry.kind) {
                    known.values.insert(key.to_owned(), String::from_utf8_lossy(text).into_owned());
                }
                for bucket in BUCKETS {
                    if let Some(Kind::Hash(fields)) = server.peek(0, bucket.as_bytes()).map(|entry| &entry.kind)
                        && let Some(entry) = field(fields, key.as_bytes())
                    {
                        known.sidecars.insert((bucket.to_owned(), key.to_owned()), entry.clone());
                    }
                }
            }
        });
    }
}

pub fn texts(value: &Value) -> Vec<String> {
    let Value::Array(items) = value else { return Vec::new() };
    let text = |item: &Value| match item {
        Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    };
    items.iter().map(text).collect()
}

pub fn words_of_load(text: &str) -> Words {
    words(&["SCRIPT", "LOAD", text])
}
