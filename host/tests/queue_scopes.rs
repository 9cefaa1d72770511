//! Every call of the embedded queue asks for its scopes: none suffices without them, and none asks for more. A call that is
//! not in the table fails the test.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::collections::BTreeSet;
use std::time::Duration;

use queue_support::raw::{Raw, temporary};
use queue_support::{POOL, Scene, in_an_hour, routes, task};
use serde_json::{Value, json};
use tcw_host::queue::{ArtifactRequest, Credentials, TaskId};

/// A call with exactly the scopes that it needs. Without any, whoever asks may.
struct Call {
    name: &'static str,
    method: &'static str,
    path: String,
    body: Option<Value>,
    scopes: Vec<String>,
    anybody: bool,
    /// Whether it succeeds, once it may be made.
    succeeds: bool,
}

impl Call {
    /// Whether nobody looks at who makes it.
    fn is_about_nobody(&self) -> bool {
        let name = self.name.trim_start_matches("auth ");
        ["ping", "heartbeat", "lbheartbeat", "version"].contains(&name)
    }
}

/// A call that needs scopes.
fn call(
    name: &'static str,
    method: &'static str,
    path: impl Into<String>,
    body: impl Into<Option<Value>>,
    scopes: &[&str],
) -> Call {
    Call {
        name,
        method,
        path: path.into(),
        body: body.into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        anybody: false,
        succeeds: true,
    }
}

/// A call that the anonymous role may make.
fn open(
    name: &'static str,
    method: &'static str,
    path: impl Into<String>,
    body: impl Into<Option<Value>>,
) -> Call {
    Call {
        anybody: true,
        ..call(name, method, path, body, &[])
    }
}

/// Every call that the queue has, on tasks that are in the right state for it.
async fn calls(scene: &Scene) -> Vec<Call> {
    let (queue, auth) = ("/api/queue/v1", "/api/auth/v1");
    let mut runs = Vec::new();
    for _ in 0..5 {
        let id = scene.create().await;
        let (_, run) = scene.claim().await;
        assert_eq!(run.task_id(), &id);
        runs.push(id);
    }
    let [reclaimed, completed, failed, broken, made] = &runs[..] else {
        unreachable!("five were made")
    };
    let with_artifacts = scene.create().await;
    let (_, run) = scene.claim().await;
    for name in ["public/a", "private/a"] {
        let artifact = ArtifactRequest::Reference {
            expires: in_an_hour(),
            url: "https://example.com/a".to_owned(),
            content_type: "text/plain".to_owned(),
        };
        run.create_artifact(name, &artifact).await.unwrap();
    }
    let mut unscheduled = Vec::new();
    for _ in 0..2 {
        let first = scene
            .create_with(|task| task["taskQueueId"] = json!("proj-test/nobody"))
            .await;
        unscheduled.push(
            scene
                .create_with(|task| {
                    task["taskQueueId"] = json!("proj-test/nobody");
                    task["dependencies"] = json!([first]);
                })
                .await,
        );
    }
    let other = scene
        .create_with(|task| task["taskQueueId"] = json!("proj-test/nobody"))
        .await;
    let id = &with_artifacts;
    let of_group = |verb: &str, task: &TaskId| format!("queue:{verb}-task:-/{task}/{task}");
    let new = TaskId::random();
    let definition = {
        let mut task = task();
        task["scopes"] = json!(["a:b"]);
        task["routes"] = json!(["r"]);
        task
    };
    let artifact = json!({
        "storageType": "error", "reason": "too-large-file-on-worker", "message": "m", "expires": in_an_hour(),
    });
    let client = json!({ "description": "", "scopes": ["c:d"], "expires": in_an_hour() });
    let mut calls = vec![
        open("ping", "GET", format!("{queue}/ping"), None),
        open("auth ping", "GET", format!("{auth}/ping"), None),
        open("task", "GET", format!("{queue}/task/{id}"), None),
        open("status", "GET", format!("{queue}/task/{id}/status"), None),
        open(
            "tasks",
            "POST",
            format!("{queue}/tasks"),
            json!({ "taskIds": [id] }),
        ),
        open(
            "statuses",
            "POST",
            format!("{queue}/tasks/status"),
            json!({ "taskIds": [id] }),
        ),
        open("pendingTasks", "GET", format!("{queue}/pending/{POOL}"), None),
        open(
            "listArtifacts",
            "GET",
            format!("{queue}/task/{id}/runs/0/artifacts"),
            None,
        ),
        open(
            "listLatestArtifacts",
            "GET",
            format!("{queue}/task/{id}/artifacts"),
            None,
        ),
        call(
            "createTask",
            "PUT",
            format!("{queue}/task/{new}"),
            definition,
            &[
                "a:b",
                "queue:route:r",
                "queue:create-task:project:none",
                "queue:scheduler-id:-",
                "queue:create-task:lowest:proj-test/linux",
            ],
        ),
        call(
            "scheduleTask",
            "POST",
            format!("{queue}/task/{}/schedule", unscheduled[0]),
            None,
            &[&of_group("schedule", &unscheduled[0])],
        ),
        call(
            "cancelTask",
            "POST",
            format!("{queue}/task/{}/cancel", unscheduled[1]),
            None,
            &[&of_group("cancel", &unscheduled[1])],
        ),
        call(
            "rerunTask",
            "POST",
            format!("{queue}/task/{other}/rerun"),
            None,
            &[&of_group("rerun", &other)],
        ),
        call(
            "claimWork",
            "POST",
            format!("{queue}/claim-work/proj-test%2Fidle"),
            json!({ "workerGroup": "g", "workerId": "w" }),
            &["queue:claim-work:proj-test/idle", "queue:worker-id:g/w"],
        ),
        call(
            "reclaimTask",
            "POST",
            format!("{queue}/task/{reclaimed}/runs/0/reclaim"),
            None,
            &[&format!("queue:reclaim-task:{reclaimed}/0")],
        ),
        call(
            "reportCompleted",
            "POST",
            format!("{queue}/task/{completed}/runs/0/completed"),
            None,
            &[&format!("queue:resolve-task:{completed}/0")],
        ),
        call(
            "reportFailed",
            "POST",
            format!("{queue}/task/{failed}/runs/0/failed"),
            None,
            &[&format!("queue:resolve-task:{failed}/0")],
        ),
        call(
            "reportException",
            "POST",
            format!("{queue}/task/{broken}/runs/0/exception"),
            json!({ "reason": "internal-error" }),
            &[&format!("queue:resolve-task:{broken}/0")],
        ),
        call(
            "createArtifact",
            "POST",
            format!("{queue}/task/{made}/runs/0/artifacts/public%2Fx"),
            artifact,
            &[&format!("queue:create-artifact:{made}/0")],
        ),
        call(
            "auth createClient",
            "PUT",
            format!("{auth}/clients/x%2Fy"),
            client,
            &["auth:create-client:x/y", "c:d"],
        ),
        call(
            "auth listClients",
            "GET",
            format!("{auth}/clients/"),
            None,
            &["auth:list-clients"],
        ),
        call(
            "auth client",
            "GET",
            format!("{auth}/clients/x%2Fy"),
            None,
            &["auth:get-client:x/y"],
        ),
        call(
            "auth resetAccessToken",
            "POST",
            format!("{auth}/clients/x%2Fy/reset"),
            None,
            &["auth:reset-access-token:x/y"],
        ),
        call(
            "auth deleteClient",
            "DELETE",
            format!("{auth}/clients/x%2Fy"),
            None,
            &["auth:delete-client:x/y"],
        ),
    ];
    for (name, path) in [
        ("getArtifact", "runs/0/artifacts"),
        ("getLatestArtifact", "artifacts"),
        ("artifact", "runs/0/artifact-content"),
        ("latestArtifact", "artifact-content"),
        ("artifactInfo", "runs/0/artifact-info"),
        ("latestArtifactInfo", "artifact-info"),
    ] {
        calls.push(open(
            name,
            "GET",
            format!("{queue}/task/{id}/{path}/public%2Fa"),
            None,
        ));
        // What is said of an artifact needs no more than listing it.
        let info = name.ends_with("Info");
        let private = format!("{queue}/task/{id}/{path}/private%2Fa");
        calls.push(match info {
            true => open(name, "GET", private, None),
            false => call(name, "GET", private, None, &["queue:get-artifact:private/a"]),
        });
    }
    calls.extend(groups_and_priorities(scene).await);
    calls.extend(alternatives(&unscheduled, &other));
    calls.extend(claims_and_artifacts(made, &other));
    calls.extend(workers_and_queues());
    calls
}

async fn groups_and_priorities(scene: &Scene) -> Vec<Call> {
    let first = scene
        .create_with(|task| {
            task["taskQueueId"] = json!("proj-test/nobody");
            task["schedulerId"] = json!("s");
        })
        .await;
    let path = |rest: &str| format!("/api/queue/v1/task-group/{first}{rest}");
    let priority = || Some(json!({ "newPriority": "high" }));
    let of_group = |verb: &str| format!("queue:{verb}:s/{first}");
    let task = |rest: &str| format!("/api/queue/v1/task/{first}/{rest}");
    let mut calls = vec![
        open("listDependentTasks", "GET", task("dependents"), None),
        open("listTaskGroup", "GET", path("/list"), None),
        open("getTaskGroup", "GET", path(""), None),
    ];
    for scope in [
        format!("queue:change-task-priority:{first}"),
        "queue:change-task-priority-in-queue:proj-test/nobody".to_owned(),
    ] {
        calls.push(call(
            "changeTaskPriority",
            "POST",
            task("priority"),
            priority(),
            &[&scope],
        ));
    }
    for (name, rest, verb, body) in [
        (
            "changeTaskGroupPriority",
            "/priority",
            "change-task-group-priority",
            priority(),
        ),
        // In this order: only what is sealed can be cancelled.
        ("sealTaskGroup", "/seal", "seal-task-group", None),
        ("cancelTaskGroup", "/cancel", "cancel-task-group", None),
    ] {
        calls.push(call(name, "POST", path(rest), body, &[&of_group(verb)]));
    }
    calls
}

/// The other scopes that do for what changes a task's course.
fn alternatives(unscheduled: &[TaskId], other: &TaskId) -> Vec<Call> {
    let mut calls = Vec::new();
    for (name, verb, id) in [
        ("scheduleTask", "schedule", &unscheduled[0]),
        ("cancelTask", "cancel", &unscheduled[1]),
        ("rerunTask", "rerun", other),
    ] {
        let path = format!("/api/queue/v1/task/{id}/{verb}");
        let in_project = format!("queue:{verb}-task-in-project:none");
        calls.push(call(name, "POST", path.as_str(), None, &[&in_project]));
        let both = [
            format!("queue:{verb}-task"),
            format!("assume:scheduler-id:-/{id}"),
        ];
        calls.push(call(name, "POST", path, None, &[&both[0], &both[1]]));
    }
    calls
}

fn claims_and_artifacts(running: &TaskId, pending: &TaskId) -> Vec<Call> {
    let worker = json!({ "workerGroup": "g", "workerId": "w" });
    let path = |id: &TaskId, rest: &str| format!("/api/queue/v1/task/{id}/runs/0/{rest}");
    vec![
        call(
            "claimTask",
            "POST",
            path(pending, "claim"),
            worker,
            &["queue:claim-task:proj-test/nobody", "queue:worker-id:g/w"],
        ),
        // There is no object service, so that this is refused whoever asks.
        Call {
            succeeds: false,
            ..call(
                "finishArtifact",
                "PUT",
                path(running, "artifacts/public%2Fx"),
                json!({ "uploadId": TaskId::random() }),
                &[&format!("queue:create-artifact:{running}/0")],
            )
        },
    ]
}

fn workers_and_queues() -> Vec<Call> {
    let api = "/api/queue/v1";
    let mut calls: Vec<Call> = ["heartbeat", "lbheartbeat", "version"]
        .into_iter()
        .map(|name| open(name, "GET", format!("{api}/__{name}__"), None))
        .collect();
    let of_type = "/provisioners/proj-test/worker-types/linux";
    for (name, path, scope) in [
        // What is pending may be counted by anybody.
        (
            "taskQueueCounts",
            "/task-queues/proj-test%2Flinux/counts",
            "claimed-count:proj-test/linux",
        ),
        (
            "listPendingTasks",
            "/task-queues/proj-test%2Flinux/pending",
            "pending-list:proj-test/linux",
        ),
        (
            "listClaimedTasks",
            "/task-queues/proj-test%2Flinux/claimed",
            "claimed-list:proj-test/linux",
        ),
        ("listTaskQueues", "/task-queues", "list-task-queues"),
        (
            "getTaskQueue",
            "/task-queues/proj-test%2Flinux",
            "get-task-queue:proj-test/linux",
        ),
        ("listProvisioners", "/provisioners", "list-provisioners"),
        (
            "getProvisioner",
            "/provisioners/proj-test",
            "get-provisioner:proj-test",
        ),
        (
            "listWorkerTypes",
            "/provisioners/proj-test/worker-types",
            "list-worker-types:proj-test",
        ),
        ("getWorkerType", of_type, "get-worker-type:proj-test/linux"),
        (
            "listWorkers",
            &format!("{of_type}/workers"),
            "list-workers:proj-test/linux",
        ),
        (
            "getWorker",
            &format!("{of_type}/workers/g/w"),
            "get-worker:proj-test/linux/g/w",
        ),
    ] {
        calls.push(call(
            name,
            "GET",
            format!("{api}{path}"),
            None,
            &[&format!("queue:{scope}")],
        ));
    }
    for (name, path, body, scope) in [
        (
            "declareWorker",
            "/g/x",
            json!({ "expires": in_an_hour() }),
            "queue:declare-worker:proj-test/linux/g/x#expires",
        ),
        (
            "quarantineWorker",
            "/workers/g/x",
            json!({ "quarantineUntil": in_an_hour() }),
            "queue:quarantine-worker:proj-test/linux/g/x",
        ),
    ] {
        calls.push(call(name, "PUT", format!("{api}{of_type}{path}"), body, &[scope]));
    }
    calls
}

/// The queue's own name for a call, as its errors have it.
async fn name_of(scene: &Scene, call: &Call, refused: &str) -> String {
    let mut error: Value = serde_json::from_str(refused).unwrap_or_default();
    if error["requestInfo"].is_null() {
        let odd = Raw::new(&scene.queue, call.method, format!("{}?nonsense=1", call.path));
        error = odd.send(&scene.queue).await.json();
    }
    error["requestInfo"]["method"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn status(scene: &Scene, call: &Call, credentials: Option<&Credentials>) -> (u16, String) {
    let mut raw = Raw::new(&scene.queue, call.method, &call.path);
    if let Some(body) = &call.body {
        raw = raw.json(body);
    }
    if let Some(credentials) = credentials {
        raw = raw.signed(credentials);
    }
    let answer = raw.send(&scene.queue).await;
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test]
async fn every_call_asks_for_its_scopes_and_for_no_more() {
    let scene = Scene::with(|config| config.poll_timeout = Duration::from_millis(20)).await;
    let root = scene.queue.credentials();
    let impostor = Credentials::new(&root.client_id, "not the token");
    let mut met = BTreeSet::new();
    for call in calls(&scene).await {
        let name = format!("{} {}", call.name, call.path);
        let (found, body) = status(&scene, &call, Some(&impostor)).await;
        // Wrong credentials are refused wherever any are looked at.
        let wanted = if call.is_about_nobody() { 200 } else { 401 };
        assert_eq!(found, wanted, "{name} with a wrong signature: {body}");
        if call.name != "auth ping" {
            let known_as = name_of(&scene, &call, &body).await;
            assert_eq!(call.name.trim_start_matches("auth "), known_as, "{name}");
        }
        met.insert(call.name);
        let other = temporary(&root, Some("somebody/else"), &["queue:nothing", "auth:nothing"]);
        for (whose, credentials) in [("no", None), ("other", Some(&other))] {
            let (found, body) = status(&scene, &call, credentials).await;
            if call.anybody {
                assert!(
                    found < 400 || found == 424,
                    "{name} with {whose} credentials: {found} {body}"
                );
            } else {
                assert_eq!(found, 403, "{name} with {whose} credentials: {body}");
            }
        }
        if call.anybody {
            continue;
        }
        let scopes: Vec<&str> = call.scopes.iter().map(String::as_str).collect();
        for missing in &scopes {
            let rest: Vec<&str> = scopes.iter().filter(|scope| scope != &missing).copied().collect();
            // Nearly the same scope is none.
            let (longer, shorter) = (format!("{missing}x"), &missing[..missing.len() - 1]);
            let nearly = [&rest[..], &[longer.as_str(), shorter]].concat();
            for held in [&rest, &nearly] {
                let (found, body) = status(&scene, &call, Some(&temporary(&root, None, held))).await;
                assert_eq!(found, 403, "{name} with {held:?}: {body}");
                assert!(body.contains(missing), "what is missing is named: {body}");
            }
        }
        let exactly = temporary(&root, None, &scopes);
        let (found, body) = status(&scene, &call, Some(&exactly)).await;
        if call.succeeds {
            assert!(found < 400, "{name} with exactly {scopes:?}: {found} {body}");
        } else {
            assert_eq!(found, 400, "{name} with exactly {scopes:?}: {body}");
        }
    }
    let of_auth = routes::of_auth().into_iter().map(|name| format!("auth {name}"));
    let of_queue = routes::of_the_queue().into_iter().map(str::to_owned);
    let all: BTreeSet<String> = of_queue.chain(of_auth).collect();
    let met: BTreeSet<String> = met.into_iter().map(str::to_owned).collect();
    assert_eq!(met, all, "each call has its scopes in this table");
}
