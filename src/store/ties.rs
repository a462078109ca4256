//! Which stores a pipeline joins: each store has an identity of its own, and remembers which other
//! store the pipeline has.
//!
//! ```text
//!   ZooKeeper  /_keepstep/_identity  <--remembers--  _keepstep::stores:<pipeline>  Redis
//!   Redis      _keepstep::identity   <--remembers--  /_keepstep/<pipeline>/stores  ZooKeeper
//! ```
//!
//! An identity is random, made once, and lies in the data, so it goes where the data goes: along
//! with a fail-over, a move to another address, a restore from a copy. What is *missing* is a loss
//! (the store came back empty, or older than its identity) and is written again from what the other
//! store remembers. What is *present and another one* is another store, and refused: nothing that
//! Keepstep knows is true of it. Addresses only show people which store is meant.

use crate::env;
use serde::{Deserialize, Serialize};

/// A store as the pipeline's other store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its identity.
    pub identity: String,
    /// Where it was reached, for people.
    pub address: String,
    /// Which part of the server it is: the chroot, or the number of the database. Another part is
    /// another store, also while it has no identity yet: parts do not change places by losing data.
    pub part: String,
    /// Names the run of the server, where the server reports it: a server in this run is this very
    /// one, and no copy of it.
    #[serde(default, rename = "life", skip_serializing_if = "String::is_empty")]
    pub incarnation: String,
}

impl Known {
    /// Whether this is that very server, in the same run, and the same part of it.
    #[must_use]
    pub fn is_same_run(&self, other: &Known) -> bool {
        !self.incarnation.is_empty() && self.incarnation == other.incarnation && self.part == other.part
    }
}

/// What one store holds of its own identity and of a pipeline's other store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ties {
    /// The store as this worker reaches it; the identity is empty where there is none.
    pub own: Known,
    /// What it is called in errors.
    pub place: String,
    /// The other store of the pipeline, as it is remembered here.
    pub other: Option<Known>,
    /// Where that stands.
    pub remembered_in: String,
    /// The routes of the pipeline's last owner, a line a route; only ZooKeeper keeps them.
    pub routes: Vec<String>,
    /// The lineage of the ensemble ([`crate::plan::Ensemble::id`]), 0 if there is none; of Redis,
    /// always 0.
    pub lineage: u32,
}

/// One sentence on how the stores are not those of this pipeline; `None` if they are, or if nothing
/// is known of it.
#[must_use]
pub fn difference(pipeline: &str, one: &Ties, other: &Ties) -> Option<String> {
    let differs = |store: &Ties, by: &Ties| {
        let known = by.other.as_ref()?;
        // One that has no identity, or had none, is only known by its part.
        let is_other = match (store.own.identity.as_str(), known.identity.as_str()) {
            ("", _) | (_, "") => known.part != store.own.part,
            (identity, known) => identity != known,
        };
        let named = |known: &Known| match (known.identity.as_str(), known.part.as_str()) {
            ("", part) => format!("{}, {part}, no identity yet", known.address),
            (identity, part) => format!("{}, {part}, identity {identity}", known.address),
        };
        is_other.then(|| {
            format!(
                "pipeline `{pipeline}` has other stores: {} remembers {}, and {} is {}; give this pipeline another name, or, if it is \
                 to move here for good, stop its workers and delete {}",
                by.place,
                named(known),
                store.place,
                named(&store.own),
                by.remembered_in,
            )
        })
    };
    differs(one, other).or_else(|| differs(other, one))
}

/// 128 random bits as 32 hexadecimal digits.
#[must_use]
pub fn random_identity() -> String {
    format!("{:016x}{:016x}", env::random::number(), env::random::number())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(identity: &str, part: &str) -> Known {
        Known {
            identity: identity.to_owned(),
            address: format!("address-{identity}"),
            part: part.to_owned(),
            incarnation: String::new(),
        }
    }

    fn ties(identity: &str, part: &str, other: Option<Known>) -> Ties {
        Ties {
            own: known(identity, part),
            place: format!("the place of {identity}"),
            other,
            remembered_in: "somewhere".to_owned(),
            routes: Vec::new(),
            lineage: 0,
        }
    }

    #[test]
    fn what_is_missing_is_a_loss_and_what_is_another_one_is_refused() {
        let identities = ["", "own", "other"];
        let parts = ["0", "3"];
        for zookeeper in identities {
            for redis in identities {
                for part in parts {
                    for known_redis in [None, Some(known("own", "0"))] {
                        for known_zookeeper in [None, Some(known("own", "/"))] {
                            let is_redis_another =
                                known_redis.is_some() && (redis == "other" || (redis.is_empty() && part == "3"));
                            let is_zookeeper_another = known_zookeeper.is_some() && zookeeper == "other";
                            let one = ties(zookeeper, "/", known_redis.clone());
                            let other = ties(redis, part, known_zookeeper.clone());
                            let found = difference("p", &one, &other);
                            assert_eq!(found.is_some(), is_redis_another || is_zookeeper_another, "{one:?} {other:?}");
                            assert_eq!(found.is_some(), difference("p", &other, &one).is_some());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_store_that_had_no_identity_when_it_was_remembered_is_none_other() {
        let one = ties("zk", "/", Some(known("", "0")));
        assert_eq!(difference("p", &one, &ties("now", "0", None)), None);
        assert!(difference("p", &one, &ties("now", "3", None)).is_some(), "another database");
    }

    #[test]
    fn the_difference_names_both_stores_and_what_to_do() {
        let one = ties("zk", "/", Some(known("before", "0")));
        let found = difference("p", &one, &ties("now", "0", None)).unwrap_or_default();
        for word in ["`p`", "address-before", "identity before", "the place of now", "identity now", "delete somewhere"]
        {
            assert!(found.contains(word), "{word}: {found}");
        }
        assert!(found.len() < 1_000);
    }

    #[test]
    fn identities_are_random() {
        let all: env::Set<String> = (0..1_000).map(|_| random_identity()).collect();
        assert_eq!(all.len(), 1_000);
        assert!(all.iter().all(|one| one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
