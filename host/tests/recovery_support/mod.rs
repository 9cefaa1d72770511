//! Workers that are killed, and what is looked at afterwards.
#![expect(dead_code, reason = "every test file uses a part of it")]

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Credentials, Queue, QueueClient, TaskId};
use tcw_host::worker::journal::Journal;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::support::cli::{Ended, Place, Running, processes_with};
use super::support::library;

/// What the environment asks for at a fault point.
pub(crate) const FAULT: &str = "TCW_FAULT_POINT";

/// The plugins that a task cannot do without.
fn plugins() -> &'static Path {
    static PLUGINS: OnceLock<TempDir> = OnceLock::new();
    PLUGINS
        .get_or_init(|| {
            let directory = tempfile::tempdir().unwrap();
            for name in ["max_run_time", "task_log"] {
                let file = library(&format!("{name}_plugin"));
                std::fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
            }
            directory
        })
        .path()
}

/// `--engine` and `--plugins` with this engine.
pub(crate) fn with_engine(engine: &Path) -> Vec<String> {
    super::support::cli::flags(engine, plugins())
}

pub(crate) fn libraries() -> Vec<String> {
    with_engine(&library("native_engine"))
}

/// A store that has them: loading them for the first time is most of what a worker's first start costs.
fn seed() -> &'static Path {
    static SEED: OnceLock<TempDir> = OnceLock::new();
    SEED.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_tcw-host"))
            .arg("schema")
            .args(libraries())
            .env_clear()
            .env("TCW_STATE_DIRECTORY", directory.path().join("state"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        directory
    })
    .path()
}

/// The same files, not copies of them.
fn link_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link_all(&entry.path(), &target);
        } else {
            std::fs::hard_link(entry.path(), target).unwrap();
        }
    }
}

/// Where the queue of a worker is.
pub(crate) enum Queued {
    /// In the worker's own process: it is killed with it.
    Embedded,
    /// In another process: this one.
    Elsewhere(EmbeddedQueue),
    /// It was, there.
    Away(String, Credentials),
}

/// A worker's place, its queue, and one task in it.
pub(crate) struct Scene {
    pub(crate) place: Place,
    runtime: Runtime,
    queue: Queued,
    pub(crate) task: TaskId,
    /// An argument of the task's background process, and of no other process on this machine.
    pub(crate) mark: String,
}

impl Scene {
    /// `claim`: how long a claim of the queue lasts, if that queue is elsewhere.
    pub(crate) fn new(elsewhere: Option<Duration>) -> Self {
        Scene::made(None, elsewhere)
    }

    /// With a queue elsewhere that keeps its state there.
    pub(crate) fn with_queue_at(directory: &Path, claim: Duration) -> Self {
        Scene::made(Some(directory), Some(claim))
    }

    fn made(queue_at: Option<&Path>, elsewhere: Option<Duration>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let place = Place::new();
        let state = place.path("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        link_all(&seed().join("state/libraries"), &state.join("libraries"));
        let runtime = Runtime::new().unwrap();
        let queue = match elsewhere {
            None => Queued::Embedded,
            Some(claim_timeout) => {
                let config = EmbeddedConfig {
                    claim_timeout,
                    ..EmbeddedConfig::new(queue_at.map_or_else(|| place.path("queue"), Path::to_owned))
                };
                Queued::Elsewhere(runtime.block_on(EmbeddedQueue::start(config)).unwrap())
            }
        };
        Scene {
            mark: format!(
                "86399.{}{:03}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::SeqCst)
            ),
            task: TaskId::random(),
            place,
            runtime,
            queue,
        }
    }

    /// The queue, as somebody sees it who may do everything.
    pub(crate) fn ask<T>(&self, ask: impl AsyncFnOnce(&QueueClient) -> T) -> T {
        self.runtime.block_on(async {
            let client = |queue: &EmbeddedQueue| {
                QueueClient::new(ClientConfig::new(queue.root_url(), Some(queue.credentials()))).unwrap()
            };
            match &self.queue {
                Queued::Elsewhere(queue) => ask(&client(queue)).await,
                Queued::Away(..) => panic!("the queue is away"),
                Queued::Embedded => {
                    let config = EmbeddedConfig::new(self.place.path("state/queue"));
                    let queue = EmbeddedQueue::start(config).await.unwrap();
                    let answer = ask(&client(&queue)).await;
                    queue.stop().await;
                    answer
                }
            }
        })
    }

    /// Puts the task into the queue. It leaves a process in the background when it ends.
    pub(crate) fn submit(&self) {
        self.submit_script(&format!("sleep {} & echo hello", self.mark));
    }

    /// A task that makes the file `running` and runs until there is a file `go`.
    pub(crate) fn submit_until_told(&self) {
        let (running, go) = (self.place.path("running"), self.place.path("go"));
        // Not for longer than the test is there, either.
        self.submit_script(&format!(
            "sleep {} & touch {running}; while [ -e {running} ] && [ ! -e {} ]; do sleep 0.02; done",
            self.mark,
            go.display(),
            running = running.display(),
        ));
    }

    pub(crate) fn submit_script(&self, script: &str) {
        self.submit_payload(&json!({"maxRunTime": 600, "command": [["/bin/sh", "-c", script]]}));
    }

    pub(crate) fn submit_payload(&self, payload: &Value) {
        self.submit_as(&self.task, payload);
    }

    /// Puts so many tasks more into the queue: the one with number N makes the file `running-N`, and runs until there is a
    /// file `go` or `go-N`.
    pub(crate) fn submit_several(&self, count: usize) -> Vec<TaskId> {
        let go = self.place.path("go");
        let submit = |number: usize| {
            let task = TaskId::random();
            let running = self.place.path(&format!("running-{number}"));
            let script = format!(
                "sleep {} & touch {running}
                while [ -e {running} ] && [ ! -e {go} ] && [ ! -e {go}-{number} ]; do sleep 0.02; done",
                self.mark,
                go = go.display(),
                running = running.display(),
            );
            self.submit_as(
                &task,
                &json!({"maxRunTime": 600, "command": [["/bin/sh", "-c", script]]}),
            );
            task
        };
        (0..count).map(submit).collect()
    }

    fn submit_as(&self, task: &TaskId, payload: &Value) {
        let now = chrono::Utc::now();
        let definition = json!({
            "taskQueueId": "local/native",
            "created": now,
            "deadline": now + chrono::TimeDelta::hours(1),
            "payload": payload,
            "metadata": {"name": "n", "description": "d", "owner": "o@example.com", "source": "https://example.com"},
        });
        self.ask(async |client| client.create_task(task, &definition).await)
            .unwrap();
    }

    /// Waits until the task that was submitted runs.
    pub(crate) fn wait_until_it_runs(&self) {
        self.wait_for_file("running");
    }

    pub(crate) fn wait_for_file(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.place.path(name).exists() {
            assert!(Instant::now() < deadline, "the task never made {name}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn command(&self, arguments: &[&str], libraries: &[String]) -> Command {
        let arguments = super::support::cli::with(arguments, libraries);
        let mut command = self.place.tcw(&arguments);
        let queue = match &self.queue {
            Queued::Embedded => None,
            Queued::Elsewhere(queue) => Some((queue.root_url().to_owned(), queue.credentials())),
            Queued::Away(root_url, credentials) => Some((root_url.clone(), credentials.clone())),
        };
        if let Some((root_url, credentials)) = queue {
            command
                .env("TASKCLUSTER_ROOT_URL", root_url)
                .env("TASKCLUSTER_CLIENT_ID", credentials.client_id)
                .env("TASKCLUSTER_ACCESS_TOKEN", credentials.access_token)
                .args(["--worker-pool", "local/native", "--worker-group", "local"]);
        }
        command
    }

    /// A command that the fault happens to, if one is named.
    pub(crate) fn start(&self, arguments: &[&str], fault: Option<&str>) -> Running {
        let mut command = self.command(arguments, &libraries());
        if let Some(fault) = fault {
            command.env(FAULT, fault);
        }
        self.place.start_command(command)
    }

    pub(crate) fn run(&self, arguments: &[&str], fault: Option<&str>) -> Ended {
        self.start(arguments, fault).end()
    }

    /// Stops a queue that is elsewhere. Answers where it was.
    pub(crate) fn take_queue_away(&mut self) -> String {
        let Queued::Elsewhere(queue) = std::mem::replace(&mut self.queue, Queued::Embedded) else {
            panic!("the queue is not elsewhere");
        };
        let root_url = queue.root_url().to_owned();
        let credentials = queue.credentials();
        self.runtime.block_on(queue.stop());
        self.queue = Queued::Away(root_url.clone(), credentials);
        root_url
    }

    /// Starts it again where it was.
    pub(crate) fn bring_queue_back(&mut self, root_url: &str) {
        let listen = root_url.strip_prefix("http://").unwrap().parse().unwrap();
        let config = EmbeddedConfig {
            listen,
            ..EmbeddedConfig::new(self.place.path("queue"))
        };
        self.queue = Queued::Elsewhere(self.runtime.block_on(EmbeddedQueue::start(config)).unwrap());
    }

    /// The runs of the task as `state (reason)`; those that the queue has made by itself say why.
    pub(crate) fn runs(&self) -> Vec<String> {
        self.runs_of(&self.task)
    }

    pub(crate) fn runs_of(&self, task: &TaskId) -> Vec<String> {
        let status = self.ask(async |client| client.status(task).await).unwrap();
        status
            .runs
            .iter()
            .map(|run| {
                let run = serde_json::to_value(run).unwrap();
                let state = run["state"].as_str().unwrap();
                match run["reasonResolved"].as_str() {
                    Some(reason) if reason != state => format!("{state} ({reason})"),
                    _ => match run["reasonCreated"].as_str() {
                        Some("retry") if state == "pending" => "pending (retry)".to_owned(),
                        _ => state.to_owned(),
                    },
                }
            })
            .collect()
    }

    /// Claims and leases in the journal; none if there is no journal.
    pub(crate) fn journaled(&self) -> (usize, usize) {
        let directory = self.place.path("state/worker");
        if !directory.join("journal.sqlite").exists() {
            return (0, 0);
        }
        self.runtime.block_on(async {
            let journal = Journal::open(&directory).unwrap();
            let claims = journal.open_claims().await.unwrap().len();
            (claims, journal.open_leases().await.unwrap().len())
        })
    }

    /// Nothing is left of any task: no process, no directory, no lease, no claim, nothing half stored.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, context: &str) {
        assert_eq!(processes_with(&self.mark), Vec::<u32>::new(), "{context}");
        assert_eq!(self.journaled(), (0, 0), "{context}");
        for folder in [
            "state/worker/tmp",
            "state/worker/tasks",
            "state/exec",
            "own/tasks",
        ] {
            assert_eq!(
                names_in(&self.place.path(folder)),
                Vec::<String>::new(),
                "{folder}: {context}"
            );
        }
        for name in names_in(&self.place.path("state/libraries")) {
            assert!(
                !name.starts_with("new-") && !name.starts_with("damaged-"),
                "{name} in the store: {context}"
            );
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // What a test that fails leaves is not left to the machine.
        for process in processes_with(&self.mark) {
            let process = rustix::process::Pid::from_raw(process.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
    }
}

/// What is in a directory, if there is one.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The fault point that a process was killed at; `None` for one that ended by itself.
#[track_caller]
pub(crate) fn killed_at(ended: &Ended) -> Option<String> {
    use std::os::unix::process::ExitStatusExt as _;
    ended.status.signal().map(|signal| {
        assert_eq!(signal, Signal::KILL.as_raw(), "{}", ended.stderr);
        let last = ended
            .stderr
            .lines()
            .rfind(|line| line.starts_with("fault point "));
        let last = last.expect("it was killed by itself");
        last.rsplit(' ').next().unwrap_or_default().to_owned()
    })
}

/// A mount of this test, or `None` where that is not allowed, which is said.
pub(crate) struct Mount {
    path: std::path::PathBuf,
}

impl Mount {
    /// What is at `path`, as it is, but read-only.
    pub(crate) fn read_only(path: &Path) -> Option<Mount> {
        let at = path.display().to_string();
        mount(&["--bind", &at, &at])?;
        let mounted = Mount {
            path: path.to_owned(),
        };
        mount(&["-o", "remount,bind,ro", &at]).map(|()| mounted)
    }

    /// A small file system in memory, made at `path`.
    pub(crate) fn small(path: &Path, size: &str) -> Option<Mount> {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size},mode=0700");
        mount(&[
            "-t",
            "tmpfs",
            "-o",
            &options,
            "tmpfs",
            &path.display().to_string(),
        ])?;
        Some(Mount {
            path: path.to_owned(),
        })
    }

    /// Leaves not a byte free.
    pub(crate) fn fill(&self) {
        self.fill_but(0);
    }

    /// Leaves about so many bytes free.
    pub(crate) fn fill_but(&self, free: u64) {
        use std::io::Write as _;
        let path = self.path.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(free)).unwrap();
    }

    /// Takes that back.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.path.join("filler")).unwrap();
    }
}

fn mount(arguments: &[&str]) -> Option<()> {
    let mounted = Command::new("mount").args(arguments).output().unwrap();
    if !mounted.status.success() {
        // Not a container that may mount, nor root.
        eprintln!("skipped: mount: {}", String::from_utf8_lossy(&mounted.stderr));
        return None;
    }
    Some(())
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever still has a file open there goes on until it is closed.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
