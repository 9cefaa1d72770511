//! Requests as they are sent, and answers as they come: for calls that the worker's client does not have, and for statuses.
//! Where the bytes themselves matter, there is [`raw`](super::raw).

use reqwest::Method;
use serde_json::Value;
use tcw_host::queue::Credentials;

use super::raw::{Signing, authorization};

/// Sends requests in one client's name, over connections that it keeps.
#[derive(Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    root_url: String,
    credentials: Option<Credentials>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Null if it was none of JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(
            (200..400).contains(&self.status),
            "{}: {:#}",
            self.status,
            self.body
        );
        self.body
    }

    /// Status and code of a refusal in the services' form.
    #[track_caller]
    pub(crate) fn refused(&self) -> (u16, &str) {
        let Self { status, body } = self;
        assert!(
            body["message"].is_string() && body["requestInfo"]["time"].is_string(),
            "{status}: {body:#}"
        );
        (*status, body["code"].as_str().unwrap())
    }
}

impl Caller {
    pub(crate) fn new(root_url: &str, credentials: Option<Credentials>) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self {
            http: http.build().unwrap(),
            root_url: root_url.to_owned(),
            credentials,
        }
    }

    /// The same for another client.
    pub(crate) fn with(&self, credentials: Option<Credentials>) -> Self {
        Self {
            credentials,
            ..self.clone()
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    /// Sends a request to a path below the queue's API, or to one that names another; a body of `null` is none.
    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.try_send(method, path, body).await.unwrap()
    }

    /// The same where the server may be gone.
    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> reqwest::Result<Answer> {
        let api = if path.starts_with("/api/") {
            ""
        } else {
            "/api/queue/v1"
        };
        let url: reqwest::Url = format!("{}{api}{path}", self.root_url).parse().unwrap();
        let mut request = self.http.request(method.clone(), url.clone());
        if let Some(credentials) = &self.credentials {
            request = request.header("authorization", sign(credentials, &method, &url));
        }
        if let Some(body) = body.filter(|body| !body.is_null()) {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Answer { status, body })
    }
}

fn sign(credentials: &Credentials, method: &Method, url: &reqwest::Url) -> String {
    let to = (url.host_str().unwrap(), url.port_or_known_default().unwrap());
    let target = &url[url::Position::BeforePath..];
    authorization(credentials, &Signing::default(), method.as_str(), to, target)
}
