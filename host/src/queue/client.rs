//! The client of a Taskcluster queue.
//!
//! The official `taskcluster` crate supplies the notions (root URLs, credentials, their environment variables) but not
//! the transport, for four reasons:
//! - Each of its clients owns a connection pool and a TLS set-up, and credentials cannot be replaced in a client. So every
//!   task and every reclaim would pay for a new one (2.3 ms, measured by `what_calls_cost` in `tests/queue_client.rs`,
//!   where a whole call takes 0.3 ms) and for new connections.
//! - Its signature of a request leaves out the query string, which Hawk includes: paged calls would be refused.
//! - It flattens all failures into one opaque error, where a worker has to tell a conflict from a refusal.
//! - It does not try again on 429.
//!
//! So there is one [`reqwest::Client`] for everything, and requests are signed with the same `hawk` crate.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::http::{self, Answer, Call, RetryPolicy, Signer};
use super::upload::{self, Upload, UploadBody};
use super::{
    Artifact, ArtifactCreated, ArtifactRequest, Claim, Credentials, ExceptionReason, Queue, QueueError,
    Reclaimed, RunId, RunState, TaskDefinition, TaskId, TaskQueue, TaskStatus, WorkerIdentity,
};

/// A claim waits up to 20 s for a task; an answer that takes three times as long does not come.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(60);
/// The most tasks one claim may bring.
const MOST_CLAIMS: u32 = 32;
/// The most tasks whose status one call brings.
const MOST_STATUSES: usize = 1000;

/// What stays as it is in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Which queue, and in whose name.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The root URL of the deployment.
    pub root_url: String,
    /// Who asks; without them, requests are anonymous.
    pub credentials: Option<Credentials>,
    /// Who claims; needed for [`Queue::claim_work`] only.
    pub worker: Option<WorkerIdentity>,
    /// How calls other than claims are tried again.
    pub retry: RetryPolicy,
    /// Authorities to trust beside those that the system trusts.
    pub ca_certificates: Vec<reqwest::Certificate>,
}

impl ClientConfig {
    /// For the command line: somebody who does not claim.
    #[must_use]
    pub fn new(root_url: impl Into<String>, credentials: Option<Credentials>) -> Self {
        Self {
            root_url: root_url.into(),
            credentials,
            worker: None,
            retry: RetryPolicy::default(),
            ca_certificates: Vec::new(),
        }
    }

    /// For a worker.
    #[must_use]
    pub fn with_worker(mut self, worker: WorkerIdentity) -> Self {
        self.worker = Some(worker);
        self
    }
}

/// A queue reached over HTTP.
pub struct QueueClient {
    shared: Arc<Shared>,
    signer: RwLock<Option<Arc<Signer>>>,
    worker: Option<WorkerIdentity>,
}

/// What all calls have in common, whoever makes them.
struct Shared {
    http: reqwest::Client,
    root_url: String,
    /// `<root URL>/api/queue/v1/`.
    base: Url,
    retry: RetryPolicy,
    ca_certificates: Vec<reqwest::Certificate>,
}

impl QueueClient {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// If the root URL is no http(s) URL, or the credentials are malformed.
    pub fn new(config: ClientConfig) -> Result<Self, QueueError> {
        let root_url = config.root_url.trim_end_matches('/').to_owned();
        let setup = |message: String| QueueError::Setup { message };
        let root = Url::parse(&root_url).map_err(|error| {
            setup(format!(
                "the root URL {root_url:?} is not a URL ({error}); write it as in https://tc.example.com"
            ))
        })?;
        if !matches!(root.scheme(), "http" | "https") || root.host_str().is_none() {
            return Err(setup(format!(
                "the root URL {root_url:?} has to begin with https:// or http:// and name a host"
            )));
        }
        let base = Url::parse(&format!("{root_url}/api/queue/v1/"))
            .map_err(|error| setup(format!("the root URL {root_url:?} cannot be extended: {error}")))?;
        let signer = config.credentials.map(Signer::new).transpose()?.map(Arc::new);
        let shared = Shared {
            http: http::connection_pool(&root, &config.ca_certificates, Policy::none())?,
            root_url,
            base,
            retry: config.retry,
            ca_certificates: config.ca_certificates,
        };
        Ok(Self {
            shared: Arc::new(shared),
            signer: RwLock::new(signer),
            worker: config.worker,
        })
    }

    /// Replaces the credentials for all calls that begin from now on (worker-manager hands out new ones).
    ///
    /// # Errors
    /// If they are malformed; the old ones stay.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), QueueError> {
        let signer = Arc::new(Signer::new(credentials)?);
        *self.signer.write().unwrap_or_else(PoisonError::into_inner) = Some(signer);
        Ok(())
    }

    /// Fetches a URL that needs no signature, such as that of an artifact, wherever it leads.
    ///
    /// # Errors
    /// If there is no answer; any status is one.
    pub async fn download(&self, url: &str) -> Result<reqwest::Response, QueueError> {
        let setup = |error: &dyn std::fmt::Display| QueueError::Setup {
            message: format!("what the queue sends to fetch is no URL: {error}"),
        };
        let url = Url::parse(url).map_err(|error| setup(&error))?;
        // Seldom, and with a policy of its own: so it has no place in the pool.
        let http = http::connection_pool(&url, &self.shared.ca_certificates, Policy::limited(10))?;
        let failed = |error: reqwest::Error| QueueError::Unavailable {
            at: http::endpoint(&Method::GET, &url),
            attempts: 1,
            message: http::with_causes(&error.without_url()),
        };
        http.get(url.clone()).send().await.map_err(failed)
    }

    /// Whether the service answers at all.
    ///
    /// # Errors
    /// If it does not, also after trying again.
    pub async fn ping(&self) -> Result<(), QueueError> {
        let call = self.shared.get(&["ping"]);
        http::send(&self.shared.http, &call, || None, &self.shared.retry)
            .await
            .map(drop)
    }

    /// Makes a client of the Auth service. Making the same one again is no error.
    ///
    /// # Errors
    /// If there is another one of this name already, or the queue says no for another reason.
    pub async fn create_client(&self, id: &str, client: &Value) -> Result<Value, QueueError> {
        let body = encode(client)?;
        self.fetch(self.auth_call(Method::PUT, &["clients", id], body))
            .await
    }

    /// Gives a client a new access token; the old one is worth nothing from then on.
    ///
    /// # Errors
    /// If there is no such client, or the queue says no for another reason.
    pub async fn reset_access_token(&self, id: &str) -> Result<Value, QueueError> {
        self.fetch(self.auth_call(Method::POST, &["clients", id, "reset"], None))
            .await
    }

    /// Deletes a client, whether there is one or not.
    ///
    /// # Errors
    /// If the queue says no.
    pub async fn delete_client(&self, id: &str) -> Result<(), QueueError> {
        let call = self.auth_call(Method::DELETE, &["clients", id], None);
        self.send(&call).await.map(drop)
    }

    /// All clients, without their tokens.
    ///
    /// # Errors
    /// If the queue says no.
    pub async fn list_clients(&self) -> Result<Vec<Value>, QueueError> {
        let mut clients = Vec::new();
        let mut continuation: Option<String> = None;
        loop {
            let mut call = self.auth_call(Method::GET, &["clients", ""], None);
            if let Some(token) = &continuation {
                call.url.query_pairs_mut().append_pair("continuationToken", token);
            }
            let answer: ClientsAnswer = self.fetch(call).await?;
            clients.extend(answer.clients);
            match answer.continuation_token {
                Some(token) => continuation = Some(token),
                None => return Ok(clients),
            }
        }
    }

    fn auth_call(&self, method: Method, segments: &[&str], body: Option<Bytes>) -> Call {
        let mut url = self.shared.url(segments);
        let path = url.path().replacen("/api/queue/", "/api/auth/", 1);
        url.set_path(&path);
        Call { method, url, body }
    }

    fn signer(&self) -> Option<Arc<Signer>> {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(&self, call: &Call) -> Result<Answer, QueueError> {
        http::send(&self.shared.http, call, || self.signer(), &self.shared.retry).await
    }

    async fn fetch<T: serde::de::DeserializeOwned>(&self, call: Call) -> Result<T, QueueError> {
        self.send(&call).await?.json(&call)
    }
}

impl Shared {
    fn url(&self, segments: &[&str]) -> Url {
        let path: Vec<String> = segments
            .iter()
            .map(|part| utf8_percent_encode(part, SEGMENT).to_string())
            .collect();
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), path.join("/")));
        url
    }

    fn get(&self, segments: &[&str]) -> Call {
        Call {
            method: Method::GET,
            url: self.url(segments),
            body: None,
        }
    }

    fn post(&self, segments: &[&str], body: Option<Bytes>) -> Call {
        Call {
            method: Method::POST,
            url: self.url(segments),
            body,
        }
    }
}

impl QueueClient {
    /// A task that this worker cannot even read is its author's to change. In the background: the claims beside it must
    /// not wait.
    fn give_back(&self, claim: &RawValue, error: &serde_json::Error) {
        let head: ClaimHead = match serde_json::from_str(claim.get()) {
            Ok(head) => head,
            Err(worse) => {
                tracing::error!(%error, %worse, "a claim cannot be understood at all; it is left to expire");
                return;
            }
        };
        tracing::error!(task_id = %head.status.task_id, %error, "a claim cannot be understood; it is malformed");
        let run = self.for_task(&head.status.task_id, head.run_id, head.credentials);
        tokio::spawn(async move {
            if let Err(error) = run.report_exception(ExceptionReason::MalformedPayload).await {
                tracing::error!(task_id = %run.task_id(), %error, "it could not be resolved and is left to expire");
            }
        });
    }
}

fn encode(body: &impl Serialize) -> Result<Option<Bytes>, QueueError> {
    let bytes = serde_json::to_vec(body).map_err(|error| QueueError::Setup {
        message: format!("the request cannot be written as JSON: {error}"),
    })?;
    Ok(Some(bytes.into()))
}

/// Each claim is read by itself: one that cannot be understood, or is nested too deeply to be read at all, must not take
/// the others with it.
#[derive(Deserialize)]
struct ClaimAnswer {
    tasks: Vec<Box<RawValue>>,
}

/// What is needed to give a claim back that cannot be understood.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimHead {
    status: StatusHead,
    run_id: RunId,
    credentials: Credentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusHead {
    task_id: TaskId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientsAnswer {
    clients: Vec<Value>,
    continuation_token: Option<String>,
}

#[derive(Deserialize)]
struct StatusAnswer {
    status: TaskStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusesAnswer {
    statuses: Vec<StatusAnswer>,
    continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactsAnswer {
    artifacts: Vec<Artifact>,
    continuation_token: Option<String>,
}

#[async_trait]
impl Queue for QueueClient {
    fn root_url(&self) -> &str {
        &self.shared.root_url
    }

    async fn claim_work(&self, count: u32) -> Result<Vec<Claim>, QueueError> {
        let worker = self.worker.as_ref().ok_or_else(|| QueueError::Setup {
            message: "this client has no worker group and worker id; configure them to claim tasks"
                .to_owned(),
        })?;
        let body = json!({
            "workerGroup": worker.group,
            "workerId": worker.id,
            "tasks": count.clamp(1, MOST_CLAIMS),
        });
        let call = self
            .shared
            .post(&["claim-work", &worker.pool.to_string()], encode(&body)?);
        let once = RetryPolicy {
            attempts: 1,
            timeout: CLAIM_TIMEOUT,
            ..self.shared.retry.clone()
        };
        let answer = http::send(&self.shared.http, &call, || self.signer(), &once).await?;
        let mut claims = Vec::new();
        for claim in answer.json::<ClaimAnswer>(&call)?.tasks {
            match serde_json::from_str(claim.get()) {
                Ok(claim) => claims.push(claim),
                Err(error) => self.give_back(&claim, &error),
            }
        }
        Ok(claims)
    }

    async fn statuses(&self, tasks: &[TaskId]) -> Result<Vec<TaskStatus>, QueueError> {
        let mut found = Vec::with_capacity(tasks.len());
        for part in tasks.chunks(MOST_STATUSES) {
            let body = encode(&json!({ "taskIds": part }))?;
            let mut continuation: Option<String> = None;
            loop {
                let mut call = self.shared.post(&["tasks", "status"], body.clone());
                if let Some(token) = &continuation {
                    call.url.query_pairs_mut().append_pair("continuationToken", token);
                }
                let answer: StatusesAnswer = self.fetch(call).await?;
                found.extend(answer.statuses.into_iter().map(|entry| entry.status));
                match answer.continuation_token {
                    Some(token) => continuation = Some(token),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    async fn create_task(&self, task: &TaskId, definition: &Value) -> Result<TaskStatus, QueueError> {
        let url = self.shared.url(&["task", task.as_str()]);
        let call = Call {
            method: Method::PUT,
            url,
            body: encode(definition)?,
        };
        Ok(self.fetch::<StatusAnswer>(call).await?.status)
    }

    async fn cancel_task(&self, task: &TaskId) -> Result<TaskStatus, QueueError> {
        Ok(self
            .fetch::<StatusAnswer>(self.shared.post(&["task", task.as_str(), "cancel"], None))
            .await?
            .status)
    }

    async fn task(&self, task: &TaskId) -> Result<TaskDefinition, QueueError> {
        self.fetch(self.shared.get(&["task", task.as_str()])).await
    }

    async fn status(&self, task: &TaskId) -> Result<TaskStatus, QueueError> {
        Ok(self
            .fetch::<StatusAnswer>(self.shared.get(&["task", task.as_str(), "status"]))
            .await?
            .status)
    }

    async fn list_artifacts(&self, task: &TaskId, run: Option<RunId>) -> Result<Vec<Artifact>, QueueError> {
        let run = run.map(|run| run.to_string());
        let mut found = Vec::new();
        let mut continuation: Option<String> = None;
        loop {
            let mut call = match &run {
                Some(run) => self
                    .shared
                    .get(&["task", task.as_str(), "runs", run, "artifacts"]),
                None => self.shared.get(&["task", task.as_str(), "artifacts"]),
            };
            if let Some(token) = &continuation {
                call.url.query_pairs_mut().append_pair("continuationToken", token);
            }
            let answer: ArtifactsAnswer = self.fetch(call).await?;
            found.extend(answer.artifacts);
            match answer.continuation_token {
                Some(token) => continuation = Some(token),
                None => return Ok(found),
            }
        }
    }

    async fn latest_artifact_url(&self, task: &TaskId, name: &str) -> Result<String, QueueError> {
        let call = self.shared.get(&["task", task.as_str(), "artifacts", name]);
        let answer = self.send(&call).await?;
        let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let target = location.and_then(|text| call.url.join(text).ok());
        target.map(String::from).ok_or_else(|| QueueError::Protocol {
            at: call.endpoint(),
            status: answer.status.as_u16(),
            message: "it names no URL to go on to".to_owned(),
        })
    }

    fn for_task(&self, task: &TaskId, run: RunId, credentials: Credentials) -> Arc<dyn TaskQueue> {
        Arc::new(TaskClient {
            shared: Arc::clone(&self.shared),
            task: task.clone(),
            run,
            run_text: run.to_string(),
            signer: RwLock::new(TaskSigner::new(credentials)),
        })
    }
}

/// The queue in the name of one run.
struct TaskClient {
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
    fn current(&self) -> TaskSigner {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(&self, call: &Call) -> Result<Answer, QueueError> {
        self.current().signer?;
        http::send(
            &self.shared.http,
            call,
            || self.current().signer.ok(),
            &self.shared.retry,
        )
        .await
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
        match self.send(&call).await {
            Ok(answer) => Ok(answer.json::<StatusAnswer>(&call)?.status),
            Err(conflict @ QueueError::Conflict { .. }) => {
                let look = self.shared.get(&["task", self.task.as_str(), "status"]);
                let Ok(answer) = self.send(&look).await else {
                    return Err(conflict);
                };
                let Ok(StatusAnswer { status }) = answer.json::<StatusAnswer>(&look) else {
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
        let reclaimed: Reclaimed = self.send(&call).await?.json(&call)?;
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
        self.send(&call).await?.json(&call)
    }

    async fn upload(&self, upload: &Upload, body: UploadBody) -> Result<(), QueueError> {
        upload::upload(&self.shared.http, upload, body, &self.shared.retry).await
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
        let authorization = signer.authorization(&method, &url, authorized_scopes)?;
        let at = http::endpoint(&method, &url);
        let request = self
            .shared
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
