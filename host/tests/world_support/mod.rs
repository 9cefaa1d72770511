//! Every call that this worker makes, one at a time, through a proxy of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tcw_abi::services::{FetchRequest, FetchSource, HttpHead, HttpRequest};
use tcw_abi::{Error as AbiError, ErrorKind};
use tcw_host::queue::{
    ArtifactCreated, ArtifactRequest, ClientConfig, ExceptionReason, Queue as _, QueueClient, QueueError,
    RetryPolicy, RunId, TaskId, TaskQueue, Upload, UploadBody, WorkerIdentity,
};
use tcw_host::services::fetch::Fetcher;
use tcw_host::services::http::{Http, TaskSigned};

use super::proxy_support::{Fault, Proxy, Rule};
use super::queue_support::{Scene, in_an_hour, task};

/// One attempt may take so long; answers come within milliseconds, so that only a machine that stands still is later.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is uploaded and fetched.
const CONTENT: &[u8] = &[b'x'; 20_000];

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Ping,
    Claim,
    Reclaim,
    Statuses,
    Status,
    Task,
    CreateTask,
    CancelTask,
    ListArtifacts,
    Location,
    CreateArtifact,
    Upload,
    Completed,
    Failed,
    Exception,
    Signed,
    Plain,
    FetchArtifact,
    FetchUrl,
    FetchIndex,
}

pub(crate) const CALLS: &[Call] = &[
    Call::Ping,
    Call::Claim,
    Call::Reclaim,
    Call::Statuses,
    Call::Status,
    Call::Task,
    Call::CreateTask,
    Call::CancelTask,
    Call::ListArtifacts,
    Call::Location,
    Call::CreateArtifact,
    Call::Upload,
    Call::Completed,
    Call::Failed,
    Call::Exception,
    Call::Signed,
    Call::Plain,
    Call::FetchArtifact,
    Call::FetchUrl,
    Call::FetchIndex,
];

impl Call {
    pub(crate) fn method(self) -> &'static str {
        match self {
            Call::Claim | Call::Reclaim | Call::Statuses | Call::CancelTask | Call::CreateArtifact => "POST",
            Call::Completed | Call::Failed | Call::Exception => "POST",
            Call::CreateTask | Call::Upload => "PUT",
            _ => "GET",
        }
    }

    /// What its path has that no other of these calls has with that method.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Call::Ping => "/v1/ping",
            Call::Claim => "/claim-work/",
            Call::Reclaim => "/reclaim",
            Call::Statuses => "/tasks/status",
            Call::Status => "/status",
            Call::Task | Call::CreateTask => "/v1/task/",
            Call::CancelTask => "/cancel",
            Call::ListArtifacts => "/artifacts",
            Call::Location | Call::CreateArtifact => "/artifacts/",
            Call::Upload | Call::FetchUrl => "/storage/",
            Call::Completed => "/completed",
            Call::Failed => "/failed",
            Call::Exception => "/exception",
            Call::Signed | Call::Plain => "/v1/task/",
            Call::FetchArtifact => "/artifacts/",
            Call::FetchIndex => "/api/index/",
        }
    }
}

/// How a call ended, and how many requests came for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine(usize),
    Error(&'static str, usize),
}

/// Everything that one call needs.
pub(crate) struct Cell<'a> {
    pub(crate) proxy: Proxy,
    _index: Proxy,
    scene: &'a Scene,
    call: Call,
    task: TaskId,
    client: QueueClient,
    run: Arc<dyn TaskQueue>,
    upload: Option<Upload>,
    location: String,
    scratch: tempfile::TempDir,
    said: Mutex<String>,
}

impl<'a> Cell<'a> {
    /// A task in a pool of its own, as far as the call needs it to be, and a client behind a proxy.
    pub(crate) async fn new(scene: &'a Scene, pool: &str, call: Call) -> Self {
        // The embedded queue has no index, so that something in front of it answers in its place.
        let index = Proxy::start(scene.queue.root_url()).await;
        let proxy = Proxy::start(&index.url).await;
        let client_at = |root_url: &str| {
            let worker = WorkerIdentity {
                pool: pool.parse().unwrap(),
                group: "g".to_owned(),
                id: "w".to_owned(),
            };
            let credentials = Some(scene.queue.credentials());
            let config = ClientConfig {
                retry: RetryPolicy {
                    attempts: 3,
                    first_pause: Duration::from_millis(1),
                    timeout: PATIENCE,
                    stall: PATIENCE,
                    ..RetryPolicy::default()
                },
                claim_timeout: PATIENCE,
                ..ClientConfig::new(root_url, credentials).with_worker(worker)
            };
            QueueClient::new(config).unwrap()
        };
        let (direct, client) = (client_at(scene.queue.root_url()), client_at(&proxy.url));
        let task_id = TaskId::random();
        if call != Call::CreateTask {
            direct.create_task(&task_id, &definition(pool)).await.unwrap();
        }
        let mut cell = Cell {
            run: client.for_task(&task_id, RunId(0), scene.queue.credentials()),
            proxy,
            _index: index,
            scene,
            call,
            task: task_id,
            client,
            upload: None,
            location: String::new(),
            scratch: tempfile::tempdir().unwrap(),
            said: Mutex::default(),
        };
        if !matches!(call, Call::CreateTask | Call::CancelTask | Call::Claim) {
            let claim = direct.claim_work(1).await.unwrap().remove(0);
            cell.run = cell.client.for_claim(&claim);
            cell.store(direct.for_claim(&claim).as_ref(), scene.queue.root_url())
                .await;
        }
        let found = json!({ "taskId": cell.task }).to_string();
        cell._index
            .rule(Rule::always("GET", "/api/index/", Fault::Answer(found)));
        cell
    }

    /// An artifact `public/content` that others can fetch, and one that waits to be uploaded.
    async fn store(&mut self, run: &dyn TaskQueue, root_url: &str) {
        for name in ["public/content", "public/upload"] {
            let request = s3();
            let created = run.create_artifact(name, &request).await.unwrap();
            let ArtifactCreated::S3 {
                put_url,
                content_type,
                ..
            } = created
            else {
                panic!("no URL to upload to")
            };
            let mut upload = Upload {
                put_url,
                content_type,
                content_encoding: None,
                length: CONTENT.len() as u64,
            };
            if name == "public/content" {
                let body = UploadBody::Bytes(Bytes::from_static(CONTENT));
                run.upload(&upload, body).await.unwrap();
            } else {
                upload.put_url = upload.put_url.replace(root_url, &self.proxy.url);
                self.upload = Some(upload);
            }
        }
        let location = self
            .scene
            .client
            .latest_artifact_url(&self.task, "public/content")
            .await;
        self.location = location.unwrap().replace(root_url, &self.proxy.url);
    }

    /// What the last call said when it failed.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Makes the call.
    pub(crate) async fn make(&self) -> Outcome {
        let before = self.requests();
        let failure = self.call().await.err();
        let requests = self.requests() - before;
        match failure {
            None => Outcome::Fine(requests),
            Some((kind, text)) => {
                *self.said.lock().unwrap() = text;
                Outcome::Error(kind, requests)
            }
        }
    }

    fn requests(&self) -> usize {
        self.proxy.seen(self.call.method(), self.call.path()).len()
    }

    async fn call(&self) -> Result<(), (&'static str, String)> {
        let (client, run, task) = (&self.client, &self.run, &self.task);
        let done = match self.call {
            Call::Ping => client.ping().await,
            Call::Claim => client
                .claim_work(1)
                .await
                .map(|claims| assert_eq!(claims.len(), 1)),
            Call::Reclaim => run.reclaim().await.map(drop),
            Call::Statuses => {
                let statuses = client.statuses(std::slice::from_ref(task)).await;
                statuses.map(|statuses| assert_eq!(statuses.len(), 1))
            }
            Call::Status => client.status(task).await.map(drop),
            Call::Task => client.task(task).await.map(drop),
            Call::CreateTask => client.create_task(task, &definition("p/w")).await.map(drop),
            Call::CancelTask => client.cancel_task(task).await.map(drop),
            Call::ListArtifacts => client.list_artifacts(task, None).await.map(drop),
            Call::Location => client.latest_artifact_url(task, "public/content").await.map(drop),
            Call::CreateArtifact => run.create_artifact("public/new", &s3()).await.map(drop),
            Call::Upload => {
                let body = UploadBody::Bytes(Bytes::from_static(CONTENT));
                run.upload(self.upload.as_ref().unwrap(), body).await
            }
            Call::Completed => run.report_completed().await.map(drop),
            Call::Failed => run.report_failed().await.map(drop),
            Call::Exception => {
                let reason = ExceptionReason::ResourceUnavailable;
                run.report_exception(reason).await.map(drop)
            }
            Call::Signed | Call::Plain | Call::FetchArtifact | Call::FetchUrl | Call::FetchIndex => {
                return self
                    .service()
                    .await
                    .map_err(|error| (name_of(&error), error.to_string()));
            }
        };
        done.map_err(|error| (name(&error), error.to_string()))
    }

    /// What libraries ask the host for.
    async fn service(&self) -> Result<(), AbiError> {
        let http = Http::new(Arc::new(|| None), self.scratch.path().to_owned())?.at_most(1 << 20);
        let signed = TaskSigned(Arc::clone(&self.run));
        if matches!(self.call, Call::Signed | Call::Plain) {
            let head = HttpHead {
                method: "GET".to_owned(),
                url: format!("{}/api/queue/v1/task/{}", self.proxy.url, self.task),
                sign: self.call == Call::Signed,
                timeout_ms: Some(PATIENCE.as_millis() as u64),
                ..HttpHead::default()
            };
            let request = HttpRequest { head, body: None };
            return http.request(request, &signed).await.map(drop);
        }
        let fetcher = Fetcher::new(self.proxy.url.clone())
            .at_most(1 << 20)
            .stalling_at_most(PATIENCE);
        let artifact = "public/content".to_owned();
        let source = match self.call {
            Call::FetchArtifact => FetchSource::Artifact {
                task_id: self.task.to_string(),
                artifact,
            },
            Call::FetchUrl => FetchSource::Url {
                url: self.location.clone(),
            },
            _ => FetchSource::Index {
                namespace: "a.b".to_owned(),
                artifact,
            },
        };
        let request = FetchRequest { source, sha256: None };
        fetcher.fetch(request, &http, &signed).await.map(drop)
    }

    /// Whether the queue has what the call was to do, and once.
    pub(crate) async fn is_done(&self) -> Result<(), String> {
        let client = &self.scene.client;
        let state = async {
            let runs = self.scene.runs(&self.task).await;
            let last = runs.last().cloned().unwrap_or_default();
            (runs.len(), last.0, last.2)
        };
        let expect = |found: (usize, String, Option<String>), state: &str, reason: Option<&str>| {
            let wanted = (1, state.to_owned(), reason.map(str::to_owned));
            if found == wanted {
                Ok(())
            } else {
                Err(format!("its runs are {found:?}, not {wanted:?}"))
            }
        };
        match self.call {
            Call::Claim | Call::Reclaim => expect(state.await, "running", None),
            Call::CancelTask => expect(state.await, "exception", Some("canceled")),
            Call::Completed => expect(state.await, "completed", Some("completed")),
            Call::Failed => expect(state.await, "failed", Some("failed")),
            Call::Exception => {
                let (_, state, reason) = state.await;
                expect((1, state, reason), "exception", Some("resource-unavailable"))
            }
            Call::CreateTask => expect(state.await, "pending", None),
            Call::CreateArtifact => {
                let all = client.list_artifacts(&self.task, None).await.unwrap();
                let count = all
                    .iter()
                    .filter(|artifact| artifact.name == "public/new")
                    .count();
                if count == 1 {
                    Ok(())
                } else {
                    Err(format!("there are {count} such artifacts"))
                }
            }
            Call::Upload => {
                let url = client
                    .latest_artifact_url(&self.task, "public/upload")
                    .await
                    .unwrap();
                let content = reqwest::get(url).await.unwrap().bytes().await.unwrap();
                if content == CONTENT {
                    Ok(())
                } else {
                    Err(format!("{} bytes are stored", content.len()))
                }
            }
            _ => Ok(()),
        }
    }
}

fn definition(pool: &str) -> serde_json::Value {
    let mut definition = task();
    definition["taskQueueId"] = pool.into();
    // The same whenever it is made again.
    static CREATED: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
    let first = CREATED.get_or_init(task);
    definition["created"] = first["created"].clone();
    definition["deadline"] = first["deadline"].clone();
    definition
}

fn s3() -> ArtifactRequest {
    ArtifactRequest::S3 {
        content_type: "text/plain".to_owned(),
        content_length: Some(CONTENT.len() as u64),
        expires: in_an_hour(),
    }
}

fn name(error: &QueueError) -> &'static str {
    match error {
        QueueError::Conflict { .. } => "Conflict",
        QueueError::Unauthorized { status: 401, .. } => "Unauthorized 401",
        QueueError::Unauthorized { .. } => "Unauthorized 403",
        QueueError::NotFound { .. } => "NotFound",
        QueueError::Invalid { .. } => "Invalid",
        QueueError::RateLimited { .. } => "RateLimited",
        QueueError::Unavailable { .. } => "Unavailable",
        QueueError::ArtifactMissing { .. } => "ArtifactMissing",
        QueueError::Protocol { status: 200, .. } => "Protocol 200",
        QueueError::Protocol { status: 302, .. } => "Protocol 302",
        QueueError::Protocol { status: 307, .. } => "Protocol 307",
        QueueError::Protocol { .. } => "Protocol",
        QueueError::Content { .. } => "Content",
        QueueError::Setup { .. } => "Setup",
    }
}

fn name_of(error: &AbiError) -> &'static str {
    match error.kind() {
        ErrorKind::ResourceUnavailable => "ResourceUnavailable",
        ErrorKind::ResourceNotFound => "ResourceNotFound",
        ErrorKind::MalformedPayload => "MalformedPayload",
        ErrorKind::TaskFailed => "TaskFailed",
        _ => "another kind",
    }
}
