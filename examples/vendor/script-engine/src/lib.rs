//! A small engine: a task is a shell script, `script: echo hello`, that runs as the worker's own user.
//!
//! It shows the whole way of an engine's objects: provider, engine, builder, sandbox, result set. What it leaves out
//! (volumes, shells, artifacts...) has a default that answers "not supported", and is not in its list of features.

use std::collections::BTreeMap;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tcw_abi::engine::{
    feature, Engine, EngineDescription, EngineProvider, EngineProviderDescription, Report, ResultSet, Sandbox,
    SandboxBuilder, SandboxDescription, Section, VariableClass,
};
use tcw_abi::runtime::blocking;
use tcw_abi::serde_json::{json, Value};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{async_trait, Error, ErrorKind, Result};

struct ScriptProvider;

#[async_trait]
impl EngineProvider for ScriptProvider {
    fn description(&self) -> EngineProviderDescription {
        EngineProviderDescription::default()
    }

    async fn new_engine(&self, _services: Arc<dyn Services>, _configuration: Value) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(ScriptEngine))
    }
}

struct ScriptEngine;

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

    async fn new_sandbox_builder(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn SandboxBuilder>> {
        let script = payload["script"].as_str().unwrap_or_default().to_owned();
        Ok(Arc::new(Builder { task, script, variables: Mutex::default() }))
    }
}

struct Builder {
    task: Arc<dyn TaskContext>,
    script: String,
    variables: Mutex<BTreeMap<String, (VariableClass, String)>>,
}

#[async_trait]
impl SandboxBuilder for Builder {
    async fn set_environment_variable(&self, name: String, value: String, class: VariableClass) -> Result<()> {
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
        let log = self.task.log_handle().await?;
        let variables = self.variables.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let script = self.script.clone();
        let child = blocking(move || {
            let errors = log.try_clone()?;
            Ok(Command::new("/bin/sh")
                .args(["-c", &script])
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .envs(variables.into_iter().map(|(name, (_, value))| (name, value)))
                .stdin(Stdio::null())
                .stdout(log.into_stdio())
                .stderr(errors.into_stdio())
                .spawn()?)
        })
        .await?;
        Ok(Arc::new(Running { child: Arc::new(Mutex::new(child)), ended: Mutex::default() }))
    }

    async fn discard(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Default)]
enum Ended {
    #[default]
    No,
    Killed,
    Aborted,
    Itself,
}

struct Running {
    child: Arc<Mutex<Child>>,
    ended: Mutex<Ended>,
}

impl Running {
    /// Asks the kernel without waiting, so that `kill` gets its turn at the child.
    fn status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?)
    }

    fn end(&self, how: Ended) -> Result<()> {
        if self.status()?.is_some() {
            return Err(Error::new(ErrorKind::SandboxTerminated, "the script has ended"));
        }
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = how;
        Ok(self.child.lock().unwrap_or_else(PoisonError::into_inner).kill()?)
    }
}

#[async_trait]
impl Sandbox for Running {
    fn description(&self) -> SandboxDescription {
        SandboxDescription::default()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        loop {
            if let Some(status) = self.status()? {
                let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                if matches!(*ended, Ended::No) {
                    *ended = Ended::Itself;
                }
                return match *ended {
                    Ended::Aborted => Err(Error::new(ErrorKind::SandboxAborted, "the script was aborted")),
                    how => Ok(Arc::new(Finished { status, killed: matches!(how, Ended::Killed) })),
                };
            }
            blocking(|| {
                std::thread::sleep(Duration::from_millis(10));
                Ok(())
            })
            .await?;
        }
    }

    async fn kill(&self, _reason: String, _grace_ms: u64) -> Result<()> {
        self.end(Ended::Killed)
    }

    async fn abort(&self) -> Result<()> {
        self.end(Ended::Aborted)
    }
}

struct Finished {
    status: ExitStatus,
    killed: bool,
}

#[async_trait]
impl ResultSet for Finished {
    fn report(&self) -> Report {
        Report {
            success: self.status.success() && !self.killed,
            exit_code: self.status.code(),
            ..Default::default()
        }
    }

    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}

tcw_abi::export_library! { name: "script", engine: ScriptProvider }
