//! The flags of every command that makes a worker.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::outcome::Failure;
use crate::config::{Config, Environment, Flags, Sources};

/// Which worker. Flags override the environment, which overrides the file.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct WorkerFlags {
    /// The engine's library, such as ./libnative_engine.so
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// A directory of libraries with plugins; can be given several times
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// The configuration: YAML, or the JSON that generic-worker and worker-runner write
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What has to survive a restart: journal, library store, embedded queue
    #[arg(long, value_name = "DIR", env = "TCW_STATE_DIRECTORY")]
    state_directory: Option<PathBuf>,
    /// PROVISIONER/WORKER-TYPE; with the embedded queue local/ENGINE by default
    #[arg(long, value_name = "POOL")]
    worker_pool: Option<String>,
    /// The worker's group
    #[arg(long, value_name = "NAME")]
    worker_group: Option<String>,
    /// The worker's id, unique within its group
    #[arg(long, value_name = "NAME")]
    worker_id: Option<String>,
    /// Tasks at one time
    #[arg(long, value_name = "N")]
    capacity: Option<u32>,
    /// Stop after this long without a task, such as "20 min"
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<String>,
    /// Stop after this many tasks
    #[arg(long, value_name = "N")]
    number_of_tasks: Option<u64>,
    /// Use the embedded queue although the environment names a deployment
    #[arg(long)]
    embedded: bool,
    /// The form of the worker's own log
    #[arg(long, value_enum, value_name = "FORM")]
    log_format: Option<LogForm>,
    /// More of it: -v debug, -vv trace
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogForm {
    Text,
    Json,
}

impl LogForm {
    /// As the configuration has it.
    pub(super) fn name(self) -> String {
        match self {
            LogForm::Text => "text".to_owned(),
            LogForm::Json => "json".to_owned(),
        }
    }
}

/// The level that so many `-v` stand for.
pub(super) fn log_level(verbose: u8) -> Option<String> {
    match verbose {
        0 => None,
        1 => Some("debug".to_owned()),
        _ => Some("trace".to_owned()),
    }
}

impl WorkerFlags {
    /// The configuration that file, environment and flags make.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.sources())?)
    }

    /// The same, with less in the worker's own log unless more is asked for: where a task's log is what matters.
    pub(super) fn load_quietly(&self) -> Result<Config, Failure> {
        let mut sources = self.sources();
        sources.flags.log_level.get_or_insert_with(|| "warn".to_owned());
        Ok(Config::load(&sources)?)
    }

    /// The same for commands that ask the queue something and claim nothing.
    pub(super) fn load_to_ask(&self) -> Result<Config, Failure> {
        let mut sources = self.sources();
        sources.flags.only_asks = true;
        sources.flags.log_level.get_or_insert_with(|| "warn".to_owned());
        Ok(Config::load(&sources)?)
    }

    /// Whether somebody has said which worker's state is meant, rather than leaving it to defaults.
    pub(super) fn name_a_state(&self) -> bool {
        self.config.is_some() || self.state_directory.is_some()
    }

    fn sources(&self) -> Sources {
        let flags = Flags {
            embedded: self.embedded,
            engine: self.engine.clone(),
            plugins: self.plugins.clone(),
            worker_pool: self.worker_pool.clone(),
            worker_group: self.worker_group.clone(),
            worker_id: self.worker_id.clone(),
            capacity: self.capacity,
            state_directory: self.state_directory.clone(),
            idle_timeout: self.idle_timeout.clone(),
            number_of_tasks: self.number_of_tasks,
            log_format: self.log_format.map(LogForm::name),
            log_level: log_level(self.verbose),
            ..Flags::default()
        };
        Sources {
            file: self.config.clone(),
            environment: Environment::process(),
            flags,
        }
    }
}
