//! Task groups, priorities and dependents of the embedded queue, over HTTP.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::time::Duration;

use queue_support::caller::Caller;
use queue_support::{Scene, task};
use serde_json::{Value, json};
use tcw_host::queue::TaskId;

async fn create(caller: &Caller, adjust: impl FnOnce(&mut Value)) -> String {
    let (id, mut task) = (TaskId::random().to_string(), task());
    adjust(&mut task);
    caller.put(&format!("/task/{id}"), task).await.ok();
    id
}

async fn status(caller: &Caller, id: &str) -> Value {
    caller.get(&format!("/task/{id}/status")).await.ok()["status"].clone()
}

async fn claim(caller: &Caller) -> String {
    let body = json!({ "workerGroup": "g", "workerId": "w" });
    let claimed = caller.post("/claim-work/proj-test%2Flinux", body).await.ok();
    claimed["tasks"][0]["status"]["taskId"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The ids in a list that comes in pages of two.
async fn pages(caller: &Caller, path: &str) -> Vec<String> {
    let (mut ids, mut token) = (Vec::new(), String::new());
    loop {
        let page = caller.get(&format!("{path}?limit=2{token}")).await.ok();
        let tasks = page["tasks"].as_array().unwrap();
        assert!(tasks.len() <= 2);
        for entry in tasks {
            assert_eq!(entry["task"]["taskQueueId"], entry["status"]["taskQueueId"]);
            ids.push(entry["status"]["taskId"].as_str().unwrap().to_owned());
        }
        match page["continuationToken"].as_str() {
            Some(next) => token = format!("&continuationToken={next}"),
            None => return ids,
        }
    }
}

#[tokio::test]
async fn a_sealed_group_takes_no_more_and_is_cancelled_as_a_whole() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let first = create(&caller, |_| ()).await;
    let path = |rest: &str| format!("/task-group/{first}{rest}");
    let mut members = vec![first.clone()];
    let (completed, running) = (claim(&caller).await, {
        members.push(create(&caller, |task| task["taskGroupId"] = json!(first)).await);
        claim(&caller).await
    });
    caller
        .post(&format!("/task/{completed}/runs/0/completed"), Value::Null)
        .await
        .ok();
    for required in [running.clone(), completed.clone()] {
        let member = create(&caller, |task| {
            (task["taskGroupId"], task["dependencies"]) = (json!(first), json!([required]));
            task["requires"] = json!("all-resolved");
        });
        members.push(member.await);
    }
    let outside = create(&caller, |task| {
        (task["dependencies"], task["requires"]) = (json!([running]), json!("all-resolved"));
    })
    .await;

    let mut sorted = members.clone();
    sorted.sort();
    assert_eq!(pages(&caller, &path("/list")).await, sorted);
    let unsealed = caller.post(&path("/cancel"), Value::Null).await;
    assert_eq!(unsealed.refused(), (409, "RequestConflict"));
    assert_eq!(caller.get(&path("")).await.ok().get("sealed"), None);
    let sealed = caller.post(&path("/seal"), Value::Null).await.ok();
    assert_eq!(caller.post(&path("/seal"), Value::Null).await.ok(), sealed);
    assert_eq!(caller.get(&path("")).await.ok(), sealed);

    let mut late = task();
    late["taskGroupId"] = json!(first);
    let refused = caller.put(&format!("/task/{}", TaskId::random()), late).await;
    assert_eq!(refused.refused(), (409, "RequestConflict"));
    // What was created before may still be created again: its answer may have been lost.
    let known = caller.get(&format!("/task/{running}")).await.ok();
    caller.put(&format!("/task/{running}"), known).await.ok();

    let cancelled = caller.post(&path("/cancel"), Value::Null).await.ok();
    let mut ids: Vec<String> = serde_json::from_value(cancelled["taskIds"].clone()).unwrap();
    ids.sort();
    let mut expected: Vec<String> = members.into_iter().filter(|id| *id != completed).collect();
    expected.sort();
    assert_eq!(
        (ids, &cancelled["cancelledCount"], &cancelled["taskGroupSize"]),
        (expected.clone(), &json!(3), &json!(4))
    );
    for id in &expected {
        let run = &status(&caller, id).await["runs"][0];
        assert_eq!(run["reasonResolved"], "canceled");
    }
    assert_eq!(status(&caller, &completed).await["state"], "completed");
    assert_eq!(
        status(&caller, &outside).await["state"],
        "pending",
        "who waits outside is let go"
    );
    let again = caller.post(&path("/cancel"), Value::Null).await.ok();
    assert_eq!(again["cancelledCount"], 0);
}

#[tokio::test]
async fn a_group_has_one_scheduler_and_lasts_as_long_as_its_tasks() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let unknown = TaskId::random();
    for (method, rest) in [
        (reqwest::Method::GET, ""),
        (reqwest::Method::GET, "/list"),
        (reqwest::Method::POST, "/seal"),
        (reqwest::Method::POST, "/cancel"),
    ] {
        let answer = caller
            .send(method, &format!("/task-group/{unknown}{rest}"), None)
            .await;
        assert_eq!(answer.refused(), (404, "ResourceNotFound"), "{rest}");
    }
    let hour = chrono::TimeDelta::hours(1);
    let expires = |hours: i32| queue_support::in_an_hour() + hour * hours;
    let first = create(&caller, |task| {
        (task["schedulerId"], task["expires"]) = (json!("one"), json!(expires(1)));
    })
    .await;
    let second = create(&caller, |task| {
        (task["schedulerId"], task["taskGroupId"], task["expires"]) =
            (json!("one"), json!(first), json!(expires(3)));
    })
    .await;
    let mut other = task();
    (other["schedulerId"], other["taskGroupId"]) = (json!("other"), json!(first));
    let refused = caller.put(&format!("/task/{unknown}"), other.clone()).await;
    assert_eq!(refused.refused(), (409, "RequestConflict"));
    assert_eq!(caller.get(&format!("/task/{unknown}")).await.status, 404);

    let group = caller.get(&format!("/task-group/{first}")).await.ok();
    assert_eq!(group["expires"], status(&caller, &second).await["expires"]);
    assert_eq!(group["schedulerId"], "one");
    scene.queue.advance(Duration::from_secs(3 * 3600)).await.unwrap();
    scene.queue.forget_expired().await.unwrap();
    assert_eq!(caller.get(&format!("/task/{first}/status")).await.status, 404);
    assert_eq!(
        pages(&caller, &format!("/task-group/{first}/list")).await,
        [second]
    );
    scene.queue.advance(Duration::from_secs(2 * 3600)).await.unwrap();
    scene.queue.forget_expired().await.unwrap();
    assert_eq!(caller.get(&format!("/task-group/{first}")).await.status, 404);
}

#[tokio::test]
async fn a_changed_priority_counts_for_what_waits_and_for_what_is_tried_again() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let group = TaskId::random();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(create(&caller, |task| task["taskGroupId"] = json!(group)).await);
    }
    let body = |priority: &str| json!({ "newPriority": priority });
    let change =
        async |id: &str, priority: &str| caller.post(&format!("/task/{id}/priority"), body(priority)).await;
    let original = caller.get(&format!("/task/{}", ids[2])).await.ok();
    let changed = change(&ids[2], "high").await.ok();
    assert_eq!(changed["status"]["priority"], "high");
    let now = caller.get(&format!("/task/{}", ids[2])).await.ok();
    assert_eq!(now["priority"], "high");
    // Whether somebody repeats what they sent, or sends what they have read.
    for definition in [original, now] {
        caller.put(&format!("/task/{}", ids[2]), definition).await.ok();
    }
    assert_eq!(claim(&caller).await, ids[2]);

    // It is running already; its next run is what becomes less urgent.
    change(&ids[2], "very-low").await.ok();
    let group_path = format!("/task-group/{group}/priority");
    let all = caller.post(&group_path, body("low")).await.ok();
    assert_eq!(
        (&all["tasksAffected"], &all["newPriority"]),
        (&json!(3), &json!("low"))
    );
    change(&ids[2], "very-low").await.ok();
    caller
        .post(
            &format!("/task/{}/runs/0/exception", ids[2]),
            json!({ "reason": "worker-shutdown" }),
        )
        .await
        .ok();
    assert_eq!(
        [claim(&caller).await, claim(&caller).await, claim(&caller).await],
        [ids[0].clone(), ids[1].clone(), ids[2].clone()]
    );
    caller
        .post(&format!("/task/{}/runs/0/completed", ids[0]), Value::Null)
        .await
        .ok();
    let ended = change(&ids[0], "high").await;
    assert_eq!(ended.refused(), (409, "RequestConflict"));
    let none = caller.post(&group_path, body("very-low")).await.ok();
    assert_eq!(
        none["taskIds"],
        json!([ids[1]]),
        "what has ended or has it already is left"
    );
    let unknown = change(TaskId::random().as_str(), "high").await;
    assert_eq!(unknown.refused(), (404, "ResourceNotFound"));
}

#[tokio::test]
async fn a_failed_dependency_lets_go_only_who_waits_for_any_end() {
    let scene = Scene::new().await;
    let caller = scene.caller();
    let (failing, other) = (create(&caller, |_| ()).await, create(&caller, |_| ()).await);
    let depends = async |on: &[&str], requires: &str| {
        create(&caller, |task| {
            (task["dependencies"], task["requires"]) = (json!(on), json!(requires));
        })
        .await
    };
    let success = depends(&[&failing], "all-completed").await;
    let any_end = depends(&[&failing], "all-resolved").await;
    let both = depends(&[&failing, &other], "all-completed").await;
    let mut all = vec![success.clone(), any_end.clone(), both.clone()];
    all.sort();
    assert_eq!(pages(&caller, &format!("/task/{failing}/dependents")).await, all);
    let end = async |id: &str, run: u32, how: &str| {
        caller
            .post(&format!("/task/{id}/runs/{run}/{how}"), Value::Null)
            .await
            .ok();
    };
    let state = async |id: &str| status(&caller, id).await["state"].clone();
    assert_eq!(claim(&caller).await, failing);
    end(&failing, 0, "failed").await;
    assert_eq!(
        [state(&success).await, state(&any_end).await, state(&both).await],
        ["unscheduled", "pending", "unscheduled"]
    );
    // A rerun may still succeed; once it has, another rerun takes nothing back.
    caller
        .post(&format!("/task/{failing}/rerun"), Value::Null)
        .await
        .ok();
    assert_eq!(claim(&caller).await, other);
    assert_eq!(claim(&caller).await, any_end);
    assert_eq!(claim(&caller).await, failing);
    end(&failing, 1, "completed").await;
    assert_eq!(state(&success).await, "pending");
    caller
        .post(&format!("/task/{failing}/rerun"), Value::Null)
        .await
        .ok();
    end(&other, 0, "completed").await;
    assert_eq!(state(&both).await, "pending");
    let unknown = caller
        .get(&format!("/task/{}/dependents", TaskId::random()))
        .await;
    assert_eq!(unknown.refused(), (404, "ResourceNotFound"));
}
