//! The result set, from `stopped` until the task is resolved.

use std::sync::Arc;

use async_trait::async_trait;
use tcw_abi::Result;
use tcw_abi::engine::{ExtractedFile, FolderStream, Report, ResultSet};
use tcw_abi::io::Handle;

use super::{Revocable, reserved};
use crate::task::shared::Task;

/// Takes the result set back when it is dropped.
pub(in crate::task) struct LentResults(Arc<Guarded>);

impl LentResults {
    pub(in crate::task) fn new(results: Arc<dyn ResultSet>, task: &Arc<Task>) -> Self {
        let over = "the task is resolved: what its sandbox left cannot be read any more";
        LentResults(Arc::new(Guarded {
            report: results.report(),
            results: Arc::new(Revocable::new(results, over, task)),
        }))
    }

    pub(in crate::task) fn share(&self) -> Arc<dyn ResultSet> {
        Arc::clone(&self.0) as _
    }
}

impl Drop for LentResults {
    fn drop(&mut self) {
        self.0.results.revoke();
    }
}

struct Guarded {
    report: Report,
    results: Arc<Revocable<dyn ResultSet>>,
}

#[async_trait]
impl ResultSet for Guarded {
    fn report(&self) -> Report {
        self.report.clone()
    }

    async fn extract_file(&self, path: String) -> Result<ExtractedFile> {
        let answer = self.results.get()?.extract_file(path).await;
        self.results.judge("extract_file", answer)
    }

    async fn extract_folder(&self, path: String) -> Result<Arc<dyn FolderStream>> {
        let answer = self.results.get()?.extract_folder(path).await;
        let stream = self.results.judge("extract_folder", answer)?;
        Ok(Arc::new(GuardedFolder {
            results: Arc::clone(&self.results),
            stream,
        }))
    }

    async fn archive(&self) -> Result<Handle> {
        let answer = self.results.get()?.archive().await;
        self.results.judge("archive", answer)
    }

    async fn dispose(&self) -> Result<()> {
        reserved("ResultSet.dispose")
    }
}

/// A folder is read for as long as its result set may be.
struct GuardedFolder {
    results: Arc<Revocable<dyn ResultSet>>,
    stream: Arc<dyn FolderStream>,
}

#[async_trait]
impl FolderStream for GuardedFolder {
    async fn next(&self) -> Result<Option<ExtractedFile>> {
        self.results.get()?;
        self.results.judge("next", self.stream.next().await)
    }
}
