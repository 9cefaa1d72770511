//! Stopped: the sandbox has ended; the plugins take what they need from it and say whether the task succeeded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tcw_abi::engine::ResultSet;
use tcw_abi::{Error, ErrorKind};

use super::call::Calls;
use super::claimed::all;
use super::control::TaskState;
use super::exception::Interrupted;
use super::fault::{Cause, Fault};
use super::finished::Finished;
use super::guard::LentResults;
use super::shared::Task;

/// A task whose sandbox has ended by itself, or was killed.
pub(super) struct Stopped {
    task: Arc<Task>,
    results: Arc<dyn ResultSet>,
}

impl Stopped {
    pub(super) fn new(task: Arc<Task>, results: Arc<dyn ResultSet>) -> Self {
        Stopped { task, results }
    }

    pub(super) async fn collect(self) -> Result<Closed, Interrupted> {
        let Stopped { task, results } = self;
        task.control.enter(TaskState::Stopped);
        let report = results.report();
        let success = Arc::new(AtomicBool::new(report.success));
        task.note_sandbox(report);
        let mut calls = Calls::new(&task);
        let lent = LentResults::new(results, &task);
        for member in task.remains.members() {
            let (task, stop, results) = (Arc::clone(&task), calls.stop.clone(), lent.share());
            let success = Arc::clone(&success);
            calls.begin(async move {
                let hook = async { member.plugin.stopped(results).await };
                if !task.hook(&member.callee, "stopped", &stop, hook).await? {
                    success.store(false, Ordering::Release);
                }
                Ok(())
            });
        }
        let cause = match all(&task, &mut calls).await {
            Ok(faults) => task.cause(faults),
            Err(cause) => Some(cause),
        };
        let (success, lines) = match cause {
            None => (success.load(Ordering::Acquire), Vec::new()),
            Some(Cause::Failed(text)) => (false, vec![text]),
            Some(cause) => return Err(Interrupted::new(task, calls, cause)),
        };
        Ok(Closed {
            task,
            success,
            lines,
            results: Some(lent),
        })
    }
}

/// A task with a verdict, whose log is about to be closed.
pub(super) struct Closed {
    task: Arc<Task>,
    success: bool,
    lines: Vec<String>,
    results: Option<LentResults>,
}

impl Closed {
    /// A task that has failed before it had a result.
    pub(super) fn failed(task: Arc<Task>, text: String) -> Self {
        Closed {
            task,
            success: false,
            lines: vec![text],
            results: None,
        }
    }

    pub(super) async fn finish(self) -> Result<Finished, Interrupted> {
        let Closed {
            task,
            mut success,
            lines,
            results,
        } = self;
        task.end_log(&lines).await;
        task.control.enter(TaskState::Finished);
        let mut calls = Calls::new(&task);
        if let Some(why) = task.services.log().failure() {
            // Half a log is worse than another run.
            let error = Error::new(ErrorKind::ResourceUnavailable, why);
            return Err(Interrupted::of_fault(task, calls, Fault::of_host(error)));
        }
        for member in task.remains.members() {
            let (task, stop) = (Arc::clone(&task), calls.stop.clone());
            calls.begin(async move {
                let hook = async { member.plugin.finished(success).await };
                task.hook(&member.callee, "finished", &stop, hook).await
            });
        }
        let cause = match all(&task, &mut calls).await {
            Ok(faults) => task.cause(faults),
            Err(cause) => Some(cause),
        };
        // Until here, and no longer, plugins may read what the sandbox left.
        drop(results);
        match cause {
            None => {}
            Some(Cause::Failed(text)) => {
                tracing::info!(task_id = %task.claim.task_id(), text, "the task failed after its log was closed");
                success = false;
            }
            Some(cause) => return Err(Interrupted::new(task, calls, cause)),
        }
        Ok(Finished { task, success })
    }
}
