//! The worker's configuration: a file, the environment and flags, each overriding the one before.
//!
//! All of them are brought together as plain data first and checked once, against one schema, so that a mistake is
//! reported in the same words wherever it was made, with its place. After that there are only types.
//!
//! ```text
//! document.rs         YAML and JSON as data with line numbers
//! generic_worker.rs   the JSON that generic-worker and worker-runner write, in our terms
//! transforms.rs       {$env: NAME} and {$file: path}
//! sources.rs          file, environment and flags as one object that knows where each value is from
//! editor.rs           the schema, and the form of it that editors use
//! sections.rs         the checked object as types
//! embedded.rs         one section of it: the queue inside this process
//! ```

pub mod document;
mod editor;
mod embedded;
mod environment;
mod error;
mod generic_worker;
mod secret;
mod sections;
mod sources;
mod transforms;

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

pub use embedded::EmbeddedQueue;
pub use environment::Environment;
pub use error::{ConfigError, Origin, Problem, Stage};
pub use secret::Secret;
pub use sections::{
    Credentials, Deployment, LibrariesConfig, LogConfig, LogFormat, LogLevel, PluginsConfig,
    QuarantineConfig, QueueConfig, WorkerConfig, WorkerPool,
};
pub use sources::{Flags, ServeFlags, Sources};

/// Everything that the operator decided.
#[derive(Clone)]
pub struct Config {
    /// Where tasks come from.
    pub queue: QueueConfig,
    /// Certificates in PEM of authorities to trust beside those that the system trusts.
    pub ca_certificates: Option<PathBuf>,
    /// What this worker is called and how it works.
    pub worker: WorkerConfig,
    /// The engine's own configuration, an object, to be checked against the engine's schema.
    pub engine: Value,
    /// The plugins' own configurations.
    pub plugins: PluginsConfig,
    /// Which libraries to load, and from where.
    pub libraries: LibrariesConfig,
    /// The worker's own log.
    pub log: LogConfig,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What the operator should know although it is not an error.
    pub warnings: Vec<Problem>,
    /// What applies, with secrets replaced, in the form of the file: for `config check`.
    pub effective: Value,
}

impl Config {
    /// Reads, brings together and checks.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        sections::config(sources.gather()?)
    }

    /// The JSON Schema of the file, for editors: every value can also be looked up with `{$env}` or `{$file}`.
    pub fn schema() -> Value {
        editor::for_editors()
    }

    /// Every key with its type, default and description, as a table in Markdown.
    pub fn reference() -> String {
        editor::reference()
    }
}

/// The configurations of engine and plugins may hold secrets, and only they know which: so none is shown.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("queue", &self.queue)
            .field("worker", &self.worker)
            .field("plugins", &self.plugins)
            .field("libraries", &self.libraries)
            .field("log", &self.log)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
