//! Exit statuses with a meaning of their own: a task can ask to be run again when its command ends with one of them.

use std::sync::Arc;

use tcw_abi::engine::{ResultSet, Section};
use tcw_abi::plugin::{EngineHandle, Plugin, PluginDescription, PluginProvider, TaskPlugin};
use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{Services, TaskContext};
use tcw_abi::{Error, ErrorKind, Result, async_trait};

/// The way in.
pub struct ExitStatusProvider;

#[async_trait]
impl PluginProvider for ExitStatusProvider {
    async fn new_plugin(
        &self,
        _services: Arc<dyn Services>,
        _engine: Arc<dyn EngineHandle>,
        _configuration: Value,
    ) -> Result<Arc<dyn Plugin>> {
        Ok(Arc::new(ExitStatus))
    }
}

const DOCUMENTATION: &str = r#"`onExitStatus` gives exit statuses of the task's command a meaning.

```yaml
payload:
  onExitStatus:
    retry: [4, 75]
    purgeCaches: [75]
```

- `retry`: the run ends as `exception/intermittent-task`, and the queue starts the task again as long as it has retries left
  (`task.retries`). Any other status but 0 is a failure for good.
- `purgeCaches`: the caches that the task had mounted for writing are removed instead of kept. Whichever part of the worker
  mounts caches does this; on a worker without caches there is nothing to remove.

0 cannot be retried: it is a success."#;

struct ExitStatus;

#[async_trait]
impl Plugin for ExitStatus {
    fn description(&self) -> PluginDescription {
        PluginDescription {
            payload_schema: json!({
                "type": "object",
                "properties": {
                    "onExitStatus": {
                        "type": "object",
                        "description": "What exit statuses of the command mean, beside success and failure.",
                        "properties": {
                            "retry": {
                                "type": "array",
                                "description": "Exit statuses after which the task is run again, as far as its retries allow.",
                                "items": { "type": "integer", "minimum": 1 },
                                "uniqueItems": true,
                            },
                            "purgeCaches": {
                                "type": "array",
                                "description": "Exit statuses after which the task's writable caches are removed.",
                                "items": { "type": "integer", "minimum": 0 },
                                "uniqueItems": true,
                            },
                        },
                        "additionalProperties": false,
                    },
                },
            }),
            documentation: vec![Section {
                title: "Exit statuses".into(),
                content: DOCUMENTATION.into(),
            }],
        }
    }

    async fn new_task_plugin(
        &self,
        _task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn TaskPlugin>> {
        let retry = payload["onExitStatus"]["retry"].as_array();
        Ok(Arc::new(ExitStatusTask {
            retry: retry.into_iter().flatten().filter_map(integer).collect(),
        }))
    }
}

/// JSON Schema's integers include `75.0`; beyond what an `f64` holds exactly there is no exit status.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
    })
}

struct ExitStatusTask {
    retry: Vec<i64>,
}

#[async_trait]
impl TaskPlugin for ExitStatusTask {
    async fn stopped(&self, result: Arc<dyn ResultSet>) -> Result<bool> {
        if self.retry.is_empty() {
            return Ok(true);
        }
        match result.report().exit_code {
            Some(code) if self.retry.contains(&i64::from(code)) => Err(Error::new(
                ErrorKind::IntermittentTask,
                format!(
                    "The command ended with exit status {code}, which payload.onExitStatus.retry lists: the task is to be run again"
                ),
            )),
            // Whether any other status is a success is the engine's to say.
            _ => Ok(true),
        }
    }
}

tcw_abi::export_library! { name: "exit-status", plugins: [ExitStatusProvider] }
