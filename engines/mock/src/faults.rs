//! Faults on request: which call goes wrong, and how.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tcw_abi::{Error, ErrorKind, Result};

/// A call that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    // In the worker's configuration:
    NewEngine,
    Health,
    NewVolume,
    Recover,
    DisposeEngine,
    // In a task's payload:
    NewSandboxBuilder,
    SetEnvironmentVariable,
    PutFile,
    AttachVolume,
    AttachProxy,
    Start,
    Discard,
    Wait,
    Kill,
    Abort,
    NewShell,
    OpenDisplay,
    ResourceUsage,
    ExtractFile,
    ExtractFolder,
    NextFile,
    Dispose,
}

const ENGINE_PLACES: &[&str] = &["new-engine", "health", "new-volume", "recover", "dispose-engine"];

const TASK_PLACES: &[&str] = &[
    "new-sandbox-builder",
    "set-environment-variable",
    "put-file",
    "attach-volume",
    "attach-proxy",
    "start",
    "discard",
    "wait",
    "kill",
    "abort",
    "new-shell",
    "open-display",
    "resource-usage",
    "extract-file",
    "extract-folder",
    "next-file",
    "dispose",
];

/// How it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Error,
    Panic,
    Hang,
    Sleep,
    Block,
    Crash,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fault {
    at: Place,
    #[serde(rename = "do")]
    action: Action,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    times: Option<u32>,
    #[serde(skip)]
    done: AtomicU32,
}

/// The faults of one task, or of the engine.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// Goes wrong here, if that was asked for.
    pub(crate) async fn at(&self, place: Place) -> Result<()> {
        for fault in &self.0 {
            if fault.at == place && fault.is_due() {
                fault.happen().await?;
            }
        }
        Ok(())
    }
}

impl Fault {
    fn is_due(&self) -> bool {
        let done = self.done.fetch_add(1, Ordering::Relaxed);
        self.times.is_none_or(|times| done < times)
    }

    async fn happen(&self) -> Result<()> {
        let message = self
            .message
            .clone()
            .unwrap_or_else(|| format!("a fault at {:?}, as it was asked for", self.at));
        tokio::time::sleep(Duration::from_millis(self.delay_ms)).await;
        match self.action {
            Action::Sleep => Ok(()),
            Action::Error => Err(Error::new(self.kind(), message)),
            Action::Panic => std::panic::panic_any(message),
            Action::Hang => std::future::pending().await,
            Action::Block => loop {
                std::thread::park();
            },
            Action::Crash => std::process::abort(),
        }
    }

    /// The schema admits the names of kinds only.
    fn kind(&self) -> ErrorKind {
        let named = |kind: &&ErrorKind| Some(kind.name()) == self.kind.as_deref();
        ErrorKind::ALL
            .iter()
            .find(named)
            .copied()
            .unwrap_or(ErrorKind::NonFatalInternal)
    }
}

/// The schema of faults in the worker's configuration.
pub(crate) fn engine_schema() -> Value {
    schema(ENGINE_PLACES)
}

/// The schema of faults in a task's payload.
pub(crate) fn task_schema() -> Value {
    schema(TASK_PLACES)
}

fn schema(places: &[&str]) -> Value {
    let kinds: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
    json!({
        "description": "Calls that are to go wrong. All that fit happen, in this order, before the call does its work.",
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": false,
            "required": ["at", "do"],
            "properties": {
                "at": { "description": "The call.", "enum": places },
                "do": {
                    "description": "`error`: answer an error. `panic`: panic. `hang`: never return, without blocking a \
                        thread. `block`: never return, and block a thread of the engine. `sleep`: return late. \
                        `crash`: end the whole process at once, with all that it runs.",
                    "enum": ["error", "panic", "hang", "sleep", "block", "crash"]
                },
                "kind": { "description": "The error's kind.", "enum": kinds, "default": "NonFatalInternal" },
                "message": { "description": "The error's message.", "type": "string" },
                "delayMs": {
                    "description": "Milliseconds before it happens.",
                    "type": "integer",
                    "minimum": 0,
                    "default": 0
                },
                "times": { "description": "Only the first so many calls.", "type": "integer", "minimum": 1 }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_the_schemas_are_those_of_the_code() {
        for name in ENGINE_PLACES.iter().chain(TASK_PLACES) {
            serde_json::from_value::<Place>(json!(name)).unwrap();
        }
    }

    #[tokio::test]
    async fn faults_happen_as_often_as_asked_and_only_where_asked() {
        let faults: Faults = serde_json::from_value(json!([
            { "at": "start", "do": "error", "kind": "ResourceUnavailable", "message": "no", "times": 2 }
        ]))
        .unwrap();
        assert_eq!(faults.at(Place::Wait).await, Ok(()));
        for _ in 0..2 {
            assert_eq!(
                faults.at(Place::Start).await,
                Err(Error::new(ErrorKind::ResourceUnavailable, "no"))
            );
        }
        assert_eq!(faults.at(Place::Start).await, Ok(()));
    }
}
