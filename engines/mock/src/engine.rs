//! The provider and the engine: configuration, features, volumes, and how many sandboxes there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tcw_abi::engine::{
    Engine, EngineDescription, EngineProvider, EngineProviderDescription, Health, LeaseRecord,
    RecoveryReport, SandboxBuilder, Section, Volume, VolumeBuilder, feature,
};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Error, ErrorKind, Result, async_trait};

use crate::builder::MockSandboxBuilder;
use crate::faults::{self, Faults, Place};
use crate::files::Files;
use crate::payload::{self, Function, Payload};
use crate::volume::{MockVolumeBuilder, Volumes};

/// Everything that it can do.
const FEATURES: &[&str] = &[
    feature::ENVIRONMENT,
    feature::PUT_FILE,
    feature::VOLUMES,
    feature::VOLUME_BUILDERS,
    feature::DEVICES,
    feature::LIMITS,
    feature::PROXIES,
    feature::SHELLS,
    feature::DISPLAYS,
    feature::KILL,
    feature::RESOURCE_USAGE,
    feature::ARTIFACTS,
    feature::ARCHIVE,
    feature::RECOVERY,
    feature::DIALECT_GENERIC_WORKER,
];

/// Makes the engine.
pub struct MockEngineProvider;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Configuration {
    features: Option<Vec<String>>,
    max_concurrency: Option<u32>,
    unhealthy_reason: Option<String>,
    faults: Faults,
}

#[async_trait]
impl EngineProvider for MockEngineProvider {
    fn description(&self) -> EngineProviderDescription {
        EngineProviderDescription {
            configuration_schema: json!({
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "features": {
                        "description": "The features to declare; what is not in the list is refused. Without it: all \
                            that there are, with generic-worker's dialect.",
                        "type": "array",
                        "items": { "type": "string" }
                    },
                    "maxConcurrency": {
                        "description": "Sandboxes at one time; one more is refused.",
                        "type": "integer",
                        "minimum": 1
                    },
                    "unhealthyReason": {
                        "description": "The engine says that it cannot take tasks, for this reason.",
                        "type": "string"
                    },
                    "faults": faults::engine_schema()
                }
            }),
        }
    }

    async fn new_engine(&self, services: Arc<dyn Services>, configuration: Value) -> Result<Arc<dyn Engine>> {
        let configuration: Configuration = match configuration {
            Value::Null => Configuration::default(),
            value => serde_json::from_value(value).map_err(|error| {
                Error::fatal(format!(
                    "the configuration of the mock engine cannot be read: {error}"
                ))
            })?,
        };
        configuration.faults.at(Place::NewEngine).await?;
        let features = configuration
            .features
            .unwrap_or_else(|| FEATURES.iter().map(|name| (*name).to_owned()).collect());
        Ok(Arc::new(MockEngine {
            shared: Arc::new(Shared {
                services,
                features,
                volumes: Arc::default(),
                sandboxes: AtomicU32::new(0),
            }),
            max_concurrency: configuration.max_concurrency,
            unhealthy_reason: configuration.unhealthy_reason,
            faults: configuration.faults,
        }))
    }
}

/// What sandboxes need of their engine.
pub(crate) struct Shared {
    pub(crate) services: Arc<dyn Services>,
    features: Vec<String>,
    pub(crate) volumes: Arc<Volumes>,
    sandboxes: AtomicU32,
}

impl Shared {
    /// What is not declared is not there.
    pub(crate) fn require(&self, feature: &str) -> Result<()> {
        if self.features.iter().any(|name| name == feature) {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "this mock engine was configured without the feature '{feature}'"
        )))
    }
}

/// One of the sandboxes that may be; given back when it is dropped.
pub(crate) struct Slot(Arc<Shared>);

impl Slot {
    fn take(shared: &Arc<Shared>, most: Option<u32>) -> Result<Slot> {
        let taken = shared
            .sandboxes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                most.is_none_or(|most| count < most).then_some(count + 1)
            });
        match taken {
            Ok(_) => Ok(Slot(Arc::clone(shared))),
            Err(count) => Err(Error::new(
                ErrorKind::MaxConcurrencyExceeded,
                format!("there are {count} sandboxes, and no more are allowed"),
            )),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.sandboxes.fetch_sub(1, Ordering::AcqRel);
    }
}

struct MockEngine {
    shared: Arc<Shared>,
    max_concurrency: Option<u32>,
    unhealthy_reason: Option<String>,
    faults: Faults,
}

#[async_trait]
impl Engine for MockEngine {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            features: self.shared.features.clone(),
            payload_schema: payload::schema(),
            volume_schema: json!({ "type": "object", "additionalProperties": false }),
            documentation: vec![Section {
                title: "The mock engine".into(),
                content: format!("{}{}", include_str!("../docs/mock.md"), payload::function_table()),
            }],
            max_concurrency: self.max_concurrency,
        }
    }

    async fn health(&self) -> Result<Health> {
        self.faults.at(Place::Health).await?;
        Ok(match &self.unhealthy_reason {
            None => Health::good(),
            Some(reason) => Health {
                healthy: false,
                reason: reason.clone(),
            },
        })
    }

    async fn new_sandbox_builder(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn SandboxBuilder>> {
        let payload = Payload::parse(payload)?;
        payload.faults.at(Place::NewSandboxBuilder).await?;
        let slot = Slot::take(&self.shared, self.max_concurrency)?;
        if payload.function == Function::MalformedPayloadInitial {
            tokio::time::sleep(Duration::from_millis(payload.delay)).await;
            return Err(Error::malformed(format!(
                "the payload is malformed, as it was asked for: {}",
                payload.argument
            )));
        }
        Ok(Arc::new(MockSandboxBuilder::new(
            Arc::clone(&self.shared),
            task,
            payload,
            slot,
        )))
    }

    async fn new_volume(&self, _options: Value) -> Result<Arc<dyn Volume>> {
        self.shared.require(feature::VOLUMES)?;
        self.faults.at(Place::NewVolume).await?;
        Ok(self.shared.volumes.add(Files::new()))
    }

    async fn new_volume_builder(&self, _options: Value) -> Result<Arc<dyn VolumeBuilder>> {
        self.shared.require(feature::VOLUME_BUILDERS)?;
        self.faults.at(Place::NewVolume).await?;
        Ok(Arc::new(MockVolumeBuilder::new(Arc::clone(&self.shared.volumes))))
    }

    async fn recover(&self, leases: Vec<LeaseRecord>) -> Result<RecoveryReport> {
        self.faults.at(Place::Recover).await?;
        // What a dead process had in memory is gone.
        Ok(RecoveryReport {
            messages: leases
                .iter()
                .map(|lease| format!("nothing is left of {}", lease.id))
                .collect(),
            released: leases.into_iter().map(|lease| lease.id).collect(),
        })
    }

    async fn dispose(&self) -> Result<()> {
        self.faults.at(Place::DisposeEngine).await
    }
}
