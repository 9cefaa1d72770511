//! What a task can ask for beside a place to run.
//!
//! ```text
//! PluginProvider --new_plugin--> Plugin --new_task_plugin--> TaskPlugin:
//!     prepare, build_sandbox, started, stopped, finished | exception, dispose
//! ```
//!
//! One task's hooks never overlap within a plugin; those of different plugins and of different tasks run in parallel,
//! in no order. A hook that is not needed is not written: all of them have a default that does nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::{EngineDescription, ResultSet, Sandbox, SandboxBuilder, Section, Volume, VolumeBuilder};
use crate::error::Result;
use crate::services::{Services, TaskContext};

/// What is constant about a [`PluginProvider`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginProviderDescription {
    /// JSON Schema (2020-12) of the object under `plugins.<name>` in the worker's configuration. `null`: no
    /// configuration.
    pub configuration_schema: Value,
    /// Engine features without which the plugin is left out, visibly.
    pub requires: Vec<String>,
    /// Engine features that it uses if they are there.
    pub optional: Vec<String>,
}

/// The way into a plugin: one for each plugin of a library, created once.
#[async_trait]
pub trait PluginProvider: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> PluginProviderDescription {
        PluginProviderDescription::default()
    }

    /// Makes the plugin, once per worker. `configuration` satisfies the schema; it is `{}` if there is none.
    async fn new_plugin(
        &self,
        services: Arc<dyn Services>,
        engine: Arc<dyn EngineHandle>,
        configuration: Value,
    ) -> Result<Arc<dyn Plugin>>;
}

/// What a plugin may do with the worker's engine. Made by the host.
#[async_trait]
pub trait EngineHandle: Send + Sync + 'static {
    /// Constant: features, schemas, bounds.
    fn description(&self) -> EngineDescription;

    /// An empty volume.
    async fn new_volume(&self, options: Value) -> Result<Arc<dyn Volume>>;

    /// A volume to fill.
    async fn new_volume_builder(&self, options: Value) -> Result<Arc<dyn VolumeBuilder>>;
}

/// What is constant about a [`Plugin`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginDescription {
    /// JSON Schema (2020-12) of the plugin's part of a task's payload: an object whose properties are merged with
    /// those of the engine and of the other plugins. `null`: nothing.
    pub payload_schema: Value,
    /// For the authors of tasks.
    pub documentation: Vec<Section>,
}

/// A plugin, for the worker's whole life.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> PluginDescription {
        PluginDescription::default()
    }

    /// A task begins. `payload` holds the plugin's own keys and satisfies its schema; it is `null` if the task's
    /// payload as a whole does not fit, and then defaults apply, so that a log is still published.
    async fn new_task_plugin(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn TaskPlugin>>;

    /// The worker has had nothing to do for that long. Called about once per claim that brought nothing.
    async fn report_idle(&self, _idle: Duration) -> Result<()> {
        Ok(())
    }

    /// Something went wrong in the worker, or in a library; it goes on.
    async fn report_non_fatal_error(&self) -> Result<()> {
        Ok(())
    }

    /// The last call. Never cancelled by drop.
    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}

/// Why a task ends without a verdict of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ExceptionReason {
    /// The author has to change the task.
    MalformedPayload,
    /// Something that the worker depends on would not answer.
    ResourceUnavailable,
    /// The task asked to be run again.
    IntermittentTask,
    /// The worker was told to stop.
    WorkerShutdown,
    /// Ours.
    InternalError,
    /// Resolved elsewhere: cancelled, past its deadline, or the claim is lost. Nothing is reported.
    Cancelled,
    /// A reason that a newer host gave.
    #[serde(other)]
    Unknown,
}

impl ExceptionReason {
    /// The reason in the queue's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            ExceptionReason::MalformedPayload => "malformed-payload",
            ExceptionReason::ResourceUnavailable => "resource-unavailable",
            ExceptionReason::IntermittentTask => "intermittent-task",
            ExceptionReason::WorkerShutdown => "worker-shutdown",
            ExceptionReason::InternalError => "internal-error",
            ExceptionReason::Cancelled => "cancelled",
            ExceptionReason::Unknown => "unknown",
        }
    }
}

/// A plugin's part in one task.
#[async_trait]
pub trait TaskPlugin: Send + Sync + 'static {
    /// In parallel with the making of the sandbox builder.
    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// The builder takes variables, volumes, proxies, files; the host starts it when every plugin is back.
    /// `start` and `discard` are the host's and answer `ContractViolation` here.
    async fn build_sandbox(&self, _builder: Arc<dyn SandboxBuilder>) -> Result<()> {
        Ok(())
    }

    /// The task runs. `wait` and `abort` are the host's and answer `ContractViolation` here; `kill` is allowed, now
    /// and until the task has stopped.
    async fn started(&self, _sandbox: Arc<dyn Sandbox>) -> Result<()> {
        Ok(())
    }

    /// The sandbox has ended; its log is still open. False: the task has failed.
    async fn stopped(&self, result: Arc<dyn ResultSet>) -> Result<bool> {
        let _ = result;
        Ok(true)
    }

    /// The log is closed. What is uploaded here is the last before the report.
    async fn finished(&self, _success: bool) -> Result<()> {
        Ok(())
    }

    /// Instead of whatever stages are left. What is uploaded here has 30 seconds.
    async fn exception(&self, _reason: ExceptionReason) -> Result<()> {
        Ok(())
    }

    /// Always the last call, exactly once. Never cancelled by drop.
    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}
