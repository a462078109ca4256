//! The disk under the stream: full, emptied, damaged. Both stores keep every value, and what happened is said.

use crate::support::{LIVE, Scene, eventually, never};
use std::path::PathBuf;
use std::time::Duration;

/// `worker.reconcile` of these tests is 2 s; the contract adds 30.
const HEALED: Duration = Duration::from_secs(32);
/// As large as a change may be for hundreds of them to fill what is left of the disk.
const VALUE_BYTES: usize = 10_000;

async fn scene() -> Scene {
    let scene = Scene::start_with(|pipeline| pipeline.worker("reconcile: 2s")).await;
    for number in 0..20 {
        scene.set(format!("settings:keys:{number}"), format!("k{number}")).await;
        scene.znodes.put(&format!("/settings/znodes/{number}"), format!("z{number}")).await;
    }
    scene.in_step(LIVE).await;
    scene.settle().await;
    scene
}

fn stream(scene: &Scene) -> PathBuf {
    scene.keepstep.data().join("settings").join("stream")
}

/// The files of the stream that hold records, the oldest first.
fn segments(scene: &Scene) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(stream(scene)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 1_000)).collect();
    files.sort();
    assert!(!files.is_empty(), "the stream has records");
    files
}

async fn keeps_its_values(scene: &Scene) {
    for number in 0..20 {
        assert_eq!(scene.text(format!("settings:keys:{number}")).await, Some(format!("k{number}")));
        assert_eq!(scene.znodes.text(&format!("/settings/znodes/{number}")).await, Some(format!("z{number}")));
    }
    scene.in_step(HEALED).await;
}

/// Every folder and file of the worker with its mode.
fn modes(folder: &std::path::Path, found: &mut Vec<(PathBuf, u32)>) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Ok(facts) = path.symlink_metadata() else { continue };
        found.push((path.clone(), facts.permissions().mode() & 0o777));
        if facts.is_dir() {
            modes(&path, found);
        }
    }
}

#[tokio::test]
async fn values_on_the_disk_are_for_the_user_of_the_worker_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut scene = scene().await;
    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    let folder = scene.keepstep.data().join("settings");
    eventually("the list of the quarantine is saved", LIVE, async || {
        if folder.join("quarantine.json").exists() { Ok(()) } else { Err("not there".to_owned()) }
    })
    .await;
    let look = |scene: &Scene| {
        let mut found = Vec::new();
        modes(scene.keepstep.data(), &mut found);
        assert!(found.len() >= 6, "{found:?}");
        for (path, mode) in found {
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{mode:o} {}", path.display());
        }
    };
    look(&scene);
    // As a version before this one left them.
    scene.keepstep.kill9();
    let mut found = Vec::new();
    modes(scene.keepstep.data(), &mut found);
    for (path, mode) in found {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o055)).unwrap();
    }
    scene.keepstep.restart().await;
    scene.settle().await;
    look(&scene);
}

#[tokio::test]
async fn a_full_disk_stops_capture_and_is_waited_out_and_nothing_is_lost() {
    let scene = scene().await;
    let used = segments(&scene).last().unwrap().metadata().unwrap().len();
    scene.keepstep.limit_files(Some(used + 64 * 1024));
    for number in 0..40 {
        scene.set(format!("settings:large:{number}"), vec![b'r'; VALUE_BYTES]).await;
        scene.znodes.put(&format!("/settings/wide/{number}"), vec![b'z'; VALUE_BYTES]).await;
    }
    eventually("the worker says that capture is paused", LIVE, async || {
        let status = scene.keepstep.command("status", &["--format", "json"]).await.stdout;
        if status.contains("capture is paused") { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(scene.keepstep.json("status", &[]).await[0]["state"], "blocked");
    assert_eq!(scene.keepstep.status_of("/ready").await, Some(503), "an owner that cannot record is not ready");
    assert_eq!(scene.keepstep.command("status", &["--check"]).await.code, Some(1));
    never("a value on the other side that is not on the stream", Duration::from_secs(1), async || {
        let copied =
            scene.znodes.text("/settings/large/39").await.is_some() && scene.text("settings:wide:39").await.is_some();
        if copied { Err("all were copied, beyond what the disk takes".to_owned()) } else { Ok(()) }
    })
    .await;
    let acknowledged = scene.keepstep.changes().await.len();
    scene.keepstep.limit_files(None);
    scene.in_step(HEALED).await;
    scene.settle().await;
    let changes = scene.keepstep.changes().await;
    assert!(changes.len() > acknowledged, "{} after {acknowledged}", changes.len());
    for number in 0..40 {
        for key in [format!("settings:large:{number}"), format!("settings:wide:{number}")] {
            assert!(changes.iter().any(|change| change["pair"]["cache"] == key), "{key} is on the stream");
        }
    }
    keeps_its_values(&scene).await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_under_a_worker_is_reported_and_costs_no_value() {
    let mut scene = scene().await;
    std::fs::remove_dir_all(stream(&scene)).unwrap();
    scene.set("settings:keys:new", "after").await;
    scene.znodes.put("/settings/znodes/new", "after").await;
    eventually("the worker says that its stream is gone", LIVE, async || {
        let log = scene.keepstep.log();
        if log.contains("files were removed or replaced") { Ok(()) } else { Err(log) }
    })
    .await;
    scene.znode_becomes("/settings/keys/new", Some("after")).await;
    scene.key_becomes("settings:znodes:new", Some("after")).await;
    keeps_its_values(&scene).await;
    assert!(scene.keepstep.runs());
    let changes = scene.keepstep.changes().await;
    assert!(changes.iter().any(|change| change["pair"]["cache"] == "settings:keys:new"), "{changes:?}");
}

#[tokio::test]
async fn a_stream_that_was_deleted_begins_anew_with_one_record_a_pair() {
    let mut scene = scene().await;
    scene.at_rest().await;
    assert_eq!(scene.keepstep.terminate().await, Some(0));
    std::fs::remove_dir_all(stream(&scene)).unwrap();
    scene.keepstep.restart().await;
    keeps_its_values(&scene).await;
    scene.settle().await;
    // A first comparison leaves to rounds what it could not settle.
    scene.at_rest().await;
    let mut changes = scene.keepstep.changes().await;
    // `settle` writes a pair of its own.
    changes.retain(|change| change["pair"]["cache"] != "settings:settle");
    assert_eq!(changes.len(), 40, "{changes:?}");
    assert!(changes.iter().all(|change| change["op"] == "r"), "{changes:?}");
}

#[tokio::test]
async fn a_damaged_stream_is_reported_and_the_records_around_the_damage_are_read() {
    let mut scene = scene().await;
    let before = scene.keepstep.changes().await;
    scene.keepstep.terminate().await;
    let file = segments(&scene).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[middle..middle + 40].fill(0x55);
    std::fs::write(&file, bytes).unwrap();
    scene.keepstep.restart().await;
    let log = scene.keepstep.log();
    assert!(log.contains("the stream is damaged"), "{log}");
    keeps_its_values(&scene).await;
    scene.set("settings:keys:new", "after").await;
    scene.znode_becomes("/settings/keys/new", Some("after")).await;
    scene.settle().await;
    let after = scene.keepstep.changes().await;
    let kept = before.iter().filter(|change| after.contains(change)).count();
    assert!(kept + 3 >= before.len() && kept < before.len(), "{kept} of {} records are left", before.len());
}
