//! The embedded queue by itself, asked by one client over one connection.

use std::time::Instant;

use serde_json::json;
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Queue, QueueClient, TaskId, WorkerIdentity};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::Build;
use crate::pairs::{Figure, Target};
use crate::worker::definition;

const POOL: &str = "local/bench";

/// A queue with a client.
pub(crate) struct Scene {
    pub(crate) runtime: Runtime,
    pub(crate) client: QueueClient,
    queue: Option<EmbeddedQueue>,
    state: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new().expect("threads");
        let state = tempfile::tempdir().expect("a directory");
        let config = EmbeddedConfig::new(state.path().join("queue"));
        let queue = runtime.block_on(EmbeddedQueue::start(config)).expect("a queue");
        let worker = WorkerIdentity {
            pool: POOL.parse().expect("a pool"),
            group: "bench".to_owned(),
            id: "bench".to_owned(),
        };
        let config = ClientConfig::new(queue.root_url(), Some(queue.credentials())).with_worker(worker);
        let client = QueueClient::new(config).expect("a client");
        Scene {
            runtime,
            client,
            queue: Some(queue),
            state,
        }
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        self.state.path()
    }

    /// Makes so many tasks, one after another.
    pub(crate) fn create(&self, count: usize) {
        let definition = definition(POOL, &json!({ "command": [["true"]], "maxRunTime": 60 }));
        self.runtime.block_on(async {
            for _ in 0..count {
                let task = TaskId::random();
                self.client.create_task(&task, &definition).await.expect("a task");
            }
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.runtime.block_on(queue.stop());
        }
    }
}

fn per_second(count: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    count as f64 / start.elapsed().as_secs_f64()
}

/// Tasks that a fresh queue takes in a second.
pub(crate) fn creates(count: usize) -> f64 {
    let scene = Scene::new();
    per_second(count, || scene.create(count))
}

/// Pings a second: what HTTP costs, and a signature is not needed for.
fn pings(scene: &Scene, count: usize) -> f64 {
    per_second(count, || {
        scene.runtime.block_on(async {
            for _ in 0..count {
                scene.client.ping().await.expect("an answer");
            }
        });
    })
}

const COUNT: usize = 2000;

/// `createTask` calls a second.
pub(crate) fn creates_per_second(build: &Build) -> Figure {
    let scene = Scene::new();
    let figure = || per_second(COUNT, || scene.create(COUNT));
    let yardstick = || pings(&scene, COUNT);
    Figure::pairs(build.pairs, "calls/s", Target::AtLeast(1000.0), figure, yardstick)
}

/// `claimWork` calls of one task a second.
pub(crate) fn claims_per_second(build: &Build) -> Figure {
    let scene = Scene::new();
    let figure = || {
        scene.create(COUNT);
        per_second(COUNT, || {
            scene.runtime.block_on(async {
                for _ in 0..COUNT {
                    assert_eq!(scene.client.claim_work(1).await.expect("a claim").len(), 1);
                }
            });
        })
    };
    let yardstick = || pings(&scene, COUNT);
    Figure::pairs(build.pairs, "calls/s", Target::AtLeast(1000.0), figure, yardstick)
}
