//! Tasks whose time is over, and tasks whose is not, through the traits and without a host.

use std::sync::Arc;

use max_run_time_plugin::MaxRunTimeProvider;
use tcw_abi::engine::{Report, Sandbox};
use tcw_abi::plugin::{ExceptionReason, Plugin, PluginProvider, TaskPlugin};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::LogLevel;
use tcw_abi::testing::{FakeEngineHandle, FakeResult, FakeSandbox, FakeServices, FakeTask};

async fn plugin(configuration: Value) -> Arc<dyn Plugin> {
    let engine = Arc::new(FakeEngineHandle::default());
    MaxRunTimeProvider
        .new_plugin(FakeServices::new().services(), engine, configuration)
        .await
        .unwrap()
}

struct Scene {
    task: Arc<FakeTask>,
    hooks: Arc<dyn TaskPlugin>,
    sandbox: Arc<FakeSandbox>,
}

/// A task that has just started.
async fn running(configuration: Value, payload: Value) -> Scene {
    let task = FakeTask::new();
    let plugin = plugin(configuration).await;
    let hooks = plugin.new_task_plugin(task.context(), payload).await.unwrap();
    let sandbox = FakeSandbox::new();
    hooks.prepare().await.unwrap();
    hooks.started(sandbox.clone()).await.unwrap();
    Scene { task, hooks, sandbox }
}

impl Scene {
    async fn stopped(&self) -> bool {
        let report = Report {
            success: true,
            ..Report::default()
        };
        self.hooks.stopped(FakeResult::new(report)).await.unwrap()
    }

    /// Whether anything is left that could kill the sandbox.
    fn is_let_go(&self) -> bool {
        Arc::strong_count(&self.sandbox) == 1
    }
}

const REASON: &str = "Task aborted - max run time exceeded";

#[tokio::test]
async fn a_task_whose_time_is_over_is_killed_and_has_failed() {
    let scene = running(json!({}), json!({ "maxRunTime": 1 })).await;
    scene.sandbox.wait().await.unwrap();

    assert_eq!(scene.sandbox.killed().as_deref(), Some(REASON));
    assert_eq!(scene.task.log_lines(), [(LogLevel::Error, REASON.to_owned())]);
    assert!(!scene.stopped().await);
    assert!(scene.is_let_go());
    scene.hooks.finished(false).await.unwrap();
    scene.hooks.dispose().await.unwrap();
}

#[tokio::test]
async fn the_workers_bound_holds_for_a_task_that_says_nothing() {
    let scene = running(json!({ "maxRunTime": 1, "required": false }), json!({})).await;
    scene.sandbox.wait().await.unwrap();
    assert!(!scene.stopped().await);
}

#[tokio::test]
async fn a_task_that_ends_in_time_is_not_touched_and_nothing_is_left_of_the_timer() {
    let scene = running(json!({}), json!({ "maxRunTime": 3600.0 })).await;
    assert!(!scene.is_let_go(), "the timer holds the sandbox while it runs");

    assert!(scene.stopped().await);

    assert!(scene.is_let_go());
    assert_eq!(scene.sandbox.killed(), None);
    assert_eq!(scene.task.log_lines(), []);
    assert!(scene.stopped().await, "asked again, it says the same");
}

#[tokio::test]
async fn an_exception_and_a_disposal_stop_the_timer() {
    let scene = running(json!({}), json!({ "maxRunTime": 3600 })).await;
    scene.hooks.exception(ExceptionReason::Cancelled).await.unwrap();
    assert!(scene.is_let_go());
    scene.hooks.dispose().await.unwrap();

    let scene = running(json!({}), json!({ "maxRunTime": 3600 })).await;
    scene.hooks.dispose().await.unwrap();
    assert!(scene.is_let_go());
    assert_eq!(scene.sandbox.killed(), None);
}

#[tokio::test]
async fn a_task_that_ended_by_itself_as_its_time_was_over_still_hears_why_it_failed() {
    let scene = running(json!({}), json!({ "maxRunTime": 1 })).await;
    scene.sandbox.kill("somebody was faster".into(), 0).await.unwrap();
    scene.task.wait_for_log(REASON).await;
    assert!(!scene.stopped().await);
    assert!(scene.is_let_go());
}

#[tokio::test]
async fn without_a_payload_there_is_no_timer() {
    let scene = running(json!({}), Value::Null).await;
    assert!(scene.is_let_go());
    scene
        .hooks
        .exception(ExceptionReason::MalformedPayload)
        .await
        .unwrap();
    scene.hooks.dispose().await.unwrap();
}

#[tokio::test]
async fn the_queue_can_refuse_what_the_worker_would_not_run() {
    let description = plugin(json!({ "maxRunTime": 300 })).await.description();
    let schema = &description.payload_schema;
    assert_eq!(schema["properties"]["maxRunTime"]["minimum"], json!(1));
    assert_eq!(schema["properties"]["maxRunTime"]["maximum"], json!(300));
    assert_eq!(schema["required"], json!(["maxRunTime"]));
    assert!(
        description.documentation[0]
            .content
            .contains("up to 300 on this worker")
    );

    let relaxed = plugin(json!({ "required": false })).await.description();
    assert_eq!(
        relaxed.payload_schema["properties"]["maxRunTime"]["maximum"],
        json!(86_400)
    );
    assert_eq!(relaxed.payload_schema.get("required"), None);
}
