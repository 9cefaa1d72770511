//! Every call of the embedded queue asks for its scopes: none suffices without them, and none asks for more.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "queue_support/raw.rs"]
mod raw;

use std::time::Duration;

use queue_support::{POOL, Scene, in_an_hour, task};
use raw::{Raw, temporary};
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

/// Every call that the queue has, on tasks that are in the right state for it. A new call belongs in here.
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
            "createClient",
            "PUT",
            format!("{auth}/clients/x%2Fy"),
            client,
            &["auth:create-client:x/y", "c:d"],
        ),
        call(
            "listClients",
            "GET",
            format!("{auth}/clients/"),
            None,
            &["auth:list-clients"],
        ),
        call(
            "client",
            "GET",
            format!("{auth}/clients/x%2Fy"),
            None,
            &["auth:get-client:x/y"],
        ),
        call(
            "resetAccessToken",
            "POST",
            format!("{auth}/clients/x%2Fy/reset"),
            None,
            &["auth:reset-access-token:x/y"],
        ),
        call(
            "deleteClient",
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
    calls
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
    for call in calls(&scene).await {
        let name = format!("{} {}", call.name, call.path);
        let (found, body) = status(&scene, &call, Some(&impostor)).await;
        // Wrong credentials are refused wherever any are looked at.
        let wanted = if call.name.ends_with("ping") { 200 } else { 401 };
        assert_eq!(found, wanted, "{name} with a wrong signature: {body}");
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
        let scopes: Vec<&str> = call.scopes.iter().map(String::as_str).collect();
        if scopes.len() > 1 {
            for missing in &scopes {
                let rest: Vec<&str> = scopes.iter().filter(|scope| scope != &missing).copied().collect();
                let (found, body) = status(&scene, &call, Some(&temporary(&root, None, &rest))).await;
                assert_eq!(found, 403, "{name} without {missing}: {body}");
                assert!(body.contains(missing), "what is missing is named: {body}");
            }
        }
        if !call.anybody {
            let exactly = temporary(&root, None, &scopes);
            let (found, body) = status(&scene, &call, Some(&exactly)).await;
            assert!(found < 400, "{name} with exactly {scopes:?}: {found} {body}");
        }
    }
}
