//! What the host offers a library for the worker's whole life, against a small server.

use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path as Segment;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use tcw_abi::services::{
    CacheRequest, ErrorReport, FetchRequest, FetchSource, Fetched, HttpHead, HttpRequest, LeaseRequest,
    Services, StopMode, WorkerInfo,
};
use tcw_abi::{ErrorKind, Result, async_trait};
use tcw_host::queue::Credentials;
use tcw_host::services::worker::{LeaseStore, WorkerControl, WorkerServices, WorkerServicesConfig};
use tokio::sync::Notify;

/// Notes what the worker is asked.
#[derive(Default)]
struct Asked(Mutex<Vec<String>>);

impl Asked {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

#[async_trait]
impl LeaseStore for Asked {
    async fn record(&self, library: &str, _: &str, request: LeaseRequest) -> Result<String> {
        self.note(format!("{library} leases {}", request.data));
        Ok("lease-1".to_owned())
    }

    async fn release(&self, id: &str) -> Result<()> {
        self.note(format!("release {id}"));
        Ok(())
    }
}

#[async_trait]
impl WorkerControl for Asked {
    async fn stop(&self, library: &str, mode: StopMode, reason: String) -> Result<()> {
        self.note(format!("{library} stops {mode:?}: {reason}"));
        Ok(())
    }

    async fn pause(&self, library: &str, reason: String) -> Result<()> {
        self.note(format!("{library} pauses: {reason}"));
        Ok(())
    }

    async fn resume(&self, library: &str) -> Result<()> {
        self.note(format!("{library} resumes"));
        Ok(())
    }

    async fn report_error(&self, library: &str, report: ErrorReport) -> Result<()> {
        self.note(format!("{library} reports {}", report.title));
        Ok(())
    }
}

struct Bench {
    services: Arc<dyn Services>,
    asked: Arc<Asked>,
    state: tempfile::TempDir,
}

fn bench(root_url: &str) -> Bench {
    let state = tempfile::tempdir().unwrap();
    let asked = Arc::new(Asked::default());
    let services = open(state.path(), root_url, &asked);
    Bench {
        services,
        asked,
        state,
    }
}

fn open(state: &Path, root_url: &str, asked: &Arc<Asked>) -> Arc<dyn Services> {
    shared(state, root_url, asked).for_library("vendor/lib")
}

fn shared(state: &Path, root_url: &str, asked: &Arc<Asked>) -> Arc<WorkerServices> {
    WorkerServices::new(WorkerServicesConfig {
        worker: WorkerInfo {
            root_url: root_url.to_owned(),
            ..WorkerInfo::default()
        },
        state: state.to_owned(),
        credentials: Arc::new(|| Some(Credentials::new("worker", "not-to-be-seen"))),
        leases: Arc::clone(asked) as _,
        control: Arc::clone(asked) as _,
    })
    .unwrap()
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn request(source: FetchSource) -> FetchRequest {
    FetchRequest { source, sha256: None }
}

fn url(url: String) -> FetchRequest {
    request(FetchSource::Url { url })
}

fn text(fetched: Fetched) -> String {
    let mut text = String::new();
    fetched.content.into_file().read_to_string(&mut text).unwrap();
    assert_eq!(fetched.info.length, text.len() as u64);
    let hash: String = Sha256::digest(&text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(fetched.info.sha256, hash);
    text
}

#[tokio::test]
async fn those_who_ask_at_one_time_share_one_download() {
    let served = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Notify::new());
    let handler = {
        let (served, gate) = (Arc::clone(&served), Arc::clone(&gate));
        move || async move {
            served.fetch_add(1, Ordering::SeqCst);
            gate.notified().await;
            "content"
        }
    };
    let root = serve(Router::new().route("/slow", get(handler))).await;
    let bench = bench(&root);
    let many = (0..8).map(|_| bench.services.fetch(url(format!("{root}/slow"))));
    let fetched = async {
        let all = futures_util::future::join_all(many).await;
        all.into_iter().map(|one| text(one.unwrap())).collect::<Vec<_>>()
    };
    let open = async {
        // Everybody has asked when the first request is being served: they are polled in turn before it can be.
        while served.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
    };
    let (fetched, ()) = tokio::join!(fetched, open);
    assert_eq!(fetched, ["content"; 8]);
    assert_eq!(served.load(Ordering::SeqCst), 1);
    // Nothing is left of it but what they hold.
    assert_eq!(
        std::fs::read_dir(bench.state.path().join("tmp")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let router = Router::new().route(
        "/{what}",
        get(move |Segment(what): Segment<String>| async move {
            let nth = count.fetch_add(1, Ordering::SeqCst);
            match (what.as_str(), nth) {
                ("flaky", 0) => StatusCode::BAD_GATEWAY.into_response(),
                // Ends before it should.
                ("flaky", 1) => {
                    let pieces = vec![Ok(Bytes::from("con")), Err(std::io::Error::other("cut"))];
                    Body::from_stream(futures_util::stream::iter(pieces)).into_response()
                }
                ("flaky", _) => "content".into_response(),
                ("secret", _) => StatusCode::FORBIDDEN.into_response(),
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        }),
    );
    let root = serve(router).await;
    let bench = bench(&root);
    let fetched = bench.services.fetch(url(format!("{root}/flaky"))).await.unwrap();
    assert_eq!(text(fetched), "content");
    assert_eq!(served.swap(0, Ordering::SeqCst), 3);
    for (path, kind) in [
        ("secret", ErrorKind::MalformedPayload),
        ("none", ErrorKind::ResourceNotFound),
    ] {
        let error = bench
            .services
            .fetch(url(format!("{root}/{path}")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(served.swap(0, Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn content_is_checked_and_may_be_given_as_it_is() {
    let bench = bench("http://localhost:1");
    let raw = |text: &str| FetchSource::Raw {
        text: text.to_owned(),
    };
    assert_eq!(
        text(bench.services.fetch(request(raw("abc"))).await.unwrap()),
        "abc"
    );
    let base64 = |text: &str| FetchSource::Base64 {
        text: text.to_owned(),
    };
    assert_eq!(
        text(bench.services.fetch(request(base64("YWJj"))).await.unwrap()),
        "abc"
    );
    let error = bench.services.fetch(request(base64("%"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MalformedPayload);

    let hash = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
    let wanted = |text: &str| FetchRequest {
        source: raw(text),
        sha256: Some(hash.to_owned()),
    };
    assert_eq!(text(bench.services.fetch(wanted("abc")).await.unwrap()), "abc");
    let error = bench.services.fetch(wanted("abd")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    let error = bench
        .services
        .fetch(url("file:///etc/passwd".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MalformedPayload);
}

#[tokio::test]
async fn artifacts_are_found_through_the_queue_and_the_index_and_signatures_stay_there() {
    let router =
        Router::new()
            .route(
                "/api/index/v1/task/{namespace}",
                get(|Segment(namespace): Segment<String>| async move {
                    format!(r#"{{"taskId": "of-{namespace}"}}"#)
                }),
            )
            .route(
                "/api/queue/v1/task/{task}/artifacts/{name}",
                get(
                    |Segment((task, name)): Segment<(String, String)>, headers: HeaderMap| async move {
                        let signed = headers["authorization"]
                            .to_str()
                            .unwrap()
                            .starts_with("Hawk id=\"worker\"");
                        let location = format!("/storage/{task}?{name}&{signed}");
                        let root = format!("http://{}", headers["host"].to_str().unwrap());
                        (StatusCode::SEE_OTHER, [("location", format!("{root}{location}"))])
                    },
                ),
            )
            .route(
                "/storage/{task}",
                get(|uri: axum::http::Uri, headers: HeaderMap| async move {
                    format!("{uri} {}", headers.contains_key("authorization"))
                }),
            );
    let root = serve(router).await;
    let bench = bench(&root);
    let source = FetchSource::Artifact {
        task_id: "abc".to_owned(),
        artifact: "public/x".to_owned(),
    };
    let fetched = bench.services.fetch(request(source)).await.unwrap();
    assert_eq!(text(fetched), "/storage/abc?public/x&true false");
    let source = FetchSource::Index {
        namespace: "a.b.latest".to_owned(),
        artifact: "public/x".to_owned(),
    };
    let fetched = bench.services.fetch(request(source)).await.unwrap();
    assert_eq!(text(fetched), "/storage/of-a.b.latest?public/x&true false");
}

#[tokio::test]
async fn what_may_be_secret_in_a_url_is_in_no_message() {
    let root = serve(Router::new().route("/found", get(|| async { "content" }))).await;
    let bench = bench(&root);
    let with_user = root.replace("http://", "http://user-hush:word-hush@");
    let mismatch = FetchRequest {
        sha256: Some("00".repeat(32)),
        ..url(format!("{with_user}/found?sig=hush#hush"))
    };
    for (request, names) in [
        (
            url(format!("{with_user}/none?sig=hush#hush")),
            format!("{root}/none"),
        ),
        (mismatch, format!("{root}/found")),
        (
            url("ftp://user-hush:hush@host/path?hush".to_owned()),
            "ftp://host/path".to_owned(),
        ),
        (url("data:hush".to_owned()), "data:".to_owned()),
        (
            url("http://user-hush:hush@host:port/?hush".to_owned()),
            "not one".to_owned(),
        ),
    ] {
        let error = bench.services.fetch(request).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        assert!(error.message().contains(&names), "{error}");
    }
    // A server that does not answer, to a library's own request.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let head = HttpHead {
        method: "GET".to_owned(),
        url: format!("http://user-hush:hush@{silent}/path?hush#hush"),
        timeout_ms: Some(100),
        ..HttpHead::default()
    };
    let error = bench
        .services
        .http(HttpRequest { head, body: None })
        .await
        .unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    assert!(
        error.message().contains(&format!("GET http://{silent}/path")),
        "{error}"
    );
}

#[tokio::test]
async fn requests_have_a_length_and_are_signed_only_if_asked() {
    let router = Router::new().route(
        "/echo",
        post(|headers: HeaderMap, body: Bytes| async move {
            let length = headers["content-length"].to_str().unwrap().to_owned();
            let signed = headers.contains_key("authorization");
            (
                StatusCode::IM_A_TEAPOT,
                [("x-signed", signed.to_string())],
                [length.as_bytes(), b" ", &body].concat(),
            )
        }),
    );
    let root = serve(router).await;
    let bench = bench(&root);
    for sign in [false, true] {
        let mut body = tempfile::tempfile().unwrap();
        body.write_all(b"0123456789").unwrap();
        body.seek(std::io::SeekFrom::Start(4)).unwrap();
        let head = HttpHead {
            method: "POST".to_owned(),
            url: format!("{root}/echo"),
            sign,
            ..HttpHead::default()
        };
        let response = bench
            .services
            .http(HttpRequest {
                head,
                body: Some(body.into()),
            })
            .await
            .unwrap();
        assert_eq!(response.head.status, 418);
        assert_eq!(response.head.headers["x-signed"], sign.to_string());
        let mut answer = String::new();
        response.body.into_file().read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "6 456789");
    }
    let head = HttpHead {
        method: "GET".to_owned(),
        url: "http://127.0.0.1:1/x?secret=1".to_owned(),
        ..HttpHead::default()
    };
    let error = bench
        .services
        .http(HttpRequest { head, body: None })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceUnavailable);
    assert!(!error.message().contains("secret"), "{error}");
}

#[tokio::test]
async fn folders_are_private_removed_once_and_swept_at_the_next_start() {
    let bench = bench("http://localhost:1");
    let folder = bench.services.temporary_folder().await.unwrap();
    let path = folder.description().path;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o700
    );
    folder.dispose().await.unwrap();
    assert!(!Path::new(&path).exists());
    assert_eq!(
        folder.dispose().await.unwrap_err().kind(),
        ErrorKind::ContractViolation
    );

    let left = bench.state.path().join("tmp").join("left");
    std::fs::create_dir(&left).unwrap();
    let kept = bench.services.state_directory().await.unwrap();
    assert!(kept.ends_with("library-state/vendor_lib"), "{kept}");
    std::fs::write(Path::new(&kept).join("file"), "x").unwrap();
    let again = open(bench.state.path(), "http://localhost:1", &bench.asked);
    assert!(!left.exists());
    let kept = again.state_directory().await.unwrap();
    assert!(Path::new(&kept).join("file").exists());
}

#[tokio::test]
async fn the_worker_learns_who_asks() {
    let bench = bench("http://localhost:1");
    assert_eq!(bench.services.worker().library, "vendor/lib");
    let lease = LeaseRequest {
        schema_version: 1,
        data: serde_json::json!({"user": "task_1"}),
    };
    let lease = bench.services.lease(lease).await.unwrap();
    assert_eq!(lease.description().id, "lease-1");
    lease.release().await.unwrap();
    bench.services.pause("hot".to_owned()).await.unwrap();
    bench.services.resume().await.unwrap();
    bench
        .services
        .stop(StopMode::Graceful, "old".to_owned())
        .await
        .unwrap();
    let report = ErrorReport {
        title: "odd".to_owned(),
        ..ErrorReport::default()
    };
    bench.services.report_error(report).await.unwrap();
    assert_eq!(
        *bench.asked.0.lock().unwrap(),
        [
            r#"vendor/lib leases {"user":"task_1"}"#,
            "release lease-1",
            "vendor/lib pauses: hot",
            "vendor/lib resumes",
            "vendor/lib stops Graceful: old",
            "vendor/lib reports odd",
        ]
    );
    let cache = bench.services.cache(CacheRequest::default()).await;
    assert_eq!(
        cache.err().map(|error| error.kind()),
        Some(ErrorKind::FeatureNotSupported)
    );
    let hook = bench.services.attach_webhook(String::new()).await;
    assert_eq!(
        hook.err().map(|error| error.kind()),
        Some(ErrorKind::FeatureNotSupported)
    );
}

#[tokio::test]
async fn requests_in_the_workers_name_are_signed_by_the_queues_clock() {
    let router = Router::new().route(
        "/api/{*rest}",
        get(|headers: axum::http::HeaderMap| async move {
            headers[axum::http::header::AUTHORIZATION]
                .to_str()
                .unwrap()
                .to_owned()
        }),
    );
    let root = serve(router).await;
    let state = tempfile::tempdir().unwrap();
    let shared = shared(state.path(), &root, &Arc::default());
    let ahead = std::time::Duration::from_secs(3600);
    shared.follow_clock(Arc::new(move || std::time::SystemTime::now() + ahead));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    // Fresh copies of the libraries have the same clock.
    let renewed = shared.renewed(Arc::new(Asked::default())).unwrap();
    for services in [shared, renewed] {
        let artifact = FetchSource::Artifact {
            task_id: "V1nBzC7kTu6h0wE8kU9sUg".to_owned(),
            artifact: "public/a".to_owned(),
        };
        let fetched = services.for_library("vendor/lib").fetch(request(artifact)).await;
        let header = text(fetched.unwrap());
        let (_, time) = header.split_once("ts=\"").unwrap();
        let time: u64 = time.split('"').next().unwrap().parse().unwrap();
        assert!((3590..=3660).contains(&(time - now.as_secs())), "{header}");
    }
}
