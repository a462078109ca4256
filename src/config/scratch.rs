//! A store at another address than the file's, from `--url`.

use super::address::{self, UrlFault};
use super::model::{Pipeline, Secret};
use crate::change::Side;

/// The pipeline with one store at this address instead of its own, and whether it is another store.
/// Errors do not quote the address: it may hold a password.
///
/// # Errors
/// The fault of the address, one sentence.
pub fn with_store_at(pipeline: &Pipeline, side: Side, url: &str) -> Result<(Pipeline, bool), String> {
    let mut changed = pipeline.clone();
    let mut is_other = false;
    match side {
        Side::Redis => {
            let form = "the address of a scratch store has the form redis://[[user]:password@]HOST[:PORT][/DATABASE]";
            let url = address::redis_url(url).map_err(|fault| match fault {
                UrlFault::Later(scheme) => format!("{form}; {scheme} is not supported yet"),
                UrlFault::Bad(reason) => format!("{form}: {reason}"),
            })?;
            if let Some(store) = &mut changed.redis {
                is_other = (&store.host, store.port, store.database) != (&url.host, url.port, url.database);
                (store.host, store.port, store.database) = (url.host, url.port, url.database);
                (store.username, store.password) = (url.username, url.password.map(Secret::new));
            }
        }
        Side::Zookeeper => {
            let connect = address::connect(url).map_err(|reason| {
                format!("the address of a scratch ensemble has the form HOST:PORT[,HOST:PORT…][/CHROOT]: {reason}")
            })?;
            if let Some(store) = &mut changed.zookeeper {
                is_other = store.connect != connect;
                store.connect = connect;
            }
        }
    }
    Ok((changed, is_other))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop")]
mod tests {
    use super::*;
    use std::path::Path;

    fn pipeline() -> Pipeline {
        let text = "version: 1\npipeline: p\nstores:\n  zk: {zookeeper: {connect: \"a:1\"}}\n  cache: {redis: {url: \"redis://b:2/3\"}}\n\
                    routes:\n  - {name: r, flow: zk <-> cache, match: {zk: /s/**, cache: \"s:**\"}}\n";
        super::super::parse(Path::new("p.yaml"), text, &|_| None).unwrap()
    }

    #[test]
    fn a_store_elsewhere_is_another_one_and_its_own_address_is_not() {
        let (changed, is_other) = with_store_at(&pipeline(), Side::Redis, "redis://c:4/5").unwrap();
        let store = changed.redis.unwrap();
        assert_eq!((store.name.as_str(), store.host.as_str(), store.port, store.database), ("cache", "c", 4, 5));
        assert!(is_other);
        assert!(!with_store_at(&pipeline(), Side::Redis, "redis://b:2/3").unwrap().1);
        let (changed, is_other) = with_store_at(&pipeline(), Side::Zookeeper, "a:1/scratch").unwrap();
        assert!(is_other && changed.zookeeper.unwrap().connect == "a:1/scratch");
    }

    #[test]
    fn an_address_that_is_none_is_refused_and_not_quoted() {
        let error = with_store_at(&pipeline(), Side::Redis, "http://me:s3cret@c").unwrap_err();
        assert!(error.contains("redis://") && !error.contains("s3cret"), "{error}");
        assert!(with_store_at(&pipeline(), Side::Zookeeper, "a").is_err());
    }
}
