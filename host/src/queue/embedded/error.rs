//! Errors as the API answers them, and the errors of starting the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::StatusCode;

/// An answer that is no success: a status, one of Taskcluster's codes, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// More for `WWW-Authenticate` than that it is Hawk that is spoken here.
    pub(super) challenge: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            challenge: None,
        }
    }

    /// A limit that no schema can express.
    pub(super) fn input(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InputError", message)
    }

    /// A body that does not fit its schema, or a payload that does not fit its worker type's.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InputValidationError", message)
    }

    /// A malformed path or query.
    pub(super) fn arguments(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequestArguments", message)
    }

    /// A body that is not JSON.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MalformedPayload", message)
    }

    /// More bytes than are allowed.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "InputTooLarge", message)
    }

    /// Credentials that are wrong, whatever they were for.
    pub(super) fn authentication(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "AuthenticationFailed", message)
    }

    /// Credentials that do not suffice.
    pub(super) fn scopes(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "InsufficientScopes", message)
    }

    /// No such thing.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFound", message)
    }

    /// No such thing any more.
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "ResourceExpired", message)
    }

    /// Another state than the call needs.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "RequestConflict", message)
    }

    /// An answer of its own status.
    pub(super) fn with_status(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, code, message)
    }

    /// Our own fault. The cause goes to the log; the client learns that there was one.
    pub(super) fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "the embedded queue could not answer a call");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            format!("the embedded queue has a problem of its own: {cause}; see the log of tcw-host"),
        )
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> Self {
        Self::internal(format_args!(
            "its database failed ({error}); check that the disk is not full"
        ))
    }
}

/// Why an embedded queue did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there, or may alone.
    #[error(
        "the embedded queue cannot listen on {address} ({source}); choose another port, or 0 for any free one"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The address is one that others can reach.
    #[error(
        "the embedded queue cannot listen on {0} as it is: others can reach that, and would see what is sent; give it a \
         certificate and a root URL, or put something before it that has both and say so, or choose an address like 127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// The root URL is more or less than an address.
    #[error(
        "the embedded queue cannot have the root URL {0:?}: write it as in https://queue.example.com:8443"
    )]
    RootUrl(String),
    /// The certificate or its key cannot be used.
    #[error("the embedded queue cannot use {} for TLS: {problem}", .path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The key can be read by others.
    #[error(
        "the embedded queue does not use the key {}: others can read it (mode {mode:04o}); chmod 600 {}, and have a new \
         key made if others have had access",
        .path.display(), .path.display()
    )]
    ExposedKey {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another process works with the same state.
    #[error(
        "the embedded queue's state in {} is in use by another process; stop that, or choose another state directory",
        .path.display()
    )]
    Locked {
        /// The state directory.
        path: PathBuf,
    },
    /// The state directory or something in it cannot be used.
    #[error(
        "the embedded queue cannot {action} {} ({source}); check the owner, the permissions and the free space",
        .path.display()
    )]
    Files {
        /// What was attempted: `create`, `write`, ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file with the root credentials is damaged.
    #[error(
        "the embedded queue's credentials in {} are not as it wrote them ({problem}); restore the file, or delete it to \
         get new ones",
        .path.display()
    )]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The database cannot be opened or understood.
    #[error(
        "the embedded queue cannot use its database {} ({source}); move it away to begin with an empty queue",
        .path.display()
    )]
    Database {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
    /// The database was written by a newer version.
    #[error("the embedded queue's database {} has format {found}, and this tcw-host knows up to {known}; use the newer tcw-host again", .path.display())]
    NewerDatabase {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known.
        known: i64,
    },
}

/// A payload schema that is no JSON schema.
#[derive(Debug, thiserror::Error)]
#[error(
    "the payload schema of worker pool {pool} is not a valid JSON schema: {problem}; correct the engine's or plugin's schema"
)]
pub struct PayloadSchemaError {
    /// The pool.
    pub pool: super::super::WorkerPoolId,
    /// What is wrong with it.
    pub problem: String,
}
