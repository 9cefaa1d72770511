//! More of what the real queue was seen to do where its reference is silent, and of what it does wrong and we do not.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use queue_support::caller::Caller;
use queue_support::{Scene, in_an_hour, task};
use serde_json::{Value, json};
use tcw_host::queue::{Credentials, TaskId};

const CLAIM: &str = "/claim-work/proj-test%2Flinux";

/// Claims one run: its path, and a caller in its name.
async fn claim(caller: &Caller) -> (String, Caller) {
    let body = json!({ "workerGroup": "g", "workerId": "w" });
    let claimed = caller.post(CLAIM, body).await.ok();
    let claim = &claimed["tasks"][0];
    let credentials: Credentials = serde_json::from_value(claim["credentials"].clone()).unwrap();
    let run = format!(
        "/task/{}/runs/{}",
        claim["status"]["taskId"].as_str().unwrap(),
        claim["runId"]
    );
    (run, caller.with(Some(credentials)))
}

fn s3(content_length: u64) -> Value {
    json!({
        "storageType": "s3", "contentType": "text/plain", "contentLength": content_length, "expires": in_an_hour(),
    })
}

#[tokio::test]
async fn a_refused_task_leaves_its_id_free() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let id = TaskId::random();
    let path = format!("/task/{id}");
    let now = Utc::now();
    for (key, value) in [
        ("dependencies", json!([TaskId::random()])),
        ("deadline", json!(now + TimeDelta::days(6))),
        ("deadline", json!(now - TimeDelta::minutes(1))),
        ("expires", json!(now)),
        ("provisionerId", json!("half")),
        ("scopes", json!(["everything**"])),
    ] {
        let mut definition = task();
        definition[key] = value;
        if key == "provisionerId" {
            definition["workerType"] = json!("other");
        }
        let answer = caller.put(&path, definition).await;
        assert_eq!(answer.refused(), (400, "InputError"), "{key}");
        assert_eq!(caller.get(&path).await.refused(), (404, "ResourceNotFound"));
    }
    let mut definition = task();
    definition["dependencies"] = json!([id]);
    let created = caller.put(&path, definition).await.ok();
    assert_eq!(
        created["status"]["state"], "unscheduled",
        "a task may wait for itself"
    );
    let scheduled = caller.post(&format!("{path}/schedule"), Value::Null).await.ok();
    assert_eq!(scheduled["status"]["state"], "pending");
}

#[tokio::test]
async fn nothing_is_changed_past_the_deadline() {
    let scene = Scene::with(|config| config.claim_timeout = Duration::from_secs(3 * 3600)).await;
    let caller = scene.caller();
    let mut runs = Vec::new();
    for _ in 0..3 {
        scene.create().await;
        runs.push(claim(&caller).await);
    }
    caller
        .post(&format!("{}/completed", runs[0].0), Value::Null)
        .await
        .ok();
    caller
        .post(&format!("{}/failed", runs[1].0), Value::Null)
        .await
        .ok();
    scene.queue.advance(Duration::from_secs(2 * 3600)).await.unwrap();
    for ((run, own), reason) in runs.iter().zip(["completed", "failed", "deadline-exceeded"]) {
        let task = run.strip_suffix("/runs/0").unwrap();
        for call in ["cancel", "rerun", "schedule"] {
            let answer = caller.post(&format!("{task}/{call}"), Value::Null).await;
            assert_eq!(answer.refused(), (409, "RequestConflict"), "{call} {reason}");
        }
        for caller in [own, &caller] {
            let answer = caller.post(&format!("{run}/reclaim"), Value::Null).await;
            assert_eq!(answer.refused(), (409, "RequestConflict"), "{reason}");
        }
        let body = json!({ "newPriority": "high" });
        let answer = caller.post(&format!("{task}/priority"), body).await;
        assert_eq!(answer.refused(), (409, "RequestConflict"));
        let status = caller.get(&format!("{task}/status")).await.ok();
        assert_eq!(status["status"]["runs"][0]["reasonResolved"], reason);
    }
}

#[tokio::test]
async fn the_fifty_first_run_is_refused() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let id = scene.create().await;
    let call = async |what: &str| caller.post(&format!("/task/{id}/{what}"), Value::Null).await;
    for _ in 1..50 {
        call("cancel").await.ok();
        call("rerun").await.ok();
    }
    let last = call("rerun").await.ok();
    assert_eq!(
        last["status"]["runs"].as_array().unwrap().len(),
        50,
        "what is pending stays as it is"
    );
    call("cancel").await.ok();
    assert_eq!(call("rerun").await.refused(), (409, "RequestConflict"));
}

#[tokio::test]
async fn a_retried_run_comes_after_those_that_waited() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let (first, second) = (scene.create().await, scene.create().await);
    let (run, own) = claim(&caller).await;
    assert_eq!(run, format!("/task/{first}/runs/0"));
    let reason = |text: &str| json!({ "reason": text });
    own.post(&format!("{run}/exception"), reason("worker-shutdown"))
        .await
        .ok();
    let counts = caller.get("/task-queues/proj-test%2Flinux/counts").await.ok();
    assert_eq!(
        (&counts["pendingTasks"], &counts["claimedTasks"]),
        (&json!(2), &json!(0)),
        "a retry is not claimed any more"
    );
    // Neither call can be made for a run that only waits.
    for call in ["reclaim", "completed", "failed"] {
        let answer = caller
            .post(&format!("/task/{first}/runs/1/{call}"), Value::Null)
            .await;
        assert_eq!(answer.refused(), (409, "RequestConflict"), "{call}");
    }
    assert_eq!(claim(&caller).await.0, format!("/task/{second}/runs/0"));
    let (retry, retried) = claim(&caller).await;
    assert_eq!(retry, format!("/task/{first}/runs/1"));
    own.post(&format!("{run}/exception"), reason("worker-shutdown"))
        .await
        .ok();
    let other = own
        .post(&format!("{run}/exception"), reason("internal-error"))
        .await;
    assert_eq!(other.refused(), (409, "RequestConflict"));
    retried
        .post(&format!("{retry}/exception"), reason("intermittent-task"))
        .await
        .ok();
    let status = caller.get(&format!("/task/{first}/status")).await.ok();
    assert_eq!(status["status"]["runs"][2]["reasonCreated"], "task-retry");
    assert_eq!(
        status["status"]["retriesLeft"], 3,
        "both kinds of retries are the same ones"
    );
}

#[tokio::test]
async fn equal_reports_at_the_same_time_are_all_accepted() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    scene.create().await;
    let (run, own) = claim(&caller).await;
    let path = format!("{run}/completed");
    let reports = (0..16).map(|_| own.post(&path, Value::Null));
    for answer in futures_util::future::join_all(reports).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_runs_credentials_carry_its_tasks_scopes_and_end_with_its_claim() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let scope = "queue:list-task-queues";
    scene.create_with(|task| task["scopes"] = json!([scope])).await;
    let body = json!({ "workerGroup": "g", "workerId": "w" });
    let claimed = caller.post(CLAIM, body).await.ok();
    let claim = &claimed["tasks"][0];
    let certificate: Value =
        serde_json::from_str(claim["credentials"]["certificate"].as_str().unwrap()).unwrap();
    let id = claim["status"]["taskId"].as_str().unwrap();
    assert_eq!(
        certificate["scopes"],
        json!([
            format!("queue:reclaim-task:{id}/0"),
            format!("queue:resolve-task:{id}/0"),
            format!("queue:create-artifact:{id}/0"),
            scope,
        ])
    );
    let until = chrono::DateTime::parse_from_rfc3339(claim["takenUntil"].as_str().unwrap()).unwrap();
    assert_eq!(certificate["expiry"], json!(until.timestamp_millis()));
    let own: Credentials = serde_json::from_value(claim["credentials"].clone()).unwrap();
    caller.with(Some(own)).get("/task-queues").await.ok();
}

#[tokio::test]
async fn after_an_exception_artifacts_are_taken_for_a_while_and_after_an_end_not() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    for (end, body, status) in [
        ("completed", Value::Null, 409),
        ("failed", Value::Null, 409),
        ("exception", json!({ "reason": "internal-error" }), 200),
    ] {
        scene.create().await;
        let (run, own) = claim(&caller).await;
        own.post(&format!("{run}/{end}"), body).await.ok();
        let answer = own.post(&format!("{run}/artifacts/public%2Flog"), s3(1)).await;
        assert_eq!(answer.status, status, "{end}: {answer:?}");
    }
    // Cancelled, and found to be so later than a worker may need.
    let id = scene.create().await;
    let (run, _) = claim(&caller).await;
    caller.post(&format!("/task/{id}/cancel"), Value::Null).await.ok();
    let artifact = format!("{run}/artifacts/public%2Flog");
    caller.post(&artifact, s3(1)).await.ok();
    scene.queue.advance(Duration::from_secs(26 * 60)).await.unwrap();
    let answer = caller.post(&artifact, s3(2)).await;
    assert_eq!(answer.refused(), (409, "RequestConflict"));
}

#[tokio::test]
async fn an_upload_url_outlives_the_task_and_serves_what_was_sent_last() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let id = scene.create().await;
    let (run, own) = claim(&caller).await;
    let path = format!("{run}/artifacts/public%2Fa");
    let created = own.post(&path, s3(5)).await.ok();
    let latest = format!("/task/{id}/artifacts/public%2Fa");
    let early = caller.get(&latest).await;
    assert_eq!(
        early.status, 303,
        "listed and redirected before anything is there"
    );
    assert_eq!(
        reqwest::get(early.body["url"].as_str().unwrap())
            .await
            .unwrap()
            .status(),
        404
    );
    // The announced length is not checked, and may be corrected.
    own.post(&path, s3(7)).await.ok();
    own.post(&format!("{run}/completed"), Value::Null).await.ok();
    for (content, content_type, encoding) in [
        ("first", "text/plain", "identity"),
        ("and second", "x/y; z=1", "gzip"),
    ] {
        let put = reqwest::Client::new()
            .put(created["putUrl"].as_str().unwrap())
            .header("content-type", content_type)
            .header("content-encoding", encoding)
            .body(content);
        assert_eq!(put.send().await.unwrap().status(), 200);
        let url = caller.get(&latest).await.body["url"].as_str().unwrap().to_owned();
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.headers()["content-type"], content_type);
        assert_eq!(answer.headers()["content-encoding"], encoding);
        assert_eq!(answer.bytes().await.unwrap(), content);
    }
}

#[tokio::test]
async fn any_printable_name_is_an_artifacts_own() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let id = scene.create().await;
    let (run, own) = claim(&caller).await;
    let names = [
        "a%20b", "{c}", "[d]|^<e>", "...", "../up", "a//b", "/", "f?g#h&i", " ", "a b",
    ];
    for name in names {
        let encoded =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
        let created = own.post(&format!("{run}/artifacts/{encoded}"), s3(1)).await.ok();
        let put = reqwest::Client::new()
            .put(created["putUrl"].as_str().unwrap())
            .body(format!("content of {name}"));
        assert_eq!(put.send().await.unwrap().status(), 200, "{name}");
    }
    for name in names {
        let encoded =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
        let answer = caller
            .get(&format!("/task/{id}/artifact-content/{encoded}"))
            .await
            .ok();
        let stored = reqwest::get(answer["url"].as_str().unwrap()).await.unwrap();
        assert_eq!(stored.text().await.unwrap(), format!("content of {name}"));
    }
    let list = caller.get(&format!("/task/{id}/artifacts")).await.ok();
    assert_eq!(list["artifacts"].as_array().unwrap().len(), names.len());
}

#[tokio::test]
async fn object_artifacts_are_refused_where_there_is_no_object_service() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    scene.create().await;
    let (run, own) = claim(&caller).await;
    let path = format!("{run}/artifacts/public%2Fa");
    let mut object = s3(1);
    object["storageType"] = json!("object");
    let answer = own.post(&path, object).await;
    assert_eq!(answer.refused(), (400, "InputError"));
    assert!(
        answer.body["message"]
            .as_str()
            .unwrap()
            .contains("storageType s3"),
        "{answer:?}"
    );
    let finish = json!({ "uploadId": TaskId::random() });
    let unknown = own.put(&path, finish.clone()).await;
    assert_eq!(unknown.refused(), (404, "ResourceNotFound"));
    own.post(&path, s3(1)).await.ok();
    assert_eq!(own.put(&path, finish).await.refused(), (400, "InputError"));
}

#[tokio::test]
async fn what_has_expired_gives_its_room_back() {
    let scene = Scene::with(|config| config.max_storage_size = 10).await;
    let caller = scene.caller();
    let files = || {
        let folder = scene.directory.path().join("state/storage/objects");
        std::fs::read_dir(folder).unwrap().count()
    };
    let upload = async |own: &Caller, path: &str, hours: i64| {
        let mut body = s3(10);
        body["expires"] = json!(Utc::now() + TimeDelta::hours(hours));
        let created = own.post(path, body).await.ok();
        let put = reqwest::Client::new()
            .put(created["putUrl"].as_str().unwrap())
            .body("0123456789");
        put.send().await.unwrap().status().as_u16()
    };
    scene.create().await;
    let (run, own) = claim(&caller).await;
    let (one, other) = (
        format!("{run}/artifacts/public%2Fa"),
        format!("{run}/artifacts/public%2Fb"),
    );
    assert_eq!(upload(&own, &one, 1).await, 200);
    assert_eq!(upload(&own, &other, 1).await, 507);
    assert_eq!(files(), 1);
    // The task is still there; the artifact is known for a day more, its bytes are gone.
    scene
        .queue
        .advance(Duration::from_secs(3600 + 20 * 60))
        .await
        .unwrap();
    scene.queue.forget_expired().await.unwrap();
    assert_eq!(files(), 0);
    let now = Utc::now() + TimeDelta::minutes(80);
    scene
        .create_with(|task| {
            (task["created"], task["deadline"]) = (json!(now), json!(now + TimeDelta::hours(1)));
        })
        .await;
    let (later, its_own) = claim(&caller).await;
    let path = format!("{later}/artifacts/public%2Fa");
    assert_eq!(upload(&its_own, &path, 2).await, 200);
    assert_eq!(caller.get(&one).await.refused(), (410, "ResourceExpired"));
    let info = one.replace("/artifacts/", "/artifact-info/");
    assert_eq!(caller.get(&info).await.ok()["name"], "public/a");
    scene.queue.advance(Duration::from_secs(24 * 3600)).await.unwrap();
    scene.queue.forget_expired().await.unwrap();
    assert_eq!(caller.get(&info).await.refused(), (404, "ResourceNotFound"));
    // A year later nothing is left.
    let task = run.strip_suffix("/runs/0").unwrap();
    caller.get(task).await.ok();
    scene
        .queue
        .advance(Duration::from_secs(366 * 24 * 3600))
        .await
        .unwrap();
    scene.queue.forget_expired().await.unwrap();
    assert_eq!(caller.get(task).await.refused(), (404, "ResourceNotFound"));
    assert_eq!(files(), 0);
}
