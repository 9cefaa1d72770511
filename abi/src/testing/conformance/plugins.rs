//! What every plugin has to do, whatever it is for: get through the life of a task in each legal order.

use super::plugin_bench::{Hook, PluginBench};
use super::{Failure, PluginCase};
use crate::plugin::ExceptionReason;

macro_rules! plugin_cases {
    ($($name:literal, $about:literal, $run:path;)*) => {
        pub(super) const CASES: &[PluginCase] = &[$(PluginCase {
            name: $name,
            about: $about,
            run: |bench| Box::pin($run(bench)),
        }),*];
    };
}

plugin_cases! {
    "plugin/described", "The description's payload schema is that of an object, and keys are documented", described;
    "plugin/whole-life", "A task that succeeds, and one that fails, go through all hooks", whole_life;
    "plugin/exceptions", "An exception may come after any hook, for any reason", exceptions;
    "plugin/malformed", "A task whose payload is malformed (null) goes to its exception", malformed;
    "plugin/two-tasks", "Two tasks at one time do not wait for each other", two_tasks;
    "plugin/dispose-alone", "A task may be disposed of without any hook", dispose_alone;
    "plugin/nothing-left", "Tasks leave no folder, no lease and no open descriptor behind", nothing_left;
    "plugin/idle-and-errors", "The plugin takes word of idle times and of errors in the worker", idle_and_errors;
}

async fn described(bench: &PluginBench) -> Result<(), Failure> {
    let description = bench.description();
    let schema = &description.payload_schema;
    if !schema.is_null() {
        let kind = schema["type"].as_str();
        Failure::unless_equal("`type` of the payload schema", kind, Some("object"))?;
    }
    let empty = description
        .documentation
        .iter()
        .find(|section| section.title.trim().is_empty() || section.content.trim().is_empty());
    Failure::unless(empty.is_none(), || {
        "a section of the documentation has no title or no content".to_owned()
    })?;
    let again = bench.plugin().description();
    Failure::unless_equal("the description, asked again", &again, description)
}

/// Calls every hook up to `last`. Answers how far it got: a plugin may say that the task cannot go on.
async fn live(
    bench: &PluginBench,
    success: bool,
    last: Option<Hook>,
    exception: Option<ExceptionReason>,
) -> Result<(), Failure> {
    let life = bench.begin(false).await?;
    let mut broken = false;
    for hook in Hook::ALL
        .into_iter()
        .filter(|hook| last.is_some_and(|last| *hook <= last))
    {
        if !life.call(hook, success).await? {
            broken = true;
            break;
        }
    }
    match exception {
        Some(reason) => life.exception(reason).await?,
        None if broken => life.exception(ExceptionReason::MalformedPayload).await?,
        None => {}
    }
    life.dispose().await
}

async fn whole_life(bench: &PluginBench) -> Result<(), Failure> {
    for success in [true, false] {
        live(bench, success, Some(Hook::Finished), None).await?;
    }
    Ok(())
}

async fn exceptions(bench: &PluginBench) -> Result<(), Failure> {
    let reasons = [
        ExceptionReason::ResourceUnavailable,
        ExceptionReason::IntermittentTask,
        ExceptionReason::WorkerShutdown,
        ExceptionReason::InternalError,
        ExceptionReason::Cancelled,
        ExceptionReason::Unknown,
    ];
    let before = [
        None,
        Some(Hook::Prepare),
        Some(Hook::BuildSandbox),
        Some(Hook::Started),
        Some(Hook::Stopped),
    ];
    for last in before {
        for reason in reasons {
            live(bench, true, last, Some(reason)).await.map_err(|failure| {
                failure.context(format!("exception '{}' after {last:?}", reason.as_str()))
            })?;
        }
    }
    Ok(())
}

async fn malformed(bench: &PluginBench) -> Result<(), Failure> {
    let life = bench.begin(true).await?;
    life.exception(ExceptionReason::MalformedPayload).await?;
    life.dispose().await
}

async fn two_tasks(bench: &PluginBench) -> Result<(), Failure> {
    // One stands still in the middle while the other goes through its whole life.
    let first = bench.begin(false).await?;
    let mut goes_on = true;
    for hook in [Hook::Prepare, Hook::BuildSandbox, Hook::Started] {
        goes_on = goes_on && first.call(hook, true).await?;
    }
    live(bench, true, Some(Hook::Finished), None).await?;
    for hook in [Hook::Stopped, Hook::Finished] {
        goes_on = goes_on && first.call(hook, true).await?;
    }
    if !goes_on {
        first.exception(ExceptionReason::MalformedPayload).await?;
    }
    first.dispose().await?;
    // And both at once.
    let (one, other) = tokio::join!(
        live(bench, true, Some(Hook::Finished), None),
        live(bench, false, Some(Hook::Finished), None)
    );
    one.and(other)
}

async fn dispose_alone(bench: &PluginBench) -> Result<(), Failure> {
    for malformed in [false, true] {
        bench.begin(malformed).await?.dispose().await?;
    }
    Ok(())
}

/// Tasks of one measurement. What one of them leaves behind, all do.
const TASKS: usize = 16;

async fn nothing_left(bench: &PluginBench) -> Result<(), Failure> {
    // What is opened once and kept is no leak.
    live(bench, true, Some(Hook::Finished), None).await?;
    let before = descriptors(bench)?;
    for _ in 0..TASKS {
        live(bench, true, Some(Hook::Finished), None).await?;
    }
    let services = bench.services();
    let folders = services
        .folders()
        .map_err(|error| Failure::new(error.to_string()))?;
    Failure::unless_equal(
        "temporary folders after the tasks were disposed of",
        folders,
        Vec::new(),
    )?;
    let leases: Vec<String> = services.leases().into_keys().collect();
    Failure::unless_equal("leases after the tasks were disposed of", leases, Vec::new())?;
    let more = descriptors(bench)?.saturating_sub(before);
    Failure::unless(more < TASKS, || {
        format!("{TASKS} tasks left {more} descriptors open that were not open before")
    })
}

/// Open descriptors of this process, without those of the case's own tasks.
fn descriptors(bench: &PluginBench) -> Result<usize, Failure> {
    let open = std::fs::read_dir("/proc/self/fd").map_err(|error| Failure::new(error.to_string()))?;
    Ok(open.count().saturating_sub(bench.tasks_held()))
}

async fn idle_and_errors(bench: &PluginBench) -> Result<(), Failure> {
    let plugin = bench.plugin();
    let idle = plugin.report_idle(std::time::Duration::from_secs(1));
    bench.ok("Plugin.report_idle", idle).await?;
    let error = plugin.report_non_fatal_error();
    bench.ok("Plugin.report_non_fatal_error", error).await
}
