//! What a task publishes, whole or not at all.
//!
//! The number of bytes is promised to storage before the first is sent; a file that turns out shorter or longer, or
//! that has been written to meanwhile, is an error, and so is any answer but 2xx. What went through is in the ledger.

mod body;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tcw_abi::io::Handle;
use tcw_abi::services::{ArtifactPointer, ArtifactRecord, ArtifactUpload, ContentEncoding};
use tcw_abi::{Error, ErrorKind, Result};

use crate::queue::{
    ArtifactCreated, ArtifactErrorReason, ArtifactRequest, QueueError, TaskQueue, Upload, format_time,
};

/// The longest message that an error artifact may have.
const MESSAGE: usize = 4096;
/// A stream that has brought nothing for this long does not end any more. The library that waits for it counts as
/// using services meanwhile, so no deadline of a hook would end it.
const STALL: Duration = Duration::from_secs(120);

/// So many URLs are asked for to upload one artifact to.
const URLS: u32 = 3;

/// The artifacts of one task.
pub struct Artifacts {
    queue: Arc<dyn TaskQueue>,
    /// No artifact outlives its task.
    expires: DateTime<Utc>,
    scratch: PathBuf,
    stall: Duration,
    ledger: Mutex<Vec<ArtifactRecord>>,
}

impl Artifacts {
    /// Publishes through `queue`; `scratch` is a folder for large bodies.
    pub fn new(queue: Arc<dyn TaskQueue>, expires: DateTime<Utc>, scratch: PathBuf) -> Self {
        Artifacts {
            queue,
            expires,
            scratch,
            stall: STALL,
            ledger: Mutex::default(),
        }
    }

    /// What has been uploaded so far.
    pub fn ledger(&self) -> Vec<ArtifactRecord> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uploads what is between the handle's position and its end.
    pub async fn upload(&self, upload: ArtifactUpload, content: Handle) -> Result<ArtifactRecord> {
        let expires = self.expiry(&upload.name, upload.expires.as_deref())?;
        let name = upload.name;
        let encode = upload.content_encoding == ContentEncoding::Gzip && !upload.already_encoded;
        let prepared = {
            let (of, scratch, stall) = (name.clone(), self.scratch.clone(), self.stall);
            let content = content.into_file();
            tokio::task::spawn_blocking(move || body::prepare(&of, content, encode, &scratch, stall))
                .await
                .map_err(|error| Error::internal(format!("artifact {name}: {error}")))??
        };
        let request = ArtifactRequest::S3 {
            content_type: upload.content_type.clone(),
            content_length: Some(prepared.stored_length),
            expires,
        };
        let encoding = match upload.content_encoding {
            ContentEncoding::Gzip => Some("gzip".to_owned()),
            ContentEncoding::Identity => None,
        };
        let mut body = prepared.body;
        let mut asked = 0;
        let sent = loop {
            asked += 1;
            let to = Upload {
                content_encoding: encoding.clone(),
                ..self.announce(&name, &request, prepared.stored_length).await?
            };
            let another = body.again();
            match (self.queue.upload(&to, body).await, another) {
                // The announcement is the same, so the queue answers with another URL for the same artifact.
                (Err(error), Some(again)) if asked < URLS && may_have_ended(&error) => {
                    tracing::info!(name, %error, "storage does not take the URL any more: asking the queue for another");
                    body = again;
                }
                (sent, _) => break sent,
            }
        };
        // A change explains a failure better than the failure does.
        if let Some(source) = &prepared.source {
            source.check(&name)?;
        }
        sent.map_err(|error| not_stored(&name, &error))?;
        let (length, sha256) = prepared.original.finish();
        let record = ArtifactRecord {
            name,
            content_type: upload.content_type,
            length,
            sha256,
            stored_length: prepared.stored_length,
        };
        self.ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(record.clone());
        Ok(record)
    }

    /// Tells the queue of an artifact with bytes. Answers where to send so many.
    async fn announce(&self, name: &str, request: &ArtifactRequest, length: u64) -> Result<Upload> {
        match self.queue.create_artifact(name, request).await {
            Ok(ArtifactCreated::S3 {
                put_url,
                content_type,
                ..
            }) => Ok(Upload {
                put_url,
                content_type,
                content_encoding: None,
                length,
            }),
            Ok(_) => Err(Error::internal(format!(
                "artifact {name}: the queue did not answer with a URL to upload to; this host needs storage type s3"
            ))),
            Err(error) => Err(refused(name, &error)),
        }
    }

    /// Publishes an artifact without bytes.
    pub async fn create(&self, pointer: ArtifactPointer) -> Result<()> {
        let (name, request) = match pointer {
            ArtifactPointer::Reference {
                name,
                url,
                content_type,
                expires,
            } => {
                let expires = self.expiry(&name, expires.as_deref())?;
                let request = ArtifactRequest::Reference {
                    url,
                    content_type,
                    expires,
                };
                (name, request)
            }
            ArtifactPointer::Link {
                name,
                artifact,
                content_type,
                expires,
            } => {
                let expires = self.expiry(&name, expires.as_deref())?;
                let request = ArtifactRequest::Link {
                    artifact,
                    content_type,
                    expires,
                };
                (name, request)
            }
            ArtifactPointer::Error {
                name,
                reason,
                message,
                expires,
            } => {
                let expires = self.expiry(&name, expires.as_deref())?;
                let request = ArtifactRequest::Error {
                    reason: error_reason(&name, &reason)?,
                    message: message.chars().take(MESSAGE).collect(),
                    expires,
                };
                (name, request)
            }
        };
        match self.queue.create_artifact(&name, &request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(refused(&name, &error)),
        }
    }

    fn expiry(&self, name: &str, asked: Option<&str>) -> Result<DateTime<Utc>> {
        let Some(asked) = asked else {
            return Ok(self.expires);
        };
        let expires = DateTime::parse_from_rfc3339(asked)
            .map_err(|error| {
                Error::malformed(format!(
                    "artifact {name}: {asked:?} is not a time ({error}); write it as in 2030-01-31T12:00:00.000Z"
                ))
            })?
            .with_timezone(&Utc);
        if expires > self.expires {
            return Err(Error::malformed(format!(
                "artifact {name}: it would expire at {}, after the task itself, which expires at {}; let it expire \
                 earlier or the task later",
                format_time(expires),
                format_time(self.expires)
            )));
        }
        Ok(expires)
    }
}

fn error_reason(name: &str, reason: &str) -> Result<ArtifactErrorReason> {
    serde_json::from_value(reason.into()).map_err(|_| {
        Error::violation(format!(
            "artifact {name}: {reason:?} is not a reason the queue knows for an artifact that is missing"
        ))
    })
}

/// The queue does not take the artifact.
fn refused(name: &str, error: &QueueError) -> Error {
    let (kind, advice) = match error {
        QueueError::Conflict { .. } => (
            ErrorKind::MalformedPayload,
            "this run has an artifact of that name with other properties; give each artifact a name of its own",
        ),
        QueueError::Invalid { .. } => (
            ErrorKind::MalformedPayload,
            "correct its name, content type or expiry",
        ),
        error if error.is_transient() => (ErrorKind::ResourceUnavailable, "the queue does not take it"),
        _ => (ErrorKind::NonFatalInternal, "the queue does not take it"),
    };
    Error::new(kind, format!("artifact {name}: {advice}: {error}"))
}

/// Storage says this of a URL that has ended. Those of a queue last less than an hour, which a long upload that was
/// begun again, or a machine that slept, can outlast.
fn may_have_ended(error: &QueueError) -> bool {
    match error {
        QueueError::Unauthorized { .. } => true,
        // S3's word for a URL that was signed with temporary credentials.
        QueueError::Invalid { message, .. } => message.contains("<Code>ExpiredToken</Code>"),
        _ => false,
    }
}

/// Storage does not take the bytes.
fn not_stored(name: &str, error: &QueueError) -> Error {
    let kind = match error {
        // The body was not what it had been before: somebody was still writing.
        QueueError::Content { .. } => ErrorKind::TaskFailed,
        QueueError::Setup { .. } => ErrorKind::NonFatalInternal,
        _ => ErrorKind::ResourceUnavailable,
    };
    Error::new(kind, format!("artifact {name}: it was not stored: {error}"))
}

#[cfg(test)]
mod tests;
