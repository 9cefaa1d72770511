//! Several sandboxes at one time, as many as the engine says, or eight.

use super::together::all;
use super::{Bench, Failure, Need, Running, case_list, purpose, show};
use crate::engine::{VariableClass, feature};
use crate::error::ErrorKind;
use crate::testing::handle_with;

const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "concurrency/maximum", "As many sandboxes as may be run at one time, each with a log of its own",
        [WAITS], maximum;
    "concurrency/one-aborted", "An abort of one sandbox leaves the others running", [WAITS], one_aborted;
    "concurrency/builders", "Builders that are filled and started at one time keep to themselves",
        [Need::Feature(feature::ENVIRONMENT), Need::Payload(&purpose::PRINT_VARIABLE)], builders;
    "concurrency/results", "Results that are read at one time have each its own files",
        [Need::Feature(feature::PUT_FILE), Need::Feature(feature::ARTIFACTS), SILENT], results;
    "concurrency/one-too-many",
        "One sandbox more than the declared maximum is MaxConcurrencyExceeded, until one is given back",
        [SILENT], one_too_many;
}

/// Without a bound of the engine's own, and where its bound is higher.
const MANY: u32 = 8;

/// More are not made only to see that one more is refused.
const MOST: u32 = 64;

fn count(bench: &Bench) -> u32 {
    bench.description().max_concurrency.unwrap_or(MANY).clamp(1, MANY)
}

fn text(number: u32) -> String {
    format!("this is task number {number} of several")
}

async fn started(bench: &Bench) -> Result<Vec<Running<'_>>, Failure> {
    let start = |number| async move {
        let running = bench
            .start(&purpose::PRINT_AND_WAIT, &[("text", &text(number))])
            .await?;
        running.printed(&text(number)).await?;
        Ok(running)
    };
    all((0..count(bench)).map(start)).await
}

async fn maximum(bench: &Bench) -> Result<(), Failure> {
    let running = started(bench).await?;
    for (number, running) in (0_u32..).zip(&running) {
        let output = running.task.output();
        let expected = format!("{}\n", text(number));
        Failure::unless_equal(
            "the output of one task among several",
            show(&output),
            show(expected.as_bytes()),
        )?;
    }
    all(running.into_iter().map(Running::abort)).await.map(drop)
}

async fn one_aborted(bench: &Bench) -> Result<(), Failure> {
    let mut running = started(bench).await?;
    if running.len() < 2 {
        return Err(Failure::does_not_apply(
            "the engine runs one sandbox at a time, and it is aborted in the clean-up",
        ));
    }
    running.remove(running.len() / 2).abort().await?;
    // Each call works only on a task that still runs.
    for (number, running) in running.into_iter().enumerate() {
        if number % 2 == 0 && bench.description().has(feature::KILL) {
            running.kill().await?;
            running.wait().await?.finish().await?;
        } else {
            running.abort().await?;
        }
    }
    Ok(())
}

async fn builders(bench: &Bench) -> Result<(), Failure> {
    let run = |number| async move {
        let built = bench
            .build_for(&purpose::PRINT_VARIABLE, &[("variable", "CHECK_NUMBER")])
            .await?;
        built
            .set("CHECK_NUMBER", &text(number), VariableClass::Payload)
            .await?;
        let ended = built.start().await?.wait().await?;
        ended.expect_success(true)?;
        let output = ended.finish_text().await?;
        Failure::unless_equal(
            "what one of several tasks prints as its variable",
            output,
            format!("{}\n", text(number)),
        )
    };
    all((0..count(bench)).map(run)).await.map(drop)
}

/// Reads the file of one task and disposes of its results.
async fn is_own(bench: &Bench, number: u32, ended: super::Ended<'_>) -> Result<(), Failure> {
    let call = ended.result.extract_file(bench.drive().path("same-name"));
    let file = bench.ok("ResultSet.extract_file", call).await?;
    let bytes = bench.read("a file of one of several tasks", file.content).await?;
    Failure::unless_equal(
        "the file of one of several tasks",
        show(&bytes),
        show(text(number).as_bytes()),
    )?;
    ended.finish().await.map(drop)
}

async fn results(bench: &Bench) -> Result<(), Failure> {
    let run = |number| async move {
        let built = bench.build_for(&purpose::SILENT, &[]).await?;
        let content =
            handle_with(text(number).as_bytes()).map_err(|error| Failure::new(error.to_string()))?;
        let path = bench.drive().path("same-name");
        let put = built.builder.put_file(path, content, 0o644);
        bench.ok("SandboxBuilder.put_file", put).await?;
        let ended = built.start().await?.wait().await?;
        ended.expect_success(true)?;
        Ok((number, ended))
    };
    let ended = all((0..count(bench)).map(run)).await?;
    let reads = ended
        .into_iter()
        .map(|(number, ended)| is_own(bench, number, ended));
    all(reads).await.map(drop)
}

/// One more than there may be: refused when its builder is made, or at last when it starts.
async fn is_refused(bench: &Bench, when: &str) -> Result<(), Failure> {
    let refusal = [ErrorKind::MaxConcurrencyExceeded];
    let payload = bench.drive().payload(&purpose::SILENT, &[])?;
    let builder = bench
        .engine()
        .new_sandbox_builder(bench.task().context(), payload);
    let one_more = async {
        let builder = builder.await?;
        let started = builder.start().await.map(drop);
        // A sandbox too many is ended with the engine; a builder is what is left otherwise.
        builder.discard().await?;
        started
    };
    bench
        .refused(&format!("a sandbox too many {when}"), &refusal, one_more)
        .await
}

async fn one_too_many(bench: &Bench) -> Result<(), Failure> {
    let most = match bench.description().max_concurrency {
        Some(most) if most <= MOST => most,
        Some(most) => {
            return Err(Failure::does_not_apply(format!(
                "the maximum of {most} sandboxes is too high to be tried out"
            )));
        }
        None => return Err(Failure::does_not_apply("the engine declares no maximum")),
    };
    let build = |_| bench.build_for(&purpose::SILENT, &[]);
    let mut built = all((0..most).map(build)).await?;
    is_refused(bench, "beside builders").await?;
    if let Some(last) = built.pop() {
        last.discard().await?;
    }
    let again = bench.succeed(&purpose::SILENT, &[]).await?;
    again.finish().await?;
    all(built.into_iter().map(super::Built::discard)).await.map(drop)
}
