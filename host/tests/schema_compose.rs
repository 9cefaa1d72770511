//! Composing payload schemas, checking payloads and splitting them.

use serde_json::{Value, json};
use tcw_host::schema::{
    Clash, EngineFragment, ObjectSchema, PayloadSchema, PluginFragment, Provider, ProviderKind,
};

fn engine() -> EngineFragment {
    EngineFragment {
        name: "mock".into(),
        library: "libmock_engine.so".into(),
        features: vec!["environment".into()],
        schema: json!({
            "type": "object",
            "properties": {
                "command": {
                    "type": "array", "minItems": 1, "description": "What to run.",
                    "items": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                },
                "osGroups": {"type": "array", "items": {"type": "string"}, "uniqueItems": true},
            },
            "required": ["command"],
        }),
    }
}

fn plugin(name: &str, schema: Value) -> PluginFragment {
    PluginFragment {
        name: name.into(),
        library: format!("lib{}_plugin.so", name.replace('-', "_")),
        schema,
        ..PluginFragment::default()
    }
}

fn flag(name: &str) -> Value {
    json!({"type": "object", "properties": {
        "features": {"type": "object", "properties": {name: {"type": "boolean", "default": true}}},
    }})
}

fn env() -> PluginFragment {
    let schema = json!({"type": "object", "properties": {
        "env": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Variables."},
    }});
    plugin("env", schema)
}

fn artifacts() -> PluginFragment {
    let schema = json!({"type": "object", "properties": {
        "artifacts": {"type": "array", "items": {
            "type": "object",
            "properties": {
                "type": {"enum": ["file", "directory"]},
                "path": {"type": "string"},
                "expires": {"type": "string", "format": "date-time"},
            },
            "required": ["type", "path"],
        }},
    }});
    PluginFragment {
        requires: vec!["artifacts".into()],
        ..plugin("artifacts", schema)
    }
}

fn compose(plugins: Vec<PluginFragment>) -> PayloadSchema {
    PayloadSchema::compose(engine(), plugins).expect("the fragments fit")
}

fn messages(schema: &PayloadSchema, payload: Value) -> Vec<String> {
    let violations = schema.validate(&payload).expect_err("the payload is wrong");
    let mut messages: Vec<String> = violations.iter().map(ToString::to_string).collect();
    messages.sort();
    messages
}

/// The messages for a payload whose command is right.
fn messages_beside_command(schema: &PayloadSchema, mut payload: Value) -> Vec<String> {
    payload["command"] = json!([["true"]]);
    messages(schema, payload)
}

fn clashes(plugins: Vec<PluginFragment>) -> Vec<String> {
    let clashes: Vec<Clash> = PayloadSchema::compose(engine(), plugins).expect_err("the fragments clash");
    clashes.iter().map(ToString::to_string).collect()
}

#[test]
fn each_provider_is_given_its_own_keys() {
    let schema = compose(vec![
        plugin("task-log", flag("backingLog")),
        plugin("live-log", flag("liveLog")),
        env(),
    ]);
    let payload = json!({
        "command": [["true"]],
        "env": {"A": "1"},
        "features": {"backingLog": true, "liveLog": false},
    });
    let split = schema.validate(&payload).unwrap();
    assert_eq!(split.engine, json!({"command": [["true"]]}));
    assert_eq!(
        json!(split.plugins),
        json!({
            "env": {"env": {"A": "1"}},
            "live-log": {"features": {"liveLog": false}},
            "task-log": {"features": {"backingLog": true}},
        })
    );

    let split = schema.validate(&json!({"command": [["true"]]})).unwrap();
    assert_eq!(
        json!(split.plugins),
        json!({"env": {}, "live-log": {}, "task-log": {}})
    );
}

#[test]
fn the_document_is_one_closed_schema() {
    let schema = compose(vec![
        plugin("task-log", flag("backingLog")),
        plugin("live-log", flag("liveLog")),
    ]);
    assert_eq!(
        schema.document(),
        &json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Task payload",
            "type": "object",
            "required": ["command"],
            "additionalProperties": false,
            "properties": {
                "command": engine().schema["properties"]["command"],
                "osGroups": engine().schema["properties"]["osGroups"],
                "features": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "backingLog": {"type": "boolean", "default": true},
                        "liveLog": {"type": "boolean", "default": true},
                    },
                },
            },
        })
    );
}

#[test]
fn messages_name_the_place_and_what_to_write() {
    let schema = compose(vec![env(), plugin("task-log", flag("backingLog"))]);
    assert_eq!(
        messages(
            &schema,
            json!({"comand": [["true"]], "env": {"A": 1}, "features": {"backingLog": "yes"}})
        ),
        [
            "`comand` is not a known key; `command` is the nearest",
            "`command` is missing, and is required",
            "`env.A` must be a string, not a number",
            "`features.backingLog` must be true or false, not a string",
        ]
    );
    assert_eq!(
        messages(
            &schema,
            json!({"command": [["a"], [1]], "features": {"zzz": true}, "osGroups": null})
        ),
        [
            "`command[1][0]` must be a string, not a number",
            "`features.zzz` is not a known key; known here: backingLog",
            "`osGroups` must be a list, not null (nothing is written there)",
        ]
    );
    assert_eq!(
        messages(&schema, Value::Null),
        ["the payload must be an object, not null (nothing is written there)"]
    );
    assert_eq!(
        messages(&schema, json!([])),
        ["the payload must be an object, not a list"]
    );
    assert_eq!(
        messages(&schema, json!({"command": []})),
        ["`command` must not be empty"]
    );
}

#[test]
fn a_message_never_repeats_a_value() {
    let mut plugin = artifacts();
    plugin.requires.clear();
    let schema = compose(vec![env(), plugin]);
    let secret = "hunter2-and-more";
    for payload in [
        json!({"command": secret}),
        json!({"command": [[secret, 1]], "env": secret}),
        json!({"command": [["a"]], "osGroups": [secret, secret]}),
        json!({"command": [["a"]], "artifacts": [{"type": secret, "path": "p", "expires": secret}]}),
    ] {
        let messages = messages(&schema, payload).join("\n");
        assert!(!messages.contains(secret), "{messages}");
    }
}

#[test]
fn a_plugin_without_the_features_it_needs_is_left_out_and_its_keys_say_so() {
    let wanted = "`artifacts` is not available: plugin artifacts (libartifacts_plugin.so) needs engine feature \
                  'artifacts', which engine mock does not have";
    let schema = compose(vec![artifacts()]);
    assert_eq!(schema.left_out().len(), 1);
    assert_eq!(
        messages_beside_command(&schema, json!({"artifacts": []})),
        [wanted]
    );

    // The host may never have made the plugin, and then its schema is not known.
    let mut unknown = artifacts();
    unknown.schema = Value::Null;
    assert_eq!(
        messages_beside_command(&compose(vec![unknown]), json!({"artifacts": []})),
        [wanted]
    );

    let mut disabled = env();
    disabled.unavailable = Some("is disabled in the configuration".into());
    assert_eq!(
        messages_beside_command(&compose(vec![disabled]), json!({"env": {}})),
        ["`env` is not available: plugin env (libenv_plugin.so) is disabled in the configuration"]
    );
}

#[test]
fn a_key_that_two_describe_differently_is_refused_with_both_names() {
    let other = plugin(
        "other",
        json!({"type": "object", "properties": {
            "command": {"type": "string"},
            "features": {"type": "object", "properties": {"backingLog": {"type": "string"}}},
        }}),
    );
    assert_eq!(
        clashes(vec![plugin("task-log", flag("backingLog")), other]),
        [
            "engine mock (libmock_engine.so) and plugin other (libother_plugin.so) both define the payload key \
             `command`, differently: leave one of them out",
            "plugin other (libother_plugin.so) and plugin task-log (libtask_log_plugin.so) both define the payload \
             key `features.backingLog`, differently: leave one of them out",
        ]
    );
}

#[test]
fn a_key_that_two_describe_alike_is_given_to_both() {
    let groups = |text: &str| {
        json!({"type": "object", "properties": {
            "groups": {"type": "array", "items": {"type": "string"}, "description": text},
        }})
    };
    let schema = compose(vec![plugin("a", groups("one")), plugin("b", groups("another"))]);
    let split = schema
        .validate(&json!({"command": [["true"]], "groups": ["x"]}))
        .unwrap();
    assert_eq!(split.plugins["a"], json!({"groups": ["x"]}));
    assert_eq!(split.plugins["b"], json!({"groups": ["x"]}));
}

#[test]
fn an_object_with_named_keys_is_not_merged_with_one_that_takes_any() {
    let map =
        json!({"type": "object", "properties": {"features": {"type": "object", "additionalProperties": {}}}});
    assert_eq!(
        clashes(vec![plugin("map", map), plugin("task-log", flag("x"))]).len(),
        1
    );
}

#[test]
fn two_plugins_of_one_name_are_refused() {
    let mut second = env();
    second.library = "libzenv.so".into();
    assert_eq!(
        clashes(vec![env(), second]),
        [
            "plugin env (libenv_plugin.so) and plugin env (libzenv.so) have the same name: leave one of them out"
        ]
    );
}

#[test]
fn required_keys_are_a_union_also_inside() {
    let with_required = |key: &str| {
        let limits = json!({"properties": {key: {"type": "integer"}}, "required": [key]});
        plugin(
            key,
            json!({"properties": {"limits": limits}, "required": ["limits"]}),
        )
    };
    let schema = compose(vec![with_required("memory"), with_required("cpus")]);
    assert_eq!(
        messages_beside_command(&schema, json!({"limits": {}})),
        [
            "`limits.cpus` is missing, and is required",
            "`limits.memory` is missing, and is required"
        ]
    );
    assert_eq!(
        messages_beside_command(&schema, json!({})),
        ["`limits` is missing, and is required"]
    );
}

#[test]
fn definitions_of_one_name_do_not_meet() {
    let with_definition = |key: &str, kind: &str| {
        plugin(
            key,
            json!({"type": "object",
                   "properties": {key: {"type": "array", "items": {"$ref": "#/$defs/item"}}},
                   "$defs": {"item": {"$ref": "#/$defs/plain"}, "plain": {"type": kind}}}),
        )
    };
    let schema = compose(vec![
        with_definition("a", "string"),
        with_definition("b", "integer"),
    ]);
    let payload = json!({"command": [["true"]], "a": ["x"], "b": [1]});
    schema.validate(&payload).unwrap();
    assert_eq!(
        messages_beside_command(&schema, json!({"a": [1], "b": ["x"]})),
        [
            "`a[0]` must be a string, not a number",
            "`b[0]` must be a whole number, not a string"
        ]
    );
    let row = schema.explain().keys.into_iter().find(|key| key.path == "a");
    assert_eq!(row.unwrap().kind, "list of string");
}

#[test]
fn rules_between_keys_hold_in_the_composed_schema() {
    let proxy = json!({
        "type": "object",
        "properties": {"proxy": {"type": "boolean"}, "proxyInterface": {"type": "string"}},
        "dependentRequired": {"proxyInterface": ["proxy"]},
    });
    let schema = compose(vec![plugin("proxy", proxy)]);
    assert_eq!(
        messages_beside_command(&schema, json!({"proxyInterface": "localhost"})),
        ["`proxy` is missing, and is required"]
    );
}

#[test]
fn the_most_similar_form_is_the_one_that_is_talked_about() {
    let mounts = json!({"type": "object", "properties": {"mounts": {"type": "array", "items": {"oneOf": [
        {"title": "file", "type": "object", "additionalProperties": false, "required": ["file", "content"],
         "properties": {"file": {"type": "string"}, "content": {"type": "object"}}},
        {"title": "cache", "type": "object", "additionalProperties": false, "required": ["directory", "cacheName"],
         "properties": {"directory": {"type": "string"}, "cacheName": {"type": "string"}}},
    ]}}}});
    let schema = compose(vec![plugin("mounts", mounts)]);
    assert_eq!(
        messages_beside_command(&schema, json!({"mounts": [{"directory": "d", "cacheName": 7}]})),
        [
            "`mounts[0].cacheName` must be a string, not a number (going by the most similar of 2 allowed forms)"
        ]
    );
}

#[test]
fn a_schema_that_cannot_be_used_names_its_library_and_the_place() {
    let key = |schema: Value| json!({"type": "object", "properties": {"key": schema}});
    let endless = json!({
        "properties": {"key": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}},
    });
    let cases = [
        (json!("text"), "at : a fragment is an object"),
        (
            json!({"type": "array"}),
            "at /type: a fragment describes an object",
        ),
        (key(json!({"type": "strng"})), "at /properties/key/type: "),
        (key(json!({"pattern": "("})), "at /properties/key/pattern: "),
        (
            key(json!({"$ref": "https://evil.example/s.json"})),
            "leads out of the schema's own `$defs`",
        ),
        (
            key(json!({"$ref": "file:///etc/passwd"})),
            "leads out of the schema's own `$defs`",
        ),
        (
            key(json!({"$ref": "#/properties/key"})),
            "leads out of the schema's own `$defs`",
        ),
        (key(json!({"$ref": "#/$defs/none"})), "no such definition"),
        (
            key(json!({"$id": "https://evil.example/"})),
            "`$id` inside a schema",
        ),
        (
            key(json!({"$dynamicRef": "#x"})),
            "`$dynamicRef` is not supported",
        ),
        (
            json!({"$schema": "http://json-schema.org/draft-04/schema#"}),
            "it is written for",
        ),
        (
            json!({"patternProperties": {"^x-": {}}}),
            "`patternProperties` cannot stand at the top",
        ),
        (
            json!({"additionalProperties": true}),
            "`additionalProperties` cannot stand at the top",
        ),
        (
            json!({"maxProperties": 1}),
            "`maxProperties` cannot stand at the top",
        ),
        (
            json!({"required": ["key"]}),
            "`key` is not one of the `properties`",
        ),
        (endless, "refers to itself without end"),
    ];
    for (schema, wanted) in cases {
        let found = clashes(vec![plugin("bad", schema.clone())]).join("\n");
        assert!(
            found.starts_with("the payload schema of plugin bad (libbad_plugin.so) is not valid at ")
                && found.contains(wanted),
            "{schema} gave: {found}"
        );
    }
}

#[test]
fn a_definition_may_refer_to_itself_one_level_deeper() {
    let tree = json!({
        "properties": {"tree": {"$ref": "#/$defs/node"}},
        "$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}},
    });
    let schema = compose(vec![plugin("tree", tree)]);
    let payload = json!({"command": [["true"]], "tree": {"child": {"child": {}}}});
    schema.validate(&payload).unwrap();
    assert_eq!(
        messages_beside_command(&schema, json!({"tree": {"child": {"child": 1}}})),
        ["`tree.child.child` must be an object, not a number"]
    );
    // Endless if descriptions followed it all the way.
    schema.explain();
}

#[test]
fn what_looks_like_a_reference_in_data_is_data() {
    let data =
        json!({"properties": {"$ref": {"type": "string", "default": {"$ref": "https://example.com"}}}});
    let split = compose(vec![plugin("data", data)])
        .validate(&json!({"command": [["true"]], "$ref": "x"}))
        .unwrap();
    assert_eq!(split.plugins["data"], json!({"$ref": "x"}));
}

#[test]
fn a_left_out_plugin_with_a_bad_schema_does_not_stop_anything() {
    let mut mounts = plugin("mounts", json!({"type": "nonsense"}));
    mounts.requires = vec!["volumes".into(), "proxies".into()];
    let schema = compose(vec![mounts]);
    assert_eq!(
        schema.left_out()[0].reason,
        "needs engine features 'volumes' and 'proxies', which engine mock does not have"
    );
    assert_eq!(schema.explain().missing[0].path, None);
}

#[test]
fn the_table_shows_every_key_and_every_missing_one() {
    let mut lost = plugin("live-log", flag("liveLog"));
    lost.requires = vec!["log".into()];
    let schema = compose(vec![
        env(),
        plugin("task-log", flag("backingLog")),
        artifacts(),
        lost,
    ]);
    assert_eq!(
        schema.explain().table(100),
        "\
KEY                  TYPE                    DEFAULT     FROM
command              list of list of string  (required)  libmock_engine.so
    What to run.
env                  map to string           -           libenv_plugin.so
    Variables.
features             object                  -           libtask_log_plugin.so
features.backingLog  boolean                 true        libtask_log_plugin.so
osGroups             list of string          -           libmock_engine.so

NOT AVAILABLE
artifacts
    plugin artifacts (libartifacts_plugin.so) needs engine feature 'artifacts', which engine mock
    does not have
features.liveLog
    plugin live-log (liblive_log_plugin.so) needs engine feature 'log', which engine mock does not
    have
"
    );
}

#[test]
fn the_inside_of_lists_is_explained_too() {
    let mut plugin = artifacts();
    plugin.requires.clear();
    let rows = compose(vec![plugin]).explain().keys;
    let rows: Vec<String> = rows
        .into_iter()
        .map(|key| format!("{} {} {}", key.path, key.kind, key.required))
        .collect();
    assert_eq!(
        rows,
        [
            "artifacts list of object false",
            "artifacts[].expires string false",
            "artifacts[].path string true",
            "artifacts[].type file | directory true",
            "command list of list of string true",
            "osGroups list of string false",
        ]
    );
}

#[test]
fn a_flood_of_mistakes_is_cut_short() {
    let schema = compose(vec![env()]);
    let mut payload = json!({"command": [["true"]]});
    payload["k".repeat(1_000_000)] = json!(1);
    for number in 0..100_000 {
        payload[format!("key{number}")] = json!(number);
    }
    let start = std::time::Instant::now();
    let messages = messages(&schema, payload);
    assert_eq!(messages.len(), 26);
    assert!(messages.contains(&"the payload has more mistakes; these are the first 25".to_owned()));
    assert!(messages.iter().all(|message| message.len() < 300), "{messages:?}");
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

/// Tens of microseconds on an idle machine; the bound only guards against something of another order.
#[test]
fn checking_a_payload_is_fast() {
    let schema = compose(vec![env(), plugin("task-log", flag("backingLog"))]);
    let payload = json!({
        "command": [["/bin/bash", "-c", "true"]],
        "env": {"A": "1"},
        "features": {"backingLog": true},
    });
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        schema.validate(&payload).unwrap();
    }
    let each = start.elapsed() / 1000;
    println!("{each:?} a payload");
    assert!(each.as_micros() < 1000, "{each:?} a payload");
}

#[test]
fn configuration_is_checked_in_the_same_words() {
    let provider = Provider {
        kind: ProviderKind::Plugin,
        name: "limit".into(),
        library: "liblimit_plugin.so".into(),
    };
    let schema = json!({"properties": {"maximum": {"type": "integer"}}});
    let schema = ObjectSchema::new(&provider, "plugins.limit", &schema).unwrap();
    schema.validate(&json!({"maximum": 60})).unwrap();
    schema.validate(&Value::Null).unwrap();
    assert_eq!(
        schema.validate(&json!({"maximun": 60})).unwrap_err()[0].to_string(),
        "plugins.limit: `maximun` is not a known key; `maximum` is the nearest"
    );

    let none = ObjectSchema::new(&provider, "plugins.limit", &Value::Null).unwrap();
    none.validate(&json!({})).unwrap();
    assert_eq!(
        none.validate(&json!({"a": 1})).unwrap_err()[0].to_string(),
        "plugins.limit: `a` is not a known key"
    );

    let error = ObjectSchema::new(&provider, "plugins.limit", &json!({"type": 1})).unwrap_err();
    let start = "the configuration schema of plugin limit (liblimit_plugin.so) is not valid at /type";
    assert!(error.to_string().starts_with(start), "{error}");
}
