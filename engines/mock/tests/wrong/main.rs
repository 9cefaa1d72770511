//! The harder conformance cases have to fail for an engine that breaks the promise they are about: the mock engine, with
//! one promise of it broken at a time.

mod engine;
mod sandbox;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tcw_abi::testing::conformance::{Drive, Setting, cases, run_engine_case};

use engine::WrongProvider;

/// The promise that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    // The end.
    AbortKeepsResults,
    EarlyWaitsNeverEnd,
    LateAbortWorks,
    KillHoldsUpAbort,
    AbandonedWaitEndsTask,
    KillIsSuccess,
    DiscardFailsAfterStart,
    // Cancellation.
    StartHangsWhenCancelled,
    StartBreaksWhenCancelled,
    CancelledEndIsForgotten,
    // Stages.
    StartsAgain,
    DiscardedTakesFiles,
    ResultsOutliveDispose,
    // Several at one time.
    AbortReachesAll,
    MaximumIsNoMaximum,
    OutputIsShared,
    // Volumes.
    VolumeIsForgotten,
    VolumesAreOne,
    ReadOnlyIsIgnored,
    DisposedVolumesStay,
    ModesAreLost,
    BuildsAgain,
    PathsAreStripped,
    // Proxies.
    AddressDiffers,
    ProxiesAreShared,
    EveryNameIsTaken,
    ProxyIsRoot,
    // Displays.
    NoProtocol,
    DisplaysStayOpen,
    EveryDisplayIsThere,
    DisplayIsRenamed,
    // Recovery.
    ReleasesWhatIsNot,
    // What is left.
    KeepsDescriptor,
    KeepsThread,
    KeepsProcess,
    KeepsFolder,
    KeepsLease,
}

/// Removed when it is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn drive(wrong: Wrong) -> Value {
    json!({
        // Short where something has to be waited for in vain.
        "timeout": if wrong == Wrong::Nothing { 60 } else { 4 },
        "engine": { "maxConcurrency": 8 },
        "payloads": {
            "print-and-wait": { "function": "write-log-wait", "argument": "{text}" },
            "print-and-resist": { "function": "write-log-wait", "argument": "{text}" },
            "print-variable": { "function": "print-env-var", "argument": "{variable}" },
            "silent": {},
            "print-file": { "function": "print-file", "argument": "{file}" },
            "print-mode": { "function": "print-mode", "argument": "{file}" },
            "ping-proxy": { "function": "ping-proxy", "argument": "{url}" },
            "write-volume": { "function": "write-volume", "argument": "{mount}" },
            "check-volume": { "function": "read-volume", "argument": "{mount}" },
            "show-display": { "function": "wait" }
        },
        "displays": [{ "name": "MockDisplay", "width": 480, "height": 640 }]
    })
}

/// Runs a case. Answers why it failed.
async fn run(name: &str, wrong: Wrong) -> Option<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("tcw-wrong-{}-{number}", std::process::id()));
    let directory = Directory(directory);
    let drive: Drive = serde_json::from_value(drive(wrong)).unwrap();
    let case = cases()
        .find(|case| case.name == name)
        .expect("there is such a case");
    let setting = Setting::new(drive, directory.0.clone());
    let outcome = run_engine_case(case, 0, Arc::new(WrongProvider::new(wrong)), setting).await;
    outcome.err().map(|failure| {
        assert!(failure.applies(), "{name} does not apply: {failure}");
        failure.to_string()
    })
}

const TABLE: &[(Wrong, &str, &str)] = &[
    (
        Wrong::AbortKeepsResults,
        "abort/running",
        "Sandbox.wait after abort has to answer SandboxAborted, and succeeded",
    ),
    (
        Wrong::EarlyWaitsNeverEnd,
        "abort/waited-for",
        "Sandbox.wait, begun before the abort has to answer SandboxAborted, and answered: the wait was lost: ",
    ),
    (
        Wrong::LateAbortWorks,
        "abort/after-the-end",
        "Sandbox.abort after the end has to answer SandboxTerminated, and succeeded",
    ),
    (
        Wrong::KillHoldsUpAbort,
        "abort/while-killing",
        "Sandbox.abort, while a kill waits for the task did not return within 3 s",
    ),
    (
        Wrong::AbandonedWaitEndsTask,
        "abort/abandoned-wait",
        "Sandbox.abort has to succeed, and answered: the sandbox has ended (SandboxTerminated)",
    ),
    (
        Wrong::KillIsSuccess,
        "kill/waited-for",
        "the task has to end as no success, and its report says a success",
    ),
    (
        Wrong::DiscardFailsAfterStart,
        "discard/while-starting",
        "SandboxBuilder.discard while it starts has to succeed, and answered: it has been started",
    ),
    (
        Wrong::StartHangsWhenCancelled,
        "cancel/while-starting",
        "SandboxBuilder.start of a cancelled task did not return within 3 s",
    ),
    (
        Wrong::StartBreaksWhenCancelled,
        "cancel/before-start",
        "SandboxBuilder.start of a cancelled task has to work, or to answer Cancelled or SandboxAborted, and answered: ",
    ),
    (
        Wrong::CancelledEndIsForgotten,
        "cancel/ended",
        "Sandbox.wait after a late cancellation has to succeed, and answered: it was cancelled",
    ),
    (
        Wrong::StartsAgain,
        "late/starts-in-parallel",
        "of four starts at one time one has to work, and 4 did",
    ),
    (
        Wrong::DiscardedTakesFiles,
        "late/builder-discarded",
        "SandboxBuilder.put_file after discard has to answer ContractViolation, and succeeded",
    ),
    (
        Wrong::ResultsOutliveDispose,
        "late/results-disposed",
        "ResultSet.extract_file after dispose has to answer ContractViolation or ResourceNotFound, and succeeded",
    ),
    (
        Wrong::AbortReachesAll,
        "concurrency/one-aborted",
        "Sandbox.kill has to succeed, and answered: the sandbox has ended (SandboxTerminated)",
    ),
    (
        Wrong::MaximumIsNoMaximum,
        "concurrency/one-too-many",
        "a sandbox too many beside builders has to answer MaxConcurrencyExceeded, and succeeded",
    ),
    (
        Wrong::OutputIsShared,
        "concurrency/maximum",
        "expected \"this is task number ",
    ),
    (
        Wrong::VolumeIsForgotten,
        "volumes/kept",
        "a task that looks for what was written in the sandbox before: expected a success, seen no success",
    ),
    (
        Wrong::VolumesAreOne,
        "volumes/apart",
        "two volumes have the id \"mock-volume-",
    ),
    (
        Wrong::ReadOnlyIsIgnored,
        "volumes/write-read-only",
        "a task that writes into a read-only volume: expected no success, seen a success",
    ),
    (
        Wrong::DisposedVolumesStay,
        "volumes/disposed",
        "attaching a volume that was disposed of has to answer ResourceNotFound or ContractViolation, and succeeded",
    ),
    (
        Wrong::ModesAreLost,
        "volume-builders/modes",
        "the permissions of a volume's file: expected \"\\\"755",
    ),
    (
        Wrong::BuildsAgain,
        "volume-builders/once",
        "VolumeBuilder.write_folder after build has to answer ContractViolation, and succeeded",
    ),
    (
        Wrong::PathsAreStripped,
        "volume-builders/escapes",
        "VolumeBuilder.write_folder(\"../escaped-by-check\") has to answer MalformedPayload, and succeeded",
    ),
    (
        Wrong::AddressDiffers,
        "proxies/ping",
        "the address of a proxy, which has to be known from its name alone: expected ",
    ),
    (
        Wrong::ProxiesAreShared,
        "proxies/elsewhere",
        "a task that pings a proxy: expected success false and \"Pinging\" in its output, seen success true",
    ),
    (
        Wrong::EveryNameIsTaken,
        "proxies/bad-names",
        "SandboxBuilder.attach_proxy(\"ab\") has to answer MalformedPayload, and succeeded",
    ),
    (
        Wrong::ProxyIsRoot,
        "proxies/several",
        "SandboxBuilder.attach_proxy(\"abcdefghijklmnopqrstuv\") has to succeed, and answered: there is a proxy",
    ),
    (
        Wrong::NoProtocol,
        "displays/handshake",
        "the display \"MockDisplay\" does not speak RFB: it begins with \"hello, world\"",
    ),
    (
        Wrong::DisplaysStayOpen,
        "displays/kill",
        "the end of a display after a kill did not return within 3 s",
    ),
    (
        Wrong::EveryDisplayIsThere,
        "displays/unknown",
        "Sandbox.open_display(\"no-such-display-of-check\") has to answer NoSuchDisplay, and succeeded",
    ),
    (
        Wrong::DisplayIsRenamed,
        "displays/listed",
        "the names of the displays: expected [\"MockDisplay\"], seen [\"screen\"]",
    ),
    (
        Wrong::ReleasesWhatIsNot,
        "recovery/nothing",
        "leases that are released, of none: expected [], seen [\"lease-of-nobody\"]",
    ),
    (Wrong::KeepsDescriptor, "remains/success", " descriptors before, "),
    (Wrong::KeepsThread, "remains/success", " threads before, "),
    (Wrong::KeepsProcess, "remains/discard", " processes before, "),
    (Wrong::KeepsFolder, "remains/abort", " files before, "),
    (Wrong::KeepsLease, "remains/kill", " leases before, "),
];

// One test: some cases count the descriptors and the threads of the process.
#[tokio::test(flavor = "multi_thread")]
async fn each_broken_promise_fails_the_case_that_is_about_it_and_unbroken_none_does() {
    let _ends_what_is_left = engine::EndsProcesses;
    for (wrong, case, words) in TABLE {
        assert_eq!(run(case, Wrong::Nothing).await, None, "{case}");
        let Some(failure) = run(case, *wrong).await else {
            panic!("{case} passes although {wrong:?}");
        };
        let found = match words.starts_with(' ') {
            true => {
                failure.starts_with("everything was disposed of, and something is left of each time:")
                    && failure.contains(words)
            }
            false => failure.starts_with(words),
        };
        assert!(found, "{case}, {wrong:?}: {failure}");
    }
}
