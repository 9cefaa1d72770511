//! Artifacts: the files and folders of a task that are published when it has stopped.
//!
//! `payload` reads what a task asks for, in either dialect; `publish` does it; `names` and `media` hold the rules for
//! names and content types; `lines` keeps the task log's lines until a few can be written together.

mod docs;
mod lines;
mod media;
mod names;
mod payload;
mod publish;

use std::sync::Arc;

use tcw_abi::engine::{ResultSet, feature};
use tcw_abi::plugin::{
    EngineHandle, Plugin, PluginDescription, PluginProvider, PluginProviderDescription, TaskPlugin,
};
use tcw_abi::serde_json::Value;
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Error, Result, async_trait};

use crate::payload::{Dialect, Plan};

/// The way in.
pub struct ArtifactsProvider;

#[async_trait]
impl PluginProvider for ArtifactsProvider {
    fn description(&self) -> PluginProviderDescription {
        PluginProviderDescription {
            requires: vec![feature::ARTIFACTS.into()],
            optional: vec![
                feature::DIALECT_GENERIC_WORKER.into(),
                feature::DIALECT_DOCKER_WORKER.into(),
            ],
            ..Default::default()
        }
    }

    async fn new_plugin(
        &self,
        _services: Arc<dyn Services>,
        engine: Arc<dyn EngineHandle>,
        _configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        let dialect = if engine.description().has(feature::DIALECT_DOCKER_WORKER) {
            Dialect::DockerWorker
        } else {
            Dialect::GenericWorker
        };
        Ok(Arc::new(Artifacts { dialect }))
    }
}

struct Artifacts {
    dialect: Dialect,
}

#[async_trait]
impl Plugin for Artifacts {
    fn description(&self) -> PluginDescription {
        PluginDescription {
            payload_schema: self.dialect.payload_schema(),
            documentation: vec![docs::section(self.dialect)],
        }
    }

    async fn new_task_plugin(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn TaskPlugin>> {
        let plan = self.dialect.plan(&payload, || task.info())?;
        Ok(Arc::new(ArtifactsTask { task, plan }))
    }
}

struct ArtifactsTask {
    task: Arc<dyn TaskContext>,
    plan: Plan,
}

#[async_trait]
impl TaskPlugin for ArtifactsTask {
    async fn prepare(&self) -> Result<()> {
        match self.plan.flaws.as_slice() {
            [] => Ok(()),
            flaws => Err(Error::malformed(flaws.join("\n"))),
        }
    }

    async fn stopped(&self, result: Arc<dyn ResultSet>) -> Result<bool> {
        if self.plan.wanted.is_empty() {
            return Ok(true);
        }
        publish::publish(&self.task, &result, &self.plan).await
    }
}

tcw_abi::export_library! { name: "artifacts", plugins: [ArtifactsProvider] }
