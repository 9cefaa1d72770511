//! Libraries that are loaded afresh while the worker goes on.

mod crash_support;
mod support;

use std::fs;

use crash_support::Scene;
use rustix::process::Signal;

const RELOAD: &str = "libraries: {reload: true}\n";

/// What the task's plugin says of its copy.
fn seen(log: &str) -> &str {
    let line = log.lines().find(|line| line.contains("This copy has seen"));
    line.map_or(log, |line| line.split("] ").last().unwrap_or(line))
}

/// What the worker says of itself.
fn status(scene: &Scene) -> serde_json::Value {
    let status = scene.place.run(&["status", "--json"]);
    serde_json::from_str(&status.stdout).expect("a worker runs")
}

/// The copies in the store that were made for later generations.
fn copies(scene: &Scene) -> usize {
    let store = fs::read_dir(scene.place.path("state/libraries")).expect("there is a store");
    store
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with("-1"))
        .count()
}

#[test]
fn after_a_panic_the_same_process_goes_on_with_fresh_copies() {
    let scene = Scene::new(RELOAD);
    let worker = scene.worker(&["--number-of-tasks", "4"]);
    let before = status(&scene);
    assert_eq!(
        (&before["pid"], &before["generation"]),
        (&worker.id().into(), &0.into())
    );
    let (code, log) = scene.watch("");
    assert_eq!((code, seen(&log)), (0, "This copy has seen 1 tasks"));
    let (code, log) = scene.watch("crash: panic");
    assert_eq!((code, seen(&log)), (2, "This copy has seen 2 tasks"));
    worker.says("waiting for tasks again");
    let (code, log) = scene.watch("");
    assert_eq!((code, seen(&log)), (0, "This copy has seen 1 tasks"));
    let after = status(&scene);
    assert_eq!((&after["pid"], &after["generation"]), (&before["pid"], &1.into()));
    assert_eq!(after["libraries"], before["libraries"], "the same bytes");
    // The engine and two plugins.
    assert_eq!(copies(&scene), 3);
    scene.submit("");
    let ended = worker.end();
    assert_eq!(
        ended.code(),
        0,
        "four tasks of both generations: {}",
        ended.stderr
    );

    let next = scene.start(&["--idle-timeout", "1 s"]).end();
    assert_eq!((next.code(), copies(&scene)), (68, 0));
}

#[test]
fn without_reload_the_worker_leaves() {
    let scene = Scene::new("");
    let worker = scene.worker(&[]);
    scene.submit("crash: panic");
    let ended = worker.end();
    assert_eq!(ended.code(), 69, "{}", ended.stderr);
    assert!(ended.stderr.contains("and the worker leaves"), "{}", ended.stderr);
}

#[test]
fn what_an_old_copy_still_does_has_no_say_in_the_new_generation() {
    let scene = Scene::new(RELOAD);
    let worker = scene.worker(&["--number-of-tasks", "2"]);
    let file = scene.place.file("old", "");
    assert_eq!(scene.watch(&format!("crash: 'linger:{file}'")).0, 2);
    worker.says("waiting for tasks again");
    fs::remove_file(&file).unwrap();
    scene.wait_for_file("old.answer");
    let answer = fs::read_to_string(scene.place.path("old.answer")).unwrap();
    assert!(
        answer.contains("ContractViolation") && answer.contains("the worker has ended"),
        "{answer}"
    );
    let task = scene.submit("");
    let ended = worker.end();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert_eq!(scene.runs(&task), ["completed"]);
}

#[test]
fn a_file_that_was_replaced_is_picked_up_with_its_new_payload_schema() {
    let scene = Scene::new(RELOAD);
    let worker = scene.worker(&[]);
    let (old, new) = ("key-of-the-first-version: true", "key-of-the-newer-version: true");
    assert_eq!(scene.watch(old).0, 0);
    let next = scene.place.path("next.so");
    let half = scene.place.path("half.so");
    support::patched(
        &scene.crashing(),
        &half,
        b"\"version\":\"0.1.0\"",
        b"\"version\":\"0.1.1\"",
    );
    support::patched(
        &half,
        &next,
        b"key-of-the-first-version",
        b"key-of-the-newer-version",
    );
    fs::rename(next, scene.crashing()).unwrap();
    assert_eq!(scene.watch("crash: panic").0, 2);
    worker.says("waiting for tasks again");
    let libraries = status(&scene)["libraries"].clone();
    let versions: Vec<&str> = libraries
        .as_array()
        .unwrap()
        .iter()
        .filter(|library| library["name"] == "crashing")
        .map(|library| library["version"].as_str().unwrap())
        .collect();
    assert_eq!(versions, ["0.1.1"]);
    assert_eq!(scene.watch(new).0, 0);
    let refused = scene.place.run(&["submit", &scene.task("old", old)]);
    assert!(
        refused.code() != 0 && refused.stderr.contains("key-of-the-first-version"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_library_that_keeps_panicking_ends_the_worker() {
    let scene = Scene::new(RELOAD);
    let worker = scene.worker(&[]);
    for _ in 0..3 {
        assert_eq!(scene.watch("crash: panic").0, 2);
    }
    scene.submit("crash: panic");
    let ended = worker.end();
    assert_eq!(ended.code(), 69, "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("waiting for tasks again").count(), 3);
    assert!(
        ended
            .stderr
            .contains("fresh copies of the libraries were loaded 3 times within 60 minutes"),
        "{}",
        ended.stderr
    );
}

#[test]
fn sigterm_during_a_reload_ends_the_worker() {
    let scene = Scene::new(RELOAD);
    let mut command = scene.place.tcw(&scene.command(&["run"]));
    command.env("CRASHING_CONSTRUCTOR", scene.place.path("load"));
    let worker = scene.place.start_command(command);
    worker.says("waiting for tasks");
    // From now on its constructor does not return.
    scene.place.file("load", "");
    let task = scene.submit("crash: panic");
    worker.says("loading fresh copies of all libraries");
    scene.wait_for_file("load.blocks");
    worker.signal(Signal::TERM);
    let ended = worker.end();
    assert_eq!(ended.code(), 72, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("stopped: terminated (SIGTERM)"),
        "{}",
        ended.stderr
    );
    assert_eq!(scene.runs(&task), ["exception (internal-error)"]);
    let next = scene.start(&["--idle-timeout", "1 s"]).end();
    assert_eq!(next.code(), 68);
    assert!(!next.stderr.contains("crashed the worker"), "{}", next.stderr);
}

#[test]
fn a_file_that_cannot_be_loaded_any_more_is_left_out_of_the_next_generation() {
    let scene = Scene::new(RELOAD);
    let worker = scene.worker(&["--number-of-tasks", "2"]);
    fs::remove_file(scene.crashing()).unwrap();
    fs::write(scene.crashing(), "no library").unwrap();
    assert_eq!(scene.watch("crash: panic").0, 2);
    worker.says("waiting for tasks again");
    let task = scene.submit("");
    assert_eq!(worker.end().code(), 0);
    assert_eq!(scene.runs(&task), ["completed"]);
}
