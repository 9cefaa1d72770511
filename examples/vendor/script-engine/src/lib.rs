//! A small engine: a task is a shell script, `script: echo hello`, that runs as the worker's own user.
//!
//! It shows the whole way of an engine's objects: provider, engine, builder, sandbox, result set. What it leaves out
//! (volumes, shells, artifacts...) has a default that answers "not supported", and is not in its list of features.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::process::{kill_process_group, waitid, Pid, Signal, WaitId, WaitIdOptions};
use tcw_abi::engine::{
    feature, Engine, EngineDescription, EngineProvider, EngineProviderDescription, Report, ResultSet, Sandbox,
    SandboxBuilder, SandboxDescription, Section, VariableClass,
};
use tcw_abi::runtime::{blocking, spawn};
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
        Ok(Arc::new(Builder { task, script, stage: Mutex::new(Stage::Open(BTreeMap::new())) }))
    }
}

/// The order of calls on a builder.
enum Stage {
    Open(BTreeMap<String, (VariableClass, String)>),
    Started,
    Discarded,
}

struct Builder {
    task: Arc<dyn TaskContext>,
    script: String,
    stage: Mutex<Stage>,
}

fn too_late() -> Error {
    Error::violation("the script has been started, or thrown away")
}

#[async_trait]
impl SandboxBuilder for Builder {
    async fn set_environment_variable(&self, name: String, value: String, class: VariableClass) -> Result<()> {
        let Stage::Open(variables) = &mut *lock(&self.stage) else { return Err(too_late()) };
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::malformed(format!("'{name}' cannot be the name of an environment variable")));
        }
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
        let Stage::Open(variables) = std::mem::replace(&mut *lock(&self.stage), Stage::Started) else {
            return Err(too_late());
        };
        let log = self.task.log_handle().await?;
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
                // What the script starts can be ended with it.
                .process_group(0)
                .spawn()?)
        })
        .await?;
        let running = Arc::new(Running { group: Pid::from_child(&child), state: Mutex::default(), changed: Condvar::new() });
        let watched = Arc::clone(&running);
        spawn(blocking(move || watched.watch(child)))?;
        Ok(Arc::new(Script(running)))
    }

    async fn discard(&self) -> Result<()> {
        let mut stage = lock(&self.stage);
        if matches!(*stage, Stage::Open(_)) {
            *stage = Stage::Discarded;
        }
        Ok(())
    }
}

/// What was ordered from outside.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Kill,
    Abort,
}

#[derive(Clone, Copy, Default)]
struct State {
    order: Option<Order>,
    /// How the script ended.
    status: Option<ExitStatus>,
}

/// Shared by those who wait, those who order, and the thread that watches the script.
struct Running {
    group: Pid,
    state: Mutex<State>,
    changed: Condvar,
}

impl Running {
    /// Waits for the script, then ends what it has left behind.
    fn watch(&self, mut child: Child) -> Result<()> {
        // As long as nobody has asked how it ended, its number, which is the group's, is not given to another.
        let ended = waitid(WaitId::Pid(self.group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let mut state = lock(&self.state);
        ended.map_err(std::io::Error::from)?;
        self.end_group();
        state.status = Some(child.wait()?);
        self.changed.notify_all();
        Ok(())
    }

    fn end_group(&self) {
        // An error says that there is nobody in it any more.
        let _ = kill_process_group(self.group, Signal::KILL);
    }

    /// Blocks.
    fn end(&self) -> State {
        let state = lock(&self.state);
        let ended = self.changed.wait_while(state, |state| state.status.is_none());
        *ended.unwrap_or_else(PoisonError::into_inner)
    }

    async fn order(self: Arc<Self>, order: Order) -> Result<()> {
        {
            let mut state = lock(&self.state);
            if state.status.is_some() {
                return Err(Error::new(ErrorKind::SandboxTerminated, "the script has ended"));
            }
            if state.order != Some(Order::Abort) {
                state.order = Some(order);
            }
            self.end_group();
        }
        blocking(move || {
            self.end();
            Ok(())
        })
        .await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running script, as the host sees it.
struct Script(Arc<Running>);

#[async_trait]
impl Sandbox for Script {
    fn description(&self) -> SandboxDescription {
        SandboxDescription::default()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        let running = Arc::clone(&self.0);
        let State { order, status } = blocking(move || Ok(running.end())).await?;
        match order {
            Some(Order::Abort) => Err(Error::new(ErrorKind::SandboxAborted, "the script was aborted")),
            order => Ok(Arc::new(Finished { status, killed: order.is_some() })),
        }
    }

    async fn kill(&self, _reason: String, _grace_ms: u64) -> Result<()> {
        Arc::clone(&self.0).order(Order::Kill).await
    }

    async fn abort(&self) -> Result<()> {
        Arc::clone(&self.0).order(Order::Abort).await
    }
}

struct Finished {
    status: Option<ExitStatus>,
    killed: bool,
}

#[async_trait]
impl ResultSet for Finished {
    fn report(&self) -> Report {
        Report {
            success: self.status.is_some_and(|status| status.success()) && !self.killed,
            exit_code: self.status.and_then(|status| status.code()),
            ..Default::default()
        }
    }

    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}

tcw_abi::export_library! { name: "script", engine: ScriptProvider }
