//! The engine itself: what it says about itself, and what it answers where it cannot do something.

use super::{Bench, Failure, Need, case_list, purpose};
use crate::error::ErrorKind;

case_list! {
    "engine/described", "The description has a payload schema of an object, documentation, and no feature twice",
        [], described;
    "engine/healthy", "Engine.health answers that tasks can be taken", [], healthy;
    "engine/discard", "A builder can be discarded, twice, and does not start afterwards",
        [Need::Payload(&purpose::PRINT)], discard;
    "engine/starts-once", "A builder starts once and takes nothing more afterwards",
        [Need::Payload(&purpose::SILENT)], starts_once;
}

async fn described(bench: &Bench) -> Result<(), Failure> {
    let description = bench.description();
    let kind = description.payload_schema["type"].as_str();
    Failure::unless_equal("`type` of the payload schema", kind, Some("object"))?;
    let mut features = description.features.clone();
    features.sort();
    features.dedup();
    Failure::unless_equal("distinct features", features.len(), description.features.len())?;
    Failure::unless(!description.documentation.is_empty(), || {
        "there is no documentation for the authors of tasks".to_owned()
    })?;
    let empty = description
        .documentation
        .iter()
        .find(|section| section.title.trim().is_empty() || section.content.trim().is_empty());
    Failure::unless(empty.is_none(), || {
        "a section of the documentation has no title or no content".to_owned()
    })?;
    // An engine that says something else at another time is not constant.
    Failure::unless_equal(
        "the description, asked again",
        &bench.engine().description(),
        description,
    )
}

async fn healthy(bench: &Bench) -> Result<(), Failure> {
    let health = bench.ok("Engine.health", bench.engine().health()).await?;
    Failure::unless(health.healthy, || {
        format!("the engine says that it cannot take tasks: {}", health.reason)
    })
}

async fn discard(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::PRINT, &[("text", "discarded")]).await?;
    let builder = built.builder.clone();
    bench.ok("SandboxBuilder.discard", builder.discard()).await?;
    bench
        .ok("SandboxBuilder.discard, the second time", builder.discard())
        .await?;
    bench
        .refused(
            "SandboxBuilder.start after discard",
            &[ErrorKind::ContractViolation],
            builder.start(),
        )
        .await?;
    drop(builder);
    let task = built.task.clone();
    built.discard().await?;
    Failure::unless(task.output().is_empty(), || {
        "a task that was never started has printed something".to_owned()
    })
}

async fn starts_once(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::SILENT, &[]).await?;
    bench
        .refused(
            "SandboxBuilder.start, the second time",
            &[ErrorKind::ContractViolation],
            running.builder.start(),
        )
        .await?;
    let ended = running.wait().await?;
    ended.expect_success(true)?;
    ended.finish().await.map(drop)
}
