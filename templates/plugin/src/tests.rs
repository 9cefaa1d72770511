use std::collections::BTreeMap;
use std::sync::Arc;

use tcw_abi::engine::VariableClass;
use tcw_abi::plugin::{Plugin, PluginProvider};
use tcw_abi::serde_json::json;
use tcw_abi::testing::{FakeBuilder, FakeEngineHandle, FakeServices, FakeTask};

use crate::GreetingProvider;

async fn plugin(word: &str) -> Arc<dyn Plugin> {
    let engine = Arc::new(FakeEngineHandle::default());
    let configuration = json!({ "word": word });
    GreetingProvider.new_plugin(FakeServices::new().services(), engine, configuration).await.unwrap()
}

#[tokio::test]
async fn the_one_named_is_greeted_in_the_environment_and_in_the_log() {
    let (task, builder) = (FakeTask::new(), FakeBuilder::new());
    let part = plugin("Hello").await.new_task_plugin(task.context(), json!({ "greet": "Ada" })).await.unwrap();
    part.build_sandbox(builder.clone()).await.unwrap();

    let expected = BTreeMap::from([("GREETING".to_owned(), "Hello, Ada".to_owned())]);
    assert_eq!(builder.variables(VariableClass::Payload), expected);
    assert!(task.log_text().contains("This task is greeted: Hello, Ada"));
}

#[tokio::test]
async fn nobody_is_greeted_unasked() {
    let (task, builder) = (FakeTask::new(), FakeBuilder::new());
    let part = plugin("Hello").await.new_task_plugin(task.context(), json!({})).await.unwrap();
    part.build_sandbox(builder.clone()).await.unwrap();

    assert_eq!(builder.variables(VariableClass::Payload), BTreeMap::new());
    assert_eq!(task.log_text(), "");
}
