//! What goes over the wire: tasks, their status, claims, artifacts. Field names are those of the published schemas.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Credentials, RunId, TaskId, WorkerPoolId};

/// One task that this worker has been given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The task's status at the time of the claim.
    pub status: TaskStatus,
    /// The run that was claimed.
    pub run_id: RunId,
    /// The group of the worker that claimed.
    pub worker_group: String,
    /// The worker that claimed.
    pub worker_id: String,
    /// When the claim ends unless it is renewed.
    pub taken_until: DateTime<Utc>,
    /// What is to be done.
    pub task: TaskDefinition,
    /// Temporary credentials for this run, ending at `taken_until`.
    pub credentials: Credentials,
    /// By how much the queue's clock is ahead of this machine's: what the task says is by the queue's.
    #[serde(skip)]
    pub clock_ahead: TimeDelta,
}

impl Claim {
    /// The task's deadline, as this machine's clock will say it.
    #[must_use]
    pub fn deadline(&self) -> DateTime<Utc> {
        // A deadline at the end of all times stays there.
        let here = self.task.deadline.checked_sub_signed(self.clock_ahead);
        here.unwrap_or(self.task.deadline)
    }

    /// The id of the claimed task.
    #[must_use]
    pub fn task_id(&self) -> &TaskId {
        &self.status.task_id
    }
}

/// What renewing a claim brings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reclaimed {
    /// When the renewed claim ends.
    pub taken_until: DateTime<Utc>,
    /// Credentials that replace the old ones everywhere.
    pub credentials: Credentials,
    /// The task's status.
    pub status: TaskStatus,
}

/// A task as its author wrote it, with the queue's defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskDefinition {
    /// The pool that works on it.
    pub task_queue_id: WorkerPoolId,
    /// Who created it.
    #[serde(default = "default_scheduler_id")]
    pub scheduler_id: String,
    /// The project it belongs to.
    #[serde(default = "default_project_id")]
    pub project_id: String,
    /// The group it was created in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_group_id: Option<TaskId>,
    /// Tasks that come first.
    #[serde(default)]
    pub dependencies: Vec<TaskId>,
    /// What has to have become of the dependencies.
    #[serde(default)]
    pub requires: Requires,
    /// Routes that messages about the task go to.
    #[serde(default)]
    pub routes: Vec<String>,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// How often it is tried again after trouble of the infrastructure.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// When it has to be done.
    pub deadline: DateTime<Utc>,
    /// When everything about it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<DateTime<Utc>>,
    /// What it may do.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What to do, in the words of the worker type.
    pub payload: Value,
    /// Name, description, owner and source.
    pub metadata: Metadata,
    /// Free text by key.
    #[serde(default)]
    pub tags: Map<String, Value>,
    /// Free data.
    #[serde(default)]
    pub extra: Map<String, Value>,
    /// What newer queues add and this version does not know (`provisionerId` and `workerType`, too).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn default_scheduler_id() -> String {
    "-".to_owned()
}

fn default_project_id() -> String {
    "none".to_owned()
}

fn default_retries() -> u32 {
    5
}

/// Who made a task and what it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// A name for people.
    pub name: String,
    /// What it does, in Markdown.
    pub description: String,
    /// Whom to ask.
    pub owner: String,
    /// Where the task comes from, a URL.
    pub source: String,
    /// What newer queues add.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What has to have become of a task's dependencies before it starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requires {
    /// All have succeeded.
    #[default]
    AllCompleted,
    /// All have ended, however they did.
    AllResolved,
}

/// How urgent a task is. Ordered: the more urgent is the greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Priority {
    #[default]
    Lowest,
    VeryLow,
    Low,
    Medium,
    High,
    VeryHigh,
    Highest,
}

impl Priority {
    /// All of them, the least urgent first.
    pub const ALL: [Self; 7] = [
        Self::Lowest,
        Self::VeryLow,
        Self::Low,
        Self::Medium,
        Self::High,
        Self::VeryHigh,
        Self::Highest,
    ];

    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lowest => "lowest",
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::VeryHigh => "very-high",
            Self::Highest => "highest",
        }
    }
}

/// What the queue knows about a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// The task.
    pub task_id: TaskId,
    /// The pool that works on it.
    pub task_queue_id: WorkerPoolId,
    /// Where it is in its life; that of its last run.
    pub state: TaskState,
    /// How many more times it is tried after trouble of the infrastructure.
    pub retries_left: u32,
    /// When it has to be done.
    pub deadline: DateTime<Utc>,
    /// When everything about it is forgotten.
    pub expires: DateTime<Utc>,
    /// Its runs; the index is the run id.
    pub runs: Vec<RunStatus>,
    /// The rest: group, scheduler, project, priority, and what newer queues add.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl TaskStatus {
    /// The state of one run, if there is such a run.
    #[must_use]
    pub fn run(&self, run: RunId) -> Option<&RunStatus> {
        self.runs.get(run.0 as usize)
    }
}

/// What the queue knows about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Its number.
    pub run_id: RunId,
    /// Where it is in its life.
    pub state: RunState,
    /// Why there is this run: `scheduled`, `retry`, `task-retry`, `rerun` or `exception`.
    pub reason_created: String,
    /// Why it ended: `completed`, `failed`, or what kind of exception it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_resolved: Option<String>,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_group: Option<String>,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// When its claim ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_until: Option<DateTime<Utc>>,
    /// When it became pending.
    pub scheduled: DateTime<Utc>,
    /// When it was claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<DateTime<Utc>>,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the queue's own words")]
pub enum TaskState {
    Unscheduled,
    Pending,
    Running,
    Completed,
    Failed,
    Exception,
}

impl TaskState {
    /// Whether nothing more happens to it by itself.
    #[must_use]
    pub fn is_resolved(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Exception)
    }
}

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the queue's own words")]
pub enum RunState {
    Pending,
    Running,
    Completed,
    Failed,
    Exception,
}

impl RunState {
    /// Whether nothing more happens to it.
    #[must_use]
    pub fn is_resolved(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Exception)
    }
}

/// Why a worker gives a run up, as it reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExceptionReason {
    /// The worker was told to stop; the queue tries again.
    WorkerShutdown,
    /// The task's author has to change the task.
    MalformedPayload,
    /// Something the task needs would not answer.
    ResourceUnavailable,
    /// A fault of the worker.
    InternalError,
    /// The task asked to be tried again.
    IntermittentTask,
}

impl ExceptionReason {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorkerShutdown => "worker-shutdown",
            Self::MalformedPayload => "malformed-payload",
            Self::ResourceUnavailable => "resource-unavailable",
            Self::InternalError => "internal-error",
            Self::IntermittentTask => "intermittent-task",
        }
    }
}

impl std::fmt::Display for ExceptionReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An artifact to be announced to the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(
    tag = "storageType",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum ArtifactRequest {
    /// Bytes, sent afterwards to the URL in the answer.
    S3 {
        /// Their type.
        content_type: String,
        /// How many they are, if that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        content_length: Option<u64>,
        /// When they may be deleted; not after the task expires.
        #[serde(serialize_with = "super::time::serialize")]
        expires: DateTime<Utc>,
    },
    /// A URL to send readers to.
    Reference {
        /// Where the content is.
        url: String,
        /// Its type.
        content_type: String,
        /// When the reference ends.
        #[serde(serialize_with = "super::time::serialize")]
        expires: DateTime<Utc>,
    },
    /// Another artifact of the same run.
    Link {
        /// The other artifact's name.
        artifact: String,
        /// Its type, if it is known already.
        #[serde(skip_serializing_if = "Option::is_none")]
        content_type: Option<String>,
        /// When the link ends.
        #[serde(serialize_with = "super::time::serialize")]
        expires: DateTime<Utc>,
    },
    /// Why there is no such artifact.
    Error {
        /// The kind of trouble.
        reason: ArtifactErrorReason,
        /// What happened, for people; at most 4096 characters.
        message: String,
        /// When this may be forgotten.
        #[serde(serialize_with = "super::time::serialize")]
        expires: DateTime<Utc>,
    },
}

/// Why an artifact that a task promised is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the queue's own words")]
pub enum ArtifactErrorReason {
    FileMissingOnWorker,
    InvalidResourceOnWorker,
    TooLargeFileOnWorker,
    FileNotReadableOnWorker,
}

/// The queue's answer to an [`ArtifactRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    tag = "storageType",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum ArtifactCreated {
    /// Send the bytes now.
    S3 {
        /// Where to: a signed URL for one PUT.
        put_url: String,
        /// The type that the PUT has to name.
        content_type: String,
        /// When the URL ends.
        expires: DateTime<Utc>,
    },
    /// Nothing more to do.
    Reference {},
    /// Nothing more to do.
    Link {},
    /// Nothing more to do.
    Error {},
}

/// One line of a list of artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Its name, for example `public/logs/live_backing.log`.
    pub name: String,
    /// `s3`, `object`, `reference`, `link` or `error`.
    pub storage_type: String,
    /// Its type as announced.
    pub content_type: String,
    /// When it ends.
    pub expires: DateTime<Utc>,
    /// How many bytes were announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length: Option<u64>,
}
