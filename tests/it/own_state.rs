//! What Keepstep keeps in ZooKeeper is deleted by hand, whole or in part, under workers and between them: that loses bases and
//! nothing else, and afterwards there is one owner again, and the others stand by.

use crate::support::{Keepstep, LIVE, Scene, eventually, eventually_is};
use serde_json::{Value, json};
use std::time::Duration;
use zookeeper_client::Error;

/// Everything, and each part.
const PARTS: [&str; 11] = [
    "/_keepstep",
    "/_keepstep/settings",
    "/_keepstep/settings/election",
    "/_keepstep/settings/epoch",
    "/_keepstep/settings/lineage",
    "/_keepstep/settings/journal",
    "/_keepstep/settings/stores",
    "/_keepstep/_identity",
    "/_keepstep/_claims",
    // What lies in these is deleted, and they are left.
    "/_keepstep/settings/election/",
    "/_keepstep/_claims/",
];

/// Longer than a worker takes to notice that something is missing, so that whatever is begun after that has begun.
const STEADY: Duration = Duration::from_secs(5);

/// `deleteall PATH`; with a slash at the end, of everything below it.
async fn delete_all(scene: &Scene, what: &str) {
    let path = what.trim_end_matches('/');
    loop {
        let mut below: Vec<String> = scene.znodes.tree(path).await.into_iter().map(|(path, _)| path).collect();
        below.reverse();
        for path in &below {
            match scene.znodes.client().delete(path, None).await {
                // A worker writes beside us.
                Ok(()) | Err(Error::NoNode | Error::NotEmpty) => {}
                Err(error) => panic!("deleting {path}: {error}"),
            }
        }
        if what.ends_with('/') {
            return;
        }
        match scene.znodes.client().delete(path, None).await {
            Ok(()) | Err(Error::NoNode) => return,
            Err(Error::NotEmpty) => {}
            Err(error) => panic!("deleting {path}: {error}"),
        }
    }
}

async fn status(worker: &Keepstep) -> Value {
    if worker.status_of("/live").await != Some(200) {
        return Value::Null;
    }
    serde_json::from_str::<Value>(&worker.get("/status").await.body).unwrap()["pipelines"][0].clone()
}

async fn names(scene: &Scene, path: &str) -> Vec<String> {
    match scene.znodes.client().list_children(path).await {
        Ok(mut names) => {
            names.sort();
            names
        }
        Err(Error::NoNode) => Vec::new(),
        Err(error) => panic!("listing {path}: {error}"),
    }
}

/// Each of these workers is in line, the first of them owns the pipeline, and all that an owner needs is there.
async fn is_owned(scene: &Scene, workers: &[&Keepstep], what: &str) {
    eventually(format!("one owner and {} standbys after {what} was deleted", workers.len() - 1), LIVE, async || {
        let line = names(scene, "/_keepstep/settings/election").await;
        let claims = names(scene, "/_keepstep/_claims").await;
        let mut states = Vec::new();
        for worker in workers {
            let status = status(worker).await;
            let words = [&status["state"], &status["owner"], &status["note"]];
            states.push(words.map(|word| word.as_str().unwrap_or_default().to_owned()));
        }
        let owners = states.iter().filter(|state| state[0] == "live").count();
        let standbys = states.iter().filter(|state| state[0] == "standby").count();
        let mut missing = Vec::new();
        for part in ["epoch", "lineage", "journal/00", "journal/15", "stores"] {
            if scene.znodes.get(&format!("/_keepstep/settings/{part}")).await.is_none() {
                missing.push(part);
            }
        }
        let is_whole = line.len() == workers.len() && claims.len() == 1 && missing.is_empty();
        let is_named = states.iter().all(|state| state[1] == states[0][1] && !state[1].is_empty());
        if is_whole && is_named && owners == 1 && standbys + 1 == workers.len() {
            return Ok(());
        }
        Err(format!("line {line:?}, claims {claims:?}, missing {missing:?}, workers {states:?}"))
    })
    .await;
}

/// A value each way.
async fn flows(scene: &Scene, round: &str) {
    scene.set("settings:flows:key", round).await;
    scene.znodes.put("/settings/flows/znode", round).await;
    scene.znode_becomes("/settings/flows/key", Some(round)).await;
    scene.key_becomes("settings:flows:znode", Some(round)).await;
}

/// Ten pairs in step, from both sides.
async fn filled() -> Scene {
    let scene = Scene::start_with(|pipeline| pipeline.session_timeout("4s")).await;
    for number in 0..5 {
        scene.set(format!("settings:keys:{number}"), format!("k{number}")).await;
        scene.znodes.put(&format!("/settings/znodes/{number}"), format!("z{number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene
}

/// No pair is missing, and none was taken for deleted.
async fn whole(scene: &Scene, workers: &[&Keepstep], what: &str) {
    scene.in_step(LIVE).await;
    for number in 0..5 {
        assert_eq!(scene.znodes.text(&format!("/settings/keys/{number}")).await, Some(format!("k{number}")), "{what}");
        assert_eq!(scene.text(format!("settings:znodes:{number}")).await, Some(format!("z{number}")), "{what}");
    }
    for worker in workers {
        let changes = worker.changes().await;
        assert!(changes.iter().all(|change| change["op"] != "d"), "{what}: nothing was deleted: {changes:?}");
    }
}

/// What the owner wrote when it took the pipeline over.
async fn taken(scene: &Scene) -> (Vec<String>, Option<String>) {
    (names(scene, "/_keepstep/settings/election").await, scene.znodes.text("/_keepstep/settings/epoch").await)
}

async fn deleted_under_workers(with_standby: bool) {
    let mut scene = filled().await;
    let mut standby = scene.keepstep.another();
    if with_standby {
        standby.start();
        standby.wait_ready().await;
    }
    {
        let workers: &[&Keepstep] = if with_standby { &[&scene.keepstep, &standby] } else { &[&scene.keepstep] };
        is_owned(&scene, workers, "nothing").await;
        for (round, part) in PARTS.into_iter().enumerate() {
            // While nothing changes, it is noticed all the same.
            delete_all(&scene, part).await;
            if !matches!(part, "/_keepstep/settings/stores" | "/_keepstep/settings/journal") {
                is_owned(&scene, workers, part).await;
            }
            flows(&scene, &format!("{round} after")).await;
            // While both sides change.
            delete_all(&scene, part).await;
            flows(&scene, &format!("{round} beside")).await;
            if part == "/_keepstep/settings/stores" {
                continue;
            }
            is_owned(&scene, workers, part).await;
            whole(&scene, workers, part).await;
            let before = taken(&scene).await;
            tokio::time::sleep(STEADY).await;
            assert_eq!(taken(&scene).await, before, "{part}: nobody takes the pipeline over again");
        }
    }
    if with_standby {
        assert_eq!(standby.terminate().await, Some(0), "{}", standby.log());
    }
    assert_eq!(scene.keepstep.terminate().await, Some(0));
}

#[tokio::test]
async fn what_is_deleted_under_an_owner_comes_back_and_changes_flow_on() {
    deleted_under_workers(false).await;
}

#[tokio::test]
async fn what_is_deleted_under_an_owner_and_a_standby_leaves_one_owner_and_one_standby() {
    deleted_under_workers(true).await;
}

#[tokio::test]
async fn what_is_deleted_while_nobody_runs_is_made_again_by_a_start() {
    let mut scene = filled().await;
    for (round, part) in PARTS.into_iter().enumerate() {
        assert_eq!(scene.keepstep.terminate().await, Some(0), "{part}");
        delete_all(&scene, part).await;
        scene.set("settings:between:key", format!("{round}")).await;
        scene.znodes.put("/settings/between/znode", format!("{round}")).await;
        scene.keepstep.start();
        scene.znode_becomes("/settings/between/key", Some(&round.to_string())).await;
        scene.key_becomes("settings:between:znode", Some(&round.to_string())).await;
        is_owned(&scene, &[&scene.keepstep], part).await;
        whole(&scene, &[&scene.keepstep], part).await;
    }
    assert_eq!(scene.keepstep.terminate().await, Some(0));
}

/// A worker that starts beside an owner that has not yet noticed is no worker of another ensemble.
#[tokio::test]
async fn a_worker_that_starts_after_a_deletion_is_not_refused() {
    let scene = filled().await;
    for part in ["/_keepstep", "/_keepstep/settings/lineage", "/_keepstep/settings/election", "/_keepstep/_claims"] {
        let mut other = scene.keepstep.another();
        delete_all(&scene, part).await;
        other.start();
        is_owned(&scene, &[&scene.keepstep, &other], part).await;
        assert_eq!(other.terminate().await, Some(0), "{part}");
        eventually_is("the owner", LIVE, json!("live"), async || status(&scene.keepstep).await["state"].clone()).await;
    }
}

#[tokio::test]
async fn what_is_paused_stays_paused_when_our_state_is_deleted() {
    let scene = filled().await;
    scene.keepstep.command("pause", &[]).await.expect(0);
    scene.route_becomes("paused").await;
    delete_all(&scene, "/_keepstep").await;
    eventually("another ownership", LIVE, async || {
        let kept = scene.znodes.text("/_keepstep/settings/paused").await;
        if kept.as_ref().is_some_and(|kept| kept.contains("settings")) { Ok(()) } else { Err(format!("{kept:?}")) }
    })
    .await;
    scene.route_becomes("paused").await;
    scene.keepstep.command("resume", &[]).await.expect(0);
    flows(&scene, "resumed").await;
}
