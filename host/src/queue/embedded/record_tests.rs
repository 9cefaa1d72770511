//! The rules of a task's life, one by one.

use super::*;

fn task() -> Task {
    Task {
        id: "fN1SbArXTPSVFNUvaOlinQ".to_owned(),
        pool: "p/w".to_owned(),
        scheduler: "-".to_owned(),
        group: "fN1SbArXTPSVFNUvaOlinQ".to_owned(),
        project: "none".to_owned(),
        priority: Priority::Lowest,
        requires: Requires::AllCompleted,
        deadline: 1000,
        expires: 2000,
        retries: 1,
        retries_left: 1,
        position: 0,
        runs: Vec::new(),
    }
}

fn running() -> Task {
    let mut task = task();
    task.schedule(ReasonCreated::Scheduled, 1);
    assert_eq!(task.claim(("g".to_owned(), "w".to_owned()), 2, 50), Some(0));
    task
}

/// State and reasons of each run.
fn summary(task: &Task) -> Vec<(RunState, ReasonCreated, Option<ReasonResolved>)> {
    task.runs
        .iter()
        .map(|run| (run.state, run.created, run.resolved.map(|(_, reason)| reason)))
        .collect()
}

#[test]
fn a_shutdown_is_tried_again_while_retries_are_left() {
    let mut task = running();
    task.report(0, ReasonResolved::WorkerShutdown, 3).unwrap();
    task.report(0, ReasonResolved::WorkerShutdown, 4)
        .expect("repeating a report is no error");
    assert_eq!(
        task.report(0, ReasonResolved::Failed, 4).unwrap_err().code,
        "RequestConflict"
    );
    task.claim(("g".to_owned(), "w".to_owned()), 5, 60);
    task.report(1, ReasonResolved::IntermittentTask, 6).unwrap();
    assert_eq!(
        summary(&task),
        [
            (
                RunState::Exception,
                ReasonCreated::Scheduled,
                Some(ReasonResolved::WorkerShutdown)
            ),
            (
                RunState::Exception,
                ReasonCreated::Retry,
                Some(ReasonResolved::IntermittentTask)
            ),
        ]
    );
    assert_eq!((task.retries_left, task.state()), (0, TaskState::Exception));
}

#[test]
fn a_passed_claim_makes_a_new_run_and_a_passed_deadline_ends_all() {
    let mut task = running();
    assert!(!task.elapse(49));
    assert_eq!(task.next_event(), Some(50));
    assert!(task.elapse(50));
    assert_eq!(task.next_event(), Some(1000));
    assert!(task.elapse(1000));
    assert!(!task.elapse(1001));
    assert_eq!(
        summary(&task),
        [
            (
                RunState::Exception,
                ReasonCreated::Scheduled,
                Some(ReasonResolved::ClaimExpired)
            ),
            (
                RunState::Exception,
                ReasonCreated::Retry,
                Some(ReasonResolved::DeadlineExceeded)
            ),
        ]
    );
    for refused in [
        task.clone().cancel(1001),
        task.clone().rerun(1001),
        task.clone().reclaim(1, 1001, 2000),
    ] {
        assert_eq!(refused.unwrap_err().code, "RequestConflict");
    }
}

#[test]
fn cancelling_what_was_never_scheduled_leaves_a_run_that_says_so() {
    let mut task = task();
    task.cancel(5).unwrap();
    assert_eq!(
        summary(&task),
        [(
            RunState::Exception,
            ReasonCreated::Exception,
            Some(ReasonResolved::Canceled)
        )]
    );
    task.rerun(6).unwrap();
    assert_eq!(task.state(), TaskState::Pending);
}

#[test]
fn a_rerun_has_its_retries_again_up_to_the_fiftieth_run() {
    let mut task = running();
    task.report(0, ReasonResolved::WorkerShutdown, 3).unwrap();
    task.cancel(4).unwrap();
    assert_eq!(task.retries_left, 0);
    task.rerun(5).unwrap();
    assert_eq!((task.retries_left, task.runs.len()), (1, 3));
    task.rerun(5).expect("a pending task stays as it is");
    assert_eq!(task.runs.len(), 3);
    while task.runs.len() < 50 {
        task.cancel(6).unwrap();
        task.rerun(6).unwrap();
    }
    assert_eq!(task.retries_left, 0);
    task.cancel(7).unwrap();
    assert_eq!(task.rerun(8).unwrap_err().code, "RequestConflict");
}

#[test]
fn a_pending_run_can_be_neither_reclaimed_nor_reported() {
    let mut task = task();
    task.schedule(ReasonCreated::Scheduled, 1);
    assert_eq!(task.reclaim(0, 2, 50).unwrap_err().code, "RequestConflict");
    assert_eq!(
        task.report(0, ReasonResolved::Completed, 2).unwrap_err().code,
        "RequestConflict"
    );
    assert_eq!(
        task.report(1, ReasonResolved::Completed, 2).unwrap_err().code,
        "ResourceNotFound"
    );
}

#[test]
fn a_claim_that_nobody_received_is_taken_back_unless_it_was_renewed() {
    let mut task = running();
    assert!(!task.unclaim(0, 49));
    assert!(task.unclaim(0, 50));
    assert_eq!(task.state(), TaskState::Pending);
    assert!(!task.unclaim(0, 50));
}
