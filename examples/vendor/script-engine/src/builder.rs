//! The sandbox in the making: it gathers what plugins add, then starts the script.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tcw_abi::engine::{Sandbox, SandboxBuilder, VariableClass};
use tcw_abi::runtime::blocking;
use tcw_abi::services::{TaskContext, TemporaryFolder};
use tcw_abi::{Error, ErrorKind, Result, async_trait};

use crate::sandbox::Running;

pub(crate) struct Builder {
    task: Arc<dyn TaskContext>,
    folder: Arc<dyn TemporaryFolder>,
    script: String,
    variables: Mutex<BTreeMap<String, (VariableClass, String)>>,
    used: AtomicBool,
}

impl Builder {
    pub(crate) fn new(task: Arc<dyn TaskContext>, folder: Arc<dyn TemporaryFolder>, script: String) -> Self {
        Builder { task, folder, script, variables: Mutex::default(), used: AtomicBool::new(false) }
    }
}

#[async_trait]
impl SandboxBuilder for Builder {
    async fn set_environment_variable(&self, name: String, value: String, class: VariableClass) -> Result<()> {
        if self.used.load(Ordering::Acquire) {
            return Err(too_late());
        }
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::malformed(format!("'{name}' cannot be the name of an environment variable")));
        }
        let mut variables = self.variables.lock().unwrap_or_else(PoisonError::into_inner);
        match variables.get(&name) {
            Some((present, _)) if *present == class => {
                Err(Error::new(ErrorKind::NamingConflict, format!("the variable {name} is set twice")))
            }
            Some((present, _)) if *present > class => Ok(()),
            _ => {
                variables.insert(name, (class, value));
                Ok(())
            }
        }
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        if self.used.swap(true, Ordering::AcqRel) {
            return Err(too_late());
        }
        let log = self.task.log_handle().await?;
        let variables = self.variables.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (script, folder) = (self.script.clone(), self.folder.description().path);
        let spawned = blocking(move || {
            Command::new("/bin/sh")
                .args(["-c", &script])
                .current_dir(&folder)
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .env("HOME", &folder)
                .envs(variables.into_iter().map(|(name, (_, value))| (name, value)))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?.into_stdio())
                .stderr(log.into_stdio())
                // A group of its own, so that one signal reaches all that the script starts.
                .process_group(0)
                .spawn()
                .map_err(not_started)
        });
        match spawned.await {
            Ok(child) => Ok(Arc::new(Running::watch(child, Arc::clone(&self.folder))?)),
            Err(error) => {
                self.folder.dispose().await?;
                Err(error)
            }
        }
    }

    async fn discard(&self) -> Result<()> {
        if self.used.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.folder.dispose().await
    }
}

fn too_late() -> Error {
    Error::violation("this sandbox was started or discarded before")
}

/// What the author of the task can mend is theirs; everything else is ours.
fn not_started(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidInput => Error::malformed("`script` contains a NUL character"),
        io::ErrorKind::ArgumentListTooLong => {
            Error::malformed("`script` and the environment are longer than the system allows")
        }
        _ => Error::from(error).context("/bin/sh"),
    }
}
