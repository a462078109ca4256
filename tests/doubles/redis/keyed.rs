//! The commands on keys: what each changes, and the events that it gives (`facts`: measured on 7.0.15).

use super::commands::{Answer, lower, number};
use super::data::{Bytes, Entry, Kind, field, set_field};
use super::reply::Reply;
use super::server::{Kindness, Server};

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const OK: Reply = Reply::Status("OK");

impl Server {
    /// The key's entry, unless its time has come.
    pub(super) fn live(&mut self, database: usize, key: &[u8]) -> Option<&mut Entry> {
        self.expire(database, key);
        let now = self.now_ms;
        self.databases[database].get_mut(key).filter(|entry| entry.expires_ms.is_none_or(|at| now <= at))
    }

    fn text(&mut self, database: usize, key: &[u8]) -> Result<Option<&mut Bytes>, String> {
        match self.live(database, key).map(|entry| &mut entry.kind) {
            None => Ok(None),
            Some(Kind::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WRONG_TYPE.to_owned()),
        }
    }

    fn hash(&mut self, database: usize, key: &[u8]) -> Result<Option<&mut Vec<(Bytes, Bytes)>>, String> {
        match self.live(database, key).map(|entry| &mut entry.kind) {
            None => Ok(None),
            Some(Kind::Hash(fields)) => Ok(Some(fields)),
            Some(_) => Err(WRONG_TYPE.to_owned()),
        }
    }

    fn set(&mut self, database: usize, key: &[u8]) -> Result<Option<&mut Vec<Bytes>>, String> {
        match self.live(database, key).map(|entry| &mut entry.kind) {
            None => Ok(None),
            Some(Kind::Set(members)) => Ok(Some(members)),
            Some(_) => Err(WRONG_TYPE.to_owned()),
        }
    }

    /// Replaces a key's value, its type and its expiry.
    fn put(&mut self, database: usize, key: &[u8], kind: Kind, expires_ms: Option<i64>) {
        let is_new = self.live(database, key).is_none();
        self.databases[database].put(key, Entry { kind, expires_ms });
        if is_new {
            self.notify('n', "new", key, database);
        }
        self.changed(key);
    }

    /// Removes a key; whether it was there.
    fn delete(&mut self, database: usize, key: &[u8]) -> bool {
        let is_there = self.live(database, key).is_some();
        if is_there {
            self.databases[database].remove(key);
            self.changed(key);
            self.notify('g', "del", key, database);
        }
        is_there
    }

    /// Removes a key that was given an expiry which is past.
    fn overtake(&mut self, database: usize, key: &[u8]) {
        if !self.version.expires_what_is_past() {
            self.delete(database, key);
        } else if self.databases[database].remove(key).is_some() {
            self.gone(database, key);
        }
    }

    pub(super) fn keyed(&mut self, database: usize, name: &str, arguments: &[Bytes]) -> Answer {
        let key = arguments[0].as_slice();
        match name {
            "get" => Ok(Reply::of(self.text(database, key)?.map(|text| &*text))),
            "strlen" => Ok(Reply::Int(self.text(database, key)?.map_or(0, |text| text.len() as i64))),
            "type" => Ok(Reply::Status(self.live(database, key).map_or("none", |entry| entry.kind.name()))),
            "pexpiretime" | "pttl" => {
                let base = if name == "pttl" { self.now_ms } else { 0 };
                let entry = self.live(database, key);
                Ok(Reply::Int(entry.map_or(-2, |entry| entry.expires_ms.map_or(-1, |at| at - base))))
            }
            "exists" => {
                let there = arguments.iter().filter(|key| self.live(database, key).is_some());
                Ok(Reply::Int(there.count() as i64))
            }
            "set" => self.set_text(database, key, &arguments[1], &arguments[2..]),
            "mset" => {
                if arguments.len() % 2 != 0 {
                    return Err("ERR wrong number of arguments for 'mset' command".to_owned());
                }
                for pair in arguments.chunks(2) {
                    self.put(database, &pair[0], Kind::Text(pair[1].clone()), None);
                    self.notify('$', "set", &pair[0], database);
                }
                Ok(OK)
            }
            "append" => {
                let mut text = self.text(database, key)?.cloned().unwrap_or_default();
                text.extend(&arguments[1]);
                let length = text.len() as i64;
                self.rewrite(database, key, Kind::Text(text));
                self.notify('$', "append", key, database);
                Ok(Reply::Int(length))
            }
            "incr" => {
                let held = self.text(database, key)?.map_or(Ok(0), |text| number(text))?;
                let next = held.checked_add(1).ok_or("ERR increment or decrement would overflow")?;
                self.rewrite(database, key, Kind::Text(next.to_string().into_bytes()));
                self.notify('$', "incrby", key, database);
                Ok(Reply::Int(next))
            }
            "rpush" => {
                let length = match self.live(database, key).map(|entry| &entry.kind) {
                    None => 0,
                    Some(Kind::List(length)) => *length,
                    Some(_) => return Err(WRONG_TYPE.to_owned()),
                };
                let length = length + arguments.len() - 1;
                self.rewrite(database, key, Kind::List(length));
                self.notify('l', "rpush", key, database);
                Ok(Reply::Int(length as i64))
            }
            "del" | "unlink" => {
                let gone = arguments.iter().filter(|key| self.delete(database, key)).count();
                Ok(Reply::Int(gone as i64))
            }
            "expire" | "pexpire" | "pexpireat" => {
                let given = number(&arguments[1])?;
                let at = match name {
                    "expire" => self.now_ms + given * 1000,
                    "pexpire" => self.now_ms + given,
                    _ => given,
                };
                let now = self.now_ms;
                let Some(entry) = self.live(database, key) else { return Ok(Reply::Int(0)) };
                if at <= now {
                    self.overtake(database, key);
                } else {
                    entry.expires_ms = Some(at);
                    self.changed(key);
                    self.notify('g', "expire", key, database);
                }
                Ok(Reply::Int(1))
            }
            "persist" => {
                let had = self.live(database, key).and_then(|entry| entry.expires_ms.take()).is_some();
                if had {
                    self.changed(key);
                    self.notify('g', "persist", key, database);
                }
                Ok(Reply::Int(i64::from(had)))
            }
            "rename" => self.rename(database, key, &arguments[1]),
            _ => self.collected(database, name, key, &arguments[1..]),
        }
    }

    /// A new value for a key that keeps its expiry.
    fn rewrite(&mut self, database: usize, key: &[u8], kind: Kind) {
        let expires_ms = self.live(database, key).and_then(|entry| entry.expires_ms);
        self.put(database, key, kind, expires_ms);
    }

    fn set_text(&mut self, database: usize, key: &[u8], value: &Bytes, options: &[Bytes]) -> Answer {
        let (mut only_new, mut only_old, mut keeps, mut expires_ms) = (false, false, false, None);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut after = || number(options.next().ok_or("ERR syntax error")?);
            match lower(option).as_str() {
                "nx" => only_new = true,
                "xx" => only_old = true,
                "keepttl" => keeps = true,
                "px" => expires_ms = Some(self.now_ms + after()?),
                "ex" => expires_ms = Some(self.now_ms + after()? * 1000),
                "pxat" => expires_ms = Some(after()?),
                _ => return Err("ERR syntax error".to_owned()),
            }
        }
        let held = self.live(database, key).map(|entry| entry.expires_ms);
        if (only_new && held.is_some()) || (only_old && held.is_none()) {
            return Ok(Reply::Nil);
        }
        let now = self.now_ms;
        if self.version.sets_nothing_that_is_past() && expires_ms.is_some_and(|at| at <= now) {
            self.overtake(database, key);
            return Ok(OK);
        }
        let keeps = keeps || (self.kindness == Some(Kindness::KeepsExpiry) && expires_ms.is_none());
        let kept = if keeps { held.flatten() } else { None };
        self.put(database, key, Kind::Text(value.clone()), expires_ms.or(kept));
        self.notify('$', "set", key, database);
        if expires_ms.is_some() {
            self.notify('g', "expire", key, database);
        }
        Ok(OK)
    }

    fn rename(&mut self, database: usize, key: &[u8], to: &Bytes) -> Answer {
        let Some(entry) = self.live(database, key).cloned() else { return Err("ERR no such key".to_owned()) };
        if key == to {
            return Ok(OK);
        }
        // What has the new name goes without an event.
        self.live(database, to);
        self.databases[database].remove(to);
        self.put(database, to, entry.kind, entry.expires_ms);
        self.databases[database].remove(key);
        self.changed(key);
        self.notify('g', "rename_from", key, database);
        self.notify('g', "rename_to", to, database);
        Ok(OK)
    }

    /// The commands on hashes and sets.
    fn collected(&mut self, database: usize, name: &str, key: &[u8], rest: &[Bytes]) -> Answer {
        match name {
            "hmget" => {
                let fields = self.hash(database, key)?;
                let fields = fields.map(|fields| fields.as_slice()).unwrap_or_default();
                Ok(Reply::Array(rest.iter().map(|name| Reply::of(field(fields, name))).collect()))
            }
            "hkeys" => {
                let fields = self.hash(database, key)?.map(|fields| fields.as_slice()).unwrap_or_default();
                Ok(Reply::Array(fields.iter().map(|(name, _)| Reply::Text(name.clone())).collect()))
            }
            "hgetall" => {
                let fields = self.hash(database, key)?.map(|fields| fields.as_slice()).unwrap_or_default();
                let pair = |(name, value): &(Bytes, Bytes)| (Reply::Text(name.clone()), Reply::Text(value.clone()));
                Ok(Reply::Map(fields.iter().map(pair).collect()))
            }
            "hset" => {
                if rest.len() % 2 != 0 {
                    return Err("ERR wrong number of arguments for 'hset' command".to_owned());
                }
                let mut fields = self.hash(database, key)?.cloned().unwrap_or_default();
                let new = rest.chunks(2).filter(|pair| set_field(&mut fields, &pair[0], &pair[1])).count();
                self.rewrite(database, key, Kind::Hash(fields));
                self.notify('h', "hset", key, database);
                Ok(Reply::Int(new as i64))
            }
            "hdel" => {
                let Some(fields) = self.hash(database, key)? else { return Ok(Reply::Int(0)) };
                let before = fields.len();
                fields.retain(|(name, _)| !rest.contains(name));
                let (gone, is_empty) = (before - fields.len(), fields.is_empty());
                self.taken('h', "hdel", database, key, gone, is_empty)
            }
            "smembers" => {
                let members = self.set(database, key)?.cloned().unwrap_or_default();
                Ok(Reply::Set(members.into_iter().map(Reply::Text).collect()))
            }
            "sadd" => {
                let mut members = self.set(database, key)?.cloned().unwrap_or_default();
                let before = members.len();
                members.extend(rest.iter().cloned());
                members.sort_unstable();
                members.dedup();
                let new = members.len() - before;
                if new > 0 {
                    self.rewrite(database, key, Kind::Set(members));
                    self.notify('s', "sadd", key, database);
                }
                Ok(Reply::Int(new as i64))
            }
            "srem" => {
                let Some(members) = self.set(database, key)? else { return Ok(Reply::Int(0)) };
                let before = members.len();
                members.retain(|member| !rest.contains(member));
                let (gone, is_empty) = (before - members.len(), members.is_empty());
                self.taken('s', "srem", database, key, gone, is_empty)
            }
            other => Err(format!("ERR unknown command '{other}', with args beginning with: ")),
        }
    }

    /// So many members were taken out of a key, which goes with its last.
    fn taken(&mut self, class: char, event: &str, database: usize, key: &[u8], gone: usize, is_empty: bool) -> Answer {
        if gone > 0 {
            self.changed(key);
            self.notify(class, event, key, database);
        }
        if is_empty {
            self.databases[database].remove(key);
            self.notify('g', "del", key, database);
        }
        Ok(Reply::Int(gone as i64))
    }
}
