//! A running task, as the host sees it.
//!
//! One watched value holds what was ordered and what has become of the task, so that an order and the end cannot miss
//! each other: an order is accepted only while the task runs, and the driver ends the task only with the orders of
//! that moment ([`Core::settle`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tcw_abi::engine::{OpenShell, ResourceUsage, ResultSet, Sandbox, SandboxDescription, ShellRequest};
use tcw_abi::io::Handle;
use tcw_abi::runtime::{blocking, spawn};
use tcw_abi::services::TaskContext;
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::sync::watch;

use crate::background::Background;
use crate::command::LaunchError;
use crate::directory::TaskDirectory;
use crate::driver;
use crate::environment::{Environment, User, Variables};
use crate::result::NativeResultSet;
use crate::shell;
use crate::tree::Tree;

/// How a task is to be ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Ask, wait that long, force; keep the results.
    Kill(Duration),
    /// Force; keep nothing.
    Abort,
}

/// What has become of the task.
#[derive(Clone)]
pub(crate) enum Phase {
    Running,
    Ended(Arc<NativeResultSet>),
    Aborted,
    /// The worker's fault.
    Broken(Error),
}

#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) order: Option<Order>,
    pub(crate) phase: Phase,
}

/// Whether processes may be started, and those that were.
struct Gate {
    open: bool,
    tree: Tree,
}

/// What the sandbox, its driver and its shells share.
pub(crate) struct Core {
    pub(crate) task: Arc<dyn TaskContext>,
    pub(crate) directory: Arc<TaskDirectory>,
    pub(crate) variables: Variables,
    pub(crate) control: watch::Sender<Control>,
    /// Shells that have not ended.
    pub(crate) shells: watch::Sender<usize>,
    gate: Mutex<Gate>,
}

/// Why no process was started.
pub(crate) enum StartError {
    /// The task is being ended.
    Closed,
    Launch(LaunchError),
}

impl Core {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process as one of the task's. Blocks for as long as `exec` takes. `then` runs before anybody can
    /// close the gate.
    pub(crate) fn launch(
        &self,
        start: impl FnOnce() -> Result<i32, LaunchError>,
        then: impl FnOnce(i32),
    ) -> Result<i32, StartError> {
        let mut gate = self.gate();
        if !gate.open {
            return Err(StartError::Closed);
        }
        let pid = start().map_err(StartError::Launch)?;
        gate.tree.add_leader(pid);
        then(pid);
        Ok(pid)
    }

    /// From now on no process is started; one that is being started is in the tree when this returns.
    pub(crate) fn close_gate(&self) {
        self.gate().open = false;
    }

    /// Closes the gate if no shell is open.
    pub(crate) fn close_gate_without_shells(&self) -> bool {
        let mut gate = self.gate();
        let idle = *self.shells.borrow() == 0;
        if idle {
            gate.open = false;
        }
        idle
    }

    /// The processes as they are known now.
    pub(crate) fn tree(&self) -> Tree {
        self.gate().tree.clone()
    }

    /// Gives a shell's number back to the system, unless processes in its session still need it to be known by.
    pub(crate) fn retire(&self, pid: i32) {
        let mut gate = self.gate();
        if gate.tree.look_in_session(pid).is_ok_and(|found| found.is_empty()) {
            gate.tree.remove_leader(pid);
            crate::spawn::reap(pid);
        }
    }

    pub(crate) fn order(&self) -> Option<Order> {
        self.control.borrow().order
    }

    /// Ends the task, if its orders are still those that `phase` was made for.
    pub(crate) fn settle(&self, made_for: Option<Order>, phase: Phase) -> bool {
        self.control.send_if_modified(|control| {
            let settled = control.order == made_for;
            if settled {
                control.phase = phase;
            }
            settled
        })
    }

    /// Returns when the task has ended.
    pub(crate) async fn ended(&self) -> Phase {
        let mut control = self.control.subscribe();
        match control
            .wait_for(|control| !matches!(control.phase, Phase::Running))
            .await
        {
            Ok(control) => control.phase.clone(),
            Err(_) => Phase::Broken(Error::internal("the sandbox is gone")),
        }
    }

    /// Gives an order, and returns when it has been carried out.
    async fn command(&self, order: Order) -> Result<()> {
        let mut accepted = false;
        self.control.send_if_modified(|control| {
            if !matches!(control.phase, Phase::Running) {
                return false;
            }
            accepted = true;
            let stronger = match (control.order, order) {
                (None, _) => true,
                (Some(Order::Abort), _) => false,
                (Some(Order::Kill(_)), Order::Abort) => true,
                (Some(Order::Kill(before)), Order::Kill(now)) => now < before,
            };
            if stronger {
                control.order = Some(order);
            }
            stronger
        });
        if !accepted {
            return Err(terminated());
        }
        match self.ended().await {
            Phase::Broken(error) => Err(error),
            _ => Ok(()),
        }
    }
}

pub(crate) fn terminated() -> Error {
    Error::new(ErrorKind::SandboxTerminated, "the sandbox has ended")
}

pub(crate) fn aborted() -> Error {
    Error::new(ErrorKind::SandboxAborted, "the sandbox was aborted")
}

pub(crate) struct NativeSandbox {
    core: Arc<Core>,
}

impl NativeSandbox {
    pub(crate) fn start(
        task: Arc<dyn TaskContext>,
        directory: Arc<TaskDirectory>,
        environment: Environment,
        user: &User,
        commands: Vec<Vec<String>>,
        log: Arc<Handle>,
        background: &Arc<Background>,
    ) -> Result<NativeSandbox> {
        let path = directory.path().to_str().ok_or_else(|| {
            Error::internal(format!(
                "the task directory {} is not UTF-8, so it cannot be a variable",
                directory.path().display()
            ))
        })?;
        let core = Arc::new(Core {
            variables: environment.resolve(path, user),
            control: watch::Sender::new(Control {
                order: None,
                phase: Phase::Running,
            }),
            shells: watch::Sender::new(0),
            gate: Mutex::new(Gate {
                open: true,
                tree: Tree::new(directory.path()),
            }),
            task,
            directory,
        });
        spawn(driver::drive(
            Arc::clone(&core),
            commands,
            log,
            background.begin(),
        ))?;
        Ok(NativeSandbox { core })
    }
}

#[async_trait]
impl Sandbox for NativeSandbox {
    fn description(&self) -> SandboxDescription {
        SandboxDescription {
            default_shell: shell::default_shell(),
            displays: Vec::new(),
        }
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        match self.core.ended().await {
            Phase::Ended(result) => Ok(result),
            Phase::Broken(error) => Err(error),
            Phase::Aborted | Phase::Running => Err(aborted()),
        }
    }

    async fn new_shell(&self, request: ShellRequest) -> Result<OpenShell> {
        shell::open(&self.core, request).await
    }

    async fn kill(&self, reason: String, grace_ms: u64) -> Result<()> {
        tracing::info!(reason, grace_ms, "killing a sandbox");
        self.core
            .command(Order::Kill(Duration::from_millis(grace_ms)))
            .await
    }

    async fn abort(&self) -> Result<()> {
        self.core.command(Order::Abort).await
    }

    async fn resource_usage(&self) -> Result<ResourceUsage> {
        if !matches!(self.core.control.borrow().phase, Phase::Running) {
            return Err(terminated());
        }
        let core = Arc::clone(&self.core);
        blocking(move || {
            let processes = core.tree().look()?;
            let pages: u64 = processes.iter().map(|stat| stat.pages).sum();
            let ticks: u64 = processes.iter().map(|stat| stat.ticks).sum();
            Ok(ResourceUsage {
                memory: Some(pages * rustix::param::page_size() as u64),
                peak_memory: None,
                cpu_ms: Some(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)),
                processes: Some(processes.len() as u64),
            })
        })
        .await
    }
}
