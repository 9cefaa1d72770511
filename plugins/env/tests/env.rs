//! Which variables a task finds, through the traits and without a host.

use std::collections::BTreeMap;
use std::sync::Arc;

use env_plugin::EnvProvider;
use tcw_abi::engine::VariableClass;
use tcw_abi::plugin::{Plugin, PluginProvider};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::testing::{FakeBuilder, FakeEngineHandle, FakeServices, FakeTask};
use tcw_abi::{ErrorKind, Result};

async fn plugin(configuration: Value) -> Result<Arc<dyn Plugin>> {
    let engine = Arc::new(FakeEngineHandle::default());
    EnvProvider
        .new_plugin(FakeServices::new().services(), engine, configuration)
        .await
}

/// Prepares and builds; answers what the builder was given.
async fn build(configuration: Value, payload: Value) -> Result<Arc<FakeBuilder>> {
    let builder = FakeBuilder::new();
    let plugin = plugin(configuration).await?;
    let task = plugin.new_task_plugin(FakeTask::new().context(), payload).await?;
    task.prepare().await?;
    task.build_sandbox(builder.clone()).await?;
    task.dispose().await?;
    Ok(builder)
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .map(|(name, value)| (name.into(), value.into()))
        .into_iter()
        .collect()
}

fn always() -> BTreeMap<String, String> {
    map([
        ("RUN_ID", "0"),
        ("TASKCLUSTER_ROOT_URL", "https://tc.example.com"),
        ("TASKCLUSTER_WORKER_GROUP", "group"),
        ("TASKCLUSTER_WORKER_POOL", "test/pool"),
        ("TASK_GROUP_ID", "fN1SbArXTPSVFNUvaOlinQ"),
        ("TASK_ID", "fN1SbArXTPSVFNUvaOlinQ"),
    ])
}

#[tokio::test]
async fn a_task_finds_its_own_the_operators_and_the_workers_variables() {
    let builder = build(
        json!({ "extra": { "REGION": "north", "LANG": "C.UTF-8" } }),
        json!({ "env": { "A": "1", "EMPTY": "", "LANG": "de" } }),
    )
    .await
    .unwrap();

    assert_eq!(
        builder.variables(VariableClass::Payload),
        map([("A", "1"), ("EMPTY", ""), ("LANG", "de")])
    );
    assert_eq!(
        builder.variables(VariableClass::Default),
        map([("REGION", "north")])
    );
    assert_eq!(builder.variables(VariableClass::Forced), always());
}

#[tokio::test]
async fn without_a_payload_the_worker_still_sets_its_variables() {
    for payload in [Value::Null, json!({})] {
        let builder = build(json!({}), payload).await.unwrap();
        assert_eq!(builder.variables(VariableClass::Payload), map([]));
        assert_eq!(builder.variables(VariableClass::Forced), always());
    }
}

#[tokio::test]
async fn what_the_worker_guarantees_wins_silently() {
    let builder = build(json!({}), json!({ "env": { "TASK_ID": "forged", "B": "2" } }))
        .await
        .unwrap();
    assert_eq!(builder.variables(VariableClass::Payload), map([("B", "2")]));
    assert_eq!(builder.variables(VariableClass::Forced), always());
}

#[tokio::test]
async fn names_that_cannot_be_are_malformed_before_anything_is_built_and_are_all_named() {
    let error = build(
        json!({}),
        json!({ "env": { "A=B": "1", "": "2", "C": "x\0y", "D": "fine" } }),
    )
    .await
    .err()
    .unwrap();
    assert_eq!(error.kind(), ErrorKind::MalformedPayload);
    assert_eq!(
        error.message(),
        "payload key env: a variable needs a name\n\
         payload key env: \"A=B\" cannot be the name of a variable: it contains '=' or NUL\n\
         payload key env: the value of \"C\" contains NUL, which would end it early"
    );
}

#[tokio::test]
async fn what_the_engine_refuses_is_named_for_the_author() {
    let error = build(json!({}), json!({ "env": { "A B": "1" } }))
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::MalformedPayload);
    assert_eq!(
        error.message(),
        "payload key env: the variable \"A B\" cannot be set: 'A B' cannot be the name of a variable"
    );
}

#[tokio::test]
async fn a_name_that_another_part_took_in_the_payloads_class_is_the_authors_to_change() {
    let builder = FakeBuilder::new();
    let taken = tcw_abi::engine::SandboxBuilder::set_environment_variable(
        builder.as_ref(),
        "A".into(),
        "theirs".into(),
        VariableClass::Payload,
    );
    taken.await.unwrap();
    let plugin = plugin(json!({})).await.unwrap();
    let task = plugin
        .new_task_plugin(FakeTask::new().context(), json!({ "env": { "A": "ours" } }))
        .await
        .unwrap();
    let error = task.build_sandbox(builder.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MalformedPayload);
    assert_eq!(
        error.message(),
        "payload key env: the variable \"A\" cannot be set: the variable A is set already"
    );
}

#[tokio::test]
async fn a_configuration_that_would_fail_every_task_stops_the_worker() {
    let error = plugin(json!({ "extra": { "A=B": "1" } })).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FatalInternal);
    assert_eq!(
        error.message(),
        "plugins.env.extra in the worker's configuration: \"A=B\" cannot be the name of a variable: it contains '=' or NUL"
    );
}

#[tokio::test]
async fn the_documentation_names_the_operators_variables_but_not_their_values() {
    let plugin = plugin(json!({ "extra": { "REGION": "north-7" } })).await.unwrap();
    let section = plugin.description().documentation.remove(0);
    assert!(section.content.contains("- `REGION`"), "{}", section.content);
    assert!(!section.content.contains("north-7"), "{}", section.content);
}
