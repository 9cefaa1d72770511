//! What the embedded queue keeps on disk, and how it starts and stops.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::time::Duration;

use bytes::Bytes;
use queue_support::{BOUND, Scene, client, copy_folder, fetch, in_an_hour, put};
use serde_json::json;
use tcw_host::queue::embedded::{EmbeddedConfig, EmbeddedQueue, StartError};
use tcw_host::queue::{
    ArtifactCreated, ArtifactRequest, Queue as _, QueueError, TaskState, Upload, UploadBody,
};
use tokio::time::timeout;

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
