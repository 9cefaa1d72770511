//! Environment variables: those that a task asks for, those that every task has, and those that the operator adds.

mod docs;
mod variables;

use std::sync::Arc;

use futures_util::future::join_all;
use tcw_abi::engine::{SandboxBuilder, VariableClass, feature};
use tcw_abi::plugin::{
    EngineHandle, Plugin, PluginDescription, PluginProvider, PluginProviderDescription, TaskPlugin,
};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Error, ErrorKind, Result, async_trait};

use crate::variables::{Variable, Variables, strings};

/// The way in.
pub struct EnvProvider;

#[async_trait]
impl PluginProvider for EnvProvider {
    fn description(&self) -> PluginProviderDescription {
        PluginProviderDescription {
            configuration_schema: json!({
                "type": "object",
                "properties": {
                    "extra": {
                        "type": "object",
                        "description": "Variables for every task of this worker, by name. A task's own `env` may replace them.",
                        "additionalProperties": { "type": "string" },
                        "default": {},
                    },
                },
                "additionalProperties": false,
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
        let extra = strings(&configuration["extra"]);
        let flaws: Vec<String> = extra
            .iter()
            .filter_map(|(name, value)| variables::flaw(name, value))
            .map(|flaw| format!("plugins.env.extra in the worker's configuration: {flaw}"))
            .collect();
        if !flaws.is_empty() {
            // The worker would otherwise fail every task that it claims.
            return Err(Error::fatal(flaws.join("\n")));
        }
        Ok(Arc::new(Env { extra }))
    }
}

struct Env {
    extra: Vec<(String, String)>,
}

#[async_trait]
impl Plugin for Env {
    fn description(&self) -> PluginDescription {
        PluginDescription {
            payload_schema: json!({
                "type": "object",
                "properties": {
                    "env": {
                        "type": "object",
                        "description": "Environment variables of the task's command, by name. Values are strings: write numbers in quotes.",
                        "additionalProperties": { "type": "string" },
                    },
                },
            }),
            documentation: vec![docs::section(&self.extra)],
        }
    }

    async fn new_task_plugin(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn TaskPlugin>> {
        Ok(Arc::new(EnvTask {
            variables: Variables::of_task(&task.info(), &payload["env"], &self.extra),
        }))
    }
}

struct EnvTask {
    variables: Variables,
}

#[async_trait]
impl TaskPlugin for EnvTask {
    async fn prepare(&self) -> Result<()> {
        match self.variables.flaws.as_slice() {
            [] => Ok(()),
            flaws => Err(Error::malformed(flaws.join("\n"))),
        }
    }

    async fn build_sandbox(&self, builder: Arc<dyn SandboxBuilder>) -> Result<()> {
        // Together, not one after another: each is a round trip, and the sandbox waits for the last one.
        let set = join_all(self.variables.all.iter().map(|variable| {
            let builder = &builder;
            async move {
                let Variable { name, value, class } = variable;
                builder
                    .set_environment_variable(name.clone(), value.clone(), *class)
                    .await
                    .map_err(|error| named(error, name, *class))
            }
        }))
        .await;
        Error::merge(set.into_iter().filter_map(Result::err)).map_or(Ok(()), Err)
    }
}

/// The error of one variable, said so that whoever wrote it finds it.
fn named(error: Error, name: &str, class: VariableClass) -> Error {
    let place = match class {
        VariableClass::Payload => "payload key env",
        VariableClass::Default => "plugins.env.extra in the worker's configuration",
        VariableClass::Forced => "the worker's own variables",
    };
    match (class, error.kind()) {
        // Only the author of the task can choose another name.
        (VariableClass::Payload, ErrorKind::NamingConflict | ErrorKind::FeatureNotSupported) => {
            Error::malformed(format!(
                "{place}: the variable {name:?} cannot be set: {}",
                error.message()
            ))
        }
        _ => error.context(format!("{place}: the variable {name:?} cannot be set")),
    }
}

tcw_abi::export_library! { name: "env", plugins: [EnvProvider] }
