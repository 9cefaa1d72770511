//! The engine's part of a task's payload: generic-worker's `command`.

use serde::Deserialize;
use serde_json::{Value, json};
use tcw_abi::{Error, Result};

/// What a task asks this engine for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payload {
    /// Programs with their arguments, run one after another.
    pub(crate) command: Vec<Vec<String>>,
}

impl Payload {
    pub(crate) fn parse(payload: Value) -> Result<Payload> {
        let payload: Payload = serde_json::from_value(payload)
            .map_err(|error| Error::malformed(format!("the payload's `command` cannot be read: {error}")))?;
        for (index, command) in payload.command.iter().enumerate() {
            if command.is_empty() {
                return Err(Error::malformed(format!(
                    "command[{index}] is empty: the first element of a command is the program to run"
                )));
            }
            if command.iter().any(|argument| argument.contains('\0')) {
                return Err(Error::malformed(format!(
                    "command[{index}] contains the character NUL, which no program can be given"
                )));
            }
        }
        if payload.command.is_empty() {
            return Err(Error::malformed(
                "`command` is empty: a task runs one command at least",
            ));
        }
        Ok(payload)
    }
}

pub(crate) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "command": {
                "title": "Commands to run",
                "description": "The commands of the task: a list of programs with their arguments. They run one \
                    after another in the task's directory; the first that does not exit with 0 is the last. \
                    There is no shell in between: use `[\"/bin/bash\", \"-c\", \"...\"]` for one.",
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "array",
                    "minItems": 1,
                    "items": { "type": "string" }
                }
            }
        },
        "required": ["command"]
    })
}
