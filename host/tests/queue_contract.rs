//! The embedded queue's answers against the published schemas of the Taskcluster services.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use queue_support::{POOL, Scene, in_an_hour, task};
use reqwest::Method;
use serde_json::{Value, json};
use tcw_host::queue::{Credentials, TaskId};

/// Where the schemas' relative references are resolved; nothing is fetched from there.
const BASE: &str = "https://tc.invalid";

/// The published description of the queue, and which of its calls have been compared.
struct Contract {
    schemas: BTreeMap<String, Value>,
    /// For each call: method, route, schema of the answer.
    calls: BTreeMap<String, (String, String, Option<String>)>,
    compared: BTreeSet<String>,
}

impl Contract {
    fn load(path: &str) -> Self {
        let text =
            std::fs::read(path).unwrap_or_else(|error| panic!("TASKCLUSTER_REFERENCES: {path}: {error}"));
        let files: Vec<Value> = serde_json::from_slice(&text).unwrap();
        let mut schemas = BTreeMap::new();
        let mut calls = BTreeMap::new();
        for file in files {
            let (name, mut content) = (file["filename"].as_str().unwrap(), file["content"].clone());
            if name.starts_with("schemas/queue/v1/") {
                let schema = content.as_object_mut().unwrap();
                // Their own meta schema is draft 7's with additions that do not concern validation.
                schema.insert(
                    "$schema".to_owned(),
                    "http://json-schema.org/draft-07/schema#".into(),
                );
                schema.remove("$id");
                schemas.insert(format!("{BASE}/{name}"), content);
            } else if name == "references/queue/v1/api.json" {
                for entry in content["entries"].as_array().unwrap() {
                    let text = |key: &str| entry[key].as_str().map(str::to_owned);
                    let call = (text("method").unwrap(), text("route").unwrap(), text("output"));
                    calls.insert(text("name").unwrap(), call);
                }
            }
        }
        Self {
            schemas,
            calls,
            compared: BTreeSet::new(),
        }
    }

    /// Checks that an answer to a call, found where the reference says that call is, is as it says.
    fn check(&mut self, name: &str, method: &Method, path: &str, answer: &Value) {
        let (expected_method, route, output) = self.calls[name].clone();
        assert_eq!(expected_method.to_uppercase(), method.as_str(), "{name}");
        let (route, path) = (route.split('/'), path.split('?').next().unwrap().split('/'));
        let pairs: Vec<_> = route.clone().zip(path.clone()).collect();
        assert_eq!(route.count(), path.count(), "{name}");
        assert!(
            pairs
                .iter()
                .all(|(part, actual)| part.starts_with('<') || part == actual),
            "{name}: {pairs:?}"
        );
        if let Some(output) = output {
            let mut registry = jsonschema::Registry::new();
            for (uri, schema) in &self.schemas {
                registry = registry.add(uri, schema.clone()).unwrap();
            }
            let registry = registry.prepare().unwrap();
            let reference =
                json!({ "$ref": format!("{BASE}/schemas/queue/{}", output.trim_end_matches('#')) });
            let validator = jsonschema::options()
                .with_registry(&registry)
                .with_draft(jsonschema::Draft::Draft7)
                .should_validate_formats(true)
                .build(&reference)
                .unwrap();
            let violations: Vec<String> = validator
                .iter_errors(answer)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(
                violations.is_empty(),
                "{name} answered {answer:#}, which violates: {violations:#?}"
            );
        }
        self.compared.insert(name.to_owned());
    }
}

struct Caller<'a> {
    scene: &'a Scene,
    contract: Contract,
    http: reqwest::Client,
}

impl Caller<'_> {
    async fn call(&mut self, name: &str, method: Method, path: &str, body: Option<Value>) -> Value {
        let root = self.scene.queue.credentials();
        self.call_as(&root, name, method, path, body).await
    }

    async fn call_as(
        &mut self,
        credentials: &Credentials,
        name: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        let url: reqwest::Url = format!("{}/api/queue/v1{path}", self.scene.queue.root_url())
            .parse()
            .unwrap();
        let key = hawk::Credentials {
            id: credentials.client_id.clone(),
            key: hawk::Key::new(&credentials.access_token, hawk::SHA256).unwrap(),
        };
        let ext = credentials.certificate.as_ref().map(|text| {
            let certificate: Value = serde_json::from_str(text).unwrap();
            base64::engine::general_purpose::STANDARD
                .encode(json!({ "certificate": certificate }).to_string())
        });
        let header = hawk::RequestBuilder::from_url(method.as_str(), &url)
            .unwrap()
            .ext(ext.as_deref())
            .request()
            .make_header(&key)
            .unwrap();
        let mut request = self
            .http
            .request(method.clone(), url)
            .header("authorization", format!("Hawk {header}"));
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let answer: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert!(
            status.is_success() || status.as_u16() == 303,
            "{name}: {status}: {answer:#}"
        );
        self.contract.check(name, &method, path, &answer);
        answer
    }
}

#[tokio::test]
#[ignore = "needs TASKCLUSTER_REFERENCES"]
async fn answers_are_as_published() {
    let Ok(path) = std::env::var("TASKCLUSTER_REFERENCES") else {
        println!("skipped: TASKCLUSTER_REFERENCES is not set");
        return;
    };
    let scene = Scene::new().await;
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let mut caller = Caller {
        scene: &scene,
        contract: Contract::load(&path),
        http,
    };
    let (get, post) = (|| Method::GET, || Method::POST);
    let id = TaskId::random();
    let at = |rest: &str| format!("/task/{id}{rest}");
    let pool = POOL.replace('/', "%2F");

    caller.call("ping", get(), "/ping", None).await;
    caller
        .call("createTask", Method::PUT, &at(""), Some(task()))
        .await;
    caller.call("task", get(), &at(""), None).await;
    caller.call("status", get(), &at("/status"), None).await;
    caller
        .call("tasks", post(), "/tasks", Some(json!({ "taskIds": [id] })))
        .await;
    caller
        .call(
            "statuses",
            post(),
            "/tasks/status?limit=10",
            Some(json!({ "taskIds": [id] })),
        )
        .await;
    caller.call("scheduleTask", post(), &at("/schedule"), None).await;
    caller
        .call("pendingTasks", get(), &format!("/pending/{pool}"), None)
        .await;

    let claim = json!({ "workerGroup": "g", "workerId": "w", "tasks": 1 });
    let claimed = caller
        .call(
            "claimWork",
            post(),
            &format!("/claim-work/{pool}"),
            Some(claim.clone()),
        )
        .await;
    let credentials: Credentials =
        serde_json::from_value(claimed["tasks"][0]["credentials"].clone()).unwrap();
    caller
        .call_as(&credentials, "reclaimTask", post(), &at("/runs/0/reclaim"), None)
        .await;

    let expires = in_an_hour();
    for (name, mut artifact) in [
        (
            "public%2Fs3",
            json!({ "storageType": "s3", "contentType": "text/plain", "contentLength": 3 }),
        ),
        (
            "public%2Fref",
            json!({ "storageType": "reference", "contentType": "a/b", "url": "https://example.com" }),
        ),
        (
            "public%2Flink",
            json!({ "storageType": "link", "artifact": "public/s3" }),
        ),
        (
            "public%2Ferr",
            json!({ "storageType": "error", "reason": "file-missing-on-worker", "message": "m" }),
        ),
    ] {
        artifact["expires"] = json!(expires);
        let path = at(&format!("/runs/0/artifacts/{name}"));
        caller
            .call_as(&credentials, "createArtifact", post(), &path, Some(artifact))
            .await;
        if name != "public%2Ferr" {
            caller.call("getArtifact", get(), &path, None).await;
            caller
                .call(
                    "getLatestArtifact",
                    get(),
                    &at(&format!("/artifacts/{name}")),
                    None,
                )
                .await;
        }
        caller
            .call(
                "artifact",
                get(),
                &at(&format!("/runs/0/artifact-content/{name}")),
                None,
            )
            .await;
        caller
            .call(
                "latestArtifact",
                get(),
                &at(&format!("/artifact-content/{name}")),
                None,
            )
            .await;
        caller
            .call(
                "artifactInfo",
                get(),
                &at(&format!("/runs/0/artifact-info/{name}")),
                None,
            )
            .await;
        caller
            .call(
                "latestArtifactInfo",
                get(),
                &at(&format!("/artifact-info/{name}")),
                None,
            )
            .await;
    }
    let page = caller
        .call("listArtifacts", get(), &at("/runs/0/artifacts?limit=3"), None)
        .await;
    assert_eq!(page["artifacts"].as_array().unwrap().len(), 3);
    let next = format!(
        "/artifacts?limit=3&continuationToken={}",
        page["continuationToken"].as_str().unwrap()
    );
    let rest = caller.call("listLatestArtifacts", get(), &at(&next), None).await;
    assert_eq!(
        (
            rest["artifacts"].as_array().unwrap().len(),
            rest.get("continuationToken")
        ),
        (1, None)
    );

    let reason = Some(json!({ "reason": "intermittent-task" }));
    caller
        .call_as(
            &credentials,
            "reportException",
            post(),
            &at("/runs/0/exception"),
            reason,
        )
        .await;
    caller.call("cancelTask", post(), &at("/cancel"), None).await;
    caller.call("rerunTask", post(), &at("/rerun"), None).await;
    caller
        .call(
            "claimWork",
            post(),
            &format!("/claim-work/{pool}"),
            Some(claim.clone()),
        )
        .await;
    caller
        .call("reportFailed", post(), &at("/runs/2/failed"), None)
        .await;
    caller.call("rerunTask", post(), &at("/rerun"), None).await;
    caller
        .call("claimWork", post(), &format!("/claim-work/{pool}"), Some(claim))
        .await;
    caller
        .call("reportCompleted", post(), &at("/runs/3/completed"), None)
        .await;
    assert_eq!(
        caller.contract.compared.len(),
        24,
        "{:?}",
        caller.contract.compared
    );
}

/// Whatever a published schema of a request refuses, we refuse, and the other way round.
#[tokio::test]
#[ignore = "needs TASKCLUSTER_REFERENCES"]
async fn requests_are_accepted_as_published() {
    let Ok(path) = std::env::var("TASKCLUSTER_REFERENCES") else {
        println!("skipped: TASKCLUSTER_REFERENCES is not set");
        return;
    };
    let contract = Contract::load(&path);
    let mut registry = jsonschema::Registry::new();
    for (uri, schema) in &contract.schemas {
        registry = registry.add(uri, schema.clone()).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let reference = json!({ "$ref": format!("{BASE}/schemas/queue/v1/create-task-request.json") });
    let published = jsonschema::options()
        .with_registry(&registry)
        .with_draft(jsonschema::Draft::Draft7)
        .should_validate_formats(true)
        .build(&reference)
        .unwrap();
    let scene = Scene::new().await;
    for (key, value) in [
        ("extra", json!({ "a": [1] })),
        ("extra", json!(1)),
        ("tags", json!({ "a": "b" })),
        ("tags", json!({ "a": 1 })),
        ("routes", json!(["index.a"])),
        ("routes", json!([""])),
        ("routes", json!(["a", "a"])),
        ("scopes", json!(["a", "a"])),
        ("scopes", json!(["ä"])),
        ("priority", json!("normal")),
        ("priority", json!("very-low")),
        ("retries", json!(50)),
        ("retries", json!(0)),
        ("requires", json!("all-resolved")),
        ("requires", json!("any")),
        ("schedulerId", json!("a b")),
        ("projectId", json!("a/b.c")),
        ("projectId", json!("")),
        ("taskGroupId", json!("nonsense")),
        ("dependencies", json!(["nonsense"])),
        ("payload", json!([])),
        ("deadline", json!("tomorrow")),
        (
            "metadata",
            json!({ "name": "n", "description": "d", "owner": "o" }),
        ),
        (
            "metadata",
            json!({ "name": "n", "description": "d", "owner": "o", "source": "ftp://x" }),
        ),
        (
            "metadata",
            json!({ "name": "n", "description": "d", "owner": "o", "source": "git@x:y" }),
        ),
        ("taskQueueId", json!("a/B")),
        ("unknown", json!(1)),
    ] {
        let mut definition = task();
        definition[key] = value;
        let accepted =
            tcw_host::queue::Queue::create_task(&scene.client, &TaskId::random(), &definition).await;
        let allowed = published.is_valid(&definition);
        assert_eq!(
            accepted.is_ok(),
            allowed,
            "{key} = {}: {accepted:?}",
            definition[key]
        );
    }
}
