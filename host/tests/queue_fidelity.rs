//! The embedded queue does what the real one was seen to do where its reference is silent: status by status.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use queue_support::{Scene, client, in_an_hour, task};
use reqwest::Method;
use serde_json::{Value, json};
use tcw_host::queue::{
    ArtifactErrorReason, ArtifactRequest, Credentials, ExceptionReason, Queue as _, QueueError, TaskId,
    TaskQueue,
};

/// Sends a request, signed if there are credentials, and answers status, code and body.
async fn send(
    scene: &Scene,
    credentials: Option<&Credentials>,
    method: Method,
    path: &str,
    content_type: &str,
    body: impl Into<reqwest::Body>,
) -> (u16, String, Value) {
    let url: reqwest::Url = format!("{}/api/queue/v1{path}", scene.queue.root_url())
        .parse()
        .unwrap();
    let mut request = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
        .request(method.clone(), url.clone())
        .header("content-type", content_type)
        .body(body);
    if let Some(credentials) = credentials {
        let key = hawk::Credentials {
            id: credentials.client_id.clone(),
            key: hawk::Key::new(&credentials.access_token, hawk::SHA256).unwrap(),
        };
        let signed = hawk::RequestBuilder::from_url(method.as_str(), &url)
            .unwrap()
            .request();
        request = request.header(
            "authorization",
            format!("Hawk {}", signed.make_header(&key).unwrap()),
        );
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned(), body)
}

#[tokio::test]
async fn malformed_requests_are_told_apart() {
    let scene = Scene::new().await;
    let root = scene.queue.credentials();
    let claim = json!({ "workerGroup": "g", "workerId": "w", "tasks": 33 }).to_string();
    let (json, text) = ("application/json", "text/plain");
    let id = TaskId::random();
    let task_path = format!("/task/{id}");
    let ahead = Utc::now() + TimeDelta::minutes(20);
    let definition = |key: &str, value: Value| {
        let mut task = task();
        task[key] = value;
        task.to_string()
    };
    for (method, path, content_type, body, status, code) in [
        (
            Method::GET,
            "/ping?nonsense=1",
            json,
            String::new(),
            400,
            "InvalidRequestArguments",
        ),
        (
            Method::GET,
            "/task/nonsense",
            json,
            String::new(),
            400,
            "InvalidRequestArguments",
        ),
        (
            Method::GET,
            "/nonsense",
            json,
            String::new(),
            404,
            "ResourceNotFound",
        ),
        (
            Method::POST,
            "/claim-work/p%2Fw",
            json,
            claim.clone(),
            400,
            "InputValidationError",
        ),
        (
            Method::POST,
            "/claim-work/p%2Fw",
            json,
            "{".to_owned(),
            400,
            "MalformedPayload",
        ),
        (
            Method::POST,
            "/claim-work/p%2Fw",
            text,
            claim,
            400,
            "MalformedPayload",
        ),
        (
            Method::PUT,
            &task_path,
            json,
            definition("created", json!(ahead)),
            400,
            "InputError",
        ),
        (
            Method::PUT,
            &task_path,
            json,
            definition("scopes", json!(["a**"])),
            400,
            "InputError",
        ),
        (
            Method::PUT,
            &task_path,
            json,
            definition("retries", json!(50)),
            400,
            "InputValidationError",
        ),
        (
            Method::PUT,
            &task_path,
            json,
            " ".repeat(11 << 20),
            413,
            "InputTooLarge",
        ),
    ] {
        let (found, found_code, answer) =
            send(&scene, Some(&root), method.clone(), path, content_type, body).await;
        assert_eq!(
            (found, found_code.as_str()),
            (status, code),
            "{method} {path}: {answer:#}"
        );
        assert!(
            answer["message"].is_string() && answer["requestInfo"]["time"].is_string(),
            "{answer:#}"
        );
    }
}

#[tokio::test]
async fn the_order_of_checks_is_the_same() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let unknown = TaskId::random();
    let wrong = Credentials::new(scene.queue.credentials().client_id, "wrong");
    let status = async |credentials: Option<&Credentials>, method: Method, path: String| {
        send(&scene, credentials, method, &path, "application/json", "")
            .await
            .0
    };
    assert_eq!(
        status(None, Method::POST, format!("/task/{unknown}/cancel")).await,
        404
    );
    assert_eq!(
        status(None, Method::POST, format!("/task/{unknown}/rerun")).await,
        404
    );
    assert_eq!(
        status(None, Method::POST, format!("/task/{unknown}/schedule")).await,
        404
    );
    assert_eq!(
        status(None, Method::POST, format!("/task/{unknown}/runs/0/reclaim")).await,
        403
    );
    assert_eq!(
        status(None, Method::POST, format!("/task/{unknown}/runs/0/completed")).await,
        403
    );
    assert_eq!(status(None, Method::GET, format!("/task/{id}/status")).await, 200);
    assert_eq!(
        status(Some(&wrong), Method::GET, format!("/task/{id}/status")).await,
        401
    );
    assert_eq!(
        status(Some(&wrong), Method::GET, "/ping".to_owned()).await,
        200,
        "ping checks nothing"
    );
}

fn reference(expires: chrono::DateTime<Utc>) -> ArtifactRequest {
    let url = "https://example.com".to_owned();
    ArtifactRequest::Reference {
        url,
        content_type: "a/b".to_owned(),
        expires,
    }
}

async fn refusal(queue: &Arc<dyn TaskQueue>, request: &ArtifactRequest) -> String {
    match queue.create_artifact("public/x", request).await {
        Err(QueueError::Invalid { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn artifacts_are_for_runs_that_were_claimed() {
    let scene = Scene::new().await;
    let (id, unknown) = (scene.create().await, TaskId::random());
    let root = scene.queue.credentials();
    let as_root = |task: &TaskId, run: u32| {
        scene
            .client
            .for_task(task, tcw_host::queue::RunId(run), root.clone())
    };
    assert_eq!(
        refusal(&as_root(&unknown, 0), &reference(in_an_hour())).await,
        "InputError"
    );
    assert_eq!(
        refusal(&as_root(&id, 0), &reference(in_an_hour())).await,
        "InputError",
        "still pending"
    );
    let (_, queue) = scene.claim().await;
    assert_eq!(
        refusal(&as_root(&id, 1), &reference(in_an_hour())).await,
        "InputError"
    );
    let after_the_task = Utc::now() + TimeDelta::days(400);
    assert_eq!(refusal(&queue, &reference(after_the_task)).await, "InputError");
    let long_ago = Utc::now() - TimeDelta::minutes(20);
    assert_eq!(refusal(&queue, &reference(long_ago)).await, "InputError");
}

#[tokio::test]
async fn an_expired_artifact_is_known_and_gone() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    queue
        .create_artifact("public/x", &reference(Utc::now() - TimeDelta::minutes(10)))
        .await
        .unwrap();
    let get = async |path: &str| {
        send(
            &scene,
            None,
            Method::GET,
            &format!("/task/{id}/{path}/public%2Fx"),
            "application/json",
            "",
        )
        .await
        .0
    };
    assert_eq!(
        (
            get("artifacts").await,
            get("artifact-content").await,
            get("artifact-info").await
        ),
        (410, 410, 200)
    );
}

#[tokio::test]
async fn an_error_artifact_answers_reason_and_message_only() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    let error = ArtifactRequest::Error {
        reason: ArtifactErrorReason::TooLargeFileOnWorker,
        message: "two\nlines".to_owned(),
        expires: in_an_hour(),
    };
    queue.create_artifact("public/x", &error).await.unwrap();
    let path = format!("/task/{id}/artifacts/public%2Fx");
    let (status, _, body) = send(&scene, None, Method::GET, &path, "application/json", "").await;
    assert_eq!(
        (status, body),
        (
            424,
            json!({ "reason": "too-large-file-on-worker", "message": "two\nlines" })
        )
    );
    let listed = scene.client.list_artifacts(&id, None).await.unwrap();
    assert_eq!(listed[0].content_type, "application/binary");
}

#[tokio::test]
async fn links_in_a_circle_end() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    for (name, to) in [
        ("public/a", "public/b"),
        ("public/b", "public/a"),
        ("public/c", "private/d"),
    ] {
        let link = ArtifactRequest::Link {
            artifact: to.to_owned(),
            content_type: None,
            expires: in_an_hour(),
        };
        queue.create_artifact(name, &link).await.unwrap();
    }
    let anybody = client(&scene.queue, None);
    let circle = anybody.latest_artifact_url(&id, "public/a").await;
    assert!(
        matches!(&circle, Err(QueueError::Invalid { code, .. }) if code == "InputError"),
        "{circle:?}"
    );
    let hidden = anybody.latest_artifact_url(&id, "public/c").await;
    assert!(
        matches!(hidden, Err(QueueError::Unauthorized { status: 403, .. })),
        "{hidden:?}"
    );
}

#[tokio::test]
async fn an_upload_without_a_length_is_refused() {
    let scene = Scene::new().await;
    scene.create().await;
    let (_, queue) = scene.claim().await;
    let request = ArtifactRequest::S3 {
        content_type: "a/b".to_owned(),
        content_length: None,
        expires: in_an_hour(),
    };
    let created = queue.create_artifact("public/x", &request).await.unwrap();
    let tcw_host::queue::ArtifactCreated::S3 { put_url, .. } = created else {
        panic!("{created:?}")
    };
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>("piece")]);
    let answer = reqwest::Client::new()
        .put(put_url)
        .body(reqwest::Body::wrap_stream(pieces))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 411);
}

#[tokio::test]
async fn latest_means_the_last_run_even_if_it_is_pending() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    queue
        .create_artifact("public/x", &reference(in_an_hour()))
        .await
        .unwrap();
    queue
        .report_exception(ExceptionReason::WorkerShutdown)
        .await
        .unwrap();
    assert_eq!(scene.client.list_artifacts(&id, None).await.unwrap(), []);
    assert_eq!(
        scene
            .client
            .list_artifacts(&id, Some(tcw_host::queue::RunId(0)))
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(matches!(
        scene.client.latest_artifact_url(&id, "public/x").await,
        Err(QueueError::NotFound { .. })
    ));

    // The next run is under way; what the first reported may be repeated, and nothing else.
    let (claim, _) = scene.claim().await;
    assert_eq!(claim.run_id.0, 1);
    queue
        .report_exception(ExceptionReason::WorkerShutdown)
        .await
        .unwrap();
    let other = queue.report_exception(ExceptionReason::InternalError).await;
    assert!(matches!(other, Err(QueueError::Conflict { .. })), "{other:?}");
    queue
        .create_artifact("public/late", &reference(in_an_hour()))
        .await
        .expect("for a while after an exception");
}

#[tokio::test]
async fn times_are_written_as_the_services_write_them() {
    let scene = Scene::new().await;
    scene.create().await;
    let root = scene.queue.credentials();
    let body = json!({ "workerGroup": "g", "workerId": "w" }).to_string();
    let path = "/claim-work/proj-test%2Flinux";
    let (status, _, answer) = send(&scene, Some(&root), Method::POST, path, "application/json", body).await;
    assert_eq!(
        (status, answer["tasks"].as_array().unwrap().len()),
        (200, 1),
        "one without being asked for a number"
    );
    let claim = &answer["tasks"][0];
    let (taken, run) = (claim["takenUntil"].as_str().unwrap(), &claim["status"]["runs"][0]);
    assert!(taken.ends_with("+00:00"), "{taken}");
    assert_eq!(run["takenUntil"].as_str().unwrap(), taken.replace("+00:00", "Z"));
    assert_eq!(
        run["takenUntil"].as_str().unwrap().len(),
        "2026-01-25T23:31:13.787Z".len()
    );
}
