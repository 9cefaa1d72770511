//! The ends that come from outside, in every state: abort, kill, discard.

use std::sync::Arc;

use super::together::{all, together};
use super::{Bench, Failure, Need, Running, case_list, purpose};
use crate::engine::{ResultSet, Sandbox, feature};
use crate::error::{Error, ErrorKind, Result as LibraryResult};
use crate::testing::handle_with;

const KILL: Need = Need::Feature(feature::KILL);
const PUT: Need = Need::Feature(feature::PUT_FILE);
const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);
const RESISTS: Need = Need::Payload(&purpose::PRINT_AND_RESIST);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "abort/running", "A task that is aborted leaves no results: wait answers SandboxAborted, each time",
        [WAITS], running;
    "abort/at-once", "A task can be aborted as soon as start has returned", [WAITS], at_once;
    "abort/waited-for", "An abort reaches everybody who waits already", [WAITS], waited_for;
    "abort/again", "A task that was aborted can be neither aborted nor killed: SandboxTerminated", [WAITS], again;
    "abort/in-parallel", "Of several aborts at one time one at least works, and the others are SandboxTerminated",
        [WAITS], in_parallel;
    "abort/after-the-end", "An abort after the end is SandboxTerminated and leaves the results as they are",
        [SILENT], after_the_end;
    "abort/after-kill", "An abort after a kill is SandboxTerminated and leaves the results as they are",
        [KILL, WAITS], after_kill;
    "abort/while-killing", "An abort does not wait for the time that a kill before it has granted",
        [KILL, RESISTS], while_killing;
    "abort/abandoned-wait", "A wait that is given up leaves the task as it is", [WAITS], abandoned_wait;
    "abort/resisting", "A task that does not listen is aborted all the same", [RESISTS], resisting;
    "kill/resisting", "A task that does not listen is killed when the time it was granted is over",
        [KILL, RESISTS], kill_resisting;
    "kill/at-once", "A task can be killed as soon as start has returned", [KILL, WAITS], kill_at_once;
    "kill/waited-for", "After a kill everybody who waits gets the same results", [KILL, WAITS], kill_waited_for;
    "kill/in-parallel", "Of several kills at one time one at least works, and the others are SandboxTerminated",
        [KILL, WAITS], kill_in_parallel;
    "discard/with-files", "A builder that has been given files can be discarded", [PUT, SILENT], discard_with_files;
    "discard/at-once", "A builder can be discarded as soon as there is one, several times at one time",
        [SILENT], discard_at_once;
    "discard/while-starting", "Of start and discard at one time one wins, and the other is harmless",
        [WAITS], discard_while_starting;
}

const TEXT: &str = "this task waits to be ended";
const ABORTED: &[ErrorKind] = &[ErrorKind::SandboxAborted];
const TERMINATED: &[ErrorKind] = &[ErrorKind::SandboxTerminated];

/// Longer than a case may take.
const TEN_MINUTES: u64 = 600_000;

async fn waiting(bench: &Bench) -> Result<Running<'_>, Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    Ok(running)
}

type Waiting = tokio::task::JoinHandle<LibraryResult<Arc<dyn ResultSet>>>;

/// Waits on tasks of their own, so that they are under way when the end comes.
fn waits(sandbox: &Arc<dyn Sandbox>) -> Vec<Waiting> {
    (0..5)
        .map(|_| {
            let sandbox = Arc::clone(sandbox);
            tokio::spawn(async move { sandbox.wait().await })
        })
        .collect()
}

async fn answer(bench: &Bench, waiting: Waiting) -> LibraryResult<Arc<dyn ResultSet>> {
    let lost = |error: String| Error::internal(format!("the wait was lost: {error}"));
    match bench.within("Sandbox.wait, begun before the end", waiting).await {
        Ok(joined) => joined.unwrap_or_else(|error| Err(lost(error.to_string()))),
        Err(failure) => Err(lost(failure.to_string())),
    }
}

async fn running(bench: &Bench) -> Result<(), Failure> {
    waiting(bench).await?.abort().await
}

async fn at_once(bench: &Bench) -> Result<(), Failure> {
    for _ in 0..3 {
        let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
        running.abort().await?;
    }
    Ok(())
}

async fn waited_for(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let waits = waits(&running.sandbox);
    running.abort().await?;
    for wait in waits {
        let what = "Sandbox.wait, begun before the abort";
        bench.refused(what, ABORTED, answer(bench, wait)).await?;
    }
    Ok(())
}

async fn again(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let sandbox = Arc::clone(&running.sandbox);
    running.abort().await?;
    bench
        .refused("Sandbox.abort, the second time", TERMINATED, sandbox.abort())
        .await?;
    if bench.description().has(feature::KILL) {
        let kill = sandbox.kill("too late".into(), 0);
        bench
            .refused("Sandbox.kill after the abort", TERMINATED, kill)
            .await?;
    }
    bench
        .refused("Sandbox.wait after all that", ABORTED, sandbox.wait())
        .await
}

/// One at least has worked, and the others say that it had ended.
fn one_worked(what: &str, answers: Vec<LibraryResult<()>>) -> Result<(), Failure> {
    let mut worked = 0;
    for answer in answers {
        match answer {
            Ok(()) => worked += 1,
            Err(error) if error.kind() == ErrorKind::SandboxTerminated => {}
            Err(error) => {
                return Err(Failure::new(format!(
                    "{what}, several at one time: expected success or SandboxTerminated, seen: {error}"
                )));
            }
        }
    }
    Failure::unless(worked > 0, || {
        format!("{what}, several at one time: none has worked")
    })
}

async fn in_parallel(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let calls = together((0..4).map(|_| running.sandbox.abort()));
    let answers = bench.within("Sandbox.abort, several at one time", calls).await?;
    one_worked("Sandbox.abort", answers)?;
    running.aborted().await
}

async fn after_the_end(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    for what in [
        "Sandbox.abort after the end",
        "Sandbox.abort after the end, again",
    ] {
        bench.refused(what, TERMINATED, ended.sandbox.abort()).await?;
    }
    let wait = ended.sandbox.wait();
    let again = bench.ok("Sandbox.wait after a late abort", wait).await?;
    Failure::unless_equal("the report after a late abort", &again.report(), &ended.report)?;
    drop(again);
    ended.finish().await.map(drop)
}

async fn after_kill(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    running.kill().await?;
    bench
        .refused("Sandbox.abort after a kill", TERMINATED, running.sandbox.abort())
        .await?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    ended.finish().await.map(drop)
}

async fn while_killing(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_RESIST, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    let kill = running.sandbox.kill("with much patience".into(), TEN_MINUTES);
    let abort = running.sandbox.abort();
    let both = async { tokio::join!(kill, abort) };
    let (killed, aborted) = bench
        .within("Sandbox.abort, while a kill waits for the task", both)
        .await?;
    match (killed, aborted) {
        // Whoever asked for the weaker end may be told that it has come, or of the stronger one.
        (Ok(()), Ok(())) => running.aborted().await,
        (Err(error), Ok(()))
            if matches!(
                error.kind(),
                ErrorKind::SandboxTerminated | ErrorKind::SandboxAborted
            ) =>
        {
            running.aborted().await
        }
        // An engine whose kills are instant had ended it already.
        (Ok(()), Err(error)) if error.kind() == ErrorKind::SandboxTerminated => {
            let ended = running.wait().await?;
            ended.expect_success(false)?;
            ended.finish().await.map(drop)
        }
        (killed, aborted) => Err(Failure::new(format!(
            "a kill and an abort at one time: expected that the abort works, seen {killed:?} and {aborted:?}"
        ))),
    }
}

async fn abandoned_wait(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    for wait in waits(&running.sandbox) {
        wait.abort();
        bench.within("giving up a wait", wait).await.map(drop)?;
    }
    // It answers Ok only if the task was still running.
    running.abort().await
}

async fn resisting(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_RESIST, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    running.abort().await
}

async fn kill_resisting(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_RESIST, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    let kill = running.sandbox.kill("whether it listens or not".into(), 200);
    bench.ok("Sandbox.kill with 200 ms", kill).await?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    ended.finish().await.map(drop)
}

async fn kill_at_once(bench: &Bench) -> Result<(), Failure> {
    for _ in 0..3 {
        let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
        running.kill().await?;
        let ended = running.wait().await?;
        ended.expect_success(false)?;
        ended.finish().await?;
    }
    Ok(())
}

async fn kill_waited_for(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let waits = waits(&running.sandbox);
    running.kill().await?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    for wait in waits {
        let result = answer(bench, wait);
        let result = bench.ok("Sandbox.wait, begun before the kill", result).await?;
        Failure::unless_equal(
            "the report of a wait that began before the kill",
            &result.report(),
            &ended.report,
        )?;
    }
    ended.finish().await.map(drop)
}

async fn kill_in_parallel(bench: &Bench) -> Result<(), Failure> {
    let running = waiting(bench).await?;
    let calls = together((0..4).map(|number| running.sandbox.kill(format!("kill {number}"), 1000)));
    let answers = bench.within("Sandbox.kill, several at one time", calls).await?;
    one_worked("Sandbox.kill", answers)?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    ended.finish().await.map(drop)
}

async fn discard_with_files(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    for number in 0..3 {
        let content = handle_with(b"never seen").map_err(|error| Failure::new(error.to_string()))?;
        let path = bench.drive().path(&format!("put-{number}"));
        let put = built.builder.put_file(path, content, 0o644);
        bench.ok("SandboxBuilder.put_file", put).await?;
    }
    built.discard().await
}

async fn discard_at_once(bench: &Bench) -> Result<(), Failure> {
    for _ in 0..3 {
        let built = bench.build_for(&purpose::SILENT, &[]).await?;
        let calls = all((0..3).map(|_| built.builder.discard()));
        bench
            .ok("SandboxBuilder.discard, several at one time", calls)
            .await?;
        built.discard().await?;
    }
    Ok(())
}

async fn discard_while_starting(bench: &Bench) -> Result<(), Failure> {
    for _ in 0..3 {
        let built = bench
            .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
            .await?;
        let (start, discard) = (built.builder.start(), built.builder.discard());
        let both = async { tokio::join!(start, discard) };
        let (started, discarded) = bench
            .within("SandboxBuilder.start and discard at one time", both)
            .await?;
        bench
            .ok("SandboxBuilder.discard while it starts", async { discarded })
            .await?;
        match started {
            Ok(sandbox) => built.started(sandbox).await?.abort().await?,
            Err(error) if error.kind() == ErrorKind::ContractViolation => built.discard().await?,
            Err(error) => {
                return Err(Failure::new(format!(
                    "SandboxBuilder.start while it is discarded has to work or to be a ContractViolation, and answered: \
                     {error}"
                )));
            }
        }
    }
    Ok(())
}
