//! A task that is cancelled, in every state. The host aborts what runs; an engine may also see it by itself.

use super::{Bench, Built, Failure, Need, case_list, purpose};
use crate::engine::feature;
use crate::error::ErrorKind;
use crate::services::CancelReason;
use crate::testing::handle_with;

const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "cancel/before-start",
        "The start of a task that was cancelled returns: with a sandbox that can be aborted, Cancelled or SandboxAborted",
        [WAITS], before_start;
    "cancel/while-starting", "The same for a task that is cancelled while it starts", [WAITS], while_starting;
    "cancel/building", "A builder takes files, or says Cancelled, and is discarded when its task was cancelled",
        [SILENT, Need::Feature(feature::PUT_FILE)], building;
    "cancel/running", "A task that is cancelled while it runs is aborted", [WAITS], running;
    "cancel/waited-for", "A task that is cancelled and aborted while somebody waits is SandboxAborted",
        [WAITS], waited_for;
    "cancel/ended", "What was cancelled after its end keeps its results", [SILENT], ended;
}

const TEXT: &str = "this task waits to be cancelled";
const REASON: CancelReason = CancelReason::Cancelled;
const ABORTED: &[ErrorKind] = &[ErrorKind::SandboxAborted];

/// Starts it, with a cancellation under way or before, and ends it as the host does.
async fn starts_or_not(bench: &Bench, built: Built<'_>, cancel_now: bool) -> Result<(), Failure> {
    let start = built.builder.start();
    let cancel = async {
        if cancel_now {
            built.task.cancel(REASON);
        }
    };
    // The call is made before the cancellation, and is looked at again after it.
    let both = async { tokio::join!(biased; start, cancel) };
    let (started, ()) = bench
        .within("SandboxBuilder.start of a cancelled task", both)
        .await?;
    match started {
        Ok(sandbox) => {
            let running = built.started(sandbox).await?;
            end(bench, running).await
        }
        Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::SandboxAborted) => {
            built.discard().await
        }
        Err(error) => Err(Failure::new(format!(
            "SandboxBuilder.start of a cancelled task has to work, or to answer Cancelled or SandboxAborted, and \
             answered: {error}"
        ))),
    }
}

/// Aborts it, unless the engine has done so by itself.
async fn end(bench: &Bench, running: super::Running<'_>) -> Result<(), Failure> {
    match bench
        .within("Sandbox.abort of a cancelled task", running.sandbox.abort())
        .await?
    {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::SandboxTerminated => {}
        Err(error) => {
            return Err(Failure::new(format!(
                "Sandbox.abort of a cancelled task has to work, or to answer SandboxTerminated, and answered: {error}"
            )));
        }
    }
    running.aborted().await
}

async fn before_start(bench: &Bench) -> Result<(), Failure> {
    let built = bench
        .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
        .await?;
    built.task.cancel(REASON);
    starts_or_not(bench, built, false).await
}

async fn while_starting(bench: &Bench) -> Result<(), Failure> {
    for _ in 0..3 {
        let built = bench
            .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
            .await?;
        starts_or_not(bench, built, true).await?;
    }
    Ok(())
}

async fn building(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    built.task.cancel(REASON);
    let content = handle_with(b"never seen").map_err(|error| Failure::new(error.to_string()))?;
    let put = built
        .builder
        .put_file(bench.drive().path("put-by-check"), content, 0o644);
    match bench
        .within("SandboxBuilder.put_file of a cancelled task", put)
        .await?
    {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Cancelled => {}
        Err(error) => {
            return Err(Failure::new(format!(
                "SandboxBuilder.put_file of a cancelled task has to work, or to answer Cancelled, and answered: {error}"
            )));
        }
    }
    built.discard().await
}

async fn running(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    running.task.cancel(REASON);
    end(bench, running).await
}

async fn waited_for(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    let sandbox = running.sandbox.clone();
    let waiting = tokio::spawn(async move { sandbox.wait().await });
    running.task.cancel(REASON);
    end(bench, running).await?;
    let wait = async {
        waiting
            .await
            .unwrap_or_else(|error| Err(crate::Error::internal(error.to_string())))
    };
    bench
        .refused("Sandbox.wait, begun before the task was cancelled", ABORTED, wait)
        .await
}

async fn ended(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    ended.task.cancel(REASON);
    let again = bench
        .ok("Sandbox.wait after a late cancellation", ended.sandbox.wait())
        .await?;
    Failure::unless_equal(
        "the report after a late cancellation",
        &again.report(),
        &ended.report,
    )?;
    drop(again);
    ended.finish().await.map(drop)
}
