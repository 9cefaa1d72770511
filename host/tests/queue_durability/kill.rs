//! A queue in a process of its own, which is killed at work, again and again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{Credentials, TaskId};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use super::queue_support::caller::{Answer, Caller};
use super::queue_support::{BOUND, in_an_hour, task};
use super::{COUNTS, check_whole, statuses};

const STATE: &str = "TCW_TEST_KILLED_STATE";
const ROUNDS: usize = 6;

/// Not a test: the process that is killed. It ends by itself when whoever started it is no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the other test kills"]
async fn the_queue_that_is_killed() {
    let Ok(state) = std::env::var(STATE) else { return };
    let queue = EmbeddedQueue::start(EmbeddedConfig::new(state)).await.unwrap();
    println!("\nserving {}", queue.root_url());
    let end = tokio::task::spawn_blocking(|| std::io::Read::read(&mut std::io::stdin(), &mut [0]));
    let _ = end.await;
    queue.stop().await;
}

async fn start(state: &Path) -> (Child, Caller) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kill::the_queue_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(STATE, state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the queue starts");
            if let Some(root_url) = line.strip_prefix("serving ") {
                return root_url.to_owned();
            }
        }
    };
    let root_url = tokio::time::timeout(BOUND, reading).await.unwrap();
    let text = std::fs::read(state.join("credentials.json")).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    let part = |key: &str| file[key].as_str().unwrap().to_owned();
    let root = Credentials::new(part("clientId"), part("accessToken"));
    (child, Caller::new(&root_url, Some(root)))
}

/// What the queue has promised by answering.
#[derive(Default)]
struct Promised {
    tasks: Mutex<BTreeMap<String, Promise>>,
    answers: AtomicUsize,
    /// Told at each answer.
    answered: Notify,
}

#[derive(Default)]
struct Promise {
    /// How the last run has ended.
    resolved: Option<&'static str>,
    content: Option<String>,
}

/// A client that does everything, until the queue is gone.
struct Client {
    caller: Caller,
    promised: Arc<Promised>,
    random: StdRng,
}

impl Client {
    async fn call(&self, method: Method, path: &str, body: Value) -> reqwest::Result<Answer> {
        let answer = self.caller.try_send(method, path, Some(body)).await?;
        self.promised.answers.fetch_add(1, Ordering::AcqRel);
        self.promised.answered.notify_one();
        Ok(answer)
    }

    fn promise(&self, id: &str, change: impl FnOnce(&mut Promise)) {
        change(
            self.promised
                .tasks
                .lock()
                .unwrap()
                .entry(id.to_owned())
                .or_default(),
        );
    }

    async fn work(mut self) -> reqwest::Result<()> {
        loop {
            let id = TaskId::random().to_string();
            let created = self.call(Method::PUT, &format!("/task/{id}"), task()).await?;
            assert_eq!(created.status, 200, "{created:?}");
            self.promise(&id, |_| ());
            let worker = json!({ "workerGroup": "g", "workerId": "w" });
            let path = "/claim-work/proj-test%2Flinux";
            let claimed = self.call(Method::POST, path, worker).await?.ok();
            let Some(claim) = claimed["tasks"].get(0) else {
                continue;
            };
            let (id, run) = (claim["status"]["taskId"].as_str().unwrap(), &claim["runId"]);
            let run = format!("/task/{id}/runs/{run}");
            let artifact =
                json!({ "storageType": "s3", "contentType": "text/plain", "expires": in_an_hour() });
            let path = format!("{run}/artifacts/public%2Fa");
            let created = self.call(Method::POST, &path, artifact).await?.ok();
            let content = format!("content of {id} ").repeat(self.random.random_range(1..2000));
            let put = reqwest::Client::new().put(created["putUrl"].as_str().unwrap());
            let stored = put.body(content.clone()).send().await?;
            assert_eq!(stored.status(), 200);
            self.promise(id, |task| task.content = Some(content));
            let (path, body, state) = match self.random.random_range(0..3) {
                0 => ("completed", Value::Null, "completed"),
                1 => ("failed", Value::Null, "failed"),
                _ => ("exception", json!({ "reason": "internal-error" }), "exception"),
            };
            self.call(Method::POST, &format!("{run}/{path}"), body)
                .await?
                .ok();
            self.promise(id, |task| task.resolved = Some(state));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_killed_again_and_again_keeps_its_promises() {
    let seed: u64 = 20_260_125;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let promised = Arc::new(Promised::default());
    for _ in 0..ROUNDS {
        let (mut child, caller) = start(&state).await;
        check_promises(&state, &caller, &promised).await;
        let enough = promised.answers.load(Ordering::Acquire) + random.random_range(10..300);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let client = Client {
                    caller: caller.clone(),
                    promised: Arc::clone(&promised),
                    random: StdRng::seed_from_u64(random.random()),
                };
                tokio::spawn(client.work())
            })
            .collect();
        let some = async {
            while promised.answers.load(Ordering::Acquire) < enough {
                promised.answered.notified().await;
            }
        };
        tokio::time::timeout(BOUND, some).await.unwrap();
        child.kill().await.unwrap();
        for client in clients {
            client.await.unwrap().expect_err("the queue is gone");
        }
    }
    let (mut child, caller) = start(&state).await;
    check_promises(&state, &caller, &promised).await;
    let ids: Vec<String> = promised.tasks.lock().unwrap().keys().cloned().collect();
    // Whoever had claimed is dead; what was not answered may be there or not. In the end all can be ended.
    loop {
        let listed = |kind: &str| format!("/task-queues/proj-test%2Flinux/{kind}");
        let mut left = Vec::new();
        for kind in ["pending", "claimed"] {
            let list = caller.get(&listed(kind)).await.ok();
            let tasks = list["tasks"].as_array().unwrap().iter();
            left.extend(tasks.map(|task| task["taskId"].as_str().unwrap().to_owned()));
        }
        if left.is_empty() {
            break;
        }
        for id in left {
            caller.post(&format!("/task/{id}/cancel"), Value::Null).await.ok();
        }
    }
    let counts = caller.get(COUNTS).await.ok();
    assert_eq!(
        (&counts["pendingTasks"], &counts["claimedTasks"]),
        (&json!(0), &json!(0))
    );
    assert!(statuses(&caller, &ids).await.iter().all(|status| matches!(
        status["state"].as_str(),
        Some("completed" | "failed" | "exception")
    )));
    child.kill().await.unwrap();
}

async fn check_promises(state: &Path, caller: &Caller, promised: &Promised) {
    // Tasks whose creation was not answered are found in the database alone.
    let ids: Vec<String> = {
        let database = rusqlite::Connection::open(state.join("queue.sqlite")).unwrap();
        let mut statement = database.prepare("SELECT id FROM tasks").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    check_whole(state, caller, &ids).await;
    let found = statuses(caller, &ids).await;
    let found: BTreeMap<&str, &Value> = found
        .iter()
        .map(|status| (status["taskId"].as_str().unwrap(), status))
        .collect();
    let promises: Vec<(String, Option<&'static str>, Option<String>)> = {
        let tasks = promised.tasks.lock().unwrap();
        let tasks = tasks.iter();
        tasks
            .map(|(id, task)| (id.clone(), task.resolved, task.content.clone()))
            .collect()
    };
    for (id, resolved, content) in promises {
        let status = found.get(id.as_str()).expect("a created task is there");
        if let Some(state) = resolved {
            assert_eq!(status["state"], state, "{id}");
        }
        if let Some(content) = content {
            let answer = caller
                .get(&format!("/task/{id}/artifact-content/public%2Fa"))
                .await
                .ok();
            let stored = reqwest::get(answer["url"].as_str().unwrap()).await.unwrap();
            assert!(stored.text().await.unwrap() == content, "the content of {id}");
        }
    }
}
