use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

struct Bench {
    directory: TempDir,
    log: TaskLog,
}

fn bench(options: LogOptions) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let log = TaskLog::new(directory.path(), options).unwrap();
    Bench { directory, log }
}

impl Bench {
    fn write(&self, bytes: &[u8]) {
        self.log.handle().unwrap().into_file().write_all(bytes).unwrap();
    }

    async fn text(&self) -> (String, ClosedLog) {
        let closed = self.log.closed_log().await.unwrap();
        let mut text = String::new();
        let file = closed.content.try_clone().unwrap().into_file();
        match closed.info.content_encoding.as_str() {
            "gzip" => flate2::read::GzDecoder::new(file)
                .read_to_string(&mut text)
                .unwrap(),
            _ => { &file }.read_to_string(&mut text).unwrap(),
        };
        assert_eq!(closed.info.length, text.len() as u64);
        (text, closed)
    }
}

fn plain() -> LogOptions {
    LogOptions {
        compress: false,
        ..LogOptions::default()
    }
}

#[tokio::test]
async fn an_empty_log_is_a_log() {
    for options in [plain(), LogOptions::default()] {
        let bench = bench(options);
        assert!(bench.log.closed_log().await.is_err(), "it is not closed");
        bench.log.close().await;
        let (text, closed) = bench.text().await;
        assert_eq!(text, "");
        assert!(closed.info.complete);
        // Again, from the start.
        assert_eq!(bench.text().await.0, "");
    }
}

#[tokio::test]
async fn the_workers_lines_come_after_what_was_written_before_and_start_afresh() {
    let bench = bench(LogOptions::default());
    bench.write(b"no newline");
    bench
        .log
        .line(LogLevel::Error, "one\ntwo".to_owned())
        .await
        .unwrap();
    bench.write(b"with newline\n");
    bench.log.line(LogLevel::Error, "three".to_owned()).await.unwrap();
    bench.log.close().await;
    assert_eq!(
        bench.text().await.0,
        "no newline\n[taskcluster:error] one\n[taskcluster:error] two\nwith newline\n[taskcluster:error] three\n"
    );
    let late = bench
        .log
        .line(LogLevel::Info, "late".to_owned())
        .await
        .unwrap_err();
    assert_eq!(late.kind(), ErrorKind::ContractViolation);
    assert_eq!(
        bench.log.handle().unwrap_err().kind(),
        ErrorKind::ContractViolation
    );
    // Nobody followed it, so there never was a file.
    assert_eq!(std::fs::read_dir(bench.directory.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_log_is_kept_whole_with_lines_in_between() {
    const CHUNK: usize = 1024 * 1024;
    for options in [plain(), LogOptions::default()] {
        let bench = bench(options);
        let mut pipe = bench.log.handle().unwrap().into_file();
        let writer = tokio::task::spawn_blocking(move || {
            let line: Vec<u8> = b"0123456789abcde\n".repeat(CHUNK / 16);
            for _ in 0..64 {
                pipe.write_all(&line).unwrap();
            }
        });
        for _ in 0..10 {
            bench.log.line(LogLevel::Error, "x".to_owned()).await.unwrap();
        }
        writer.await.unwrap();
        bench.log.close().await;
        let (text, closed) = bench.text().await;
        assert!(closed.info.complete);
        let ours = text.matches("[taskcluster:error] x\n").count();
        let kept = text.matches("0123456789abcde").count();
        // A line of ours may fall into the middle of one of the task's, but no byte is lost.
        let broken = text.len() - ours * "[taskcluster:error] x\n".len() - 64 * CHUNK;
        assert_eq!(ours, 10);
        assert!(broken <= 10 && kept >= 64 * CHUNK / 16 - 10, "{broken} {kept}");
    }
}

#[tokio::test]
async fn a_child_that_keeps_the_pipe_open_does_not_keep_the_log_open() {
    let bench = bench(LogOptions::default());
    let output = bench.log.handle().unwrap();
    // The background process says so before its parent ends, and outlives it.
    let mut child = Command::new("sh")
        .args([
            "-c",
            "sh -c 'echo background; exec sleep 60' & pid=$!; echo foreground; echo $pid >&2",
        ])
        .stdout(output.into_stdio())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut lines, &mut pid).unwrap();
    child.wait().unwrap();
    let progress = bench.log.reader().unwrap().progress;
    let mut seen = LogLength {
        length: 0,
        closed: false,
    };
    while seen.length < "background\nforeground\n".len() as u64 {
        seen = progress.wait(seen.length).await.unwrap();
    }
    let begun = Instant::now();
    bench.log.close().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(progress.wait(u64::MAX).await.unwrap().closed);
    let (text, _) = bench.text().await;
    assert!(
        text.contains("background\n") && text.contains("foreground\n"),
        "{text}"
    );
    Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[tokio::test]
async fn readers_see_the_log_as_it_grows() {
    let bench = bench(LogOptions::default());
    let reader = bench.log.reader().unwrap();
    let metadata = std::fs::metadata(bench.directory.path().join("live.log")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut file = reader.file.into_file();
    bench.write(b"one\n");
    let first = reader.progress.wait(0).await.unwrap();
    assert_eq!(
        first,
        LogLength {
            length: 4,
            closed: false
        }
    );
    let waiting = tokio::spawn(async move { reader.progress.wait(4).await });
    bench.write(b"two\n");
    assert_eq!(waiting.await.unwrap().unwrap().length, 8);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n");
}

#[tokio::test]
async fn a_log_that_outgrows_memory_has_lost_nothing() {
    for options in [plain(), LogOptions::default()] {
        for reader_before in [true, false] {
            let bench = bench(options.clone());
            let mut expected = Vec::new();
            for n in 0..100 {
                let part = format!("{n} ").repeat(500);
                bench.log.line(LogLevel::Error, part.clone()).await.unwrap();
                expected.extend_from_slice(format!("[taskcluster:error] {part}\n").as_bytes());
                if reader_before && n == 3 {
                    bench.log.reader().unwrap();
                }
            }
            let mut followed = Vec::new();
            bench
                .log
                .reader()
                .unwrap()
                .file
                .into_file()
                .read_to_end(&mut followed)
                .unwrap();
            assert!(followed == expected);
            bench.log.close().await;
            assert!(bench.text().await.0.as_bytes() == expected);
        }
    }
}

#[tokio::test]
async fn a_bound_keeps_the_beginning_and_says_so() {
    let bench = bench(LogOptions {
        max_size: Some(10),
        ..LogOptions::default()
    });
    bench.write(b"0123456789abcdef");
    bench
        .log
        .line(LogLevel::Error, "still heard".to_owned())
        .await
        .unwrap();
    bench.write(b"not kept");
    bench.log.close().await;
    let (text, closed) = bench.text().await;
    assert!(text.starts_with("0123456789\n[taskcluster:warn "), "{text}");
    assert!(text.ends_with("[taskcluster:error] still heard\n"), "{text}");
    assert!(!closed.info.complete);
    // The operator wanted it so: it is no failure.
    assert_eq!(bench.log.failure(), None);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_a_failure_and_the_task_is_not_held_up() {
    let bench = bench(LogOptions::default());
    std::fs::remove_dir_all(bench.directory.path()).unwrap();
    for _ in 0..40 {
        bench.write(&[b'x'; 64 * 1024]);
        bench.log.line(LogLevel::Info, "more".to_owned()).await.unwrap();
    }
    bench.log.close().await;
    assert!(bench.log.failure().is_some_and(|why| why.contains("live.log")));
    let error = bench.log.closed_log().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceUnavailable);
}

#[tokio::test]
async fn what_is_written_is_mirrored() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mirror = Arc::clone(&seen);
    let bench = bench(LogOptions {
        mirror: Some(Arc::new(move |bytes| {
            mirror.lock().unwrap().extend_from_slice(bytes)
        })),
        ..LogOptions::default()
    });
    bench.write(b"a\n");
    bench.log.line(LogLevel::Error, "b".to_owned()).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), b"a\n[taskcluster:error] b\n");
}
