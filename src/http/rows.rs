//! Quarantined pairs as JSON rows.

use crate::change::Pair;
use crate::codec::json::{self, StoreNames};
use crate::pipeline::control::{PipelineStatus, Quarantined};
use serde_json::{Value, json};

/// The names of the stores in the pipeline file, from a status.
#[must_use]
pub fn names(status: &PipelineStatus) -> StoreNames {
    let named = |kind| status.stores.iter().find(|store| store.kind == kind).map(|store| store.name.clone());
    StoreNames { zookeeper: named("zookeeper"), redis: named("redis") }
}

/// `{"route":…,"pair":{"zk":…,"cache":…},"reason":…,"detail":…,"since_ms":…}`.
#[must_use]
pub fn quarantined(row: &Quarantined, names: &StoreNames) -> Value {
    let pair = Pair { zookeeper: row.zookeeper.clone(), redis: row.redis.clone() };
    json!({
        "route": row.route, "pair": json::pair(&pair, names), "reason": row.reason, "detail": row.detail,
        "since_ms": row.since_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(redis: Option<&[u8]>) -> Quarantined {
        Quarantined {
            route: "settings".to_owned(),
            zookeeper: Some("/settings/a".to_owned()),
            redis: redis.map(<[u8]>::to_vec),
            reason: "too_large".to_owned(),
            detail: "1,500,000 bytes".to_owned(),
            since_ms: 17,
        }
    }

    fn names() -> StoreNames {
        StoreNames { zookeeper: Some("zk".to_owned()), redis: Some("cache".to_owned()) }
    }

    #[test]
    fn a_row_has_the_fields_of_the_contract_in_their_order() {
        let expected = r#"{"route":"settings","pair":{"zk":"/settings/a","cache":"settings:a"},"reason":"too_large","detail":"1,500,000 bytes","since_ms":17}"#;
        assert_eq!(quarantined(&row(Some(b"settings:a")), &names()).to_string(), expected);
    }

    #[test]
    fn a_name_that_is_not_utf8_is_base64() {
        let value = quarantined(&row(Some(&[0xff, 0xfe])), &names());
        assert_eq!(value.pointer("/pair/cache/base64"), Some(&Value::from("//4=")));
    }

    #[test]
    fn a_name_that_the_pair_lacks_is_null_and_a_store_that_is_not_declared_is_absent() {
        let value = quarantined(&row(None), &names());
        assert_eq!(value.pointer("/pair/cache"), Some(&Value::Null));
        let only = StoreNames { zookeeper: Some("zk".to_owned()), redis: None };
        let value = quarantined(&row(None), &only);
        assert_eq!(value.get("pair").and_then(Value::as_object).map(serde_json::Map::len), Some(1));
    }
}
