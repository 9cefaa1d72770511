//! A small engine: a task is a shell script, `script: echo hello`, that runs as the worker's own user.
//!
//! It shows the whole way of an engine's objects: provider, engine, builder, sandbox, result set. What it leaves out
//! (volumes, shells, artifacts...) has a default that answers "not supported", and is not in its list of features.

mod builder;
mod sandbox;

use std::sync::Arc;

use tcw_abi::engine::{
    Engine, EngineDescription, EngineProvider, EngineProviderDescription, SandboxBuilder, Section, feature,
};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Result, async_trait};

use crate::builder::Builder;

struct ScriptProvider;

#[async_trait]
impl EngineProvider for ScriptProvider {
    fn description(&self) -> EngineProviderDescription {
        EngineProviderDescription::default()
    }

    async fn new_engine(&self, services: Arc<dyn Services>, _configuration: Value) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(ScriptEngine { services }))
    }
}

struct ScriptEngine {
    services: Arc<dyn Services>,
}

#[async_trait]
impl Engine for ScriptEngine {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            features: vec![feature::ENVIRONMENT.into(), feature::KILL.into(), feature::ISOLATION_NONE.into()],
            payload_schema: json!({
                "type": "object",
                "properties": { "script": { "type": "string", "description": "What /bin/sh runs." } },
                "required": ["script"],
            }),
            documentation: vec![Section {
                title: "Scripts".into(),
                content: "The payload's `script` is run by `/bin/sh`; its exit status decides.".into(),
            }],
            ..Default::default()
        }
    }

    async fn new_sandbox_builder(&self, task: Arc<dyn TaskContext>, payload: Value) -> Result<Arc<dyn SandboxBuilder>> {
        let script = payload["script"].as_str().unwrap_or_default().to_owned();
        let folder = self.services.temporary_folder().await?;
        Ok(Arc::new(Builder::new(task, folder, script)))
    }
}

tcw_abi::export_library! { name: "{{library_name}}", engine: ScriptProvider }

#[cfg(test)]
mod tests;
