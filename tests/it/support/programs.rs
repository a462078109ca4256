//! Where the servers' programs are: what `./check` exports, else what lies where `scripts/servers.sh` puts it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The same number as in `scripts/servers.sh`.
const ZOOKEEPER: &str = "zookeeper-3.9.5";
/// The same number as in `scripts/servers.sh`.
const KAFKA: &str = "kafka-4.1.1";

fn cache() -> PathBuf {
    match env::var_os("KEEPSTEP_TEST_CACHE") {
        Some(dir) => dir.into(),
        None => Path::new(&env::var_os("HOME").expect("HOME is set")).join(".cache/keepstep-test"),
    }
}

/// A Python that has confluent-kafka and fastavro.
pub fn python() -> Command {
    let cached = || cache().join("python/bin/python").into_os_string();
    Command::new(env::var_os("KEEPSTEP_TEST_PYTHON").unwrap_or_else(cached))
}

/// `redis-server`, 7.0 or newer.
pub fn redis_server() -> Command {
    let program = env::var_os("KEEPSTEP_TEST_REDIS").unwrap_or_else(|| {
        let cached = cache().join("bin/redis-server");
        if cached.exists() { cached.into() } else { "redis-server".into() }
    });
    Command::new(program)
}

/// A JVM with ZooKeeper on its class path, small enough that several live side by side.
pub fn zookeeper_java() -> Command {
    let class_path = env::var("KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH").unwrap_or_else(|_| {
        let jars = cache().join(ZOOKEEPER);
        let debian = Path::new("/usr/share/java/zookeeper.jar");
        if jars.exists() {
            jars.join("*").display().to_string()
        } else if debian.exists() {
            debian.display().to_string()
        } else {
            panic!("there is no ZooKeeper to test on: ./check brings one, or set KEEPSTEP_TEST_ZOOKEEPER_CLASSPATH")
        }
    });
    java(&class_path)
}

/// A JVM with a Kafka broker on its class path.
pub fn kafka_java() -> Command {
    let class_path = env::var("KEEPSTEP_TEST_KAFKA_CLASSPATH").unwrap_or_else(|_| {
        let jars = cache().join(KAFKA);
        assert!(
            jars.exists(),
            "there is no Kafka to test on: ./check brings one, or set KEEPSTEP_TEST_KAFKA_CLASSPATH"
        );
        jars.join("*").display().to_string()
    });
    java(&class_path)
}

fn java(class_path: &str) -> Command {
    let mut java = Command::new(env::var_os("KEEPSTEP_TEST_JAVA").unwrap_or_else(|| "java".into()));
    java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(class_path);
    // What `scripts/servers.sh` has kept of an earlier run; one that does not fit is not used.
    let kept = class_path.strip_suffix("/*").map(|jars| format!("{jars}.jsa"));
    if let Some(kept) = kept.filter(|kept| Path::new(kept).exists()) {
        java.arg(format!("-XX:SharedArchiveFile={kept}"));
    }
    java
}
