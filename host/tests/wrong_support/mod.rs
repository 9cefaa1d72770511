//! What the tests of wrong libraries share: a worker with two slots, a task that meets the library, one beside it that
//! must not notice, and what is left when the worker has ended.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Queue, QueueClient, TaskId};

use crate::support::cli::{Ended, Place, Running, flags, with};
use crate::support::{build_directory, existing, library};

/// A library of `tests/fixtures/wrong`.
pub(crate) fn wrong(name: &str) -> PathBuf {
    existing(
        build_directory().join(format!("examples/libwrong_{name}.so")),
        "cargo build -p tcw-wrong-libraries -p tcw-garbage-abi --examples",
    )
}

/// Bounds that a test can wait for; for everything else there is a guard of minutes.
pub(crate) const IMPATIENT: &str = "libraries: {startTimeout: 2 s, callTimeout: 2 s}";

/// The same where only a load that is really stuck may run into one.
pub(crate) const PATIENT: &str = "libraries: {startTimeout: 120 s, callTimeout: 120 s}";

/// A worker with two slots, unless its configuration says otherwise.
pub(crate) struct Scene {
    pub(crate) place: Place,
    arguments: Vec<String>,
    variables: Vec<(&'static str, &'static str)>,
    worker: Option<Running>,
    native: bool,
}

impl Scene {
    /// The engine `native`, with the plugins of this workspace and this library.
    pub(crate) fn with_plugin(library: &str, configuration: &str) -> Self {
        Scene::with_plugins([wrong(library)], configuration)
    }

    pub(crate) fn with_plugins(files: impl IntoIterator<Item = PathBuf>, configuration: &str) -> Self {
        let place = Place::new();
        place.plugins(files);
        let libraries = place.native();
        Scene::new(place, libraries, configuration, true)
    }

    /// This library's engine, with a plugin that asks it for everything.
    pub(crate) fn with_engine(name: &str, configuration: &str) -> Self {
        let place = Place::new();
        let plugins = place.plugins([wrong("exerciser"), library("task_log_plugin")]);
        let libraries = flags(&wrong(name), &plugins);
        Scene::new(place, libraries, configuration, false)
    }

    pub(crate) fn new(place: Place, libraries: Vec<String>, configuration: &str, native: bool) -> Self {
        let file = if configuration.contains("worker:") {
            place.file("tcw.yml", configuration)
        } else {
            place.file("tcw.yml", &format!("{configuration}\nworker: {{capacity: 2}}"))
        };
        Scene {
            place,
            arguments: with(&["--config", &file], &libraries),
            variables: Vec::new(),
            worker: None,
            native,
        }
    }

    /// The arguments of every command that makes a worker, after these.
    pub(crate) fn arguments(&self, first: &[&str]) -> Vec<String> {
        with(first, &self.arguments)
    }

    /// Sets a variable in the worker's environment.
    pub(crate) fn set(&mut self, name: &'static str, value: &'static str) {
        self.variables.push((name, value));
    }

    /// Starts it, and waits until it is ready.
    pub(crate) fn starts(&mut self) -> &Running {
        let mut command = self.place.tcw(&self.arguments(&["run"]));
        command.envs(self.variables.iter().copied());
        let worker = self.place.start_command(command);
        worker.says("waiting for tasks");
        self.worker.insert(worker)
    }

    pub(crate) fn worker(&self) -> &Running {
        self.worker.as_ref().expect("it was started")
    }

    /// A task that ends when there is a file of its name, with these lines in its payload. It begins before this returns.
    pub(crate) fn begins(&self, name: &str, payload: &str) -> String {
        let file = self.place.path(name).display().to_string();
        let work = if self.native {
            format!(
                "maxRunTime: 600\n  command: [[/bin/sh, -c, 'touch {file}.runs; while [ ! -e {file} ]; do sleep 0.02; \
                 done']]"
            )
        } else {
            format!("until: {file}")
        };
        let id = self.submits(name, &format!("{work}\n  {payload}"));
        if self.native {
            self.waits_for_file(&format!("{name}.runs"));
        } else {
            self.worker().says(&format!("claimed task_id={id}"));
        }
        id
    }

    /// Lets a task end that [`Scene::begins`] began.
    pub(crate) fn ends(&self, name: &str) {
        self.place.file(name, "");
    }

    /// Puts a task into the queue.
    pub(crate) fn submits(&self, name: &str, payload: &str) -> String {
        let submitted = self.place.run(&["submit", &self.task(name, payload)]);
        assert_eq!((submitted.code(), submitted.err().as_str()), (0, ""));
        submitted.stdout.trim().to_owned()
    }

    fn task(&self, name: &str, payload: &str) -> String {
        self.place
            .file(&format!("{name}.yml"), &format!("payload:\n  {payload}\n"))
    }

    /// A task that does next to nothing, followed to its end as its author would: its log, and how it ended.
    pub(crate) fn author_sees(&self, payload: &str) -> Ended {
        let work = if self.native {
            "maxRunTime: 600\n  command: [[/bin/echo, the task itself]]\n  "
        } else {
            // There since the machine was started.
            "until: /\n  "
        };
        self.author_watches(&format!("{work}{payload}")).end()
    }

    /// The same, of a task with this payload and while it runs.
    pub(crate) fn author_watches(&self, payload: &str) -> Running {
        let task = self.task("watched", payload);
        self.place.start(&["submit", "--watch", &task])
    }

    fn waits_for_file(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.place.path(name).exists() {
            assert!(Instant::now() < deadline, "the task never made {name}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Tells the worker to end after its tasks, and waits for it.
    pub(crate) fn interrupted(&mut self) -> Ended {
        let worker = self.worker.take().expect("it was started");
        worker.signal(Signal::INT);
        worker.end()
    }

    /// Waits for the worker, which leaves by itself.
    pub(crate) fn leaves(&mut self) -> Ended {
        self.worker.take().expect("it was started").end()
    }

    /// How a task stands in the queue of a worker that has ended: `completed`, `pending`, `exception (internal-error)`.
    pub(crate) fn afterwards(&self, task: &str) -> String {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        runtime.block_on(async {
            let queue = EmbeddedQueue::start(EmbeddedConfig::new(self.place.path("state/queue")))
                .await
                .expect("nobody else uses it");
            let config = ClientConfig::new(queue.root_url(), Some(queue.credentials()));
            let client = QueueClient::new(config).expect("a client");
            let task: TaskId = task.parse().expect("an id");
            let status = client.status(&task).await.expect("it is there");
            queue.stop().await;
            let run = status.runs.last().expect("it has a run");
            let state = serde_json::to_value(run.state).expect("a word");
            let state = state.as_str().expect("a word");
            match run.reason_resolved.as_deref() {
                Some(reason) if reason != state => format!("{state} ({reason})"),
                _ => state.to_owned(),
            }
        })
    }

    /// Neither processes nor files of tasks.
    #[track_caller]
    pub(crate) fn leaves_nothing(&self) {
        let marker = self.place.path("").display().to_string();
        assert_eq!(processes_that_name(&marker), Vec::<String>::new());
        for folder in ["tasks", "tmp"] {
            let path = self.place.path("state/worker").join(folder);
            let left: Vec<_> = std::fs::read_dir(&path)
                .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                .unwrap_or_default();
            assert_eq!(left, Vec::<PathBuf>::new(), "in {}", path.display());
        }
    }
}

/// The command lines that have this in them.
pub(crate) fn processes_that_name(part: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").expect("Linux has it").flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(part))
        .collect()
}

/// What the author of a task reads about an error that is not theirs. The id is the operator's way to it.
pub(crate) const INCIDENT: &str = "[taskcluster:error] The worker has failed, not the task. Incident ";

/// What the author of a watched task sees.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Author {
    /// Nothing of it.
    Completed,
    /// An incident in the log.
    Incident,
    /// An incident that came when the log was closed.
    Late,
}

impl Author {
    #[track_caller]
    pub(crate) fn is(self, seen: &Ended, what: &str) {
        let (code, last, incident) = match self {
            Author::Completed => (0, "completed", false),
            Author::Incident => (2, "exception (internal-error)", true),
            Author::Late => (2, "exception (internal-error)", false),
        };
        assert_eq!(
            (
                seen.code(),
                seen.out().contains(INCIDENT),
                seen.err().contains(&format!("task TASK: {last}\n"))
            ),
            (code, incident, true),
            "{what}:\n{}\n{}",
            seen.out(),
            seen.err()
        );
    }
}

/// All of these lines are in what the worker has said.
#[track_caller]
pub(crate) fn operator_reads(ended: &Ended, lines: &[&str], what: &str) {
    let said = ended.err();
    for line in lines {
        assert!(said.contains(line), "{what}: {line:?} is not in\n{said}");
    }
}

/// The whole course with a library that turns out to be unhealthy: the task that meets it, the one that runs beside it
/// and completes, and the one that comes later and is not claimed any more.
#[track_caller]
pub(crate) fn unhealthy(mut scene: Scene, file: &str, payload: &str, author: Author, lines: &[&str]) {
    scene.starts();
    let beside = scene.begins("beside", "");
    author.is(&scene.author_sees(payload), payload);
    scene
        .worker()
        .says("the library is unhealthy: nothing more is claimed, and the worker leaves");
    let later = scene.submits(
        "later",
        if scene.native {
            "maxRunTime: 60\n  command: [['true']]"
        } else {
            "until: /"
        },
    );
    scene.ends("beside");
    let ended = scene.leaves();
    let last = format!(
        "ERROR the library '{file}' panicked or hung, so the worker leaves; start it again for a fresh copy status=69"
    );
    operator_reads(&ended, lines, payload);
    operator_reads(&ended, &[&last], payload);
    assert_eq!(ended.code(), 69, "{payload}");
    assert_eq!(
        (
            scene.afterwards(&beside).as_str(),
            scene.afterwards(&later).as_str()
        ),
        ("completed", "pending"),
        "{payload}"
    );
    scene.leaves_nothing();
}

/// The same with one that does no harm to the worker: what comes later is done, too.
#[track_caller]
pub(crate) fn harmless(mut scene: Scene, payload: &str, author: Author, lines: &[&str]) -> Ended {
    scene.starts();
    let beside = scene.begins("beside", "");
    author.is(&scene.author_sees(payload), payload);
    Author::Completed.is(&scene.author_sees(""), payload);
    scene.ends("beside");
    let ended = scene.interrupted();
    operator_reads(&ended, lines, payload);
    assert_eq!(ended.code(), 71, "{payload}:\n{}", ended.err());
    assert_eq!(scene.afterwards(&beside), "completed", "{payload}");
    scene.leaves_nothing();
    ended
}
