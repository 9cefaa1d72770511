//! Schemas that are not composed: the configuration object of one engine or one plugin.

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::violation::{self, Violation};
use super::{Provider, fragment};

/// A provider's configuration schema that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the configuration schema of {provider} is not valid at {path}: {message}. This is a mistake in the library: ask \
     its vendor, or leave it out"
)]
pub struct InvalidSchema {
    /// Whose.
    pub provider: Provider,
    /// Where in the schema, as a JSON pointer.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// The compiled schema of one object.
#[derive(Debug)]
pub struct ObjectSchema {
    place: String,
    document: Value,
    validator: Validator,
}

impl ObjectSchema {
    /// Compiles a provider's schema. `null` takes no keys at all. Objects that the schema leaves open are closed, so
    /// that a mistyped key is an error and not silence.
    pub fn new(provider: &Provider, place: impl Into<String>, schema: &Value) -> Result<Self, InvalidSchema> {
        Self::compile(place, schema).map_err(|(path, message)| InvalidSchema {
            provider: provider.clone(),
            path,
            message,
        })
    }

    /// The same for a schema of the host's own.
    pub(crate) fn compile(place: impl Into<String>, schema: &Value) -> Result<Self, (String, String)> {
        let mut document = match schema {
            Value::Null => json!({"type": "object", "properties": {}}),
            schema => schema.clone(),
        };
        fragment::check(&document)?;
        if let Value::Object(map) = &mut document
            && !map.contains_key("type")
        {
            map.insert("type".into(), json!("object"));
        }
        fragment::close(&mut document);
        let validator = fragment::compile(&document)?;
        Ok(ObjectSchema {
            place: place.into(),
            document,
            validator,
        })
    }

    /// Checks a configuration. `null` stands for an empty object.
    pub fn validate(&self, value: &Value) -> Result<(), Vec<Violation>> {
        let empty = Value::Object(Map::new());
        let value = if value.is_null() { &empty } else { value };
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let mut violations =
            violation::all(&self.validator, &self.document, value, "configuration", &|_| None);
        for violation in violations.iter_mut().filter(|_| !self.place.is_empty()) {
            violation.message = format!("{}: {}", self.place, violation.message);
        }
        Err(violations)
    }

    /// The schema, closed.
    pub fn document(&self) -> &Value {
        &self.document
    }
}
