//! A GET through an attached proxy: a small HTTP client over a unix socket.

use std::collections::BTreeMap;

use tcw_abi::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::files::check_name;

/// The host of the proxy with the empty name: the root.
const ROOT_HOST: &str = "taskcluster";

/// Longer answers are not what a test sends.
const LONGEST_ANSWER: u64 = 16 << 20;

/// The sockets behind the names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(BTreeMap<String, String>);

impl Proxies {
    /// Answers the URL.
    pub(crate) fn attach(&mut self, name: &str, endpoint: String) -> Result<String> {
        check_name("the name of a proxy", name)?;
        let valid = name.is_empty()
            || ((3..=22).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase()));
        if !valid {
            return Err(Error::malformed(format!(
                "{name:?} cannot be the name of a proxy: 3 to 22 letters from a to z, or nothing for the root"
            )));
        }
        if self.0.contains_key(name) {
            return Err(Error::new(
                ErrorKind::NamingConflict,
                format!("there is a proxy named {name:?} already"),
            ));
        }
        self.0.insert(name.to_owned(), endpoint);
        let root = format!("http://{ROOT_HOST}");
        Ok(if name.is_empty() {
            root
        } else {
            format!("{root}/{name}")
        })
    }

    /// The socket that serves `url`, and the path that it is asked for. A proxy does not see its own name.
    fn route<'a>(&self, url: &'a str) -> Option<(&str, &'a str)> {
        let rest = url.strip_prefix("http://")?.strip_prefix(ROOT_HOST)?;
        let path = if rest.is_empty() { "/" } else { rest };
        let (first, below) = match path.strip_prefix('/')?.split_once('/') {
            Some((first, _)) => (first, &path[1 + first.len()..]),
            None => (&path[1..], "/"),
        };
        match self.0.get(first) {
            Some(endpoint) if !first.is_empty() => Some((endpoint, below)),
            _ => self.0.get("").map(|endpoint| (endpoint.as_str(), path)),
        }
    }

    /// The status and the body.
    pub(crate) async fn get(&self, url: &str) -> Result<(u16, Vec<u8>), String> {
        let (endpoint, path) = self
            .route(url)
            .ok_or_else(|| format!("no proxy is attached for {url}"))?;
        let problem = |error: std::io::Error| format!("the proxy for {url} does not answer: {error}");
        let mut stream = UnixStream::connect(endpoint).await.map_err(problem)?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {ROOT_HOST}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(problem)?;
        let mut answer = Vec::new();
        stream
            .take(LONGEST_ANSWER)
            .read_to_end(&mut answer)
            .await
            .map_err(problem)?;
        parse(&answer).ok_or_else(|| format!("the proxy for {url} does not answer in HTTP"))
    }
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let body = &answer[end + 4..];
    if head
        .lines()
        .any(|line| line.replace(' ', "") == "transfer-encoding:chunked")
    {
        return Some((status, unchunk(body)?));
    }
    Some((status, body.to_vec()))
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_sees_paths_without_its_name_and_the_root_sees_the_rest() {
        let mut proxies = Proxies::default();
        assert_eq!(
            proxies.attach("pinger", "/ping.sock".into()).unwrap(),
            "http://taskcluster/pinger"
        );
        assert_eq!(proxies.route("http://taskcluster/api/queue"), None);
        assert_eq!(
            proxies.attach("", "/root.sock".into()).unwrap(),
            "http://taskcluster"
        );
        for (url, expected) in [
            (
                "http://taskcluster/pinger/v1/ping",
                Some(("/ping.sock", "/v1/ping")),
            ),
            ("http://taskcluster/pinger", Some(("/ping.sock", "/"))),
            ("http://taskcluster/api/queue", Some(("/root.sock", "/api/queue"))),
            ("http://taskcluster", Some(("/root.sock", "/"))),
            ("http://example.com/pinger", None),
        ] {
            assert_eq!(proxies.route(url), expected, "{url}");
        }
        for name in ["ab", "with space", "Upper", "a-b"] {
            let error = proxies.attach(name, String::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MalformedPayload, "{name}");
        }
        let error = proxies.attach("pinger", String::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NamingConflict);
    }

    #[test]
    fn answers_are_read_with_and_without_chunks() {
        let plain = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(parse(plain), Some((404, b"no".to_vec())));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some((200, b"abcd".to_vec())));
        assert_eq!(parse(b"nonsense"), None);
    }
}
