//! What the Redis source is told: whatever comes, it names the key that was told of, or nothing.

use super::draw::Draw;
use keepstep::store::redis::notification::{Notice, read};
use redis::{PushInfo, PushKind, Value};

pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    let database = draw.below(3);
    let prefix = format!("__keyspace@{database}__:").into_bytes();
    match draw.below(3) {
        0 => told(&mut draw, &prefix),
        1 => invalidated(&mut draw, &prefix),
        _ => anything(&mut draw, &prefix),
    }
}

fn notices(prefix: &[u8], push: PushInfo) -> Vec<Notice> {
    let mut notices = Vec::new();
    read(prefix, push, &mut |notice| notices.push(notice));
    notices
}

/// A message as Redis sends it, on our channel or on another.
fn told(draw: &mut Draw<'_>, prefix: &[u8]) {
    let is_ours = draw.flag();
    let event = match draw.below(8) {
        0 => draw.bytes(),
        1 => b"new".to_vec(),
        2 => b"keymiss".to_vec(),
        _ => draw.one_of(&["set", "del", "expired", "evicted", "rename_to"]).as_bytes().to_vec(),
    };
    let key = draw.0.to_vec();
    let channel = [if is_ours { prefix } else { b"__keyspace@77__:" }, &key].concat();
    let text = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
    let pattern = b"__keyspace@*".to_vec();
    let data = vec![text(&pattern), text(&channel), text(&event)];
    let notices = notices(prefix, PushInfo { kind: PushKind::PMessage, data });
    let says_nothing = !is_ours || event == b"new" || event == b"keymiss";
    if says_nothing {
        assert_eq!(notices, []);
    } else {
        let event = String::from_utf8(event).ok();
        assert_eq!(notices, [Notice::Event { pattern, key, event }]);
    }
}

/// Keys of an invalidation, or none for a flush.
fn invalidated(draw: &mut Draw<'_>, prefix: &[u8]) {
    let keys: Option<Vec<Vec<u8>>> = draw.maybe(|draw| (0..draw.below(4)).map(|_| draw.bytes()).collect());
    let data = match &keys {
        None => Value::Nil,
        Some(keys) => Value::Array(keys.iter().map(|key| Value::BulkString(key.clone())).collect()),
    };
    let wanted = match keys {
        None => vec![Notice::Everything],
        Some(keys) => keys.into_iter().map(Notice::Invalidated).collect(),
    };
    assert_eq!(notices(prefix, PushInfo { kind: PushKind::Invalidate, data: vec![data] }), wanted);
}

/// Any push that the protocol's reader takes for one: read without a stumble.
fn anything(draw: &mut Draw<'_>, prefix: &[u8]) {
    let bytes = [b">", draw.0].concat();
    if let Ok(Value::Push { kind, data }) = redis::parse_redis_value(&bytes) {
        for notice in notices(prefix, PushInfo { kind, data }) {
            assert!(
                !matches!(notice, Notice::Event { event: Some(event), .. } if event == "new" || event == "keymiss")
            );
        }
    }
}
