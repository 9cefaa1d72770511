//! The whole worker behind a proxy that does to its requests what the world does. What can be completed is; the worker
//! stays and goes on; what runs does not notice.

#[expect(dead_code, reason = "other tests use the rest")]
mod proxy_support;
#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use proxy_support::{Fault, Proxy, Rule};
use queue_support::{BOUND, POOL, Scene, run};
use rustix::process::Signal;
use support::cli::{Place, Running, with};
use tcw_host::queue::{Queue as _, TaskId};

/// Claims are short, so that those that get lost come back within the tests.
const CLAIM: Duration = Duration::from_secs(8);

async fn scene() -> Scene {
    Scene::with(|config| {
        config.claim_timeout = CLAIM;
        // Who leaves waits for the end of a poll.
        config.poll_timeout = Duration::from_secs(1);
    })
    .await
}

/// A worker for the scene's queue, behind the proxy, waiting for tasks.
fn worker(place: &Place, scene: &Scene, proxy: &Proxy, capacity: usize) -> Running {
    let worker = start("run", place, scene, proxy, capacity);
    worker.says("waiting for tasks");
    worker
}

fn start(command: &str, place: &Place, scene: &Scene, proxy: &Proxy, capacity: usize) -> Running {
    let credentials = scene.queue.credentials();
    let config = place.file(
        "config.yml",
        &format!(
            "queue:\n  rootUrl: {}\nworker:\n  workerPool: {POOL}\n  capacity: {capacity}\n  cancellationInterval: 1 s\n",
            proxy.url
        ),
    );
    let mut command = place.tcw(&with(&[command, "--config", &config], &place.native()));
    command
        .env("TASKCLUSTER_CLIENT_ID", &credentials.client_id)
        .env("TASKCLUSTER_ACCESS_TOKEN", &credentials.access_token);
    place.start_command(command)
}

/// Instead of a script, for a payload that no worker takes.
const MALFORMED: &str = "malformed";

/// A task that runs a script.
async fn script(scene: &Scene, id: &TaskId, script: &str) {
    let mut task = queue_support::task();
    task["payload"] = if script == MALFORMED {
        serde_json::json!({ "maxRunTime": 600, "command": MALFORMED })
    } else {
        serde_json::json!({ "maxRunTime": 600, "command": [["/bin/sh", "-c", script]] })
    };
    scene.client.create_task(id, &task).await.unwrap();
}

/// Waits until the last run of a task is resolved, and there is no other to come.
async fn resolved(scene: &Scene, worker: &Running, id: &TaskId) -> Vec<(String, String, Option<String>)> {
    let deadline = Instant::now() + 5 * BOUND;
    loop {
        let status = scene.client.status(id).await.unwrap();
        if status.state.is_resolved() {
            return scene.runs(id).await;
        }
        assert!(
            Instant::now() < deadline,
            "task {id} is still {:?}:\n{}",
            status.state,
            worker.said_so_far()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn made(path: &Path, worker: &Running) {
    let deadline = Instant::now() + BOUND;
    while !path.exists() {
        assert!(
            Instant::now() < deadline,
            "nobody made {}:\n{}",
            path.display(),
            worker.said_so_far()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// It stops when it is asked to, with the status for that: nothing has broken it.
async fn leaves(worker: Running) -> String {
    worker.signal(Signal::INT);
    let ended = tokio::task::spawn_blocking(|| worker.end()).await.unwrap();
    assert_eq!(ended.code(), 71, "{}", ended.stderr);
    ended.stderr
}

/// What a worker outlives without anybody noticing.
fn passing() -> Vec<(&'static str, Fault)> {
    vec![
        ("reset", Fault::Reset),
        ("cut request", Fault::CutRequest),
        ("slow answer", Fault::SlowAnswer),
        ("cut answer", Fault::CutAnswer),
        ("lost answer", Fault::LostAnswer),
        ("twice", Fault::Twice),
        ("no HTTP", Fault::NotHttp),
        ("no JSON", Fault::NotJson),
        ("endless body", Fault::EndlessBody),
        ("endless header", Fault::EndlessHeader),
        ("429", Fault::Status(429, "retry-after: 1\r\n")),
        ("500", Fault::Status(500, "")),
    ]
}

/// A call in a task's life: what the task does, which requests are meant, and how the task ends.
struct Step {
    name: &'static str,
    script: &'static str,
    method: &'static str,
    path: fn(&TaskId) -> String,
    state: &'static str,
}

const STEPS: [Step; 7] = [
    Step {
        name: "createArtifact",
        script: "echo a",
        method: "POST",
        path: |id| format!("/task/{id}/runs/0/artifacts/public%2Flogs%2Flive_backing.log"),
        state: "completed",
    },
    Step {
        name: "the link to the log",
        script: "echo a",
        method: "POST",
        path: |id| format!("/task/{id}/runs/0/artifacts/public%2Flogs%2Flive.log"),
        state: "completed",
    },
    Step {
        name: "upload",
        script: "seq 200000",
        method: "PUT",
        path: |id| format!("/storage/{id}/0/"),
        state: "completed",
    },
    Step {
        name: "reportCompleted",
        script: "true",
        method: "POST",
        path: |id| format!("/task/{id}/runs/0/completed"),
        state: "completed",
    },
    Step {
        name: "reportFailed",
        script: "exit 3",
        method: "POST",
        path: |id| format!("/task/{id}/runs/0/failed"),
        state: "failed",
    },
    Step {
        name: "reportException",
        script: MALFORMED,
        method: "POST",
        path: |id| format!("/task/{id}/runs/0/exception"),
        state: "exception",
    },
    Step {
        name: "reclaimTask",
        // Longer than the claim.
        script: "sleep 9",
        method: "POST",
        path: |id| format!("/task/{id}/runs/0/reclaim"),
        state: "completed",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_completed_whatever_passes_between_here_and_the_queue() {
    completed_in_spite_of(passing()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for time-outs of half a minute and of two; tests/run.sh --full runs it"]
async fn tasks_are_completed_whatever_stands_still_between_here_and_the_queue() {
    completed_in_spite_of(vec![("hang", Fault::Hang), ("trickle", Fault::Trickle)]).await;
}

async fn completed_in_spite_of(faults: Vec<(&'static str, Fault)>) {
    let (scene, place) = (scene().await, Place::new());
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let mut tasks = Vec::new();
    // Those that take long first.
    for step in STEPS.iter().rev() {
        for (name, fault) in faults.iter().cloned() {
            let id = TaskId::random();
            proxy.rule(Rule::once(step.method, (step.path)(&id), fault));
            script(&scene, &id, step.script).await;
            tasks.push((id, step, name));
        }
    }
    let worker = worker(&place, &scene, &proxy, 20);
    let mut wrong = Vec::new();
    for (id, step, name) in &tasks {
        let runs = resolved(&scene, &worker, id).await;
        let met = !proxy.seen(step.method, &(step.path)(id)).is_empty();
        let artifacts = scene.client.list_artifacts(id, None).await.unwrap();
        let mut names: Vec<_> = artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
        names.sort_unstable();
        let reason = if step.state == "exception" {
            "malformed-payload"
        } else {
            step.state
        };
        let wanted = vec![run(step.state, "scheduled", Some(reason))];
        if runs != wanted || !met || names != ["public/logs/live.log", "public/logs/live_backing.log"] {
            wrong.push(format!("{} x {name}: {runs:?}, {names:?}, met: {met}", step.name));
        }
    }
    let said = leaves(worker).await;
    assert!(wrong.is_empty(), "{}\n{said}", wrong.join("\n"));
    assert!(!said.contains("ERROR"), "{said}");
}

/// What the queue says no to, and what becomes of the task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_queue_refuses_has_the_outcome_that_the_book_says() {
    let (scene, place) = (scene().await, Place::new());
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let exception = |reason| vec![run("exception", "scheduled", Some(reason))];
    // The claim expires, and the next run is as good as any.
    let again = |state, reason| {
        vec![
            run("exception", "scheduled", Some("claim-expired")),
            run(state, "retry", Some(reason)),
        ]
    };
    let mut tasks = Vec::new();
    for status in [401, 403, 404, 409] {
        for step in &STEPS {
            let expected = match (step.name, status) {
                // It has the name already, and the name is the task's to choose.
                ("createArtifact" | "the link to the log", 409) => exception("malformed-payload"),
                ("createArtifact" | "the link to the log", _) => exception("internal-error"),
                // The URL may have ended: another one is asked for.
                ("upload", 401 | 403) => vec![run("completed", "scheduled", Some("completed"))],
                ("upload", _) => exception("resource-unavailable"),
                ("reportCompleted" | "reclaimTask", _) => again("completed", "completed"),
                ("reportFailed", _) => again("failed", "failed"),
                ("reportException", _) => again("exception", "malformed-payload"),
                (name, _) => panic!("the table has nothing for {name}"),
            };
            let id = TaskId::random();
            proxy.rule(Rule::once(
                step.method,
                (step.path)(&id),
                Fault::Status(status, ""),
            ));
            script(&scene, &id, step.script).await;
            tasks.push((id, step, status, expected));
        }
    }
    let worker = worker(&place, &scene, &proxy, 10);
    let mut wrong = Vec::new();
    for (id, step, status, expected) in &tasks {
        let runs = resolved(&scene, &worker, id).await;
        if runs != *expected {
            wrong.push(format!("{} x {status}: {runs:?}", step.name));
        }
    }
    let said = leaves(worker).await;
    assert!(wrong.is_empty(), "{}\n{said}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_fails_is_not_asked_for_again_at_once() {
    let faults = [
        // The answer had a claim in it, which nobody has then until it expires.
        (Fault::LostAnswer, true),
        (Fault::CutAnswer, true),
        (Fault::Twice, false),
        (Fault::NotJson, false),
        (Fault::Status(500, ""), false),
        (Fault::Status(401, ""), false),
    ];
    let cells = faults.map(|(fault, lost)| async move {
        let (scene, place) = (scene().await, Place::new());
        let proxy = Proxy::start(scene.queue.root_url()).await;
        let id = TaskId::random();
        script(&scene, &id, "true").await;
        proxy.rule(Rule::once("POST", "/claim-work/", fault.clone()));
        let worker = tokio::task::block_in_place(|| worker(&place, &scene, &proxy, 1));
        let runs = resolved(&scene, &worker, &id).await;
        let completed = Some("completed");
        let wanted = if lost {
            vec![
                run("exception", "scheduled", Some("claim-expired")),
                run("completed", "retry", completed),
            ]
        } else {
            vec![run("completed", "scheduled", completed)]
        };
        let said = leaves(worker).await;
        assert_eq!(runs, wanted, "{fault:?}\n{said}");
        if fault != Fault::Twice {
            assert_eq!(
                said.matches("nothing could be claimed").count(),
                1,
                "{fault:?}\n{said}"
            );
            assert_eq!(
                said.matches("the queue answers again").count(),
                1,
                "{fault:?}\n{said}"
            );
        }
    });
    futures_util::future::join_all(cells).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_does_not_notice_that_the_queue_is_away() {
    let (scene, place) = (scene().await, Place::new());
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let id = TaskId::random();
    let (begun, go, done) = (place.path("begun"), place.path("go"), place.path("done"));
    let text = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done; touch {}",
        begun.display(),
        go.display(),
        done.display()
    );
    script(&scene, &id, &text).await;
    let worker = worker(&place, &scene, &proxy, 2);
    made(&begun, &worker).await;
    // The other slot's claim is under way, and its statuses are asked for every second.
    proxy.refuse().await;
    std::fs::write(&go, "").unwrap();
    made(&done, &worker).await;
    proxy.listen();
    let runs = resolved(&scene, &worker, &id).await;
    let said = leaves(worker).await;
    assert_eq!(runs, [run("completed", "scheduled", Some("completed"))], "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_hangs_blocks_nothing_that_runs() {
    let (scene, place) = (scene().await, Place::new());
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let id = TaskId::random();
    let (begun, go, done) = (place.path("begun"), place.path("go"), place.path("done"));
    let text = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done; touch {}",
        begun.display(),
        go.display(),
        done.display()
    );
    script(&scene, &id, &text).await;
    let worker = worker(&place, &scene, &proxy, 2);
    made(&begun, &worker).await;
    proxy.rule(Rule::always("POST", "/tasks/status", Fault::Hang));
    proxy.rule(Rule::always("POST", "/claim-work/", Fault::Hang));
    proxy.rule(Rule::always("POST", "/artifacts/", Fault::Hang));
    proxy.sees(1, "POST", "/tasks/status").await;
    std::fs::write(&go, "").unwrap();
    made(&done, &worker).await;
    proxy.sees(1, "POST", "/artifacts/").await;
    proxy.behave();
    let runs = resolved(&scene, &worker, &id).await;
    let said = leaves(worker).await;
    assert_eq!(runs, [run("completed", "scheduled", Some("completed"))], "{said}");
}

/// Stopped while the queue is being told how a task ended: what it has heard stands, and the next start tells it the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_stopped_in_the_middle_of_a_report_is_made_up_for_by_the_next_start() {
    let shutdown = || {
        vec![
            run("exception", "scheduled", Some("worker-shutdown")),
            run("pending", "retry", None),
        ]
    };
    let completed = || vec![run("completed", "scheduled", Some("completed"))];
    for (fault, expected) in [(Fault::Hang, shutdown()), (Fault::LostAnswer, completed())] {
        let (scene, place) = (Scene::new().await, Place::new());
        let proxy = Proxy::start(scene.queue.root_url()).await;
        let id = TaskId::random();
        let path = format!("/task/{id}/runs/0/completed");
        proxy.rule(Rule::always("POST", &path, fault.clone()));
        script(&scene, &id, "true").await;
        let worker = tokio::task::block_in_place(|| worker(&place, &scene, &proxy, 1));
        proxy.sees(1, "POST", &path).await;
        if expected == completed() {
            resolved(&scene, &worker, &id).await;
        }
        worker.signal(Signal::TERM);
        worker.says("stopping now");
        worker.signal(Signal::TERM);
        let ended = tokio::task::spawn_blocking(|| worker.end()).await.unwrap();
        assert_eq!(ended.code(), 72, "{}", ended.stderr);
        proxy.behave();
        let recovery = start("recover", &place, &scene, &proxy, 1);
        let recovered = tokio::task::spawn_blocking(|| recovery.end()).await.unwrap();
        assert_eq!(recovered.code(), 0, "{fault:?}: {}", recovered.stderr);
        assert_eq!(scene.runs(&id).await, expected, "{fault:?}: {}", recovered.stderr);
    }
}

/// What the queue says of other tasks, or of none, is no news about those that run here; nor is that it keeps silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_about_cancellations_that_lacks_a_task_or_names_another_changes_nothing() {
    let (scene, place) = (Scene::new().await, Place::new());
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let other = TaskId::random();
    let later = "2100-01-01T00:00:00.000Z";
    let unknown = serde_json::json!({ "statuses": [{ "taskId": other, "status": {
        "taskId": other, "provisionerId": "proj", "workerType": "other", "taskQueueId": "proj/other",
        "schedulerId": "-", "projectId": "none", "taskGroupId": other, "deadline": later, "expires": later,
        "retriesLeft": 0, "state": "exception", "runs": [{
            "runId": 0, "state": "exception", "reasonCreated": "scheduled", "reasonResolved": "canceled",
            "scheduled": later,
        }],
    } }] });
    let none = serde_json::json!({ "statuses": [] });
    for answer in [&unknown, &none] {
        let fault = Fault::Answer(answer.to_string());
        proxy.rule(Rule::once("POST", "/tasks/status", fault));
    }
    let (cancelled, goes_on) = (TaskId::random(), TaskId::random());
    let (begun, begun_too, go) = (place.path("begun"), place.path("too"), place.path("go"));
    for (id, begun) in [(&cancelled, &begun), (&goes_on, &begun_too)] {
        let waits = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
        script(&scene, id, &format!("touch {}; {waits}", begun.display())).await;
    }
    let worker = worker(&place, &scene, &proxy, 2);
    made(&begun, &worker).await;
    made(&begun_too, &worker).await;
    proxy.sees(3, "POST", "/tasks/status").await;
    let said = worker.said_so_far();
    assert!(!said.contains("the queue has resolved a task"), "{said}");
    assert!(!said.contains("could not be asked about cancellations"), "{said}");
    // The next answer is the queue's own.
    scene.client.cancel_task(&cancelled).await.unwrap();
    worker.says(&format!(
        "task resolved task_id={cancelled} run_id=0 resolution=ResolvedElsewhere"
    ));
    std::fs::write(&go, "").unwrap();
    let runs = resolved(&scene, &worker, &goes_on).await;
    let said = leaves(worker).await;
    assert_eq!(runs, [run("completed", "scheduled", Some("completed"))], "{said}");
}
