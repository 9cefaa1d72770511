//! Task files: a whole definition, or just what matters of one.
//!
//! A file has at least `payload`. What else a task needs (when it was made, until when it may run, whose it is) has
//! defaults here; everything that a definition may hold can be given. Unknown keys are refused by the queue's own
//! schema; those at the top are refused here, with the key that was probably meant.

use std::io::ErrorKind;
use std::path::Path;

use chrono::{DateTime, Duration, Utc};
use serde_json::{Map, Value, json};

use super::outcome::Failure;
use crate::config::document::Document;
use crate::queue::{WorkerPoolId, format_time};
use crate::schema::nearest;

/// What a definition may hold (`schemas/queue/v1/create-task-request.json` of the published references).
const KEYS: &[&str] = &[
    "taskQueueId",
    "provisionerId",
    "workerType",
    "schedulerId",
    "projectId",
    "taskGroupId",
    "dependencies",
    "requires",
    "routes",
    "priority",
    "retries",
    "created",
    "deadline",
    "expires",
    "scopes",
    "payload",
    "metadata",
    "tags",
    "extra",
];

/// How long a task may take if it does not say.
const DEADLINE: Duration = Duration::hours(24);

/// How long it is kept after that.
const KEPT: Duration = Duration::days(14);

/// Reads a task file and completes it. `pool` is where it runs if it does not say; without one, it has to.
pub(super) fn read(path: &Path, pool: Option<&WorkerPoolId>) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::InvalidData => "a task is a text in YAML or JSON with at least `payload:`",
            _ => "check the path and its permissions",
        };
        Failure::usage(format!(
            "the task file {} cannot be read: {error}; {remedy}",
            path.display()
        ))
    })?;
    let document = Document::parse(&text).map_err(|error| {
        let line = error.line.map_or_else(String::new, |line| format!(":{line}"));
        Failure::usage(format!("the task file {}{line}: {error}", path.display()))
    })?;
    complete(document.value, path, pool, Utc::now())
        .map_err(|error| Failure::usage(format!("the task file {}: {error}", path.display())))
}

fn complete(
    value: Value,
    path: &Path,
    pool: Option<&WorkerPoolId>,
    now: DateTime<Utc>,
) -> Result<Value, String> {
    let Value::Object(mut task) = value else {
        return Err("it has to be an object with at least `payload`".into());
    };
    for key in task.keys() {
        if !KEYS.contains(&key.as_str()) {
            let hint = match nearest(key, KEYS.iter().copied()) {
                Some(meant) => format!("; did you mean `{meant}`?"),
                None => "; what the engine and the plugins understand stands under `payload`".to_owned(),
            };
            return Err(format!("`{key}` is no key of a task{hint}"));
        }
    }
    if !task.contains_key("payload") {
        return Err("it has no `payload`, which says what to run".into());
    }
    if !task.contains_key("taskQueueId") && !task.contains_key("provisionerId") {
        let pool = pool.ok_or(
            "it does not say which worker pool it is for, and a deployment has many: add \
             `--worker-pool PROVISIONER/WORKER-TYPE`, or `taskQueueId:` to the file",
        )?;
        task.insert("taskQueueId".into(), json!(pool.to_string()));
    }
    let time = |task: &Map<String, Value>, key: &str| -> Result<Option<DateTime<Utc>>, String> {
        match task.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
                .map(|time| Some(time.to_utc()))
                .ok_or_else(|| format!("`{key}` has to be a time such as 2026-01-25T23:31:13.787Z")),
        }
    };
    let created = time(&task, "created")?.unwrap_or(now);
    let deadline = time(&task, "deadline")?.unwrap_or(created + DEADLINE);
    let expires = time(&task, "expires")?.unwrap_or(deadline + KEPT);
    task.insert("created".into(), json!(format_time(created)));
    task.insert("deadline".into(), json!(format_time(deadline)));
    task.insert("expires".into(), json!(format_time(expires)));
    let name = path
        .file_stem()
        .map_or_else(|| "task".into(), |stem| stem.to_string_lossy().into_owned());
    let metadata = task.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut() {
        let defaults = [
            ("name", name.clone()),
            ("description", format!("From the file {name}.")),
            ("owner", "nobody@localhost.localdomain".to_owned()),
            ("source", "https://localhost/".to_owned()),
        ];
        for (key, default) in defaults {
            metadata.entry(key).or_insert_with(|| json!(default));
        }
    }
    Ok(Value::Object(task))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(task: Value) -> Result<Value, String> {
        let pool = WorkerPoolId::new("local", "native").unwrap();
        let now = "2026-01-01T00:00:00.000Z".parse().unwrap();
        complete(task, Path::new("dir/hello.yml"), Some(&pool), now)
    }

    #[test]
    fn a_payload_is_enough() {
        assert_eq!(
            completed(json!({"payload": {"command": []}, "metadata": {"owner": "a@b.c"}})).unwrap(),
            json!({
                "taskQueueId": "local/native",
                "created": "2026-01-01T00:00:00.000Z",
                "deadline": "2026-01-02T00:00:00.000Z",
                "expires": "2026-01-16T00:00:00.000Z",
                "payload": {"command": []},
                "metadata": {
                    "name": "hello",
                    "description": "From the file hello.",
                    "owner": "a@b.c",
                    "source": "https://localhost/",
                },
            })
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(
            completed(json!({"payloud": {}})).unwrap_err(),
            "`payloud` is no key of a task; did you mean `payload`?"
        );
        assert_eq!(
            completed(json!([])).unwrap_err(),
            "it has to be an object with at least `payload`"
        );
        assert_eq!(
            completed(json!({"payload": {}, "deadline": "soon"})).unwrap_err(),
            "`deadline` has to be a time such as 2026-01-25T23:31:13.787Z"
        );
    }
}
