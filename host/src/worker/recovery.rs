//! Finishing what a process that is gone has left.
//!
//! The caller holds the lock of the state directory, so whatever the journal holds belongs to a dead process.

use std::sync::Arc;
use std::time::Duration;

use tcw_abi::engine::Engine;

use super::journal::{Journal, JournalError};
use crate::queue::{ExceptionReason, Queue, QueueError};

/// How long an engine may take to remove what is left. It goes on after that; the worker does not wait.
const RECOVERY: Duration = Duration::from_secs(10 * 60);

/// What was found and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// A line each, for the operator.
    pub messages: Vec<String>,
    /// Claims and leases that are still open: they are tried again at the next start.
    pub left: usize,
}

/// Tells the queue about the tasks that ran, and has the engine remove what they left. `queue_name` is what the journal
/// calls the queue.
pub async fn recover(
    journal: &Journal,
    queue: &dyn Queue,
    queue_name: &str,
    engine: &Arc<dyn Engine>,
    library: &str,
) -> Result<Recovery, JournalError> {
    // What still runs ends before the queue gives the same tasks out again.
    let mut recovery = recover_leases(journal, engine, library).await?;
    for claim in journal.open_claims().await? {
        let name = format!("task {} run {}", claim.task_id, claim.run_id.0);
        if claim.queue != queue_name {
            // The worker was pointed elsewhere since: the claim expires there.
            recovery.messages.push(format!(
                "{name}: it was claimed from another queue ({}), where its claim expires",
                claim.queue
            ));
            journal.resolved(claim.task_id, claim.run_id).await?;
            continue;
        }
        let task = queue.for_task(&claim.task_id, claim.run_id, claim.credentials);
        match task.report_exception(ExceptionReason::WorkerShutdown).await {
            Ok(_) => recovery
                .messages
                .push(format!("{name}: resolved as worker-shutdown")),
            Err(
                error @ (QueueError::Conflict { .. }
                | QueueError::NotFound { .. }
                | QueueError::Unauthorized { .. }),
            ) => recovery
                .messages
                .push(format!("{name}: was resolved meanwhile ({error})")),
            Err(error) => {
                recovery.left += 1;
                recovery.messages.push(format!("{name}: {error}"));
                continue;
            }
        }
        journal.resolved(claim.task_id, claim.run_id).await?;
    }
    Ok(recovery)
}

/// The first half of it: what the engine made for them.
pub async fn recover_leases(
    journal: &Journal,
    engine: &Arc<dyn Engine>,
    library: &str,
) -> Result<Recovery, JournalError> {
    let mut recovery = Recovery::default();
    let leases = journal.open_leases().await?;
    let (ours, others): (Vec<_>, Vec<_>) = leases.into_iter().partition(|lease| lease.library == library);
    for lease in &others {
        recovery.messages.push(format!(
            "a resource of the library '{}' ({}) is left; start the worker with that library to have it removed",
            lease.library, lease.lease.data
        ));
    }
    recovery.left += others.len();
    if !ours.is_empty() {
        let count = ours.len();
        let recovering = engine.recover(ours.into_iter().map(|lease| lease.lease).collect());
        match tokio::time::timeout(RECOVERY, recovering)
            .await
            .unwrap_or_else(|_| {
                let bound = RECOVERY.as_secs();
                Err(tcw_abi::Error::new(
                    tcw_abi::ErrorKind::TimedOut,
                    format!("it did not return within {bound} s"),
                ))
            }) {
            Ok(report) => {
                recovery.left += count.saturating_sub(report.released.len());
                recovery.messages.extend(report.messages);
                for id in report.released {
                    journal.release(id).await?;
                }
            }
            Err(error) => {
                recovery.left += count;
                recovery
                    .messages
                    .push(format!("the engine could not remove what is left: {error}"));
            }
        }
    }
    Ok(recovery)
}
