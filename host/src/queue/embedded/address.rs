//! What clients know the queue as, and which of the names that a request may call it by are its own.
//!
//! A page in somebody's browser can have its own name resolve to this machine, and then ask what only this machine may
//! ask (DNS rebinding). Its requests carry that name, so a name that is not ours is refused.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use url::Url;

use super::error::ApiError;

/// Where clients find the queue.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// Without a slash at the end.
    pub(super) root_url: String,
    scheme: &'static str,
    host: String,
    port: u16,
    /// Something stands before the queue that takes requests under the root URL's name alone, and may send them on under
    /// any other.
    behind_proxy: bool,
}

/// How one request has reached the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// As Hawk signs it.
    pub(super) host: String,
    pub(super) port: u16,
    /// Scheme, host and port as the client has them.
    pub(super) base_url: String,
}

impl Address {
    /// For a root URL that is a scheme, a host and perhaps a port; `None` if it is not.
    pub(super) fn new(root_url: &str, behind_proxy: bool) -> Option<Self> {
        let url = Url::parse(root_url).ok()?;
        let scheme = match url.scheme() {
            "http" => "http",
            "https" => "https",
            _ => return None,
        };
        let plain = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        plain.then_some(())?;
        Some(Self {
            root_url: url.as_str().trim_end_matches('/').to_owned(),
            scheme,
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default()?,
            behind_proxy,
        })
    }

    /// By what name a request has come, if it is one of ours.
    pub(super) fn reached(&self, uri: &Uri, headers: &HeaderMap) -> Result<Reached, ApiError> {
        if self.behind_proxy {
            return Ok(Reached {
                host: self.host.clone(),
                port: self.port,
                base_url: self.root_url.clone(),
            });
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(ApiError::arguments("a request has one Host header"));
        };
        let named: Authority = host
            .to_str()
            .ok()
            .filter(|host| !host.contains('@'))
            .and_then(|host| host.parse().ok())
            .ok_or_else(|| {
                ApiError::arguments("the Host header is not a name or address with perhaps a port")
            })?;
        if uri.authority().is_some_and(|authority| *authority != named) {
            return Err(ApiError::arguments(
                "the request's target and its Host header name different hosts",
            ));
        }
        if !self.is_ours(named.host()) {
            return Err(ApiError::with_status(
                StatusCode::MISDIRECTED_REQUEST,
                "InvalidRequestArguments",
                format!(
                    "this queue is not {:?}; use its root URL, {}, or set another one",
                    named.host(),
                    self.root_url
                ),
            ));
        }
        let default = if self.scheme == "https" { 443 } else { 80 };
        Ok(Reached {
            host: named.host().to_owned(),
            port: named.port_u16().unwrap_or(default),
            base_url: format!("{}://{named}", self.scheme),
        })
    }

    fn is_ours(&self, host: &str) -> bool {
        let address = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        host.eq_ignore_ascii_case(&self.host)
            || host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(
        root_url: &str,
        behind_proxy: bool,
        target: &str,
        hosts: &[&str],
    ) -> Result<Reached, StatusCode> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        let address = Address::new(root_url, behind_proxy).unwrap();
        address
            .reached(&target.parse().unwrap(), &headers)
            .map_err(|error| error.status)
    }

    #[test]
    fn only_our_own_names_are_taken() {
        let here = "http://127.0.0.1:8080";
        for (host, name, port) in [
            ("127.0.0.1:8080", "127.0.0.1", 8080),
            ("localhost", "localhost", 80),
            ("LOCALHOST:1", "LOCALHOST", 1),
            ("[::1]:8080", "[::1]", 8080),
            ("[::1]", "[::1]", 80),
            ("127.9.9.9:8080", "127.9.9.9", 8080),
        ] {
            let reached = reach(here, false, "/", &[host]).unwrap();
            assert_eq!((reached.host.as_str(), reached.port), (name, port));
            assert_eq!(reached.base_url, format!("http://{host}"));
        }
        for host in [
            "evil.example.com",
            "127.0.0.1.evil.example.com:8080",
            "localhost.evil",
            "10.0.0.1",
            "[::2]",
        ] {
            assert_eq!(
                reach(here, false, "/", &[host]).unwrap_err(),
                StatusCode::MISDIRECTED_REQUEST,
                "{host}"
            );
        }
        for hosts in [
            &[][..],
            &["localhost", "localhost"],
            &["a@localhost"],
            &["local host"],
            &[""],
        ] {
            assert_eq!(
                reach(here, false, "/", hosts).unwrap_err(),
                StatusCode::BAD_REQUEST,
                "{hosts:?}"
            );
        }
        assert_eq!(
            reach(here, false, "http://evil.example.com/", &["localhost"]).unwrap_err(),
            StatusCode::BAD_REQUEST
        );
        assert!(reach(here, false, "http://localhost/", &["localhost"]).is_ok());
    }

    #[test]
    fn the_root_url_s_name_is_ours_with_the_port_of_its_scheme() {
        let reached = reach("https://queue.example.com", false, "/", &["queue.example.com"]).unwrap();
        assert_eq!(
            (reached.port, reached.base_url.as_str()),
            (443, "https://queue.example.com")
        );
    }

    #[test]
    fn behind_a_proxy_the_root_url_is_what_was_signed() {
        for hosts in [&[][..], &["upstream:1"], &["queue.example.com"]] {
            let reached = reach("https://queue.example.com:8443/", true, "/", hosts).unwrap();
            assert_eq!((reached.host.as_str(), reached.port), ("queue.example.com", 8443));
            assert_eq!(reached.base_url, "https://queue.example.com:8443");
        }
    }

    #[test]
    fn a_root_url_is_no_more_than_an_address() {
        for wrong in [
            "queue.example.com",
            "ftp://a",
            "https://a/b",
            "https://a?b",
            "https://a@b",
            "",
        ] {
            assert!(Address::new(wrong, false).is_none(), "{wrong}");
        }
    }
}
