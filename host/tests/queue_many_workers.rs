//! Several workers on one queue, while somebody cancels and reruns: every run is somebody's exactly once, every task ends,
//! nothing is left over.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use queue_support::caller::Caller;
use queue_support::{BOUND, Scene, task};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use tcw_host::queue::TaskId;
use tokio::sync::Notify;

const TASKS: usize = 300;
const WORKERS: usize = 8;
const MEDDLING: usize = 120;

#[derive(Default)]
struct Shared {
    /// Who has claimed which run.
    claims: Mutex<HashMap<(String, u64), String>>,
    conflicts: AtomicUsize,
    stop: AtomicBool,
    /// Told whenever a worker has ended a run.
    ended: Notify,
}

async fn work(caller: Caller, worker: String, shared: Arc<Shared>, mut random: StdRng) {
    while !shared.stop.load(Ordering::Acquire) {
        let body = json!({ "workerGroup": "g", "workerId": worker, "tasks": random.random_range(1..4) });
        let path = "/claim-work/proj-test%2Flinux";
        // When the queue stops, the last poll may find it gone.
        let Ok(claimed) = caller.try_send(Method::POST, path, Some(body)).await else {
            return;
        };
        let claimed = claimed.ok();
        for claim in claimed["tasks"].as_array().unwrap() {
            let (id, run) = (
                claim["status"]["taskId"].as_str().unwrap(),
                claim["runId"].as_u64().unwrap(),
            );
            let key = (id.to_owned(), run);
            let earlier = shared.claims.lock().unwrap().insert(key, worker.clone());
            assert_eq!(earlier, None, "run {run} of {id} was claimed before");
            let credentials = serde_json::from_value(claim["credentials"].clone()).unwrap();
            let own = caller.with(Some(credentials));
            let (path, body) = match random.random_range(0..10) {
                0..6 => ("completed", Value::Null),
                6 => ("failed", Value::Null),
                7 => ("exception", json!({ "reason": "internal-error" })),
                8 => ("exception", json!({ "reason": "worker-shutdown" })),
                _ => ("exception", json!({ "reason": "intermittent-task" })),
            };
            if random.random_ratio(1, 4) {
                let path = format!("/task/{id}/runs/{run}/reclaim");
                let answer = own.post(&path, Value::Null).await;
                assert!(matches!(answer.status, 200 | 409), "{answer:?}");
            }
            let answer = own.post(&format!("/task/{id}/runs/{run}/{path}"), body).await;
            // Somebody may have cancelled it, and nothing else may have happened.
            if answer.status != 200 {
                assert_eq!(answer.refused(), (409, "RequestConflict"));
                shared.conflicts.fetch_add(1, Ordering::AcqRel);
            }
            shared.ended.notify_one();
        }
    }
}

async fn create(caller: &Caller, random: &mut StdRng) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..TASKS {
        let id = TaskId::random().to_string();
        let mut definition = task();
        let count = random.random_range(0..3);
        let dependencies: Vec<&String> = ids.choose_multiple(random, count).collect();
        definition["dependencies"] = json!(dependencies);
        definition["requires"] = json!(*["all-completed", "all-resolved"].choose(random).unwrap());
        definition["priority"] = json!(*["low", "medium", "high"].choose(random).unwrap());
        caller.put(&format!("/task/{id}"), definition).await.ok();
        ids.push(id);
        // What has just been created is mostly being worked on.
        let last = ids.len().saturating_sub(WORKERS);
        meddle(caller, &ids[last..], random).await;
    }
    ids
}

async fn meddle(caller: &Caller, ids: &[String], random: &mut StdRng) {
    let id = ids.choose(random).unwrap();
    let change = *["cancel", "cancel", "rerun", "schedule"].choose(random).unwrap();
    let path = format!("/task/{id}/{change}");
    caller.post(&path, Value::Null).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_run_is_claimed_once_and_every_task_ends() {
    let seed: u64 = 4;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let scene = Scene::new().await;
    let caller = scene.caller();
    let shared = Arc::new(Shared::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let random = StdRng::seed_from_u64(random.random());
            tokio::spawn(work(
                scene.caller(),
                format!("w{number}"),
                Arc::clone(&shared),
                random,
            ))
        })
        .collect();
    let ids = create(&caller, &mut random).await;
    for _ in 0..MEDDLING {
        meddle(&caller, &ids, &mut random).await;
    }

    let statuses = tokio::time::timeout(BOUND, all_ended(&caller, &ids, &shared))
        .await
        .expect("all tasks end");
    let counts = caller.get("/task-queues/proj-test%2Flinux/counts").await.ok();
    assert_eq!(
        (&counts["pendingTasks"], &counts["claimedTasks"]),
        (&json!(0), &json!(0))
    );
    shared.stop.store(true, Ordering::Release);
    scene.queue.stop().await;
    for worker in workers {
        tokio::time::timeout(BOUND, worker).await.unwrap().unwrap();
    }
    let claims = shared.claims.lock().unwrap();
    let mut claimed_runs = 0;
    for status in &statuses {
        let id = status["taskId"].as_str().unwrap();
        for run in status["runs"].as_array().unwrap() {
            if let Some(worker) = run["workerId"].as_str() {
                claimed_runs += 1;
                let key = (id.to_owned(), run["runId"].as_u64().unwrap());
                assert_eq!(claims.get(&key).map(String::as_str), Some(worker));
            }
        }
    }
    assert_eq!(claims.len(), claimed_runs, "what was handed out is what is known");
    assert!(claimed_runs >= TASKS / 2, "{claimed_runs}");
    let conflicts = shared.conflicts.load(Ordering::Acquire);
    println!("{claimed_runs} runs, {conflicts} of them were cancelled under way");
}

/// The statuses of all tasks once they have ended. Those whose dependencies failed never start, and are cancelled.
async fn all_ended(caller: &Caller, ids: &[String], shared: &Shared) -> Vec<Value> {
    loop {
        let ended = shared.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        let answer = caller.post("/tasks/status", json!({ "taskIds": ids })).await.ok();
        let statuses: Vec<Value> = answer["statuses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["status"].clone())
            .collect();
        let in_state = |states: &[&str]| -> Vec<&str> {
            let found = statuses
                .iter()
                .filter(|status| states.contains(&status["state"].as_str().unwrap()));
            found.map(|status| status["taskId"].as_str().unwrap()).collect()
        };
        if !in_state(&["pending", "running"]).is_empty() {
            // A worker that has been told so may be between two calls: looked at again after its next report, or soon.
            let _ = tokio::time::timeout(Duration::from_millis(100), ended).await;
            continue;
        }
        let waiting = in_state(&["unscheduled"]);
        if waiting.is_empty() {
            assert_eq!(statuses.len(), ids.len());
            return statuses;
        }
        for id in waiting {
            caller.post(&format!("/task/{id}/cancel"), Value::Null).await.ok();
        }
    }
}
