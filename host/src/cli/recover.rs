//! `tcw-host recover`: finish what a crash left behind, without claiming anything.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::flags::WorkerFlags;
use super::outcome::{Failure, status};
use super::{logging, scratch, start, terminal};
use crate::config::LogFormat;
use crate::worker::recover;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The state directory was copied or moved here, and the worker that it comes from is gone for good
    #[arg(long)]
    moved: bool,
    #[command(flatten)]
    worker: WorkerFlags,
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.worker.load_quietly()?;
    logging::start(&config.log);
    start::check(&config)?;
    let pool = start::pool(&config)?;
    let directory = start::worker_directory(&config);
    let journal = start::open_journal(&directory, arguments.moved).await?;
    let located = start::locate(&config).await?;
    let parts = start::load(&config, &directory, journal, &located, &pool).await?;
    let connected = parts.connect(&config, located, pool)?;
    let stored = parts.stored(&config);
    let undoers = parts.undoers(&stored);
    let queue = connected.client.as_ref();
    let mut recovery = recover(&parts.journal, queue, &connected.queue_name(), &undoers).await?;
    let of_execs = scratch::recover_dead(&config, &undoers).await;
    recovery.messages.extend(of_execs.messages);
    recovery.left += of_execs.left;
    terminal::print_line(if config.log.format == LogFormat::Json {
        json!({"messages": recovery.messages, "left": recovery.left}).to_string()
    } else {
        let mut lines = recovery.messages;
        match (lines.is_empty(), recovery.left) {
            (true, _) => lines.push("nothing was left".to_owned()),
            (false, 0) => {}
            (false, 1) => lines.push("1 thing is left for the next time".to_owned()),
            (false, left) => lines.push(format!("{left} things are left for the next time")),
        }
        lines.join("\n")
    })?;
    if let Some(embedded) = connected.embedded {
        embedded.stop().await;
    }
    Ok(if recovery.left == 0 {
        ExitCode::SUCCESS
    } else {
        status(1)
    })
}
