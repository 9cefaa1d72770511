//! Services without a worker: folders are real, the rest is remembered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::Value;

use crate::engine::LeaseRecord;
use crate::error::{Error, Result};
use crate::services::{
    CacheEntry, CacheRequest, ErrorReport, FetchRequest, Fetched, FolderDescription, HttpRequest,
    HttpResponse, Lease, LeaseDescription, LeaseRequest, Services, StopMode, TemporaryFolder, WebHook,
    WorkerInfo,
};

/// Services that make folders beneath one of their own, which is removed with them.
pub struct FakeServices {
    root: PathBuf,
    /// What stays when this is dropped: the caller's directory.
    kept: bool,
    next: AtomicU64,
    leases: Arc<Leases>,
    stops: Mutex<Vec<(StopMode, String)>>,
}

impl FakeServices {
    /// New ones.
    ///
    /// # Panics
    /// If there is no room for temporary files.
    pub fn new() -> Arc<FakeServices> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("tcw-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a folder for the test's files");
        Arc::new(Self::at(root, false))
    }

    /// Services whose folders and leases are in `directory` and stay there, so that a later process finds what an
    /// earlier one left.
    pub fn within(directory: &Path) -> Result<Arc<FakeServices>> {
        std::fs::create_dir_all(directory.join("leases"))?;
        Ok(Arc::new(Self::at(directory.to_owned(), true)))
    }

    fn at(root: PathBuf, kept: bool) -> FakeServices {
        FakeServices {
            leases: Arc::new(Leases {
                records: Mutex::default(),
                directory: kept.then(|| root.join("leases")),
            }),
            root,
            kept,
            next: AtomicU64::new(0),
            stops: Mutex::default(),
        }
    }

    /// As the trait object that libraries take.
    pub fn services(self: &Arc<Self>) -> Arc<dyn Services> {
        Arc::clone(self) as Arc<dyn Services>
    }

    /// Where the folders are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The temporary folders that there are.
    pub fn folders(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("folder-") {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// What has been leased and not released.
    pub fn leases(&self) -> BTreeMap<String, Value> {
        self.leases
            .records()
            .iter()
            .map(|(id, record)| (id.clone(), record.data.clone()))
            .collect()
    }

    /// What other processes have leased in this directory and not released: what
    /// [`Engine::recover`](crate::engine::Engine::recover) is given.
    pub fn leases_of_the_dead(&self) -> Result<Vec<LeaseRecord>> {
        let mut found = Vec::new();
        let Some(directory) = &self.leases.directory else {
            return Ok(found);
        };
        for entry in std::fs::read_dir(directory)? {
            let record: LeaseRecord = serde_json::from_slice(&std::fs::read(entry?.path())?)
                .map_err(|error| Error::internal(format!("a lease cannot be read: {error}")))?;
            if !self.leases.records().contains_key(&record.id) {
                found.push(record);
            }
        }
        Ok(found)
    }

    /// Takes a lease of a dead process off the list, as the host does with those that were released.
    pub fn forget_lease(&self, id: &str) -> Result<()> {
        self.leases.remove(id)
    }

    /// How often and why the worker was asked to stop.
    pub fn stops(&self) -> Vec<(StopMode, String)> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Unique among all processes that share the directory.
    fn name(&self, kind: &str) -> String {
        if self.kept {
            format!("{kind}-{}-{}", std::process::id(), self.number())
        } else {
            format!("{kind}-{}", self.number())
        }
    }
}

struct Leases {
    records: Mutex<BTreeMap<String, LeaseRecord>>,
    directory: Option<PathBuf>,
}

impl Leases {
    fn records(&self) -> MutexGuard<'_, BTreeMap<String, LeaseRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, record: LeaseRecord) -> Result<()> {
        if let Some(directory) = &self.directory {
            let text = serde_json::to_vec(&record).map_err(|error| Error::internal(error.to_string()))?;
            std::fs::write(directory.join(&record.id), text)?;
        }
        self.records().insert(record.id.clone(), record);
        Ok(())
    }

    fn remove(&self, id: &str) -> Result<()> {
        self.records().remove(id);
        match &self.directory {
            Some(directory) => match std::fs::remove_file(directory.join(id)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }
}

impl Drop for FakeServices {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What a test left behind on purpose may be unremovable; the next boot clears the temporary directory.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn absent(what: &str) -> Error {
    Error::unsupported(format!("the fake services have no {what}"))
}

#[async_trait]
impl Services for FakeServices {
    fn worker(&self) -> WorkerInfo {
        WorkerInfo {
            worker_pool_id: "test/pool".into(),
            worker_group: "group".into(),
            worker_id: "worker".into(),
            root_url: "https://tc.example.com".into(),
            host_version: "0.0.0".into(),
            capacity: 1,
            library: "test".into(),
        }
    }

    async fn fetch(&self, _request: FetchRequest) -> Result<Fetched> {
        Err(absent("fetching"))
    }

    async fn http(&self, _request: HttpRequest) -> Result<HttpResponse> {
        Err(absent("network"))
    }

    async fn temporary_folder(&self) -> Result<Arc<dyn TemporaryFolder>> {
        let path = self.root.join(self.name("folder"));
        std::fs::create_dir(&path)?;
        Ok(Arc::new(Folder(path)))
    }

    async fn state_directory(&self) -> Result<String> {
        let path = self.root.join("state");
        std::fs::create_dir_all(&path)?;
        Ok(path.display().to_string())
    }

    async fn cache(&self, _request: CacheRequest) -> Result<Arc<dyn CacheEntry>> {
        Err(absent("caches"))
    }

    async fn attach_webhook(&self, _endpoint: String) -> Result<Arc<dyn WebHook>> {
        Err(absent("web-hooks"))
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Arc<dyn Lease>> {
        let id = self.name("lease");
        self.leases.add(LeaseRecord {
            id: id.clone(),
            schema_version: request.schema_version,
            data: request.data,
        })?;
        Ok(Arc::new(FakeLease {
            id,
            leases: Arc::clone(&self.leases),
        }))
    }

    async fn stop(&self, mode: StopMode, reason: String) -> Result<()> {
        self.stops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((mode, reason));
        Ok(())
    }

    async fn pause(&self, _reason: String) -> Result<()> {
        Ok(())
    }

    async fn resume(&self) -> Result<()> {
        Ok(())
    }

    async fn report_error(&self, _report: ErrorReport) -> Result<()> {
        Ok(())
    }
}

struct Folder(PathBuf);

#[async_trait]
impl TemporaryFolder for Folder {
    fn description(&self) -> FolderDescription {
        FolderDescription {
            path: self.0.display().to_string(),
        }
    }

    async fn dispose(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

struct FakeLease {
    id: String,
    leases: Arc<Leases>,
}

#[async_trait]
impl Lease for FakeLease {
    fn description(&self) -> LeaseDescription {
        LeaseDescription { id: self.id.clone() }
    }

    async fn release(&self) -> Result<()> {
        self.leases.remove(&self.id)
    }
}
