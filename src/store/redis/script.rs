//! The scripts by which Keepstep touches user keys: `OBSERVE` reads, `APPLY` writes by
//! compare-and-set; `LOOK` and `EDIT` do the same for commands, which know no sidecars. `COMPLETE`
//! brings sidecars up to date with the journal.
//!
//! The first two walk over `KEYS` in pairs of (user key, bucket). A bucket is a hash: the field
//! `_keepstep:e` is the epoch of the newest owner that read it, `_keepstep:n` a number that names
//! this incarnation of the bucket (one that was lost and made again has another), and every other field is
//! a user key whose value is the encoded base. User keys never begin with `_keepstep:`, so the
//! names cannot meet.
//!
//! Those that write begin with `#!lua`. By that the server refuses them as a whole where it takes
//! no writes: on a replica, which goes on answering on its connections when it is demoted, below
//! `min-replicas-to-write`, in a minority. What is read there must not be believed either, so
//! `OBSERVE` is one of them. The memory limit is another matter: a script without `allow-oom` is
//! then refused with all that it reads and deletes, and one with it may set values beyond the
//! limit. So `OBSERVE`, `COMPLETE` and the script of `state.rs`, which write some bytes a pair at
//! most, have it; `APPLY` and `EDIT` have not, and what only frees memory is asked for once more
//! with it ([`APPLY_FREEING`]). (All measured on Redis 7.0.15, 8.2.3 and Valkey 9.1.2.)
//!
//! Types are checked before the first write and every command that may fail goes through `pcall`,
//! because a script that fails midway keeps what it has written (measured on 7.0.15). Values are
//! compared by `sha1hex`; epochs as numbers, since Lua compares strings by the server's locale.

use super::fault::{Uncoded, uncoded};
use super::line::{Cmd, ErrorKind, Line, RedisError, ServerErrorKind, Value, cmd};
use sha1::{Digest as _, Sha1};
use std::sync::LazyLock;

/// A script and the name by which the server caches it.
pub(super) struct Script {
    pub(super) text: &'static str,
    pub(super) sha: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Script {
        use std::fmt::Write as _;
        let sha = Sha1::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Script { text, sha }
    }

    /// The error with the command that the server did not know, where it names only the line of the
    /// script that calls it.
    pub(super) fn explained(&self, error: RedisError) -> RedisError {
        let detail = error.detail().unwrap_or_default();
        let Some((_, place)) = detail.split_once("user_script:") else { return error };
        if uncoded(&error) != Some(Uncoded::UnknownInScript) {
            return error;
        }
        let digits = place.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(place.len());
        let number: usize = place.get(..digits).and_then(|digits| digits.parse().ok()).unwrap_or_default();
        let line = self.text.lines().nth(number.saturating_sub(1)).unwrap_or_default();
        let called = line.split("call('").skip(1).filter_map(|rest| rest.split('\'').next());
        let called = called.collect::<Vec<_>>().join(" or ");
        let what = format!("{called} (it was renamed or is not there); give it back its name and restart Redis");
        let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
        RedisError::from((kind, "the server does not know a command that is needed", what))
    }

    /// `EVALSHA` of it for so many keys; keys and arguments are to follow.
    pub(super) fn command(&self, keys: usize) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&self.sha).arg(keys);
        command
    }

    /// Runs its command on this connection, and loads it first where the server does not have it.
    pub(super) async fn run(&self, line: &dyn Line, command: &Cmd) -> Result<Value, RedisError> {
        let result = line.call(command).await.map_err(|error| self.explained(error));
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            let mut load = cmd("SCRIPT");
            load.arg("LOAD").arg(self.text);
            line.call(&load).await?;
            return line.call(command).await.map_err(|error| self.explained(error));
        }
        result
    }
}

/// `APPLY_FREEING` is for writes that only free memory, where the server is at its limit; so is
/// `EDIT_FREEING`.
pub(super) static OBSERVE: LazyLock<Script> = LazyLock::new(|| Script::new(OBSERVE_TEXT));
pub(super) static APPLY: LazyLock<Script> = LazyLock::new(|| Script::new(APPLY_TEXT));
pub(super) static APPLY_FREEING: LazyLock<Script> = LazyLock::new(|| Script::new(APPLY_FREEING_TEXT));
pub(super) static COMPLETE: LazyLock<Script> = LazyLock::new(|| Script::new(COMPLETE_TEXT));
pub(super) static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(LOOK_TEXT));
pub(super) static EDIT: LazyLock<Script> = LazyLock::new(|| Script::new(EDIT_TEXT));
pub(super) static EDIT_FREEING: LazyLock<Script> = LazyLock::new(|| Script::new(EDIT_FREEING_TEXT));

/// `ARGV`: epoch, nonce for buckets that do not exist yet (empty: leave no trace), bytes that the
/// answer may hold, bytes above which a value comes as its digest, bytes above which it is too
/// large. Answers `{seconds, microseconds, text}`. The text has for each key a head (code: 1 byte,
/// expiry: 8, lengths of value, sidecar and nonce: 4 each; big-endian), then value, sidecar and
/// nonce: one long string is built, sent and parsed at half the cost of five small items a key.
/// Code 8: something else has the bucket's name, which is the value.
const OBSERVE_TEXT: &str = r"#!lua flags=allow-oom
local epoch, left = tonumber(ARGV[1]), tonumber(ARGV[3])
local digest_above, large_above = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local out = {}
local n = 0
for i = 1, #KEYS, 2 do
  local key, bucket = KEYS[i], KEYS[i + 1]
  local meta = redis.pcall('HMGET', bucket, '_keepstep:e', '_keepstep:n', key)
  local code, value, expires = 0, '', -1
  local nonce = meta[2] or ''
  local owner = tonumber(meta[1])
  if meta.err and string.find(meta.err, '^WRONGTYPE ') then
    code, value = 8, bucket
  elseif meta.err then
    code, value = 7, meta.err
  elseif owner and owner > epoch then
    code = 6
  else
    if ARGV[2] == '' then
      nonce = ''
    elseif not owner or not meta[2] then
      local set = redis.pcall('HSET', bucket, '_keepstep:e', ARGV[1], '_keepstep:n', ARGV[2])
      if type(set) ~= 'table' then nonce = ARGV[2] else nonce = '' end
    elseif owner < epoch then
      redis.pcall('HSET', bucket, '_keepstep:e', ARGV[1])
    end
    local length = redis.pcall('STRLEN', key)
    if type(length) == 'table' then
      if string.find(length.err, '^WRONGTYPE ') then
        code, value = 4, redis.call('TYPE', key).ok
      else
        code, value = 7, length.err
      end
    elseif length > large_above then
      code, value = 3, tostring(length)
    elseif length > left then
      code = 5
    else
      local got = redis.call('GET', key)
      if got then
        code = 1
        if length > digest_above then
          code, value = 2, redis.sha1hex(got)
        else
          value = got
          left = left - length
        end
        expires = redis.call('PEXPIRETIME', key)
      end
    end
  end
  local entry = meta[3] or ''
  out[n + 1] = struct.pack('>Bi8I4I4I4', code, expires, #value, #entry, #nonce)
  out[n + 2], out[n + 3], out[n + 4] = value, entry, nonce
  n = n + 4
end
return {tonumber(time[1]), tonumber(time[2]), table.concat(out)}
";

/// `KEYS`: key and bucket of each; for a note, which neither reads nor writes the key, the bucket twice:
/// what the user may do with the key does not matter to it. `ARGV`: epoch, nonce for buckets that do not
/// exist yet, bytes above which a value is too large, then eight for each key: what to do (`s`et, `d`elete,
/// `n`ote), hexadecimal digest of the value that must be there (empty: no key), sidecar that must be there,
/// nonce that must be there (empty: not looked at), value to set (of a note: the key), sidecar to leave
/// (empty: none), channel (empty: none), message. A user that may not write sidecars writes nothing: a value
/// without one would belong to nobody. Answers for each key `1` done, `2` done but not published, `0`
/// refused, `6` fenced, or a text: the error, or `BUCKET` and the name of the bucket if something else has it.
macro_rules! apply {
    ($flags:literal) => {
        concat!(
            $flags,
            r"
local epoch, large_above = tonumber(ARGV[1]), tonumber(ARGV[3])
for _, command in ipairs({'HSET', 'HDEL'}) do
  local known, may = pcall(redis.acl_check_cmd, command, KEYS[2], 'f', 'f')
  if not (known and may) then
    return redis.error_reply('NOPERM the user may not run ' .. command .. ' on ' .. KEYS[2])
  end
end
local out = {}
local a = 3
for i = 1, #KEYS, 2 do
  local key, bucket = KEYS[i], KEYS[i + 1]
  local op, expect, entry, nonce = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  if op == 'n' then key = ARGV[a + 5] end
  local meta = redis.pcall('HMGET', bucket, '_keepstep:e', '_keepstep:n', key)
  local owner = tonumber(meta[1])
  local code = 1
  if meta.err then
    code = meta.err
    if string.find(meta.err, '^WRONGTYPE ') then code = 'BUCKET ' .. bucket end
  elseif owner and owner > epoch then
    code = 6
  elseif (meta[3] or '') ~= entry or (nonce ~= '' and meta[2] ~= nonce) then
    code = 0
  elseif op ~= 'n' then
    local length = redis.pcall('STRLEN', key)
    if type(length) == 'table' then
      code = length.err
    elseif length > large_above then
      code = 0
    else
      local got = redis.call('GET', key)
      local have = ''
      if got then have = redis.sha1hex(got) end
      if have ~= expect then
        code = 0
      else
        local done
        if op == 's' then done = redis.pcall('SET', key, ARGV[a + 5]) else done = redis.pcall('DEL', key) end
        if type(done) == 'table' and done.err then code = done.err end
      end
    end
  end
  if code == 1 then
    local noted = 0
    if ARGV[a + 6] == '' then
      if meta[3] then noted = redis.pcall('HDEL', bucket, key) end
    elseif owner and meta[2] then
      noted = redis.pcall('HSET', bucket, key, ARGV[a + 6])
    else
      noted = redis.pcall('HSET', bucket, key, ARGV[a + 6], '_keepstep:e', ARGV[1], '_keepstep:n', ARGV[2])
    end
    if type(noted) == 'table' and noted.err then
      code = noted.err
    elseif ARGV[a + 7] ~= '' then
      local sent = redis.pcall('PUBLISH', ARGV[a + 7], ARGV[a + 8])
      if type(sent) == 'table' then code = 2 end
    end
  end
  out[#out + 1] = code
  a = a + 8
end
return out
"
        )
    };
}

const APPLY_TEXT: &str = apply!("#!lua");
const APPLY_FREEING_TEXT: &str = apply!("#!lua flags=allow-oom");

/// `KEYS`: buckets. `ARGV`: epoch, then four for each: the field (user key), nonce that must be
/// there, sequence, the sidecar to leave (empty: none). A sidecar with the same or a newer sequence
/// stays, and so does what else has a bucket's name: `OBSERVE` reports it.
const COMPLETE_TEXT: &str = r"#!lua flags=allow-oom
local epoch = tonumber(ARGV[1])
local a = 1
for i = 1, #KEYS do
  local field = ARGV[a + 1]
  local meta = redis.pcall('HMGET', KEYS[i], '_keepstep:e', '_keepstep:n', field)
  if meta.err and not string.find(meta.err, '^WRONGTYPE ') then return meta end
  local owner = tonumber(meta[1])
  if owner and owner > epoch then return 6 end
  if owner and meta[2] == ARGV[a + 2] then
    local have = -1
    if meta[3] and #meta[3] >= 6 then have = struct.unpack('>I4', string.sub(meta[3], 3, 6)) end
    if have < tonumber(ARGV[a + 3]) then
      if ARGV[a + 4] == '' then
        if meta[3] then redis.call('HDEL', KEYS[i], field) end
      else
        redis.call('HSET', KEYS[i], field, ARGV[a + 4])
      end
    end
  end
  a = a + 4
end
return 1
";

/// `KEYS`: user keys. `ARGV`: bytes that the answer may hold, bytes above which a value comes as
/// its digest, bytes above which it is too large. Answers one text, for each key code (1 byte) and
/// length (4, big-endian), then the value, as `OBSERVE` has them. Writes nothing.
const LOOK_TEXT: &str = r"
local left, digest_above, large_above = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local out = {}
for i = 1, #KEYS do
  local code, value = 0, ''
  local length = redis.pcall('STRLEN', KEYS[i])
  if type(length) == 'table' then
    if string.find(length.err, '^WRONGTYPE ') then
      code, value = 4, redis.call('TYPE', KEYS[i]).ok
    else
      code, value = 7, length.err
    end
  elseif length > large_above then
    code, value = 3, tostring(length)
  elseif length > left then
    code = 5
  else
    local got = redis.call('GET', KEYS[i])
    if got then
      code = 1
      if length > digest_above then
        code, value = 2, redis.sha1hex(got)
      else
        value = got
        left = left - length
      end
    end
  end
  out[2 * i - 1], out[2 * i] = struct.pack('>BI4', code, #value), value
end
return table.concat(out)
";

/// `KEYS`: user keys. `ARGV`: bytes above which a value is too large to be compared, then three for
/// each key: what to do (`s`et, `d`elete), hexadecimal digest of the value that must be there
/// (empty: no key), value to set. Answers as `APPLY` does.
macro_rules! edit {
    ($flags:literal) => {
        concat!(
            $flags,
            r"
local large_above = tonumber(ARGV[1])
local out = {}
local a = 1
for i = 1, #KEYS do
  local code = 1
  local length = redis.pcall('STRLEN', KEYS[i])
  if type(length) == 'table' then
    code = length.err
  elseif length > large_above then
    code = 0
  else
    local got = redis.call('GET', KEYS[i])
    local have = ''
    if got then have = redis.sha1hex(got) end
    if have ~= ARGV[a + 2] then
      code = 0
    else
      local done
      if ARGV[a + 1] == 's' then
        done = redis.pcall('SET', KEYS[i], ARGV[a + 3])
      elseif have ~= '' then
        done = redis.pcall('DEL', KEYS[i])
      end
      if type(done) == 'table' and done.err then code = done.err end
    end
  end
  out[i] = code
  a = a + 3
end
return out
"
        )
    };
}

const EDIT_TEXT: &str = edit!("#!lua");
const EDIT_FREEING_TEXT: &str = edit!("#!lua flags=allow-oom");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_a_script_does_not_find_is_named() {
        let script = &*OBSERVE;
        let line = script.text.lines().position(|line| line.contains("'HMGET'")).unwrap_or_default() + 1;
        let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
        let server = |detail: String| RedisError::from((kind, "An error was signalled by the server", detail));
        let said = format!("Unknown Redis command called from script script: 07bc, on @user_script:{line}.");
        let explained = script.explained(server(said)).to_string();
        assert!(explained.contains("HMGET") && explained.contains("renamed"), "{explained}");
        let other = script.explained(server("something else".to_owned())).to_string();
        assert!(other.contains("something else"), "{other}");
    }
}
