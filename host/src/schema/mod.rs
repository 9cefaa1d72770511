//! From the schema fragments of an engine and its plugins to one schema for payloads.
//!
//! Each provider declares the keys that it understands as a JSON Schema (2020-12) of an object.
//! [`PayloadSchema::compose`] merges them: several providers may add keys to one object (`features`), but a key
//! belongs to one provider, or to several that describe it identically. What nobody declares is refused. The result
//! checks a task's payload and hands each provider its own keys, so that none can come to depend on another's.
//!
//! ```text
//! fragment.rs    is one fragment fit to be composed; its references made its own
//! merge.rs       the tree of keys, with who owns what; splitting a payload along it
//! violation.rs   what is wrong with a value, for people
//! explain.rs     every key, who provides it; every missing key, and why
//! units.rs       durations and sizes as people write them
//! object.rs      schemas that are not composed: the configuration of an engine or a plugin
//! ```

mod explain;
mod fragment;
mod merge;
mod nearest;
mod object;
pub mod units;
mod violation;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

pub use explain::{Explanation, KeyRow, MissingRow};
pub use nearest::nearest;
pub use object::{InvalidSchema, ObjectSchema};
pub use violation::Violation;

use fragment::Fragment;
use merge::ObjectNode;

/// An engine's part of the payload schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineFragment {
    /// The engine's name.
    pub name: String,
    /// The file or library it comes from, as the operator knows it.
    pub library: String,
    /// JSON Schema of an object; `null` for no keys.
    pub schema: Value,
    /// The features that it declares.
    pub features: Vec<String>,
}

/// A plugin's part of the payload schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginFragment {
    /// The plugin's name, unique among the plugins.
    pub name: String,
    /// The file or library it comes from, as the operator knows it.
    pub library: String,
    /// JSON Schema of an object; `null` for no keys, or when the plugin was never made because it is left out.
    pub schema: Value,
    /// Engine features without which it is left out.
    pub requires: Vec<String>,
    /// Another reason to leave it out, as the end of a sentence that begins with the plugin's name: `is disabled in
    /// the configuration`.
    pub unavailable: Option<String>,
}

/// Who provides a part of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Engine or plugin.
    pub kind: ProviderKind,
    /// Its name.
    pub name: String,
    /// The library it comes from.
    pub library: String,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ProviderKind::Engine => "engine",
            ProviderKind::Plugin => "plugin",
        };
        write!(f, "{kind} {} ({})", self.name, self.library)
    }
}

/// The two sorts of providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProviderKind {
    /// There is one.
    Engine,
    /// Any number.
    Plugin,
}

/// Why the fragments do not make one schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// A fragment is not usable by itself.
    #[error(
        "the payload schema of {provider} is not valid at {path}: {message}. This is a mistake in the library: \
         ask its vendor, or leave it out"
    )]
    InvalidFragment {
        /// Whose.
        provider: Provider,
        /// Where in the fragment, as a JSON pointer.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// Two providers describe one key differently.
    #[error("{first} and {second} both define the payload key `{path}`, differently: leave one of them out")]
    Conflict {
        /// The key, dotted.
        path: String,
        /// The one that was there.
        first: Provider,
        /// The one that came later.
        second: Provider,
    },
    /// Two plugins have one name.
    #[error("{first} and {second} have the same name: leave one of them out")]
    SameName {
        /// The one that was there.
        first: Provider,
        /// The one that came later.
        second: Provider,
    },
}

/// A payload, cut along its owners.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The engine's keys.
    pub engine: Value,
    /// Each plugin's keys, by its name; an empty object for a plugin that was given none.
    pub plugins: BTreeMap<String, Value>,
}

/// A plugin that is not part of the schema, and the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOut {
    /// Which.
    pub provider: Provider,
    /// The end of a sentence that begins with the provider: `needs engine feature 'artifacts', which engine mock does
    /// not have`.
    pub reason: String,
    /// The keys it would have provided; empty if that is not known.
    keys: ObjectNode,
}

/// The payload schema of one worker.
#[derive(Debug)]
pub struct PayloadSchema {
    providers: Vec<Provider>,
    tree: ObjectNode,
    document: Value,
    validator: Validator,
    left_out: Vec<LeftOut>,
}

/// The dialect that fragments are written in.
pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

impl PayloadSchema {
    /// Merges the engine's fragment with those of the plugins. The order of the plugins does not matter. All clashes
    /// are found before any is returned.
    pub fn compose(engine: EngineFragment, plugins: Vec<PluginFragment>) -> Result<Self, Vec<Clash>> {
        let mut composer = Composer::default();
        let engine_provider = Provider {
            kind: ProviderKind::Engine,
            name: engine.name.clone(),
            library: engine.library,
        };
        composer.add(engine_provider, &engine.schema);

        let mut plugins = plugins;
        plugins.sort_by(|a, b| (&a.name, &a.library).cmp(&(&b.name, &b.library)));
        let mut left_out = Vec::new();
        for plugin in plugins {
            let provider = Provider {
                kind: ProviderKind::Plugin,
                name: plugin.name,
                library: plugin.library,
            };
            let missing: Vec<&String> = plugin
                .requires
                .iter()
                .filter(|f| !engine.features.contains(f))
                .collect();
            let reason = match (plugin.unavailable, missing.as_slice()) {
                (Some(reason), _) => reason,
                (None, []) => {
                    composer.add(provider, &plugin.schema);
                    continue;
                }
                (None, missing) => lacking(missing, &engine.name),
            };
            // A plugin that does not take part must not stop the worker, whatever its schema is like: then it is
            // merely not known which keys are missing.
            let keys = Fragment::prepare("", &plugin.schema)
                .ok()
                .map(|fragment| {
                    let mut tree = ObjectNode::default();
                    merge::add(
                        &mut tree,
                        fragment.properties,
                        &fragment.required,
                        0,
                        &mut |_, _| {},
                    );
                    tree
                })
                .unwrap_or_default();
            left_out.push(LeftOut {
                provider,
                reason,
                keys,
            });
        }
        composer.finish(left_out)
    }

    /// Checks a task's payload and cuts it along its owners. Messages never repeat a value: they go to the task's
    /// log, which others can read.
    pub fn validate(&self, payload: &Value) -> Result<Split, Vec<Violation>> {
        // The check without messages is several times faster, and nearly every payload is right.
        if self.validator.is_valid(payload) {
            return Ok(self.split(payload));
        }
        let explain = |path: &[String]| self.why_unavailable(path);
        Err(violation::all(
            &self.validator,
            &self.document,
            payload,
            "payload",
            &explain,
        ))
    }

    /// The whole schema, for editors and for the queue.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Plugins that take no part, with the reason.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Every key with its provider, and every missing key with the reason.
    pub fn explain(&self) -> Explanation {
        explain::explain(self)
    }

    fn split(&self, payload: &Value) -> Split {
        let mut engine = Value::Object(Map::new());
        let mut plugins = BTreeMap::new();
        for (owner, provider) in self.providers.iter().enumerate() {
            let part = Value::Object(match payload {
                Value::Object(payload) => self.tree.part(payload, owner),
                _ => Map::new(),
            });
            match provider.kind {
                ProviderKind::Engine => engine = part,
                ProviderKind::Plugin => {
                    plugins.insert(provider.name.clone(), part);
                }
            }
        }
        Split { engine, plugins }
    }

    /// Why the unknown key at `path` is unknown, if a plugin that is left out has to do with it.
    fn why_unavailable(&self, path: &[String]) -> Option<String> {
        let key = path.join(".");
        let known = self.left_out.iter().find(|left_out| left_out.keys.contains(path));
        // A plugin that was never made did not say what its keys are; most are named after their only key.
        let guessed = || {
            self.left_out.iter().find(|left_out| {
                left_out.keys.is_empty() && path.len() == 1 && left_out.provider.name == path[0]
            })
        };
        let left_out = known.or_else(guessed)?;
        Some(format!(
            "`{key}` is not available: {} {}",
            left_out.provider, left_out.reason
        ))
    }
}

fn lacking(missing: &[&String], engine: &str) -> String {
    let names: Vec<String> = missing.iter().map(|name| format!("'{name}'")).collect();
    let noun = if names.len() == 1 { "feature" } else { "features" };
    format!(
        "needs engine {noun} {}, which engine {engine} does not have",
        names.join(" and ")
    )
}

#[derive(Default)]
struct Composer {
    providers: Vec<Provider>,
    tree: ObjectNode,
    definitions: Map<String, Value>,
    conditions: Vec<Value>,
    clashes: Vec<Clash>,
}

impl Composer {
    fn add(&mut self, provider: Provider, schema: &Value) {
        if let Some(first) = self
            .providers
            .iter()
            .find(|p| p.kind == provider.kind && p.name == provider.name)
        {
            self.clashes.push(Clash::SameName {
                first: first.clone(),
                second: provider,
            });
            return;
        }
        let owner = self.providers.len();
        let alias = self.alias(&provider);
        self.providers.push(provider.clone());
        let fragment = match Fragment::prepare(&alias, schema) {
            Ok(fragment) => fragment,
            Err((path, message)) => {
                self.clashes.push(Clash::InvalidFragment {
                    provider,
                    path,
                    message,
                });
                return;
            }
        };
        let (providers, clashes) = (&self.providers, &mut self.clashes);
        merge::add(
            &mut self.tree,
            fragment.properties,
            &fragment.required,
            owner,
            &mut |path, first| {
                clashes.push(Clash::Conflict {
                    path,
                    first: providers[first].clone(),
                    second: provider.clone(),
                });
            },
        );
        if !fragment.definitions.is_empty() {
            self.definitions
                .insert(alias, json!({ "$defs": fragment.definitions }));
        }
        self.conditions.extend(fragment.conditions);
    }

    /// The name under which a provider's `$defs` live in the composed schema: only characters that need no escape in
    /// a reference, and unlike the others.
    fn alias(&self, provider: &Provider) -> String {
        let kind = match provider.kind {
            ProviderKind::Engine => "engine",
            ProviderKind::Plugin => "plugin",
        };
        let plain: String = provider
            .name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let mut alias = format!("{kind}-{plain}");
        while self.definitions.contains_key(&alias) {
            alias.push('_');
        }
        alias
    }

    fn finish(mut self, left_out: Vec<LeftOut>) -> Result<PayloadSchema, Vec<Clash>> {
        if !self.clashes.is_empty() {
            return Err(self.clashes);
        }
        let mut document = self.tree.schema();
        document.insert("$schema".into(), json!(DIALECT));
        document.insert("title".into(), json!("Task payload"));
        if !self.definitions.is_empty() {
            document.insert("$defs".into(), Value::Object(self.definitions));
        }
        if !self.conditions.is_empty() {
            document.insert("allOf".into(), Value::Array(self.conditions));
        }
        let document = Value::Object(document);
        // Every fragment compiled by itself, so this can fail only by a mistake of ours; it is still an error that
        // names somebody rather than a panic at start.
        let validator = fragment::compile(&document).map_err(|(path, message)| {
            vec![Clash::InvalidFragment {
                provider: self.providers.swap_remove(0),
                path,
                message,
            }]
        })?;
        Ok(PayloadSchema {
            providers: self.providers,
            tree: self.tree,
            document,
            validator,
            left_out,
        })
    }
}

impl PayloadSchema {
    /// The providers that take part, the engine first.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    fn names(&self, owners: &BTreeSet<usize>) -> Vec<Provider> {
        owners
            .iter()
            .map(|owner| self.providers[*owner].clone())
            .collect()
    }
}
