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
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::clock::Clock;
use super::http::{self, Answer, Call, Signer, Transport};
use super::retry::RetryPolicy;
use super::task_client::TaskClient;
use super::{
    Artifact, Claim, Credentials, ExceptionReason, Queue, QueueError, RunId, TaskDefinition, TaskId,
    TaskQueue, TaskStatus, WorkerIdentity,
};

/// A claim waits up to 20 s for a task; an answer that takes three times as long does not come.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(60);
/// The most tasks one claim may bring.
const MOST_CLAIMS: u32 = 32;
/// The most bytes that one claimed task may have: what `createTask` takes, and what the queue adds.
const LARGEST_CLAIM: usize = 11 << 20;
/// The most tasks whose status one call brings.
const MOST_STATUSES: usize = 1000;
/// The most artifacts that a run may have; a queue that goes on listing after that never ends.
const MOST_ARTIFACTS: usize = 100_000;
/// The most clients that a service may list; more than the embedded queue has.
const MOST_CLIENTS: usize = 100_000;

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
    /// How long the answer to a claim may take; it is asked for once.
    pub claim_timeout: Duration,
    /// This machine's clock. Another one is for tests.
    pub clock: fn() -> SystemTime,
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
            claim_timeout: CLAIM_TIMEOUT,
            clock: SystemTime::now,
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
    claim_timeout: Duration,
}

/// What all calls have in common, whoever makes them.
pub(super) struct Shared {
    pub(super) transport: Transport,
    root_url: String,
    /// `<root URL>/api/queue/v1/`.
    base: Url,
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
            transport: Transport {
                http: http::connection_pool(&root, &config.ca_certificates, Policy::none())?,
                retry: config.retry,
                clock: Clock::new(config.clock),
            },
            root_url,
            base,
            ca_certificates: config.ca_certificates,
        };
        Ok(Self {
            shared: Arc::new(shared),
            signer: RwLock::new(signer),
            worker: config.worker,
            claim_timeout: config.claim_timeout,
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

    /// The time by the queue's clock, as far as is known.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.shared.transport.clock.now()
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
        let read = |answer: Answer| answer.json::<Value>(&call).map(drop);
        self.shared
            .transport
            .send(&call, || None, &self.shared.transport.retry, read)
            .await
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
        // The answer has nothing in it.
        let read = |_: Answer| Ok(());
        let (transport, signer) = (&self.shared.transport, || self.signer());
        transport.send(&call, signer, &transport.retry, read).await
    }

    /// All clients, without their tokens.
    ///
    /// # Errors
    /// If the queue says no.
    pub async fn list_clients(&self) -> Result<Vec<Value>, QueueError> {
        let call = || self.auth_call(Method::GET, &["clients", ""], None);
        self.pages::<ClientsAnswer>(call, MOST_CLIENTS).await
    }

    fn auth_call(&self, method: Method, segments: &[&str], body: Option<Bytes>) -> Call {
        let mut url = self.shared.url(segments);
        let path = url.path().replacen("/api/queue/", "/api/auth/", 1);
        url.set_path(&path);
        Call::new(method, url, body)
    }

    fn signer(&self) -> Option<Arc<Signer>> {
        self.signer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn fetch<T: serde::de::DeserializeOwned>(&self, call: Call) -> Result<T, QueueError> {
        self.shared.fetch(&call, || self.signer()).await
    }
}

/// One page of an answer that may have several.
trait Page: serde::de::DeserializeOwned {
    type Entry;
    fn turn(self) -> (Vec<Self::Entry>, Option<String>);
}

impl QueueClient {
    /// All entries of all pages, of which there are at most so many. Pages without entries, and those that lead back to
    /// themselves, would never end.
    async fn pages<P: Page>(
        &self,
        call: impl Fn() -> Call,
        most: usize,
    ) -> Result<Vec<P::Entry>, QueueError> {
        let mut found = Vec::new();
        let mut continuation: Option<String> = None;
        loop {
            let mut call = call();
            if let Some(token) = &continuation {
                call.url.query_pairs_mut().append_pair("continuationToken", token);
            }
            let at = call.endpoint();
            let (entries, next) = self.fetch::<P>(call).await?.turn();
            let endless = next.is_some() && (entries.is_empty() || next == continuation);
            found.extend(entries);
            if endless || found.len() > most {
                return Err(QueueError::Protocol {
                    at,
                    status: 200,
                    message: format!(
                        "its pages do not end, after {} entries of at most {most}",
                        found.len()
                    ),
                });
            }
            match next {
                Some(token) => continuation = Some(token),
                None => return Ok(found),
            }
        }
    }
}

impl Page for StatusesAnswer {
    type Entry = StatusAnswer;
    fn turn(self) -> (Vec<StatusAnswer>, Option<String>) {
        (self.statuses, self.continuation_token)
    }
}

impl Page for ArtifactsAnswer {
    type Entry = Artifact;
    fn turn(self) -> (Vec<Artifact>, Option<String>) {
        (self.artifacts, self.continuation_token)
    }
}

impl Page for ClientsAnswer {
    type Entry = Value;
    fn turn(self) -> (Vec<Value>, Option<String>) {
        (self.clients, self.continuation_token)
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

    pub(super) fn get(&self, segments: &[&str]) -> Call {
        Call::new(Method::GET, self.url(segments), None)
    }

    pub(super) fn post(&self, segments: &[&str], body: Option<Bytes>) -> Call {
        Call::new(Method::POST, self.url(segments), body)
    }

    /// Makes a call whose answer is JSON.
    pub(super) async fn fetch<T: serde::de::DeserializeOwned>(
        &self,
        call: &Call,
        signer: impl Fn() -> Option<Arc<Signer>>,
    ) -> Result<T, QueueError> {
        let read = |answer: Answer| answer.json(call);
        self.transport
            .send(call, signer, &self.transport.retry, read)
            .await
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

pub(super) fn encode(body: &impl Serialize) -> Result<Option<Bytes>, QueueError> {
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
pub(super) struct StatusAnswer {
    pub(super) status: TaskStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientsAnswer {
    clients: Vec<Value>,
    continuation_token: Option<String>,
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
        let count = count.clamp(1, MOST_CLAIMS);
        let body = json!({
            "workerGroup": worker.group,
            "workerId": worker.id,
            "tasks": count,
        });
        let mut call = self
            .shared
            .post(&["claim-work", &worker.pool.to_string()], encode(&body)?);
        call.largest = count as usize * LARGEST_CLAIM;
        let transport = &self.shared.transport;
        let once = RetryPolicy {
            attempts: 1,
            timeout: self.claim_timeout,
            ..transport.retry.clone()
        };
        let read = |answer: Answer| answer.json::<ClaimAnswer>(&call);
        let answer = transport.send(&call, || self.signer(), &once, read).await?;
        let mut claims = Vec::new();
        for claim in answer.tasks {
            match serde_json::from_str::<Claim>(claim.get()) {
                Ok(mut claim) => {
                    claim.clock_ahead = transport.clock.ahead();
                    claim.taken_until = transport.clock.here(claim.taken_until);
                    claims.push(claim);
                }
                Err(error) => self.give_back(&claim, &error),
            }
        }
        Ok(claims)
    }

    async fn statuses(&self, tasks: &[TaskId]) -> Result<Vec<TaskStatus>, QueueError> {
        let mut found = Vec::with_capacity(tasks.len());
        for part in tasks.chunks(MOST_STATUSES) {
            let body = encode(&json!({ "taskIds": part }))?;
            let call = || self.shared.post(&["tasks", "status"], body.clone());
            let pages = self.pages::<StatusesAnswer>(call, part.len()).await?;
            found.extend(pages.into_iter().map(|entry| entry.status));
        }
        Ok(found)
    }

    async fn create_task(&self, task: &TaskId, definition: &Value) -> Result<TaskStatus, QueueError> {
        let url = self.shared.url(&["task", task.as_str()]);
        let call = Call::new(Method::PUT, url, encode(definition)?);
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
        let call = || match &run {
            Some(run) => self
                .shared
                .get(&["task", task.as_str(), "runs", run, "artifacts"]),
            None => self.shared.get(&["task", task.as_str(), "artifacts"]),
        };
        self.pages::<ArtifactsAnswer>(call, MOST_ARTIFACTS).await
    }

    async fn latest_artifact_url(&self, task: &TaskId, name: &str) -> Result<String, QueueError> {
        let call = self.shared.get(&["task", task.as_str(), "artifacts", name]);
        let read = |answer: Answer| {
            let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let target = location.and_then(|text| call.url.join(text).ok());
            target.map(String::from).ok_or_else(|| QueueError::Protocol {
                at: call.endpoint(),
                status: answer.status.as_u16(),
                message: "it names no URL to go on to".to_owned(),
            })
        };
        let transport = &self.shared.transport;
        transport
            .send(&call, || self.signer(), &transport.retry, read)
            .await
    }

    fn for_task(&self, task: &TaskId, run: RunId, credentials: Credentials) -> Arc<dyn TaskQueue> {
        Arc::new(TaskClient::new(
            Arc::clone(&self.shared),
            task.clone(),
            run,
            credentials,
        ))
    }
}
