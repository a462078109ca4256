//! What the errors of a Redis mean.

use super::access::Target;
use super::line::{ErrorKind, RedisError, ServerErrorKind};
use crate::store::StoreError;
use crate::store::remedy::Remedy;

/// The remedy for an error that a server answers, by its code: the first word, which stands before `detail`.
fn of_code(code: &str, detail: &str) -> Remedy {
    match code {
        "NOPERM" => Remedy::Quarantine("no_permission"),
        "WRONGTYPE" => Remedy::Quarantine("wrong_type"),
        // Most of them pass when memory is freed, a disk has space or a script has ended.
        "OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" => Remedy::NotNow,
        "NOAUTH" | "WRONGPASS" | "DENIED" | "NOPROTO" | "MOVED" | "ASK" | "CROSSSLOT" => Remedy::Halt,
        // These two have no code of their own: a server that has no connection left, and (before 7.2) a command of a script that the
        // user may not run.
        "ERR" if detail.starts_with("max number of clients") => Remedy::Retry,
        "ERR" if detail.starts_with("The user executing the script can't") => Remedy::Quarantine("no_permission"),
        // A command that the server does not know, or not in this form.
        "ERR" => Remedy::Quarantine("refused"),
        // READONLY (it has become a replica), LOADING, CLUSTERDOWN, MASTERDOWN, TRYAGAIN, and whatever a newer server says.
        _ => Remedy::Retry,
    }
}

/// The one function from an error of this client to its remedy.
pub(super) fn remedy(error: &RedisError) -> Remedy {
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::RESP3NotSupported | ErrorKind::InvalidClientConfig => Remedy::Halt,
        ErrorKind::Server(_) | ErrorKind::Extension => {
            of_code(error.code().unwrap_or_default(), error.detail().unwrap_or_default())
        }
        _ => Remedy::Retry,
    }
}

/// The remedy for an error that a script caught and answers as a text.
pub(super) fn remedy_in_script(text: &str) -> Remedy {
    let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
    match of_code(code, detail) {
        Remedy::Retry if matches!(code, "READONLY" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN") => Remedy::NotNow,
        // It is the answer for one key: there is no connection to wait for.
        Remedy::Retry => Remedy::Quarantine("refused"),
        remedy => remedy,
    }
}

/// What an error of a whole command means for the store.
pub(super) fn explain(target: &Target, error: &RedisError) -> StoreError {
    let place = target.place();
    let user = target.user();
    let refused_login = || format!("{place} refused the login of user `{user}`: check username and password");
    let text = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => refused_login(),
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => {
            let what = error.detail().unwrap_or("see ACL LOG");
            format!("{place}: user `{user}` lacks a permission: {what}")
        }
        (ErrorKind::RESP3NotSupported, _) => {
            format!("{place} does not speak RESP3 (HELLO 3): Redis 7.0 or later is needed, with HELLO under its name")
        }
        // The detail stands there as it came: it is what is searched for.
        _ if error.detail().is_some_and(|detail| detail.contains("DB index is out of range")) => {
            let database = target.access.database;
            format!(
                "{place} has no database {database} (DB index is out of range): name another in `url`, or raise `databases` there"
            )
        }
        _ if is_replica(error) => format!("{place} has become a replica; waiting for it to be the master"),
        _ => format!("{place}: {error}"),
    };
    remedy(error).of_call(text)
}

/// Whether the connection is of no use any more.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout() || error.is_unrecoverable_error()
}

/// Whether the server is a replica, so that what it holds is another's, and perhaps older.
pub(super) fn is_replica(error: &RedisError) -> bool {
    error.code() == Some("READONLY")
}

/// Whether the server is at its memory limit.
pub(super) fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

/// Whether the server did not take the call for its length, or closed the connection without a word. It closes it after the error, too,
/// which has no code of its own.
pub(super) fn may_be_too_large(error: &RedisError) -> bool {
    let is_protocol =
        error.code() == Some("ERR") && error.detail().is_some_and(|text| text.starts_with("Protocol error"));
    is_protocol || (is_broken(error) && !error.is_timeout())
}

/// Whether the user may not do it.
pub(super) fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Remedy::{Halt, NotNow, Quarantine, Retry};

    #[test]
    fn what_a_script_caught_is_told_by_its_code() {
        for (text, expected) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", NotNow),
            ("NOREPLICAS Not enough good replicas to write.", NotNow),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Quarantine("wrong_type")),
            (
                "NOPERM ACL failure in script: User k has no permissions to run the 'hset' command",
                Quarantine("no_permission"),
            ),
            ("ERR The user executing the script can't run this command or subcommand", Quarantine("no_permission")),
            // A name or a value in the text decides nothing.
            ("ERR no such thing as OOM or permission", Quarantine("refused")),
            ("", Quarantine("refused")),
        ] {
            assert_eq!(remedy_in_script(text), expected, "{text}");
        }
    }

    #[test]
    fn what_no_waiting_mends_is_told_from_what_passes() {
        let server =
            |kind: ServerErrorKind, detail: &str| RedisError::from((kind.into(), "an answer", detail.to_owned()));
        let cases = [
            (server(ServerErrorKind::ResponseError, "unknown command 'SCAN'"), Quarantine("refused")),
            (server(ServerErrorKind::ResponseError, "DB index is out of range"), Quarantine("refused")),
            (server(ServerErrorKind::ResponseError, "max number of clients reached"), Retry),
            (server(ServerErrorKind::NoPerm, "no permissions"), Quarantine("no_permission")),
            (server(ServerErrorKind::Moved, "1 127.0.0.1:1"), Halt),
            (server(ServerErrorKind::BusyLoading, ""), Retry),
            (server(ServerErrorKind::ReadOnly, ""), Retry),
            (RedisError::from((ErrorKind::AuthenticationFailed, "no")), Halt),
            (RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)), Retry),
        ];
        for (error, expected) in cases {
            assert_eq!(remedy(&error), expected, "{error}");
        }
        assert!(matches!(Quarantine("refused").of_call(String::new()), StoreError::Refused(_)));
    }
}
