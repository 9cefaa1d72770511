//! Owned operating-system handles: how bytes cross the boundary.
//!
//! Task output, artifacts, shells and displays are files, pipes, ptys and sockets. Whoever holds a [`Handle`] owns it
//! and closes it by dropping it; passing one over the boundary passes ownership.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;

/// An open file, pipe, pty or socket that belongs to whoever holds this value.
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    /// A second handle on the same open file (`dup`, close-on-exec).
    pub fn try_clone(&self) -> io::Result<Handle> {
        self.0.try_clone().map(Handle)
    }

    /// As a file. Reading or writing may block: do it in [`crate::runtime::blocking`].
    pub fn into_file(self) -> File {
        File::from(self.0)
    }

    /// As a child process's stdin, stdout or stderr.
    pub fn into_stdio(self) -> Stdio {
        Stdio::from(self.0)
    }

    /// The descriptor itself.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Handle(fd)
    }
}

impl From<File> for Handle {
    fn from(file: File) -> Self {
        Handle(file.into())
    }
}

impl From<Handle> for File {
    fn from(handle: Handle) -> Self {
        handle.into_file()
    }
}

impl From<std::os::unix::net::UnixStream> for Handle {
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        Handle(stream.into())
    }
}
