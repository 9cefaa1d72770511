//! A plugin with a fake engine, and the way through a task's life.

use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::{Drive, Failure, OnFailure, PluginDrive, Setting, Stage, Validate};
use crate::engine::{EngineDescription, Report};
use crate::error::{ErrorKind, Result as LibraryResult};
use crate::plugin::{ExceptionReason, Plugin, PluginDescription, PluginProvider, TaskPlugin};
use crate::services::ClosedLogInfo;
use crate::testing::{
    FakeBuilder, FakeEngineHandle, FakeFile, FakeResult, FakeSandbox, FakeServices, FakeTask,
};

/// A plugin with a fake engine.
pub struct PluginBench {
    stage: Stage,
    drive: PluginDrive,
    services: Arc<FakeServices>,
    validate: Option<Validate>,
    provider: Arc<dyn PluginProvider>,
    plugin: Arc<dyn Plugin>,
    description: PluginDescription,
    unfinished: Mutex<Vec<Arc<dyn TaskPlugin>>>,
}

impl Deref for PluginBench {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

fn or_object(value: &Value) -> Value {
    match value {
        Value::Null => Value::Object(Map::new()),
        given => given.clone(),
    }
}

impl PluginBench {
    pub(super) async fn new(
        name: &str,
        provider: Arc<dyn PluginProvider>,
        setting: Setting,
    ) -> Result<(PluginBench, OnFailure), Failure> {
        let Setting {
            drive,
            directory,
            on_step,
            on_failure,
            validate,
        } = setting;
        let stage = Stage::new(drive.timeout(), on_step);
        let Drive { mut plugins, .. } = drive;
        let drive = plugins.remove(name).unwrap_or_default();
        let services = FakeServices::within(&directory)
            .map_err(|error| Failure::new(format!("the case's directory: {error}")))?;
        let said = provider.description();
        let configuration = or_object(&drive.configuration);
        if let (Some(validate), false) = (&validate, said.configuration_schema.is_null()) {
            validate(&said.configuration_schema, &configuration).map_err(|error| {
                Failure::new(format!(
                    "`plugins.{name}.configuration` in the check file: {error}"
                ))
            })?;
        }
        let engine = Arc::new(FakeEngineHandle(EngineDescription {
            features: drive.features(&said),
            ..EngineDescription::default()
        }));
        let plugin = stage
            .ok(
                "PluginProvider.new_plugin",
                provider.new_plugin(services.services(), engine, configuration),
            )
            .await?;
        let bench = PluginBench {
            description: plugin.description(),
            stage,
            drive,
            services,
            validate,
            provider,
            plugin,
            unfinished: Mutex::default(),
        };
        Ok((bench, on_failure))
    }

    /// What made the plugin.
    pub fn provider(&self) -> &Arc<dyn PluginProvider> {
        &self.provider
    }

    /// The plugin.
    pub fn plugin(&self) -> &Arc<dyn Plugin> {
        &self.plugin
    }

    /// What it says about itself.
    pub fn description(&self) -> &PluginDescription {
        &self.description
    }

    /// What the plugin was given.
    pub fn services(&self) -> &Arc<FakeServices> {
        &self.services
    }

    /// A task begins, with the payload of the check file, or with none.
    pub(super) async fn begin(&self, malformed: bool) -> Result<Life<'_>, Failure> {
        let payload = if malformed {
            Value::Null
        } else {
            let payload = or_object(self.drive.payload.as_ref().unwrap_or(&Value::Null));
            if let (Some(validate), false) = (&self.validate, self.description.payload_schema.is_null()) {
                validate(&self.description.payload_schema, &payload)
                    .map_err(|error| Failure::new(format!("the payload in the check file: {error}")))?;
            }
            payload
        };
        let task = self.task();
        let hooks = self
            .ok(
                "Plugin.new_task_plugin",
                self.plugin.new_task_plugin(task.context(), payload),
            )
            .await?;
        self.unfinished().push(Arc::clone(&hooks));
        Ok(Life {
            bench: self,
            task,
            hooks,
        })
    }

    fn unfinished(&self) -> std::sync::MutexGuard<'_, Vec<Arc<dyn TaskPlugin>>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn tear_down(&self) -> Result<(), Failure> {
        let unfinished = std::mem::take(&mut *self.unfinished());
        for hooks in unfinished {
            self.within("TaskPlugin.dispose in the clean-up", hooks.dispose())
                .await
                .map(drop)?;
        }
        self.ok("Plugin.dispose", self.plugin.dispose()).await
    }
}

/// A task with the plugin's part in it.
pub(super) struct Life<'a> {
    bench: &'a PluginBench,
    pub(super) task: Arc<FakeTask>,
    hooks: Arc<dyn TaskPlugin>,
}

/// The hooks of one task, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Prepare,
    BuildSandbox,
    Started,
    Stopped,
    Finished,
}

impl Hook {
    pub(super) const ALL: [Hook; 5] = [
        Hook::Prepare,
        Hook::BuildSandbox,
        Hook::Started,
        Hook::Stopped,
        Hook::Finished,
    ];
}

impl Life<'_> {
    /// A hook may say that the task cannot go on; it may not say that the library is broken.
    async fn hook<T>(
        &self,
        what: &str,
        call: impl Future<Output = LibraryResult<T>>,
    ) -> Result<Option<T>, Failure> {
        use ErrorKind::*;
        match self.bench.within(what, call).await? {
            Ok(value) => Ok(Some(value)),
            Err(error)
                if matches!(
                    error.kind(),
                    Panicked | TimedOut | ContractViolation | NonFatalInternal | FatalInternal
                ) =>
            {
                Err(Failure::new(format!("{what} answered: {error}")))
            }
            Err(error) => {
                self.bench.step(&format!("{what} answered: {error}"));
                Ok(None)
            }
        }
    }

    /// Calls one hook. False: the task cannot go on, so `exception` is next.
    pub(super) async fn call(&self, hook: Hook, success: bool) -> Result<bool, Failure> {
        let hooks = &self.hooks;
        let goes_on = match hook {
            Hook::Prepare => self.hook("TaskPlugin.prepare", hooks.prepare()).await?.is_some(),
            Hook::BuildSandbox => {
                let call = hooks.build_sandbox(FakeBuilder::new());
                self.hook("TaskPlugin.build_sandbox", call).await?.is_some()
            }
            Hook::Started => {
                let call = hooks.started(FakeSandbox::new());
                self.hook("TaskPlugin.started", call).await?.is_some()
            }
            Hook::Stopped => {
                let report = Report {
                    success,
                    exit_code: Some(i32::from(!success)),
                    ..Report::default()
                };
                let files = self
                    .bench
                    .drive
                    .files
                    .iter()
                    .map(|(path, text)| (path.clone(), FakeFile::Plain(text.clone().into_bytes())));
                let call = hooks.stopped(FakeResult::with_files(report, files));
                self.hook("TaskPlugin.stopped", call).await?.is_some()
            }
            Hook::Finished => {
                self.close_log();
                let call = hooks.finished(success);
                self.hook("TaskPlugin.finished", call).await?.is_some()
            }
        };
        Ok(goes_on)
    }

    pub(super) async fn exception(&self, reason: ExceptionReason) -> Result<(), Failure> {
        self.close_log();
        let call = self.hooks.exception(reason);
        self.hook("TaskPlugin.exception", call).await.map(drop)
    }

    /// As the host does before the last hooks.
    fn close_log(&self) {
        let length = self.task.log_text().len() as u64;
        self.task.close_log(ClosedLogInfo {
            content_encoding: "identity".into(),
            encoded_length: length,
            length,
            complete: true,
        });
    }

    /// The last call, after which nobody may hold anything of the task.
    pub(super) async fn dispose(self) -> Result<(), Failure> {
        let Life { bench, task, hooks } = self;
        bench.ok("TaskPlugin.dispose", hooks.dispose()).await?;
        bench.unfinished().retain(|other| !Arc::ptr_eq(other, &hooks));
        drop(hooks);
        bench.step("waiting for the end of the task's output");
        let ended = task.output_ends(bench.patience()).await;
        Failure::unless(ended, || {
            "after TaskPlugin.dispose somebody still holds the task's output open".to_owned()
        })
    }
}
