//! What runs a task: its commands one after another, its open shells, and then an end to all processes it has left.
//!
//! The driver owns the truth about what runs. Everything from outside reaches it as an [`Order`]; whatever comes, it
//! ends with every process dead, the pipe of the log closed on this side, and one [`Phase`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use rustix::process::Signal;
use tcw_abi::engine::Report;
use tcw_abi::io::Handle;
use tcw_abi::runtime::blocking;
use tcw_abi::services::LogLevel;
use tcw_abi::{Error, Result};
use tokio::sync::watch;

use crate::background::Unfinished;
use crate::command::{self, LaunchError};
use crate::log_text::{self, Verdict};
use crate::result::NativeResultSet;
use crate::sandbox::{Control, Core, Order, Phase, StartError};
use crate::spawn::{self, Exit, Streams};
use crate::tree::Process;

/// How long a killed process may take to die. Only one that waits for a broken device takes any time at all.
const DEATH: Duration = Duration::from_secs(20);

/// A command that was started.
#[derive(Clone, Copy)]
struct Running {
    pid: i32,
    since: Instant,
}

/// What is known about the task so far.
#[derive(Default)]
struct Progress {
    running: Option<Running>,
    /// Of the last command that has ended.
    last: Option<Exit>,
    failed: bool,
    user: Duration,
    system: Duration,
    peak_memory: u64,
}

impl Progress {
    fn ended(&mut self, exit: Exit) {
        self.running = None;
        self.user += exit.user;
        self.system += exit.system;
        self.peak_memory = self.peak_memory.max(exit.peak_memory);
        self.failed |= !exit.success();
        self.last = Some(exit);
    }
}

struct Driver {
    core: Arc<Core>,
    commands: Vec<Vec<String>>,
    log: Arc<Handle>,
    progress: Arc<Mutex<Progress>>,
}

/// Says that the task is broken, should the driver not come to its end.
struct Guard(Arc<Core>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.control.send_if_modified(|control| {
            let lost = matches!(control.phase, Phase::Running);
            if lost {
                control.phase = Phase::Broken(Error::internal("the native engine lost track of a task"));
            }
            lost
        });
    }
}

/// Runs the task to its end.
pub(crate) async fn drive(
    core: Arc<Core>,
    commands: Vec<Vec<String>>,
    log: Arc<Handle>,
    unfinished: Unfinished,
) {
    let guard = Guard(Arc::clone(&core));
    let started = Utc::now();
    let since = Instant::now();
    let driver = Driver {
        core: Arc::clone(&core),
        commands,
        log,
        progress: Arc::default(),
    };
    let mut outcome = driver.work_or_order().await;
    if let Err(error) = driver.end_processes().await {
        outcome = outcome.and(Err(error));
    }
    let report = driver.report(started, since.elapsed()).await;
    // The log is complete only when nobody holds its pipe any more.
    drop(driver);
    let keeps_results = conclude(&core, &outcome, &report);
    drop(guard);
    if !keeps_results {
        // Nobody gets a result set, so nobody else disposes of it. A big directory takes minutes, and the host waits
        // for an abort only for one: so the task has ended by now, and only the engine's own end waits for this.
        if let Err(error) = core.directory.remove().await {
            // Its lease is kept, so the next start tries again.
            tracing::warn!(%error, "a task directory was left behind");
        }
    }
    drop(unfinished);
}

impl Driver {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The commands and the shells, or as much of them as orders allow.
    async fn work_or_order(&self) -> Result<()> {
        let mut control = self.core.control.subscribe();
        let outcome = tokio::select! {
            biased;
            _ = ordered(&mut control, None) => None,
            outcome = self.work() => Some(outcome),
        };
        match outcome {
            Some(outcome) => outcome,
            None => {
                let core = Arc::clone(&self.core);
                // A start under way is finished first, and then is known.
                blocking(move || {
                    core.close_gate();
                    Ok(())
                })
                .await?;
                self.terminate(&mut control).await
            }
        }
    }

    async fn work(&self) -> Result<()> {
        self.run_commands().await?;
        let mut shells = self.core.shells.subscribe();
        while !self.core.close_gate_without_shells() {
            // The sender lives in the core.
            let _ = shells.wait_for(|open| *open == 0).await;
        }
        Ok(())
    }

    async fn run_commands(&self) -> Result<()> {
        // Each message is a round trip to the host, so the end of one command and the start of the next are one.
        let mut text = String::new();
        for (index, command) in self.commands.iter().enumerate() {
            text.push_str(&log_text::executing(index, command));
            self.core
                .task
                .log_line(LogLevel::Info, std::mem::take(&mut text))
                .await?;
            let Some(running) = self.start(index, command).await? else {
                return Ok(());
            };
            let exit = command::exited(running.pid).await?;
            let verdict = if exit.success() {
                Verdict::Succeeded
            } else {
                Verdict::Failed
            };
            self.progress().ended(exit);
            text = log_text::finished(&exit, running.since.elapsed(), verdict);
            if verdict == Verdict::Failed {
                break;
            }
            text.push('\n');
        }
        self.core
            .task
            .log_line(LogLevel::Info, text.trim_end().to_owned())
            .await
    }

    /// `None` if there is nothing to wait for: the command cannot be started, or the task is being ended.
    async fn start(&self, index: usize, command: &[String]) -> Result<Option<Running>> {
        let core = Arc::clone(&self.core);
        let log = Arc::clone(&self.log);
        let progress = Arc::clone(&self.progress);
        let words = command.to_vec();
        let started = blocking(move || {
            let since = Instant::now();
            Ok(core
                .launch(
                    || {
                        let streams = Streams::Log(std::os::fd::AsFd::as_fd(&*log));
                        command::launch(&words, &core.variables, core.directory.path(), streams)
                    },
                    |pid| {
                        progress.lock().unwrap_or_else(PoisonError::into_inner).running =
                            Some(Running { pid, since });
                    },
                )
                .map(|pid| Running { pid, since }))
        })
        .await?;
        match started {
            Ok(running) => Ok(Some(running)),
            Err(StartError::Closed) => Ok(None),
            Err(StartError::Launch(LaunchError::Worker(error))) => Err(Error::internal(format!(
                "command {index} cannot be started, because the machine has run out of something: {error}"
            ))),
            Err(StartError::Launch(LaunchError::Task(reason))) => {
                self.progress().failed = true;
                self.core
                    .task
                    .log_line(
                        LogLevel::Error,
                        format!("Command {index} could not be started: {reason}"),
                    )
                    .await?;
                Ok(None)
            }
        }
    }

    /// Asks every process to end, as long as the order allows.
    async fn terminate(&self, control: &mut watch::Receiver<Control>) -> Result<()> {
        let asked = Instant::now();
        let core = Arc::clone(&self.core);
        let Some(Order::Kill(mut grace)) = core.order() else {
            return Ok(());
        };
        if grace.is_zero() {
            return Ok(());
        }
        let processes: Vec<Process> = blocking(move || {
            let processes = core.tree().hold()?;
            for process in &processes {
                process.signal(Signal::TERM);
                // What is stopped would not hear of it.
                process.signal(Signal::CONT);
            }
            Ok(processes)
        })
        .await?;
        let all_gone = async {
            for process in processes {
                command::gone(process.fd).await?;
            }
            Ok(())
        };
        tokio::pin!(all_gone);
        loop {
            tokio::select! {
                gone = &mut all_gone => return gone,
                () = tokio::time::sleep(grace.saturating_sub(asked.elapsed())) => return Ok(()),
                order = ordered(control, Some(Order::Kill(grace))) => match order {
                    Order::Kill(shorter) => grace = shorter,
                    Order::Abort => return Ok(()),
                },
            }
        }
    }

    /// Ends what is left of the task's processes.
    async fn end_processes(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        let stuck = blocking(move || {
            core.close_gate();
            Ok(core.tree().end(DEATH)?)
        })
        .await?;
        let mut shells = self.core.shells.subscribe();
        let drained = tokio::time::timeout(DEATH, shells.wait_for(|open| *open == 0));
        let all_shells_known = drained.await.is_ok();
        if !stuck.is_empty() || !all_shells_known {
            return Err(Error::internal(format!(
                "processes of the task could not be ended within {} s: {}",
                DEATH.as_secs(),
                stuck.join(", ")
            )));
        }
        Ok(())
    }

    /// The end of a command that was interrupted, and the sum of it all. Gives the numbers of processes back.
    async fn report(&self, started: DateTime<Utc>, wall: Duration) -> Report {
        let interrupted = {
            let mut progress = self.progress();
            progress.running.and_then(|running| {
                let exit = spawn::peek(running.pid).ok().flatten()?;
                progress.ended(exit);
                Some((exit, running.since.elapsed()))
            })
        };
        if let Some((exit, wall)) = interrupted {
            let text = log_text::finished(&exit, wall, Verdict::Aborted);
            // The task has ended all the same if its log does not take a line.
            if let Err(error) = self.core.task.log_line(LogLevel::Info, text).await {
                tracing::debug!(%error, "the end of a killed command is not in its log");
            }
        }
        for leader in self.core.tree().leaders() {
            spawn::reap(leader);
        }
        let progress = self.progress();
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).ok();
        Report {
            success: !progress.failed && interrupted.is_none(),
            exit_code: progress.last.and_then(|exit| exit.code),
            signal: progress.last.and_then(|exit| exit.signal),
            out_of_memory: false,
            started: Some(started.to_rfc3339_opts(SecondsFormat::Millis, true)),
            finished: Some(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)),
            wall_ms: milliseconds(wall),
            user_ms: milliseconds(progress.user),
            system_ms: milliseconds(progress.system),
            peak_memory: Some(progress.peak_memory),
        }
    }
}

/// Makes of the outcome, and of the orders up to this very moment, what the task has become. Answers whether somebody
/// gets its results.
fn conclude(core: &Arc<Core>, outcome: &Result<()>, report: &Report) -> bool {
    loop {
        let order = core.order();
        let phase = match (order, outcome) {
            (Some(Order::Abort), Ok(())) => Phase::Aborted,
            (_, Err(error)) => Phase::Broken(error.clone()),
            (order, Ok(())) => {
                let mut report = report.clone();
                report.success &= order.is_none();
                Phase::Ended(Arc::new(NativeResultSet::new(
                    report,
                    Arc::clone(&core.directory),
                    Arc::clone(&core.task),
                )))
            }
        };
        let keeps_results = matches!(phase, Phase::Ended(_));
        if core.settle(order, phase) {
            return keeps_results;
        }
    }
}

/// Returns when there is another order than the one that is known.
async fn ordered(control: &mut watch::Receiver<Control>, known: Option<Order>) -> Order {
    loop {
        let order = control.borrow_and_update().order;
        if let Some(order) = order
            && Some(order) != known
        {
            return order;
        }
        if control.changed().await.is_err() {
            // Nobody is left to give one.
            std::future::pending::<()>().await;
        }
    }
}
