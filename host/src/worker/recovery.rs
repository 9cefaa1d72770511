//! Finishing what a process that is gone has left.
//!
//! The caller holds the lock of the state directory, so whatever the journal holds belongs to a dead process.

use std::sync::Arc;

use tcw_abi::engine::Engine;

use super::journal::{Journal, JournalError};
use crate::queue::{ExceptionReason, Queue, QueueError};

/// What was found and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// A line each, for the operator.
    pub messages: Vec<String>,
    /// Claims and leases that are still open: they are tried again at the next start.
    pub left: usize,
}

/// Tells the queue about the tasks that ran, and has the engine remove what they left.
pub async fn recover(
    journal: &Journal,
    queue: &dyn Queue,
    engine: &Arc<dyn Engine>,
    library: &str,
) -> Result<Recovery, JournalError> {
    let mut recovery = Recovery::default();
    for claim in journal.open_claims().await? {
        let name = format!("task {} run {}", claim.task_id, claim.run_id.0);
        if claim.root_url != queue.root_url() {
            // Its queue has gone with the process, or the worker was pointed elsewhere: the claim expires there.
            recovery.messages.push(format!(
                "{name}: its queue {} is not this worker's any more; its claim expires there",
                claim.root_url
            ));
            journal.resolved(claim.task_id, claim.run_id).await?;
            continue;
        }
        let task = queue.for_task(&claim.task_id, claim.run_id, claim.credentials);
        match task.report_exception(ExceptionReason::WorkerShutdown).await {
            Ok(_) => recovery
                .messages
                .push(format!("{name}: resolved as worker-shutdown")),
            Err(error @ (QueueError::Unavailable { .. } | QueueError::RateLimited { .. })) => {
                recovery.left += 1;
                recovery.messages.push(format!("{name}: {error}"));
                continue;
            }
            Err(error) => recovery
                .messages
                .push(format!("{name}: was resolved meanwhile ({error})")),
        }
        journal.resolved(claim.task_id, claim.run_id).await?;
    }
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
        match engine
            .recover(ours.into_iter().map(|lease| lease.lease).collect())
            .await
        {
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
