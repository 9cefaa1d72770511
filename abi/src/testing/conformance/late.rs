//! Objects that are used after their stage: an error that says so, and nothing else happens.

use std::sync::Arc;

use super::{Bench, Failure, Need, case_list, purpose};
use crate::engine::{Limits, Sandbox, SandboxBuilder, ShellRequest, VariableClass, feature};
use crate::error::ErrorKind;
use crate::testing::handle_with;

const WAITS: Need = Need::Payload(&purpose::PRINT_AND_WAIT);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "late/builder-started", "Every method of a builder that has started is a ContractViolation, except discard",
        [SILENT], builder_started;
    "late/builder-discarded", "Every method of a discarded builder is a ContractViolation, except discard",
        [SILENT], builder_discarded;
    "late/starts-in-parallel", "Of several starts at one time one works, and the others are ContractViolations",
        [WAITS], starts_in_parallel;
    "late/sandbox-ended", "After the end there are no shells, displays and figures: SandboxTerminated",
        [SILENT], sandbox_ended;
    "late/sandbox-aborted", "After an abort the same, SandboxTerminated or SandboxAborted", [WAITS], sandbox_aborted;
    "late/results-disposed", "Results that were disposed of give no files, and can be disposed of again",
        [SILENT], results_disposed;
}

const TEXT: &str = "this task waits for calls that come too late";
const LATE: &[ErrorKind] = &[ErrorKind::ContractViolation];

/// Every method that this engine has, on a builder that is used up.
async fn refuses_all(bench: &Bench, builder: &Arc<dyn SandboxBuilder>, when: &str) -> Result<(), Failure> {
    let has = |name| bench.description().has(name);
    if has(feature::ENVIRONMENT) {
        let call = builder.set_environment_variable("LATE".into(), "x".into(), VariableClass::Payload);
        let what = format!("SandboxBuilder.set_environment_variable {when}");
        bench.refused(&what, LATE, call).await?;
    }
    if has(feature::PUT_FILE) {
        let content = handle_with(b"late").map_err(|error| Failure::new(error.to_string()))?;
        let call = builder.put_file(bench.drive().path("late-by-check"), content, 0o644);
        let what = format!("SandboxBuilder.put_file {when}");
        bench.refused(&what, LATE, call).await?;
    }
    if has(feature::VOLUMES) {
        let options = bench.drive().volume_options();
        let volume = bench
            .ok("Engine.new_volume", bench.engine().new_volume(options))
            .await?;
        let call = builder.attach_volume(bench.drive().mount_point(), volume.description().id, false);
        let what = format!("SandboxBuilder.attach_volume {when}");
        bench.refused(&what, LATE, call).await?;
        bench.ok("Volume.dispose", volume.dispose()).await?;
    }
    if has(feature::LIMITS) {
        let what = format!("SandboxBuilder.set_limits {when}");
        bench
            .refused(&what, LATE, builder.set_limits(Limits::default()))
            .await?;
    }
    if has(feature::PROXIES) {
        let endpoint = bench.services().root().join("late.sock").display().to_string();
        let what = format!("SandboxBuilder.attach_proxy {when}");
        bench
            .refused(&what, LATE, builder.attach_proxy("late".into(), endpoint))
            .await?;
    }
    let what = format!("SandboxBuilder.start {when}");
    bench.refused(&what, LATE, builder.start()).await?;
    let what = format!("SandboxBuilder.discard {when}");
    bench.ok(&what, builder.discard()).await
}

async fn builder_started(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::SILENT, &[]).await?;
    refuses_all(bench, &running.builder, "after start").await?;
    let ended = running.wait().await?;
    refuses_all(bench, &ended.builder, "after the end").await?;
    // Nothing of it has done the task any harm.
    ended.expect_success(true)?;
    ended.finish().await.map(drop)
}

async fn builder_discarded(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    bench
        .ok("SandboxBuilder.discard", built.builder.discard())
        .await?;
    refuses_all(bench, &built.builder, "after discard").await?;
    built.discard().await
}

async fn starts_in_parallel(bench: &Bench) -> Result<(), Failure> {
    let built = bench
        .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
        .await?;
    let starts = super::together::together((0..4).map(|_| built.builder.start()));
    let answers = bench
        .within("SandboxBuilder.start, several at one time", starts)
        .await?;
    let mut sandboxes: Vec<Arc<dyn Sandbox>> = Vec::new();
    for answer in answers {
        match answer {
            Ok(sandbox) => sandboxes.push(sandbox),
            Err(error) if error.kind() == ErrorKind::ContractViolation => {}
            Err(error) => {
                return Err(Failure::new(format!(
                    "a start too many has to answer ContractViolation, and answered: {error}"
                )));
            }
        }
    }
    let started = sandboxes.len();
    let Some(sandbox) = sandboxes.pop().filter(|_| started == 1) else {
        for sandbox in sandboxes {
            // What matters is said below.
            bench
                .within("Sandbox.abort of one too many", sandbox.abort())
                .await
                .map(drop)?;
        }
        return Err(Failure::new(format!(
            "of four starts at one time one has to work, and {started} did"
        )));
    };
    built.started(sandbox).await?.abort().await
}

async fn sandbox_refuses(bench: &Bench, sandbox: &dyn Sandbox, kinds: &[ErrorKind]) -> Result<(), Failure> {
    let has = |name| bench.description().has(name);
    if has(feature::SHELLS) {
        let call = sandbox.new_shell(ShellRequest::default());
        bench
            .refused("Sandbox.new_shell after the end", kinds, call)
            .await?;
    }
    if has(feature::DISPLAYS) {
        let call = sandbox.list_displays();
        bench
            .refused("Sandbox.list_displays after the end", kinds, call)
            .await?;
        let name = bench.drive().displays.first().map(|display| display.name.clone());
        let call = sandbox.open_display(name.unwrap_or_default());
        bench
            .refused("Sandbox.open_display after the end", kinds, call)
            .await?;
    }
    if has(feature::RESOURCE_USAGE) {
        let call = sandbox.resource_usage();
        bench
            .refused("Sandbox.resource_usage after the end", kinds, call)
            .await?;
    }
    Ok(())
}

async fn sandbox_ended(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    sandbox_refuses(bench, &*ended.sandbox, &[ErrorKind::SandboxTerminated]).await?;
    ended.finish().await.map(drop)
}

async fn sandbox_aborted(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::PRINT_AND_WAIT, &[("text", TEXT)]).await?;
    running.printed(TEXT).await?;
    let sandbox = Arc::clone(&running.sandbox);
    running.abort().await?;
    let kinds = [ErrorKind::SandboxTerminated, ErrorKind::SandboxAborted];
    sandbox_refuses(bench, &*sandbox, &kinds).await
}

async fn results_disposed(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    bench.ok("ResultSet.dispose", ended.result.dispose()).await?;
    if bench.description().has(feature::ARTIFACTS) {
        let late = [ErrorKind::ContractViolation, ErrorKind::ResourceNotFound];
        let file = ended.result.extract_file(bench.drive().path("late"));
        bench
            .refused("ResultSet.extract_file after dispose", &late, file)
            .await?;
        let folder = ended.result.extract_folder(bench.drive().path("."));
        bench
            .refused("ResultSet.extract_folder after dispose", &late, folder)
            .await?;
    }
    let again = bench
        .ok("Sandbox.wait after dispose", ended.sandbox.wait())
        .await?;
    Failure::unless_equal("the report after dispose", &again.report(), &ended.report)?;
    drop(again);
    // It disposes of them once more.
    ended.finish().await.map(drop)
}
