//! What the host offers a library.
//!
//! [`Services`] lasts as long as the library's engine or plugin; a [`TaskContext`] as long as its task, and answers
//! [`ContractViolation`](crate::ErrorKind::ContractViolation) afterwards. The host implements these traits.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::io::Handle;

/// What is constant about the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerInfo {
    /// `<provisioner>/<worker type>`.
    pub worker_pool_id: String,
    /// The worker group.
    pub worker_group: String,
    /// The worker.
    pub worker_id: String,
    /// Of the deployment, without a slash at the end.
    pub root_url: String,
    /// The host's own version.
    pub host_version: String,
    /// Tasks at one time.
    pub capacity: u32,
    /// The name of the library that holds these services.
    pub library: String,
}

/// How the worker is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    /// Claims nothing more and finishes what runs.
    Graceful,
    /// Resolves what runs as `worker-shutdown`.
    Now,
}

/// What the host offers a library for the whole life of its engine or plugin.
#[async_trait]
pub trait Services: Send + Sync + 'static {
    /// Constant.
    fn worker(&self) -> WorkerInfo;

    /// Content, as a file of the host's cache: one download for all who wait for it.
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched>;

    /// One HTTP request, with the worker's own TLS and, if asked, its own credentials.
    async fn http(&self, request: HttpRequest) -> Result<HttpResponse>;

    /// A folder that is gone when the object is disposed of or the worker ends.
    async fn temporary_folder(&self) -> Result<Arc<dyn TemporaryFolder>>;

    /// A folder of this library's own, kept over restarts.
    async fn state_directory(&self) -> Result<String>;

    /// An entry of the cache registry, for use by this caller until it is released.
    async fn cache(&self, request: CacheRequest) -> Result<Arc<dyn CacheEntry>>;

    /// Makes the unix socket at `endpoint`, which the caller serves HTTP on, reachable under a public URL.
    async fn attach_webhook(&self, endpoint: String) -> Result<Arc<dyn WebHook>>;

    /// Writes down a resource that outlives the process, *before* it is made.
    async fn lease(&self, request: LeaseRequest) -> Result<Arc<dyn Lease>>;

    /// Asks the worker to stop.
    async fn stop(&self, mode: StopMode, reason: String) -> Result<()>;

    /// Claims nothing until [`Services::resume`]. The reason is shown to the operator.
    async fn pause(&self, reason: String) -> Result<()>;

    /// Takes this library's pause back.
    async fn resume(&self) -> Result<()>;

    /// Tells the operator, and the deployment if there is one. Never a secret: the report may be public.
    async fn report_error(&self, report: ErrorReport) -> Result<()>;
}

/// An error for the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorReport {
    /// A word for the sort of error.
    pub kind: String,
    /// One line.
    pub title: String,
    /// What happened and what to do.
    pub description: String,
    /// Data.
    pub extra: Value,
}

/// What is constant about a [`TaskContext`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskInfo {
    /// A slug id.
    pub task_id: String,
    /// 0 for the first run.
    pub run_id: u32,
    /// The task's definition as the queue gave it, payload included.
    pub definition: Value,
    /// RFC 3339: after this the queue takes no report.
    pub deadline: String,
    /// RFC 3339: no artifact may live longer.
    pub expires: String,
    /// The task's scopes.
    pub scopes: Vec<String>,
    /// The group the task belongs to.
    pub task_group_id: String,
    /// `<provisioner>/<worker type>`.
    pub worker_pool_id: String,
    /// The worker group.
    pub worker_group: String,
    /// The worker.
    pub worker_id: String,
    /// Of the deployment.
    pub root_url: String,
}

impl TaskInfo {
    /// Whether the task has `scope`, exactly or through one that ends in `*`.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|given| match given.strip_suffix('*') {
            Some(prefix) => scope.starts_with(prefix),
            None => given == scope,
        })
    }
}

/// Why a task is being ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CancelReason {
    /// Somebody cancelled it.
    Cancelled,
    /// Its deadline has passed.
    Deadline,
    /// The claim could not be renewed.
    ClaimLost,
    /// The worker was told to stop.
    WorkerShutdown,
    /// A library hung or failed.
    InternalError,
    /// A reason that a newer host gave.
    #[serde(other)]
    Unknown,
}

/// Whose line it is in the task log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// `[taskcluster <time>] …`
    Info,
    /// `[taskcluster:warn <time>] …`
    Warning,
    /// `[taskcluster:error] …`
    Error,
}

/// One task, as the libraries see it.
#[async_trait]
pub trait TaskContext: Send + Sync + 'static {
    /// Constant.
    fn info(&self) -> TaskInfo;

    /// Returns when the task is being ended early, with the reason; never, if it is not.
    async fn cancelled(&self) -> Result<CancelReason>;

    /// The write end of the task's pipe, for a child process's output. One pipe per task, however many handles.
    async fn log_handle(&self) -> Result<Handle>;

    /// A line of the worker's own. Waits until what was in the pipe has been read, and starts on a fresh line.
    async fn log_line(&self, level: LogLevel, text: String) -> Result<()>;

    /// The log as it grows.
    async fn log_reader(&self) -> Result<LogReader>;

    /// The whole log, compressed while the task ran. `ContractViolation` before the log is closed.
    async fn closed_log(&self) -> Result<ClosedLog>;

    /// Uploads the bytes from where the handle stands to its end. What the server did not take whole is an error.
    async fn upload_artifact(&self, upload: ArtifactUpload, content: Handle) -> Result<ArtifactRecord>;

    /// Publishes an artifact without bytes of its own.
    async fn create_artifact(&self, artifact: ArtifactPointer) -> Result<()>;

    /// What this task has uploaded so far, in the order of the uploads.
    async fn artifacts(&self) -> Result<Vec<ArtifactRecord>>;

    /// Content, with the task's scopes; see [`Services::fetch`].
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched>;

    /// One HTTP request, signed with the task's credentials if asked.
    async fn http(&self, request: HttpRequest) -> Result<HttpResponse>;
}

impl dyn TaskContext {
    /// A line in the task log, by the worker.
    pub async fn log(&self, text: impl Into<String>) -> Result<()> {
        self.log_line(LogLevel::Info, text.into()).await
    }

    /// An error in the task log: what the author of the task should read first.
    pub async fn log_error(&self, text: impl Into<String>) -> Result<()> {
        self.log_line(LogLevel::Error, text.into()).await
    }
}

/// The read side of a task's log.
pub struct LogReader {
    /// The log so far and to come; read from any offset, up to what [`LogProgress::wait`] answered.
    pub file: Handle,
    /// How far it has got.
    pub progress: Arc<dyn LogProgress>,
}

/// How far a log has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLength {
    /// Bytes that can be read.
    pub length: u64,
    /// Whether that is all there will be.
    pub closed: bool,
}

/// Follows a log.
#[async_trait]
pub trait LogProgress: Send + Sync + 'static {
    /// Returns as soon as there is more than `offset`, or the log is closed.
    async fn wait(&self, offset: u64) -> Result<LogLength>;
}

/// A task's log after its end.
#[derive(Debug)]
pub struct ClosedLog {
    /// Compressed, from the start.
    pub content: Handle,
    /// What it is.
    pub info: ClosedLogInfo,
}

/// What a closed log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClosedLogInfo {
    /// `gzip` or `identity`.
    pub content_encoding: String,
    /// Bytes as they stand in the handle.
    pub encoded_length: u64,
    /// Bytes of text.
    pub length: u64,
    /// False if bytes were dropped, because the log reached its bound or the disk was full.
    pub complete: bool,
}

/// How an artifact's bytes are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentEncoding {
    /// As they are.
    #[default]
    Identity,
    /// Compressed; who fetches it is told so.
    Gzip,
}

/// An artifact with bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArtifactUpload {
    /// Such as `public/build/target.tar.gz`.
    pub name: String,
    /// Such as `text/plain; charset=utf-8`.
    pub content_type: String,
    /// How they are stored.
    pub content_encoding: ContentEncoding,
    /// Whether the handle's bytes are in that encoding already; if not, the host encodes them as it sends.
    pub already_encoded: bool,
    /// RFC 3339; `None`: as long as the task.
    pub expires: Option<String>,
}

/// An artifact without bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", tag = "kind")]
pub enum ArtifactPointer {
    /// A URL.
    Reference {
        /// The artifact's name.
        name: String,
        /// Where it leads.
        url: String,
        /// Of what is there.
        content_type: String,
        /// RFC 3339.
        expires: Option<String>,
    },
    /// Another artifact of the same run.
    Link {
        /// The artifact's name.
        name: String,
        /// The other artifact's name.
        artifact: String,
        /// Of what is there.
        content_type: Option<String>,
        /// RFC 3339.
        expires: Option<String>,
    },
    /// Why there is no such artifact.
    Error {
        /// The artifact's name.
        name: String,
        /// `file-missing-on-worker`, `invalid-resource-on-worker`, `too-large-file-on-worker` or
        /// `file-not-readable-on-worker`.
        reason: String,
        /// For people.
        message: String,
        /// RFC 3339.
        expires: Option<String>,
    },
}

/// What was uploaded: a line of the task's ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArtifactRecord {
    /// The artifact's name.
    pub name: String,
    /// Its content type.
    pub content_type: String,
    /// Bytes before any encoding, if they were seen so.
    pub length: u64,
    /// Hex SHA-256 of those bytes.
    pub sha256: String,
    /// Bytes that were stored.
    pub stored_length: u64,
}

/// Where content comes from: generic-worker's forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", tag = "kind")]
pub enum FetchSource {
    /// An artifact of a task, its latest run.
    Artifact {
        /// The task.
        task_id: String,
        /// The artifact's name.
        artifact: String,
    },
    /// An artifact of the task that an index names.
    Index {
        /// The index path.
        namespace: String,
        /// The artifact's name.
        artifact: String,
    },
    /// A URL.
    Url {
        /// http or https.
        url: String,
    },
    /// The content itself.
    Raw {
        /// Text.
        text: String,
    },
    /// The content itself, encoded.
    Base64 {
        /// Base64.
        text: String,
    },
}

/// Content that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchRequest {
    /// Where it comes from.
    pub source: FetchSource,
    /// Hex SHA-256 that it must have.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// Content that is there.
#[derive(Debug)]
pub struct Fetched {
    /// Read-only, seekable, from the start.
    pub content: Handle,
    /// What it is.
    pub info: FetchedInfo,
}

/// What was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FetchedInfo {
    /// Bytes.
    pub length: u64,
    /// Hex.
    pub sha256: String,
    /// As the server said.
    pub content_type: Option<String>,
}

/// What is constant about an HTTP request, beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpHead {
    /// `GET`, `POST`...
    pub method: String,
    /// http or https.
    pub url: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Whether to sign with the credentials at hand.
    pub sign: bool,
    /// Milliseconds for the whole request; `None`: 30 seconds.
    pub timeout_ms: Option<u64>,
}

/// An HTTP request.
#[derive(Debug, Default)]
pub struct HttpRequest {
    /// Everything but the body.
    pub head: HttpHead,
    /// Sent from where it stands to its end.
    pub body: Option<Handle>,
}

/// An HTTP response without its body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpStatus {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// An HTTP response. Any status is an answer; only a request that got none is an error.
#[derive(Debug)]
pub struct HttpResponse {
    /// Everything but the body.
    pub head: HttpStatus,
    /// A file with the body, from the start.
    pub body: Handle,
}

/// What is constant about a [`TemporaryFolder`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FolderDescription {
    /// Absolute.
    pub path: String,
}

/// A folder for as long as the object lives.
#[async_trait]
pub trait TemporaryFolder: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> FolderDescription;

    /// Removes it with all that is in it.
    async fn dispose(&self) -> Result<()>;
}

/// An entry of the cache registry that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheRequest {
    /// The name that tasks give.
    pub name: String,
    /// What else has to be equal: the engine, options, the content it was filled from.
    pub key: String,
    /// Many readers of one entry, instead of one holder each.
    pub shared: bool,
}

/// What is constant about a [`CacheEntry`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheDescription {
    /// The registry's id.
    pub id: String,
    /// What its last holder stored; `null` for a new entry, which the caller fills.
    pub data: Value,
}

/// What becomes of an entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CacheRelease {
    /// False: it is removed.
    pub keep: bool,
    /// For the next holder.
    pub data: Value,
    /// Bytes, when known.
    pub size: Option<u64>,
}

/// A cache entry in use.
#[async_trait]
pub trait CacheEntry: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> CacheDescription;

    /// Gives it back. An entry whose holder is dropped without this is not kept.
    async fn release(&self, release: CacheRelease) -> Result<()>;
}

/// What is constant about a [`WebHook`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebHookDescription {
    /// Public, with a part that cannot be guessed.
    pub url: String,
}

/// A public URL for a local endpoint.
#[async_trait]
pub trait WebHook: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> WebHookDescription;

    /// Takes it down.
    async fn detach(&self) -> Result<()>;
}

/// A resource that will outlive the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseRequest {
    /// The version of `data`'s form, the library's own.
    pub schema_version: u32,
    /// What [`Engine::recover`](crate::engine::Engine::recover) needs to remove it.
    pub data: Value,
}

/// What is constant about a [`Lease`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseDescription {
    /// The host's id.
    pub id: String,
}

/// A resource that is written down. Dropping the object does not release it.
#[async_trait]
pub trait Lease: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> LeaseDescription;

    /// The resource is gone.
    async fn release(&self) -> Result<()>;
}
