//! Many tasks: what a worker holds does not grow with them, and a queue with many claimers loses none.
//!
//! The small versions run always; those marked `ignore` are what the design asks for, and `tests/run.sh --full` runs them.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;
mod support;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use queue_support::{BOUND, POOL, Scene, run};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::cli::{Place, Running, flags, with};
use support::library;
use tcw_host::queue::{ClientConfig, Queue as _, QueueClient, TaskId, WorkerIdentity};

/// What a process holds at one moment at which no task runs.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    descriptors: f64,
    threads: f64,
    /// Bytes that are resident.
    resident: f64,
    /// Bytes in the worker's state directory.
    stored: f64,
}

impl Held {
    fn by(process: u32, state: &Path) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let number = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        Held {
            descriptors: std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count() as f64,
            threads: number("Threads:"),
            resident: number("VmRSS:") * 1024.0,
            stored: size_of(state) as f64,
        }
    }
}

/// Bytes of all files below. What disappears meanwhile has no size.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// How much there is more of something with each task: the slope of the line that fits best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let up: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    up / along
}

#[test]
fn a_slope_is_what_each_task_adds() {
    let points: Vec<_> = (0..10)
        .map(|n| (f64::from(n), 5.0 + 3.0 * f64::from(n)))
        .collect();
    assert!((slope(&points) - 3.0).abs() < 1e-9);
    assert!(slope(&[(0.0, 7.0), (1.0, 7.0), (2.0, 7.0)]).abs() < 1e-9);
}

/// How a worker is put under load.
struct Load {
    engine: &'static str,
    payload: Value,
    slots: usize,
    tasks: usize,
    /// Samples are taken after so many.
    batch: usize,
    /// Bytes of memory, and of the state directory, that a task may add. What is small against it is noise.
    resident: f64,
    stored: f64,
}

fn worker(place: &Place, scene: &Scene, load: &Load) -> Running {
    let config = place.file(
        "config.yml",
        &format!(
            "queue:\n  rootUrl: {}\nworker:\n  workerPool: {POOL}\n  capacity: {}\nlog:\n  level: warn\n",
            scene.queue.root_url(),
            load.slots
        ),
    );
    let credentials = scene.queue.credentials();
    // `native` copies the plugins; the engine may be another.
    let plugins = place.native();
    let libraries = flags(&library(load.engine), Path::new(plugins.last().unwrap()));
    let mut command = place.tcw(&with(&["run", "--config", &config], &libraries));
    command
        .env("TASKCLUSTER_CLIENT_ID", &credentials.client_id)
        .env("TASKCLUSTER_ACCESS_TOKEN", &credentials.access_token);
    place.start_command(command)
}

/// Makes a batch of tasks and waits until all of them are completed.
async fn complete(scene: &Scene, worker: &Running, load: &Load) {
    let mut definition = queue_support::task();
    definition["payload"] = load.payload.clone();
    let mut tasks = Vec::new();
    for _ in 0..load.batch {
        let id = TaskId::random();
        scene.client.create_task(&id, &definition).await.unwrap();
        tasks.push(id);
    }
    let deadline = Instant::now() + 2 * BOUND;
    loop {
        let statuses = scene.client.statuses(&tasks).await.unwrap();
        let mut states = BTreeMap::<String, usize>::new();
        for status in &statuses {
            *states.entry(format!("{:?}", status.state)).or_default() += 1;
        }
        if statuses.iter().all(|status| status.state.is_resolved()) {
            assert_eq!(
                states.get("Completed"),
                Some(&load.batch),
                "{states:?}\n{}",
                worker.said_so_far()
            );
            return;
        }
        assert!(Instant::now() < deadline, "{states:?}\n{}", worker.said_so_far());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the worker has cleaned up after all tasks: what it removes last are their folders.
async fn cleaned_up(state: &Path, worker: &Running) {
    let deadline = Instant::now() + BOUND;
    while std::fs::read_dir(state.join("worker/tasks")).is_ok_and(|mut left| left.next().is_some()) {
        assert!(Instant::now() < deadline, "{}", worker.said_so_far());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs the load and looks at what each task leaves in the process, over the second half of them.
async fn leaves_nothing(load: Load) {
    let (scene, place) = (Scene::new().await, Place::new());
    let worker = tokio::task::block_in_place(|| worker(&place, &scene, &load));
    let state = place.path("state");
    let mut samples = Vec::new();
    for number in 1..=load.tasks / load.batch {
        complete(&scene, &worker, &load).await;
        cleaned_up(&state, &worker).await;
        samples.push(((number * load.batch) as f64, Held::by(worker.id(), &state)));
    }
    let half = &samples[samples.len() / 2..];
    let of = |what: fn(&Held) -> f64| {
        let points: Vec<_> = half.iter().map(|(tasks, held)| (*tasks, what(held))).collect();
        slope(&points)
    };
    let found = Held {
        descriptors: of(|held| held.descriptors),
        threads: of(|held| held.threads),
        resident: of(|held| held.resident),
        stored: of(|held| held.stored),
    };
    println!(
        "{} x {}: a task adds {found:?}; in the end {:?}",
        load.tasks,
        load.engine,
        samples.last()
    );
    // Connections are there at one sample and not at another, as many as were needed at once within a minute; and so are
    // threads for blocking work, of which each library has as many as it needed at once within ten seconds.
    let over_half = |each: f64| each * load.tasks as f64 / 2.0;
    assert!(
        over_half(found.descriptors) <= load.slots as f64,
        "{found:?}: {samples:#?}"
    );
    assert!(over_half(found.threads) <= 32.0, "{found:?}: {samples:#?}");
    assert!(found.resident <= load.resident, "{found:?}: {samples:#?}");
    assert!(found.stored <= load.stored, "{found:?}: {samples:#?}");
    // What the queue keeps of a task until it expires: its definition, its status, its log and the link to that. Its
    // write-ahead log comes to some megabytes, however many tasks there are.
    let kept = size_of(&scene.directory.path().join("state"));
    let expected = (8 << 20) + 6144 * load.tasks as u64;
    assert!(
        kept <= expected,
        "the queue keeps {kept} bytes of {} tasks",
        load.tasks
    );
    worker.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(|| worker.end()).await.unwrap();
    assert_eq!(
        (ended.code(), ended.stdout.as_str()),
        (72, ""),
        "{}",
        ended.stderr
    );
}

fn mock(tasks: usize, batch: usize, resident: f64, stored: f64) -> Load {
    Load {
        engine: "mock_engine",
        payload: json!({ "function": "write-log", "argument": "something", "maxRunTime": 60 }),
        slots: 32,
        tasks,
        batch,
        resident,
        stored,
    }
}

fn native(tasks: usize, batch: usize, resident: f64, stored: f64) -> Load {
    Load {
        engine: "native_engine",
        payload: json!({ "command": [["echo", "something"]], "maxRunTime": 60 }),
        ..mock(tasks, batch, resident, stored)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_hundred_tasks_of_the_mock_engine_leave_nothing() {
    leaves_nothing(mock(640, 64, 16384.0, 4096.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_hundred_processes_leave_nothing() {
    // So few tasks are still warming up: memory that is kept to be used again comes to half of this bound.
    leaves_nothing(native(320, 32, 32768.0, 8192.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute or more; tests/run.sh --full runs it"]
async fn ten_thousand_tasks_of_the_mock_engine_leave_nothing() {
    leaves_nothing(mock(10_000, 250, 400.0, 64.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute or more; tests/run.sh --full runs it"]
async fn two_thousand_processes_leave_nothing() {
    leaves_nothing(native(2000, 100, 4096.0, 512.0)).await;
}

/// A client of its own for each claimer.
fn claimers(scene: &Scene, count: usize) -> Vec<Arc<QueueClient>> {
    (0..count)
        .map(|number| {
            let worker = WorkerIdentity {
                pool: POOL.parse().unwrap(),
                group: "g".to_owned(),
                id: format!("w{number}"),
            };
            let credentials = Some(scene.queue.credentials());
            let config = ClientConfig::new(scene.queue.root_url(), credentials).with_worker(worker);
            Arc::new(QueueClient::new(config).unwrap())
        })
        .collect()
}

/// A hundred claimers claim and report until all tasks are done. `wait_first`: they wait before there is any task.
async fn shared_by_a_hundred(wait_first: bool) {
    const TASKS: usize = 1000;
    const CLAIMERS: usize = 100;
    let scene = Arc::new(Scene::new().await);
    if !wait_first {
        for _ in 0..TASKS {
            scene.create().await;
        }
    }
    let done = Arc::new(AtomicUsize::new(0));
    let working: Vec<_> = claimers(&scene, CLAIMERS)
        .into_iter()
        .map(|client| {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                let (mut mine, mut empty) = (Vec::new(), 0);
                while done.load(Ordering::SeqCst) < TASKS {
                    let claims = client.claim_work(1).await.expect("no claim fails");
                    empty += usize::from(claims.is_empty());
                    for claim in claims {
                        client
                            .for_claim(&claim)
                            .report_completed()
                            .await
                            .expect("no report fails");
                        mine.push(claim.task_id().clone());
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                }
                (mine, empty)
            })
        })
        .collect();
    if wait_first {
        for _ in 0..TASKS {
            scene.create().await;
        }
    }
    // Whoever still waits when everything is done need not.
    let deadline = Instant::now() + BOUND;
    while done.load(Ordering::SeqCst) < TASKS {
        assert!(Instant::now() < deadline, "{done:?} of {TASKS} are done");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One more poll may begin at any moment until then.
    while working.iter().any(|one| !one.is_finished()) {
        assert!(Instant::now() < deadline, "somebody waits for ever");
        scene.queue.release_polls();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut all, mut shares, mut empty) = (Vec::new(), Vec::new(), 0);
    for one in working {
        let (mine, polls) = one.await.unwrap();
        shares.push(mine.len());
        empty += polls;
        all.extend(mine);
    }
    assert_eq!(all.len(), TASKS);
    assert_eq!(
        all.iter().collect::<HashSet<_>>().len(),
        TASKS,
        "a task was claimed twice"
    );
    for part in all.chunks(500) {
        for status in scene.client.statuses(part).await.unwrap() {
            assert_eq!(status.runs.len(), 1);
            assert_eq!(format!("{:?}", status.state), "Completed");
        }
    }
    let last = scene.runs(&all[0]).await;
    assert_eq!(last, [run("completed", "scheduled", Some("completed"))]);
    // Nobody starves, and nobody is woken for nothing but at the end.
    shares.sort_unstable();
    assert!(shares[0] >= 1, "{shares:?}");
    assert!(empty <= CLAIMERS, "{empty} polls brought nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_claimers_share_a_thousand_tasks_that_wait_for_them() {
    shared_by_a_hundred(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_claimers_that_wait_share_a_thousand_tasks() {
    shared_by_a_hundred(true).await;
}
