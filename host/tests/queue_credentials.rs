//! Who may do what in the embedded queue, through the client that the worker uses.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::time::Duration;

use queue_support::caller::Caller;
use queue_support::{Scene, client, fetch, in_an_hour, put};
use reqwest::Method;
use serde_json::{Value, json};
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

/// Groups, priorities, workers, counts: each call needs just the scopes that the reference says.
#[tokio::test]
async fn calls_about_groups_and_workers_need_their_scopes() {
    let scene = Scene::with(|config| config.poll_timeout = Duration::from_millis(1)).await;
    let caller = scene.caller();
    scene.create().await;
    scene.claim().await;
    let id = scene.create_with(|task| task["schedulerId"] = json!("s")).await;
    caller
        .post(&format!("/task-group/{id}/seal"), Value::Null)
        .await
        .ok();
    let worker_path = "/provisioners/proj-test/worker-types/linux";
    let priority = json!({ "newPriority": "low" });
    let expires = json!({ "expires": in_an_hour() });
    let quarantine = json!({ "quarantineUntil": chrono::Utc::now() });
    let name = json!({ "workerGroup": "g", "workerId": "w" });
    let (get, post, put) = (|| Method::GET, || Method::POST, || Method::PUT);
    let no = || Value::Null;
    // What anybody may do stands without scopes.
    let cases: Vec<(Method, String, Value, Vec<String>)> = vec![
        (get(), format!("/task-group/{id}"), no(), vec![]),
        (get(), format!("/task-group/{id}/list"), no(), vec![]),
        (get(), format!("/task/{id}/dependents"), no(), vec![]),
        (get(), "/pending/proj-test%2Flinux".to_owned(), no(), vec![]),
        (
            get(),
            "/task-queues/proj-test%2Flinux/counts".to_owned(),
            no(),
            vec!["queue:claimed-count:proj-test/linux".to_owned()],
        ),
        (
            get(),
            "/task-queues/proj-test%2Flinux/pending".to_owned(),
            no(),
            vec!["queue:pending-list:proj-test/linux".to_owned()],
        ),
        (
            get(),
            "/task-queues/proj-test%2Flinux/claimed".to_owned(),
            no(),
            vec!["queue:claimed-list:proj-test/linux".to_owned()],
        ),
        (
            get(),
            "/task-queues".to_owned(),
            no(),
            vec!["queue:list-task-queues".to_owned()],
        ),
        (
            get(),
            "/task-queues/proj-test%2Flinux".to_owned(),
            no(),
            vec!["queue:get-task-queue:proj-test/linux".to_owned()],
        ),
        (
            get(),
            "/provisioners".to_owned(),
            no(),
            vec!["queue:list-provisioners".to_owned()],
        ),
        (
            get(),
            "/provisioners/proj-test".to_owned(),
            no(),
            vec!["queue:get-provisioner:proj-test".to_owned()],
        ),
        (
            get(),
            "/provisioners/proj-test/worker-types".to_owned(),
            no(),
            vec!["queue:list-worker-types:proj-test".to_owned()],
        ),
        (
            get(),
            worker_path.to_owned(),
            no(),
            vec!["queue:get-worker-type:proj-test/linux".to_owned()],
        ),
        (
            get(),
            format!("{worker_path}/workers"),
            no(),
            vec!["queue:list-workers:proj-test/linux".to_owned()],
        ),
        (
            get(),
            format!("{worker_path}/workers/g/w"),
            no(),
            vec!["queue:get-worker:proj-test/linux/g/w".to_owned()],
        ),
        (
            put(),
            format!("{worker_path}/workers/g/w"),
            quarantine,
            vec!["queue:quarantine-worker:proj-test/linux/g/w".to_owned()],
        ),
        (
            put(),
            format!("{worker_path}/g/w"),
            expires,
            vec!["queue:declare-worker:proj-test/linux/g/w#expires".to_owned()],
        ),
        (
            post(),
            format!("/task/{id}/priority"),
            priority.clone(),
            vec![format!("queue:change-task-priority:{id}")],
        ),
        (
            post(),
            format!("/task/{id}/priority"),
            priority.clone(),
            vec!["queue:change-task-priority-in-queue:proj-test/linux".to_owned()],
        ),
        (
            post(),
            format!("/task-group/{id}/priority"),
            priority,
            vec![format!("queue:change-task-group-priority:s/{id}")],
        ),
        (
            post(),
            format!("/task-group/{id}/seal"),
            no(),
            vec![format!("queue:seal-task-group:s/{id}")],
        ),
        (
            post(),
            format!("/task/{id}/runs/0/claim"),
            name,
            vec![
                "queue:claim-task:proj-test/linux".to_owned(),
                "queue:worker-id:g/w".to_owned(),
            ],
        ),
        (
            post(),
            format!("/task-group/{id}/cancel"),
            no(),
            vec![format!("queue:cancel-task-group:s/{id}")],
        ),
    ];
    let with_scopes = |scopes: &[String]| {
        let root = taskcluster::Credentials::from(scene.queue.credentials());
        let issued = root.create_named_temp_creds("somebody", Duration::from_secs(600), scopes);
        caller.with(Some(issued.unwrap().into()))
    };
    let nobody = caller.with(None);
    for (method, path, body, scopes) in cases {
        let send = async |caller: &Caller| caller.send(method.clone(), &path, Some(body.clone())).await;
        for left_out in 0..scopes.len() {
            let mut fewer = scopes.clone();
            fewer[left_out] = "something:else".to_owned();
            let refused = send(&with_scopes(&fewer)).await;
            assert_eq!(refused.refused(), (403, "InsufficientScopes"), "{method} {path}");
            assert_eq!(send(&nobody).await.refused(), (403, "InsufficientScopes"));
        }
        let caller = if scopes.is_empty() {
            nobody.clone()
        } else {
            with_scopes(&scopes)
        };
        assert_eq!(send(&caller).await.status, 200, "{method} {path}");
    }
}
