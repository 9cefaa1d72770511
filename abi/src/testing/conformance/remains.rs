//! Nothing is left when everything is disposed of: what there is in the process and on the machine, before and after
//! several rounds.
//!
//! A thread or a descriptor that is kept for later is no leak; one for each round is. So there is a round before the
//! first look, and what counts is growth by one a round.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use super::processes::descendants;
use super::server::Server;
use super::{Bench, Failure, Need, case_list, purpose};
use crate::engine::{ShellRequest, ShellStreams, feature};
use crate::testing::{FakeTask, handle_with};

const KILL: Need = Need::Feature(feature::KILL);
const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "remains/success", "Nothing is left of tasks that have ended by themselves", [SILENT], success;
    "remains/files", "Nothing is left of files that were put, written and extracted",
        [Need::Feature(feature::PUT_FILE), Need::Feature(feature::ARTIFACTS), SILENT], files;
    "remains/discard", "Nothing is left of builders that were discarded", [SILENT], discard;
    "remains/kill", "Nothing is left of tasks that were killed", [KILL, WAITS], kill;
    "remains/abort", "Nothing is left of tasks that were aborted", [WAITS], abort;
    "remains/background", "Nothing is left of processes that tasks leave behind",
        [Need::Payload(&purpose::PRINT_AND_LEAVE)], background;
    "remains/shells", "Nothing is left of shells", [Need::Feature(feature::SHELLS), WAITS, Need::DefaultShell], shells;
    "remains/volumes", "Nothing is left of volumes", [Need::Feature(feature::VOLUMES), SILENT], volumes;
    "remains/proxies", "Nothing is left of proxies", [Need::Feature(feature::PROXIES), SILENT], proxies;
    "remains/displays", "Nothing is left of displays",
        [Need::Feature(feature::DISPLAYS), Need::Payload(&purpose::SHOW_DISPLAY)], displays;
}

const TEXT: &str = "this task leaves nothing behind";
const ROUNDS: usize = 8;

/// Threads that wait for work are given up after a while; this is longer.
const SETTLING: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// What there is: by the name of what it is, all of them in words.
type Inventory = BTreeMap<&'static str, Vec<String>>;

fn lines(path: &str) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect()
}

fn links(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect()
}

fn threads() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            Some(
                fs::read_to_string(entry.path().join("comm"))
                    .ok()?
                    .trim_end()
                    .to_owned(),
            )
        })
        .collect()
}

/// All entries below, by their paths; links are not followed.
fn tree(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree(&entry.path(), found);
        }
    }
}

fn inventory(bench: &Bench) -> Inventory {
    let root = bench.services().root();
    let mut files = Vec::new();
    tree(root, &mut files);
    let temporary = std::env::temp_dir();
    // Nobody else's, if whoever runs the case has made one for it.
    if temporary.parent().is_some() && temporary.parent() == root.parent() {
        tree(&temporary, &mut files);
    }
    BTreeMap::from([
        (
            "processes",
            descendants().iter().map(ToString::to_string).collect(),
        ),
        ("threads", threads()),
        ("descriptors", links("/proc/self/fd")),
        ("files", files),
        ("mounts", lines("/proc/self/mountinfo")),
        ("users", lines("/etc/passwd")),
        ("groups", lines("/etc/group")),
        ("leases", bench.services().leases().into_keys().collect()),
    ])
}

/// What there is more of than before, by one a round: in words, or nothing.
fn growth(before: &Inventory, after: &Inventory) -> Option<String> {
    let mut text = String::new();
    for (kind, now) in after {
        let then = before.get(kind).map_or(&[][..], Vec::as_slice);
        if now.len() < then.len() + ROUNDS {
            continue;
        }
        let mut fresh = now.clone();
        for known in then {
            if let Some(index) = fresh.iter().position(|other| other == known) {
                fresh.swap_remove(index);
            }
        }
        fresh.truncate(5);
        text += &format!(
            "\n{} {kind} before, {} after {ROUNDS} rounds; of the new ones: {}",
            then.len(),
            now.len(),
            fresh.join(", ")
        );
    }
    (!text.is_empty()).then_some(text)
}

type Round<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// Looks, goes round, and looks again.
async fn rounds<'a>(bench: &'a Bench, round: impl Fn(&'a Bench) -> Round<'a>) -> Result<(), Failure> {
    for _ in 0..2 {
        round(bench).await?;
    }
    let before = inventory(bench);
    for _ in 0..ROUNDS {
        round(bench).await?;
    }
    bench.step("looking for what is left");
    let until = Instant::now() + SETTLING.min(bench.patience());
    loop {
        let Some(left) = growth(&before, &inventory(bench)) else {
            return Ok(());
        };
        if Instant::now() >= until {
            return Err(Failure::new(format!(
                "everything was disposed of, and something is left of each time:{left}"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The task's own descriptors would be counted.
fn over(bench: &Bench, task: &std::sync::Arc<FakeTask>) {
    bench.forget_task(task);
}

async fn success(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let ended = bench.succeed(&purpose::SILENT, &[]).await?;
            let task = ended.task.clone();
            ended.finish().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn files(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let built = bench.build_for(&purpose::SILENT, &[]).await?;
            let path = || bench.drive().path("box/put-by-check");
            let content = handle_with(&[7; 10_000]).map_err(|error| Failure::new(error.to_string()))?;
            let put = built.builder.put_file(path(), content, 0o600);
            bench.ok("SandboxBuilder.put_file", put).await?;
            let ended = built.start().await?.wait().await?;
            let call = ended.result.extract_file(path());
            let file = bench.ok("ResultSet.extract_file", call).await?;
            bench.read("an extracted file", file.content).await?;
            let call = ended.result.extract_folder(bench.drive().path("box"));
            let stream = bench.ok("ResultSet.extract_folder", call).await?;
            while bench.ok("FolderStream.next", stream.next()).await?.is_some() {}
            drop(stream);
            let task = ended.task.clone();
            ended.finish().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn discard(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let built = bench.build_for(&purpose::SILENT, &[]).await?;
            let task = built.task.clone();
            built.discard().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn kill(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
            running.printed(TEXT).await?;
            running.kill().await?;
            let ended = running.wait().await?;
            let task = ended.task.clone();
            ended.finish().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn abort(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
            running.printed(TEXT).await?;
            let task = running.task.clone();
            running.abort().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn background(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let ended = bench
                .succeed(&purpose::PRINT_AND_LEAVE, &[("text", TEXT)])
                .await?;
            let task = ended.task.clone();
            ended.finish().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn shells(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
            running.printed(TEXT).await?;
            let texts = bench.drive().shell_texts();
            let texts =
                texts.ok_or_else(|| Failure::new("the check file has no texts for the default shell"))?;
            let call = running.sandbox.new_shell(ShellRequest::default());
            let opened = bench.ok("Sandbox.new_shell", call).await?;
            let ShellStreams::Pipes {
                stdin,
                stdout,
                stderr,
            } = opened.streams
            else {
                return Err(Failure::new("a shell without a terminal was asked for"));
            };
            bench.write("a shell", stdin, texts.hello.into_bytes()).await?;
            bench.read("a shell's output", stdout).await?;
            bench.read("a shell's errors", stderr).await?;
            bench.ok("Shell.wait", opened.shell.wait()).await?;
            drop(opened.shell);
            let task = running.task.clone();
            running.abort().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn volumes(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let volume = super::volumes::new_volume(bench).await?;
            let built = bench.build_for(&purpose::SILENT, &[]).await?;
            super::volumes::attach(bench, &built, &*volume, false).await?;
            let ended = built.start().await?.wait().await?;
            let task = ended.task.clone();
            ended.finish().await?;
            bench.ok("Volume.dispose", volume.dispose()).await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn proxies(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let server = Server::start(bench.services().root(), "remains", |_| (200, String::new()))?;
            let built = bench.build_for(&purpose::SILENT, &[]).await?;
            let attach = built.builder.attach_proxy("checkproxy".into(), server.endpoint());
            bench.ok("SandboxBuilder.attach_proxy", attach).await?;
            let ended = built.start().await?.wait().await?;
            let task = ended.task.clone();
            ended.finish().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}

async fn displays(bench: &Bench) -> Result<(), Failure> {
    rounds(bench, |bench| {
        Box::pin(async move {
            let running = bench.start(&purpose::SHOW_DISPLAY, &[]).await?;
            let listed = running.sandbox.list_displays();
            for display in bench.ok("Sandbox.list_displays", listed).await? {
                // One that is watched is ended by the abort.
                let open = running.sandbox.open_display(display.name);
                bench.ok("Sandbox.open_display", open).await.map(drop)?;
            }
            let task = running.task.clone();
            running.abort().await?;
            over(bench, &task);
            Ok(())
        })
    })
    .await
}
