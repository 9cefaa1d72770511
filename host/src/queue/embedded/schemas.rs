//! What the bodies of requests have to look like. Written as JSON schemas, so that a refusal names everything that is
//! wrong at once; whether they agree with the published ones is what `tests/queue_contract` checks.

use std::collections::HashMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::error::ApiError;

const SLUG: &str = "^[A-Za-z0-9_-]{8}[Q-T][A-Za-z0-9_-][CGKOSWaeimquy26-][A-Za-z0-9_-]{10}[AQgw]$";
const PRIORITIES: [&str; 7] = [
    "highest",
    "very-high",
    "high",
    "medium",
    "low",
    "very-low",
    "lowest",
];
/// The most violations that one refusal lists.
const MOST_LISTED: usize = 50;

/// The body of createTask.
pub(super) static TASK: LazyLock<Validator> = LazyLock::new(|| {
    let text = |longest: u32| json!({ "type": "string", "maxLength": longest });
    let time = json!({ "type": "string", "format": "date-time" });
    let slug = json!({ "type": "string", "pattern": SLUG });
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["created", "deadline", "payload", "metadata"],
        "properties": {
            "provisionerId": { "type": "string", "pattern": "^[a-zA-Z0-9-_]{1,38}$" },
            "workerType": { "type": "string", "pattern": "^[a-z]([-a-z0-9]{0,36}[a-z0-9])?$" },
            "taskQueueId": { "type": "string", "pattern": "^[a-zA-Z0-9-_]{1,38}/[a-z]([-a-z0-9]{0,36}[a-z0-9])?$" },
            "schedulerId": { "type": "string", "pattern": "^[a-zA-Z0-9-_]{1,38}$" },
            "projectId": { "type": "string", "maxLength": 500, "pattern": "^[a-zA-Z0-9._/-]+$" },
            "taskGroupId": slug,
            "dependencies": { "type": "array", "items": slug, "maxItems": 10000, "uniqueItems": true },
            "requires": { "enum": ["all-completed", "all-resolved"] },
            "routes": {
                "type": "array", "maxItems": 64, "uniqueItems": true,
                "items": { "type": "string", "minLength": 1, "maxLength": 249 },
            },
            "priority": { "enum": PRIORITIES },
            "retries": { "type": "integer", "minimum": 0, "maximum": 49 },
            "created": time,
            "deadline": time,
            "expires": time,
            "scopes": { "type": "array", "items": { "type": "string", "pattern": "^[ -~]*$" } },
            "payload": { "type": "object" },
            "metadata": {
                "type": "object",
                "additionalProperties": false,
                "required": ["name", "description", "owner", "source"],
                "properties": {
                    "name": text(255),
                    "description": text(32768),
                    "owner": text(255),
                    "source": { "type": "string", "maxLength": 4096, "pattern": "^(https?://|ssh://|git@)" },
                },
            },
            "tags": { "type": "object", "additionalProperties": text(4096) },
            "extra": { "type": "object" },
        },
    }))
});

/// The body of the Auth service's createClient.
pub(super) static CLIENT: LazyLock<Validator> = LazyLock::new(|| {
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["expires", "description"],
        "properties": {
            "expires": { "type": "string", "format": "date-time" },
            "description": { "type": "string", "maxLength": 10240 },
            "scopes": {
                "type": "array", "uniqueItems": true, "maxItems": 1000,
                "items": { "type": "string", "maxLength": 1024, "pattern": "^[ -~]*$" },
            },
            "deleteOnExpiration": { "type": "boolean" },
        },
    }))
});

/// The body of claimWork.
pub(super) static CLAIM_WORK: LazyLock<Validator> = LazyLock::new(|| {
    let name = json!({ "type": "string", "pattern": "^[a-zA-Z0-9-_]{1,38}$" });
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["workerGroup", "workerId"],
        "properties": {
            "workerGroup": name,
            "workerId": name,
            "tasks": { "type": "integer", "minimum": 1, "maximum": 32 },
        },
    }))
});

/// The body of claimTask.
pub(super) static CLAIM_TASK: LazyLock<Validator> = LazyLock::new(|| {
    let name = json!({ "type": "string", "pattern": "^[a-zA-Z0-9-_]{1,38}$" });
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["workerGroup", "workerId"],
        "properties": { "workerGroup": name, "workerId": name },
    }))
});

/// The body of the calls that change a priority.
pub(super) static PRIORITY: LazyLock<Validator> = LazyLock::new(|| {
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["newPriority"],
        "properties": { "newPriority": { "enum": PRIORITIES } },
    }))
});

/// The body of quarantineWorker.
pub(super) static QUARANTINE: LazyLock<Validator> = LazyLock::new(|| {
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["quarantineUntil"],
        "properties": {
            "quarantineUntil": { "type": "string", "format": "date-time" },
            "quarantineInfo": { "type": "string", "maxLength": 4000 },
        },
    }))
});

/// The body of declareWorker.
pub(super) static DECLARE_WORKER: LazyLock<Validator> = LazyLock::new(|| {
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["expires"],
        "properties": { "expires": { "type": "string", "format": "date-time" } },
    }))
});

/// The body of finishArtifact.
pub(super) static FINISH_ARTIFACT: LazyLock<Validator> = LazyLock::new(|| {
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["uploadId"],
        "properties": { "uploadId": { "type": "string", "pattern": SLUG } },
    }))
});

/// The body of reportException.
pub(super) static EXCEPTION: LazyLock<Validator> = LazyLock::new(|| {
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["reason"],
        "properties": { "reason": { "enum": [
            "worker-shutdown", "malformed-payload", "resource-unavailable", "internal-error", "intermittent-task",
        ] } },
    }))
});

/// The body of tasks and statuses.
pub(super) static TASK_IDS: LazyLock<Validator> = LazyLock::new(|| {
    compile(&json!({
        "type": "object",
        "additionalProperties": false,
        "properties": { "taskIds": { "type": "array", "items": { "type": "string" } } },
    }))
});

/// The body of createArtifact, by storage type: so the refusal speaks of the one that was meant.
static ARTIFACT: LazyLock<HashMap<&'static str, Validator>> = LazyLock::new(|| {
    let content_type = json!({ "type": "string", "maxLength": 255 });
    let object = |required: Value, mut properties: Value| {
        properties["storageType"] = json!({ "type": "string" });
        properties["expires"] = json!({ "type": "string", "format": "date-time" });
        compile(&json!({
            "type": "object", "additionalProperties": false, "required": required, "properties": properties,
        }))
    };
    let with_content = || {
        object(
            json!(["storageType", "expires", "contentType"]),
            json!({ "contentType": content_type, "contentLength": { "type": "integer", "minimum": 0 } }),
        )
    };
    HashMap::from([
        ("s3", with_content()),
        ("object", with_content()),
        (
            "reference",
            object(
                json!(["storageType", "expires", "url", "contentType"]),
                json!({ "contentType": content_type, "url": { "type": "string", "format": "uri" } }),
            ),
        ),
        (
            "link",
            object(
                json!(["storageType", "expires", "artifact"]),
                json!({ "contentType": content_type, "artifact": { "type": "string" } }),
            ),
        ),
        (
            "error",
            object(
                json!(["storageType", "expires", "reason", "message"]),
                json!({
                    "reason": { "enum": [
                        "file-missing-on-worker", "invalid-resource-on-worker", "too-large-file-on-worker",
                        "file-not-readable-on-worker",
                    ] },
                    "message": { "type": "string", "maxLength": 4096 },
                }),
            ),
        ),
    ])
});

/// The artifact schema for the storage type that a body names.
pub(super) fn artifact(body: &Value) -> Result<&'static Validator, ApiError> {
    let storage = body
        .get("storageType")
        .and_then(Value::as_str)
        .unwrap_or_default();
    ARTIFACT.get(storage).ok_or_else(|| {
        ApiError::validation("/storageType has to be one of s3, object, reference, link and error")
    })
}

/// Refuses what does not fit, naming everything that is wrong. `what` is what people call the value.
pub(super) fn check(validator: &Validator, value: &Value, what: &str) -> Result<(), ApiError> {
    refuse(&violations(validator, value, what), what)
}

/// Everything that is wrong with a value, each with its place.
pub(super) fn violations(validator: &Validator, value: &Value, what: &str) -> Vec<String> {
    if validator.is_valid(value) {
        return Vec::new();
    }
    validator
        .iter_errors(value)
        .map(|error| format!("{what}{}: {error}", error.instance_path()))
        .collect()
}

/// The refusal of a value with which these things are wrong.
pub(super) fn refuse(violations: &[String], what: &str) -> Result<(), ApiError> {
    if violations.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = violations
        .iter()
        .take(MOST_LISTED)
        .map(|violation| format!("  * {violation}"))
        .collect();
    let more = match violations.len() - shown.len() {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Err(ApiError::validation(format!(
        "the {what} does not fit its schema:\n{}{more}",
        shown.join("\n")
    )))
}

/// A schema somebody registers.
pub(super) fn compile_foreign(schema: &Value) -> Result<Validator, String> {
    jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .map_err(|error| error.to_string())
}

fn compile(schema: &Value) -> Validator {
    compile_foreign(schema).unwrap_or_else(|error| unreachable!("a schema of our own is wrong: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_schemas_compile_and_all_violations_are_named() {
        for schema in [&*TASK, &*CLAIM_WORK, &*EXCEPTION, &*TASK_IDS] {
            assert!(schema.is_valid(&json!({})) || check(schema, &json!({}), "body").is_err());
        }
        let message = check(&CLAIM_WORK, &json!({ "workerGroup": "", "tasks": 33 }), "body")
            .unwrap_err()
            .message;
        let lines: Vec<&str> = message
            .lines()
            .skip(1)
            .map(|line| line.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            lines,
            ["  * body", "  * body/tasks", "  * body/workerGroup"],
            "{message}"
        );
    }

    #[test]
    fn artifacts_are_checked_as_what_they_say_they_are() {
        let times = "2026-01-01T00:00:00.000Z";
        let link = json!({ "storageType": "link", "artifact": "a", "expires": times });
        assert_eq!(check(artifact(&link).unwrap(), &link, "body"), Ok(()));
        let bad = json!({ "storageType": "s3", "artifact": "a", "expires": "today" });
        assert!(check(artifact(&bad).unwrap(), &bad, "body").is_err());
        assert!(artifact(&json!({ "storageType": "azure" })).is_err());
    }
}
