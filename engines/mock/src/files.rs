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
