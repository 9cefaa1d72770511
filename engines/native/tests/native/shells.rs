//! Shells, on pipes and on terminals.

use std::io::{Read, Write};

use crate::scene::{patiently, scene, script};
use tcw_abi::ErrorKind;
use tcw_abi::engine::{ShellRequest, ShellStreams, TerminalSize};
use tcw_abi::io::Handle;

/// Runs until it is told to end: shells need a task.
const WAITING: &str = "echo ready; while [ ! -e stop ]; do sleep 0.05; done";

fn pipes(streams: ShellStreams) -> (Handle, Handle, Handle) {
    match streams {
        ShellStreams::Pipes {
            stdin,
            stdout,
            stderr,
        } => (stdin, stdout, stderr),
        ShellStreams::Terminal(_) => panic!("a terminal was not asked for"),
    }
}

fn terminal(streams: ShellStreams) -> Handle {
    match streams {
        ShellStreams::Terminal(terminal) => terminal,
        ShellStreams::Pipes { .. } => panic!("a terminal was asked for"),
    }
}

async fn read(handle: Handle) -> String {
    patiently(tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        // A terminal ends with an error (EIO), a pipe without.
        let _ = handle.into_file().read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }))
    .await
    .unwrap()
}

fn command(text: &str) -> ShellRequest {
    ShellRequest {
        command: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
        ..ShellRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_shell_takes_commands_and_keeps_output_and_errors_apart() {
    let scene = scene().await;
    let sandbox = scene.start(script(WAITING)).await;
    for (text, success) in [
        ("echo out; echo err >&2", true),
        ("echo out; echo err >&2; exit 3", false),
    ] {
        let open = sandbox.new_shell(ShellRequest::default()).await.unwrap();
        let (stdin, stdout, stderr) = pipes(open.streams);
        stdin.into_file().write_all(text.as_bytes()).unwrap();
        assert_eq!(read(stdout).await, "out\n");
        assert_eq!(read(stderr).await, "err\n");
        assert_eq!(patiently(open.shell.wait()).await, Ok(success));
        assert_eq!(
            open.shell.abort().await.unwrap_err().kind(),
            ErrorKind::ShellTerminated
        );
    }
    patiently(sandbox.abort()).await.unwrap();
    let error = sandbox.new_shell(ShellRequest::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SandboxAborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_has_the_tasks_environment_and_directory_and_what_was_asked_for() {
    let scene = scene().await;
    let sandbox = scene.start(script(WAITING)).await;
    let mut request = command("echo $HOME; pwd; echo $EXTRA; touch ../stop");
    request.environment.insert("EXTRA".into(), "more".into());
    request.environment.insert("TASK_WORKDIR".into(), "/".into());
    request.working_directory = Some("sub".into());
    let missing = sandbox.new_shell(request.clone()).await.err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::ResourceNotFound);
    let make = sandbox.new_shell(command("mkdir sub")).await.unwrap();
    assert_eq!(patiently(make.shell.wait()).await, Ok(true));
    let open = sandbox.new_shell(request).await.unwrap();
    let (_stdin, stdout, _stderr) = pipes(open.streams);
    let lines: Vec<String> = read(stdout).await.lines().map(str::to_owned).collect();
    assert_eq!(lines[1], format!("{}/sub", lines[0]));
    assert_eq!(lines[2], "more");
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(result.report().success);
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn aborting_a_shell_ends_its_processes_and_its_streams() {
    let scene = scene().await;
    let sandbox = scene.start(script(WAITING)).await;
    let open = sandbox
        .new_shell(command("echo started; sleep 1000 & sleep 1000"))
        .await
        .unwrap();
    let (_stdin, stdout, stderr) = pipes(open.streams);
    let mut stdout = stdout.into_file();
    let mut first = [0_u8; 8];
    stdout.read_exact(&mut first).unwrap();
    patiently(open.shell.abort()).await.unwrap();
    assert_eq!(
        patiently(open.shell.wait()).await.unwrap_err().kind(),
        ErrorKind::ShellAborted
    );
    assert_eq!(read(stdout.into()).await, "");
    assert_eq!(read(stderr).await, "");
    patiently(sandbox.abort()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_sandbox_aborts_its_shells() {
    let scene = scene().await;
    let sandbox = scene.start(script(WAITING)).await;
    let open = sandbox.new_shell(command("exec sleep 1000")).await.unwrap();
    patiently(sandbox.kill("a test".into(), 100)).await.unwrap();
    assert_eq!(
        patiently(open.shell.wait()).await.unwrap_err().kind(),
        ErrorKind::ShellAborted
    );
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(!result.report().success);
    let error = sandbox.new_shell(ShellRequest::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SandboxTerminated);
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_for_its_open_shells() {
    let scene = scene().await;
    let sandbox = scene.start(script(WAITING)).await;
    let open = sandbox
        .new_shell(command("touch stop; read line; echo \"got $line\" > from-shell"))
        .await
        .unwrap();
    let (stdin, ..) = pipes(open.streams);
    scene.task.wait_for_log("Result: SUCCEEDED").await;
    stdin.into_file().write_all(b"a line\n").unwrap();
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(result.report().success);
    assert_eq!(
        result.extract_file("from-shell".into()).await.unwrap().info.size,
        Some(11)
    );
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_that_can_be_changed_and_hangs_up() {
    let scene = scene().await;
    let sandbox = scene.start(script(WAITING)).await;
    let mut request = command(
        "trap 'stty size; exit 0' WINCH; echo $TERM; tty >/dev/null && stty size; echo go; \
         while true; do sleep 0.05; done",
    );
    request.tty = true;
    request.size = Some(TerminalSize {
        columns: 80,
        rows: 24,
    });
    let open = sandbox.new_shell(request).await.unwrap();
    let handle = terminal(open.streams);
    let mut reading = handle.try_clone().unwrap().into_file();
    let mut seen = String::new();
    while !seen.contains("go\r\n") {
        let mut chunk = [0_u8; 256];
        let length = reading.read(&mut chunk).unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    assert_eq!(seen.replace('\r', ""), "xterm-256color\n24 80\ngo\n");
    let size = TerminalSize {
        columns: 132,
        rows: 50,
    };
    open.shell.set_size(size).await.unwrap();
    assert_eq!(read(reading.into()).await.replace('\r', ""), "50 132\n");
    assert_eq!(patiently(open.shell.wait()).await, Ok(true));
    assert_eq!(
        open.shell.set_size(size).await.unwrap_err().kind(),
        ErrorKind::ShellTerminated
    );

    let mut request = command("trap 'touch hung-up; exit 0' HUP; echo go; while true; do sleep 0.05; done");
    request.tty = true;
    let open = sandbox.new_shell(request).await.unwrap();
    let handle = terminal(open.streams);
    let mut go = [0_u8; 2];
    handle
        .try_clone()
        .unwrap()
        .into_file()
        .read_exact(&mut go)
        .unwrap();
    drop(handle);
    patiently(open.shell.wait()).await.unwrap();
    patiently(sandbox.kill("done".into(), 0)).await.unwrap();
    let result = patiently(sandbox.wait()).await.unwrap();
    assert!(result.extract_file("hung-up".into()).await.is_ok());
    result.dispose().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_without_a_terminal_has_no_size() {
    let scene = scene().await;
    let sandbox = scene.start(script(WAITING)).await;
    let open = sandbox.new_shell(command("exec sleep 1000")).await.unwrap();
    let size = TerminalSize {
        columns: 80,
        rows: 24,
    };
    assert_eq!(
        open.shell.set_size(size).await.unwrap_err().kind(),
        ErrorKind::FeatureNotSupported
    );
    patiently(sandbox.abort()).await.unwrap();
}
