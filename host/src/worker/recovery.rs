//! Finishing what a process that is gone has left.
//!
//! The caller holds the lock of the state directory, so whatever the journal holds belongs to a dead process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng as _;
use tcw_abi::engine::{Engine, LeaseRecord, RecoveryReport, feature};

use super::journal::{ClaimRecord, Journal, JournalError, OwnedLease};
use crate::fault_point::fault_point;
use crate::queue::{ExceptionReason, Queue, QueueError};

/// How long an engine may take to remove what is left. It goes on after that; the worker does not wait.
const RECOVERY: Duration = Duration::from_secs(10 * 60);

/// How long an engine that was loaded only for this may take for its last call.
const DISPOSAL: Duration = Duration::from_secs(30);

/// Between two attempts to tell a queue that was away at the start.
const LATER: Duration = Duration::from_secs(15);

/// What was found and what was done about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovery {
    /// A line each, for the operator.
    pub messages: Vec<String>,
    /// Claims and leases that are still open: they are tried again at the next start.
    pub left: usize,
    /// Those of them that are claims.
    pub left_claims: Vec<ClaimRecord>,
}

/// Engines of libraries that are not loaded, but that an earlier process has left in the store.
#[async_trait]
pub trait StoredEngines: Send + Sync {
    /// The engine of these bytes, or why there is none.
    async fn engine(&self, sha256: &str) -> Result<Arc<dyn Engine>, String>;
}

/// Who can undo what was leased: the engine that is loaded, and those in the store.
pub struct Undoers<'a> {
    /// The worker's engine.
    pub engine: &'a Arc<dyn Engine>,
    /// Its library's name.
    pub library: &'a str,
    /// The SHA-256 of that library's bytes.
    pub sha256: &'a str,
    /// Of other versions, and of other engines that this worker once had.
    pub stored: &'a dyn StoredEngines,
}

/// Tells the queue about the tasks that ran, and has the engine remove what they left. `queue_name` is what the journal
/// calls the queue.
pub async fn recover(
    journal: &Journal,
    queue: &dyn Queue,
    queue_name: &str,
    undoers: &Undoers<'_>,
) -> Result<Recovery, JournalError> {
    // What still runs ends before the queue gives the same tasks out again.
    let mut recovery = recover_leases(journal, undoers).await?;
    recovery.sweep(undoers).await;
    fault_point!("recovery.leases.done");
    let claims = journal.open_claims().await?;
    recovery.left_claims = resolve_claims(journal, queue, queue_name, claims, &mut recovery.messages).await?;
    recovery.left += recovery.left_claims.len();
    fault_point!("recovery.done");
    Ok(recovery)
}

/// Tells the queue about claims of a process that is gone; what was done is added to `messages`. Answers those that have
/// to be told later.
async fn resolve_claims(
    journal: &Journal,
    queue: &dyn Queue,
    queue_name: &str,
    claims: Vec<ClaimRecord>,
    messages: &mut Vec<String>,
) -> Result<Vec<ClaimRecord>, JournalError> {
    let mut left = Vec::new();
    let mut away = None;
    for claim in claims {
        let name = format!("task {} run {}", claim.task_id, claim.run_id.0);
        let told = if claim.queue != queue_name {
            // The worker was pointed elsewhere since: the claim expires there.
            Ok(format!(
                "it was claimed from another queue ({}), where its claim expires",
                claim.queue
            ))
        } else if let Some(error) = &away {
            Err(format!("{error}; what was claimed stays in the journal"))
        } else {
            match resolve(queue, claim.clone()).await {
                Ok(told) => Ok(told),
                Err(error) => {
                    let text = error.to_string();
                    // Nobody waits for each claim as long as for the first.
                    away = error.is_transient().then(|| text.clone());
                    Err(format!("{text}; what was claimed stays in the journal"))
                }
            }
        };
        match told {
            Ok(told) => {
                messages.push(format!("{name}: {told}"));
                fault_point!("recovery.claim.told");
                journal.resolved(claim.task_id, claim.run_id).await?;
            }
            Err(error) => {
                messages.push(format!("{name}: {error}"));
                left.push(claim);
            }
        }
    }
    Ok(left)
}

/// Goes on telling the queue about claims that [`recover`] could not tell it about, while the worker works: it may only
/// have been started before its queue. Never returns.
pub async fn recover_later<T>(
    journal: &Journal,
    queue: &dyn Queue,
    queue_name: &str,
    mut claims: Vec<ClaimRecord>,
) -> T {
    while !claims.is_empty() {
        tokio::time::sleep(LATER.mul_f64(rand::rng().random_range(0.5..=1.0))).await;
        let (mut messages, before) = (Vec::new(), claims.len());
        match resolve_claims(journal, queue, queue_name, claims.clone(), &mut messages).await {
            Ok(left) => claims = left,
            Err(error) => {
                tracing::error!(%error, "what an earlier process has left cannot be looked after any more");
                break;
            }
        }
        // That the queue is still away is no news.
        if claims.len() < before {
            for message in messages {
                tracing::warn!("left by an earlier process: {message}");
            }
        }
    }
    std::future::pending().await
}

async fn resolve(queue: &dyn Queue, claim: ClaimRecord) -> Result<String, QueueError> {
    let task = queue.for_task(&claim.task_id, claim.run_id, claim.credentials);
    match task.report_exception(ExceptionReason::WorkerShutdown).await {
        Ok(_) => Ok("resolved as worker-shutdown".to_owned()),
        Err(
            error @ (QueueError::Conflict { .. }
            | QueueError::NotFound { .. }
            | QueueError::Unauthorized { .. }),
        ) => Ok(format!("was resolved meanwhile ({error})")),
        Err(error) => Err(error),
    }
}

/// The first half of it: what engines made for them.
pub async fn recover_leases(journal: &Journal, undoers: &Undoers<'_>) -> Result<Recovery, JournalError> {
    let mut recovery = Recovery::default();
    let mut groups: BTreeMap<(String, String), Vec<LeaseRecord>> = BTreeMap::new();
    for OwnedLease {
        library,
        sha256,
        lease,
    } in journal.open_leases().await?
    {
        groups.entry((library, sha256)).or_default().push(lease);
    }
    for ((library, sha256), leases) in groups {
        let namesake = library == undoers.library;
        // An older host did not write the hash down.
        let own = sha256 == undoers.sha256 || (namesake && sha256.is_empty());
        let report = if own {
            undo(undoers.engine, leases.clone()).await
        } else {
            match undoers.stored.engine(&sha256).await {
                Ok(engine) => {
                    let report = undo(&engine, leases.clone()).await;
                    // The library stays; what its engine holds does not.
                    let _ = tokio::time::timeout(DISPOSAL, engine.dispose()).await;
                    report
                }
                Err(why) if namesake => {
                    recovery.messages.push(format!(
                        "the version of '{library}' that an earlier process used is not to be had ({why}): the present \
                         one looks after what it left"
                    ));
                    undo(undoers.engine, leases.clone()).await
                }
                Err(why) => {
                    for lease in &leases {
                        recovery.messages.push(format!(
                            "a resource of the library '{library}' ({}) is left; start the worker with that library to \
                             have it removed ({why})",
                            lease.data
                        ));
                    }
                    recovery.left += leases.len();
                    continue;
                }
            }
        };
        match report {
            Ok(report) => {
                recovery.messages.extend(report.messages);
                let released = report
                    .released
                    .into_iter()
                    .filter(|id| leases.iter().any(|lease| lease.id == *id));
                let mut left = leases.len();
                for id in released {
                    left = left.saturating_sub(1);
                    journal.release(id).await?;
                }
                recovery.left += left;
            }
            Err(error) => {
                recovery.left += leases.len();
                recovery
                    .messages
                    .push(format!("the engine could not remove what is left: {error}"));
            }
        }
    }
    Ok(recovery)
}

impl Recovery {
    /// What no lease is left of, after a power loss: an engine knows its own by their names.
    async fn sweep(&mut self, undoers: &Undoers<'_>) {
        if !undoers.engine.description().has(feature::RECOVERY) {
            return;
        }
        match undo(undoers.engine, Vec::new()).await {
            Ok(report) => self.messages.extend(report.messages),
            Err(error) => {
                self.left += 1;
                self.messages
                    .push(format!("the engine could not look for what is left: {error}"));
            }
        }
    }
}

async fn undo(engine: &Arc<dyn Engine>, leases: Vec<LeaseRecord>) -> tcw_abi::Result<RecoveryReport> {
    tokio::time::timeout(RECOVERY, engine.recover(leases))
        .await
        .unwrap_or_else(|_| {
            let bound = RECOVERY.as_secs();
            Err(tcw_abi::Error::new(
                tcw_abi::ErrorKind::TimedOut,
                format!("it did not return within {bound} s"),
            ))
        })
}
