//! The embedded queue over real HTTP, through the client that the worker uses.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use queue_support::{BOUND, POOL, Scene, client, fetch, in_an_hour, put, run, task};
use serde_json::json;
use tcw_host::queue::{
    ArtifactCreated, ArtifactErrorReason, ArtifactRequest, ExceptionReason, Queue as _, QueueError, RunId,
    TaskId, TaskState,
};
use tokio::time::timeout;

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
