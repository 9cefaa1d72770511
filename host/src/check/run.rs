//! The process that opens the library and runs one case, or says what the library is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;
use tcw_abi::engine::EngineDescription;
use tcw_abi::services::Services;
use tcw_abi::testing::conformance::{self, Drive, Failure, Setting, Validate};
use tcw_abi::testing::{FakeEngineHandle, FakeServices};

use super::job::{Answer, Described, EngineSaid, Job, Outcome, Place, PluginSaid, Task};
use crate::library::{Diagnostics, Library, Loader};
use crate::schema::ObjectSchema;

/// Runs stage `stage` of the case whose directory is `directory`, and writes the result there. A stage that is not the
/// last does not return.
pub async fn run(directory: &Path, stage: usize) -> io::Result<()> {
    // Nothing here may survive the supervisor, which alone knows what is below.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let place = Place::new(directory.to_owned());
    let job = place.job()?;
    let drive: Drive = serde_json::from_value(job.drive.clone())?;
    let loader = Loader::new(&job.state, Diagnostics::start());
    let path = job.library.clone();
    let loaded = tokio::task::spawn_blocking(move || loader.load(&path)).await?;
    let result = match (&job.task, loaded) {
        (Task::Describe, Err(error)) => {
            place.write("described", &Answer::Unloadable(error.to_string()))?;
            Outcome::Passed
        }
        (Task::Describe, Ok(library)) => {
            let answer = match describe(&library, &drive, &place).await {
                Ok(described) => Answer::Loaded(described),
                Err(error) => {
                    let path = job.library.display();
                    Answer::Unloadable(format!(
                        "{path}: it does not provide what its manifest says: {error}"
                    ))
                }
            };
            place.write("described", &answer)?;
            Outcome::Passed
        }
        (_, Err(error)) => Outcome::Failed(error.to_string()),
        (_, Ok(library)) => match run_case(&job, &place, &library, drive, stage).await {
            Ok(()) => Outcome::Passed,
            Err(failure) => outcome(&failure),
        },
    };
    let passed = result == Outcome::Passed;
    place.write(&format!("result-{stage}"), &result)?;
    if passed && stage + 1 < job.stages {
        // As by a power loss: nothing is unwound, no destructor runs.
        kill_process(getpid(), Signal::KILL)?;
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn outcome(failure: &Failure) -> Outcome {
    if failure.applies() {
        Outcome::Failed(failure.to_string())
    } else {
        Outcome::NotApplicable(failure.to_string())
    }
}

async fn describe(library: &Library, drive: &Drive, place: &Place) -> Result<Described, tcw_abi::Error> {
    let services = FakeServices::within(&place.files())?.services();
    let engine = match library.manifest.engine {
        true => Some(describe_engine(library, drive, &services).await?),
        false => None,
    };
    let mut plugins = Vec::new();
    for (index, name) in (0..).zip(&library.manifest.plugins) {
        plugins.push(describe_plugin(library, index, name, drive, &services).await?);
    }
    Ok(Described {
        name: library.manifest.name.clone(),
        engine,
        plugins,
    })
}

async fn describe_engine(
    library: &Library,
    drive: &Drive,
    services: &Arc<dyn Services>,
) -> Result<EngineSaid, tcw_abi::Error> {
    let provider = library.root.engine_provider().await?;
    let configuration_schema = provider.description().configuration_schema;
    let made = async {
        validate(&configuration_schema, &drive.engine)
            .map_err(|error| tcw_abi::Error::malformed(format!("`engine` in the check file: {error}")))?;
        let engine = provider
            .new_engine(Arc::clone(services), or_object(&drive.engine))
            .await?;
        let description = engine.description();
        engine.dispose().await?;
        to_value(&description)
    };
    Ok(EngineSaid {
        description: made
            .await
            .map_err(|error: tcw_abi::Error| format!("the engine cannot be made: {error}")),
        configuration_schema,
    })
}

async fn describe_plugin(
    library: &Library,
    index: u32,
    name: &str,
    drive: &Drive,
    services: &Arc<dyn Services>,
) -> Result<PluginSaid, tcw_abi::Error> {
    let provider = library.root.plugin_provider(index).await?;
    let said = provider.description();
    let drive = drive.plugins.get(name).cloned().unwrap_or_default();
    let made = async {
        let engine = Arc::new(FakeEngineHandle(EngineDescription {
            features: drive.features(&said),
            ..EngineDescription::default()
        }));
        let plugin = provider
            .new_plugin(Arc::clone(services), engine, or_object(&drive.configuration))
            .await?;
        let description = plugin.description();
        plugin.dispose().await?;
        to_value(&description)
    };
    Ok(PluginSaid {
        name: name.to_owned(),
        description: made
            .await
            .map_err(|error: tcw_abi::Error| format!("the plugin cannot be made: {error}")),
        provider: to_value(&said)?,
    })
}

fn to_value(value: &impl serde::Serialize) -> Result<Value, tcw_abi::Error> {
    serde_json::to_value(value).map_err(|error| tcw_abi::Error::internal(error.to_string()))
}

fn or_object(value: &Value) -> Value {
    match value {
        Value::Null => Value::Object(serde_json::Map::new()),
        given => given.clone(),
    }
}

async fn run_case(
    job: &Job,
    place: &Place,
    library: &Library,
    drive: Drive,
    stage: usize,
) -> Result<(), Failure> {
    let steps = place.step();
    let early = place.clone();
    let setting = Setting {
        drive,
        directory: place.files(),
        on_step: Box::new(move |step| {
            // Only for people who look for the reason of a hang.
            let _ = std::fs::write(&steps, step);
        }),
        on_failure: Box::new(move |failure| {
            // The supervisor says what it finds; without this it would only know of the hang that follows.
            let _ = early.write(&format!("result-{stage}"), &outcome(failure));
        }),
        validate: Some(Arc::new(validate) as Validate),
    };
    let provided = |error: tcw_abi::Error| Failure::new(format!("the library does not provide it: {error}"));
    match &job.task {
        Task::Describe => Err(Failure::new("a description is no case")),
        Task::Engine { case: name } => {
            let case = conformance::cases().find(|case| case.name == name);
            let case = case.ok_or_else(|| Failure::new(format!("there is no case {name}")))?;
            let provider = library.root.engine_provider().await.map_err(provided)?;
            conformance::run_engine_case(case, stage, provider, setting).await
        }
        Task::Plugin { case: name, plugin } => {
            let case = conformance::plugin_cases().find(|case| case.name == name);
            let case = case.ok_or_else(|| Failure::new(format!("there is no case {name}")))?;
            let names = &library.manifest.plugins;
            let index = names.iter().position(|name| name == plugin);
            let index = index.and_then(|index| u32::try_from(index).ok());
            let index = index.ok_or_else(|| Failure::new(format!("there is no plugin {plugin}")))?;
            let provider = library.root.plugin_provider(index).await.map_err(provided)?;
            conformance::run_plugin_case(case, plugin, provider, setting).await
        }
    }
}

fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    let compiled = ObjectSchema::compile("", schema)
        .map_err(|(path, message)| format!("the schema is not valid at {path}: {message}"))?;
    compiled.validate(value).map_err(|violations| {
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })
}
