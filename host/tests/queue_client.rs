//! The client against servers that fail in all the ways that servers do, and what its calls cost.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use queue_support::{Scene, in_an_hour, task};
use serde_json::json;
use tcw_host::queue::{
    ArtifactCreated, ArtifactRequest, ClientConfig, Credentials, ExceptionReason, Queue as _, QueueClient,
    QueueError, Reader, RetryPolicy, RunId, TaskId, TaskQueue, Upload, UploadBody, WorkerIdentity,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that gives one prepared answer to each request, in order, and keeps what it was sent. An empty answer
/// closes the connection.
struct Script {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Script {
    async fn new(answers: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, answers) = (Arc::clone(&requests), answers.to_vec());
        tokio::spawn(async move {
            for answer in answers {
                let (mut connection, _) = listener.accept().await.unwrap();
                let request = read_request(&mut connection).await;
                kept.lock().unwrap().push(request);
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, requests }
    }

    fn client(&self) -> QueueClient {
        let worker = WorkerIdentity {
            pool: "p/w".parse().unwrap(),
            group: "g".to_owned(),
            id: "w".to_owned(),
        };
        let retry = RetryPolicy {
            attempts: 3,
            first_pause: Duration::from_millis(1),
            ..RetryPolicy::default()
        };
        let credentials = Some(Credentials::new("me", "token"));
        let config = ClientConfig {
            retry,
            ..ClientConfig::new(self.url.clone(), credentials).with_worker(worker)
        };
        QueueClient::new(config).unwrap()
    }

    fn task_queue(&self) -> Arc<dyn TaskQueue> {
        self.client()
            .for_task(&TaskId::random(), RunId(0), Credentials::new("task", "token"))
    }

    /// The first lines of the requests so far, without the task's id.
    fn seen(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .map(|request| request.lines().next().unwrap_or_default().to_owned())
            .collect()
    }
}

/// Reads up to the end of the body, or of the connection.
async fn read_request(connection: &mut tokio::net::TcpStream) -> String {
    let mut received = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        let mut piece = [0; 4096];
        match connection.read(&mut piece).await {
            Ok(0) | Err(_) => return text,
            Ok(length) => received.extend_from_slice(&piece[..length]),
        }
    }
}

fn answer(status: &str, body: &serde_json::Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn failing(status: &str) -> String {
    answer(
        status,
        &json!({ "code": "Code", "message": "the words\n\n---\n\n* noise" }),
    )
}

fn status_of(id: &TaskId, reason: &str) -> serde_json::Value {
    let now = chrono::Utc::now();
    json!({ "status": {
        "taskId": id, "taskQueueId": "p/w", "state": "exception", "retriesLeft": 0, "deadline": now, "expires": now,
        "runs": [{ "runId": 0, "state": "exception", "reasonCreated": "scheduled", "reasonResolved": reason, "scheduled": now }],
    } })
}

#[tokio::test]
async fn what_may_get_better_is_tried_again_and_what_may_not_is_not() {
    let id = TaskId::random();
    let good = answer("200 OK", &status_of(&id, "canceled"));
    for (first, attempts) in [
        (String::new(), 2),
        (failing("500 Oh"), 2),
        (failing("503 Oh"), 2),
        (failing("429 Oh"), 2),
        (failing("400 Oh"), 1),
        (failing("401 Oh"), 1),
        (failing("403 Oh"), 1),
        (failing("404 Oh"), 1),
        (failing("409 Oh"), 1),
    ] {
        let server = Script::new(&[first.clone(), good.clone()]).await;
        let outcome = server.client().status(&id).await;
        assert_eq!(server.seen().len(), attempts, "{first:?}");
        assert_eq!(outcome.is_ok(), attempts == 2, "{outcome:?}");
    }
}

#[tokio::test]
async fn each_kind_of_failure_can_be_told_from_the_others() {
    let id = TaskId::random();
    let fail = async |status: &str| {
        let server = Script::new(&vec![failing(status); 3]).await;
        let error = server.client().status(&id).await.unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.contains("noise"), "{text}");
        assert!(
            text.contains(&format!("GET {}/api/queue/v1/task/{id}/status", server.url)),
            "{text}"
        );
        (error, server.seen().len())
    };
    assert!(
        matches!(fail("409 Oh").await, (QueueError::Conflict { message, .. }, 1) if message == "the words")
    );
    assert!(matches!(
        fail("401 Oh").await,
        (QueueError::Unauthorized { status: 401, .. }, 1)
    ));
    assert!(matches!(
        fail("403 Oh").await,
        (QueueError::Unauthorized { status: 403, .. }, 1)
    ));
    assert!(matches!(fail("404 Oh").await, (QueueError::NotFound { .. }, 1)));
    assert!(matches!(fail("400 Oh").await, (QueueError::Invalid { code, .. }, 1) if code == "Code"));
    assert!(matches!(
        fail("500 Oh").await,
        (QueueError::Unavailable { attempts: 3, .. }, 3)
    ));
    assert!(matches!(
        fail("429 Oh\r\nretry-after: 0").await,
        (QueueError::RateLimited { .. }, 3)
    ));
    assert!(matches!(
        fail("418 Oh").await,
        (QueueError::Protocol { status: 418, .. }, 1)
    ));
}

#[tokio::test]
async fn waiting_as_long_as_the_server_asks() {
    let id = TaskId::random();
    let busy = failing("429 Busy\r\nRetry-After: 1");
    let server = Script::new(&[busy, answer("200 OK", &status_of(&id, "canceled"))]).await;
    let started = Instant::now();
    server.client().status(&id).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_claim_is_never_tried_again() {
    for first in [String::new(), failing("500 Oh"), failing("429 Oh")] {
        let server = Script::new(&[first, answer("200 OK", &json!({ "tasks": [] }))]).await;
        server.client().claim_work(1).await.unwrap_err();
        assert_eq!(server.seen(), ["POST /api/queue/v1/claim-work/p%2Fw HTTP/1.1"]);
    }
}

#[tokio::test]
async fn a_report_whose_answer_got_lost_is_no_conflict() {
    let id = TaskId::random();
    for (resolved_as, fine) in [("worker-shutdown", true), ("canceled", false)] {
        let status = answer("200 OK", &status_of(&id, resolved_as));
        let server = Script::new(&[String::new(), failing("409 Oh"), status]).await;
        let outcome = server
            .task_queue()
            .report_exception(ExceptionReason::WorkerShutdown)
            .await;
        assert_eq!(outcome.is_ok(), fine, "{outcome:?}");
        assert_eq!(server.seen().len(), 3);
    }
}

#[tokio::test]
async fn secrets_stay_out_of_errors() {
    let server = Script::new(&[failing("403 Oh")]).await;
    let upload = Upload {
        put_url: format!("{}/bucket/key?signature=s3cr3t", server.url),
        content_type: "a/b".to_owned(),
        content_encoding: None,
        length: 0,
    };
    let error = server
        .task_queue()
        .upload(&upload, UploadBody::Bytes(Bytes::new()))
        .await
        .unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
    assert!(matches!(error, QueueError::Unauthorized { .. }));
}

/// A source of the given bytes, as something that is read piece by piece.
fn reader(bytes: &'static [u8]) -> Reader {
    Box::pin(bytes)
}

fn upload_to(server: &Script, length: u64) -> Upload {
    let put_url = format!("{}/key", server.url);
    Upload {
        put_url,
        content_type: "text/plain".to_owned(),
        content_encoding: Some("gzip".to_owned()),
        length,
    }
}

#[tokio::test]
async fn an_upload_sends_what_it_promised_and_says_what_it_is() {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, b"12345").unwrap();
    for body in [
        UploadBody::Bytes(Bytes::from_static(b"12345")),
        UploadBody::File(Arc::new(file)),
        UploadBody::Reopen(Box::new(|| Ok(reader(b"12345")))),
        UploadBody::Once(reader(b"12345")),
    ] {
        let server = Script::new(&[answer("200 OK", &json!({}))]).await;
        server
            .task_queue()
            .upload(&upload_to(&server, 5), body)
            .await
            .unwrap();
        let request = server.requests.lock().unwrap().concat();
        for part in [
            "PUT /key HTTP/1.1",
            "content-length: 5",
            "content-type: text/plain",
            "content-encoding: gzip",
            "\r\n\r\n12345",
        ] {
            assert!(request.contains(part), "{part} is missing from {request}");
        }
        assert!(!request.contains("authorization"), "the URL is signed already");
    }
}

#[tokio::test]
async fn a_source_of_another_length_is_never_a_success() {
    for (length, problem) in [(6, "ended after 5 of 6"), (4, "longer than the 4 bytes")] {
        let server = Script::new(&vec![answer("200 OK", &json!({})); 3]).await;
        let body = UploadBody::Reopen(Box::new(|| Ok(reader(b"12345"))));
        let error = server
            .task_queue()
            .upload(&upload_to(&server, length), body)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, QueueError::Content { message, .. } if message.contains(problem)),
            "{error:?}"
        );
    }
    let server = Script::new(&[]).await;
    let broken = UploadBody::Reopen(Box::new(|| Err(io::Error::other("gone"))));
    let error = server
        .task_queue()
        .upload(&upload_to(&server, 1), broken)
        .await
        .unwrap_err();
    assert!(matches!(error, QueueError::Content { .. }), "{error:?}");
}

#[tokio::test]
async fn an_upload_is_tried_again_if_it_can_be_read_again() {
    let answers = || [failing("500 Oh"), String::new(), answer("200 OK", &json!({}))];
    let server = Script::new(&answers()).await;
    let mut opened = 0;
    let body = UploadBody::Reopen(Box::new(move || {
        opened += 1;
        Ok(reader(if opened == 3 { b"third" } else { b"wrong" }))
    }));
    server
        .task_queue()
        .upload(&upload_to(&server, 5), body)
        .await
        .unwrap();
    assert!(server.requests.lock().unwrap()[2].ends_with("third"));

    let server = Script::new(&answers()).await;
    let error = server
        .task_queue()
        .upload(&upload_to(&server, 5), UploadBody::Once(reader(b"12345")))
        .await;
    assert!(
        matches!(error, Err(QueueError::Unavailable { attempts: 1, .. })),
        "{error:?}"
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_large_upload_arrives_whole() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    let content: Bytes = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let request = ArtifactRequest::S3 {
        content_type: "application/octet-stream".to_owned(),
        content_length: None,
        expires: in_an_hour(),
    };
    let ArtifactCreated::S3 {
        put_url,
        content_type,
        ..
    } = queue.create_artifact("public/a b", &request).await.unwrap()
    else {
        panic!("no URL to upload to")
    };
    let upload = Upload {
        put_url,
        content_type,
        content_encoding: None,
        length: content.len() as u64,
    };
    let source = content.clone();
    let body = UploadBody::Reopen(Box::new(move || {
        Ok(Box::pin(io::Cursor::new(source.clone())) as Pin<Box<_>>)
    }));
    queue.upload(&upload, body).await.unwrap();
    let url = scene.client.latest_artifact_url(&id, "public/a b").await.unwrap();
    let fetched = reqwest::get(url).await.unwrap().bytes().await.unwrap();
    assert!(fetched == content, "{} of {} bytes", fetched.len(), content.len());
}

/// Figures for the module comment of `queue::client` and the design's goals; run it with `--release`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures instead of checking anything"]
async fn what_calls_cost() {
    fn show(name: &str, count: u32, elapsed: Duration) {
        let each = elapsed / count;
        println!("{name}: {each:?} each, {:.0}/s", 1.0 / each.as_secs_f64());
    }
    let started = Instant::now();
    for _ in 0..20 {
        let credentials = taskcluster::Credentials::new("me", "token");
        drop(
            taskcluster::ClientBuilder::new("http://localhost")
                .credentials(credentials)
                .build()
                .unwrap(),
        );
    }
    show("taskcluster::Client::build", 20, started.elapsed());

    let scene = Arc::new(Scene::new().await);
    let task_count = 4000_u32;
    for lanes in [1_u32, 8] {
        let started = Instant::now();
        let each = task_count / lanes;
        let creating: Vec<_> = (0..lanes)
            .map(|_| {
                let scene = Arc::clone(&scene);
                tokio::spawn(async move {
                    for _ in 0..each {
                        scene
                            .client
                            .create_task(&TaskId::random(), &task())
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for one in creating {
            one.await.unwrap();
        }
        show(
            &format!("createTask, {lanes} at a time"),
            task_count,
            started.elapsed(),
        );
    }
    let started = Instant::now();
    for _ in 0..2000 {
        assert_eq!(scene.client.claim_work(1).await.unwrap().len(), 1);
    }
    show("claimWork of 1", 2000, started.elapsed());
    let started = Instant::now();
    for _ in 0..60 {
        assert_eq!(scene.client.claim_work(32).await.unwrap().len(), 32);
    }
    show("claimWork of 32, per task", 1920, started.elapsed());

    for lanes in [1_u32, 8] {
        let cycles = 2000 / lanes;
        let started = Instant::now();
        let working: Vec<_> = (0..lanes)
            .map(|_| {
                let scene = Arc::clone(&scene);
                tokio::spawn(async move {
                    for _ in 0..cycles {
                        cycle(&scene).await;
                    }
                })
            })
            .collect();
        for one in working {
            one.await.unwrap();
        }
        show(
            &format!("claim, 2 x createArtifact, upload, report; {lanes} at a time"),
            cycles * lanes,
            started.elapsed(),
        );
    }
}

async fn cycle(scene: &Scene) {
    let (_, queue) = scene.claim().await;
    let request = ArtifactRequest::S3 {
        content_type: "text/plain".to_owned(),
        content_length: Some(1000),
        expires: in_an_hour(),
    };
    let link = ArtifactRequest::Link {
        artifact: "public/a".to_owned(),
        content_type: None,
        expires: in_an_hour(),
    };
    let ArtifactCreated::S3 {
        put_url,
        content_type,
        ..
    } = queue.create_artifact("public/a", &request).await.unwrap()
    else {
        panic!("no URL to upload to")
    };
    let upload = Upload {
        put_url,
        content_type,
        content_encoding: None,
        length: 1000,
    };
    queue
        .upload(&upload, UploadBody::Bytes(Bytes::from(vec![b'x'; 1000])))
        .await
        .unwrap();
    queue.create_artifact("public/b", &link).await.unwrap();
    queue.report_completed().await.unwrap();
}

#[test]
fn a_client_that_cannot_work_says_so_at_once() {
    let message = |root_url: &str, certificate: Option<&str>| {
        let certificate = certificate.map(str::to_owned);
        let credentials = Credentials {
            certificate,
            ..Credentials::new("me", "token")
        };
        match QueueClient::new(ClientConfig::new(root_url, Some(credentials))) {
            Ok(client) => client.root_url().to_owned(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(message("https://tc.example.com/", None), "https://tc.example.com");
    assert!(message("tc.example.com", None).contains("is not a URL"));
    assert!(message("ftp://tc.example.com", None).contains("has to begin with https:// or http://"));
    let damaged = message("https://tc.example.com", Some("{ s3cr3t"));
    assert!(
        damaged.contains("the certificate of client \"me\" is not JSON") && !damaged.contains("s3cr3t"),
        "{damaged}"
    );
}
