//! Every key of the payload and who provides it; every missing key and why.

use std::fmt::Write as _;

use serde_json::Value;

use super::merge::{Node, ObjectNode};
use super::{PayloadSchema, Provider};

/// A key that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRow {
    /// Dotted; `[]` stands for any item and `*` for any key: `artifacts[].name`.
    pub path: String,
    /// For people: `list of string`.
    pub kind: String,
    /// Whether it must be there when its parent is.
    pub required: bool,
    /// What the key is for.
    pub description: String,
    /// What applies when it is not there.
    pub default: Option<Value>,
    /// Who understands it.
    pub providers: Vec<Provider>,
}

/// A key, or a plugin whose keys are not known, that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct MissingRow {
    /// Dotted; `None` if the plugin did not say which keys it has.
    pub path: Option<String>,
    /// Who would have provided it.
    pub provider: Provider,
    /// Why it does not: the end of a sentence that begins with the provider.
    pub reason: String,
}

/// What [`PayloadSchema::explain`] answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// Sorted by path; a key comes before what is inside it.
    pub keys: Vec<KeyRow>,
    /// Sorted by provider.
    pub missing: Vec<MissingRow>,
}

/// Descriptions of a value's inside end here: deeper, a table helps nobody, and definitions may be recursive.
const DEPTH: usize = 4;

pub(super) fn explain(schema: &PayloadSchema) -> Explanation {
    let mut out = Explanation::default();
    let describe = Describer {
        root: &schema.document,
    };
    object(schema, &describe, &schema.tree, "", &mut out.keys);
    for left_out in &schema.left_out {
        let mut row = |path| {
            out.missing.push(MissingRow {
                path,
                provider: left_out.provider.clone(),
                reason: left_out.reason.clone(),
            });
        };
        missing(&schema.tree, &left_out.keys, &mut Vec::new(), &mut |path| {
            row(Some(path))
        });
        if left_out.keys.is_empty() {
            row(None);
        }
    }
    out
}

fn object(
    schema: &PayloadSchema,
    describe: &Describer<'_>,
    node: &ObjectNode,
    place: &str,
    out: &mut Vec<KeyRow>,
) {
    for (key, child) in &node.children {
        let path = join(place, key);
        let child_schema = child.schema();
        let providers = schema.names(child.owners());
        out.push(describe.row(path.clone(), &child_schema, node.requires(key), providers.clone()));
        match child {
            Node::Object(inner) => object(schema, describe, inner, &path, out),
            Node::Leaf { .. } => describe.inside(&path, &child_schema, &providers, DEPTH, out),
        }
    }
}

/// The keys of `lost` that `there` lacks; of an object that is missing as a whole, only itself.
fn missing(there: &ObjectNode, lost: &ObjectNode, path: &mut Vec<String>, out: &mut impl FnMut(String)) {
    for (key, child) in &lost.children {
        path.push(key.clone());
        match (there.children.get(key), child) {
            (None, _) => out(path.join(".")),
            (Some(Node::Object(there)), Node::Object(lost)) => missing(there, lost, path, out),
            (Some(_), _) => {}
        }
        path.pop();
    }
}

fn join(place: &str, key: &str) -> String {
    if place.is_empty() {
        key.to_owned()
    } else {
        format!("{place}.{key}")
    }
}

/// Reads schemas for people.
struct Describer<'a> {
    root: &'a Value,
}

impl Describer<'_> {
    fn row(&self, path: String, schema: &Value, required: bool, providers: Vec<Provider>) -> KeyRow {
        let text = |schema: &Value| {
            schema
                .get("description")
                .or_else(|| schema.get("title"))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        KeyRow {
            path,
            kind: self.kind(schema, DEPTH),
            required,
            description: text(schema)
                .or_else(|| text(self.resolve(schema)))
                .unwrap_or_default(),
            default: schema.get("default").cloned(),
            providers,
        }
    }

    /// What a list's items, a map's values or an object hold.
    fn inside(
        &self,
        place: &str,
        schema: &Value,
        providers: &[Provider],
        depth: usize,
        out: &mut Vec<KeyRow>,
    ) {
        let schema = self.resolve(schema);
        if depth == 0 {
            return;
        }
        if let Some(Value::Object(properties)) = schema.get("properties") {
            let required: Vec<&str> = strings(schema.get("required"));
            for (key, child) in properties {
                let path = join(place, key);
                let is_required = required.contains(&key.as_str());
                out.push(self.row(path.clone(), child, is_required, providers.to_vec()));
                self.inside(&path, child, providers, depth - 1, out);
            }
        }
        if let Some(items) = schema.get("items") {
            self.inside(&format!("{place}[]"), items, providers, depth - 1, out);
        }
        if let Some(values) = schema.get("additionalProperties") {
            self.inside(&format!("{place}.*"), values, providers, depth - 1, out);
        }
    }

    fn resolve<'b>(&'b self, schema: &'b Value) -> &'b Value {
        let mut schema = schema;
        // Fragments with endless references are refused; the bound only keeps this loop honest by itself.
        for _ in 0..16 {
            match schema.get("$ref").and_then(Value::as_str) {
                Some(reference) => match self.root.pointer(&reference[1..]) {
                    Some(target) => schema = target,
                    None => break,
                },
                None => break,
            }
        }
        schema
    }

    fn kind(&self, schema: &Value, depth: usize) -> String {
        let schema = self.resolve(schema);
        if depth == 0 {
            return "...".into();
        }
        if let Some(options) = schema.get("enum").and_then(Value::as_array) {
            let options: Vec<String> = options.iter().map(plain).collect();
            return options.join(" | ");
        }
        if let Some(value) = schema.get("const") {
            return plain(value);
        }
        for keyword in ["oneOf", "anyOf"] {
            if let Some(forms) = schema.get(keyword).and_then(Value::as_array) {
                let forms: Vec<String> = forms
                    .iter()
                    .map(
                        |form| match self.resolve(form).get("title").and_then(Value::as_str) {
                            Some(title) => title.to_owned(),
                            None => self.kind(form, depth - 1),
                        },
                    )
                    .collect();
                return forms.join(" | ");
            }
        }
        let kinds = match schema.get("type") {
            Some(Value::String(kind)) => vec![kind.as_str()],
            Some(list) => strings(Some(list)),
            None if schema.get("properties").is_some() => vec!["object"],
            None => return "anything".into(),
        };
        let kinds: Vec<String> = kinds
            .into_iter()
            .map(|kind| match kind {
                "array" => match schema.get("items") {
                    Some(items) => format!("list of {}", self.kind(items, depth - 1)),
                    None => "list".into(),
                },
                "object" => match schema.get("additionalProperties") {
                    Some(values @ Value::Object(_)) => format!("map to {}", self.kind(values, depth - 1)),
                    _ => "object".into(),
                },
                "integer" | "number" => bounded(kind, schema),
                kind => kind.to_owned(),
            })
            .collect();
        kinds.join(" or ")
    }
}

fn bounded(kind: &str, schema: &Value) -> String {
    match (schema.get("minimum"), schema.get("maximum")) {
        (None, None) => kind.to_owned(),
        (Some(minimum), None) => format!("{kind} >= {minimum}"),
        (None, Some(maximum)) => format!("{kind} <= {maximum}"),
        (Some(minimum), Some(maximum)) => format!("{kind} {minimum}..{maximum}"),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

impl Explanation {
    /// A table for a terminal of `width` columns: a line for each key, its description indented below.
    pub fn table(&self, width: usize) -> String {
        let width = width.clamp(40, 160);
        let mut out = String::new();
        let mut rows = vec![["KEY", "TYPE", "DEFAULT", "FROM"].map(str::to_owned).to_vec()];
        for key in &self.keys {
            let default = match (&key.default, key.required) {
                (Some(default), _) => default.to_string(),
                (None, true) => "(required)".into(),
                (None, false) => "-".into(),
            };
            let from: Vec<&str> = key.providers.iter().map(|p| p.library.as_str()).collect();
            rows.push(vec![key.path.clone(), key.kind.clone(), default, from.join(", ")]);
        }
        // One long entry must not push the other columns off the screen.
        let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = [width / 3, width / 4, width / 6]
            .iter()
            .enumerate()
            .map(|(column, bound)| longest(column).unwrap_or_default().min(*bound))
            .collect();
        let descriptions = std::iter::once("").chain(self.keys.iter().map(|key| key.description.as_str()));
        for (row, description) in rows.iter().zip(descriptions) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            line.push_str(&row[3]);
            out.push_str(line.trim_end());
            out.push('\n');
            paragraph(&mut out, description, width, "    ");
        }
        if !self.missing.is_empty() {
            out.push_str("\nNOT AVAILABLE\n");
        }
        for row in &self.missing {
            let what = row.path.as_deref().unwrap_or("(keys not known)");
            let _ = writeln!(out, "{what}");
            paragraph(
                &mut out,
                &format!("{} {}", row.provider, row.reason),
                width,
                "    ",
            );
        }
        out
    }
}

/// Adds `text`, wrapped and indented.
fn paragraph(out: &mut String, text: &str, width: usize, indent: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent.len() + line.chars().count() + 1 + word.chars().count() > width {
            let _ = writeln!(out, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "{indent}{line}");
    }
}
