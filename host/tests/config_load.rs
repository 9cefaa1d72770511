//! Loading the configuration from a file, the environment and flags.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tcw_host::config::{
    Config, ConfigError, Environment, Flags, LogFormat, LogLevel, QuarantineConfig, QueueConfig, Sources,
    Stage, WorkerPool, document::Document,
};

/// A file in a folder of its own, readable by its owner alone.
struct Scene {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Scene {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene {
            sources: Sources {
                file: Some(folder.path().join("tcw.yml")),
                environment: variables(&[]),
                flags: Flags::default(),
            },
            folder,
        };
        scene.write("tcw.yml", text);
        scene
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn with(mut self, more: &[(&str, &str)]) -> Self {
        self.sources.environment = variables(more);
        self
    }

    fn flags(mut self, flags: Flags) -> Self {
        self.sources.flags = flags;
        self
    }

    fn load(&self) -> Config {
        Config::load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self) -> ConfigError {
        Config::load(&self.sources).expect_err("the configuration is wrong")
    }

    /// The error without the folder's name, which is another each time.
    fn message(&self) -> String {
        let folder = format!("{}/", self.folder.path().display());
        self.error().to_string().replace(&folder, "")
    }

    fn warnings(&self) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let warnings = self.load().warnings;
        warnings
            .iter()
            .map(|warning| warning.to_string().replace(&folder, ""))
            .collect()
    }
}

fn variables(more: &[(&str, &str)]) -> Environment {
    [("HOME", "/home/me")].iter().chain(more).copied().collect()
}

const DEPLOYMENT: &str = "\
queue: {rootUrl: 'https://tc.example.com/', clientId: me, accessToken: hunter2}
worker: {workerPool: prov/type}
";

#[test]
fn nothing_at_all_is_a_worker_with_the_embedded_queue() {
    let sources = Sources {
        environment: variables(&[]),
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap();
    let QueueConfig::Embedded(queue) = &config.queue else {
        panic!("{:?}", config.queue)
    };
    assert_eq!(queue.listen.to_string(), "127.0.0.1:0");
    assert_eq!(queue.claim_timeout, Duration::from_secs(1200));
    let worker = &config.worker;
    assert_eq!(worker.pool, None);
    assert_eq!(worker.group, "local");
    assert!(!worker.id.is_empty() && worker.id.len() <= 38, "{}", worker.id);
    assert_eq!(worker.capacity, 1);
    assert_eq!(worker.state_directory, Path::new("/home/me/.local/state/tcw"));
    assert_eq!(
        worker.tasks_directory,
        Path::new("/home/me/.local/state/tcw/tasks")
    );
    assert_eq!(
        worker.caches_directory,
        Path::new("/home/me/.local/state/tcw/caches")
    );
    assert_eq!(worker.idle_timeout, None);
    assert_eq!(worker.number_of_tasks, None);
    assert_eq!(worker.cancellation_interval, Duration::from_secs(15));
    assert_eq!(worker.required_disk_space, 1 << 30);
    assert_eq!(config.engine, json!({}));
    assert_eq!(config.plugins.of("env"), json!({}));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.level, LogLevel::Info);
    assert!(config.warnings.is_empty());
}

#[test]
fn an_empty_file_and_empty_sections_are_the_same() {
    for text in [
        "",
        "# only a comment\n",
        "queue:\nworker:\nengine:\nplugins:\nlibraries:\nlog:\n",
        "queue:\n  embedded:\n",
    ] {
        assert!(
            matches!(Scene::new(text).load().queue, QueueConfig::Embedded(_)),
            "{text}"
        );
    }
}

#[test]
fn every_setting_arrives() {
    let scene = Scene::new(
        "
worker:
  provisionerId: prov
  workerType: type
  workerGroup: eu
  workerId: w-1
  capacity: 4
  stateDirectory: state
  tasksDirectory: /tasks
  idleTimeout: 1 day 2 hours
  numberOfTasks: 7
  cancellationInterval: 5
  requiredDiskSpace: 10 GB
  metadata: {a: [1]}
engine: {user: task, nested: {deep: 1}}
plugins:
  disabled: [artifacts]
  max-run-time: {maximum: 60}
libraries:
  engine: ./libnative_engine.so
  directories: [plugins, /usr/lib/tcw]
  required: [task-log]
  reload: true
  quarantine: {crashes: 5, within: 2 h}
  startTimeout: 20 s
  callTimeout: 1 hour
log: {format: json, level: debug}
",
    );
    let config = scene.load();
    let base = scene.folder.path();
    let worker = &config.worker;
    assert_eq!(
        worker.pool.as_ref().map(ToString::to_string),
        Some("prov/type".to_owned())
    );
    assert_eq!(
        (worker.group.as_str(), worker.id.as_str(), worker.capacity),
        ("eu", "w-1", 4)
    );
    assert_eq!(worker.state_directory, base.join("state"));
    assert_eq!(worker.tasks_directory, Path::new("/tasks"));
    assert_eq!(worker.caches_directory, base.join("state/caches"));
    assert_eq!(worker.idle_timeout, Some(Duration::from_secs(26 * 3600)));
    assert_eq!(worker.number_of_tasks, Some(7));
    assert_eq!(worker.cancellation_interval, Duration::from_secs(5));
    assert_eq!(worker.required_disk_space, 10_000_000_000);
    assert_eq!(json!(worker.metadata), json!({"a": [1]}));
    assert_eq!(config.engine, json!({"user": "task", "nested": {"deep": 1}}));
    assert!(config.plugins.disabled.contains("artifacts"));
    assert_eq!(config.plugins.of("max-run-time"), json!({"maximum": 60}));
    assert_eq!(config.libraries.engine, Some(base.join("./libnative_engine.so")));
    assert_eq!(
        config.libraries.directories,
        [base.join("plugins"), "/usr/lib/tcw".into()]
    );
    assert!(config.libraries.required.contains("task-log"));
    assert!(config.libraries.reload);
    assert_eq!(
        config.libraries.quarantine,
        QuarantineConfig {
            crashes: 5,
            within: Duration::from_secs(2 * 3600),
        }
    );
    assert_eq!(config.libraries.start_timeout, Duration::from_secs(20));
    assert_eq!(config.libraries.call_timeout, Duration::from_secs(3600));
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, LogLevel::Debug)
    );
}

#[test]
fn a_deployment_with_its_credentials() {
    let config = Scene::new(DEPLOYMENT).load();
    let QueueConfig::Deployment(deployment) = &config.queue else {
        panic!("{:?}", config.queue)
    };
    assert_eq!(deployment.root_url, "https://tc.example.com");
    let credentials = deployment.require_credentials().unwrap();
    assert_eq!(credentials.client_id, "me");
    assert_eq!(credentials.access_token.reveal(), "hunter2");
    assert_eq!(config.worker.cancellation_interval, Duration::from_secs(60));
}

#[test]
fn nothing_that_is_printed_shows_a_secret() {
    let scene = Scene::new(&format!(
        "{DEPLOYMENT}engine: {{password: {{$env: PASSWORD}}}}\nplugins: {{x: {{key: {{$env: PASSWORD}}}}}}\n"
    ))
    .with(&[("PASSWORD", "hunter3")]);
    let config = scene.load();
    assert_eq!(config.engine, json!({"password": "hunter3"}));
    let printed = format!("{config:?}\n{}", config.effective);
    assert!(!printed.contains("hunter"), "{printed}");
    assert_eq!(config.effective["queue"]["accessToken"], "[redacted]");
    assert_eq!(config.effective["engine"]["password"], "[redacted]");
    assert_eq!(config.effective["queue"]["clientId"], "me");
}

#[test]
fn mistakes_are_reported_together_with_their_lines() {
    let scene = Scene::new(
        "\
worker:
  capcity: 2
  workerId: a worker with spaces
  idleTimeout: soon
queues: {}
log:
  level: loud
",
    );
    let mut lines: Vec<String> = scene.message().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "tcw.yml:2: `worker.capcity` is not a known key; `worker.capacity` is the nearest",
            "tcw.yml:3: `worker.workerId` must match the pattern ^[a-zA-Z0-9_-]{1,38}$",
            "tcw.yml:4: `worker.idleTimeout` must be seconds, or text such as `90 s`, `20 min` or `1 day 2 hours`",
            "tcw.yml:5: `queues` is not a known key; `queue` is the nearest",
            "tcw.yml:7: `log.level` must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ]
    );
    assert_eq!(scene.error().exit_status(), 64);
}

#[test]
fn bad_files_say_what_is_wrong() {
    for (text, wanted) in [
        ("a: [1\nb: 2\n", "tcw.yml:2: "),
        (
            "log: {}\nlog: {}\n",
            "tcw.yml:2: the key `log` stands here for the second time",
        ),
        ("- 1\n", "tcw.yml: it is not an object with sections"),
        ("just text", "tcw.yml: it is not an object with sections"),
        (
            "worker: {capacity: 0}",
            "tcw.yml:1: `worker.capacity` must be at least 1",
        ),
        (
            "worker: {capacity: two}",
            "tcw.yml:1: `worker.capacity` must be a whole number, not a string",
        ),
        ("worker: [1]", "tcw.yml:1: `worker` must be an object, not a list"),
        (
            "worker: {workerId: abcdefghijabcdefghijabcdefghijabcdefghij}",
            "`worker.workerId` must match",
        ),
        (
            "worker: {idleTimeout: -1}",
            "`worker.idleTimeout` must be at least 0",
        ),
        (
            "plugins: {env: 1}",
            "tcw.yml:1: `plugins.env` must be an object, not a number",
        ),
        (
            "queue: {rootURL: 'https://x'}",
            "`queue.rootURL` is not a known key; `queue.rootUrl` is the nearest",
        ),
        (
            "worker: {capacity: {$env: NONE}}",
            "tcw.yml:1: `worker.capacity`: the environment variable NONE is not set",
        ),
    ] {
        let scene = Scene::new(text);
        assert!(
            scene.message().contains(wanted),
            "{text:?} gave: {}",
            scene.message()
        );
        assert_eq!(scene.error().exit_status(), 64, "{text:?}");
    }
    let mut scene = Scene::new("");
    scene.sources.file = Some(scene.folder.path().join("none.yml"));
    assert!(
        scene.message().starts_with("none.yml: it cannot be read"),
        "{}",
        scene.message()
    );
    scene.sources.file = Some(scene.folder.path().to_owned());
    assert!(
        scene.message().contains("it cannot be read"),
        "{}",
        scene.message()
    );
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    for (text, wanted) in [
        (
            "queue: {rootUrl: 'https://x', embedded: {}}\nworker: {workerPool: a/b}",
            "`queue.rootUrl` and `queue.embedded` exclude each other",
        ),
        (
            "queue: {clientId: me}",
            "`queue.clientId` is for a deployment, and there is no `queue.rootUrl`",
        ),
        (
            "queue:\n  rootUrl: https://x\n  clientId: me\nworker: {workerPool: a/b}",
            "tcw.yml:3: `queue.clientId` needs a `queue.accessToken` with it",
        ),
        (
            "queue: {rootUrl: 'https://x'}",
            "a deployment needs `worker.workerPool`",
        ),
        (
            "queue: {rootUrl: x}\nworker: {workerPool: a/b}",
            "`queue.rootUrl` must be the address of a deployment",
        ),
        (
            "queue: {rootUrl: 'ftp://x'}\nworker: {workerPool: a/b}",
            "`queue.rootUrl` must be the address",
        ),
        (
            "queue: {rootUrl: 'https://x', clientId: a, accessToken: b, certificate: '{'}\nworker: {workerPool: a/b}",
            "`queue.certificate` must be a JSON object",
        ),
        (
            "worker: {workerType: a}",
            "`worker.workerType` needs a `worker.provisionerId` with it",
        ),
        (
            "worker: {workerType: a, workerPool: a/b}",
            "`worker.workerPool` says it all",
        ),
        (
            "queue: {embedded: {listen: '0.0.0.0:80'}}",
            "must be on the loopback interface",
        ),
        (
            "queue: {embedded: {listen: localhost}}",
            "must be an address and a port",
        ),
        (
            "queue: {embedded: {claimTimeout: 0}}",
            "`queue.embedded.claimTimeout` must be at least one second",
        ),
        (
            "libraries: {callTimeout: 0}",
            "`libraries.callTimeout` must be at least one second",
        ),
        (
            "worker: {cancellationInterval: 0 s}",
            "`worker.cancellationInterval` must be at least one second",
        ),
    ] {
        let scene = Scene::new(text);
        assert!(
            scene.message().contains(wanted),
            "{text:?} gave: {}",
            scene.message()
        );
        assert_eq!(scene.error().stage, Stage::Check, "{text:?}");
        assert_eq!(scene.error().exit_status(), 73);
    }
}

#[test]
fn a_token_that_others_can_read_is_refused() {
    let scene = Scene::new(DEPLOYMENT);
    let file = scene.sources.file.clone().unwrap();
    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let error = scene.error();
        assert_eq!(error.stage, Stage::Secure);
        assert!(
            error
                .to_string()
                .contains(&format!("(mode 0{mode:o}): chmod 600 {}", file.display())),
            "{error}"
        );
        assert!(!error.to_string().contains("hunter2"));
    }

    // Looked up, the token is not in the file, and the file may be read.
    let scene = Scene::new(&DEPLOYMENT.replace("hunter2", "{$file: token}"));
    let file = scene.sources.file.clone().unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let token = scene.write("token", "hunter2\n");
    let QueueConfig::Deployment(deployment) = scene.load().queue else {
        panic!()
    };
    assert_eq!(deployment.credentials.unwrap().access_token.reveal(), "hunter2");
    assert_eq!(scene.warnings(), [""; 0]);

    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        scene.warnings(),
        ["tcw.yml:1: others can read the secret in token (mode 0644): chmod 600 token"]
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let scene = Scene::new(&DEPLOYMENT.replace("hunter2", "hunter2, certificate: {version: 1}")).with(&[
        ("TASKCLUSTER_ROOT_URL", "https://other.example.com"),
        ("TASKCLUSTER_ACCESS_TOKEN", "hunter3"),
        ("TASKCLUSTER_CERTIFICATE", ""),
    ]);
    let QueueConfig::Deployment(deployment) = scene.load().queue else {
        panic!()
    };
    assert_eq!(deployment.root_url, "https://other.example.com");
    let credentials = deployment.credentials.unwrap();
    assert_eq!(
        (credentials.client_id.as_str(), credentials.access_token.reveal()),
        ("me", "hunter3")
    );
    assert_eq!(
        credentials.certificate, None,
        "the file's certificate belongs to the file's token"
    );

    let scene = Scene::new("worker: {workerPool: a/b}").with(&[("TASKCLUSTER_ROOT_URL", "nonsense")]);
    assert!(
        scene
            .message()
            .starts_with("environment variable TASKCLUSTER_ROOT_URL: `queue.rootUrl` must be"),
        "{}",
        scene.message()
    );
}

#[test]
fn the_environment_does_not_turn_a_local_worker_into_another() {
    let deployment = [
        ("TASKCLUSTER_ROOT_URL", "https://x"),
        ("TASKCLUSTER_CLIENT_ID", "me"),
    ];
    let scene = Scene::new("queue: {embedded: {}}").with(&deployment);
    assert!(matches!(scene.load().queue, QueueConfig::Embedded(_)));
    assert_eq!(
        scene.warnings(),
        [
            "environment variable TASKCLUSTER_ROOT_URL: it is ignored: the configuration asks for the embedded queue",
            "environment variable TASKCLUSTER_CLIENT_ID: it is ignored: the configuration asks for the embedded queue",
        ]
    );

    let embedded = Flags {
        embedded: true,
        ..Flags::default()
    };
    let scene = Scene::new("").with(&deployment).flags(embedded.clone());
    assert!(matches!(scene.load().queue, QueueConfig::Embedded(_)));
    assert_eq!(scene.warnings(), [""; 0]);

    let scene = Scene::new("").with(&deployment[1..]);
    assert!(matches!(scene.load().queue, QueueConfig::Embedded(_)));
    assert_eq!(scene.warnings().len(), 1);

    let scene = Scene::new(DEPLOYMENT).flags(embedded);
    assert!(
        scene
            .message()
            .contains("--embedded: `queue.rootUrl` and `queue.embedded` exclude"),
        "{}",
        scene.message()
    );
}

#[test]
fn flags_override_everything_and_are_checked_alike() {
    let flags = Flags {
        engine: Some("libmock_engine.so".into()),
        plugins: vec!["here".into()],
        worker_pool: Some("c/d".into()),
        worker_group: Some("g".into()),
        worker_id: Some("w".into()),
        capacity: Some(3),
        state_directory: Some("state".into()),
        idle_timeout: Some("5 min".into()),
        number_of_tasks: Some(1),
        log_format: Some("json".into()),
        log_level: Some("trace".into()),
        embedded: false,
        ..Flags::default()
    };
    let text = "worker: {provisionerId: a, workerType: b, capacity: 9}\nlibraries: {directories: [there]}\n";
    let config = Scene::new(text).flags(flags.clone()).load();
    assert_eq!(
        config.worker.pool,
        Some(WorkerPool {
            provisioner_id: "c".into(),
            worker_type: "d".into()
        })
    );
    assert_eq!(config.worker.capacity, 3);
    assert_eq!(
        config.worker.state_directory,
        Path::new("state"),
        "relative to the working directory"
    );
    assert_eq!(config.worker.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(config.worker.number_of_tasks, Some(1));
    assert_eq!(config.libraries.engine, Some("libmock_engine.so".into()));
    assert_eq!(config.libraries.directories, [Path::new("here")]);
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, LogLevel::Trace)
    );

    let flags = Flags {
        capacity: Some(0),
        log_level: Some("loud".into()),
        ..flags
    };
    let message = Scene::new("").flags(flags).message();
    assert!(
        message.contains("--capacity: `worker.capacity` must be at least 1"),
        "{message}"
    );
    assert!(
        message.contains("--log-level: `log.level` must be one of"),
        "{message}"
    );
}

#[test]
fn state_needs_a_place() {
    let mut scene = Scene::new("");
    scene.sources.environment = Environment::default();
    assert!(
        scene.message().contains("set `worker.stateDirectory`"),
        "{}",
        scene.message()
    );
    let scene = Scene::new("").with(&[("XDG_STATE_HOME", "/state")]);
    assert_eq!(scene.load().worker.state_directory, Path::new("/state/tcw"));
    let scene = Scene::new("").with(&[("XDG_STATE_HOME", "relative")]);
    assert_eq!(
        scene.load().worker.state_directory,
        Path::new("/home/me/.local/state/tcw")
    );
}

/// What worker-runner writes, with the spelling of `instanceID` that generic-worker does not read.
const GENERIC_WORKER: &str = r#"{
  "rootURL": "https://tc.example.com",
  "clientId": "worker/x",
  "accessToken": "hunter2",
  "certificate": "{\"version\": 1}",
  "provisionerId": "prov",
  "workerType": "type",
  "workerGroup": "us-east1",
  "workerId": "i-123",
  "capacity": 2,
  "idleTimeoutSecs": 0,
  "numberOfTasksToRun": 1,
  "requiredDiskSpaceMegabytes": 10240,
  "tasksDir": "/home",
  "cachesDir": "caches",
  "workerTypeMetadata": {"image": "x"},
  "instanceID": "i-123",
  "instanceId": "",
  "region": "us-east1",
  "ed25519SigningKeyLocation": "/key"
}"#;

#[test]
fn generic_workers_file_is_read() {
    let scene = Scene::new(GENERIC_WORKER);
    let config = scene.load();
    let QueueConfig::Deployment(deployment) = &config.queue else {
        panic!()
    };
    let credentials = deployment.require_credentials().unwrap();
    assert_eq!(deployment.root_url, "https://tc.example.com");
    assert_eq!(credentials.client_id, "worker/x");
    assert_eq!(
        credentials.certificate.as_ref().unwrap().reveal(),
        "{\"version\": 1}"
    );
    let worker = &config.worker;
    assert_eq!(worker.pool.as_ref().unwrap().to_string(), "prov/type");
    assert_eq!(
        (worker.group.as_str(), worker.id.as_str(), worker.capacity),
        ("us-east1", "i-123", 2)
    );
    assert_eq!((worker.idle_timeout, worker.number_of_tasks), (None, Some(1)));
    assert_eq!(worker.required_disk_space, 10 << 30);
    assert_eq!(worker.tasks_directory, Path::new("/home"));
    assert_eq!(worker.caches_directory, scene.folder.path().join("caches"));
    assert_eq!(json!(worker.metadata), json!({"image": "x"}));
    let mut warnings = scene.warnings();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "tcw.yml:17: `instanceID` is generic-worker's; it has no effect here",
            "tcw.yml:18: `instanceId` is generic-worker's; it has no effect here",
            "tcw.yml:19: `region` is generic-worker's; it has no effect here",
            "tcw.yml:20: `ed25519SigningKeyLocation` is generic-worker's; it has no effect here",
        ]
    );
}

#[test]
fn mistakes_in_generic_workers_file_are_told_in_its_own_words() {
    let scene = Scene::new(&GENERIC_WORKER.replace("\"capacity\"", "\"capcity\""));
    assert_eq!(
        scene.message(),
        "tcw.yml:10: `capcity` is not a key of generic-worker's; `capacity` is the nearest"
    );
    let scene = Scene::new(&GENERIC_WORKER.replace("\"capacity\": 2", "\"capacity\": \"2\""));
    assert_eq!(
        scene.message(),
        "tcw.yml:10: `worker.capacity` must be a whole number, not a string (it is written as `capacity`)"
    );
    // The two forms do not mix.
    let scene = Scene::new("rootURL: https://x\nworker: {}\n");
    assert_eq!(
        scene.message(),
        "tcw.yml:1: `rootURL` is not a known key; known here: engine, libraries, log, plugins, queue, worker"
    );
    let scene = Scene::new(GENERIC_WORKER);
    fs::set_permissions(
        scene.sources.file.as_ref().unwrap(),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    assert_eq!(scene.error().exit_status(), 77);
}

fn examples() -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/configurations");
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let document = Document::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        out.push((path, document.value));
    }
    assert!(out.len() >= 2);
    out
}

#[test]
fn the_example_configurations_load() {
    for (path, _) in examples() {
        let sources = Sources {
            file: Some(path.clone()),
            environment: variables(&[
                ("WORKER_ACCESS_TOKEN", "hunter2"),
                ("REGION", "eu"),
                ("MACHINE_NAME", "m-1"),
                ("SLOTS", "4"),
            ]),
            flags: Flags::default(),
        };
        let config = Config::load(&sources).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(config.warnings.is_empty());
    }
}

#[test]
fn the_schema_for_editors_takes_the_examples_and_refuses_mistakes() {
    let schema = Config::schema();
    let validator = jsonschema::draft202012::options()
        .offline()
        .build(&schema)
        .unwrap();
    for (path, value) in examples() {
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
    assert!(validator.is_valid(
        &json!({"$schema": "x", "queue": null, "worker": {"capacity": {"$env": "N", "type": "number"}}})
    ));
    assert!(validator.is_valid(&json!({"engine": {"$file": "engine.json", "type": "json"}})));
    for value in [
        json!({"worker": {"capcity": 1}}),
        json!({"worker": {"capacity": "1"}}),
        json!({"worker": {"capacity": {"$evn": "N"}}}),
        json!({"queue": {"embedded": {"listen": 1}}}),
        json!({"log": {"level": "loud"}}),
    ] {
        assert!(!validator.is_valid(&value), "{value}");
    }
}

/// `docs/src/configuration.md` holds the table that the schema makes. Run with `UPDATE_DOCS=1` to renew it.
#[test]
fn the_manual_lists_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- keys -->\n", "<!-- end of keys -->");
    let (before, rest) = text.split_once(start).expect("the table's start is marked");
    let (_, after) = rest.split_once(end).expect("the table's end is marked");
    let wanted = format!("{before}{start}\n{}\n{end}{after}", Config::reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "run the tests once with UPDATE_DOCS=1 to renew docs/src/configuration.md"
        );
    }
}
