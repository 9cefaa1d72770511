//! `tcw-host recover`: finish what a crash left behind, without claiming anything.

use std::process::ExitCode;

use super::flags::WorkerFlags;
use super::outcome::{Failure, status};
use super::{logging, start};
use crate::worker::recover;

pub(super) async fn run(flags: &WorkerFlags) -> Result<ExitCode, Failure> {
    let config = flags.load_quietly()?;
    logging::start(&config.log);
    let pool = start::pool(&config)?;
    let located = start::locate(&config).await?;
    let parts = start::load(&config, &start::worker_directory(&config), &located, &pool).await?;
    let connected = parts.connect(&config, located, pool)?;
    let engine = &parts.assembly.engine;
    let recovery = recover(
        &parts.journal,
        connected.client.as_ref(),
        &engine.engine,
        &engine.name,
    )
    .await?;
    for message in &recovery.messages {
        println!("{message}");
    }
    if recovery.messages.is_empty() {
        println!("nothing was left");
    }
    if let Some(embedded) = connected.embedded {
        embedded.stop().await;
    }
    Ok(if recovery.left == 0 {
        ExitCode::SUCCESS
    } else {
        status(1)
    })
}
