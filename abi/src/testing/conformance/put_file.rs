//! Files that are put into a sandbox before it starts.

use std::io::{Seek, SeekFrom};
use std::os::unix::net::UnixStream;

use super::{Bench, Built, Failure, Need, case_list, purpose};
use crate::engine::feature;
use crate::error::ErrorKind;
use crate::io::Handle;
use crate::testing::handle_with;

const PUT: Need = Need::Feature(feature::PUT_FILE);
const ARTIFACTS: Need = Need::Feature(feature::ARTIFACTS);

case_list! {
    "put-file/extracted", "A file that was put has its bytes and its mode in the end",
        [PUT, ARTIFACTS, Need::Payload(&purpose::SILENT)], extracted;
    "put-file/read", "The task can read a file that was put", [PUT, Need::Payload(&purpose::PRINT_FILE)], read;
    "put-file/from-the-middle", "The bytes are taken from where the handle stands",
        [PUT, ARTIFACTS, Need::Payload(&purpose::SILENT)], from_the_middle;
    "put-file/stream", "The bytes may come from a handle that cannot seek",
        [PUT, ARTIFACTS, Need::Payload(&purpose::SILENT)], stream;
    "put-file/after-start", "A file that is put after the start is a ContractViolation",
        [PUT, Need::Payload(&purpose::SILENT)], after_start;
}

const NAME: &str = "put-by-check";
const CONTENT: &[u8] = b"put by tcw-host library check\0\xff\n";

fn handle(content: &[u8]) -> Result<Handle, Failure> {
    handle_with(content).map_err(|error| Failure::new(error.to_string()))
}

async fn put(bench: &Bench, built: &Built<'_>, content: Handle, mode: u32) -> Result<(), Failure> {
    let call = built.builder.put_file(bench.drive().path(NAME), content, mode);
    bench.ok("SandboxBuilder.put_file", call).await
}

/// Runs a task with the file, and takes it out again.
async fn there_and_back(bench: &Bench, content: Handle, expected: &[u8]) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    put(bench, &built, content, 0o640).await?;
    let ended = built.start().await?.wait().await?;
    ended.expect_success(true)?;
    let call = ended.result.extract_file(bench.drive().path(NAME));
    let file = bench.ok("ResultSet.extract_file", call).await?;
    Failure::unless_equal("the mode of the file that was put", file.info.mode & 0o777, 0o640)?;
    let bytes = bench.read("the file that was put", file.content).await?;
    Failure::unless_equal("the bytes of the file that was put", bytes.as_slice(), expected)?;
    ended.finish().await.map(drop)
}

async fn extracted(bench: &Bench) -> Result<(), Failure> {
    there_and_back(bench, handle(CONTENT)?, CONTENT).await
}

async fn from_the_middle(bench: &Bench) -> Result<(), Failure> {
    let mut file = handle(CONTENT)?.into_file();
    file.seek(SeekFrom::Start(4))
        .map_err(|error| Failure::new(error.to_string()))?;
    there_and_back(bench, file.into(), &CONTENT[4..]).await
}

async fn stream(bench: &Bench) -> Result<(), Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| Failure::new(error.to_string()))?;
    // It fits into the socket's buffer, so nobody has to read it yet.
    bench.write("the stream", ours.into(), CONTENT.to_vec()).await?;
    there_and_back(bench, theirs.into(), CONTENT).await
}

async fn read(bench: &Bench) -> Result<(), Failure> {
    let path = bench.drive().path(NAME);
    let built = bench.build_for(&purpose::PRINT_FILE, &[("file", &path)]).await?;
    put(bench, &built, handle(CONTENT)?, 0o644).await?;
    let ended = built.start().await?.wait().await?;
    ended.expect_success(true)?;
    let output = ended.finish().await?;
    Failure::unless_equal("what the task reads", output.as_slice(), CONTENT)
}

async fn after_start(bench: &Bench) -> Result<(), Failure> {
    let running = bench.start(&purpose::SILENT, &[]).await?;
    let call = running
        .builder
        .put_file(bench.drive().path(NAME), handle(CONTENT)?, 0o644);
    let late = [ErrorKind::ContractViolation];
    bench.refused("a file after the start", &late, call).await?;
    running.wait().await?.finish().await.map(drop)
}
