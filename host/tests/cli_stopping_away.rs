//! A worker that is stopped while its queue is away, or while it tells the queue how a task ended: the process ends as the
//! manual says (`docs/src/stopping.md`), and every task is resolved exactly once as soon as the queue is back.

mod held_support;
mod support;

use std::time::{Duration, Instant};

use held_support::deployment::Deployment;
use held_support::stop::{STOPS, Stop, matrix};
use support::cli::Running;

/// What has become of the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Away {
    /// Connections break.
    Cut,
    /// Connections are taken, and nothing is answered.
    BlackHole,
}

/// What comes after that.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// It is back only when the worker has left.
    Stays,
    /// It stays away for longer than the claims are good for.
    Expires,
    /// It is back when the worker has begun to miss it.
    Returns,
}

/// What the worker is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Doing {
    /// It waits for its poll.
    Polling,
    /// So many tasks are in this call; there is no poll.
    Tasks(usize, &'static str),
    /// It tells the queue how a task ended.
    Resolving,
}

const DOING: [Doing; 7] = [
    Doing::Polling,
    Doing::Tasks(1, "prepare"),
    Doing::Tasks(1, "wait"),
    Doing::Tasks(8, "wait"),
    Doing::Tasks(1, "finished"),
    Doing::Tasks(1, "dispose"),
    Doing::Resolving,
];

#[derive(Clone, Copy, Debug)]
struct Cell {
    how: Stop,
    away: Option<Away>,
    then: Then,
    doing: Doing,
}

const EXPIRING: Duration = Duration::from_secs(5);

/// A worker that is in this state, and its tasks.
struct Scenery {
    deployment: Deployment,
    worker: Running,
    tasks: Vec<String>,
    culprit: Option<String>,
}

fn sets_up(cell: Cell) -> Scenery {
    let (count, call) = match cell.doing {
        Doing::Polling => (0, ""),
        Doing::Tasks(count, call) => (count, call),
        Doing::Resolving => (1, ""),
    };
    let culprits = usize::from(cell.how.culprit().is_some());
    // A poll is under way only where it is meant to be: while a task is cleaned up after, it has no slot.
    let capacity = match cell.doing {
        Doing::Polling => count + culprits + 1,
        Doing::Tasks(_, "dispose") => culprits.max(1),
        _ => count + culprits,
    };
    let claims = if cell.then == Then::Expires {
        EXPIRING
    } else {
        Duration::from_secs(1200)
    };
    let settings = format!("capacity: {capacity}, cancellationInterval: 3600");
    let deployment = Deployment::with(claims, &settings, cell.how.configuration());
    if cell.doing == Doing::Resolving {
        deployment.proxy.keeps_back("/completed HTTP");
    }
    let worker = deployment.scene.starts();
    let tasks: Vec<String> = (0..count)
        .map(|number| deployment.submits(&number.to_string(), &format!("{{hold: '{call}'}}")))
        .collect();
    for task in tasks.iter().filter(|_| !call.is_empty()) {
        deployment.scene.waits_for(&format!("{task} {call}"));
    }
    if cell.doing == Doing::Resolving {
        deployment.proxy.waits_until_it_keeps_one();
    }
    let culprit = cell.how.culprit().map(|payload| {
        let culprit = deployment.submits("culprit", payload);
        deployment.scene.waits_for(&format!("{culprit} prepare"));
        culprit
    });
    Scenery {
        deployment,
        worker,
        tasks,
        culprit,
    }
}

/// How the runs that are over have ended.
fn resolved(deployment: &Deployment, task: &str) -> Vec<String> {
    let runs = deployment.runs(task).into_iter();
    runs.filter(|run| run != "Pending" && run != "Running").collect()
}

fn run(cell: Cell) {
    let Cell {
        how,
        away,
        then,
        doing,
    } = cell;
    let Scenery {
        deployment,
        worker,
        tasks,
        culprit,
    } = sets_up(cell);
    match away {
        Some(Away::Cut) => deployment.proxy.cut(),
        Some(Away::BlackHole) => deployment.proxy.swallow(),
        None => {}
    }
    how.happens(&deployment.scene, &worker, culprit.as_deref());
    let at_once = how == Stop::TermTerm;
    let cleans = doing == Doing::Tasks(1, "dispose");
    if !at_once && (how.is_graceful() || cleans) {
        how.is_noticed(&worker);
        deployment.scene.releases();
    }
    let has_something_to_tell = culprit.is_some() || (!tasks.is_empty() && !cleans);
    if away.is_none() {
        if !at_once {
            how.is_noticed(&worker);
            deployment.proxy.lets_pass();
        }
        deployment.queue.release_polls();
    } else if then == Then::Returns && has_something_to_tell {
        deployment.proxy.waits_until_it_is_missed();
        deployment.proxy.mend();
    }
    let ended = worker.end();
    let log = &ended.stderr;
    let idle = (tasks.is_empty() || cleans) && matches!(how, Stop::IntInt | Stop::IntTerm);
    let statuses = if idle { vec![71, 72] } else { vec![how.status()] };
    assert!(
        statuses.contains(&ended.code()),
        "{cell:?}: {} is none of {statuses:?}\n{log}",
        ended.code()
    );
    if away.is_none() && at_once {
        // What it had sent gets lost with it.
        deployment.proxy.cut();
    }
    deployment.proxy.mend();
    let recovered = deployment.scene.recovers();
    assert_eq!(recovered.code(), 0, "{cell:?}: {}\n{log}", recovered.stderr);

    let untold = if then == Then::Expires {
        "claim-expired"
    } else {
        "worker-shutdown"
    };
    let has_told = then == Then::Returns || (away.is_none() && !at_once);
    let verdict = if doing == Doing::Resolving || how.is_graceful() {
        "completed"
    } else {
        "worker-shutdown"
    };
    let expected = match (cleans, has_told) {
        (true, _) => "completed",
        (false, true) => verdict,
        (false, false) => untold,
    };
    let begun = Instant::now();
    let expected = tasks.iter().map(|task| (task, expected));
    let own = if has_told { "internal-error" } else { untold };
    for (task, expected) in expected.chain(culprit.iter().map(|culprit| (culprit, own))) {
        let mut runs = resolved(&deployment, task);
        while runs.is_empty() && begun.elapsed() < 10 * EXPIRING {
            // The queue finds out by itself.
            std::thread::sleep(Duration::from_millis(20));
            runs = resolved(&deployment, task);
        }
        // A poll that nobody hears of can be given the next run, which expires as well.
        let again = then == Then::Expires && doing == Doing::Polling && away == Some(Away::BlackHole);
        let as_expected = runs.iter().all(|run| run == expected) && (runs.len() == 1 || again);
        assert!(
            as_expected && !runs.is_empty(),
            "{cell:?}: {task}: {runs:?} instead of {expected}\n{log}\n{}",
            recovered.stderr
        );
    }
    deployment.runtime.block_on(deployment.queue.stop());
}

/// The queue is back after what was left to the next start: that tells it, and takes the task again.
#[test]
fn the_next_start_tells_the_queue_what_the_last_one_could_not() {
    let Scenery {
        deployment,
        worker,
        tasks,
        ..
    } = sets_up(Cell {
        how: Stop::TermTerm,
        away: Some(Away::BlackHole),
        then: Then::Stays,
        doing: Doing::Tasks(1, "wait"),
    });
    deployment.proxy.swallow();
    Stop::TermTerm.happens(&deployment.scene, &worker, None);
    assert_eq!(worker.end().code(), 72);
    assert_eq!(deployment.runs(&tasks[0]), ["Running"]);
    deployment.proxy.mend();
    deployment.scene.releases();
    let worker = deployment.scene.starts();
    worker.says("resolution=Completed");
    assert_eq!(deployment.runs(&tasks[0]), ["worker-shutdown", "completed"]);
    deployment.runtime.block_on(deployment.queue.stop());
}

const fn cell(how: Stop, away: Option<Away>, then: Then, doing: Doing) -> Cell {
    Cell {
        how,
        away,
        then,
        doing,
    }
}

#[test]
fn a_worker_that_is_stopped_while_its_queue_is_away_ends_and_no_task_is_lost() {
    use Away::{BlackHole, Cut};
    use Then::{Expires, Returns, Stays};
    let wait = Doing::Tasks(1, "wait");
    matrix(
        &[
            cell(Stop::Int, Some(BlackHole), Returns, wait),
            cell(Stop::Int, Some(Cut), Returns, wait),
            cell(Stop::Int, Some(Cut), Stays, Doing::Polling),
            cell(Stop::Term, Some(BlackHole), Expires, Doing::Tasks(8, "wait")),
            cell(Stop::Term, Some(BlackHole), Returns, wait),
            cell(Stop::IntTerm, Some(Cut), Returns, Doing::Tasks(1, "finished")),
            cell(Stop::IntInt, Some(Cut), Returns, Doing::Tasks(1, "prepare")),
            cell(Stop::TermTerm, Some(Cut), Stays, wait),
            cell(Stop::TermTerm, Some(BlackHole), Stays, Doing::Resolving),
            cell(Stop::PluginGraceful, Some(BlackHole), Returns, wait),
            cell(Stop::PluginNow, Some(Cut), Expires, Doing::Resolving),
            cell(Stop::PluginNow, Some(Cut), Stays, Doing::Tasks(1, "dispose")),
            cell(Stop::Fatal, Some(BlackHole), Returns, wait),
            cell(Stop::Fatal, Some(Cut), Returns, wait),
            cell(Stop::Panic, Some(BlackHole), Returns, wait),
            cell(Stop::Panic, Some(Cut), Returns, Doing::Polling),
            cell(Stop::Hang, Some(BlackHole), Returns, wait),
        ],
        8,
        run,
    );
}

#[test]
fn a_worker_that_is_stopped_while_it_tells_its_queue_of_a_task_tells_it_once() {
    let cells = STOPS.map(|how| cell(how, None, Then::Stays, Doing::Resolving));
    matrix(&cells, 4, run);
}

/// All of them. A black hole holds a worker for a minute.
#[test]
#[ignore = "takes minutes: tests/run.sh --full"]
fn every_way_to_stop_while_the_queue_is_away() {
    let mut cells = Vec::new();
    for how in STOPS {
        for doing in DOING {
            if how == Stop::Hang && matches!(doing, Doing::Tasks(_, call) if call != "wait") {
                continue;
            }
            for away in [Away::Cut, Away::BlackHole] {
                // Who finishes what runs goes on trying for as long as there is a claim.
                let then = if how.is_graceful() {
                    &[Then::Expires, Then::Returns][..]
                } else if how == Stop::TermTerm {
                    &[Then::Stays][..]
                } else {
                    &[Then::Stays, Then::Expires, Then::Returns]
                };
                cells.extend(then.iter().map(|then| cell(how, Some(away), *then, doing)));
            }
        }
    }
    matrix(&cells, 24, run);
}
