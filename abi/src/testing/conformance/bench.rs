//! An engine, and the ways to run a task on it.
//!
//! What every case checks by the way stands here: the payload fits the engine's schema, `discard` after `start` is
//! harmless, `wait` gives the same answer again, `abort` after the end is refused, `dispose` works, and afterwards
//! nobody holds the task's output open.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::{Drive, Failure, OnFailure, Purpose, Setting, Stage, Validate};
use crate::engine::{
    Engine, EngineDescription, EngineProvider, Report, ResultSet, Sandbox, SandboxBuilder, VariableClass,
};
use crate::error::{Error, ErrorKind};
use crate::testing::{FakeServices, FakeTask};

/// What is open and has to be ended if the case fails in the middle.
#[derive(Default)]
struct Open {
    builders: Vec<Arc<dyn SandboxBuilder>>,
    sandboxes: Vec<Arc<dyn Sandbox>>,
    results: Vec<Arc<dyn ResultSet>>,
}

/// An engine, and the ways to run a task on it.
pub struct Bench {
    stage: Stage,
    drive: Drive,
    services: Arc<FakeServices>,
    validate: Option<Validate>,
    provider: Arc<dyn EngineProvider>,
    engine: Arc<dyn Engine>,
    description: EngineDescription,
    open: Mutex<Open>,
}

impl Deref for Bench {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Bench {
    pub(super) async fn new(
        provider: Arc<dyn EngineProvider>,
        setting: Setting,
    ) -> Result<(Bench, OnFailure), Failure> {
        let Setting {
            drive,
            directory,
            on_step,
            on_failure,
            validate,
        } = setting;
        let stage = Stage::new(drive.timeout(), on_step);
        let services = FakeServices::within(&directory)
            .map_err(|error| Failure::new(format!("the case's directory: {error}")))?;
        let schema = provider.description().configuration_schema;
        let configuration = match &drive.engine {
            Value::Null => Value::Object(serde_json::Map::new()),
            given => given.clone(),
        };
        if let (Some(validate), false) = (&validate, schema.is_null()) {
            validate(&schema, &configuration)
                .map_err(|error| Failure::new(format!("`engine` in the check file: {error}")))?;
        }
        let engine = stage
            .ok(
                "EngineProvider.new_engine",
                provider.new_engine(services.services(), configuration),
            )
            .await?;
        let bench = Bench {
            description: engine.description(),
            stage,
            drive,
            services,
            validate,
            provider,
            engine,
            open: Mutex::default(),
        };
        Ok((bench, on_failure))
    }

    /// What made the engine.
    pub fn provider(&self) -> &Arc<dyn EngineProvider> {
        &self.provider
    }

    /// The engine itself, for calls that have no way of their own here.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// What the engine says about itself.
    pub fn description(&self) -> &EngineDescription {
        &self.description
    }

    /// The check file.
    pub fn drive(&self) -> &Drive {
        &self.drive
    }

    /// What the engine was given.
    pub fn services(&self) -> &Arc<FakeServices> {
        &self.services
    }

    /// Checks a value by a schema, if there is a validator.
    pub fn validate(&self, what: &str, schema: &Value, value: &Value) -> Result<(), Failure> {
        match &self.validate {
            Some(validate) if !schema.is_null() => {
                validate(schema, value).map_err(|error| Failure::new(format!("{what}: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A builder for a new task with this payload.
    pub async fn build(&self, payload: Value) -> Result<Built<'_>, Failure> {
        self.validate(
            "the payload does not fit the engine's schema",
            &self.description.payload_schema,
            &payload,
        )?;
        let task = self.task();
        let builder = self
            .ok(
                "Engine.new_sandbox_builder",
                self.engine.new_sandbox_builder(task.context(), payload),
            )
            .await?;
        self.open().builders.push(Arc::clone(&builder));
        Ok(Built {
            bench: self,
            task,
            builder,
        })
    }

    /// A builder for a new task that serves `purpose`.
    pub async fn build_for(&self, purpose: &Purpose, words: &[(&str, &str)]) -> Result<Built<'_>, Failure> {
        self.build(self.drive.payload(purpose, words)?).await
    }

    /// Starts a task that serves `purpose`.
    pub async fn start(&self, purpose: &Purpose, words: &[(&str, &str)]) -> Result<Running<'_>, Failure> {
        self.build_for(purpose, words).await?.start().await
    }

    /// Runs a POSIX shell script to its end, however that is.
    pub(super) async fn script(&self, script: &str) -> Result<Ended<'_>, Failure> {
        let payload = self.drive.script_payload(script)?;
        self.build(payload).await?.start().await?.wait().await
    }

    /// Runs a task that serves `purpose` to its end, which has to be a success.
    pub async fn succeed(&self, purpose: &Purpose, words: &[(&str, &str)]) -> Result<Ended<'_>, Failure> {
        let ended = self.start(purpose, words).await?.wait().await?;
        ended.expect_success(true)?;
        Ok(ended)
    }

    /// Ends what a case left open, then the engine.
    pub(super) async fn tear_down(&self) -> Result<(), Failure> {
        let Open {
            builders,
            sandboxes,
            results,
        } = std::mem::take(&mut *self.open());
        for sandbox in sandboxes {
            // The case has failed already, or has ended it itself: any answer will do.
            self.within("Sandbox.abort in the clean-up", sandbox.abort())
                .await
                .map(drop)?;
        }
        for result in results {
            self.within("ResultSet.dispose in the clean-up", result.dispose())
                .await
                .map(drop)?;
        }
        for builder in builders {
            self.within("SandboxBuilder.discard in the clean-up", builder.discard())
                .await
                .map(drop)?;
        }
        self.ok("Engine.dispose", self.engine.dispose()).await?;
        let leases = self.services.leases();
        Failure::unless(leases.is_empty(), || {
            format!("Engine.dispose has returned, and there are still leases: {leases:?}")
        })?;
        // An earlier stage's may be left: who removes temporary folders is the host.
        let own = format!("folder-{}-", std::process::id());
        let mut folders = self
            .services
            .folders()
            .map_err(|error| Failure::new(format!("the case's directory: {error}")))?;
        folders.retain(|name| name.starts_with(&own));
        Failure::unless(folders.is_empty(), || {
            format!("Engine.dispose has returned, and there are still temporary folders: {folders:?}")
        })
    }
}

fn forget<T: ?Sized>(list: &mut Vec<Arc<T>>, item: &Arc<T>) {
    list.retain(|other| !Arc::ptr_eq(other, item));
}

/// A task before it starts.
pub struct Built<'a> {
    bench: &'a Bench,
    /// The task.
    pub task: Arc<FakeTask>,
    /// Its builder.
    pub builder: Arc<dyn SandboxBuilder>,
}

impl<'a> Built<'a> {
    /// Sets a variable, which has to work.
    pub async fn set(&self, name: &str, value: &str, class: VariableClass) -> Result<(), Failure> {
        let what = format!("SandboxBuilder.set_environment_variable({name:?}, {class:?})");
        let call = self
            .builder
            .set_environment_variable(name.into(), value.into(), class);
        self.bench.ok(&what, call).await
    }

    /// Starts it.
    pub async fn start(self) -> Result<Running<'a>, Failure> {
        let sandbox = self
            .bench
            .ok("SandboxBuilder.start", self.builder.start())
            .await?;
        self.started(sandbox).await
    }

    /// Goes on with the sandbox that the builder's `start` has answered.
    pub(super) async fn started(self, sandbox: Arc<dyn Sandbox>) -> Result<Running<'a>, Failure> {
        {
            let mut open = self.bench.open();
            open.sandboxes.push(Arc::clone(&sandbox));
            forget(&mut open.builders, &self.builder);
        }
        self.bench
            .ok("SandboxBuilder.discard after start", self.builder.discard())
            .await?;
        Ok(Running {
            bench: self.bench,
            task: self.task,
            builder: self.builder,
            sandbox,
        })
    }

    /// Throws it away, after which nobody may hold its output.
    pub async fn discard(self) -> Result<(), Failure> {
        self.bench
            .ok("SandboxBuilder.discard", self.builder.discard())
            .await?;
        forget(&mut self.bench.open().builders, &self.builder);
        drop(self.builder);
        self.bench.output_ends(&self.task, "discard").await
    }
}

/// A running task.
pub struct Running<'a> {
    bench: &'a Bench,
    /// The task.
    pub task: Arc<FakeTask>,
    /// The builder that started it.
    pub builder: Arc<dyn SandboxBuilder>,
    /// Its sandbox.
    pub sandbox: Arc<dyn Sandbox>,
}

impl<'a> Running<'a> {
    /// Waits until `text` stands in the output.
    pub async fn printed(&self, text: &str) -> Result<(), Failure> {
        self.bench.printed(&self.task, text).await
    }

    /// Waits for the end, twice: both answers have to be the same.
    pub async fn wait(self) -> Result<Ended<'a>, Failure> {
        let result = self.bench.ok("Sandbox.wait", self.sandbox.wait()).await?;
        {
            let mut open = self.bench.open();
            forget(&mut open.sandboxes, &self.sandbox);
            open.results.push(Arc::clone(&result));
        }
        let again = self
            .bench
            .ok("Sandbox.wait, the second time", self.sandbox.wait())
            .await?;
        Failure::unless_equal("the report of the second wait", again.report(), result.report())?;
        Ok(Ended {
            bench: self.bench,
            report: result.report(),
            task: self.task,
            builder: self.builder,
            sandbox: self.sandbox,
            result,
        })
    }

    /// Kills it, which has to work.
    pub async fn kill(&self) -> Result<(), Failure> {
        let call = self.sandbox.kill("tcw-host library check".into(), 1000);
        self.bench.ok("Sandbox.kill", call).await
    }

    /// Aborts it, after which there are no results and nobody may hold its output.
    pub async fn abort(self) -> Result<(), Failure> {
        self.bench.ok("Sandbox.abort", self.sandbox.abort()).await?;
        self.aborted().await
    }

    /// What has to be so after an abort.
    pub(super) async fn aborted(self) -> Result<(), Failure> {
        let aborted = [ErrorKind::SandboxAborted];
        for what in ["Sandbox.wait after abort", "Sandbox.wait after abort, again"] {
            self.bench.refused(what, &aborted, self.sandbox.wait()).await?;
        }
        forget(&mut self.bench.open().sandboxes, &self.sandbox);
        drop((self.sandbox, self.builder));
        self.bench.output_ends(&self.task, "abort").await
    }
}

/// A task that has ended and left results.
pub struct Ended<'a> {
    bench: &'a Bench,
    /// The task.
    pub task: Arc<FakeTask>,
    /// The builder that started it.
    pub builder: Arc<dyn SandboxBuilder>,
    /// Its sandbox, which has ended.
    pub sandbox: Arc<dyn Sandbox>,
    /// What it left.
    pub result: Arc<dyn ResultSet>,
    /// How it went.
    pub report: Report,
}

impl Ended<'_> {
    /// Fails unless the task ended so.
    pub fn expect_success(&self, success: bool) -> Result<(), Failure> {
        let words = |success| if success { "a success" } else { "no success" };
        Failure::unless(self.report.success == success, || {
            format!(
                "the task has to end as {}, and its report says {}: {:?}",
                words(success),
                words(self.report.success),
                self.report
            )
        })
    }

    /// Throws everything away, and closes the log: answers all that came through the task's pipe.
    pub async fn finish(self) -> Result<Vec<u8>, Failure> {
        let terminated = [ErrorKind::SandboxTerminated];
        self.bench
            .refused("Sandbox.abort after the end", &terminated, self.sandbox.abort())
            .await?;
        self.bench.ok("ResultSet.dispose", self.result.dispose()).await?;
        forget(&mut self.bench.open().results, &self.result);
        drop((self.result, self.sandbox, self.builder));
        self.bench.output_ends(&self.task, "ResultSet.dispose").await?;
        Ok(self.task.output())
    }

    /// [`Ended::finish`], with the output as text.
    pub async fn finish_text(self) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.finish().await?).into_owned())
    }
}

impl Bench {
    async fn output_ends(&self, task: &FakeTask, after: &str) -> Result<(), Failure> {
        self.step("waiting for the end of the task's output");
        let ended = task.output_ends(self.patience()).await;
        Failure::unless(ended, || {
            format!(
                "after {after} every object of the task was dropped, and somebody still holds its output open: a \
                 process that was left behind, or a handle in the library"
            )
        })
    }

    /// What an engine without a feature has to answer.
    pub fn is_unsupported(error: &Error) -> bool {
        error.kind() == ErrorKind::FeatureNotSupported
    }
}
