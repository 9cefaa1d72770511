//! Volumes: storage that outlives a sandbox.

use std::sync::Arc;

use super::{Bench, Built, Ended, Failure, Need, Purpose, case_list, purpose};
use crate::engine::{Volume, feature};
use crate::error::ErrorKind;

const VOLUMES: Need = Need::Feature(feature::VOLUMES);
const WRITES: Need = Need::Payload(&purpose::WRITE_VOLUME);
const CHECKS: Need = Need::Payload(&purpose::CHECK_VOLUME);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "volumes/kept", "What one sandbox writes into a volume the next one finds", [VOLUMES, WRITES, CHECKS], kept;
    "volumes/empty", "A new volume is empty", [VOLUMES, CHECKS], empty;
    "volumes/write-read-only", "A task cannot write into a volume that is mounted read-only",
        [VOLUMES, WRITES, CHECKS], write_read_only;
    "volumes/read-read-only", "A task can read a volume that is mounted read-only",
        [VOLUMES, WRITES, CHECKS], read_read_only;
    "volumes/apart", "Two volumes have ids and contents of their own", [VOLUMES, WRITES, CHECKS], apart;
    "volumes/after-abort", "A volume outlives the abort of a sandbox that had it",
        [VOLUMES, WRITES, CHECKS, Need::Payload(&purpose::PRINT_AND_WAIT)], after_abort;
    "volumes/size", "A volume has a size, which does not shrink when it is written to", [VOLUMES, WRITES], size;
    "volumes/mount-point-taken", "A second volume at one mount point is a NamingConflict", [VOLUMES, SILENT], taken;
    "volumes/unknown", "A volume that there is not cannot be attached, and the builder goes on",
        [VOLUMES, SILENT], unknown;
    "volumes/disposed", "A volume that was disposed of cannot be attached any more", [VOLUMES, SILENT], disposed;
}

/// A volume and its id.
pub(super) async fn new_volume(bench: &Bench) -> Result<Arc<dyn Volume>, Failure> {
    let options = bench.drive().volume_options();
    bench.validate(
        "`volumeOptions` in the check file",
        &bench.description().volume_schema,
        &options,
    )?;
    let volume = bench
        .ok("Engine.new_volume", bench.engine().new_volume(options))
        .await?;
    Failure::unless(!volume.description().id.is_empty(), || {
        "a volume has no id".to_owned()
    })?;
    Ok(volume)
}

/// Attaches it to a builder.
pub(super) async fn attach(
    bench: &Bench,
    built: &Built<'_>,
    volume: &dyn Volume,
    read_only: bool,
) -> Result<(), Failure> {
    let id = volume.description().id;
    let attach = built
        .builder
        .attach_volume(bench.drive().mount_point(), id, read_only);
    match bench.within("SandboxBuilder.attach_volume", attach).await? {
        Err(error) if error.kind() == ErrorKind::ImmutableMountNotSupported && read_only => Err(
            Failure::does_not_apply("the engine cannot mount volumes read-only"),
        ),
        Err(error) if error.kind() == ErrorKind::MutableMountNotSupported && !read_only => Err(
            Failure::does_not_apply("the engine cannot mount volumes read-write"),
        ),
        answer => bench.ok("SandboxBuilder.attach_volume", async { answer }).await,
    }
}

/// Runs a task with the volume, and answers whether it succeeded.
async fn run(
    bench: &Bench,
    purpose: &Purpose,
    volume: &dyn Volume,
    read_only: bool,
) -> Result<bool, Failure> {
    let mount = bench.drive().mount_point();
    let built = bench.build_for(purpose, &[("mount", &mount)]).await?;
    attach(bench, &built, volume, read_only).await?;
    let ended: Ended<'_> = built.start().await?.wait().await?;
    let success = ended.report.success;
    ended.finish().await?;
    Ok(success)
}

fn expect(what: &str, seen: bool, expected: bool) -> Result<(), Failure> {
    let words = |success| if success { "a success" } else { "no success" };
    Failure::unless(seen == expected, || {
        format!("{what}: expected {}, seen {}", words(expected), words(seen))
    })
}

async fn write(bench: &Bench, volume: &dyn Volume) -> Result<(), Failure> {
    let wrote = run(bench, &purpose::WRITE_VOLUME, volume, false).await?;
    expect("a task that writes into a volume", wrote, true)
}

async fn check(
    bench: &Bench,
    volume: &dyn Volume,
    read_only: bool,
    what: &str,
    expected: bool,
) -> Result<(), Failure> {
    let found = run(bench, &purpose::CHECK_VOLUME, volume, read_only).await?;
    expect(
        &format!("a task that looks for what was written {what}"),
        found,
        expected,
    )
}

async fn dispose(bench: &Bench, volume: &dyn Volume) -> Result<(), Failure> {
    bench.ok("Volume.dispose", volume.dispose()).await
}

async fn kept(bench: &Bench) -> Result<(), Failure> {
    let volume = new_volume(bench).await?;
    write(bench, &*volume).await?;
    for when in ["in the sandbox before", "two sandboxes before"] {
        check(bench, &*volume, false, when, true).await?;
    }
    dispose(bench, &*volume).await
}

async fn empty(bench: &Bench) -> Result<(), Failure> {
    let volume = new_volume(bench).await?;
    check(bench, &*volume, false, "in a new volume", false).await?;
    dispose(bench, &*volume).await
}

async fn write_read_only(bench: &Bench) -> Result<(), Failure> {
    let volume = new_volume(bench).await?;
    let wrote = run(bench, &purpose::WRITE_VOLUME, &*volume, true).await?;
    expect("a task that writes into a read-only volume", wrote, false)?;
    check(bench, &*volume, false, "through a read-only mount", false).await?;
    dispose(bench, &*volume).await
}

async fn read_read_only(bench: &Bench) -> Result<(), Failure> {
    let volume = new_volume(bench).await?;
    write(bench, &*volume).await?;
    check(bench, &*volume, true, "in the sandbox before, read-only", true).await?;
    dispose(bench, &*volume).await
}

async fn apart(bench: &Bench) -> Result<(), Failure> {
    let (first, second) = (new_volume(bench).await?, new_volume(bench).await?);
    Failure::unless(first.description().id != second.description().id, || {
        format!("two volumes have the id {:?}", first.description().id)
    })?;
    write(bench, &*first).await?;
    check(bench, &*second, false, "into another volume", false).await?;
    dispose(bench, &*second).await?;
    check(bench, &*first, false, "before another volume went away", true).await?;
    dispose(bench, &*first).await
}

async fn after_abort(bench: &Bench) -> Result<(), Failure> {
    const TEXT: &str = "this task has a volume and is aborted";
    let volume = new_volume(bench).await?;
    write(bench, &*volume).await?;
    let built = bench
        .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
        .await?;
    attach(bench, &built, &*volume, false).await?;
    let running = built.start().await?;
    running.printed(TEXT).await?;
    running.abort().await?;
    check(bench, &*volume, false, "before another sandbox was aborted", true).await?;
    dispose(bench, &*volume).await
}

async fn size(bench: &Bench) -> Result<(), Failure> {
    let volume = new_volume(bench).await?;
    let before = bench.ok("Volume.size", volume.size()).await?;
    write(bench, &*volume).await?;
    let after = bench.ok("Volume.size", volume.size()).await?;
    // What was written may take no more room than what was there, such as a block.
    Failure::unless(after > 0 && after >= before, || {
        format!(
            "the size of a volume that was written to: expected at least {} bytes, seen {after}",
            before.max(1)
        )
    })?;
    dispose(bench, &*volume).await
}

async fn taken(bench: &Bench) -> Result<(), Failure> {
    let (first, second) = (new_volume(bench).await?, new_volume(bench).await?);
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    attach(bench, &built, &*first, false).await?;
    let again = built
        .builder
        .attach_volume(bench.drive().mount_point(), second.description().id, false);
    bench
        .refused(
            "a second volume at the same mount point",
            &[ErrorKind::NamingConflict],
            again,
        )
        .await?;
    built.discard().await?;
    dispose(bench, &*first).await?;
    dispose(bench, &*second).await
}

async fn is_unknown(bench: &Bench, id: &str, what: &str) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    let attach = built
        .builder
        .attach_volume(bench.drive().mount_point(), id.to_owned(), false);
    let missing = [ErrorKind::ResourceNotFound, ErrorKind::ContractViolation];
    bench.refused(what, &missing, attach).await?;
    let ended = built.start().await?.wait().await?;
    ended.expect_success(true)?;
    ended.finish().await.map(drop)
}

async fn unknown(bench: &Bench) -> Result<(), Failure> {
    for id in ["no-such-volume", "", "../../no-such-volume", "/etc"] {
        is_unknown(bench, id, &format!("attaching the volume {id:?}")).await?;
    }
    Ok(())
}

async fn disposed(bench: &Bench) -> Result<(), Failure> {
    let volume = new_volume(bench).await?;
    dispose(bench, &*volume).await?;
    let id = volume.description().id;
    is_unknown(bench, &id, "attaching a volume that was disposed of").await
}
