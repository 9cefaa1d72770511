//! The embedded queue over real HTTP, through the client that the worker uses.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use queue_support::{BOUND, POOL, Scene, client, in_an_hour, run, task};
use serde_json::json;
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue, StartError};
use tcw_host::queue::{
    ArtifactCreated, ArtifactErrorReason, ArtifactRequest, Credentials, ExceptionReason, Queue as _,
    QueueError, RunId, TaskId, TaskQueue, TaskState, Upload, UploadBody,
};
use tokio::time::timeout;

/// Creates an artifact with content and answers its upload URL.
async fn put(queue: &Arc<dyn TaskQueue>, name: &str, content: &'static [u8]) -> String {
    let request = ArtifactRequest::S3 {
        content_type: "text/plain".to_owned(),
        content_length: Some(content.len() as u64),
        expires: in_an_hour(),
    };
    let created = queue.create_artifact(name, &request).await.unwrap();
    let ArtifactCreated::S3 {
        put_url,
        content_type,
        ..
    } = created
    else {
        panic!("{created:?}")
    };
    let length = content.len() as u64;
    let upload = Upload {
        put_url: put_url.clone(),
        content_type,
        content_encoding: Some("identity".to_owned()),
        length,
    };
    queue
        .upload(&upload, UploadBody::Bytes(Bytes::from_static(content)))
        .await
        .unwrap();
    put_url
}

async fn fetch(url: &str) -> (u16, String, String) {
    let response = reqwest::get(url).await.unwrap();
    let content_type = response
        .headers()
        .get("content-type")
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    (
        response.status().as_u16(),
        content_type,
        response.text().await.unwrap(),
    )
}

#[tokio::test]
async fn a_task_lives_from_creation_to_completion() {
    let scene = Scene::new().await;
    let id = scene
        .create_with(|task| task["scopes"] = json!(["secrets:get:x"]))
        .await;
    assert_eq!(scene.client.status(&id).await.unwrap().state, TaskState::Pending);

    let (claim, queue) = scene.claim().await;
    assert_eq!(
        (claim.task_id(), claim.run_id, claim.status.state),
        (&id, RunId(0), TaskState::Running)
    );
    assert_eq!(
        (claim.worker_group.as_str(), claim.worker_id.as_str()),
        ("g", "w")
    );
    assert_eq!(claim.task.payload, json!({ "command": ["true"] }));
    assert_eq!(claim.task.scopes, ["secrets:get:x"]);
    let prefix = format!("task-client/{id}/0/on/g/w/until/");
    assert!(
        claim.credentials.client_id.starts_with(&prefix),
        "{}",
        claim.credentials.client_id
    );

    let before = queue.credentials();
    let reclaimed = queue.reclaim().await.unwrap();
    assert!(reclaimed.taken_until >= claim.taken_until);
    assert_eq!(
        queue.credentials(),
        reclaimed.credentials,
        "the new credentials are in use"
    );
    assert_ne!(queue.credentials(), before);

    let expires = in_an_hour();
    put(&queue, "public/logs/live_backing.log", b"hello\n").await;
    let content_type = "text/plain".to_owned();
    let reference = |url: &str| ArtifactRequest::Reference {
        url: url.to_owned(),
        content_type: content_type.clone(),
        expires,
    };
    queue
        .create_artifact("public/logs/live.log", &reference("https://example.com/live"))
        .await
        .unwrap();
    queue
        .create_artifact("public/ref", &reference("https://example.com/ref"))
        .await
        .unwrap();
    let link = ArtifactRequest::Link {
        artifact: "public/logs/live_backing.log".to_owned(),
        content_type: None,
        expires,
    };
    assert_eq!(
        queue
            .create_artifact("public/logs/live.log", &link)
            .await
            .unwrap(),
        ArtifactCreated::Link {}
    );
    let missing = ArtifactRequest::Error {
        reason: ArtifactErrorReason::FileMissingOnWorker,
        message: "no such file".to_owned(),
        expires,
    };
    assert_eq!(
        queue.create_artifact("public/gone", &missing).await.unwrap(),
        ArtifactCreated::Error {}
    );

    let status = queue.report_completed().await.unwrap();
    assert_eq!(status.state, TaskState::Completed);
    assert_eq!(
        queue.report_completed().await.unwrap(),
        status,
        "repeating a report is no error"
    );
    assert!(matches!(
        queue.report_failed().await,
        Err(QueueError::Conflict { .. })
    ));
    assert!(matches!(queue.reclaim().await, Err(QueueError::Conflict { .. })));
    assert!(matches!(
        queue.create_artifact("public/late", &link).await,
        Err(QueueError::Conflict { .. })
    ));

    let listed = scene.client.list_artifacts(&id, None).await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|a| (a.name.as_str(), a.storage_type.as_str(), a.content_length))
        .collect();
    assert_eq!(
        listed,
        [
            ("public/gone", "error", None),
            ("public/logs/live.log", "link", None),
            ("public/logs/live_backing.log", "s3", Some(6)),
            ("public/ref", "reference", None),
        ]
    );
    // Anybody may read what is public; the link leads to the log's content.
    let anybody = client(&scene.queue, None);
    for name in ["public/logs/live_backing.log", "public/logs/live.log"] {
        let url = anybody.latest_artifact_url(&id, name).await.unwrap();
        assert_eq!(
            fetch(&url).await,
            (200, "text/plain".to_owned(), "hello\n".to_owned())
        );
    }
    assert_eq!(
        anybody.latest_artifact_url(&id, "public/ref").await.unwrap(),
        "https://example.com/ref"
    );
    let gone = anybody.latest_artifact_url(&id, "public/gone").await.unwrap_err();
    let QueueError::ArtifactMissing { reason, message, .. } = gone else {
        panic!("{gone:?}")
    };
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("file-missing-on-worker", "no such file")
    );
    assert!(matches!(
        anybody.latest_artifact_url(&id, "private/a").await,
        Err(QueueError::Unauthorized { status: 403, .. })
    ));
    scene.queue.stop().await;
}

#[tokio::test]
async fn statuses_answers_for_many_and_leaves_out_the_unknown() {
    let scene = Scene::new().await;
    let (one, other) = (scene.create().await, scene.create().await);
    let mut asked = vec![one.clone(), TaskId::random(), other.clone()];
    asked.extend((0..2500).map(|_| TaskId::random()));
    let found = scene.client.statuses(&asked).await.unwrap();
    assert_eq!(
        found.iter().map(|status| &status.task_id).collect::<Vec<_>>(),
        [&one, &other]
    );
}

#[tokio::test]
async fn cancelling_ends_a_running_task() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    scene.client.cancel_task(&id).await.unwrap();
    scene
        .client
        .cancel_task(&id)
        .await
        .expect("cancelling again changes nothing");
    assert_eq!(
        scene.runs(&id).await,
        [run("exception", "scheduled", Some("canceled"))]
    );
    assert!(matches!(queue.reclaim().await, Err(QueueError::Conflict { .. })));
    assert!(matches!(
        queue.report_completed().await,
        Err(QueueError::Conflict { .. })
    ));
    // What the aborted task leaves behind may still be saved.
    put(&queue, "public/log", b"x").await;
}

#[tokio::test]
async fn a_shutdown_gives_the_task_to_the_next_worker() {
    let scene = Scene::new().await;
    let id = scene.create_with(|task| task["retries"] = 1.into()).await;
    let (_, queue) = scene.claim().await;
    queue
        .report_exception(ExceptionReason::WorkerShutdown)
        .await
        .unwrap();
    let (claim, queue) = scene.claim().await;
    assert_eq!(claim.run_id, RunId(1));
    queue
        .report_exception(ExceptionReason::IntermittentTask)
        .await
        .unwrap();
    assert_eq!(
        scene.runs(&id).await,
        [
            run("exception", "scheduled", Some("worker-shutdown")),
            run("exception", "retry", Some("intermittent-task")),
        ],
        "no retries are left"
    );
}

#[tokio::test]
async fn a_claim_that_is_not_renewed_passes_to_the_next() {
    let scene = Scene::with(|config| config.claim_timeout = Duration::from_millis(300)).await;
    let id = scene.create().await;
    let (_, lost) = scene.claim().await;
    // The next claim waits for the first one's end, and is woken by it.
    let (claim, _) = timeout(BOUND, scene.claim()).await.unwrap();
    assert_eq!(claim.run_id, RunId(1));
    assert_eq!(
        scene.runs(&id).await[0],
        run("exception", "scheduled", Some("claim-expired"))
    );
    assert!(matches!(
        lost.report_completed().await,
        Err(QueueError::Conflict { .. })
    ));
}

#[tokio::test]
async fn a_passed_deadline_ends_a_task() {
    let scene = Scene::with(|config| config.poll_timeout = Duration::from_millis(100)).await;
    let id = scene
        .create_with(|task| task["deadline"] = json!(Utc::now() + TimeDelta::milliseconds(200)))
        .await;
    let (_, queue) = scene.claim().await;
    timeout(BOUND, async { while queue.reclaim().await.is_ok() {} })
        .await
        .unwrap();
    assert_eq!(
        scene.runs(&id).await,
        [run("exception", "scheduled", Some("deadline-exceeded"))]
    );
    assert!(scene.client.claim_work(1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_waiting_claim_is_woken_by_the_task() {
    let scene = Scene::new().await;
    let waiting = async { scene.client.claim_work(4).await.unwrap() };
    let creating = async {
        // The claim is on its way; whether it waits already makes no difference to the outcome.
        tokio::task::yield_now().await;
        scene.create().await
    };
    // The poll alone would take 20 s.
    let (claims, id) = timeout(Duration::from_secs(10), async { tokio::join!(waiting, creating) })
        .await
        .unwrap();
    assert_eq!(
        claims.iter().map(|claim| claim.task_id()).collect::<Vec<_>>(),
        [&id]
    );
}

#[tokio::test]
async fn a_claim_whose_client_went_away_is_not_lost() {
    let scene = Scene::with(|config| config.poll_timeout = Duration::from_secs(5)).await;
    for _ in 0..5 {
        let abandoned = client(&scene.queue, Some(scene.queue.credentials()));
        assert!(
            timeout(Duration::from_millis(50), abandoned.claim_work(1))
                .await
                .is_err()
        );
    }
    let id = scene.create().await;
    let (claim, _) = timeout(BOUND, scene.claim()).await.unwrap();
    assert_eq!((claim.task_id(), claim.run_id), (&id, RunId(0)));
}

#[tokio::test]
async fn the_urgent_come_first_and_then_the_early() {
    let scene = Scene::new().await;
    let mut expected = Vec::new();
    for priority in ["low", "highest", "low", "medium"] {
        expected.push((
            priority,
            scene.create_with(|task| task["priority"] = priority.into()).await,
        ));
    }
    let claims = scene.client.claim_work(10).await.unwrap();
    let order: Vec<_> = claims.iter().map(|claim| claim.task_id().clone()).collect();
    assert_eq!(order, [1, 3, 0, 2].map(|index: usize| expected[index].1.clone()));
}

#[tokio::test]
async fn a_dependent_starts_when_its_dependency_has_succeeded() {
    let scene = Scene::new().await;
    let first = scene.create().await;
    let second = scene
        .create_with(|task| task["dependencies"] = json!([first]))
        .await;
    assert_eq!(
        scene.client.status(&second).await.unwrap().state,
        TaskState::Unscheduled
    );
    let (_, queue) = scene.claim().await;
    queue.report_completed().await.unwrap();
    let (claim, _) = timeout(BOUND, scene.claim()).await.unwrap();
    assert_eq!(claim.task_id(), &second);

    let unknown = TaskId::random();
    let mut orphan = task();
    orphan["dependencies"] = json!([unknown]);
    let id = TaskId::random();
    let refused = scene.client.create_task(&id, &orphan).await.unwrap_err();
    assert!(
        matches!(refused, QueueError::Invalid { ref code, .. } if code == "InputError"),
        "{refused}"
    );
    assert!(
        matches!(scene.client.status(&id).await, Err(QueueError::NotFound { .. })),
        "nothing is left behind"
    );
}

#[tokio::test]
async fn creating_a_task_again_is_only_accepted_if_it_is_the_same() {
    let scene = Scene::new().await;
    let (id, mut definition) = (TaskId::random(), task());
    let first = scene.client.create_task(&id, &definition).await.unwrap();
    assert_eq!(scene.client.create_task(&id, &definition).await.unwrap(), first);
    definition["retries"] = 1.into();
    assert!(matches!(
        scene.client.create_task(&id, &definition).await,
        Err(QueueError::Conflict { .. })
    ));
}

#[tokio::test]
async fn a_payload_that_does_not_fit_is_refused_with_all_that_is_wrong() {
    let scene = Scene::new().await;
    let schema = json!({
        "type": "object",
        "properties": {
            "command": { "type": "array", "items": { "type": "string" } },
            "maxRunTime": { "type": "integer", "minimum": 1 },
        },
        "required": ["command", "maxRunTime"],
        "additionalProperties": false,
    });
    scene
        .queue
        .register_worker_type(&POOL.parse().unwrap(), &schema)
        .unwrap();
    let mut wrong = task();
    wrong["payload"] = json!({ "command": [1], "maxRunTime": 0, "extra": true });
    let error = scene
        .client
        .create_task(&TaskId::random(), &wrong)
        .await
        .unwrap_err();
    let QueueError::Invalid { code, message, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(code, "InputValidationError");
    for place in ["payload/command/0:", "payload/maxRunTime:", "'extra'"] {
        assert!(message.contains(place), "{place} is missing from: {message}");
    }
    scene
        .create_with(|task| task["payload"] = json!({ "command": ["x"], "maxRunTime": 1 }))
        .await;
    scene
        .create_with(|task| {
            (task["taskQueueId"], task["payload"]) = (json!("other/pool"), json!({ "any": 1 }))
        })
        .await;
    assert!(
        scene
            .queue
            .register_worker_type(&POOL.parse().unwrap(), &json!({ "type": "nonsense" }))
            .is_err()
    );
}

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
async fn a_restart_keeps_everything() {
    let scene = Scene::new().await;
    let (running, pending) = (scene.create().await, scene.create().await);
    let (claim, queue) = scene.claim().await;
    put(&queue, "public/a", b"kept").await;
    let token = scene.queue.credentials();
    let before = scene.client.status(&running).await.unwrap();
    drop(queue);

    let scene = scene.restart().await;
    assert_eq!(scene.queue.credentials(), token);
    assert_eq!(scene.client.status(&running).await.unwrap(), before);
    let url = scene
        .client
        .latest_artifact_url(&running, "public/a")
        .await
        .unwrap();
    assert_eq!(fetch(&url).await.2, "kept");
    let queue = scene.client.for_claim(&claim);
    assert_eq!(
        queue.report_completed().await.unwrap().state,
        TaskState::Completed
    );
    assert_eq!(scene.claim().await.0.task_id(), &pending);
}

#[tokio::test]
async fn a_place_in_use_is_said_in_one_sentence() {
    let scene = Scene::new().await;
    let state = scene.directory.path().join("state");
    let Err(locked) = EmbeddedQueue::start(EmbeddedConfig::new(&state)).await else {
        panic!("two queues, one state")
    };
    assert!(
        matches!(&locked, StartError::Locked { path } if *path == state),
        "{locked}"
    );

    let listen = scene
        .queue
        .root_url()
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    let config = EmbeddedConfig {
        listen,
        ..EmbeddedConfig::new(scene.directory.path().join("other"))
    };
    let Err(in_use) = EmbeddedQueue::start(config).await else {
        panic!("two queues, one port")
    };
    assert!(
        matches!(&in_use, StartError::Listen { address, .. } if *address == listen),
        "{in_use}"
    );

    std::fs::write(scene.directory.path().join("file"), "").unwrap();
    let Err(no_dir) = EmbeddedQueue::start(EmbeddedConfig::new(scene.directory.path().join("file"))).await
    else {
        panic!("a file is no directory")
    };
    assert!(
        matches!(no_dir, StartError::Files { action: "create", .. }),
        "{no_dir}"
    );
    for error in [locked, in_use, no_dir] {
        assert!(!error.to_string().contains('\n'));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_state() {
    use std::os::unix::fs::PermissionsExt as _;

    let scene = Scene::new().await;
    let (_, queue) = {
        scene.create().await;
        scene.claim().await
    };
    put(&queue, "public/a", b"secret").await;
    let mut folders = vec![scene.directory.path().join("state")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(
            folder.metadata().unwrap().permissions().mode() & 0o777,
            0o700,
            "{}",
            folder.display()
        );
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(
                    path.metadata().unwrap().permissions().mode() & 0o777,
                    0o600,
                    "{}",
                    path.display()
                );
                files += 1;
            }
        }
    }
    assert!(
        files >= 4,
        "lock, database, credentials and the artifact at least"
    );
    let text = std::fs::read(scene.directory.path().join("state/credentials.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let root = scene.queue.credentials();
    let expected = json!({ "rootUrl": scene.queue.root_url(), "clientId": root.client_id, "accessToken": root.access_token });
    assert_eq!(file, expected);
}

#[tokio::test]
async fn stopping_ends_waiting_claims() {
    let scene = Scene::new().await;
    let waiting = client(&scene.queue, Some(scene.queue.credentials()));
    let waiting = tokio::spawn(async move { waiting.claim_work(1).await });
    scene.client.ping().await.unwrap();
    timeout(Duration::from_secs(10), scene.queue.stop())
        .await
        .unwrap();
    // It got an empty answer, or none if it had not arrived yet.
    if let Ok(claims) = timeout(BOUND, waiting).await.unwrap().unwrap() {
        assert!(claims.is_empty());
    }
}

#[tokio::test]
async fn what_a_crash_leaves_behind_is_whole() {
    let scene = Scene::new().await;
    let (done, pending) = (scene.create().await, scene.create().await);
    let (_, queue) = scene.claim().await;
    put(&queue, "public/a", b"kept").await;
    queue.report_completed().await.unwrap();
    // The files as they are at this moment are what a killed process would leave; an upload was under way besides.
    let copy = scene.directory.path().join("copy");
    copy_folder(&scene.directory.path().join("state"), &copy);
    std::fs::write(copy.join("storage/incoming/half"), "half").unwrap();
    std::fs::write(copy.join("storage/objects/nobodys"), "never announced").unwrap();

    let queue = EmbeddedQueue::start(EmbeddedConfig::new(&copy)).await.unwrap();
    let client = client(&queue, Some(queue.credentials()));
    assert_eq!(client.status(&done).await.unwrap().state, TaskState::Completed);
    let url = client.latest_artifact_url(&done, "public/a").await.unwrap();
    assert_eq!(fetch(&url).await.2, "kept");
    assert_eq!(client.claim_work(2).await.unwrap()[0].task_id(), &pending);
    let left = |folder: &str| std::fs::read_dir(copy.join(folder)).unwrap().count();
    assert_eq!((left("storage/incoming"), left("storage/objects")), (0, 1));
    queue.stop().await;
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_is_claimed_once_however_many_ask() {
    let scene = Arc::new(Scene::new().await);
    let mut expected: Vec<String> = Vec::new();
    let (sender, mut claimed) = tokio::sync::mpsc::unbounded_channel();
    let workers: Vec<_> = (0..6)
        .map(|_| {
            let (scene, sender) = (Arc::clone(&scene), sender.clone());
            tokio::spawn(async move {
                loop {
                    for claim in scene.client.claim_work(3).await.unwrap() {
                        sender.send(claim.task_id().to_string()).unwrap();
                    }
                }
            })
        })
        .collect();
    for _ in 0..100 {
        expected.push(scene.create().await.to_string());
    }
    let mut found = Vec::new();
    while found.len() < expected.len() {
        found.push(
            timeout(BOUND, claimed.recv())
                .await
                .expect("a pending task wakes a waiting worker")
                .unwrap(),
        );
    }
    for worker in workers {
        worker.abort();
    }
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
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

#[tokio::test]
async fn storage_is_bounded() {
    let scene = Scene::with(|config| (config.max_artifact_size, config.max_storage_size) = (10, 15)).await;
    scene.create().await;
    let (_, queue) = scene.claim().await;
    let try_put = async |name: &str, content: &'static [u8]| {
        let content_type = "a/b".to_owned();
        let request = ArtifactRequest::S3 {
            content_type,
            content_length: None,
            expires: in_an_hour(),
        };
        let ArtifactCreated::S3 {
            put_url,
            content_type,
            ..
        } = queue.create_artifact(name, &request).await.unwrap()
        else {
            panic!("no URL to upload to")
        };
        let upload = Upload {
            put_url,
            content_type,
            content_encoding: None,
            length: content.len() as u64,
        };
        queue
            .upload(&upload, UploadBody::Bytes(Bytes::from_static(content)))
            .await
    };
    let too_large = try_put("public/a", b"12345678901").await;
    assert!(
        matches!(too_large, Err(QueueError::Invalid { ref code, .. }) if code == "InputTooLarge"),
        "{too_large:?}"
    );
    try_put("public/a", b"1234567890").await.unwrap();
    let full = try_put("public/b", b"123456").await;
    assert!(matches!(full, Err(QueueError::Unavailable { .. })), "{full:?}");
    try_put("public/b", b"12345").await.unwrap();
}
