//! `tcw-host schema`: what a payload may hold with this engine and these plugins.

use std::process::ExitCode;

use clap::Args;

use super::flags::WorkerFlags;
use super::outcome::Failure;
use super::{start, terminal};
use crate::assembly::Assembly;
use crate::config::{Config, QueueConfig};
use crate::queue::Credentials;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// A table of every key with the library that provides it, and every key that is missing with the reason
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    worker: WorkerFlags,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    with_assembly(&arguments.worker, |assembly| {
        if arguments.explain {
            assembly.schema.explain().table(width())
        } else {
            format!("{:#}\n", assembly.schema.document())
        }
    })
    .await
}

/// Loads engine and plugins without a queue, prints what `look` sees in them, and leaves nothing behind.
pub(super) async fn with_assembly(
    flags: &WorkerFlags,
    look: impl FnOnce(&Assembly) -> String,
) -> Result<ExitCode, Failure> {
    let config: Config = flags.load_quietly()?;
    super::logging::start(&config.log);
    start::check(&config)?;
    let pool = start::pool(&config)?;
    let directory = config.worker.state_directory.join("exec").join(slugid::v4());
    let root_url = match &config.queue {
        QueueConfig::Deployment(deployment) => deployment.root_url.clone(),
        QueueConfig::Embedded(_) => "http://localhost".to_owned(),
    };
    // Nobody is asked anything, so nobody's credentials are needed.
    let nowhere = start::Located {
        root_url,
        credentials: Credentials::new("", ""),
        embedded: None,
    };
    let loaded = match start::open_journal(&directory, false).await {
        Ok(journal) => start::load(&config, &directory, journal, &nowhere, &pool).await,
        Err(failure) => Err(failure),
    };
    let text = loaded.map(|parts| look(&parts.assembly));
    // What cannot be removed is swept by the next `exec`.
    let _ = std::fs::remove_dir_all(&directory);
    terminal::print(text?)?;
    Ok(ExitCode::SUCCESS)
}

/// Columns of the terminal; of a page, elsewhere.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col >= 40 => usize::from(size.ws_col),
        _ => 120,
    }
}
