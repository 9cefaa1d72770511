//! A task's payload: what it pretends to do, and what goes wrong with it.

use serde::Deserialize;
use serde_json::{Value, json};
use tcw_abi::{Error, Result};

use crate::faults::{self, Faults};

/// What a task pretends to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Function {
    #[default]
    True,
    False,
    Wait,
    WriteVolume,
    ReadVolume,
    GetUrl,
    PingProxy,
    WriteLog,
    WriteErrorLog,
    WriteLogSleep,
    WriteLogWait,
    FloodLog,
    WriteFiles,
    WriteMany,
    PrintFile,
    PrintMode,
    PrintEnvVar,
    MalformedPayloadInitial,
    MalformedPayloadAfterStart,
    FatalInternalError,
    NonfatalInternalError,
    StopNowSleep,
}

/// Each function, and what it does with the argument.
const FUNCTIONS: &[(&str, &str)] = &[
    ("true", "succeeds"),
    ("false", "fails"),
    ("wait", "runs until it is killed or aborted"),
    (
        "write-volume",
        "writes into the volume that is mounted at the argument",
    ),
    (
        "read-volume",
        "succeeds if the volume that is mounted at the argument was written to",
    ),
    (
        "get-url",
        "fetches the argument, an address, prints what it gets and succeeds if the status is 200",
    ),
    (
        "ping-proxy",
        "the same for an address of an attached proxy, after printing `Pinging`",
    ),
    ("write-log", "prints the argument"),
    ("write-error-log", "prints the argument and fails"),
    (
        "write-log-sleep",
        "prints the argument and waits for half a second",
    ),
    (
        "write-log-wait",
        "prints the argument and runs until it is killed or aborted",
    ),
    (
        "flood-log",
        "prints as many bytes as the argument, a number, says, in lines",
    ),
    (
        "write-files",
        "writes `Hello World` into files whose names stand in the argument, separated by spaces",
    ),
    (
        "write-many",
        "writes as many files as the argument, a number, says: `many/0` and so on, each with its number",
    ),
    (
        "print-file",
        "prints the file that was put at the argument, or that is there in a volume",
    ),
    (
        "print-mode",
        "prints the permissions of such a file, in octal digits",
    ),
    (
        "print-env-var",
        "prints the variable that is named by the argument",
    ),
    (
        "malformed-payload-initial",
        "after the delay, the payload is malformed before there is a sandbox",
    ),
    (
        "malformed-payload-after-start",
        "after the delay, the running sandbox finds the payload malformed",
    ),
    ("fatal-internal-error", "breaks the worker"),
    ("nonfatal-internal-error", "breaks the task"),
    (
        "stop-now-sleep",
        "asks the worker to stop at once, then runs until it is aborted",
    ),
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Payload {
    /// Milliseconds.
    pub(crate) delay: u64,
    pub(crate) function: Function,
    pub(crate) argument: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) faults: Faults,
}

impl Payload {
    pub(crate) fn parse(payload: Value) -> Result<Payload> {
        serde_json::from_value(payload).map_err(|error| {
            Error::malformed(format!("the payload of the mock engine cannot be read: {error}"))
        })
    }
}

pub(crate) fn schema() -> Value {
    let names: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
    json!({
        "type": "object",
        "properties": {
            "delay": {
                "description": "Milliseconds before the function does what it does.",
                "type": "integer",
                "minimum": 0,
                "maximum": 300_000,
                "default": 0
            },
            "function": {
                "description": "What the task pretends to do; the documentation tells about each.",
                "enum": names,
                "default": "true"
            },
            "argument": {
                "description": "What the function is given.",
                "type": "string",
                "maxLength": 255,
                "default": ""
            },
            "exitCode": {
                "description": "The exit code, whatever the function does. Not 0: the task fails.",
                "type": "integer",
                "minimum": 0,
                "maximum": 255
            },
            "faults": faults::task_schema()
        }
    })
}

/// The functions as a table, for the documentation.
pub(crate) fn function_table() -> String {
    let mut table = String::from("| function | what it does |\n|---|---|\n");
    for (name, text) in FUNCTIONS {
        table.push_str(&format!("| `{name}` | {text} |\n"));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_the_schema_can_be_asked_for() {
        for (name, _) in FUNCTIONS {
            Payload::parse(json!({ "function": name })).unwrap();
        }
    }
}
