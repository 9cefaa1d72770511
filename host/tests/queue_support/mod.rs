//! What the queue's tests have in common: a running embedded queue, clients for it, tasks.

pub(crate) mod raw;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{
    Claim, ClientConfig, Credentials, Queue as _, QueueClient, RetryPolicy, TaskId, TaskQueue,
    WorkerIdentity, WorkerPoolId,
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
        let Self { directory, queue, .. } = self;
        queue.stop().await;
        let queue = EmbeddedQueue::start(EmbeddedConfig::new(directory.path().join("state")))
            .await
            .unwrap();
        let client = client(&queue, Some(queue.credentials()));
        Self {
            directory,
            queue,
            client,
        }
    }

    /// Requests as they are, in the root client's name.
    pub(crate) fn raw(&self) -> raw::Caller {
        raw::Caller::new(self.queue.root_url(), Some(self.queue.credentials()))
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
