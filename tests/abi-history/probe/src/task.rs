//! One task, as the worker drives it: every stage once, and what each answered.

use std::io::Read;
use std::sync::Arc;

use serde_json::json;
use tcw_abi::Result;
use tcw_abi::plugin::ExceptionReason;
use tcw_abi::services::TaskContext;

use crate::library::Library;
use crate::services::Host;

/// Runs one task with the engine and the plugin of `library`; `host` has the list of what happened.
pub async fn run(library: &Library, host: &Host) -> Result<()> {
    let task: Arc<dyn TaskContext> = Arc::new(host.clone());

    let engine_provider = library.root.engine_provider().await?;
    host.note(format!("configuration {}", engine_provider.description().configuration_schema));
    let engine = engine_provider.new_engine(Arc::new(host.clone()), json!({})).await?;
    let description = engine.description();
    host.note(format!("at most {:?}, {}", description.max_concurrency, description.payload_schema));
    host.note(format!("features {:?}", &description.features[2..]));
    host.note(format!("healthy {}", engine.health().await?.healthy));

    let plugin_provider = library.root.plugin_provider(0).await?;
    host.note(format!("requires {:?}", plugin_provider.description().requires));
    let plugin = plugin_provider
        .new_plugin(Arc::new(host.clone()), Arc::new(host.clone()), json!({}))
        .await?;
    plugin.report_idle(std::time::Duration::from_secs(1)).await?;
    let hooks = plugin.new_task_plugin(task.clone(), json!({ "greet": "Ada" })).await?;

    let refused = engine.new_sandbox_builder(task.clone(), json!({ "said": 1 })).await.map(drop);
    host.note(format!("malformed {refused:?}"));
    let builder = engine.new_sandbox_builder(task, json!({ "say": "hello" })).await?;
    let (prepared, built) = tokio::join!(hooks.prepare(), hooks.build_sandbox(Arc::clone(&builder)));
    prepared.and(built)?;
    let sandbox = builder.start().await?;
    host.note(format!("shell {:?}", sandbox.description().default_shell));
    hooks.started(Arc::clone(&sandbox)).await?;
    let result = sandbox.wait().await?;
    host.note(format!("exit code {:?}", result.report().exit_code));
    host.note(format!("displays {:?}", sandbox.list_displays().await.map_err(|error| error.kind())));
    host.note(format!("a panic {:?}", sandbox.abort().await.map_err(|error| error.kind())));

    let folder = result.extract_folder("/".into()).await?;
    while let Some(file) = folder.next().await? {
        let mut text = String::new();
        file.content.into_file().read_to_string(&mut text)?;
        host.note(format!("file {} {text:?}", file.info.path));
    }
    host.note(format!("stopped {}", hooks.stopped(Arc::clone(&result)).await?));
    hooks.finished(true).await?;
    hooks.exception(ExceptionReason::WorkerShutdown).await?;

    // next: let answers = [engine_provider.since_next().await?, engine.since_next().await?, builder.since_next().await?, sandbox.since_next().await?, result.since_next().await?, folder.since_next().await?, plugin_provider.since_next().await?, plugin.since_next().await?, hooks.since_next().await?];
    // next: for answer in answers { host.note(format!("since next: {answer}")); }
    // next: host.note(format!("the appended field: {:?}", library.root.since_next()));

    hooks.dispose().await?;
    result.dispose().await?;
    plugin.dispose().await?;
    engine.dispose().await
}
