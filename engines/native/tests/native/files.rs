//! Files in and out of a task's directory, and attempts to get at others.

use std::io::Read;

use crate::scene::{patiently, scene, script};
use serde_json::json;
use tcw_abi::ErrorKind;
use tcw_abi::engine::ResultSet;
use tcw_abi::testing::handle_with;

async fn text(result: &dyn ResultSet, path: &str) -> String {
    let mut text = String::new();
    result
        .extract_file(path.into())
        .await
        .unwrap()
        .content
        .into_file()
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_can_be_had_again_and_again_by_any_of_its_names() {
    let scene = scene().await;
    let result = scene
        .run(script(
            "mkdir -p a/b; echo hello > a/b/file; ln -s ../a/b/file a/link; chmod 640 a/b/file; pwd",
        ))
        .await;
    let log = scene.task.log_text();
    let directory = log.lines().find(|line| line.starts_with('/')).unwrap();
    let absolute = format!("{directory}/a/b/file");
    for path in ["a/b/file", "a/link", "./a/../a/b/file", &absolute, "a/b/file"] {
        assert_eq!(text(&*result, path).await, "hello\n", "{path}");
    }
    let info = result.extract_file("a/b/file".into()).await.unwrap().info;
    assert_eq!(
        (info.path.as_str(), info.seekable, info.size, info.mode),
        ("", true, Some(6), 0o640)
    );
    result.dispose().await.unwrap();
    assert_eq!(
        result.extract_file("a/b/file".into()).await.unwrap_err().kind(),
        ErrorKind::ContractViolation
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_out_of_the_directory_and_nothing_hangs() {
    let scene = scene().await;
    let result = scene
        .run(script(
            "ln -s /etc/passwd absolute; ln -s ../../../../../../../etc/passwd relative; ln -s /etc folder; \
             ln -s loop loop; mkfifo fifo; mkdir empty; \
             ln -s /proc/self/root/etc/passwd magic; ln -s / root; mknod null c 1 3 || true",
        ))
        .await;
    let cases = [
        ("absolute", "leads out of the task directory"),
        ("relative", "leads out of the task directory"),
        ("folder/passwd", "leads out of the task directory"),
        ("root/etc/passwd", "leads out of the task directory"),
        ("magic", "leads out of the task directory"),
        ("../../etc/passwd", "leads out of the task directory"),
        ("..", "leads out of the task directory"),
        ("/etc/passwd", "outside the task directory"),
        ("loop", "loop"),
        ("fifo", "a named pipe, not a plain file"),
        ("empty", "a directory, not a plain file"),
        ("", "a directory, not a plain file"),
        ("empty/none", "does not exist"),
        ("none", "does not exist"),
        ("no\0ne", "NUL"),
    ];
    for (path, reason) in cases {
        let error = patiently(result.extract_file(path.into())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceNotFound, "{path}: {error}");
        assert!(error.message().contains(reason), "{path}: {error}");
        let state = scene.services.root().display().to_string();
        assert!(!error.message().contains(&state), "{path}: {error}");
    }
    for path in ["folder", "root", "fifo", "none", "..", "/etc"] {
        let error = patiently(result.extract_folder(path.into())).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ResourceNotFound, "{path}: {error}");
    }
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_gives_its_plain_files_sorted_and_names_the_rest() {
    let scene = scene().await;
    let result = scene
        .run(script(
            "mkdir -p out/b/deep out/empty; echo 1 > out/z; echo 2 > out/b/a; echo 3 > out/b/deep/file; \
             ln -s z out/link; ln -s /etc out/etc; mkfifo out/fifo; \
             : > \"$(printf 'out/\\377')\"",
        ))
        .await;
    let folder = result.extract_folder("out".into()).await.unwrap();
    let mut files = Vec::new();
    while let Some(file) = patiently(folder.next()).await.unwrap() {
        let mut text = String::new();
        file.content.into_file().read_to_string(&mut text).unwrap();
        files.push((file.info.path, text));
    }
    let expected = [("b/a", "2\n"), ("b/deep/file", "3\n"), ("z", "1\n")];
    assert_eq!(files, expected.map(|(path, text)| (path.into(), text.into())));
    let log = scene.task.log_text();
    for left_out in [
        "etc (not a plain file)",
        "fifo (not a plain file)",
        "link (not a plain file)",
        "(its name is not UTF-8)",
    ] {
        assert!(log.contains(left_out), "{log}");
    }
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_given_out_only_if_all_of_its_names_are_inside() {
    let scene = scene().await;
    let outside = scene.services.root().join("outside");
    std::fs::write(&outside, "not for everybody").unwrap();
    let result = scene
        .run(script(&format!(
            "mkdir -p out/b; echo own > out/one; ln out/one out/b/two; ln out/one three; \
             ln '{}' out/theirs",
            outside.display()
        )))
        .await;
    assert!(result.report().success, "{}", scene.task.log_text());
    for path in ["out/one", "out/b/two", "three"] {
        assert_eq!(text(&*result, path).await, "own\n", "{path}");
    }
    let error = result.extract_file("out/theirs".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceNotFound);
    assert!(
        error.message().contains("a hard link to a file outside"),
        "{error}"
    );
    let folder = result.extract_folder("out".into()).await.unwrap();
    let mut files = Vec::new();
    while let Some(file) = patiently(folder.next()).await.unwrap() {
        files.push(file.info.path);
    }
    assert_eq!(files, ["b/two", "one"]);
    let log = scene.task.log_text();
    assert!(
        log.contains("theirs (a hard link to a file outside the task directory)"),
        "{log}"
    );
    result.dispose().await.unwrap();
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "not for everybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_put_before_the_start_and_only_into_the_directory() {
    let scene = scene().await;
    let builder = scene.builder(script("cat in/put; ./in/run")).await;
    let put = |path: &str, text: &str, mode: u32| {
        builder.put_file(path.into(), handle_with(text.as_bytes()).unwrap(), mode)
    };
    put("in/put", "content\n", 0o600).await.unwrap();
    put("in/run", "#!/bin/sh\necho ran\n", 0o755).await.unwrap();
    for path in ["../outside", "/etc/outside", "in/../../outside", ".", ""] {
        let error = put(path, "", 0o600).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MalformedPayload, "{path}");
    }
    assert_eq!(
        put("in/put", "", 0o600).await.unwrap_err().kind(),
        ErrorKind::NamingConflict
    );
    assert_eq!(
        put("in/put/below", "", 0o600).await.unwrap_err().kind(),
        ErrorKind::MalformedPayload
    );
    let sandbox = builder.start().await.unwrap();
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(scene.task.log_text().contains("\ncontent\nran\n"));
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_task_has_made_is_removed_and_nothing_else() {
    let scene = scene().await;
    let outside = scene.services.root().join("outside");
    std::fs::write(&outside, "stays").unwrap();
    let result = scene
        .run(json!({ "command": [[
            "/bin/sh", "-c",
            "mkdir -p a/b; touch a/b/c; chmod 0 a/b; chmod 500 a; ln -s ../outside link; ln -s .. up; \
             i=0; while [ $i -lt 300 ]; do mkdir deep; cd deep; i=$((i+1)); done; touch file"
        ]] }))
        .await;
    assert!(result.report().success);
    patiently(result.dispose()).await.unwrap();
    assert_eq!(scene.folders(), ["outside"]);
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "stays");
}
