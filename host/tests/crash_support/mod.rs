//! A worker with the plugin that crashes it: `tests/fixtures/crashing`.
#![expect(dead_code, reason = "every test file uses a part of it")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Queue, QueueClient, TaskId};

use super::support::cli::{Place, Running, flags, with};
use super::support::library;

/// A place with the engine `native` and the plugins `crashing` and `task-log`.
pub(crate) struct Scene {
    pub(crate) place: Place,
    flags: Vec<String>,
}

impl Scene {
    /// `config` is the worker's configuration.
    pub(crate) fn new(config: &str) -> Self {
        let place = Place::new();
        let files = ["crashing_library", "task_log_plugin"].map(library);
        let plugins = place.plugins(files);
        let mut flags = flags(&library("native_engine"), &plugins);
        flags.extend(["--config".to_owned(), place.file("tcw.yml", config)]);
        Scene { place, flags }
    }

    /// The file of the library that crashes.
    pub(crate) fn crashing(&self) -> PathBuf {
        self.place.path("plugins/libcrashing_library.so")
    }

    /// The arguments of a command that makes a worker.
    pub(crate) fn command(&self, command: &[&str]) -> Vec<String> {
        with(command, &self.flags)
    }

    /// A worker, not ready yet.
    pub(crate) fn start(&self, more: &[&str]) -> Running {
        self.place.start(&self.command(&[&["run"], more].concat()))
    }

    /// A worker that is ready.
    pub(crate) fn worker(&self, more: &[&str]) -> Running {
        let worker = self.start(more);
        worker.says("waiting for tasks");
        worker
    }

    /// A file with a task whose payload has these lines too.
    pub(crate) fn task(&self, name: &str, payload: &str) -> String {
        let text = format!("payload:\n  command: [[/bin/true]]\n  {payload}\n");
        self.place.file(&format!("{name}.yml"), &text)
    }

    /// Puts a task into the queue of the worker that runs here; answers its id.
    pub(crate) fn submit(&self, payload: &str) -> String {
        let submitted = self.place.run(&["submit", &self.task("task", payload)]);
        assert_eq!((submitted.code(), submitted.err().as_str()), (0, ""));
        submitted.stdout.trim().to_owned()
    }

    /// Runs a task and answers its outcome, as an exit status, and its log.
    pub(crate) fn watch(&self, payload: &str) -> (i32, String) {
        let watched = self
            .place
            .run(&["submit", "--watch", &self.task("task", payload)]);
        (watched.code(), watched.stdout)
    }

    /// Lines of `library list`, without the heading: name, state and file of each.
    pub(crate) fn listed(&self) -> (i32, Vec<[String; 3]>) {
        let mut command = self.command(&["library", "list"]);
        command.push("plugins".into());
        let listed = self.place.run(&command);
        assert_eq!(listed.err(), "");
        let rows = listed
            .out()
            .lines()
            .skip(1)
            .map(|line| {
                let cells: Vec<&str> = line
                    .split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect();
                [cells[0], cells[4], cells[5]].map(str::to_owned)
            })
            .collect();
        (listed.code(), rows)
    }

    /// The state of the crashing library in that list.
    pub(crate) fn state(&self) -> String {
        let (_, rows) = self.listed();
        let row = rows.into_iter().find(|row| row[0] == "crashing");
        row.map(|row| row[1].clone()).expect("it is listed")
    }

    /// How the runs of a task ended, as `state (reason)`, when no worker runs any more.
    pub(crate) fn runs(&self, task: &str) -> Vec<String> {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let queue = EmbeddedQueue::start(EmbeddedConfig::new(self.place.path("state/queue")))
                .await
                .expect("nobody else has the queue");
            let client = QueueClient::new(ClientConfig::new(queue.root_url(), Some(queue.credentials())))
                .expect("a client");
            let task: TaskId = task.parse().expect("an id");
            let status = client.status(&task).await.expect("the task is there");
            let runs = status.runs.iter().map(|run| {
                let state = serde_json::to_value(run.state).expect("a word");
                match (state.as_str().expect("a word"), run.reason_resolved.as_deref()) {
                    (state, Some(reason)) if reason != state => format!("{state} ({reason})"),
                    (state, _) => state.to_owned(),
                }
            });
            let runs = runs.collect();
            queue.stop().await;
            runs
        })
    }

    pub(crate) fn wait_for_file(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.place.path(name).exists() {
            assert!(Instant::now() < deadline, "nobody ever made {name}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
