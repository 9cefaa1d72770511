//! The calls of the Auth service that the embedded queue has, against its published schemas.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use tcw_host::queue::Credentials;

use super::contract::{Compared, Contract};
use super::queue_support::{Scene, in_an_hour, routes};

const API: &str = "/api/auth/v1";

fn definition() -> Value {
    json!({ "description": "a *worker*", "scopes": ["queue:claim-work:a/b"], "expires": in_an_hour() })
}

#[tokio::test]
#[ignore = "needs TASKCLUSTER_REFERENCES"]
async fn clients_are_made_listed_reset_and_deleted_as_published() {
    let Some(contract) = Contract::load("auth") else {
        return;
    };
    let scene = Scene::new().await;
    let mut compared = Compared {
        contract,
        caller: scene.caller(),
    };
    compared.get("ping", &format!("{API}/ping")).await;
    let at = |name: &str| format!("{API}/clients/{name}");
    let mut tokens = BTreeSet::new();
    for name in ["worker%2Fone", "worker%2Ftwo"] {
        let made = compared
            .call("createClient", Method::PUT, &at(name), Some(definition()))
            .await;
        tokens.insert(made["accessToken"].as_str().unwrap().to_owned());
    }
    let shown = compared.get("client", &at("worker%2Fone")).await;
    assert_eq!(
        (&shown["clientId"], shown.get("accessToken")),
        (&json!("worker/one"), None)
    );
    let reset = compared
        .post("resetAccessToken", &at("worker%2Fone/reset"), Value::Null)
        .await;
    let token = reset["accessToken"].as_str().unwrap().to_owned();
    assert!(tokens.insert(token.clone()), "it is a new one");
    let page = compared
        .get("listClients", &at("?limit=1&prefix=worker%2F"))
        .await;
    assert_eq!(page["clients"], json!([shown_after(&shown, &reset)]));
    let token_of_page = page["continuationToken"].as_str().unwrap();
    let rest = at(&format!("?prefix=worker%2F&continuationToken={token_of_page}"));
    let rest = compared.get("listClients", &rest).await;
    assert_eq!(rest["clients"][0]["clientId"], "worker/two");
    assert_eq!(rest.get("continuationToken"), None);

    // What was made can be used, until it is deleted.
    let one = scene.caller().with(Some(Credentials::new("worker/one", &token)));
    let claim = json!({ "workerGroup": "g", "workerId": "w" });
    let lacking = one.post("/claim-work/a%2Fb", claim.clone()).await;
    assert_eq!(lacking.refused(), (403, "InsufficientScopes"));
    for _ in 0..2 {
        let deleted = compared
            .call("deleteClient", Method::DELETE, &at("worker%2Fone"), None)
            .await;
        assert_eq!(deleted, Value::Null);
    }
    let gone = one.post("/claim-work/a%2Fb", claim).await;
    assert_eq!(gone.refused(), (401, "AuthenticationFailed"));

    let ours: BTreeSet<String> = routes::of_auth().into_iter().map(str::to_owned).collect();
    assert_eq!(compared.contract.compared, ours, "each of ours was compared");
    // And that the others are not there is said as the services say it.
    for name in compared.contract.names().filter(|name| !ours.contains(*name)) {
        let (method, route) = compared.contract.place(name);
        let parts = route.split('/');
        let path: Vec<&str> = parts
            .map(|part| if part.starts_with('<') { "x" } else { part })
            .collect();
        let answer = compared
            .caller
            .send(method, &format!("{API}{}", path.join("/")), None)
            .await;
        assert_eq!(answer.refused(), (404, "ResourceNotFound"), "{name} {route}");
    }
}

/// A client as it is shown after its token was reset.
fn shown_after(before: &Value, reset: &Value) -> Value {
    let mut shown = before.clone();
    for changed in ["lastRotated", "lastModified", "lastDateUsed"] {
        shown[changed] = reset[changed].clone();
    }
    shown
}

/// Whatever the published schema of createClient refuses, we refuse, and the other way round.
#[tokio::test]
#[ignore = "needs TASKCLUSTER_REFERENCES"]
async fn clients_are_accepted_as_published() {
    let Some(contract) = Contract::load("auth") else {
        return;
    };
    let scene = Scene::new().await;
    let caller = scene.caller();
    for (number, (key, value)) in [
        ("description", json!("")),
        ("description", json!("x".repeat(10240))),
        ("description", json!("x".repeat(10241))),
        ("description", Value::Null),
        ("scopes", json!([])),
        ("scopes", json!(["a", "a"])),
        ("scopes", json!(["\u{e4}"])),
        ("scopes", json!("a")),
        ("scopes", json!([""])),
        ("expires", json!("tomorrow")),
        ("expires", json!(1)),
        ("expires", json!("2031-01-01T00:00:00+02:00")),
        ("deleteOnExpiration", json!(true)),
        ("deleteOnExpiration", json!("yes")),
        ("disabled", json!(false)),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = definition();
        client[key] = value;
        let allowed = contract
            .violations("v1/create-client-request.json", &client)
            .is_empty();
        let path = format!("{API}/clients/number-{number}");
        let answer = caller.put(&path, client.clone()).await;
        let code = answer.body["code"].as_str();
        assert_eq!(
            (answer.status, code),
            match allowed {
                true => (200, None),
                false => (400, Some("InputValidationError")),
            },
            "{client}: {answer:?}"
        );
    }
}
