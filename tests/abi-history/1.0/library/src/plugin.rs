//! A plugin that says in the task log which hooks were called, and with what.

use std::sync::Arc;

use tcw_abi::engine::{ResultSet, Sandbox, SandboxBuilder, VariableClass, feature};
use tcw_abi::plugin::*;
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{ErrorKind, Result, async_trait};

pub struct Provider;

#[async_trait]
impl PluginProvider for Provider {
    fn description(&self) -> PluginProviderDescription {
        PluginProviderDescription {
            requires: vec![feature::ENVIRONMENT.into()],
            ..Default::default()
        }
    }

    async fn new_plugin(
        &self,
        services: Arc<dyn Services>,
        engine: Arc<dyn EngineHandle>,
        _configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(Hooks { services, engine }))
    }

    // next: async fn since_next(&self) -> Result<String> { Ok("the library's PluginProvider".into()) }
}

struct Hooks {
    services: Arc<dyn Services>,
    engine: Arc<dyn EngineHandle>,
}

#[async_trait]
impl Plugin for Hooks {
    fn description(&self) -> PluginDescription {
        PluginDescription {
            payload_schema: json!({ "properties": { "greet": { "type": "string" } } }),
            ..Default::default()
        }
    }

    async fn new_task_plugin(&self, task: Arc<dyn TaskContext>, payload: Value) -> Result<Arc<dyn TaskPlugin>> {
        let whom = payload["greet"].as_str().unwrap_or("nobody").to_owned();
        let place = self.services.worker().worker_id;
        task.log(format!("{place} has {}", self.engine.description().features[0])).await?;
        // next: task.log(format!("heard from {}, {} and {}", self.services.since_next().await?, self.engine.since_next().await?, task.since_next().await?)).await?;
        Ok(Arc::new(TaskHooks { task, whom }))
    }

    // next: async fn since_next(&self) -> Result<String> { Ok(format!("the library's Plugin, which saw {}", self.engine.since_next().await?)) }
}

struct TaskHooks {
    task: Arc<dyn TaskContext>,
    whom: String,
}

#[async_trait]
impl TaskPlugin for TaskHooks {
    async fn prepare(&self) -> Result<()> {
        self.task.log("prepare").await
    }

    async fn build_sandbox(&self, builder: Arc<dyn SandboxBuilder>) -> Result<()> {
        builder
            .set_environment_variable("GREETING".into(), self.whom.clone(), VariableClass::Payload)
            .await
    }

    async fn started(&self, sandbox: Arc<dyn Sandbox>) -> Result<()> {
        let Err(error) = sandbox.kill("too late".into(), 0).await else {
            return self.task.log("a killed sandbox").await;
        };
        assert_eq!(error.kind(), ErrorKind::SandboxTerminated);
        self.task.log(format!("started: {error}")).await
    }

    async fn stopped(&self, result: Arc<dyn ResultSet>) -> Result<bool> {
        let size = result.extract_file("said.txt".into()).await?.info.size;
        self.task.log(format!("stopped: {size:?} bytes")).await?;
        Ok(result.report().success)
    }

    async fn finished(&self, success: bool) -> Result<()> {
        self.task.log(format!("finished: {success}")).await
    }

    async fn exception(&self, reason: ExceptionReason) -> Result<()> {
        self.task.log(format!("exception: {}", reason.as_str())).await
    }

    // next: async fn since_next(&self) -> Result<String> { Ok("the library's TaskPlugin".into()) }
}
