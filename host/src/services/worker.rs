//! What libraries share for the worker's whole life, and each library's own view of it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tcw_abi::services::{
    CacheEntry, CacheRequest, ErrorReport, FetchRequest, Fetched, FolderDescription, HttpRequest,
    HttpResponse, Lease, LeaseDescription, LeaseRequest, Services, StopMode, TemporaryFolder, WebHook,
    WorkerInfo,
};
use tcw_abi::{Error, Result};

use super::fetch::Fetcher;
use super::http::{CredentialsSource, Http, Now, SigningClock};

/// Where leases are written down, before the resource is made. The worker's journal implements it.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Writes a resource of `library` down, durably, and answers the lease's id. `sha256` is that of the library's
    /// bytes, or empty for one that was linked in.
    async fn record(&self, library: &str, sha256: &str, request: LeaseRequest) -> Result<String>;

    /// The resource is gone.
    async fn release(&self, id: &str) -> Result<()>;
}

/// What libraries may ask of the worker. The worker implements it.
#[async_trait]
pub trait WorkerControl: Send + Sync + 'static {
    /// `library` asks the worker to stop.
    async fn stop(&self, library: &str, mode: StopMode, reason: String) -> Result<()>;

    /// Nothing is claimed until every library that paused has resumed.
    async fn pause(&self, library: &str, reason: String) -> Result<()>;

    /// Takes the library's pause back.
    async fn resume(&self, library: &str) -> Result<()>;

    /// For the operator, and the deployment if there is one.
    async fn report_error(&self, library: &str, report: ErrorReport) -> Result<()>;
}

/// What [`WorkerServices`] are made of.
pub struct WorkerServicesConfig {
    /// Who we are; `library` is filled in for each library.
    pub worker: WorkerInfo,
    /// The worker's state directory.
    pub state: PathBuf,
    /// The worker's credentials of the moment.
    pub credentials: CredentialsSource,
    /// For [`Services::lease`].
    pub leases: Arc<dyn LeaseStore>,
    /// For [`Services::stop`] and its kin.
    pub control: Arc<dyn WorkerControl>,
}

/// What all libraries share.
pub struct WorkerServices {
    worker: WorkerInfo,
    state: PathBuf,
    temporary: PathBuf,
    pub(super) http: Http,
    pub(super) fetcher: Fetcher,
    credentials: CredentialsSource,
    clock: SigningClock,
    ca_certificates: Vec<reqwest::Certificate>,
    leases: Arc<dyn LeaseStore>,
    control: Arc<dyn WorkerControl>,
}

impl WorkerServices {
    /// Makes the folders, and empties `<state>/tmp` of what an earlier process left. One worker per state directory:
    /// the caller holds its lock.
    pub fn new(config: WorkerServicesConfig) -> Result<Arc<Self>> {
        Self::trusting(config, Vec::new())
    }

    /// The same, with authorities to trust beside those that the system trusts.
    pub fn trusting(
        config: WorkerServicesConfig,
        ca_certificates: Vec<reqwest::Certificate>,
    ) -> Result<Arc<Self>> {
        let temporary = config.state.join("tmp");
        private_folder(&config.state)?;
        sweep(&temporary)?;
        let clock = SigningClock::default();
        Ok(Arc::new(WorkerServices {
            http: Http::trusting(
                Arc::clone(&config.credentials),
                temporary.clone(),
                &ca_certificates,
            )?
            .by(Arc::clone(&clock)),
            clock,
            ca_certificates,
            credentials: config.credentials,
            fetcher: Fetcher::new(&config.worker.root_url),
            worker: config.worker,
            state: config.state,
            temporary,
            leases: config.leases,
            control: config.control,
        }))
    }

    /// The same for fresh copies of the libraries, which control the worker through `control`. What the old copies still
    /// use stays.
    pub fn renewed(&self, control: Arc<dyn WorkerControl>) -> Result<Arc<Self>> {
        Ok(Arc::new(WorkerServices {
            worker: self.worker.clone(),
            state: self.state.clone(),
            temporary: self.temporary.clone(),
            http: Http::trusting(
                Arc::clone(&self.credentials),
                self.temporary.clone(),
                &self.ca_certificates,
            )?
            .by(Arc::clone(&self.clock)),
            clock: Arc::clone(&self.clock),
            ca_certificates: self.ca_certificates.clone(),
            fetcher: Fetcher::new(&self.worker.root_url),
            credentials: Arc::clone(&self.credentials),
            leases: Arc::clone(&self.leases),
            control,
        }))
    }

    /// From now on requests in the worker's name are signed by this clock. The first one stays.
    pub fn follow_clock(&self, now: Now) {
        let _ = self.clock.set(now);
    }

    /// One library's view.
    pub fn for_library(self: &Arc<Self>, library: impl Into<String>) -> Arc<dyn Services> {
        self.for_loaded(library, "")
    }

    /// The same for a library that was loaded: `sha256` is that of its bytes.
    pub fn for_loaded(
        self: &Arc<Self>,
        library: impl Into<String>,
        sha256: impl Into<String>,
    ) -> Arc<dyn Services> {
        Arc::new(LibraryServices {
            shared: Arc::clone(self),
            library: library.into(),
            sha256: sha256.into(),
        })
    }

    /// A folder for files that nobody needs after a restart.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }
}

/// A folder that is ours alone, made if it is missing.
pub(crate) fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| {
            Error::fatal(format!(
                "the folder {} cannot be made: {error}; name a state directory that the worker can write to",
                path.display()
            ))
        })
}

fn sweep(temporary: &Path) -> Result<()> {
    match std::fs::remove_dir_all(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // What cannot be removed takes space, but hurts nobody: names are never used again.
            tracing::warn!(folder = %temporary.display(), %error, "temporary files of an earlier process are left");
        }
        _ => {}
    }
    private_folder(temporary)
}

struct LibraryServices {
    shared: Arc<WorkerServices>,
    library: String,
    sha256: String,
}

#[async_trait]
impl Services for LibraryServices {
    fn worker(&self) -> WorkerInfo {
        WorkerInfo {
            library: self.library.clone(),
            ..self.shared.worker.clone()
        }
    }

    async fn fetch(&self, request: FetchRequest) -> Result<Fetched> {
        let http = &self.shared.http;
        self.shared.fetcher.fetch(request, http, http.worker()).await
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpResponse> {
        let http = &self.shared.http;
        http.request(request, http.worker()).await
    }

    async fn temporary_folder(&self) -> Result<Arc<dyn TemporaryFolder>> {
        let path = self
            .shared
            .temporary
            .join(format!("{}-{}", file_name(&self.library), slugid::nice()));
        let folder = blocking(move || {
            DirBuilder::new().mode(0o700).create(&path)?;
            Ok(Folder {
                path,
                removed: AtomicBool::new(false),
            })
        })
        .await?;
        Ok(Arc::new(folder))
    }

    async fn state_directory(&self) -> Result<String> {
        let path = self
            .shared
            .state
            .join("library-state")
            .join(file_name(&self.library));
        private_folder(&path)?;
        match path.into_os_string().into_string() {
            Ok(path) => Ok(path),
            Err(path) => Err(Error::fatal(format!(
                "the state directory {} is not UTF-8; give the worker one whose name is",
                path.display()
            ))),
        }
    }

    async fn cache(&self, _request: CacheRequest) -> Result<Arc<dyn CacheEntry>> {
        Err(Error::unsupported(
            "this version of tcw-host has no cache registry yet; use a later one",
        ))
    }

    async fn attach_webhook(&self, _endpoint: String) -> Result<Arc<dyn WebHook>> {
        Err(Error::unsupported(
            "this version of tcw-host has no web-hooks yet; use a later one",
        ))
    }

    async fn lease(&self, request: LeaseRequest) -> Result<Arc<dyn Lease>> {
        let id = self
            .shared
            .leases
            .record(&self.library, &self.sha256, request)
            .await?;
        Ok(Arc::new(Leased {
            store: Arc::clone(&self.shared.leases),
            id,
        }))
    }

    async fn stop(&self, mode: StopMode, reason: String) -> Result<()> {
        self.shared.control.stop(&self.library, mode, reason).await
    }

    async fn pause(&self, reason: String) -> Result<()> {
        self.shared.control.pause(&self.library, reason).await
    }

    async fn resume(&self) -> Result<()> {
        self.shared.control.resume(&self.library).await
    }

    async fn report_error(&self, report: ErrorReport) -> Result<()> {
        self.shared.control.report_error(&self.library, report).await
    }
}

/// A library's name as one path component.
fn file_name(library: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    library.chars().map(|c| if safe(c) { c } else { '_' }).collect()
}

struct Folder {
    path: PathBuf,
    removed: AtomicBool,
}

impl Folder {
    /// Removes it, once.
    async fn remove(path: PathBuf) -> Result<()> {
        blocking(move || std::fs::remove_dir_all(path)).await
    }
}

#[async_trait]
impl TemporaryFolder for Folder {
    fn description(&self) -> FolderDescription {
        FolderDescription {
            path: self.path.to_string_lossy().into_owned(),
        }
    }

    async fn dispose(&self) -> Result<()> {
        if self.removed.swap(true, Ordering::AcqRel) {
            return Err(Error::violation("this temporary folder was disposed of before"));
        }
        Folder::remove(self.path.clone()).await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if *self.removed.get_mut() {
            return;
        }
        // Without a runtime the process is ending, and the next start sweeps.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let path = std::mem::take(&mut self.path);
            runtime.spawn(async move {
                let shown = path.display().to_string();
                if let Err(error) = Folder::remove(path).await {
                    tracing::warn!(folder = shown, %error, "a temporary folder is left until the next start");
                }
            });
        }
    }
}

struct Leased {
    store: Arc<dyn LeaseStore>,
    id: String,
}

#[async_trait]
impl Lease for Leased {
    fn description(&self) -> LeaseDescription {
        LeaseDescription { id: self.id.clone() }
    }

    async fn release(&self) -> Result<()> {
        self.store.release(&self.id).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal(format!("work on files: {error}")))?;
    Ok(outcome?)
}
