//! Claims of a worker over the real protocol: what it asks of its queue, clean-ups that lag behind, and incidents, which
//! tie what the task's author sees to the worker's log.

mod held_support;
mod support;

use std::time::{Duration, Instant};

use held_support::Scene;
use held_support::deployment::Deployment;
use rustix::process::Signal;
use support::cli::{Running, with};
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
    let task = deployment.submits("long", "{hold: wait}");
    deployment.scene.waits_for(&format!("{task} wait"));
    deployment.proxy.waits_for("/reclaim HTTP", renewals);
    deployment.scene.releases();
    worker.says("resolution=Completed reported=true");
    assert_eq!(deployment.runs(&task), ["completed"]);
    let renewing = deployment.proxy.certificates("/reclaim HTTP");
    let publishing = deployment.proxy.certificates("/artifacts/");
    let reporting = deployment.proxy.certificates("/completed HTTP");
    assert!(renewing.len() >= renewals && !publishing.is_empty());
    assert_eq!(reporting.len(), 1);
    // Each was asked for with what the one before had brought.
    let before = &renewing[..renewals];
    for (at, certificate) in before.iter().enumerate() {
        assert!(
            !before[..at].contains(certificate),
            "renewal {at} with old credentials"
        );
        assert!(!publishing.contains(certificate) || at + 1 == before.len());
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

/// Follows a task to its end as its author does; answers what the author reads.
fn author_reads(scene: &Scene, payload: &str) -> String {
    let file = scene.place.file("watched.yml", &format!("payload: {payload}\n"));
    let config = scene.place.path("tcw.yml").display().to_string();
    let watched = scene
        .place
        .run(&with(&["submit", "--watch", "--config", &config, &file], &[]));
    assert_eq!(watched.code(), 2, "{}", watched.stderr);
    watched.stdout
}

fn leads_to_the_cause(scene: &Scene, worker: &Running, payload: &str, cause: &str) {
    let log = author_reads(scene, payload);
    let task = log.lines().next().unwrap();
    let (_, rest) = log
        .split_once("[taskcluster:error] The worker has failed, not the task. Incident ")
        .unwrap();
    let incident = &rest[..8];
    let line = worker.says(&format!("incident=\"{incident}\""));
    for part in [
        "ERROR",
        &format!("task_id={task}"),
        "run_id=0",
        "library=\"libheld_library.so\"",
        cause,
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    // What the library said is for the operator alone.
    assert!(!log.contains("a-secret"), "{log}");
}

#[test]
fn an_incident_in_the_tasks_log_leads_to_its_cause_in_the_workers() {
    let scene = Scene::new("worker: {capacity: 3}\nlibraries: {callTimeout: 4 s}\n");
    let worker = scene.starts();
    // An unhealthy worker leaves when nothing runs any more.
    let beside = scene.submits("beside", "{hold: wait}");
    scene.waits_for(&format!("{beside} wait"));
    let told = "a-secret-message";
    leads_to_the_cause(&scene, &worker, "{fault: internal}", told);
    leads_to_the_cause(
        &scene,
        &worker,
        "{fault: internal}",
        "{\"token\":\"a-secret-detail\"}",
    );
    leads_to_the_cause(
        &scene,
        &worker,
        "{fault: panic}",
        "prepare: TaskPlugin.prepare panicked: a-secret-message",
    );
    scene.releases();
    assert_eq!(worker.end().code(), 69);

    let scene = Scene::new("worker: {capacity: 3}\nlibraries: {callTimeout: 2 s}\n");
    let worker = scene.starts();
    let beside = scene.submits("beside", "{hold: wait}");
    scene.waits_for(&format!("{beside} wait"));
    leads_to_the_cause(&scene, &worker, "{fault: hang}", "it did not return within 2 s");
    scene.releases();
    assert_eq!(worker.end().code(), 69);
}
