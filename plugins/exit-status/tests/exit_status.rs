//! What an exit status means, through the traits and without a host.

use std::sync::Arc;

use exit_status_plugin::ExitStatusProvider;
use tcw_abi::engine::Report;
use tcw_abi::plugin::PluginProvider;
use tcw_abi::serde_json::{Value, json};
use tcw_abi::testing::{FakeEngineHandle, FakeResult, FakeServices, FakeTask};
use tcw_abi::{Error, ErrorKind, Result};

async fn stopped(payload: Value, exit_code: Option<i32>) -> Result<bool> {
    let engine = Arc::new(FakeEngineHandle::default());
    let plugin = ExitStatusProvider
        .new_plugin(FakeServices::new().services(), engine, json!({}))
        .await?;
    let task = FakeTask::new();
    let hooks = plugin.new_task_plugin(task.context(), payload).await?;
    let report = Report {
        exit_code,
        success: exit_code == Some(0),
        ..Report::default()
    };
    let verdict = hooks.stopped(FakeResult::new(report)).await;
    hooks.dispose().await?;
    assert_eq!(task.log_lines(), [], "the host says it, once");
    verdict
}

fn again(code: i32) -> Result<bool> {
    Err(Error::new(
        ErrorKind::IntermittentTask,
        format!(
            "The command ended with exit status {code}, which payload.onExitStatus.retry lists: the task is to be run again"
        ),
    ))
}

#[tokio::test]
async fn a_listed_exit_status_asks_for_another_run() {
    let payload = json!({ "onExitStatus": { "retry": [4, 75.0], "purgeCaches": [1] } });
    assert_eq!(stopped(payload.clone(), Some(4)).await, again(4));
    assert_eq!(stopped(payload, Some(75)).await, again(75));
}

#[tokio::test]
async fn any_other_end_is_the_engines_to_judge() {
    for payload in [
        Value::Null,
        json!({}),
        json!({ "onExitStatus": {} }),
        json!({ "onExitStatus": { "retry": [] } }),
        json!({ "onExitStatus": { "retry": [4], "purgeCaches": [1] } }),
    ] {
        for exit_code in [Some(0), Some(1), Some(-1), None] {
            assert_eq!(stopped(payload.clone(), exit_code).await, Ok(true));
        }
    }
}
