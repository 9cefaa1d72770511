//! Running: the sandbox works, the plugins know that it does, and the host watches for what ends it early.

use std::sync::Arc;

use tcw_abi::ErrorKind;
use tcw_abi::engine::Sandbox;
use tcw_abi::services::LogLevel;

use super::call::{Callee, Calls};
use super::control::{TaskEvent, TaskState};
use super::exception::Interrupted;
use super::fault::Cause;
use super::guard::LentSandbox;
use super::prepared::lost;
use super::shared::{Task, explain};
use super::stopped::Stopped;

/// Between asking a sandbox that is out of time to end and making it.
const KILL_GRACE_MS: u64 = 5_000;

/// A task that runs.
pub(super) struct Running {
    pub(super) task: Arc<Task>,
    pub(super) engine: Callee,
    pub(super) sandbox: Arc<dyn Sandbox>,
}

impl Running {
    pub(super) async fn wait(self) -> Result<Stopped, Interrupted> {
        let Running {
            task,
            engine,
            sandbox,
        } = self;
        task.control.enter(TaskState::Running);
        let mut calls = Calls::new(&task);
        let lent = LentSandbox::new(Arc::clone(&sandbox), &task);
        for member in task.remains.members() {
            let (task, stop, sandbox) = (Arc::clone(&task), calls.stop.clone(), lent.share());
            calls.begin(async move {
                let hook = async { member.plugin.started(sandbox).await };
                match task.hook(&member.callee, "started", &stop, hook).await {
                    // The plugin came to a sandbox that had ended: what `wait` brings is the result.
                    Err(fault) if fault.error.kind() == ErrorKind::SandboxTerminated => Ok(()),
                    outcome => outcome,
                }
            });
        }
        calls.begin({
            let (task, engine, stop) = (Arc::clone(&task), engine.clone(), calls.stop.clone());
            let sandbox = Arc::clone(&sandbox);
            async move {
                let call = {
                    let task = Arc::clone(&task);
                    async move {
                        let results = sandbox.wait().await?;
                        task.remains.put_results(results).await
                    }
                };
                task.kept(&engine, "wait", &stop, None, call).await
            }
        });
        let mut out_of_time = false;
        loop {
            tokio::select! {
                biased;
                event = task.control.given_up() => {
                    return Err(Interrupted::new(task, calls, Cause::Event(event)));
                }
                end = calls.next() => match end {
                    None => break,
                    Some(None) => {}
                    Some(Some(fault)) => return Err(Interrupted::of_fault(task, calls, fault)),
                },
                event = task.control.out_of_time(), if !out_of_time => {
                    out_of_time = true;
                    kill(&task, &engine, &sandbox, &mut calls, event).await;
                }
            }
        }
        match task.remains.results() {
            Some(results) => Ok(Stopped::new(task, results)),
            None => Err(lost(task, calls, "result set")),
        }
    }
}

/// Ends a sandbox whose time is over. Its results are kept, and are not a success.
async fn kill(
    task: &Arc<Task>,
    engine: &Callee,
    sandbox: &Arc<dyn Sandbox>,
    calls: &mut Calls,
    event: TaskEvent,
) {
    let mut text = explain(event).to_owned();
    if let TaskEvent::MaxRunTime(limit) = event {
        text = format!("{text} Its maximum run time is {} s.", limit.as_secs());
    }
    task.say(LogLevel::Error, text).await;
    let (task, engine, stop) = (Arc::clone(task), engine.clone(), calls.stop.clone());
    let sandbox = Arc::clone(sandbox);
    calls.begin(async move {
        let reason = "max run time exceeded".to_owned();
        let call = async move { sandbox.kill(reason, KILL_GRACE_MS).await };
        let bound = Some(task.env.deadlines.call);
        match task.kept(&engine, "kill", &stop, bound, call).await {
            // It ended by itself in time after all.
            Err(fault) if fault.error.kind() == ErrorKind::SandboxTerminated => Ok(()),
            outcome => outcome,
        }
    });
}
