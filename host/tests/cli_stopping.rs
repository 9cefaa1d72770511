//! However a worker is stopped, and whatever its tasks are doing: the process ends with the status that the manual
//! names, and every task is resolved exactly once, with the right reason. See `docs/src/stopping.md`.

mod held_support;
mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use held_support::Scene;
use rustix::process::Signal;
use support::cli::Running;

/// How the worker is stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    Int,
    Term,
    IntInt,
    IntTerm,
    TermTerm,
    PluginGraceful,
    PluginNow,
    Fatal,
    Panic,
}

const STOPS: [Stop; 9] = [
    Stop::Int,
    Stop::Term,
    Stop::IntInt,
    Stop::IntTerm,
    Stop::TermTerm,
    Stop::PluginGraceful,
    Stop::PluginNow,
    Stop::Fatal,
    Stop::Panic,
];

impl Stop {
    /// What runs is finished.
    fn is_graceful(self) -> bool {
        matches!(self, Stop::Int | Stop::PluginGraceful | Stop::Panic)
    }

    fn status(self) -> i32 {
        match self {
            Stop::Int | Stop::PluginGraceful => 71,
            Stop::Term | Stop::IntInt | Stop::IntTerm | Stop::TermTerm | Stop::PluginNow => 72,
            Stop::Fatal | Stop::Panic => 69,
        }
    }
}

/// What the worker is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    /// It waits for its poll.
    Polling,
    /// So many tasks are in this call.
    Tasks(usize, &'static str),
}

const DOING: [Doing; 10] = [
    Doing::Polling,
    Doing::Tasks(1, "prepare"),
    Doing::Tasks(1, "build_sandbox"),
    Doing::Tasks(1, "start"),
    Doing::Tasks(1, "wait"),
    Doing::Tasks(8, "wait"),
    Doing::Tasks(1, "stopped"),
    Doing::Tasks(1, "finished"),
    Doing::Tasks(1, "exception"),
    Doing::Tasks(1, "dispose"),
];

fn stop(scene: &Scene, worker: &Running, stop: Stop) -> Option<String> {
    let (int, term) = (Signal::INT, Signal::TERM);
    let twice = |first: (Signal, &str), then: Signal| {
        worker.signal(first.0);
        worker.says(first.1);
        worker.signal(then);
    };
    match stop {
        Stop::Int => worker.signal(int),
        Stop::Term => worker.signal(term),
        Stop::IntInt => twice((int, "stopping after the running tasks"), int),
        Stop::IntTerm => twice((int, "stopping after the running tasks"), term),
        Stop::TermTerm => twice((term, "stopping now"), term),
        Stop::PluginGraceful => scene.has_stopped("graceful"),
        Stop::PluginNow => scene.has_stopped("now"),
        Stop::Fatal => return Some(scene.submits("culprit", "{fault: fatal}")),
        Stop::Panic => return Some(scene.submits("culprit", "{fault: panic}")),
    }
    None
}

/// The runs that a task may have in the end.
fn expected(how: Stop, call: &str) -> Vec<Vec<&'static str>> {
    let shutdown = vec!["exception (worker-shutdown)", "pending"];
    // The poll that was under way can bring it here once more, which is then given back.
    let again = vec![
        "exception (worker-shutdown)",
        "exception (worker-shutdown)",
        "pending",
    ];
    let malformed = vec!["exception (malformed-payload)"];
    match call {
        "dispose" => vec![vec!["completed"]],
        // Left in the middle of it, it is resolved by the next start.
        "exception" if how == Stop::TermTerm => vec![malformed, shutdown, again],
        "exception" => vec![malformed],
        _ if how.is_graceful() => vec![vec!["completed"]],
        _ => vec![shutdown, again],
    }
}

fn cell(how: Stop, doing: Doing) {
    let what = format!("{how:?} while {doing:?}");
    let scene = Scene::new("worker: {capacity: 10}\n");
    let worker = scene.starts();
    let (count, call) = match doing {
        Doing::Polling => (0, ""),
        Doing::Tasks(count, call) => (count, call),
    };
    let fault = if call == "exception" {
        ", fault: malformed"
    } else {
        ""
    };
    let tasks: Vec<String> = (0..count)
        .map(|number| scene.submits(&number.to_string(), &format!("{{hold: {call}{fault}}}")))
        .collect();
    for task in &tasks {
        scene.waits_for(&format!("{task} {call}"));
    }
    let culprit = stop(&scene, &worker, how);
    if how != Stop::TermTerm && (how.is_graceful() || call == "dispose") {
        // It is to be known that they are not just faster than the stop.
        worker.says(match how {
            Stop::Panic => "the library is unhealthy",
            Stop::Fatal => "resolution=Exception(InternalError)",
            Stop::Int | Stop::PluginGraceful => "stopping after the running tasks",
            _ => "stopping now",
        });
        scene.releases();
    }
    let ended = worker.end();
    // Without a task there may be nobody left for a second signal; while it only cleans up, nobody to be told.
    let idle = (count == 0 || call == "dispose") && matches!(how, Stop::IntInt | Stop::IntTerm);
    let statuses = if idle { vec![71, 72] } else { vec![how.status()] };
    assert!(
        statuses.contains(&ended.code()),
        "{what}: {} is none of {statuses:?}\n{}",
        ended.code(),
        ended.stderr
    );
    if how == Stop::TermTerm {
        let recovered = scene.recovers();
        assert_eq!(recovered.code(), 0, "{what}: {}", recovered.stderr);
    }
    let all: Vec<String> = tasks.iter().cloned().chain(culprit.clone()).collect();
    let mut runs = scene.afterwards(&all);
    if culprit.is_some() {
        assert_eq!(
            runs.pop(),
            Some(vec!["exception (internal-error)".to_owned()]),
            "{what}"
        );
    }
    for runs in runs {
        assert!(
            expected(how, call).iter().any(|expected| runs == *expected),
            "{what}: {runs:?}\n{}",
            ended.stderr
        );
    }
}

/// Runs these cells, four at a time, and says which of them are wrong.
fn matrix(cells: &[(Stop, Doing)]) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((how, doing)) = cells.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    if std::panic::catch_unwind(|| cell(how, doing)).is_err() {
                        failed.lock().expect("no panic").push((how, doing));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{failed:?}");
}

/// Every way to stop, and everything that a worker may be doing, at least once.
#[test]
fn a_worker_that_is_stopped_ends_as_documented_and_every_task_is_resolved() {
    let mut cells: Vec<_> = (0..DOING.len())
        .map(|at| (STOPS[at % STOPS.len()], DOING[at]))
        .collect();
    cells.push((Stop::Term, Doing::Tasks(8, "wait")));
    cells.push((Stop::Panic, Doing::Tasks(1, "wait")));
    matrix(&cells);
}

/// All of them.
#[test]
#[ignore = "takes minutes: tests/run.sh --full"]
fn every_way_to_stop_at_every_time() {
    let cells: Vec<_> = STOPS
        .into_iter()
        .flat_map(|stop| DOING.map(|doing| (stop, doing)))
        .collect();
    matrix(&cells);
}
