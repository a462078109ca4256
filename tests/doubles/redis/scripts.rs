//! The Lua scripts of `store::redis` as Rust functions, each found by the SHA-1 of the text that ships.
//!
//! They are written line by line after the Lua (`src/store/redis/{script,state,claim,needs}.rs`), and call the same commands of the
//! server. Once a text is changed its function here is not found any more: the server answers NOSCRIPT for ever, and every
//! test on the double fails until the function and its digest are brought up to date. `tests/it/redis_conformance.rs`
//! then shows whether function and text still do the same.

use super::commands::{Answer, At, Flags, number};
use super::data::Bytes;
use super::reply::Reply;
use super::server::Server;
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
    Script { name: "APPLY", sha: "77841a2c9fc3acfce76803e6487d57aa67ef3ac7", flags: PLAIN, run: apply },
    Script { name: "APPLY_FREEING", sha: "a74cea935ba06ff2021140098574a366d7c4a12d", flags: ALLOW_OOM, run: apply },
    Script { name: "COMPLETE", sha: "db998cbf866fd1d22679756d9408ccfeeb897828", flags: ALLOW_OOM, run: complete },
    Script { name: "LOOK", sha: "62c0ff313ca197cab8c65e83f97343d0482520e3", flags: NO_FLAGS_LINE, run: look },
    Script { name: "EDIT", sha: "a1d6d5f1fbe81a76a8e6ebb913465b7d2e4719ed", flags: PLAIN, run: edit },
    Script { name: "EDIT_FREEING", sha: "06b0c6e2885e8a70f8381658e4cd5f3f9ba70dcb", flags: ALLOW_OOM, run: edit },
    Script { name: "STATE", sha: "d1fae17e7cc0bf6ba49ac306bd0ea5a00cf500da", flags: ALLOW_OOM, run: state },
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

/// What a script reads of a bucket for one key.
struct Meta {
    epoch: Option<Bytes>,
    nonce: Option<Bytes>,
    entry: Option<Bytes>,
}

impl Meta {
    fn read(server: &mut Server, at: At, bucket: &Bytes, key: &Bytes) -> Result<Meta, String> {
        let fields = call!(server, at, "HMGET", bucket.as_slice(), "_keepstep:e", "_keepstep:n", key.as_slice())?;
        let [epoch, nonce, entry] = <[_; 3]>::try_from(texts_of(fields)).map_err(|_| "ERR three fields")?;
        Ok(Meta { epoch, nonce, entry })
    }

    fn owner(&self) -> Option<f64> {
        to_number(self.epoch.as_ref())
    }
}

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
    let (epoch, fresh) = (to_number(arguments.first()).unwrap_or(0.0), &arguments[1]);
    let [mut left, digest_above, large_above] = sizes(&arguments[2..])?;
    let time = texts_of(call!(server, at, "TIME")?);
    let seconds = |index: usize| time[index].as_deref().map_or(Ok(0), number);
    let mut out = Vec::new();
    for pair in keys.chunks(2) {
        let (key, bucket) = (&pair[0], &pair[1]);
        let (mut entry, mut nonce, mut expires) = (Vec::new(), Vec::new(), -1);
        let (code, value) = match Meta::read(server, at, bucket, key) {
            Err(error) if is_wrong_type(&error) => (8, bucket.clone()),
            Err(error) => (7, error.into_bytes()),
            Ok(meta) => {
                let owner = meta.owner();
                entry = meta.entry.clone().unwrap_or_default();
                nonce = meta.nonce.clone().unwrap_or_default();
                if owner.is_some_and(|owner| owner > epoch) {
                    (6, Vec::new())
                } else {
                    if fresh.is_empty() {
                        nonce.clear();
                    } else if owner.is_none() || meta.nonce.is_none() {
                        let epoch = arguments[0].as_slice();
                        let fields = ("_keepstep:e", "_keepstep:n");
                        let set =
                            call!(server, at, "HSET", bucket.as_slice(), fields.0, epoch, fields.1, fresh.as_slice());
                        nonce = if set.is_ok() { fresh.clone() } else { Vec::new() };
                    } else if owner.is_some_and(|owner| owner < epoch) {
                        let _ = call!(server, at, "HSET", bucket.as_slice(), "_keepstep:e", arguments[0].as_slice());
                    }
                    let (code, value) = read(server, at, key, &mut left, (digest_above, large_above))?;
                    if matches!(code, 1 | 2)
                        && let Reply::Int(at_ms) = call!(server, at, "PEXPIRETIME", key.as_slice())?
                    {
                        expires = at_ms;
                    }
                    (code, value)
                }
            }
        };
        out.push(code);
        out.extend(expires.to_be_bytes());
        for part in [&value, &entry, &nonce] {
            out.extend((part.len() as u32).to_be_bytes());
        }
        out.extend([value, entry, nonce].concat());
    }
    Ok(Reply::Array(vec![Reply::Int(seconds(0)?), Reply::Int(seconds(1)?), Reply::Text(out)]))
}

/// Whether the key holds what has this digest (empty: nothing); else the code to answer.
fn holds(server: &mut Server, at: At, key: &Bytes, expect: &Bytes, large_above: usize) -> Result<bool, String> {
    let length = length_of(call!(server, at, "STRLEN", key.as_slice())?);
    if length > large_above {
        return Ok(false);
    }
    let got = text_of(call!(server, at, "GET", key.as_slice())?);
    Ok(got.map(|got| sha1hex(&got)).unwrap_or_default() == *expect)
}

fn apply(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let (epoch, fresh) = (to_number(arguments.first()).unwrap_or(0.0), &arguments[1]);
    let large_above = number(&arguments[2])? as usize;
    let mut out = Vec::new();
    for (pair, write) in keys.chunks(2).zip(arguments[3..].chunks(8)) {
        let reply = match apply_one(server, at, (&pair[0], &pair[1]), write, (&arguments[0], epoch, fresh), large_above)
        {
            Ok(code) => Reply::Int(code),
            Err(error) => Reply::text(error),
        };
        out.push(reply);
    }
    Ok(Reply::Array(out))
}

fn apply_one(
    server: &mut Server,
    at: At,
    (key, bucket): (&Bytes, &Bytes),
    write: &[Bytes],
    (epoch_text, epoch, fresh): (&Bytes, f64, &Bytes),
    large_above: usize,
) -> Result<i64, String> {
    let [op, expect, entry, nonce, value, leave, channel, message] = write else { return Err("ERR eight".to_owned()) };
    let meta = Meta::read(server, at, bucket, key).map_err(|error| {
        if is_wrong_type(&error) { format!("BUCKET {}", String::from_utf8_lossy(bucket)) } else { error }
    })?;
    let owner = meta.owner();
    if owner.is_some_and(|owner| owner > epoch) {
        return Ok(6);
    }
    let is_same_life = nonce.is_empty() || meta.nonce.as_ref() == Some(nonce);
    if meta.entry.clone().unwrap_or_default() != *entry || !is_same_life {
        return Ok(0);
    }
    if op != b"n" {
        if !holds(server, at, key, expect, large_above)? {
            return Ok(0);
        }
        if op == b"s" {
            call!(server, at, "SET", key.as_slice(), value.as_slice())?;
        } else {
            call!(server, at, "DEL", key.as_slice())?;
        }
    }
    let bucket = bucket.as_slice();
    if leave.is_empty() {
        if meta.entry.is_some() {
            call!(server, at, "HDEL", bucket, key.as_slice())?;
        }
    } else if owner.is_some() && meta.nonce.is_some() {
        call!(server, at, "HSET", bucket, key.as_slice(), leave.as_slice())?;
    } else {
        let (epoch, fresh) = (epoch_text.as_slice(), fresh.as_slice());
        call!(
            server,
            at,
            "HSET",
            bucket,
            key.as_slice(),
            leave.as_slice(),
            "_keepstep:e",
            epoch,
            "_keepstep:n",
            fresh
        )?;
    }
    if !channel.is_empty() && call!(server, at, "PUBLISH", channel.as_slice(), message.as_slice()).is_err() {
        return Ok(2);
    }
    Ok(1)
}

fn complete(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let epoch = to_number(arguments.first()).unwrap_or(0.0);
    for (bucket, note) in keys.iter().zip(arguments[1..].chunks(4)) {
        let [field, nonce, sequence, leave] = note else { return Err("ERR four".to_owned()) };
        let meta = match Meta::read(server, at, bucket, field) {
            Err(error) if is_wrong_type(&error) => continue,
            meta => meta?,
        };
        let owner = meta.owner();
        if owner.is_some_and(|owner| owner > epoch) {
            return Ok(Reply::Int(6));
        }
        if owner.is_none() || meta.nonce.as_ref() != Some(nonce) {
            continue;
        }
        let have = meta.entry.as_ref().and_then(|entry| entry.get(2..6)?.try_into().ok().map(u32::from_be_bytes));
        if have.map_or(-1, i64::from) < number(sequence)? {
            if !leave.is_empty() {
                call!(server, at, "HSET", bucket.as_slice(), field.as_slice(), leave.as_slice())?;
            } else if meta.entry.is_some() {
                call!(server, at, "HDEL", bucket.as_slice(), field.as_slice())?;
            }
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
    if !holds(server, at, key, expect, large_above)? {
        return Ok(0);
    }
    if op == b"s" {
        call!(server, at, "SET", key.as_slice(), value.as_slice())?;
    } else if !expect.is_empty() {
        call!(server, at, "DEL", key.as_slice())?;
    }
    Ok(1)
}

/// Whether one decimal number is above another.
fn above(one: &[u8], other: &[u8]) -> bool {
    (one.len(), one) > (other.len(), other)
}

fn is_decimal(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn milestone(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().position(|byte| *byte == b':')?;
    let (branch, number) = (&text[..colon], &text[colon + 1..]);
    (is_decimal(branch) && is_decimal(number)).then_some((branch, number))
}

fn state(server: &mut Server, at: At, keys: &[Bytes], arguments: &[Bytes]) -> Answer {
    let key = keys[0].as_slice();
    let epoch = to_number(arguments.first()).unwrap_or(0.0);
    let have = texts_of(call!(server, at, "HMGET", key, "epoch", "ensemble")?);
    let owner = to_number(have[0].as_ref());
    let is_same = have[1].as_ref() == Some(&arguments[1]);
    if owner.is_some_and(|owner| owner > epoch || (owner == epoch && have[1].is_some() && !is_same)) {
        return Ok(Reply::Int(6));
    }
    let field = |server: &mut Server, name: &Bytes| -> Result<Option<Bytes>, String> {
        Ok(texts_of(call!(server, at, "HMGET", key, name.as_slice())?).swap_remove(0))
    };
    let has = |held: Option<Bytes>, wanted: &[u8]| {
        let held = held.unwrap_or_default();
        let Some(((branch, number), (of, least))) = milestone(&held).zip(milestone(wanted)) else { return false };
        branch == of && !above(least, number)
    };
    for change in arguments[2..].chunks(3) {
        if change[0] == b"h" && !has(field(server, &change[1])?, &change[2]) {
            return Ok(Reply::Int(0));
        }
    }
    let mut put: Vec<Bytes> = vec![b"HSET".to_vec(), key.to_vec()];
    put.extend([b"epoch".to_vec(), arguments[0].clone(), b"ensemble".to_vec(), arguments[1].clone()]);
    for change in arguments[2..].chunks(3) {
        let (rule, name, value) = (change[0].as_slice(), &change[1], &change[2]);
        let is_new = match rule {
            b"h" => false,
            b"m" => !has(field(server, name)?, value),
            b"r" if is_same => field(server, name)?.is_none_or(|old| !is_decimal(&old) || above(value, &old)),
            _ => true,
        };
        if is_new {
            put.extend([name.clone(), value.clone()]);
        }
    }
    server.run(at, &put)?;
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
