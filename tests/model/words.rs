//! States and steps in words, for the trace of a failure.

use crate::events::Step;
use crate::world::{B, Life, Op, Pc, Worker, World};

pub fn step(step: &Step) -> String {
    let who = |i: &usize| if *i == 0 { "A" } else { "B" };
    match step {
        Step::Znode(0) => "an application deletes the znode".to_owned(),
        Step::Znode(value) => format!("an application writes v{value} to the znode"),
        Step::Key(0, _) => "an application deletes the key".to_owned(),
        Step::Key(value, false) => format!("an application writes v{value} to the key"),
        Step::Key(value, true) => format!("an application writes v{value} to the key, with an expiry"),
        Step::Expire => "the key expires".to_owned(),
        Step::Sibling => "another znode is created beside it".to_owned(),
        Step::Remember(i) => format!("worker {} advances the watermark and remembers it", who(i)),
        Step::Evict => "the key is evicted".to_owned(),
        Step::Flush => "FLUSHALL".to_owned(),
        Step::RestartRedis => "Redis restarts and has lost nothing".to_owned(),
        Step::KeyReturns => "an application sets the key to what it was when it was agreed on".to_owned(),
        Step::CopyRedis => "Redis saves its data".to_owned(),
        Step::RestartRedisFromTheCopy => "Redis restarts with what it had saved".to_owned(),
        Step::CopyEnsemble => "the ensemble is copied".to_owned(),
        Step::RestoreEnsembleFromTheCopy => "the ensemble comes back as the copy".to_owned(),
        Step::Crash(i) => format!("worker {} is killed", who(i)),
        Step::Start(i) => format!("worker {} starts, first in line", who(i)),
        Step::SessionLost(i) => format!("worker {} learns that its session is gone", who(i)),
        Step::HearZnode(i) => format!("worker {} hears of the znode", who(i)),
        Step::HearKey(i) => format!("worker {} hears of the key", who(i)),
        Step::RepeatZnode(i) => format!("worker {} hears of the znode once more", who(i)),
        Step::RepeatKey(i) => format!("worker {} hears of the key once more", who(i)),
        Step::ZnodeGap(i) => format!("worker {} misses the events of the znode", who(i)),
        Step::KeyGap(i) => format!("worker {} misses the events of the key", who(i)),
        Step::LookAtRedis(i) => format!("worker {} looks at INFO and canary", who(i)),
        Step::AskComparison(i) => format!("a comparison of worker {} is due", who(i)),
        Step::Lease(i) => format!("worker {} takes over", who(i)),
        Step::Take(i, choice) => format!("worker {} takes the pair ({choice})", who(i)),
        Step::Go(i, choice) => format!("worker {} goes on ({choice})", who(i)),
        Step::Command => "a command writes to the stream under an epoch of its own".to_owned(),
        Step::EndLate(i) => format!("worker {}, which owns nothing any more, ends", who(i)),
        Step::OtherPair(i) => format!("worker {} writes another pair to ZooKeeper", who(i)),
        Step::Compare(i) => format!("worker {} compares", who(i)),
    }
}

fn base(base: B) -> String {
    if !base.is {
        return "no base".to_owned();
    }
    let znode = if base.has_z { format!("{}/{}", base.mzxid, base.version) } else { "-".to_owned() };
    let apart = if base.apart { " apart" } else { "" };
    format!("base#{} znode {znode} key v{}{apart} of e{}", base.seq, base.value, base.ensemble)
}

pub fn state(world: &World) -> String {
    let znode = &world.zk.znode;
    let mut text = match znode.is.value {
        0 => "znode -".to_owned(),
        value => format!("znode v{value} ({}/{}/{})", znode.czxid, znode.mzxid, znode.version),
    };
    text += &format!(
        ", key v{}, {} (bucket {}:{})",
        world.redis.key.is.value,
        base(world.redis.bucket.entry),
        world.redis.bucket.epoch,
        world.redis.bucket.nonce
    );
    for slot in world.zk.slots.iter().filter(|slot| slot.kind != 0) {
        text += &format!(", slot v{} {}", slot.version, base(slot.base));
    }
    text += &format!(" marks {:?}", world.redis.state.marks);
    for (worker, name) in world.workers.iter().zip(["A", "B"]) {
        if worker.life != Life::Dead {
            text += &format!("; {name}: {}", at(worker));
        }
    }
    text
}

fn at(worker: &Worker) -> String {
    if worker.life != Life::Live {
        return format!("{:?}", worker.life);
    }
    let mut text = format!("{:?}", worker.pc);
    if worker.pc != Pc::Idle && (worker.todo.op != Op::Note || worker.pc == Pc::Apply) {
        text += &format!(" {:?} -> {}", worker.todo.op, base(worker.todo.base));
    }
    if worker.hint.on || worker.later.on {
        let hint = if worker.hint.on { worker.hint } else { worker.later };
        text += &format!(
            " hint{}{}{}",
            if hint.znode { " znode" } else { "" },
            if hint.key { " key" } else { "" },
            if hint.slow { " slow" } else { "" }
        );
    }
    if worker.comparison.asked || worker.comparison.stage != Default::default() {
        text += &format!(" comparison {:?}", worker.comparison.stage);
    }
    if !worker.sources.is_watched() {
        text += " unwatched";
    }
    text
}
