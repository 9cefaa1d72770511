//! What a task needs of a host, and a list of what the library did with it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tcw_abi::engine::{EngineDescription, Volume, VolumeBuilder};
use tcw_abi::io::Handle;
use tcw_abi::plugin::EngineHandle;
use tcw_abi::services::*;
use tcw_abi::{Error, Result, async_trait};

/// The host's objects are all this one: its services, the task, a folder, a lease, and the engine for plugins.
#[derive(Clone)]
pub struct Host {
    place: PathBuf,
    events: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// A host that keeps its files in `place`.
    pub fn new(place: &Path) -> Self {
        Host {
            place: place.to_owned(),
            events: Arc::default(),
        }
    }

    /// What has happened, with the directory of this test left out.
    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn note(&self, event: impl Into<String>) {
        let event = event.into().replace(&self.place.display().to_string(), "DIR");
        self.events.lock().unwrap().push(event);
    }

    /// What went through the task's pipe.
    pub fn output(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap()
    }
}

fn unused<T>() -> Result<T> {
    Err(Error::unsupported("no library of these tests needs it"))
}

#[async_trait]
impl Services for Host {
    fn worker(&self) -> WorkerInfo {
        WorkerInfo {
            worker_id: "probe".into(),
            ..Default::default()
        }
    }
    async fn temporary_folder(&self) -> Result<Arc<dyn TemporaryFolder>> {
        fs::create_dir(self.place.join("folder"))?;
        Ok(Arc::new(self.clone()))
    }
    async fn lease(&self, request: LeaseRequest) -> Result<Arc<dyn Lease>> {
        self.note(format!("lease {}", request.data));
        Ok(Arc::new(self.clone()))
    }
    async fn fetch(&self, _request: FetchRequest) -> Result<Fetched> {
        unused()
    }
    async fn http(&self, _request: HttpRequest) -> Result<HttpResponse> {
        unused()
    }
    async fn state_directory(&self) -> Result<String> {
        unused()
    }
    async fn cache(&self, _request: CacheRequest) -> Result<Arc<dyn CacheEntry>> {
        unused()
    }
    async fn attach_webhook(&self, _endpoint: String) -> Result<Arc<dyn WebHook>> {
        unused()
    }
    async fn stop(&self, _mode: StopMode, _reason: String) -> Result<()> {
        unused()
    }
    async fn pause(&self, _reason: String) -> Result<()> {
        unused()
    }
    async fn resume(&self) -> Result<()> {
        unused()
    }
    async fn report_error(&self, _report: ErrorReport) -> Result<()> {
        unused()
    }
    // next: async fn since_next(&self) -> Result<String> { Ok("the host's Services".into()) }
}

#[async_trait]
impl TaskContext for Host {
    fn info(&self) -> TaskInfo {
        TaskInfo::default()
    }
    async fn cancelled(&self) -> Result<CancelReason> {
        std::future::pending().await
    }
    async fn log_handle(&self) -> Result<Handle> {
        let path = self.place.join("log");
        Ok(OpenOptions::new().create(true).append(true).open(path)?.into())
    }
    async fn log_line(&self, _level: LogLevel, text: String) -> Result<()> {
        self.note(format!("log {text}"));
        Ok(())
    }
    async fn log_reader(&self) -> Result<LogReader> {
        unused()
    }
    async fn closed_log(&self) -> Result<ClosedLog> {
        unused()
    }
    async fn upload_artifact(&self, _upload: ArtifactUpload, _content: Handle) -> Result<ArtifactRecord> {
        unused()
    }
    async fn create_artifact(&self, _artifact: ArtifactPointer) -> Result<()> {
        unused()
    }
    async fn artifacts(&self) -> Result<Vec<ArtifactRecord>> {
        unused()
    }
    async fn fetch(&self, _request: FetchRequest) -> Result<Fetched> {
        unused()
    }
    async fn http(&self, _request: HttpRequest) -> Result<HttpResponse> {
        unused()
    }
    // next: async fn since_next(&self) -> Result<String> { Ok("the host's TaskContext".into()) }
}

#[async_trait]
impl TemporaryFolder for Host {
    fn description(&self) -> FolderDescription {
        FolderDescription {
            path: self.place.join("folder").display().to_string(),
        }
    }
    async fn dispose(&self) -> Result<()> {
        fs::remove_dir_all(self.place.join("folder"))?;
        self.note("folder removed");
        Ok(())
    }
    // next: async fn since_next(&self) -> Result<String> { Ok("the host's TemporaryFolder".into()) }
}

#[async_trait]
impl Lease for Host {
    fn description(&self) -> LeaseDescription {
        LeaseDescription { id: "1".into() }
    }
    async fn release(&self) -> Result<()> {
        self.note("lease released");
        Ok(())
    }
    // next: async fn since_next(&self) -> Result<String> { Ok("the host's Lease".into()) }
}

#[async_trait]
impl EngineHandle for Host {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            features: vec!["a feature".into()],
            ..Default::default()
        }
    }
    async fn new_volume(&self, _options: Value) -> Result<Arc<dyn Volume>> {
        unused()
    }
    async fn new_volume_builder(&self, _options: Value) -> Result<Arc<dyn VolumeBuilder>> {
        unused()
    }
    // next: async fn since_next(&self) -> Result<String> { Ok("the host's EngineHandle".into()) }
}
