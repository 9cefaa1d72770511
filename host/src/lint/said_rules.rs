//! What follows from what a library says about itself.

use serde_json::Value;
use tcw_abi::engine::{EngineDescription, Section, feature};
use tcw_abi::plugin::{PluginDescription, PluginProviderDescription};

use super::{Findings, Level};
use crate::check::{Described, PluginSaid};
use crate::schema::{
    Clash, EngineFragment, ObjectSchema, PayloadSchema, PluginFragment, Provider, ProviderKind,
};

/// Features with this crate's names; a vendor's own have a slash.
const FEATURES: &[&str] = &[
    feature::ENVIRONMENT,
    feature::PUT_FILE,
    feature::VOLUMES,
    feature::VOLUME_BUILDERS,
    feature::DEVICES,
    feature::LIMITS,
    feature::PROXIES,
    feature::SHELLS,
    feature::DISPLAYS,
    feature::KILL,
    feature::RESOURCE_USAGE,
    feature::ARTIFACTS,
    feature::ARCHIVE,
    feature::RECOVERY,
    feature::DIALECT_GENERIC_WORKER,
    feature::DIALECT_DOCKER_WORKER,
    feature::ISOLATION_NONE,
];

pub(super) fn judge(described: &Described, findings: &mut Findings) {
    if let Some(engine) = &described.engine {
        let who = format!("engine {}", described.name);
        configuration(&who, &engine.configuration_schema, findings);
        match &engine.description {
            Ok(value) => match serde_json::from_value::<EngineDescription>(value.clone()) {
                Ok(description) => engine_says(&described.name, &who, &description, findings),
                Err(error) => findings.add(Level::Error, "description", format!("{who}: {error}")),
            },
            Err(error) => {
                let text = format!("{who}: {error}; without it there is nothing to look at");
                findings.add(Level::Error, "description", text);
            }
        }
    }
    for plugin in &described.plugins {
        plugin_says(plugin, findings);
    }
}

fn configuration(who: &str, schema: &Value, findings: &mut Findings) {
    if schema.is_null() {
        return;
    }
    match ObjectSchema::compile("", schema) {
        Ok(_) => undescribed(who, "configuration", schema, findings),
        Err((path, message)) => {
            let text = format!("{who}: its configuration schema is not valid at '{path}': {message}");
            findings.add(Level::Error, "schema", text);
        }
    }
}

fn engine_says(name: &str, who: &str, description: &EngineDescription, findings: &mut Findings) {
    let fragment = EngineFragment {
        name: name.to_owned(),
        library: name.to_owned(),
        schema: description.payload_schema.clone(),
        features: Vec::new(),
    };
    clashes(PayloadSchema::compose(fragment, Vec::new()).err(), findings);
    undescribed(who, "payload", &description.payload_schema, findings);
    if !description.volume_schema.is_null() {
        configuration(&format!("{who}, volumes"), &description.volume_schema, findings);
    }
    documented(who, &description.documentation, true, findings);
    unknown_features(who, &description.features, findings);
}

fn plugin_says(plugin: &PluginSaid, findings: &mut Findings) {
    let who = format!("plugin {}", plugin.name);
    match serde_json::from_value::<PluginProviderDescription>(plugin.provider.clone()) {
        Ok(provider) => {
            configuration(&who, &provider.configuration_schema, findings);
            unknown_features(&who, &provider.requires, findings);
            unknown_features(&who, &provider.optional, findings);
        }
        Err(error) => findings.add(Level::Error, "description", format!("{who}: {error}")),
    }
    let description = match &plugin.description {
        Ok(value) => {
            serde_json::from_value::<PluginDescription>(value.clone()).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.clone()),
    };
    let description = match description {
        Ok(description) => description,
        Err(error) => {
            let text = format!("{who}: {error}; without it there is nothing to look at");
            return findings.add(Level::Error, "description", text);
        }
    };
    let fragment = PluginFragment {
        name: plugin.name.clone(),
        library: plugin.name.clone(),
        schema: description.payload_schema.clone(),
        ..PluginFragment::default()
    };
    let alone = PayloadSchema::compose(EngineFragment::default(), vec![fragment]);
    clashes(alone.err(), findings);
    undescribed(&who, "payload", &description.payload_schema, findings);
    let has_keys = description.payload_schema["properties"]
        .as_object()
        .is_some_and(|keys| !keys.is_empty());
    documented(&who, &description.documentation, has_keys, findings);
}

fn clashes(clashes: Option<Vec<Clash>>, findings: &mut Findings) {
    for clash in clashes.into_iter().flatten() {
        let text = match clash {
            Clash::InvalidFragment {
                provider: Provider { kind, name, .. },
                path,
                message,
            } => {
                let kind = match kind {
                    ProviderKind::Engine => "engine",
                    ProviderKind::Plugin => "plugin",
                };
                format!("{kind} {name}: its payload schema is not valid at '{path}': {message}")
            }
            other => other.to_string(),
        };
        findings.add(Level::Error, "schema", text);
    }
}

/// Keys without a word about what they are for: what `tcw-host schema --explain` shows to the authors of tasks.
fn undescribed(who: &str, what: &str, schema: &Value, findings: &mut Findings) {
    let mut without = Vec::new();
    collect(schema, "", &mut without);
    if !without.is_empty() {
        let text = format!("{who}: {what} keys without a description: {}", without.join(", "));
        findings.add(Level::Warning, "documentation", text);
    }
}

fn collect(schema: &Value, place: &str, without: &mut Vec<String>) {
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{place}{key}");
        let described = ["description", "$ref", "title"]
            .iter()
            .any(|word| inner[word].as_str().is_some_and(|text| !text.trim().is_empty()));
        if !described {
            without.push(format!("`{path}`"));
        }
        collect(inner, &format!("{path}."), without);
    }
}

fn documented(who: &str, sections: &[Section], expected: bool, findings: &mut Findings) {
    if expected && sections.is_empty() {
        let text = format!("{who}: there is no documentation for the authors of tasks");
        findings.add(Level::Warning, "documentation", text);
    }
    for section in sections {
        if section.title.trim().is_empty() || section.content.trim().is_empty() {
            let text = format!("{who}: a section of the documentation has no title or no content");
            findings.add(Level::Warning, "documentation", text);
        }
        if section.content.lines().any(|line| line.starts_with("# ")) {
            let text = format!(
                "{who}: the section '{}' has a heading of the first level, which is its title's",
                section.title
            );
            findings.add(Level::Warning, "documentation", text);
        }
    }
}

fn unknown_features(who: &str, features: &[String], findings: &mut Findings) {
    for name in features {
        if !FEATURES.contains(&name.as_str()) && !name.contains('/') {
            let text =
                format!("{who}: '{name}' is no feature of tcw; one of your own is named `vendor/name`");
            findings.add(Level::Warning, "description", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::EngineSaid;
    use crate::lint::Finding;

    fn found(engine: Option<EngineSaid>, plugins: Vec<PluginSaid>) -> Vec<(Level, String)> {
        let mut findings = Findings::default();
        let described = Described {
            name: "x".into(),
            engine,
            plugins,
        };
        judge(&described, &mut findings);
        let text = |finding: Finding| (finding.level, format!("{}: {}", finding.rule, finding.message));
        findings.0.into_iter().map(text).collect()
    }

    #[test]
    fn schemas_that_lead_out_or_are_none_are_errors_and_silence_is_a_warning() {
        let engine = EngineSaid {
            configuration_schema: json!({ "type": "no such type" }),
            description: Ok(json!({
                "features": ["shells", "telepathy", "acme/telepathy"],
                "payloadSchema": {
                    "type": "object",
                    "properties": { "a": { "$ref": "https://example.com/a.json" }, "b": { "type": "string" } }
                },
                "documentation": [{ "title": "T", "content": "# Too high\n" }]
            })),
        };
        let found = found(Some(engine), Vec::new());
        let expected = [
            (
                Level::Error,
                "schema: engine x: its configuration schema is not valid at '/type': ",
            ),
            (
                Level::Error,
                "schema: engine x: its payload schema is not valid at '/properties/a/$ref': the reference \
                 'https://example.com/a.json' leads out of the schema's own `$defs`",
            ),
            (
                Level::Warning,
                "documentation: engine x: payload keys without a description: `b`",
            ),
            (
                Level::Warning,
                "documentation: engine x: the section 'T' has a heading of the first level",
            ),
            (
                Level::Warning,
                "description: engine x: 'telepathy' is no feature of tcw; one of your own is named `vendor/name`",
            ),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((level, text), (expected_level, start)) in found.iter().zip(expected) {
            assert!(*level == expected_level && text.starts_with(start), "{text}");
        }
    }

    #[test]
    fn a_plugin_with_keys_needs_documentation_and_one_without_does_not() {
        let plugin = |schema: Value| PluginSaid {
            name: "p".into(),
            provider: json!({ "requires": ["environment"] }),
            description: Ok(json!({ "payloadSchema": schema })),
        };
        assert_eq!(found(None, vec![plugin(Value::Null)]), []);
        let silent = plugin(json!({ "type": "object", "properties": { "a": { "title": "A" } } }));
        assert_eq!(
            found(None, vec![silent]),
            [(
                Level::Warning,
                "documentation: plugin p: there is no documentation for the authors of tasks".to_owned()
            )]
        );
    }
}
