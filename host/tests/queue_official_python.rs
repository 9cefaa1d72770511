//! The official Python client against the embedded queue: `tests/python/test_official_client.py`, with a task that has
//! a log for it to fetch.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::path::Path;

use bytes::Bytes;
use queue_support::{Scene, in_an_hour};
use tcw_host::queue::{ArtifactCreated, ArtifactRequest, Upload, UploadBody};

#[tokio::test]
#[ignore = "needs TCW_TEST_PYTHON, a Python that has the package taskcluster"]
async fn the_official_python_client_works_unchanged() {
    let Ok(python) = std::env::var("TCW_TEST_PYTHON") else {
        println!("skipped: TCW_TEST_PYTHON is not set");
        return;
    };
    let scene = Scene::new().await;
    let id = scene.create().await;
    let (_, queue) = scene.claim().await;
    let name = "public/logs/live_backing.log";
    let content_type = "text/plain; charset=utf-8".to_owned();
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
    let log = Bytes::from_static(b"hello from the task\n");
    let upload = Upload {
        put_url,
        content_type,
        content_encoding: None,
        length: log.len() as u64,
    };
    queue.upload(&upload, UploadBody::Bytes(log)).await.unwrap();
    queue.report_completed().await.unwrap();

    let root = scene.queue.credentials();
    for script in ["test_official_client.py", "test_every_call.py"] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/python")
            .join(script);
        let outcome = tokio::process::Command::new(&python)
            .args([script.as_os_str(), "-v".as_ref()])
            .env("TASKCLUSTER_ROOT_URL", scene.queue.root_url())
            .env("TASKCLUSTER_CLIENT_ID", &root.client_id)
            .env("TASKCLUSTER_ACCESS_TOKEN", &root.access_token)
            .env("TCW_TEST_TASK_ID", id.as_str())
            .env("TCW_TEST_LOG_TEXT", "hello from the task")
            .output()
            .await
            .unwrap();
        let report = String::from_utf8_lossy(&outcome.stderr);
        assert!(outcome.status.success(), "{report}");
        // What is left out here needs a worker, and is run with one by tests/python/run.sh.
        assert!(!report.contains("TCW_TEST_TASK_ID is not set"), "{report}");
    }
}
