//! A worker that cannot have another thread, as beside a task that has made too many processes.

#[path = "../native/processes.rs"]
mod processes;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../native/scene.rs"]
mod scene;

use processes::{all_dead, numbers};
use scene::{patiently, scene, script};
use tcw_abi::engine::ShellRequest;

#[test]
fn ending_a_task_needs_no_new_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    // For the whole process, so this test has one of its own.
    assert!(tcw_abi::runtime::adopt(runtime.handle().clone()));
    runtime.block_on(async {
        let scene = scene().await;
        let sandbox = scene
            .start(script("sleep 1000 & echo sleeper $!; echo ready; wait"))
            .await;
        scene.task.wait_for_log("\nready\n").await;
        let request = ShellRequest {
            command: vec!["sleep".to_owned(), "1000".to_owned()],
            ..ShellRequest::default()
        };
        let open = sandbox.new_shell(request).await.unwrap();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let taken = tokio::task::spawn_blocking(move || released.recv());
        patiently(open.shell.abort()).await.unwrap();
        patiently(sandbox.kill("a test".into(), 10)).await.unwrap();
        assert!(all_dead(&numbers(&scene.task.log_text(), "sleeper ")));
        drop(release);
        assert!(taken.await.unwrap().is_err());
        patiently(sandbox.wait()).await.unwrap().dispose().await.unwrap();
    });
}
