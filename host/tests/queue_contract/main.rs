//! The embedded queue's answers against the published schemas of the Taskcluster services.

mod auth;
mod contract;
#[path = "../queue_support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::collections::BTreeSet;

use contract::{Compared, Contract};
use queue_support::{POOL, Scene, in_an_hour, task};
use reqwest::Method;
use serde_json::{Value, json};
use tcw_host::queue::{Credentials, TaskId};

#[tokio::test]
#[ignore = "needs TASKCLUSTER_REFERENCES"]
async fn every_call_there_is_is_answered_as_published() {
    let Some(contract) = Contract::load("queue") else {
        return;
    };
    let scene = Scene::new().await;
    let mut compared = Compared {
        contract,
        caller: scene.caller(),
    };
    let id = TaskId::random();
    monitoring_and_tasks(&mut compared, &id).await;
    a_run_and_its_artifacts(&mut compared, &id).await;
    ends_and_runs(&mut compared, &id).await;
    workers_and_queues(&mut compared).await;
    groups_and_priorities(&mut compared).await;
    let published: BTreeSet<String> = compared.contract.names().map(str::to_owned).collect();
    assert_eq!(compared.contract.compared, published);
}

fn claim() -> Value {
    json!({ "workerGroup": "g", "workerId": "w", "tasks": 1 })
}

const CLAIM_WORK: &str = "/claim-work/proj-test%2Flinux";

async fn monitoring_and_tasks(compared: &mut Compared, id: &TaskId) {
    compared.get("ping", "/ping").await;
    compared.get("heartbeat", "/__heartbeat__").await;
    compared.get("lbheartbeat", "/__lbheartbeat__").await;
    compared.get("version", "/__version__").await;
    let path = format!("/task/{id}");
    compared
        .call("createTask", Method::PUT, &path, Some(task()))
        .await;
    compared.get("task", &path).await;
    compared.get("status", &format!("{path}/status")).await;
    let ids = json!({ "taskIds": [id] });
    compared.post("tasks", "/tasks", ids.clone()).await;
    compared.post("statuses", "/tasks/status?limit=10", ids).await;
    compared
        .post("scheduleTask", &format!("{path}/schedule"), Value::Null)
        .await;
    compared
        .get("pendingTasks", &format!("/pending/{}", POOL.replace('/', "%2F")))
        .await;
}

async fn a_run_and_its_artifacts(compared: &mut Compared, id: &TaskId) {
    let claimed = compared.post("claimWork", CLAIM_WORK, claim()).await;
    let credentials: Credentials =
        serde_json::from_value(claimed["tasks"][0]["credentials"].clone()).unwrap();
    let run = compared.caller.with(Some(credentials));
    let at = |rest: &str| format!("/task/{id}{rest}");
    compared
        .call_as(&run, "reclaimTask", Method::POST, &at("/runs/0/reclaim"), None)
        .await;
    for (name, mut artifact) in [
        (
            "public%2Fs3",
            json!({ "storageType": "s3", "contentType": "text/plain", "contentLength": 3 }),
        ),
        (
            "public%2Fref",
            json!({ "storageType": "reference", "contentType": "a/b", "url": "https://example.com" }),
        ),
        (
            "public%2Flink",
            json!({ "storageType": "link", "artifact": "public/s3" }),
        ),
        (
            "public%2Ferr",
            json!({ "storageType": "error", "reason": "file-missing-on-worker", "message": "m" }),
        ),
    ] {
        artifact["expires"] = json!(in_an_hour());
        let path = at(&format!("/runs/0/artifacts/{name}"));
        compared
            .call_as(&run, "createArtifact", Method::POST, &path, Some(artifact))
            .await;
        if name != "public%2Ferr" {
            compared.get("getArtifact", &path).await;
            compared
                .get("getLatestArtifact", &at(&format!("/artifacts/{name}")))
                .await;
        }
        for (call, place) in [
            ("artifact", "/runs/0/artifact-content"),
            ("latestArtifact", "/artifact-content"),
            ("artifactInfo", "/runs/0/artifact-info"),
            ("latestArtifactInfo", "/artifact-info"),
        ] {
            compared.get(call, &at(&format!("{place}/{name}"))).await;
        }
    }
    let page = compared
        .get("listArtifacts", &at("/runs/0/artifacts?limit=3"))
        .await;
    assert_eq!(page["artifacts"].as_array().unwrap().len(), 3);
    let token = page["continuationToken"].as_str().unwrap();
    let next = at(&format!("/artifacts?limit=3&continuationToken={token}"));
    let rest = compared.get("listLatestArtifacts", &next).await;
    assert_eq!(
        (
            rest["artifacts"].as_array().unwrap().len(),
            rest.get("continuationToken")
        ),
        (1, None)
    );
    // The one call that never succeeds: nothing that it is about can be created here.
    let path = at("/runs/0/artifacts/public%2Fs3");
    let body = json!({ "uploadId": TaskId::random() });
    let method = Method::PUT;
    compared
        .contract
        .check_request("finishArtifact", &method, &path, Some(&body));
    let answer = run.send(method, &path, Some(body)).await;
    assert_eq!(answer.refused(), (400, "InputError"));
    compared.contract.compared.insert("finishArtifact".to_owned());
}

async fn ends_and_runs(compared: &mut Compared, id: &TaskId) {
    let at = |rest: &str| format!("/task/{id}{rest}");
    let reason = json!({ "reason": "intermittent-task" });
    compared
        .post("reportException", &at("/runs/0/exception"), reason)
        .await;
    compared.post("cancelTask", &at("/cancel"), Value::Null).await;
    compared.post("rerunTask", &at("/rerun"), Value::Null).await;
    let worker = json!({ "workerGroup": "g", "workerId": "w" });
    compared
        .post("claimTask", &at("/runs/2/claim"), worker.clone())
        .await;
    compared
        .post("reportFailed", &at("/runs/2/failed"), Value::Null)
        .await;
    compared.post("rerunTask", &at("/rerun"), Value::Null).await;
    compared.post("claimTask", &at("/runs/3/claim"), worker).await;
    compared
        .post("reportCompleted", &at("/runs/3/completed"), Value::Null)
        .await;
}

async fn workers_and_queues(compared: &mut Compared) {
    let (waits, works) = (TaskId::random(), TaskId::random());
    for id in [&waits, &works] {
        let path = format!("/task/{id}");
        compared
            .call("createTask", Method::PUT, &path, Some(task()))
            .await;
    }
    compared.post("claimWork", CLAIM_WORK, claim()).await;
    for (name, path, key) in [
        ("taskQueueCounts", "/task-queues/proj-test%2Flinux/counts", None),
        (
            "listPendingTasks",
            "/task-queues/proj-test%2Flinux/pending",
            Some("tasks"),
        ),
        (
            "listClaimedTasks",
            "/task-queues/proj-test%2Flinux/claimed",
            Some("tasks"),
        ),
        ("listTaskQueues", "/task-queues", Some("taskQueues")),
        ("getTaskQueue", "/task-queues/proj-test%2Flinux", None),
        ("listProvisioners", "/provisioners", Some("provisioners")),
        ("getProvisioner", "/provisioners/proj-test", None),
        (
            "listWorkerTypes",
            "/provisioners/proj-test/worker-types",
            Some("workerTypes"),
        ),
        (
            "getWorkerType",
            "/provisioners/proj-test/worker-types/linux",
            None,
        ),
        (
            "listWorkers",
            "/provisioners/proj-test/worker-types/linux/workers",
            Some("workers"),
        ),
        (
            "getWorker",
            "/provisioners/proj-test/worker-types/linux/workers/g/w",
            None,
        ),
    ] {
        let answer = compared.get(name, path).await;
        if let Some(key) = key {
            assert_eq!(answer[key].as_array().unwrap().len(), 1, "{name}: {answer:#}");
        }
    }
    let body = json!({ "quarantineUntil": in_an_hour(), "quarantineInfo": "a try" });
    let path = "/provisioners/proj-test/worker-types/linux/workers/g/w";
    compared
        .call("quarantineWorker", Method::PUT, path, Some(body))
        .await;
    compared.get("getWorker", path).await;
    compared
        .get(
            "listWorkers",
            "/provisioners/proj-test/worker-types/linux/workers?quarantined=true",
        )
        .await;
    let body = json!({ "expires": in_an_hour() });
    let path = "/provisioners/proj-test/worker-types/linux/g/other";
    compared
        .call("declareWorker", Method::PUT, path, Some(body))
        .await;
}

async fn groups_and_priorities(compared: &mut Compared) {
    let (first, second) = (TaskId::random(), TaskId::random());
    let mut dependent = task();
    dependent["taskGroupId"] = json!(first);
    dependent["dependencies"] = json!([first]);
    for (id, task) in [(&first, task()), (&second, dependent)] {
        compared
            .call("createTask", Method::PUT, &format!("/task/{id}"), Some(task))
            .await;
    }
    let dependents = compared
        .get("listDependentTasks", &format!("/task/{first}/dependents"))
        .await;
    assert_eq!(dependents["tasks"][0]["status"]["taskId"], json!(second));
    let high = json!({ "newPriority": "high" });
    compared
        .post(
            "changeTaskPriority",
            &format!("/task/{second}/priority"),
            high.clone(),
        )
        .await;
    let at = |rest: &str| format!("/task-group/{first}{rest}");
    let changed = compared
        .post("changeTaskGroupPriority", &at("/priority"), high)
        .await;
    assert_eq!(changed["taskIds"], json!([first]));
    compared.get("getTaskGroup", &at("")).await;
    compared.post("sealTaskGroup", &at("/seal"), Value::Null).await;
    compared.get("getTaskGroup", &at("")).await;
    let list = compared.get("listTaskGroup", &at("/list?limit=1")).await;
    assert!(
        list["tasks"].as_array().unwrap().len() == 1 && list["continuationToken"].is_string(),
        "{list:#}"
    );
    let cancelled = compared
        .post("cancelTaskGroup", &at("/cancel"), Value::Null)
        .await;
    assert_eq!(
        (&cancelled["cancelledCount"], &cancelled["taskGroupSize"]),
        (&json!(2), &json!(2))
    );
}

/// Whatever a published schema of a request refuses, we refuse, and the other way round.
#[tokio::test]
#[ignore = "needs TASKCLUSTER_REFERENCES"]
async fn requests_are_accepted_as_published() {
    let Some(contract) = Contract::load("queue") else {
        return;
    };
    let scene = Scene::new().await;
    for (key, value) in [
        ("extra", json!({ "a": [1] })),
        ("extra", json!(1)),
        ("tags", json!({ "a": "b" })),
        ("tags", json!({ "a": 1 })),
        ("routes", json!(["index.a"])),
        ("routes", json!([""])),
        ("routes", json!(["a", "a"])),
        ("scopes", json!(["a", "a"])),
        ("scopes", json!(["ä"])),
        ("priority", json!("normal")),
        ("priority", json!("very-low")),
        ("retries", json!(50)),
        ("retries", json!(0)),
        ("requires", json!("all-resolved")),
        ("requires", json!("any")),
        ("schedulerId", json!("a b")),
        ("projectId", json!("a/b.c")),
        ("projectId", json!("")),
        ("taskGroupId", json!("nonsense")),
        ("dependencies", json!(["nonsense"])),
        ("payload", json!([])),
        ("deadline", json!("tomorrow")),
        (
            "metadata",
            json!({ "name": "n", "description": "d", "owner": "o" }),
        ),
        (
            "metadata",
            json!({ "name": "n", "description": "d", "owner": "o", "source": "ftp://x" }),
        ),
        (
            "metadata",
            json!({ "name": "n", "description": "d", "owner": "o", "source": "git@x:y" }),
        ),
        ("taskQueueId", json!("a/B")),
        ("unknown", json!(1)),
    ] {
        let mut definition = task();
        definition[key] = value;
        let accepted =
            tcw_host::queue::Queue::create_task(&scene.client, &TaskId::random(), &definition).await;
        let allowed = contract
            .violations("v1/create-task-request.json", &definition)
            .is_empty();
        assert_eq!(
            accepted.is_ok(),
            allowed,
            "{key} = {}: {accepted:?}",
            definition[key]
        );
    }
}

/// The same for the calls whose bodies are short.
#[tokio::test]
#[ignore = "needs TASKCLUSTER_REFERENCES"]
async fn other_requests_are_accepted_as_published() {
    let Some(contract) = Contract::load("queue") else {
        return;
    };
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_claim, _queue) = scene.claim().await;
    let caller = scene.caller();
    let worker = "/provisioners/proj-test/worker-types/linux/workers/g/w";
    let (post, put) = (|| Method::POST, || Method::PUT);
    let time = json!(in_an_hour());
    let times = || [time.clone(), json!("tomorrow"), json!(5)];
    let artifact = |key: &str, value: &Value| {
        let mut body = json!({ "storageType": "s3", "contentType": "a/b", "expires": time });
        body[key] = value.clone();
        body
    };
    let mut cases: Vec<(&str, Method, String, Value)> = Vec::new();
    for priority in [json!("high"), json!("normal"), json!(1), Value::Null] {
        let body = json!({ "newPriority": priority });
        cases.push((
            "change-task-priority-request",
            post(),
            format!("/task/{id}/priority"),
            body,
        ));
    }
    for until in times() {
        let body = json!({ "quarantineUntil": until });
        cases.push(("quarantine-worker-request", put(), worker.to_owned(), body));
        let path = worker.replace("/workers", "");
        cases.push(("update-worker-request", put(), path, json!({ "expires": until })));
    }
    for info in [
        json!(""),
        json!("x".repeat(4000)),
        json!("x".repeat(4001)),
        json!(1),
    ] {
        let body = json!({ "quarantineUntil": time, "quarantineInfo": info });
        cases.push(("quarantine-worker-request", put(), worker.to_owned(), body));
    }
    for name in [json!("a"), json!("a b"), json!(""), json!("x".repeat(39))] {
        let path = format!("/task/{id}/runs/0/claim");
        let body = json!({ "workerGroup": "g", "workerId": name });
        cases.push(("task-claim-request", post(), path, body));
    }
    for upload in [json!(TaskId::random()), json!("x")] {
        let path = format!("/task/{id}/runs/0/artifacts/public%2Fx");
        cases.push((
            "finish-artifact-request",
            put(),
            path,
            json!({ "uploadId": upload }),
        ));
    }
    for reason in ["worker-shutdown", "superseded", "failed"] {
        let path = format!("/task/{}/runs/0/exception", TaskId::random());
        cases.push((
            "task-exception-request",
            post(),
            path,
            json!({ "reason": reason }),
        ));
    }
    for (key, value) in [
        ("storageType", json!("s3")),
        ("storageType", json!("object")),
        ("storageType", json!("azure")),
        ("storageType", json!("link")),
        ("contentType", json!("x".repeat(255))),
        ("contentType", json!("x".repeat(256))),
        ("contentLength", json!(-1)),
        ("contentLength", json!(1.5)),
        ("contentLength", json!(1)),
        ("unknown", json!(1)),
        ("expires", json!("soon")),
    ] {
        let path = format!("/task/{id}/runs/0/artifacts/public%2Fx");
        cases.push(("post-artifact-request", post(), path, artifact(key, &value)));
    }
    for (schema, method, path, body) in cases {
        let allowed = contract
            .violations(&format!("v1/{schema}.json"), &body)
            .is_empty();
        let answer = caller.send(method, &path, Some(body.clone())).await;
        let refused = answer.status == 400 && answer.body["code"] == "InputValidationError";
        assert_eq!(refused, !allowed, "{path} {body}: {answer:?}");
    }
}
