//! Files that come out of a sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek, SeekFrom};

use super::{Bench, Failure, Need, case_list, purpose};
use crate::engine::{ExtractedFile, feature};
use crate::error::ErrorKind;

const ARTIFACTS: Need = Need::Feature(feature::ARTIFACTS);
const WRITES: Need = Need::Payload(&purpose::WRITE_FILES);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "artifacts/text-file", "A file has its bytes, its length and no path", [ARTIFACTS, WRITES], text_file;
    "artifacts/read-again", "A file that is extracted again is read again, from the start",
        [ARTIFACTS, WRITES], read_again;
    "artifacts/in-parallel", "Files can be extracted in parallel", [ARTIFACTS, WRITES], in_parallel;
    "artifacts/mode", "A file comes with its permissions",
        [ARTIFACTS, Need::Payload(&purpose::WRITE_EXECUTABLE)], mode;
    "artifacts/file-not-found", "A file that is not there is ResourceNotFound", [ARTIFACTS, SILENT], no_file;
    "artifacts/folder-not-found", "A folder that is not there is ResourceNotFound", [ARTIFACTS, SILENT], no_folder;
    "artifacts/folder-as-file", "A folder is no file, and a file is no folder", [ARTIFACTS, WRITES], mistaken;
    "artifacts/nested-folder", "A folder gives exactly the files beneath it, with relative paths",
        [ARTIFACTS, WRITES], nested_folder;
    "artifacts/interrupted", "A folder that is not read to its end leaves nothing behind",
        [ARTIFACTS, WRITES], interrupted;
}

const HELLO: &[u8] = b"Hello World";
const NESTED: &str = "nested/a.txt nested/sub/b.txt nested/sub/deeper/c.txt beside.txt";

async fn check(bench: &Bench, file: ExtractedFile, path: &str) -> Result<(), Failure> {
    let info = &file.info;
    Failure::unless_equal("the path of an extracted file", info.path.as_str(), path)?;
    Failure::unless(matches!(info.size, None | Some(11)), || {
        format!("expected a size of 11 bytes or none, seen {:?}", info.size)
    })?;
    if info.seekable {
        let mut again = file
            .content
            .try_clone()
            .map(crate::io::Handle::into_file)
            .map_err(|error| Failure::new(error.to_string()))?;
        again
            .seek(SeekFrom::Start(0))
            .map_err(|error| Failure::new(format!("a file that is said to be seekable is not: {error}")))?;
    }
    let bytes = bench.read("an extracted file", file.content).await?;
    Failure::unless_equal("the bytes of an extracted file", bytes.as_slice(), HELLO)
}

async fn text_file(bench: &Bench) -> Result<(), Failure> {
    let ended = bench
        .succeed(&purpose::WRITE_FILES, &[("files", "hello.txt")])
        .await?;
    let call = ended.result.extract_file(bench.drive().path("hello.txt"));
    let file = bench.ok("ResultSet.extract_file", call).await?;
    check(bench, file, "").await?;
    ended.finish().await.map(drop)
}

async fn read_again(bench: &Bench) -> Result<(), Failure> {
    let ended = bench
        .succeed(&purpose::WRITE_FILES, &[("files", "hello.txt")])
        .await?;
    let path = || bench.drive().path("hello.txt");
    let first = bench
        .ok("ResultSet.extract_file", ended.result.extract_file(path()))
        .await?;
    // Two at one time must not share a position.
    let second = bench
        .ok("ResultSet.extract_file, again", ended.result.extract_file(path()))
        .await?;
    check(bench, first, "").await?;
    check(bench, second, "").await?;
    let third = bench
        .ok(
            "ResultSet.extract_file, once more",
            ended.result.extract_file(path()),
        )
        .await?;
    check(bench, third, "").await?;
    ended.finish().await.map(drop)
}

async fn in_parallel(bench: &Bench) -> Result<(), Failure> {
    let names: Vec<String> = (0..20).map(|number| format!("file-{number}")).collect();
    let ended = bench
        .succeed(&purpose::WRITE_FILES, &[("files", &names.join(" "))])
        .await?;
    let mut running = tokio::task::JoinSet::new();
    for name in names {
        let result = ended.result.clone();
        let path = bench.drive().path(&name);
        running.spawn(async move { result.extract_file(path).await });
    }
    while let Some(file) = bench
        .within("ResultSet.extract_file, in parallel", running.join_next())
        .await?
    {
        let file = file.map_err(|error| Failure::new(error.to_string()))?;
        let file = bench
            .ok("ResultSet.extract_file, in parallel", async { file })
            .await?;
        check(bench, file, "").await?;
    }
    ended.finish().await.map(drop)
}

async fn mode(bench: &Bench) -> Result<(), Failure> {
    let ended = bench
        .succeed(&purpose::WRITE_EXECUTABLE, &[("file", "run-me")])
        .await?;
    let call = ended.result.extract_file(bench.drive().path("run-me"));
    let file = bench.ok("ResultSet.extract_file", call).await?;
    Failure::unless_equal("the permissions of a file", file.info.mode & 0o777, 0o750)?;
    ended.finish().await.map(drop)
}

async fn no_file(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    for path in ["no-such-file", "no-such-folder/no-such-file"] {
        let call = ended.result.extract_file(bench.drive().path(path));
        bench
            .refused(
                "extracting a file that is not there",
                &[ErrorKind::ResourceNotFound],
                call,
            )
            .await?;
    }
    ended.finish().await.map(drop)
}

async fn no_folder(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    let call = ended.result.extract_folder(bench.drive().path("no-such-folder"));
    bench
        .refused(
            "extracting a folder that is not there",
            &[ErrorKind::ResourceNotFound],
            call,
        )
        .await?;
    ended.finish().await.map(drop)
}

async fn mistaken(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::WRITE_FILES, &[("files", NESTED)]).await?;
    let missing = [ErrorKind::ResourceNotFound];
    let folder = ended.result.extract_file(bench.drive().path("nested"));
    bench
        .refused("extracting a folder as a file", &missing, folder)
        .await?;
    let file = ended.result.extract_folder(bench.drive().path("beside.txt"));
    bench
        .refused("extracting a file as a folder", &missing, file)
        .await?;
    ended.finish().await.map(drop)
}

async fn nested_folder(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::WRITE_FILES, &[("files", NESTED)]).await?;
    let call = ended.result.extract_folder(bench.drive().path("nested"));
    let stream = bench.ok("ResultSet.extract_folder", call).await?;
    let mut seen = BTreeMap::new();
    while let Some(file) = bench.ok("FolderStream.next", stream.next()).await? {
        let path = file.info.path.clone();
        check(bench, file, &path).await?;
        *seen.entry(path).or_insert(0) += 1;
    }
    let expected: BTreeMap<String, i32> = ["a.txt", "sub/b.txt", "sub/deeper/c.txt"]
        .into_iter()
        .map(|path| (path.to_owned(), 1))
        .collect();
    Failure::unless_equal("the files of the folder, and how often each came", seen, expected)?;
    let after = bench.ok("FolderStream.next after the end", stream.next()).await?;
    Failure::unless(after.is_none(), || {
        "FolderStream.next gives a file after it has said that there is none".to_owned()
    })?;
    drop(stream);
    ended.finish().await.map(drop)
}

async fn interrupted(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::WRITE_FILES, &[("files", NESTED)]).await?;
    let path = || bench.drive().path("nested");
    let mut firsts = BTreeSet::new();
    for _ in 0..2 {
        let stream = bench
            .ok("ResultSet.extract_folder", ended.result.extract_folder(path()))
            .await?;
        let first = bench.ok("FolderStream.next", stream.next()).await?;
        let Some(first) = first else {
            return Err(Failure::new("a folder with three files gives none"));
        };
        firsts.insert(first.info.path);
        // The consumer gives up: the stream is dropped with files left in it.
    }
    Failure::unless(!firsts.is_empty(), || "no file was seen".to_owned())?;
    ended.finish().await.map(drop)
}
