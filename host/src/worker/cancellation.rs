//! What the queue says of the tasks that run here.

use crate::queue::{RunId, RunState, TaskStatus};
use crate::task::TaskEvent;

/// The event for a task whose run is over although it still runs here; `None` if all is well.
pub(super) fn event_for(status: &TaskStatus, run: RunId) -> Option<TaskEvent> {
    let state = status.run(run)?;
    if state.state == RunState::Running {
        return None;
    }
    Some(match state.reason_resolved.as_deref() {
        Some("canceled") => TaskEvent::Cancelled,
        Some("deadline-exceeded") => TaskEvent::Deadline,
        _ => TaskEvent::ClaimLost,
    })
}
