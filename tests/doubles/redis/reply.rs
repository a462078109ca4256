//! What a server sends on a connection.

use super::data::Bytes;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    Nil,
    Int(i64),
    Text(Bytes),
    /// A text for people, as of INFO.
    Verbatim(String),
    /// A status: `OK`, the name of a type.
    Status(&'static str),
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
    /// The confirmation of a subscription, which is a push as well.
    Confirmed(Push),
    /// The code and the text behind it, as one line.
    Error(String),
}

impl Reply {
    pub fn text(text: impl Into<Vec<u8>>) -> Reply {
        Reply::Text(text.into())
    }

    /// Of something that may be missing.
    pub fn of(value: Option<&Bytes>) -> Reply {
        value.map_or(Reply::Nil, |value| Reply::Text(value.clone()))
    }
}

/// What is sent without being asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Push {
    Message {
        pattern: Bytes,
        channel: Bytes,
        message: Bytes,
    },
    /// These keys may have changed; `None`: any key, since a database was flushed.
    Invalidate(Option<Vec<Bytes>>),
    Subscribed(Bytes, i64),
    Unsubscribed(Bytes, i64),
}

/// Everything that a connection carries to the client, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sent {
    Reply(Reply),
    Push(Push),
    /// The server closed the connection.
    Closed,
}
