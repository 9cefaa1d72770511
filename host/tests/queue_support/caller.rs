//! Requests as they are sent, and answers as they come: for calls that the worker's client does not have, and for statuses.

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use tcw_host::queue::Credentials;

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

    /// Sends a request to a path below the API's; a body of `null` is none.
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
        let url: reqwest::Url = format!("{}/api/queue/v1{path}", self.root_url).parse().unwrap();
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
    let key = hawk::Credentials {
        id: credentials.client_id.clone(),
        key: hawk::Key::new(&credentials.access_token, hawk::SHA256).unwrap(),
    };
    let ext = credentials.certificate.as_ref().map(|text| {
        let certificate: Value = serde_json::from_str(text).unwrap();
        base64::engine::general_purpose::STANDARD.encode(json!({ "certificate": certificate }).to_string())
    });
    let header = hawk::RequestBuilder::from_url(method.as_str(), url)
        .unwrap()
        .ext(ext.as_deref())
        .request()
        .make_header(&key)
        .unwrap();
    format!("Hawk {header}")
}
