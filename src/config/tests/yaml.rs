//! YAML: what of it a pipeline file may use, and that nothing in a file can make the reader
//! stumble.

use super::super::*;
use super::{changed, no_env, problem, problems, short, with_top};
use proptest::prelude::*;

#[test]
fn anchors_aliases_tags_and_merge_keys_are_refused() {
    for (from, to, expected) in [
        ("pipeline: p", "pipeline: &name p", "anchors (`&name`) are not part of a pipeline file"),
        ("pipeline: p", "pipeline: !!str p", "tags (`!name`) are not part of a pipeline file"),
        ("pipeline: p", "pipeline: p\n<<: {worker: {}}", "merge keys (`<<`) are not part of a pipeline file"),
    ] {
        assert!(problem(&changed(from, to)).contains(expected), "{to}");
    }
    let text = changed("pipeline: p", "pipeline: &name p").replace("name: settings", "name: *name");
    let found: Vec<String> = problems(&text).iter().map(short).collect();
    assert!(found.iter().any(|problem| problem.contains("aliases (`*name`) are not part")), "{found:?}");
}

#[test]
fn what_is_not_yaml_is_one_error_with_its_place() {
    for (text, expected) in [
        ("version: 1\n\tpipeline: p\n", "1:10 this is not YAML: "),
        ("version: [1, 2\n", "2:1 this is not YAML: "),
        ("version: \"1\n", "1:10 this is not YAML: "),
        ("a: b: c\n", "1:5 this is not YAML: "),
        ("a: 1\n---\nb: 2\n", "2:1 a pipeline file is one YAML document"),
        ("", "1:1 the file is empty"),
        ("# nothing but a comment\n", "1:1 the file is empty"),
        ("- a\n", "1:1 the file is a list, expected a mapping"),
        ("text\n", "1:1 the file is a text, expected a mapping"),
        ("a: 1\0\nb: 2\n", "1:5 a control character"),
        ("a: \u{85}\n", "1:4 a control character"),
    ] {
        let found = problems(text);
        let found: Vec<String> = found.iter().map(short).collect();
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{text:?}: {found:?}");
    }
}

#[test]
fn an_unquoted_variable_inside_braces_is_told_to_be_quoted() {
    let text = changed("\"zk1:2181\"", "${ZOOKEEPER}");
    assert!(problem(&text).ends_with("| quote a variable inside `{ }` and `[ ]`: `\"${NAME}\"`"), "{}", problem(&text));
}

#[test]
fn an_unquoted_wildcard_at_the_beginning_is_told_to_be_quoted() {
    for pattern in ["**", "*:x"] {
        let text = changed("\"settings:**\"", pattern);
        let found: Vec<String> = problems(&text).iter().map(short).collect();
        assert!(found.iter().any(|problem| problem.contains("needs quotes")), "{found:?}");
    }
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
    assert!(problem(&deep).contains("nested more than 32 deep"));
    let deep = "- ".repeat(100_000);
    assert!(problem(&deep).contains("nested more than 32 deep"));
    let large = format!("{}# {}", with_top(""), "x".repeat(1 << 20));
    assert_eq!(problem(&large), "1:1 a pipeline file has at most 1024 KiB");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_stumble(text in "\\PC{0,80}") {
        let _ = parse(Path::new("test.yaml"), &text, &no_env).map_err(|problems| problems.to_string());
    }

    #[test]
    fn a_damaged_file_is_read_or_told_what_is_wrong(
        at in 0_usize..400,
        length in 0_usize..20,
        put in "[\\-a-z:{}\\[\\]\"'#&*!|>%@`$ \n\t\u{e9}]{0,6}",
    ) {
        let text: Vec<char> = with_top("worker: {reconcile: \"${A:-60s}\"}\n").chars().collect();
        let at = at.min(text.len());
        let behind = text.iter().skip(at + length);
        let damaged: String = text.iter().take(at).copied().chain(put.chars()).chain(behind.copied()).collect();
        if let Err(problems) = parse(Path::new("test.yaml"), &damaged, &no_env) {
            prop_assert!(!problems.is_empty());
            for problem in &problems {
                prop_assert!(problem.line >= 1 && problem.column >= 1);
                prop_assert!(problem.line <= damaged.lines().count() + 1, "{}", problem);
            }
            prop_assert!(!problems.to_string().is_empty());
        }
    }
}
