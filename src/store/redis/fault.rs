//! What the errors of a Redis mean.

use super::access::Target;
use super::line::{ErrorKind, RedisError, ServerErrorKind};
use crate::store::remedy::Remedy;
use crate::store::{FailureKind, StoreError};

/// An error for which the servers have no code of its own: they send `ERR`, and only the text
/// distinguishes it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uncoded {
    /// The server has no connection left.
    NoConnectionLeft,
    /// The user may not run a command that a script calls, or not on this key.
    DeniedInScript,
    /// A script calls a command that the server does not know.
    UnknownInScript,
    /// A script was ended by SCRIPT KILL, which ends only those that have written nothing.
    ScriptKilled,
    /// The database number is too high.
    NoSuchDatabase,
    /// The server could not read the request: it was too large, for instance.
    Unreadable,
}

/// The only place where the text of an error decides: the beginning of the text behind `ERR`, as
/// the servers' sources have it.
const TEXTS: [(&str, Uncoded); 7] = [
    // `acceptCommonHandler` in networking.c; in a cluster, " + cluster connections reached"
    // follows.
    ("max number of clients", Uncoded::NoConnectionLeft),
    // `scriptVerifyACL` in script.c: Redis 7.0, and since Redis 7.2 and in Valkey.
    ("The user executing the script can't", Uncoded::DeniedInScript),
    ("ACL failure in script", Uncoded::DeniedInScript),
    // `scriptVerifyCommandArity` in script.c: "Unknown Redis command called from script", in Valkey
    // 9 without "Redis". A command outside of scripts is "unknown", in small letters.
    ("Unknown ", Uncoded::UnknownInScript),
    // `luaMaskCountHook` in script_lua.c.
    ("Script killed by user", Uncoded::ScriptKilled),
    // `selectCommand` in db.c.
    ("DB index is out of range", Uncoded::NoSuchDatabase),
    // The callers of `setProtocolError` in networking.c.
    ("Protocol error", Uncoded::Unreadable),
];

fn by_text(code: &str, detail: &str) -> Option<Uncoded> {
    let found = TEXTS.iter().find(|(beginning, _)| code == "ERR" && detail.starts_with(beginning));
    found.map(|(_, uncoded)| *uncoded)
}

/// Which of the errors without a code of its own this is.
pub(super) fn uncoded(error: &RedisError) -> Option<Uncoded> {
    by_text(error.code()?, error.detail()?)
}

/// The remedy for an error that a server answers, and what failed, by its code: the first word,
/// which stands before `detail`.
fn of_code(code: &str, detail: &str) -> (Remedy, FailureKind) {
    match code {
        "NOPERM" => (Remedy::Quarantine("no_permission"), FailureKind::Permission),
        "WRONGTYPE" => (Remedy::Quarantine("wrong_type"), FailureKind::Overwritten),
        // Most of them pass when memory is freed, a disk has space or a script has ended.
        "OOM" | "MISCONF" | "NOREPLICAS" | "BUSY" => (Remedy::NotNow, FailureKind::Resources),
        "NOAUTH" | "WRONGPASS" => (Remedy::Halt, FailureKind::Login),
        // The protected mode of a server without a password.
        "DENIED" => (Remedy::Halt, FailureKind::Settings),
        "NOPROTO" | "MOVED" | "ASK" | "CROSSSLOT" => (Remedy::Halt, FailureKind::Unsupported),
        "ERR" => match by_text(code, detail) {
            Some(Uncoded::NoConnectionLeft) => (Remedy::Retry, FailureKind::Resources),
            Some(Uncoded::DeniedInScript) => (Remedy::Quarantine("no_permission"), FailureKind::Permission),
            Some(Uncoded::ScriptKilled) => (Remedy::NotNow, FailureKind::Resources),
            Some(Uncoded::NoSuchDatabase) => (Remedy::Quarantine("refused"), FailureKind::Settings),
            Some(Uncoded::UnknownInScript) => (Remedy::Quarantine("refused"), FailureKind::Unsupported),
            // A command that the server does not know, or not in this form.
            Some(Uncoded::Unreadable) | None => (Remedy::Quarantine("refused"), FailureKind::Protocol),
        },
        // READONLY: it has become a replica.
        "READONLY" | "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" => (Remedy::Retry, FailureKind::Unready),
        // Whatever a newer server says.
        _ => (Remedy::Retry, FailureKind::Protocol),
    }
}

/// The one function from an error of this client to its remedy, and to what failed.
fn meaning(error: &RedisError) -> (Remedy, FailureKind) {
    match error.kind() {
        ErrorKind::AuthenticationFailed => (Remedy::Halt, FailureKind::Login),
        ErrorKind::RESP3NotSupported => (Remedy::Halt, FailureKind::Unsupported),
        ErrorKind::InvalidClientConfig => (Remedy::Halt, FailureKind::Settings),
        ErrorKind::Server(_) | ErrorKind::Extension => {
            of_code(error.code().unwrap_or_default(), error.detail().unwrap_or_default())
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => (Remedy::Retry, FailureKind::Protocol),
        _ => (Remedy::Retry, FailureKind::Connection),
    }
}

/// The remedy for an error of this client.
pub(super) fn remedy(error: &RedisError) -> Remedy {
    meaning(error).0
}

/// The remedy for an error that a script caught and answers as a text, and what failed.
pub(super) fn remedy_in_script(text: &str) -> (Remedy, FailureKind) {
    let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
    let (remedy, kind) = of_code(code, detail);
    let remedy = match remedy {
        Remedy::Retry if kind == FailureKind::Unready && code != "LOADING" => Remedy::NotNow,
        // It is the answer for one key: there is no connection to wait for.
        Remedy::Retry => Remedy::Quarantine("refused"),
        remedy => remedy,
    };
    (remedy, kind)
}

/// What an error of a whole command means for the store.
pub(super) fn explain(target: &Target, error: &RedisError) -> StoreError {
    let place = target.place();
    let user = target.user();
    let (remedy, kind) = meaning(error);
    let text = match error.kind() {
        _ if kind == FailureKind::Login => {
            format!("{place} refused the login of user `{user}`: check username and password")
        }
        _ if is_denied(error) => {
            let what = error.detail().unwrap_or("see ACL LOG");
            format!("{place}: user `{user}` lacks a permission: {what}")
        }
        ErrorKind::RESP3NotSupported => {
            format!("{place} does not speak RESP3 (HELLO 3): Redis 7.0 or later is needed, with HELLO under its name")
        }
        // The server's own words stand there as they came: they are what an operator searches for.
        _ if uncoded(error) == Some(Uncoded::NoSuchDatabase) => {
            let database = target.access.database;
            format!(
                "{place} has no database {database} (DB index is out of range): name another in `url`, or raise `databases` there"
            )
        }
        _ if is_replica(error) => format!("{place} has become a replica; waiting for it to be the master"),
        _ => format!("{place}: {error}"),
    };
    remedy.of_call(kind, text).with_source(error.clone())
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

/// Whether the server refused the call for its length, or closed the connection without an answer.
/// After such a refusal it closes the connection, too.
pub(super) fn may_be_too_large(error: &RedisError) -> bool {
    uncoded(error) == Some(Uncoded::Unreadable) || (is_broken(error) && !error.is_timeout())
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
    fn an_error_that_a_script_caught_is_classed_by_its_code() {
        for (text, expected) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", NotNow),
            ("NOREPLICAS Not enough good replicas to write.", NotNow),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Quarantine("wrong_type")),
            (
                "NOPERM ACL failure in script: User k has no permissions to run the 'hset' command",
                Quarantine("no_permission"),
            ),
            ("ERR The user executing the script can't run this command or subcommand", Quarantine("no_permission")),
            (
                "ERR ACL failure in script: User k has no permissions to run the 'hset' command",
                Quarantine("no_permission"),
            ),
            ("READONLY You can't write against a read only replica.", NotNow),
            ("LOADING Redis is loading the dataset in memory", Quarantine("refused")),
            // A name or a value in the text decides nothing.
            ("ERR no such thing as OOM or permission", Quarantine("refused")),
            ("", Quarantine("refused")),
        ] {
            assert_eq!(remedy_in_script(text).0, expected, "{text}");
        }
    }

    #[test]
    fn what_needs_a_person_is_distinguished_from_what_passes() {
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
        assert!(matches!(Quarantine("refused").of_call(FailureKind::Protocol, String::new()), StoreError::Refused(_)));
    }

    /// As the servers send them: Redis 7.0.15 and Valkey 9.1.2, but for the two rows that say
    /// otherwise.
    #[test]
    fn an_error_without_a_code_of_its_own_is_distinguished_by_the_text_of_the_server() {
        use FailureKind::{Permission, Protocol, Resources, Settings, Unsupported};
        let server =
            |detail: &str| RedisError::from((ServerErrorKind::ResponseError.into(), "an answer", detail.to_owned()));
        let mut met = Vec::new();
        for (text, uncoded_as, kind) in [
            ("max number of clients reached", Uncoded::NoConnectionLeft, Resources),
            // A node of a cluster, by its source.
            ("max number of clients + cluster connections reached", Uncoded::NoConnectionLeft, Resources),
            (
                "The user executing the script can't run this command or subcommand script: a887, on @user_script:1.",
                Uncoded::DeniedInScript,
                Permission,
            ),
            (
                "The user executing the script can't access at least one of the keys mentioned in the command arguments",
                Uncoded::DeniedInScript,
                Permission,
            ),
            (
                "ACL failure in script: User k has no permissions to run the 'hset' command script: on @user_script:1.",
                Uncoded::DeniedInScript,
                Permission,
            ),
            ("ACL failure in script: No permissions to access a key", Uncoded::DeniedInScript, Permission),
            (
                "Unknown Redis command called from script script: f892, on @user_script:1.",
                Uncoded::UnknownInScript,
                Unsupported,
            ),
            ("Unknown command called from script script: on @user_script:1.", Uncoded::UnknownInScript, Unsupported),
            (
                "Script killed by user with SCRIPT KILL... script: c72d, on @user_script:2.",
                Uncoded::ScriptKilled,
                Resources,
            ),
            ("DB index is out of range", Uncoded::NoSuchDatabase, Settings),
            ("Protocol error: invalid bulk length", Uncoded::Unreadable, Protocol),
            ("Protocol error: invalid multibulk length", Uncoded::Unreadable, Protocol),
        ] {
            assert_eq!(uncoded(&server(text)), Some(uncoded_as), "{text}");
            assert_eq!(meaning(&server(text)).1, kind, "{text}");
            met.extend(TEXTS.iter().position(|(beginning, _)| text.starts_with(beginning)));
        }
        assert!((0..TEXTS.len()).all(|row| met.contains(&row)), "a row without a case: {met:?}");
        for other in ["unknown command 'SCAN'", "no such thing as DB index is out of range", "syntax error"] {
            assert_eq!(uncoded(&server(other)), None, "{other}");
        }
        // A code decides before any text does.
        let full = RedisError::from((ErrorKind::Extension, "OOM", "Protocol error".to_owned()));
        assert_eq!(uncoded(&full), None);
    }
}
