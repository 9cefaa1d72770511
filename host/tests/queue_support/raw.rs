//! Requests as bytes over a socket, with everything of a signature in the test's hands.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tcw_host::queue::Credentials;
use tcw_host::queue::embedded::EmbeddedQueue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Nothing here may take this long.
const BOUND: Duration = Duration::from_secs(60);

/// Where the queue is.
pub(crate) fn address(queue: &EmbeddedQueue) -> SocketAddr {
    queue.listens_on()
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A request, and how it is to be signed.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What of a signature differs from the usual.
#[derive(Clone, Default)]
pub(crate) struct Signing {
    pub(crate) ts: Option<u64>,
    pub(crate) nonce: Option<String>,
    pub(crate) authorized_scopes: Option<Vec<String>>,
    /// `ext` as it stands, instead of what the credentials make.
    pub(crate) ext: Option<String>,
    /// The body that is signed.
    pub(crate) hashed: Option<Vec<u8>>,
}

impl Raw {
    pub(crate) fn new(queue: &EmbeddedQueue, method: &str, target: impl Into<String>) -> Self {
        Raw {
            method: method.to_owned(),
            target: target.into(),
            host: address(queue).to_string(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("Content-Type", "application/json")
    }

    pub(crate) fn signed(self, credentials: &Credentials) -> Self {
        self.signed_as(credentials, &Signing::default())
    }

    pub(crate) fn signed_as(self, credentials: &Credentials, signing: &Signing) -> Self {
        let (host, port) = self.host.rsplit_once(':').expect("a port");
        let to = (host, port.parse().unwrap());
        let authorization = authorization(credentials, signing, &self.method, to, &self.target);
        self.header("Authorization", authorization)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let says_length = |name: &str| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        };
        if !self.headers.iter().any(|(name, _)| says_length(name)) {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        let mut bytes = format!("{head}Connection: close\r\n\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub(crate) async fn send(&self, queue: &EmbeddedQueue) -> Answer {
        let bytes = exchange(address(queue), &self.bytes()).await;
        Answer::parse(&bytes).unwrap_or_else(|wrong| panic!("{wrong}: {}", String::from_utf8_lossy(&bytes)))
    }
}

/// The header that signs a request for a host and port.
pub(crate) fn authorization(
    credentials: &Credentials,
    signing: &Signing,
    method: &str,
    (host, port): (&str, u16),
    target: &str,
) -> String {
    let mut ext = json!({});
    if let Some(certificate) = &credentials.certificate {
        ext["certificate"] = serde_json::from_str(certificate).unwrap();
    }
    if let Some(scopes) = &signing.authorized_scopes {
        ext["authorizedScopes"] = json!(scopes);
    }
    let ext = match &signing.ext {
        Some(ext) => ext.clone(),
        None => STANDARD.encode(ext.to_string()),
    };
    let hash = signing
        .hashed
        .as_ref()
        .map(|body| hawk::PayloadHasher::hash("application/json", hawk::SHA256, body).unwrap());
    let header = hawk::RequestBuilder::new(method, host, port, target)
        .ext(ext.as_str())
        .hash(hash.as_deref())
        .request()
        .make_header_full(
            &hawk::Credentials {
                id: credentials.client_id.clone(),
                key: hawk::Key::new(&credentials.access_token, hawk::SHA256).unwrap(),
            },
            UNIX_EPOCH + Duration::from_secs(signing.ts.unwrap_or_else(now)),
            signing.nonce.clone().unwrap_or_else(slugid::v4),
        )
        .unwrap();
    format!("Hawk {header}")
}

/// Sends bytes and reads until the server closes.
pub(crate) async fn exchange(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.expect("the queue listens");
        // A server that has seen enough may close before all was sent; what it said is what counts.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(BOUND, exchange)
        .await
        .expect("an answer, or an end")
}

/// An answer in pieces.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Refuses what is not a well-formed answer.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .ok_or("no end of the headers")?;
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "headers that are no text")?;
        let (first, _) = head.split_once("\r\n").ok_or("no headers")?;
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse().ok())
            .filter(|status| (100..600).contains(status))
            .ok_or("no status")?;
        Ok(Answer {
            status,
            head: head.to_owned(),
            body: bytes[end + 4..].to_vec(),
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Temporary credentials that the official client crate makes from others.
pub(crate) fn temporary(issuer: &Credentials, name: Option<&str>, scopes: &[&str]) -> Credentials {
    let issuer = taskcluster::Credentials::new(&issuer.client_id, &issuer.access_token);
    let (hour, scopes) = (Duration::from_secs(3600), scopes.iter().copied());
    match name {
        Some(name) => issuer.create_named_temp_creds(name, hour, scopes),
        None => issuer.create_temp_creds(hour, scopes),
    }
    .unwrap()
    .into()
}
