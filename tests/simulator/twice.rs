//! A worker that is started twice on one data folder: beside the one that runs, or while a former one is frozen or ends late.

use crate::executor::ProcessId;
use crate::machine::Worker;
use crate::play::{Later, Play};
use keepstep::pipeline::control::{PipelineState, PipelineStatus};
use std::time::Duration;

impl Play {
    /// Starts another worker on the folder of a machine. `ends`: when the former one ends, after it goes on, and whether by SIGKILL.
    pub(crate) fn start_again(&mut self, machine: usize, frozen_ms: u64, ends: Option<(u64, bool)>) {
        let Some(process) = self.process(machine) else { return };
        self.mark("worker: started twice");
        if frozen_ms > 0 {
            self.mark("worker: started beside a frozen one");
            self.executor.freeze(process, true);
            self.later(self.settings.session_timeout, Later::ExpireSessions(process));
            self.later(Duration::from_millis(frozen_ms), Later::Thaw(process));
        }
        self.machines[machine].leave_behind();
        if let Some((ms, is_killed)) = ends {
            self.later(Duration::from_millis(frozen_ms + ms), Later::EndFormer(process, is_killed));
        }
        self.follow(Later::Start(machine));
    }

    /// A former worker ends. One that has ended already is not there any more.
    pub(crate) fn end_former(&mut self, process: ProcessId, is_killed: bool) {
        let is_its = |worker: &&Worker| worker.process == process;
        let of = |machine: &crate::machine::Machine| machine.former.iter().any(|worker| worker.process == process);
        let Some(machine) = self.machines.iter().position(of) else { return };
        if !is_killed {
            self.machines[machine].former.iter().filter(is_its).for_each(|worker| worker.stop(&self.executor));
            return;
        }
        self.mark("worker: a former one was killed");
        self.machines[machine].kill_former(process, &self.executor);
        self.cut_for_good(process);
    }

    /// All former workers of a machine are killed.
    pub(crate) fn end_all_former(&mut self, machine: usize) {
        let former: Vec<ProcessId> = self.machines[machine].former.iter().map(|worker| worker.process).collect();
        former.into_iter().for_each(|process| self.end_former(process, true));
    }

    /// Nobody starts a former worker again that has ended. While there are two, one waits for the stream of the other.
    pub(crate) fn look_after_former(&mut self, machine: usize) {
        if self.machines[machine].former.is_empty() {
            return;
        }
        let former = &self.machines[machine].former;
        let ended: Vec<ProcessId> =
            former.iter().filter(|worker| worker.ended().is_some()).map(|worker| worker.process).collect();
        for process in ended {
            self.mark("worker: a former one ended");
            self.machines[machine].kill_former(process, &self.executor);
            self.cut_for_good(process);
        }
        for worker in self.machines[machine].workers() {
            let is_owned = |status: &PipelineStatus| status.state != PipelineState::Standby;
            for status in worker.statuses().into_iter().filter(is_owned) {
                self.executor.leave_socket_to(worker.process, &status.pipeline);
            }
        }
        let mut statuses = self.machines[machine].workers().flat_map(Worker::statuses);
        if statuses.any(|status| status.note.contains("is written by")) {
            self.mark("worker: waits for the stream of another");
        }
    }
}
