//! One scene, and what the state directory looks like at each write in it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tcw_host::queue::TaskId;
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue, fault};

use super::queue_support::caller::Caller;
use super::queue_support::{Scene, copy_folder, in_an_hour, task};
use super::{check_whole, statuses};

/// The state directory at one write.
struct Copy {
    path: PathBuf,
    /// Where in the scene it was made, and at which write.
    step: usize,
    point: String,
}

/// What is going on, as the hook sees it.
#[derive(Default)]
struct Recording {
    /// Nothing is recorded without this.
    state: Option<PathBuf>,
    step: usize,
    copies: Vec<Copy>,
}

/// The scene as it is played.
struct Play {
    scene: Scene,
    caller: Caller,
    recording: Arc<Mutex<Recording>>,
    ids: Vec<String>,
    /// What everybody saw before each step, and at the end.
    views: Vec<Value>,
    /// Steps that are done in several pieces, each of which is whole.
    in_pieces: Vec<usize>,
}

impl Play {
    /// One call, and what everybody sees afterwards.
    async fn call(&mut self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let answer = self.caller.send(method, path, Some(body)).await.ok();
        self.next().await;
        answer
    }

    async fn post(&mut self, path: &str, body: Value) -> Value {
        self.call(reqwest::Method::POST, path, body).await
    }

    async fn create(&mut self, adjust: impl FnOnce(&mut Value)) -> String {
        let (id, mut task) = (TaskId::random().to_string(), task());
        adjust(&mut task);
        self.ids.push(id.clone());
        self.call(reqwest::Method::PUT, &format!("/task/{id}"), task)
            .await;
        id
    }

    async fn claim(&mut self) -> String {
        let body = json!({ "workerGroup": "g", "workerId": "w" });
        let answer = self.post("/claim-work/proj-test%2Flinux", body).await;
        answer["tasks"][0]["status"]["taskId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    async fn upload(&mut self, url: &str, content: &'static str) {
        let answer = reqwest::Client::new()
            .put(url)
            .body(content)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        self.next().await;
    }

    /// Time passes, and what has expired goes.
    async fn pass(&mut self, by: Duration) {
        self.in_pieces.push(self.views.len() - 1);
        self.scene.queue.advance(by).await.unwrap();
        self.scene.queue.forget_expired().await.unwrap();
        self.next().await;
    }

    async fn next(&mut self) {
        let view = view(&self.caller, &self.ids).await;
        self.views.push(view);
        self.recording.lock().unwrap().step += 1;
    }
}

/// All that can be seen: tasks, groups, artifacts and their content, workers.
async fn view(caller: &Caller, ids: &[String]) -> Value {
    let statuses = statuses(caller, ids).await;
    let mut artifacts = Vec::new();
    for status in &statuses {
        let id = status["taskId"].as_str().unwrap();
        for run in 0..status["runs"].as_array().unwrap().len() {
            let list = caller.get(&format!("/task/{id}/runs/{run}/artifacts")).await.ok();
            for artifact in list["artifacts"].as_array().unwrap() {
                let name = artifact["name"].as_str().unwrap().replace('/', "%2F");
                let content = caller
                    .get(&format!("/task/{id}/runs/{run}/artifact-content/{name}"))
                    .await;
                let bytes = match content.body["url"].as_str() {
                    Some(url) if content.body["storageType"] == "s3" => {
                        let answer = reqwest::get(url).await.unwrap();
                        json!([answer.status().as_u16(), answer.text().await.unwrap()])
                    }
                    other => json!(other),
                };
                // Where nothing has been uploaded, the answer tells the time.
                let bytes = if bytes[0] == 404 { json!(404) } else { bytes };
                artifacts.push(json!([id, run, artifact, bytes]));
            }
        }
    }
    let mut groups = Vec::new();
    for id in ids {
        groups.push(caller.get(&format!("/task-group/{id}")).await.body["sealed"].clone());
    }
    let worker = caller
        .get("/provisioners/proj-test/worker-types/linux/workers/g/w")
        .await
        .body;
    let pending = caller.get("/task-queues/proj-test%2Flinux/pending").await.ok();
    let pending: Vec<&Value> = pending["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| &task["taskId"])
        .collect();
    let worker = json!([worker["recentTasks"], worker["quarantineUntil"]]);
    json!({ "statuses": statuses, "artifacts": artifacts, "groups": groups, "worker": worker, "pending": pending })
}

async fn play(recording: Arc<Mutex<Recording>>) -> Play {
    let scene = Scene::new().await;
    let mut play = Play {
        caller: scene.caller(),
        scene,
        recording,
        ids: Vec::new(),
        views: Vec::new(),
        in_pieces: Vec::new(),
    };
    let nothing = view(&play.caller, &play.ids).await;
    play.views.push(nothing);
    play.recording.lock().unwrap().state = Some(play.scene.directory.path().join("state"));

    let first = play.create(|_| ()).await;
    for requires in ["all-completed", "all-resolved"] {
        let (required, group) = (first.clone(), first.clone());
        play.create(|task| {
            task["dependencies"] = json!([required]);
            task["taskGroupId"] = json!(group);
            task["requires"] = json!(requires);
        })
        .await;
    }
    assert_eq!(play.claim().await, first);
    let run = format!("/task/{first}/runs/0");
    let expires = in_an_hour();
    let s3 = json!({ "storageType": "s3", "contentType": "text/plain", "expires": expires });
    let created = play.post(&format!("{run}/artifacts/public%2Fa"), s3).await;
    let url = created["putUrl"].as_str().unwrap();
    play.upload(url, "first").await;
    play.upload(url, "and then another").await;
    let reference = json!({
        "storageType": "reference", "contentType": "a/b", "expires": expires, "url": "https://example.com",
    });
    play.post(&format!("{run}/artifacts/public%2Fb"), reference).await;
    let link = json!({ "storageType": "link", "expires": expires, "artifact": "public/a" });
    play.post(&format!("{run}/artifacts/public%2Fb"), link).await;
    play.post(
        &format!("{run}/exception"),
        json!({ "reason": "worker-shutdown" }),
    )
    .await;
    play.claim().await;
    let path = format!("/task/{first}/runs/1");
    play.post(&format!("{path}/reclaim"), Value::Null).await;
    play.post(&format!("{path}/completed"), Value::Null).await;
    let second = play.claim().await;
    play.post(&format!("/task/{second}/cancel"), Value::Null).await;
    play.post(&format!("/task/{second}/rerun"), Value::Null).await;
    play.post(
        &format!("/task/{second}/priority"),
        json!({ "newPriority": "high" }),
    )
    .await;
    assert_eq!(play.claim().await, second);
    let worker = "/provisioners/proj-test/worker-types/linux/workers/g/w";
    let until = json!({ "quarantineUntil": in_an_hour() });
    play.call(reqwest::Method::PUT, worker, until).await;
    play.post(&format!("/task-group/{first}/seal"), Value::Null).await;
    // A claim expires; later the rest is cancelled, the artifacts' bytes expire, and at last everything.
    play.pass(Duration::from_secs(25 * 60)).await;
    play.post(&format!("/task-group/{first}/cancel"), Value::Null)
        .await;
    play.pass(Duration::from_secs(2 * 3600)).await;
    play.pass(Duration::from_secs(400 * 24 * 3600)).await;
    play.recording.lock().unwrap().state = None;
    play
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_each_write_what_a_killed_process_leaves_is_whole() {
    let copies = tempfile::tempdir().unwrap();
    let recording = Arc::new(Mutex::new(Recording::default()));
    let (seen, folder) = (Arc::clone(&recording), copies.path().to_owned());
    fault::watch(move |point| {
        let mut seen = seen.lock().unwrap();
        if let Some(state) = seen.state.clone() {
            let path = folder.join(seen.copies.len().to_string());
            copy_folder(&state, &path);
            let (step, point) = (seen.step, point.to_owned());
            seen.copies.push(Copy { path, step, point });
        }
    });
    let play = play(Arc::clone(&recording)).await;
    let Play {
        scene,
        ids,
        views,
        in_pieces,
        ..
    } = play;
    scene.queue.stop().await;

    let recorded = std::mem::take(&mut recording.lock().unwrap().copies);
    let points = |name: &str| recorded.iter().filter(|copy| copy.point == name).count();
    assert!(
        points("commit") > 20 && points("upload stored") == 2 && points("object forgotten") == 2,
        "the scene is played to its end"
    );
    for Copy { path, step, point } in &recorded {
        let queue = EmbeddedQueue::start(EmbeddedConfig::new(path)).await.unwrap();
        let caller = Caller::new(queue.root_url(), Some(queue.credentials()));
        check_whole(path, &caller, &ids).await;
        if !in_pieces.contains(step) {
            let seen = view(&caller, &ids).await;
            let (before, after) = (&views[*step], &views[*step + 1]);
            // Of what was not answered, all is done or nothing; what groups and ids there will be is not known yet.
            let done = same(&seen, after);
            assert!(
                done || same(&seen, before),
                "killed in step {step} at {point:?}: {seen:#}\nis neither {before:#}\nnor {after:#}"
            );
            assert_eq!(
                done && !same(before, after),
                done && point != "commit",
                "step {step}, {point}"
            );
        }
        queue.stop().await;
    }
}

/// Whether two views show the same. Groups that are looked for later than in the other are not there yet.
fn same(one: &Value, other: &Value) -> bool {
    let known = |view: &Value| -> Vec<Value> {
        let groups = view["groups"].as_array().unwrap().iter();
        groups.filter(|sealed| !sealed.is_null()).cloned().collect()
    };
    ["statuses", "artifacts", "worker", "pending"]
        .into_iter()
        .all(|key| one[key] == other[key])
        && known(one) == known(other)
}
