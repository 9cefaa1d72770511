//! What a task runs in.
//!
//! ```text
//! EngineProvider --new_engine--> Engine --new_sandbox_builder--> SandboxBuilder --start--> Sandbox --wait--> ResultSet
//! ```
//!
//! An engine implements these traits; the host drives them and hands some of them to plugins. All objects are shared
//! (`Arc`), every method takes `&self` and may be called in parallel, except that the host starts a builder at most
//! once. Arguments are owned, so nothing is borrowed beyond a call. What an optional method does by default is
//! [`ErrorKind::FeatureNotSupported`](crate::ErrorKind::FeatureNotSupported); an engine that implements it also lists
//! the matching name of [`feature`] in its description.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::io::Handle;
use crate::services::{Services, TaskContext};

/// The names of engine features. Plugins require them in their [`PluginProviderDescription`](crate::plugin::PluginProviderDescription).
pub mod feature {
    /// [`SandboxBuilder::set_environment_variable`](super::SandboxBuilder::set_environment_variable).
    pub const ENVIRONMENT: &str = "environment";
    /// [`SandboxBuilder::put_file`](super::SandboxBuilder::put_file).
    pub const PUT_FILE: &str = "put-file";
    /// [`Engine::new_volume`](super::Engine::new_volume) and [`SandboxBuilder::attach_volume`](super::SandboxBuilder::attach_volume).
    pub const VOLUMES: &str = "volumes";
    /// [`Engine::new_volume_builder`](super::Engine::new_volume_builder).
    pub const VOLUME_BUILDERS: &str = "volume-builders";
    /// [`SandboxBuilder::attach_device`](super::SandboxBuilder::attach_device).
    pub const DEVICES: &str = "devices";
    /// [`SandboxBuilder::set_limits`](super::SandboxBuilder::set_limits).
    pub const LIMITS: &str = "limits";
    /// [`SandboxBuilder::attach_proxy`](super::SandboxBuilder::attach_proxy), reachable by that task's sandbox alone.
    pub const PROXIES: &str = "proxies";
    /// [`Sandbox::new_shell`](super::Sandbox::new_shell).
    pub const SHELLS: &str = "shells";
    /// [`Sandbox::list_displays`](super::Sandbox::list_displays) and [`Sandbox::open_display`](super::Sandbox::open_display).
    pub const DISPLAYS: &str = "displays";
    /// [`Sandbox::kill`](super::Sandbox::kill).
    pub const KILL: &str = "kill";
    /// [`Sandbox::resource_usage`](super::Sandbox::resource_usage).
    pub const RESOURCE_USAGE: &str = "resource-usage";
    /// [`ResultSet::extract_file`](super::ResultSet::extract_file) and [`ResultSet::extract_folder`](super::ResultSet::extract_folder).
    pub const ARTIFACTS: &str = "artifacts";
    /// [`ResultSet::archive`](super::ResultSet::archive).
    pub const ARCHIVE: &str = "archive";
    /// [`Engine::recover`](super::Engine::recover).
    pub const RECOVERY: &str = "recovery";
    /// The payload is generic-worker's.
    pub const DIALECT_GENERIC_WORKER: &str = "dialect:generic-worker";
    /// The payload is docker-worker's.
    pub const DIALECT_DOCKER_WORKER: &str = "dialect:docker-worker";
    /// Tasks run as the worker's own user: they can reach whatever the worker can. Said at start.
    pub const ISOLATION_NONE: &str = "isolation:none";
}

/// A page of documentation for the authors of tasks, in Markdown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// One line.
    pub title: String,
    /// Markdown, without a heading of the first level.
    pub content: String,
}

/// What is constant about an [`EngineProvider`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EngineProviderDescription {
    /// JSON Schema (2020-12) of the object under `engine` in the worker's configuration. `null`: no configuration.
    pub configuration_schema: Value,
}

/// The way into an engine: one for each library, created once.
#[async_trait]
pub trait EngineProvider: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> EngineProviderDescription;

    /// Makes the engine, once per worker. `configuration` satisfies the schema. Any error stops the worker.
    async fn new_engine(&self, services: Arc<dyn Services>, configuration: Value) -> Result<Arc<dyn Engine>>;
}

/// What is constant about an [`Engine`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EngineDescription {
    /// Names from [`feature`], or names of the vendor's own (`vendor/name`).
    pub features: Vec<String>,
    /// JSON Schema (2020-12) of the engine's part of a task's payload, an object.
    pub payload_schema: Value,
    /// JSON Schema of the options of [`Engine::new_volume`].
    pub volume_schema: Value,
    /// For the authors of tasks.
    pub documentation: Vec<Section>,
    /// Sandboxes at one time; `None` for no bound of the engine's own.
    pub max_concurrency: Option<u32>,
}

impl EngineDescription {
    /// Whether the engine declares `feature`.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }
}

/// Whether a library can take tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// False pauses claiming.
    pub healthy: bool,
    /// Why, for the operator.
    #[serde(default)]
    pub reason: String,
}

impl Health {
    /// Ready for tasks.
    pub fn good() -> Self {
        Health {
            healthy: true,
            reason: String::new(),
        }
    }
}

/// A resource that a dead process left behind, as it was written down by [`Services::lease`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRecord {
    /// The host's id of the lease.
    pub id: String,
    /// The version of `data`'s form, the library's own.
    pub schema_version: u32,
    /// What the library wrote.
    pub data: Value,
}

/// What became of the leases given to [`Engine::recover`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecoveryReport {
    /// Ids of leases whose resource is gone now. The others are tried again at the next start.
    pub released: Vec<String>,
    /// What was done, a line each, for the operator.
    pub messages: Vec<String>,
}

/// Runs sandboxes. One for the worker's whole life.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> EngineDescription;

    /// Whether tasks can be taken now. Answers within 10 seconds.
    async fn health(&self) -> Result<Health> {
        Ok(Health::good())
    }

    /// Begins a sandbox. Slow work (an image, a user) begins here in the background and is waited for in
    /// [`SandboxBuilder::start`]. `payload` holds the engine's own keys and satisfies its schema.
    async fn new_sandbox_builder(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn SandboxBuilder>>;

    /// An empty volume. `options` satisfy the volume schema.
    async fn new_volume(&self, _options: Value) -> Result<Arc<dyn Volume>> {
        Err(Error::unsupported("this engine has no volumes"))
    }

    /// A volume that is filled before anybody can mount it.
    async fn new_volume_builder(&self, _options: Value) -> Result<Arc<dyn VolumeBuilder>> {
        Err(Error::unsupported("this engine cannot fill volumes"))
    }

    /// Removes what a dead process of this worker left: what the leases name; without any, what only has a name. Never
    /// cancelled by the host.
    async fn recover(&self, _leases: Vec<LeaseRecord>) -> Result<RecoveryReport> {
        Ok(RecoveryReport::default())
    }

    /// The last call: every builder, sandbox, result set and volume is disposed of.
    async fn dispose(&self) -> Result<()> {
        Ok(())
    }
}

/// Which of two values for one environment variable wins; a second value within one class is a
/// [`NamingConflict`](crate::ErrorKind::NamingConflict).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VariableClass {
    /// Gives way to all others.
    Default,
    /// From the task's payload.
    Payload,
    /// Wins: what the worker guarantees.
    Forced,
}

/// Bounds for one sandbox; `None` leaves the engine's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together.
    pub memory_and_swap: Option<u64>,
    /// Processors; 0.5 is half of one.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes written to the sandbox's own disk space.
    pub disk: Option<u64>,
    /// Open files of a process.
    pub open_files: Option<u64>,
}

/// A sandbox in the making. The host gives it to every plugin's `build_sandbox`, in parallel, then starts it.
#[async_trait]
pub trait SandboxBuilder: Send + Sync + 'static {
    /// A bad name is `MalformedPayload`; a second value within one class `NamingConflict`.
    async fn set_environment_variable(
        &self,
        _name: String,
        _value: String,
        _class: VariableClass,
    ) -> Result<()> {
        Err(Error::unsupported("this engine has no environment variables"))
    }

    /// Puts a file at `path` (relative to the task's directory, or absolute as the engine allows) with these
    /// permission bits. The bytes are read from where the handle stands to its end.
    async fn put_file(&self, _path: String, _content: Handle, _mode: u32) -> Result<()> {
        Err(Error::unsupported("this engine cannot put files into a sandbox"))
    }

    /// Mounts the volume that this engine gave the id.
    async fn attach_volume(&self, _mount_point: String, _volume_id: String, _read_only: bool) -> Result<()> {
        Err(Error::unsupported("this engine has no volumes"))
    }

    /// Grants a device by its kind (`kvm`, `loopback-audio`, `loopback-video`, `gpu`...).
    async fn attach_device(&self, kind: String) -> Result<()> {
        Err(Error::unsupported(format!(
            "this engine cannot attach the device '{kind}'"
        )))
    }

    /// Bounds the sandbox. Later calls lower, never raise.
    async fn set_limits(&self, _limits: Limits) -> Result<()> {
        Err(Error::unsupported("this engine has no limits"))
    }

    /// Makes the unix socket at `endpoint`, which the caller serves HTTP on, reachable from inside as `name` and
    /// answers the URL seen from there. Names match `[a-z]{3,22}`; the empty name is the root. Only this sandbox
    /// can reach it.
    async fn attach_proxy(&self, _name: String, _endpoint: String) -> Result<String> {
        Err(Error::unsupported("this engine has no proxies"))
    }

    /// Starts it, once; afterwards the builder answers `ContractViolation`. A command that cannot be found or
    /// executed is not an error here: it is a result that is not a success, with the reason in the task log.
    /// Never cancelled by drop; cancellation of the task is for the engine to see or to ignore.
    async fn start(&self) -> Result<Arc<dyn Sandbox>>;

    /// Throws everything away. Harmless after `start`.
    async fn discard(&self) -> Result<()>;
}

/// A graphical display inside a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Display {
    /// Unique within the sandbox.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Pixels; 0 when unknown.
    #[serde(default)]
    pub width: u32,
    /// Pixels; 0 when unknown.
    #[serde(default)]
    pub height: u32,
}

/// What is constant about a [`Sandbox`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SandboxDescription {
    /// What [`Sandbox::new_shell`] runs for an empty command.
    pub default_shell: Vec<String>,
    /// The displays known at start.
    pub displays: Vec<Display>,
}

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What [`Sandbox::new_shell`] is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShellRequest {
    /// Program and arguments; empty for the sandbox's default shell.
    pub command: Vec<String>,
    /// Whether it runs on a terminal.
    pub tty: bool,
    /// The terminal's first size.
    pub size: Option<TerminalSize>,
    /// Added to the task's own environment.
    pub environment: BTreeMap<String, String>,
    /// `None`: where the task's command runs.
    pub working_directory: Option<String>,
}

/// What the sandbox uses now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceUsage {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The highest that `memory` has been.
    pub peak_memory: Option<u64>,
    /// Milliseconds of processor time, user and system.
    pub cpu_ms: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
}

/// A running task.
#[async_trait]
pub trait Sandbox: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> SandboxDescription;

    /// The end of the task. May be called many times and gives the same answer each time; waits for open shells.
    /// `SandboxAborted` after [`Sandbox::abort`].
    async fn wait(&self) -> Result<Arc<dyn ResultSet>>;

    /// A process beside the task's own, inside its sandbox.
    async fn new_shell(&self, _request: ShellRequest) -> Result<OpenShell> {
        Err(Error::unsupported("this engine has no shells"))
    }

    /// The displays there are now.
    async fn list_displays(&self) -> Result<Vec<Display>> {
        Err(Error::unsupported("this engine has no displays"))
    }

    /// A raw RFB (VNC) stream. `NoSuchDisplay` for an unknown name.
    async fn open_display(&self, name: String) -> Result<Handle> {
        Err(Error::unsupported(format!(
            "this engine has no displays, so none named '{name}'"
        )))
    }

    /// Ends every process, keeps the results, which are not a success then. Asks first and forces after `grace_ms`
    /// milliseconds. `SandboxTerminated` after the end.
    async fn kill(&self, reason: String, grace_ms: u64) -> Result<()>;

    /// Ends every process and throws everything away. `SandboxTerminated` after the end.
    async fn abort(&self) -> Result<()>;

    /// What it uses now.
    async fn resource_usage(&self) -> Result<ResourceUsage> {
        Err(Error::unsupported(
            "this engine does not measure what a sandbox uses",
        ))
    }
}

/// The streams of a shell.
#[derive(Debug)]
pub enum ShellStreams {
    /// Without a terminal.
    Pipes {
        /// Written to by the caller.
        stdin: Handle,
        /// Read by the caller.
        stdout: Handle,
        /// Read by the caller.
        stderr: Handle,
    },
    /// On a terminal: one stream both ways.
    Terminal(Handle),
}

/// A shell and its streams, as they are handed over together.
pub struct OpenShell {
    /// For size, abort and wait.
    pub shell: Arc<dyn Shell>,
    /// The bytes.
    pub streams: ShellStreams,
}

/// A process beside the task's own.
#[async_trait]
pub trait Shell: Send + Sync + 'static {
    /// Only on a terminal; `ShellTerminated` after the end.
    async fn set_size(&self, size: TerminalSize) -> Result<()>;

    /// Ends it. `ShellTerminated` if it has ended by itself.
    async fn abort(&self) -> Result<()>;

    /// Whether it ended well. `ShellAborted` after [`Shell::abort`], or when the sandbox was killed.
    async fn wait(&self) -> Result<bool>;
}

/// How the task went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Whether the sandbox counts the task as a success.
    pub success: bool,
    /// Of the command that decided.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel ended it for want of memory.
    pub out_of_memory: bool,
    /// RFC 3339, UTC.
    pub started: Option<String>,
    /// RFC 3339, UTC.
    pub finished: Option<String>,
    /// Milliseconds by the clock.
    pub wall_ms: Option<u64>,
    /// Milliseconds of processor time.
    pub user_ms: Option<u64>,
    /// Milliseconds of processor time.
    pub system_ms: Option<u64>,
    /// Bytes.
    pub peak_memory: Option<u64>,
}

/// A file out of a sandbox.
#[derive(Debug)]
pub struct ExtractedFile {
    /// Its bytes, from the start.
    pub content: Handle,
    /// What is known about it.
    pub info: FileInfo,
}

/// What is known about a file out of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileInfo {
    /// Relative to the folder that was asked for, with slashes; empty for a single file.
    pub path: String,
    /// Whether the handle can seek.
    pub seekable: bool,
    /// Bytes, when known before reading.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: u32,
}

/// What a sandbox left. Whatever can be thrown away lives until [`ResultSet::dispose`].
#[async_trait]
pub trait ResultSet: Send + Sync + 'static {
    /// Constant: how the task went.
    fn report(&self) -> Report;

    /// A file, beneath the sandbox: links and devices that lead out of it are `ResourceNotFound`. Called again, it
    /// is read again.
    async fn extract_file(&self, path: String) -> Result<ExtractedFile> {
        Err(Error::unsupported(format!(
            "this engine cannot give out files, so not '{path}'"
        )))
    }

    /// The plain files beneath a folder, one after another.
    async fn extract_folder(&self, path: String) -> Result<Arc<dyn FolderStream>> {
        Err(Error::unsupported(format!(
            "this engine cannot give out folders, so not '{path}'"
        )))
    }

    /// The whole sandbox, in a form of the engine's own.
    async fn archive(&self) -> Result<Handle> {
        Err(Error::unsupported("this engine cannot archive a sandbox"))
    }

    /// The last call. Never cancelled by drop.
    async fn dispose(&self) -> Result<()>;
}

/// The files of a folder, pulled one by one.
#[async_trait]
pub trait FolderStream: Send + Sync + 'static {
    /// The next file; `None` at the end.
    async fn next(&self) -> Result<Option<ExtractedFile>>;
}

/// What is constant about a [`Volume`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeDescription {
    /// Chosen by the engine; what [`SandboxBuilder::attach_volume`] takes.
    pub id: String,
}

/// Storage that sandboxes mount. The engine does not track who mounts it.
#[async_trait]
pub trait Volume: Send + Sync + 'static {
    /// Constant.
    fn description(&self) -> VolumeDescription;

    /// Bytes on disk.
    async fn size(&self) -> Result<u64>;

    /// Removes it. Never cancelled by drop.
    async fn dispose(&self) -> Result<()>;
}

/// A volume that is being filled.
#[async_trait]
pub trait VolumeBuilder: Send + Sync + 'static {
    /// Makes a folder and those above it.
    async fn write_folder(&self, path: String) -> Result<()>;

    /// A handle to write a file's bytes to; closing it ends the file.
    async fn write_file(&self, path: String, mode: u32) -> Result<Handle>;

    /// The volume, once.
    async fn build(&self) -> Result<Arc<dyn Volume>>;

    /// Throws it away.
    async fn discard(&self) -> Result<()>;
}
