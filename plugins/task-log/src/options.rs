//! What a task says about its log, in either dialect.

use tcw_abi::serde_json::{Value, json};

/// Whose payload it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `logs: {live, backing}`, `features.backingLog`.
    GenericWorker,
    /// `log`, `features.bulkLog`, `features.artifacts`.
    DockerWorker,
}

const LIVE: &str = "public/logs/live.log";
const BACKING: &str = "public/logs/live_backing.log";

/// What applies to one task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// The name that leads to the log, while the task runs and afterwards.
    pub(crate) live: String,
    /// The name of the log itself.
    pub(crate) backing: String,
    /// Whether it is published at all.
    pub(crate) upload: bool,
    /// What is wrong with the names that the task chose. The defaults apply then, so that its author can read it.
    pub(crate) flaw: Option<String>,
}

impl Dialect {
    /// The options of a task with this payload, which may be `null`.
    pub(crate) fn options(self, payload: &Value) -> Options {
        let on = |feature: &str| payload["features"][feature].as_bool().unwrap_or(true);
        let (live, backing, upload, keys) = match self {
            Dialect::GenericWorker => {
                let name =
                    |key: &str, default: &str| payload["logs"][key].as_str().unwrap_or(default).to_owned();
                let names = (name("live", LIVE), name("backing", BACKING));
                (names.0, names.1, on("backingLog"), ("logs.live", "logs.backing"))
            }
            Dialect::DockerWorker => {
                let live = payload["log"].as_str().unwrap_or(LIVE).to_owned();
                let backing = beside(&live);
                (live, backing, on("bulkLog") && on("artifacts"), ("log", "log"))
            }
        };
        let flaw = flaw(keys.0, &live)
            .or_else(|| flaw(keys.1, &backing))
            .or_else(|| {
                (live == backing).then(|| {
                    format!(
                        "payload keys {} and {}: the log and the link to it cannot both be named {live:?}",
                        keys.0, keys.1
                    )
                })
            });
        match flaw {
            None => Options {
                live,
                backing,
                upload,
                flaw,
            },
            Some(_) => Options {
                live: LIVE.into(),
                backing: BACKING.into(),
                upload,
                flaw,
            },
        }
    }

    /// The plugin's part of the payload.
    pub(crate) fn payload_schema(self) -> Value {
        let name = |description: &str, default: &str| {
            json!({
                "type": "string",
                "description": description,
                "minLength": 1,
                "maxLength": 1024,
                "pattern": "^[ -~]+$",
                "default": default,
            })
        };
        let switch =
            |description: &str| json!({ "type": "boolean", "description": description, "default": true });
        match self {
            Dialect::GenericWorker => json!({
                "type": "object",
                "properties": {
                    "logs": {
                        "type": "object",
                        "description": "The names of the artifacts that hold the task log.",
                        "properties": {
                            "live": name("The name that leads to the task log, while the task runs and afterwards.", LIVE),
                            "backing": name("The name of the task log itself, published when the task has ended.", BACKING),
                        },
                        "additionalProperties": false,
                    },
                    "features": {
                        "type": "object",
                        "description": "What the worker does beside running the command.",
                        "properties": {
                            "backingLog": switch("Whether the task log is published when the task has ended."),
                        },
                        "additionalProperties": false,
                    },
                },
            }),
            Dialect::DockerWorker => json!({
                "type": "object",
                "properties": {
                    "log": name("The name of the artifact that leads to the task log.", LIVE),
                    "features": {
                        "type": "object",
                        "description": "What the worker does beside running the command.",
                        "properties": {
                            "bulkLog": switch("Whether the task log is published when the task has ended."),
                            "artifacts": switch("Whether artifacts are published; without them there is no log either."),
                        },
                        "additionalProperties": false,
                    },
                },
            }),
        }
    }
}

/// `public/logs/live.log` becomes `public/logs/live_backing.log`.
fn beside(live: &str) -> String {
    let file = live.rfind('/').map_or(0, |slash| slash + 1);
    match live[file..].rfind('.') {
        Some(dot) => format!("{}_backing{}", &live[..file + dot], &live[file + dot..]),
        None => format!("{live}_backing"),
    }
}

/// Why an artifact cannot have that name.
fn flaw(key: &str, name: &str) -> Option<String> {
    let wrong = if name.is_empty() || !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        "it has to be printable ASCII"
    } else if name.len() > 1024 {
        "it is longer than 1024 characters"
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "between slashes, and before the first and after the last, something other than '.' and '..' has to stand"
    } else {
        return None;
    };
    Some(format!(
        "payload key {key}: {name:?} cannot be the name of an artifact: {wrong}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backing_log_stands_beside_the_live_one() {
        assert_eq!(beside(LIVE), BACKING);
        assert_eq!(beside("a.b/log"), "a.b/log_backing");
        assert_eq!(beside("log"), "log_backing");
    }
}
