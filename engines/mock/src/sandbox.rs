//! A running task that does not run.

use std::sync::Arc;
use std::time::Instant;

use tcw_abi::engine::{
    Display, OpenShell, ResourceUsage, ResultSet, Sandbox, SandboxDescription, ShellRequest, ShellStreams,
    feature,
};
use tcw_abi::io::Handle;
use tcw_abi::runtime::spawn;
use tcw_abi::services::TaskContext;
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::sync::watch;

use crate::builder::Setup;
use crate::display;
use crate::engine::{Shared, Slot};
use crate::faults::Place;
use crate::files::stream;
use crate::functions::Stage;
use crate::payload::Payload;
use crate::result::MockResultSet;
use crate::shell::{MockShell, Streams};

/// What was ordered from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Kill,
    Abort,
}

#[derive(Clone)]
enum Phase {
    Running,
    Ended(Arc<MockResultSet>),
    Aborted,
    Broken(Error),
}

/// Orders and the end in one place, so that none of them can miss the other.
#[derive(Clone)]
struct Control {
    order: Option<Order>,
    shells: usize,
    phase: Phase,
}

struct Core {
    shared: Arc<Shared>,
    payload: Arc<Payload>,
    control: watch::Sender<Control>,
}

impl Core {
    async fn ordered(&self) {
        let mut control = self.control.subscribe();
        // The sender is in `self`.
        let _ = control.wait_for(|control| control.order.is_some()).await;
    }

    async fn ended(&self) -> Phase {
        let mut control = self.control.subscribe();
        match control
            .wait_for(|control| !matches!(control.phase, Phase::Running))
            .await
        {
            Ok(control) => control.phase.clone(),
            Err(_) => Phase::Aborted,
        }
    }

    /// Refuses when the task has ended.
    fn running(&self) -> Result<()> {
        match self.control.borrow().phase {
            Phase::Running => Ok(()),
            Phase::Aborted => Err(aborted()),
            Phase::Ended(_) | Phase::Broken(_) => Err(terminated()),
        }
    }

    async fn order(&self, order: Order) -> Result<()> {
        let accepted = self.control.send_if_modified(|control| {
            let running = matches!(control.phase, Phase::Running);
            if running && control.order != Some(Order::Abort) {
                control.order = Some(order);
            }
            running
        });
        if !accepted {
            return Err(terminated());
        }
        self.ended().await;
        Ok(())
    }

    /// Runs the task to its end.
    async fn drive(self: Arc<Self>, stage: Stage, slot: Slot) {
        let since = Instant::now();
        // A task that is killed leaves what it was given.
        let given = stage.setup.files.clone();
        let outcome = tokio::select! {
            biased;
            () = self.ordered() => Ok((None, given)),
            outcome = stage.perform() => outcome.map(|(code, files)| (Some(code), files)),
        };
        // Open shells keep a task running; orders end them.
        let mut control = self.control.subscribe();
        let _ = control
            .wait_for(|control| control.shells == 0 || control.order.is_some())
            .await;
        let mut slot = Some(slot);
        self.control.send_modify(|control| {
            control.phase = match (control.order, outcome) {
                (Some(Order::Abort), _) => Phase::Aborted,
                (_, Err(error)) => Phase::Broken(error),
                (order, Ok((code, files))) => Phase::Ended(Arc::new(MockResultSet::new(
                    Arc::clone(&self.shared),
                    Arc::clone(&self.payload),
                    code.filter(|_| order.is_none()),
                    files,
                    since.elapsed(),
                    slot.take(),
                ))),
            };
            // Nobody disposes of what was not given out. Whoever sees the end finds the slot free.
            drop(slot.take());
        });
    }
}

fn terminated() -> Error {
    Error::new(ErrorKind::SandboxTerminated, "the sandbox has ended")
}

fn aborted() -> Error {
    Error::new(ErrorKind::SandboxAborted, "the sandbox was aborted")
}

pub(crate) struct MockSandbox {
    core: Arc<Core>,
}

impl MockSandbox {
    pub(crate) async fn start(
        shared: Arc<Shared>,
        task: Arc<dyn TaskContext>,
        payload: Arc<Payload>,
        setup: Setup,
        slot: Slot,
    ) -> Result<MockSandbox> {
        let stage = Stage {
            services: Arc::clone(&shared.services),
            log: task.log_handle().await?,
            task,
            payload: Arc::clone(&payload),
            setup,
        };
        let core = Arc::new(Core {
            shared,
            payload,
            control: watch::Sender::new(Control {
                order: None,
                shells: 0,
                phase: Phase::Running,
            }),
        });
        spawn(Arc::clone(&core).drive(stage, slot))?;
        Ok(MockSandbox { core })
    }
}

#[async_trait]
impl Sandbox for MockSandbox {
    fn description(&self) -> SandboxDescription {
        let has_displays = self.core.shared.require(feature::DISPLAYS).is_ok();
        SandboxDescription {
            default_shell: vec!["mock-shell".into()],
            displays: has_displays.then(display::display).into_iter().collect(),
        }
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        self.core.payload.faults.at(Place::Wait).await?;
        match self.core.ended().await {
            Phase::Ended(result) => Ok(result),
            Phase::Broken(error) => Err(error),
            Phase::Aborted | Phase::Running => Err(aborted()),
        }
    }

    async fn new_shell(&self, request: ShellRequest) -> Result<OpenShell> {
        self.core.shared.require(feature::SHELLS)?;
        self.core.payload.faults.at(Place::NewShell).await?;
        if request.tty || !request.command.is_empty() {
            return Err(Error::unsupported(
                "the mock engine has its default shell only, without a terminal",
            ));
        }
        let ((stdin, to_stdin), (stdout, from_stdout), (stderr, from_stderr)) =
            (stream()?, stream()?, stream()?);
        let opened = self.core.control.send_if_modified(|control| {
            let running = matches!(control.phase, Phase::Running) && control.order.is_none();
            control.shells += usize::from(running);
            running
        });
        if !opened {
            self.core.running()?;
            return Err(terminated());
        }
        let shell = MockShell::new();
        let running = Arc::clone(&shell);
        let core = Arc::clone(&self.core);
        spawn(async move {
            let streams = Streams {
                stdin,
                stdout,
                stderr,
            };
            running.run(streams, core.ordered()).await;
            core.control.send_modify(|control| control.shells -= 1);
        })?;
        Ok(OpenShell {
            shell,
            streams: ShellStreams::Pipes {
                stdin: to_stdin,
                stdout: from_stdout,
                stderr: from_stderr,
            },
        })
    }

    async fn list_displays(&self) -> Result<Vec<Display>> {
        self.core.shared.require(feature::DISPLAYS)?;
        self.core.running()?;
        Ok(vec![display::display()])
    }

    async fn open_display(&self, name: String) -> Result<Handle> {
        self.core.shared.require(feature::DISPLAYS)?;
        self.core.payload.faults.at(Place::OpenDisplay).await?;
        self.core.running()?;
        if name != display::NAME {
            return Err(Error::new(
                ErrorKind::NoSuchDisplay,
                format!("there is no display {name:?}, only {}", display::NAME),
            ));
        }
        let (ours, theirs) = stream()?;
        let core = Arc::clone(&self.core);
        spawn(async move {
            tokio::select! {
                () = display::serve(ours) => {}
                _ = core.ended() => {}
            }
        })?;
        Ok(theirs)
    }

    async fn kill(&self, _reason: String, _grace_ms: u64) -> Result<()> {
        self.core.shared.require(feature::KILL)?;
        self.core.payload.faults.at(Place::Kill).await?;
        self.core.order(Order::Kill).await
    }

    async fn abort(&self) -> Result<()> {
        self.core.payload.faults.at(Place::Abort).await?;
        self.core.order(Order::Abort).await
    }

    async fn resource_usage(&self) -> Result<ResourceUsage> {
        self.core.shared.require(feature::RESOURCE_USAGE)?;
        self.core.payload.faults.at(Place::ResourceUsage).await?;
        self.core.running()?;
        // Constant, so that tests can look for them.
        Ok(ResourceUsage {
            memory: Some(1 << 20),
            peak_memory: Some(2 << 20),
            cpu_ms: Some(10),
            processes: Some(1),
        })
    }
}
