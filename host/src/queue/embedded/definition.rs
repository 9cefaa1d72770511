//! A task's definition as it arrives: checked against the limits that no schema can express, and completed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::record::{Millis, Task, iso};
use super::schemas;
use crate::queue::{Priority, Requires, TaskId, WorkerPoolId};

/// How far a task's creation may be from now.
const CLOCK_TOLERANCE: Millis = 15 * 60 * 1000;
/// How long after its creation a task's deadline may be.
const LONGEST_DEADLINE: Millis = 5 * 24 * 3600 * 1000;
/// When a task expires unless it says so: a year after its deadline.
const DEFAULT_LIFE: Millis = 365 * 24 * 3600 * 1000;

/// A definition that may be stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Definition {
    pub(super) task: Task,
    pub(super) pool: WorkerPoolId,
    pub(super) dependencies: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) routes: Vec<String>,
    pub(super) payload: Value,
    /// The whole definition in one canonical form, so that equal definitions are equal texts.
    pub(super) text: String,
}

/// Reads a time that the schema has found to be one, whatever its zone and precision.
pub(super) fn parse_time(value: Option<&Value>) -> Result<Millis, ApiError> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc).timestamp_millis())
        .map_err(|error| ApiError::validation(format!("{text:?} is not a time: {error}")))
}

pub(super) fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

impl Definition {
    pub(super) fn read(id: &TaskId, body: Value, now: Millis) -> Result<Self, ApiError> {
        schemas::check(&schemas::TASK, &body, "task")?;
        let Value::Object(mut body) = body else {
            return Err(ApiError::validation("the task is not an object"));
        };
        let pool = read_pool(&body)?;
        let (created, deadline) = (
            parse_time(body.get("created"))?,
            parse_time(body.get("deadline"))?,
        );
        let expires = match body.get("expires") {
            Some(time) => parse_time(Some(time))?,
            None => deadline + DEFAULT_LIFE,
        };
        check_times(now, created, deadline, expires)?;

        // Defaults first and what was written on top; a BTreeMap within serde_json keeps the keys in order.
        let mut full: Map<String, Value> = Map::new();
        for (key, value) in defaults(id, &pool) {
            full.insert(key.to_owned(), value);
        }
        full.append(&mut body);
        for (key, time) in [("created", created), ("deadline", deadline), ("expires", expires)] {
            full.insert(key.to_owned(), iso(time).into());
        }
        let scopes = strings(full.get("scopes"));
        if let Some(scope) = scopes.iter().find(|scope| scope.ends_with("**")) {
            return Err(ApiError::input(format!(
                "the scope {scope:?} ends in two stars; one star already covers everything"
            )));
        }
        let text_of = |key: &str| {
            full.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let retries = full
            .get("retries")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0);
        let priority: Priority =
            serde_json::from_value(full["priority"].clone()).map_err(ApiError::internal)?;
        let requires: Requires =
            serde_json::from_value(full["requires"].clone()).map_err(ApiError::internal)?;
        let task = Task {
            id: id.to_string(),
            pool: pool.to_string(),
            scheduler: text_of("schedulerId"),
            group: text_of("taskGroupId"),
            project: text_of("projectId"),
            priority,
            requires,
            deadline,
            expires,
            retries,
            retries_left: retries,
            position: 0,
            runs: Vec::new(),
        };
        Ok(Self {
            task,
            pool,
            dependencies: strings(full.get("dependencies")),
            routes: strings(full.get("routes")),
            payload: full.get("payload").cloned().unwrap_or_default(),
            scopes,
            text: canonical(&Value::Object(full)),
        })
    }
}

fn defaults(id: &TaskId, pool: &WorkerPoolId) -> [(&'static str, Value); 14] {
    [
        ("provisionerId", pool.provisioner().into()),
        ("workerType", pool.worker_type().into()),
        ("taskQueueId", pool.to_string().into()),
        ("schedulerId", "-".into()),
        ("projectId", "none".into()),
        ("taskGroupId", id.as_str().into()),
        ("dependencies", json!([])),
        ("requires", "all-completed".into()),
        ("routes", json!([])),
        ("priority", "lowest".into()),
        ("retries", 5.into()),
        ("scopes", json!([])),
        ("tags", json!({})),
        ("extra", json!({})),
    ]
}

/// The pool, which is named as a whole, in two halves, or both.
fn read_pool(body: &Map<String, Value>) -> Result<WorkerPoolId, ApiError> {
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    let halves = match (text("provisionerId"), text("workerType")) {
        (Some(provisioner), Some(worker_type)) => Some(format!("{provisioner}/{worker_type}")),
        _ => None,
    };
    let whole = text("taskQueueId").map(str::to_owned);
    let pool = match (whole, halves) {
        (Some(whole), Some(halves)) if whole != halves => {
            return Err(ApiError::input(format!(
                "taskQueueId is {whole:?}, but provisionerId and workerType make {halves:?}; leave one of them out"
            )));
        }
        (Some(pool), _) | (None, Some(pool)) => pool,
        (None, None) => return Err(ApiError::input("the task names no pool; set taskQueueId")),
    };
    pool.parse().map_err(|error| ApiError::input(format!("{error}")))
}

fn check_times(now: Millis, created: Millis, deadline: Millis, expires: Millis) -> Result<(), ApiError> {
    if (created - now).abs() > CLOCK_TOLERANCE {
        let (created, now) = (iso(created), iso(now));
        return Err(ApiError::input(format!(
            "created ({created}) is more than 15 minutes from now ({now})"
        )));
    }
    if deadline < created || deadline < now {
        return Err(ApiError::input(format!(
            "the deadline ({}) has passed already",
            iso(deadline)
        )));
    }
    if deadline > now + LONGEST_DEADLINE + CLOCK_TOLERANCE {
        return Err(ApiError::input(format!(
            "the deadline ({}) is more than 5 days from now",
            iso(deadline)
        )));
    }
    if expires < deadline {
        return Err(ApiError::input(format!(
            "expires ({}) is before the deadline ({})",
            iso(expires),
            iso(deadline)
        )));
    }
    Ok(())
}

/// JSON with the keys of each object in order.
fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let ordered: BTreeMap<&String, Value> =
                    map.iter().map(|(key, value)| (key, sorted(value))).collect();
                ordered
                    .into_iter()
                    .map(|(key, value)| (key.clone(), value))
                    .collect::<Map<_, _>>()
                    .into()
            }
            Value::Array(list) => list.iter().map(sorted).collect::<Vec<_>>().into(),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_790_000_000_000;
    const HOUR: Millis = 3_600_000;

    fn body() -> Value {
        json!({
            "taskQueueId": "p/w",
            "created": iso(NOW),
            "deadline": iso(NOW + HOUR),
            "payload": { "b": 1, "a": 2 },
            "metadata": { "name": "n", "description": "d", "owner": "o", "source": "https://example.com" },
        })
    }

    fn read(body: Value) -> Result<Definition, ApiError> {
        Definition::read(&"fN1SbArXTPSVFNUvaOlinQ".parse().unwrap(), body, NOW)
    }

    #[test]
    fn defaults_are_filled_in() {
        let definition = read(body()).unwrap();
        let full: Value = serde_json::from_str(&definition.text).unwrap();
        assert_eq!(full["taskGroupId"], "fN1SbArXTPSVFNUvaOlinQ");
        assert_eq!(
            (&full["provisionerId"], &full["workerType"]),
            (&json!("p"), &json!("w"))
        );
        assert_eq!(
            (&full["priority"], &full["retries"]),
            (&json!("lowest"), &json!(5))
        );
        assert_eq!(definition.task.expires, NOW + HOUR + DEFAULT_LIFE);
    }

    #[test]
    fn equal_definitions_are_equal_texts() {
        let mut other = body();
        other["created"] = "2026-09-21T16:13:20+02:00".into();
        other["priority"] = "lowest".into();
        other["provisionerId"] = "p".into();
        assert_eq!(
            DateTime::parse_from_rfc3339("2026-09-21T16:13:20+02:00")
                .unwrap()
                .timestamp_millis(),
            NOW
        );
        assert_eq!(read(other).unwrap().text, read(body()).unwrap().text);
    }

    #[test]
    fn limits_beyond_the_schema_are_input_errors() {
        let with = |key: &str, value: Value| {
            let mut body = body();
            body[key] = value;
            read(body).map(|_| ()).map_err(|error| error.code)
        };
        let at = |time: Millis| Value::from(iso(time));
        for (key, value) in [
            ("created", at(NOW - 16 * 60_000)),
            ("deadline", at(NOW - 1)),
            ("deadline", at(NOW + LONGEST_DEADLINE + 16 * 60_000)),
            ("expires", at(NOW + HOUR - 1)),
            ("scopes", json!(["a**"])),
        ] {
            assert_eq!(with(key, value.clone()), Err("InputError"), "{key}: {value}");
        }
        assert_eq!(with("deadline", at(NOW + LONGEST_DEADLINE)), Ok(()));
        assert_eq!(with("retries", json!(50)), Err("InputValidationError"));
        assert_eq!(with("nonsense", json!(1)), Err("InputValidationError"));
    }

    #[test]
    fn the_pool_is_named_once_or_alike() {
        let pool = |whole: Option<&str>, halves: Option<(&str, &str)>| {
            let mut body = body();
            let map = body.as_object_mut().unwrap();
            map.remove("taskQueueId");
            if let Some(whole) = whole {
                map.insert("taskQueueId".to_owned(), whole.into());
            }
            if let Some((provisioner, worker_type)) = halves {
                map.insert("provisionerId".to_owned(), provisioner.into());
                map.insert("workerType".to_owned(), worker_type.into());
            }
            read(body)
                .map(|definition| definition.task.pool)
                .map_err(|error| error.code)
        };
        assert_eq!(pool(None, Some(("p", "w"))), Ok("p/w".to_owned()));
        assert_eq!(pool(Some("p/w"), Some(("p", "w"))), Ok("p/w".to_owned()));
        assert_eq!(pool(Some("p/w"), Some(("p", "x"))), Err("InputError"));
        assert_eq!(pool(None, None), Err("InputError"));
    }
}
