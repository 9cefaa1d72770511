//! Tasks that run longer than they said, or than the worker allows, are ended and have failed.

mod timer;

use std::sync::Arc;
use std::time::Duration;

use tcw_abi::engine::{ResultSet, Sandbox, Section, feature};
use tcw_abi::plugin::{
    EngineHandle, ExceptionReason, Plugin, PluginDescription, PluginProvider, PluginProviderDescription,
    TaskPlugin,
};
use tcw_abi::serde_json::{Map, Value, json};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Result, async_trait};
use tokio::sync::Mutex;

use crate::timer::Timer;

/// A day: generic-worker's bound.
const DEFAULT_BOUND: u64 = 86_400;

/// The way in.
pub struct MaxRunTimeProvider;

#[async_trait]
impl PluginProvider for MaxRunTimeProvider {
    fn description(&self) -> PluginProviderDescription {
        PluginProviderDescription {
            configuration_schema: json!({
                "type": "object",
                "properties": {
                    "maxRunTime": {
                        "type": "integer",
                        "description": "The longest that a task may run, in seconds. A task that asks for more is refused.",
                        "minimum": 1,
                        // A hundred years: what is meant by more than that is a mistake.
                        "maximum": 3_153_600_000_u64,
                        "default": DEFAULT_BOUND,
                    },
                    "required": {
                        "type": "boolean",
                        "description": "Whether every task has to say its `maxRunTime`. If not, one that does not say it has the longest.",
                        "default": true,
                    },
                },
                "additionalProperties": false,
            }),
            // A limit that cannot be enforced is not offered.
            requires: vec![feature::KILL.into()],
            ..Default::default()
        }
    }

    async fn new_plugin(
        &self,
        _services: Arc<dyn Services>,
        _engine: Arc<dyn EngineHandle>,
        configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(MaxRunTime {
            bound: seconds(&configuration["maxRunTime"]).unwrap_or(DEFAULT_BOUND),
            required: configuration["required"].as_bool().unwrap_or(true),
        }))
    }
}

struct MaxRunTime {
    /// Seconds.
    bound: u64,
    required: bool,
}

impl MaxRunTime {
    fn section(&self) -> Section {
        let bound = self.bound;
        let absent = if self.required {
            "Every task has to say it.".to_owned()
        } else {
            format!("A task that does not say it has {bound} seconds.")
        };
        Section {
            title: "Maximum run time".into(),
            content: format!(
                r#"`maxRunTime` is how many seconds the task's command may run, up to {bound} on this worker. {absent}

```yaml
payload:
  maxRunTime: {example}
```

The time starts when the command does: preparing the sandbox, fetching what it mounts and uploading its artifacts do not
count. When it is over, the task log says `Task aborted - max run time exceeded`, the command's processes are asked to end, and
forced to after 10 seconds. Artifacts and the log are still uploaded; the task has failed."#,
                example = bound.min(600),
            ),
        }
    }
}

#[async_trait]
impl Plugin for MaxRunTime {
    fn description(&self) -> PluginDescription {
        let mut schema = Map::from_iter([
            ("type".to_owned(), json!("object")),
            (
                "properties".to_owned(),
                json!({
                    "maxRunTime": {
                        "type": "integer",
                        "description": "The longest that the task's command may run, in seconds. After that it is ended, and the task has failed.",
                        "minimum": 1,
                        "maximum": self.bound,
                    },
                }),
            ),
        ]);
        if self.required {
            schema.insert("required".to_owned(), json!(["maxRunTime"]));
        }
        PluginDescription {
            payload_schema: Value::Object(schema),
            documentation: vec![self.section()],
        }
    }

    async fn new_task_plugin(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn TaskPlugin>> {
        let seconds = match &payload {
            // The payload does not fit: the task will never start.
            Value::Null => None,
            payload => Some(seconds(&payload["maxRunTime"]).unwrap_or(self.bound)),
        };
        Ok(Arc::new(MaxRunTimeTask {
            task,
            limit: seconds.map(Duration::from_secs),
            timer: Mutex::default(),
        }))
    }
}

/// JSON Schema's integers include `3600.0`.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0 && (0.0..9e15).contains(&float)).then_some(float as u64)
    })
}

struct MaxRunTimeTask {
    task: Arc<dyn TaskContext>,
    limit: Option<Duration>,
    timer: Mutex<Option<Timer>>,
}

impl MaxRunTimeTask {
    /// Stops the timer; nothing is killed after this. Answers whether the time was over before.
    async fn stop(&self) -> bool {
        let timer = self.timer.lock().await.take();
        match timer {
            Some(timer) => timer.stop().await,
            None => false,
        }
    }
}

#[async_trait]
impl TaskPlugin for MaxRunTimeTask {
    async fn started(&self, sandbox: Arc<dyn Sandbox>) -> Result<()> {
        if let Some(limit) = self.limit {
            let timer = Timer::start(limit, Arc::clone(&self.task), sandbox);
            *self.timer.lock().await = Some(timer);
        }
        Ok(())
    }

    async fn stopped(&self, _result: Arc<dyn ResultSet>) -> Result<bool> {
        Ok(!self.stop().await)
    }

    async fn exception(&self, _reason: ExceptionReason) -> Result<()> {
        self.stop().await;
        Ok(())
    }

    async fn dispose(&self) -> Result<()> {
        self.stop().await;
        Ok(())
    }
}

tcw_abi::export_library! { name: "max-run-time", plugins: [MaxRunTimeProvider] }
