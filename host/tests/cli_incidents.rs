//! Incidents tie what the task's author sees to the worker's log: whatever fails that is not the task's fault. See
//! `docs/src/incidents.md`.

mod held_support;
mod support;

use held_support::Scene;
use rustix::process::Signal;
use support::cli::{Running, with};

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

/// The task's own log names an incident, and the worker's log has under it: the run, the library and the cause.
fn leads_to_the_cause(scene: &Scene, worker: &Running, payload: &str, cause: &str) {
    leads_to(scene, worker, payload, "libheld_library.so", cause);
}

fn leads_to(scene: &Scene, worker: &Running, payload: &str, library: &str, cause: &str) {
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
        &format!("library=\"{library}\""),
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

#[test]
fn an_engines_incident_leads_to_its_cause() {
    let scene = Scene::new("worker: {capacity: 3}\nlibraries: {callTimeout: 3 s}\n");
    let worker = scene.starts();
    let beside = scene.submits("beside", "{hold: wait}");
    scene.waits_for(&format!("{beside} wait"));
    let internal = "engine 'held', start: a-secret-message";
    leads_to_the_cause(&scene, &worker, "{fault: engine-internal}", internal);
    let aborted = "engine 'held', wait: a-secret-message (SandboxAborted, although nobody ended the task)";
    leads_to_the_cause(&scene, &worker, "{fault: engine-aborts}", aborted);
    let hangs = "engine 'held', start: it did not return within 3 s";
    leads_to_the_cause(&scene, &worker, "{fault: engine-hang}", hangs);
    scene.releases();
    assert_eq!(worker.end().code(), 69);

    let scene = Scene::new("worker: {capacity: 3}\n");
    let worker = scene.starts();
    let beside = scene.submits("beside", "{hold: wait}");
    scene.waits_for(&format!("{beside} wait"));
    let panicked = "engine 'held', start: SandboxBuilder.start panicked: a-secret-message";
    leads_to_the_cause(&scene, &worker, "{fault: engine-panic}", panicked);
    scene.releases();
    assert_eq!(worker.end().code(), 69);
}

/// The host's own code fails in a task: the author reads of it while there is a log, and the worker goes on.
#[test]
fn a_panic_of_the_host_is_an_incident_of_one_task() {
    for state in ["Prepared", "Running", "Stopped"] {
        let scene = Scene::new("worker: {capacity: 3}\n");
        let worker = scene.starts_with_fault(&format!("task.{state}:1:panic"));
        let cause = format!("host: the host panicked in this task: the fault point task.{state}");
        leads_to(&scene, &worker, "{}", "", &cause);
        let next = scene.submits("next", "{}");
        worker.says(&format!(
            "task resolved task_id={next} run_id=0 resolution=Completed"
        ));
        worker.signal(Signal::INT);
        let ended = worker.end();
        assert_eq!(ended.code(), 71, "{}", ended.stderr);
        assert_eq!(scene.afterwards(&[next]), [["completed"]]);
    }
    // With its log published, or with its end told, there is nothing left to read of it.
    for (state, end) in [
        ("Finished", "exception (internal-error)"),
        ("Resolved", "completed"),
    ] {
        let scene = Scene::new("worker: {capacity: 3}\n");
        let worker = scene.starts_with_fault(&format!("task.{state}:1:panic"));
        let task = scene.submits("task", "{}");
        let line = worker.says("the host panicked in this task");
        assert!(
            line.contains(&format!("task_id={task} run_id=0 incident=")),
            "{line}"
        );
        let next = scene.submits("next", "{}");
        worker.says(&format!(
            "task resolved task_id={next} run_id=0 resolution=Completed"
        ));
        worker.signal(Signal::INT);
        let ended = worker.end();
        assert_eq!(ended.code(), 71, "{}", ended.stderr);
        assert_eq!(scene.afterwards(&[task, next]), [[end], ["completed"]]);
    }
}
