//! Values that are looked up when the configuration is loaded: `{$env: NAME}` and `{$file: path}`.
//!
//! They keep secrets out of the configuration file. Text in the value is never expanded: only an object with such a
//! key is replaced.

use std::path::Path;

use serde_json::{Map, Value};

use super::document::segment;
use super::environment::Environment;
use crate::schema::nearest;

/// What looking up found out beside the values.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// JSON pointers to the replaced values: they may be secrets.
    pub(super) replaced: Vec<String>,
    /// A JSON pointer, and what is wrong there.
    pub(super) problems: Vec<(String, String)>,
    /// A JSON pointer, and what the operator should know.
    pub(super) warnings: Vec<(String, String)>,
}

/// Replaces every `{$env}` and `{$file}` in `value`. Paths are relative to `base`.
pub(super) fn apply(value: &mut Value, environment: &Environment, base: &Path) -> Found {
    let mut transform = Transform {
        environment,
        base,
        found: Found::default(),
    };
    transform.apply(value, &mut String::new());
    transform.found
}

struct Transform<'a> {
    environment: &'a Environment,
    base: &'a Path,
    found: Found,
}

impl Transform<'_> {
    fn apply(&mut self, value: &mut Value, pointer: &mut String) {
        let length = pointer.len();
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    pointer.push_str(&format!("/{index}"));
                    self.apply(item, pointer);
                    pointer.truncate(length);
                }
            }
            // `$schema` at the top tells an editor what it edits.
            Value::Object(map)
                if map
                    .keys()
                    .any(|key| key.starts_with('$') && (length > 0 || key != "$schema")) =>
            {
                match self.look_up(map, pointer) {
                    Ok(found) => {
                        *value = found;
                        self.found.replaced.push(pointer.clone());
                    }
                    Err(problem) => {
                        self.found.problems.push((pointer.clone(), problem));
                        // What is wrong is said once; a null would be complained about again.
                        *value = Value::Null;
                    }
                }
            }
            Value::Object(map) => {
                for (key, item) in map {
                    pointer.push('/');
                    pointer.push_str(&segment(key));
                    self.apply(item, pointer);
                    pointer.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn look_up(&mut self, map: &Map<String, Value>, pointer: &str) -> Result<Value, String> {
        let key = ["$env", "$file"].into_iter().find(|key| map.contains_key(*key));
        let Some(key) = key else {
            let strange = map
                .keys()
                .find(|key| key.starts_with('$'))
                .map_or("", String::as_str);
            let hint = nearest(strange, ["$env", "$file"])
                .map(|meant| format!("; `{meant}` is the nearest"))
                .unwrap_or_default();
            return Err(format!(
                "`{strange}` is not something that can be looked up{hint}"
            ));
        };
        if let Some(other) = map.keys().find(|other| *other != key && *other != "type") {
            return Err(format!("`{other}` cannot stand beside `{key}`; only `type` can"));
        }
        let Some(name) = map[key].as_str() else {
            return Err(format!("`{key}` must be a string"));
        };
        let text = match key {
            "$env" => self
                .environment
                .get(name)
                .ok_or_else(|| format!("the environment variable {name} is not set"))?
                .to_owned(),
            _ => self.read(name, pointer)?,
        };
        let kind = match map.get("type") {
            None => "string",
            Some(kind) => kind.as_str().unwrap_or_default(),
        };
        let subject = match key {
            "$env" => format!("the environment variable {name}"),
            _ => format!("the file {name}"),
        };
        convert(&text, kind).map_err(|wanted| format!("{subject} {wanted}"))
    }

    fn read(&mut self, name: &str, pointer: &str) -> Result<String, String> {
        let path = self.base.join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("the file {} cannot be read: {error}", path.display()))?;
        if let Ok(metadata) = std::fs::metadata(&path)
            && let Some(mode) = readable_by_others(&metadata)
            && pointer.ends_with("/accessToken")
        {
            let path = path.display();
            self.found.warnings.push((
                pointer.to_owned(),
                format!("others can read the secret in {path} (mode {mode:04o}): chmod 600 {path}"),
            ));
        }
        // Editors and `echo` end a file with a line break that is no part of the secret.
        Ok(text
            .strip_suffix('\n')
            .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text))
            .to_owned())
    }
}

/// `text` as `kind`; the error ends a sentence that begins with where the text is from.
fn convert(text: &str, kind: &str) -> Result<Value, String> {
    match kind {
        "string" => Ok(text.into()),
        "number" => match text.trim().parse::<serde_json::Number>() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => Err("is not a number".into()),
        },
        "bool" => match text.trim() {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err("is neither `true` nor `false`".into()),
        },
        "json" => serde_json::from_str(text)
            // serde_json's own text can hold a piece of the value.
            .map_err(|error| format!("is not JSON (line {}, column {})", error.line(), error.column())),
        "list" => Ok(text.split_whitespace().collect()),
        _ => Err("cannot be converted: `type` is one of string, number, bool, json, list".into()),
    }
}

/// The mode of a file that not only its owner can read.
#[cfg(unix)]
pub(super) fn readable_by_others(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let mode = metadata.mode() & 0o7777;
    (mode & 0o044 != 0).then_some(mode)
}

/// Elsewhere there are no mode bits to look at.
#[cfg(not(unix))]
pub(super) fn readable_by_others(_metadata: &std::fs::Metadata) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn apply_to(mut value: Value, variables: &[(&str, &str)]) -> (Value, Vec<(String, String)>) {
        let found = apply(&mut value, &variables.iter().copied().collect(), Path::new("."));
        (value, found.problems)
    }

    #[test]
    fn values_of_every_type_are_replaced_wherever_they_stand() {
        let (value, problems) = apply_to(
            json!({"a": [{"$env": "S"}, {"b": {"$env": "N", "type": "number"}}],
                   "c": {"$env": "B", "type": "bool"}, "d": {"$env": "J", "type": "json"},
                   "e": {"$env": "L", "type": "list"}, "f": "$env"}),
            &[
                ("S", "text"),
                ("N", "12"),
                ("B", "true"),
                ("J", "{\"$env\": \"S\"}"),
                ("L", "x  y"),
            ],
        );
        assert_eq!(problems, []);
        assert_eq!(
            value,
            json!({"a": ["text", {"b": 12}], "c": true, "d": {"$env": "S"}, "e": ["x", "y"], "f": "$env"})
        );
    }

    #[test]
    fn what_cannot_be_looked_up_says_why_and_never_shows_the_value() {
        let problem = |value: Value| apply_to(json!({ "x": value }), &[("V", "hunter2")]).1[0].clone();
        for (value, wanted) in [
            (
                json!({"$env": "NONE"}),
                "the environment variable NONE is not set",
            ),
            (
                json!({"$env": "V", "type": "number"}),
                "the environment variable V is not a number",
            ),
            (
                json!({"$env": "V", "type": "bool"}),
                "the environment variable V is neither `true` nor `false`",
            ),
            (
                json!({"$env": "V", "type": "json"}),
                "the environment variable V is not JSON (line 1, column 1)",
            ),
            (
                json!({"$env": "V", "type": "integer"}),
                "the environment variable V cannot be converted: `type` is one of string, number, bool, json, list",
            ),
            (json!({"$env": 1}), "`$env` must be a string"),
            (
                json!({"$env": "V", "default": 1}),
                "`default` cannot stand beside `$env`; only `type` can",
            ),
            (
                json!({"$evn": "V"}),
                "`$evn` is not something that can be looked up; `$env` is the nearest",
            ),
        ] {
            assert_eq!(problem(value), ("/x".to_owned(), wanted.to_owned()));
        }
        let (pointer, message) = problem(json!({"$file": "no/such/file"}));
        assert_eq!(pointer, "/x");
        assert!(message.contains("cannot be read"), "{message}");
    }
}
