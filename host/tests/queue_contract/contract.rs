//! What is published about a service, and the comparison of calls with it.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use super::queue_support::caller::Caller;

/// Where the schemas' relative references are resolved; nothing is fetched from there.
const BASE: &str = "https://tc.invalid";

/// One call as published.
struct Call {
    method: String,
    route: String,
    /// Schemas of the request's body and of the answer's.
    input: Option<String>,
    output: Option<String>,
}

/// The published description of a service, and which of its calls have been compared.
pub(crate) struct Contract {
    service: &'static str,
    schemas: BTreeMap<String, Value>,
    calls: BTreeMap<String, Call>,
    pub(crate) compared: BTreeSet<String>,
}

impl Contract {
    /// What `TASKCLUSTER_REFERENCES` names, if it names anything.
    pub(crate) fn load(service: &'static str) -> Option<Self> {
        let Ok(path) = std::env::var("TASKCLUSTER_REFERENCES") else {
            println!("skipped: TASKCLUSTER_REFERENCES is not set");
            return None;
        };
        let text =
            std::fs::read(&path).unwrap_or_else(|error| panic!("TASKCLUSTER_REFERENCES: {path}: {error}"));
        let files: Vec<Value> = serde_json::from_slice(&text).unwrap();
        let mut schemas = BTreeMap::new();
        let mut calls = BTreeMap::new();
        for file in files {
            let (name, mut content) = (file["filename"].as_str().unwrap(), file["content"].clone());
            if name.starts_with(&format!("schemas/{service}/v1/")) {
                let schema = content.as_object_mut().unwrap();
                // Their own meta schema is draft 7's with additions that do not concern validation.
                schema.insert(
                    "$schema".to_owned(),
                    "http://json-schema.org/draft-07/schema#".into(),
                );
                schema.remove("$id");
                schemas.insert(format!("{BASE}/{name}"), content);
            } else if name == format!("references/{service}/v1/api.json") {
                for entry in content["entries"].as_array().unwrap() {
                    let text = |key: &str| entry[key].as_str().map(str::to_owned);
                    let call = Call {
                        method: text("method").unwrap().to_uppercase(),
                        route: text("route").unwrap(),
                        input: text("input"),
                        output: text("output"),
                    };
                    calls.insert(text("name").unwrap(), call);
                }
            }
        }
        Some(Self {
            service,
            schemas,
            calls,
            compared: BTreeSet::new(),
        })
    }

    /// All calls there are.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.calls.keys().map(String::as_str)
    }

    /// A call's method and route.
    pub(crate) fn place(&self, name: &str) -> (Method, &str) {
        let call = &self.calls[name];
        (call.method.parse().unwrap(), &call.route)
    }

    /// Everything in which a value differs from a published schema.
    pub(crate) fn violations(&self, schema: &str, value: &Value) -> Vec<String> {
        let mut registry = jsonschema::Registry::new();
        for (uri, schema) in &self.schemas {
            registry = registry.add(uri, schema.clone()).unwrap();
        }
        let registry = registry.prepare().unwrap();
        let reference =
            json!({ "$ref": format!("{BASE}/schemas/{}/{}", self.service, schema.trim_end_matches('#')) });
        let validator = jsonschema::options()
            .with_registry(&registry)
            .with_draft(jsonschema::Draft::Draft7)
            .should_validate_formats(true)
            .build(&reference)
            .unwrap();
        let errors = validator.iter_errors(value);
        errors
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect()
    }

    /// Checks that a call is where the reference says that it is, and that what is sent is as it says.
    pub(crate) fn check_request(&self, name: &str, method: &Method, path: &str, body: Option<&Value>) {
        let call = &self.calls[name];
        assert_eq!(call.method, method.as_str(), "{name}");
        let path = path
            .strip_prefix(&format!("/api/{}/v1", self.service))
            .unwrap_or(path);
        let (route, path) = (call.route.split('/'), path.split('?').next().unwrap().split('/'));
        let pairs: Vec<_> = route.clone().zip(path.clone()).collect();
        assert_eq!(route.count(), path.count(), "{name}");
        assert!(
            pairs
                .iter()
                .all(|(part, actual)| part.starts_with('<') || part == actual),
            "{name}: {pairs:?}"
        );
        assert_eq!(call.input.is_some(), body.is_some(), "{name} and its body");
        if let (Some(schema), Some(body)) = (&call.input, body) {
            assert_eq!(self.violations(schema, body), [""; 0], "{name} is sent {body:#}");
        }
    }

    fn check_answer(&mut self, name: &str, answer: &Value) {
        if let Some(schema) = &self.calls[name].output {
            assert_eq!(
                self.violations(schema, answer),
                [""; 0],
                "{name} answers {answer:#}"
            );
        }
        self.compared.insert(name.to_owned());
    }
}

/// Makes calls and compares both directions of each with the reference.
pub(crate) struct Compared {
    pub(crate) contract: Contract,
    pub(crate) caller: Caller,
}

impl Compared {
    pub(crate) async fn call(
        &mut self,
        name: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        let caller = self.caller.clone();
        self.call_as(&caller, name, method, path, body).await
    }

    pub(crate) async fn call_as(
        &mut self,
        caller: &Caller,
        name: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        self.contract.check_request(name, &method, path, body.as_ref());
        let answer = caller.send(method, path, body).await.ok();
        self.contract.check_answer(name, &answer);
        answer
    }

    pub(crate) async fn get(&mut self, name: &str, path: &str) -> Value {
        self.call(name, Method::GET, path, None).await
    }

    pub(crate) async fn post(&mut self, name: &str, path: &str, body: Value) -> Value {
        let body = Some(body).filter(|body| !body.is_null());
        self.call(name, Method::POST, path, body).await
    }
}
