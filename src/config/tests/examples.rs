//! The examples in `pipelines/`: each loads, says what its name says, and has a range of its own.

use super::super::*;
use super::no_env;
use crate::change::Side;
use crate::env::Set;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

fn example(name: &str) -> Pipeline {
    let path = folder().join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let pipeline = parse(&path, &text, &no_env).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(format!("{}.yaml", pipeline.name), name, "a pipeline is called as its file");
    pipeline
}

#[test]
fn every_example_loads_and_flows_as_its_name_says() {
    for (name, flow) in [
        ("two-way-settings.yaml", Flow::Both(Side::Zookeeper)),
        ("cache-fill.yaml", Flow::From(Side::Zookeeper)),
        ("redis-to-zookeeper.yaml", Flow::From(Side::Redis)),
        ("capture.yaml", Flow::Capture(Side::Zookeeper)),
    ] {
        let pipeline = example(name);
        assert_eq!(pipeline.routes.iter().map(|route| route.flow).collect::<Vec<_>>(), [flow], "{name}");
        let written = echo(&pipeline);
        assert_eq!(echo(&parse(&pipeline.file, &written, &no_env).unwrap()), written, "{name}");
    }
}

#[test]
fn no_two_examples_share_a_range() {
    let (mut roots, mut prefixes) = (Set::default(), Set::default());
    let mut examples = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let pipeline = example(&entry.unwrap().file_name().into_string().unwrap());
        let map = RouteMap::new(&pipeline.route_specs()).unwrap();
        map.roots().into_iter().for_each(|root| assert!(roots.insert(root.clone()), "{root}"));
        map.key_prefixes().into_iter().for_each(|prefix| assert!(prefixes.insert(prefix), "{}", pipeline.name));
        examples += 1;
    }
    assert!(examples >= 4);
}
