//! File, environment and flags as one object that knows where each value is from.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::document::{Document, segment};
use super::environment::Environment;
use super::error::{ConfigError, Origin, Problem, Stage};
use super::{editor, generic_worker, transforms};

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Overrides the file.
    pub environment: Environment,
    /// Override both.
    pub flags: Flags,
}

/// Settings that have a flag. `None` and empty: not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--embedded`: the embedded queue, whatever the environment says. The file must not name a deployment.
    pub embedded: bool,
    /// `--engine`.
    pub engine: Option<PathBuf>,
    /// `--plugins`, instead of the file's directories.
    pub plugins: Vec<PathBuf>,
    /// `--worker-pool`.
    pub worker_pool: Option<String>,
    /// `--worker-group`.
    pub worker_group: Option<String>,
    /// `--worker-id`.
    pub worker_id: Option<String>,
    /// `--capacity`.
    pub capacity: Option<u32>,
    /// `--state-directory`.
    pub state_directory: Option<PathBuf>,
    /// `--idle-timeout`, as in the file.
    pub idle_timeout: Option<String>,
    /// `--number-of-tasks`.
    pub number_of_tasks: Option<u64>,
    /// For commands that ask the queue something and claim nothing: they need no worker pool, also with a deployment.
    pub only_asks: bool,
    /// What `queue serve` can be told of the embedded queue.
    pub serve: ServeFlags,
    /// `--log-format`.
    pub log_format: Option<String>,
    /// `--log-level`, or as many `-v` as it takes.
    pub log_level: Option<String>,
}

/// Settings of the embedded queue that have a flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeFlags {
    /// `--listen`.
    pub listen: Option<String>,
    /// Where to listen if neither flag nor file says.
    pub default_listen: Option<String>,
    /// `--root-url`.
    pub root_url: Option<String>,
    /// `--tls-certificate`.
    pub tls_certificate: Option<PathBuf>,
    /// `--tls-key`.
    pub tls_key: Option<PathBuf>,
    /// `--behind-proxy`.
    pub behind_proxy: bool,
    /// `--payload-schema`: worker pools with files.
    pub payload_schemas: Vec<(String, PathBuf)>,
}

/// One object for all sources, each value well-formed by itself.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) value: Value,
    pub(super) environment: Environment,
    pub(super) file: Option<PathBuf>,
    pub(super) only_asks: bool,
    pub(super) warnings: Vec<Problem>,
    origins: BTreeMap<String, Origin>,
    document: Document,
    /// Where the file has a value that stands elsewhere here, and what it is called there.
    renamed: BTreeMap<String, String>,
    /// JSON pointers to values that were looked up and may be secrets.
    pub(super) looked_up: Vec<String>,
}

/// The variables that stand for a setting.
const VARIABLES: &[(&str, &str)] = &[
    ("TASKCLUSTER_ROOT_URL", "/queue/rootUrl"),
    ("TASKCLUSTER_CLIENT_ID", "/queue/clientId"),
    ("TASKCLUSTER_ACCESS_TOKEN", "/queue/accessToken"),
    ("TASKCLUSTER_CERTIFICATE", "/queue/certificate"),
];

impl Sources {
    pub(super) fn gather(&self) -> Result<Gathered, ConfigError> {
        let mut gathered = Gathered {
            value: json!({}),
            environment: self.environment.clone(),
            file: self.file.clone(),
            only_asks: self.flags.only_asks,
            ..Gathered::default()
        };
        if let Some(path) = &self.file {
            gathered.read(path)?;
        }
        gathered.take_variables(self.flags.embedded);
        gathered.take_flags(&self.flags);
        gathered.check()?;
        Ok(gathered)
    }
}

impl Gathered {
    /// Where the value at the JSON pointer was written.
    pub(super) fn origin(&self, pointer: &str) -> Origin {
        let mut at = pointer;
        loop {
            if let Some(origin) = self.origins.get(at) {
                return origin.clone();
            }
            match at.rfind('/') {
                Some(end) => at = &at[..end],
                None => break,
            }
        }
        match &self.file {
            Some(path) => Origin::File {
                path: path.clone(),
                line: self.line(pointer),
            },
            None => Origin::Default,
        }
    }

    /// Paths in a file are relative to the file; others to the working directory.
    pub(super) fn base(&self, pointer: &str) -> PathBuf {
        match (self.origin(pointer), &self.file) {
            (Origin::File { .. }, Some(file)) => parent(file),
            _ => PathBuf::new(),
        }
    }

    pub(super) fn get(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    fn line(&self, pointer: &str) -> Option<u64> {
        let mut at = pointer;
        loop {
            if let Some(there) = self.renamed.get(at) {
                return self.document.line(there);
            }
            match at.rfind('/') {
                Some(end) => at = &at[..end],
                None => return self.document.line(pointer),
            }
        }
    }

    fn read(&mut self, path: &Path) -> Result<(), ConfigError> {
        let whole_file = || Origin::File {
            path: path.to_owned(),
            line: None,
        };
        let cannot = |error: std::io::Error| {
            ConfigError::one(Stage::Load, whole_file(), format!("it cannot be read: {error}"))
        };
        // Permissions are those of the file that is read, not of what stands under its name a moment later.
        let mut file = std::fs::File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(cannot)?;

        self.document = Document::parse(&text).map_err(|error| {
            let origin = Origin::File {
                path: path.to_owned(),
                line: error.line,
            };
            ConfigError::one(Stage::Load, origin, error.message)
        })?;
        let content = match self.document.value.clone() {
            Value::Null => Map::new(),
            Value::Object(content) => content,
            _ => {
                return Err(ConfigError::one(
                    Stage::Load,
                    whole_file(),
                    "it is not an object with sections such as `queue:` and `worker:`",
                ));
            }
        };
        if generic_worker::is(&content) {
            let translated = generic_worker::translate(content)
                .map_err(|problems| self.problems(Stage::Load, problems))?;
            self.value = translated.value;
            self.renamed = translated.renamed;
            let warnings = translated.unused.into_iter().map(|key| {
                (
                    format!("/{}", segment(&key)),
                    format!("`{key}` is generic-worker's; it has no effect here"),
                )
            });
            self.warn(warnings.collect());
        } else {
            self.value = Value::Object(content);
        }

        if self.get("/queue/accessToken").is_some_and(Value::is_string)
            && let Some(mode) = transforms::readable_by_others(&metadata)
        {
            let name = path.display();
            let message = format!(
                "it holds an access token, and others can read it (mode {mode:04o}): chmod 600 {name}"
            );
            return Err(ConfigError::one(Stage::Secure, whole_file(), message));
        }
        if self.renamed.is_empty() {
            let mut value = self.value.take();
            let found = transforms::apply(&mut value, &self.environment, &parent(path));
            self.value = value;
            self.warn(found.warnings);
            self.looked_up = found.replaced;
            if !found.problems.is_empty() {
                let problems = found
                    .problems
                    .into_iter()
                    .map(|(pointer, message)| {
                        let message = format!("`{}`: {message}", dotted(&pointer));
                        (pointer, message)
                    })
                    .collect();
                return Err(self.problems(Stage::Load, problems));
            }
        }
        if let Value::Object(content) = &mut self.value {
            content.remove("$schema");
        }
        Ok(())
    }

    fn problems(&self, stage: Stage, problems: Vec<(String, String)>) -> ConfigError {
        ConfigError {
            stage,
            problems: problems
                .into_iter()
                .map(|(pointer, message)| Problem {
                    origin: self.origin(&pointer),
                    message,
                })
                .collect(),
        }
    }

    fn warn(&mut self, warnings: Vec<(String, String)>) {
        let warnings = self.problems(Stage::Check, warnings).problems;
        self.warnings.extend(warnings);
    }

    fn take_variables(&mut self, embedded: bool) {
        let given: Vec<(&str, &str, String)> = VARIABLES
            .iter()
            .filter_map(|(name, pointer)| Some((*name, *pointer, self.environment.get(name)?.to_owned())))
            .collect();
        if given.is_empty() || embedded {
            return;
        }
        let names: Vec<&str> = given.iter().map(|(name, ..)| *name).collect();
        // A shell that is set up for a deployment must not turn a local worker into one that claims from there; and
        // credentials without a deployment are for another program.
        let ignored = if self.get("/queue/embedded").is_some() {
            Some("the configuration asks for the embedded queue")
        } else if self.get("/queue/rootUrl").is_none() && !names.contains(&"TASKCLUSTER_ROOT_URL") {
            Some("there is no TASKCLUSTER_ROOT_URL and no `queue.rootUrl` to use it with")
        } else {
            None
        };
        if let Some(reason) = ignored {
            for name in names {
                self.warnings.push(Problem {
                    origin: Origin::Variable(name.to_owned()),
                    message: format!("it is ignored: {reason}"),
                });
            }
            return;
        }
        // A certificate belongs to one access token.
        if names.contains(&"TASKCLUSTER_ACCESS_TOKEN")
            && let Some(Value::Object(queue)) = self.value.get_mut("queue")
        {
            queue.remove("certificate");
        }
        for (name, pointer, value) in given {
            self.set(pointer, value.into(), Origin::Variable(name.to_owned()));
        }
    }

    fn take_flags(&mut self, flags: &Flags) {
        let path = |path: &PathBuf| Value::from(path.to_string_lossy().into_owned());
        let text = |text: &Option<String>| text.clone().map(Value::from);
        let plugins: Vec<Value> = flags.plugins.iter().map(path).collect();
        // Half a worker pool from the file beside a whole one from a flag would be two answers to one question.
        if flags.worker_pool.is_some()
            && let Some(Value::Object(worker)) = self.value.get_mut("worker")
        {
            worker.remove("provisionerId");
            worker.remove("workerType");
        }
        let given = [
            (
                "--embedded",
                "/queue/embedded",
                (flags.embedded && self.get("/queue/embedded").is_none()).then(|| json!({})),
            ),
            ("--engine", "/libraries/engine", flags.engine.as_ref().map(path)),
            (
                "--plugins",
                "/libraries/directories",
                (!plugins.is_empty()).then_some(Value::Array(plugins)),
            ),
            ("--worker-pool", "/worker/workerPool", text(&flags.worker_pool)),
            ("--worker-group", "/worker/workerGroup", text(&flags.worker_group)),
            ("--worker-id", "/worker/workerId", text(&flags.worker_id)),
            ("--capacity", "/worker/capacity", flags.capacity.map(Value::from)),
            (
                "--state-directory",
                "/worker/stateDirectory",
                flags.state_directory.as_ref().map(path),
            ),
            ("--idle-timeout", "/worker/idleTimeout", text(&flags.idle_timeout)),
            (
                "--number-of-tasks",
                "/worker/numberOfTasks",
                flags.number_of_tasks.map(Value::from),
            ),
            ("--log-format", "/log/format", text(&flags.log_format)),
            ("--log-level", "/log/level", text(&flags.log_level)),
        ];
        for (flag, pointer, value) in given {
            if let Some(value) = value {
                self.set(pointer, value, Origin::Flag(flag));
            }
        }
        self.take_serve_flags(&flags.serve);
    }

    fn take_serve_flags(&mut self, flags: &ServeFlags) {
        let path = |path: &PathBuf| Value::from(path.to_string_lossy().into_owned());
        let text = |text: &String| Value::from(text.as_str());
        let default = flags.default_listen.as_ref();
        let default = default.filter(|_| self.get("/queue/embedded/listen").is_none());
        let given = [
            ("--listen", "listen", flags.listen.as_ref().or(default).map(text)),
            ("--root-url", "rootUrl", flags.root_url.as_ref().map(text)),
            (
                "--tls-certificate",
                "tls/certificate",
                flags.tls_certificate.as_ref().map(path),
            ),
            ("--tls-key", "tls/key", flags.tls_key.as_ref().map(path)),
            (
                "--behind-proxy",
                "behindProxy",
                flags.behind_proxy.then_some(Value::Bool(true)),
            ),
        ];
        for (flag, key, value) in given {
            if let Some(value) = value {
                self.set(&format!("/queue/embedded/{key}"), value, Origin::Flag(flag));
            }
        }
        for (pool, file) in &flags.payload_schemas {
            let pointer = format!("/queue/embedded/payloadSchemas/{}", segment(pool));
            self.set(&pointer, path(file), Origin::Flag("--payload-schema"));
        }
    }

    /// Sets a value in a section, or deeper. What is not an object on the way there stays, and is complained about later.
    fn set(&mut self, pointer: &str, value: Value, origin: Origin) {
        let mut at = &mut self.value;
        for part in pointer[1..].split('/') {
            if at.is_null() {
                *at = json!({});
            }
            let Value::Object(section) = at else { return };
            at = section
                .entry(part.replace("~1", "/").replace("~0", "~"))
                .or_insert(Value::Null);
        }
        *at = value;
        self.origins.insert(pointer.to_owned(), origin);
    }

    fn check(&mut self) -> Result<(), ConfigError> {
        // A section with nothing in it is null in YAML, and means what it looks like.
        if let Value::Object(sections) = &mut self.value {
            for section in sections.values_mut().filter(|section| section.is_null()) {
                *section = json!({});
            }
            for nested in ["/queue/embedded"] {
                if let Some(nested @ Value::Null) = self.value.pointer_mut(nested) {
                    *nested = json!({});
                }
            }
        }
        let Err(violations) = editor::validate(&self.value) else {
            return Ok(());
        };
        let problems = violations
            .into_iter()
            .map(|violation| {
                let pointer = pointer_of(&violation.path);
                let written = self
                    .renamed
                    .get(&pointer)
                    .map(|there| format!(" (it is written as `{}`)", &there[1..]))
                    .unwrap_or_default();
                (pointer, format!("{}{written}", violation.message))
            })
            .collect();
        Err(self.problems(Stage::Load, problems))
    }
}

/// The folder that `file` is in.
fn parent(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// `/a/0/b` as `a[0].b`.
fn dotted(pointer: &str) -> String {
    let mut out = String::new();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            out.push_str(&format!("[{part}]"));
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    out
}

/// The other way round, for the paths of violations.
fn pointer_of(path: &str) -> String {
    format!("/{}", path.replace('[', "/").replace(']', "").replace('.', "/"))
}
