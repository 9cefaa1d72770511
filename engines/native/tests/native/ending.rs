//! Ending tasks: killing, aborting, and processes that would rather stay.

use crate::scene::{patiently, scene, scene_with, script};
use rustix::process::{Pid, test_kill_process};
use serde_json::json;
use tcw_abi::ErrorKind;
use tcw_abi::engine::LeaseRecord;
use tcw_abi::testing::FakeServices;

/// The numbers that the task has printed behind `label`.
fn numbers(log: &str, label: &str) -> Vec<Pid> {
    log.lines()
        .filter_map(|line| line.strip_prefix(label)?.trim().parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

fn all_dead(pids: &[Pid]) -> bool {
    // A zombie that init has not collected yet is as dead as one can be.
    pids.iter().all(|pid| {
        test_kill_process(*pid).is_err()
            || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
                .map_or(true, |stat| stat.contains(") Z "))
    })
}

/// A daemon by the book: it forks, leads a session of its own, and its parent is gone.
const DAEMON: &str = "setsid sh -c 'sh -c \"echo daemon \\$\\$; : > up; exec sleep 1000\" & echo middle $$' & wait; \
                      while ! [ -e up ]; do sleep 0.01; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_does_not_outlive_its_task() {
    let scene = scene().await;
    let result = scene
        .run(json!({ "command": [
            ["sh", "-c", "setsid sh -c 'sleep 1000 & echo sleeper $!' & wait; echo first is over"],
            ["sh", "-c", "(sleep 1000 & echo sleeper $!) & wait; env -i /bin/sleep 1000 & echo sleeper $!"],
        ]}))
        .await;
    let log = scene.task.log_text();
    let daemons = numbers(&log, "sleeper ");
    assert_eq!(daemons.len(), 3, "{log}");
    assert!(all_dead(&daemons), "{log}");
    assert!(result.report().success, "leaving daemons is not a failure");
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_ends_the_whole_tree_and_keeps_the_results() {
    let scene = scene().await;
    let sandbox = scene
        .start(script(&format!(
            "echo kept > file; {DAEMON}; sleep 1000 & echo sleeper $!; echo ready; wait"
        )))
        .await;
    scene.task.wait_for_log("\nready\n").await;
    patiently(sandbox.kill("a test".into(), 5_000)).await.unwrap();
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(!result.report().success);
    assert_eq!(result.report().signal, Some(15), "it was asked first");
    let log = scene.task.log_text();
    let left = [
        numbers(&log, "sleeper "),
        numbers(&log, "daemon "),
        numbers(&log, "middle "),
    ]
    .concat();
    assert!(left.len() >= 3 && all_dead(&left), "{log}");
    assert!(log.contains("Result: ABORTED"));
    assert_eq!(
        result.extract_file("file".into()).await.unwrap().info.size,
        Some(5)
    );
    for error in [sandbox.kill("late".into(), 0).await, sandbox.abort().await] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::SandboxTerminated);
    }
    let again = patiently(sandbox.wait()).await.unwrap();
    assert_eq!(again.report(), result.report());
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_listen_is_forced() {
    let scene = scene().await;
    let sandbox = scene
        .start(script(
            "trap 'echo heard' TERM; echo ready; while true; do sleep 1000 & wait; done",
        ))
        .await;
    scene.task.wait_for_log("\nready\n").await;
    patiently(sandbox.kill("a test".into(), 200)).await.unwrap();
    let result = patiently(sandbox.wait()).await.unwrap();
    assert_eq!(result.report().signal, Some(9));
    assert!(scene.task.log_text().contains("\nheard\n"));
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_overtakes_a_patient_kill_and_leaves_nothing() {
    let scene = scene().await;
    let sandbox = scene
        .start(script("trap '' TERM; echo ready; sleep 1000 & wait; sleep 1000"))
        .await;
    scene.task.wait_for_log("\nready\n").await;
    let killing = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.kill("a test".into(), 3_600_000).await }
    });
    patiently(sandbox.abort()).await.unwrap();
    // The order may have come before the kill or after it.
    if let Err(error) = patiently(killing).await.unwrap() {
        assert_eq!(error.kind(), ErrorKind::SandboxTerminated);
    }
    for _ in 0..2 {
        let error = patiently(sandbox.wait()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::SandboxAborted);
    }
    assert_eq!(
        sandbox.abort().await.unwrap_err().kind(),
        ErrorKind::SandboxTerminated
    );
    patiently(scene.engine.dispose()).await.unwrap();
    assert_eq!(scene.folders(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_does_not_wait_for_the_directory_but_the_engines_end_does() {
    let scene = scene().await;
    let sandbox = scene
        .start(script("seq 30000 | xargs touch; echo ready; exec sleep 1000"))
        .await;
    scene.task.wait_for_log("\nready\n").await;
    patiently(sandbox.abort()).await.unwrap();
    let error = patiently(sandbox.wait()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SandboxAborted);
    // So many files are not removed in the moment since the answer.
    assert_eq!(scene.folders().len(), 1);
    patiently(scene.engine.dispose()).await.unwrap();
    assert_eq!(scene.folders(), Vec::<String>::new());
    assert_eq!(scene.services.leases().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_forks_all_the_time_is_ended() {
    let scene = scene().await;
    let sandbox = scene
        .start(script(
            "echo ready; while true; do setsid sh -c 'while true; do sh -c : ; sleep 1000 & done' & sleep 0.01; done",
        ))
        .await;
    scene.task.wait_for_log("\nready\n").await;
    patiently(sandbox.abort()).await.unwrap();
    patiently(scene.engine.dispose()).await.unwrap();
    assert_eq!(scene.folders(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_at_any_moment_is_never_a_success() {
    for delay in 0..20_u64 {
        let scene = scene().await;
        let sandbox = scene.start(script("exit 0")).await;
        // Not to wait for anything, but to meet as many moments as possible.
        tokio::time::sleep(std::time::Duration::from_micros(delay * 300)).await;
        let killed = patiently(sandbox.kill("a test".into(), 0)).await;
        let result = patiently(sandbox.wait()).await.unwrap();
        match killed {
            Ok(()) => assert!(!result.report().success),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::SandboxTerminated);
                assert!(result.report().success);
            }
        }
        result.dispose().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_every_process() {
    let scene = scene().await;
    let sandbox = scene
        .start(script("sleep 1000 & sleep 1000 & echo ready; wait"))
        .await;
    scene.task.wait_for_log("\nready\n").await;
    let usage = sandbox.resource_usage().await.unwrap();
    assert_eq!(usage.processes, Some(3));
    assert!(usage.memory > Some(0) && usage.cpu_ms.is_some());
    patiently(sandbox.abort()).await.unwrap();
    assert_eq!(
        sandbox.resource_usage().await.unwrap_err().kind(),
        ErrorKind::SandboxTerminated
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_the_engines_own_are_leased_and_recovered() {
    let services = FakeServices::new();
    let tasks = services.root().join("tasks");
    let scene = scene_with(services, json!({ "tasksDirectory": tasks })).await;
    let sandbox = scene.start(script("pwd; echo ready; read line")).await;
    let result = patiently(sandbox.wait()).await.unwrap();
    let leases = scene.services.leases();
    assert_eq!(leases.len(), 1);
    let directory = leases.values().next().unwrap()["directory"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(scene.task.log_text().contains(&format!("\n{directory}\n")));
    result.dispose().await.unwrap();
    assert_eq!(scene.services.leases().len(), 0);
    assert!(!std::path::Path::new(&directory).exists());

    // A worker that died left a directory, and one that the journal cannot mean.
    let left = tasks.join("task_left");
    std::fs::create_dir_all(left.join("deep")).unwrap();
    let other = scene.services.root().join("other");
    std::fs::create_dir_all(&other).unwrap();
    let record = |id: &str, path: &std::path::Path| LeaseRecord {
        id: id.into(),
        schema_version: 1,
        data: json!({ "directory": path }),
    };
    let report = scene
        .engine
        .recover(vec![record("1", &left), record("2", &other)])
        .await
        .unwrap();
    assert_eq!(report.released, ["1"]);
    assert_eq!(report.messages.len(), 2);
    assert!(!left.exists() && other.exists());
}
