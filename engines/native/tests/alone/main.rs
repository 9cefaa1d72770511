//! What a task costs the worker's own process: descriptors. The tests count or bound what the whole process has, so they run one at a time and apart from the others.

#[path = "../native/processes.rs"]
mod processes;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../native/scene.rs"]
mod scene;

use std::time::{Duration, Instant};

use processes::{all_dead, numbers};
use rustix::process::{Resource, Rlimit};
use scene::{patiently, scene, script};
use tcw_abi::engine::ShellRequest;
use tokio::sync::Mutex;

static ALONE: Mutex<()> = Mutex::const_new(());

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until `condition` holds, for what happens soon and tells nobody.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_nobody_gets_is_ended() {
    let _alone = ALONE.lock().await;
    let scene = scene().await;
    let sandbox = scene
        .start(script(
            "echo ready; while [ ! -e stop ]; do sleep 0.01; done; cat shells",
        ))
        .await;
    scene.task.wait_for_log("\nready\n").await;
    // One first, because the count is of what there is once everything has been in use.
    let first = ShellRequest {
        command: vec!["true".to_owned()],
        ..ShellRequest::default()
    };
    let open = sandbox.new_shell(first).await.unwrap();
    assert_eq!(patiently(open.shell.wait()).await, Ok(true));
    drop(open);
    let before = descriptors();
    for step in 0..60_u64 {
        let request = ShellRequest {
            command: ["/bin/sh", "-c", "echo shell $$ >> shells; exec sleep 1000"]
                .map(str::to_owned)
                .to_vec(),
            tty: step % 2 == 0,
            ..ShellRequest::default()
        };
        // To be dropped at as many moments as possible, the last ones after the shell was handed over.
        let opening = tokio::time::timeout(Duration::from_micros(step * 100), sandbox.new_shell(request));
        drop(opening.await);
    }
    until("descriptors are left", || descriptors() <= before).await;
    let last = ShellRequest {
        command: ["/bin/sh", "-c", "touch stop shells"].map(str::to_owned).to_vec(),
        ..ShellRequest::default()
    };
    let open = sandbox.new_shell(last).await.unwrap();
    assert_eq!(patiently(open.shell.wait()).await, Ok(true));
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(result.report().success);
    assert!(all_dead(&numbers(&scene.task.log_text(), "shell ")));
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_processes_than_descriptors_are_ended() {
    let _alone = ALONE.lock().await;
    for grace in [0, 5_000] {
        let scene = scene().await;
        let sandbox = scene
            .start(script(
                "i=0; while [ $i -lt 600 ]; do sleep 1000 & echo sleeper $!; i=$((i+1)); done; echo ready; wait",
            ))
            .await;
        scene.task.wait_for_log("\nready\n").await;
        let limits = rustix::process::getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(400),
            ..limits
        };
        rustix::process::setrlimit(Resource::Nofile, few).unwrap();
        let killed = patiently(sandbox.kill("a test".into(), grace)).await;
        rustix::process::setrlimit(Resource::Nofile, limits).unwrap();
        killed.unwrap();
        let sleepers = numbers(&scene.task.log_text(), "sleeper ");
        assert!(sleepers.len() == 600 && all_dead(&sleepers));
        patiently(sandbox.wait()).await.unwrap().dispose().await.unwrap();
    }
}
