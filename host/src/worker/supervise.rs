//! Keeping a task's claim while it runs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;

use super::journal::Journal;
use crate::queue::{Claim, QueueError, TaskQueue};
use crate::task::{TaskControl, TaskEvent, TaskReport};

/// Reclaims before a third of the claim's time is left, whatever its length, and watches the deadline, until the task
/// is resolved. `None` if it never will be, because its own code failed.
pub(super) async fn keep_claim(
    claim: Claim,
    queue: &dyn TaskQueue,
    control: TaskControl,
    journal: &Journal,
) -> Option<TaskReport> {
    let mut taken_until = claim.taken_until;
    let mut failures = 0;
    let resolved = control.resolved();
    tokio::pin!(resolved);
    let deadline = tokio::time::sleep(until(claim.task.deadline));
    tokio::pin!(deadline);
    let mut past_deadline = false;
    let mut lost = false;
    let mut wait = before_expiry(taken_until);
    loop {
        tokio::select! {
            report = &mut resolved => return report,
            () = &mut deadline, if !past_deadline => {
                past_deadline = true;
                control.send(TaskEvent::Deadline);
            }
            () = tokio::time::sleep(wait), if !lost && !past_deadline => {
                // The report of a task that ends while this call is under way does not wait for it.
                let outcome = tokio::select! {
                    report = &mut resolved => return report,
                    outcome = queue.reclaim() => outcome,
                };
                match outcome {
                    Ok(reclaimed) => {
                        failures = 0;
                        taken_until = reclaimed.taken_until;
                        wait = before_expiry(taken_until);
                        let written =
                            journal.reclaimed(claim.task_id().clone(), claim.run_id, reclaimed.credentials).await;
                        if let Err(error) = written {
                            tracing::error!(task_id = %claim.task_id(), %error, "new credentials are not written down");
                        }
                    }
                    Err(error) if error.is_transient() && Utc::now() < taken_until => {
                        failures += 1;
                        wait = Duration::from_secs(failures).min(until(taken_until));
                        tracing::warn!(task_id = %claim.task_id(), %error, "the claim could not be renewed; trying again");
                    }
                    Err(error) => {
                        lost = true;
                        tracing::warn!(task_id = %claim.task_id(), %error, "the claim is lost");
                        control.send(why(&error, &claim));
                    }
                }
            }
        }
    }
}

/// A conflict means that the run was resolved by somebody else; whether by its deadline can be told here.
fn why(error: &QueueError, claim: &Claim) -> TaskEvent {
    match error {
        QueueError::Conflict { .. } if Utc::now() >= claim.task.deadline => TaskEvent::Deadline,
        QueueError::Conflict { .. } => TaskEvent::Cancelled,
        _ => TaskEvent::ClaimLost,
    }
}

/// Some time before a third of what is left is left; not the same for tasks that were claimed together.
fn before_expiry(taken_until: DateTime<Utc>) -> Duration {
    until(taken_until).mul_f64(rand::rng().random_range(0.5..0.62))
}

fn until(time: DateTime<Utc>) -> Duration {
    (time - Utc::now()).to_std().unwrap_or_default()
}
