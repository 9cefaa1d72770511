//! What the queue's tests have in common: a running embedded queue, clients for it, tasks.

pub(crate) mod caller;
pub(crate) mod raw;
pub(crate) mod routes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{
    ArtifactCreated, ArtifactRequest, Claim, ClientConfig, Credentials, Queue as _, QueueClient, RetryPolicy,
    TaskId, TaskQueue, Upload, UploadBody, WorkerIdentity, WorkerPoolId,
};

pub(crate) const POOL: &str = "proj-test/linux";

/// Nothing in these tests may take this long; waiting for an event ends with it.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// A running queue in a directory that goes away with it.
pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) queue: EmbeddedQueue,
    pub(crate) client: QueueClient,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = EmbeddedConfig::new(directory.path().join("state"));
        adjust(&mut config);
        let queue = EmbeddedQueue::start(config).await.unwrap();
        let client = client(&queue, Some(queue.credentials()));
        Self {
            directory,
            queue,
            client,
        }
    }

    /// Stops the queue and starts it again with the same state.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| ()).await
    }

    pub(crate) async fn restart_with(self, adjust: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let Self { directory, queue, .. } = self;
        queue.stop().await;
        let mut config = EmbeddedConfig::new(directory.path().join("state"));
        adjust(&mut config);
        let queue = EmbeddedQueue::start(config).await.unwrap();
        let client = client(&queue, Some(queue.credentials()));
        Self {
            directory,
            queue,
            client,
        }
    }

    /// Requests as they are, in the root client's name.
    pub(crate) fn caller(&self) -> caller::Caller {
        caller::Caller::new(self.queue.root_url(), Some(self.queue.credentials()))
    }

    pub(crate) async fn create(&self) -> TaskId {
        self.create_with(|_| ()).await
    }

    pub(crate) async fn create_with(&self, adjust: impl FnOnce(&mut Value)) -> TaskId {
        let (id, mut task) = (TaskId::random(), task());
        adjust(&mut task);
        self.client.create_task(&id, &task).await.unwrap();
        id
    }

    /// Claims the one task there is.
    pub(crate) async fn claim(&self) -> (Claim, Arc<dyn TaskQueue>) {
        let mut claims = self.client.claim_work(1).await.unwrap();
        assert_eq!(claims.len(), 1);
        let claim = claims.remove(0);
        let task_queue = self.client.for_claim(&claim);
        (claim, task_queue)
    }

    /// What has become of each run: its state, why it was made, why it ended.
    pub(crate) async fn runs(&self, task: &TaskId) -> Vec<(String, String, Option<String>)> {
        let status = self.client.status(task).await.unwrap();
        let runs = status.runs.into_iter();
        runs.map(|run| {
            let state = json!(run.state).as_str().unwrap().to_owned();
            (state, run.reason_created, run.reason_resolved)
        })
        .collect()
    }
}

pub(crate) fn client(queue: &EmbeddedQueue, credentials: Option<Credentials>) -> QueueClient {
    let worker = WorkerIdentity {
        pool: POOL.parse::<WorkerPoolId>().unwrap(),
        group: "g".to_owned(),
        id: "w".to_owned(),
    };
    let config = ClientConfig {
        // Tests of what fails would otherwise wait for it to get better.
        retry: RetryPolicy {
            attempts: 2,
            first_pause: Duration::from_millis(10),
            ..RetryPolicy::default()
        },
        ..ClientConfig::new(queue.root_url(), credentials).with_worker(worker)
    };
    QueueClient::new(config).unwrap()
}

pub(crate) fn task() -> Value {
    let now = Utc::now();
    json!({
        "taskQueueId": POOL,
        "created": now,
        "deadline": now + TimeDelta::hours(1),
        "payload": { "command": ["true"] },
        "metadata": { "name": "n", "description": "d", "owner": "o@example.com", "source": "https://example.com" },
    })
}

pub(crate) fn in_an_hour() -> DateTime<Utc> {
    Utc::now() + TimeDelta::hours(1)
}

pub(crate) fn run(state: &str, created: &str, resolved: Option<&str>) -> (String, String, Option<String>) {
    (state.to_owned(), created.to_owned(), resolved.map(str::to_owned))
}

/// Creates an artifact with content and answers its upload URL.
pub(crate) async fn put(queue: &Arc<dyn TaskQueue>, name: &str, content: &'static [u8]) -> String {
    let request = ArtifactRequest::S3 {
        content_type: "text/plain".to_owned(),
        content_length: Some(content.len() as u64),
        expires: in_an_hour(),
    };
    let created = queue.create_artifact(name, &request).await.unwrap();
    let ArtifactCreated::S3 {
        put_url,
        content_type,
        ..
    } = created
    else {
        panic!("{created:?}")
    };
    let length = content.len() as u64;
    let upload = Upload {
        put_url: put_url.clone(),
        content_type,
        content_encoding: Some("identity".to_owned()),
        length,
    };
    queue
        .upload(&upload, UploadBody::Bytes(Bytes::from_static(content)))
        .await
        .unwrap();
    put_url
}

/// Status, content type and content of what is at a URL.
pub(crate) async fn fetch(url: &str) -> (u16, String, String) {
    let response = reqwest::get(url).await.unwrap();
    let content_type = response
        .headers()
        .get("content-type")
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    (
        response.status().as_u16(),
        content_type,
        response.text().await.unwrap(),
    )
}

/// What a process that is killed now would leave behind.
pub(crate) fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
