//! What the embedded queue knows about workers and task queues, over HTTP.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::time::Duration;

use queue_support::caller::Caller;
use queue_support::{BOUND, Scene, in_an_hour};
use serde_json::{Value, json};

const QUEUE: &str = "/provisioners/proj-test/worker-types/linux";

async fn claim(caller: &Caller, worker: &str) -> Vec<Value> {
    let body = json!({ "workerGroup": "g", "workerId": worker, "tasks": 8 });
    let claimed = caller.post("/claim-work/proj-test%2Flinux", body).await.ok();
    claimed["tasks"].as_array().unwrap().clone()
}

async fn quarantine(caller: &Caller, worker: &str, until: chrono::DateTime<chrono::Utc>) -> Value {
    let body = json!({ "quarantineUntil": until, "quarantineInfo": "it smells" });
    caller
        .put(&format!("{QUEUE}/workers/g/{worker}"), body)
        .await
        .ok()
}

async fn listed(caller: &Caller, query: &str) -> Vec<String> {
    let list = caller.get(&format!("{QUEUE}/workers{query}")).await.ok();
    let workers = list["workers"].as_array().unwrap().iter();
    workers
        .map(|worker| worker["workerId"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_worker_in_quarantine_gets_nothing_and_keeps_nothing_from_others() {
    let scene = Scene::with(|config| config.poll_timeout = Duration::from_millis(50)).await;
    let caller = scene.caller();
    assert!(claim(&caller, "bad").await.is_empty());
    let shown = quarantine(&caller, "bad", in_an_hour()).await;
    assert_eq!(shown["quarantineDetails"][0]["quarantineInfo"], "it smells");
    assert_eq!(
        shown["quarantineDetails"][0]["clientId"],
        scene.queue.credentials().client_id
    );
    let id = scene.create().await;
    assert!(claim(&caller, "bad").await.is_empty());
    let by_id = caller
        .post(
            &format!("/task/{id}/runs/0/claim"),
            json!({ "workerGroup": "g", "workerId": "bad" }),
        )
        .await;
    assert_eq!(by_id.ok(), json!({}));
    assert_eq!(claim(&caller, "good").await.len(), 1);
    assert_eq!(listed(&caller, "?quarantined=true").await, ["bad"]);
    assert_eq!(listed(&caller, "?quarantined=false").await, ["good"]);
    assert_eq!(listed(&caller, "").await, ["bad", "good"]);
    let nonsense = caller.get(&format!("{QUEUE}/workers?quarantined=maybe")).await;
    assert_eq!(nonsense.refused(), (400, "InvalidRequestArguments"));

    // Lifted by a time that is over.
    quarantine(&caller, "bad", chrono::Utc::now()).await;
    let id = scene.create().await;
    assert_eq!(claim(&caller, "bad").await[0]["status"]["taskId"], json!(id));
    let unknown = caller
        .put(
            &format!("{QUEUE}/workers/g/unknown"),
            json!({ "quarantineUntil": in_an_hour() }),
        )
        .await;
    assert_eq!(unknown.refused(), (404, "ResourceNotFound"));
}

/// Were its poll woken in the stead of another's, the task would wait although somebody waits for it.
#[tokio::test]
async fn a_poll_in_quarantine_is_not_woken_in_place_of_another() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let worker = |id: &'static str| {
        let caller = caller.clone();
        tokio::spawn(async move { claim(&caller, id).await })
    };
    // Known to the queue from its first call on, and waiting before the other does.
    let declare = json!({ "expires": in_an_hour() });
    caller.put(&format!("{QUEUE}/g/bad"), declare).await.ok();
    quarantine(&caller, "bad", in_an_hour()).await;
    let bad = worker("bad");
    let mut good: Vec<_> = (0..3).map(|_| worker("good")).collect();
    for _ in 0..3 {
        scene.create().await;
        let next = futures_util::future::select_all(good);
        let (claimed, _, rest) = tokio::time::timeout(BOUND, next)
            .await
            .expect("somebody is woken");
        assert_eq!(claimed.unwrap().len(), 1);
        good = rest;
    }
    scene.queue.release_polls();
    bad.abort();
}

/// The same for one whose poll was under way already: it is woken, may not have the task, and has to pass that on.
#[tokio::test]
async fn a_poll_whose_worker_comes_into_quarantine_passes_its_waking_on() {
    // No poll ends by itself while this test may take.
    let scene = Scene::with(|config| config.poll_timeout = BOUND * 10).await;
    let caller = scene.caller();
    let worker = |id: &'static str| {
        let caller = caller.clone();
        tokio::spawn(async move { claim(&caller, id).await })
    };
    // Each waits before the next comes: their first call makes them known.
    let waits = async |id: &str| {
        let path = format!("{QUEUE}/workers/g/{id}");
        while caller.get(&path).await.status != 200 {}
    };
    let bad = worker("bad");
    tokio::time::timeout(BOUND, waits("bad")).await.expect("it polls");
    let good = worker("good");
    tokio::time::timeout(BOUND, waits("good"))
        .await
        .expect("it polls");
    quarantine(&caller, "bad", in_an_hour()).await;
    scene.create().await;
    let claimed = tokio::time::timeout(BOUND, good).await.expect("it is woken");
    assert_eq!(claimed.unwrap().len(), 1);
    scene.queue.release_polls();
    bad.abort();
}

#[tokio::test]
async fn workers_are_known_by_their_claims_until_they_are_silent() {
    let scene = Scene::with(|config| config.poll_timeout = Duration::from_millis(1)).await;
    let caller = scene.caller();
    let queue = "/task-queues/proj-test%2Flinux";
    for unknown in [
        queue,
        QUEUE,
        "/provisioners/proj-test",
        &format!("{QUEUE}/workers/g/w"),
    ] {
        let answer = caller.get(unknown).await;
        assert_eq!(answer.refused(), (404, "ResourceNotFound"), "{unknown}");
    }
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(scene.create().await);
    }
    while !claim(&caller, "w").await.is_empty() {}
    let worker = caller.get(&format!("{QUEUE}/workers/g/w")).await.ok();
    let recent: Vec<&Value> = worker["recentTasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| &task["taskId"])
        .collect();
    assert_eq!(json!(recent), json!(ids[5..]), "the last twenty");
    let list = caller.get(&format!("{QUEUE}/workers")).await.ok();
    assert_eq!(list["workers"][0]["latestTask"]["taskId"], json!(ids[24]));
    for (path, key, name) in [
        ("/task-queues", "taskQueues", "taskQueueId"),
        ("/provisioners", "provisioners", "provisionerId"),
        (
            "/provisioners/proj-test/worker-types",
            "workerTypes",
            "taskQueueId",
        ),
    ] {
        let list = caller.get(path).await.ok();
        let first = list[key][0][name].as_str().unwrap();
        assert!("proj-test/linux".starts_with(first), "{path}: {list:#}");
    }
    let other = caller.get("/provisioners/proj/worker-types").await.ok();
    assert_eq!(
        other,
        json!({ "workerTypes": [] }),
        "a name is not a beginning of another"
    );

    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    scene.queue.advance(days(2)).await.unwrap();
    scene.queue.forget_expired().await.unwrap();
    assert_eq!(caller.get(&format!("{QUEUE}/workers/g/w")).await.status, 404);
    caller.get(queue).await.ok();
    scene.queue.advance(days(4)).await.unwrap();
    scene.queue.forget_expired().await.unwrap();
    assert_eq!(caller.get(queue).await.status, 404);
    assert_eq!(caller.get("/task-queues").await.ok(), json!({ "taskQueues": [] }));
}

#[tokio::test]
async fn lists_of_workers_come_in_pages() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let mut expected = Vec::new();
    for group in ["a", "b"] {
        for id in ["1", "2", "3"] {
            let body = json!({ "expires": in_an_hour() });
            caller.put(&format!("{QUEUE}/{group}/{id}"), body).await.ok();
            expected.push(format!("{group}/{id}"));
        }
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = caller.get(&format!("{QUEUE}/workers?limit=4{token}")).await.ok();
        for worker in page["workers"].as_array().unwrap() {
            let part = |key: &str| worker[key].as_str().unwrap();
            seen.push(format!("{}/{}", part("workerGroup"), part("workerId")));
        }
        match page["continuationToken"].as_str() {
            Some(next) => token = format!("&continuationToken={next}"),
            None => break,
        }
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_run_is_claimed_by_its_number_once() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let id = scene.create().await;
    let claim = async |run: u32, worker: &str| {
        caller
            .post(
                &format!("/task/{id}/runs/{run}/claim"),
                json!({ "workerGroup": "g", "workerId": worker }),
            )
            .await
    };
    assert_eq!(claim(1, "w").await.refused(), (404, "ResourceNotFound"));
    let first = claim(0, "w").await.ok();
    assert!(first["takenUntil"].as_str().unwrap().ends_with('Z'));
    let again = claim(0, "w").await.ok();
    assert_eq!(
        (&again["status"], &again["takenUntil"]),
        (&first["status"], &first["takenUntil"])
    );
    assert_eq!(claim(0, "other").await.refused(), (409, "RequestConflict"));
    let credentials = serde_json::from_value(again["credentials"].clone()).unwrap();
    caller
        .with(Some(credentials))
        .post(&format!("/task/{id}/runs/0/completed"), Value::Null)
        .await
        .ok();
    assert_eq!(claim(0, "w").await.refused(), (409, "RequestConflict"));
    let worker = caller.get(&format!("{QUEUE}/workers/g/w")).await.ok();
    assert_eq!(worker["recentTasks"], json!([{ "taskId": id, "runId": 0 }]));
}
