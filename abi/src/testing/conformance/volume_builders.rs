//! Volumes that are filled before anybody mounts them.

use std::sync::Arc;

use super::together::all;
use super::volumes::attach;
use super::{Bench, Failure, Need, Purpose, case_list, purpose, show};
use crate::engine::{VolumeBuilder, feature};
use crate::error::ErrorKind;

const BUILDERS: Need = Need::Feature(feature::VOLUME_BUILDERS);
const VOLUMES: Need = Need::Feature(feature::VOLUMES);
const PRINTS: Need = Need::Payload(&purpose::PRINT_FILE);

case_list! {
    "volume-builders/files", "A sandbox finds the files that a volume was filled with, in their folders",
        [BUILDERS, VOLUMES, PRINTS], files;
    "volume-builders/modes", "The files of a volume have the permissions that they were written with",
        [BUILDERS, VOLUMES, Need::Payload(&purpose::PRINT_MODE)], modes;
    "volume-builders/in-parallel", "Several files can be written at one time, and big ones", [BUILDERS, VOLUMES, PRINTS],
        in_parallel;
    "volume-builders/size", "A volume is at least as big as what it was filled with", [BUILDERS], size;
    "volume-builders/apart", "What is written into one builder is in no other volume",
        [BUILDERS, VOLUMES, PRINTS], apart;
    "volume-builders/once", "A volume is built once; afterwards the builder answers ContractViolation",
        [BUILDERS], once;
    "volume-builders/discard", "A builder can be discarded, with files that are not written to their end",
        [BUILDERS], discard;
    "volume-builders/escapes", "Paths that lead out of the volume are MalformedPayload", [BUILDERS], escapes;
}

const LATE: &[ErrorKind] = &[ErrorKind::ContractViolation];

/// More than any pipe or socket holds.
const BIG: usize = 3 << 20;

async fn new_builder(bench: &Bench) -> Result<Arc<dyn VolumeBuilder>, Failure> {
    let options = bench.drive().volume_options();
    let call = bench.engine().new_volume_builder(options);
    bench.ok("Engine.new_volume_builder", call).await
}

async fn write(
    bench: &Bench,
    builder: &dyn VolumeBuilder,
    path: &str,
    mode: u32,
    content: Vec<u8>,
) -> Result<(), Failure> {
    let what = format!("VolumeBuilder.write_file({path:?})");
    let handle = bench.ok(&what, builder.write_file(path.into(), mode)).await?;
    bench.write("a file of a volume", handle, content).await
}

/// What a task with the volume prints that is given the path of a file in it.
async fn printed(
    bench: &Bench,
    purpose: &Purpose,
    volume: &dyn crate::engine::Volume,
    path: &str,
) -> Result<Vec<u8>, Failure> {
    let file = format!("{}/{path}", bench.drive().mount_point());
    let built = bench.build_for(purpose, &[("file", &file)]).await?;
    attach(bench, &built, volume, false).await?;
    let ended = built.start().await?.wait().await?;
    ended.expect_success(true)?;
    ended.finish().await
}

async fn is_there(
    bench: &Bench,
    volume: &dyn crate::engine::Volume,
    path: &str,
    content: &[u8],
) -> Result<(), Failure> {
    let seen = printed(bench, &purpose::PRINT_FILE, volume, path).await?;
    Failure::unless(seen == content, || {
        format!(
            "the file {path:?} of a volume: expected {} bytes, {}, seen {} bytes, {}",
            content.len(),
            show(content),
            seen.len(),
            show(&seen)
        )
    })
}

async fn files(bench: &Bench) -> Result<(), Failure> {
    let builder = new_builder(bench).await?;
    for folder in ["empty", "nested/deeper", "nested"] {
        let what = format!("VolumeBuilder.write_folder({folder:?})");
        bench.ok(&what, builder.write_folder(folder.into())).await?;
    }
    let written: [(&str, &[u8]); 4] = [
        ("top.txt", b"at the top"),
        ("nested/deeper/below.txt", b"deep\0below\xff\n"),
        ("made/by/itself.txt", b"its folders were not asked for"),
        ("nothing.txt", b""),
    ];
    for (path, content) in written {
        write(bench, &*builder, path, 0o644, content.to_vec()).await?;
    }
    let volume = bench.ok("VolumeBuilder.build", builder.build()).await?;
    for (path, content) in written {
        is_there(bench, &*volume, path, content).await?;
    }
    bench.ok("Volume.dispose", volume.dispose()).await
}

async fn modes(bench: &Bench) -> Result<(), Failure> {
    let builder = new_builder(bench).await?;
    let modes = [("plain", 0o644_u32), ("run-me", 0o755), ("own", 0o600)];
    for (path, mode) in modes {
        write(bench, &*builder, path, mode, b"x".to_vec()).await?;
    }
    let volume = bench.ok("VolumeBuilder.build", builder.build()).await?;
    for (path, mode) in modes {
        let seen = printed(bench, &purpose::PRINT_MODE, &*volume, path).await?;
        Failure::unless_equal(
            "the permissions of a volume's file",
            show(&seen),
            show(format!("{mode:o}\n").as_bytes()),
        )?;
    }
    bench.ok("Volume.dispose", volume.dispose()).await
}

async fn in_parallel(bench: &Bench) -> Result<(), Failure> {
    let builder = new_builder(bench).await?;
    let files: Vec<(String, Vec<u8>)> = (0_u8..4)
        .map(|number| (format!("file-{number}"), vec![b'a' + number; BIG]))
        .collect();
    let writes = files
        .iter()
        .map(|(path, content)| write(bench, &*builder, path, 0o644, content.clone()));
    all(writes).await?;
    let volume = bench.ok("VolumeBuilder.build", builder.build()).await?;
    for (path, content) in &files {
        is_there(bench, &*volume, path, content).await?;
    }
    bench.ok("Volume.dispose", volume.dispose()).await
}

async fn size(bench: &Bench) -> Result<(), Failure> {
    let builder = new_builder(bench).await?;
    // Of all values, so that nobody stores it as less.
    let content: Vec<u8> = (0..100_000_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let length = content.len() as u64;
    write(bench, &*builder, "content", 0o644, content).await?;
    let volume = bench.ok("VolumeBuilder.build", builder.build()).await?;
    let size = bench.ok("Volume.size", volume.size()).await?;
    Failure::unless(size >= length, || {
        format!("the size of a volume: expected {length} bytes or more, seen {size}")
    })?;
    bench.ok("Volume.dispose", volume.dispose()).await
}

async fn apart(bench: &Bench) -> Result<(), Failure> {
    let builders = [new_builder(bench).await?, new_builder(bench).await?];
    let contents: [&[u8]; 2] = [b"of the first", b"of the second"];
    for (builder, content) in builders.iter().zip(contents) {
        write(bench, &**builder, "same-name", 0o644, content.to_vec()).await?;
    }
    for (builder, content) in builders.iter().zip(contents) {
        let volume = bench.ok("VolumeBuilder.build", builder.build()).await?;
        is_there(bench, &*volume, "same-name", content).await?;
        bench.ok("Volume.dispose", volume.dispose()).await?;
    }
    Ok(())
}

async fn used_up(bench: &Bench, builder: &dyn VolumeBuilder, when: &str) -> Result<(), Failure> {
    let folder = builder.write_folder("late".into());
    bench
        .refused(&format!("VolumeBuilder.write_folder {when}"), LATE, folder)
        .await?;
    let file = builder.write_file("late".into(), 0o644);
    bench
        .refused(&format!("VolumeBuilder.write_file {when}"), LATE, file)
        .await?;
    bench
        .refused(&format!("VolumeBuilder.build {when}"), LATE, builder.build())
        .await
}

async fn once(bench: &Bench) -> Result<(), Failure> {
    let builder = new_builder(bench).await?;
    write(bench, &*builder, "file", 0o644, b"once".to_vec()).await?;
    let volume = bench.ok("VolumeBuilder.build", builder.build()).await?;
    used_up(bench, &*builder, "after build").await?;
    bench
        .ok("VolumeBuilder.discard after build", builder.discard())
        .await?;
    bench
        .ok("Volume.size after a late discard", volume.size())
        .await?;
    bench.ok("Volume.dispose", volume.dispose()).await
}

async fn discard(bench: &Bench) -> Result<(), Failure> {
    let builder = new_builder(bench).await?;
    write(bench, &*builder, "whole", 0o644, b"whole".to_vec()).await?;
    let unfinished = builder.write_file("unfinished".into(), 0o644);
    let unfinished = bench.ok("VolumeBuilder.write_file", unfinished).await?;
    bench.ok("VolumeBuilder.discard", builder.discard()).await?;
    used_up(bench, &*builder, "after discard").await?;
    bench
        .ok("VolumeBuilder.discard, the second time", builder.discard())
        .await?;
    drop(unfinished);
    Ok(())
}

async fn escapes(bench: &Bench) -> Result<(), Failure> {
    let builder = new_builder(bench).await?;
    let malformed = [ErrorKind::MalformedPayload];
    let outside = bench.services().root().join("escaped-by-check");
    let absolute = outside.display().to_string();
    for path in [
        "../escaped-by-check",
        "a/../../escaped-by-check",
        "..",
        "",
        "nul\0nul",
        &absolute,
    ] {
        let folder = builder.write_folder(path.to_owned());
        bench
            .refused(
                &format!("VolumeBuilder.write_folder({path:?})"),
                &malformed,
                folder,
            )
            .await?;
        let file = builder.write_file(path.to_owned(), 0o644);
        bench
            .refused(&format!("VolumeBuilder.write_file({path:?})"), &malformed, file)
            .await?;
    }
    Failure::unless(!outside.exists(), || {
        format!("{absolute} was made, which is outside of the volume")
    })?;
    bench.ok("VolumeBuilder.discard", builder.discard()).await
}
