//! The running script, how it is ended, and what it leaves.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tcw_abi::engine::{Report, ResultSet, Sandbox, SandboxDescription};
use tcw_abi::runtime::{self, blocking};
use tcw_abi::services::TemporaryFolder;
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Run,
    Kill { grace: Duration },
    Abort,
}

#[derive(Clone)]
enum Phase {
    Runs,
    Ended { results: Arc<Finished>, by_itself: bool },
    Aborted,
}

pub(crate) struct Running {
    orders: watch::Sender<Order>,
    phase: watch::Receiver<Phase>,
}

impl Running {
    /// Gives the child to a task in the background, which alone waits for it and sends it signals.
    pub(crate) fn watch(child: Child, folder: Arc<dyn TemporaryFolder>) -> Result<Self> {
        let (orders, orders_to_come) = watch::channel(Order::Run);
        let (phases, phase) = watch::channel(Phase::Runs);
        runtime::spawn(async move {
            let end = drive(child, orders_to_come, folder).await;
            phases.send_replace(end);
        })?;
        Ok(Running { orders, phase })
    }

    async fn ended(&self) -> Result<Phase> {
        let mut phase = self.phase.clone();
        let end = phase.wait_for(|phase| !matches!(phase, Phase::Runs)).await;
        end.map(|phase| phase.clone()).map_err(|_| Error::internal("nobody watches the script any more"))
    }

    /// Gives an order and returns when the script is gone.
    async fn order(&self, order: Order) -> Result<()> {
        if !matches!(*self.phase.borrow(), Phase::Runs) {
            return Err(terminated());
        }
        self.orders.send_if_modified(|current| {
            let stronger = *current == Order::Run || order == Order::Abort;
            if stronger {
                *current = order;
            }
            stronger
        });
        match self.ended().await? {
            Phase::Ended { by_itself: true, .. } => Err(terminated()),
            _ => Ok(()),
        }
    }
}

fn terminated() -> Error {
    Error::new(ErrorKind::SandboxTerminated, "the script has ended")
}

async fn drive(mut child: Child, mut orders: watch::Receiver<Order>, folder: Arc<dyn TemporaryFolder>) -> Phase {
    let started = Instant::now();
    let script = Pid::from_child(&child);
    // Its end is noticed without reaping it: as long as it is there, nobody else can be given the group's number.
    let ended = blocking(move || {
        Ok(waitid(WaitId::Pid(script), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map_err(io::Error::from)?)
    });
    let mut ended = pin!(ended);

    let mut by_itself = false;
    tokio::select! {
        _ = &mut ended => by_itself = true,
        _ = orders.wait_for(|order| *order != Order::Run) => {}
    }
    let order = *orders.borrow();
    if let (false, Order::Kill { grace }) = (by_itself, order) {
        let _ = kill_process_group(script, Signal::TERM);
        tokio::select! {
            _ = &mut ended => {}
            () = tokio::time::sleep(grace) => {}
            _ = orders.wait_for(|order| *order == Order::Abort) => {}
        }
    }
    // The task is over when every process of it is, so what the script left in the background ends here, too.
    let _ = kill_process_group(script, Signal::KILL);
    let status = blocking(move || Ok(child.wait()?)).await;

    if !by_itself && *orders.borrow() == Order::Abort {
        // What cannot be removed now is removed with all temporary folders when the worker starts again.
        let _ = folder.dispose().await;
        return Phase::Aborted;
    }
    let results = Finished { status: status.ok(), by_itself, wall: started.elapsed(), folder };
    Phase::Ended { results: Arc::new(results), by_itself }
}

#[async_trait]
impl Sandbox for Running {
    fn description(&self) -> SandboxDescription {
        SandboxDescription::default()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        match self.ended().await? {
            Phase::Ended { results, .. } => Ok(results),
            _ => Err(Error::new(ErrorKind::SandboxAborted, "the script was aborted")),
        }
    }

    async fn kill(&self, _reason: String, grace_ms: u64) -> Result<()> {
        self.order(Order::Kill { grace: Duration::from_millis(grace_ms) }).await
    }

    async fn abort(&self) -> Result<()> {
        self.order(Order::Abort).await
    }
}

struct Finished {
    status: Option<ExitStatus>,
    by_itself: bool,
    wall: Duration,
    folder: Arc<dyn TemporaryFolder>,
}

#[async_trait]
impl ResultSet for Finished {
    fn report(&self) -> Report {
        Report {
            success: self.by_itself && self.status.is_some_and(|status| status.success()),
            exit_code: self.status.and_then(|status| status.code()),
            signal: self.status.and_then(|status| status.signal()),
            wall_ms: u64::try_from(self.wall.as_millis()).ok(),
            ..Default::default()
        }
    }

    async fn dispose(&self) -> Result<()> {
        self.folder.dispose().await
    }
}
