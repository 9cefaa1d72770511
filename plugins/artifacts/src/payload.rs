//! What a task asks for, in either dialect, checked as far as it can be before the task runs.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use tcw_abi::serde_json::{self, Value, json};
use tcw_abi::services::{ContentEncoding, TaskInfo};
use tcw_abi::{Error, Result};

use crate::names;

/// Whose payload it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// A list.
    GenericWorker,
    /// An object by name.
    DockerWorker,
}

/// A file, or all that is in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
}

/// What it means that there is no such file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The task has failed.
    Failure,
    /// Whoever fetches the artifact is told; the task goes on. That is docker-worker's way.
    Told,
    /// Nothing.
    Ignored,
}

/// One artifact, or one folder of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// Inside the sandbox, as the task wrote it.
    pub(crate) path: String,
    /// Of the file; of a folder, what stands before its files' names, which may be nothing.
    pub(crate) name: String,
    /// `None`: as long as the task.
    pub(crate) expires: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<ContentEncoding>,
    pub(crate) absence: Absence,
}

/// What is to be done for one task.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) wanted: Vec<Wanted>,
    /// The names of the task log.
    pub(crate) reserved: Vec<String>,
    /// When the task expires, as it is shown.
    pub(crate) expires: String,
    /// A sentence each; with any of them the task does not run.
    pub(crate) flaws: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum EntryKind {
    File,
    Directory,
    /// docker-worker's; a volume is a folder for whoever reads it.
    Volume,
}

/// An entry of either form: docker-worker's has fewer keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    r#type: EntryKind,
    path: String,
    name: Option<String>,
    expires: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<ContentEncoding>,
    #[serde(default)]
    optional: bool,
}

impl Dialect {
    /// The plan of a task with this payload, which may be `null`. The task itself is only asked for if there is
    /// something to do.
    pub(crate) fn plan(self, payload: &Value, task: impl FnOnce() -> TaskInfo) -> Result<Plan> {
        let artifacts = &payload["artifacts"];
        let unreadable = |error: serde_json::Error| {
            Error::malformed(format!("payload key artifacts cannot be read: {error}"))
        };
        // A place in the payload for each, so that what is wrong can be found.
        let entries: Vec<(String, Entry)> = match (self, artifacts) {
            (_, Value::Null) => Vec::new(),
            (Dialect::GenericWorker, list) => {
                let list = Vec::<Entry>::deserialize(list).map_err(unreadable)?;
                let place = |index| format!("artifacts[{index}]");
                list.into_iter()
                    .enumerate()
                    .map(|(index, entry)| (place(index), entry))
                    .collect()
            }
            // Without artifacts there is nothing to say about them either.
            (Dialect::DockerWorker, _) if payload["features"]["artifacts"] == false => Vec::new(),
            (Dialect::DockerWorker, map) => {
                let map = BTreeMap::<String, Entry>::deserialize(map).map_err(unreadable)?;
                map.into_iter()
                    .map(|(name, entry)| {
                        let place = format!("artifacts.{}", names::shown(&name));
                        let name = Some(name);
                        (place, Entry { name, ..entry })
                    })
                    .collect()
            }
        };
        if entries.is_empty() {
            return Ok(Plan::default());
        }
        let bounds = Bounds::of(task())?;
        Ok(self.plan_of(entries, bounds))
    }

    fn plan_of(self, entries: Vec<(String, Entry)>, bounds: Bounds) -> Plan {
        let mut plan = Plan {
            reserved: self.log_names(&bounds.task.definition["payload"]),
            expires: rfc3339(bounds.last),
            ..Plan::default()
        };
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for (place, entry) in entries {
            let mut flaw = |flaw: String| plan.flaws.push(format!("payload key {place}: {flaw}"));
            let wanted = match self.wanted(entry, &bounds) {
                Ok(wanted) => wanted,
                Err(flaws) => {
                    flaws.into_iter().for_each(&mut flaw);
                    continue;
                }
            };
            if wanted.kind == Kind::File {
                let path = names::tidy(&wanted.path);
                match files.get(&wanted.name) {
                    // The same file twice: once is enough.
                    Some(there) if *there == path => continue,
                    Some(there) => {
                        flaw(format!(
                            "the artifact {:?} cannot be both {:?} and {:?}: give one of them another name",
                            wanted.name, there, wanted.path
                        ));
                        continue;
                    }
                    None => drop(files.insert(wanted.name.clone(), path)),
                }
            }
            plan.wanted.push(wanted);
        }
        plan
    }

    /// One entry, or all that is wrong with it.
    fn wanted(self, entry: Entry, bounds: &Bounds) -> Result<Wanted, Vec<String>> {
        let kind = match entry.r#type {
            EntryKind::File => Kind::File,
            EntryKind::Directory | EntryKind::Volume => Kind::Folder,
        };
        let mut flaws = Vec::new();
        if entry.path.is_empty() || entry.path.contains('\0') {
            flaws.push(format!(
                "{:?} cannot be a path: it is empty or contains NUL",
                entry.path
            ));
        }
        let name = name_of(kind, entry.name.as_deref(), &entry.path);
        let expires = match entry.expires.as_deref() {
            None => Ok(None),
            Some(expires) => bounds.check(expires),
        };
        // Who gives an empty one means none, as with generic-worker.
        let content_type = entry.content_type.filter(|content_type| !content_type.is_empty());
        if let Some(content_type) = &content_type
            && !content_type.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        {
            flaws.push(format!(
                "{content_type:?} cannot be a content type: it has characters that are not printable ASCII"
            ));
        }
        let mut good = |result: Result<_, String>| result.map_err(|flaw| flaws.push(flaw)).ok();
        let name = good(name.map(Some)).flatten();
        let expires = good(expires).flatten();
        match name {
            Some(name) if flaws.is_empty() => Ok(Wanted {
                kind,
                path: entry.path,
                name,
                expires,
                content_type,
                content_encoding: entry.content_encoding,
                absence: match self {
                    Dialect::DockerWorker => Absence::Told,
                    Dialect::GenericWorker if entry.optional => Absence::Ignored,
                    Dialect::GenericWorker => Absence::Failure,
                },
            }),
            // Its name is what its author looks for.
            Some(name) => Err(flaws
                .into_iter()
                .map(|flaw| format!("artifact {name:?}: {flaw}"))
                .collect()),
            None => Err(flaws),
        }
    }

    /// The names that the task log has: they are not the task's to take.
    fn log_names(self, payload: &Value) -> Vec<String> {
        let name = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
        match self {
            Dialect::GenericWorker => vec![
                name(&payload["logs"]["live"], "public/logs/live.log"),
                name(&payload["logs"]["backing"], "public/logs/live_backing.log"),
            ],
            Dialect::DockerWorker => {
                let live = name(&payload["log"], "public/logs/live.log");
                let dot = live.rfind('.').filter(|dot| !live[*dot..].contains('/'));
                let (stem, extension) = live.split_at(dot.unwrap_or(live.len()));
                let backing = format!("{stem}_backing{extension}");
                vec![live, backing]
            }
        }
    }

    /// The plugin's part of the payload.
    pub(crate) fn payload_schema(self) -> Value {
        let expires = json!({
            "type": "string",
            "format": "date-time",
            "description": "Until when it is kept: not before the task's deadline, and not after the task expires, which is the default.",
        });
        let path = json!({
            "type": "string",
            "minLength": 1,
            "description": "Where the file or folder is: relative to the task's directory, or absolute.",
        });
        let name = json!({
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[ -~]+$",
            "description": "The artifact's name; of a folder, what stands before the names of its files. The default is the path.",
        });
        match self {
            Dialect::GenericWorker => json!({
                "type": "object",
                "properties": {
                    "artifacts": {
                        "type": "array",
                        "description": "Files and folders that are published when the task has stopped, also if it failed.",
                        "uniqueItems": true,
                        "items": {
                            "type": "object",
                            "properties": {
                                "type": {
                                    "type": "string",
                                    "enum": ["file", "directory"],
                                    "description": "One file, or all files beneath a folder.",
                                },
                                "path": path,
                                "name": name,
                                "expires": expires,
                                "contentType": {
                                    "type": "string",
                                    "maxLength": 255,
                                    "description": "The content type; by default what the file's extension says.",
                                },
                                "contentEncoding": {
                                    "type": "string",
                                    "enum": ["identity", "gzip"],
                                    "description": "How it is stored; by default `gzip`, except for files whose extension says that they are compressed.",
                                },
                                "optional": {
                                    "type": "boolean",
                                    "default": false,
                                    "description": "Whether the task may succeed without it.",
                                },
                            },
                            "required": ["type", "path"],
                            "additionalProperties": false,
                        },
                    },
                },
            }),
            Dialect::DockerWorker => json!({
                "type": "object",
                "properties": {
                    "artifacts": {
                        "type": "object",
                        "description": "Files and folders that are published when the task has stopped, also if it failed, by the artifact's name.",
                        "propertyNames": { "minLength": 1, "maxLength": 1024, "pattern": "^[ -~]+$" },
                        "additionalProperties": {
                            "type": "object",
                            "properties": {
                                "type": {
                                    "type": "string",
                                    "enum": ["file", "directory", "volume"],
                                    "description": "One file, or all files beneath a folder; a volume is a folder.",
                                },
                                "path": path,
                                "expires": expires,
                            },
                            "required": ["type", "path"],
                            "additionalProperties": false,
                        },
                    },
                    "features": {
                        "type": "object",
                        "description": "What the worker does beside running the command.",
                        "properties": {
                            "artifacts": {
                                "type": "boolean",
                                "default": true,
                                "description": "Whether artifacts are published; without them there is no log either.",
                            },
                        },
                        "additionalProperties": false,
                    },
                },
            }),
        }
    }
}

/// The name that was given, or the one that follows from the path.
fn name_of(kind: Kind, given: Option<&str>, path: &str) -> Result<String, String> {
    let (name, hint) = match given {
        // `public/build/` and `public/build` are the same folder.
        Some(name) if kind == Kind::Folder => (name.strip_suffix('/').unwrap_or(name).to_owned(), ""),
        Some(name) => (name.to_owned(), ""),
        None => {
            let name = names::tidy(path).trim_start_matches('/').to_owned();
            if name.is_empty() && kind == Kind::Folder {
                // The task's directory itself: its files are named by themselves.
                return Ok(name);
            }
            (name, "; give it a `name` of its own")
        }
    };
    match names::flaw(&name) {
        None => Ok(name),
        Some(flaw) => Err(format!(
            "{name:?} cannot be the name of an artifact: {flaw}{hint}"
        )),
    }
}

/// Between which times artifacts of a task can expire.
struct Bounds {
    task: TaskInfo,
    deadline: DateTime<FixedOffset>,
    last: DateTime<FixedOffset>,
}

impl Bounds {
    fn of(task: TaskInfo) -> Result<Self> {
        let time = |what: &str, text: &str| {
            DateTime::parse_from_rfc3339(text).map_err(|error| {
                Error::internal(format!("the task's {what} {text:?} is not a time: {error}"))
            })
        };
        Ok(Bounds {
            deadline: time("deadline", &task.deadline)?,
            last: time("expiry", &task.expires)?,
            task,
        })
    }

    /// The time as the queue takes it, `None` for as long as the task. A second more or less is a matter of how a
    /// client rounds.
    fn check(&self, expires: &str) -> Result<Option<String>, String> {
        let time = DateTime::parse_from_rfc3339(expires)
            .map_err(|error| format!("the expiry {expires:?} is not a time: {error}"))?;
        let second = TimeDelta::seconds(1);
        if time < self.deadline - second {
            Err(format!(
                "the expiry {expires} is before the task's deadline {}: choose a later one, or leave it out",
                self.task.deadline
            ))
        } else if time > self.last + second {
            Err(format!(
                "the expiry {expires} is after the task's own {}: choose an earlier one, or leave it out",
                self.task.expires
            ))
        } else if time >= self.last {
            Ok(None)
        } else {
            Ok(Some(rfc3339(time)))
        }
    }
}

fn rfc3339(time: DateTime<FixedOffset>) -> String {
    time.with_timezone(&Utc)
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}
