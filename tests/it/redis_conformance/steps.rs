//! The random steps that go to both servers: commands on few names with few values, and every script.

use fastrand::Rng;
use keepstep::change::Digest;
use keepstep_doubles::redis::scripts;
use std::collections::BTreeMap;

pub const KEYS: [&str; 3] = ["s:a", "s:ab", "s:c"];
pub const BUCKETS: [&str; 2] = ["_keepstep:t:{1}", "_keepstep:t:{2}"];
pub const STATE: &str = "_keepstep:t";
pub const CLAIM: &str = "_keepstep::claim:t";
pub const VALUES: [&str; 5] = ["1", "two", "", "a-value-of-twenty-five-by", "7"];
pub const FLAGS: [&str; 6] = ["KA", "KAn", "KEA", "Kg$xe", "", "Kx"];
pub const PATTERNS: [&str; 4] = ["__keyspace@0__:s:*", "__keyspace@0__:s:a*", "__key*__:*", "news"];

pub type Words = Vec<Vec<u8>>;

pub fn words(parts: &[&str]) -> Words {
    parts.iter().map(|part| part.as_bytes().to_vec()).collect()
}

pub fn shown(words: &Words) -> String {
    words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>().join(" ")
}

/// What to do next.
pub enum Step {
    Run(usize, Words),
    /// One behind the other.
    Pipeline(usize, Vec<Words>),
    /// Its time comes soon, and passes.
    Expire(&'static str),
}

pub fn one_of<'a>(rng: &mut Rng, all: &[&'a str]) -> &'a str {
    all[rng.usize(0..all.len())]
}

pub fn digest(rng: &mut Rng, held: &BTreeMap<String, String>, key: &str) -> String {
    let of = |value: &str| Digest::of(value.as_bytes()).hex();
    match rng.u8(0..6) {
        0 => String::new(),
        1 => of(one_of(rng, &VALUES)),
        _ => held.get(key).map(|value| of(value)).unwrap_or_default(),
    }
}

/// A sidecar: bytes with a sequence in the place where COMPLETE looks for it.
pub fn sidecar(rng: &mut Rng) -> Vec<u8> {
    if rng.u8(0..4) == 0 {
        return Vec::new();
    }
    let mut entry = vec![1, 3];
    entry.extend(rng.u32(0..4).to_be_bytes());
    entry
}

/// What is known of the real server's state, so that what a script expects is often there.
#[derive(Default)]
pub struct Known {
    pub values: BTreeMap<String, String>,
    pub sidecars: BTreeMap<(String, String), Vec<u8>>,
    pub is_full: bool,
    pub is_replica: bool,
    pub is_short: bool,
}

pub fn evalsha(name: &str, keys: &[&str], arguments: Words) -> Words {
    let script = scripts::ALL.iter().find(|script| script.name == name).unwrap();
    let mut all = words(&["EVALSHA", script.sha, &keys.len().to_string()]);
    all.extend(words(keys));
    all.extend(arguments);
    all
}

pub fn script(rng: &mut Rng, known: &Known) -> Words {
    let epoch = one_of(rng, &["1", "2", "3"]).to_owned();
    let nonce = one_of(rng, &["7", "8", ""]).to_owned();
    let pairs: Vec<(&str, &str)> =
        (0..rng.usize(1..3)).map(|number| (KEYS[(number + rng.usize(0..2)) % 3], one_of(rng, &BUCKETS))).collect();
    let both: Vec<&str> = pairs.iter().flat_map(|(key, bucket)| [*key, *bucket]).collect();
    let keys: Vec<&str> = pairs.iter().map(|(key, _)| *key).collect();
    let large = one_of(rng, &["20", "1000"]);
    let text = |text: &str| text.as_bytes().to_vec();
    match rng.u8(0..20) {
        0..=4 => {
            let sizes = [one_of(rng, &["5", "1000"]), one_of(rng, &["2", "100"]), large];
            evalsha("OBSERVE", &both, [words(&[&epoch, &nonce]), words(&sizes)].concat())
        }
        5..=10 => {
            let mut arguments = words(&[&epoch, if nonce.is_empty() { "9" } else { &nonce }, large]);
            let mut keys = Vec::new();
            for (key, bucket) in &pairs {
                let held = known.sidecars.get(&((*bucket).to_owned(), (*key).to_owned())).cloned().unwrap_or_default();
                let entry = if rng.u8(0..4) == 0 { sidecar(rng) } else { held };
                let channel = one_of(rng, &["", "", "news", "secret"]);
                let op = one_of(rng, &["s", "s", "d", "n"]);
                keys.extend([if op == "n" { *bucket } else { *key }, *bucket]);
                arguments.push(text(op));
                arguments.push(digest(rng, &known.values, key).into_bytes());
                arguments.push(entry);
                arguments.push(text(one_of(rng, &["", "", "7", "8"])));
                arguments.push(text(if op == "n" { key } else { one_of(rng, &VALUES) }));
                arguments.push(sidecar(rng));
                arguments.extend(words(&[channel, "a message"]));
            }
            evalsha(one_of(rng, &["APPLY", "APPLY", "APPLY_FREEING"]), &keys, arguments)
        }
        11 | 12 => {
            let buckets: Vec<&str> = pairs.iter().map(|(_, bucket)| *bucket).collect();
            let mut arguments = words(&[&epoch]);
            for (key, _) in &pairs {
                arguments.extend(words(&[key, one_of(rng, &["7", "8"]), one_of(rng, &["0", "1", "2", "3"])]));
                arguments.push(sidecar(rng));
            }
            evalsha("COMPLETE", &buckets, arguments)
        }
        13 => evalsha("LOOK", &keys, words(&[one_of(rng, &["5", "1000"]), one_of(rng, &["2", "100"]), large])),
        14 | 15 => {
            let mut arguments = words(&[large]);
            for key in &keys {
                let expect = digest(rng, &known.values, key);
                arguments.extend(words(&[one_of(rng, &["s", "d"]), &expect, one_of(rng, &VALUES)]));
            }
            evalsha(one_of(rng, &["EDIT", "EDIT_FREEING"]), &keys, arguments)
        }
        16 | 17 => {
            let mut arguments = words(&[&epoch, one_of(rng, &["1", "2"])]);
            for _ in 0..rng.usize(0..4) {
                let number = [rng.u64(0..12), (1 << 53) + rng.u64(0..3)][rng.usize(0..2)];
                let change = match rng.u8(0..5) {
                    0 => ["r".to_owned(), "zxid".to_owned(), number.to_string()],
                    1 => ["s".to_owned(), "canary".to_owned(), rng.u64(0..3).to_string()],
                    2 => ["e".to_owned(), "canary".to_owned(), one_of(rng, &["", "0", "1 2"]).to_owned()],
                    rule => {
                        let milestone = format!("{}:{}", rng.u8(1..3), rng.u8(8..12));
                        [if rule == 3 { "m" } else { "h" }.to_owned(), "milestone".to_owned(), milestone]
                    }
                };
                arguments.extend(change.map(String::into_bytes));
            }
            evalsha("STATE", &[STATE], arguments)
        }
        18 => {
            let claims = [one_of(rng, &["mine", "other"]), "600000", one_of(rng, &["mine", "mine again"])];
            evalsha("KEEP", &[CLAIM], words(&claims))
        }
        _ if rng.bool() => evalsha("GIVE_UP", &[CLAIM], words(&[one_of(rng, &["mine", "mine again"])])),
        _ => {
            let asked = ["2 GET s:a", "2 GET other", "3 SET s:ab v", "2 PERSIST s:a", "1 NONESUCH", "3 PUBLISH news m"];
            let asked = (0..3).map(|_| words(&one_of(rng, &asked).split(' ').collect::<Vec<_>>())).collect::<Vec<_>>();
            evalsha("MAY", &[], asked.concat())
        }
    }
}

pub fn plainly(rng: &mut Rng, known: &mut Known) -> Words {
    let (key, value) = (one_of(rng, &KEYS), one_of(rng, &VALUES));
    let name = if rng.u8(0..8) == 0 { one_of(rng, &BUCKETS) } else { key };
    // Far in the future, so that both clocks agree.
    let far = (4_000_000_000_000 + rng.u64(0..3)).to_string();
    let parts: Vec<&str> = match rng.u8(0..45) {
        0..=5 => vec!["SET", name, value],
        6 => vec!["SET", name, value, "PXAT", &far],
        7 => vec!["SET", name, value, one_of(rng, &["NX", "XX", "KEEPTTL"])],
        8 | 9 => vec!["DEL", name, one_of(rng, &KEYS)],
        10 => vec!["MSET", "s:a", value, "s:c", "1"],
        11 => vec!["APPEND", name, value],
        12 => vec!["INCR", key],
        13 => vec!["RPUSH", name, value],
        14 => vec!["HSET", name, "f", value, one_of(rng, &["f", "g"]), "2"],
        15 => vec!["HDEL", name, "f", "g"],
        16 => vec!["SADD", name, value, "2"],
        17 => vec!["SREM", name, value, "2"],
        18 => vec!["PEXPIREAT", name, &far],
        19 => vec!["PEXPIREAT", name, "1000"],
        20 => vec!["PERSIST", name],
        21 => vec!["RENAME", key, one_of(rng, &KEYS)],
        22 => vec!["GET", name],
        23 => vec!["STRLEN", name],
        24 => vec!["TYPE", name],
        25 => vec!["PEXPIRETIME", key],
        26 => vec!["EXISTS", "s:a", name],
        27 => vec!["HMGET", name, "f", "none", "_keepstep:e"],
        28 => vec!["HKEYS", name],
        29 => vec!["SMEMBERS", name],
        30 => vec!["PUBLISH", one_of(rng, &["news", "secret"]), value],
        31 => vec!["DBSIZE"],
        32 => vec!["CONFIG", "SET", "notify-keyspace-events", one_of(rng, &FLAGS)],
        33 => vec!["PSUBSCRIBE", one_of(rng, &PATTERNS)],
        34 => vec!["PUNSUBSCRIBE", one_of(rng, &PATTERNS)],
        35 => vec!["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", one_of(rng, &["s:", "s:a", "_keepstep:"])],
        36 if rng.bool() => vec!["CLIENT", "TRACKING", "OFF"],
        37 if rng.u8(0..4) == 0 => vec![one_of(rng, &["FLUSHDB", "FLUSHALL"])],
        38 if rng.u8(0..4) == 0 => vec!["SWAPDB", "0", "1"],
        39 if rng.u8(0..4) == 0 => vec!["SCRIPT", "FLUSH"],
        // What keeps writes away does not last.
        40 => {
            known.is_full = !known.is_full && rng.bool();
            vec!["CONFIG", "SET", "maxmemory", if known.is_full { "1" } else { "0" }]
        }
        41 => {
            known.is_replica = !known.is_replica && rng.bool();
            if known.is_replica { vec!["REPLICAOF", "127.0.0.1", "1"] } else { vec!["REPLICAOF", "NO", "ONE"] }
        }
        42 => {
            known.is_short = !known.is_short && rng.bool();
            vec!["CONFIG", "SET", "min-replicas-to-write", if known.is_short { "1" } else { "0" }]
        }
        43 => vec!["NONESUCH", name],
        44 => vec!["SET", name, value, "PXAT", "1000"],
        _ => vec!["GET", key, "too many"][..2].to_vec(),
    };
    words(&parts)
}

pub fn step(rng: &mut Rng, known: &mut Known) -> Step {
    let at = [0, 0, 1, 1, 2][rng.usize(0..5)];
    let is_held = known.is_full || known.is_replica || known.is_short;
    match rng.u8(0..40) {
        0 => Step::Expire(one_of(rng, &KEYS)),
        1 | 2 => Step::Pipeline(at, (0..3).map(|_| simple(rng)).collect()),
        3..=18 => Step::Run(at, script(rng, known)),
        // What is held back for long shows nothing.
        19..=22 if is_held => Step::Run(0, relief(known)),
        _ => {
            let words = plainly(rng, known);
            // The settings are changed by whoever may.
            let at = if matches!(&words[0][..], b"CONFIG" | b"REPLICAOF" | b"SCRIPT") { 0 } else { at };
            Step::Run(at, words)
        }
    }
}

pub fn simple(rng: &mut Rng) -> Words {
    let key = one_of(rng, &KEYS);
    words(&match rng.u8(0..3) {
        0 => vec!["SET", key, one_of(rng, &VALUES)],
        1 => vec!["DEL", key],
        _ => vec!["GET", key],
    })
}

pub fn relief(known: &mut Known) -> Words {
    if std::mem::take(&mut known.is_full) {
        words(&["CONFIG", "SET", "maxmemory", "0"])
    } else if std::mem::take(&mut known.is_replica) {
        words(&["REPLICAOF", "NO", "ONE"])
    } else {
        known.is_short = false;
        words(&["CONFIG", "SET", "min-replicas-to-write", "0"])
    }
}
