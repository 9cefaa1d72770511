//! YAML (and so JSON) as plain data, with the line of every key.
//!
//! Booleans are `true` and `false` alone, and `0755` stays text: a file must not change its meaning because a word
//! looks like something else to an older YAML.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// A file's content.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The data.
    pub value: Value,
    lines: BTreeMap<String, u64>,
}

/// A text that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// From 1.
    pub line: Option<u64>,
    /// What is wrong. It never repeats the text, which may hold secrets.
    pub message: String,
}

impl Document {
    /// Reads one YAML or JSON document.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let options = serde_saphyr::options! {
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
        };
        match serde_saphyr::from_str_with_options::<Spanned<Tree>>(text, options) {
            Ok(tree) => {
                let mut lines = BTreeMap::new();
                let value = tree.value.plain(&mut String::new(), &mut lines);
                Ok(Document { value, lines })
            }
            // JSON that programs write has corners in which it is not YAML.
            Err(error) => match serde_json::from_str(text) {
                Ok(value) => Ok(Document {
                    value,
                    lines: BTreeMap::new(),
                }),
                Err(_) => Err(SyntaxError {
                    line: error.location().map(|location| location.line()),
                    message: match error.without_snippet() {
                        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                            format!("the key `{key}` stands here for the second time")
                        }
                        error => error.to_string(),
                    },
                }),
            },
        }
    }

    /// The line of the key or item at the JSON pointer `pointer`, or else of what it would stand in.
    pub fn line(&self, pointer: &str) -> Option<u64> {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return Some(*line);
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }
}

/// `key` as a segment of a JSON pointer.
pub(super) fn segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Object(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl Tree {
    fn plain(self, pointer: &mut String, lines: &mut BTreeMap<String, u64>) -> Value {
        let length = pointer.len();
        match self {
            Tree::Scalar(value) => value,
            Tree::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| {
                    pointer.push_str(&format!("/{index}"));
                    lines.insert(pointer.clone(), item.referenced.line());
                    let value = item.value.plain(pointer, lines);
                    pointer.truncate(length);
                    value
                })
                .collect(),
            Tree::Object(entries) => {
                let mut map = Map::new();
                for (key, item) in entries {
                    pointer.push('/');
                    pointer.push_str(&segment(&key.value));
                    lines.insert(pointer.clone(), key.referenced.line());
                    let value = item.value.plain(pointer, lines);
                    pointer.truncate(length);
                    map.insert(key.value, value);
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true, false, null, a list or an object")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            list.push(entry);
        }
        Ok(Tree::Object(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn data_and_lines() {
        let text = "# comment\nworker:\n  capacity: 4\n  \"a/b\":\n    - x\n    - on\n    - 0755\n";
        let document = Document::parse(text).unwrap();
        assert_eq!(
            document.value,
            json!({"worker": {"capacity": 4, "a/b": ["x", "on", "0755"]}})
        );
        assert_eq!(document.line("/worker"), Some(2));
        assert_eq!(document.line("/worker/capacity"), Some(3));
        assert_eq!(document.line("/worker/a~1b/1"), Some(6));
        // What is not there is looked for where it would stand.
        assert_eq!(document.line("/worker/workerId"), Some(2));
        assert_eq!(document.line("/queue"), None);
    }

    #[test]
    fn json_is_read_as_well() {
        let document = Document::parse("{\n\t\"a\": {\"b\": [1, null, \"\\u00e9\\/\"]}\n}").unwrap();
        assert_eq!(document.value, json!({"a": {"b": [1, null, "é/"]}}));
        assert_eq!(document.line("/a/b"), Some(2));
        assert_eq!(Document::parse("").unwrap().value, Value::Null);
    }

    #[test]
    fn an_error_has_a_line_and_does_not_repeat_the_text() {
        let error = Document::parse("a: 1\ntoken: [hunter2\nb: 2\n").unwrap_err();
        assert!(error.line.is_some());
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_eq!(Document::parse("a: 1\nb: 2\na: 3\n").unwrap_err().line, Some(3));
    }
}
