//! One HTTP stack for all calls: signing, time-outs, trying again, and turning answers into results.
//!
//! Why not `taskcluster::Client` for each task: see [`super::client`].

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use rand::Rng as _;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Credentials, Endpoint, QueueError};

/// How often and how patiently a call is tried again.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// How many attempts there are, the first included.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one, and a random part of it is left out.
    pub first_pause: Duration,
    /// The longest pause, also when the server asks for more.
    pub longest_pause: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
}

impl Default for RetryPolicy {
    /// Nine attempts within about a minute, not counting the time the attempts take.
    fn default() -> Self {
        Self {
            attempts: 9,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// The pause before attempt `next` (the second attempt is 1), at most what the server asked for and the bound.
    pub(super) fn pause(&self, next: u32, asked: Option<Duration>) -> Duration {
        let doubled = self
            .first_pause
            .saturating_mul(1 << (next.saturating_sub(1)).min(20))
            .min(self.longest_pause);
        let jittered = doubled.mul_f64(rand::rng().random_range(0.5..=1.0));
        // A little later than asked, so that all who were told the same do not come back at the same moment.
        asked.map_or(jittered, |asked| {
            asked.min(self.longest_pause) + jittered.min(Duration::from_secs(1))
        })
    }
}

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
            .make_header(&self.hawk)
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
}

impl Call {
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
        serde_json::from_slice(&self.body).map_err(|error| QueueError::Protocol {
            at: call.endpoint(),
            status: self.status.as_u16(),
            message: error.to_string(),
        })
    }
}

/// Sends a call as often as the policy allows. 2xx and 3xx are answers, everything else is an error.
pub(super) async fn send(
    http: &reqwest::Client,
    call: &Call,
    signer: impl Fn() -> Option<std::sync::Arc<Signer>>,
    policy: &RetryPolicy,
) -> Result<Answer, QueueError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // Asked anew for each attempt: the credentials may have been replaced while waiting.
        let failure = match attempt(http, call, signer().as_deref(), policy.timeout).await? {
            Ok((status, headers, body)) if status.is_success() || status.is_redirection() => {
                return Ok(Answer {
                    status,
                    headers,
                    body,
                });
            }
            Ok((status, headers, body)) => {
                let failure = Failure::of_answer(status, &headers, &body);
                if !failure.transient {
                    return Err(failure.into_error(call.endpoint(), attempts));
                }
                failure
            }
            Err(message) => Failure::of_transport(message),
        };
        if attempts >= policy.attempts {
            return Err(failure.into_error(call.endpoint(), attempts));
        }
        let pause = policy.pause(attempts, failure.retry_after);
        tracing::debug!(
            call = call.endpoint(),
            attempts,
            ?pause,
            reason = failure.message,
            "trying again"
        );
        tokio::time::sleep(pause).await;
    }
}

type RawAnswer = (StatusCode, HeaderMap, Bytes);

/// One attempt. The outer error cannot be cured by trying again.
async fn attempt(
    http: &reqwest::Client,
    call: &Call,
    signer: Option<&Signer>,
    timeout: Duration,
) -> Result<Result<RawAnswer, String>, QueueError> {
    let mut request = http
        .request(call.method.clone(), call.url.clone())
        .timeout(timeout);
    if let Some(signer) = signer {
        request = request.header(
            AUTHORIZATION,
            signer.authorization(&call.method, &call.url, None)?,
        );
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
    let answer = async {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok::<_, reqwest::Error>((status, headers, response.bytes().await?))
    }
    .await;
    Ok(answer.map_err(|error| {
        if error.is_timeout() {
            format!("no answer within {:.1} s", started.elapsed().as_secs_f64())
        } else {
            with_causes(&error.without_url())
        }
    }))
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
        let retry_after = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.trim().parse().ok())
            .map(Duration::from_secs);
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
    fn pauses_grow_up_to_their_bound_and_differ() {
        let policy = RetryPolicy {
            longest_pause: Duration::from_secs(2),
            ..RetryPolicy::default()
        };
        for (next, most) in [(1, 200), (2, 400), (4, 1600), (5, 2000), (40, 2000)] {
            let most = Duration::from_millis(most);
            let pauses: Vec<_> = (0..20).map(|_| policy.pause(next, None)).collect();
            assert!(
                pauses.iter().all(|pause| *pause <= most && *pause >= most / 2),
                "{pauses:?}"
            );
            assert!(
                pauses.iter().any(|pause| *pause != pauses[0]),
                "all clients would come back at once"
            );
        }
    }

    #[test]
    fn a_server_may_ask_for_more_patience_within_the_bound() {
        let policy = RetryPolicy {
            longest_pause: Duration::from_secs(2),
            ..RetryPolicy::default()
        };
        let asked = |seconds| policy.pause(1, Some(Duration::from_secs(seconds)));
        assert!((1.0..=1.2).contains(&asked(1).as_secs_f64()));
        assert!((2.0..=2.2).contains(&asked(3600).as_secs_f64()));
    }

    #[test]
    fn endpoints_show_no_query_and_no_password() {
        let url = Url::parse("https://me:secret@tc.example.com/a%2Fb?bewit=secret").unwrap();
        assert_eq!(
            endpoint(&Method::GET, &url),
            "GET https://me@tc.example.com/a%2Fb"
        );
    }
}
