//! `tcw-host config`: is this configuration right, and what may be in one.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::flags::WorkerFlags;
use super::outcome::Failure;
use super::terminal;
use crate::config::Config;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Read file, environment and flags, and print what applies, without secrets. What engine and plugins are told is
    /// checked by `tcw-host schema`, which loads them
    Check(Box<WorkerFlags>),
    /// The JSON Schema of the file, for editors
    Schema,
    /// Every key of the file as a table in Markdown
    Reference,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Commands::Check(flags) => {
            let config = flags.load()?;
            for warning in &config.warnings {
                terminal::say(format_args!("warning: {warning}"));
            }
            terminal::print_line(format_args!("{:#}", config.effective))?;
        }
        Commands::Schema => terminal::print_line(format_args!("{:#}", Config::schema()))?,
        Commands::Reference => terminal::print(Config::reference())?,
    }
    Ok(ExitCode::SUCCESS)
}
