//! The queue in the name of one run: its claim, its artifacts, its end.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::client::{Shared, StatusAnswer, encode};
use super::http::{self, Call, Signer};
use super::upload::{self, Upload, UploadBody};
use super::{
    ArtifactCreated, ArtifactRequest, Credentials, ExceptionReason, QueueError, Reclaimed, RunId, RunState,
    TaskId, TaskQueue, TaskStatus,
};

/// The queue in the name of one run.
pub(super) struct TaskClient {
    shared: Arc<Shared>,
    task: TaskId,
    run: RunId,
    run_text: String,
    signer: RwLock<TaskSigner>,
}

/// Credentials come from the queue and ought to be well-formed. Whether they are shows when they are used.
#[derive(Clone)]
struct TaskSigner {
    credentials: Credentials,
    signer: Result<Arc<Signer>, QueueError>,
}

impl TaskSigner {
    fn new(credentials: Credentials) -> Self {
        Self {
            signer: Signer::new(credentials.clone()).map(Arc::new),
            credentials,
        }
    }
}

/// How a run is reported to have ended.
struct Report<'a> {
    endpoint: &'a str,
    body: Option<Bytes>,
    state: RunState,
    reason: &'a str,
}

impl TaskClient {
    pub(super) fn new(shared: Arc<Shared>, task: TaskId, run: RunId, credentials: Credentials) -> Self {
        Self {
            shared,
            task,
            run,
            run_text: run.to_string(),
            signer: RwLock::new(TaskSigner::new(credentials)),
        }
    }

    fn current(&self) -> TaskSigner {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn fetch<T: DeserializeOwned>(&self, call: &Call) -> Result<T, QueueError> {
        self.current().signer?;
        self.shared.fetch(call, || self.current().signer.ok()).await
    }

    fn post(&self, what: &[&str], body: Option<Bytes>) -> Call {
        let mut segments = vec!["task", self.task.as_str(), "runs", &self.run_text];
        segments.extend(what);
        self.shared.post(&segments, body)
    }

    /// A report that was repeated since its first answer got lost may meet its own effect as a conflict: then what
    /// counts is whether the run has ended as reported.
    async fn report(&self, report: Report<'_>) -> Result<TaskStatus, QueueError> {
        let call = self.post(&[report.endpoint], report.body);
        match self.fetch::<StatusAnswer>(&call).await {
            Ok(answer) => Ok(answer.status),
            Err(conflict @ QueueError::Conflict { .. }) => {
                let look = self.shared.get(&["task", self.task.as_str(), "status"]);
                let Ok(StatusAnswer { status }) = self.fetch(&look).await else {
                    return Err(conflict);
                };
                let as_reported = status.run(self.run).is_some_and(|run| {
                    run.state == report.state && run.reason_resolved.as_deref() == Some(report.reason)
                });
                if as_reported { Ok(status) } else { Err(conflict) }
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl TaskQueue for TaskClient {
    fn task_id(&self) -> &TaskId {
        &self.task
    }

    fn run_id(&self) -> RunId {
        self.run
    }

    fn credentials(&self) -> Credentials {
        self.current().credentials
    }

    fn set_credentials(&self, credentials: Credentials) {
        *self.signer.write().unwrap_or_else(PoisonError::into_inner) = TaskSigner::new(credentials);
    }

    async fn reclaim(&self) -> Result<Reclaimed, QueueError> {
        let call = self.post(&["reclaim"], None);
        let mut reclaimed: Reclaimed = self.fetch(&call).await?;
        reclaimed.taken_until = self.shared.transport.clock.here(reclaimed.taken_until);
        self.set_credentials(reclaimed.credentials.clone());
        Ok(reclaimed)
    }

    async fn report_completed(&self) -> Result<TaskStatus, QueueError> {
        let state = RunState::Completed;
        self.report(Report {
            endpoint: "completed",
            body: None,
            state,
            reason: "completed",
        })
        .await
    }

    async fn report_failed(&self) -> Result<TaskStatus, QueueError> {
        self.report(Report {
            endpoint: "failed",
            body: None,
            state: RunState::Failed,
            reason: "failed",
        })
        .await
    }

    async fn report_exception(&self, reason: ExceptionReason) -> Result<TaskStatus, QueueError> {
        let body = encode(&json!({ "reason": reason }))?;
        let state = RunState::Exception;
        self.report(Report {
            endpoint: "exception",
            body,
            state,
            reason: reason.as_str(),
        })
        .await
    }

    async fn create_artifact(
        &self,
        name: &str,
        artifact: &ArtifactRequest,
    ) -> Result<ArtifactCreated, QueueError> {
        let call = self.post(&["artifacts", name], encode(artifact)?);
        self.fetch(&call).await
    }

    async fn upload(&self, upload: &Upload, body: UploadBody) -> Result<(), QueueError> {
        let transport = &self.shared.transport;
        upload::upload(&transport.http, upload, body, &transport.retry).await
    }

    async fn signed_request(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: reqwest::Body,
        authorized_scopes: Option<&[String]>,
    ) -> Result<reqwest::Response, QueueError> {
        let signer = self.current().signer?;
        let transport = &self.shared.transport;
        let now = transport.clock.now();
        let authorization = signer.authorization(&method, &url, authorized_scopes, now)?;
        let at = http::endpoint(&method, &url);
        let request = transport
            .http
            .request(method, url)
            .headers(headers)
            .header(AUTHORIZATION, authorization);
        request
            .body(body)
            .send()
            .await
            .map_err(|error| QueueError::Unavailable {
                at,
                attempts: 1,
                message: http::with_causes(&error.without_url()),
            })
    }
}
