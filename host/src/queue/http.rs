//! One HTTP stack for all calls: signing, time-outs, trying again, and turning answers into results.
//!
//! Why not `taskcluster::Client` for each task: see [`super::client`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::clock::Clock;
use super::retry::{RetryPolicy, retry_after};
use super::{Credentials, Endpoint, QueueError};

/// The most bytes that an answer may have, unless its call says otherwise: a task of the largest size, and the status
/// of a thousand tasks, stay far below.
const LARGEST_ANSWER: usize = 32 << 20;

/// Credentials in the form that signing needs, made once and used for many requests.
pub(super) struct Signer {
    hawk: hawk::Credentials,
    certificate: Option<Value>,
    ext: Option<String>,
}

impl Signer {
    pub(super) fn new(credentials: Credentials) -> Result<Self, QueueError> {
        let key =
            hawk::Key::new(&credentials.access_token, hawk::SHA256).map_err(|error| QueueError::Setup {
                message: format!("the access token cannot sign: {error}"),
            })?;
        let certificate: Option<Value> = match credentials.certificate.as_deref() {
            None | Some("") => None,
            Some(text) => Some(serde_json::from_str(text).map_err(|error| QueueError::Setup {
                message: format!(
                    "the certificate of client {:?} is not JSON ({error}); copy the credentials again",
                    credentials.client_id
                ),
            })?),
        };
        let ext = certificate
            .as_ref()
            .map(|certificate| BASE64.encode(json!({ "certificate": certificate }).to_string()));
        Ok(Self {
            hawk: hawk::Credentials {
                id: credentials.client_id,
                key,
            },
            certificate,
            ext,
        })
    }

    /// The value of the `Authorization` header. The body is not hashed: the services do not ask for it, and bodies may
    /// be streams.
    pub(super) fn authorization(
        &self,
        method: &Method,
        url: &Url,
        authorized_scopes: Option<&[String]>,
        now: SystemTime,
    ) -> Result<HeaderValue, QueueError> {
        let limited = authorized_scopes.map(|scopes| {
            let mut ext = json!({ "authorizedScopes": scopes });
            if let Some(certificate) = &self.certificate {
                ext["certificate"] = certificate.clone();
            }
            BASE64.encode(ext.to_string())
        });
        let ext = limited.as_deref().or(self.ext.as_deref());
        let setup = |error: &dyn std::fmt::Display| QueueError::Setup {
            message: format!("{} cannot be signed: {error}", endpoint(method, url)),
        };
        let header = hawk::RequestBuilder::from_url(method.as_str(), url)
            .map_err(|error| setup(&error))?
            .ext(ext)
            .request()
            .make_header_full(&self.hawk, now, slugid::v4())
            .map_err(|error| setup(&error))?;
        let mut value = HeaderValue::from_str(&format!("Hawk {header}")).map_err(|error| setup(&error))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What one call sends.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) body: Option<Bytes>,
    /// The most bytes that its answer may have.
    pub(super) largest: usize,
}

impl Call {
    pub(super) fn new(method: Method, url: Url, body: Option<Bytes>) -> Self {
        Self {
            method,
            url,
            body,
            largest: LARGEST_ANSWER,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        endpoint(&self.method, &self.url)
    }
}

/// Method and URL without the query, which may hold a signature.
pub(super) fn endpoint(method: &Method, url: &Url) -> Endpoint {
    let mut shown = url.clone();
    shown.set_query(None);
    let _ = shown.set_password(None);
    format!("{method} {shown}")
}

/// The one connection pool.
pub(super) fn connection_pool(
    root: &Url,
    ca_certificates: &[reqwest::Certificate],
    redirects: reqwest::redirect::Policy,
) -> Result<reqwest::Client, QueueError> {
    let mut builder = reqwest::Client::builder()
        .redirect(redirects)
        .user_agent(concat!("tcw-host/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20))
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(50));
    if !ca_certificates.is_empty() {
        builder = builder.tls_certs_merge(ca_certificates.iter().cloned());
    }
    if is_loopback(root) {
        // A proxy of the environment cannot reach this machine's own loopback.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| QueueError::Setup {
        message: format!("no HTTP client: {}", with_causes(&error)),
    })
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An answer that is neither an error of the transport nor one of the server.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, QueueError> {
        let message = if self.status.is_redirection() {
            let to = self.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let to = to.and_then(|text| call.url.join(text).ok());
            // Path and query may hold what is nobody's business.
            let to = to.map_or_else(|| "nowhere".to_owned(), |url| url.origin().ascii_serialization());
            format!("it redirects to {to}, and a signed request is not sent to anybody else")
        } else {
            match serde_json::from_slice(&self.body) {
                Ok(value) => return Ok(value),
                Err(error) => error.to_string(),
            }
        };
        Err(QueueError::Protocol {
            at: call.endpoint(),
            status: self.status.as_u16(),
            message,
        })
    }
}

/// What all calls go through.
pub(super) struct Transport {
    pub(super) http: reqwest::Client,
    pub(super) retry: RetryPolicy,
    pub(super) clock: Clock,
}

impl Transport {
    /// Sends a call as often as the policy allows, until `read` can read the answer. It is given 2xx and 3xx; everything
    /// else is an error. What claims to be a success and cannot be read comes from somebody in between, or got damaged.
    pub(super) async fn send<T>(
        &self,
        call: &Call,
        signer: impl Fn() -> Option<Arc<Signer>>,
        policy: &RetryPolicy,
        read: impl Fn(Answer) -> Result<T, QueueError>,
    ) -> Result<T, QueueError> {
        let mut attempts = 0;
        let mut clock_was_wrong = false;
        loop {
            attempts += 1;
            let asked_at = Instant::now();
            // Asked anew for each attempt: the credentials may have been replaced while waiting.
            let (error, asked) = match self.attempt(call, signer().as_deref(), policy.timeout).await? {
                Ok((status, headers, body)) if status.is_success() || status.is_redirection() => {
                    self.clock.learn(&headers, asked_at.elapsed());
                    match read(Answer {
                        status,
                        headers,
                        body,
                    }) {
                        Err(error @ QueueError::Protocol { .. }) if status.is_success() => (error, None),
                        read => return read,
                    }
                }
                Ok((status, headers, body)) => {
                    let mut failure = Failure::of_answer(status, &headers, &body);
                    if status == StatusCode::UNAUTHORIZED {
                        let learnt = self.clock.learn(&headers, asked_at.elapsed());
                        // Nothing was done, so nothing is done twice; but who must not try again does not.
                        if learnt && !clock_was_wrong && policy.attempts > 1 {
                            clock_was_wrong = true;
                            continue;
                        }
                        if let Some(difference) = self.clock.difference(&headers) {
                            failure.message = format!("{}; {difference}", failure.message);
                        }
                    }
                    let (transient, asked) = (failure.transient, failure.retry_after);
                    let error = failure.into_error(call.endpoint(), attempts);
                    if !transient {
                        return Err(error);
                    }
                    (error, asked)
                }
                Err(message) => {
                    let failure = Failure::of_transport(message);
                    (failure.into_error(call.endpoint(), attempts), None)
                }
            };
            if attempts >= policy.attempts {
                return Err(error);
            }
            let pause = policy.pause(attempts, asked);
            tracing::debug!(attempts, ?pause, reason = %error, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt. The outer error cannot be cured by trying again.
    async fn attempt(
        &self,
        call: &Call,
        signer: Option<&Signer>,
        timeout: Duration,
    ) -> Result<Result<RawAnswer, String>, QueueError> {
        let mut request = self
            .http
            .request(call.method.clone(), call.url.clone())
            .timeout(timeout);
        if let Some(signer) = signer {
            let header = signer.authorization(&call.method, &call.url, None, self.clock.now())?;
            request = request.header(AUTHORIZATION, header);
        }
        request = match &call.body {
            Some(body) => request
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone()),
            None if call.method == Method::GET => request,
            // Some servers refuse a POST that does not say how long it is.
            None => request.header(CONTENT_LENGTH, "0"),
        };
        let started = Instant::now();
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                format!("no whole answer within {:.1} s", started.elapsed().as_secs_f64())
            } else {
                with_causes(&error.without_url())
            }
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(Err(failed(error))),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match bounded(response, call.largest).await {
            Ok(body) => body,
            // The words of a refusal are only words.
            Err(_) if status.is_client_error() => Bytes::new(),
            Err(Unread::Failed(error)) => return Ok(Err(failed(error))),
            Err(Unread::TooLong) => {
                let most = call.largest >> 20;
                return Ok(Err(format!(
                    "the answer ({status}) is longer than the {most} MiB that it may have"
                )));
            }
        };
        Ok(Ok((status, headers, body)))
    }
}

type RawAnswer = (StatusCode, HeaderMap, Bytes);

/// Why a body was not read to its end.
pub(crate) enum Unread {
    Failed(reqwest::Error),
    TooLong,
}

/// A body of at most so many bytes.
pub(crate) async fn bounded(mut response: Response, most: usize) -> Result<Bytes, Unread> {
    let announced = response.content_length().unwrap_or(0);
    if announced > most as u64 {
        return Err(Unread::TooLong);
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(Unread::Failed)? {
        if piece.len() > most - whole.len() {
            return Err(Unread::TooLong);
        }
        // Usually there is no more than one.
        if whole.is_empty() && announced == piece.len() as u64 {
            return Ok(piece);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// What an answer that is no success means.
pub(super) struct Failure {
    transient: bool,
    status: Option<StatusCode>,
    code: String,
    message: String,
    retry_after: Option<Duration>,
}

/// The form of an error answer of the services.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorBody {
    code: String,
    message: String,
    reason: String,
}

impl Failure {
    pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let parsed: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
        // The services append a block that repeats the request; people have that already.
        let mut message = parsed
            .message
            .split("\n\n---\n\n")
            .next()
            .unwrap_or_default()
            .trim_end()
            .to_owned();
        if message.is_empty() {
            message = format!(
                "{status} {}",
                String::from_utf8_lossy(&body[..body.len().min(200)])
            )
            .trim_end()
            .to_owned();
        }
        let retry_after = retry_after(headers, SystemTime::now());
        let transient = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        let code = if parsed.code.is_empty() {
            parsed.reason
        } else {
            parsed.code
        };
        Self {
            transient,
            status: Some(status),
            code,
            message,
            retry_after,
        }
    }

    /// The answer of a storage service to an upload.
    pub(super) fn of_storage(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let mut failure = Self::of_answer(status, headers, body);
        // S3 says this when the bytes came too slowly for it.
        let slow = b"<Code>RequestTimeout</Code>";
        failure.transient |=
            status == StatusCode::BAD_REQUEST && body.windows(slow.len()).any(|part| part == slow);
        failure
    }

    /// No answer at all.
    pub(super) fn of_transport(message: String) -> Self {
        Self {
            transient: true,
            status: None,
            code: String::new(),
            message,
            retry_after: None,
        }
    }

    pub(super) fn is_transient(&self) -> bool {
        self.transient
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(super) fn into_error(self, at: Endpoint, attempts: u32) -> QueueError {
        let message = self.message;
        match self.status.map_or(0, |status| status.as_u16()) {
            400 | 411 | 413 => QueueError::Invalid {
                at,
                code: self.code,
                message,
            },
            status @ (401 | 403) => QueueError::Unauthorized { at, status, message },
            404 | 410 => QueueError::NotFound { at, message },
            409 => QueueError::Conflict { at, message },
            424 => QueueError::ArtifactMissing {
                at,
                reason: self.code,
                message,
            },
            429 => QueueError::RateLimited {
                at,
                retry_after: self.retry_after.unwrap_or_default(),
            },
            0 | 408 | 500.. => QueueError::Unavailable {
                at,
                attempts,
                message,
            },
            status => QueueError::Protocol { at, status, message },
        }
    }
}

/// An error with all that caused it in one line: reqwest's own texts stop at "error sending request".
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_show_no_query_and_no_password() {
        let url = Url::parse("https://me:secret@tc.example.com/a%2Fb?bewit=secret").unwrap();
        assert_eq!(
            endpoint(&Method::GET, &url),
            "GET https://me@tc.example.com/a%2Fb"
        );
    }
}
