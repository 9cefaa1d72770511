//! Shells: processes beside the task's own, with streams of their own.

use std::io::Read;
use std::time::Duration;

use super::{Bench, Failure, Need, Running, ShellTexts, case_list, purpose, show};
use crate::engine::{OpenShell, Shell, ShellRequest, ShellStreams, TerminalSize, VariableClass, feature};
use crate::error::ErrorKind;
use crate::io::Handle;
use crate::runtime::blocking;

const SHELLS: Need = Need::Feature(feature::SHELLS);
const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);

case_list! {
    "shells/default", "The default shell takes commands, keeps output and errors apart, and says how it ended",
        [SHELLS, WAITS, Need::DefaultShell], default_shell;
    "shells/failing", "A shell that fails says so", [SHELLS, WAITS, Need::DefaultShell], failing;
    "shells/abort", "A shell that is aborted ends, with its streams, and the task goes on",
        [SHELLS, WAITS, Need::DefaultShell], abort;
    "shells/kill", "Killing the sandbox aborts its shells",
        [SHELLS, WAITS, Need::DefaultShell, Need::Feature(feature::KILL)], kill;
    "shells/after-the-end", "There is no new shell after the end",
        [SHELLS, Need::Payload(&purpose::SILENT)], after_the_end;
    "shells/no-size-without-terminal", "A shell without a terminal has no size",
        [SHELLS, WAITS, Need::DefaultShell], no_size;
    "shells/command", "A shell runs a command, with the task's environment and its own, where it was asked to",
        [SHELLS, WAITS, Need::ShellScripts], command;
    "shells/streams", "A megabyte goes through a shell and comes back whole",
        [SHELLS, WAITS, Need::ShellScripts], streams;
    "shells/terminal", "A shell on a terminal sees its size, and the size changes",
        [SHELLS, WAITS, Need::ShellScripts], terminal;
    "shells/outlives-the-task", "A task whose command has ended waits for its open shells",
        [SHELLS, Need::Payload(&purpose::WAIT_FOR_FILE), Need::ShellScripts], outlives;
}

const TEXT: &str = "this task waits for its shells";

/// In which an engine that does not wait for shells would have ended the task.
const FIRST_MOMENTS: Duration = Duration::from_millis(300);

async fn waiting(bench: &Bench) -> Result<Running<'_>, Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    Ok(running)
}

fn texts(bench: &Bench) -> Result<ShellTexts, Failure> {
    let texts = bench.drive().shell_texts();
    texts.ok_or_else(|| Failure::new("the check file has no texts for the default shell"))
}

fn request(bench: &Bench, script: &str) -> Result<ShellRequest, Failure> {
    let command = bench.drive().shell_command(script);
    Ok(ShellRequest {
        command: command.ok_or_else(|| Failure::new("the check file has no `shells.command`"))?,
        ..ShellRequest::default()
    })
}

/// A shell without a terminal.
struct Piped {
    shell: std::sync::Arc<dyn Shell>,
    stdin: Handle,
    stdout: Handle,
    stderr: Handle,
}

async fn open(bench: &Bench, running: &Running<'_>, request: ShellRequest) -> Result<Piped, Failure> {
    let call = running.sandbox.new_shell(request);
    let OpenShell { shell, streams } = bench.ok("Sandbox.new_shell", call).await?;
    match streams {
        ShellStreams::Pipes {
            stdin,
            stdout,
            stderr,
        } => Ok(Piped {
            shell,
            stdin,
            stdout,
            stderr,
        }),
        ShellStreams::Terminal(_) => Err(Failure::new(
            "Sandbox.new_shell answers a terminal, which was not asked for",
        )),
    }
}

async fn default_shell(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let piped = open(bench, &running, ShellRequest::default()).await?;
    let hello = texts(bench)?.hello.into_bytes();
    bench.write("the shell's stdin", piped.stdin, hello).await?;
    let stdout = bench.read("the shell's stdout", piped.stdout).await?;
    let stderr = bench.read("the shell's stderr", piped.stderr).await?;
    Failure::unless_equal("the shell's stdout", show(&stdout), show(b"Hello World"))?;
    Failure::unless_equal("the shell's stderr", show(&stderr), show(b"No error!"))?;
    for what in ["Shell.wait", "Shell.wait, the second time"] {
        let success = bench.ok(what, piped.shell.wait()).await?;
        Failure::unless_equal(what, success, true)?;
    }
    let ended = [ErrorKind::ShellTerminated];
    bench
        .refused("Shell.abort after its end", &ended, piped.shell.abort())
        .await?;
    drop(piped.shell);
    running.abort().await
}

async fn failing(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let piped = open(bench, &running, ShellRequest::default()).await?;
    let fail = texts(bench)?.fail.into_bytes();
    bench.write("the shell's stdin", piped.stdin, fail).await?;
    let success = bench.ok("Shell.wait", piped.shell.wait()).await?;
    Failure::unless_equal("Shell.wait of a shell that fails", success, false)?;
    drop((piped.shell, piped.stdout, piped.stderr));
    running.abort().await
}

/// A shell that runs until it is ended.
async fn busy(bench: &Bench, running: &Running<'_>) -> Result<Piped, Failure> {
    let mut piped = open(bench, running, ShellRequest::default()).await?;
    let text = texts(bench)?.wait.into_bytes();
    let stdin = piped.stdin.try_clone();
    let stdin = stdin.map_err(|error| Failure::new(error.to_string()))?;
    let null = std::fs::File::open("/dev/null").map_err(|error| Failure::new(error.to_string()))?;
    piped.stdin = null.into();
    bench.write("the shell's stdin", stdin, text).await?;
    Ok(piped)
}

async fn is_aborted(bench: &Bench, piped: Piped) -> Result<(), Failure> {
    let aborted = [ErrorKind::ShellAborted];
    bench
        .refused("Shell.wait after that", &aborted, piped.shell.wait())
        .await?;
    bench.read("the aborted shell's stdout", piped.stdout).await?;
    bench.read("the aborted shell's stderr", piped.stderr).await?;
    Ok(())
}

async fn abort(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let piped = busy(bench, &running).await?;
    bench.ok("Shell.abort", piped.shell.abort()).await?;
    is_aborted(bench, piped).await?;
    // The task is still there: it can be aborted.
    running.abort().await
}

async fn kill(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let piped = busy(bench, &running).await?;
    running.kill().await?;
    is_aborted(bench, piped).await?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    ended.finish().await.map(drop)
}

async fn after_the_end(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    let call = ended.sandbox.new_shell(ShellRequest::default());
    let terminated = [ErrorKind::SandboxTerminated];
    bench
        .refused("Sandbox.new_shell after the end", &terminated, call)
        .await?;
    ended.finish().await.map(drop)
}

async fn no_size(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let piped = busy(bench, &running).await?;
    let size = TerminalSize {
        columns: 80,
        rows: 24,
    };
    bench
        .refused(
            "Shell.set_size without a terminal",
            &[ErrorKind::FeatureNotSupported],
            piped.shell.set_size(size),
        )
        .await?;
    drop(piped);
    running.abort().await
}

async fn command(bench: &Bench) -> Result<(), Failure> {
    let built = bench
        .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
        .await?;
    let has_environment = bench.description().has(feature::ENVIRONMENT);
    if has_environment {
        built.set("TCW_OF_TASK", "task", VariableClass::Payload).await?;
    }
    let running = built.start().await?;
    running.printed(TEXT).await?;
    let make = open(bench, &running, request(bench, "mkdir below")?).await?;
    let made = bench.ok("Shell.wait", make.shell.wait()).await?;
    Failure::unless_equal("`mkdir` in a shell", made, true)?;
    let mut request = request(bench, "echo \"$TCW_OF_TASK:$TCW_OF_SHELL\"; pwd; exit 0")?;
    request.environment.insert("TCW_OF_SHELL".into(), "shell".into());
    request.working_directory = Some(bench.drive().path("below"));
    let piped = open(bench, &running, request).await?;
    drop(piped.stdin);
    let output = bench.read("the shell's stdout", piped.stdout).await?;
    let output = String::from_utf8_lossy(&output).into_owned();
    let mut lines = output.lines();
    let expected = if has_environment { "task:shell" } else { ":shell" };
    Failure::unless_equal(
        "the task's and the shell's own variable in a shell",
        lines.next(),
        Some(expected),
    )?;
    let place = lines.next().unwrap_or_default();
    Failure::unless(place.ends_with("/below"), || {
        format!("expected the shell in the folder below, seen {place:?}")
    })?;
    drop((piped.shell, piped.stderr, make));
    running.abort().await
}

async fn streams(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let piped = open(bench, &running, request(bench, "cat")?).await?;
    let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
    let (written, received) = tokio::join!(
        bench.write("the shell's stdin", piped.stdin, sent.clone()),
        bench.read("the shell's stdout", piped.stdout)
    );
    written?;
    Failure::unless(received? == sent, || {
        "a megabyte that went through `cat` came back changed, or not whole".to_owned()
    })?;
    let success = bench.ok("Shell.wait", piped.shell.wait()).await?;
    Failure::unless_equal("Shell.wait", success, true)?;
    drop((piped.shell, piped.stderr));
    running.abort().await
}

async fn terminal(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    // Commands are answered one by one, so nothing here depends on when a signal arrives.
    let script = "stty -echo; test -t 0 && stty size; while read line; do stty size; done";
    let mut request = request(bench, script)?;
    request.tty = true;
    request.size = Some(TerminalSize {
        columns: 80,
        rows: 24,
    });
    let opened = bench
        .within(
            "Sandbox.new_shell on a terminal",
            running.sandbox.new_shell(request),
        )
        .await?;
    let opened = match opened {
        Err(error) if Bench::is_unsupported(&error) => {
            running.abort().await?;
            return Err(Failure::does_not_apply(format!(
                "shells have no terminals: {}",
                error.message()
            )));
        }
        other => {
            bench
                .ok("Sandbox.new_shell on a terminal", async { other })
                .await?
        }
    };
    let ShellStreams::Terminal(handle) = opened.streams else {
        return Err(Failure::new(
            "Sandbox.new_shell answers pipes where a terminal was asked for",
        ));
    };
    let clone = || {
        let copy = handle.try_clone();
        copy.map_err(|error| Failure::new(error.to_string()))
    };
    says(bench, clone()?, "24 80").await?;
    let size = TerminalSize {
        columns: 132,
        rows: 50,
    };
    bench.ok("Shell.set_size", opened.shell.set_size(size)).await?;
    bench.write("the terminal", clone()?, b"\n".to_vec()).await?;
    says(bench, clone()?, "50 132").await?;
    bench.ok("Shell.abort", opened.shell.abort()).await?;
    bench
        .refused(
            "Shell.set_size after its end",
            &[ErrorKind::ShellTerminated, ErrorKind::ShellAborted],
            opened.shell.set_size(size),
        )
        .await?;
    drop((opened.shell, handle));
    running.abort().await
}

/// Reads from a terminal until it has said so.
async fn says(bench: &Bench, handle: Handle, expected: &'static str) -> Result<(), Failure> {
    let seen = blocking(move || {
        let mut file = handle.into_file();
        let mut text = String::new();
        let mut chunk = [0_u8; 256];
        while !text.contains(expected) {
            match file.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(length) => text.push_str(&String::from_utf8_lossy(&chunk[..length])),
            }
        }
        Ok(text)
    });
    let seen = bench
        .ok(&format!("reading {expected:?} from the terminal"), seen)
        .await?;
    Failure::unless(seen.contains(expected), || {
        format!("expected rows and columns {expected:?} on the terminal, seen {seen:?}")
    })
}

async fn outlives(bench: &Bench) -> Result<(), Failure> {
    let stop = bench.drive().path("stop");
    let running = bench
        .start(&purpose::WAIT_FOR_FILE, &[("text", TEXT), ("file", &stop)])
        .await?;
    running.printed(TEXT).await?;
    let script = format!("printf x > '{stop}'; echo stopped; read line; echo \"got $line\" > '{stop}'");
    let piped = open(bench, &running, request(bench, &script)?).await?;
    let stdout = piped.stdout;
    let first = blocking(move || {
        let mut first = [0_u8; 8];
        stdout.into_file().read_exact(&mut first)?;
        Ok(first)
    });
    bench.ok("the shell's first words", first).await?;
    // The task's command ends by itself now, and that has to be no end yet. It cannot be waited for that nothing
    // happens, so this is a look at the first moments.
    {
        let sandbox = running.sandbox.clone();
        let early = tokio::time::timeout(FIRST_MOMENTS, sandbox.wait()).await;
        Failure::unless(early.is_err(), || {
            "Sandbox.wait has answered although a shell is open".to_owned()
        })?;
    }
    bench
        .write("the shell's stdin", piped.stdin, b"a line\n".to_vec())
        .await?;
    let success = bench.ok("Shell.wait", piped.shell.wait()).await?;
    Failure::unless_equal("Shell.wait", success, true)?;
    drop((piped.shell, piped.stderr));
    let ended = running.wait().await?;
    ended.expect_success(true)?;
    ended.finish().await.map(drop)
}
