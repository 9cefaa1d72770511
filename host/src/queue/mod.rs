//! Queues: where tasks come from and where their results go.
//!
//! [`Queue`] is what a worker or the command line asks with its own credentials, [`TaskQueue`] is what it asks in the
//! name of one run with that run's temporary credentials. [`client`] implements both over the Taskcluster Queue API;
//! [`embedded`] is a server of that API for one machine, so that there is one client and one protocol everywhere.

mod clock;
mod credentials;
mod error;
mod http;
mod ids;
mod outage;
mod retry;
mod task_client;
mod time;
mod types;
mod upload;

pub mod client;
pub mod embedded;

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use serde_json::Value;

pub use client::{ClientConfig, QueueClient};
pub use credentials::Credentials;
pub use error::{Endpoint, QueueError};
pub(crate) use http::{Unread, bounded};
pub use ids::{InvalidId, RunId, TaskId, WorkerIdentity, WorkerPoolId};
pub(crate) use outage::Outage;
pub use retry::RetryPolicy;
pub(crate) use retry::retry_after;
pub use time::format as format_time;
pub use types::{
    Artifact, ArtifactCreated, ArtifactErrorReason, ArtifactRequest, Claim, ExceptionReason, Metadata,
    Priority, Reclaimed, Requires, RunState, RunStatus, TaskDefinition, TaskState, TaskStatus,
};
pub(crate) use upload::read_ahead;
pub use upload::{Pieces, Reader, Upload, UploadBody};

/// A queue, asked with the credentials of a worker or a person.
#[async_trait]
pub trait Queue: Send + Sync {
    /// The root URL of the deployment, without a slash at the end.
    fn root_url(&self) -> &str;

    /// Asks for up to `count` tasks (at most 32), waiting up to 20 s for the first; none is a usual answer.
    ///
    /// Never tried again: the answer to a call that failed may have held claims, and asking again would not bring
    /// them back. Takes at most 60 s.
    async fn claim_work(&self, count: u32) -> Result<Vec<Claim>, QueueError>;

    /// The status of many tasks, in as few calls as possible. Tasks the queue does not know are left out.
    async fn statuses(&self, tasks: &[TaskId]) -> Result<Vec<TaskStatus>, QueueError>;

    /// Creates a task. Creating the same task again is no error.
    async fn create_task(&self, task: &TaskId, definition: &Value) -> Result<TaskStatus, QueueError>;

    /// Cancels a task; a resolved task stays as it is.
    async fn cancel_task(&self, task: &TaskId) -> Result<TaskStatus, QueueError>;

    /// A task's definition.
    async fn task(&self, task: &TaskId) -> Result<TaskDefinition, QueueError>;

    /// A task's status.
    async fn status(&self, task: &TaskId) -> Result<TaskStatus, QueueError>;

    /// The artifacts of a task's run, or of its last run.
    async fn list_artifacts(&self, task: &TaskId, run: Option<RunId>) -> Result<Vec<Artifact>, QueueError>;

    /// A URL from which anybody can fetch an artifact of a task's last run for a while.
    async fn latest_artifact_url(&self, task: &TaskId, name: &str) -> Result<String, QueueError>;

    /// The same queue in the name of one run.
    fn for_task(&self, task: &TaskId, run: RunId, credentials: Credentials) -> Arc<dyn TaskQueue>;

    /// [`for_task`](Self::for_task) for a claim.
    fn for_claim(&self, claim: &Claim) -> Arc<dyn TaskQueue> {
        self.for_task(claim.task_id(), claim.run_id, claim.credentials.clone())
    }
}

/// A queue, asked in the name of one run.
#[async_trait]
pub trait TaskQueue: Send + Sync {
    /// The task.
    fn task_id(&self) -> &TaskId;

    /// The run.
    fn run_id(&self) -> RunId;

    /// The credentials in use.
    fn credentials(&self) -> Credentials;

    /// Replaces the credentials for all calls that begin from now on, everywhere this object is shared.
    fn set_credentials(&self, credentials: Credentials);

    /// Renews the claim **and** takes over the new credentials. `Conflict` means that the run is over.
    async fn reclaim(&self) -> Result<Reclaimed, QueueError>;

    /// Resolves the run: it succeeded.
    async fn report_completed(&self) -> Result<TaskStatus, QueueError>;

    /// Resolves the run: it failed.
    async fn report_failed(&self) -> Result<TaskStatus, QueueError>;

    /// Resolves the run: it could not be done.
    async fn report_exception(&self, reason: ExceptionReason) -> Result<TaskStatus, QueueError>;

    /// Announces an artifact.
    async fn create_artifact(
        &self,
        name: &str,
        artifact: &ArtifactRequest,
    ) -> Result<ArtifactCreated, QueueError>;

    /// Sends an artifact's bytes to the URL that [`create_artifact`](Self::create_artifact) brought.
    async fn upload(&self, upload: &Upload, body: UploadBody) -> Result<(), QueueError>;

    /// Sends any request, signed with the run's credentials. Any status is an answer; redirects are not followed and
    /// nothing is tried again. `authorized_scopes` limits what the request may do.
    async fn signed_request(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: reqwest::Body,
        authorized_scopes: Option<&[String]>,
    ) -> Result<reqwest::Response, QueueError>;
}
