//! A task without a queue: its log is a pipe read into memory, its artifacts are kept in a list.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::io::Handle;
use crate::services::{
    ArtifactPointer, ArtifactRecord, ArtifactUpload, CancelReason, ClosedLog, ClosedLogInfo, ContentEncoding,
    FetchRequest, Fetched, HttpRequest, HttpResponse, LogLength, LogLevel, LogProgress, LogReader,
    TaskContext, TaskInfo,
};

/// Longer than anything in a test takes; reached only by a test that would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// An artifact that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeArtifact {
    /// How it was uploaded.
    pub upload: ArtifactUpload,
    /// Its bytes as they came.
    pub content: Vec<u8>,
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    /// The same without the worker's own lines: what came through the pipe.
    output: Vec<u8>,
    /// Where readers find the bytes, once there is a reader.
    mirror: Option<Mirror>,
    /// Only so that tests can look for what a plugin did, without parsing the log.
    lines: Vec<(LogLevel, String)>,
}

struct Mirror {
    file: File,
    path: PathBuf,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // It may have been removed with everything else in the temporary directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Log {
    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if let Some(mirror) = &mut self.mirror {
            // A disk that is full shows in what the readers see.
            let _ = mirror.file.write_all(bytes);
        }
    }
}

/// How far the log has got.
#[derive(Clone, Copy, Default)]
struct Progress {
    length: usize,
    /// Nobody can write into the pipe any more.
    ended: bool,
    closed: bool,
}

struct Shared {
    log: Mutex<Log>,
    read_end: File,
    progress: watch::Sender<Progress>,
}

impl Shared {
    /// Reads what is in the pipe now. Answers false at the end of the pipe.
    fn drain(&self, log: &mut Log) -> bool {
        let mut chunk = [0_u8; 16 * 1024];
        loop {
            match (&self.read_end).read(&mut chunk) {
                Ok(0) => return false,
                Ok(length) => {
                    log.output.extend_from_slice(&chunk[..length]);
                    log.append(&chunk[..length]);
                }
                Err(_) => return true,
            }
        }
    }
}

/// A task whose context is all in memory. The log is a real pipe.
pub struct FakeTask {
    info: TaskInfo,
    shared: Arc<Shared>,
    write_end: Mutex<Option<OwnedFd>>,
    cancel: watch::Sender<Option<CancelReason>>,
    uploads: Mutex<Vec<FakeArtifact>>,
    pointers: Mutex<Vec<ArtifactPointer>>,
    refusal: Mutex<Option<Error>>,
    closed: Mutex<Option<ClosedLogInfo>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeTask {
    /// A task with plausible ids that expires in the far future.
    pub fn new() -> Arc<FakeTask> {
        Self::with_id("fN1SbArXTPSVFNUvaOlinQ".into())
    }

    /// The same with an id that no other such task has, of this process or of one that runs at the same time.
    pub(super) fn with_own_id() -> Arc<FakeTask> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = u64::from(std::process::id()) % 10_000_000;
        Self::with_id(format!("fN1SbArX{process:07}{:06}A", number % 1_000_000))
    }

    fn with_id(task_id: String) -> Arc<FakeTask> {
        Self::with_info(TaskInfo {
            task_group_id: "fN1SbArXTPSVFNUvaOlinQ".into(),
            task_id,
            run_id: 0,
            definition: Value::Null,
            deadline: "2100-01-01T00:00:00.000Z".into(),
            expires: "2101-01-01T00:00:00.000Z".into(),
            scopes: Vec::new(),
            worker_pool_id: "test/pool".into(),
            worker_group: "group".into(),
            worker_id: "worker".into(),
            root_url: "https://tc.example.com".into(),
        })
    }

    /// A task with these constants.
    ///
    /// # Panics
    /// If the process is out of descriptors or threads.
    pub fn with_info(info: TaskInfo) -> Arc<FakeTask> {
        let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe for the task's log");
        fcntl_setfl(&read_end, OFlags::NONBLOCK).expect("a pipe that does not block its reader");
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            read_end: File::from(read_end),
            progress: watch::Sender::default(),
        });
        let reader = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("fake-task-log".into())
            .spawn(move || {
                loop {
                    let mut ready = [PollFd::new(&reader.read_end, PollFlags::IN)];
                    if poll(&mut ready, None).is_err() {
                        continue;
                    }
                    let mut log = lock(&reader.log);
                    let open = reader.drain(&mut log);
                    reader.progress.send_modify(|progress| {
                        progress.length = log.bytes.len();
                        progress.ended = !open;
                    });
                    if !open {
                        return;
                    }
                }
            })
            .expect("a thread for the task's log");
        Arc::new(FakeTask {
            info,
            shared,
            write_end: Mutex::new(Some(write_end)),
            cancel: watch::Sender::new(None),
            uploads: Mutex::default(),
            pointers: Mutex::default(),
            refusal: Mutex::default(),
            closed: Mutex::default(),
        })
    }

    /// As the trait object that libraries take.
    pub fn context(self: &Arc<Self>) -> Arc<dyn TaskContext> {
        Arc::clone(self) as Arc<dyn TaskContext>
    }

    /// The whole log so far.
    pub fn log_text(&self) -> String {
        let mut log = lock(&self.shared.log);
        self.shared.drain(&mut log);
        String::from_utf8_lossy(&log.bytes).into_owned()
    }

    /// The worker's own messages so far, as they were given.
    pub fn log_lines(&self) -> Vec<(LogLevel, String)> {
        lock(&self.shared.log).lines.clone()
    }

    /// Returns when `text` is in the log.
    ///
    /// # Panics
    /// If it has not come after a minute.
    pub async fn wait_for_log(&self, text: &str) {
        let mut progress = self.shared.progress.subscribe();
        let seen = tokio::time::timeout(PATIENCE, async {
            while !self.log_text().contains(text) {
                if progress.changed().await.is_err() {
                    break;
                }
            }
        });
        assert!(
            seen.await.is_ok(),
            "'{text}' did not appear in the log:\n{}",
            self.log_text()
        );
    }

    /// What came through the pipe so far: the log without the worker's own lines.
    pub fn output(&self) -> Vec<u8> {
        let mut log = lock(&self.shared.log);
        self.shared.drain(&mut log);
        log.output.clone()
    }

    /// Returns when `text` has come through the pipe; false if it has not after `patience`.
    pub async fn wait_for_output(&self, text: &str, patience: Duration) -> bool {
        let mut progress = self.shared.progress.subscribe();
        let seen = tokio::time::timeout(patience, async {
            while !String::from_utf8_lossy(&self.output()).contains(text) {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        });
        seen.await.is_ok()
    }

    /// Gives up the task's own end of the pipe, and returns when nobody else has one: only then is the log complete.
    /// False if somebody still has one after `patience`.
    pub async fn output_ends(&self, patience: Duration) -> bool {
        drop(lock(&self.write_end).take());
        let mut progress = self.shared.progress.subscribe();
        let ended = tokio::time::timeout(patience, progress.wait_for(|progress| progress.ended));
        matches!(ended.await, Ok(Ok(_)))
    }

    /// Ends the task early.
    pub fn cancel(&self, reason: CancelReason) {
        self.cancel.send_replace(Some(reason));
    }

    /// What was uploaded, in order.
    pub fn uploads(&self) -> Vec<FakeArtifact> {
        lock(&self.uploads).clone()
    }

    /// The artifacts without bytes, in order.
    pub fn pointers(&self) -> Vec<ArtifactPointer> {
        lock(&self.pointers).clone()
    }

    /// From now on the queue refuses every artifact with this error.
    pub fn refuse_artifacts(&self, error: Error) {
        *lock(&self.refusal) = Some(error);
    }

    /// Closes the log. It is not compressed, whatever `info` says.
    pub fn close_log(&self, info: ClosedLogInfo) {
        *lock(&self.closed) = Some(info);
        self.shared
            .progress
            .send_modify(|progress| progress.closed = true);
    }

    fn accepts_artifacts(&self) -> Result<()> {
        lock(&self.refusal).clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl TaskContext for FakeTask {
    fn info(&self) -> TaskInfo {
        self.info.clone()
    }

    async fn cancelled(&self) -> Result<CancelReason> {
        let mut cancel = self.cancel.subscribe();
        let reason = cancel.wait_for(Option::is_some).await;
        reason
            .ok()
            .and_then(|reason| *reason)
            .ok_or_else(|| Error::internal("the task is gone"))
    }

    async fn log_handle(&self) -> Result<Handle> {
        match &*lock(&self.write_end) {
            Some(end) => Ok(Handle::from(end.try_clone()?)),
            None => Err(Error::violation("the task's log is closed")),
        }
    }

    async fn log_line(&self, level: LogLevel, text: String) -> Result<()> {
        let mut log = lock(&self.shared.log);
        self.shared.drain(&mut log);
        if log.bytes.last().is_some_and(|byte| *byte != b'\n') {
            log.append(b"\n");
        }
        let prefix = match level {
            LogLevel::Info => "[taskcluster 2026-01-01T00:00:00.000Z]",
            LogLevel::Warning => "[taskcluster:warn 2026-01-01T00:00:00.000Z]",
            LogLevel::Error => "[taskcluster:error]",
        };
        for line in text.lines() {
            log.append(format!("{prefix} {line}\n").as_bytes());
        }
        log.lines.push((level, text));
        let length = log.bytes.len();
        self.shared
            .progress
            .send_modify(|progress| progress.length = length);
        Ok(())
    }

    async fn log_reader(&self) -> Result<LogReader> {
        let mut log = lock(&self.shared.log);
        self.shared.drain(&mut log);
        if log.mirror.is_none() {
            let (mut file, path) = temporary_file("log")?;
            file.write_all(&log.bytes)?;
            log.mirror = Some(Mirror { file, path });
        }
        // Opened anew, so that every reader has a position of its own.
        let file = match &log.mirror {
            Some(mirror) => File::open(&mirror.path)?,
            None => return Err(Error::internal("the log has no mirror")),
        };
        Ok(LogReader {
            file: file.into(),
            progress: Arc::new(Follow(self.shared.progress.subscribe())),
        })
    }

    async fn closed_log(&self) -> Result<ClosedLog> {
        let info = lock(&self.closed)
            .clone()
            .ok_or_else(|| Error::violation("the log is not closed yet"))?;
        Ok(ClosedLog {
            content: handle_with(self.log_text().as_bytes())?,
            info,
        })
    }

    async fn upload_artifact(&self, upload: ArtifactUpload, content: Handle) -> Result<ArtifactRecord> {
        self.accepts_artifacts()?;
        let content = crate::runtime::blocking(move || {
            let mut bytes = Vec::new();
            content.into_file().read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .await?;
        let record = record(&upload, content.len());
        lock(&self.uploads).push(FakeArtifact { upload, content });
        Ok(record)
    }

    async fn create_artifact(&self, artifact: ArtifactPointer) -> Result<()> {
        self.accepts_artifacts()?;
        lock(&self.pointers).push(artifact);
        Ok(())
    }

    async fn artifacts(&self) -> Result<Vec<ArtifactRecord>> {
        let uploads = lock(&self.uploads);
        Ok(uploads
            .iter()
            .map(|artifact| record(&artifact.upload, artifact.content.len()))
            .collect())
    }

    async fn fetch(&self, _request: FetchRequest) -> Result<Fetched> {
        Err(Error::new(
            ErrorKind::ResourceNotFound,
            "the fake task fetches nothing",
        ))
    }

    async fn http(&self, _request: HttpRequest) -> Result<HttpResponse> {
        Err(Error::new(
            ErrorKind::ResourceUnavailable,
            "the fake task has no network",
        ))
    }
}

fn record(upload: &ArtifactUpload, length: usize) -> ArtifactRecord {
    let length = length as u64;
    ArtifactRecord {
        name: upload.name.clone(),
        content_type: upload.content_type.clone(),
        length,
        sha256: String::new(),
        stored_length: match upload.content_encoding {
            ContentEncoding::Identity => length,
            ContentEncoding::Gzip => 0,
        },
    }
}

struct Follow(watch::Receiver<Progress>);

#[async_trait]
impl LogProgress for Follow {
    async fn wait(&self, offset: u64) -> Result<LogLength> {
        let mut progress = self.0.clone();
        let reached = progress
            .wait_for(|progress| progress.length as u64 > offset || progress.closed)
            .await
            .map_err(|_| Error::violation("the task is gone"))?;
        Ok(LogLength {
            length: reached.length as u64,
            closed: reached.closed,
        })
    }
}

fn temporary_file(kind: &str) -> Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("tcw-{kind}-{}-{number}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    Ok((file, path))
}

/// A seekable handle with these bytes, at its start: a file without a name.
pub fn handle_with(content: &[u8]) -> Result<Handle> {
    let (mut file, path) = temporary_file("handle")?;
    std::fs::remove_file(&path)?;
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}
