//! Finished: everything is published, and the queue is told.

use std::sync::Arc;

use super::disposed::Resolved;
use super::report::Resolution;
use super::shared::Task;

/// A task with a verdict.
pub(super) struct Finished {
    pub(super) task: Arc<Task>,
    pub(super) success: bool,
}

impl Finished {
    pub(super) async fn resolve(self) -> Resolved {
        let resolution = if self.success {
            Resolution::Completed
        } else {
            Resolution::Failed
        };
        let (resolution, reported) = self.task.tell_queue(resolution).await;
        Resolved::new(self.task, resolution, reported)
    }
}
