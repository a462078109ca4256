//! Secrets: from the environment or a file, never inline, and never shown.

use super::super::*;
use super::{changed, no_env, problem, read};

const CANARY: &str = "hunter2";

/// Everything that could end up on a screen.
fn shown(problems: &Problems) -> String {
    format!("{problems}\n{problems:?}\n{}", serde_json::to_string(problems).unwrap())
}

#[test]
fn a_secret_comes_from_a_file_beside_the_pipeline_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    for (content, expected) in
        [("hunter2\n", "hunter2"), ("hunter2\r\n", "hunter2"), ("hunter2\n\n", "hunter2\n"), (" a b ", " a b ")]
    {
        std::fs::write(folder.path().join("secrets/redis"), content).unwrap();
        let text = changed("\"redis://cache\"", "\"redis://cache\", password: {file: secrets/redis}");
        let pipeline = parse(&folder.path().join("p.yaml"), &text, &no_env).unwrap();
        assert_eq!(pipeline.redis.unwrap().password.unwrap().reveal(), expected);
    }
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    std::fs::write(folder.path().join("binary"), b"\xff").unwrap();
    for (file, expected) in [
        ("missing", "cannot be read"),
        ("empty", "is empty"),
        ("binary", "is not UTF-8"),
        ("secrets", "is no regular file"),
        ("/dev/zero", "is no regular file"),
    ] {
        let text = changed("\"redis://cache\"", &format!("\"redis://cache\", password: {{file: {file}}}"));
        let found = parse(&folder.path().join("p.yaml"), &text, &no_env).unwrap_err().to_string();
        assert!(found.contains(&format!("the secret file `{file}` {expected}")), "{found}");
    }
}

#[test]
fn a_secret_without_a_value_is_an_error() {
    let text = changed("\"redis://cache\"", "\"redis://cache\", password: {env: REDIS_PASSWORD}");
    assert_eq!(problem(&text), "5:57 the variable `REDIS_PASSWORD` has no value");
    let empty = |_: &str| Some(String::new());
    assert!(parse(Path::new("test.yaml"), &text, &empty).is_err());
    for form in ["{}", "{env: A, file: b}", "{enw: A}", "", "[a]"] {
        let text = changed("\"redis://cache\"", &format!("\"redis://cache\", password: {form}"));
        assert!(shown(&read(&text).unwrap_err()).contains("`{env: NAME}`") || form == "{enw: A}", "{form}");
    }
}

#[test]
fn a_digest_is_a_user_and_a_password() {
    let text = changed("\"zk1:2181\"", "\"zk1:2181\", auth: {digest: {env: ZK_AUTH}}");
    let with = |value: &'static str| parse(Path::new("test.yaml"), &text, &move |_| Some(value.to_owned()));
    assert_eq!(with("me:pw:x").unwrap().zookeeper.unwrap().digest.unwrap().reveal(), "me:pw:x");
    for value in [CANARY, ":hunter2"] {
        let found = shown(&with(value).unwrap_err());
        assert!(found.contains("not of the form `user:password`") && !found.contains(CANARY), "{found}");
    }
}

#[test]
fn an_inline_secret_is_an_error_that_does_not_quote_it() {
    let redis = "\"redis://cache\"";
    let zookeeper = "\"zk1:2181\"";
    for (from, to) in [
        (redis, "\"redis://cache\", password: hunter2"),
        (redis, "\"redis://cache\", password: \"hunter2\", sorce: keyspace"),
        (redis, "\"redis://cache\", pasword: hunter2"),
        (redis, "\"redis://cache\", Password: hunter2"),
        (redis, "\"redis://cache\", passwd: [hunter2]"),
        (redis, "\"redis://cache\", password: {value: hunter2}"),
        (redis, "\"redis://cache\", password: {env: {name: hunter2}}"),
        (redis, "\"redis://cache\", auth: hunter2"),
        (redis, "\"redis://:hunter2@cache\", sorce: keyspace"),
        (redis, "\"redis://me:hunter2@cache/x\""),
        (redis, "\"redis://me:hun@ter2hunter2@cache/x\""),
        (redis, "\"redis://:hunter2\""),
        (redis, "\":hunter2@cache\""),
        (redis, "\"rediss://:hunter2@cache\""),
        (redis, "\"http://:hunter2@cache\""),
        (redis, "[\"redis://:hunter2@a\", \"redis://:hunter2@b\"]"),
        (redis, "\"${REDIS:-redis://:hunter2@cache/x}\""),
        (zookeeper, "\"me:hunter2@zk1:2181\""),
        (zookeeper, "\"zk1:hunter2\""),
        (zookeeper, "\"zk1:2181\", auth: {digest: \"me:hunter2\"}"),
        (zookeeper, "\"zk1:2181\", auth: {digset: \"me:hunter2\"}"),
        (zookeeper, "\"zk1:2181\", auth: \"me:hunter2\""),
        (zookeeper, "\"zk1:2181\", auth: {sasl: {user: me, password: hunter2}}"),
        ("pipeline: p", "pipeline: redis://:hunter2@cache"),
        ("pipeline: p", "pipeline: p\npassword: hunter2"),
        ("pipeline: p", "pipeline: p\npassword: |\n  hunter2\n  hunter2"),
        ("pipeline: p", "pipeline: p\npassword hunter2"),
        ("pipeline: p", "pipeline: p\npassword: \"hunter2"),
        ("pipeline: p", "pipeline: p\npassword: @hunter2"),
    ] {
        let found = shown(&read(&changed(from, to)).unwrap_err());
        assert!(!found.contains(CANARY), "{to}\n{found}");
    }
}

#[test]
fn a_masked_line_still_shows_where_the_error_is() {
    for (to, shown, marked) in [
        ("\"redis://:hunter2@cache\", topology: x", "{url: \"redis://***@cache\", topology: x}", "x"),
        ("\"redis://cache\", password: hunter2", "{url: \"redis://cache\", password: ***}", "***"),
    ] {
        let found = read(&changed("\"redis://cache\"", to)).unwrap_err();
        let snippet = found.iter().next().unwrap().snippet.clone().unwrap();
        assert!(snippet.text.contains(shown), "{found}");
        let mark: String = snippet.text.chars().skip(snippet.indent).take(snippet.width).collect();
        assert_eq!(mark, marked, "{found}");
    }
}

#[test]
fn a_secret_shows_in_no_debug_output_and_in_no_echo() {
    let text = changed("\"redis://cache\"", "\"redis://me:hunter2@cache\"")
        .replace("\"zk1:2181\"", "\"zk1:2181\", auth: {digest: {env: ZK_AUTH}}");
    let pipeline = parse(Path::new("test.yaml"), &text, &|_| Some("me:hunter2".to_owned())).unwrap();
    let everything = format!("{pipeline:?}{}{}", echo(&pipeline), echo_json(&pipeline));
    assert!(!everything.contains(CANARY), "{everything}");
    assert!(echo(&pipeline).contains("password: \"***\"") && echo(&pipeline).contains("auth: {digest: \"***\"}"));
}

#[test]
fn a_password_stands_in_one_place() {
    let env = |_: &str| Some("other".to_owned());
    for (extra, expected) in
        [("password: {env: A}", "a password is given both here"), ("username: you", "the user is given both here")]
    {
        let text = changed("\"redis://cache\"", &format!("\"redis://me:hunter2@cache\", {extra}"));
        let found = shown(&parse(Path::new("test.yaml"), &text, &env).unwrap_err());
        assert!(found.contains(expected) && !found.contains(CANARY), "{found}");
    }
    let text = changed("\"redis://cache\"", "\"redis://me@cache\", password: {env: A}");
    let redis = parse(Path::new("test.yaml"), &text, &env).unwrap().redis.unwrap();
    assert_eq!((redis.username.as_deref(), redis.password.unwrap().reveal()), (Some("me"), "other"));
}
