//! What the scenarios of the lifecycle run with: a place, a queue that notes everything, and a list of what happened.

pub(crate) mod fakes;
pub(crate) mod scenarios;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use serde_json::{Value, json};
use tcw_abi::engine::EngineProvider;
use tcw_abi::plugin::PluginProvider;
use tcw_abi::services::{ErrorReport, LeaseRequest, StopMode, WorkerInfo};
use tcw_abi::{Result, async_trait};
use tcw_host::queue::{
    ArtifactCreated, ArtifactRequest, Claim, Credentials, ExceptionReason, QueueError, Reclaimed, RunId,
    TaskId, TaskQueue, TaskStatus, Upload, UploadBody,
};
use tcw_host::services::engine_handle::PluginEngine;
use tcw_host::services::log::LogOptions;
use tcw_host::services::worker::{LeaseStore, WorkerControl, WorkerServices, WorkerServicesConfig};
use tcw_host::task::{
    Deadlines, EngineSlot, PayloadCheck, PayloadParts, PluginSlot, TaskControl, TaskEnvironment, TaskReport,
    task_control,
};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// Where a scenario's engine and plugins come from: this process, or libraries.
pub(crate) struct Providers {
    pub(crate) engine: Arc<dyn EngineProvider>,
    pub(crate) plugin: Arc<dyn PluginProvider>,
}

/// Everything that has happened, in order: `<who> <what>`.
pub(crate) struct Events {
    seen: watch::Receiver<Vec<String>>,
    path: String,
}

impl Events {
    fn listen(directory: &std::path::Path) -> Self {
        let path = directory.join("events");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (send, seen) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if line == "stop" {
                    return;
                }
                send.send_modify(|lines| lines.push(line));
            }
        });
        Events {
            seen,
            path: path.to_str().unwrap().to_owned(),
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        let seen = self.seen.borrow();
        seen.iter()
            .filter(|line| !line.starts_with("mark "))
            .cloned()
            .collect()
    }

    /// Waits until everything that has happened is known here.
    async fn settle(&self) {
        let mark = format!("mark {}", TaskId::random());
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(mark.as_bytes(), &self.path).unwrap();
        self.until(&mark, 1).await;
    }

    /// Waits for the `nth` (from 1) time that this happens.
    pub(crate) async fn until(&self, event: &str, nth: usize) {
        let mut seen = self.seen.clone();
        let happened = seen.wait_for(|lines| lines.iter().filter(|line| *line == event).count() >= nth);
        if tokio::time::timeout(Duration::from_secs(20), happened)
            .await
            .is_err()
        {
            panic!("{event:?} did not happen; what did: {:#?}", self.all());
        }
    }

    /// Waits, for as long as it takes, until something like this happens.
    pub(crate) async fn like(&self, meant: impl Fn(&str) -> bool) {
        let mut seen = self.seen.clone();
        let happened = seen.wait_for(|lines| lines.iter().any(|line| meant(line)));
        if happened.await.is_err() {
            // Nothing happens any more.
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.all().iter().filter(|line| line.starts_with(event)).count()
    }

    /// Asserts that these happened, each after the one before it.
    pub(crate) fn in_order(&self, expected: &[&str]) {
        let all = self.all();
        let mut rest = all.iter();
        for event in expected {
            assert!(
                rest.any(|line| line == event),
                "{event:?} did not follow in {all:#?}"
            );
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"stop", &self.path));
    }
}

/// A worker without the worker.
pub(crate) struct Stage {
    pub(crate) env: Arc<TaskEnvironment>,
    pub(crate) events: Arc<Events>,
    _directory: tempfile::TempDir,
}

/// How a scenario differs from the usual.
pub(crate) struct Setting {
    pub(crate) engine: Value,
    pub(crate) capacity: Option<usize>,
    /// Name and script of each plugin.
    pub(crate) plugins: Vec<(&'static str, Value)>,
    pub(crate) deadlines: Deadlines,
    /// Whether the ends of calls are told, too.
    pub(crate) trace: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            engine: json!({}),
            capacity: None,
            trace: false,
            plugins: vec![("a", json!({}))],
            deadlines: Deadlines {
                hook_grace: Duration::from_millis(30),
                // Long for a machine that is busy with other tests, short for those who wait for a call that hangs.
                call_grace: Duration::from_millis(700),
                exception: Duration::from_secs(10),
                report_again: Duration::from_millis(50),
                ..Deadlines::default()
            },
        }
    }
}

impl Stage {
    pub(crate) async fn set(providers: &Providers, setting: Setting) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let events = Arc::new(Events::listen(directory.path()));
        let worker = WorkerInfo {
            worker_pool_id: "test/lifecycle".to_owned(),
            worker_group: "group".to_owned(),
            worker_id: "worker".to_owned(),
            root_url: "http://localhost:1".to_owned(),
            ..WorkerInfo::default()
        };
        let services = WorkerServices::new(WorkerServicesConfig {
            worker: worker.clone(),
            state: directory.path().join("state"),
            credentials: Arc::new(|| None),
            leases: Arc::new(Nobody),
            control: Arc::new(Nobody),
        })
        .unwrap();
        let configuration = |name: &str, script: Value, capacity: Option<usize>| json!({"name": name, "socket": events.path, "script": script, "capacity": capacity, "trace": setting.trace});
        let engine = providers
            .engine
            .new_engine(
                services.for_library("lib-engine"),
                configuration("engine", setting.engine, setting.capacity),
            )
            .await
            .unwrap();
        let mut plugins = Vec::new();
        for (name, script) in setting.plugins {
            let library = format!("lib-{name}");
            let plugin = providers
                .plugin
                .new_plugin(
                    services.for_library(&library),
                    PluginEngine::of(Arc::clone(&engine)),
                    configuration(name, script, None),
                )
                .await
                .unwrap();
            plugins.push(PluginSlot::new(name, library, plugin));
        }
        let env = Arc::new(TaskEnvironment {
            engine: EngineSlot::new("scripted", "lib-engine", engine),
            plugins,
            payloads: Arc::new(Split),
            worker,
            services,
            tasks_directory: directory.path().join("tasks"),
            log: LogOptions::default(),
            log_header: Vec::new(),
            deadlines: setting.deadlines,
        });
        Stage {
            env,
            events,
            _directory: directory,
        }
    }

    /// Begins a task.
    pub(crate) fn begin(&self, payload: Value) -> Going {
        self.begin_with(payload, FakeQueue::new(&self.events))
    }

    pub(crate) fn begin_with(&self, payload: Value, queue: Arc<FakeQueue>) -> Going {
        let (control, receiver) = task_control();
        let claim = claim(payload);
        let run = tcw_host::task::run(Arc::clone(&self.env), claim, Arc::clone(&queue) as _, receiver);
        Going {
            control,
            queue,
            events: Arc::clone(&self.events),
            run: tokio::spawn(run),
        }
    }

    /// Runs a task to its end.
    pub(crate) async fn run(&self, payload: Value) -> (TaskReport, Arc<FakeQueue>) {
        let going = self.begin(payload);
        let queue = Arc::clone(&going.queue);
        (going.end().await, queue)
    }

    /// Asserts what holds for every task that had one plugin: disposed of once, last of the plugin's calls, before what
    /// the engine made.
    pub(crate) fn is_clean(&self, what: &str) {
        let all = self.events.all();
        for plugin in &self.env.plugins {
            let mine: Vec<_> = all
                .iter()
                .filter(|line| line.split(' ').next() == Some(&plugin.name))
                .collect();
            let disposals = mine.iter().filter(|line| line.ends_with(" dispose")).count();
            assert_eq!(disposals, 1, "{what}: {all:#?}");
            assert!(
                mine.last().is_some_and(|line| line.ends_with(" dispose")),
                "{what}: {all:#?}"
            );
        }
        assert_eq!(self.env.engine.in_use(), 0, "{what}: {all:#?}");
        assert_eq!(
            std::fs::read_dir(&self.env.tasks_directory).unwrap().count(),
            0,
            "{what}: a folder is left"
        );
    }
}

/// A task on its way.
pub(crate) struct Going {
    pub(crate) control: TaskControl,
    pub(crate) queue: Arc<FakeQueue>,
    events: Arc<Events>,
    run: tokio::task::JoinHandle<TaskReport>,
}

impl Going {
    pub(crate) async fn end(self) -> TaskReport {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.run).await;
        let report = ended.expect("the task ends").expect("the task does not panic");
        self.events.settle().await;
        report
    }
}

struct Split;

impl PayloadCheck for Split {
    fn check(&self, payload: &Value) -> std::result::Result<PayloadParts, Vec<String>> {
        if let Some(violations) = payload["violations"].as_array() {
            return Err(violations
                .iter()
                .map(|v| v.as_str().unwrap().to_owned())
                .collect());
        }
        assert!(payload.get("panic").is_none(), "scripted");
        let plugins: BTreeMap<String, Value> = payload
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| *key != "command")
            .map(|(key, value)| (key.clone(), json!({ key.as_str(): value })))
            .collect();
        Ok(PayloadParts {
            engine: json!({"command": payload["command"]}),
            plugins,
        })
    }
}

struct Nobody;

#[async_trait]
impl LeaseStore for Nobody {
    async fn record(&self, _: &str, _: &str, _: LeaseRequest) -> Result<String> {
        Ok("lease".to_owned())
    }

    async fn release(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl WorkerControl for Nobody {
    async fn stop(&self, _: &str, _: StopMode, _: String) -> Result<()> {
        Ok(())
    }

    async fn pause(&self, _: &str, _: String) -> Result<()> {
        Ok(())
    }

    async fn resume(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn report_error(&self, _: &str, _: ErrorReport) -> Result<()> {
        Ok(())
    }
}

fn claim(payload: Value) -> Claim {
    let id = TaskId::random();
    let now = Utc::now();
    let later = now + chrono::Duration::hours(1);
    serde_json::from_value(json!({
        "status": {
            "taskId": id, "taskQueueId": "test/lifecycle", "state": "running", "retriesLeft": 5,
            "deadline": later, "expires": later, "runs": [],
        },
        "runId": 0, "workerGroup": "group", "workerId": "worker", "takenUntil": later,
        "task": {
            "taskQueueId": "test/lifecycle", "created": now, "deadline": later, "expires": later, "payload": payload,
            "metadata": {"name": "n", "description": "d", "owner": "o", "source": "s"},
        },
        "credentials": {"clientId": "task", "accessToken": "secret"},
    }))
    .unwrap()
}

/// Notes what it is told and keeps what is uploaded.
pub(crate) struct FakeQueue {
    socket: String,
    task: TaskId,
    pub(crate) conflict: bool,
    /// Reports are refused for good.
    pub(crate) refuses: bool,
    /// So many reports find a queue that is away.
    pub(crate) away: AtomicUsize,
    /// Reports are never answered.
    pub(crate) silent: bool,
    pub(crate) stored: Mutex<HashMap<String, Vec<u8>>>,
}

impl FakeQueue {
    pub(crate) fn new(events: &Events) -> Arc<Self> {
        Arc::new(Self::plain(events))
    }

    pub(crate) fn plain(events: &Events) -> Self {
        FakeQueue {
            socket: events.path.clone(),
            task: TaskId::random(),
            conflict: false,
            refuses: false,
            away: AtomicUsize::new(0),
            silent: false,
            stored: Mutex::default(),
        }
    }

    fn tell(&self, what: &str) {
        let socket = UnixDatagram::unbound().unwrap();
        let _ = socket.send_to(format!("queue {what}").as_bytes(), &self.socket);
    }

    async fn reported(&self, what: &str) -> std::result::Result<TaskStatus, QueueError> {
        if self.silent {
            self.tell(&format!("is silent about {what}"));
            std::future::pending::<()>().await;
        }
        let away = |left: usize| left.checked_sub(1);
        if self
            .away
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, away)
            .is_ok()
        {
            self.tell(&format!("is away at {what}"));
            return Err(QueueError::Unavailable {
                at: "POST report".to_owned(),
                attempts: 5,
                message: "connection refused".to_owned(),
            });
        }
        self.tell(what);
        if self.refuses {
            return Err(QueueError::Unauthorized {
                at: "POST report".to_owned(),
                status: 403,
                message: "not yours".to_owned(),
            });
        }
        if self.conflict {
            return Err(QueueError::Conflict {
                at: "POST report".to_owned(),
                message: "resolved".to_owned(),
            });
        }
        Ok(claim(json!({})).status)
    }

    /// The log that plugin `a` uploaded, as text.
    pub(crate) fn log(&self) -> String {
        let stored = self.stored.lock().unwrap();
        let bytes = stored.get("public/logs/a.log").expect("a log was uploaded");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

#[async_trait]
impl TaskQueue for FakeQueue {
    fn task_id(&self) -> &TaskId {
        &self.task
    }

    fn run_id(&self) -> RunId {
        RunId(0)
    }

    fn credentials(&self) -> Credentials {
        Credentials::new("task", "secret")
    }

    fn set_credentials(&self, _: Credentials) {}

    async fn reclaim(&self) -> std::result::Result<Reclaimed, QueueError> {
        unreachable!("claims are the worker's")
    }

    async fn report_completed(&self) -> std::result::Result<TaskStatus, QueueError> {
        self.reported("completed").await
    }

    async fn report_failed(&self) -> std::result::Result<TaskStatus, QueueError> {
        self.reported("failed").await
    }

    async fn report_exception(&self, reason: ExceptionReason) -> std::result::Result<TaskStatus, QueueError> {
        self.reported(&format!("exception {reason}")).await
    }

    async fn create_artifact(
        &self,
        name: &str,
        _: &ArtifactRequest,
    ) -> std::result::Result<ArtifactCreated, QueueError> {
        Ok(ArtifactCreated::S3 {
            put_url: name.to_owned(),
            content_type: "text/plain".to_owned(),
            expires: Utc::now(),
        })
    }

    async fn upload(&self, upload: &Upload, body: UploadBody) -> std::result::Result<(), QueueError> {
        let mut bytes = Vec::new();
        match body {
            UploadBody::Bytes(body) => bytes.extend_from_slice(&body),
            UploadBody::File(file) => {
                (&*file).rewind().unwrap();
                (&*file).read_to_end(&mut bytes).unwrap();
            }
            UploadBody::Reopen(mut open) => drop(open().unwrap().read_to_end(&mut bytes).await.unwrap()),
            UploadBody::Pieces(begin) => {
                let mut pieces = begin();
                while let Some(piece) = pieces.recv().await {
                    bytes.extend_from_slice(&piece.unwrap());
                }
            }
            UploadBody::Once(mut body) => drop(body.read_to_end(&mut bytes).await.unwrap()),
        }
        assert_eq!(bytes.len() as u64, upload.length);
        self.stored.lock().unwrap().insert(upload.put_url.clone(), bytes);
        self.tell(&format!("stored {}", upload.put_url));
        Ok(())
    }

    async fn signed_request(
        &self,
        _: reqwest::Method,
        _: reqwest::Url,
        _: reqwest::header::HeaderMap,
        _: reqwest::Body,
        _: Option<&[String]>,
    ) -> std::result::Result<reqwest::Response, QueueError> {
        unreachable!("no plugin asks for this")
    }
}
