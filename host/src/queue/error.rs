//! What can go wrong when talking to a queue, with what a caller needs to act on it.

use std::time::Duration;

/// Where a call went: `POST http://localhost:8080/api/queue/v1/claim-work/p%2Fw`. Query strings, which may hold
/// signatures, are left out.
pub type Endpoint = String;

/// A call that did not work. Each `Display` is one sentence: what, where, what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// 409: the task or artifact is in another state than the call needs.
    #[error("{at} conflicts with what the queue has: {message}; look at the task's status before going on")]
    Conflict {
        /// Where the call went.
        at: Endpoint,
        /// The queue's words.
        message: String,
    },
    /// 401 or 403: wrong credentials, or scopes that do not suffice.
    #[error(
        "{at} is refused ({status}): {message}; check the client id, the access token and the scopes of this client"
    )]
    Unauthorized {
        /// Where the call went.
        at: Endpoint,
        /// 401: the credentials are wrong or have ended. 403: they do not allow this.
        status: u16,
        /// The queue's words.
        message: String,
    },
    /// 404 or 410: there is no such thing, or no more.
    #[error("{at} finds nothing: {message}; check the id and the name, and whether it has expired")]
    NotFound {
        /// Where the call went.
        at: Endpoint,
        /// The queue's words.
        message: String,
    },
    /// 400 or 413: the request is wrong as it stands; sending it again does not help.
    #[error("{at} is refused as invalid ({code}): {message}; correct what it names")]
    Invalid {
        /// Where the call went.
        at: Endpoint,
        /// The queue's code, for example `InputValidationError`.
        code: String,
        /// The queue's words; several lines when several things are wrong.
        message: String,
    },
    /// 429, also after waiting and trying again.
    #[error("{at} is refused since there were too many requests; try again in {} s", .retry_after.as_secs())]
    RateLimited {
        /// Where the call went.
        at: Endpoint,
        /// How long the queue asks to wait.
        retry_after: Duration,
    },
    /// No answer, or a 5xx, also after trying again.
    #[error(
        "{at} did not work after {attempts} attempts: {message}; check that the queue runs and can be reached"
    )]
    Unavailable {
        /// Where the call went.
        at: Endpoint,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        message: String,
    },
    /// 424: the artifact is a report that there is none.
    #[error("{at} leads to no content ({reason}): {message}; look into the task's log for the cause")]
    ArtifactMissing {
        /// Where the call went.
        at: Endpoint,
        /// Why, for example `file-missing-on-worker`.
        reason: String,
        /// The worker's words.
        message: String,
    },
    /// An answer that is not what the API promises.
    #[error(
        "{at} answered {status} with something unexpected: {message}; check that the root URL is that of a Taskcluster deployment"
    )]
    Protocol {
        /// Where the call went.
        at: Endpoint,
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        message: String,
    },
    /// The content to be sent could not be read, or was not as long as promised.
    #[error("{at}: cannot send the content: {message}; nothing else may change it while it is sent")]
    Content {
        /// Where it was to go.
        at: Endpoint,
        /// What is wrong.
        message: String,
    },
    /// The call cannot be made as configured.
    #[error("cannot call the queue: {message}")]
    Setup {
        /// What is missing or malformed, and what to do.
        message: String,
    },
}

impl QueueError {
    /// Whether the same call may work later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::RateLimited { .. } => true,
            // Who calls that a success, or sends us elsewhere, is hardly the queue.
            Self::Protocol { status, .. } => *status < 400,
            _ => false,
        }
    }
}
