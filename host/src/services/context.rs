//! One task, as the libraries see it.
//!
//! Each library gets a [`TaskView`] of its own, because the host counts what a library uses: a call into it that uses
//! services is not hanging, however long it takes. What is behind the views is one [`TaskServices`], and all of it
//! answers `ContractViolation` once the task is disposed of.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tcw_abi::io::Handle;
use tcw_abi::services::{
    ArtifactPointer, ArtifactRecord, ArtifactUpload, CancelReason, ClosedLog, FetchRequest, Fetched,
    HttpRequest, HttpResponse, LogLevel, LogReader, TaskContext, TaskInfo,
};
use tcw_abi::{Error, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::artifacts::Artifacts;
use super::http::TaskSigned;
use super::log::TaskLog;
use super::worker::WorkerServices;
use crate::queue::TaskQueue;

/// What all views of one task share. The lifecycle holds it, too.
pub struct TaskServices {
    info: TaskInfo,
    worker: Arc<WorkerServices>,
    signed: TaskSigned,
    log: TaskLog,
    artifacts: Artifacts,
    cancelled: watch::Sender<Option<CancelReason>>,
    disposed: AtomicBool,
}

impl TaskServices {
    /// Services for the task that `info` describes. `scratch` is a folder for large bodies.
    pub fn new(
        info: TaskInfo,
        expires: DateTime<Utc>,
        worker: Arc<WorkerServices>,
        queue: Arc<dyn TaskQueue>,
        log: TaskLog,
        scratch: PathBuf,
    ) -> Arc<Self> {
        Arc::new(TaskServices {
            info,
            worker,
            signed: TaskSigned(Arc::clone(&queue)),
            log,
            artifacts: Artifacts::new(queue, expires, scratch),
            cancelled: watch::channel(None).0,
            disposed: AtomicBool::new(false),
        })
    }

    /// What one library sees.
    pub fn view(self: &Arc<Self>, activity: Arc<Activity>) -> Arc<dyn TaskContext> {
        Arc::new(TaskView {
            task: Arc::clone(self),
            activity,
        })
    }

    /// The task's log.
    pub fn log(&self) -> &TaskLog {
        &self.log
    }

    /// Lets every library know that the task is being ended early. The first reason stays.
    pub fn cancel(&self, reason: CancelReason) {
        self.cancelled.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(reason);
            first
        });
    }

    /// From here on, libraries get no more than `ContractViolation`.
    pub fn dispose(&self) {
        self.disposed.store(true, Ordering::Release);
    }
}

/// Whether a library is using services, and when it last did.
#[derive(Debug)]
pub struct Activity {
    in_flight: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Activity {
            in_flight: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
        }
    }
}

impl Activity {
    /// When it last used services: now, if it is doing so.
    pub fn last(&self) -> Instant {
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return Instant::now();
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> InUse {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InUse(Arc::clone(self))
    }
}

struct InUse(Arc<Activity>);

impl Drop for InUse {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

struct TaskView {
    task: Arc<TaskServices>,
    activity: Arc<Activity>,
}

impl TaskView {
    /// Lets a call in, unless the task is over.
    fn enter(&self) -> Result<InUse> {
        if self.task.disposed.load(Ordering::Acquire) {
            return Err(Error::violation(format!(
                "task {} is disposed of: its context cannot be used any more",
                self.task.info.task_id
            )));
        }
        Ok(self.activity.enter())
    }
}

#[async_trait]
impl TaskContext for TaskView {
    fn info(&self) -> TaskInfo {
        self.task.info.clone()
    }

    async fn cancelled(&self) -> Result<CancelReason> {
        // Waiting for this is not using a service.
        drop(self.enter()?);
        let mut cancelled = self.task.cancelled.subscribe();
        let reason = cancelled.wait_for(Option::is_some).await.map(|reason| *reason);
        match reason {
            Ok(reason) => Ok(reason.unwrap_or(CancelReason::Unknown)),
            Err(_) => std::future::pending().await,
        }
    }

    async fn log_handle(&self) -> Result<Handle> {
        let _in_use = self.enter()?;
        self.task.log.handle()
    }

    async fn log_line(&self, level: LogLevel, text: String) -> Result<()> {
        let _in_use = self.enter()?;
        self.task.log.line(level, text).await
    }

    async fn log_reader(&self) -> Result<LogReader> {
        let _in_use = self.enter()?;
        self.task.log.reader()
    }

    async fn closed_log(&self) -> Result<ClosedLog> {
        let _in_use = self.enter()?;
        self.task.log.closed_log().await
    }

    async fn upload_artifact(&self, upload: ArtifactUpload, content: Handle) -> Result<ArtifactRecord> {
        let _in_use = self.enter()?;
        self.task.artifacts.upload(upload, content).await
    }

    async fn create_artifact(&self, artifact: ArtifactPointer) -> Result<()> {
        let _in_use = self.enter()?;
        self.task.artifacts.create(artifact).await
    }

    async fn artifacts(&self) -> Result<Vec<ArtifactRecord>> {
        let _in_use = self.enter()?;
        Ok(self.task.artifacts.ledger())
    }

    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        let _in_use = self.enter()?;
        let worker = &self.task.worker;
        worker
            .fetcher
            .fetch(request, &worker.http, &self.task.signed)
            .await
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpResponse> {
        let _in_use = self.enter()?;
        self.task.worker.http.request(request, &self.task.signed).await
    }
}
