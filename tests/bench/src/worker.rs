//! The worker as a whole: the binary with its embedded queue, looked at from outside.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue};
use tcw_host::queue::{ClientConfig, Credentials, Queue, QueueClient, TaskId, TaskStatus, format_time};
use tokio::runtime::Runtime;

use crate::Build;
use crate::pairs::{Figure, Target, millis};

/// What tasks are run with, and what they are.
#[derive(Clone)]
pub(crate) struct Work<'a> {
    pub(crate) engine: &'a Path,
    pub(crate) pool: &'static str,
    pub(crate) plugins: Vec<&'a Path>,
    pub(crate) capacity: u32,
    pub(crate) payload: Value,
}

impl<'a> Work<'a> {
    /// `true` in the native engine.
    pub(crate) fn native(build: &'a Build, plugins: &[&'a Path], capacity: u32) -> Self {
        Work {
            engine: &build.engine,
            pool: "local/native",
            plugins: plugins.to_vec(),
            capacity,
            payload: json!({ "command": [["true"]], "maxRunTime": 60 }),
        }
    }
}

/// A task's definition, as `submit` makes it.
pub(crate) fn definition(pool: &str, payload: &Value) -> Value {
    let now = std::time::SystemTime::now();
    json!({
        "taskQueueId": pool,
        "created": format_time(now.into()),
        "deadline": format_time((now + Duration::from_secs(3600)).into()),
        "payload": payload,
        "metadata": { "name": "true", "description": "true", "owner": "a@example.com", "source": "https://example.com/" },
    })
}

fn start(build: &Build, work: &Work<'_>, state: &Path, tasks: Option<usize>) -> Child {
    let mut command = Command::new(&build.host);
    command.arg("run").arg("--engine").arg(work.engine);
    for directory in &work.plugins {
        command.arg("--plugins").arg(directory);
    }
    command
        .arg("--state-directory")
        .arg(state)
        .args(["--capacity", &work.capacity.to_string()]);
    if let Some(tasks) = tasks {
        command.args(["--number-of-tasks", &tasks.to_string()]);
    }
    for variable in ["ROOT_URL", "CLIENT_ID", "ACCESS_TOKEN", "CERTIFICATE"] {
        command.env_remove(format!("TASKCLUSTER_{variable}"));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcw-host")
}

/// Puts tasks into the queue of a state directory before any worker uses it.
fn fill(runtime: &Runtime, state: &Path, work: &Work<'_>, count: usize) -> Vec<TaskId> {
    let definition = definition(work.pool, &work.payload);
    runtime.block_on(async {
        let queue = EmbeddedQueue::start(EmbeddedConfig::new(state.join("queue")))
            .await
            .expect("a queue");
        let client = QueueClient::new(ClientConfig::new(queue.root_url(), Some(queue.credentials())))
            .expect("a client");
        let mut tasks = Vec::with_capacity(count);
        for _ in 0..count {
            let task = TaskId::random();
            client.create_task(&task, &definition).await.expect("a task");
            tasks.push(task);
        }
        queue.stop().await;
        tasks
    })
}

/// What became of tasks, asked after the worker has ended.
fn statuses(runtime: &Runtime, state: &Path, tasks: &[TaskId]) -> Vec<TaskStatus> {
    runtime.block_on(async {
        let queue = EmbeddedQueue::start(EmbeddedConfig::new(state.join("queue")))
            .await
            .expect("a queue");
        let client = QueueClient::new(ClientConfig::new(queue.root_url(), Some(queue.credentials())))
            .expect("a client");
        let statuses = client.statuses(tasks).await.expect("statuses");
        queue.stop().await;
        statuses
    })
}

/// Milliseconds from the first start to the last end of `count` tasks.
pub(crate) fn span(build: &Build, plugins: &[&Path], capacity: u32, count: usize) -> f64 {
    span_of(build, &Work::native(build, plugins, capacity), count)
}

/// The same of any tasks.
pub(crate) fn span_of(build: &Build, work: &Work<'_>, count: usize) -> f64 {
    let runtime = Runtime::new().expect("threads");
    let state = tempfile::tempdir().expect("a directory");
    let tasks = fill(&runtime, state.path(), work, count);
    let status = start(build, work, state.path(), Some(count))
        .wait()
        .expect("tcw-host ends");
    assert!(status.success(), "tcw-host ended with {status}");
    let statuses = statuses(&runtime, state.path(), &tasks);
    let runs = statuses.iter().map(|status| status.runs.last().expect("a run"));
    assert!(
        statuses.len() == count
            && statuses
                .iter()
                .all(|status| format!("{:?}", status.state) == "Completed")
    );
    let first = runs.clone().filter_map(|run| run.started).min().expect("a start");
    let last = runs.filter_map(|run| run.resolved).max().expect("an end");
    millis((last - first).to_std().expect("time goes on"))
}

/// Milliseconds of fork, exec and wait.
fn plain_true() -> f64 {
    const COUNT: u32 = 50;
    let start = Instant::now();
    for _ in 0..COUNT {
        assert!(
            Command::new("true")
                .stdin(Stdio::null())
                .status()
                .expect("true")
                .success()
        );
    }
    millis(start.elapsed()) / f64::from(COUNT)
}

/// What a task of `true` costs at capacity 1 beyond fork, exec and wait.
pub(crate) fn overhead(build: &Build) -> Figure {
    const COUNT: usize = 40;
    let figure = || span(build, &[&build.plugins], 1, COUNT) / COUNT as f64 - plain_true();
    Figure::pairs(build.pairs, "ms", Target::AtMost(8.0), figure, plain_true)
}

/// Tasks of `true` a second at capacity 8; the yardstick runs as many `true` in eight threads.
pub(crate) fn throughput(build: &Build) -> Figure {
    const COUNT: usize = 400;
    let figure = || COUNT as f64 / (span(build, &[&build.plugins], 8, COUNT) / 1000.0);
    let yardstick = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..COUNT / 8 {
                        assert!(
                            Command::new("true")
                                .stdin(Stdio::null())
                                .status()
                                .expect("true")
                                .success()
                        );
                    }
                });
            }
        });
        COUNT as f64 / start.elapsed().as_secs_f64()
    };
    Figure::pairs(build.pairs, "tasks/s", Target::AtLeast(200.0), figure, yardstick)
}

/// What an idle worker holds.
pub(crate) struct Idle {
    /// Megabytes that are resident.
    pub(crate) resident: f64,
    /// Threads.
    pub(crate) threads: f64,
}

/// A worker that has run one task and waits for the next.
pub(crate) fn idle(build: &Build, plugins: &[&Path]) -> Idle {
    let state = tempfile::tempdir().expect("a directory");
    let work = Work::native(build, plugins, 8);
    let mut host = start(build, &work, state.path(), None);
    wait_for_queue(state.path());
    // It has claimed once when a task was run; then it idles in its next poll.
    let runtime = Runtime::new().expect("threads");
    runtime.block_on(async {
        let client = client(state.path());
        let task = TaskId::random();
        client
            .create_task(&task, &definition(work.pool, &work.payload))
            .await
            .expect("a task");
        let status = loop {
            let status = client.status(&task).await.expect("its status");
            if status.state.is_resolved() {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(format!("{:?}", status.state), "Completed");
    });
    // Threads for blocking work end when they had none for ten seconds; until then their number is chance.
    std::thread::sleep(Duration::from_secs(12));
    let idle = Idle {
        resident: status_of(&host, "VmRSS:") / 1024.0,
        threads: status_of(&host, "Threads:"),
    };
    end(&mut host);
    idle
}

/// A number from `/proc/PID/status`.
fn status_of(host: &Child, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.id())).expect("the process");
    let text = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .expect("a line of the process's status");
    text.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn end(host: &mut Child) {
    let id = rustix::process::Pid::from_child(host);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a signal");
    host.wait().expect("tcw-host ends");
}

/// Kilobytes that are resident for each of many tasks that run.
pub(crate) fn memory_per_task(build: &Build) -> Figure {
    const COUNT: u32 = 64;
    let state = tempfile::tempdir().expect("a directory");
    let work = Work {
        payload: json!({ "command": [["sleep", "1000"]], "maxRunTime": 2000 }),
        ..Work::native(build, &[&build.plugins], COUNT)
    };
    let mut host = start(build, &work, state.path(), None);
    wait_for_queue(state.path());
    let runtime = Runtime::new().expect("threads");
    let running = |count: u32| {
        runtime.block_on(async {
            let client = client(state.path());
            let mut tasks = Vec::new();
            for _ in 0..count {
                let task = TaskId::random();
                let definition = definition(work.pool, &work.payload);
                client.create_task(&task, &definition).await.expect("a task");
                tasks.push(task);
            }
            loop {
                let statuses = client.statuses(&tasks).await.expect("statuses");
                if statuses
                    .iter()
                    .all(|status| format!("{:?}", status.state) == "Running")
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        // What starting them has needed ends within ten seconds.
        std::thread::sleep(Duration::from_secs(12));
        status_of(&host, "VmRSS:")
    };
    // The first one brings in what all share.
    let one = running(1);
    let all = running(COUNT - 1);
    end(&mut host);
    Figure::alone((all - one) / f64::from(COUNT - 1), "KB", Target::AtMost(300.0))
}

/// Tasks of the mock engine a second at capacity 32; the yardstick makes as many tasks in an embedded queue.
pub(crate) fn mock_throughput(build: &Build) -> Figure {
    const COUNT: usize = 1000;
    let work = Work {
        engine: &build.mock,
        pool: "local/mock",
        payload: json!({ "function": "true", "maxRunTime": 60 }),
        ..Work::native(build, &[&build.plugins], 32)
    };
    let figure = || COUNT as f64 / (span_of(build, &work, COUNT) / 1000.0);
    let yardstick = || crate::queue::creates(COUNT);
    Figure::pairs(build.pairs, "tasks/s", Target::AtLeast(400.0), figure, yardstick)
}

/// Resident memory of the worker that waits for tasks with every library loaded.
pub(crate) fn memory(build: &Build) -> Figure {
    let resident = idle(build, &[&build.plugins]).resident;
    Figure::alone(resident, "MB", Target::AtMost(40.0))
}

/// From the start of the process to the claim of a task that waited for it; the yardstick starts it for `--version`.
pub(crate) fn first_claim(build: &Build) -> Figure {
    let figure = || {
        let runtime = Runtime::new().expect("threads");
        let state = tempfile::tempdir().expect("a directory");
        let work = Work::native(build, &[&build.plugins], 1);
        let tasks = fill(&runtime, state.path(), &work, 1);
        let begun = std::time::SystemTime::now();
        let status = start(build, &work, state.path(), Some(1))
            .wait()
            .expect("tcw-host ends");
        assert!(status.success(), "tcw-host ended with {status}");
        let statuses = statuses(&runtime, state.path(), &tasks);
        let claimed = statuses[0].runs[0].started.expect("a start");
        millis(
            std::time::SystemTime::from(claimed)
                .duration_since(begun)
                .unwrap_or_default(),
        )
    };
    let yardstick = || {
        let start = Instant::now();
        assert!(
            Command::new(&build.host)
                .arg("--version")
                .stdout(Stdio::null())
                .status()
                .expect("tcw-host")
                .success()
        );
        millis(start.elapsed())
    };
    Figure::pairs(build.pairs, "ms", Target::AtMost(300.0), figure, yardstick)
}

fn wait_for_queue(state: &Path) {
    let runtime = Runtime::new().expect("threads");
    let begun = Instant::now();
    loop {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the queue does not come up"
        );
        if state.join("queue/credentials.json").exists() && runtime.block_on(client(state).ping()).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn client(state: &Path) -> QueueClient {
    let text = fs::read_to_string(state.join("queue/credentials.json")).expect("credentials");
    let known: Value = serde_json::from_str(&text).expect("credentials");
    let field = |name: &str| known[name].as_str().unwrap_or_default().to_owned();
    let credentials = Credentials::new(field("clientId"), field("accessToken"));
    QueueClient::new(ClientConfig::new(field("rootUrl"), Some(credentials))).expect("a client")
}
