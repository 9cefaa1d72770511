//! What goes on behind the calls of the host and has to be over before the engine is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// One for each engine; its sandboxes share it.
pub(crate) struct Background {
    /// Tasks whose processes and directory are not cleared away yet.
    unfinished: watch::Sender<usize>,
}

impl Background {
    pub(crate) fn new() -> Arc<Background> {
        Arc::new(Background {
            unfinished: watch::Sender::new(0),
        })
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
