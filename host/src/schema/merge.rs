//! The tree of payload keys, with who owns what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// A key: an object that several providers may add keys to, or something that is described as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Object(ObjectNode),
    Leaf { schema: Value, owners: BTreeSet<usize> },
}

/// An object that is open to providers and closed to everybody else.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ObjectNode {
    /// Title, description and the like, by the first who gave them.
    annotations: Map<String, Value>,
    required: BTreeSet<String>,
    pub(super) children: BTreeMap<String, Node>,
    pub(super) owners: BTreeSet<usize>,
}

/// Keywords that an object may have and still be added to by others.
const MERGEABLE: &[&str] = &[
    "$comment",
    "additionalProperties",
    "default",
    "deprecated",
    "description",
    "examples",
    "properties",
    "required",
    "title",
    "type",
    "unevaluatedProperties",
];
/// Two descriptions of one key that differ only in these are the same.
const WORDING: &[&str] = &["$comment", "description", "examples", "title"];

/// Adds the keys of one provider. `clash` hears of every key that another owner (the second argument) describes
/// differently.
pub(super) fn add(
    tree: &mut ObjectNode,
    properties: Map<String, Value>,
    required: &BTreeSet<String>,
    owner: usize,
    clash: &mut dyn FnMut(String, usize),
) {
    tree.add(properties, required, owner, "", clash);
}

impl Node {
    fn new(schema: Value, owner: usize) -> Node {
        match open_object(schema) {
            Ok((annotations, properties, required)) => {
                let mut object = ObjectNode {
                    annotations,
                    ..ObjectNode::default()
                };
                object.add(properties, &required, owner, "", &mut |_, _| {});
                Node::Object(object)
            }
            Err(schema) => Node::Leaf {
                schema,
                owners: BTreeSet::from([owner]),
            },
        }
    }

    pub(super) fn owners(&self) -> &BTreeSet<usize> {
        match self {
            Node::Object(object) => &object.owners,
            Node::Leaf { owners, .. } => owners,
        }
    }

    pub(super) fn schema(&self) -> Value {
        match self {
            Node::Object(object) => Value::Object(object.schema()),
            Node::Leaf { schema, .. } => schema.clone(),
        }
    }
}

impl ObjectNode {
    fn add(
        &mut self,
        properties: Map<String, Value>,
        required: &BTreeSet<String>,
        owner: usize,
        place: &str,
        clash: &mut dyn FnMut(String, usize),
    ) {
        self.owners.insert(owner);
        self.required.extend(required.iter().cloned());
        for (key, schema) in properties {
            let path = if place.is_empty() {
                key.clone()
            } else {
                format!("{place}.{key}")
            };
            match self.children.get_mut(&key) {
                None => {
                    self.children.insert(key, Node::new(schema, owner));
                }
                Some(Node::Leaf {
                    schema: there,
                    owners,
                }) => {
                    if same(there, &schema) {
                        owners.insert(owner);
                    } else {
                        clash(path, owners.first().copied().unwrap_or_default());
                    }
                }
                Some(Node::Object(object)) => match open_object(schema) {
                    Ok((annotations, properties, required)) => {
                        for (name, value) in annotations {
                            object.annotations.entry(name).or_insert(value);
                        }
                        object.add(properties, &required, owner, &path, clash);
                    }
                    Err(_) => clash(path, object.owners.first().copied().unwrap_or_default()),
                },
            }
        }
    }

    /// The keys of `payload` that are `owner`'s.
    pub(super) fn part(&self, payload: &Map<String, Value>, owner: usize) -> Map<String, Value> {
        let mut part = Map::new();
        for (key, value) in payload {
            let Some(node) = self
                .children
                .get(key)
                .filter(|node| node.owners().contains(&owner))
            else {
                continue;
            };
            let value = match (node, value) {
                (Node::Object(object), Value::Object(value)) => Value::Object(object.part(value, owner)),
                (_, value) => value.clone(),
            };
            part.insert(key.clone(), value);
        }
        part
    }

    /// The JSON Schema of this object.
    pub(super) fn schema(&self) -> Map<String, Value> {
        let mut schema = self.annotations.clone();
        let properties: Map<String, Value> = self
            .children
            .iter()
            .map(|(key, node)| (key.clone(), node.schema()))
            .collect();
        schema.insert("type".into(), json!("object"));
        schema.insert("properties".into(), Value::Object(properties));
        schema.insert("additionalProperties".into(), json!(false));
        if !self.required.is_empty() {
            schema.insert("required".into(), json!(self.required));
        }
        schema
    }

    pub(super) fn requires(&self, key: &str) -> bool {
        self.required.contains(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Whether there is a key at `path`.
    pub(super) fn contains(&self, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return true;
        };
        match self.children.get(first) {
            Some(Node::Object(object)) => object.contains(rest),
            Some(Node::Leaf { .. }) => rest.is_empty(),
            None => false,
        }
    }
}

/// The annotations, properties and required keys of an object.
type Parts = (Map<String, Value>, Map<String, Value>, BTreeSet<String>);

/// The parts of a schema that is just an object with named keys; otherwise the schema back.
fn open_object(schema: Value) -> Result<Parts, Value> {
    let Value::Object(mut map) = schema else {
        return Err(schema);
    };
    let closed = |keyword: &str| map.get(keyword).is_none_or(|value| value == false);
    let plain = map.keys().all(|keyword| MERGEABLE.contains(&keyword.as_str()))
        && map.get("type").is_none_or(|kind| kind == "object")
        && map.get("properties").is_some_and(Value::is_object)
        && closed("additionalProperties")
        && closed("unevaluatedProperties");
    if !plain {
        return Err(Value::Object(map));
    }
    let properties = match map.remove("properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    let required = match map.remove("required") {
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => BTreeSet::new(),
    };
    for keyword in ["type", "additionalProperties", "unevaluatedProperties"] {
        map.remove(keyword);
    }
    Ok((map, properties, required))
}

fn same(a: &Value, b: &Value) -> bool {
    let bare = |schema: &Value| {
        let mut schema = schema.clone();
        if let Value::Object(map) = &mut schema {
            WORDING.iter().for_each(|keyword| {
                map.remove(*keyword);
            });
        }
        schema
    };
    bare(a) == bare(b)
}
