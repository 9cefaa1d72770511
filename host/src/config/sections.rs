//! The sections of the configuration as types, and the rules between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::error::{ConfigError, Origin, Problem, Stage};
use super::sources::Gathered;
use super::{Config, EmbeddedQueue, Secret, editor};
use crate::schema::units;

/// Where tasks come from.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueConfig {
    /// A Taskcluster deployment.
    Deployment(Deployment),
    /// The queue inside this process.
    Embedded(EmbeddedQueue),
}

/// A Taskcluster deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Without a slash at the end.
    pub root_url: String,
    /// `None` if there are none: enough to look, not to claim.
    pub credentials: Option<Credentials>,
}

impl Deployment {
    /// The credentials, or an error that says how to give them.
    pub fn require_credentials(&self) -> Result<&Credentials, ConfigError> {
        self.credentials.as_ref().ok_or_else(|| {
            ConfigError::one(
                Stage::Check,
                Origin::Default,
                format!(
                    "{} asks for credentials: set `queue.clientId` and `queue.accessToken`, or \
                     TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN",
                    self.root_url
                ),
            )
        })
    }
}

/// Who the worker is for a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The client's id.
    pub client_id: String,
    /// Its secret.
    pub access_token: Secret,
    /// JSON, for temporary credentials.
    pub certificate: Option<Secret>,
}

/// A worker pool's id in its two halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPool {
    /// Before the slash.
    pub provisioner_id: String,
    /// After it.
    pub worker_type: String,
}

impl fmt::Display for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provisioner_id, self.worker_type)
    }
}

/// What this worker is called and how it works.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfig {
    /// `None` with the embedded queue: `local/<engine>` then.
    pub pool: Option<WorkerPool>,
    /// The worker group.
    pub group: String,
    /// Unique within the group.
    pub id: String,
    /// Tasks at one time, at least 1.
    pub capacity: u32,
    /// What must survive a restart.
    pub state_directory: PathBuf,
    /// Temporary folders, and in them the directories of tasks unless the engine has a place of its own.
    pub tasks_directory: PathBuf,
    /// Downloads and caches.
    pub caches_directory: PathBuf,
    /// Stop after so long without a task; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Stop after so many tasks; `None` is no bound.
    pub number_of_tasks: Option<u64>,
    /// How often to ask whether running tasks were cancelled.
    pub cancellation_interval: Duration,
    /// Bytes to keep free before claiming.
    pub required_disk_space: u64,
    /// Anything worth knowing about the worker; public.
    pub metadata: Map<String, Value>,
}

/// The plugins' own configurations.
#[derive(Clone, Default, PartialEq)]
pub struct PluginsConfig {
    /// Plugins that are not used although their library is there.
    pub disabled: BTreeSet<String>,
    /// Objects by the plugin's name, to be checked against the plugin's schema.
    pub configuration: BTreeMap<String, Value>,
}

impl PluginsConfig {
    /// The plugin's configuration; an empty object if it has none.
    pub fn of(&self, plugin: &str) -> Value {
        self.configuration
            .get(plugin)
            .cloned()
            .unwrap_or_else(|| json!({}))
    }
}

/// Which plugins are configured, not how: there may be secrets in it.
impl fmt::Debug for PluginsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginsConfig")
            .field("disabled", &self.disabled)
            .field("configured", &self.configuration.keys())
            .finish()
    }
}

/// Which libraries to load, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibrariesConfig {
    /// The engine's library.
    pub engine: Option<PathBuf>,
    /// Every library in them is loaded for its plugins.
    pub directories: Vec<PathBuf>,
    /// Names of libraries without which the worker does not start.
    pub required: BTreeSet<String>,
    /// When a library panicked or hung, load everything afresh instead of leaving.
    pub reload: bool,
    /// When a library that crashes the process is left out.
    pub quarantine: QuarantineConfig,
    /// How long opening one may take, and making its engine or plugin.
    pub start_timeout: Duration,
    /// How long a call into one may take without using services.
    pub call_timeout: Duration,
}

/// When a library that crashes the process is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// After so many crashes of the same bytes; 0 is never.
    pub crashes: u32,
    /// Within this time.
    pub within: Duration,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The least that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// The worker's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// The least that is logged.
    pub level: LogLevel,
}

/// Types for what `gathered` says. Every value has the form that the schema asks for.
pub(super) fn config(gathered: Gathered) -> Result<Config, ConfigError> {
    let mut builder = Builder {
        gathered,
        problems: Vec::new(),
    };
    let queue = builder.queue();
    let worker = builder.worker(&queue);
    let ca_certificates = builder
        .text("queue", "caCertificates")
        .map(|path| builder.path("queue", "caCertificates", &path));
    let libraries = LibrariesConfig {
        engine: builder
            .text("libraries", "engine")
            .map(|path| builder.path("libraries", "engine", &path)),
        directories: builder
            .strings("libraries", "directories")
            .iter()
            .map(|path| builder.path("libraries", "directories", path))
            .collect(),
        required: builder.strings("libraries", "required").into_iter().collect(),
        reload: builder.value("libraries", "reload").as_bool().unwrap_or(false),
        quarantine: builder.quarantine(),
        start_timeout: builder.library_timeout("startTimeout"),
        call_timeout: builder.library_timeout("callTimeout"),
    };
    let plugins = builder.plugins();
    let log = LogConfig {
        format: match builder.text("log", "format").as_deref() {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
        level: match builder.text("log", "level").as_deref() {
            Some("error") => LogLevel::Error,
            Some("warn") => LogLevel::Warn,
            Some("debug") => LogLevel::Debug,
            Some("trace") => LogLevel::Trace,
            _ => LogLevel::Info,
        },
    };
    if !builder.problems.is_empty() {
        return Err(ConfigError {
            stage: Stage::Check,
            problems: builder.problems,
        });
    }
    let effective = builder.effective();
    let gathered = builder.gathered;
    Ok(Config {
        queue,
        ca_certificates,
        worker,
        engine: gathered.get("/engine").cloned().unwrap_or_else(|| json!({})),
        plugins,
        libraries,
        log,
        file: gathered.file,
        warnings: gathered.warnings,
        effective,
    })
}

pub(super) struct Builder {
    pub(super) gathered: Gathered,
    problems: Vec<Problem>,
}

impl Builder {
    pub(super) fn problem(&mut self, pointer: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            origin: self.gathered.origin(pointer),
            message: message.into(),
        });
    }

    /// What is set, or the schema's default.
    fn value(&self, section: &str, key: &str) -> Value {
        match self.gathered.get(&format!("/{section}/{key}")) {
            Some(value) => value.clone(),
            None => editor::default(section, key),
        }
    }

    fn text(&self, section: &str, key: &str) -> Option<String> {
        self.value(section, key).as_str().map(str::to_owned)
    }

    fn strings(&self, section: &str, key: &str) -> Vec<String> {
        let value = self.value(section, key);
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn library_timeout(&mut self, key: &str) -> Duration {
        let pointer = format!("/libraries/{key}");
        let value = self.value("libraries", key);
        let timeout = self.duration(&pointer, &value).unwrap_or_default();
        if timeout < Duration::from_secs(1) {
            self.problem(&pointer, format!("`libraries.{key}` must be at least one second"));
        }
        timeout
    }

    pub(super) fn duration(&mut self, pointer: &str, value: &Value) -> Option<Duration> {
        match value {
            Value::Number(seconds) => seconds.as_u64().map(Duration::from_secs),
            Value::String(text) => match units::duration(text) {
                Ok(duration) => Some(duration),
                Err(wanted) => {
                    self.problem(pointer, wanted);
                    None
                }
            },
            _ => None,
        }
    }

    fn path(&self, section: &str, key: &str, path: &str) -> PathBuf {
        self.path_at(&format!("/{section}/{key}"), path)
    }

    pub(super) fn path_at(&self, pointer: &str, path: &str) -> PathBuf {
        self.gathered.base(pointer).join(path)
    }

    fn quarantine(&mut self) -> QuarantineConfig {
        let setting = |key: &str| {
            let set = self
                .gathered
                .get(&format!("/libraries/quarantine/{key}"))
                .cloned();
            set.unwrap_or_else(|| editor::default("libraries", &format!("quarantine/properties/{key}")))
        };
        let (crashes, within) = (setting("crashes"), setting("within"));
        QuarantineConfig {
            crashes: crashes
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(u32::MAX),
            within: self
                .duration("/libraries/quarantine/within", &within)
                .unwrap_or_default(),
        }
    }

    fn queue(&mut self) -> QueueConfig {
        let root_url = self.text("queue", "rootUrl");
        let embedded = self.gathered.get("/queue/embedded").cloned();
        if root_url.is_some() && embedded.is_some() {
            self.problem(
                "/queue/embedded",
                "`queue.rootUrl` and `queue.embedded` exclude each other: remove one of them",
            );
        }
        match root_url {
            Some(root_url) => QueueConfig::Deployment(self.deployment(&root_url)),
            None => {
                for key in ["clientId", "accessToken", "certificate"] {
                    let pointer = format!("/queue/{key}");
                    if self.gathered.get(&pointer).is_some() {
                        self.problem(
                            &pointer,
                            format!("`queue.{key}` is for a deployment, and there is no `queue.rootUrl`"),
                        );
                    }
                }
                QueueConfig::Embedded(self.embedded(&embedded.unwrap_or_default()))
            }
        }
    }

    fn deployment(&mut self, root_url: &str) -> Deployment {
        let usable = match url::Url::parse(root_url) {
            Ok(url) => {
                matches!(url.scheme(), "http" | "https")
                    && url.has_host()
                    && url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
                    && url.password().is_none()
            }
            Err(_) => false,
        };
        if !usable {
            self.problem(
                "/queue/rootUrl",
                "`queue.rootUrl` must be the address of a deployment, such as https://tc.example.com",
            );
        }
        let client_id = self.text("queue", "clientId");
        let access_token = self.text("queue", "accessToken");
        let certificate = match self.gathered.get("/queue/certificate") {
            None => None,
            Some(Value::String(text)) if text.trim().is_empty() => None,
            Some(Value::String(text)) => {
                let text = text.clone();
                if !serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object()) {
                    self.problem("/queue/certificate", "`queue.certificate` must be a JSON object");
                }
                Some(Secret::new(text))
            }
            Some(object) => Some(Secret::new(object.to_string())),
        };
        let credentials = match (client_id, access_token) {
            (Some(client_id), Some(access_token)) => Some(Credentials {
                client_id,
                access_token: Secret::new(access_token),
                certificate,
            }),
            (None, None) => None,
            (Some(_), None) => {
                self.problem(
                    "/queue/clientId",
                    "`queue.clientId` needs a `queue.accessToken` with it",
                );
                None
            }
            (None, Some(_)) => {
                self.problem(
                    "/queue/accessToken",
                    "`queue.accessToken` needs a `queue.clientId` with it",
                );
                None
            }
        };
        Deployment {
            root_url: root_url.trim_end_matches('/').to_owned(),
            credentials,
        }
    }

    fn worker(&mut self, queue: &QueueConfig) -> WorkerConfig {
        let state_directory = self.state_directory();
        let directory = |builder: &Self, key: &str, name: &str| match builder.text("worker", key) {
            Some(path) => builder.path("worker", key, &path),
            None => state_directory.join(name),
        };
        let tasks_directory = directory(self, "tasksDirectory", "tasks");
        let caches_directory = directory(self, "cachesDirectory", "caches");
        let mut time = |key: &str| {
            let value = self.value("worker", key);
            self.duration(&format!("/worker/{key}"), &value)
        };
        let idle_timeout = time("idleTimeout").filter(|timeout| !timeout.is_zero());
        let cancellation_interval = time("cancellationInterval").unwrap_or(match queue {
            QueueConfig::Embedded(_) => Duration::from_secs(15),
            QueueConfig::Deployment(_) => Duration::from_secs(60),
        });
        if cancellation_interval < Duration::from_secs(1) {
            self.problem(
                "/worker/cancellationInterval",
                "`worker.cancellationInterval` must be at least one second",
            );
        }
        let required_disk_space = match self.value("worker", "requiredDiskSpace") {
            Value::String(text) => units::size(&text).unwrap_or_default(),
            number => number.as_u64().unwrap_or_default(),
        };
        let capacity = self.value("worker", "capacity").as_u64().unwrap_or(1);
        let capacity = u32::try_from(capacity).unwrap_or_else(|_| {
            self.problem(
                "/worker/capacity",
                "`worker.capacity` is more than any machine has",
            );
            1
        });
        WorkerConfig {
            pool: self.pool(queue),
            group: self.text("worker", "workerGroup").unwrap_or_default(),
            id: self.text("worker", "workerId").unwrap_or_else(machine_name),
            capacity,
            state_directory,
            tasks_directory,
            caches_directory,
            idle_timeout,
            number_of_tasks: self
                .value("worker", "numberOfTasks")
                .as_u64()
                .filter(|number| *number > 0),
            cancellation_interval,
            required_disk_space,
            metadata: match self.value("worker", "metadata") {
                Value::Object(metadata) => metadata,
                _ => Map::new(),
            },
        }
    }

    fn pool(&mut self, queue: &QueueConfig) -> Option<WorkerPool> {
        let whole = self.text("worker", "workerPool");
        let halves = (
            self.text("worker", "provisionerId"),
            self.text("worker", "workerType"),
        );
        match (whole, halves) {
            (Some(whole), (None, None)) => {
                whole
                    .split_once('/')
                    .map(|(provisioner_id, worker_type)| WorkerPool {
                        provisioner_id: provisioner_id.to_owned(),
                        worker_type: worker_type.to_owned(),
                    })
            }
            (None, (Some(provisioner_id), Some(worker_type))) => Some(WorkerPool {
                provisioner_id,
                worker_type,
            }),
            (None, (None, None)) => {
                // With the embedded queue there is nobody whose pools one could get in the way of.
                if matches!(queue, QueueConfig::Deployment(_)) && !self.gathered.only_asks {
                    self.problem(
                        "/worker/workerPool",
                        "a deployment needs `worker.workerPool`, such as my-provisioner/my-worker-type: the pool to \
                         claim tasks of",
                    );
                }
                None
            }
            (Some(_), _) => {
                self.problem(
                    "/worker/workerPool",
                    "`worker.workerPool` says it all: remove `worker.provisionerId` and `worker.workerType`",
                );
                None
            }
            (None, (half, _)) => {
                let (there, missing) = match half {
                    Some(_) => ("provisionerId", "workerType"),
                    None => ("workerType", "provisionerId"),
                };
                self.problem(
                    &format!("/worker/{there}"),
                    format!("`worker.{there}` needs a `worker.{missing}` with it"),
                );
                None
            }
        }
    }

    fn state_directory(&mut self) -> PathBuf {
        if let Some(path) = self.text("worker", "stateDirectory") {
            return self.path("worker", "stateDirectory", &path);
        }
        let environment = &self.gathered.environment;
        // The specification of these variables says to ignore a relative path.
        let absolute = |name: &str| {
            environment
                .get(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        if let Some(state) = absolute("XDG_STATE_HOME") {
            return state.join("tcw");
        }
        if let Some(home) = absolute("HOME") {
            return home.join(".local/state/tcw");
        }
        self.problem(
            "/worker/stateDirectory",
            "there is no home directory to keep state in: set `worker.stateDirectory`",
        );
        PathBuf::new()
    }

    fn plugins(&self) -> PluginsConfig {
        let configuration = self
            .gathered
            .get("/plugins")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != "disabled")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        PluginsConfig {
            disabled: self.strings("plugins", "disabled").into_iter().collect(),
            configuration,
        }
    }

    /// What applies, with everything hidden that was looked up, and the token whatever it was.
    fn effective(&self) -> Value {
        let mut value = self.gathered.value.clone();
        let hidden = ["/queue/accessToken", "/queue/certificate"];
        let looked_up = self.gathered.looked_up.iter().map(String::as_str);
        for pointer in hidden.into_iter().chain(looked_up) {
            if let Some(value) = value.pointer_mut(pointer) {
                *value = "[redacted]".into();
            }
        }
        value
    }
}

/// The machine's name as a worker id: at most 38 of the characters that the queue allows.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id: String = name
        .trim()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '-'
            }
        })
        .take(38)
        .collect();
    if id.is_empty() { "worker".into() } else { id }
}
