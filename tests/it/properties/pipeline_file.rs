//! The pipeline file: whatever it holds, it is read, or every problem has its place; and an echo reads as what it echoes.

use keepstep::config;
use std::path::Path;

/// Some of the bytes choose the file's frame, so that what is behind the first mistake is reached, too.
pub fn check(data: &[u8]) {
    let Some((frame, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let head = "version: 1\npipeline: p\nstores:\n  zk: {zookeeper: {connect: \"h:1\"}}\n  cache: {redis: {url: \"redis://h:1\"}}\n";
    let route = "routes:\n- name: r\n  flow: zk <-> cache\n  match: {zk: \"/a/**\", cache: \"a:**\"}\n";
    match frame % 4 {
        0 => read(text),
        1 => read(&format!("{head}{route}{text}")),
        2 => read(&format!("{head}{route}  {text}\n")),
        _ => read(&format!("{head}{text}\n{route}")),
    }
}

fn read(text: &str) {
    let environment = |name: &str| (name == "SET").then(|| "value".to_owned());
    match config::parse(Path::new("fuzz.yaml"), text, &environment) {
        Ok(pipeline) => {
            let echo = config::echo(&pipeline);
            // A secret is masked in an echo, so that one with a secret does not stand for itself.
            if !echo.contains("password") && !echo.contains("auth") && !echo.contains("sasl") {
                let again = config::parse(Path::new("fuzz.yaml"), &echo, &environment);
                let again = again.unwrap_or_else(|problems| panic!("{problems}\nin the echo\n{echo}\nof\n{text}"));
                assert_eq!(config::echo(&again), echo, "the echo of an echo");
            }
        }
        Err(problems) => {
            assert!(!problems.to_string().is_empty(), "no reason given");
        }
    }
}
