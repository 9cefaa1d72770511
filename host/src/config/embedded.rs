//! The section `queue.embedded`: the queue inside this process, for it alone or for others too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::document::segment;
use super::editor;
use super::sections::Builder;

/// The queue inside this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedQueue {
    /// Beyond the loopback interface only with TLS or behind a proxy; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where clients find it, without a slash at the end. Without it, at the address it listens on.
    pub root_url: Option<String>,
    /// The certificate and its key, in PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Something before it speaks TLS for the root URL.
    pub behind_proxy: bool,
    /// How long a claim lasts.
    pub claim_timeout: Duration,
    /// Files with JSON Schemas of payloads, by worker pool.
    pub payload_schemas: BTreeMap<String, PathBuf>,
}

impl Builder {
    pub(super) fn embedded(&mut self, embedded: &Value) -> EmbeddedQueue {
        let setting = |key: &str| match embedded.get(key) {
            Some(value) => value.clone(),
            None => editor::default("queue", &format!("embedded/properties/{key}")),
        };
        let (listen, claim_timeout) = (setting("listen"), setting("claimTimeout"));
        let listen = listen.as_str().unwrap_or_default();
        let listen = listen.parse::<SocketAddr>().unwrap_or_else(|_| {
            self.problem(
                "/queue/embedded/listen",
                "`queue.embedded.listen` must be an address and a port, such as 127.0.0.1:8080",
            );
            SocketAddr::from(([127, 0, 0, 1], 0))
        });
        let behind_proxy = setting("behindProxy").as_bool().unwrap_or(false);
        let root_url = embedded.get("rootUrl").and_then(Value::as_str);
        let tls = self.tls(embedded);
        self.check_reach(listen, root_url, tls.is_some(), behind_proxy);
        let pointer = "/queue/embedded/claimTimeout";
        let claim_timeout = self.duration(pointer, &claim_timeout).unwrap_or_default();
        if claim_timeout < Duration::from_secs(1) {
            self.problem(
                pointer,
                "`queue.embedded.claimTimeout` must be at least one second",
            );
        }
        let schemas = embedded.get("payloadSchemas").and_then(Value::as_object);
        let mut payload_schemas = BTreeMap::new();
        for (pool, file) in schemas.into_iter().flatten() {
            let pointer = format!("/queue/embedded/payloadSchemas/{}", segment(pool));
            if !is_pool(pool) {
                self.problem(
                    &pointer,
                    format!(
                        "`queue.embedded.payloadSchemas`: {pool:?} is no worker pool such as local/native"
                    ),
                );
            }
            if let Some(file) = file.as_str() {
                payload_schemas.insert(pool.clone(), self.path_at(&pointer, file));
            }
        }
        EmbeddedQueue {
            listen,
            root_url: root_url.map(|url| url.trim_end_matches('/').to_owned()),
            tls,
            behind_proxy,
            claim_timeout,
            payload_schemas,
        }
    }

    fn tls(&mut self, embedded: &Value) -> Option<(PathBuf, PathBuf)> {
        let tls = embedded.get("tls")?;
        let mut file = |key: &str, other: &str| {
            let pointer = format!("/queue/embedded/tls/{key}");
            match tls[key].as_str() {
                Some(path) => Some(self.path_at(&pointer, path)),
                None => {
                    self.problem(
                        &format!("/queue/embedded/tls/{other}"),
                        format!(
                            "`queue.embedded.tls` needs both `certificate` and `key`, and `{key}` is missing"
                        ),
                    );
                    None
                }
            }
        };
        let certificate = file("certificate", "key");
        let key = file("key", "certificate");
        certificate.zip(key)
    }

    /// Whoever can reach the queue must not be able to see or change what others send.
    fn check_reach(&mut self, listen: SocketAddr, root_url: Option<&str>, tls: bool, behind_proxy: bool) {
        let root = match root_url.map(Url::parse) {
            Some(Ok(url)) if is_address(&url) => Some(url),
            Some(_) => {
                self.problem(
                    "/queue/embedded/rootUrl",
                    "`queue.embedded.rootUrl` must be no more than an address, such as https://queue.example.com:8443",
                );
                return;
            }
            None => None,
        };
        if !listen.ip().is_loopback() && !tls && !behind_proxy {
            self.problem(
                "/queue/embedded/listen",
                "`queue.embedded.listen` must be on the loopback interface, such as 127.0.0.1:8080, or others could see \
                 what is sent: to let them in, set `queue.embedded.tls` and `queue.embedded.rootUrl`; or, if something \
                 before the queue speaks TLS, `queue.embedded.behindProxy: true` and its address as \
                 `queue.embedded.rootUrl`",
            );
        } else if root.is_none() && (behind_proxy || !listen.ip().is_loopback()) {
            self.problem(
                "/queue/embedded/rootUrl",
                "`queue.embedded.rootUrl` is missing: set it to what others find the queue under, such as \
                 https://queue.example.com:8443",
            );
        }
        let Some(root) = root else { return };
        let secure = root.scheme() == "https";
        if tls && !secure {
            self.problem(
                "/queue/embedded/rootUrl",
                "`queue.embedded.rootUrl` must begin with https://, since `queue.embedded.tls` is set",
            );
        } else if secure && !tls && !behind_proxy {
            self.problem(
                "/queue/embedded/rootUrl",
                "`queue.embedded.rootUrl` begins with https://, and nothing speaks TLS: set `queue.embedded.tls`, or \
                 `queue.embedded.behindProxy: true` if something before the queue does",
            );
        }
    }
}

fn is_pool(text: &str) -> bool {
    let half = |half: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=38).contains(&half.len()) && half.bytes().all(allowed)
    };
    text.split_once('/')
        .is_some_and(|(one, other)| half(one) && half(other))
}

/// A scheme, a host and perhaps a port.
fn is_address(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}
