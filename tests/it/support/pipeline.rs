//! Pipeline files for tests: the two-way example with whatever a test changes about it.

use std::fmt;

/// One pipeline with one route. [`fmt::Display`] writes the file; further routes are whole text ([`Pipeline::also`]).
#[derive(Debug, Clone)]
pub struct Pipeline {
    name: String,
    zookeeper: String,
    redis: String,
    session_timeout: String,
    zookeeper_options: Vec<String>,
    redis_options: Vec<String>,
    flow: String,
    matches: String,
    route_options: Vec<String>,
    more_routes: Vec<String>,
    worker_options: Vec<String>,
    stream: Option<String>,
    stores: Stores,
}

/// Which stores the file declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stores {
    Both,
    ZooKeeper,
    Redis,
}

impl Pipeline {
    /// `/settings/**` and `settings:**`, both ways, conflicts to ZooKeeper, everything else as it is by default.
    /// `zookeeper` is a connect string, `redis` a URL.
    pub fn two_way(zookeeper: impl fmt::Display, redis: impl fmt::Display) -> Pipeline {
        Pipeline {
            name: "settings".to_owned(),
            zookeeper: zookeeper.to_string(),
            redis: redis.to_string(),
            session_timeout: "4s".to_owned(),
            zookeeper_options: Vec::new(),
            redis_options: Vec::new(),
            flow: "zk <-> cache".to_owned(),
            matches: "{zk: /settings/**, cache: \"settings:**\"}".to_owned(),
            route_options: Vec::new(),
            more_routes: Vec::new(),
            worker_options: Vec::new(),
            stream: None,
            stores: Stores::Both,
        }
    }

    /// Another name, for a second pipeline beside the first.
    pub fn name(mut self, name: &str) -> Pipeline {
        self.name = name.to_owned();
        self
    }

    /// `zk -> cache`, `cache -> zk`, `zk`, `cache` …
    pub fn flow(mut self, flow: &str) -> Pipeline {
        self.flow = flow.to_owned();
        self
    }

    /// The value of `match`, e.g. `{zk: /settings/**}`.
    pub fn matches(mut self, matches: &str) -> Pipeline {
        self.matches = matches.to_owned();
        self
    }

    /// Captures what happens in ZooKeeper and knows no Redis.
    pub fn capture_zookeeper(mut self) -> Pipeline {
        self.stores = Stores::ZooKeeper;
        self.flow("zk").matches("{zk: /settings/**}")
    }

    /// Captures what happens in Redis and knows no ZooKeeper.
    pub fn capture_redis(mut self) -> Pipeline {
        self.stores = Stores::Redis;
        self.flow("cache").matches("{cache: \"settings:**\"}")
    }

    /// A line of the route, e.g. `on_conflict: latest`.
    pub fn route(mut self, line: &str) -> Pipeline {
        self.route_options.push(line.to_owned());
        self
    }

    /// One more route after the first, as one YAML flow mapping: `{name: …, flow: …, match: …}`.
    pub fn also(mut self, route: &str) -> Pipeline {
        self.more_routes.push(route.to_owned());
        self
    }

    /// A line of `worker`, e.g. `reconcile: 2s`.
    pub fn worker(mut self, line: &str) -> Pipeline {
        self.worker_options.push(line.to_owned());
        self
    }

    /// A line of the ZooKeeper store, e.g. `auth: {digest: {env: ZK_AUTH}}`.
    pub fn zookeeper(mut self, line: &str) -> Pipeline {
        self.zookeeper_options.push(line.to_owned());
        self
    }

    /// A line of the Redis store, e.g. `username: keepstep`.
    pub fn redis(mut self, line: &str) -> Pipeline {
        self.redis_options.push(line.to_owned());
        self
    }

    /// The session timeout asked of ZooKeeper (default in tests: 4s).
    pub fn session_timeout(mut self, timeout: &str) -> Pipeline {
        self.session_timeout = timeout.to_owned();
        self
    }

    /// The value of `stream.embedded`, e.g. `{retention: {age: 1h, size: 1MiB}}`.
    pub fn embedded(mut self, embedded: &str) -> Pipeline {
        self.stream = Some(format!("embedded: {embedded}"));
        self
    }

    /// The value of `stream.kafka`, e.g. `{brokers: "127.0.0.1:9092"}`.
    pub fn kafka(mut self, kafka: &str) -> Pipeline {
        self.stream = Some(format!("kafka: {kafka}"));
        self
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = |out: &mut fmt::Formatter<'_>, indent: &str, lines: &[String]| {
            lines.iter().try_for_each(|line| writeln!(out, "{indent}{line}"))
        };
        writeln!(out, "version: 1\npipeline: {}\nstores:", self.name)?;
        if self.stores != Stores::Redis {
            writeln!(out, "  zk:\n    zookeeper:\n      connect: {}", self.zookeeper)?;
            writeln!(out, "      session_timeout: {}", self.session_timeout)?;
            section(out, "      ", &self.zookeeper_options)?;
        }
        if self.stores != Stores::ZooKeeper {
            writeln!(out, "  cache:\n    redis:\n      url: {}", self.redis)?;
            section(out, "      ", &self.redis_options)?;
        }
        if let Some(stream) = &self.stream {
            writeln!(out, "stream:\n  {stream}")?;
        }
        writeln!(out, "routes:\n  - name: settings\n    flow: {}\n    match: {}", self.flow, self.matches)?;
        section(out, "    ", &self.route_options)?;
        section(out, "  - ", &self.more_routes)?;
        if !self.worker_options.is_empty() {
            writeln!(out, "worker:")?;
            section(out, "  ", &self.worker_options)?;
        }
        Ok(())
    }
}
