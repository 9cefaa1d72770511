//! HTTP for libraries: one TLS stack and one pool of connections in the host, and signatures without the library ever
//! seeing a credential.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Body, Method, Response, Url};
use serde_json::json;
use tcw_abi::io::Handle;
use tcw_abi::services::{HttpHead, HttpRequest, HttpResponse, HttpStatus};
use tcw_abi::{Error, ErrorKind, Result};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::scratch;
use crate::queue::{Credentials, TaskQueue};

/// What a request may take if the library does not say.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest body of an answer, if nothing else is said: a server must not be able to fill the disk.
pub const LONGEST: u64 = 1 << 30;

/// Signs a request and sends it. Redirects are not followed: a signature is for one URL.
#[async_trait]
pub trait SignedHttp: Send + Sync {
    /// Any status is an answer.
    async fn send(&self, method: Method, url: Url, headers: HeaderMap, body: Body) -> Result<Response>;
}

/// Requests in the name of a task.
pub struct TaskSigned(pub Arc<dyn TaskQueue>);

#[async_trait]
impl SignedHttp for TaskSigned {
    async fn send(&self, method: Method, url: Url, headers: HeaderMap, body: Body) -> Result<Response> {
        self.0
            .signed_request(method, url, headers, body, None)
            .await
            .map_err(|error| Error::new(ErrorKind::ResourceUnavailable, error.to_string()))
    }
}

/// Answers the worker's credentials of the moment: they are replaced while it runs.
pub type CredentialsSource = Arc<dyn Fn() -> Option<Credentials> + Send + Sync>;

/// What the queue's clock says now. Signatures are made by it: this machine's may be wrong.
pub type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The clock to sign by, as soon as there is one; this machine's until then.
pub(super) type SigningClock = Arc<OnceLock<Now>>;

/// Requests in the name of the worker.
pub struct WorkerSigned {
    http: Clients,
    credentials: CredentialsSource,
    clock: SigningClock,
}

#[async_trait]
impl SignedHttp for WorkerSigned {
    async fn send(&self, method: Method, url: Url, headers: HeaderMap, body: Body) -> Result<Response> {
        let http = self.http.to(&url);
        let mut request = http.request(method.clone(), url.clone()).headers(headers);
        // Without credentials the worker is anonymous, which is enough for what is public.
        if let Some(credentials) = (self.credentials)() {
            let now = self.clock.get().map_or_else(SystemTime::now, |now| now());
            request = request.header(AUTHORIZATION, authorization(&credentials, &method, &url, now)?);
        }
        request.body(body).send().await.map_err(no_answer)
    }
}

/// The host's HTTP clients.
pub struct Http {
    following: Clients,
    worker: WorkerSigned,
    scratch: PathBuf,
    longest: u64,
}

impl Http {
    /// `scratch` is a folder for bodies.
    pub fn new(credentials: CredentialsSource, scratch: PathBuf) -> Result<Self> {
        Self::trusting(credentials, scratch, &[])
    }

    /// The same, with authorities to trust beside those that the system trusts.
    pub fn trusting(
        credentials: CredentialsSource,
        scratch: PathBuf,
        ca_certificates: &[reqwest::Certificate],
    ) -> Result<Self> {
        Ok(Http {
            following: Clients::new(|| Policy::limited(10), ca_certificates)?,
            worker: WorkerSigned {
                http: Clients::new(Policy::none, ca_certificates)?,
                credentials,
                clock: SigningClock::default(),
            },
            scratch,
            longest: LONGEST,
        })
    }

    /// Signs requests in the worker's name by this clock.
    #[must_use]
    pub(super) fn by(mut self, clock: SigningClock) -> Self {
        self.worker.clock = clock;
        self
    }

    /// Refuses answers with bodies of more than so many bytes.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.longest = bytes;
        self
    }

    /// For requests that are not signed.
    pub(super) fn plain(&self, to: &Url) -> &reqwest::Client {
        self.following.to(to)
    }

    /// For requests in the name of the worker.
    pub(super) fn worker(&self) -> &WorkerSigned {
        &self.worker
    }

    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A library's request.
    pub async fn request(&self, request: HttpRequest, signed: &dyn SignedHttp) -> Result<HttpResponse> {
        let timeout = request.head.timeout_ms.map_or(TIMEOUT, Duration::from_millis);
        match tokio::time::timeout(timeout, self.exchange(&request.head, request.body, signed)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(
                ErrorKind::ResourceUnavailable,
                format!(
                    "{}: no whole answer within {:.1} s",
                    shown_request(&request.head),
                    timeout.as_secs_f64()
                ),
            )),
        }
    }

    async fn exchange(
        &self,
        head: &HttpHead,
        body: Option<Handle>,
        signed: &dyn SignedHttp,
    ) -> Result<HttpResponse> {
        let invalid =
            |what: &str, error: &dyn std::fmt::Display| Error::violation(format!("HTTP {what}: {error}"));
        let url = Url::parse(&head.url).map_err(|error| invalid("URL", &error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("URL", &"it has to begin with http:// or https://"));
        }
        let method = Method::from_bytes(head.method.as_bytes()).map_err(|error| invalid("method", &error))?;
        let mut headers = HeaderMap::with_capacity(head.headers.len() + 1);
        for (name, value) in &head.headers {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid("header name", &error))?;
            let value = HeaderValue::from_str(value).map_err(|error| invalid("header value", &error))?;
            headers.append(name, value);
        }
        let body = match body {
            None => Body::default(),
            Some(handle) => self::body(handle, &mut headers).await?,
        };
        let response = if head.sign {
            signed.send(method, url, headers, body).await?
        } else {
            let http = self.following.to(&url);
            let request = http.request(method, url).headers(headers).body(body);
            request.send().await.map_err(no_answer)?
        };
        self.received(head, response).await
    }

    async fn received(&self, head: &HttpHead, mut response: Response) -> Result<HttpResponse> {
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in response.headers() {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.as_str().to_owned())
                .and_modify(|all| {
                    all.push_str(", ");
                    all.push_str(&value);
                })
                .or_insert_with(|| value.clone().into_owned());
        }
        let status = response.status().as_u16();
        let mut file = tokio::fs::File::from_std(scratch::file(&self.scratch)?);
        let mut length = 0_u64;
        while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
            length += chunk.len() as u64;
            if length > self.longest {
                return Err(Error::new(
                    ErrorKind::ResourceUnavailable,
                    format!(
                        "{}: the answer is longer than {} bytes; fetch what is long, instead of requesting it",
                        shown_request(head),
                        self.longest
                    ),
                ));
            }
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        let file = scratch::rewound(file.into_std().await)?;
        Ok(HttpResponse {
            head: HttpStatus { status, headers },
            body: file.into(),
        })
    }
}

/// A body of what is between the handle's position and its end, with its length if that is known.
async fn body(handle: Handle, headers: &mut HeaderMap) -> Result<Body> {
    let mut file = tokio::fs::File::from_std(handle.into_file());
    let metadata = file.metadata().await?;
    if metadata.is_file() {
        let left = metadata.len().saturating_sub(file.stream_position().await?);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(left));
    }
    Ok(Body::wrap_stream(ReaderStream::with_capacity(file, 64 * 1024)))
}

/// The value of the `Authorization` header. Bodies are not hashed: they may be streams, and services do not ask for it.
fn authorization(
    credentials: &Credentials,
    method: &Method,
    url: &Url,
    now: SystemTime,
) -> Result<HeaderValue> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::internal(format!(
            "a request in the worker's name cannot be signed: {error}"
        ))
    };
    let ext = match credentials.certificate.as_deref() {
        None | Some("") => None,
        Some(certificate) => {
            let certificate: serde_json::Value =
                serde_json::from_str(certificate).map_err(|_| failed(&"its certificate is not JSON"))?;
            Some(BASE64.encode(json!({ "certificate": certificate }).to_string()))
        }
    };
    let key = hawk::Key::new(&credentials.access_token, hawk::SHA256)
        .map_err(|_| failed(&"its key is not usable"))?;
    let hawk = hawk::Credentials {
        id: credentials.client_id.clone(),
        key,
    };
    let header = hawk::RequestBuilder::from_url(method.as_str(), url)
        .map_err(|error| failed(&error))?
        .ext(ext.as_deref())
        .request()
        .make_header_full(&hawk, now, slugid::v4())
        .map_err(|error| failed(&error))?;
    let mut value = HeaderValue::from_str(&format!("Hawk {header}")).map_err(|error| failed(&error))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A pool of connections to the world, and one to this machine: a proxy of the environment cannot reach the latter.
struct Clients {
    world: reqwest::Client,
    local: reqwest::Client,
}

impl Clients {
    fn new(redirects: fn() -> Policy, ca_certificates: &[reqwest::Certificate]) -> Result<Self> {
        let build = |builder: reqwest::ClientBuilder| {
            let builder = match ca_certificates {
                [] => builder,
                more => builder.tls_certs_merge(more.iter().cloned()),
            };
            builder
                .redirect(redirects())
                .user_agent(concat!("tcw-host/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(20))
                .tcp_nodelay(true)
                .build()
                .map_err(|error| Error::fatal(format!("no HTTP client: {}", causes(&error))))
        };
        Ok(Clients {
            world: build(reqwest::Client::builder())?,
            local: build(reqwest::Client::builder().no_proxy())?,
        })
    }

    fn to(&self, url: &Url) -> &reqwest::Client {
        let loopback = match url.host_str() {
            Some("localhost") => true,
            Some(host) => host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback()),
            None => false,
        };
        if loopback { &self.local } else { &self.world }
    }
}

/// A request that got no answer.
pub(super) fn no_answer(error: reqwest::Error) -> Error {
    // URLs may hold signatures.
    Error::new(ErrorKind::ResourceUnavailable, causes(&error.without_url()))
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// A URL without what may be secret in it: scheme, host, port and path are left of it.
pub(super) fn shown(url: &Url) -> String {
    let scheme = url.scheme();
    // What has no host has no path either, but something that only its scheme understands.
    if url.cannot_be_a_base() {
        return format!("{scheme}:");
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{}", url.path())
}

/// Method and URL of a request, for messages.
fn shown_request(head: &HttpHead) -> String {
    match Url::parse(&head.url) {
        Ok(url) => format!("{} {}", head.method, shown(&url)),
        Err(_) => head.method.clone(),
    }
}
