//! Claims of a worker over the real protocol: what it asks of its queue, and clean-ups that lag behind.

mod held_support;
mod support;

use std::time::{Duration, Instant};

use held_support::Scene;
use held_support::deployment::Deployment;
use rustix::process::Signal;
use tcw_host::queue::{Queue, TaskId};

#[test]
fn one_call_asks_about_all_running_tasks_and_one_that_was_cancelled_ends() {
    const STATUSES: &str = "/tasks/status";
    let deployment = Deployment::new();
    let worker = deployment.scene.starts();
    let names = ["one", "two", "three", "four", "five", "six"];
    let tasks = names.map(|name| deployment.submits(name, "{hold: wait}"));
    for task in &tasks {
        deployment.scene.waits_for(&format!("{task} wait"));
    }
    let (begun, before) = (Instant::now(), deployment.proxy.count(STATUSES));
    deployment.proxy.waits_for(STATUSES, before + 4);
    let (asked, intervals) = (
        deployment.proxy.count(STATUSES) - before,
        begun.elapsed().as_secs_f64(),
    );
    // At most one in an interval, which is shortened by a fifth at most; never one for each task.
    #[expect(clippy::cast_precision_loss, reason = "there are few")]
    let calls = asked as f64;
    assert!(calls <= intervals / 0.8 + 1.0, "{calls} calls in {intervals} s");

    let cancelled: TaskId = tasks[0].parse().unwrap();
    deployment
        .runtime
        .block_on(deployment.client.cancel_task(&cancelled))
        .unwrap();
    worker.says("resolution=ResolvedElsewhere");
    // The slot of one that waited in the poll that is under way is not blocked by that poll.
    let next = deployment.submits("next", "{hold: prepare}");
    deployment.scene.waits_for(&format!("{next} prepare"));
    deployment.scene.releases();
    worker.signal(Signal::INT);
    worker.says("stopping after the running tasks");
    // It would wait until its poll ends, which this queue has end at once.
    deployment.queue.release_polls();
    let ended = worker.end();
    assert_eq!(ended.code(), 71, "{}", ended.stderr);
    assert_eq!(deployment.runs(&tasks[0]), ["canceled"]);
    for task in tasks[1..].iter().chain([&next]) {
        assert_eq!(deployment.runs(task), ["completed"]);
    }
    deployment.runtime.block_on(deployment.queue.stop());
}

/// A task outlives its claim as often as it takes, and what is asked of the queue then is asked with what the last
/// renewal brought.
fn renewed(claim_timeout: Duration, renewals: usize) {
    let deployment = Deployment::with_claims_of(claim_timeout);
    let worker = deployment.scene.starts();
    let url = format!(
        "http://{}/api/queue/v1/task/TASK/status",
        deployment.proxy.address
    );
    let payload = format!("{{hold: wait, signed: '{url}'}}");
    let task = deployment.submits("long", &payload);
    deployment.scene.waits_for(&format!("{task} wait"));
    deployment.proxy.waits_for("/reclaim HTTP", renewals);
    deployment.scene.releases();
    worker.says(&format!("task resolved task_id={task}"));
    let said = worker.said_so_far();
    assert_eq!(deployment.runs(&task), ["completed"], "{said}");
    let renewing = deployment.proxy.certificates("/reclaim HTTP");
    let publishing = deployment.proxy.certificates("/artifacts/");
    let reporting = deployment.proxy.certificates("/completed HTTP");
    assert!(renewing.len() >= renewals && !publishing.is_empty());
    let signed = deployment.proxy.certificates(&format!("/{task}/status HTTP"));
    assert_eq!((reporting.len(), signed.len()), (1, 1));
    // Each was asked for with what the one before had brought.
    let before = &renewing[..renewals];
    for (at, certificate) in before.iter().enumerate() {
        assert!(
            !before[..at].contains(certificate),
            "renewal {at} with old credentials"
        );
        assert!(!publishing.contains(certificate) || at + 1 == before.len());
        assert!(signed[0] != *certificate || at + 1 == before.len());
    }
    worker.signal(Signal::TERM);
    worker.says("stopping now");
    deployment.queue.release_polls();
    assert_eq!(worker.end().code(), 72);
    deployment.runtime.block_on(deployment.queue.stop());
}

/// Nobody asks about cancellations for an hour: it is the renewal that is answered with a conflict.
#[test]
fn a_renewal_that_is_refused_ends_the_task_and_nothing_is_reported() {
    let settings = "capacity: 1, cancellationInterval: 3600";
    let deployment = Deployment::with(Duration::from_secs(3), settings, "");
    let worker = deployment.scene.starts();
    let task = deployment.submits("cancelled", "{hold: wait}");
    deployment.scene.waits_for(&format!("{task} wait"));
    let id: TaskId = task.parse().unwrap();
    let cancelled = deployment.client.cancel_task(&id);
    deployment.runtime.block_on(cancelled).unwrap();
    worker.says("the claim is lost");
    worker.says("resolution=ResolvedElsewhere reported=false");
    // Its slot is free.
    let next = deployment.submits("next", "{}");
    worker.says(&format!("task resolved task_id={next}"));
    for report in ["exception", "failed", "completed"] {
        let path = format!("/task/{task}/runs/0/{report} HTTP");
        assert_eq!(deployment.proxy.count(&path), 0, "{report}");
    }
    assert_eq!(deployment.proxy.count("/tasks/status HTTP"), 0);
    assert_eq!(deployment.runs(&task), ["canceled"]);
    assert_eq!(deployment.runs(&next), ["completed"]);
    worker.signal(Signal::TERM);
    worker.says("stopping now");
    deployment.queue.release_polls();
    assert_eq!(worker.end().code(), 72);
    deployment.runtime.block_on(deployment.queue.stop());
}

/// A slot that becomes free while a poll waits for another is used as soon as there is work, with one poll for each.
#[test]
fn a_slot_that_becomes_free_while_a_poll_waits_is_used_without_delay() {
    const POLL: &str = "/claim-work/";
    let settings = "capacity: 2, cancellationInterval: 3600";
    let deployment = Deployment::with(Duration::from_secs(1200), settings, "");
    let worker = deployment.scene.starts();
    for round in 0..2 {
        let first = deployment.submits("first", "{hold: wait}");
        deployment.scene.waits_for(&format!("{first} wait"));
        // The one of this round that brought the first, and one for the other slot, which waits.
        let waiting = 3 * round + 2;
        deployment.proxy.waits_for(POLL, waiting);
        deployment.scene.releases_one(&format!("{first} wait"));
        worker.says(&format!("task resolved task_id={first}"));
        let both = ["second", "third"].map(|name| deployment.submits(name, "{hold: wait}"));
        for task in &both {
            deployment.scene.waits_for(&format!("{task} wait"));
        }
        // The poll that waited, and one after it; with both slots taken there is none.
        assert_eq!(deployment.proxy.count(POLL), waiting + 1);
        for task in &both {
            deployment.scene.releases_one(&format!("{task} wait"));
            worker.says(&format!("task resolved task_id={task}"));
        }
    }
    worker.signal(Signal::TERM);
    worker.says("stopping now");
    deployment.queue.release_polls();
    assert_eq!(worker.end().code(), 72);
    deployment.runtime.block_on(deployment.queue.stop());
}

#[test]
fn a_claim_is_renewed_and_its_credentials_are_replaced_everywhere() {
    renewed(Duration::from_secs(2), 4);
}

#[test]
#[ignore = "takes a while: tests/run.sh --full"]
fn a_task_runs_for_four_claims_of_five_seconds() {
    renewed(Duration::from_secs(5), 8);
}

#[test]
fn claiming_pauses_while_clean_ups_lag_behind_and_says_so() {
    let scene = Scene::new("worker: {capacity: 1}\n");
    let worker = scene.starts();
    for name in ["one", "two"] {
        let task = scene.submits(name, "{hold: dispose}");
        scene.waits_for(&format!("{task} dispose"));
    }
    worker.says("clean-ups of ended tasks lag behind");
    let status = scene.place.run(&["status"]);
    assert!(
        status
            .stdout
            .contains("nothing is claimed: clean-ups of ended tasks lag behind\n"),
        "{}",
        status.stdout
    );
    let third = scene.submits("three", "{hold: prepare}");
    assert!(!worker.said_so_far().contains(&format!("claimed task_id={third}")));
    scene.releases();
    worker.says("clean-ups have caught up");
    worker.says(&format!("claimed task_id={third}"));
    let status = scene.place.run(&["status"]);
    assert!(!status.stdout.contains("nothing is claimed"), "{}", status.stdout);
    worker.signal(Signal::INT);
    let ended = worker.end();
    assert_eq!(ended.code(), 71, "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("lag behind").count(), 1, "{}", ended.stderr);
    assert_eq!(scene.afterwards(&[third]), [["completed"]]);
}
