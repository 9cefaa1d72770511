//! Exception: the one way out for a task that does not get to a verdict, from whichever state.
//!
//! What is still going on is stopped and waited for, within a bound; the sandbox is aborted, since no engine watches
//! for that itself; the log is closed; the plugins publish what they have, within a bound; the queue is told. When the
//! worker shuts down the queue is told first, while everything is stopped, because there may be no time for the rest.

use std::sync::Arc;

use tcw_abi::services::CancelReason;
use tcw_abi::{Error, ErrorKind, Handling};

use super::call::{Callee, Calls};
use super::control::{TaskEvent, TaskState};
use super::disposed::Resolved;
use super::fault::{Cause, Fault};
use super::report::Resolution;
use super::shared::{Task, explain};
use super::stopped::Closed;
use crate::queue::ExceptionReason;
use crate::services::context::Activity;

/// A task that does not go on, with the calls that are still running.
pub(super) struct Interrupted {
    task: Arc<Task>,
    calls: Calls,
    cause: Cause,
}

/// Where an interrupted task goes.
pub(super) enum End {
    /// It had no verdict.
    Resolved(Resolved),
    /// It has: it failed.
    Failed(Closed),
}

impl Interrupted {
    pub(super) fn new(task: Arc<Task>, calls: Calls, cause: Cause) -> Self {
        Interrupted { task, calls, cause }
    }

    pub(super) fn of_fault(task: Arc<Task>, calls: Calls, fault: Fault) -> Self {
        let cause = match task.cause(vec![fault]) {
            Some(cause) => cause,
            // There is always a cause for a fault.
            None => Cause::Exception(ExceptionReason::InternalError, Error::internal("unknown")),
        };
        Interrupted { task, calls, cause }
    }

    pub(super) async fn end(self) -> End {
        let Interrupted { task, calls, cause } = self;
        let (reason, lines) = match cause {
            Cause::Failed(text) => {
                quiet(&task, calls, None).await;
                return End::Failed(Closed::failed(task, text));
            }
            Cause::Event(event) => (Reason::of_event(event), vec![explain(event).to_owned()]),
            Cause::Exception(reason, error) => (Reason::Ours(reason), lines(&task, &error)),
        };
        task.control.enter(TaskState::Exception);
        let event = match cause_event(&reason) {
            Some(event) => Some(event),
            None => task.control.has_been_given_up(),
        };
        if let Some(event) = event {
            task.services.cancel(event.cancel_reason());
        }
        let early = match reason {
            Reason::Ours(reason @ ExceptionReason::WorkerShutdown) => {
                // The report begins first. A queue that does not answer must not keep what runs from being ended, as
                // the process may not be there for much longer.
                let report = task.tell_queue(Resolution::Exception(reason));
                let (told, ()) = tokio::join!(report, quiet(&task, calls, event));
                Some(told)
            }
            _ => {
                quiet(&task, calls, event).await;
                None
            }
        };
        task.end_log(&lines).await;
        // Nobody waits long for uploads to a queue that is away.
        let untold = early
            .is_some_and(|(resolution, reported)| !reported && resolution != Resolution::ResolvedElsewhere);
        let unreachable = untold || task.control.has_been_given_up() == Some(TaskEvent::ClaimLost);
        publish(&task, reason.for_plugins(), unreachable).await;
        let (resolution, reported) = match early {
            Some(told) => told,
            None => task.tell_queue(reason.resolution()).await,
        };
        End::Resolved(Resolved::new(task, resolution, reported))
    }
}

/// Why there is no verdict.
#[derive(Clone, Copy)]
enum Reason {
    Ours(ExceptionReason),
    Elsewhere(TaskEvent),
}

impl Reason {
    fn of_event(event: TaskEvent) -> Self {
        match event {
            TaskEvent::WorkerShutdown => Reason::Ours(ExceptionReason::WorkerShutdown),
            event => Reason::Elsewhere(event),
        }
    }

    fn resolution(self) -> Resolution {
        match self {
            Reason::Ours(reason) => Resolution::Exception(reason),
            Reason::Elsewhere(_) => Resolution::ResolvedElsewhere,
        }
    }

    fn for_plugins(self) -> tcw_abi::plugin::ExceptionReason {
        use tcw_abi::plugin::ExceptionReason as Told;
        match self {
            Reason::Elsewhere(_) => Told::Cancelled,
            Reason::Ours(ExceptionReason::WorkerShutdown) => Told::WorkerShutdown,
            Reason::Ours(ExceptionReason::MalformedPayload) => Told::MalformedPayload,
            Reason::Ours(ExceptionReason::ResourceUnavailable) => Told::ResourceUnavailable,
            Reason::Ours(ExceptionReason::InternalError) => Told::InternalError,
            Reason::Ours(ExceptionReason::IntermittentTask) => Told::IntermittentTask,
        }
    }
}

fn cause_event(reason: &Reason) -> Option<TaskEvent> {
    match reason {
        Reason::Elsewhere(event) => Some(*event),
        Reason::Ours(ExceptionReason::WorkerShutdown) => Some(TaskEvent::WorkerShutdown),
        Reason::Ours(_) => None,
    }
}

/// What the task's author reads.
fn lines(task: &Task, error: &Error) -> Vec<String> {
    if !matches!(error.kind().handling(), Handling::NonFatal | Handling::Fatal) {
        return vec![error.message().to_owned()];
    }
    // What went wrong inside the worker may name things that are nobody's business outside of it.
    let incident = task.incident().unwrap_or_default();
    vec![format!(
        "The worker has failed, not the task. Incident {incident}: the worker's operator finds it under this id in the \
         worker's log."
    )]
}

/// Stops whatever is going on: within a bound nothing of the task runs any more.
async fn quiet(task: &Arc<Task>, mut calls: Calls, event: Option<TaskEvent>) {
    let sandbox = task.remains.sandbox();
    if event.is_none() && (sandbox.is_some() || !calls.is_empty()) {
        task.services.cancel(CancelReason::InternalError);
    }
    calls.stop();
    let late = tokio::join!(calls.rest(), abort(task)).0;
    if sandbox.is_none() {
        // It may have been started while everything else stopped.
        abort(task).await;
    }
    task.note_late(&late);
}

/// Aborts the sandbox, if there is one that runs.
async fn abort(task: &Arc<Task>) {
    let Some(sandbox) = task.remains.sandbox() else {
        return;
    };
    let calls = Calls::new(task);
    let stop = calls.stop.clone();
    calls.stop();
    let engine = Callee {
        library: task.env.engine.library.clone(),
        name: format!("engine '{}'", task.env.engine.name),
        activity: Arc::new(Activity::default()),
    };
    let call = {
        let task = Arc::clone(task);
        async move {
            match sandbox.abort().await {
                Ok(()) => {
                    task.remains.aborted();
                    Ok(())
                }
                // It ended by itself first, and `wait` brings what it left; or somebody else was faster.
                Err(error) if error.kind() == ErrorKind::SandboxTerminated => {
                    let results = sandbox.wait().await?;
                    task.remains.put_results(results).await
                }
                Err(error) if error.kind() == ErrorKind::SandboxAborted => {
                    task.remains.aborted();
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
    };
    if let Err(fault) = task.kept(&engine, "abort", &stop, None, call).await {
        // A sandbox that cannot be ended is the worker's problem, whatever the task's was.
        task.note(&[fault]);
    }
}

/// Lets the plugins publish what they have; when the queue is `unreachable`, for no longer than any hook has to end.
async fn publish(task: &Arc<Task>, reason: tcw_abi::plugin::ExceptionReason, unreachable: bool) {
    let mut calls = Calls::without_grace(task);
    for member in task.remains.members() {
        let (task, stop) = (Arc::clone(task), calls.stop.clone());
        calls.begin(async move {
            let hook = async { member.plugin.exception(reason).await };
            task.hook(&member.callee, "exception", &stop, hook).await
        });
    }
    let deadlines = &task.env.deadlines;
    let bound = if unreachable {
        deadlines.exception.min(deadlines.hook_grace)
    } else {
        deadlines.exception
    };
    let mut faults = Vec::new();
    let all = async {
        while let Some(end) = calls.next().await {
            faults.extend(end);
        }
    };
    // Whoever heeds cancellations need not be waited for until the bound.
    let given_up = async {
        let event = task.control.given_up().await;
        task.services.cancel(event.cancel_reason());
        std::future::pending::<()>().await;
    };
    let published = async {
        tokio::select! {
            () = all => {}
            () = given_up => {}
        }
    };
    // What is left then is told to stop, below.
    let _ = tokio::time::timeout(bound, published).await;
    if !calls.is_empty() {
        tracing::warn!(
            task_id = %task.claim.task_id(),
            run_id = task.claim.run_id.0,
            "not everything was published within {} s: the rest is given up",
            bound.as_secs_f64()
        );
        calls.stop();
        faults.extend(calls.rest().await);
    }
    task.note(&faults);
}
