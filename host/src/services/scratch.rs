//! Files without a name: for bytes that are too many for memory and belong to nobody once they are closed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// A file in `directory` that is gone when its last descriptor is closed, even if the process is killed (but for the
/// moment between the two calls, which the sweep at start covers).
pub(super) fn file(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("scratch-{}", slugid::nice()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// A file that holds these bytes, from its beginning: in memory where the system has that.
pub(super) fn of_bytes(directory: &Path, bytes: &[u8]) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    let made = {
        let _ = directory;
        rustix::fs::memfd_create("tcw", rustix::fs::MemfdFlags::CLOEXEC).map(File::from)?
    };
    #[cfg(not(target_os = "linux"))]
    let made = file(directory)?;
    let mut file = made;
    file.write_all(bytes)?;
    rewound(file)
}

/// A read-only descriptor is not to be had for a file without a name; a shared position is. So it is rewound.
pub(super) fn rewound(mut file: File) -> io::Result<File> {
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Memory up to a bound, then a file.
pub(super) struct Spool<'a> {
    directory: &'a Path,
    bound: usize,
    memory: Vec<u8>,
    file: Option<File>,
    length: u64,
}

/// What a [`Spool`] holds in the end.
pub(super) enum Spooled {
    /// Few bytes.
    Memory(Vec<u8>),
    /// Many bytes, from the file's beginning.
    File(File),
}

impl<'a> Spool<'a> {
    pub(super) fn new(directory: &'a Path, bound: usize) -> Self {
        Spool {
            directory,
            bound,
            memory: Vec::new(),
            file: None,
            length: 0,
        }
    }

    pub(super) fn into_parts(self) -> (Spooled, u64) {
        match self.file {
            Some(file) => (Spooled::File(file), self.length),
            None => (Spooled::Memory(self.memory), self.length),
        }
    }
}

impl Write for Spool<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.memory.len() + bytes.len() > self.bound {
            let mut file = file(self.directory)?;
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes)?,
            None => self.memory.extend_from_slice(bytes),
        }
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that counts and hashes what passes.
pub(super) struct Hashed<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R> Hashed<R> {
    pub(super) fn new(inner: R) -> Self {
        Hashed {
            inner,
            hash: Sha256::new(),
            length: 0,
        }
    }

    /// Bytes, and their SHA-256 in hex.
    pub(super) fn finish(self) -> (u64, String) {
        (self.length, hex(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.length += length as u64;
        Ok(length)
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
