//! The provider and the engine: configuration, what is promised, recovery.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tcw_abi::engine::{
    Engine, EngineDescription, EngineProvider, EngineProviderDescription, LeaseRecord, RecoveryReport,
    SandboxBuilder, Section, feature,
};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Error, Result, async_trait};

use crate::background::Background;
use crate::builder::NativeSandboxBuilder;
use crate::directory;
use crate::environment::User;
use crate::payload::{self, Payload};
use crate::places::Places;

/// How long the last call waits for directories that are being removed; the host gives it half a minute.
const REMOVAL: Duration = Duration::from_secs(25);

/// Makes the engine.
pub struct NativeEngineProvider;

/// How tasks are kept apart from the worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Isolation {
    /// Not at all.
    #[default]
    None,
}

/// What the operator says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Configuration {
    isolation: Isolation,
    tasks_directory: Option<PathBuf>,
}

#[async_trait]
impl EngineProvider for NativeEngineProvider {
    fn description(&self) -> EngineProviderDescription {
        EngineProviderDescription {
            configuration_schema: json!({
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "isolation": {
                        "description": "How tasks are kept apart from the worker. With `none`, the only value so far, \
                            they run as the worker's own user and can reach whatever it can: its credentials, other \
                            tasks, the machine. Use it for tasks that you trust.",
                        "enum": ["none"],
                        "default": "none"
                    },
                    "tasksDirectory": {
                        "description": "An absolute path: where the directories of tasks are made, for example on a \
                            disk of their own. Without it they are temporary folders of the worker.",
                        "type": "string",
                        "pattern": "^/"
                    }
                }
            }),
        }
    }

    async fn new_engine(&self, services: Arc<dyn Services>, configuration: Value) -> Result<Arc<dyn Engine>> {
        let configuration = match configuration {
            Value::Null => Configuration::default(),
            value => serde_json::from_value(value).map_err(|error| {
                Error::fatal(format!(
                    "the configuration of the native engine cannot be read: {error}"
                ))
            })?,
        };
        check_machine()?;
        let Isolation::None = configuration.isolation;
        Ok(Arc::new(NativeEngine {
            places: Arc::new(Places::new(&*services, configuration.tasks_directory).await?),
            services,
            user: Arc::new(User::current()),
            background: Background::new()?,
        }))
    }
}

/// What the engine cannot work without is missed at start, not in a task.
fn check_machine() -> Result<()> {
    let own = rustix::process::getpid();
    rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).map_err(|error| {
        Error::fatal(format!(
            "the native engine needs Linux 5.3 or later, with pidfd_open allowed: {error}"
        ))
    })?;
    std::fs::metadata("/proc/self/stat").map_err(|error| {
        Error::fatal(format!(
            "the native engine finds the processes of a task in /proc, which is not mounted: {error}"
        ))
    })?;
    Ok(())
}

struct NativeEngine {
    services: Arc<dyn Services>,
    places: Arc<Places>,
    user: Arc<User>,
    background: Arc<Background>,
}

#[async_trait]
impl Engine for NativeEngine {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            features: [
                feature::ENVIRONMENT,
                feature::PUT_FILE,
                feature::SHELLS,
                feature::KILL,
                feature::RESOURCE_USAGE,
                feature::ARTIFACTS,
                feature::RECOVERY,
                feature::DIALECT_GENERIC_WORKER,
                feature::ISOLATION_NONE,
            ]
            .map(str::to_owned)
            .to_vec(),
            payload_schema: payload::schema(),
            volume_schema: Value::Null,
            documentation: documentation(),
            max_concurrency: None,
        }
    }

    async fn new_sandbox_builder(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn SandboxBuilder>> {
        let payload = Payload::parse(payload)?;
        let builder = NativeSandboxBuilder::new(
            Arc::clone(&self.services),
            task,
            payload,
            Arc::clone(&self.places),
            Arc::clone(&self.user),
            Arc::clone(&self.background),
        )?;
        Ok(Arc::new(builder))
    }

    async fn recover(&self, leases: Vec<LeaseRecord>) -> Result<RecoveryReport> {
        let mut report = RecoveryReport::default();
        for lease in leases {
            match directory::recover(&*self.services, &lease, self.places.tasks_directory()).await {
                Ok(message) => {
                    report.messages.push(message);
                    report.released.push(lease.id);
                }
                Err(error) => report.messages.push(error.message().to_owned()),
            }
        }
        report
            .messages
            .extend(directory::sweep(&*self.services, &self.places).await?);
        Ok(report)
    }

    async fn dispose(&self) -> Result<()> {
        match self.background.finished(REMOVAL).await {
            0 => Ok(()),
            left => Err(Error::internal(format!(
                "the directories of {left} tasks are not removed yet; the next start goes on with them"
            ))),
        }
    }
}

fn documentation() -> Vec<Section> {
    vec![
        Section {
            title: "Commands".into(),
            content: include_str!("../docs/commands.md").into(),
        },
        Section {
            title: "Files of a task".into(),
            content: include_str!("../docs/files.md").into(),
        },
    ]
}
