//! Libraries that call the host from inside of the host's calls, from threads of their own, and while the host leaves:
//! two threads in the host, two in each library, many tasks. Nothing waits for itself.

mod support;
mod wrong_support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::cli::{Place, flags};
use support::library;
use tcw_host::queue::{ClientConfig, Credentials, Queue, QueueClient, TaskId, TaskState};
use wrong_support::{PATIENT, Scene, operator_reads, wrong};

/// Far more than it takes: who is not done by then, waits for itself.
const STUCK: Duration = Duration::from_secs(240);

/// A worker with eight slots and two threads, whose tasks run until they are killed.
fn scene() -> Scene {
    let place = Place::new();
    let plugins = place.plugins([wrong("reenters"), library("task_log_plugin")]);
    let mut libraries = flags(&wrong("late"), &plugins);
    libraries.extend(["--capacity", "8"].map(str::to_owned));
    let mut scene = Scene::new(place, libraries, PATIENT, false);
    scene.set("TOKIO_WORKER_THREADS", "2");
    scene
}

/// A client of the worker's own queue.
fn client(scene: &Scene) -> QueueClient {
    let text = std::fs::read(scene.place.path("state/queue/credentials.json")).unwrap();
    let known: Value = serde_json::from_slice(&text).unwrap();
    let field = |name: &str| known[name].as_str().unwrap().to_owned();
    let credentials = Credentials::new(field("clientId"), field("accessToken"));
    QueueClient::new(ClientConfig::new(field("rootUrl"), Some(credentials))).unwrap()
}

fn definition(payload: Value) -> Value {
    let now = chrono::Utc::now();
    let at =
        |hours| (now + chrono::TimeDelta::hours(hours)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    json!({
        "taskQueueId": "local/late",
        "created": at(0),
        "deadline": at(1),
        "expires": at(2),
        "retries": 0,
        "payload": payload,
        "metadata": { "name": "n", "description": "d", "owner": "a@example.com", "source": "https://example.com" },
    })
}

#[tokio::test]
async fn two_hundred_tasks_whose_hooks_call_back_all_end() {
    let mut scene = scene();
    scene.starts();
    let queue = client(&scene);
    let mut tasks = Vec::new();
    for _ in 0..200 {
        let task = TaskId::random();
        queue
            .create_task(&task, &definition(json!({ "until": "/never/there" })))
            .await
            .unwrap();
        tasks.push(task);
    }
    let begun = Instant::now();
    for task in &tasks {
        // Killed by the plugin, so not a success; by nobody's fault.
        while queue.status(task).await.unwrap().state != TaskState::Failed {
            assert!(
                begun.elapsed() < STUCK,
                "task {task} is stuck:\n{}",
                scene.worker().said_so_far()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let artifacts = queue.list_artifacts(task, None).await.unwrap();
        assert_eq!(
            artifacts.len(),
            10 + 1 + 2,
            "of ten threads, of the hook, and the log"
        );
    }
    let ended = tokio::task::spawn_blocking(move || {
        let ended = scene.interrupted();
        scene.leaves_nothing();
        ended
    });
    let ended = ended.await.unwrap();
    operator_reads(
        &ended,
        &["WARN every service has answered at the end library=\"reenters\""],
        "the end",
    );
    assert_eq!(ended.code(), 71, "{}", ended.err());
}

#[tokio::test]
async fn a_worker_leaves_while_its_libraries_use_it() {
    let mut scene = scene();
    scene.starts();
    let queue = client(&scene);
    let tasks: Vec<TaskId> = (0..8).map(|_| TaskId::random()).collect();
    for task in &tasks {
        let payload = json!({ "until": "/never/there", "loops": true });
        queue.create_task(task, &definition(payload)).await.unwrap();
    }
    let begun = Instant::now();
    for task in &tasks {
        while queue
            .list_artifacts(task, None)
            .await
            .map_or(0, |artifacts| artifacts.len())
            < 20
        {
            assert!(
                begun.elapsed() < STUCK,
                "task {task} does not run:\n{}",
                scene.worker().said_so_far()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let ended = tokio::task::spawn_blocking(move || {
        scene.worker().signal(Signal::TERM);
        let ended = scene.leaves();
        for task in &tasks {
            assert_eq!(scene.afterwards(&task.to_string()), "exception (worker-shutdown)");
        }
        scene.leaves_nothing();
        ended
    });
    let ended = ended.await.unwrap();
    operator_reads(
        &ended,
        &["WARN every service has answered at the end library=\"reenters\""],
        "the end",
    );
    assert_eq!(ended.code(), 72, "{}", ended.err());
}
