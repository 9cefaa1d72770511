//! `tcw-host recover`: finish what a crash left behind, without claiming anything.

use std::process::ExitCode;

use super::flags::WorkerFlags;
use super::outcome::{Failure, status};
use super::{logging, scratch, start, terminal};
use crate::worker::recover;

pub(super) async fn run(flags: &WorkerFlags) -> Result<ExitCode, Failure> {
    let config = flags.load_quietly()?;
    logging::start(&config.log);
    start::check(&config)?;
    let pool = start::pool(&config)?;
    let located = start::locate(&config).await?;
    let parts = start::load(&config, &start::worker_directory(&config), &located, &pool).await?;
    let connected = parts.connect(&config, located, pool)?;
    let engine = &parts.assembly.engine;
    let mut recovery = recover(
        &parts.journal,
        connected.client.as_ref(),
        &connected.queue_name(),
        &engine.engine,
        &engine.name,
    )
    .await?;
    let of_execs = scratch::recover_dead(&config, &engine.engine, &engine.name).await;
    recovery.messages.extend(of_execs.messages);
    recovery.left += of_execs.left;
    let messages = match recovery.messages.as_slice() {
        [] => "nothing was left".to_owned(),
        messages => messages.join("\n"),
    };
    terminal::print_line(messages)?;
    if let Some(embedded) = connected.embedded {
        embedded.stop().await;
    }
    Ok(if recovery.left == 0 {
        ExitCode::SUCCESS
    } else {
        status(1)
    })
}
