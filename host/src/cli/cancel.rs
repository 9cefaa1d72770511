//! `tcw-host cancel`: cancel a task.

use std::process::ExitCode;

use clap::Args;

use super::flags::WorkerFlags;
use super::outcome::{self, Failure};
use super::{logging, submit, terminal};
use crate::queue::{Queue, TaskId};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// As `submit` printed it
    #[arg(value_name = "TASK-ID")]
    task: String,
    #[command(flatten)]
    worker: WorkerFlags,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.worker.load_to_ask()?;
    logging::start(&config.log);
    let task: TaskId = arguments.task.parse().map_err(Failure::usage)?;
    let status = submit::client(&config)?.cancel_task(&task).await?;
    terminal::print_line(format_args!("task {task}: {}", outcome::in_words(&status)))?;
    Ok(ExitCode::SUCCESS)
}
