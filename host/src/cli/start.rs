//! What `run`, `exec`, `schema`, `docs` and `recover` have in common: from a configuration to a worker that is ready.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde_json::Value;
use tcw_abi::engine::{Engine, LeaseRecord, feature};
use tcw_abi::services::{LeaseRequest, WorkerInfo};

use super::crashed;
use super::outcome::{EXPOSED, Failure, INVALID};
use crate::assembly::{Assembly, AssemblyError, SchemaCheck, assemble, stored_engine};
use crate::config::{self, Config, Deployment, QueueConfig};
use crate::library::inspect::inspect_file;
use crate::library::{Diagnostics, Loader, Probe};
use crate::queue::embedded::{EmbeddedConfig, EmbeddedQueue, StartError, TlsFiles};
use crate::queue::{ClientConfig, Credentials, Queue, QueueClient, WorkerIdentity, WorkerPoolId};
use crate::services::log::LogOptions;
use crate::services::worker::{LeaseStore, WorkerServices, WorkerServicesConfig};
use crate::task::{Deadlines, TaskEnvironment};
use crate::worker::journal::{self, Journal, OwnedLease};
use crate::worker::{Commands, Control, EMBEDDED, StoredEngines, Undoers};

/// Where a worker keeps its own things: a directory that it alone uses.
pub(super) fn worker_directory(config: &Config) -> PathBuf {
    config.worker.state_directory.join("worker")
}

/// The credentials of a running embedded queue, for commands of other processes.
pub(super) fn embedded_credentials(config: &Config) -> PathBuf {
    queue_directory(config).join("credentials.json")
}

fn queue_directory(config: &Config) -> PathBuf {
    config.worker.state_directory.join("queue")
}

/// What can be told before anything is started: an engine is named, and there is a state directory.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    if config.libraries.engine.is_none() {
        return Err(AssemblyError::NoEngine.into());
    }
    state_directory(config)
}

/// Locks `directory` and opens its journal. First of all: nothing else is touched while another worker uses it.
pub(super) async fn open_journal(directory: &Path, moved: bool) -> Result<Journal, Failure> {
    let directory = directory.to_owned();
    let opened = tokio::task::spawn_blocking(move || match moved {
        true => Journal::open_moved(&directory),
        false => Journal::open(&directory),
    });
    Ok(opened.await.map_err(Failure::general)??)
}

fn tasks_directory(directory: &Path) -> PathBuf {
    directory.join("tasks")
}

fn sweep(directory: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes the state directory if need be.
pub(super) fn state_directory(config: &Config) -> Result<(), Failure> {
    Ok(journal::private_directory(&config.worker.state_directory)?)
}

/// A worker's libraries and services, without a queue yet.
pub(super) struct Parts {
    pub(super) assembly: Assembly,
    pub(super) services: Arc<WorkerServices>,
    pub(super) journal: Journal,
    pub(super) control: Control,
    pub(super) commands: Commands,
    credentials: Arc<OnceLock<Credentials>>,
    directory: PathBuf,
    worker: WorkerInfo,
    loader: Loader,
}

/// What is needed to load the libraries afresh.
pub(super) struct Renewal {
    services: Arc<WorkerServices>,
    journal: Journal,
    credentials: Arc<OnceLock<Credentials>>,
    directory: PathBuf,
    worker: WorkerInfo,
    loader: Loader,
}

/// A queue, and the server of it if it is ours.
pub(super) struct Connected {
    pub(super) client: Arc<QueueClient>,
    pub(super) embedded: Option<EmbeddedQueue>,
    pub(super) pool: WorkerPoolId,
}

/// The pool of this worker: the configured one, or one of its engine's name for the embedded queue.
pub(super) fn pool(config: &Config) -> Result<WorkerPoolId, Failure> {
    let pool = match (&config.worker.pool, &config.libraries.engine) {
        (Some(pool), _) => WorkerPoolId::new(&pool.provisioner_id, &pool.worker_type),
        (None, Some(engine)) => WorkerPoolId::new("local", &inspect_file(engine)?.manifest.name),
        (None, None) => return Err(AssemblyError::NoEngine.into()),
    };
    pool.map_err(|error| Failure::new(error.to_string(), INVALID))
}

/// Says which library crashed the last process in `directory`, which `journal` is of, removes its files that nobody needs
/// any more, and loads the libraries.
pub(super) async fn load(
    config: &Config,
    directory: &Path,
    journal: Journal,
    queue: &Located,
    pool: &WorkerPoolId,
) -> Result<Parts, Failure> {
    // Paths in there are names, for processes with other working directories too, and for the next start.
    let directory = &std::path::absolute(directory).map_err(Failure::general)?;
    crashed::settle(config, directory, &journal).await?;
    let (control, commands) = Control::new();
    let credentials: Arc<OnceLock<Credentials>> = Arc::default();
    let worker = WorkerInfo {
        worker_pool_id: pool.to_string(),
        worker_group: config.worker.group.clone(),
        worker_id: config.worker.id.clone(),
        root_url: queue.root_url.clone(),
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: config.worker.capacity,
        library: String::new(),
    };
    let source = Arc::clone(&credentials);
    let services = WorkerServices::trusting(
        WorkerServicesConfig {
            worker: worker.clone(),
            state: directory.to_owned(),
            credentials: Arc::new(move || source.get().cloned()),
            leases: Arc::new(Leases(journal.clone())),
            control: Arc::new(control.clone()),
        },
        ca_certificates(config)?,
    )?;
    // The host's own files of tasks that nobody runs any more.
    let tasks = tasks_directory(directory);
    let place = tasks.clone();
    let swept = tokio::task::spawn_blocking(move || sweep(&place)).await;
    if let Err(error) = swept.map_err(Failure::general)? {
        tracing::warn!(%error, directory = %tasks.display(), "files of earlier tasks are left");
    }
    let loader = Loader::new(&config.worker.state_directory, Diagnostics::start())
        .with_quarantine(crashed::quarantine(config).await?)
        .probing(Probe::by_this_program(config.libraries.start_timeout));
    if std::path::absolute(worker_directory(config)).is_ok_and(|worker| worker == *directory) {
        loader.sweep();
    }
    let assembly = assemble(config, &loader, &services).await?;
    crate::memory::give_back_freed();
    Ok(Parts {
        assembly,
        services,
        journal,
        control,
        commands,
        credentials,
        directory: directory.to_owned(),
        worker,
        loader,
    })
}

impl Renewal {
    /// Fresh copies of all libraries, from the operator's files as they are now, with a control of their own: what is
    /// left of the old copies has no say any more.
    pub(super) async fn parts(self, config: &Config) -> Result<Parts, Failure> {
        let (control, commands) = Control::new();
        let services = self.services.renewed(Arc::new(control.clone()))?;
        let loader = self
            .loader
            .next_generation()
            .with_quarantine(crashed::quarantine(config).await?);
        let assembly = assemble(config, &loader, &services).await?;
        crate::memory::give_back_freed();
        Ok(Parts {
            assembly,
            services,
            journal: self.journal,
            control,
            commands,
            credentials: self.credentials,
            directory: self.directory,
            worker: self.worker,
            loader,
        })
    }
}

impl Parts {
    /// The way to the next generation of the libraries.
    pub(super) fn renewal(&self) -> Renewal {
        Renewal {
            services: Arc::clone(&self.services),
            journal: self.journal.clone(),
            credentials: Arc::clone(&self.credentials),
            directory: self.directory.clone(),
            worker: self.worker.clone(),
            loader: self.loader.clone(),
        }
    }

    /// The engines of earlier processes, for [`crate::worker::recover`].
    pub(super) fn stored<'a>(&'a self, config: &'a Config) -> Stored<'a> {
        Stored {
            config,
            loader: &self.loader,
            services: &self.services,
            configured: &self.assembly.engine.name,
        }
    }

    /// Who undoes what an earlier process has left.
    pub(super) fn undoers<'a>(&'a self, stored: &'a Stored<'a>) -> Undoers<'a> {
        Undoers {
            engine: &self.assembly.engine.engine,
            library: &self.assembly.engine.name,
            sha256: self
                .assembly
                .libraries
                .first()
                .map_or("", |engine| &engine.sha256),
            stored,
        }
    }

    /// How often the libraries were loaded afresh.
    pub(super) fn generation(&self) -> u32 {
        self.loader.generation()
    }

    /// Lets the embedded queue refuse payloads that do not fit.
    pub(super) fn publish(&self, embedded: &EmbeddedQueue, pool: &WorkerPoolId) {
        let schema = Arc::clone(&self.assembly.schema);
        let rules = move |payload: &Value| match schema.validate(payload) {
            Ok(_) => Vec::new(),
            Err(violations) => violations.iter().map(ToString::to_string).collect(),
        };
        embedded.register_payload_rules(pool, Arc::new(rules));
    }

    /// For commands that run tasks: what the operator should know although it is no error.
    pub(super) fn warn(&self, config: &Config) {
        for left_out in self.assembly.schema.left_out() {
            // What the operator has asked for is no news.
            if !config.plugins.disabled.contains(&left_out.provider.name) {
                tracing::warn!("{} {}: it is left out", left_out.provider, left_out.reason);
            }
        }
        let engine = &self.assembly.engine;
        if engine.description.has(feature::ISOLATION_NONE) {
            tracing::warn!(
                engine = engine.name,
                "isolation: none. Tasks run as this worker's own user and reach whatever it reaches: run only tasks \
                 that you would run yourself"
            );
        }
    }

    /// A client in the worker's name; on the embedded queue the payload schema is registered too.
    pub(super) fn connect(
        &self,
        config: &Config,
        located: Located,
        pool: WorkerPoolId,
    ) -> Result<Connected, Failure> {
        if let Some(embedded) = &located.embedded {
            self.publish(embedded, &pool);
        }
        // The first wins; there is only one.
        let _ = self.credentials.set(located.credentials.clone());
        let identity = WorkerIdentity {
            pool: pool.clone(),
            group: config.worker.group.clone(),
            id: config.worker.id.clone(),
        };
        let client = ClientConfig {
            ca_certificates: ca_certificates(config)?,
            ..ClientConfig::new(located.root_url, Some(located.credentials)).with_worker(identity)
        };
        let client = Arc::new(QueueClient::new(client)?);
        let clock = Arc::clone(&client);
        self.services.follow_clock(Arc::new(move || clock.now()));
        Ok(Connected {
            client,
            embedded: located.embedded,
            pool,
        })
    }

    /// What tasks run with. `log` says where their logs go beside the artifact.
    pub(super) fn environment(
        self,
        config: &Config,
        pool: &WorkerPoolId,
        log: LogOptions,
    ) -> (Arc<TaskEnvironment>, Commands) {
        let environment = TaskEnvironment {
            payloads: Arc::new(SchemaCheck(Arc::clone(&self.assembly.schema))),
            engine: self.assembly.engine,
            plugins: self.assembly.plugins,
            worker: self.worker,
            services: self.services,
            tasks_directory: tasks_directory(&self.directory),
            log,
            log_header: header(config, pool),
            deadlines: Deadlines::with_call(config.libraries.call_timeout),
        };
        (Arc::new(environment), self.commands)
    }
}

/// What stands at the top of every task log, in generic-worker's form.
fn header(config: &Config, pool: &WorkerPoolId) -> Vec<String> {
    if config.worker.metadata.is_empty() {
        return Vec::new();
    }
    let settings = format!("{:#}", Value::Object(config.worker.metadata.clone()));
    std::iter::once(format!("Worker Type ({pool}) settings:"))
        .chain(settings.lines().map(|line| format!("  {line}")))
        .collect()
}

impl Connected {
    /// What the journal calls the queue.
    pub(super) fn queue_name(&self) -> String {
        match self.embedded {
            Some(_) => EMBEDDED.to_owned(),
            None => self.client.root_url().to_owned(),
        }
    }
}

/// A queue that is known but not yet used.
pub(super) struct Located {
    pub(super) root_url: String,
    pub(super) credentials: Credentials,
    pub(super) embedded: Option<EmbeddedQueue>,
}

/// The deployment of the configuration, or the embedded queue, started here.
pub(super) async fn locate(config: &Config) -> Result<Located, Failure> {
    match &config.queue {
        QueueConfig::Deployment(deployment) => deployed(deployment),
        QueueConfig::Embedded(settings) => {
            let located = start_embedded(config, settings).await.map_err(unusable)?;
            if let Some(embedded) = &located.embedded {
                publish_schemas(embedded, settings)?;
            }
            Ok(located)
        }
    }
}

/// The same for a command beside a worker: an embedded queue that another process runs is used there.
pub(super) async fn locate_or_join(config: &Config) -> Result<Located, Failure> {
    match &config.queue {
        QueueConfig::Deployment(deployment) => deployed(deployment),
        QueueConfig::Embedded(settings) => match start_embedded(config, settings).await {
            Err(StartError::Locked { .. }) => running(config),
            started => started.map_err(unusable),
        },
    }
}

fn deployed(deployment: &Deployment) -> Result<Located, Failure> {
    let credentials = deployment.require_credentials()?;
    Ok(Located {
        root_url: deployment.root_url.clone(),
        credentials: Credentials {
            client_id: credentials.client_id.clone(),
            access_token: credentials.access_token.reveal().to_owned(),
            certificate: credentials
                .certificate
                .as_ref()
                .map(|text| text.reveal().to_owned()),
        },
        embedded: None,
    })
}

/// Starts the embedded queue as it is configured, with what its pools' payloads have to be.
pub(super) async fn start_embedded(
    config: &Config,
    settings: &config::EmbeddedQueue,
) -> Result<Located, StartError> {
    let embedded = EmbeddedQueue::start(EmbeddedConfig {
        listen: settings.listen,
        root_url: settings.root_url.clone(),
        tls: settings
            .tls
            .clone()
            .map(|(certificate, key)| TlsFiles { certificate, key }),
        behind_proxy: settings.behind_proxy,
        claim_timeout: settings.claim_timeout,
        ..EmbeddedConfig::new(queue_directory(config))
    })
    .await?;
    Ok(Located {
        root_url: embedded.root_url().to_owned(),
        credentials: embedded.credentials(),
        embedded: Some(embedded),
    })
}

/// Has the embedded queue refuse payloads that do not fit the configured schemas. Blocks, briefly.
pub(super) fn publish_schemas(
    embedded: &EmbeddedQueue,
    settings: &config::EmbeddedQueue,
) -> Result<(), Failure> {
    for (pool, path) in &settings.payload_schemas {
        let wrong = |problem: String| {
            Failure::new(
                format!(
                    "the payload schema {} of worker pool {pool}: {problem}; `tcw-host schema` prints that of a worker",
                    path.display()
                ),
                INVALID,
            )
        };
        let text =
            std::fs::read_to_string(path).map_err(|error| wrong(format!("it cannot be read ({error})")))?;
        let schema: Value =
            serde_json::from_str(&text).map_err(|error| wrong(format!("it is not JSON ({error})")))?;
        let pool = pool.parse().map_err(|error| wrong(format!("{error}")))?;
        embedded
            .register_worker_type(&pool, &schema)
            .map_err(|error| wrong(error.problem))?;
    }
    Ok(())
}

/// The authorities that are trusted beside those that the system trusts.
pub(super) fn ca_certificates(config: &Config) -> Result<Vec<reqwest::Certificate>, Failure> {
    let Some(path) = &config.ca_certificates else {
        return Ok(Vec::new());
    };
    let wrong = |problem: String| {
        let message = format!("`queue.caCertificates`: {}: {problem}", path.display());
        Failure::new(message, INVALID)
    };
    let pem = std::fs::read(path).map_err(|error| wrong(format!("it cannot be read ({error})")))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|error| wrong(format!("it is not a file of certificates in PEM ({error})")))?;
    if certificates.is_empty() {
        return Err(wrong(
            "there is no certificate in it; it has to hold -----BEGIN CERTIFICATE-----".to_owned(),
        ));
    }
    Ok(certificates)
}

pub(super) fn unusable(error: StartError) -> Failure {
    let status = match error {
        StartError::ExposedKey { .. } => EXPOSED,
        _ => INVALID,
    };
    Failure::new(error.to_string(), status)
}

/// The embedded queue that another process runs, or the deployment.
pub(super) fn running(config: &Config) -> Result<Located, Failure> {
    if let QueueConfig::Deployment(deployment) = &config.queue {
        return deployed(deployment);
    }
    let path = embedded_credentials(config);
    let nobody = |why: String| {
        Failure::general(format!(
            "no embedded queue runs with the state directory {}: {why}; start one with `tcw-host run --engine ...` or \
             `tcw-host queue serve`, or name a deployment with TASKCLUSTER_ROOT_URL",
            config.worker.state_directory.display()
        ))
    };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| nobody(format!("{} cannot be read ({error})", path.display())))?;
    let known: Value =
        serde_json::from_str(&text).map_err(|error| nobody(format!("{}: {error}", path.display())))?;
    let field = |name: &str| known[name].as_str().map(str::to_owned);
    match (field("rootUrl"), field("clientId"), field("accessToken")) {
        (Some(root_url), Some(client_id), Some(access_token)) => {
            // The file outlives the queue that wrote it; a client would try for a minute.
            let addresses = url::Url::parse(&root_url).ok();
            let addresses = addresses.and_then(|url| url.socket_addrs(|| None).ok());
            TcpStream::connect(&*addresses.unwrap_or_default())
                .map_err(|error| nobody(format!("nothing answers at {root_url} any more ({error})")))?;
            Ok(Located {
                root_url,
                credentials: Credentials::new(client_id, access_token),
                embedded: None,
            })
        }
        _ => Err(nobody(format!("{} is incomplete", path.display()))),
    }
}

/// Libraries that earlier processes have left in the store.
pub(super) struct Stored<'a> {
    config: &'a Config,
    loader: &'a Loader,
    services: &'a Arc<WorkerServices>,
    configured: &'a str,
}

#[async_trait]
impl StoredEngines for Stored<'_> {
    async fn engine(&self, sha256: &str) -> Result<Arc<dyn Engine>, String> {
        let made = stored_engine(self.config, self.loader, self.services, sha256, self.configured).await;
        made.map(|slot| slot.engine).map_err(|error| error.to_string())
    }
}

/// Leases go into the journal.
struct Leases(Journal);

#[async_trait]
impl LeaseStore for Leases {
    async fn record(&self, library: &str, sha256: &str, request: LeaseRequest) -> tcw_abi::Result<String> {
        let id = slugid::v4();
        let lease = LeaseRecord {
            id: id.clone(),
            schema_version: request.schema_version,
            data: request.data,
        };
        let owned = OwnedLease {
            library: library.to_owned(),
            sha256: sha256.to_owned(),
            lease,
        };
        self.0
            .lease(owned)
            .await
            .map_err(|error| tcw_abi::Error::internal(error.to_string()))?;
        Ok(id)
    }

    async fn release(&self, id: &str) -> tcw_abi::Result<()> {
        self.0
            .release(id.to_owned())
            .await
            .map_err(|error| tcw_abi::Error::internal(error.to_string()))
    }
}
