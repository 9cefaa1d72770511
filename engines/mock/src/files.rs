//! Files in memory, and handles on them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::fs::{MemfdFlags, memfd_create};
use tcw_abi::io::Handle;
use tcw_abi::{Error, Result};
use tokio::net::UnixStream;

/// A file without a place.
#[derive(Clone, Debug)]
pub(crate) struct MemoryFile {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// Files by their paths, with slashes.
pub(crate) type Files = BTreeMap<String, MemoryFile>;

/// A handle that reads these bytes from the start, and can seek.
pub(crate) fn handle_with(content: &[u8]) -> Result<Handle> {
    let fd = memfd_create("tcw-mock", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Two ends of a stream: ours, for the runtime, and one to give away.
pub(crate) fn stream() -> Result<(UnixStream, Handle)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, Handle::from(theirs)))
}

/// Names have no spaces here, so that tests have names that every method refuses.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    if name.contains([' ', '\0']) {
        return Err(Error::malformed(format!(
            "{name:?} cannot be {what}: the mock engine takes no name with a space in it"
        )));
    }
    Ok(())
}

/// A path of files that are made: within what they are made in.
pub(crate) fn check_path(path: &str) -> Result<()> {
    check_name("a path", path)?;
    let usable = path.split('/').all(|name| !matches!(name, "" | "." | ".."));
    if usable {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "{path:?} cannot be the path of a file: the mock engine takes relative ones, without '.' and '..'"
    )))
}

/// Whether a file is in the way of another: the same path, or one that would have to be its folder.
pub(crate) fn is_taken(files: &Files, path: &str) -> bool {
    let above = path.match_indices('/').map(|(end, _)| &path[..end]);
    let below = format!("{path}/");
    above.chain([path]).any(|path| files.contains_key(path))
        || files
            .range(below.clone()..)
            .next()
            .is_some_and(|(path, _)| path.starts_with(&below))
}
