//! `tcw-host queue`: the embedded queue by itself, and the clients that may use it.

mod client;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Subcommand};

use super::flags::{LogForm, log_level};
use super::outcome::Failure;
use crate::config::{Config, Environment, Flags, ServeFlags, Sources};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Serve until told to stop: SIGINT or SIGTERM; again, at once. SIGHUP reads certificate and payload schemas again
    Serve(Box<serve::Arguments>),
    /// Who may use the queue: clients with names, that last until they are deleted
    Client(client::Arguments),
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Commands::Serve(arguments) => serve::run(&arguments).await,
        Commands::Client(arguments) => client::run(arguments).await,
    }
}

/// Which queue.
#[derive(Args, Clone, Debug)]
struct QueueFlags {
    /// The configuration: YAML, with a section `queue`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What has to survive a restart; the queue is in the folder `queue` of it
    #[arg(long, value_name = "DIR", env = "TCW_STATE_DIRECTORY")]
    state_directory: Option<PathBuf>,
    /// The form of the log
    #[arg(long, value_enum, value_name = "FORM")]
    log_format: Option<LogForm>,
    /// More of it: -v debug, -vv trace
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

impl QueueFlags {
    fn load(&self, adjust: impl FnOnce(&mut Flags)) -> Result<Config, Failure> {
        let mut flags = Flags {
            only_asks: true,
            state_directory: self.state_directory.clone(),
            log_format: self.log_format.map(LogForm::name),
            log_level: log_level(self.verbose),
            serve: ServeFlags::default(),
            ..Flags::default()
        };
        adjust(&mut flags);
        Ok(Config::load(&Sources {
            file: self.config.clone(),
            environment: Environment::process(),
            flags,
        })?)
    }
}
