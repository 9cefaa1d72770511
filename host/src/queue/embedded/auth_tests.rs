//! Signatures, checked against those that the official client crate makes.

use std::time::Duration;

use axum::http::HeaderValue;

use super::*;

const RESOURCE: &str = "/api/queue/v1/task/x?limit=1";

fn authority() -> Authority {
    let directory = tempfile::tempdir().unwrap();
    let clients = Clients::open(&directory.path().join("clients.json")).unwrap();
    let nonces = Nonces::open(
        &directory.path().join("nonces"),
        CLOCK_TOLERANCE,
        100,
        now_in_seconds(),
    )
    .unwrap();
    Authority::new(Credentials::new("root", "token"), clients, nonces).unwrap()
}

struct Attempt {
    credentials: Credentials,
    authorized_scopes: Option<Vec<&'static str>>,
    body: &'static [u8],
    sign_body: Option<&'static [u8]>,
    resource: &'static str,
}

impl Attempt {
    fn new(credentials: impl Into<Credentials>) -> Self {
        Self {
            credentials: credentials.into(),
            authorized_scopes: None,
            body: b"",
            sign_body: None,
            resource: RESOURCE,
        }
    }

    fn run(self) -> Result<Caller, ApiError> {
        let mut ext = serde_json::json!({});
        if let Some(certificate) = &self.credentials.certificate {
            ext["certificate"] = serde_json::from_str(certificate).unwrap();
        }
        if let Some(scopes) = &self.authorized_scopes {
            ext["authorizedScopes"] = serde_json::json!(scopes);
        }
        let ext = STANDARD.encode(ext.to_string());
        let hash = self
            .sign_body
            .map(|body| hawk::PayloadHasher::hash("application/json", hawk::SHA256, body).unwrap());
        let credentials = hawk::Credentials {
            id: self.credentials.client_id.clone(),
            key: hawk::Key::new(&self.credentials.access_token, hawk::SHA256).unwrap(),
        };
        let header = hawk::RequestBuilder::new("GET", "localhost", 80, RESOURCE)
            .ext(ext.as_str())
            .hash(hash.as_deref())
            .request()
            .make_header(&credentials)
            .unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_str(&format!("Hawk {header}")).unwrap(),
        );
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("Application/JSON; charset=utf-8"),
        );
        let signed = Signed {
            method: &Method::GET,
            resource: self.resource,
            host: "localhost",
            port: 80,
            headers: &headers,
        };
        authority().authenticate(&signed)?.with_body(&headers, self.body)
    }
}

fn official(name: Option<&str>, scopes: &[&str]) -> taskcluster::Credentials {
    let root = taskcluster::Credentials::new("root", "token");
    let hour = Duration::from_secs(3600);
    match name {
        Some(name) => root
            .create_named_temp_creds(name, hour, scopes.iter().copied())
            .unwrap(),
        None => root.create_temp_creds(hour, scopes.iter().copied()).unwrap(),
    }
}

#[test]
fn the_root_client_may_do_everything() {
    let caller = Attempt::new(Credentials::new("root", "token")).run().unwrap();
    assert_eq!(caller.scopes[0], "*");
    for wrong in [
        Credentials::new("root", "other"),
        Credentials::new("other", "token"),
    ] {
        assert_eq!(
            Attempt::new(wrong).run().unwrap_err().code,
            "AuthenticationFailed"
        );
    }
}

#[test]
fn temporary_credentials_of_the_official_crate_are_accepted() {
    for name in [None, Some("somebody")] {
        let caller = Attempt::new(official(name, &["a", "b:*"])).run().unwrap();
        assert_eq!(caller.client_id.as_deref(), Some(name.unwrap_or("root")));
        assert_eq!(caller.scopes[..2], ["a".to_owned(), "b:*".to_owned()]);
    }
}

#[test]
fn own_temporary_credentials_have_the_official_form() {
    let now = super::super::core::now();
    let own = authority()
        .issue("t/1".to_owned(), vec!["a".to_owned()], now, now + 1000)
        .unwrap();
    assert_eq!(Attempt::new(own).run().unwrap().client_id.as_deref(), Some("t/1"));
    let ended = authority()
        .issue("t/1".to_owned(), Vec::new(), now - 700_000, now - 600_000)
        .unwrap();
    assert_eq!(
        Attempt::new(ended).run().unwrap_err().code,
        "AuthenticationFailed"
    );
}

#[test]
fn a_certificate_cannot_be_changed() {
    let mut credentials: Credentials = official(Some("somebody"), &["a"]).into();
    credentials.certificate = credentials.certificate.map(|text| text.replace("\"a\"", "\"*\""));
    assert_eq!(
        Attempt::new(credentials).run().unwrap_err().message,
        "the certificate's signature is wrong"
    );
    let other = Credentials {
        client_id: "else".to_owned(),
        ..official(Some("somebody"), &["a"]).into()
    };
    assert_eq!(
        Attempt::new(other).run().unwrap_err().message,
        "the certificate's signature is wrong"
    );
}

#[test]
fn authorized_scopes_limit_and_never_extend() {
    let limited = Attempt {
        authorized_scopes: Some(vec!["b:c"]),
        ..Attempt::new(official(None, &["a", "b:*"]))
    };
    let caller = limited.run().unwrap();
    assert!(caller.authorize(&Need::scope("b:c")).is_ok());
    assert_eq!(
        caller.authorize(&Need::scope("a")).unwrap_err().code,
        "InsufficientScopes"
    );
    assert!(
        caller.authorize(&Need::scope("queue:status:x")).is_ok(),
        "what anybody may do stays"
    );
    let beyond = Attempt {
        authorized_scopes: Some(vec!["c"]),
        ..Attempt::new(official(None, &["a", "b:*"]))
    };
    assert_eq!(beyond.run().unwrap_err().code, "AuthenticationFailed");
}

#[test]
fn a_signature_stands_for_one_request() {
    let root = || Attempt::new(Credentials::new("root", "token"));
    assert!(
        Attempt {
            resource: "/api/queue/v1/task/y?limit=1",
            ..root()
        }
        .run()
        .is_err()
    );
    assert!(
        Attempt {
            resource: "/api/queue/v1/task/x?limit=2",
            ..root()
        }
        .run()
        .is_err(),
        "the query is signed too"
    );
    assert!(
        Attempt {
            body: b"{}",
            sign_body: Some(b"{}"),
            ..root()
        }
        .run()
        .is_ok()
    );
    assert!(
        Attempt {
            body: b"[]",
            sign_body: Some(b"{}"),
            ..root()
        }
        .run()
        .is_err()
    );
    assert!(
        Attempt {
            body: b"[]",
            ..root()
        }
        .run()
        .is_ok(),
        "a body need not be signed"
    );
}

#[test]
fn bewits_sign_urls() {
    let client = taskcluster::ClientBuilder::new("http://localhost:8080")
        .credentials(official(Some("somebody"), &["a"]))
        .build()
        .unwrap();
    let url = client
        .make_signed_url("api/x", Some(vec![("limit", "1")]), Duration::from_secs(60))
        .unwrap();
    let resource = url.strip_prefix("http://localhost:8080").unwrap().to_owned();
    let check = |method: Method, resource: &str| {
        let headers = HeaderMap::new();
        authority()
            .authenticate(&Signed {
                method: &method,
                resource,
                host: "localhost",
                port: 8080,
                headers: &headers,
            })
            .map(|somebody| somebody.caller)
    };
    assert_eq!(
        check(Method::GET, &resource).unwrap().client_id.as_deref(),
        Some("somebody")
    );
    assert!(check(Method::GET, &resource.replace("limit=1", "limit=2")).is_err());
    assert!(check(Method::POST, &resource).is_err());
}

#[test]
fn storage_urls_stand_for_one_method_path_and_end() {
    let authority = authority();
    let later = super::super::core::now() + 10_000;
    let signature = authority.sign_storage("PUT", "/a", later).unwrap();
    assert!(authority.check_storage("PUT", "/a", later, &signature).is_ok());
    for (method, path, expires) in [
        ("GET", "/a", later),
        ("PUT", "/b", later),
        ("PUT", "/a", later + 1),
    ] {
        assert!(
            authority
                .check_storage(method, path, expires, &signature)
                .is_err(),
            "{method} {path} {expires}"
        );
    }
    let ended = authority.sign_storage("PUT", "/a", 5).unwrap();
    assert!(authority.check_storage("PUT", "/a", 5, &ended).is_err());
}

/// Random text out of the pieces that the parsers look for, and changed proper ones: whatever comes, it is refused or
/// understood, and never more.
#[test]
fn no_header_and_no_bewit_breaks_the_parsers() {
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom as _;
    use rand::{Rng as _, SeedableRng as _};

    let seed: u64 = std::env::var("TCW_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed);
    let pieces = [
        "Hawk ",
        "hawk",
        "id",
        "ts",
        "nonce",
        "mac",
        "ext",
        "hash",
        "app",
        "dlg",
        "=",
        "\"",
        ",",
        " ",
        "\t",
        "\\",
        "1",
        "-",
        "18446744073709551615",
        "253402300799",
        "253402300800",
        "AAAA",
        "====",
        "ü",
        "\u{0}",
        "{",
        "}",
        "[",
        "null",
        "\"certificate\":",
        "\"authorizedScopes\":",
        "9223372036854775807",
        "-9223372036854775808",
        "bewit=",
        "&",
        "?",
    ];
    let authority = authority();
    for round in 0..20_000 {
        let mut text: String = (0..rng.random_range(0..30))
            .map(|_| *pieces.choose(&mut rng).expect("there are some"))
            .collect();
        if round % 2 == 0 {
            text = format!(
                "Hawk id=\"root\", ts=\"1\", nonce=\"n\", mac=\"AAAA\", ext=\"{}\"",
                STANDARD.encode(&text)
            );
            for _ in 0..rng.random_range(0..3) {
                let at = rng.random_range(0..text.len());
                let piece = pieces.choose(&mut rng).expect("there are some");
                if text.is_char_boundary(at) {
                    text.insert_str(at, piece);
                }
            }
        }
        let context = || format!("seed {seed}, round {round}: {text:?}");
        if let Ok(header) = parse_header(&text) {
            // What was understood says the same when it is written again.
            let again = parse_header(&format!("Hawk {header}"))
                .unwrap_or_else(|error| panic!("{error:?}: {}", context()));
            assert_eq!(
                (again.id, again.ts, again.nonce),
                (header.id, header.ts, header.nonce),
                "{}",
                context()
            );
        }
        let _ = parse_ext(Some(&text));
        let _ = parse_ext(Some(&STANDARD.encode(&text)));
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(header::AUTHORIZATION, value);
        }
        for resource in [
            format!("/x?bewit={}", URL_SAFE_NO_PAD.encode(&text)),
            format!("/x?{text}"),
            "/x".to_owned(),
        ] {
            let outcome = authority.authenticate(&Signed {
                method: &Method::GET,
                resource: &resource,
                host: "localhost",
                port: 80,
                headers: &headers,
            });
            // Nobody has signed any of this.
            assert!(
                outcome.map_or(true, |somebody| somebody.is_anonymous()),
                "{}",
                context()
            );
        }
    }
}
