//! `tcw-host submit`: put a task into the queue, and follow it if asked.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::flags::WorkerFlags;
use super::outcome::{self, Failure, status};
use super::{follow, logging, start, task_file, terminal};
use crate::config::{Config, QueueConfig};
use crate::queue::{ClientConfig, Queue, QueueClient, QueueError, TaskId, WorkerPoolId};
use crate::worker;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The task: a file with `payload:`, or a whole definition; YAML or JSON
    #[arg(value_name = "TASK.yml")]
    task: PathBuf,
    /// Follow it to its end: its log on stdout, its outcome as exit status (0 completed, 1 failed, 2 exception)
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    worker: WorkerFlags,
}

/// How often a task is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.worker.load_to_ask()?;
    logging::start(&config.log);
    let definition = task_file::read(&arguments.task, pool(&config).await?.as_ref())?;
    let queue = client(&config)?;
    let task = TaskId::random();
    match queue.create_task(&task, &definition).await {
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
    terminal::print_line(&task)?;
    if !arguments.watch {
        return Ok(ExitCode::SUCCESS);
    }
    watch(&queue, &task).await
}

/// Where the task runs if it does not say: in the pool that flags or configuration name, or else in that of the worker
/// that runs here. Without one, the task waits for a worker with the native engine; but a deployment has pools of other
/// people, and none that goes without saying.
async fn pool(config: &Config) -> Result<Option<WorkerPoolId>, Failure> {
    let deployed = matches!(config.queue, QueueConfig::Deployment(_));
    if config.worker.pool.is_some() || config.libraries.engine.is_some() && !deployed {
        return start::pool(config).map(Some);
    }
    if deployed {
        return Ok(None);
    }
    let answer = worker::status::ask(&start::worker_directory(config)).await;
    let running = answer.ok().and_then(|answer| {
        let (provisioner, worker_type) = answer["workerPool"].as_str()?.split_once('/')?;
        WorkerPoolId::new(provisioner, worker_type).ok()
    });
    match running {
        Some(pool) => Ok(Some(pool)),
        None => WorkerPoolId::new("local", "native")
            .map(Some)
            .map_err(Failure::usage),
    }
}

/// A client of the deployment, or of the embedded queue that runs with this state directory.
pub(super) fn client(config: &Config) -> Result<QueueClient, Failure> {
    let located = start::running(config)?;
    let mut client = ClientConfig::new(located.root_url, Some(located.credentials));
    // A person waits for this: some seconds, not the minute that a worker has.
    client.retry.attempts = 5;
    client.ca_certificates = start::ca_certificates(config)?;
    Ok(QueueClient::new(client)?)
}

async fn watch(queue: &QueueClient, task: &TaskId) -> Result<ExitCode, Failure> {
    let mut last = String::new();
    loop {
        let state = queue.status(task).await?;
        let words = outcome::in_words(&state);
        if words != last {
            terminal::say(format_args!("task {task}: {words}"));
            last = words;
        }
        if state.state.is_resolved() {
            let artifacts = follow::artifacts(queue, task, None).await?;
            if let Some(log) = artifacts
                .iter()
                .find(|artifact| artifact.name == "public/logs/live_backing.log")
            {
                let bytes = follow::content(queue, task, &log.name).await?;
                terminal::write(&bytes)?;
            }
            for artifact in &artifacts {
                terminal::say(follow::line(artifact));
            }
            return Ok(outcome::of_task(&state));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
