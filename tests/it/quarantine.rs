//! Quarantine: what is shown of a pair, what an operator can do about it, and what a restart remembers.

use crate::support::{LIVE, Place, Scene, eventually, never};
use std::time::Duration;

async fn what_was_dropped_stays_silent_after_a_restart_until_it_is_another_matter(place: Place) {
    let mut scene = Scene::start_with(|pipeline| place.of(pipeline.worker("reconcile: 1s"))).await;
    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.redis.run::<()>("SADD settings:set 1").await;
    scene.quarantine_becomes(&["wrong_type", "wrong_type"]).await;
    // Each change is told in two ways, and the second may come late: what comes after the drop is news.
    scene.settle().await;
    scene.at_rest().await;
    scene.keepstep.command("quarantine drop", &["--key", "settings:list"]).await.expect(0);
    scene.quarantine_becomes(&["wrong_type"]).await;
    scene.keepstep.restart().await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    never("the dropped pair comes back", Duration::from_secs(3), async || {
        let listed = scene.keepstep.json("quarantine list", &[]).await;
        let is_back = listed.iter().any(|row| row["pair"]["cache"] == "settings:list");
        if is_back { Err(format!("{listed:?}")) } else { Ok(()) }
    })
    .await;
    scene.keepstep.terminate().await;
    scene.redis.run::<()>("DEL settings:list").await;
    scene.redis.run::<()>("HSET settings:list a 1").await;
    scene.run().await;
    scene.quarantine_becomes(&["wrong_type", "wrong_type"]).await;
}

async fn a_worker_in_the_same_folder_leaves_the_files_to_the_owner_and_takes_them_up_as_the_next_one(place: Place) {
    let mut scene = Scene::start_with(|pipeline| place.of(pipeline.worker("reconcile: 1s"))).await;
    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.redis.run::<()>("SADD settings:set 1").await;
    scene.quarantine_becomes(&["wrong_type", "wrong_type"]).await;
    let mut second = scene.keepstep.with_file(std::fs::read_to_string(scene.keepstep.file()).unwrap());
    second.start();
    second.wait_ready().await;
    // The second worker has read what it reads at its start.
    scene.settle().await;
    scene.at_rest().await;
    scene.keepstep.command("quarantine drop", &["--key", "settings:set"]).await.expect(0);
    scene.quarantine_becomes(&["wrong_type"]).await;
    let folder = scene.keepstep.data().join("settings");
    let files = || ["quarantine.json", "quarantine.dropped.json"].map(|file| std::fs::read(folder.join(file)).unwrap());
    let listed = eventually("the owner saves the list", LIVE, async || {
        let files = files();
        if files.iter().all(|text| text.iter().filter(|byte| **byte == b'\n').count() == 1) {
            Ok(files)
        } else {
            Err(format!("{files:?}"))
        }
    })
    .await;
    assert_eq!(second.terminate().await, Some(0));
    assert_eq!(files(), listed, "a standby that ends");
    let mut once = scene.keepstep.with_file(std::fs::read_to_string(scene.keepstep.file()).unwrap());
    once.start_with(&["--once", "--timeout", "2s"]);
    once.code_at_end(LIVE).await;
    assert_eq!(files(), listed, "`run --once` that owned nothing");
    second.start();
    second.wait_ready().await;
    scene.keepstep.command("quarantine drop", &["--key", "settings:list"]).await.expect(0);
    scene.keepstep.terminate().await;
    eventually("the second worker owns the pipeline", LIVE, async || {
        let status = second.command("status", &["--format", "json"]).await.stdout;
        if status.contains("\"state\":\"live\"") { Ok(()) } else { Err(status) }
    })
    .await;
    never("a dropped pair comes back", Duration::from_secs(3), async || {
        let listed = second.json("quarantine list", &[]).await;
        if listed.is_empty() { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
}

async fn show_tells_both_states_and_what_to_do_and_a_misspelt_glob_is_told(place: Place) {
    let scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    scene.znodes.put("/settings/a", "in zk").await;
    scene.key_becomes("settings:a", Some("in zk")).await;
    scene.redis.run::<()>("DEL settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
    scene.redis.run::<()>("RPUSH settings:a 1").await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    scene.znodes.put("/settings/a", "in zk").await;
    let shown = eventually("both states are shown", LIVE, async || {
        let shown = scene.keepstep.command("quarantine show", &[]).await.expect(0).stdout;
        if shown.contains("\"in zk\", 5 bytes") { Ok(shown) } else { Err(shown) }
    })
    .await;
    assert!(shown.contains("the key is a list") && shown.contains("to do"), "{shown}");
    let rows = scene.keepstep.json("quarantine show", &["--key", "settings:a"]).await;
    assert!(rows[0]["help"].as_str().is_some_and(|help| !help.is_empty()), "{rows:?}");
    for verb in ["quarantine retry", "quarantine drop"] {
        let said = scene.keepstep.command(verb, &["--key", "setings:*"]).await.expect(1).stderr;
        assert!(said.contains("setings:*"), "{said}");
    }
    scene.quarantine_becomes(&["wrong_type"]).await;
    scene.redis.run::<()>("DEL settings:a").await;
    scene.quarantine_becomes(&[]).await;
}

async fn tail_shows_only_the_operations_that_are_asked_for_and_refuses_an_unknown_route(place: Place) {
    let scene = Scene::start_with(|pipeline| place.of(pipeline)).await;
    scene.set("settings:a", "1").await;
    scene.znode_becomes("/settings/a", Some("1")).await;
    scene.del("settings:a").await;
    scene.znode_becomes("/settings/a", None).await;
    scene.znodes.put("/settings/wider/name", "12345").await;
    scene.key_becomes("settings:wider:name", Some("12345")).await;
    let flags = ["--no-follow", "--from", "earliest"];
    let deletes = scene.keepstep.json("tail", &[&flags[..], &["--op", "d"]].concat()).await;
    assert!(deletes.len() == 1 && deletes[0]["op"] == "d", "{deletes:?}");
    let both =
        scene.keepstep.json("tail", &[&flags[..], &["--op", "delete,create", "--key", "settings:a"]].concat()).await;
    assert_eq!(both.len(), 2, "{both:?}");
    let text = scene.keepstep.command("tail", &[&flags[..], &["--no-values"]].concat()).await.expect(0).stdout;
    let wide = text.lines().find(|line| line.contains("/settings/wider/name")).expect("the znode's line");
    assert!(wide.contains("v0") && wide.contains("5 B") && !wide.contains("12345"), "{text}");
    scene.keepstep.command("tail", &["--no-follow", "--route", "nowhere"]).await.expect(2);
    scene.keepstep.command("conflicts", &["--route", "nowhere"]).await.expect(2);
    scene.keepstep.command("tail", &["--no-follow", "--op", "rename"]).await.expect(2);
}

on_both_streams!(
    a_worker_in_the_same_folder_leaves_the_files_to_the_owner_and_takes_them_up_as_the_next_one,
    what_was_dropped_stays_silent_after_a_restart_until_it_is_another_matter,
    show_tells_both_states_and_what_to_do_and_a_misspelt_glob_is_told,
    tail_shows_only_the_operations_that_are_asked_for_and_refuses_an_unknown_route,
);
