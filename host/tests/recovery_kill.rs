//! `kill -9` at every write of the journal and in every state of a task: the next start leaves nothing behind, and every
//! task is resolved once. Fault points are only in builds with debug assertions.
#![cfg(debug_assertions)]

mod recovery_support;
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use recovery_support::{Scene, killed_at};
use serde_json::json;

/// Longer than any test: no claim expires by itself.
const LONG: Duration = Duration::from_secs(1200);

/// Between the queue's answer and the end of the write, there is nobody who knows of the claim but the queue.
const LOSS: [&str; 2] = ["journal.claimed.before", "journal.commit"];

/// Has a worker with one task killed as `fault` says, and asserts what the next start makes of it: `recover`, or `run`
/// for one more task if there is to be one. Answers the point; `None` if it was never reached.
fn killed_and_recovered(scene: &Scene, fault: &str, by_run: bool) -> Option<String> {
    let killed = scene.run(&["run", "--number-of-tasks", "1"], Some(fault));
    let Some(point) = killed_at(&killed) else {
        assert_eq!(killed.code(), 0, "{}", killed.stderr);
        return None;
    };
    let context = || format!("killed at {point} ({fault}):\n{}", killed.stderr);
    let before = scene.runs();
    let (claims, _) = scene.journaled();
    let mut expected = before.clone();
    if before == ["running"] {
        if claims == 1 {
            expected = vec![
                "exception (worker-shutdown)".to_owned(),
                "pending (retry)".to_owned(),
            ];
        } else {
            assert!(LOSS.contains(&point.as_str()), "{}", context());
        }
    }
    let runs_again = expected.last().is_some_and(|last| last.starts_with("pending"));
    let next = if by_run && runs_again {
        *expected.last_mut().unwrap() = "completed".to_owned();
        scene.run(&["run", "--number-of-tasks", "1"], None)
    } else {
        scene.run(&["recover"], None)
    };
    assert_eq!(next.code(), 0, "{}\nthe next start:\n{}", context(), next.stderr);
    // Nobody's code has crashed.
    assert!(!next.stderr.contains("crash"), "{}", next.stderr);
    assert_eq!(
        scene.runs(),
        expected,
        "{}\nthe next start:\n{}",
        context(),
        next.stderr
    );
    scene.assert_nothing_left(&context());
    // There is nothing to do twice.
    if !by_run {
        let again = scene.run(&["recover"], None);
        assert_eq!(
            (again.code(), again.stdout.as_str()),
            (0, "nothing was left\n"),
            "{}",
            context()
        );
    }
    Some(point)
}

fn fails_with_an_exception() -> serde_json::Value {
    json!({"maxRunTime": 600, "command": "not a list"})
}

/// Every point that the life of a task passes, and every write of the journal for it.
const OF_A_TASK: &[&str] = &[
    "journal.claimed.before",
    "journal.claimed.after",
    "journal.commit",
    "journal.lease.before",
    "journal.lease.after",
    "journal.release.before",
    "journal.release.after",
    "journal.resolved.before",
    "journal.resolved.after",
    "task.Prepared",
    "task.Built",
    "task.Running",
    "task.Stopped",
    "task.Finished",
    "task.reporting",
    "task.reported",
    "task.Resolved",
    "task.Disposed",
];

/// Counting up until a run comes to its end covers writes that this test does not know by name.
#[test]
fn a_worker_killed_at_any_point_of_a_task_leaves_nothing() {
    let mut passed = BTreeSet::new();
    let mut ended = false;
    for count in 1..200 {
        let scene = Scene::new(Some(LONG));
        scene.submit();
        match killed_and_recovered(&scene, &format!("*:{count}:kill"), count % 2 == 0) {
            Some(point) => {
                passed.insert(point);
            }
            None => {
                ended = true;
                break;
            }
        }
    }
    assert!(ended, "there is no end of fault points");
    // Some happen at the same time, so that counting may miss one.
    for point in OF_A_TASK.iter().filter(|point| !passed.contains(**point)) {
        let scene = Scene::new(Some(LONG));
        scene.submit();
        let reached = killed_and_recovered(&scene, &format!("{point}:1:kill"), true);
        assert_eq!(reached.as_deref(), Some(*point));
    }
}

/// The queue goes with the worker.
fn killed_with_its_queue(points: &[&str]) {
    for (number, point) in points.iter().enumerate() {
        let scene = Scene::new(None);
        scene.submit();
        let reached = killed_and_recovered(&scene, &format!("{point}:1:kill"), number % 2 == 0);
        assert_eq!(reached.as_deref(), Some(*point));
    }
}

#[test]
fn the_same_for_a_worker_with_its_queue_in_the_process() {
    killed_with_its_queue(&[
        "journal.claimed.before",
        "journal.claimed.after",
        "task.Running",
        "task.reported",
        "journal.resolved.before",
        "task.Disposed",
    ]);
}

#[test]
#[ignore = "slow: tests/run.sh --full"]
fn the_same_for_every_point_of_a_worker_with_its_queue_in_the_process() {
    killed_with_its_queue(OF_A_TASK);
}

#[test]
fn the_same_for_a_task_that_ends_with_an_exception() {
    for (number, point) in [
        "task.Exception",
        "task.reporting",
        "task.reported",
        "journal.resolved.before",
    ]
    .iter()
    .enumerate()
    {
        let scene = Scene::new(Some(LONG));
        scene.submit_payload(&fails_with_an_exception());
        let killed = scene.run(
            &["run", "--number-of-tasks", "1"],
            Some(&format!("{point}:1:kill")),
        );
        assert_eq!(killed_at(&killed).as_deref(), Some(*point));
        let recovered = scene.run(&["recover"], None);
        assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
        // What the queue knew before the kill stands.
        let runs = if number < 2 {
            vec!["exception (worker-shutdown)", "pending (retry)"]
        } else {
            vec!["exception (malformed-payload)"]
        };
        assert_eq!(scene.runs(), runs, "{point}");
        scene.assert_nothing_left(point);
    }
}

/// The one loss there is: the queue has answered, and nothing is written down yet. The queue itself ends that claim.
#[test]
fn a_claim_that_was_not_written_down_expires_and_the_task_runs_again() {
    let scene = Scene::new(Some(Duration::from_secs(2)));
    scene.submit();
    let killed = scene.run(
        &["run", "--number-of-tasks", "1"],
        Some("journal.claimed.before:1:kill"),
    );
    assert_eq!(killed_at(&killed).as_deref(), Some("journal.claimed.before"));
    let ended = scene.run(&["run", "--number-of-tasks", "1"], None);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(), ["exception (claim-expired)", "completed"]);
    scene.assert_nothing_left("after the claim has expired");
}

/// A recovery that is killed is taken up where it was, however often.
#[test]
fn a_recovery_that_is_killed_again_and_again_comes_to_its_end() {
    let scene = Scene::new(Some(LONG));
    scene.submit_until_told();
    let worker = scene.start(&["run"], None);
    scene.wait_until_it_runs();
    drop(worker);
    assert_eq!(scene.journaled(), (1, 1));
    for point in [
        "journal.prepare.before",
        "journal.release.before",
        "journal.commit",
        "journal.release.after",
        "recovery.leases.done",
        "recovery.claim.told",
        "journal.resolved.before",
        "journal.commit",
        "journal.resolved.after",
        "recovery.done",
    ] {
        let recovery = scene.run(&["recover"], Some(&format!("{point}:1:kill")));
        assert_eq!(
            killed_at(&recovery).as_deref(),
            Some(point),
            "{}",
            recovery.stderr
        );
    }
    let last = scene.run(&["recover"], None);
    assert_eq!(
        (last.code(), last.stdout.as_str()),
        (0, "nothing was left\n"),
        "{}",
        last.stderr
    );
    assert_eq!(scene.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    scene.assert_nothing_left("after all recoveries");
}

/// From the same state each time, and twice at each point.
#[test]
#[ignore = "slow: tests/run.sh --full"]
fn a_recovery_can_be_killed_at_any_point_twice() {
    let mut passed = BTreeSet::new();
    for count in 1..50 {
        let scene = Scene::new(Some(LONG));
        scene.submit_until_told();
        let worker = scene.start(&["run"], None);
        scene.wait_until_it_runs();
        drop(worker);
        let fault = format!("*:{count}:kill");
        let first = killed_at(&scene.run(&["recover"], Some(&fault)));
        let second = killed_at(&scene.run(&["recover"], Some(&fault)));
        let context = format!("killed at {first:?}, then at {second:?}");
        let last = scene.run(&["recover"], None);
        assert_eq!(last.code(), 0, "{context}: {}", last.stderr);
        assert_eq!(
            scene.runs(),
            ["exception (worker-shutdown)", "pending (retry)"],
            "{context}"
        );
        scene.assert_nothing_left(&context);
        match first {
            Some(point) => {
                passed.insert(point);
            }
            None => break,
        }
    }
    for point in [
        "journal.release.after",
        "recovery.claim.told",
        "journal.resolved.before",
        "recovery.done",
    ] {
        assert!(
            passed.contains(point),
            "never killed at {point}, only at {passed:?}"
        );
    }
}

/// The state directory half made, and libraries half stored.
#[test]
fn a_first_start_that_is_killed_again_and_again_comes_to_its_end() {
    let scene = Scene::new(None);
    std::fs::remove_dir_all(scene.place.path("state")).unwrap();
    let mut passed = BTreeSet::new();
    let mut count = 0;
    let last = loop {
        count += 1;
        assert!(count < 50, "there is no end of fault points: {passed:?}");
        let start = scene.run(
            &["run", "--idle-timeout", "1 s"],
            Some(&format!("*:{count}:kill")),
        );
        match killed_at(&start) {
            Some(point) => passed.insert(point),
            None => break start,
        };
    };
    assert_eq!(last.code(), 68, "{}", last.stderr);
    for point in [
        "journal.prepare.before",
        "journal.prepare.made",
        "library.store.written",
    ] {
        assert!(
            passed.contains(point),
            "never killed at {point}, only at {passed:?}"
        );
    }
    scene.assert_nothing_left("after all starts");
    scene.submit();
    assert_eq!(scene.run(&["run", "--number-of-tasks", "1"], None).code(), 0);
    assert_eq!(scene.runs(), ["completed"]);
}

/// What really runs: processes in the background that outlive the worker, next to another worker's that go on.
#[test]
fn what_ran_is_ended_and_another_worker_on_the_machine_is_left_alone() {
    let (mine, other) = (Scene::new(Some(LONG)), Scene::new(Some(LONG)));
    for scene in [&mine, &other] {
        scene.submit_until_told();
    }
    let others_worker = other.start(&["run", "--number-of-tasks", "1"], None);
    let killed = mine.start(&["run"], None);
    for scene in [&mine, &other] {
        scene.wait_until_it_runs();
    }
    drop(killed);
    let recovered = mine.run(&["recover"], None);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr);
    assert_eq!(mine.runs(), ["exception (worker-shutdown)", "pending (retry)"]);
    mine.assert_nothing_left("recovered");

    assert_eq!(support::cli::processes_with(&other.mark).len(), 1);
    other.place.file("go", "");
    assert_eq!(others_worker.end().code(), 0);
    assert_eq!(other.runs(), ["completed"]);
}

const SEVERAL: [&str; 5] = ["run", "--capacity", "4", "--number-of-tasks", "4"];

/// Has a worker with four tasks killed as `fault` says, or when all of them run, and recovers: each task that ran is
/// resolved, what the queue knew of the others stands, and nothing is left of any.
fn several_killed_and_recovered(fault: Option<&str>) {
    let scene = Scene::new(Some(LONG));
    let tasks = scene.submit_several(4);
    let runs = || tasks.iter().map(|task| scene.runs_of(task)).collect::<Vec<_>>();
    let killed = scene.start(&SEVERAL, fault);
    let context = match fault {
        None => {
            for number in 0..tasks.len() {
                scene.wait_for_file(&format!("running-{number}"));
            }
            drop(killed);
            assert_eq!(scene.journaled(), (4, 4));
            "killed while four run".to_owned()
        }
        Some(fault) => {
            // Two end as soon as they have begun, and two run.
            scene.place.file("go-0", "");
            scene.place.file("go-1", "");
            let killed = killed.end();
            let point = killed_at(&killed).expect("it is killed");
            assert!(fault.starts_with(&point), "{point}");
            format!("killed at {fault}:\n{}", killed.stderr)
        }
    };
    let before = runs();
    let ran = before.iter().filter(|runs| **runs == ["running"]).count();
    assert!(ran >= 2, "{context}");
    let recovered = scene.run(&["recover"], None);
    assert_eq!(recovered.code(), 0, "{context}\n{}", recovered.stderr);
    let after = runs();
    for (before, after) in before.iter().zip(&after) {
        if *before == ["running"] {
            assert_eq!(
                *after,
                ["exception (worker-shutdown)", "pending (retry)"],
                "{context}"
            );
        } else {
            assert_eq!(before, after, "{context}");
        }
    }
    scene.assert_nothing_left(&context);
    let told = recovered.stdout.matches("resolved as worker-shutdown").count();
    assert_eq!(told, ran, "{context}\n{}", recovered.stdout);

    scene.place.file("go", "");
    let number = ran.to_string();
    let again = scene.run(&["run", "--capacity", "4", "--number-of-tasks", &number], None);
    assert_eq!(again.code(), 0, "{context}\n{}", again.stderr);
    for runs in runs() {
        assert_eq!(runs.last().map(String::as_str), Some("completed"), "{context}");
    }
    scene.assert_nothing_left(&context);
}

#[test]
fn a_worker_killed_with_several_tasks_leaves_nothing_of_any() {
    several_killed_and_recovered(None);
    for fault in [
        "journal.lease.after:3:kill",
        "task.Running:4:kill",
        "task.reported:2:kill",
        "journal.resolved.before:2:kill",
        "journal.release.after:2:kill",
    ] {
        several_killed_and_recovered(Some(fault));
    }
}
