//! The content-addressed store: every version of a library has a path of its own, for ever.
//!
//! The loader of the system answers a path, or an inode, that it has seen before with the old code; and a mapped file
//! that is overwritten kills the process. So what is opened is never the operator's file but a copy named after its
//! hash, which is hashed again before each use.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::LibraryError;
use super::fault_point::fault_point;
use super::verify::{self, Content, Files};

/// Puts the bytes into the store unless they are there, and answers the main file's path.
///
/// Of a generation but the first, the copy has a name of its own, and so an inode: the process would be given the code
/// and the statics of the earlier generation otherwise.
pub(super) fn keep(store: &Path, files: &Files, generation: u32) -> Result<PathBuf, LibraryError> {
    let directory = match generation {
        0 => store.join(&files.sha256),
        later => store.join(format!("{}-{later}", files.sha256)),
    };
    let trouble = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull => {
                "free some space there, or choose another state directory (--state-directory)"
            }
            _ => "make it writable for the worker, or choose another state directory (--state-directory)",
        };
        LibraryError::new(
            store,
            format!("the library store cannot be written: {error}"),
            remedy,
        )
    };
    create(store).map_err(trouble)?;
    if let Some(main) = intact(&directory, files) {
        return Ok(main);
    }
    // A copy that differs from its name was damaged. It may be mapped by a process of another worker, so it is moved
    // away, not written over.
    if directory.exists() {
        tracing::warn!(path = %directory.display(), "a stored library did not match its hash and is replaced");
        let aside = store.join(format!("damaged-{}", slugid::v4()));
        fs::rename(&directory, &aside)
            .and_then(|()| fs::remove_dir_all(&aside))
            .map_err(trouble)?;
    }
    fault_point!("library.store.before");
    // Of a process that ends here, the next start removes it.
    let building = store.join(format!("new-{}-{}", std::process::id(), slugid::v4()));
    create(&building).map_err(trouble)?;
    let written = files
        .contents
        .iter()
        .try_for_each(|content| write(&building, content));
    fault_point!("library.store.written");
    let moved = written.and_then(|()| fs::rename(&building, &directory));
    if let Err(error) = moved {
        // What was written of it is of no use; an error in removing it would hide the first one.
        let _ = fs::remove_dir_all(&building);
        // Another worker may have stored the same library meanwhile.
        return intact(&directory, files).ok_or_else(|| trouble(error));
    }
    fault_point!("library.store.after");
    Ok(directory.join(&files.main().name))
}

/// Removes the copies of later generations that processes which are gone have made, and what was not finished when its
/// process died. The caller is the only one with this store that makes later generations; others may be storing.
pub(super) fn sweep(store: &Path) {
    for entry in fs::read_dir(store).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let left = name.to_str().is_some_and(|name| {
            is_later_generation(name) || name.starts_with("damaged-") || is_unfinished(name)
        });
        if left && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "a copy of a library is left in the store");
        }
    }
}

fn is_later_generation(name: &str) -> bool {
    name.split_once('-').is_some_and(|(hash, generation)| {
        hash.len() == 64
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && generation.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Begun by a process that is gone.
fn is_unfinished(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("new-") else {
        return false;
    };
    let process = rest.split_once('-').and_then(|(process, _)| process.parse().ok());
    let lives = process
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|process| {
            !matches!(
                rustix::process::test_kill_process(process),
                Err(rustix::io::Errno::SRCH)
            )
        });
    !lives || process == Some(std::process::id().cast_signed())
}

fn create(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn write(directory: &Path, content: &Content) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o500)
        .open(directory.join(&content.name))?;
    file.write_all(&content.bytes)?;
    // After a power loss a file may have its name but not its bytes; the hash would find that, and it would be stored
    // again, so there is nothing to wait for here.
    Ok(())
}

/// The main file of the stored copy, if there is one and its bytes still match. A single file keeps the name that it
/// was first stored under: equal bytes are one library, whatever the operator's files are called.
fn intact(directory: &Path, files: &Files) -> Option<PathBuf> {
    let names: Vec<String> = match &files.contents[..] {
        [_] => fs::read_dir(directory)
            .ok()?
            .map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect::<Option<_>>()?,
        several => several.iter().map(|content| content.name.clone()).collect(),
    };
    let main = directory.join(names.first()?);
    let contents: Option<Vec<Content>> = names
        .into_iter()
        .map(|name| {
            let bytes = fs::read(directory.join(&name)).ok()?;
            Some(Content { name, bytes })
        })
        .collect();
    (verify::digest(&contents?) == files.sha256).then_some(main)
}
