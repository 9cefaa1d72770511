//! A worker with the library of `tests/fixtures/held`, and the other end of its socket.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod deployment;
pub(crate) mod proxy;
pub(crate) mod stop;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Queue, QueueClient, TaskId};

use crate::support::cli::{Ended, Place, Running, flags, with};
use crate::support::library;

/// Who has come, and whether they are to stay.
#[derive(Default)]
struct Held {
    here: HashMap<String, UnixStream>,
    released: bool,
}

/// One worker, its tasks and the calls that they are held in.
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) arguments: Vec<String>,
    held: Arc<(Mutex<Held>, Condvar)>,
}

impl Scene {
    pub(crate) fn new(configuration: &str) -> Self {
        let place = Place::new();
        let plugins = place.plugins([library("task_log_plugin"), library("held_library")]);
        let config = place.file("tcw.yml", configuration);
        let arguments = with(&["--config", &config], &flags(&library("held_library"), &plugins));
        let listener = UnixListener::bind(place.path("held")).expect("a socket");
        let held: Arc<(Mutex<Held>, Condvar)> = Arc::default();
        let to = Arc::clone(&held);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                if BufReader::new(&stream).read_line(&mut line).is_err() {
                    continue;
                }
                let mut held = to.0.lock().expect("no panic while it is held");
                if line.trim() == "control" || !held.released {
                    held.here.insert(line.trim().to_owned(), stream);
                }
                to.1.notify_all();
            }
        });
        Scene {
            place,
            arguments,
            held,
        }
    }

    pub(crate) fn starts(&self) -> Running {
        let worker = self.starts_as("run");
        worker.says("waiting for tasks");
        worker
    }

    /// With this fault point.
    pub(crate) fn starts_with_fault(&self, fault: &str) -> Running {
        let mut command = self.place.tcw(&with(&["run"], &self.arguments));
        command
            .env("TCW_HELD", self.place.path("held"))
            .env("TCW_FAULT_POINT", fault);
        let worker = self.place.start_command(command);
        worker.says("waiting for tasks");
        worker
    }

    pub(crate) fn starts_as(&self, command: &str) -> Running {
        let mut command = self.place.tcw(&with(&[command], &self.arguments));
        command.env("TCW_HELD", self.place.path("held"));
        self.place.start_command(command)
    }

    pub(crate) fn submits(&self, name: &str, payload: &str) -> String {
        let file = self
            .place
            .file(&format!("{name}.yml"), &format!("payload: {payload}\n"));
        let submitted = self.place.run(&["submit", &file]);
        assert_eq!((submitted.code(), submitted.err().as_str()), (0, ""));
        submitted.stdout.trim().to_owned()
    }

    /// Waits until somebody is in this call: `<task id> prepare`.
    pub(crate) fn waits_for(&self, who: &str) {
        let held = self.held.0.lock().expect("no panic");
        let (_held, late) = self
            .held
            .1
            .wait_timeout_while(held, Duration::from_secs(120), |held| {
                !held.here.contains_key(who)
            })
            .expect("no panic");
        assert!(!late.timed_out(), "nobody came to {who:?}");
    }

    /// Lets all go on, and whoever comes.
    pub(crate) fn releases(&self) {
        let mut held = self.held.0.lock().expect("no panic");
        held.released = true;
        held.here.retain(|who, _| who == "control");
    }

    /// Lets this one go on.
    pub(crate) fn releases_one(&self, who: &str) {
        let was = self.held.0.lock().expect("no panic").here.remove(who);
        assert!(was.is_some(), "nobody is in {who:?}");
    }

    /// Has the plugin do something with the worker: `graceful`, `now`, `pause`, `resume`.
    pub(crate) fn tells(&self, what: &str) {
        self.waits_for("control");
        let held = self.held.0.lock().expect("no panic");
        let mut control = &held.here["control"];
        writeln!(control, "{what}").expect("the plugin listens");
    }

    /// The runs of tasks in the queue of a worker that has ended: `completed`, `exception (worker-shutdown)`.
    pub(crate) fn afterwards(&self, tasks: &[String]) -> Vec<Vec<String>> {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        runtime.block_on(async {
            let queue = EmbeddedQueue::start(EmbeddedConfig::new(self.place.path("state/queue")))
                .await
                .expect("nobody else uses it");
            let config = ClientConfig::new(queue.root_url(), Some(queue.credentials()));
            let client = QueueClient::new(config).expect("a client");
            let mut all = Vec::new();
            for task in tasks {
                let task: TaskId = task.parse().expect("an id");
                let status = client.status(&task).await.expect("it is there");
                let runs = status.runs.iter().map(|run| {
                    let state = serde_json::to_value(run.state).expect("a word");
                    let state = state.as_str().expect("a word");
                    match run.reason_resolved.as_deref() {
                        Some(reason) if reason != state => format!("{state} ({reason})"),
                        _ => state.to_owned(),
                    }
                });
                all.push(runs.collect());
            }
            queue.stop().await;
            all
        })
    }

    pub(crate) fn recovers(&self) -> Ended {
        self.starts_as("recover").end()
    }
}
