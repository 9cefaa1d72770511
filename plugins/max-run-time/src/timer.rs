//! The timer of one running task: it either ends the task, or is stopped first; never both, and nothing is left of it.

use std::sync::Arc;
use std::time::Duration;

use tcw_abi::ErrorKind;
use tcw_abi::engine::Sandbox;
use tcw_abi::services::TaskContext;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the author of the task reads, in generic-worker's words: tools look for them.
const REASON: &str = "Task aborted - max run time exceeded";
/// How long processes have to end by themselves, in milliseconds.
const GRACE_MS: u64 = 10_000;
/// Between two attempts to end a sandbox whose engine would not.
const AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The time is running.
    Armed,
    /// It is over, and the author of the task is being told.
    Over,
    /// It is over, and the author of the task was told.
    Told,
    /// The task ended first.
    Stopped,
}

pub(crate) struct Timer {
    phase: watch::Sender<Phase>,
    running: JoinHandle<()>,
}

impl Timer {
    /// Gives the sandbox that long from now.
    pub(crate) fn start(limit: Duration, task: Arc<dyn TaskContext>, sandbox: Arc<dyn Sandbox>) -> Self {
        let phase = watch::Sender::new(Phase::Armed);
        let running = tokio::spawn(run(limit, phase.clone(), task, sandbox));
        Timer { phase, running }
    }

    /// The sandbox has ended, or somebody else ends it. Answers whether its time was over; then the task log says so
    /// by now. The sandbox is let go of before this returns.
    pub(crate) async fn stop(mut self) -> bool {
        let over = !advance(&self.phase, Phase::Armed, Phase::Stopped);
        if over {
            let mut phase = self.phase.subscribe();
            tokio::select! {
                // The sender is `self`'s own.
                _ = phase.wait_for(|phase| *phase == Phase::Told) => {}
                // Without its last phase only if it panicked.
                _ = &mut self.running => return true,
            }
        }
        self.running.abort();
        let _ = (&mut self.running).await;
        over
    }
}

impl Drop for Timer {
    /// Whoever forgets to stop it gets no late kill either.
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// From one phase to another; false if it was in neither. Whoever gets there first decides.
fn advance(phase: &watch::Sender<Phase>, from: Phase, to: Phase) -> bool {
    phase.send_if_modified(|phase| {
        let there = *phase == from;
        if there {
            *phase = to;
        }
        there
    })
}

async fn run(
    limit: Duration,
    phase: watch::Sender<Phase>,
    task: Arc<dyn TaskContext>,
    sandbox: Arc<dyn Sandbox>,
) {
    tokio::time::sleep(limit).await;
    if !advance(&phase, Phase::Armed, Phase::Over) {
        return;
    }
    if let Err(error) = task.log_error(REASON).await {
        tracing::warn!(%error, "the task log does not say that the task's time is over");
    }
    phase.send_replace(Phase::Told);
    let mut complained = false;
    loop {
        match sandbox.kill(REASON.to_owned(), GRACE_MS).await {
            Ok(()) => return,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::SandboxTerminated | ErrorKind::SandboxAborted
                ) =>
            {
                return;
            }
            // Giving up would let the task run for ever; the end of the task stops this.
            Err(error) if complained => tracing::debug!(%error, "the sandbox still cannot be ended"),
            Err(error) => {
                complained = true;
                tracing::error!(%error, "a sandbox whose time is over cannot be ended; trying again until it has");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
