//! A task with artifacts, and what came of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use artifacts_plugin::ArtifactsProvider;
use tcw_abi::engine::{EngineDescription, FolderStream, Report, ResultSet, feature};
use tcw_abi::io::Handle;
use tcw_abi::plugin::{PluginProvider, TaskPlugin};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{
    ArtifactPointer, ArtifactRecord, ArtifactUpload, CancelReason, ClosedLog, ContentEncoding, FetchRequest,
    Fetched, HttpRequest, HttpResponse, LogLevel, LogReader, TaskContext, TaskInfo,
};
use tcw_abi::testing::{FakeArtifact, FakeEngineHandle, FakeFile, FakeResult, FakeServices, FakeTask};
use tcw_abi::{Result, async_trait};
use tokio::sync::Barrier;

pub(crate) struct Scene {
    pub(crate) task: Arc<FakeTask>,
    hooks: Arc<dyn TaskPlugin>,
}

async fn hooks(dialect: &str, task: Arc<dyn TaskContext>, payload: Value) -> Arc<dyn TaskPlugin> {
    let engine = FakeEngineHandle(EngineDescription {
        features: vec![feature::ARTIFACTS.into(), dialect.into()],
        ..EngineDescription::default()
    });
    let plugin = ArtifactsProvider
        .new_plugin(FakeServices::new().services(), Arc::new(engine), json!({}))
        .await
        .unwrap();
    plugin.new_task_plugin(task, payload).await.unwrap()
}

impl Scene {
    async fn of(dialect: &str, payload: Value) -> Scene {
        let info = TaskInfo {
            definition: json!({ "payload": payload }),
            ..FakeTask::new().context().info()
        };
        let task = FakeTask::with_info(info);
        let hooks = hooks(dialect, task.context(), payload).await;
        Scene { task, hooks }
    }

    /// In generic-worker's dialect.
    pub(crate) async fn new(payload: Value) -> Scene {
        Self::of(feature::DIALECT_GENERIC_WORKER, payload).await
    }

    pub(crate) async fn docker(payload: Value) -> Scene {
        Self::of(feature::DIALECT_DOCKER_WORKER, payload).await
    }

    pub(crate) async fn prepare(&self) -> Result<()> {
        self.hooks.prepare().await
    }

    pub(crate) async fn stopped(
        &self,
        files: impl IntoIterator<Item = (&'static str, FakeFile)>,
    ) -> Result<bool> {
        let result = FakeResult::with_files(Report::default(), files);
        self.hooks.stopped(result).await
    }

    /// By name: they come in any order.
    pub(crate) fn uploads(&self) -> Vec<FakeArtifact> {
        let mut uploads = self.task.uploads();
        uploads.sort_by(|a, b| a.upload.name.cmp(&b.upload.name));
        uploads
    }

    /// By name.
    pub(crate) fn pointers(&self) -> Vec<ArtifactPointer> {
        let mut pointers = self.task.pointers();
        pointers.sort_by_key(|pointer| format!("{pointer:?}"));
        pointers
    }

    pub(crate) fn log(&self) -> Vec<(LogLevel, String)> {
        self.task.log_lines()
    }

    pub(crate) fn log_text(&self) -> String {
        self.task.log_text()
    }

    /// The lines of one level, sorted.
    pub(crate) fn log_at(&self, level: LogLevel) -> Vec<String> {
        let mut lines: Vec<String> = self
            .log()
            .into_iter()
            .filter(|(its_level, _)| *its_level == level)
            .flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        lines.sort();
        lines
    }
}

pub(crate) fn file(path: &'static str, content: &str) -> (&'static str, FakeFile) {
    (path, FakeFile::Plain(content.into()))
}

pub(crate) fn uploaded(
    name: &str,
    content_type: &str,
    content_encoding: ContentEncoding,
    expires: Option<&str>,
    content: &str,
) -> FakeArtifact {
    FakeArtifact {
        upload: ArtifactUpload {
            name: name.into(),
            content_type: content_type.into(),
            content_encoding,
            already_encoded: false,
            expires: expires.map(str::to_owned),
        },
        content: content.into(),
    }
}

pub(crate) fn error_artifact(
    name: &str,
    reason: &str,
    message: &str,
    expires: Option<&str>,
) -> ArtifactPointer {
    ArtifactPointer::Error {
        name: name.into(),
        reason: reason.into(),
        message: message.into(),
        expires: expires.map(str::to_owned),
    }
}

/// A task whose uploads wait for each other, eight at a time: with fewer than that under way, they never end.
struct Gate {
    task: Arc<FakeTask>,
    together: Barrier,
    now: AtomicUsize,
    peak: AtomicUsize,
}

#[async_trait]
impl TaskContext for Gate {
    fn info(&self) -> TaskInfo {
        self.task.info()
    }

    async fn cancelled(&self) -> Result<CancelReason> {
        self.task.cancelled().await
    }

    async fn log_handle(&self) -> Result<Handle> {
        self.task.log_handle().await
    }

    async fn log_line(&self, level: LogLevel, text: String) -> Result<()> {
        self.task.log_line(level, text).await
    }

    async fn log_reader(&self) -> Result<LogReader> {
        self.task.log_reader().await
    }

    async fn closed_log(&self) -> Result<ClosedLog> {
        self.task.closed_log().await
    }

    async fn upload_artifact(&self, upload: ArtifactUpload, content: Handle) -> Result<ArtifactRecord> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        self.together.wait().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.task.upload_artifact(upload, content).await
    }

    async fn create_artifact(&self, artifact: ArtifactPointer) -> Result<()> {
        self.task.create_artifact(artifact).await
    }

    async fn artifacts(&self) -> Result<Vec<ArtifactRecord>> {
        self.task.artifacts().await
    }

    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        self.task.fetch(request).await
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpResponse> {
        self.task.http(request).await
    }
}

/// A folder of `count` files (a multiple of eight) is published; how many were under way at once?
pub(crate) async fn peak_of_uploads(count: usize) -> usize {
    let gate = Arc::new(Gate {
        task: FakeTask::new(),
        together: Barrier::new(8),
        now: AtomicUsize::new(0),
        peak: AtomicUsize::new(0),
    });
    let payload = json!({ "artifacts": [{ "type": "directory", "path": "out" }] });
    let hooks = hooks(feature::DIALECT_GENERIC_WORKER, gate.clone(), payload).await;
    let stopped = hooks.stopped(Arc::new(ManyFiles(count))).await;
    assert_eq!(stopped, Ok(true));
    assert_eq!(gate.task.uploads().len(), count);
    gate.peak.load(Ordering::SeqCst)
}

/// A result with one folder of that many files.
struct ManyFiles(usize);

#[async_trait]
impl ResultSet for ManyFiles {
    fn report(&self) -> Report {
        Report::default()
    }

    async fn extract_folder(&self, path: String) -> Result<Arc<dyn FolderStream>> {
        let names: Vec<&'static str> = (0..self.0)
            .map(|number| &*format!("{path}/{number}").leak())
            .collect();
        let files = names.into_iter().map(|name| file(name, "x"));
        FakeResult::with_files(Report::default(), files)
            .extract_folder(path)
            .await
    }

    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}
