//! What the tests of this engine share: an engine with a fake task, and a few ways to look at processes.

use std::sync::Arc;
use std::time::Duration;

use native_engine::NativeEngineProvider;
use serde_json::{Value, json};
use tcw_abi::engine::{Engine, EngineProvider, ResultSet, Sandbox, SandboxBuilder};
use tcw_abi::testing::{FakeServices, FakeTask};

/// An engine and one task on it.
pub(crate) struct Scene {
    pub(crate) services: Arc<FakeServices>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) task: Arc<FakeTask>,
}

pub(crate) async fn scene() -> Scene {
    let services = FakeServices::new();
    scene_with(services, json!({})).await
}

pub(crate) async fn scene_with(services: Arc<FakeServices>, configuration: Value) -> Scene {
    let engine = NativeEngineProvider
        .new_engine(services.services(), configuration)
        .await
        .unwrap();
    Scene {
        services,
        engine,
        task: FakeTask::new(),
    }
}

/// One command: a script for `/bin/sh`.
pub(crate) fn script(text: &str) -> Value {
    json!({ "command": [["/bin/sh", "-c", text]] })
}

impl Scene {
    pub(crate) async fn builder(&self, payload: Value) -> Arc<dyn SandboxBuilder> {
        self.engine
            .new_sandbox_builder(self.task.context(), payload)
            .await
            .unwrap()
    }

    pub(crate) async fn start(&self, payload: Value) -> Arc<dyn Sandbox> {
        self.builder(payload).await.start().await.unwrap()
    }

    /// Runs a task to its end.
    pub(crate) async fn run(&self, payload: Value) -> Arc<dyn ResultSet> {
        let sandbox = self.start(payload).await;
        patiently(sandbox.wait()).await.unwrap()
    }

    /// The names of what is left of temporary folders.
    pub(crate) fn folders(&self) -> Vec<String> {
        std::fs::read_dir(self.services.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }
}

/// A test that would hang fails instead.
pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("nothing has happened for a minute")
}
