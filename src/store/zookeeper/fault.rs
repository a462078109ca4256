//! What the errors of an ensemble mean, and why none of its servers gives a session.

use super::place::Place;
use super::session::{Ensemble, Error};
use crate::env;
use crate::store::remedy::Remedy;
use crate::store::{FailureKind, StoreError};
use std::time::Duration;

/// `EphemeralOnLocalSession` of KeeperException.Code, which the client library does not know by
/// name.
const EPHEMERAL_ON_LOCAL_SESSION: i32 = -120;

/// How long a server may take to accept a connection.
const DIAL: Duration = Duration::from_secs(1);

/// Servers that are asked why no session is given. An ensemble has three to seven.
const DIALLED: usize = 9;

/// The one function from an error of a request that serves the whole pipeline to its remedy, and to
/// what failed.
fn meaning(error: &Error) -> (Remedy, FailureKind) {
    match error {
        Error::SessionExpired | Error::ClientClosed => (Remedy::EndOwnership, FailureKind::Session),
        Error::AuthFailed | Error::InvalidAcl => (Remedy::Halt, FailureKind::Login),
        Error::NoAuth => (Remedy::Halt, FailureKind::Permission),
        Error::QuotaExceeded | Error::UnexpectedErrorCode(EPHEMERAL_ON_LOCAL_SESSION) => {
            (Remedy::Halt, FailureKind::Settings)
        }
        Error::NoChildrenForEphemerals => (Remedy::Halt, FailureKind::Overwritten),
        Error::Unimplemented => (Remedy::Halt, FailureKind::Unsupported),
        Error::BadArguments(_) => (Remedy::Halt, FailureKind::Protocol),
        // What is not known by name above passes: a connection that ended, a server that is busy or
        // read-only, and states that another client has changed meanwhile.
        Error::ConnectionLoss | Error::NoHosts | Error::Timeout | Error::SessionMoved | Error::Custom(_) => {
            (Remedy::Retry, FailureKind::Connection)
        }
        Error::NotReadOnly => (Remedy::Retry, FailureKind::Unready),
        Error::Throttled => (Remedy::Retry, FailureKind::Resources),
        Error::NoNode | Error::NodeExists | Error::BadVersion | Error::NotEmpty => {
            (Remedy::Retry, FailureKind::Overwritten)
        }
        _ => (Remedy::Retry, FailureKind::Protocol),
    }
}

/// What an error of a whole request means for the store.
pub(super) fn explain(place: &Place, error: &Error) -> StoreError {
    let user = place.user();
    let text = match error {
        Error::AuthFailed => format!("{place} refused the login of user `{user}`: check auth"),
        Error::NoAuth => format!("{place}: user `{user}` lacks a permission below /_keepstep"),
        Error::InvalidAcl => {
            format!("{place} refuses the ACL of Keepstep's znodes: is user `{user}` authenticated? Check auth")
        }
        Error::QuotaExceeded => format!("{place}: the quota of /_keepstep is exceeded: raise it"),
        Error::NoChildrenForEphemerals => {
            format!("{place}: a znode of /_keepstep is ephemeral and can have no children: delete it")
        }
        Error::Unimplemented => {
            format!("{place} is too old: it does not know a request; ZooKeeper 3.6 or later is needed")
        }
        Error::UnexpectedErrorCode(EPHEMERAL_ON_LOCAL_SESSION) => format!(
            "{place} gives local sessions, which can have no ephemeral znodes: set localSessionsUpgradingEnabled=true on \
             its servers"
        ),
        Error::SessionExpired | Error::ClientClosed => format!("{place}: the session ended"),
        error => format!("{place}: {error}"),
    };
    let (remedy, kind) = meaning(error);
    remedy.of_call(kind, text).with_source(error.clone())
}

/// Why no session was opened; without an error there was no answer.
pub(super) type Unopened = Option<Error>;

/// Whether the connection broke under a request, so that nothing is known of what became of it.
pub(super) fn is_broken(error: &Error) -> bool {
    matches!(error, Error::ConnectionLoss | Error::Custom(_))
}

/// Why no session was opened, as the pipeline that asks reports it.
pub(super) async fn unopened(asking: &Place, ensemble: &dyn Ensemble, why: Unopened) -> StoreError {
    match why {
        Some(Error::SessionExpired | Error::ClientClosed | Error::NoHosts | Error::Timeout) | None => {
            let text = format!("{}: {}", asking, no_session(ensemble, &asking.access.connect).await);
            let unopened = StoreError::away(FailureKind::Session, text);
            match why {
                Some(error) => unopened.with_source(error),
                None => unopened,
            }
        }
        Some(error) => explain(asking, &error),
    }
}

/// Why there is no session: what each server says to a plain connection. The client library only
/// says that no host is available.
pub(super) async fn no_session(ensemble: &dyn Ensemble, connect: &str) -> String {
    let hosts: Vec<&str> = connect.split('/').next().unwrap_or_default().split(',').collect();
    let dialled = hosts.iter().take(DIALLED).map(|host| async move { (*host, dial(ensemble, host).await) });
    let answers = futures::future::join_all(dialled).await;
    let words: Vec<String> = answers
        .into_iter()
        .map(|(host, answer)| match answer {
            Ok(()) => format!("{host} accepts connections and gives no session (has the ensemble a quorum?)"),
            Err(why) => format!("{host}: {why}"),
        })
        .collect();
    format!("no session: {}", words.join("; "))
}

async fn dial(ensemble: &dyn Ensemble, host: &str) -> Result<(), String> {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:2181") };
    match env::timeout(DIAL, ensemble.dial(&address)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {DIAL:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::RealEnsemble;
    use super::*;

    #[test]
    fn what_needs_a_person_is_distinguished_from_what_passes() {
        for (error, expected) in [
            (Error::NoHosts, Remedy::Retry),
            (Error::ConnectionLoss, Remedy::Retry),
            (Error::NodeExists, Remedy::Retry),
            (Error::UnexpectedErrorCode(-126), Remedy::Retry),
            (Error::UnexpectedErrorCode(EPHEMERAL_ON_LOCAL_SESSION), Remedy::Halt),
            (Error::NoAuth, Remedy::Halt),
            (Error::SessionExpired, Remedy::EndOwnership),
        ] {
            assert_eq!(meaning(&error).0, expected, "{error}");
        }
    }

    #[tokio::test]
    async fn each_server_is_named_with_its_reason() {
        let text = no_session(&RealEnsemble, "127.0.0.1:1,nowhere.invalid:2181/chroot").await;
        assert!(text.contains("127.0.0.1:1: ") && text.contains("refused"), "{text}");
        assert!(text.contains("nowhere.invalid:2181: ") && !text.contains("chroot"), "{text}");
    }
}
