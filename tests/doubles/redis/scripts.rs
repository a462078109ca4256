//! The Lua scripts of `store::redis` as Rust functions, each found by the SHA-1 of the text that ships.
//!
//! They are written line by line after the Lua (`src/store/redis/{script,state,claim,needs}.rs`), and call the same commands of the
//! server. What OBSERVE, APPLY, COMPLETE and STATE decide is in `rules.rs`, for the model checker as well; here are their arguments and
//! answers. Once a text is changed its function here is not found any more: the server answers NOSCRIPT for ever, and every
//! test on the double fails until the function and its digest are brought up to date. `tests/it/redis_conformance.rs`
//! then shows whether function and text still do the same.

use super::commands::{Answer, At, Flags, number};
use super::data::Bytes;
use super::reply::Reply;
use super::rules::{self, Code, Meta, Pair, Rule, Value, Write};
use super::server::{Kindness, Server};
use keepstep::plan::KeyOp;
use sha1::{Digest as _, Sha1};

pub struct Script {
    pub name: &'static str,
    /// Of the text that ships.
    pub sha: &'static str,
    pub(super) flags: Flags,
    pub(super) run: fn(&mut Server, At, &[Bytes], &[Bytes]) -> Answer,
}

const NO_FLAGS_LINE: Flags = Flags { is_said: false, writes: true, allows_oom: false };
const PLAIN: Flags = Flags { is_said: true, writes: true, allows_oom: false };
const ALLOW_OOM: Flags = Flags { is_said: true, writes: true, allows_oom: true };
const NO_WRITES: Flags = Flags { is_said: true, writes: false, allows_oom: true };

pub const ALL: [Script; 11] = [
    Script { name: "OBSERVE", sha: "9ff92aea13421c81bbcee1c12216287d0d270dfc", flags: ALLOW_OOM, run: observe },
    Script { name: "APPLY", sha: "74fb5fb65c2993fd3df7a3cc81c06ed2593d2270", flags: PLAIN, run: apply },
    Script { name: "APPLY_FREEING", sha: "60fd10f122bcc80dfeea0e1b69ed2148f826a454", flags: ALLOW_OOM, run: apply },
    Script { name: "COMPLETE", sha: "db998cbf866fd1d22679756d9408ccfeeb897828", flags: ALLOW_OOM, run: complete },
    Script { name: "LOOK", sha: "62c0ff313ca197cab8c65e83f97343d0482520e3", flags: NO_FLAGS_LINE, run: look },
    Script { name: "EDIT", sha: "a1d6d5f1fbe81a76a8e6ebb913465b7d2e4719ed", flags: PLAIN, run: edit },
    Script { name: "EDIT_FREEING", sha: "06b0c6e2885e8a70f8381658e4cd5f3f9ba70dcb", flags: ALLOW_OOM, run: edit },
    Script { name: "STATE", sha: "86570e7602cf98fb6a3e2c53d715b115b65a231c", flags: ALLOW_OOM, run: state },
    Script { name: "KEEP", sha: "3b55d69eb1cecf30cda140f187a758c77245895c", flags: ALLOW_OOM, run: keep },
    Script { name: "GIVE_UP", sha: "2cf8089c4745e5d34749960d01fa49df0ee1e01c", flags: ALLOW_OOM, run: give_up },
    Script { name: "MAY", sha: "eea6a9d68e4b18b96bd395c07c3e3c530347caae", flags: NO_WRITES, run: may },
];

/// `redis.call` of these words; `redis.pcall` where the caller looks at the error.
macro_rules! call {
    ($server:expr, $at:expr, $($word:expr),+ $(,)?) => {
        $server.run($at, &[$(Vec::<u8>::from($word)),+])
    };
}

/// `tonumber`.
fn to_number(text: Option<&Bytes>) -> Option<f64> {
    std::str::from_utf8(text?).ok()?.trim().parse().ok()
}

fn text_of(reply: Reply) -> Option<Bytes> {
    match reply {
        Reply::Text(text) => Some(text),
        _ => None,
    }
}

fn texts_of(reply: Reply) -> Vec<Option<Bytes>> {
    match reply {
        Reply::Array(items) => items.into_iter().map(text_of).collect(),
        _ => Vec::new(),
    }
}

fn length_of(reply: Reply) -> usize {
    match reply {
        Reply::Int(length) => length as usize,
        _ => 0,
    }
}

fn sha1hex(bytes: &[u8]) -> Bytes {
    Sha1::digest(bytes).iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

fn is_wrong_type(error: &str) -> bool {
    error.starts_with("WRONGTYPE ")
}

/// Why a script has no answer for a pair.
enum Failed {
    /// Its bucket could not be read.
    Meta(String),
    Call(String),
}

impl Failed {
    fn text(self) -> String {
        let (Failed::Meta(error) | Failed::Call(error)) = self;
        error
    }
}

/// A pair on the server, with the arguments of a script.
struct Place<'a> {
    server: &'a mut Server,
    at: At,
    key: &'a Bytes,
    bucket: &'a Bytes,
    epoch: &'a Bytes,
    /// For a bucket that begins now.
    fresh: &'a Bytes,
    large_above: usize,
    /// What SET puts.
    value: &'a Bytes,
}

impl Place<'_> {
    fn call(&mut self, words: &[&[u8]]) -> Result<Reply, Failed> {
        let words: Vec<Bytes> = words.iter().map(|word| word.to_vec()).collect();
        self.server.run(self.at, &words).map_err(Failed::Call)
    }
}

impl Pair for Place<'_> {
    type Epoch = f64;
    type Nonce = Bytes;
    type Sidecar = Bytes;
    type Digest = Bytes;
    type Error = Failed;

    fn kindness(&self) -> Option<Kindness> {
        self.server.kindness
    }

    fn epoch(&self) -> f64 {
        to_number(Some(self.epoch)).unwrap_or(0.0)
    }

    fn meta(&mut self) -> Result<Meta<f64, Bytes, Bytes>, Failed> {
        let fields = self.call(&[b"HMGET", self.bucket, b"_keepstep:e", b"_keepstep:n", self.key]);
        let fields = texts_of(fields.map_err(|error| Failed::Meta(error.text()))?);
        let [epoch, nonce, sidecar] =
            <[_; 3]>::try_from(fields).map_err(|_| Failed::Call("ERR three fields".to_owned()))?;
        Ok(Meta { owner: to_number(epoch.as_ref()), nonce, sidecar })
    }

    fn sequence(sidecar: &Bytes) -> Option<i64> {
        let sequence = sidecar.get(2..6)?.try_into().ok()?;
        Some(i64::from(u32::from_be_bytes(sequence)))
    }

    fn begin_life(&mut self) -> Option<Bytes> {
        let set = self.call(&[b"HSET", self.bucket, b"_keepstep:e", self.epoch, b"_keepstep:n", self.fresh]);
        set.ok().map(|_| self.fresh.clone())
    }

    fn raise_epoch(&mut self) {
        let _ = self.call(&[b"HSET", self.bucket, b"_keepstep:e", self.epoch]);
    }

    fn digest(&mut self) -> Result<Option<Bytes>, Failed> {
        digest_of(self.server, self.at, self.key, self.large_above).map_err(Failed::Call)
    }

    fn set(&mut self) -> Result<(), Failed> {
        self.call(&[b"SET", self.key, self.value]).map(|_| ())
    }

    fn delete(&mut self) -> Result<(), Failed> {
        self.call(&[b"DEL", self.key]).map(|_| ())
    }

    fn put_sidecar(&mut self, sidecar: &Bytes, begins_life: bool) -> Result<(), Failed> {
        let (bucket, key) = (self.bucket, self.key);
        if begins_life {
            let [epoch, fresh] = [self.epoch, self.fresh];
            self.call(&[b"HSET", bucket, key, sidecar, b"_keepstep:e", epoch, b"_keepstep:n", fresh])
        } else {
            self.call(&[b"HSET", bucket, key, sidecar])
        }
        .map(|_| ())
    }

    fn remove_sidecar(&mut self) -> Result<(), Failed> {
        self.call(&[b"HDEL", self.bucket, self.key]).map(|_| ())
    }
}

/// Stands for arguments that a script does not have.
static NOTHING: Bytes = Vec::new();

/// A key as a script reads it: code and value.
fn read(
    server: &mut Server,
    at: At,
    key: &Bytes,
    left: &mut usize,
    (digest_above, large_above): (usize, usize),
) -> Result<(u8, Bytes), String> {
    let length = match call!(server, at, "STRLEN", key.as_slice()) {
        Err(error) if is_wrong_type(&error) => {
            let kind = call!(server, at, "TYPE", key.as_slice())?;
            return Ok((4, if let Reply::Status(kind) = kind { kind.into() } else { Vec::new() }));
        }
        Err(error) => return Ok((7, error.into_bytes())),
        Ok(length) => length_of(length),
    };
    if length > large_above {
        return Ok((3, length.to_string().into_bytes()));
    }
    if length > *left {
        return Ok((5, Vec::new()));
    }
    Ok(match text_of(call!(server, at, "GET", key.as_slice())?) {
        None => (0, Vec::new()),
        Some(got) if length > digest_above => (2, sha1hex(&got)),
        Some(got) => {
            *left -= length;
            (1, got)
        }
    })
}

fn sizes(arguments: &[Bytes]) -> Result<[usize; 3], String> {
    let [left, digest_above, large_above, ..] = arguments else { return Err("ERR three numbers".to_owned()) };
    Ok([number(left)? as usize, number(digest_above)? as usize, number(large_above)? as usize])
}

fn observe(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let [epoch, fresh, ..] = arguments else { return Err("ERR five".to_owned()) };
    let [mut left, digest_above, large_above] = sizes(&arguments[2..])?;
    let time = texts_of(call!(server, at, "TIME")?);
    let seconds = |index: usize| time[index].as_deref().map_or(Ok(0), number);
    let mut out = Vec::new();
    for pair in keys.chunks(2) {
        let (key, bucket) = (&pair[0], &pair[1]);
        let mut expires = -1;
        let mut place = Place { server: &mut *server, at, key, bucket, epoch, fresh, large_above, value: &NOTHING };
        let none = Meta { owner: None, nonce: None, sidecar: None };
        let (code, value, meta) = match rules::observe(&mut place, !fresh.is_empty()) {
            Err(Failed::Meta(error)) if is_wrong_type(&error) => (8, bucket.clone(), none),
            Err(error) => (7, error.text().into_bytes(), none),
            Ok((Code::Fenced, meta)) => (6, Vec::new(), meta),
            Ok((_, meta)) => {
                let (code, value) = read(server, at, key, &mut left, (digest_above, large_above))?;
                if matches!(code, 1 | 2)
                    && let Reply::Int(at_ms) = call!(server, at, "PEXPIRETIME", key.as_slice())?
                {
                    expires = at_ms;
                }
                (code, value, meta)
            }
        };
        let (sidecar, nonce) = (meta.sidecar.unwrap_or_default(), meta.nonce.unwrap_or_default());
        out.push(code);
        out.extend(expires.to_be_bytes());
        for part in [&value, &sidecar, &nonce] {
            out.extend((part.len() as u32).to_be_bytes());
        }
        out.extend([value, sidecar, nonce].concat());
    }
    Ok(Reply::Array(vec![Reply::Int(seconds(0)?), Reply::Int(seconds(1)?), Reply::Text(out)]))
}

/// The hexadecimal digest of a key's value, empty where there is none; `None`: the value is too large.
fn digest_of(server: &mut Server, at: At, key: &Bytes, large_above: usize) -> Result<Option<Bytes>, String> {
    let length = length_of(call!(server, at, "STRLEN", key.as_slice())?);
    if length > large_above {
        return Ok(None);
    }
    let got = text_of(call!(server, at, "GET", key.as_slice())?);
    Ok(Some(got.map(|got| sha1hex(&got)).unwrap_or_default()))
}

fn apply(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let [epoch, fresh, large_above, writes @ ..] = arguments else { return Err("ERR three".to_owned()) };
    let large_above = number(large_above)? as usize;
    let mut out = Vec::new();
    for command in ["HSET", "HDEL"] {
        let bucket = keys.get(1).ok_or("ERR a bucket")?;
        if server.may_run(at, &[command.into(), bucket.clone(), b"f".to_vec(), b"f".to_vec()]) != Some(true) {
            return Err(format!("NOPERM the user may not run {command} on {}", String::from_utf8_lossy(bucket)));
        }
    }
    for (pair, write) in keys.chunks(2).zip(writes.chunks(8)) {
        let [op, expect, sidecar, nonce, value, leave, channel, message] = write else {
            return Err("ERR eight".to_owned());
        };
        let op = match op.as_slice() {
            b"s" => KeyOp::Set,
            b"n" => KeyOp::Note,
            _ => KeyOp::Delete,
        };
        let [expect, sidecar, nonce, leave] = [expect, sidecar, nonce, leave].map(Bytes::clone);
        let write = Write { op, expect, sidecar, nonce, leave };
        let bucket = &pair[1];
        let key = if op == KeyOp::Note { value } else { &pair[0] };
        let mut place = Place { server: &mut *server, at, key, bucket, epoch, fresh, large_above, value };
        out.push(match rules::apply(&mut place, &write) {
            Ok(Code::Fenced) => Reply::Int(6),
            Ok(Code::Refused) => Reply::Int(0),
            Ok(Code::Done) => {
                let is_sent =
                    channel.is_empty() || call!(server, at, "PUBLISH", channel.as_slice(), message.as_slice()).is_ok();
                Reply::Int(if is_sent { 1 } else { 2 })
            }
            Err(Failed::Meta(error)) if is_wrong_type(&error) => {
                Reply::text(format!("BUCKET {}", String::from_utf8_lossy(bucket)))
            }
            Err(error) => Reply::text(error.text()),
        });
    }
    Ok(Reply::Array(out))
}

fn complete(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let [epoch, notes @ ..] = arguments else { return Err("ERR an epoch".to_owned()) };
    for (bucket, note) in keys.iter().zip(notes.chunks(4)) {
        let [key, nonce, sequence, leave] = note else { return Err("ERR four".to_owned()) };
        let (server, fresh, value) = (&mut *server, &NOTHING, &NOTHING);
        let mut place = Place { server, at, key, bucket, epoch, fresh, large_above: 0, value };
        match rules::complete(&mut place, nonce, number(sequence)?, leave) {
            Ok(Code::Fenced) => return Ok(Reply::Int(6)),
            Ok(Code::Done | Code::Refused) => {}
            Err(Failed::Meta(error)) if is_wrong_type(&error) => {}
            Err(error) => return Err(error.text()),
        }
    }
    Ok(Reply::Int(1))
}

fn look(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let [mut left, digest_above, large_above] = sizes(arguments)?;
    let mut out = Vec::new();
    for key in keys {
        let (code, value) = read(server, at, key, &mut left, (digest_above, large_above))?;
        out.push(code);
        out.extend((value.len() as u32).to_be_bytes());
        out.extend(value);
    }
    Ok(Reply::Text(out))
}

fn edit(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let large_above = number(&arguments[0])? as usize;
    let mut out = Vec::new();
    for (key, change) in keys.iter().zip(arguments[1..].chunks(3)) {
        out.push(edit_one(server, at, key, change, large_above).map_or_else(Reply::text, Reply::Int));
    }
    Ok(Reply::Array(out))
}

fn edit_one(server: &mut Server, at: At, key: &Bytes, change: &[Bytes], large_above: usize) -> Result<i64, String> {
    let [op, expect, value] = change else { return Err("ERR three".to_owned()) };
    if digest_of(server, at, key, large_above)?.as_ref() != Some(expect) {
        return Ok(0);
    }
    if op == b"s" {
        call!(server, at, "SET", key.as_slice(), value.as_slice())?;
    } else if !expect.is_empty() {
        call!(server, at, "DEL", key.as_slice())?;
    }
    Ok(1)
}

/// A decimal number of any length; a longer one is above a shorter one.
#[derive(PartialEq)]
pub struct Decimal(Bytes);

impl Decimal {
    fn of(text: &[u8]) -> Option<Decimal> {
        (!text.is_empty() && text.iter().all(u8::is_ascii_digit)).then(|| Decimal(text.to_vec()))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<std::cmp::Ordering> {
        (self.0.len(), &self.0).partial_cmp(&(other.0.len(), &other.0))
    }
}

impl Value for Bytes {
    type Number = Decimal;

    fn number(&self) -> Option<Decimal> {
        Decimal::of(self)
    }

    fn names(&self, held: Option<&Bytes>) -> bool {
        let held = held.map(Vec::as_slice).unwrap_or_default();
        self.split(|byte| *byte == b' ').any(|word| word == held)
    }

    fn milestone(&self) -> Option<(Decimal, Decimal)> {
        let colon = self.iter().position(|byte| *byte == b':')?;
        Decimal::of(&self[..colon]).zip(Decimal::of(&self[colon + 1..]))
    }
}

/// The hash of a pipeline on the server.
struct Hash<'a> {
    server: &'a mut Server,
    at: At,
    key: &'a Bytes,
}

impl Hash<'_> {
    fn fields(&mut self, names: &[&[u8]]) -> Result<Vec<Option<Bytes>>, String> {
        let words = [[b"HMGET", self.key.as_slice()].as_slice(), names].concat();
        let words: Vec<Bytes> = words.into_iter().map(<[u8]>::to_vec).collect();
        self.server.run(self.at, &words).map(texts_of)
    }
}

impl rules::State for Hash<'_> {
    type Epoch = f64;
    type Ensemble = Bytes;
    type Field = Bytes;
    type Value = Bytes;
    type Error = String;

    fn kindness(&self) -> Option<Kindness> {
        self.server.kindness
    }

    fn owner(&mut self) -> Result<(Option<f64>, Option<Bytes>), String> {
        let mut fields = self.fields(&[b"epoch", b"ensemble"])?;
        Ok((to_number(fields[0].as_ref()), fields.swap_remove(1)))
    }

    fn field(&mut self, field: &Bytes) -> Result<Option<Bytes>, String> {
        Ok(self.fields(&[field])?.swap_remove(0))
    }
}

fn state(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let [epoch, ensemble, changes @ ..] = arguments else { return Err("ERR two".to_owned()) };
    let change = |change: &[Bytes]| {
        let rule = match change[0].as_slice() {
            b"r" => Rule::Rise,
            b"m" => Rule::Milestone,
            b"h" => Rule::Has,
            b"e" => Rule::OneOf,
            _ => Rule::Set,
        };
        (rule, change[1].clone(), change[2].clone())
    };
    let changes: Vec<_> = changes.chunks(3).map(change).collect();
    let mut hash = Hash { server: &mut *server, at, key: &keys[0] };
    let (code, put) = rules::state(&mut hash, to_number(Some(epoch)).unwrap_or(0.0), ensemble, &changes)?;
    match code {
        Code::Fenced => return Ok(Reply::Int(6)),
        Code::Refused => return Ok(Reply::Int(0)),
        Code::Done => {}
    }
    let mut words = vec![b"HSET".to_vec(), keys[0].clone()];
    words.extend([b"epoch".to_vec(), epoch.clone(), b"ensemble".to_vec(), ensemble.clone()]);
    for at in put {
        let (_, field, value) = &changes[at];
        words.extend([field.clone(), value.clone()]);
    }
    server.run(at, &words)?;
    Ok(Reply::Int(1))
}

fn keep(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let held = text_of(call!(server, at, "GET", keys[0].as_slice())?);
    if held.is_some_and(|held| held != arguments[0]) {
        return Ok(Reply::Int(0));
    }
    call!(server, at, "SET", keys[0].as_slice(), arguments[2].as_slice(), "PX", arguments[1].as_slice())?;
    Ok(Reply::Int(1))
}

fn give_up(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let held = text_of(call!(server, at, "GET", keys[0].as_slice())?);
    if held.as_ref() == Some(&arguments[0]) {
        return call!(server, at, "DEL", keys[0].as_slice());
    }
    Ok(Reply::Int(0))
}

fn may(server: &mut Server, at: At, _: &[Bytes], arguments: &[Bytes]) -> Answer {
    let mut out = Vec::new();
    let mut rest = arguments;
    while let [count, after @ ..] = rest {
        let (words, after) = after.split_at_checked(number(count)? as usize).ok_or("ERR too few words")?;
        out.push(Reply::Int(match server.may_run(at, words) {
            Some(true) => 0,
            Some(false) => 2,
            None => 1,
        }));
        rest = after;
    }
    Ok(Reply::Array(out))
}
