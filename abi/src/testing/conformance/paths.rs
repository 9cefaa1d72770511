//! Paths that lead out of a sandbox, and things that are no files: whatever a task leaves, nothing from outside comes
//! out, nothing goes in elsewhere, and nothing hangs.

use std::fs;
use std::path::PathBuf;

use super::{Bench, Built, Ended, Failure, Need, case_list, purpose};
use crate::engine::{ResultSet, feature};
use crate::error::ErrorKind;
use crate::testing::handle_with;

const ARTIFACTS: Need = Need::Feature(feature::ARTIFACTS);
const PUT: Need = Need::Feature(feature::PUT_FILE);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "paths/dots", "A path with .. does not leave the sandbox, nor does one of the worker's machine",
        [ARTIFACTS, SILENT], dots;
    "paths/absolute-link", "A symbolic link to an absolute path outside is ResourceNotFound",
        [ARTIFACTS, Need::Scripts], absolute_link;
    "paths/relative-link", "A symbolic link that climbs out is ResourceNotFound", [ARTIFACTS, Need::Scripts], relative_link;
    "paths/chain-of-links", "Links that lead out only together are ResourceNotFound, and so is a loop of them",
        [ARTIFACTS, Need::Scripts], chain_of_links;
    "paths/linked-folder", "A folder that is a symbolic link leads nowhere, as a part of a path or as the whole",
        [ARTIFACTS, Need::Scripts], linked_folder;
    "paths/links-in-folder", "A folder gives none of the links in it", [ARTIFACTS, Need::Scripts], links_in_folder;
    "paths/hard-link", "A hard link to a file outside is ResourceNotFound, and no folder gives it",
        [ARTIFACTS, Need::Scripts], hard_link;
    "paths/hard-link-inside", "A file with two names inside can be had under both",
        [ARTIFACTS, Need::Scripts], hard_link_inside;
    "paths/fifo", "A named pipe is ResourceNotFound, no folder gives it, and nobody waits for a writer",
        [ARTIFACTS, Need::Scripts], fifo;
    "paths/socket", "The same for a unix socket", [ARTIFACTS, Need::Scripts], socket;
    "paths/device", "The same for a device", [ARTIFACTS, Need::Scripts], device;
    "paths/device-link", "The same for a link to a device, such as /dev/zero, which never ends",
        [ARTIFACTS, Need::Scripts], device_link;
    "paths/strange", "Paths that are empty, have a NUL or are very long are errors, and nothing more",
        [ARTIFACTS, SILENT], strange;
    "paths/put-file", "Files cannot be put outside: MalformedPayload", [PUT, SILENT], put_file;
    "paths/put-file-taken", "A file cannot be put where one is, or beneath one", [PUT, SILENT], put_file_taken;
}

const MISSING: &[ErrorKind] = &[ErrorKind::ResourceNotFound];
const SECRET: &str = "the secret of the machine";

/// The exit status of a script whose machine cannot do what the case is about.
const CANNOT: i32 = 77;

/// A folder outside of every sandbox, with the file `secret` in it.
struct Outside {
    folder: PathBuf,
}

impl Outside {
    fn new(bench: &Bench) -> Result<Outside, Failure> {
        let folder = bench.services().root().join("outside");
        let made = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("secret"), SECRET));
        made.map_err(|error| Failure::new(error.to_string()))?;
        Ok(Outside { folder })
    }

    fn secret(&self) -> String {
        self.folder.join("secret").display().to_string()
    }

    fn folder(&self) -> String {
        self.folder.display().to_string()
    }

    /// The same from a folder that is not very deep.
    fn climbing(&self) -> String {
        format!("{}{}", "../".repeat(30), self.secret().trim_start_matches('/'))
    }
}

/// Runs a script, which has to succeed unless the machine cannot do it.
async fn run<'a>(bench: &'a Bench, script: &str, lacking: &str) -> Result<Ended<'a>, Failure> {
    let ended = bench.script(script).await?;
    if ended.report.exit_code == Some(CANNOT) {
        ended.finish().await?;
        return Err(Failure::does_not_apply(lacking));
    }
    ended.expect_success(true)?;
    Ok(ended)
}

async fn no_file(
    bench: &Bench,
    result: &dyn ResultSet,
    path: &str,
    kinds: &[ErrorKind],
) -> Result<(), Failure> {
    let what = format!("ResultSet.extract_file({path:?})");
    bench
        .refused(&what, kinds, result.extract_file(path.to_owned()))
        .await
}

async fn no_folder(bench: &Bench, result: &dyn ResultSet, path: &str) -> Result<(), Failure> {
    let what = format!("ResultSet.extract_folder({path:?})");
    bench
        .refused(&what, MISSING, result.extract_folder(path.to_owned()))
        .await
}

/// The names that a folder gives, each of which has to say `plain`.
async fn only_plain(
    bench: &Bench,
    result: &dyn ResultSet,
    path: &str,
    expected: &[&str],
) -> Result<(), Failure> {
    let call = result.extract_folder(path.to_owned());
    let stream = bench.ok("ResultSet.extract_folder", call).await?;
    let mut seen = Vec::new();
    while let Some(file) = bench.ok("FolderStream.next", stream.next()).await? {
        let bytes = bench.read("a file of a folder", file.content).await?;
        Failure::unless_equal(
            &format!("the bytes of {:?}", file.info.path),
            super::show(&bytes),
            super::show(b"plain"),
        )?;
        seen.push(file.info.path);
    }
    seen.sort();
    let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
    Failure::unless_equal(
        "the files of a folder with other things in it",
        seen.as_slice(),
        expected,
    )
}

async fn dots(bench: &Bench) -> Result<(), Failure> {
    let outside = Outside::new(bench)?;
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    let kinds = [ErrorKind::ResourceNotFound, ErrorKind::MalformedPayload];
    let climbing = outside.climbing();
    for path in ["../outside/secret", "a/../../outside/secret", &climbing] {
        no_file(bench, &*ended.result, &bench.drive().path(path), &kinds).await?;
    }
    no_file(bench, &*ended.result, &outside.secret(), &kinds).await?;
    for path in [bench.drive().path("../outside"), outside.folder()] {
        let what = format!("ResultSet.extract_folder({path:?})");
        bench
            .refused(&what, &kinds, ended.result.extract_folder(path))
            .await?;
    }
    ended.finish().await.map(drop)
}

async fn link(bench: &Bench, target: &str) -> Result<(), Failure> {
    let script = format!("ln -s '{target}' link");
    let ended = run(bench, &script, "").await?;
    no_file(bench, &*ended.result, &bench.drive().path("link"), MISSING).await?;
    ended.finish().await.map(drop)
}

async fn absolute_link(bench: &Bench) -> Result<(), Failure> {
    link(bench, &Outside::new(bench)?.secret()).await
}

async fn relative_link(bench: &Bench) -> Result<(), Failure> {
    let outside = Outside::new(bench)?;
    link(bench, &outside.climbing()).await?;
    link(bench, "../outside/secret").await
}

async fn chain_of_links(bench: &Bench) -> Result<(), Failure> {
    let outside = Outside::new(bench)?;
    let script = format!(
        "mkdir deep && ln -s .. deep/up && ln -s '../{}' deep/out && ln -s deep/out link && \
         ln -s deep/up/../outside/secret climb && ln -s loop loop",
        outside.climbing()
    );
    let ended = run(bench, &script, "").await?;
    for path in ["link", "climb", "deep/up/../outside/secret", "loop", "loop/file"] {
        no_file(bench, &*ended.result, &bench.drive().path(path), MISSING).await?;
    }
    no_folder(bench, &*ended.result, &bench.drive().path("loop")).await?;
    ended.finish().await.map(drop)
}

async fn linked_folder(bench: &Bench) -> Result<(), Failure> {
    let outside = Outside::new(bench)?;
    let script = format!("ln -s '{}' link && ln -s ../outside near", outside.folder());
    let ended = run(bench, &script, "").await?;
    for name in ["link", "near"] {
        let path = bench.drive().path(name);
        no_file(bench, &*ended.result, &format!("{path}/secret"), MISSING).await?;
        no_folder(bench, &*ended.result, &path).await?;
        no_folder(bench, &*ended.result, &format!("{path}/.")).await?;
    }
    ended.finish().await.map(drop)
}

async fn links_in_folder(bench: &Bench) -> Result<(), Failure> {
    let outside = Outside::new(bench)?;
    let script = format!(
        "mkdir box && printf plain > box/plain && ln -s '{}' box/secret && ln -s '{}' box/folder && \
         ln -s nowhere box/broken && ln -s box box/itself && ln -s . box/round",
        outside.secret(),
        outside.folder()
    );
    let ended = run(bench, &script, "").await?;
    only_plain(bench, &*ended.result, &bench.drive().path("box"), &["plain"]).await?;
    ended.finish().await.map(drop)
}

async fn hard_link(bench: &Bench) -> Result<(), Failure> {
    let outside = Outside::new(bench)?;
    let script = format!(
        "mkdir box && printf plain > box/plain && ln '{}' box/secret || exit {CANNOT}",
        outside.secret()
    );
    let lacking = "a task cannot make a hard link to a file of the machine";
    let ended = run(bench, &script, lacking).await?;
    no_file(bench, &*ended.result, &bench.drive().path("box/secret"), MISSING).await?;
    only_plain(bench, &*ended.result, &bench.drive().path("box"), &["plain"]).await?;
    ended.finish().await.map(drop)
}

async fn hard_link_inside(bench: &Bench) -> Result<(), Failure> {
    let script = format!(
        "mkdir box && printf plain > box/first && ln box/first box/second && ln box/first third || exit {CANNOT}"
    );
    let ended = run(bench, &script, "a task cannot make hard links").await?;
    only_plain(
        bench,
        &*ended.result,
        &bench.drive().path("box"),
        &["first", "second"],
    )
    .await?;
    for path in ["box/first", "third"] {
        let call = ended.result.extract_file(bench.drive().path(path));
        let file = bench
            .ok(&format!("ResultSet.extract_file({path:?})"), call)
            .await?;
        let bytes = bench.read("a file with several names", file.content).await?;
        Failure::unless_equal(
            "a file with several names",
            super::show(&bytes),
            super::show(b"plain"),
        )?;
    }
    ended.finish().await.map(drop)
}

/// A folder `box` with `plain` and something that `make` puts at `box/thing`.
async fn thing(bench: &Bench, make: &str, lacking: &str) -> Result<(), Failure> {
    let script = format!(
        "mkdir box && printf plain > box/plain || exit 1; cd box || exit 1; ({make}) || exit {CANNOT}"
    );
    let ended = run(bench, &script, lacking).await?;
    no_file(bench, &*ended.result, &bench.drive().path("box/thing"), MISSING).await?;
    no_folder(bench, &*ended.result, &bench.drive().path("box/thing")).await?;
    only_plain(bench, &*ended.result, &bench.drive().path("box"), &["plain"]).await?;
    ended.finish().await.map(drop)
}

async fn fifo(bench: &Bench) -> Result<(), Failure> {
    thing(bench, "mkfifo thing", "a task cannot make named pipes").await
}

async fn socket(bench: &Bench) -> Result<(), Failure> {
    const PYTHON: &str = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"thing\")'";
    const PERL: &str =
        "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"thing\", Listen => 1) or exit 1'";
    let make = format!("{{ {PYTHON} || {PERL}; }} 2>/dev/null; [ -S thing ]");
    thing(
        bench,
        &make,
        "a task has neither python3 nor perl to make a socket with",
    )
    .await
}

async fn device(bench: &Bench) -> Result<(), Failure> {
    let make = "mknod thing c 1 5 2>/dev/null && head -c 1 thing >/dev/null 2>&1";
    thing(bench, make, "a task cannot make devices").await
}

async fn device_link(bench: &Bench) -> Result<(), Failure> {
    thing(bench, "ln -s /dev/zero thing", "").await?;
    let ended = run(
        bench,
        "ln -s /dev/stdin in; ln -s /proc/self/fd/0 fd; ln -s /dev dev",
        "",
    )
    .await?;
    for path in ["in", "fd", "dev/zero"] {
        no_file(bench, &*ended.result, &bench.drive().path(path), MISSING).await?;
    }
    ended.finish().await.map(drop)
}

async fn strange(bench: &Bench) -> Result<(), Failure> {
    let ended = bench.succeed(&purpose::SILENT, &[]).await?;
    let kinds = [ErrorKind::ResourceNotFound, ErrorKind::MalformedPayload];
    let long = "x".repeat(5000);
    let deep = "x/".repeat(3000);
    for path in [
        "nul\0nul",
        &long,
        &deep,
        "new\nline",
        "//",
        "\u{1f4a3}",
        "-rf",
        "*",
        "%s%n",
    ] {
        let path = bench.drive().path(path);
        no_file(bench, &*ended.result, &path, &kinds).await?;
        // The whole sandbox may be a folder to give out.
        if path.trim_matches('/').is_empty() {
            continue;
        }
        bench
            .refused(
                "ResultSet.extract_folder of a strange path",
                &kinds,
                ended.result.extract_folder(path),
            )
            .await?;
    }
    ended.finish().await.map(drop)
}

async fn put(bench: &Bench, built: &Built<'_>, path: &str) -> Result<crate::error::Result<()>, Failure> {
    let content = handle_with(b"put by check").map_err(|error| Failure::new(error.to_string()))?;
    let call = built.builder.put_file(path.to_owned(), content, 0o644);
    bench
        .within(&format!("SandboxBuilder.put_file({path:?})"), call)
        .await
}

async fn put_file(bench: &Bench) -> Result<(), Failure> {
    let outside = Outside::new(bench)?;
    let escaped = outside.folder.join("escaped-by-check");
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    let climbing = format!("{}{}", "../".repeat(30), escaped.display());
    // Where paths have a place to begin at, `..` may lead to another of the sandbox's own.
    let relative = bench.drive().directory.is_empty();
    for path in [
        "../outside/escaped-by-check",
        "a/../../outside/escaped-by-check",
        climbing.as_str(),
        "..",
        ".",
        "",
        "nul\0nul",
    ] {
        match put(bench, &built, &bench.drive().path(path)).await? {
            Err(error) if error.kind() == ErrorKind::MalformedPayload => {}
            Ok(()) if !relative && path.contains("escaped") => {}
            answer => {
                return Err(Failure::new(format!(
                    "SandboxBuilder.put_file({path:?}) has to answer MalformedPayload, seen {answer:?}"
                )));
            }
        }
    }
    // An absolute path may be one of the sandbox's own; then it is not the machine's.
    let absolute = [escaped.display().to_string(), outside.secret()];
    for path in &absolute {
        match put(bench, &built, path).await? {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::MalformedPayload => {}
            Err(error) => {
                return Err(Failure::new(format!(
                    "SandboxBuilder.put_file({path:?}) has to work inside or to be MalformedPayload, and answered: {error}"
                )));
            }
        }
    }
    // What was refused does the task no harm.
    let ended = built.start().await?.wait().await?;
    ended.expect_success(true)?;
    ended.finish().await?;
    let secret = fs::read_to_string(outside.folder.join("secret")).unwrap_or_default();
    Failure::unless_equal("a file outside", secret.as_str(), SECRET)?;
    let near = bench.services().root().join("escaped-by-check");
    Failure::unless(!escaped.exists() && !near.exists(), || {
        format!("a file was put outside of the sandbox, at {}", escaped.display())
    })
}

async fn put_file_taken(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    let path = bench.drive().path("taken");
    bench
        .ok("SandboxBuilder.put_file", async {
            put(bench, &built, &path).await.unwrap_or(Ok(()))
        })
        .await?;
    let again = put(bench, &built, &path).await?;
    bench
        .refused(
            "a second file at the same path",
            &[ErrorKind::NamingConflict],
            async { again },
        )
        .await?;
    let kinds = [ErrorKind::NamingConflict, ErrorKind::MalformedPayload];
    let beneath = put(bench, &built, &format!("{path}/beneath")).await?;
    bench
        .refused("a file beneath a file", &kinds, async { beneath })
        .await?;
    let ended = built.start().await?.wait().await?;
    ended.expect_success(true)?;
    ended.finish().await.map(drop)
}
