//! The two ends of a task: what the worker tells it, and what the worker can see of it.
//!
//! Whatever ends a task early arrives as one [`TaskEvent`], in whichever state the task is. What the task is doing is a
//! [`TaskStatus`] that anybody may watch; it holds the report as soon as the task is resolved, and that is when its
//! slot is free: cleaning up goes on without it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tcw_abi::services::CancelReason;
use tokio::sync::watch;

use super::report::TaskReport;
use crate::fault_point::fault_point;

/// Something from outside that a task has to react to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// Somebody cancelled the task.
    Cancelled,
    /// Its deadline has passed.
    Deadline,
    /// The claim could not be renewed.
    ClaimLost,
    /// The worker has to stop now.
    WorkerShutdown,
    /// It has run for as long as it may: its sandbox is killed, what it left is kept, and it has failed. Has no effect
    /// before the sandbox runs and after it has ended.
    MaxRunTime(Duration),
}

impl TaskEvent {
    /// An event replaces one of a lower rank only: a task that was cancelled stays cancelled when the worker stops.
    fn rank(self) -> u8 {
        match self {
            TaskEvent::MaxRunTime(_) => 0,
            TaskEvent::WorkerShutdown => 1,
            TaskEvent::Cancelled | TaskEvent::Deadline | TaskEvent::ClaimLost => 2,
        }
    }

    /// Whether the task is to be given up, instead of being brought to a result.
    fn gives_up(self) -> bool {
        self.rank() > 0
    }

    /// Whether the queue has resolved the run, or is about to.
    pub(super) fn is_elsewhere(self) -> bool {
        self.rank() > 1
    }

    /// What libraries are told.
    pub(super) fn cancel_reason(self) -> CancelReason {
        match self {
            TaskEvent::Cancelled => CancelReason::Cancelled,
            TaskEvent::Deadline => CancelReason::Deadline,
            TaskEvent::ClaimLost => CancelReason::ClaimLost,
            TaskEvent::WorkerShutdown => CancelReason::WorkerShutdown,
            TaskEvent::MaxRunTime(_) => CancelReason::Unknown,
        }
    }
}

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Taken from the queue; payload, plugins and sandbox builder are being prepared.
    Claimed,
    /// Plugins are adding to the sandbox.
    Prepared,
    /// The sandbox is being started.
    Built,
    /// It runs.
    Running,
    /// It has ended; plugins are collecting what it left.
    Stopped,
    /// The log is closed and being published.
    Finished,
    /// It ends without a verdict of its own.
    Exception,
    /// The queue knows (or need not be told). The slot is free.
    Resolved,
    /// Everything is cleaned up.
    Disposed,
}

/// What can be seen of a task from outside.
#[derive(Clone, Debug)]
pub struct TaskStatus {
    /// Where it is.
    pub state: TaskState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Whether the worker has begun to report how it ended. The run may be over for the queue from then on, because of
    /// that report, although no answer has come yet.
    pub reporting: bool,
    /// The worst so far that concerns the whole worker.
    pub alarm: Option<Alarm>,
    /// How it ended, once it is resolved. Cleaning up may still add to it.
    pub report: Option<TaskReport>,
}

/// What has gone wrong in a task and cannot wait for its end, which may be far if the queue is away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// This library panicked or hung.
    Unhealthy(String),
    /// The worker cannot go on.
    Fatal,
}

/// Makes the two ends.
pub fn task_control() -> (TaskControl, TaskControlReceiver) {
    let (send_event, events) = watch::channel(None);
    let first = TaskStatus {
        state: TaskState::Claimed,
        since: Utc::now(),
        reporting: false,
        alarm: None,
        report: None,
    };
    let (send_status, status) = watch::channel(first);
    let control = TaskControl {
        events: send_event,
        status,
    };
    (
        control,
        TaskControlReceiver {
            events,
            status: send_status,
        },
    )
}

/// The worker's end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskControl {
    events: watch::Sender<Option<TaskEvent>>,
    status: watch::Receiver<TaskStatus>,
}

impl TaskControl {
    /// Tells the task. Events that change nothing any more are dropped; so are those for a task that has ended.
    pub fn send(&self, event: TaskEvent) {
        self.events.send_if_modified(|current| {
            let replaces = current.is_none_or(|current| current.rank() < event.rank());
            if replaces {
                *current = Some(event);
            }
            replaces
        });
    }

    /// What the task is doing.
    pub fn status(&self) -> TaskStatus {
        self.status.borrow().clone()
    }

    /// To follow what it is doing.
    pub fn watch(&self) -> watch::Receiver<TaskStatus> {
        self.status.clone()
    }

    /// Waits until the task is resolved, which is when its slot is free. `None` if it never will be, because
    /// [`run`](super::run) was never called or its runtime is gone.
    pub async fn resolved(&self) -> Option<TaskReport> {
        let mut status = self.status.clone();
        let status = status.wait_for(|status| status.report.is_some()).await.ok()?;
        status.report.clone()
    }

    /// Waits for an alarm that is worse than this. `None` when there will be none any more.
    pub async fn alarmed(&self, beyond: Option<Alarm>) -> Option<Alarm> {
        let mut status = self.status.clone();
        let status = status.wait_for(|status| status.alarm > beyond).await.ok()?;
        status.alarm.clone()
    }

    /// Waits until the task is in `state`, or beyond it in the order of a task that ends well.
    pub async fn reached(&self, state: TaskState) {
        let mut status = self.status.clone();
        // A task that is gone is beyond everything.
        let _ = status.wait_for(|status| status.state as u8 >= state as u8).await;
    }
}

/// The task's end, for [`run`](super::run).
#[derive(Debug)]
pub struct TaskControlReceiver {
    events: watch::Receiver<Option<TaskEvent>>,
    status: watch::Sender<TaskStatus>,
}

impl TaskControlReceiver {
    /// Waits for an event that gives the task up.
    pub(super) async fn given_up(&self) -> TaskEvent {
        self.wait_for(TaskEvent::gives_up).await
    }

    /// Waits for an event after which the queue takes no report.
    pub(super) async fn resolved_elsewhere(&self) -> TaskEvent {
        self.wait_for(TaskEvent::is_elsewhere).await
    }

    /// Whether there was such an event.
    pub(super) fn is_resolved_elsewhere(&self) -> bool {
        self.events.borrow().is_some_and(TaskEvent::is_elsewhere)
    }

    /// Waits for the end of the task's time to run.
    pub(super) async fn out_of_time(&self) -> TaskEvent {
        self.wait_for(|event| !event.gives_up()).await
    }

    async fn wait_for(&self, wanted: impl Fn(TaskEvent) -> bool) -> TaskEvent {
        let mut events = self.events.clone();
        let found = match events.wait_for(|event| event.is_some_and(&wanted)).await {
            Ok(event) => *event,
            Err(_) => None,
        };
        match found {
            Some(event) => event,
            // Nobody is left who could send one.
            None => std::future::pending().await,
        }
    }

    /// The event that gives the task up, if it has come.
    pub(super) fn has_been_given_up(&self) -> Option<TaskEvent> {
        (*self.events.borrow()).filter(|event| event.gives_up())
    }

    /// The event that counts, if there is one.
    #[cfg(test)]
    pub(crate) fn event(&self) -> Option<TaskEvent> {
        *self.events.borrow()
    }

    /// Where the task is.
    pub(super) fn state(&self) -> TaskState {
        self.status.borrow().state
    }

    pub(super) fn enter(&self, state: TaskState) {
        self.status.send_modify(|status| {
            status.state = state;
            status.since = Utc::now();
        });
        fault_point!("task.{state:?}");
    }

    /// Something concerns the whole worker.
    pub(super) fn alarm(&self, alarm: Alarm) {
        self.status.send_if_modified(|status| {
            let alarm = Some(alarm);
            let worse = alarm > status.alarm;
            if worse {
                status.alarm = alarm;
            }
            worse
        });
    }

    /// The report is about to be sent.
    pub(crate) fn begin_report(&self) {
        fault_point!("task.reporting");
        self.status.send_modify(|status| status.reporting = true);
    }

    /// The task is resolved.
    pub(super) fn publish(&self, report: TaskReport) {
        self.publish_in(TaskState::Resolved, report);
    }

    /// It is cleaned up, too.
    pub(super) fn publish_disposed(&self, report: TaskReport) {
        self.publish_in(TaskState::Disposed, report);
    }

    /// The report, if the task is resolved.
    pub(super) fn published(&self) -> Option<TaskReport> {
        self.status.borrow().report.clone()
    }

    fn publish_in(&self, state: TaskState, report: TaskReport) {
        self.status.send_modify(|status| {
            status.state = state;
            status.since = Utc::now();
            status.report = Some(report);
        });
        fault_point!("task.{state:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_was_cancelled_stays_cancelled_when_the_worker_stops() {
        let (control, receiver) = task_control();
        control.send(TaskEvent::MaxRunTime(Duration::from_secs(1)));
        assert_eq!(receiver.has_been_given_up(), None);
        control.send(TaskEvent::WorkerShutdown);
        assert_eq!(receiver.has_been_given_up(), Some(TaskEvent::WorkerShutdown));
        control.send(TaskEvent::Cancelled);
        control.send(TaskEvent::WorkerShutdown);
        control.send(TaskEvent::Deadline);
        assert_eq!(receiver.has_been_given_up(), Some(TaskEvent::Cancelled));
    }
}
