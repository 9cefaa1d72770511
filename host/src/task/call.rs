//! Calls into libraries: how long they may take, what becomes of panics, and how they end when the task is given up.
//!
//! A *hook* may be dropped. A *kept* call makes or removes something, and is never dropped: it runs on as a task of
//! its own, and what it makes after nobody waits any more is cleaned up by whoever receives it. Both return within a
//! bound once [`Stop`] was said, so that the states can simply wait for their calls.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tcw_abi::Result;
use tcw_abi::services::CancelReason;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::shared::Task;
use crate::services::context::Activity;

/// Who is called, and under which name it appears in messages.
#[derive(Clone)]
pub(super) struct Callee {
    pub(super) library: String,
    /// Such as `Plugin 'artifacts'`.
    pub(super) name: String,
    pub(super) activity: Arc<Activity>,
}

impl Callee {
    pub(super) fn place(&self, call: &str) -> String {
        format!("{}, {call}", self.name)
    }
}

/// Calls that belong together.
pub(super) struct Calls {
    set: JoinSet<Option<Fault>>,
    pub(super) stop: Stop,
}

/// Says to calls that the task is given up.
#[derive(Clone)]
pub(super) struct Stop {
    token: CancellationToken,
    hook_grace: Duration,
    call_grace: Duration,
}

impl Stop {
    pub(super) async fn heard(&self) {
        self.token.cancelled().await;
    }

    async fn and_then(&self, grace: Duration) {
        self.token.cancelled().await;
        tokio::time::sleep(grace).await;
    }
}

impl Calls {
    pub(super) fn new(task: &Task) -> Self {
        let deadlines = &task.env.deadlines;
        Calls {
            set: JoinSet::new(),
            stop: Stop {
                token: CancellationToken::new(),
                hook_grace: deadlines.hook_grace,
                call_grace: deadlines.call_grace,
            },
        }
    }

    /// Calls whose hooks end at once when they are told to stop.
    pub(super) fn without_grace(task: &Task) -> Self {
        let mut calls = Calls::new(task);
        calls.stop.hook_grace = Duration::ZERO;
        calls
    }

    /// Begins a call. A panic in the host's part of it is a fault, too.
    pub(super) fn begin(&mut self, call: impl Future<Output = Result<(), Fault>> + Send + 'static) {
        self.set.spawn(async move {
            match AssertUnwindSafe(call).catch_unwind().await {
                Ok(outcome) => outcome.err(),
                Err(payload) => Some(Fault::panicked("", "the host", payload)),
            }
        });
    }

    /// The end of any call; `None` when all have ended.
    pub(super) async fn next(&mut self) -> Option<Option<Fault>> {
        match self.set.join_next().await? {
            Ok(fault) => Some(fault),
            // The runtime is going away.
            Err(_) => Some(None),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// From now on, calls end within the grace.
    pub(super) fn stop(&self) {
        self.stop.token.cancel();
    }

    /// What went wrong in the calls that are left.
    pub(super) async fn rest(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        while let Some(end) = self.next().await {
            faults.extend(end);
        }
        faults
    }
}

impl Task {
    /// A call that may be dropped.
    pub(super) async fn hook<T>(
        &self,
        callee: &Callee,
        call: &str,
        stop: &Stop,
        future: impl Future<Output = Result<T>> + Send,
    ) -> Result<T, Fault> {
        let bound = self.env.deadlines.call;
        tokio::select! {
            biased;
            outcome = AssertUnwindSafe(future).catch_unwind() => settled(callee, call, outcome),
            () = idle(&callee.activity, bound) => {
                Err(Fault::hung(&callee.library, &callee.place(call), &within(bound)))
            }
            () = stop.and_then(stop.hook_grace) => Err(Fault::given_up(&callee.library, &callee.place(call))),
        }
    }

    /// A call that is never dropped. When it has taken too long, the task's cancellation is fired, which the library
    /// may heed; after the grace the call is left to itself. `bound` is `None` for a call that may take for ever.
    pub(super) async fn kept<T: Send + 'static>(
        &self,
        callee: &Callee,
        call: &str,
        stop: &Stop,
        bound: Option<Duration>,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T, Fault> {
        let mut running = tokio::spawn(AssertUnwindSafe(future).catch_unwind());
        let overdue = AtomicBool::new(false);
        let too_long = async {
            match bound {
                Some(bound) => {
                    idle(&callee.activity, bound).await;
                    tracing::warn!(
                        task_id = %self.claim.task_id(),
                        run_id = self.claim.run_id.0,
                        library = callee.library,
                        "{} takes too long: the task is cancelled",
                        callee.place(call)
                    );
                    overdue.store(true, Ordering::Release);
                    self.services.cancel(CancelReason::InternalError);
                    tokio::time::sleep(stop.call_grace).await;
                    within(bound)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = &mut running => match outcome {
                // What it made is kept by now and will be given back. The task, which was told to end, ends.
                Ok(Ok(_)) if overdue.load(Ordering::Acquire) => {
                    Err(Fault::overdue(&callee.library, &callee.place(call)))
                }
                Ok(outcome) => settled(callee, call, outcome),
                Err(_) => Err(Fault::given_up(&callee.library, &callee.place(call))),
            },
            after = too_long => Err(Fault::hung(&callee.library, &callee.place(call), &after)),
            () = stop.and_then(stop.call_grace) => {
                let after = format!("within {} s after the task was given up", stop.call_grace.as_secs_f64());
                Err(Fault::hung(&callee.library, &callee.place(call), &after))
            }
        }
    }
}

fn settled<T>(callee: &Callee, call: &str, outcome: std::thread::Result<Result<T>>) -> Result<T, Fault> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Fault::answered(&callee.library, &callee.place(call), error)),
        Err(payload) => Err(Fault::panicked(&callee.library, &callee.place(call), payload)),
    }
}

fn within(bound: Duration) -> String {
    format!(
        "within {} s, nor used the host's services meanwhile",
        bound.as_secs_f64()
    )
}

/// Returns when the library has neither returned nor used services for `bound`.
async fn idle(activity: &Activity, bound: Duration) {
    let begun = tokio::time::Instant::now();
    loop {
        let until = begun.max(activity.last()) + bound;
        if until <= tokio::time::Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}
