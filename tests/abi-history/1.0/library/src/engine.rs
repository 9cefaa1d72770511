//! A task is a text, `say`, that the sandbox writes to the log and leaves in a file.

use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tcw_abi::engine::*;
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{Lease, LeaseRequest, Services, TaskContext, TemporaryFolder};
use tcw_abi::{Error, ErrorKind, Result, async_trait};

/// Engines made by this image: another image of the library counts for itself.
static ENGINES: AtomicU32 = AtomicU32::new(0);

pub struct Provider;

#[async_trait]
impl EngineProvider for Provider {
    fn description(&self) -> EngineProviderDescription {
        EngineProviderDescription {
            configuration_schema: json!({ "type": "object" }),
        }
    }

    async fn new_engine(&self, services: Arc<dyn Services>, _configuration: Value) -> Result<Arc<dyn Engine>> {
        let number = ENGINES.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Arc::new(Recorded { services, number }))
    }

    // next: async fn since_next(&self) -> Result<String> { Ok("the library's EngineProvider".into()) }
}

struct Recorded {
    services: Arc<dyn Services>,
    number: u32,
}

#[async_trait]
impl Engine for Recorded {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            features: vec![
                feature::ENVIRONMENT.into(),
                format!("recorded/engine-{}", self.number),
                // next: format!("recorded/diagnostics-{}", tcw_abi::diagnostics::since_next()),
            ],
            payload_schema: json!({ "properties": { "say": { "type": "string" } } }),
            max_concurrency: Some(2),
            ..Default::default()
        }
    }

    async fn new_sandbox_builder(&self, task: Arc<dyn TaskContext>, payload: Value) -> Result<Arc<dyn SandboxBuilder>> {
        let Some(text) = payload["say"].as_str() else {
            return Err(Error::malformed("there is nothing to say").with_detail(payload));
        };
        let folder = self.services.temporary_folder().await?;
        let data = json!({ "folder": folder.description().path });
        let lease = self.services.lease(LeaseRequest { schema_version: 1, data }).await?;
        Ok(Arc::new(Builder {
            task,
            folder,
            lease,
            text: text.into(),
            said: Mutex::default(),
        }))
    }

    // next: async fn since_next(&self) -> Result<String> { Ok(format!("the library's Engine, which saw {}", self.services.since_next().await?)) }
}

struct Builder {
    task: Arc<dyn TaskContext>,
    folder: Arc<dyn TemporaryFolder>,
    lease: Arc<dyn Lease>,
    text: String,
    said: Mutex<Vec<String>>,
}

#[async_trait]
impl SandboxBuilder for Builder {
    async fn set_environment_variable(&self, name: String, value: String, class: VariableClass) -> Result<()> {
        if name.is_empty() {
            return Err(Error::new(ErrorKind::NamingConflict, "a variable without a name"));
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(format!("{name}={value} ({class:?})"));
        Ok(())
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        let variables = self.said.lock().unwrap_or_else(PoisonError::into_inner).join(", ");
        let mut log = self.task.log_handle().await?.into_file();
        writeln!(log, "{} with {variables}", self.text)?;
        let path = format!("{}/said.txt", self.folder.description().path);
        fs::write(&path, &self.text)?;
        Ok(Arc::new(Running {
            path,
            folder: Arc::clone(&self.folder),
            lease: Arc::clone(&self.lease),
        }))
    }

    async fn discard(&self) -> Result<()> {
        self.folder.dispose().await
    }

    // next: async fn since_next(&self) -> Result<String> { Ok(format!("the library's SandboxBuilder, which saw {}, {} and {}", self.task.since_next().await?, self.folder.since_next().await?, self.lease.since_next().await?)) }
}

#[derive(Clone)]
struct Running {
    path: String,
    folder: Arc<dyn TemporaryFolder>,
    lease: Arc<dyn Lease>,
}

#[async_trait]
impl Sandbox for Running {
    fn description(&self) -> SandboxDescription {
        SandboxDescription {
            default_shell: vec!["sh".into()],
            ..Default::default()
        }
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        Ok(Arc::new(Finished(self.clone())))
    }

    async fn kill(&self, reason: String, _grace_ms: u64) -> Result<()> {
        Err(Error::new(ErrorKind::SandboxTerminated, reason))
    }

    async fn abort(&self) -> Result<()> {
        panic!("nobody aborts this sandbox")
    }

    // next: async fn since_next(&self) -> Result<String> { Ok("the library's Sandbox".into()) }
}

struct Finished(Running);

#[async_trait]
impl ResultSet for Finished {
    fn report(&self) -> Report {
        Report {
            success: true,
            exit_code: Some(0),
            ..Default::default()
        }
    }

    async fn extract_file(&self, path: String) -> Result<ExtractedFile> {
        if path != "said.txt" {
            return Err(Error::new(ErrorKind::ResourceNotFound, path));
        }
        let file = File::open(&self.0.path)?;
        let info = FileInfo {
            path,
            seekable: true,
            size: Some(file.metadata()?.len()),
            ..Default::default()
        };
        Ok(ExtractedFile {
            content: file.into(),
            info,
        })
    }

    async fn extract_folder(&self, _path: String) -> Result<Arc<dyn FolderStream>> {
        Ok(Arc::new(OneFile(Mutex::new(Some(self.extract_file("said.txt".into()).await?)))))
    }

    async fn dispose(&self) -> Result<()> {
        self.0.lease.release().await?;
        self.0.folder.dispose().await
    }

    // next: async fn since_next(&self) -> Result<String> { Ok("the library's ResultSet".into()) }
}

struct OneFile(Mutex<Option<ExtractedFile>>);

#[async_trait]
impl FolderStream for OneFile {
    async fn next(&self) -> Result<Option<ExtractedFile>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    // next: async fn since_next(&self) -> Result<String> { Ok("the library's FolderStream".into()) }
}
