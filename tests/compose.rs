//! The container files say what the rest of the project says: pinned images, local ports, the same Rust, files that exist.
#![expect(clippy::disallowed_methods, reason = "a test reads real files")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use saphyr_parser::{Event, Parser};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SERVICES: [&str; 4] = ["kafka", "keepstep", "redis", "zookeeper"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The file as `services/redis/ports/0` → `127.0.0.1:6379:6379`.
fn flattened(yaml: &str) -> BTreeMap<String, String> {
    /// An open mapping, with the key that waits for its value, or an open sequence, with the next index.
    enum Open {
        Mapping(Option<String>),
        Sequence(usize),
    }
    let mut leaves = BTreeMap::new();
    let mut open: Vec<Open> = Vec::new();
    fn path(open: &[Open]) -> String {
        let names = open.iter().map(|one| match one {
            Open::Mapping(key) => key.clone().unwrap_or_default(),
            Open::Sequence(index) => index.to_string(),
        });
        names.collect::<Vec<_>>().join("/")
    }
    /// A value is over: the sequence counts on, the mapping waits for its next key.
    fn complete(open: &mut [Open]) {
        match open.last_mut() {
            Some(Open::Mapping(key)) => *key = None,
            Some(Open::Sequence(index)) => *index += 1,
            None => {}
        }
    }
    for event in Parser::new_from_str(yaml) {
        match event.unwrap().0 {
            Event::MappingStart(..) => open.push(Open::Mapping(None)),
            Event::SequenceStart(..) => open.push(Open::Sequence(0)),
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
                complete(&mut open);
            }
            Event::Scalar(text, ..) => {
                if let Some(Open::Mapping(key @ None)) = open.last_mut() {
                    *key = Some(text.into_owned());
                } else {
                    leaves.insert(path(&open), text.into_owned());
                    complete(&mut open);
                }
            }
            Event::Alias(_) => panic!("an alias hides what a service has"),
            _ => {}
        }
    }
    leaves
}

struct Compose(BTreeMap<String, String>);

impl Compose {
    fn read() -> Compose {
        Compose(flattened(&read("docker-compose.yml")))
    }

    /// The leaves below a service's key, e.g. `("redis", "ports")`.
    fn under(&self, service: &str, key: &str) -> Vec<&str> {
        let exact = format!("services/{service}/{key}");
        let below = format!("{exact}/");
        self.0
            .iter()
            .filter(|(path, _)| **path == exact || path.starts_with(&below))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

#[test]
fn the_file_starts_the_servers_and_keepstep_between_them() {
    let compose = Compose::read();
    let mut services: Vec<&str> =
        compose.0.keys().filter_map(|path| path.strip_prefix("services/")?.split('/').next()).collect();
    services.dedup();
    assert_eq!(services, SERVICES);
    for server in ["zookeeper", "redis"] {
        assert_eq!(compose.under("keepstep", &format!("depends_on/{server}/condition")), ["service_healthy"]);
    }
    assert_eq!(compose.under("keepstep", "environment/ZOOKEEPER"), ["zookeeper:2181"]);
    assert_eq!(compose.under("keepstep", "environment/REDIS"), ["redis://redis:6379/0"]);
}

#[test]
fn every_image_has_a_full_version() {
    let compose = Compose::read();
    for service in SERVICES {
        let images = compose.under(service, "image");
        let [image] = images.as_slice() else { panic!("{service} has the images {images:?}") };
        let (_, tag) = image.split_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        let numbers: Vec<&str> = tag.split('.').collect();
        assert!(numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()), "{image}");
    }
}

#[test]
fn every_service_says_when_it_is_healthy() {
    let compose = Compose::read();
    for service in SERVICES {
        assert!(!compose.under(service, "healthcheck/test").is_empty(), "{service}");
    }
}

#[test]
fn ports_are_open_to_this_machine_only() {
    let compose = Compose::read();
    for service in SERVICES {
        let ports = compose.under(service, "ports");
        assert!(!ports.is_empty() && ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{service}: {ports:?}");
    }
}

#[test]
fn volumes_and_the_pipeline_file_exist() {
    let compose = Compose::read();
    for service in SERVICES {
        for volume in compose.under(service, "volumes") {
            let source = volume.split(':').next().unwrap();
            let declared = compose.0.contains_key(&format!("volumes/{source}"));
            let present = source.starts_with("./") && Path::new(env!("CARGO_MANIFEST_DIR")).join(source).is_dir();
            assert!(declared || present, "{service} mounts {source}");
        }
    }
    let command = compose.under("keepstep", "command").join(" ");
    assert!(command.starts_with("run /pipelines/two-way-settings.yaml "), "{command}");
    assert!(compose.under("keepstep", "volumes").contains(&"./pipelines:/pipelines:ro"));
    let pipeline = read("pipelines/two-way-settings.yaml");
    assert!(pipeline.contains("${ZOOKEEPER") && pipeline.contains("${REDIS"));
}

#[test]
fn the_image_is_built_with_the_rust_of_the_project_and_runs_without_root() {
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains(&format!("FROM rust:{version}-bookworm AS build\n")), "{dockerfile}");
    assert!(dockerfile.contains(&format!("ENV RUSTUP_TOOLCHAIN={version}\n")), "{dockerfile}");
    assert!(dockerfile.lines().any(|line| line == "USER keepstep"));
    let manifest = read("Cargo.toml");
    assert!(version.starts_with(
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"')
    ));
    let own = manifest.lines().find_map(|line| line.strip_prefix("version = ")).unwrap().trim_matches('"');
    assert_eq!(Compose::read().under("keepstep", "image"), [format!("keepstep:{own}")]);
}

#[test]
fn what_the_build_reads_is_sent_to_it() {
    let ignored = read(".dockerignore");
    let kept: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    // The crate of the model checker is a dependency of the tests, which cargo resolves whatever it builds.
    for needed in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "src", "schemas", "benches", "tests/model"] {
        assert!(kept.contains(&needed), "{needed} is not sent");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(needed).exists(), "{needed} is not there");
    }
}

#[test]
fn flattening_gives_each_leaf_its_path() {
    let leaves = flattened("a:\n  b: [x, {c: y}]\n  d: z\ne: \"\"\n");
    let seen: Vec<(&str, &str)> = leaves.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect();
    assert_eq!(seen, [("a/b/0", "x"), ("a/b/1/c", "y"), ("a/d", "z"), ("e", "")]);
}
