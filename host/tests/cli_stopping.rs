//! However a worker is stopped, and whatever its tasks are doing: the process ends with the status that the manual
//! names, and every task is resolved exactly once, with the right reason. See `docs/src/stopping.md`.

mod held_support;
mod support;

use held_support::Scene;
use held_support::stop::{STOPS, Stop, matrix};

/// What the worker is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    /// It waits for its poll.
    Polling,
    /// A plugin has it claim nothing.
    Paused,
    /// Its only slot is taken by a task that runs; by the one that brings the stop about, if one does.
    Full,
    /// So many tasks are in this call.
    Tasks(usize, &'static str),
}

const DOING: [Doing; 12] = [
    Doing::Polling,
    Doing::Paused,
    Doing::Full,
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

fn cell((how, doing): (Stop, Doing)) {
    let what = format!("{how:?} while {doing:?}");
    let capacity = if doing == Doing::Full { 1 } else { 10 };
    let scene = Scene::new(&format!(
        "worker: {{capacity: {capacity}}}\n{}",
        how.configuration()
    ));
    let worker = scene.starts();
    let (count, call) = match doing {
        Doing::Polling | Doing::Paused => (0, ""),
        Doing::Full => (usize::from(how.culprit().is_none()), "wait"),
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
    let culprit = how.culprit().map(|payload| {
        let culprit = scene.submits("culprit", payload);
        scene.waits_for(&format!("{culprit} prepare"));
        culprit
    });
    if doing == Doing::Paused {
        scene.tells("pause");
        worker.says("claiming is paused");
        // It takes what the poll brings that is under way, and there is none after it.
        let last = scene.submits("last", "{}");
        worker.says(&format!("task resolved task_id={last}"));
    }
    how.happens(&scene, &worker, culprit.as_deref());
    if how != Stop::TermTerm && (how.is_graceful() || call == "dispose") {
        how.is_noticed(&worker);
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
            "{what}\n{}",
            ended.stderr
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

/// Where hooks may take only seconds, there is no time to be in one.
fn is_possible(&(how, doing): &(Stop, Doing)) -> bool {
    how != Stop::Hang || !matches!(doing, Doing::Tasks(_, call) if call != "wait")
}

/// Every way to stop, and everything that a worker may be doing, at least once.
#[test]
fn a_worker_that_is_stopped_ends_as_documented_and_every_task_is_resolved() {
    let mut cells: Vec<_> = (0..DOING.len())
        .map(|at| (STOPS[at % STOPS.len()], DOING[at]))
        .filter(is_possible)
        .collect();
    cells.push((Stop::Term, Doing::Tasks(8, "wait")));
    cells.push((Stop::Panic, Doing::Tasks(1, "wait")));
    cells.push((Stop::Hang, Doing::Tasks(1, "wait")));
    matrix(&cells, 4, cell);
}

/// All of them.
#[test]
#[ignore = "takes minutes: tests/run.sh --full"]
fn every_way_to_stop_at_every_time() {
    let cells: Vec<_> = STOPS
        .into_iter()
        .flat_map(|stop| DOING.map(|doing| (stop, doing)))
        .filter(is_possible)
        .collect();
    matrix(&cells, 4, cell);
}
