//! One provider's schema, made fit to stand beside others.
//!
//! A fragment comes from a library whose author may have made mistakes, and it decides over payloads that anybody can
//! send. So it is held to what can be composed and checked safely: references stay inside the fragment, patterns
//! run in linear time, and no part of the schema leads back to itself without going deeper into the value.

use std::collections::BTreeSet;

use jsonschema::{PatternOptions, Validator};
use serde_json::{Map, Value};

use super::{DIALECT, units};

/// A checked fragment: the keys of the payload's top level, and what they need.
pub(super) struct Fragment {
    pub(super) properties: Map<String, Value>,
    pub(super) required: BTreeSet<String>,
    pub(super) definitions: Map<String, Value>,
    /// Rules between keys (`anyOf`, `dependentRequired`...), each a schema of the whole payload.
    pub(super) conditions: Vec<Value>,
}

/// Where in the fragment (a JSON pointer), and what is wrong.
pub(super) type Flaw = (String, String);

/// Keywords that describe without checking.
const ANNOTATIONS: &[&str] = &[
    "$comment",
    "$id",
    "$schema",
    "default",
    "deprecated",
    "description",
    "examples",
    "title",
];
/// Keywords whose value is a schema; with their names, they also say how deep into the value they go.
const IN_PLACE: &[&str] = &["else", "if", "not", "then"];
const DEEPER: &[&str] = &[
    "additionalProperties",
    "contains",
    "contentSchema",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas.
const IN_PLACE_LISTS: &[&str] = &["allOf", "anyOf", "oneOf"];
const DEEPER_LISTS: &[&str] = &["prefixItems"];
/// Keywords whose value is an object of schemas.
const IN_PLACE_MAPS: &[&str] = &["dependentSchemas"];
const DEEPER_MAPS: &[&str] = &["properties", "patternProperties"];

impl Fragment {
    /// Checks a fragment. References to `#/$defs/x` become `#/$defs/<alias>/$defs/x`, where the composed schema keeps
    /// this provider's definitions.
    pub(super) fn prepare(alias: &str, schema: &Value) -> Result<Self, Flaw> {
        let mut schema = match schema {
            Value::Null => Map::new(),
            Value::Object(schema) => schema.clone(),
            _ => return Err((String::new(), "a fragment is an object".into())),
        };
        check(&Value::Object(schema.clone()))?;

        match schema.get("type") {
            None => {}
            Some(kind) if kind == "object" => {}
            Some(_) => return Err(("/type".into(), "a fragment describes an object".into())),
        }
        let mut prefix = |value: &mut Value| {
            if let Value::String(reference) = value {
                *reference = format!("#/$defs/{alias}{}", &reference[1..]);
            }
        };
        let mut conditions = Map::new();
        let mut fragment = Fragment {
            properties: Map::new(),
            required: BTreeSet::new(),
            definitions: Map::new(),
            conditions: Vec::new(),
        };
        for map in ["properties", "$defs"] {
            let Some(Value::Object(mut schemas)) = schema.remove(map) else {
                continue;
            };
            for schema in schemas.values_mut() {
                references(schema, &mut prefix);
                if map == "properties" {
                    close(schema);
                }
            }
            match map {
                "properties" => fragment.properties = schemas,
                _ => fragment.definitions = schemas,
            }
        }
        for (keyword, value) in schema {
            match keyword.as_str() {
                "type" => {}
                "required" => {
                    let names = value.as_array().into_iter().flatten();
                    fragment
                        .required
                        .extend(names.filter_map(Value::as_str).map(str::to_owned));
                }
                "additionalProperties" | "unevaluatedProperties" if value == false => {}
                "dependentRequired" => {
                    conditions.insert(keyword, value);
                }
                name if IN_PLACE.contains(&name)
                    || IN_PLACE_LISTS.contains(&name)
                    || IN_PLACE_MAPS.contains(&name) =>
                {
                    let mut rule = Value::Object(Map::from_iter([(keyword, value)]));
                    references(&mut rule, &mut prefix);
                    if let Value::Object(rule) = rule {
                        conditions.extend(rule);
                    }
                }
                name if ANNOTATIONS.contains(&name) => {}
                name => {
                    return Err((
                        format!("/{name}"),
                        format!(
                            "`{name}` cannot stand at the top of a fragment: name each key in `properties`"
                        ),
                    ));
                }
            }
        }
        for name in &fragment.required {
            if !fragment.properties.contains_key(name) {
                return Err((
                    "/required".into(),
                    format!("`{name}` is not one of the `properties`"),
                ));
            }
        }
        if !conditions.is_empty() {
            fragment.conditions.push(Value::Object(conditions));
        }
        Ok(fragment)
    }
}

/// Whether `schema` by itself is one that can be used here.
pub(super) fn check(schema: &Value) -> Result<(), Flaw> {
    if let Some(dialect) = schema.get("$schema").and_then(Value::as_str)
        && dialect.trim_end_matches('#') != DIALECT
    {
        return Err((
            "/$schema".into(),
            format!("it is written for {dialect}; the dialect here is {DIALECT}"),
        ));
    }
    // The meta-schema comes first: the walk below may rely on every keyword having a value of its type.
    jsonschema::draft202012::meta::validate(schema)
        .map_err(|error| (error.instance_path().as_str().to_owned(), error.to_string()))?;
    walk(schema, &mut String::new(), &mut |schema, path| {
        for keyword in [
            "$anchor",
            "$dynamicAnchor",
            "$dynamicRef",
            "$recursiveRef",
            "$vocabulary",
        ] {
            if schema.contains_key(keyword) {
                return Err((
                    format!("{path}/{keyword}"),
                    format!("`{keyword}` is not supported here"),
                ));
            }
        }
        if !path.is_empty() && schema.contains_key("$id") {
            return Err((
                format!("{path}/$id"),
                "`$id` inside a schema is not supported here".into(),
            ));
        }
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) if !reference.starts_with("#/$defs/") => Err((
                format!("{path}/$ref"),
                format!(
                    "the reference '{reference}' leads out of the schema's own `$defs`; only `#/$defs/...` is followed"
                ),
            )),
            _ => Ok(()),
        }
    })?;
    refuse_endless(schema)?;
    compile(schema).map(drop)
}

/// Compiles without ever reading a file or the network. `$id` is dropped, so that it cannot move the references.
pub(super) fn compile(schema: &Value) -> Result<Validator, Flaw> {
    let mut schema = schema.clone();
    if let Value::Object(schema) = &mut schema {
        schema.remove("$id");
        schema.remove("$schema");
    }
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .offline()
        .should_validate_formats(true)
        .with_format("duration-text", |text: &str| units::duration(text).is_ok())
        .with_format("size-text", |text: &str| units::size(text).is_ok())
        // The `regex` crate's time is linear in the value's length, whatever the pattern.
        .with_pattern_options(PatternOptions::regex())
        .build(&schema)
        .map_err(|error| (error.instance_path().as_str().to_owned(), error.to_string()))
}

/// Calls `f` with every schema inside `schema`, itself first, and the pointer to it. Data (`default`, `enum`...) is
/// not taken for a schema, however much it looks like one.
fn walk(
    schema: &Value,
    path: &mut String,
    f: &mut impl FnMut(&Map<String, Value>, &str) -> Result<(), Flaw>,
) -> Result<(), Flaw> {
    let Value::Object(map) = schema else { return Ok(()) };
    f(map, path)?;
    for (keyword, value) in map {
        let length = path.len();
        path.push('/');
        path.push_str(keyword);
        let name = keyword.as_str();
        if IN_PLACE.contains(&name) || DEEPER.contains(&name) {
            walk(value, path, f)?;
        } else if let (true, Value::Array(list)) = (
            IN_PLACE_LISTS.contains(&name) || DEEPER_LISTS.contains(&name),
            value,
        ) {
            for (index, value) in list.iter().enumerate() {
                let length = path.len();
                path.push_str(&format!("/{index}"));
                walk(value, path, f)?;
                path.truncate(length);
            }
        } else if let (true, Value::Object(schemas)) = (is_map_of_schemas(name), value) {
            for (key, value) in schemas {
                let length = path.len();
                path.push('/');
                path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                walk(value, path, f)?;
                path.truncate(length);
            }
        }
        path.truncate(length);
    }
    Ok(())
}

fn is_map_of_schemas(keyword: &str) -> bool {
    keyword == "$defs" || IN_PLACE_MAPS.contains(&keyword) || DEEPER_MAPS.contains(&keyword)
}

/// Calls `f` with the value of every `$ref`.
fn references(schema: &mut Value, f: &mut impl FnMut(&mut Value)) {
    let Value::Object(map) = schema else { return };
    for (keyword, value) in map {
        let name = keyword.as_str();
        if name == "$ref" {
            f(value);
        } else if IN_PLACE.contains(&name) || DEEPER.contains(&name) {
            references(value, f);
        } else if IN_PLACE_LISTS.contains(&name) || DEEPER_LISTS.contains(&name) {
            value
                .as_array_mut()
                .into_iter()
                .flatten()
                .for_each(|schema| references(schema, f));
        } else if is_map_of_schemas(name) {
            value
                .as_object_mut()
                .into_iter()
                .flat_map(Map::values_mut)
                .for_each(|schema| references(schema, f));
        }
    }
}

/// A definition that refers to itself without going deeper into the value would be checked for ever.
fn refuse_endless(schema: &Value) -> Result<(), Flaw> {
    /// The references that are followed for the same value.
    fn same_value(schema: &Value, out: &mut Vec<String>) {
        let Value::Object(map) = schema else { return };
        for (keyword, value) in map {
            let name = keyword.as_str();
            if name == "$ref" {
                out.extend(value.as_str().map(str::to_owned));
            } else if IN_PLACE.contains(&name) {
                same_value(value, out);
            } else if IN_PLACE_LISTS.contains(&name) {
                value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .for_each(|schema| same_value(schema, out));
            } else if IN_PLACE_MAPS.contains(&name) {
                value
                    .as_object()
                    .into_iter()
                    .flat_map(Map::values)
                    .for_each(|schema| same_value(schema, out));
            }
        }
    }
    fn visit(
        root: &Value,
        reference: &str,
        trail: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Result<(), Flaw> {
        let pointer = &reference[1..];
        if trail.iter().any(|passed| passed == reference) {
            return Err((pointer.to_owned(), "it refers to itself without end".into()));
        }
        // Every reference is followed once, so that many paths to one definition cost no more than one.
        if !done.insert(reference.to_owned()) {
            return Ok(());
        }
        let Some(target) = root.pointer(pointer) else {
            return Err((
                pointer.to_owned(),
                format!("there is no such definition for '{reference}'"),
            ));
        };
        let mut next = Vec::new();
        same_value(target, &mut next);
        trail.push(reference.to_owned());
        for reference in next {
            visit(root, &reference, trail, done)?;
        }
        trail.pop();
        Ok(())
    }
    let mut all = BTreeSet::new();
    walk(schema, &mut String::new(), &mut |schema, _| {
        all.extend(schema.get("$ref").and_then(Value::as_str).map(str::to_owned));
        Ok(())
    })?;
    let mut done = BTreeSet::new();
    all.iter()
        .try_for_each(|reference| visit(schema, reference, &mut Vec::new(), &mut done))
}

/// Refuses unknown keys in the objects of `schema` that leave it open, as far as that cannot change what else the
/// schema says: an object that is put together from several schemas is its author's to close.
pub(super) fn close(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let composed = ["$ref", "if", "patternProperties", "unevaluatedProperties"]
        .iter()
        .chain(IN_PLACE_LISTS)
        .chain(IN_PLACE_MAPS)
        .any(|keyword| map.contains_key(*keyword));
    if !composed && map.contains_key("properties") && !map.contains_key("additionalProperties") {
        map.insert("additionalProperties".into(), Value::Bool(false));
    }
    for (keyword, value) in map {
        match keyword.as_str() {
            "properties" => value
                .as_object_mut()
                .into_iter()
                .flat_map(Map::values_mut)
                .for_each(close),
            "items" | "additionalProperties" => close(value),
            "prefixItems" => value.as_array_mut().into_iter().flatten().for_each(close),
            _ => {}
        }
    }
}
