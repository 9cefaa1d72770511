//! The embedded queue: a server of the Taskcluster Queue API for one machine, so that the official clients and this
//! worker's own need not know the difference.
//!
//! Requests come in at [`server`], which finds out which call they are ([`route`]) and who makes them ([`auth`],
//! [`scopes`]). [`tasks`], [`claims`] and [`artifacts`] carry the calls out, on state that one thread owns ([`core`],
//! [`store`], [`index`]) and by rules that stand in [`record`] and [`definition`]; so do [`groups`], [`workers`] and
//! [`counts`]. [`storage`] holds artifacts' bytes, [`housekeeping`] deletes what has expired.
//!
//! It differs from the real queue where that is better on one machine: a claim wakes at once, dependents start and
//! deadlines pass at once, and a payload that does not fit its worker type is refused when the task is created.

mod artifacts;
mod auth;
mod claims;
mod core;
mod counts;
mod definition;
mod error;
pub mod fault;
mod files;
mod groups;
mod housekeeping;
mod index;
mod page;
mod record;
mod route;
mod schemas;
mod scopes;
mod server;
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

use axum::serve::ListenerExt as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::auth::Authority;
use self::core::CoreHandle;
use self::files::StateDir;
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
    /// Where it listens, on loopback; port 0 takes any free port.
    pub listen: SocketAddr,
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
            claim_timeout: Duration::from_secs(20 * 60),
            poll_timeout: Duration::from_secs(20),
            max_artifact_size: 100 << 30,
            max_storage_size: i64::MAX as u64,
        }
    }
}

/// Everything that is wrong with a payload, each thing once; nothing if it is right.
pub type PayloadRules = Arc<dyn Fn(&Value) -> Vec<String> + Send + Sync>;

/// A running embedded queue.
pub struct EmbeddedQueue {
    server: Arc<Server>,
    root_url: String,
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
        if !config.listen.ip().is_loopback() {
            return Err(StartError::NotLoopback(config.listen));
        }
        let listen_failed = |source| StartError::Listen {
            address: config.listen,
            source,
        };
        // The directory first: of two starts with equal configuration, the second is told that the state is in use.
        let directory = config.state_dir.clone();
        let (state_dir, root, core, used) = tokio::task::spawn_blocking(move || open_state(&directory))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let listener = TcpListener::bind(config.listen).await.map_err(listen_failed)?;
        let root_url = format!("http://{}", listener.local_addr().map_err(listen_failed)?);
        state_dir.write_credentials(&root_url, &root)?;
        let authority = Authority::new(root).map_err(|problem| StartError::Credentials {
            path: config.state_dir.join("credentials.json"),
            problem,
        })?;
        let storage = Storage::new(state_dir.storage(), used, config.max_storage_size);
        let (stop, stopping) = watch::channel(false);
        let server = Arc::new(Server {
            config,
            authority,
            core,
            storage,
            payload_rules: RwLock::new(HashMap::new()),
            stopping,
            released: watch::Sender::new(()),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&server)));
        let housekeeping = tokio::spawn(housekeeping::keep_house(Arc::clone(&server)));
        tracing::info!(root_url, "the embedded queue is running");
        Ok(Self {
            server,
            root_url,
            stop,
            serving,
            housekeeping,
            _state_dir: state_dir,
        })
    }

    /// Where clients find it.
    #[must_use]
    pub fn root_url(&self) -> &str {
        &self.root_url
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

/// Everything that is on disk. Blocks.
fn open_state(directory: &std::path::Path) -> Result<(StateDir, Credentials, CoreHandle, u64), StartError> {
    let state_dir = StateDir::open(directory)?;
    let root = state_dir.root_credentials()?;
    let path = state_dir.database()?;
    let store = Store::open(&path)?;
    let failed = |source| StartError::Database {
        path: path.clone(),
        source,
    };
    state_dir.sweep(&store.object_files().map_err(failed)?)?;
    let used = store.stored_bytes().map_err(failed)?;
    let core = CoreHandle::start(store).map_err(failed)?;
    Ok((state_dir, root, core, used))
}

async fn serve(listener: TcpListener, server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    // Answers are small and waited for: none may be held back to be sent together with the next.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    });
    let app = axum::Router::new().fallback(server::handle).with_state(server);
    let stopped = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the embedded queue stopped serving");
    }
}
