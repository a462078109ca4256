//! The operator: runs the shipped command lines on a machine, beside its worker or without one, each in a process of its own.

use crate::executor::ProcessId;
use crate::machine::{DATA, file_of};
use crate::play::{COMMAND_MAX, LOOK, Play};
use crate::truth::Pair;
use crate::what::Operation;
use keepstep::cli::{self, Ended};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// A command line that runs.
pub struct Running {
    pub machine: usize,
    /// Whose file it is given.
    pub pipeline: usize,
    /// What is run, for the marks.
    pub name: &'static str,
    pub process: ProcessId,
    ended: Arc<Mutex<Option<Ended>>>,
}

impl Operation {
    /// As a mark shows it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Pause => "pause",
            Operation::Resume => "resume",
            Operation::Reconcile => "reconcile",
            Operation::Approve => "approve",
            Operation::Retry => "quarantine retry",
            Operation::Drop => "quarantine drop",
            Operation::Replay { until_ms: None, .. } => "replay",
            Operation::Replay { .. } => "replay --until",
            Operation::Repair { .. } => "repair",
            Operation::Restore { .. } => "conflicts restore",
            Operation::Diff => "diff",
        }
    }

    /// The command line, without the program's name. A restore has another one first, to find its position.
    fn words(&self, file: &str) -> Vec<String> {
        let mut words: Vec<String> =
            self.name().split(' ').filter(|word| *word != "--until").map(str::to_owned).collect();
        words.push(file.to_owned());
        let mut more = |text: &[&str]| words.extend(text.iter().map(|word| (*word).to_owned()));
        match self {
            Operation::Pause | Operation::Resume | Operation::Reconcile | Operation::Retry => {}
            Operation::Approve | Operation::Drop => more(&["--yes"]),
            Operation::Replay { to, until_ms } => {
                more(&["--yes", "--timeout", "10s", "--to", to.store()]);
                if let Some(before) = until_ms {
                    more(&["--until", &format!("{before}ms")]);
                }
            }
            Operation::Repair { prefer } => more(&["--yes", "--timeout", "10s", "--prefer", prefer.store()]),
            Operation::Restore { .. } => more(&["--yes", "--timeout", "10s"]),
            Operation::Diff => more(&["--format", "json", "--timeout", "10s"]),
        }
        words
    }
}

impl Play {
    /// Runs a command line on a machine.
    pub(crate) fn operate(&mut self, machine: usize, pipeline: usize, operation: &Operation, polls: Option<u64>) {
        self.rights.has_dropped |= *operation == Operation::Drop;
        let process = self.machines[machine].start_process(&self.executor);
        if let (Operation::Approve, Some(worker)) = (operation, self.process(machine)) {
            self.guarded.approved.push((worker, self.executor.now(), process));
        }
        self.truth.is_command(process);
        let network = self.network_of(process);
        let ended = Arc::new(Mutex::new(None));
        let (tells, executor) = (Arc::clone(&ended), self.executor.clone());
        let (name, operation, file) = (operation.name(), operation.clone(), file_of(pipeline));
        self.executor.spawn_on(process, async move {
            let mut words = operation.words(&file);
            let run = |words: Vec<String>| {
                let network = network.clone();
                async move {
                    let all = ["keepstep", "--data-dir", DATA].into_iter().chain(words.iter().map(String::as_str));
                    cli::run_in(all, network).await
                }
            };
            if let Operation::Restore { which } = operation {
                let listed = run(["conflicts", &file, "--format", "json"].map(str::to_owned).to_vec()).await;
                let positions: Vec<u64> =
                    rows(&executor.printed(process)).iter().filter_map(|row| row.get("position")?.as_u64()).collect();
                match positions.get((which % positions.len().max(1) as u64) as usize) {
                    Some(position) => words.insert(3, position.to_string()),
                    None => {
                        *tells.lock().unwrap_or_else(PoisonError::into_inner) = Some(listed);
                        return;
                    }
                }
            }
            let done = run(words).await;
            *tells.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        });
        if let Some(polls) = polls {
            self.executor.kill_after(process, polls);
        }
        self.commands.push(Running { machine, pipeline, name, process, ended });
    }

    /// What has ended is taken away, as the process that it was.
    pub(crate) fn look_after_commands(&mut self) {
        let (ended, running) =
            std::mem::take(&mut self.commands).into_iter().partition::<Vec<_>, _>(Running::has_ended);
        self.commands = running;
        for command in ended {
            let done = command.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(Ended { code, error }) = done {
                self.tell(format!("{} on machine {} ended with {code} {error}", command.name, command.machine));
                self.mark(&format!("command: {} {}", command.name, if code == 0 { "done" } else { "refused" }));
                let printed = self.executor.printed(command.process);
                if String::from_utf8_lossy(&printed).contains("no delete waits") {
                    self.guarded.approved.retain(|(_, _, by)| *by != command.process);
                } else if command.name == "approve" && code == 0 {
                    self.mark("command: deletes approved");
                }
                self.printed.insert(command.process, (Ended { code, error }, printed));
            }
            self.end_process(command.process);
        }
    }

    /// A command that was killed, or whose machine is without power.
    pub(crate) fn kill_commands(&mut self, is_meant: impl Fn(&Running) -> bool) {
        let (meant, others) = std::mem::take(&mut self.commands).into_iter().partition::<Vec<_>, _>(is_meant);
        self.commands = others;
        for command in meant {
            self.tell(format!("{} on machine {} is killed", command.name, command.machine));
            self.mark("command: killed");
            self.end_process(command.process);
        }
    }

    fn end_process(&mut self, process: ProcessId) {
        self.executor.kill(process);
        self.cut_for_good(process);
    }

    /// Both sides are at rest: `diff` says which pairs differ, and of no other pair that it does.
    pub(crate) fn judge_diff(&mut self) {
        let machine = self.draws.named("diff").below(0, self.machines.len() as u64) as usize;
        let pipeline = self.draws.named("diff of").below(0, self.settings.pipelines() as u64) as usize;
        self.operate(machine, pipeline, &Operation::Diff, None);
        let Some(process) = self.commands.last().map(|command| command.process) else { return };
        let until = self.executor.now() + COMMAND_MAX;
        while self.executor.now() < until && !self.printed.contains_key(&process) {
            if !self.until(self.executor.now() + LOOK) {
                return;
            }
        }
        let Some((Ended { code, error }, printed)) = self.printed.get(&process) else {
            self.wrong.push(format!("diff did not end within {COMMAND_MAX:?} of rest"));
            return;
        };
        if error.contains("has other stores") {
            // A live owner takes databases that were swapped while both got their identity; a command does not.
            self.executor.mark("excused: diff refused, for the Redis is another one");
            return;
        }
        self.executor.mark("diff: judged");
        let told: BTreeSet<String> =
            rows(printed).iter().filter_map(|row| Some(row.get("pair")?.get("zk")?.as_str()?.to_owned())).collect();
        let pairs: Vec<Pair> = self.truth.pairs().into_iter().filter(|pair| pair.pipeline == pipeline).collect();
        let truth: BTreeSet<String> =
            pairs.iter().filter(|pair| crate::truth::differs(pair)).map(|pair| pair.path.clone()).collect();
        let all: BTreeSet<String> = pairs.into_iter().map(|pair| pair.path).collect();
        // Names that no znode can have are no pairs of the play.
        let has_others = !told.is_subset(&all);
        let told: BTreeSet<String> = told.intersection(&all).cloned().collect();
        if told != truth || (!has_others && *code != u8::from(!truth.is_empty())) {
            self.wrong.push(format!(
                "diff lies: it ends with {code} {error} and tells of {told:?}; what differs is {truth:?}"
            ));
        }
    }
}

impl Running {
    fn has_ended(&self) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// The objects that a command has printed.
fn rows(printed: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(printed).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
