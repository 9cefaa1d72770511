//! The publication of the log, through the traits and without a host.

use std::sync::Arc;

use task_log_plugin::TaskLogProvider;
use tcw_abi::engine::{EngineDescription, feature};
use tcw_abi::plugin::{ExceptionReason, PluginProvider, TaskPlugin};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{ArtifactPointer, ArtifactUpload, ClosedLogInfo, ContentEncoding};
use tcw_abi::testing::{FakeArtifact, FakeEngineHandle, FakeServices, FakeTask};
use tcw_abi::{Error, ErrorKind};

const LIVE: &str = "public/logs/live.log";
const BACKING: &str = "public/logs/live_backing.log";

async fn hooks_in(dialect: &str, task: &Arc<FakeTask>, payload: Value) -> Arc<dyn TaskPlugin> {
    let engine = FakeEngineHandle(EngineDescription {
        features: vec![dialect.into()],
        ..EngineDescription::default()
    });
    let plugin = TaskLogProvider
        .new_plugin(FakeServices::new().services(), Arc::new(engine), json!({}))
        .await
        .unwrap();
    plugin.new_task_plugin(task.context(), payload).await.unwrap()
}

async fn hooks(task: &Arc<FakeTask>, payload: Value) -> Arc<dyn TaskPlugin> {
    hooks_in(feature::DIALECT_GENERIC_WORKER, task, payload).await
}

/// A task whose log says `hello` and is closed.
async fn ended(complete: bool) -> Arc<FakeTask> {
    let task = FakeTask::new();
    task.context().log("hello").await.unwrap();
    task.close_log(ClosedLogInfo {
        content_encoding: "gzip".into(),
        encoded_length: 3,
        length: 7,
        complete,
    });
    task
}

const TEXT: &[u8] = b"[taskcluster 2026-01-01T00:00:00.000Z] hello\n";

fn log_named(name: &str) -> FakeArtifact {
    FakeArtifact {
        upload: ArtifactUpload {
            name: name.into(),
            content_type: "text/plain; charset=utf-8".into(),
            content_encoding: ContentEncoding::Gzip,
            already_encoded: true,
            expires: None,
        },
        content: TEXT.into(),
    }
}

fn link(name: &str, artifact: &str) -> ArtifactPointer {
    ArtifactPointer::Link {
        name: name.into(),
        artifact: artifact.into(),
        content_type: Some("text/plain; charset=utf-8".into()),
        expires: None,
    }
}

#[tokio::test]
async fn a_finished_task_has_its_log_and_a_link_to_it() {
    for payload in [
        Value::Null,
        json!({}),
        json!({ "features": { "backingLog": true } }),
    ] {
        let task = ended(true).await;
        hooks(&task, payload).await.finished(true).await.unwrap();
        assert_eq!(task.uploads(), [log_named(BACKING)]);
        assert_eq!(task.pointers(), [link(LIVE, BACKING)]);
    }
}

#[tokio::test]
async fn so_has_one_that_ended_early() {
    let task = ended(true).await;
    let hooks = hooks(&task, Value::Null).await;
    hooks.exception(ExceptionReason::MalformedPayload).await.unwrap();
    assert_eq!(task.uploads(), [log_named(BACKING)]);
    assert_eq!(task.pointers(), [link(LIVE, BACKING)]);
}

#[tokio::test]
async fn a_task_chooses_the_names() {
    let task = ended(true).await;
    let payload = json!({ "logs": { "live": "private/now.log", "backing": "private/then.log" } });
    let hooks = hooks(&task, payload).await;
    hooks.prepare().await.unwrap();
    hooks.finished(false).await.unwrap();
    assert_eq!(task.uploads()[0].upload.name, "private/then.log");
    assert_eq!(task.pointers(), [link("private/now.log", "private/then.log")]);
}

#[tokio::test]
async fn names_that_cannot_be_are_malformed_and_the_log_is_still_published() {
    for (logs, message) in [
        (
            json!({ "live": BACKING }),
            "payload keys logs.live and logs.backing: the log and the link to it cannot both be named \"public/logs/live_backing.log\"",
        ),
        (
            json!({ "backing": "public/../x" }),
            "payload key logs.backing: \"public/../x\" cannot be the name of an artifact: between slashes, and before the first and after the last, something other than '.' and '..' has to stand",
        ),
        (
            json!({ "live": "/x" }),
            "payload key logs.live: \"/x\" cannot be the name of an artifact: between slashes, and before the first and after the last, something other than '.' and '..' has to stand",
        ),
        (
            json!({ "live": "Bücher" }),
            "payload key logs.live: \"Bücher\" cannot be the name of an artifact: it has to be printable ASCII",
        ),
    ] {
        let task = ended(true).await;
        let hooks = hooks(&task, json!({ "logs": logs })).await;
        assert_eq!(hooks.prepare().await, Err(Error::malformed(message)));
        hooks.exception(ExceptionReason::MalformedPayload).await.unwrap();
        assert_eq!(task.pointers(), [link(LIVE, BACKING)]);
    }
}

#[tokio::test]
async fn a_task_can_do_without() {
    let task = ended(false).await;
    let hooks = hooks(&task, json!({ "features": { "backingLog": false } })).await;
    hooks.finished(true).await.unwrap();
    hooks.exception(ExceptionReason::WorkerShutdown).await.unwrap();
    assert_eq!((task.uploads(), task.pointers()), (vec![], vec![]));
}

#[tokio::test]
async fn an_incomplete_log_is_published_and_not_passed_over() {
    let task = ended(false).await;
    let error = hooks(&task, json!({})).await.finished(true).await.unwrap_err();
    assert_eq!(
        error,
        Error::new(
            ErrorKind::ResourceUnavailable,
            "the task log \"public/logs/live_backing.log\" is incomplete: it holds 7 bytes, and the task wrote more; the disk was full or the log reached the worker's bound"
        )
    );
    assert_eq!(task.uploads().len(), 1);
    assert_eq!(task.pointers(), [link(LIVE, BACKING)]);
}

#[tokio::test]
async fn a_refused_log_is_an_error_without_a_link_that_leads_nowhere() {
    let task = ended(true).await;
    task.refuse_artifacts(Error::new(ErrorKind::ResourceUnavailable, "503"));
    let hooks = hooks(&task, json!({})).await;
    let refused = Err(Error::new(
        ErrorKind::ResourceUnavailable,
        "the task log cannot be published as \"public/logs/live_backing.log\": 503",
    ));
    assert_eq!(hooks.finished(true).await, refused);
    assert_eq!(hooks.exception(ExceptionReason::WorkerShutdown).await, refused);
    assert_eq!(hooks.exception(ExceptionReason::Cancelled).await, Ok(()));
    assert_eq!(task.pointers(), []);
}

#[tokio::test]
async fn docker_workers_payload_names_one_log() {
    for (payload, names) in [
        (Value::Null, Some((LIVE, BACKING))),
        (
            json!({ "log": "public/build.log" }),
            Some(("public/build.log", "public/build_backing.log")),
        ),
        (json!({ "features": { "bulkLog": false } }), None),
        (json!({ "features": { "artifacts": false } }), None),
    ] {
        let task = ended(true).await;
        let hooks = hooks_in(feature::DIALECT_DOCKER_WORKER, &task, payload).await;
        hooks.prepare().await.unwrap();
        hooks.finished(true).await.unwrap();
        let expected: Vec<_> = names.iter().map(|(live, backing)| link(live, backing)).collect();
        assert_eq!(task.pointers(), expected);
        assert_eq!(task.uploads().len(), expected.len());
    }
}
