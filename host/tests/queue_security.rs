//! Who may not: signatures, signed URLs, names and limits of the embedded queue, over real sockets.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use queue_support::raw::{Answer, Raw, Signing, address, exchange, now, temporary};
use queue_support::{BOUND, Scene, in_an_hour};
use serde_json::{Value, json};
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue, StartError, TlsFiles};
use tcw_host::queue::{ArtifactRequest, Credentials, TaskId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const API: &str = "/api/queue/v1";

/// A call that needs credentials, changes nothing, and answers 404 to who may make it.
fn private(scene: &Scene) -> Raw {
    Raw::new(
        &scene.queue,
        "POST",
        format!("{API}/task/{}/runs/0/reclaim", TaskId::random()),
    )
}

#[tokio::test]
async fn a_signed_request_is_carried_out_once_also_across_a_restart() {
    let scene = Scene::with(|config| config.listen = free_port()).await;
    let root = scene.queue.credentials();
    let listen = address(&scene.queue);
    let request = private(&scene).signed(&root);
    assert_eq!(request.send(&scene.queue).await.status, 404);
    let again = request.send(&scene.queue).await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (401, "AuthenticationFailed")
    );
    assert!(
        again.message().contains("carried out once"),
        "{}",
        again.message()
    );
    // Reading is no different.
    let reading = Raw::new(&scene.queue, "GET", format!("{API}/pending/a/b")).signed(&root);
    assert_eq!(reading.send(&scene.queue).await.status, 200);
    assert_eq!(reading.send(&scene.queue).await.status, 401);
    // What was refused for another reason was not carried out, and tells nobody which nonces there are.
    let nonce = Some("one nonce".to_owned());
    let forged = Signing {
        nonce,
        ..Signing::default()
    };
    let impostor = Credentials::new(&root.client_id, "wrong");
    assert_eq!(
        private(&scene)
            .signed_as(&impostor, &forged)
            .send(&scene.queue)
            .await
            .status,
        401
    );
    assert_eq!(
        private(&scene)
            .signed_as(&root, &forged)
            .send(&scene.queue)
            .await
            .status,
        404
    );

    let Scene { directory, queue, .. } = scene;
    queue.stop().await;
    let config = EmbeddedConfig {
        listen,
        ..EmbeddedConfig::new(directory.path().join("state"))
    };
    let queue = EmbeddedQueue::start(config).await.unwrap();
    assert_eq!(
        request.send(&queue).await.status,
        401,
        "the next process knows it too"
    );
    let fresh = Raw::new(&queue, "GET", format!("{API}/pending/a/b")).signed(&root);
    assert_eq!(fresh.send(&queue).await.status, 200);
}

/// An address that is free now, for a queue that has to come back to it.
fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_clock_may_be_fifteen_minutes_off_and_is_told_ours() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    for (ts, status) in [
        (now() - 14 * 60, 404),
        (now() + 14 * 60, 404),
        (now() - 16 * 60, 401),
        (now() + 16 * 60, 401),
        (0, 401),
        (253_402_300_799, 401),
    ] {
        let signing = Signing {
            ts: Some(ts),
            ..Signing::default()
        };
        let answer = private(&scene)
            .signed_as(&root, &signing)
            .send(&scene.queue)
            .await;
        assert_eq!(answer.status, status, "{ts}: {}", answer.message());
        if status == 401 {
            // As Hawk has it: our time, and a signature of it with the client's own key.
            let challenge = answer.header("WWW-Authenticate").unwrap();
            let field = |name: &str| {
                let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
                rest.split_once('"').unwrap().0.to_owned()
            };
            let ours: u64 = field("ts").parse().unwrap();
            assert!(ours.abs_diff(now()) < 60, "{challenge}");
            let key = hawk::Key::new(&root.access_token, hawk::SHA256).unwrap();
            let signed = key.sign(format!("hawk.1.ts\n{ours}\n").as_bytes()).unwrap();
            assert_eq!(field("tsm"), STANDARD.encode(signed));
            assert!(
                challenge.starts_with("Hawk ") && answer.message().contains("clock"),
                "{challenge}"
            );
        }
    }
    // Who does not know the token is not told the time in its name.
    let impostor = Credentials::new(&root.client_id, "wrong");
    let answer = private(&scene).signed(&impostor).send(&scene.queue).await;
    assert_eq!(answer.header("WWW-Authenticate"), Some("Hawk"));
}

#[tokio::test]
async fn a_body_that_was_signed_is_the_one_that_counts() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let sent = json!({ "taskIds": [] });
    let post = |hashed: Option<&[u8]>, content_type: &str| {
        let mut raw = Raw::new(&scene.queue, "POST", format!("{API}/tasks/status"));
        raw.body = sent.to_string().into_bytes();
        let hashed = hashed.map(<[u8]>::to_vec);
        raw.header("Content-Type", content_type).signed_as(
            &root,
            &Signing {
                hashed,
                ..Signing::default()
            },
        )
    };
    let (right, wrong) = (sent.to_string().into_bytes(), b"{}".to_vec());
    for (hashed, content_type, status) in [
        (None, "application/json", 200),
        (Some(&right[..]), "application/json; charset=utf-8", 200),
        (Some(&wrong[..]), "application/json", 401),
    ] {
        let answer = post(hashed, content_type).send(&scene.queue).await;
        assert_eq!(
            answer.status,
            status,
            "{hashed:?} {content_type}: {}",
            answer.message()
        );
    }
}

/// The official asynchronous client signs no body as one without a type, and its HTTP library adds a type afterwards.
#[tokio::test]
async fn the_type_of_no_body_does_not_matter() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let credentials = hawk::Credentials {
        id: root.client_id.clone(),
        key: hawk::Key::new(&root.access_token, hawk::SHA256).unwrap(),
    };
    for (content_type, body, status) in [("application/octet-stream", "", 404), ("text/plain", "x", 401)] {
        let mut request = private(&scene);
        let to = address(&scene.queue);
        let hash = hawk::PayloadHasher::hash("", hawk::SHA256, body).unwrap();
        let header = hawk::RequestBuilder::new("POST", &to.ip().to_string(), to.port(), &request.target)
            .hash(Some(&hash[..]))
            .request()
            .make_header(&credentials)
            .unwrap();
        request.body = body.into();
        let request = request
            .header("Content-Type", content_type)
            .header("Authorization", format!("Hawk {header}"));
        assert_eq!(request.send(&scene.queue).await.status, status, "{content_type}");
    }
}

#[tokio::test]
async fn headers_that_nobody_sends_in_good_faith_are_refused() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let long = "9".repeat(30);
    for header in [
        "Hawk",
        "Hawk ",
        "Basic dTpw",
        "Bearer x",
        "Hawk id=\"tcw/root\"",
        "Hawk id=tcw, ts=1",
        "Hawk id=\"a\", id=\"tcw/root\", ts=\"1\", nonce=\"n\", mac=\"AA==\"",
        "Hawk id=\"tcw/root\", ts=\"18446744073709551615\", nonce=\"n\", mac=\"AA==\"",
        &format!("Hawk id=\"tcw/root\", ts=\"{long}\", nonce=\"n\", mac=\"AA==\""),
        "Hawk id=\"tcw/root\", ts=\"-1\", nonce=\"n\", mac=\"AA==\"",
        "Hawk id=\"tcw/root\", ts=\"1\", nonce=\"n\", mac=\"*\"",
        "Hawk id=\"tcw/root\", ts=\"1\", nonce=\"n\", mac=\"\", other=\"x\"",
        "Hawk =\"\"",
        "Hawk ,,,,",
        "Hawk id=\"",
    ] {
        let answer = private(&scene)
            .header("Authorization", header)
            .send(&scene.queue)
            .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "AuthenticationFailed"),
            "{header}: {}",
            answer.message()
        );
    }
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let never = json!({ "version": 1, "scopes": ["*"], "start": i64::MIN, "expiry": i64::MAX, "seed": "", "signature": "" });
    for ext in [
        "*".to_owned(),
        STANDARD.encode("{"),
        STANDARD.encode("[]"),
        STANDARD.encode([0xff, 0xfe]),
        STANDARD.encode(&deep),
        STANDARD.encode(format!("{{\"certificate\": {deep}}}")),
        STANDARD.encode(r#"{"certificate": "{"}"#),
        STANDARD.encode(r#"{"certificate": 1}"#),
        STANDARD.encode(r#"{"authorizedScopes": "*"}"#),
        STANDARD.encode(r#"{"authorizedScopes": [1]}"#),
        STANDARD.encode(r#"{"other": 1}"#),
        STANDARD.encode(json!({ "certificate": never }).to_string()),
    ] {
        let signing = Signing {
            ext: Some(ext.clone()),
            ..Signing::default()
        };
        let answer = private(&scene)
            .signed_as(&root, &signing)
            .send(&scene.queue)
            .await;
        assert_eq!(answer.status, 401, "{ext}: {}", answer.message());
    }
    let twice = private(&scene)
        .signed(&root)
        .signed(&root)
        .send(&scene.queue)
        .await;
    assert_eq!(twice.status, 401, "{}", twice.message());
    let beyond = Signing {
        authorized_scopes: Some(vec!["b".to_owned()]),
        ..Signing::default()
    };
    let limited = temporary(&root, None, &["a"]);
    let answer = private(&scene)
        .signed_as(&limited, &beyond)
        .send(&scene.queue)
        .await;
    assert_eq!(answer.status, 401, "{}", answer.message());
}

#[tokio::test]
async fn bewits_are_for_reading_and_end() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let id = scene.create().await;
    let (_, run) = scene.claim().await;
    let artifact = ArtifactRequest::Reference {
        expires: in_an_hour(),
        url: "https://example.com/a".to_owned(),
        content_type: "text/plain".to_owned(),
    };
    run.create_artifact("private/a", &artifact).await.unwrap();
    let host = address(&scene.queue);
    let path = format!("{API}/task/{id}/artifacts/private%2Fa");
    let bewit = |method: &str, path: &str, exp: u64, token: &str| {
        let ip = host.ip().to_string();
        let key = hawk::Key::new(token, hawk::SHA256).unwrap();
        let credentials = hawk::Credentials {
            id: root.client_id.clone(),
            key,
        };
        let until = std::time::UNIX_EPOCH + Duration::from_secs(exp);
        let request = hawk::RequestBuilder::new(method, &ip, host.port(), path).request();
        request.make_bewit(&credentials, until).unwrap().to_str()
    };
    let get = async |method: &str, target: String| {
        Raw::new(&scene.queue, method, target)
            .send(&scene.queue)
            .await
            .status
    };
    let (later, token) = (now() + 60, root.access_token.as_str());
    let good = bewit("GET", &path, later, token);
    for _ in 0..2 {
        assert_eq!(
            get("GET", format!("{path}?bewit={good}")).await,
            303,
            "as often as somebody asks"
        );
    }
    assert_eq!(get("HEAD", format!("{path}?bewit={good}")).await, 303);
    let cancel = format!("{API}/task/{id}/cancel");
    for (method, target) in [
        (
            "GET",
            format!("{path}?bewit={}", bewit("GET", &path, now() - 1, token)),
        ),
        (
            "GET",
            format!("{path}?bewit={}", bewit("GET", &path, later, "wrong")),
        ),
        ("GET", format!("{path}x?bewit={good}")),
        (
            "POST",
            format!("{cancel}?bewit={}", bewit("POST", &cancel, later, token)),
        ),
        (
            "POST",
            format!("{cancel}?bewit={}", bewit("GET", &cancel, later, token)),
        ),
        ("GET", format!("{path}?bewit={good}&bewit={good}")),
        ("GET", format!("{path}?bewit=")),
        ("GET", format!("{path}?bewit=%00")),
        (
            "GET",
            format!(
                "{path}?bewit={}",
                URL_SAFE_NO_PAD.encode(r"tcw/root\18446744073709551615\AA==\")
            ),
        ),
        (
            "GET",
            format!("{path}?bewit={}", URL_SAFE_NO_PAD.encode(r"tcw/root\1\AA==\\")),
        ),
    ] {
        assert_eq!(get(method, target.clone()).await, 401, "{method} {target}");
    }
    let both = Raw::new(&scene.queue, "GET", format!("{path}?bewit={good}")).signed(&root);
    assert_eq!(both.send(&scene.queue).await.status, 401);
}

/// Makes a client over the API.
async fn make_client(scene: &Scene, by: &Credentials, id: &str, definition: &Value) -> Answer {
    let path = format!("/api/auth/v1/clients/{}", id.replace('/', "%2F"));
    let request = Raw::new(&scene.queue, "PUT", path).json(definition).signed(by);
    request.send(&scene.queue).await
}

#[tokio::test]
async fn clients_last_until_they_are_deleted_and_so_does_what_they_have_issued() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let scopes = ["queue:pending-count:*", "auth:create-client:team/sub/*"];
    let definition = json!({ "description": "d", "expires": in_an_hour(), "scopes": scopes });
    let made = make_client(&scene, &root, "team/one", &definition).await.json();
    let token = made["accessToken"].as_str().unwrap().to_owned();
    let again = make_client(&scene, &root, "team/one", &definition).await;
    assert_eq!(
        again.json()["accessToken"],
        made["accessToken"],
        "an answer that was lost can be had again"
    );
    let other = json!({ "description": "other", "expires": in_an_hour(), "scopes": [] });
    assert_eq!(make_client(&scene, &root, "team/one", &other).await.status, 409);

    let one = Credentials::new("team/one", &token);
    let pending = async |scene: &Scene, credentials: &Credentials| {
        let request = Raw::new(&scene.queue, "GET", format!("{API}/pending/a/b")).signed(credentials);
        request.send(&scene.queue).await.status
    };
    assert_eq!(pending(&scene, &one).await, 200);
    assert_eq!(private(&scene).signed(&one).send(&scene.queue).await.status, 403);
    // What it issues is within what it has, and under the names that it may give.
    assert_eq!(
        pending(&scene, &temporary(&one, None, &["queue:pending-count:a/b"])).await,
        200
    );
    assert_eq!(
        pending(&scene, &temporary(&one, Some("team/sub/x"), &[])).await,
        200
    );
    for beyond in [
        temporary(&one, None, &["queue:claim-work:a/b"]),
        temporary(&one, None, &["*"]),
        temporary(&one, Some("team/two"), &[]),
        temporary(&one, Some("tcw/root"), &[]),
    ] {
        assert_eq!(pending(&scene, &beyond).await, 401, "{}", beyond.client_id);
    }
    // Nobody makes a client that may do more than they.
    let wide = json!({ "description": "", "expires": in_an_hour(), "scopes": ["queue:claim-work:*"] });
    assert_eq!(make_client(&scene, &one, "team/sub/x", &wide).await.status, 403);
    let narrow = json!({ "description": "", "expires": in_an_hour(), "scopes": ["queue:pending-count:a/b"] });
    assert_eq!(make_client(&scene, &one, "team/other", &narrow).await.status, 403);
    assert_eq!(make_client(&scene, &one, "team/sub/x", &narrow).await.status, 200);
    for (id, definition) in [
        ("tcw/root", &narrow),
        ("tcw/other", &narrow),
        ("task-client/x", &narrow),
        ("a b", &narrow),
        (
            "ok",
            &json!({ "description": "", "expires": in_an_hour(), "scopes": ["a**"] }),
        ),
        (
            "ok",
            &json!({ "description": "", "expires": "soon", "scopes": [] }),
        ),
        ("ok", &json!({ "scopes": [] })),
    ] {
        assert_eq!(
            make_client(&scene, &root, id, definition).await.status,
            400,
            "{id} {definition}"
        );
    }

    // All of it is on disk, and nobody else's to read.
    let clients = scene.directory.path().join("state/clients.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&clients).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let scene = scene.restart().await;
    assert_eq!(pending(&scene, &one).await, 200);

    let (id, list) = (
        "/api/auth/v1/clients/team%2Fone",
        "/api/auth/v1/clients/?prefix=team",
    );
    let reset = Raw::new(&scene.queue, "POST", format!("{id}/reset")).signed(&root);
    let fresh = reset.send(&scene.queue).await.json()["accessToken"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_ne!(fresh, token);
    assert_eq!(pending(&scene, &one).await, 401);
    let one = Credentials::new("team/one", fresh);
    let issued = temporary(&one, None, &["queue:pending-count:a/b"]);
    assert_eq!(pending(&scene, &issued).await, 200);
    let listed = Raw::new(&scene.queue, "GET", list)
        .signed(&root)
        .send(&scene.queue)
        .await;
    assert_eq!(listed.json()["clients"].as_array().unwrap().len(), 2);
    assert!(!String::from_utf8_lossy(&listed.body).contains("accessToken"));
    assert!(!String::from_utf8_lossy(&listed.body).contains(&one.access_token));
    for _ in 0..2 {
        assert_eq!(
            Raw::new(&scene.queue, "DELETE", id)
                .signed(&root)
                .send(&scene.queue)
                .await
                .status,
            204
        );
    }
    assert_eq!(pending(&scene, &one).await, 401);
    assert_eq!(pending(&scene, &issued).await, 401);
}

#[tokio::test]
async fn a_client_ends_when_it_expires() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let past = chrono::Utc::now() - chrono::TimeDelta::minutes(1);
    let definition = json!({ "description": "", "expires": past, "scopes": ["a"] });
    let token = make_client(&scene, &root, "gone", &definition).await.json()["accessToken"]
        .as_str()
        .unwrap()
        .to_owned();
    let answer = private(&scene)
        .signed(&Credentials::new("gone", token))
        .send(&scene.queue)
        .await;
    assert_eq!((answer.status, answer.message().contains("expired")), (401, true));
    // It is there for whoever looks, unless it was to go then.
    let listed = async || {
        let list = Raw::new(&scene.queue, "GET", "/api/auth/v1/clients/").signed(&root);
        let clients = list.send(&scene.queue).await.json()["clients"].take();
        let clients = clients.as_array().unwrap().iter();
        clients
            .map(|client| client["clientId"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed().await, ["gone"]);
    let definition =
        json!({ "description": "", "expires": past, "scopes": ["a"], "deleteOnExpiration": true });
    make_client(&scene, &root, "quite/gone", &definition).await;
    assert_eq!(listed().await, ["gone"]);
    let definition = json!({ "description": "", "expires": in_an_hour(), "scopes": ["a"] });
    assert_eq!(
        make_client(&scene, &root, "quite/gone", &definition).await.status,
        200,
        "the name is free again"
    );
    assert_eq!(listed().await, ["gone", "quite/gone"]);
}

#[tokio::test]
async fn a_request_under_another_name_is_refused() {
    let scene = Scene::new().await;
    let port = address(&scene.queue).port();
    let ping = |host: String| Raw {
        host,
        ..Raw::new(&scene.queue, "GET", format!("{API}/ping"))
    };
    for host in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        "localhost".to_owned(),
    ] {
        assert_eq!(ping(host.clone()).send(&scene.queue).await.status, 200, "{host}");
    }
    for host in [
        "evil.example.com",
        "127.0.0.1.evil.example.com",
        "169.254.169.254",
    ] {
        let answer = ping(format!("{host}:{port}")).send(&scene.queue).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(
            answer.message().contains(scene.queue.root_url()),
            "{}",
            answer.message()
        );
    }
    let raw = async |bytes: &str| {
        let answer = exchange(address(&scene.queue), bytes.as_bytes()).await;
        Answer::parse(&answer).map(|answer| answer.status)
    };
    for bytes in [
        format!("GET {API}/ping HTTP/1.1\r\nConnection: close\r\n\r\n"),
        format!("GET {API}/ping HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n"),
        format!("GET http://evil{API}/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    ] {
        assert_eq!(raw(&bytes).await, Ok(400), "{bytes}");
    }
}

#[tokio::test]
async fn only_loopback_is_served_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let open = || EmbeddedConfig {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..EmbeddedConfig::new(directory.path().join("state"))
    };
    let root_url = || Some("https://queue.example.com".to_owned());
    let tls = || {
        Some(TlsFiles {
            certificate: "/nonexistent".into(),
            key: "/nonexistent".into(),
        })
    };
    for config in [
        open(),
        EmbeddedConfig {
            root_url: root_url(),
            ..open()
        },
        EmbeddedConfig { tls: tls(), ..open() },
        EmbeddedConfig {
            behind_proxy: true,
            ..open()
        },
    ] {
        let shown = format!("{config:?}");
        let error = EmbeddedQueue::start(config).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::NotLoopback(_)), "{shown}: {error}");
    }
}

/// Behind a proxy the signature is for the root URL, whatever the proxy calls the queue.
#[tokio::test]
async fn behind_a_proxy_the_root_url_counts() {
    let scene = Scene::with(|config| {
        config.root_url = Some("https://queue.example.com".to_owned());
        config.behind_proxy = true;
    })
    .await;
    let root = scene.queue.credentials();
    let mut request = Raw {
        host: "queue.example.com:443".to_owned(),
        ..Raw::new(&scene.queue, "GET", format!("{API}/pending/a/b"))
    }
    .signed(&root);
    request.host = "upstream".to_owned();
    assert_eq!(request.send(&scene.queue).await.status, 200);
    let direct = Raw::new(&scene.queue, "GET", format!("{API}/pending/a/b")).signed(&root);
    assert_eq!(direct.send(&scene.queue).await.status, 401);
}

#[tokio::test]
async fn upload_urls_are_for_one_method_one_object_and_a_while() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let mut urls = Vec::new();
    for _ in 0..2 {
        let id = scene.create().await;
        scene.claim().await;
        let body = json!({ "storageType": "s3", "contentType": "text/plain", "expires": in_an_hour() });
        let path = format!("{API}/task/{id}/runs/0/artifacts/public%2F..%2F..%2Fescape");
        let made = Raw::new(&scene.queue, "POST", path)
            .json(&body)
            .signed(&root)
            .send(&scene.queue)
            .await;
        let url = made.json()["putUrl"]
            .as_str()
            .unwrap_or_else(|| panic!("{made:?}"))
            .to_owned();
        urls.push(url.strip_prefix(scene.queue.root_url()).unwrap().to_owned());
    }
    let put = async |target: &str, method: &str| {
        let mut raw = Raw::new(&scene.queue, method, target);
        raw.body = b"content".to_vec();
        raw.send(&scene.queue).await.status
    };
    let (url, other) = (&urls[0], &urls[1]);
    assert_eq!(put(url, "PUT").await, 200);
    let (path, query) = url.split_once('?').unwrap();
    let (other_path, _) = other.split_once('?').unwrap();
    let field = |name: &str| {
        let mut fields = query.split('&');
        fields
            .find_map(|field| field.strip_prefix(&format!("{name}=")))
            .unwrap()
            .to_owned()
    };
    let (expires, signature) = (field("expires"), field("signature"));
    let later = expires.parse::<u64>().unwrap() + 1;
    for target in [
        format!("{other_path}?{query}"),
        format!("{path}x?{query}"),
        format!("{path}?expires={later}&signature={signature}"),
        format!("{path}?expires={expires}"),
        format!("{path}?expires={expires}&signature="),
        format!("{path}?expires=0&signature={signature}"),
        format!("{path}?expires=-1&signature={signature}"),
        format!("{path}?expires=99999999999999999999&signature={signature}"),
        format!("{path}?expires={expires}&signature={}", signature.to_lowercase()),
        format!("{path}?expires={expires}&signature={signature}x"),
        path.to_owned(),
        path.replace("%2F..", ""),
    ] {
        assert_eq!(put(&target, "PUT").await, 403, "{target}");
    }
    assert_eq!(put(url, "GET").await, 403, "a URL to write is none to read");
    assert_eq!(put(url, "DELETE").await, 405);
    assert_eq!(put(url, "OPTIONS").await, 405);
    for target in [
        "/storage/",
        "/storage/../queue.sqlite",
        "/storage/%2e%2e/%2e%2e/credentials.json",
        "/storage/a/b/c",
        "/storage/a/0/%00",
        "/storage/a/0/%ff",
    ] {
        let status = put(target, "PUT").await;
        assert!(status == 403 || status == 404, "{target}: {status}");
    }
    // What was stored has a name of the queue's own.
    let state = scene.directory.path().join("state");
    let objects: Vec<_> = std::fs::read_dir(state.join("storage/objects"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(objects.len(), 1);
    assert!(!scene.directory.path().join("escape").exists() && !state.join("escape").exists());
}

#[tokio::test]
async fn lengths_are_not_believed_and_bodies_are_bounded() {
    let scene = Scene::with(|config| {
        config.limits.body = Duration::from_millis(300);
        config.limits.stall = Duration::from_millis(300);
        config.max_artifact_size = 1 << 20;
    })
    .await;
    let root = scene.queue.credentials();
    let post = || {
        Raw::new(&scene.queue, "POST", format!("{API}/tasks/status"))
            .header("Content-Type", "application/json")
    };
    let send = async |request: Raw| request.send(&scene.queue).await;
    // Without credentials, little is read; with them, no more than any call needs.
    let mut large = post();
    large.body = vec![b' '; 65 << 10];
    let refused = send(large.clone()).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "InputTooLarge"));
    assert_eq!(
        send(large.clone().signed(&Credentials::new("nobody", "x")))
            .await
            .status,
        401
    );
    large
        .body
        .splice(.., b"{}".iter().copied().chain(vec![b' '; 65 << 10]));
    assert_eq!(send(large.signed(&root)).await.status, 200);
    // A body that does not come.
    let mut short = post().header("Content-Length", "5");
    short.body = b"{".to_vec();
    assert_eq!(send(short).await.status, 408);
    // Chunks are as good as a length, and bad ones are not.
    let mut chunked = post().header("Transfer-Encoding", "chunked");
    chunked.body = b"2\r\n{}\r\n0\r\n\r\n".to_vec();
    assert_eq!(send(chunked.clone()).await.status, 200);
    chunked.body = b"zz\r\n{}\r\n".to_vec();
    assert_eq!(send(chunked).await.status, 400);
    // Two lengths, or a length and chunks: how much is the body's cannot be told, so the connection is not used again.
    for bytes in [
        format!(
            "POST {API}/tasks/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"
        ),
        format!("POST {API}/tasks/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n\r\n{{}}"),
    ] {
        let answer = Answer::parse(&exchange(address(&scene.queue), bytes.as_bytes()).await).unwrap();
        assert_eq!(answer.status, 400, "{bytes}");
    }
    // Uploads: what was promised, all of it, and no more than allowed.
    let id = scene.create().await;
    scene.claim().await;
    let body = json!({ "storageType": "s3", "contentType": "text/plain", "expires": in_an_hour() });
    let path = format!("{API}/task/{id}/runs/0/artifacts/public%2Fa");
    let made = Raw::new(&scene.queue, "POST", path)
        .json(&body)
        .signed(&root)
        .send(&scene.queue)
        .await;
    let url = made.json()["putUrl"].as_str().unwrap().to_owned();
    let target = url.strip_prefix(scene.queue.root_url()).unwrap();
    for (length, sent, status) in [
        ("9", 5, 400),
        ("300000", 299_999, 400),
        ("1048577", 1, 413),
        ("18446744073709551615", 1, 431),
    ] {
        let mut put = Raw::new(&scene.queue, "PUT", target).header("Content-Length", length);
        put.body = vec![b'x'; sent];
        assert_eq!(send(put).await.status, status, "{length} for {sent}");
    }
    let mut put = Raw::new(&scene.queue, "PUT", target).header("Transfer-Encoding", "chunked");
    put.body = b"1\r\nx\r\n0\r\n\r\n".to_vec();
    assert_eq!(send(put).await.status, 411);
    let incoming = scene.directory.path().join("state/storage/incoming");
    assert_eq!(
        std::fs::read_dir(incoming).unwrap().count(),
        0,
        "nothing is left of uploads that broke off"
    );
}

/// Slow clients are let go, and hold up nobody: with both places taken, the next one is served all the same.
#[tokio::test]
async fn silent_connections_are_closed_and_their_number_is_bounded() {
    let scene = Scene::with(|config| {
        config.limits.connections = 2;
        config.limits.head = Duration::from_millis(300);
    })
    .await;
    let to = address(&scene.queue);
    let mut slow = Vec::new();
    for beginning in ["", "GET / HTTP/1.1\r\nHost: loc"] {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // Its place is one of theirs, which the time-out takes from them.
    let ping = Raw::new(&scene.queue, "GET", format!("{API}/ping"));
    assert_eq!(ping.send(&scene.queue).await.status, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        // Reset or ended: closed.
        let closed = tokio::time::timeout(BOUND, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a silent connection is closed");
    }
    let mut large = Raw::new(&scene.queue, "GET", format!("{API}/ping"));
    large = large.header("X-Large", "x".repeat(256 << 10));
    assert_eq!(large.send(&scene.queue).await.status, 431);
    let mut many = Raw::new(&scene.queue, "GET", format!("{API}/ping"));
    for n in 0..200 {
        many = many.header(&format!("X-{n}"), "x");
    }
    assert_eq!(many.send(&scene.queue).await.status, 431);
}

#[tokio::test]
async fn methods_and_paths_that_are_none_are_said_to_be() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    for (method, target, status) in [
        ("HEAD", format!("{API}/task/{id}"), 200),
        ("OPTIONS", format!("{API}/task/{id}"), 404),
        ("TRACE", format!("{API}/task/{id}"), 404),
        ("PATCH", format!("{API}/task/{id}"), 404),
        ("NONSENSE", format!("{API}/task/{id}"), 404),
        ("GET", format!("{API}/../../{API}/ping"), 404),
        ("GET", format!("{API}//ping"), 404),
        ("GET", format!("{API}/task/{id}/artifacts/%2e%2e%2f%2e%2e"), 403),
        ("GET", format!("{API}/task/{id}/artifacts/public%2F%00"), 400),
        ("GET", format!("{API}/task/{id}/artifacts/public%2F%ff"), 400),
        ("GET", format!("{API}/task/{id}/artifacts/%"), 403),
        ("GET", format!("{API}/task/%2e%2e"), 400),
        ("GET", "/api/secrets/v1/secret/x".to_owned(), 404),
    ] {
        let answer = Raw::new(&scene.queue, method, target.clone())
            .send(&scene.queue)
            .await;
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.message());
    }
}
