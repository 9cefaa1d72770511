//! An upload whose client goes away between its last byte and the answer: done whole, and counted.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::io::Write as _;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use chrono::TimeDelta;
use queue_support::{BOUND, Scene, in_an_hour};
use tcw_host::queue::embedded::fault;
use tcw_host::queue::{ArtifactCreated, ArtifactRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_that_nobody_waits_for_is_whole_and_counted() {
    let (stored, is_stored) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let gate = Mutex::new(Some((stored, may_go_on)));
    fault::watch(move |point| {
        let first = || gate.lock().unwrap_or_else(PoisonError::into_inner).take();
        if point == "upload stored"
            && let Some((stored, may_go_on)) = first()
        {
            stored.send(()).expect("the test waits");
            may_go_on.recv_timeout(BOUND).expect("the client has gone");
        }
    });
    let scene = Scene::new().await;
    scene.create().await;
    let (_, run) = scene.claim().await;
    let mut urls = Vec::new();
    for (name, hours) in [("public/abandoned", 1), ("public/later", 10)] {
        let request = ArtifactRequest::S3 {
            content_type: "text/plain".to_owned(),
            content_length: Some(7),
            expires: in_an_hour() + TimeDelta::hours(hours),
        };
        match run.create_artifact(name, &request).await.unwrap() {
            ArtifactCreated::S3 { put_url, .. } => urls.push(put_url),
            other => panic!("{other:?}"),
        }
    }

    let host = scene.queue.listens_on();
    let target = urls[0].strip_prefix(scene.queue.root_url()).unwrap().to_owned();
    tokio::task::spawn_blocking(move || {
        let mut client = std::net::TcpStream::connect(host).unwrap();
        let head = format!("PUT {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 7\r\n\r\n");
        client.write_all(format!("{head}content").as_bytes()).unwrap();
        is_stored.recv_timeout(BOUND).expect("it arrives");
        drop(client);
        go_on.send(()).unwrap();
    })
    .await
    .unwrap();
    let path = format!("/task/{}/runs/0/artifacts/public%2Fabandoned", run.task_id());
    let url = scene.caller().get(&path).await.ok()["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let arrived = async {
        loop {
            let answer = reqwest::get(&url).await.unwrap();
            if answer.status() == 200 {
                return answer.text().await.unwrap();
            }
        }
    };
    let content = tokio::time::timeout(BOUND, arrived).await;
    assert_eq!(content.expect("it is stored all the same"), "content");

    // What was never counted as used would now be taken off, and nothing would ever fit again.
    scene
        .queue
        .advance(3 * std::time::Duration::from_secs(3600))
        .await
        .unwrap();
    scene.queue.forget_expired().await.unwrap();
    let upload = reqwest::Client::new().put(&urls[1]).body("content").send().await;
    assert_eq!(upload.unwrap().status(), 200);
    let objects = scene.directory.path().join("state/storage/objects");
    assert_eq!(std::fs::read_dir(objects).unwrap().count(), 1);
}
