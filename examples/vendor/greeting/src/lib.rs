//! A whole plugin: a task that says `greet: Ada` finds `GREETING=Hello, Ada` in its environment.

use std::sync::Arc;

use tcw_abi::engine::{SandboxBuilder, VariableClass, feature};
use tcw_abi::plugin::{EngineHandle, Plugin, PluginDescription, PluginProvider, PluginProviderDescription, TaskPlugin};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Result, async_trait};

struct GreetingProvider;

#[async_trait]
impl PluginProvider for GreetingProvider {
    fn description(&self) -> PluginProviderDescription {
        PluginProviderDescription {
            configuration_schema: json!({
                "type": "object",
                "properties": { "word": { "type": "string", "default": "Hello" } },
            }),
            requires: vec![feature::ENVIRONMENT.into()],
            ..Default::default()
        }
    }

    async fn new_plugin(
        &self,
        _services: Arc<dyn Services>,
        _engine: Arc<dyn EngineHandle>,
        configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(Greeting { word: configuration["word"].as_str().unwrap_or("Hello").into() }))
    }
}

struct Greeting {
    word: String,
}

#[async_trait]
impl Plugin for Greeting {
    fn description(&self) -> PluginDescription {
        PluginDescription {
            payload_schema: json!({
                "type": "object",
                "properties": { "greet": { "type": "string", "description": "Whom to greet." } },
            }),
            ..Default::default()
        }
    }

    async fn new_task_plugin(&self, task: Arc<dyn TaskContext>, payload: Value) -> Result<Arc<dyn TaskPlugin>> {
        let greeting = payload["greet"].as_str().map(|name| format!("{}, {name}", self.word));
        Ok(Arc::new(GreetingTask { task, greeting }))
    }
}

struct GreetingTask {
    task: Arc<dyn TaskContext>,
    greeting: Option<String>,
}

#[async_trait]
impl TaskPlugin for GreetingTask {
    async fn build_sandbox(&self, builder: Arc<dyn SandboxBuilder>) -> Result<()> {
        let Some(greeting) = &self.greeting else { return Ok(()) };
        self.task.log(format!("This task is greeted: {greeting}")).await?;
        builder.set_environment_variable("GREETING".into(), greeting.clone(), VariableClass::Payload).await
    }
}

tcw_abi::export_library! { name: "greeting", plugins: [GreetingProvider] }

#[cfg(test)]
mod tests;
