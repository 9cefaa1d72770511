//! A task before it starts: its directory is being made while plugins add variables and files.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tcw_abi::engine::{Sandbox, SandboxBuilder, VariableClass};
use tcw_abi::io::Handle;
use tcw_abi::runtime::{blocking, spawn};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::sync::OnceCell;

use crate::background::Background;
use crate::beneath::{self, CreateError};
use crate::directory::TaskDirectory;
use crate::environment::{Environment, User};
use crate::payload::Payload;
use crate::places::Places;
use crate::sandbox::NativeSandbox;

/// What takes time and is begun at once.
struct Preparation {
    services: Arc<dyn Services>,
    task: Arc<dyn TaskContext>,
    places: Arc<Places>,
    prepared: OnceCell<Result<Prepared>>,
}

#[derive(Clone)]
struct Prepared {
    directory: Arc<TaskDirectory>,
    log: Arc<Handle>,
}

impl Preparation {
    /// Waits until everything is there. Whoever comes first does the work.
    async fn get(&self) -> Result<Prepared> {
        self.prepared.get_or_init(|| self.prepare()).await.clone()
    }

    async fn prepare(&self) -> Result<Prepared> {
        let info = self.task.info();
        let (directory, log) = tokio::join!(
            TaskDirectory::create(&*self.services, &self.places, &info),
            self.task.log_handle()
        );
        match (directory, log) {
            (Ok(directory), Ok(log)) => Ok(Prepared {
                directory: Arc::new(directory),
                log: Arc::new(log),
            }),
            (Ok(directory), Err(error)) => {
                if let Err(error) = directory.remove().await {
                    tracing::warn!(%error, "a task directory was left behind");
                }
                Err(error)
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// The order of calls on a builder.
enum Stage {
    /// Variables and files that are set are for the task.
    Open(Environment),
    Started,
    Discarded,
}

pub(crate) struct NativeSandboxBuilder {
    preparation: Arc<Preparation>,
    commands: Vec<Vec<String>>,
    user: Arc<User>,
    background: Arc<Background>,
    stage: Mutex<Stage>,
}

impl NativeSandboxBuilder {
    pub(crate) fn new(
        services: Arc<dyn Services>,
        task: Arc<dyn TaskContext>,
        payload: Payload,
        places: Arc<Places>,
        user: Arc<User>,
        background: Arc<Background>,
    ) -> Result<NativeSandboxBuilder> {
        let preparation = Arc::new(Preparation {
            services,
            task,
            places,
            prepared: OnceCell::new(),
        });
        let ahead = Arc::clone(&preparation);
        // Its result is looked at by whoever needs it.
        spawn(async move { drop(ahead.get().await) })?;
        Ok(NativeSandboxBuilder {
            preparation,
            commands: payload.command,
            user,
            background,
            stage: Mutex::new(Stage::Open(Environment::default())),
        })
    }

    fn with_stage<T>(&self, action: impl FnOnce(&mut Stage) -> Result<T>) -> Result<T> {
        action(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn too_late(stage: &Stage) -> Error {
    Error::violation(match stage {
        Stage::Discarded => "the sandbox builder has been discarded",
        Stage::Open(_) | Stage::Started => "the sandbox has been started",
    })
}

#[async_trait]
impl SandboxBuilder for NativeSandboxBuilder {
    async fn set_environment_variable(
        &self,
        name: String,
        value: String,
        class: VariableClass,
    ) -> Result<()> {
        self.with_stage(|stage| match stage {
            Stage::Open(environment) => environment.set(name, value, class),
            other => Err(too_late(other)),
        })
    }

    async fn put_file(&self, path: String, content: Handle, mode: u32) -> Result<()> {
        self.with_stage(|stage| match stage {
            Stage::Open(_) => Ok(()),
            other => Err(too_late(other)),
        })?;
        let directory = self.preparation.get().await?.directory;
        blocking(move || {
            let malformed = |reason: String| {
                Error::malformed(format!(
                    "a file cannot be put at '{path}' in the task directory: {reason}"
                ))
            };
            let below = beneath::relative(directory.path(), &path).map_err(malformed)?;
            let mut file =
                beneath::create_file(&directory.handle(), below, mode).map_err(|error| match error {
                    CreateError::Taken => Error::new(
                        ErrorKind::NamingConflict,
                        format!("there is something at '{path}' in the task directory already"),
                    ),
                    CreateError::Path(reason) => malformed(reason),
                    CreateError::System(error) => {
                        Error::internal(format!("the file '{path}' cannot be put: {error}"))
                    }
                })?;
            std::io::copy(&mut content.into_file(), &mut file)
                .and_then(|_| file.flush())
                .map_err(|error| Error::internal(format!("the file '{path}' cannot be written: {error}")))
        })
        .await
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        let given = self.with_stage(|stage| match std::mem::replace(stage, Stage::Started) {
            Stage::Open(environment) => Ok(environment),
            other => {
                let error = too_late(&other);
                *stage = other;
                Err(error)
            }
        })?;
        let Prepared { directory, log } = self.preparation.get().await?;
        let unused = Arc::clone(&directory);
        let sandbox = NativeSandbox::start(
            Arc::clone(&self.preparation.task),
            directory,
            given,
            &self.user,
            self.commands.clone(),
            log,
            &self.background,
        );
        match sandbox {
            Ok(sandbox) => Ok(Arc::new(sandbox)),
            Err(error) => {
                // There is no sandbox that would remove it, and `discard` leaves a started one alone.
                if let Err(error) = unused.remove().await {
                    tracing::warn!(%error, "a task directory was left behind");
                }
                Err(error)
            }
        }
    }

    async fn discard(&self) -> Result<()> {
        let first = self.with_stage(|stage| {
            let open = matches!(stage, Stage::Open(_));
            if open {
                *stage = Stage::Discarded;
            }
            Ok(open)
        })?;
        if !first {
            return Ok(());
        }
        match self.preparation.get().await {
            Ok(prepared) => prepared.directory.remove().await,
            // What could not be made need not be removed; `start` would have told.
            Err(_) => Ok(()),
        }
    }
}
