//! One case: starts the process that runs it, times it, and ends everything below it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::descendants::{self, Descendant};
use super::job::{Job, Outcome, Place, Task};

/// How long what a library ended may still be seen afterwards.
const DYING: Duration = Duration::from_secs(2);

/// What the case's process wrote on its streams is shown by its end.
const TAIL: usize = 10;

/// Set in the process that runs the case, so that there is something that no task may inherit.
const INHERITED: (&str, &str) = ("TCW_CHECK_INHERITED", "seen");

/// Runs the case whose directory is `directory`, and writes its outcome there. Whatever happens, nothing of it is left
/// when this returns.
pub async fn supervise(directory: &Path) -> io::Result<()> {
    let place = Place::new(directory.to_owned());
    let job = place.job()?;
    let mut terminate = signal(SignalKind::terminate())?;
    descendants::adopt_orphans(job.dispatcher)?;
    let outcome = tokio::select! {
        outcome = run_stages(&place, &job) => Some(outcome?),
        _ = terminate.recv() => None,
    };
    // What would not die is shown with what was wrong before, or is the outcome itself.
    let immortal = tokio::task::spawn_blocking(descendants::end_all).await?;
    match outcome {
        Some(Outcome::Passed) if !immortal.is_empty() => {
            let text = format!("processes that cannot be killed were left: {}", names(&immortal));
            place.write("outcome", &Outcome::Failed(text))
        }
        Some(outcome) => place.write("outcome", &outcome),
        None => {
            if descendants::lost_parent(job.dispatcher)
                && let Some(scratch) = place.path().parent()
            {
                // Killed in a way that it could not clean up after. Several supervisors may come here at one time, and
                // what one of them finds removed is no error.
                let _ = fs::remove_dir_all(scratch);
            }
            Ok(())
        }
    }
}

/// Whoever has ended below, and how.
type Ended = (Pid, WaitStatus);

async fn run_stages(place: &Place, job: &Job) -> io::Result<Outcome> {
    // One for all stages: what one has left may keep its reaper waiting, which then takes the children of the next.
    let (sender, mut reaped) = mpsc::unbounded_channel::<Ended>();
    for stage in 0..job.stages {
        let last = stage + 1 == job.stages;
        let outcome = run_stage(place, job, stage, last, &sender, &mut reaped).await?;
        if last || outcome != Outcome::Passed {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Failed("the case has no stages".to_owned()))
}

async fn run_stage(
    place: &Place,
    job: &Job,
    stage: usize,
    last: bool,
    sender: &mpsc::UnboundedSender<Ended>,
    reaped: &mut mpsc::UnboundedReceiver<Ended>,
) -> io::Result<Outcome> {
    let output = File::options().create(true).append(true).open(place.output())?;
    let temporary = place.temporary();
    fs::create_dir_all(&temporary)?;
    let child = Command::new(std::env::current_exe()?)
        .args(["library", "run-case"])
        .arg(place.path())
        .args(["--stage", &stage.to_string()])
        .env(INHERITED.0, INHERITED.1)
        // What a process that dies leaves there goes with the case.
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()?;
    let pid = Pid::from_child(&child);
    // Orphans become zombies here. A thread takes them all, and the child among them, so `child` is never waited for.
    drop(child);
    let sender = sender.clone();
    std::thread::Builder::new().name("reaper".into()).spawn(move || {
        descendants::reap(|pid, status| {
            // Nobody listens any more when the stage is over.
            let _ = sender.send((pid, status));
        });
    })?;
    let limit = Duration::from_millis(job.timeout_ms);
    let ended = tokio::time::timeout(limit, async {
        loop {
            match reaped.recv().await {
                Some((of, status)) if of == pid => return Some(status),
                Some(_) => {}
                None => return None,
            }
        }
    });
    let result = || place.read::<Outcome>(&format!("result-{stage}"));
    let Ok(status) = ended.await else {
        if let Ok(outcome @ (Outcome::Failed(_) | Outcome::NotApplicable(_))) = result() {
            // It hung while it cleaned up after that.
            return Ok(outcome);
        }
        let text = format!("it did not end within {} s", limit.as_secs_f32());
        return Ok(Outcome::Failed(with_place(text, place)));
    };
    let Ok(outcome) = result() else {
        let text = format!("the process that ran it {}", in_words(status));
        return Ok(Outcome::Failed(with_place(text, place)));
    };
    if outcome != Outcome::Passed || !last {
        return Ok(outcome);
    }
    if status.and_then(WaitStatus::exit_status) != Some(0) {
        let text = format!("after the case had passed, its process {}", in_words(status));
        return Ok(Outcome::Failed(with_place(text, place)));
    }
    if job.task == Task::Describe {
        return Ok(outcome);
    }
    let left = tokio::task::spawn_blocking(|| descendants::left_behind(DYING)).await?;
    Ok(if left.is_empty() {
        outcome
    } else {
        Outcome::Failed(format!(
            "processes were left behind when everything was disposed of: {}",
            names(&left)
        ))
    })
}

fn names(processes: &[Descendant]) -> String {
    let names: Vec<String> = processes
        .iter()
        .map(|process| format!("{} ({})", process.name, process.pid))
        .collect();
    names.join(", ")
}

fn in_words(status: Option<WaitStatus>) -> String {
    let Some(status) = status else {
        return "was lost".to_owned();
    };
    if let Some(number) = status.terminating_signal() {
        let name = match number {
            4 => " (SIGILL)",
            6 => " (SIGABRT)",
            7 => " (SIGBUS)",
            9 => " (SIGKILL)",
            11 => " (SIGSEGV)",
            _ => "",
        };
        return format!("was ended by signal {number}{name}");
    }
    format!("exited with status {}", status.exit_status().unwrap_or(-1))
}

/// Adds where the case was, and what its process wrote last.
fn with_place(mut text: String, place: &Place) -> String {
    if let Ok(step) = fs::read_to_string(place.step()) {
        text += &format!("; the last step was: {step}");
    }
    let output = fs::read(place.output()).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    let lines: Vec<&str> = output.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL)..];
    if !tail.is_empty() {
        text += "\nthe end of what it wrote:";
        for line in tail {
            text += "\n  ";
            text.extend(line.chars().take(200));
        }
    }
    text
}
