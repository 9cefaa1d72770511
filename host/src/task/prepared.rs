//! Prepared: the plugins add to the sandbox, all at one time.

use std::sync::Arc;

use tcw_abi::Error;

use super::built::Built;
use super::call::{Callee, Calls};
use super::claimed::settle;
use super::control::TaskState;
use super::exception::Interrupted;
use super::fault::Fault;
use super::guard::LentBuilder;
use super::shared::Task;

/// A task with a sandbox builder.
pub(super) struct Prepared {
    pub(super) task: Arc<Task>,
    pub(super) engine: Callee,
    pub(super) engine_has_keys: bool,
}

impl Prepared {
    pub(super) async fn build(self) -> Result<Built, Interrupted> {
        let task = self.task;
        task.control.enter(TaskState::Prepared);
        let mut calls = Calls::new(&task);
        let Some(builder) = task.remains.builder() else {
            return Err(lost(task, calls, "sandbox builder"));
        };
        let lent = LentBuilder::new(builder, &task);
        for member in task.remains.members() {
            let (task, stop, builder) = (Arc::clone(&task), calls.stop.clone(), lent.share());
            calls.begin(async move {
                let hook = async { member.plugin.build_sandbox(builder).await };
                task.hook(&member.callee, "build_sandbox", &stop, hook)
                    .await
                    .map_err(|fault| fault.with_payload(member.has_keys))
            });
        }
        match settle(&task, &mut calls).await {
            Ok(()) => Ok(Built {
                task,
                engine: self.engine,
                engine_has_keys: self.engine_has_keys,
            }),
            Err(cause) => Err(Interrupted::new(task, calls, cause)),
        }
    }
}

/// The engine's object of this stage is not there: a defect of the host.
pub(super) fn lost(task: Arc<Task>, calls: Calls, what: &str) -> Interrupted {
    let fault = Fault::of_host(Error::internal(format!("the task has lost its {what}")));
    Interrupted::of_fault(task, calls, fault)
}
