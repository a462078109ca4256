//! A machine: a disk, a clock, and at most one worker at a time.

use crate::draws::Draws;
use crate::ensemble::Ensembles;
use crate::executor::{Executor, ProcessId, Start};
use crate::server::Servers;
use crate::settings::name_of;
use futures::FutureExt as _;
use keepstep::assembly;
use keepstep::config;
use keepstep::env::Tasks;
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

/// Where the file of a pipeline is.
#[must_use]
pub fn file_of(pipeline: usize) -> String {
    format!("/{}.yaml", name_of(pipeline))
}

/// Where a worker keeps its data.
pub const DATA: &str = "/data";

/// What a worker tells of itself to whoever plays the operator.
#[derive(Default)]
struct Told {
    pipelines: Vec<Arc<Pipeline>>,
    ended: Option<Result<Ended, String>>,
}

/// A worker that was started.
pub struct Worker {
    pub process: ProcessId,
    disk: VolatileDisk,
    told: Arc<Mutex<Told>>,
}

/// See the module.
pub struct Machine {
    pub number: usize,
    pub disk: VolatileDisk,
    pub worker: Option<Worker>,
    /// Workers that run beside it on the same folder: started before it, and not ended yet.
    pub former: Vec<Worker>,
    pub clock_ms: i64,
    /// Every process that it ever started.
    pub processes: Vec<ProcessId>,
    /// Which pipelines its next worker runs.
    pub runs: Vec<usize>,
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

/// A worker, from its files to its end, as `keepstep run` has it.
async fn run(
    runs: Vec<usize>,
    network: assembly::Network,
    told: Arc<Mutex<Told>>,
    (executor, process): (Executor, ProcessId),
) {
    let tell = |ended| told.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended);
    let files: Vec<PathBuf> = runs.into_iter().map(|pipeline| PathBuf::from(file_of(pipeline))).collect();
    let files = match config::load_all(&files) {
        Ok(files) => files,
        Err(problems) => return tell(Err(format!("{problems:?}"))),
    };
    let metrics = Arc::new(Metrics::new());
    let pipelines = match assembly::pipelines(&files, Path::new(DATA), false, &metrics, network) {
        Ok(pipelines) => pipelines,
        Err(error) => return tell(Err(error.to_string())),
    };
    let state = AppState::new(metrics);
    state.show(pipelines.iter().map(|pipeline| Arc::clone(pipeline) as Arc<dyn Handle>).collect());
    let router = http::router(state, Listener::Unix);
    for pipeline in &pipelines {
        let router = router.clone();
        let answers = Arc::new(move |asked| http::answer(router.clone(), asked).boxed());
        executor.serve(process, http::socket_path(Path::new(DATA), pipeline.name()), answers);
    }
    told.lock().unwrap_or_else(PoisonError::into_inner).pipelines.clone_from(&pipelines);
    let mut tasks = Tasks::default();
    for pipeline in &pipelines {
        let pipeline = Arc::clone(pipeline);
        tasks.spawn(async move { pipeline.run(PATIENCE).await });
    }
    let mut ended = Ended::Stopped;
    while let Some(next) = tasks.join_next().await {
        match next {
            Ok(Ended::Stopped) => {}
            // The start of one was refused: that is the end of the worker.
            Ok(refused) => {
                ended = refused;
                pipelines.iter().for_each(|pipeline| pipeline.stop());
            }
            Err(error) => return tell(Err(format!("a pipeline ended unexpectedly: {error}"))),
        }
    }
    tell(Ok(ended));
}

impl Machine {
    #[must_use]
    pub fn new(number: usize, runs: Vec<usize>, draws: Draws) -> Machine {
        let draws = draws.named("machine").with(number as u64);
        let disk = disk_of(&Image::new(), draws.named("disk"));
        let drift = if draws.happens(0, 0.2) { (draws.part(1) - 0.5) / 500.0 } else { 0.0 };
        Machine {
            number,
            disk,
            worker: None,
            former: Vec::new(),
            clock_ms: 0,
            processes: Vec::new(),
            runs,
            drift,
            starts: 0,
            boots: 0,
            draws,
        }
    }

    /// Starts a worker; `files`: of all pipelines.
    pub fn start(&mut self, files: &[String], executor: &Executor, ensembles: &Ensembles, servers: &Servers) {
        if self.worker.is_some() {
            return;
        }
        self.disk = self.disk.another_process();
        for (pipeline, file) in files.iter().enumerate() {
            self.disk.put(Path::new(&file_of(pipeline)), file.as_bytes());
        }
        let own = self.disk.clone();
        let process = self.process(executor, own);
        let told = Arc::new(Mutex::new(Told::default()));
        let network = assembly::Network { ensembles: ensembles.of(process), servers: servers.of(process) };
        executor.spawn_on(process, run(self.runs.clone(), network, Arc::clone(&told), (executor.clone(), process)));
        self.processes.push(process);
        self.worker = Some(Worker { process, disk: self.disk.clone(), told });
    }

    /// The next start begins beside the worker that there is.
    pub fn leave_behind(&mut self) {
        self.former.extend(self.worker.take());
    }

    /// All workers that there are, the newest last.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.former.iter().chain(&self.worker)
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
            worker.kill(executor);
        }
    }

    /// SIGKILL for a former worker.
    pub fn kill_former(&mut self, process: ProcessId, executor: &Executor) {
        if let Some(at) = self.former.iter().position(|worker| worker.process == process) {
            self.former.remove(at).kill(executor);
        }
    }

    /// SIGKILL for all.
    pub fn kill_all(&mut self, executor: &Executor) {
        self.former.drain(..).for_each(|worker| worker.kill(executor));
        self.kill(executor);
    }

    /// The power goes, and comes back: what was not durable may be gone.
    pub fn lose_power(&mut self, executor: &Executor) {
        let image = self.disk.cut_power();
        self.kill_all(executor);
        self.boots += 1;
        self.disk = disk_of(&image, self.draws.named("disk").with(u64::from(self.boots)));
    }
}

impl Worker {
    fn kill(self, executor: &Executor) {
        self.disk.kill();
        executor.kill(self.process);
        // What it held goes while the process is dead.
        self.told.lock().unwrap_or_else(PoisonError::into_inner).pipelines.clear();
    }

    /// The pipelines that it runs.
    #[must_use]
    pub fn pipelines(&self) -> Vec<Arc<Pipeline>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).pipelines.clone()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Result<Ended, String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).ended.clone()
    }

    /// What it says of each of its pipelines.
    #[must_use]
    pub fn statuses(&self) -> Vec<PipelineStatus> {
        self.pipelines().iter().map(|pipeline| pipeline.status()).collect()
    }

    /// SIGTERM.
    pub fn stop(&self, executor: &Executor) {
        for pipeline in self.pipelines() {
            executor.spawn_on(self.process, async move { pipeline.stop() });
        }
    }
}
