//! What a worker that was killed has left, and what the next one makes of it.
//!
//! Each case has two stages. The process of the first is killed when something is there; that of the second finds the
//! leases, has a live sandbox of its own, and recovers.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::processes::{Process, descendants};
use super::{Bench, Failure, Need, case_list, purpose};
use crate::engine::{LeaseRecord, feature};
use crate::testing::handle_with;

const RECOVERY: Need = Need::Feature(feature::RECOVERY);
const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "recovery/nothing", "Without leases there is nothing to recover, and that is no error", [RECOVERY], nothing;
    "recovery/running", "Of a sandbox that ran when the worker was killed nothing is left, and live ones go on",
        [RECOVERY, WAITS], leave_running, recover;
    "recovery/resisting", "The same for a task that does not listen",
        [RECOVERY, WAITS, Need::Payload(&purpose::PRINT_AND_RESIST)], leave_resisting, recover;
    "recovery/several", "The same for several sandboxes", [RECOVERY, WAITS], leave_several, recover;
    "recovery/background", "The same for a process that a task has left behind itself, and its session with it",
        [RECOVERY, WAITS, Need::Scripts], leave_background, recover;
    "recovery/builder", "The same for a builder that was not started", [RECOVERY, WAITS, SILENT], leave_builder, recover;
    "recovery/results", "The same for results that were not disposed of", [RECOVERY, WAITS, SILENT], leave_results, recover;
}

const TEXT: &str = "this task waits for its worker to be killed";

/// Written by the first stage.
const LEFT: &str = "left-by-check";

/// What the second stage looks for.
#[derive(Serialize, Deserialize)]
struct Left {
    processes: Vec<Process>,
    folders: Vec<PathBuf>,
}

/// The end of a first stage: what there is now will be looked for.
fn leave(bench: &Bench) -> Result<(), Failure> {
    let root = bench.services().root();
    let folders = bench.services().folders();
    let folders = folders.map_err(|error| Failure::new(format!("the case's directory: {error}")))?;
    let left = Left {
        processes: descendants(),
        folders: folders.iter().map(|name| root.join(name)).collect(),
    };
    let text = serde_json::to_vec(&left).map_err(|error| Failure::new(error.to_string()))?;
    fs::write(root.join(LEFT), text).map_err(|error| Failure::new(format!("the case's directory: {error}")))
}

async fn nothing(bench: &Bench) -> Result<(), Failure> {
    let report = bench
        .ok("Engine.recover", bench.engine().recover(Vec::new()))
        .await?;
    Failure::unless_equal("leases that are released, of none", report.released, Vec::new())
}

async fn leave_running(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    leave(bench)
}

async fn leave_resisting(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_RESIST, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    leave(bench)
}

async fn leave_several(bench: &Bench) -> Result<(), Failure> {
    let most = bench.description().max_concurrency.unwrap_or(3).clamp(1, 3);
    for number in 0..most {
        let text = format!("{TEXT}, number {number}");
        let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", &text)]).await?;
        running.printed(&text).await?;
    }
    leave(bench)
}

async fn leave_background(bench: &Bench) -> Result<(), Failure> {
    // One that gives up its session and its parent, if there is a program for that.
    let script = format!(
        "(setsid sleep 100000 </dev/null >/dev/null 2>&1 &); (sleep 100000 &); sleep 0.2; echo '{TEXT}'; \
         while :; do sleep 1; done"
    );
    let payload = bench.drive().script_payload(&script)?;
    let running = bench.build(payload).await?.start().await?;
    running.printed(TEXT).await?;
    leave(bench)
}

async fn leave_builder(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    if bench.description().has(feature::PUT_FILE) {
        let content = handle_with(b"left behind").map_err(|error| Failure::new(error.to_string()))?;
        let put = built.builder.put_file(bench.drive().path("left"), content, 0o644);
        bench.ok("SandboxBuilder.put_file", put).await?;
    }
    leave(bench)
}

async fn leave_results(bench: &Bench) -> Result<(), Failure> {
    bench.succeed(&purpose::SILENT, &[]).await?;
    leave(bench)
}

async fn recover(bench: &Bench) -> Result<(), Failure> {
    let trouble = |error: &dyn std::fmt::Display| Failure::new(format!("what the first stage left: {error}"));
    let text = fs::read(bench.services().root().join(LEFT)).map_err(|error| trouble(&error))?;
    let left: Left = serde_json::from_slice(&text).map_err(|error| trouble(&error))?;
    let leases = bench
        .services()
        .leases_of_the_dead()
        .map_err(|error| trouble(&error))?;
    let outlives = left.processes.iter().any(Process::lives);
    Failure::unless(!outlives || !leases.is_empty(), || {
        format!(
            "processes outlive the worker that started them, and there is no lease for them: {}",
            names(&left.processes)
        )
    })?;
    // Of a sandbox that is live nothing may be taken.
    let live = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    live.printed(TEXT).await?;
    for when in ["", ", once more"] {
        release(bench, when, &leases).await?;
    }
    for lease in &leases {
        bench
            .services()
            .forget_lease(&lease.id)
            .map_err(|error| trouble(&error))?;
    }
    Failure::unless(!left.processes.iter().any(Process::lives), || {
        format!(
            "processes of a dead worker are left after Engine.recover: {}",
            names(&left.processes)
        )
    })?;
    // The host removes its temporary folders itself, before engines recover; here nobody has done so.
    let kept: Vec<&PathBuf> = left.folders.iter().filter(|folder| has_files(folder)).collect();
    Failure::unless(kept.is_empty(), || {
        format!("files of a dead worker are left after Engine.recover: {kept:?}")
    })?;
    live.abort().await
}

fn has_files(folder: &PathBuf) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// A second time, too: a worker that dies between recovery and the note of it recovers again.
async fn release(bench: &Bench, when: &str, leases: &[LeaseRecord]) -> Result<(), Failure> {
    let what = format!("Engine.recover{when}");
    let report = bench.ok(&what, bench.engine().recover(leases.to_vec())).await?;
    let mut released = report.released;
    released.sort();
    let mut expected: Vec<String> = leases.iter().map(|lease| lease.id.clone()).collect();
    expected.sort();
    Failure::unless_equal(
        &format!("the leases that {what} has released"),
        &released,
        &expected,
    )
    .map_err(|failure| failure.with(&report.messages.join("\n")))?;
    Failure::unless(leases.is_empty() || !report.messages.is_empty(), || {
        format!("{what} has released leases and does not say what it did")
    })
}

fn names(processes: &[Process]) -> String {
    let names: Vec<String> = processes
        .iter()
        .filter(|process| process.lives())
        .map(ToString::to_string)
        .collect();
    names.join(", ")
}
