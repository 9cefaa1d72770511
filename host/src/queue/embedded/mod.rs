//! The embedded queue: a server of the Taskcluster Queue API for one machine, so that the official clients and this
//! worker's own need not know the difference.
//!
//! Connections come in at [`listen`], requests at [`server`], which finds out by what name they have come ([`address`]),
//! which call they are ([`route`], [`client_calls`]) and who makes them ([`auth`], [`signature`], [`clients`], [`nonces`],
//! [`scopes`]). [`tasks`], [`claims`] and [`artifacts`] carry the calls out, on state that one thread owns ([`core`],
//! [`store`], [`index`]) and by rules that stand in [`record`] and [`definition`]; so do [`groups`], [`workers`] and
//! [`counts`]. [`storage`] holds artifacts' bytes, [`housekeeping`] deletes what has expired.
//!
//! It differs from the real queue where that is better on one machine: a claim wakes at once, dependents start and
//! deadlines pass at once, and a payload that does not fit its worker type is refused when the task is created.

mod address;
mod artifacts;
mod auth;
mod claims;
mod client_calls;
mod clients;
mod core;
mod counts;
mod definition;
mod error;
pub mod fault;
mod files;
mod groups;
mod housekeeping;
mod index;
mod listen;
mod nonces;
mod page;
#[cfg(test)]
mod parse_tests;
mod record;
mod route;
mod schemas;
mod scopes;
mod server;
mod signature;
mod storage;
mod store;
mod store_artifacts;
mod store_expiry;
mod store_groups;
mod store_workers;
mod tasks;
mod workers;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::address::Address;
use self::auth::Authority;
use self::clients::Clients;
use self::core::CoreHandle;
use self::files::StateDir;
use self::listen::Tls;
use self::nonces::Nonces;
use self::server::Server;
use self::storage::Storage;
use self::store::Store;
use super::{Credentials, WorkerPoolId};

pub use self::error::{PayloadSchemaError, StartError};

/// How long connections may take to end their last answer when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How an embedded queue is to run.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Where it keeps everything; made at first start, for this user only.
    pub state_dir: PathBuf,
    /// Where it listens; port 0 takes any free port. Beyond loopback only with TLS or behind a proxy.
    pub listen: SocketAddr,
    /// Where clients find it: scheme, host and perhaps a port. Without it, the address it listens on.
    pub root_url: Option<String>,
    /// What to speak TLS with.
    pub tls: Option<TlsFiles>,
    /// Something before it speaks TLS and takes requests for the root URL, which has to be given then.
    pub behind_proxy: bool,
    /// What clients may take of it.
    pub limits: Limits,
    /// How long a claim lasts.
    pub claim_timeout: Duration,
    /// How long a claim without work waits.
    pub poll_timeout: Duration,
    /// The most bytes one artifact may have.
    pub max_artifact_size: u64,
    /// The most bytes all artifacts together may have.
    pub max_storage_size: u64,
}

impl EmbeddedConfig {
    /// The usual: loopback, any port, claims of 20 minutes, artifacts of up to 100 GiB, as much storage as there is.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            root_url: None,
            tls: None,
            behind_proxy: false,
            limits: Limits::default(),
            claim_timeout: Duration::from_secs(20 * 60),
            poll_timeout: Duration::from_secs(20),
            max_artifact_size: 100 << 30,
            max_storage_size: i64::MAX as u64,
        }
    }
}

/// A certificate with its chain, and its key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that vouch for it.
    pub certificate: PathBuf,
    /// The key, which only its owner may read.
    pub key: PathBuf,
}

/// What clients may take of the queue, whoever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; more wait.
    pub connections: usize,
    /// How long the head of a request may take, a connection without a request included: longer than clients keep theirs.
    pub head: Duration,
    /// How long the body of a call may take.
    pub body: Duration,
    /// How long a transfer may stand still: an upload that sends nothing, a client that does not take its answer.
    pub stall: Duration,
}

impl Default for Limits {
    /// A thousand connections, or what half of the open files that this process may have allow.
    fn default() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = files.map_or(usize::MAX, |files| {
            usize::try_from(files / 2).unwrap_or(usize::MAX)
        });
        Self {
            connections: half.clamp(16, 1000),
            head: Duration::from_secs(60),
            body: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        }
    }
}

/// Everything that is wrong with a payload, each thing once; nothing if it is right.
pub type PayloadRules = Arc<dyn Fn(&Value) -> Vec<String> + Send + Sync>;

/// A running embedded queue.
pub struct EmbeddedQueue {
    server: Arc<Server>,
    tls: Option<Arc<Tls>>,
    listens_on: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    housekeeping: JoinHandle<()>,
    /// Held until everything else is over.
    _state_dir: StateDir,
}

impl EmbeddedQueue {
    /// Starts a queue and answers when it can be reached. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address or the state directory cannot be used; each error says what to do.
    pub async fn start(config: EmbeddedConfig) -> Result<Self, StartError> {
        if !config.listen.ip().is_loopback()
            && (config.root_url.is_none() || config.tls.is_none() && !config.behind_proxy)
        {
            return Err(StartError::NotLoopback(config.listen));
        }
        let listen_failed = |source| StartError::Listen {
            address: config.listen,
            source,
        };
        // The directory first: of two starts with equal configuration, the second is told that the state is in use.
        let (directory, files, most) = (
            config.state_dir.clone(),
            config.tls.clone(),
            config.max_storage_size,
        );
        let (state, tls) = tokio::task::spawn_blocking(move || {
            let state = State::open(&directory, most)?;
            Ok((state, files.map(Tls::open).transpose()?.map(Arc::new)))
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let listener = TcpListener::bind(config.listen).await.map_err(listen_failed)?;
        let listens_on = listener.local_addr().map_err(listen_failed)?;
        let root_url = match &config.root_url {
            Some(root_url) => root_url.clone(),
            None => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{listens_on}")
            }
        };
        let address = Address::new(&root_url, config.behind_proxy).ok_or(StartError::RootUrl(root_url))?;
        state
            .directory
            .write_credentials(&address.root_url, state.authority.root())?;
        tracing::info!(root_url = address.root_url, "the embedded queue is running");
        let (stop, stopping) = watch::channel(false);
        let server = Arc::new(Server {
            config,
            address,
            authority: state.authority,
            core: state.core,
            storage: state.storage,
            payload_rules: RwLock::new(HashMap::new()),
            stopping,
            released: watch::Sender::new(()),
        });
        let serving = tokio::spawn(listen::serve(listener, Arc::clone(&server), tls.clone()));
        let housekeeping = tokio::spawn(housekeeping::keep_house(Arc::clone(&server)));
        Ok(Self {
            server,
            tls,
            listens_on,
            stop,
            serving,
            housekeeping,
            _state_dir: state.directory,
        })
    }

    /// Where clients find it.
    #[must_use]
    pub fn root_url(&self) -> &str {
        &self.server.address.root_url
    }

    /// The address that it listens on.
    #[must_use]
    pub fn listens_on(&self) -> SocketAddr {
        self.listens_on
    }

    /// Reads certificate and key again, for connections from now on. Blocks.
    ///
    /// # Errors
    /// If they cannot be used; those from before stay in use.
    pub fn reload_certificate(&self) -> Result<(), StartError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.reload())
    }

    /// The client that may do everything. `credentials.json` in the state directory holds the same.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.server.authority.root().clone()
    }

    /// From now on, tasks for this pool are only created if their payload fits the schema.
    ///
    /// # Errors
    /// If the schema is none; the pool's earlier schema, if any, stays.
    pub fn register_worker_type(
        &self,
        pool: &WorkerPoolId,
        payload_schema: &Value,
    ) -> Result<(), PayloadSchemaError> {
        let validator = schemas::compile_foreign(payload_schema).map_err(|problem| PayloadSchemaError {
            pool: pool.clone(),
            problem,
        })?;
        self.register_payload_rules(
            pool,
            Arc::new(move |payload| schemas::violations(&validator, payload, "payload")),
        );
        Ok(())
    }

    /// The same with a check of the caller's own, whose messages are meant for people.
    pub fn register_payload_rules(&self, pool: &WorkerPoolId, rules: PayloadRules) {
        let mut registered = self
            .server
            .payload_rules
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        registered.insert(pool.to_string(), rules);
    }

    /// Answers every claim that waits for a task now with none, so that a worker in this process that is told to stop
    /// need not wait for its poll to end. Later claims wait as usual.
    pub fn release_polls(&self) {
        self.server.released.send_replace(());
    }

    /// Stops: what waits for tasks gets none, what is under way is ended, the state is closed. Takes at most a few
    /// seconds.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(STOP_PATIENCE, &mut self.serving)
            .await
            .is_err()
        {
            tracing::warn!("the embedded queue stops before all of its connections have ended");
        }
        let server = Arc::clone(&self.server);
        let closed = tokio::task::spawn_blocking(move || server.core.stop()).await;
        if let Err(error) = closed {
            tracing::error!(%error, "the embedded queue's state was not closed in order");
        }
    }
}

impl Drop for EmbeddedQueue {
    /// Whoever does not wait for [`stop`](Self::stop) gets the abrupt form of it. Either way, the state is closed before
    /// the directory is let go for another process.
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.serving.abort();
        self.housekeeping.abort();
        self.server.core.stop();
    }
}

/// Everything that is on disk.
struct State {
    directory: StateDir,
    authority: Authority,
    core: CoreHandle,
    storage: Storage,
}

impl State {
    /// Blocks.
    fn open(path: &std::path::Path, max_storage_size: u64) -> Result<Self, StartError> {
        let directory = StateDir::open(path)?;
        let root = directory.root_credentials()?;
        let nonces = directory.nonces();
        let now = u64::try_from(core::now() / 1000).unwrap_or_default();
        let seen = Nonces::open(&nonces, auth::CLOCK_TOLERANCE, nonces::MOST, now)
            .map_err(|source| files::failed("use", &nonces, source))?;
        let authority =
            Authority::new(root, Clients::open(&directory.clients())?, seen).map_err(|problem| {
                StartError::Credentials {
                    path: path.join("credentials.json"),
                    problem,
                }
            })?;
        let database = directory.database()?;
        let store = Store::open(&database)?;
        let failed = |source| StartError::Database {
            path: database.clone(),
            source,
        };
        directory.sweep(&store.object_files().map_err(failed)?)?;
        let used = store.stored_bytes().map_err(failed)?;
        let core = CoreHandle::start(store).map_err(failed)?;
        Ok(Self {
            storage: Storage::new(directory.storage(), used, max_storage_size),
            directory,
            authority,
            core,
        })
    }
}
