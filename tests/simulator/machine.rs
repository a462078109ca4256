//! A machine: a disk, a clock, and at most one worker at a time.

use crate::draws::Draws;
use crate::ensemble::Ensembles;
use crate::executor::{Executor, ProcessId, Start};
use crate::server::Servers;
use futures::FutureExt as _;
use keepstep::assembly;
use keepstep::config;
use keepstep::env::disk::Disk;
use keepstep::env::world::Process;
use keepstep::http::{self, AppState, Listener};
use keepstep::pipeline::control::{Handle, PipelineStatus};
use keepstep::pipeline::{Ended, Pipeline};
use keepstep::telemetry::Metrics;
use keepstep_doubles::disk::{Image, VolatileDisk};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A pipeline that waits for a store gives up after this with `--once` only.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pipeline file.
pub const FILE: &str = "/sim.yaml";

/// Where a worker keeps its data.
pub const DATA: &str = "/data";

/// What a worker tells of itself to whoever plays the operator.
#[derive(Default)]
struct Told {
    pipeline: Option<Arc<Pipeline>>,
    ended: Option<Result<Ended, String>>,
}

/// A worker that was started.
pub struct Worker {
    pub process: ProcessId,
    told: Arc<Mutex<Told>>,
}

/// See the module.
pub struct Machine {
    pub number: usize,
    pub disk: VolatileDisk,
    pub worker: Option<Worker>,
    pub clock_ms: i64,
    drift: f64,
    starts: u32,
    boots: u32,
    draws: Draws,
}

fn disk_of(image: &Image, draws: Draws) -> VolatileDisk {
    let mut number = 0;
    VolatileDisk::new(image, move |limit| {
        number += 1;
        draws.below(number, limit)
    })
}

impl Machine {
    #[must_use]
    pub fn new(number: usize, draws: Draws) -> Machine {
        let draws = draws.named("machine").with(number as u64);
        let disk = disk_of(&Image::new(), draws.named("disk"));
        let drift = if draws.happens(0, 0.2) { (draws.part(1) - 0.5) / 500.0 } else { 0.0 };
        Machine { number, disk, worker: None, clock_ms: 0, drift, starts: 0, boots: 0, draws }
    }

    /// Starts a worker.
    pub fn start(&mut self, file: &str, executor: &Executor, ensembles: &Ensembles, servers: &Servers) {
        if self.worker.is_some() {
            return;
        }
        self.disk = self.disk.next_process();
        self.disk.put(Path::new(FILE), file.as_bytes());
        let own = self.disk.clone();
        let process = self.process(executor, own);
        let told = Arc::new(Mutex::new(Told::default()));
        let network = assembly::Network { ensembles: ensembles.of(process), servers: servers.of(process) };
        let (tells, serves) = (Arc::clone(&told), executor.clone());
        executor.spawn_on(process, async move {
            let tell = |ended| tells.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended);
            let files = match config::load_all(&[PathBuf::from(FILE)]) {
                Ok(files) => files,
                Err(problems) => return tell(Err(format!("{problems:?}"))),
            };
            let metrics = Arc::new(Metrics::new());
            let pipelines = assembly::pipelines(&files, Path::new(DATA), false, &metrics, network);
            match pipelines {
                Err(error) => tell(Err(error.to_string())),
                Ok(pipelines) => {
                    let state = AppState::new(metrics);
                    state.show(pipelines.iter().map(|pipeline| Arc::clone(pipeline) as Arc<dyn Handle>).collect());
                    let router = http::router(state, Listener::Unix);
                    for pipeline in &pipelines {
                        let router = router.clone();
                        let answers = Arc::new(move |asked| http::answer(router.clone(), asked).boxed());
                        serves.serve(process, http::socket_path(Path::new(DATA), pipeline.name()), answers);
                    }
                    for pipeline in pipelines {
                        tells.lock().unwrap_or_else(PoisonError::into_inner).pipeline = Some(Arc::clone(&pipeline));
                        let ended = pipeline.run(PATIENCE).await;
                        tell(Ok(ended));
                    }
                }
            }
        });
        self.worker = Some(Worker { process, told });
    }

    /// Begins another process of this machine, beside its worker.
    pub fn start_process(&mut self, executor: &Executor) -> ProcessId {
        let disk = self.disk.another_process();
        self.process(executor, disk)
    }

    fn process(&mut self, executor: &Executor, own: VolatileDisk) -> ProcessId {
        self.starts += 1;
        let identity = format!("{:032x}", self.draws.named("identity").number(u64::from(self.starts)));
        let process = Process {
            id: 100 + self.starts,
            host: format!("m{}", self.number),
            machine: format!("m{} boot {}", self.number, self.boots),
            identity,
        };
        let disk = Arc::new(own.clone()) as Arc<dyn Disk>;
        let was_killed = Box::new(move || own.was_killed());
        executor.start(Start { process, disk, was_killed, clock_ms: self.clock_ms, drift: self.drift })
    }

    /// SIGKILL.
    pub fn kill(&mut self, executor: &Executor) {
        if let Some(worker) = self.worker.take() {
            executor.kill(worker.process);
            // What it held goes while the process is dead.
            worker.told.lock().unwrap_or_else(PoisonError::into_inner).pipeline = None;
        }
    }

    /// The power goes, and comes back: what was not durable may be gone.
    pub fn lose_power(&mut self, executor: &Executor) {
        let image = self.disk.cut_power();
        self.kill(executor);
        self.boots += 1;
        self.disk = disk_of(&image, self.draws.named("disk").with(u64::from(self.boots)));
    }
}

impl Worker {
    fn pipeline(&self) -> Option<Arc<Pipeline>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).pipeline.clone()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Result<Ended, String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).ended.clone()
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Option<PipelineStatus> {
        self.pipeline().map(|pipeline| pipeline.status())
    }

    /// The keys of pairs in quarantine, with the reason.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(Vec<u8>, String)> {
        let listed = self.pipeline().map(|pipeline| pipeline.quarantine()).unwrap_or_default();
        listed.into_iter().filter_map(|row| row.redis.map(|key| (key, row.reason))).collect()
    }

    /// SIGTERM.
    pub fn stop(&self, executor: &Executor) {
        if let Some(pipeline) = self.pipeline() {
            executor.spawn_on(self.process, async move { pipeline.stop() });
        }
    }
}
