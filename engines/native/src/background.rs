//! What goes on behind the calls of the host and has to be over before the engine is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tcw_abi::{Error, Result};
use tokio::sync::{oneshot, watch};

/// Threads that end processes. More than one, so that a task whose processes wait for a broken device does not keep
/// the others from their end.
const REAPERS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// One for each engine; its sandboxes share it.
pub(crate) struct Background {
    /// Tasks whose processes and directory are not cleared away yet.
    unfinished: watch::Sender<usize>,
    /// To the reapers, which end with it.
    jobs: mpsc::Sender<Job>,
}

impl Background {
    pub(crate) fn new() -> Result<Arc<Background>> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..REAPERS {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name("tcw-reaper".into())
                .spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = next else {
                            return;
                        };
                        // Whoever waits for the job sees its panic by the missing answer.
                        let _ = catch_unwind(AssertUnwindSafe(job));
                    }
                })
                .map_err(|error| Error::fatal(format!("a thread cannot be made: {error}")))?;
        }
        Ok(Arc::new(Background {
            unfinished: watch::Sender::new(0),
            jobs,
        }))
    }

    /// Runs what ends processes, on a thread that is there already: a task that has made as many processes as the
    /// machine allows leaves no room for a new one.
    pub(crate) async fn reap<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lost = |_| Error::internal("a thread of the native engine broke down while it ended processes");
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody may wait for it any more; it is done all the same.
            let _ = answer.send(work());
        });
        self.jobs
            .send(job)
            .map_err(|_| Error::internal("the threads that end processes are gone"))?;
        answered.await.map_err(lost)?
    }

    /// Something is unfinished until the answer is dropped, by a panic if need be.
    pub(crate) fn begin(self: &Arc<Self>) -> Unfinished {
        self.unfinished.send_modify(|count| *count += 1);
        Unfinished(Arc::clone(self))
    }

    /// Waits until nothing is unfinished. Answers how much still is when the bound is reached.
    pub(crate) async fn finished(&self, bound: Duration) -> usize {
        let mut unfinished = self.unfinished.subscribe();
        // The sender lives in `self`, so the only end without success is the bound.
        let _ = tokio::time::timeout(bound, unfinished.wait_for(|count| *count == 0)).await;
        *self.unfinished.borrow()
    }
}

pub(crate) struct Unfinished(Arc<Background>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.unfinished.send_modify(|count| *count -= 1);
    }
}
