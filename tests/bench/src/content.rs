//! What tasks write: logs and artifacts.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tcw_abi::services::{ArtifactUpload, ContentEncoding};
use tcw_host::queue::{ArtifactCreated, ArtifactRequest, Queue, TaskQueue};
use tcw_host::services::artifacts::Artifacts;
use tcw_host::services::log::{LogOptions, TaskLog};
use tokio::runtime::Runtime;

use crate::Build;
use crate::pairs::{Figure, Target, millis};
use crate::queue::Scene;
use crate::worker::{Work, span_of};

const MIB: u64 = 1 << 20;
/// Bytes of a large log.
const LOG: u64 = 128 * MIB;
/// Bytes of a large artifact.
const ARTIFACT: u64 = 1024 * MIB;

/// Numbers that are no pattern to a compressor.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A log as builds write them: much of each line has been there before, some of it has not.
fn log_text(path: &Path) {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    let (mut random, mut written, mut number) = (Random(0x9E37_79B9_7F4A_7C15), 0, 0);
    while written < LOG {
        number += 1;
        let (a, b) = (random.next(), random.next());
        let line = format!(
            "[task 2026-01-25T{:02}:{:02}:{:02}.{:03}Z] {number} compiling crate-{:x} v{}.{}.{} (/builds/worker/checkouts/{:x}) {} ms\n",
            a % 24,
            a % 60,
            b % 60,
            b % 1000,
            a >> 40,
            a % 10,
            b % 20,
            a % 7,
            b >> 32,
            b % 90_000
        );
        file.write_all(line.as_bytes()).expect("a line");
        written += line.len() as u64;
    }
    file.flush().expect("a log");
}

fn megabytes_per_second(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// A task's output through the pipe into the log, compressed and uploaded; the yardstick is `gzip -1`.
pub(crate) fn log_uploaded(build: &Build) -> Figure {
    let directory = tempfile::tempdir().expect("a directory");
    let text = directory.path().join("text");
    log_text(&text);
    let length = fs::metadata(&text).expect("the log").len();
    let work = Work {
        payload: json!({ "command": [["cat", text.to_str().expect("a path")]], "maxRunTime": 600 }),
        ..Work::native(build, &[&build.plugins], 1)
    };
    let figure = || length as f64 / 1e3 / span_of(build, &work, 1);
    let yardstick = || {
        let start = Instant::now();
        let status = Command::new("gzip")
            .args(["-1", "-c"])
            .stdin(File::open(&text).expect("the log"))
            .stdout(File::create(directory.path().join("text.gz")).expect("a file"))
            .status();
        assert!(status.expect("gzip").success());
        megabytes_per_second(length, start)
    };
    Figure::pairs(build.pairs, "MB/s", Target::RatioAtLeast(0.9), figure, yardstick)
}

/// A program's output through the pipe into the log's file, neither compressed nor uploaded; the yardstick is
/// `cat | cat > file`.
pub(crate) fn log_alone(build: &Build) -> Figure {
    let directory = tempfile::tempdir().expect("a directory");
    let text = directory.path().join("text");
    log_text(&text);
    let length = fs::metadata(&text).expect("the log").len();
    let runtime = Runtime::new().expect("threads");
    let figure = || {
        let place = tempfile::tempdir().expect("a directory");
        let start = Instant::now();
        runtime.block_on(async {
            let options = LogOptions {
                compress: false,
                ..LogOptions::default()
            };
            let log = TaskLog::new(place.path(), options).expect("a log");
            let output = log.handle().expect("its write end").into_file();
            let mut cat = Command::new("cat")
                .arg(&text)
                .stdin(Stdio::null())
                .stdout(output)
                .spawn()
                .expect("cat");
            let status = tokio::task::spawn_blocking(move || cat.wait()).await;
            assert!(status.expect("a thread").expect("cat").success());
            log.close().await;
            let closed = log.closed_log().await.expect("the log");
            assert_eq!(closed.info.length, length);
        });
        megabytes_per_second(length, start)
    };
    let yardstick = || {
        let start = Instant::now();
        let status = Command::new("sh")
            .args(["-c", "cat \"$1\" | cat > \"$2\"", "sh"])
            .arg(&text)
            .arg(directory.path().join("copy"))
            .status();
        assert!(status.expect("sh").success());
        let speed = megabytes_per_second(length, start);
        fs::remove_file(directory.path().join("copy")).expect("the copy");
        speed
    };
    Figure::pairs(build.pairs, "MB/s", Target::RatioAtLeast(0.8), figure, yardstick)
}

fn s3(scene: &Scene, queue: &dyn TaskQueue, name: &str) -> String {
    let request = ArtifactRequest::S3 {
        content_type: "application/octet-stream".to_owned(),
        content_length: None,
        expires: expiry().into(),
    };
    let created = scene.runtime.block_on(queue.create_artifact(name, &request));
    match created.expect("an artifact") {
        ArtifactCreated::S3 { put_url, .. } => put_url,
        _ => panic!("no URL to upload to"),
    }
}

fn expiry() -> std::time::SystemTime {
    std::time::SystemTime::now() + std::time::Duration::from_secs(1800)
}

/// 1 GiB from a file into an artifact as it is; the yardstick is `curl -T` to the same server.
pub(crate) fn large_artifact(build: &Build) -> Figure {
    let scene = Scene::new();
    let file = scene.directory().join("content");
    {
        let mut content = BufWriter::new(File::create(&file).expect("a file"));
        let mut random = Random(7);
        for _ in 0..ARTIFACT / 8 {
            content.write_all(&random.next().to_le_bytes()).expect("a number");
        }
        content.flush().expect("the content");
    }
    scene.create(1);
    let claim = scene
        .runtime
        .block_on(scene.client.claim_work(1))
        .expect("a claim")
        .remove(0);
    let queue = scene.client.for_claim(&claim);
    let artifacts = Artifacts::new(Arc::clone(&queue), expiry().into(), scene.directory().to_owned());
    let put_url = s3(&scene, queue.as_ref(), "public/curl");
    let figure = || {
        let upload = ArtifactUpload {
            name: "public/tcw".to_owned(),
            content_type: "application/octet-stream".to_owned(),
            content_encoding: ContentEncoding::Identity,
            already_encoded: false,
            expires: None,
        };
        let content = File::open(&file).expect("the content");
        let start = Instant::now();
        let record = scene.runtime.block_on(artifacts.upload(upload, content.into()));
        assert_eq!(record.expect("an artifact").stored_length, ARTIFACT);
        megabytes_per_second(ARTIFACT, start)
    };
    let yardstick = || {
        let start = Instant::now();
        let status = Command::new("curl")
            .args(["--fail", "--silent", "--show-error", "--header"])
            .arg("content-type: application/octet-stream")
            .arg("--upload-file")
            .arg(&file)
            .arg(&put_url)
            .status();
        assert!(status.expect("curl (Debian: apt-get install curl)").success());
        megabytes_per_second(ARTIFACT, start)
    };
    Figure::pairs(build.pairs, "MB/s", Target::RatioAtLeast(0.8), figure, yardstick)
}

/// A task with a directory of 1,000 files of 1 KiB as its artifacts; the yardstick is one client that announces and
/// uploads as many, one after another.
pub(crate) fn small_artifacts(build: &Build) -> Figure {
    const COUNT: usize = 1000;
    // One program makes all files.
    let script = "mkdir d && cd d && head -c 1024000 /dev/urandom | split -b 1024 -a 3 -d";
    let work = Work {
        payload: json!({
            "command": [["sh", "-c", script]],
            "maxRunTime": 600,
            "artifacts": [{ "type": "directory", "path": "d", "name": "public/d" }],
        }),
        ..Work::native(build, &[&build.plugins], 1)
    };
    let making = Work {
        payload: json!({ "command": [["sh", "-c", script]], "maxRunTime": 600 }),
        ..work.clone()
    };
    // What making the files costs is not the artifacts'.
    let figure = || span_of(build, &work, 1) - span_of(build, &making, 1);
    let scene = Scene::new();
    scene.create(1);
    let claim = scene
        .runtime
        .block_on(scene.client.claim_work(1))
        .expect("a claim")
        .remove(0);
    let queue = scene.client.for_claim(&claim);
    let yardstick = || {
        let start = Instant::now();
        for number in 0..COUNT {
            let put_url = s3(&scene, queue.as_ref(), &format!("public/d/{number}"));
            let upload = tcw_host::queue::Upload {
                put_url,
                content_type: "application/octet-stream".to_owned(),
                content_encoding: None,
                length: 1024,
            };
            let body = tcw_host::queue::UploadBody::Bytes(vec![7; 1024].into());
            scene
                .runtime
                .block_on(queue.upload(&upload, body))
                .expect("an upload");
        }
        millis(start.elapsed())
    };
    Figure::pairs(build.pairs, "ms", Target::AtMost(3000.0), figure, yardstick)
}
