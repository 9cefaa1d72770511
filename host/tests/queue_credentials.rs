//! Who may do what in the embedded queue, through the client that the worker uses.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::time::Duration;

use queue_support::{Scene, client, fetch, in_an_hour, put};
use serde_json::json;
use tcw_host::queue::{ArtifactRequest, Credentials, Queue as _, QueueError, RunId, TaskState};

#[tokio::test]
async fn wrong_credentials_and_missing_scopes_are_told_apart() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let root = scene.queue.credentials();
    let wrong = client(
        &scene.queue,
        Some(Credentials::new(root.client_id.clone(), "wrong")),
    );
    // Also where nobody needs any credentials.
    assert!(matches!(
        wrong.status(&id).await,
        Err(QueueError::Unauthorized { status: 401, .. })
    ));
    let anybody = client(&scene.queue, None);
    assert_eq!(anybody.status(&id).await.unwrap().task_id, id);
    anybody.ping().await.unwrap();
    assert!(matches!(
        anybody.cancel_task(&id).await,
        Err(QueueError::Unauthorized { status: 403, .. })
    ));
    assert!(matches!(
        anybody.claim_work(1).await,
        Err(QueueError::Unauthorized { status: 403, .. })
    ));
    let limited = taskcluster::Credentials::from(root)
        .create_named_temp_creds("somebody", Duration::from_secs(60), ["queue:claim-work:other/*"])
        .unwrap();
    let refused = client(&scene.queue, Some(limited.into()))
        .claim_work(1)
        .await
        .unwrap_err();
    let QueueError::Unauthorized { status, message, .. } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(status, 403);
    assert!(message.contains("queue:claim-work:proj-test/linux"), "{message}");
}

#[tokio::test]
async fn a_runs_credentials_are_for_that_run() {
    let scene = Scene::new().await;
    let (one, other) = (scene.create().await, scene.create().await);
    let claims = scene.client.claim_work(2).await.unwrap();
    let credentials = claims
        .iter()
        .find(|claim| claim.task_id() == &one)
        .unwrap()
        .credentials
        .clone();
    let intruder = scene.client.for_task(&other, RunId(0), credentials.clone());
    let link = ArtifactRequest::Link {
        artifact: "public/b".to_owned(),
        content_type: None,
        expires: in_an_hour(),
    };
    for outcome in [
        intruder.report_completed().await.map(drop),
        intruder.reclaim().await.map(drop),
        intruder.create_artifact("public/a", &link).await.map(drop),
        scene
            .client
            .for_task(&one, RunId(1), credentials.clone())
            .report_failed()
            .await
            .map(drop),
        client(&scene.queue, Some(credentials))
            .cancel_task(&one)
            .await
            .map(drop),
    ] {
        assert!(
            matches!(outcome, Err(QueueError::Unauthorized { status: 403, .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(
        scene.client.status(&other).await.unwrap().state,
        TaskState::Running
    );
}

#[tokio::test]
async fn a_changed_storage_url_is_refused() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    let put_url = put(&queue, "public/a", b"good").await;
    let http = reqwest::Client::new();
    for changed in [
        put_url.replace("public%2Fa", "public%2Fb"),
        put_url.replace("expires=1", "expires=2"),
        put_url.replace("signature=", "signature=A"),
        put_url.split("&signature").next().unwrap().to_owned(),
    ] {
        assert_ne!(changed, put_url);
        let answer = http.put(&changed).body("evil").send().await.unwrap();
        assert_eq!(answer.status(), 403, "{changed}");
    }
    assert_eq!(
        http.get(&put_url).send().await.unwrap().status(),
        403,
        "a URL is for one method"
    );
    let get_url = scene.client.latest_artifact_url(&id, "public/a").await.unwrap();
    assert_eq!(
        http.put(&get_url).body("evil").send().await.unwrap().status(),
        403
    );
    assert_eq!(fetch(&get_url).await.2, "good");
    let part = http
        .get(&get_url)
        .header("range", "bytes=1-2")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (part.status().as_u16(), part.text().await.unwrap()),
        (206, "oo".to_owned())
    );
    let head = http.head(&get_url).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "4");
}

#[tokio::test]
async fn any_request_can_be_signed_with_a_runs_credentials() {
    let scene = Scene::new().await;
    let id = scene
        .create_with(|task| task["scopes"] = json!(["queue:cancel-task-in-project:none"]))
        .await;
    let (_, queue) = scene.claim().await;
    let url = |path: &str| {
        format!("{}/api/queue/v1/task/{id}{path}", scene.queue.root_url())
            .parse()
            .unwrap()
    };
    let send = async |method, path: &str, scopes: Option<&[String]>| {
        let headers = reqwest::header::HeaderMap::new();
        queue
            .signed_request(method, url(path), headers, "".into(), scopes)
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(
        send(reqwest::Method::GET, "/artifacts?limit=5", None).await,
        200,
        "the query is signed too"
    );
    let nothing = ["queue:status:*".to_owned()];
    assert_eq!(send(reqwest::Method::POST, "/cancel", Some(&nothing)).await, 403);
    assert_eq!(
        send(reqwest::Method::POST, "/cancel", None).await,
        200,
        "the task's own scopes count"
    );
    // The credentials outlive the run's end, as they do on the real queue, for what it leaves behind.
    put(&queue, "public/log", b"x").await;
}
