//! From libraries and configuration to what tasks run with.
//!
//! The engine's library is required; a plugin's library that is refused, a plugin that the engine cannot serve and a
//! plugin that does not start are left out, visibly, unless the configuration marks the library as required. What the
//! composed payload schema cannot be made of stops the worker: that is known before the first task.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tcw_abi::engine::Section;
use tcw_abi::manifest::Manifest;
use tcw_abi::plugin::PluginProvider;

use crate::config::Config;
use crate::library::inspect::inspect_file;
use crate::library::{Library, LibraryError, Loader, find};
use crate::schema::{
    Clash, EngineFragment, ObjectSchema, PayloadSchema, PluginFragment, Provider, ProviderKind, Violation,
};
use crate::services::engine_handle::PluginEngine;
use crate::services::worker::WorkerServices;
use crate::task::{EngineSlot, PayloadCheck, PayloadParts, PluginSlot};

/// Engine, plugins, and the payload schema that they make together.
pub struct Assembly {
    /// What tasks run in.
    pub engine: EngineSlot,
    /// What tasks can ask for.
    pub plugins: Vec<PluginSlot>,
    /// What a payload may hold.
    pub schema: Arc<PayloadSchema>,
    /// The libraries in use, the engine's first.
    pub libraries: Vec<Library>,
    /// Libraries that were refused, and plugins that did not start: for the operator.
    pub refused: Vec<String>,
}

impl Assembly {
    /// What the engine and the plugins say to the authors of tasks, with their names.
    pub fn documentation(&self) -> Vec<(String, Vec<Section>)> {
        let engine = (
            format!("Engine {}", self.engine.name),
            self.engine.description.documentation.clone(),
        );
        let plugins = self.plugins.iter().map(|plugin| {
            (
                format!("Plugin {}", plugin.name),
                plugin.description.documentation.clone(),
            )
        });
        std::iter::once(engine)
            .chain(plugins)
            .filter(|(_, sections)| !sections.is_empty())
            .collect()
    }
}

/// Why there is nothing that tasks could run with.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// No engine was named.
    #[error(
        "no engine is given: add --engine ./libnative_engine.so, or `libraries: {{engine: ...}}` in the configuration"
    )]
    NoEngine,
    /// A library that is required was refused.
    #[error("{0}")]
    Library(#[from] LibraryError),
    /// The file is a library, but not an engine's.
    #[error("{}: the library '{name}' provides no engine, only {provides}\n  give an engine's library with --engine, and this one with --plugins", path.display())]
    NotAnEngine {
        /// Which.
        path: PathBuf,
        /// Its name.
        name: String,
        /// What it provides.
        provides: String,
    },
    /// Opening a library does not end. The process cannot end in an orderly way either: see
    /// [`library::leave`](crate::library::leave).
    #[error(
        "{}: opening it takes longer than {} s: a constructor in it blocks\n  take it out, get a build from its vendor \
         that does nothing when it is opened, or raise `libraries.startTimeout`",
        path.display(),
        bound.as_secs_f64()
    )]
    Blocks {
        /// Which.
        path: PathBuf,
        /// How long it was waited for.
        bound: Duration,
    },
    /// A configuration does not fit.
    #[error("the configuration of {provider} does not fit:\n{}", lines(violations))]
    Configuration {
        /// Whose.
        provider: Provider,
        /// What is wrong with it.
        violations: Vec<Violation>,
    },
    /// A plugin is configured that is not there.
    #[error(
        "the configuration names {}, and no library provides that; there are: {known}. Take it out, or add its library to --plugins",
        list(unknown)
    )]
    UnknownPlugins {
        /// Names.
        unknown: Vec<String>,
        /// Names that would be right.
        known: String,
    },
    /// A provider failed.
    #[error("{provider} does not start: {}", error.message())]
    Creation {
        /// Which.
        provider: Provider,
        /// Why.
        error: tcw_abi::Error,
    },
    /// The schemas do not make one.
    #[error("the libraries do not go together:\n{}", lines(.0))]
    Clashes(Vec<Clash>),
    /// A library's schema is not one.
    #[error("{0}")]
    Schema(#[from] crate::schema::InvalidSchema),
    /// A required library is not among those found.
    #[error("the configuration requires {}, and no library of that name was found in the directories of plugins", list(.0))]
    RequiredMissing(Vec<String>),
    /// A required library has a plugin that the engine cannot serve.
    #[error(
        "the configuration requires the library of {provider}, which needs what engine {engine} does not have: the \
         features {}; choose another engine, or take the library out of `libraries.required`",
        list(lacking)
    )]
    RequiredLacking {
        /// Which plugin.
        provider: Provider,
        /// The engine's name.
        engine: String,
        /// What it would have to have.
        lacking: Vec<String>,
    },
    /// The host's own code failed.
    #[error("loading failed inside the worker: {0}")]
    Host(#[from] tokio::task::JoinError),
}

fn lines(items: &[impl fmt::Display]) -> String {
    items
        .iter()
        .map(|item| format!("  {item}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn list(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("'{name}'"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Loads what the configuration names and makes it ready for tasks.
pub async fn assemble(
    config: &Config,
    loader: &Loader,
    services: &Arc<WorkerServices>,
) -> Result<Assembly, AssemblyError> {
    let path = config.libraries.engine.clone().ok_or(AssemblyError::NoEngine)?;
    let engine_library = load(config, loader, &path).await??;
    let engine = make_engine(config, &engine_library, services).await?;

    let mut libraries = vec![engine_library];
    let mut refused = Vec::new();
    let quarantined = find_plugins(config, loader, &mut libraries, &mut refused).await?;
    let names: BTreeSet<&str> = libraries
        .iter()
        .map(|library| library.manifest.name.as_str())
        .collect();
    let missing: Vec<String> = config
        .libraries
        .required
        .iter()
        .filter(|name| !names.contains(name.as_str()))
        .cloned()
        .collect();
    if !missing.is_empty() {
        return Err(AssemblyError::RequiredMissing(missing));
    }

    let provided: BTreeSet<String> = libraries
        .iter()
        .map(|library| &library.manifest)
        .chain(quarantined.iter().map(|(manifest, _)| manifest))
        .flat_map(|manifest| manifest.plugins.iter().cloned())
        .collect();
    let unknown: Vec<String> = config
        .plugins
        .configuration
        .keys()
        .chain(&config.plugins.disabled)
        .filter(|name| !provided.contains(*name))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        let known = provided.iter().cloned().collect::<Vec<_>>().join(", ");
        return Err(AssemblyError::UnknownPlugins { unknown, known });
    }

    let mut plugins = Vec::new();
    let mut fragments = left_out_for_crashes(&quarantined);
    for library in &libraries {
        for (index, name) in library.manifest.plugins.iter().enumerate() {
            let provider = plugin_provider(library, name);
            let mut fragment = PluginFragment {
                name: name.clone(),
                library: library.file_name(),
                ..PluginFragment::default()
            };
            if config.plugins.disabled.contains(name) {
                fragment.unavailable = Some("is disabled in the configuration".into());
            } else {
                match make_plugin(config, library, index, &provider, services, &engine).await {
                    Ok(Made::Plugin(slot)) => {
                        fragment.schema = slot.description.payload_schema.clone();
                        plugins.push(slot);
                    }
                    Ok(Made::Lacking(mut requires)) => {
                        if config.libraries.required.contains(&library.manifest.name) {
                            requires.retain(|feature| !engine.description.has(feature));
                            return Err(AssemblyError::RequiredLacking {
                                provider,
                                engine: engine.name.clone(),
                                lacking: requires,
                            });
                        }
                        fragment.requires = requires;
                    }
                    Err(error @ (AssemblyError::Creation { .. } | AssemblyError::Schema(_)))
                        if !config.libraries.required.contains(&library.manifest.name) =>
                    {
                        tracing::error!(plugin = name, "{error}; it is left out");
                        refused.push(error.to_string());
                        fragment.unavailable = Some("does not start; the worker's log says why".into());
                    }
                    Err(error) => return Err(error),
                }
            }
            fragments.push(fragment);
        }
    }
    let fragment = EngineFragment {
        name: engine.name.clone(),
        library: engine.library.clone(),
        schema: engine.description.payload_schema.clone(),
        features: engine.description.features.clone(),
    };
    let schema = compose(
        config,
        &libraries,
        fragment,
        fragments,
        &mut plugins,
        &mut refused,
    )?;
    Ok(Assembly {
        engine,
        plugins,
        schema: Arc::new(schema),
        libraries,
        refused,
    })
}

/// One schema of all fragments. A plugin whose own fragment is none is left out, unless its library is required; then,
/// and when fragments contradict each other, there is no schema.
fn compose(
    config: &Config,
    libraries: &[Library],
    engine: EngineFragment,
    mut fragments: Vec<PluginFragment>,
    plugins: &mut Vec<PluginSlot>,
    refused: &mut Vec<String>,
) -> Result<PayloadSchema, AssemblyError> {
    let required = |plugin: &str| {
        libraries.iter().any(|library| {
            config.libraries.required.contains(&library.manifest.name)
                && library.manifest.plugins.iter().any(|name| name == plugin)
        })
    };
    loop {
        let clashes = match PayloadSchema::compose(engine.clone(), fragments.clone()) {
            Ok(schema) => return Ok(schema),
            Err(clashes) => clashes,
        };
        let mut left_out = false;
        for clash in &clashes {
            let Clash::InvalidFragment { provider, .. } = clash else {
                continue;
            };
            if provider.kind != ProviderKind::Plugin || required(&provider.name) {
                continue;
            }
            tracing::error!(plugin = provider.name, "{clash}; it is left out");
            refused.push(clash.to_string());
            plugins.retain(|plugin| plugin.name != provider.name);
            for fragment in fragments
                .iter_mut()
                .filter(|fragment| fragment.name == provider.name)
            {
                fragment.unavailable = Some("has a payload schema that is not valid".into());
                left_out = true;
            }
        }
        if !left_out {
            return Err(AssemblyError::Clashes(clashes));
        }
    }
}

async fn load(
    config: &Config,
    loader: &Loader,
    path: &Path,
) -> Result<Result<Library, LibraryError>, AssemblyError> {
    let (loader, file) = (loader.clone(), path.to_owned());
    opened(config, path, move || loader.load(&file)).await
}

/// The same for a library of plugins; `None` for one that has none, of which no code is run.
async fn load_plugins(
    config: &Config,
    loader: &Loader,
    path: &Path,
) -> Result<Result<Option<Library>, LibraryError>, AssemblyError> {
    let (loader, file) = (loader.clone(), path.to_owned());
    opened(config, path, move || {
        if inspect_file(&file).is_ok_and(|inspection| inspection.manifest.plugins.is_empty()) {
            return Ok(None);
        }
        loader.load(&file).map(Some)
    })
    .await
}

/// The plugins of libraries in quarantine. Their schemas are not known, since none of their code is run.
fn left_out_for_crashes(quarantined: &[(Manifest, String)]) -> Vec<PluginFragment> {
    quarantined
        .iter()
        .flat_map(|(manifest, library)| {
            manifest.plugins.iter().map(|name| PluginFragment {
                name: name.clone(),
                library: library.clone(),
                unavailable: Some("is quarantined, because its library crashed the worker".into()),
                ..PluginFragment::default()
            })
        })
        .collect()
}

/// Opens a library on a thread that may never come back: a constructor that blocks holds it, and with it the system's
/// loader, so that nothing can be loaded any more and the worker cannot go on.
async fn opened<T: Send + 'static>(
    config: &Config,
    path: &Path,
    open: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AssemblyError> {
    // It is tried elsewhere first, with the same bound.
    let bound = config.libraries.start_timeout * 2;
    match tokio::time::timeout(bound, tokio::task::spawn_blocking(open)).await {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(AssemblyError::Blocks {
            path: path.to_owned(),
            bound,
        }),
    }
}

/// Every library in the directories of plugins that has plugins; those that are refused are said and left out. Answers
/// those that are in quarantine, with the names of their files.
async fn find_plugins(
    config: &Config,
    loader: &Loader,
    libraries: &mut Vec<Library>,
    refused: &mut Vec<String>,
) -> Result<Vec<(Manifest, String)>, AssemblyError> {
    let mut quarantined = Vec::new();
    for directory in &config.libraries.directories {
        for path in find::candidates(directory)? {
            match load_plugins(config, loader, &path).await? {
                Ok(Some(library)) if libraries.iter().any(|other| other.sha256 == library.sha256) => {
                    tracing::debug!(path = %path.display(), "the same library is loaded already");
                }
                Ok(None) => {
                    tracing::debug!(path = %path.display(), "the library has no plugins, so it is not used");
                }
                Ok(Some(library)) => libraries.push(library),
                Err(error) => {
                    let required = match &error.quarantined {
                        Some(manifest) => config.libraries.required.contains(&manifest.name),
                        None => is_required(config, &path),
                    };
                    if required {
                        return Err(error.into());
                    }
                    tracing::error!("a library is left out: {error}");
                    refused.push(error.to_string());
                    if let Some(manifest) = error.quarantined {
                        let file = error.path.file_name().unwrap_or_default();
                        quarantined.push((*manifest, file.to_string_lossy().into_owned()));
                    }
                }
            }
        }
    }
    Ok(quarantined)
}

/// A library that cannot be read has no name but its file's.
fn is_required(config: &Config, path: &Path) -> bool {
    let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
        return false;
    };
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    let stem = stem
        .strip_suffix("_plugin")
        .or_else(|| stem.strip_suffix("_engine"))
        .unwrap_or(stem)
        .replace('_', "-");
    config.libraries.required.contains(&stem)
}

/// The engine of a library that is in the store, for what it wrote down itself. Its configuration is the worker's if
/// that is one of the same engine, as far as it fits; otherwise none.
pub async fn stored_engine(
    config: &Config,
    loader: &Loader,
    services: &Arc<WorkerServices>,
    sha256: &str,
    configured: &str,
) -> Result<EngineSlot, AssemblyError> {
    let (loader, sha256) = (loader.clone(), sha256.to_owned());
    let place = loader.stored(&sha256);
    let library = opened(config, &place, move || loader.load_stored(&sha256)).await??;
    let other = library.manifest.name != configured;
    match make_engine_with(config, &library, services, config.engine.clone()).await {
        Err(AssemblyError::Configuration { .. }) if other => {
            make_engine_with(config, &library, services, Value::Object(serde_json::Map::new())).await
        }
        made => made,
    }
}

async fn make_engine(
    config: &Config,
    library: &Library,
    services: &Arc<WorkerServices>,
) -> Result<EngineSlot, AssemblyError> {
    make_engine_with(config, library, services, config.engine.clone()).await
}

async fn make_engine_with(
    config: &Config,
    library: &Library,
    services: &Arc<WorkerServices>,
    configuration: Value,
) -> Result<EngineSlot, AssemblyError> {
    let manifest = &library.manifest;
    if !manifest.engine {
        let provides = match manifest.plugins.as_slice() {
            [] => "nothing".to_owned(),
            plugins => format!("the plugins {}", plugins.join(", ")),
        };
        return Err(AssemblyError::NotAnEngine {
            path: library.source.clone(),
            name: manifest.name.clone(),
            provides,
        });
    }
    let provider = Provider {
        kind: ProviderKind::Engine,
        name: manifest.name.clone(),
        library: library.file_name(),
    };
    let failed = |error| AssemblyError::Creation {
        provider: provider.clone(),
        error,
    };
    let bound = config.libraries.start_timeout;
    let engines = within(bound, library.root.engine_provider())
        .await
        .map_err(failed)?;
    check(
        &provider,
        &engines.description().configuration_schema,
        &configuration,
    )?;
    let made = engines.new_engine(
        services.for_loaded(&manifest.name, &library.sha256),
        configuration,
    );
    let engine = within(bound, made).await.map_err(failed)?;
    Ok(EngineSlot::new(
        manifest.name.clone(),
        library.file_name(),
        engine,
    ))
}

fn plugin_provider(library: &Library, name: &str) -> Provider {
    Provider {
        kind: ProviderKind::Plugin,
        name: name.to_owned(),
        library: library.file_name(),
    }
}

enum Made {
    Plugin(PluginSlot),
    /// The engine lacks one of these features.
    Lacking(Vec<String>),
}

async fn make_plugin(
    config: &Config,
    library: &Library,
    index: usize,
    provider: &Provider,
    services: &Arc<WorkerServices>,
    engine: &EngineSlot,
) -> Result<Made, AssemblyError> {
    let failed = |error| AssemblyError::Creation {
        provider: provider.clone(),
        error,
    };
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let bound = config.libraries.start_timeout;
    let plugins: Arc<dyn PluginProvider> = within(bound, library.root.plugin_provider(index))
        .await
        .map_err(failed)?;
    let description = plugins.description();
    if description
        .requires
        .iter()
        .any(|feature| !engine.description.has(feature))
    {
        return Ok(Made::Lacking(description.requires));
    }
    let configuration = config.plugins.of(&provider.name);
    check(provider, &description.configuration_schema, &configuration)?;
    let handle = PluginEngine::of(Arc::clone(&engine.engine));
    let made = plugins.new_plugin(
        services.for_loaded(&provider.name, &library.sha256),
        handle,
        configuration,
    );
    let plugin = within(bound, made).await.map_err(failed)?;
    Ok(Made::Plugin(PluginSlot::new(
        provider.name.clone(),
        library.file_name(),
        plugin,
    )))
}

fn check(provider: &Provider, schema: &Value, configuration: &Value) -> Result<(), AssemblyError> {
    let place = match provider.kind {
        ProviderKind::Engine => "engine".to_owned(),
        ProviderKind::Plugin => format!("plugins.{}", provider.name),
    };
    ObjectSchema::new(provider, place, schema)?
        .validate(configuration)
        .map_err(|violations| AssemblyError::Configuration {
            provider: provider.clone(),
            violations,
        })
}

async fn within<T>(bound: Duration, making: impl Future<Output = tcw_abi::Result<T>>) -> tcw_abi::Result<T> {
    match tokio::time::timeout(bound, making).await {
        Ok(made) => made,
        Err(_) => Err(tcw_abi::Error::new(
            tcw_abi::ErrorKind::TimedOut,
            format!(
                "it did not return within {} s; ask its vendor, leave it out, or raise `libraries.startTimeout`",
                bound.as_secs_f64()
            ),
        )),
    }
}

/// The composed schema, as tasks use it.
pub struct SchemaCheck(pub Arc<PayloadSchema>);

impl PayloadCheck for SchemaCheck {
    fn check(&self, payload: &Value) -> Result<PayloadParts, Vec<String>> {
        match self.0.validate(payload) {
            Ok(split) => {
                let plugins: BTreeMap<String, Value> = split.plugins;
                Ok(PayloadParts {
                    engine: split.engine,
                    plugins,
                })
            }
            Err(violations) => Err(violations.iter().map(Violation::to_string).collect()),
        }
    }
}
