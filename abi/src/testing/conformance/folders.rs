//! Folders and files that are out of the ordinary: very many, very big, empty, with odd names.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use super::{Bench, Failure, Need, case_list, purpose, show};
use crate::engine::{FolderStream, feature};
use crate::error::Error;
use crate::io::Handle;
use crate::runtime::blocking;

const ARTIFACTS: Need = Need::Feature(feature::ARTIFACTS);

case_list! {
    "folders/10000-files", "A folder of 10,000 files gives each of them once, whole, with no more handles than one",
        [ARTIFACTS, Need::Payload(&purpose::WRITE_MANY)], many;
    "folders/odd-names", "Names with newlines, quotes, spaces and letters of any language come as they are",
        [ARTIFACTS, Need::Scripts], odd_names;
    "folders/not-utf-8",
        "A file whose name is not UTF-8 does not vanish without a word: it comes, or a line of the log has its name",
        [ARTIFACTS, Need::Scripts], not_utf_8;
    "folders/empty", "An empty folder gives nothing, and an empty file no bytes", [ARTIFACTS, Need::Scripts], empty;
    "folders/deep", "A file in the fortieth folder of a folder is found", [ARTIFACTS, Need::Scripts], deep;
    "folders/sparse", "A file of a gibibyte that is all hole has its size, its beginning and its end",
        [ARTIFACTS, Need::Scripts], sparse;
    "folders/unreadable", "Files and folders without permissions come, or a line of the log has their names",
        [ARTIFACTS, Need::Scripts], unreadable;
}

const COUNT: usize = 10_000;
const GIBIBYTE: u64 = 1 << 30;

async fn open(bench: &Bench, ended: &super::Ended<'_>, path: &str) -> Result<Arc<dyn FolderStream>, Failure> {
    let call = ended.result.extract_folder(bench.drive().path(path));
    bench
        .ok(&format!("ResultSet.extract_folder({path:?})"), call)
        .await
}

/// The names and the contents of a folder.
async fn content(
    bench: &Bench,
    ended: &super::Ended<'_>,
    path: &str,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let stream = open(bench, ended, path).await?;
    let mut seen = Vec::new();
    while let Some(file) = bench.ok("FolderStream.next", stream.next()).await? {
        let bytes = bench.read("a file of a folder", file.content).await?;
        seen.push((file.info.path, bytes));
    }
    seen.sort();
    Ok(seen)
}

async fn many(bench: &Bench) -> Result<(), Failure> {
    let ended = bench
        .succeed(&purpose::WRITE_MANY, &[("count", &COUNT.to_string())])
        .await?;
    let stream = open(bench, &ended, "many").await?;
    bench.step("FolderStream.next, 10,000 times");
    let mut names = BTreeSet::new();
    let trouble = |error: Error| Failure::new(format!("FolderStream.next answered: {error}"));
    let read = async {
        while let Some(file) = stream.next().await.map_err(trouble)? {
            let mut bytes = Vec::new();
            // They are small, and each is read before the next one is asked for.
            let read = file.content.into_file().read_to_end(&mut bytes);
            read.map_err(|error| Failure::new(format!("a file cannot be read: {error}")))?;
            let path = file.info.path;
            Failure::unless_equal(
                &format!("the bytes of {path:?}"),
                show(&bytes),
                show(path.as_bytes()),
            )?;
            let first = names.insert(path.clone());
            Failure::unless(first, || format!("the file {path:?} came twice"))?;
        }
        Ok(())
    };
    bench.within("FolderStream.next, 10,000 times", read).await??;
    Failure::unless_equal("the number of files in the folder", names.len(), COUNT)?;
    let missing = (0..COUNT).find(|number| !names.contains(&number.to_string()));
    Failure::unless_equal("a file that is missing", missing, None)?;
    drop(stream);
    ended.finish().await.map(drop)
}

/// Each as a shell writes it in `printf`, and as it is.
const ODD: [(&str, &str); 10] = [
    (r"new\nline", "new\nline"),
    (r"\n[taskcluster:error] forged", "\n[taskcluster:error] forged"),
    (r"with space", "with space"),
    (r"\055rf", "-rf"),
    (r"quote\047s\042", "quote's\""),
    (r"back\134slash", "back\\slash"),
    (r"tab\tbell\007", "tab\tbell\u{7}"),
    (r"\303\274ml\303\244ute", "ümläute"),
    (r"\342\200\256override", "\u{202e}override"),
    (r"...", "..."),
];

async fn odd_names(bench: &Bench) -> Result<(), Failure> {
    let mut script = "mkdir odd && cd odd || exit 1; ".to_owned();
    for (printed, _) in ODD {
        // A newline at the end would be lost; there is none.
        script += &format!("name=$(printf '{printed}') && printf odd > \"./$name\" || exit 1; ");
    }
    let long = "l".repeat(255);
    script += &format!("printf odd > {long}");
    let ended = bench.script(&script).await?;
    ended.expect_success(true)?;
    let seen = content(bench, &ended, "odd").await?;
    let mut expected: Vec<&str> = ODD.iter().map(|(_, name)| *name).chain([long.as_str()]).collect();
    expected.sort_unstable();
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    Failure::unless_equal("the files of a folder with odd names", &names, &expected)?;
    for name in &expected {
        let call = ended
            .result
            .extract_file(bench.drive().path(&format!("odd/{name}")));
        let file = bench
            .ok(&format!("ResultSet.extract_file({name:?})"), call)
            .await?;
        let bytes = bench.read("a file with an odd name", file.content).await?;
        Failure::unless_equal("a file with an odd name", show(&bytes), show(b"odd"))?;
    }
    ended.finish().await.map(drop)
}

/// Each of these names stands in the path of a file that came, or in a line of the worker's in the log.
fn told(ended: &super::Ended<'_>, seen: &[(String, Vec<u8>)], names: &[&str]) -> Result<(), Failure> {
    let lines: Vec<String> = ended.task.log_lines().into_iter().map(|(_, text)| text).collect();
    for name in names {
        let came = seen.iter().any(|(path, _)| path.contains(name));
        let written = lines.iter().any(|line| line.contains(name));
        Failure::unless(came || written, || {
            format!(
                "the file {name:?} was in the folder, did not come, and no line of the worker's in the log names it"
            )
        })?;
    }
    Ok(())
}

async fn not_utf_8(bench: &Bench) -> Result<(), Failure> {
    let script = "mkdir odd && cd odd && printf odd > plain || exit 1; \
                  name=$(printf 'latin-\\374-name') && printf odd > \"$name\" || exit 77; \
                  name=$(printf 'cut-\\342\\202-name') && mkdir \"$name\" && printf odd > \"$name/inner\" || exit 77";
    let ended = bench.script(script).await?;
    if ended.report.exit_code == Some(77) {
        ended.finish().await?;
        return Err(Failure::does_not_apply(
            "the file system takes no names that are not UTF-8",
        ));
    }
    ended.expect_success(true)?;
    let seen = content(bench, &ended, "odd").await?;
    told(&ended, &seen, &["plain", "latin-", "cut-"])?;
    let wrong = seen.iter().find(|(_, bytes)| bytes != b"odd");
    Failure::unless(wrong.is_none(), || {
        format!("a file has other bytes than were written: {wrong:?}")
    })?;
    ended.finish().await.map(drop)
}

async fn empty(bench: &Bench) -> Result<(), Failure> {
    let script = "mkdir -p empty hollow/a/b full && : > full/nothing";
    let ended = bench.script(script).await?;
    ended.expect_success(true)?;
    for folder in ["empty", "hollow"] {
        let seen = content(bench, &ended, folder).await?;
        Failure::unless_equal("the files of a folder without files", seen, Vec::new())?;
    }
    let seen = content(bench, &ended, "full").await?;
    Failure::unless_equal(
        "the files of a folder with an empty one",
        seen,
        vec![("nothing".to_owned(), Vec::new())],
    )?;
    let call = ended.result.extract_file(bench.drive().path("full/nothing"));
    let file = bench.ok("ResultSet.extract_file", call).await?;
    Failure::unless(matches!(file.info.size, None | Some(0)), || {
        format!("the size of an empty file: seen {:?}", file.info.size)
    })?;
    let bytes = bench.read("an empty file", file.content).await?;
    Failure::unless_equal("the bytes of an empty file", show(&bytes), show(b""))?;
    ended.finish().await.map(drop)
}

async fn deep(bench: &Bench) -> Result<(), Failure> {
    let below = "folder-of-a-folder/".repeat(40);
    let script = format!("mkdir -p 'deep/{below}' && printf deep > 'deep/{below}file'");
    let ended = bench.script(&script).await?;
    ended.expect_success(true)?;
    let seen = content(bench, &ended, "deep").await?;
    let expected = vec![(format!("{below}file"), b"deep".to_vec())];
    Failure::unless_equal("the files of a deep folder", seen, expected)?;
    ended.finish().await.map(drop)
}

/// Its length, and whether it is all zero between its first and last byte, which are read; a stream is read to its end.
fn hole(handle: Handle, seekable: bool) -> std::io::Result<(u64, [u8; 2])> {
    let mut file = handle.into_file();
    let mut first = [0];
    let mut last = [0];
    file.read_exact(&mut first)?;
    if seekable {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        return Ok((length, [first[0], last[0]]));
    }
    let mut chunk = vec![0; 1 << 20];
    let mut length = 1;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((length, [first[0], last[0]])),
            read => {
                length += read as u64;
                last[0] = chunk[read - 1];
            }
        }
    }
}

async fn sparse(bench: &Bench) -> Result<(), Failure> {
    let script = format!(
        "mkdir big && printf x > big/sparse && dd if=/dev/null of=big/sparse bs=1 seek={} 2>/dev/null && \
         printf y >> big/sparse",
        GIBIBYTE - 1
    );
    let ended = bench.script(&script).await?;
    ended.expect_success(true)?;
    let stream = open(bench, &ended, "big").await?;
    let Some(file) = bench.ok("FolderStream.next", stream.next()).await? else {
        return Err(Failure::new("a folder with a big file gives none"));
    };
    Failure::unless(matches!(file.info.size, None | Some(GIBIBYTE)), || {
        format!("the size of a file of a gibibyte: seen {:?}", file.info.size)
    })?;
    let seekable = file.info.seekable;
    let read = blocking(move || Ok(hole(file.content, seekable)?));
    let seen = bench.ok("reading a file of a gibibyte", read).await?;
    Failure::unless_equal(
        "the length of a sparse file, its first and its last byte",
        seen,
        (GIBIBYTE, [b'x', b'y']),
    )?;
    drop(stream);
    ended.finish().await.map(drop)
}

async fn unreadable(bench: &Bench) -> Result<(), Failure> {
    let script = "mkdir -p odd/locked && printf odd > odd/plain && printf odd > odd/secret-file && \
                  printf odd > odd/locked/inner && chmod 0 odd/secret-file odd/locked";
    let ended = bench.script(script).await?;
    ended.expect_success(true)?;
    let stream = open(bench, &ended, "odd").await?;
    let mut seen = Vec::new();
    loop {
        match bench.within("FolderStream.next", stream.next()).await? {
            Ok(Some(file)) => {
                let bytes = bench.read("a file of a folder", file.content).await?;
                seen.push((file.info.path, bytes));
            }
            Ok(None) => break,
            // It is told to whoever reads the folder, which is better than a line of the log.
            Err(error) if error.kind() == crate::ErrorKind::ResourceNotFound => {
                seen.push((error.message().to_owned(), Vec::new()));
            }
            Err(error) => return Err(Failure::new(format!("FolderStream.next answered: {error}"))),
        }
    }
    drop(stream);
    told(&ended, &seen, &["plain", "secret-file", "locked"])?;
    ended.finish().await.map(drop)
}
