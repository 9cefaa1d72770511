//! The lifecycle of one task.
//!
//! ```text
//! claimed -> prepared -> built -> running -> stopped -> finished -> resolved -> disposed
//!      \________\__________\_________\__________\______> exception(reason) -> resolved -> disposed
//! ```
//!
//! Each state is a type in a file of its own, and the method that leads on consumes it: an order that is not in the
//! picture does not compile. What they share is in [`shared`]; what the task has to give back in [`remains`]; calls into
//! libraries, with deadlines and panics, in [`call`]; what an error means in [`fault`]. The engine's objects reach
//! plugins only through [`guard`].
//!
//! What holds, whatever libraries do:
//!
//! - the queue hears of a run at most once from here, and never after somebody else has resolved it;
//! - `dispose` of every task plugin is called exactly once, after every other hook, and then what the engine made is
//!   given back;
//! - the log is closed before `finished` and before `exception`, and nothing of the task runs then;
//! - after an event that gives the task up, it is resolved within the sum of the graces in [`Deadlines`];
//! - a panic, also one in this module, ends that task only.

mod built;
mod call;
mod claimed;
mod control;
mod disposed;
mod environment;
mod exception;
mod fault;
mod finished;
mod guard;
mod prepared;
mod remains;
mod report;
mod running;
mod shared;
mod stopped;

use std::collections::BTreeSet;
use std::sync::Arc;

use tcw_abi::Error;

pub use control::{Alarm, TaskControl, TaskControlReceiver, TaskEvent, TaskState, TaskStatus, task_control};
pub use environment::{Deadlines, EngineSlot, PayloadCheck, PayloadParts, PluginSlot, TaskEnvironment};
pub use report::{Resolution, TaskReport, WorkerEffect};

use self::call::Calls;
use self::claimed::Claimed;
use self::disposed::Resolved;
use self::exception::{End, Interrupted};
use self::fault::{Fault, panic_text};
use self::finished::Finished;
use self::shared::Task;
use crate::queue::{Claim, ExceptionReason, QueueError, TaskQueue};

/// Runs a claimed task to its end, and cleans up after it.
///
/// The slot is free before this returns: [`TaskControl::resolved`] tells when. Dropping the future does not end the
/// task, which runs on a task of its own; [`TaskControl::send`] does. The claim is the caller's to renew meanwhile.
pub async fn run(
    env: Arc<TaskEnvironment>,
    claim: Claim,
    queue: Arc<dyn TaskQueue>,
    control: TaskControlReceiver,
) -> TaskReport {
    let (directory, log) = match shared::open_log(&env, &claim) {
        Ok(opened) => opened,
        Err(error) => return without_a_log(&claim, &*queue, control, error).await,
    };
    let task = Arc::new(Task::new(env, claim, queue, control, directory, log));
    let life = tokio::spawn(live(Arc::clone(&task)));
    match life.await {
        Ok(report) => report,
        Err(error) => rescue(task, error).await,
    }
}

async fn live(task: Arc<Task>) -> TaskReport {
    let mut verdict = to_verdict(Claimed::new(task)).await;
    let resolved = loop {
        verdict = match verdict {
            Ok(finished) => break finished.resolve().await,
            Err(interrupted) => match interrupted.end().await {
                End::Resolved(resolved) => break resolved,
                End::Failed(closed) => closed.finish().await,
            },
        };
    };
    resolved.dispose().await
}

/// The way of a task to which nothing happens.
async fn to_verdict(claimed: Claimed) -> Result<Finished, Interrupted> {
    let prepared = claimed.prepare().await?;
    let built = prepared.build().await?;
    let running = built.start().await?;
    let stopped = running.wait().await?;
    let closed = stopped.collect().await?;
    closed.finish().await
}

/// There is no place for the log, so the task is not begun: another worker may have one.
async fn without_a_log(
    claim: &Claim,
    queue: &dyn TaskQueue,
    control: TaskControlReceiver,
    error: Error,
) -> TaskReport {
    tracing::error!(
        task_id = %claim.task_id(),
        run_id = claim.run_id.0,
        %error,
        "the task's log cannot be opened; free space on the disk of the worker's state directory"
    );
    let reason = ExceptionReason::ResourceUnavailable;
    let (resolution, reported) = match queue.report_exception(reason).await {
        Ok(_) => (Resolution::Exception(reason), true),
        Err(QueueError::Conflict { .. }) => (Resolution::ResolvedElsewhere, false),
        Err(_) => (Resolution::Exception(reason), false),
    };
    let report = TaskReport {
        resolution,
        reported,
        incident: None,
        effect: WorkerEffect::NonFatal,
        unhealthy: BTreeSet::new(),
        sandbox: None,
    };
    control.publish(report.clone());
    control.publish_disposed(report.clone());
    report
}

/// The host itself has panicked in this task. What was held is in the shared part, so it can be given back.
async fn rescue(task: Arc<Task>, error: tokio::task::JoinError) -> TaskReport {
    let text = match error.try_into_panic() {
        Ok(payload) => format!("the host panicked in this task: {}", panic_text(payload)),
        Err(_) => "the runtime ended while the task ran".to_owned(),
    };
    let fault = Fault::of_host(Error::internal(text));
    task.services
        .cancel(tcw_abi::services::CancelReason::InternalError);
    if let Some(report) = task.control.published() {
        task.note(&[fault]);
        return Resolved::again(task, &report).dispose().await;
    }
    // No plugin publishes twice: only who has not begun with that does so now, and the author reads of the incident.
    if (task.control.state() as u8) < TaskState::Finished as u8 {
        let interrupted = Interrupted::of_fault(Arc::clone(&task), Calls::new(&task), fault);
        let ended = tokio::spawn(async move {
            match interrupted.end().await {
                End::Resolved(resolved) => Some(resolved),
                End::Failed(_) => None,
            }
        });
        if let Ok(Some(resolved)) = ended.await {
            return resolved.dispose().await;
        }
    } else {
        task.note(&[fault]);
    }
    let resolved = match task.control.published() {
        Some(report) => Resolved::again(Arc::clone(&task), &report),
        None => {
            let reason = Resolution::Exception(ExceptionReason::InternalError);
            let (resolution, reported) = task.tell_queue(reason).await;
            Resolved::new(Arc::clone(&task), resolution, reported)
        }
    };
    resolved.dispose().await
}
