//! A full disk, at each place where something is written: a small file system in memory stands for the disk. Where
//! mounting is not allowed, these tests say so and do nothing.

mod recovery_support;
mod support;

use std::path::PathBuf;
use std::time::Duration;

use recovery_support::{Mount, Scene, names_in};
use serde_json::json;
use support::cli::Running;
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Queue, QueueClient, QueueError, RetryPolicy, TaskId};

const LONG: Duration = Duration::from_secs(1200);

/// Prints more than the disk has, and of a kind that does not get smaller.
const FLOOD: &str = "head -c 6000000 /dev/urandom | base64";

/// A worker whose state, but for its libraries, is on a disk of 4 MiB.
fn small_disk() -> Option<(Scene, Mount)> {
    let scene = Scene::new(Some(LONG));
    let state = scene.place.path("state");
    let libraries = scene.place.path("libraries");
    std::fs::rename(state.join("libraries"), &libraries).unwrap();
    let mount = Mount::small(&state, "4m")?;
    std::os::unix::fs::symlink(&libraries, state.join("libraries")).unwrap();
    Some((scene, mount))
}

/// A worker that is ready, whatever is free.
fn worker(scene: &Scene, tasks: u32) -> Running {
    let config = scene.place.file("tcw.yml", "worker:\n  requiredDiskSpace: 0\n");
    let worker = scene.start(
        &[
            "run",
            "--config",
            &config,
            "--number-of-tasks",
            &tasks.to_string(),
        ],
        None,
    );
    worker.says("waiting for tasks");
    worker
}

/// A disk that a task's output fills is the worker's fault: the task is not green, and the next one is none the worse.
#[test]
fn a_log_that_fills_the_disk_is_never_cut_off_and_green() {
    let Some((mut scene, _mount)) = small_disk() else {
        return;
    };
    let worker = worker(&scene, 2);
    scene.submit_script(FLOOD);
    let flooded = scene.task.clone();
    worker.says("task resolved");
    assert_eq!(scene.runs(), ["exception (resource-unavailable)"]);
    let said = worker.says("writing the task's log");
    assert!(
        said.contains("No space left on device")
            && said.contains("free space on that disk, or give the worker another state directory"),
        "{said}"
    );
    scene.task = TaskId::random();
    scene.submit_script("echo there is space again");
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["completed"], "after {flooded}");
}

/// To be compressed, an artifact needs space beside the file that it is made of.
#[test]
fn an_artifact_that_there_is_no_space_to_compress_is_not_green() {
    let Some((mut scene, _mount)) = small_disk() else {
        return;
    };
    let plugins = scene.place.plugins(
        ["max_run_time", "task_log", "artifacts"].map(|name| support::library(&format!("{name}_plugin"))),
    );
    let flags = support::cli::flags(&support::library("native_engine"), &plugins);
    let config = scene.place.file("tcw.yml", "worker:\n  requiredDiskSpace: 0\n");
    let command = scene.command(&["run", "--config", &config, "--number-of-tasks", "2"], &flags);
    let worker = scene.place.start_command(command);
    worker.says("waiting for tasks");
    let payload = |bytes: u32| {
        json!({
            "maxRunTime": 600,
            "command": [["/bin/sh", "-c", format!("head -c {bytes} /dev/urandom > big.bin")]],
            "artifacts": [{
                "name": "public/big.bin", "path": "big.bin", "type": "file", "contentEncoding": "gzip"
            }],
        })
    };
    scene.submit_payload(&payload(2_500_000));
    worker.says("task resolved");
    assert_eq!(scene.runs(), ["exception (resource-unavailable)"]);
    scene.task = TaskId::random();
    scene.submit_payload(&payload(1000));
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["completed"]);
}

/// What a task writes into its own directory is its own affair.
#[test]
fn a_task_that_fills_the_disk_with_files_fails_by_itself() {
    let Some((mut scene, _mount)) = small_disk() else {
        return;
    };
    let worker = worker(&scene, 2);
    scene.submit_script("head -c 20000000 /dev/zero > file");
    worker.says("task resolved");
    assert_eq!(scene.runs(), ["failed"]);
    scene.task = TaskId::random();
    scene.submit_script("echo there is space again");
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["completed"]);
    // The end of the first could perhaps not be written down. That is made up for.
    let recovered = scene.run(&["recover"], None);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    scene.assert_nothing_left("there is space again");
}

/// What cannot be written down is not begun.
#[test]
fn a_claim_that_cannot_be_written_down_is_given_back() {
    let Some((scene, mount)) = small_disk() else {
        return;
    };
    let worker = worker(&scene, 1);
    mount.fill();
    scene.submit();
    let ended = worker.end();
    assert_eq!(ended.code(), 69, "{}", ended.stderr);
    let said = ended.err();
    assert!(
        said.contains("claims cannot be written down, so they are given back")
            && said.contains(
                "the worker cannot go on: the journal DIR/state/worker/journal.sqlite cannot be used: database or disk \
                 is full; free some space there"
            ),
        "{said}"
    );
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    mount.make_room();
    let config = scene.place.path("tcw.yml").display().to_string();
    let ended = scene.run(&["run", "--number-of-tasks", "1", "--config", &config], None);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "completed"]);
    scene.assert_nothing_left("there is space again");
}

/// The queue's disk, which the log does not fit on. The worker asks again for a minute.
#[test]
#[ignore = "slow: tests/run.sh --full"]
fn an_upload_that_the_queue_has_no_space_for_is_not_green() {
    let place = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::small(&place.path().join("queue"), "4m") else {
        return;
    };
    let mut scene = Scene::with_queue_at(&place.path().join("queue"), LONG);
    let worker = worker(&scene, 2);
    scene.submit_script(FLOOD);
    worker.says("task resolved");
    assert_eq!(scene.runs(), ["exception (resource-unavailable)"]);
    assert_eq!(
        names_in(&place.path().join("queue/storage/incoming")),
        Vec::<String>::new()
    );
    scene.task = TaskId::random();
    scene.submit_script("echo there is space again");
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["completed"]);
}

/// The queue's own database: calls are refused with a reason, nothing is half done, and it goes on when there is space.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_space_says_so_and_goes_on_afterwards() {
    let place = tempfile::tempdir().unwrap();
    let path: PathBuf = place.path().join("queue");
    let Some(mount) = Mount::small(&path, "4m") else {
        return;
    };
    let queue = EmbeddedQueue::start(EmbeddedConfig::new(&path)).await.unwrap();
    let mut config = ClientConfig::new(queue.root_url(), Some(queue.credentials()));
    config.retry = RetryPolicy {
        attempts: 1,
        ..config.retry
    };
    let client = QueueClient::new(config).unwrap();
    let now = chrono::Utc::now();
    let definition = json!({
        "taskQueueId": "local/native",
        "created": now,
        "deadline": now + chrono::TimeDelta::hours(1),
        "payload": {},
        "metadata": {"name": "n", "description": "d", "owner": "o@example.com", "source": "https://example.com"},
    });
    mount.fill();
    let task = TaskId::random();
    let refused = client.create_task(&task, &definition).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    assert!(
        refused.to_string().contains("check that the disk is not full"),
        "{refused}"
    );
    assert!(matches!(
        client.status(&task).await,
        Err(QueueError::NotFound { .. })
    ));
    mount.make_room();
    client.create_task(&task, &definition).await.unwrap();
    assert_eq!(client.status(&task).await.unwrap().runs.len(), 1);
    queue.stop().await;
}

/// Nothing is claimed that could not be worked on.
#[test]
fn claiming_is_paused_while_there_is_too_little_space() {
    let Some((scene, mount)) = small_disk() else {
        return;
    };
    let config = scene
        .place
        .file("tcw.yml", "worker:\n  requiredDiskSpace: 2 MiB\n");
    mount.fill_but(1 << 20);
    scene.submit();
    let worker = scene.start(&["run", "--config", &config, "--number-of-tasks", "1"], None);
    let said = worker.says("claiming is paused");
    let reason = format!(
        "MiB are free of the 4 MiB at {}, and `worker.requiredDiskSpace` is 2 MiB: free some, or lower it",
        scene.place.path("state").display()
    );
    assert!(said.contains(&reason), "{said}");
    worker.says("waiting for tasks");
    let status = scene.run(&["status"], None);
    let line = status
        .stdout
        .lines()
        .find(|line| line.starts_with("nothing is claimed: free space: "));
    assert!(
        line.is_some_and(|line| line.contains(&reason)) && status.stdout.matches(&reason).count() == 1,
        "{}{}",
        status.stdout,
        status.stderr
    );
    assert_eq!(scene.runs(), ["pending"]);
    mount.make_room();
    worker.says("claiming is not paused by this library any more");
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["completed"]);
}
