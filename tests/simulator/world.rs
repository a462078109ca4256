//! What the shipped code finds in place of a machine: the clock, the tasks, the disk and the sockets of the process whose turn it is.

use crate::draws::Draws;
use crate::executor::Executor;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use keepstep::env::world::{Asked, Process, Running, World};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

impl World for Executor {
    fn now(&self) -> Duration {
        Executor::now(self)
    }

    fn unix_time(&self) -> Duration {
        let state = self.state();
        state.processes[state.current].start.unix_time(state.now)
    }

    fn began(&self) -> (i64, Duration) {
        let state = self.state();
        state.processes[state.current].began
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let moment = Executor::now(self).saturating_add(time);
        self.sleep_until(moment)
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) -> Arc<dyn Running> {
        self.begin(self.current(), work)
    }

    fn turn_of_a_thread(&self) -> BoxFuture<'static, ()> {
        let number = self.number();
        let time = Draws::of(number).time(0, Duration::from_micros(5), Duration::from_millis(5));
        World::sleep(self, time)
    }

    fn number(&self) -> u64 {
        let mut state = self.state();
        let current = state.current;
        let of = &mut state.processes[current];
        of.numbers += 1;
        of.draws.number(of.numbers)
    }

    fn process(&self) -> Process {
        let state = self.state();
        state.processes[state.current].start.process.clone()
    }

    fn is_gone(&self, pid: i32) -> bool {
        let state = self.state();
        let machine = &state.processes[state.current].start.process.machine;
        let mut of_machine = state.processes.iter().filter(|of| of.start.process.machine == *machine);
        !of_machine.any(|of| !of.is_dead && i64::from(of.start.process.id) == i64::from(pid))
    }

    fn reached(&self, point: &'static str) {
        let state = self.state();
        if state.processes[state.current].is_dead {
            return;
        }
        drop(state);
        self.mark(point);
    }

    fn has_planted(&self, fault: &str) -> bool {
        self.state().planted.as_deref() == Some(fault)
    }

    fn ask_worker(&self, socket: &Path, asked: Asked) -> BoxFuture<'static, io::Result<(u16, Vec<u8>)>> {
        let served = {
            let state = self.state();
            let host = &state.processes[state.current].start.process.host;
            let mut served = state
                .sockets
                .iter()
                .filter(|(of, path, process, _)| of == host && path == socket && !state.processes[*process].is_dead);
            served.next().map(|(.., process, answers)| (*process, Arc::clone(answers)))
        };
        let Some((process, answers)) = served else {
            return ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed();
        };
        let (answer, answered) = oneshot::channel();
        self.mark(&format!("socket: {}", asked.path.split('?').next().unwrap_or_default()));
        let (there, executor) = (self.turn_of_a_thread(), self.clone());
        self.spawn_on(process, async move {
            there.await;
            let done = answers(asked).await;
            executor.turn_of_a_thread().await;
            // Whoever asked may have gone.
            let _ = answer.send(done);
        });
        answered.map(|answered| answered.map_err(|_| io::ErrorKind::ConnectionReset.into())).boxed()
    }

    fn print(&self, bytes: &[u8]) {
        let mut state = self.state();
        let current = state.current;
        state.processes[current].printed.extend(bytes);
    }

    fn panicked(&self, said: &str) {
        let mut state = self.state();
        if !state.processes[state.current].is_dead {
            state.broken = Some(said.to_owned());
        }
    }
}
