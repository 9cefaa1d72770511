//! The schema of the configuration, and the forms of it that others use.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::schema::{ObjectSchema, Violation};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("schema.json")).expect("schema.json is JSON: the tests read it")
});

static VALIDATOR: LazyLock<ObjectSchema> = LazyLock::new(|| {
    ObjectSchema::compile("", &SCHEMA).expect("schema.json is a schema: the tests compile it")
});

/// Checks the data of all sources, after everything was looked up.
pub(super) fn validate(value: &Value) -> Result<(), Vec<Violation>> {
    VALIDATOR.validate(value)
}

/// What applies where nothing is said.
pub(super) fn default(section: &str, key: &str) -> Value {
    let pointer = format!("/properties/{section}/properties/{key}/default");
    SCHEMA.pointer(&pointer).cloned().unwrap_or_default()
}

/// The schema of a file as it is written: wherever a value can stand, `{$env}` and `{$file}` can.
pub(super) fn for_editors() -> Value {
    let mut schema = SCHEMA.clone();
    let lookup = json!({
        "oneOf": [lookup("$env", "An environment variable."), lookup("$file", "A file.")],
    });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(or_lookup);
        properties.insert("$schema".into(), json!({"type": "string"}));
    }
    schema["$defs"]["lookup"] = lookup;
    schema
}

fn lookup(key: &str, description: &str) -> Value {
    json!({
        "type": "object",
        "properties": {
            key: {"type": "string", "description": description},
            "type": {"enum": ["string", "number", "bool", "json", "list"], "default": "string"},
        },
        "required": [key],
        "additionalProperties": false,
    })
}

/// Lets the value be looked up, and what is inside it. A section with nothing in it may be null.
fn or_lookup(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(or_lookup);
        map.insert("type".into(), json!(["object", "null"]));
        return;
    }
    let mut outer = Map::new();
    for keyword in ["description", "default"] {
        outer.extend(map.remove_entry(keyword));
    }
    outer.insert("anyOf".into(), json!([schema.take(), {"$ref": "#/$defs/lookup"}]));
    *schema = Value::Object(outer);
}

/// Every key as a row of a Markdown table.
pub(super) fn reference() -> String {
    let mut out = String::from("| key | type | default | what it is for |\n|---|---|---|---|\n");
    rows(&SCHEMA, "", &mut out);
    out
}

fn rows(schema: &Value, place: &str, out: &mut String) {
    for (key, child) in schema["properties"].as_object().into_iter().flatten() {
        let path = if place.is_empty() {
            key.clone()
        } else {
            format!("{place}.{key}")
        };
        let default = child.get("default").map_or("–".into(), |default| match default {
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        });
        let description = child["description"]
            .as_str()
            .unwrap_or_default()
            .replace('|', "\\|");
        let _ = writeln!(out, "| `{path}` | {} | {default} | {description} |", kind(child));
        rows(child, &path, out);
    }
}

fn kind(schema: &Value) -> String {
    if let Some(definition) = schema.get("$ref").and_then(Value::as_str) {
        return match definition {
            "#/$defs/duration" => "duration".into(),
            "#/$defs/size" => "size".into(),
            "#/$defs/identifier" => "identifier".into(),
            _ => "list of strings".into(),
        };
    }
    if let Some(Value::Array(options)) = schema.get("enum") {
        let options: Vec<String> = options
            .iter()
            .filter_map(Value::as_str)
            .map(|option| format!("`{option}`"))
            .collect();
        return options.join(", ");
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => "list of strings".into(),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
            kinds.join(" or ")
        }
        _ => String::new(),
    }
}
