//! `tcw-host exec`: one task here and now.
//!
//! The task goes through a queue like any other, embedded or not, in a pool of its own, so that it comes back to this
//! process and to no other.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::flags::WorkerFlags;
use super::outcome::{self, Failure, status};
use super::scratch::{self, Scratch};
use super::signals::{Signals, leave_at_once};
use super::{follow, logging, start, task_file, terminal};
use crate::config::Config;
use crate::queue::{Queue, QueueClient, QueueError, TaskId, WorkerPoolId};
use crate::services::log::{LogOptions, Mirror};
use crate::worker::{Command, Control, Exit, Stop, Worker, WorkerOptions};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The task: a file with `payload:`, or a whole definition; YAML or JSON
    #[arg(value_name = "TASK.yml")]
    task: PathBuf,
    /// Where to put the artifacts, the log among them, as files
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
    #[command(flatten)]
    worker: WorkerFlags,
}

/// The exit status for who would not wait: what a shell says of SIGINT.
const INTERRUPTED: u8 = 130;

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.worker.load_quietly()?;
    logging::start(&config.log);
    exec(&arguments, &config).await
}

async fn exec(arguments: &Arguments, config: &Config) -> Result<ExitCode, Failure> {
    // The file first: what is wrong with it is said before anything is started.
    let name = format!(
        "exec-{}",
        &slugid::v4().to_lowercase().replace(['_', '-'], "0")[..16]
    );
    let pool = WorkerPoolId::new("local", &name).map_err(Failure::general)?;
    let mut definition = task_file::read(&arguments.task, Some(&pool))?;
    definition["taskQueueId"] = pool.to_string().into();
    if let Some(definition) = definition.as_object_mut() {
        definition.remove("provisionerId");
        definition.remove("workerType");
        // Nobody is there for another run when this process has ended.
        definition.insert("retries".into(), 0.into());
    }

    start::check(config)?;
    let located = start::locate_or_join(config).await?;
    let scratch = Scratch::new(config);
    let journal = start::open_journal(scratch.path(), false).await?;
    let parts = start::load(config, scratch.path(), journal, &located, &pool).await?;
    parts.warn(config);
    let left = scratch::recover_dead(config, &parts.undoers(&parts.stored(config))).await;
    for message in left.messages {
        tracing::warn!("left by an earlier exec: {message}");
    }
    let mut connected = parts.connect(config, located, pool)?;
    let embedded = connected.embedded.take();
    let outcome = run_task(arguments, config, &definition, parts, &connected).await;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    outcome
}

async fn run_task(
    arguments: &Arguments,
    config: &Config,
    definition: &Value,
    parts: start::Parts,
    connected: &start::Connected,
) -> Result<ExitCode, Failure> {
    let task = TaskId::random();
    match connected.client.create_task(&task, definition).await {
        Ok(_) => {}
        Err(QueueError::Invalid { message, .. }) => {
            terminal::say(format_args!(
                "tcw-host: the queue refuses the task {}:\n{message}",
                arguments.task.display()
            ));
            return Ok(status(2));
        }
        Err(error) => return Err(error.into()),
    }
    let journal = parts.journal.clone();
    let log = LogOptions {
        mirror: Some(terminal()),
        ..LogOptions::default()
    };
    let control = parts.control.clone();
    let (environment, commands) = parts.environment(config, &connected.pool, log);
    let options = WorkerOptions {
        number_of_tasks: Some(1),
        // Somebody who pressed Ctrl-C is watching.
        cancellation_interval: Duration::from_secs(1),
        ..WorkerOptions::default()
    };
    let queue: Arc<dyn Queue> = Arc::clone(&connected.client) as Arc<dyn Queue>;
    let mut signals = Signals::new()?;
    let mut work =
        tokio::spawn(Worker::new(environment, Arc::clone(&queue), journal, options, commands).run());
    let exit = tokio::select! {
        exit = &mut work => exit.map_err(Failure::general)?,
        () = cancel_on_signal(&mut signals, queue.as_ref(), &task, &control) => leave_at_once(INTERRUPTED),
    };
    let reported = tokio::select! {
        reported = report(arguments, connected.client.as_ref(), &task) => reported,
        // The task is over; who interrupts now does not want its artifacts.
        _ = signals.next() => leave_at_once(INTERRUPTED),
    };
    match exit {
        Exit::Fatal(_) | Exit::Unhealthy(_) => Err(Failure::new(exit.to_string(), outcome::INTERNAL)),
        _ => reported,
    }
}

/// The task's log goes to stdout as it is.
fn terminal() -> Mirror {
    let stdout = Mutex::new(std::io::stdout());
    Arc::new(move |bytes| {
        let mut stdout = stdout.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody may be reading any more; the artifact has the whole log.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    })
}

/// The first signal cancels the task, which is then cleaned up and reported; returns at the second, which does not wait
/// for that.
async fn cancel_on_signal(signals: &mut Signals, queue: &dyn Queue, task: &TaskId, control: &Control) {
    signals.next().await;
    terminal::say("tcw-host: cancelling the task; once more to leave at once");
    let cancelled = tokio::select! {
        cancelled = queue.cancel_task(task) => cancelled,
        _ = signals.next() => return,
    };
    if let Err(error) = cancelled {
        terminal::say(format_args!("tcw-host: the task cannot be cancelled: {error}"));
    }
    // A task that was never claimed will not come any more.
    control.send(Command::Stop(Stop::Graceful("interrupted".into())));
    signals.next().await;
}

async fn report(arguments: &Arguments, queue: &QueueClient, task: &TaskId) -> Result<ExitCode, Failure> {
    let state = queue.status(task).await?;
    let artifacts = follow::artifacts(queue, task, arguments.artifacts.as_deref()).await?;
    terminal::say(format_args!("\ntask {task}: {}", outcome::in_words(&state)));
    if let Some(directory) = &arguments.artifacts {
        if !artifacts.is_empty() {
            terminal::say(format_args!("artifacts in {}:", directory.display()));
        }
    } else if !artifacts.is_empty() {
        terminal::say("artifacts (--artifacts DIR puts them there):");
    }
    for artifact in &artifacts {
        terminal::say(follow::line(artifact));
    }
    Ok(outcome::of_task(&state))
}
