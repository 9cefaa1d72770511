//! A worker whose queue is not its own: in this process, and behind a proxy.

use std::time::Duration;

use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Queue, QueueClient, TaskId};

use super::Scene;
use super::proxy::Proxy;

/// A queue of this process, and a worker of it behind a proxy.
pub(crate) struct Deployment {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) queue: EmbeddedQueue,
    pub(crate) client: QueueClient,
    pub(crate) proxy: Proxy,
    pub(crate) scene: Scene,
    _directory: tempfile::TempDir,
}

impl Deployment {
    pub(crate) fn new() -> Self {
        Self::with_claims_of(Duration::from_secs(20 * 60))
    }

    pub(crate) fn with_claims_of(claim_timeout: Duration) -> Self {
        Self::with(claim_timeout, "capacity: 9, cancellationInterval: 1", "")
    }

    /// With these settings of the worker, and further sections of its configuration.
    pub(crate) fn with(claim_timeout: Duration, worker: &str, further: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("it works");
        let directory = tempfile::tempdir().expect("it works");
        let queue = runtime
            .block_on(EmbeddedQueue::start(EmbeddedConfig {
                claim_timeout,
                ..EmbeddedConfig::new(directory.path().join("queue"))
            }))
            .expect("it works");
        let credentials = queue.credentials();
        let client = QueueClient::new(ClientConfig::new(queue.root_url(), Some(credentials.clone())))
            .expect("it works");
        let proxy = Proxy::before(queue.root_url());
        let scene = Scene::new(&format!(
            "queue: {{rootUrl: 'http://{}', clientId: '{}', accessToken: '{}'}}\n\
             worker: {{workerPool: proj/held, workerGroup: g, workerId: w, {worker}}}\n{further}",
            proxy.address, credentials.client_id, credentials.access_token
        ));
        // There is a secret in it.
        let config = scene.place.path("tcw.yml");
        std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("it works");
        Deployment {
            runtime,
            queue,
            client,
            proxy,
            scene,
            _directory: directory,
        }
    }

    pub(crate) fn submits(&self, name: &str, payload: &str) -> String {
        let file = self
            .scene
            .place
            .file(&format!("{name}.yml"), &format!("payload: {payload}\n"));
        let config = self.scene.place.path("tcw.yml").display().to_string();
        let submitted = self.scene.place.run(&["submit", "--config", &config, &file]);
        assert_eq!(submitted.code(), 0, "{}", submitted.stderr);
        submitted.stdout.trim().to_owned()
    }

    pub(crate) fn runs(&self, task: &str) -> Vec<String> {
        let task: TaskId = task.parse().expect("it works");
        let status = self
            .runtime
            .block_on(self.client.status(&task))
            .expect("it works");
        let runs = status.runs.iter();
        runs.map(|run| {
            run.reason_resolved
                .clone()
                .unwrap_or_else(|| format!("{:?}", run.state))
        })
        .collect()
    }
}
