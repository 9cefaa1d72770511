//! The example tasks against the payload that engine native and the plugins of this workspace understand together.
//!
//! The fragments here are the dialect's, in short; that the libraries' own agree is seen when the examples run.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tcw_host::config::document::Document;
use tcw_host::schema::{EngineFragment, PayloadSchema, PluginFragment};

fn dialect() -> PayloadSchema {
    let plugin = |name: &str, properties: Value| PluginFragment {
        name: name.into(),
        library: format!("lib{name}.so"),
        schema: json!({"type": "object", "properties": properties}),
        ..PluginFragment::default()
    };
    let engine = EngineFragment {
        name: "native".into(),
        library: "libnative_engine.so".into(),
        schema: json!({
            "type": "object",
            "properties": {"command": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}},
            "required": ["command"],
        }),
        features: Vec::new(),
    };
    let artifact = json!({
        "type": "object",
        "properties": {
            "type": {"enum": ["file", "directory"]}, "path": {"type": "string"}, "name": {"type": "string"},
            "contentType": {"type": "string"}, "contentEncoding": {"enum": ["identity", "gzip"]},
            "expires": {"type": "string", "format": "date-time"}, "optional": {"type": "boolean"},
        },
        "required": ["type", "path"],
    });
    PayloadSchema::compose(
        engine,
        vec![
            plugin(
                "env",
                json!({"env": {"type": "object", "additionalProperties": {"type": "string"}}}),
            ),
            plugin(
                "max-run-time",
                json!({"maxRunTime": {"type": "integer", "minimum": 1}}),
            ),
            plugin(
                "artifacts",
                json!({"artifacts": {"type": "array", "items": artifact}}),
            ),
        ],
    )
    .expect("the fragments fit")
}

#[test]
fn the_examples_fit_except_the_one_that_must_not() {
    let schema = dialect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tasks");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let task = Document::parse(&fs::read_to_string(&path).unwrap())
            .unwrap()
            .value;
        let result = schema.validate(&task["payload"]);
        if name == "malformed.yml" {
            let messages: Vec<String> = result.unwrap_err().iter().map(ToString::to_string).collect();
            assert_eq!(messages.len(), 2, "{messages:?}");
            assert!(
                messages.contains(&"`comand` is not a known key; `command` is the nearest".to_owned())
                    && messages.contains(&"`maxRunTime` must be a whole number, not a string".to_owned()),
                "{messages:?}"
            );
        } else {
            result.unwrap_or_else(|violations| panic!("{name}: {violations:?}"));
        }
        assert!(task["metadata"]["name"].is_string(), "{name} has a name");
        names.push(name);
    }
    names.sort();
    assert_eq!(
        names,
        [
            "build-c.yml",
            "cancelled.yml",
            "fails.yml",
            "hello.yml",
            "malformed.yml"
        ]
    );
}
