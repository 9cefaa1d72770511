//! Killing a task: it ends, its results stay, and it is no success.

use super::{Bench, Failure, Need, case_list, purpose, show};
use crate::engine::feature;
use crate::error::ErrorKind;
use crate::testing::handle_with;

const KILL: Need = Need::Feature(feature::KILL);
const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);

case_list! {
    "kill/running", "A task that is killed ends, keeps its log, and is no success", [KILL, WAITS], running;
    "kill/keeps-files", "The files of a task that was killed can be extracted",
        [KILL, WAITS, Need::Feature(feature::PUT_FILE), Need::Feature(feature::ARTIFACTS)], keeps_files;
    "kill/after-the-end", "A task that has ended cannot be killed: SandboxTerminated",
        [KILL, Need::Payload(&purpose::SILENT)], after_the_end;
}

const TEXT: &str = "this task waits to be killed";

async fn running(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    running.kill().await?;
    let sandbox = running.sandbox.clone();
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    let again = sandbox.kill("again".into(), 0);
    let terminated = [ErrorKind::SandboxTerminated];
    bench
        .refused("Sandbox.kill after the end", &terminated, again)
        .await?;
    drop(sandbox);
    let output = ended.finish_text().await?;
    Failure::unless(output.contains(TEXT), || {
        format!(
            "expected {TEXT:?} in the output of the killed task, seen {}",
            show(output.as_bytes())
        )
    })
}

async fn keeps_files(bench: &Bench) -> Result<(), Failure> {
    let content = b"there before the kill";
    let built = bench
        .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
        .await?;
    let path = bench.drive().path("kept");
    let handle = handle_with(content).map_err(|error| Failure::new(error.to_string()))?;
    let put = built.builder.put_file(path.clone(), handle, 0o644);
    bench.ok("SandboxBuilder.put_file", put).await?;
    let running = built.start().await?;
    running.printed(TEXT).await?;
    running.kill().await?;
    let ended = running.wait().await?;
    ended.expect_success(false)?;
    let file = bench
        .ok(
            "ResultSet.extract_file of a killed task",
            ended.result.extract_file(path),
        )
        .await?;
    let bytes = bench.read("a killed task's file", file.content).await?;
    Failure::unless_equal("the file of a killed task", bytes.as_slice(), content)?;
    ended.finish().await.map(drop)
}

async fn after_the_end(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    let call = ended.sandbox.kill("too late".into(), 0);
    let terminated = [ErrorKind::SandboxTerminated];
    bench
        .refused("Sandbox.kill after the end", &terminated, call)
        .await?;
    let again = bench.ok("Sandbox.wait after that", ended.sandbox.wait()).await?;
    Failure::unless_equal("success after a late kill", again.report().success, true)?;
    drop(again);
    ended.finish().await.map(drop)
}
