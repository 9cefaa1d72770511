//! What the queue says of the tasks that run here.

use crate::queue::{RunId, RunState, TaskStatus};
use crate::task::TaskEvent;

/// Reasons that only the worker that has the claim gives: the queue has taken our report, though its answer may have
/// been lost.
const OURS: [&str; 5] = [
    "malformed-payload",
    "worker-shutdown",
    "internal-error",
    "resource-unavailable",
    "intermittent-task",
];

/// The event for a task whose run was ended by somebody else although it still runs here; `None` if all is well, and
/// if the end is the one that we reported.
pub(super) fn event_for(status: &TaskStatus, run: RunId) -> Option<TaskEvent> {
    let state = status.run(run)?;
    match state.state {
        RunState::Running | RunState::Completed | RunState::Failed => None,
        RunState::Pending => Some(TaskEvent::ClaimLost),
        RunState::Exception => match state.reason_resolved.as_deref() {
            Some("canceled") => Some(TaskEvent::Cancelled),
            Some("deadline-exceeded") => Some(TaskEvent::Deadline),
            Some(reason) if OURS.contains(&reason) => None,
            _ => Some(TaskEvent::ClaimLost),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn our_own_report_is_no_news_and_what_others_did_is() {
        let event = |state: &str, reason: &str| {
            let later = chrono::Utc::now();
            let status = serde_json::from_value(json!({
                "taskId": crate::queue::TaskId::random(), "taskQueueId": "a/b", "state": state, "retriesLeft": 5,
                "deadline": later, "expires": later,
                "runs": [{
                    "runId": 0, "state": state, "reasonCreated": "scheduled", "reasonResolved": reason,
                    "scheduled": later,
                }],
            }))
            .unwrap();
            event_for(&status, RunId(0))
        };
        assert_eq!(event("completed", "completed"), None);
        assert_eq!(event("failed", "failed"), None);
        for reason in OURS {
            assert_eq!(event("exception", reason), None, "{reason}");
        }
        assert_eq!(event("exception", "canceled"), Some(TaskEvent::Cancelled));
        assert_eq!(event("exception", "deadline-exceeded"), Some(TaskEvent::Deadline));
        assert_eq!(event("exception", "claim-expired"), Some(TaskEvent::ClaimLost));
        assert_eq!(event("exception", "of-tomorrow"), Some(TaskEvent::ClaimLost));
    }
}
