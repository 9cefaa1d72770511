//! The task log: where it is published. What stands at its top is the host's.

mod docs;
mod options;

use std::sync::Arc;

use tcw_abi::engine::feature;
use tcw_abi::plugin::{
    EngineHandle, ExceptionReason, Plugin, PluginDescription, PluginProvider, PluginProviderDescription,
    TaskPlugin,
};
use tcw_abi::serde_json::Value;
use tcw_abi::services::{ArtifactPointer, ArtifactUpload, ContentEncoding, Services, TaskContext};
use tcw_abi::{Error, ErrorKind, Result, async_trait};

use crate::options::{Dialect, Options};

/// Of the log and of the link to it.
const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// The way in.
pub struct TaskLogProvider;

#[async_trait]
impl PluginProvider for TaskLogProvider {
    fn description(&self) -> PluginProviderDescription {
        PluginProviderDescription {
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
        Ok(Arc::new(TaskLog { dialect }))
    }
}

struct TaskLog {
    dialect: Dialect,
}

#[async_trait]
impl Plugin for TaskLog {
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
        Ok(Arc::new(TaskLogTask {
            task,
            options: self.dialect.options(&payload),
        }))
    }
}

struct TaskLogTask {
    task: Arc<dyn TaskContext>,
    options: Options,
}

impl TaskLogTask {
    /// Uploads the log, and leads the live log's name to it.
    async fn publish(&self) -> Result<()> {
        let Options {
            live,
            backing,
            upload,
            ..
        } = &self.options;
        if !upload {
            return Ok(());
        }
        let place = || format!("the task log cannot be published as {backing:?}");
        let log = self
            .task
            .closed_log()
            .await
            .map_err(|error| error.context(place()))?;
        let artifact = ArtifactUpload {
            name: backing.clone(),
            content_type: CONTENT_TYPE.into(),
            content_encoding: match log.info.content_encoding.as_str() {
                "gzip" => ContentEncoding::Gzip,
                _ => ContentEncoding::Identity,
            },
            already_encoded: true,
            expires: None,
        };
        self.task
            .upload_artifact(artifact, log.content)
            .await
            .map_err(|error| error.context(place()))?;
        // Afterwards, not meanwhile: a link to a log that could not be uploaded would hide the live one.
        let link = ArtifactPointer::Link {
            name: live.clone(),
            artifact: backing.clone(),
            content_type: Some(CONTENT_TYPE.into()),
            expires: None,
        };
        self.task.create_artifact(link).await.map_err(|error| {
            error.context(format!("the link {live:?} to the task log cannot be published"))
        })?;
        if log.info.complete {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::ResourceUnavailable,
                format!(
                    "the task log {backing:?} is incomplete: it holds {} bytes, and the task wrote more; the disk was full or the \
                     log reached the worker's bound",
                    log.info.length
                ),
            ))
        }
    }
}

#[async_trait]
impl TaskPlugin for TaskLogTask {
    async fn prepare(&self) -> Result<()> {
        match &self.options.flaw {
            Some(flaw) => Err(Error::malformed(flaw.clone())),
            None => Ok(()),
        }
    }

    async fn finished(&self, _success: bool) -> Result<()> {
        self.publish().await
    }

    async fn exception(&self, reason: ExceptionReason) -> Result<()> {
        match (self.publish().await, reason) {
            // The run is resolved already: the queue need not take anything more for it.
            (Err(error), ExceptionReason::Cancelled) => {
                tracing::info!(%error, "the log of a cancelled task was not published");
                Ok(())
            }
            (published, _) => published,
        }
    }
}

tcw_abi::export_library! { name: "task-log", plugins: [TaskLogProvider] }
