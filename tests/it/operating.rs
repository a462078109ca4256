//! What operators do to a worker and its surroundings: signals, removed sockets, wrong folders, empty variables, new passwords,
//! and web pages that ask in somebody else's name.

use crate::support::{Keepstep, LIVE, Pipeline, Scene, eventually, eventually_is};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn logged(scene: &Scene, part: &str) {
    eventually(format!("the log says `{part}`"), LIVE, async || {
        let log = scene.keepstep.log();
        if log.contains(part) { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn a_hangup_reads_the_files_again_and_ends_nothing() {
    let mut scene = Scene::start().await;
    scene.settle().await;
    let file = std::fs::read_to_string(scene.keepstep.file()).unwrap();
    scene.keepstep.hang_up();
    logged(&scene, "the files have not changed since the start").await;
    scene.keepstep.rewrite(format!("{file}worker:\n  reconcile: 5s\n"));
    scene.keepstep.hang_up();
    logged(&scene, "settings changed; a running worker does not apply changes yet: restart it").await;
    scene.keepstep.rewrite(format!("{file}wrker: {{}}\n"));
    scene.keepstep.hang_up();
    logged(&scene, "the files cannot be used; the worker continues unchanged").await;
    assert!(scene.keepstep.log().contains("wrker"), "{}", scene.keepstep.log());
    scene.keepstep.rewrite(file);
    scene.settle().await;
    assert!(scene.keepstep.runs());
    assert_eq!(scene.keepstep.terminate().await, Some(0), "it drains as ever");
}

#[tokio::test]
async fn a_socket_that_was_removed_comes_back() {
    let scene = Scene::start().await;
    scene.keepstep.command("status", &[]).await.expect(0);
    std::fs::remove_file(scene.keepstep.data().join("settings").join("worker.sock")).unwrap();
    assert_eq!(scene.keepstep.command("status", &[]).await.code, Some(75));
    eventually_is("the exit code of status", LIVE, Some(0), async || scene.keepstep.command("status", &[]).await.code)
        .await;
}

#[tokio::test]
async fn a_wrong_folder_is_said_and_not_answered_with_nothing() {
    let scene = Scene::start().await;
    scene.settle().await;
    let file = scene.keepstep.file().to_str().unwrap();
    for verb in [
        &["tail", "--no-follow"][..],
        &["conflicts"],
        &["quarantine", "list"],
        &["quarantine", "show"],
        &["tail", "--no-follow", "--from", "7"],
    ] {
        let outcome = scene.keepstep.bare(&[verb, &[file, "--data-dir", "elsewhere"]].concat()).await;
        assert!(outcome.code == Some(1) && outcome.stdout.is_empty(), "{verb:?}: {outcome:?}");
        assert!(outcome.stderr.contains("elsewhere") && outcome.stderr.contains("--data-dir"), "{verb:?}: {outcome:?}");
    }
    // What is there, and empty, is answered.
    assert_eq!(scene.keepstep.json("quarantine list", &[]).await, Vec::<serde_json::Value>::new());
    assert_eq!(scene.keepstep.json("conflicts", &[]).await, Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn an_empty_variable_counts_as_unset() {
    let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
    for name in
        ["FORMAT", "LOG_LEVEL", "TIMEOUT", "HTTP_TOKEN_FILE", "FROM", "LIMIT", "URL", "ONCE", "ROUTE", "KEY", "UNTIL"]
    {
        scene.keepstep = scene.keepstep.variable(&format!("KEEPSTEP_{name}"), "");
    }
    scene.run().await;
    scene.settle().await;
    scene.keepstep.command("status", &[]).await.expect(0);
    scene.keepstep.command("quarantine list", &[]).await.expect(0);
    assert!(!scene.keepstep.command("tail", &["--no-follow"]).await.expect(0).stdout.is_empty());
    let set = scene.keepstep.variable("KEEPSTEP_LIMIT", "many");
    assert_eq!(set.command("tail", &["--no-follow"]).await.code, Some(2), "one that is set counts");
}

#[tokio::test]
async fn the_address_of_a_worker_is_none_of_a_scratch_store() {
    let mut scene = Scene::start().await;
    scene.settle().await;
    scene.keepstep = scene.keepstep.variable("KEEPSTEP_URL", "http://127.0.0.1:9");
    scene.keepstep.command("replay", &["--to", "cache", "--dry-run"]).await.expect(0);
    assert_eq!(scene.keepstep.command("status", &[]).await.code, Some(75), "there it is asked for the worker");
}

/// A worker whose Redis wants a password that stands in a file.
async fn with_password_file() -> Scene {
    let user = ["--user", "keepstep", "on", ">first", "~*", "&*", "+@all"];
    let mut scene =
        Scene::prepare(&user, |pipeline| pipeline.redis("username: keepstep").redis("password: {file: pw}")).await;
    std::fs::write(scene.keepstep.file().with_file_name("pw"), "first\n").unwrap();
    scene.run().await;
    scene.settle().await;
    scene
}

#[tokio::test]
async fn a_password_in_a_file_is_read_again_at_each_login() {
    let scene = with_password_file().await;
    std::fs::write(scene.keepstep.file().with_file_name("pw"), "second\n").unwrap();
    scene.redis.run::<()>("ACL SETUSER keepstep resetpass >second").await;
    scene.redis.run::<i64>("CLIENT KILL USER keepstep").await;
    scene.settle().await;
    let log = scene.keepstep.log();
    assert!(!log.contains("first") && !log.contains("second\""), "{log}");
}

#[tokio::test]
async fn commands_that_open_no_store_need_no_secret() {
    let scene = with_password_file().await;
    std::fs::remove_file(scene.keepstep.file().with_file_name("pw")).unwrap();
    for verb in ["status", "conflicts", "quarantine list", "pause", "resume", "reconcile"] {
        scene.keepstep.command(verb, &[]).await.expect(0);
    }
    scene.keepstep.command("tail", &["--no-follow"]).await.expect(0);
    let refused = scene.keepstep.command("diff", &[]).await;
    assert!(refused.code == Some(78) && refused.stderr.contains("pw"), "{refused:?}");
}

#[tokio::test]
async fn a_web_page_that_calls_itself_127_0_0_1_reads_nothing() {
    let keepstep = {
        let mut scene = Scene::prepare(&[], |pipeline| pipeline).await;
        scene.run().await;
        scene
    };
    let address = keepstep.keepstep.http();
    let ask = async |host: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /status HTTP/1.1\r\n{host}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer.get(9..12).unwrap_or_default().to_owned(), answer)
    };
    for host in ["evil.example", "evil.example:9464", "127.0.0.1.evil.example"] {
        let (code, answer) = ask(&format!("host: {host}\r\n")).await;
        assert!(code == "421" && !answer.contains("pipelines"), "{host}: {answer}");
    }
    for host in ["localhost", "localhost:9464", "127.0.0.1:1", "[::1]"] {
        let (code, answer) = ask(&format!("host: {host}\r\n")).await;
        assert!(code == "200" && answer.contains("pipelines"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn what_goes_into_quarantine_is_one_line_that_names_it() {
    let scene = Scene::start().await;
    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    let log = scene.keepstep.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("is quarantined")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for part in [r#"pipeline="settings""#, r#"route="settings""#, r#"key="settings:list""#, r#"path="/settings/list""#]
    {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
}

#[tokio::test]
async fn notifications_that_a_shell_has_cut_are_said_to_be_incomplete() {
    let scene = Scene::prepare(&["--notify-keyspace-events", "gK"], |pipeline| pipeline).await;
    let checked = scene.keepstep.command("validate", &["--connect"]).await.expect(0);
    assert!(checked.stdout.contains("incomplete: missing $ x e"), "{checked:?}");
    assert!(checked.stdout.contains("CONFIG SET notify-keyspace-events 'gK$xe'"), "{checked:?}");
    let mut scene = scene;
    scene.run().await;
    logged(&scene, "notifications are incomplete: missing $ x e").await;
    logged(&scene, "'gK$xe'").await;
    scene.redis.run::<()>("CONFIG SET notify-keyspace-events KEA").await;
    eventually_is("the note of the store", LIVE, json!(""), async || {
        let status = scene.keepstep.json("status", &[]).await;
        status[0]["stores"][1]["note"].clone()
    })
    .await;
}

/// A worker that hands over, or has not got the pipeline yet, tells nothing of what the owner knows.
#[tokio::test]
async fn a_standby_tells_no_figures() {
    let mut scene = Scene::start().await;
    scene.redis.run::<()>("RPUSH settings:list 1").await;
    scene.quarantine_becomes(&["wrong_type"]).await;
    scene.settle().await;
    let mut other = scene.keepstep.another();
    other.start();
    other.wait_ready().await;
    // Its session expires: the other takes over, and the first stands by.
    scene.keepstep.freeze();
    let state = async |worker: &Keepstep| worker.json("status", &[]).await[0]["state"].clone();
    eventually_is("the other's state", LIVE, json!("live"), async || state(&other).await).await;
    scene.keepstep.thaw();
    eventually_is("the first one's state", LIVE, json!("standby"), async || state(&scene.keepstep).await).await;
    let told = scene.keepstep.json("status", &[]).await[0].clone();
    let figures = |row: &serde_json::Value| {
        ["pairs", "quarantined", "pending", "lag_seconds"].map(|name| row["routes"][0][name].as_f64().unwrap())
    };
    assert_eq!(figures(&told), [0.0; 4], "{told}");
    let page = scene.keepstep.get("/metrics").await.body;
    for name in
        ["pairs", "quarantined", "lag_seconds", "changes_total", "writes_total", "conflicts_total", "losses_total"]
    {
        assert!(!page.contains(&format!("keepstep_{name}{{")), "{name}: {page}");
    }
    assert!(page.contains("keepstep_pipeline_state{pipeline=\"settings\",state=\"standby\"} 1"), "{page}");
    assert_eq!(scene.keepstep.status_of("/ready").await, Some(200));
    assert!(other.metric("keepstep_pairs", "").await >= 1.0);
}

#[tokio::test]
async fn nobody_answers_where_there_is_no_worker() {
    let keepstep = Keepstep::new(Pipeline::two_way("127.0.0.1:1", "redis://127.0.0.1:1/0"));
    assert_eq!(keepstep.command("status", &[]).await.code, Some(75));
}
