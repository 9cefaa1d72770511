//! `tcw-host exec`: one task here and now.
//!
//! The task goes through a queue like any other, embedded or not, in a pool of its own, so that it comes back to this
//! process and to no other.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::flags::WorkerFlags;
use super::outcome::{self, Failure, status};
use super::{follow, logging, start, task_file};
use crate::config::Config;
use crate::queue::{Queue, QueueError, TaskId, WorkerPoolId};
use crate::services::log::LogOptions;
use crate::worker::{Exit, Worker, WorkerOptions};

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

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.worker.load_quietly()?;
    logging::start(&config.log);
    let scratch = Scratch::new(&config)?;
    let outcome = exec(&arguments, &config, &scratch.0).await;
    drop(scratch);
    outcome
}

/// A worker directory for one task. What a crash leaves of it is in nobody's way; `exec` removes it the next time.
struct Scratch(PathBuf);

impl Scratch {
    fn new(config: &Config) -> Result<Self, Failure> {
        let all = config.worker.state_directory.join("exec");
        sweep(&all);
        Ok(Scratch(all.join(slugid::v4())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is tried again by the next one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Directories of processes that are gone: nobody holds their lock.
fn sweep(all: &Path) {
    let Ok(entries) = std::fs::read_dir(all) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(lock) = std::fs::File::open(entry.path().join("lock")) else {
            continue;
        };
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

async fn exec(arguments: &Arguments, config: &Config, directory: &Path) -> Result<ExitCode, Failure> {
    // The file first: what is wrong with it is said before anything is started.
    let name = format!(
        "exec-{}",
        &slugid::v4().to_lowercase().replace(['_', '-'], "0")[..16]
    );
    let pool = WorkerPoolId::new("local", &name).map_err(Failure::general)?;
    let mut definition = task_file::read(&arguments.task, &pool)?;
    definition["taskQueueId"] = pool.to_string().into();
    if let Some(definition) = definition.as_object_mut() {
        definition.remove("provisionerId");
        definition.remove("workerType");
    }

    let located = start::locate_or_join(config).await?;
    let parts = start::load(config, directory, &located, &pool).await?;
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
            eprintln!(
                "tcw-host: the queue refuses the task {}:\n{message}",
                arguments.task.display()
            );
            return Ok(status(2));
        }
        Err(error) => return Err(error.into()),
    }
    let journal = parts.journal.clone();
    let log = LogOptions {
        mirror: Some(terminal()),
        ..LogOptions::default()
    };
    let (environment, commands) = parts.environment(config, &connected.pool, log);
    let options = WorkerOptions {
        number_of_tasks: Some(1),
        // Somebody who pressed Ctrl-C is watching.
        cancellation_interval: Duration::from_secs(1),
        ..WorkerOptions::default()
    };
    let queue: Arc<dyn Queue> = Arc::clone(&connected.client) as Arc<dyn Queue>;
    let mut work =
        tokio::spawn(Worker::new(environment, Arc::clone(&queue), journal, options, commands).run());
    let exit = tokio::select! {
        exit = &mut work => exit.map_err(Failure::general)?,
        left = cancel_on_signals(queue.as_ref(), &task) => return left,
    };
    let report = report(arguments, queue.as_ref(), &task).await;
    match exit {
        Exit::Fatal(_) | Exit::Unhealthy(_) => Err(Failure::new(exit.to_string(), outcome::INTERNAL)),
        _ => report,
    }
}

/// The task's log goes to stdout as it is.
fn terminal() -> Arc<dyn Fn(&[u8]) + Send + Sync> {
    let stdout = Mutex::new(std::io::stdout());
    Arc::new(move |bytes| {
        let mut stdout = stdout.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody may be reading any more; the artifact has the whole log.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    })
}

/// The first signal cancels the task, which is then cleaned up and said; the second leaves at once.
async fn cancel_on_signals(queue: &dyn Queue, task: &TaskId) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::general)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::general)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    eprintln!("tcw-host: cancelling the task; once more to leave at once");
    if let Err(error) = queue.cancel_task(task).await {
        eprintln!("tcw-host: the task cannot be cancelled: {error}");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(status(130))
}

async fn report(arguments: &Arguments, queue: &dyn Queue, task: &TaskId) -> Result<ExitCode, Failure> {
    let state = queue.status(task).await?;
    let artifacts = follow::artifacts(queue, task, arguments.artifacts.as_deref()).await?;
    eprintln!("\ntask {task}: {}", outcome::in_words(&state));
    if let Some(directory) = &arguments.artifacts {
        if !artifacts.is_empty() {
            eprintln!("artifacts in {}:", directory.display());
        }
    } else if !artifacts.is_empty() {
        eprintln!("artifacts (--artifacts DIR puts them there):");
    }
    for artifact in artifacts {
        eprintln!("  {} ({})", artifact.name, artifact.content_type);
    }
    Ok(outcome::of_task(&state))
}
