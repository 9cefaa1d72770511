//! The task's output: it is in the log, all of it, and while the task runs.

use super::{Bench, Failure, Need, case_list, purpose, show};

case_list! {
    "log/target-appears", "What the task prints is in its log", [Need::Payload(&purpose::PRINT)], target;
    "log/target-when-failing", "What a task prints that fails is in its log, and it is no success",
        [Need::Payload(&purpose::PRINT_AND_FAIL)], failing;
    "log/silent-task", "A task that prints nothing has an empty log, and is a success",
        [Need::Payload(&purpose::SILENT)], silent;
    "log/standard-error", "What the task prints on its standard error is in its log too",
        [Need::Payload(&purpose::PRINT_ERROR)], standard_error;
    "log/one-byte", "A single byte without a newline is in the log",
        [Need::Payload(&purpose::PRINT_BYTES)], one_byte;
    "log/64-mebibytes", "64 MiB come through without a byte lost",
        [Need::Payload(&purpose::PRINT_BYTES)], mebibytes;
    "log/live", "What the task prints is in the log while it still runs",
        [Need::Payload(&purpose::PRINT_AND_WAIT)], live;
    "log/background-child", "A process that the task leaves behind, with the output open, does not hold up the end",
        [Need::Payload(&purpose::PRINT_AND_LEAVE)], background_child;
}

const TEXT: &str = "this line is looked for by tcw-host library check";

async fn target(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::PRINT, &[("text", TEXT)]).await?;
    contains(&ended.finish_text().await?)
}

async fn failing(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_FAIL, &[("text", TEXT)]).await?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    contains(&ended.finish_text().await?)
}

async fn silent(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    let output = ended.finish_text().await?;
    Failure::unless_equal("the output of a task that prints nothing", output.as_str(), "")
}

async fn standard_error(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::PRINT_ERROR, &[("text", TEXT)]).await?;
    contains(&ended.finish_text().await?)
}

async fn one_byte(bench: &Bench) -> Result<(), Failure> {
    exactly(bench, 1).await
}

async fn mebibytes(bench: &Bench) -> Result<(), Failure> {
    exactly(bench, 64 << 20).await
}

async fn exactly(bench: &Bench, bytes: usize) -> Result<(), Failure> {
    let number = bytes.to_string();
    let ended = bench
        .succeed(&purpose::PRINT_BYTES, &[("bytes", &number)])
        .await?;
    let output = ended.finish().await?;
    Failure::unless_equal("bytes in the task's output", output.len(), bytes)
}

async fn live(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    running.abort().await
}

async fn background_child(bench: &Bench) -> Result<(), Failure> {
    let ended = bench
        .succeed(&purpose::PRINT_AND_LEAVE, &[("text", TEXT)])
        .await?;
    contains(&ended.finish_text().await?)
}

fn contains(output: &str) -> Result<(), Failure> {
    Failure::unless(output.contains(TEXT), || {
        format!(
            "expected the line {TEXT:?} in the task's output, seen {}",
            show(output.as_bytes())
        )
    })
}
