//! What is wrong with a value, for people.
//!
//! One violation is one thing to change: its place as the author wrote it (`artifacts[0].name`), and what is expected
//! there. A value is never repeated: it may be a secret, and these messages end in logs that others can read.

use std::fmt;

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::nearest::nearest;

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where: `env`, `artifacts[0].name`; the name of the whole if that is what is wrong.
    pub path: String,
    /// What is wrong there. It begins with the path, so it can stand alone.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// More violations than this help nobody, and a payload of a megabyte can hold a hundred thousand.
const MOST: usize = 25;
/// A longer key is shown by its beginning.
const LONGEST_KEY: usize = 80;

/// What is wrong with `value`, each thing once, up to a bound that the last violation then names. `whole` names it; `unavailable` knows why a key that is not
/// in the schema is not there.
pub(super) fn all(
    validator: &Validator,
    schema: &Value,
    value: &Value,
    whole: &str,
    unavailable: &dyn Fn(&[String]) -> Option<String>,
) -> Vec<Violation> {
    let writer = Writer {
        schema,
        value,
        whole,
        unavailable,
    };
    let mut out: Vec<Violation> = Vec::new();
    for error in validator.iter_errors(value) {
        for violation in writer.violations(&error) {
            if out.contains(&violation) {
                continue;
            }
            if out.len() == MOST {
                out.push(Violation {
                    path: whole.to_owned(),
                    message: format!("the {whole} has more mistakes; these are the first {MOST}"),
                });
                return out;
            }
            out.push(violation);
        }
    }
    out
}

struct Writer<'a> {
    schema: &'a Value,
    value: &'a Value,
    whole: &'a str,
    unavailable: &'a dyn Fn(&[String]) -> Option<String>,
}

impl Writer<'_> {
    fn violations(&self, error: &ValidationError<'_>) -> Vec<Violation> {
        let path = segments(error.instance_path().as_str());
        match error.kind() {
            Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
                unexpected
                    .iter()
                    .take(MOST + 1)
                    .map(|key| self.unknown_key(error, &path, key))
                    .collect()
            }
            Kind::Required { property } => {
                let mut path = path;
                path.push(property.as_str().unwrap_or_default().to_owned());
                vec![self.at(&path, "is missing, and is required")]
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                self.no_form_fits(error, &path, context)
            }
            kind => vec![self.at(&path, &expectation(kind, error))],
        }
    }

    fn at(&self, path: &[String], what: &str) -> Violation {
        let place = self.dotted(path);
        let message = if path.is_empty() {
            format!("the {place} {what}")
        } else {
            format!("`{place}` {what}")
        };
        Violation { path: place, message }
    }

    fn unknown_key(&self, error: &ValidationError<'_>, parent: &[String], key: &str) -> Violation {
        let mut path = parent.to_vec();
        path.push(key.to_owned());
        if let Some(message) = (self.unavailable)(&path) {
            return Violation {
                path: self.dotted(&path),
                message,
            };
        }
        let known = self.known_keys(error);
        match (nearest(key, known.iter().map(String::as_str)), known.as_slice()) {
            (Some(meant), _) => {
                let mut meant_path = parent.to_vec();
                meant_path.push(meant.to_owned());
                let meant = self.dotted(&meant_path);
                self.at(&path, &format!("is not a known key; `{meant}` is the nearest"))
            }
            (None, []) => self.at(&path, "is not a known key"),
            (None, known) => self.at(
                &path,
                &format!("is not a known key; known here: {}", known.join(", ")),
            ),
        }
    }

    /// The keys beside the `additionalProperties` that was violated.
    fn known_keys(&self, error: &ValidationError<'_>) -> Vec<String> {
        let keyword = error.schema_path().as_str();
        let parent = keyword.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.schema
            .pointer(parent)
            .and_then(|schema| schema.get("properties"))
            .and_then(Value::as_object)
            .map(|properties| properties.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// A value that may have one of several forms has none of them. If the forms differ by type alone, the types are
    /// the message; otherwise what the most similar form lacks.
    fn no_form_fits(
        &self,
        error: &ValidationError<'_>,
        path: &[String],
        forms: &[Vec<ValidationError<'static>>],
    ) -> Vec<Violation> {
        let here = error.instance_path().as_str();
        let expected: Vec<String> = forms
            .iter()
            .filter_map(|errors| match errors.as_slice() {
                [error] if error.instance_path().as_str() == here => match error.kind() {
                    Kind::Type { kind } => Some(types(kind)),
                    Kind::Constant { expected_value } => Some(expected_value.to_string()),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        if expected.len() == forms.len() {
            let found = type_of(error.instance());
            return vec![self.at(path, &format!("must be {}, not {found}", expected.join(" or ")))];
        }
        // Unknown and missing keys of the value itself say "this is another form"; the rest, that one detail is off.
        let unlike = |errors: &[ValidationError<'_>]| {
            let mut distance = 0;
            for error in errors {
                let at_top = error.instance_path().as_str() == here;
                distance += match error.kind() {
                    Kind::Type { .. } if at_top => 1000,
                    Kind::AdditionalProperties { unexpected } if at_top => 10 * unexpected.len(),
                    Kind::Required { .. } if at_top => 10,
                    Kind::Constant { .. } | Kind::Enum { .. } => 10,
                    _ => 1,
                };
            }
            distance
        };
        let Some(nearest_form) = forms.iter().min_by_key(|errors| unlike(errors)) else {
            return vec![self.at(path, "fits none of the forms that are allowed here")];
        };
        let mut out = vec![];
        for error in nearest_form {
            for violation in self.violations(error) {
                out.push(Violation {
                    message: format!(
                        "{} (going by the most similar of {} allowed forms)",
                        violation.message,
                        forms.len()
                    ),
                    path: violation.path,
                });
            }
        }
        out
    }

    /// `["artifacts", "0", "name"]` as `artifacts[0].name`: whether a segment is an index is seen in the value.
    fn dotted(&self, path: &[String]) -> String {
        let mut out = String::new();
        let mut at = Some(self.value);
        for segment in path {
            if at.is_some_and(Value::is_array) {
                out.push_str(&format!("[{segment}]"));
                at = at.and_then(|value| value.get(segment.parse::<usize>().ok()?));
                continue;
            }
            if !out.is_empty() {
                out.push('.');
            }
            out.extend(segment.chars().take(LONGEST_KEY));
            if segment.chars().nth(LONGEST_KEY).is_some() {
                out.push('…');
            }
            at = at.and_then(|value| value.get(segment));
        }
        if out.is_empty() {
            self.whole.to_owned()
        } else {
            out
        }
    }
}

/// The parts of a JSON pointer.
fn segments(pointer: &str) -> Vec<String> {
    pointer
        .split('/')
        .skip(1)
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
        .collect()
}

/// What is expected, as the end of a sentence that begins with the place.
fn expectation(kind: &Kind, error: &ValidationError<'_>) -> String {
    match kind {
        Kind::Type { kind } => {
            let found = type_of(error.instance());
            // An empty value in YAML is null, and its author did not mean null.
            let hint = if error.instance().is_null() {
                " (nothing is written there)"
            } else {
                ""
            };
            format!("must be {}, not {found}{hint}", types(kind))
        }
        Kind::Enum { options } => {
            let options: Vec<String> = options
                .as_array()
                .into_iter()
                .flatten()
                .map(Value::to_string)
                .collect();
            format!("must be one of {}", options.join(", "))
        }
        Kind::Constant { expected_value } => format!("must be {expected_value}"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::MinLength { limit: 1 } | Kind::MinItems { limit: 1 } | Kind::MinProperties { limit: 1 } => {
            "must not be empty".into()
        }
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::MinItems { limit } => format!("must have at least {limit} items"),
        Kind::MaxItems { limit } => format!("must have at most {limit} items"),
        Kind::AdditionalItems { limit } => format!("must have at most {limit} items"),
        Kind::MinProperties { limit } => format!("must have at least {limit} keys"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} keys"),
        Kind::UniqueItems => "must not have the same item twice".into(),
        Kind::Pattern { pattern } => format!("must match the pattern {pattern}"),
        Kind::Format { format } => format!("must be {}", format_name(format)),
        Kind::OneOfMultipleValid { .. } => "fits more than one of the forms, and must fit exactly one".into(),
        Kind::FalseSchema => "is not allowed here".into(),
        Kind::PropertyNames { error } => format!(
            "has a key that does not fit: it {}",
            expectation(error.kind(), error)
        ),
        Kind::Not { .. } => "has a form that is not allowed here".into(),
        Kind::Contains => "lacks an item that is required".into(),
        // What is left does not occur with the schemas that are accepted here; its own text may repeat the value.
        other => format!("breaks the rule `{}` of the schema", other.keyword()),
    }
}

fn format_name(format: &str) -> String {
    match format {
        "date-time" => "a time such as 2026-01-25T23:31:13Z".into(),
        "uri" => "a URL".into(),
        "duration-text" => "seconds, or text such as `90 s`, `20 min` or `1 day 2 hours`".into(),
        "size-text" => "bytes, or text such as `500 MB` or `10 GiB`".into(),
        other => format!("in the format `{other}`"),
    }
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => article(one.as_str()).to_owned(),
        TypeKind::Multiple(set) => {
            let names: Vec<&str> = set.iter().map(|one| article(one.as_str())).collect();
            names.join(" or ")
        }
    }
}

fn article(name: &str) -> &'static str {
    match name {
        "array" => "a list",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "null" => "null",
        "number" => "a number",
        "object" => "an object",
        _ => "a string",
    }
}

pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
