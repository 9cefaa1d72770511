//! From a handle to a body whose length is known: hashed, encoded if asked, read from where the handle stands.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::event::{PollFd, PollFlags};
use sha2::{Digest, Sha256};
use tcw_abi::{Error, ErrorKind, Result};

use crate::queue::{self, UploadBody};
use crate::services::scratch::{self, Hashed, Spool, Spooled};

/// Bodies up to this size are held in memory.
const SMALL: usize = 1024 * 1024;
/// Bytes read and hashed at one time.
const CHUNK: usize = 256 * 1024;
/// gzip's level for artifacts: most of what there is to gain at a tenth of the best level's time.
const LEVEL: u32 = 4;

/// A body that is ready to be sent.
pub(super) struct Prepared {
    /// What is sent.
    pub(super) body: UploadBody,
    /// Exactly how many bytes that is.
    pub(super) stored_length: u64,
    /// About the original bytes.
    pub(super) original: Original,
    /// The file they come from, to see afterwards that it is still the same.
    pub(super) source: Option<Watched>,
}

/// Length and hash of the bytes before encoding: known at once, or as soon as they have been sent.
pub(super) enum Original {
    Known { length: u64, sha256: String },
    WhileSending { length: u64, hash: Arc<Mutex<Sha256>> },
}

impl Original {
    /// After sending.
    pub(super) fn finish(self) -> (u64, String) {
        match self {
            Original::Known { length, sha256 } => (length, sha256),
            Original::WhileSending { length, hash } => {
                let hash = std::mem::take(&mut *hash.lock().unwrap_or_else(PoisonError::into_inner));
                (length, scratch::hex(&hash.finalize()))
            }
        }
    }
}

/// What tells a file that has changed from one that has not.
pub(super) struct Watched {
    file: Arc<File>,
    size: u64,
    modified: (i64, i64),
}

impl Watched {
    fn new(file: Arc<File>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Watched {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            file,
        })
    }

    /// An error if the file is not what it was.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        let now = Watched::new(Arc::clone(&self.file))?;
        if (now.size, now.modified) == (self.size, self.modified) {
            return Ok(());
        }
        Err(changed(name, self.size, now.size))
    }
}

/// The file of an artifact was written to while it was uploaded: what was stored may be neither old nor new.
pub(super) fn changed(name: &str, before: u64, after: u64) -> Error {
    Error::new(
        ErrorKind::TaskFailed,
        format!(
            "artifact {name}: its file was changed while it was uploaded ({before} bytes before, {after} after); end \
             every process that writes to it before the task ends"
        ),
    )
}

/// Makes a body of what is between the handle's position and its end. Blocks, but not for longer than `stall` without
/// any bytes.
pub(super) fn prepare(
    name: &str,
    content: File,
    encode: bool,
    scratch: &Path,
    stall: Duration,
) -> Result<Prepared> {
    let unreadable = |error: io::Error| {
        Error::new(
            ErrorKind::ResourceUnavailable,
            format!("artifact {name}: its content cannot be read or stored for sending: {error}"),
        )
    };
    let metadata = content.metadata().map_err(unreadable)?;
    let kind = metadata.file_type();
    if kind.is_dir() || kind.is_block_device() || kind.is_char_device() {
        return Err(Error::violation(format!(
            "artifact {name}: the handle is neither a file nor a stream"
        )));
    }
    if !kind.is_file() {
        let content = Patient { file: content, stall };
        return spool(content, encode, scratch, None).map_err(unreadable);
    }
    let position = (&content).stream_position().map_err(unreadable)?;
    let file = Arc::new(content);
    let watched = Watched::new(Arc::clone(&file)).map_err(unreadable)?;
    let length = watched.size.saturating_sub(position);
    if encode || length <= SMALL as u64 {
        let from = ReadFrom {
            file: Arc::clone(&file),
            offset: position,
        };
        let prepared = spool(from, encode, scratch, Some(watched)).map_err(unreadable)?;
        let Original::Known { length: read, .. } = &prepared.original else {
            return Ok(prepared);
        };
        if *read != length {
            return Err(changed(name, position + length, position + read));
        }
        return Ok(prepared);
    }
    let hash = Arc::new(Mutex::new(Sha256::new()));
    let body = {
        let (file, hash) = (Arc::clone(&file), Arc::clone(&hash));
        UploadBody::Pieces(Arc::new(move || {
            let (hash, mut hashing) = (Arc::clone(&hash), Sha256::new());
            // Each attempt hashes from the beginning, and the one that gets to the end has the hash.
            queue::read_ahead(Arc::clone(&file), position, move |piece| {
                if piece.is_empty() {
                    *hash.lock().unwrap_or_else(PoisonError::into_inner) = hashing.clone();
                } else {
                    hashing.update(piece);
                }
            })
        }))
    };
    Ok(Prepared {
        body,
        stored_length: length,
        original: Original::WhileSending { length, hash },
        source: Some(watched),
    })
}

/// Reads everything now, hashing it on the way.
fn spool(source: impl Read, encode: bool, scratch: &Path, watched: Option<Watched>) -> io::Result<Prepared> {
    let mut source = Hashed::new(BufReader::with_capacity(CHUNK, source));
    let mut spool = Spool::new(scratch, SMALL);
    if encode {
        let mut encoder = GzEncoder::new(spool, Compression::new(LEVEL));
        io::copy(&mut source, &mut encoder)?;
        spool = encoder.finish()?;
    } else {
        io::copy(&mut source, &mut spool)?;
    }
    spool.flush()?;
    let (length, sha256) = source.finish();
    let (spooled, stored_length) = spool.into_parts();
    let body = match spooled {
        Spooled::Memory(bytes) => UploadBody::Bytes(Bytes::from(bytes)),
        Spooled::File(file) => UploadBody::File(Arc::new(file)),
    };
    Ok(Prepared {
        body,
        stored_length,
        original: Original::Known { length, sha256 },
        source: watched,
    })
}

/// Reads a stream whose writer may neither write nor close it.
struct Patient {
    file: File,
    stall: Duration,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = Instant::now() + self.stall;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = rustix::event::Timespec::try_from(left).map_err(io::Error::other)?;
            let mut waiting = [PollFd::new(&self.file, PollFlags::IN)];
            match rustix::event::poll(&mut waiting, Some(&timeout)) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!(
                            "nothing came for {} s, nor did its writer close it; close it when everything is written",
                            self.stall.as_secs_f64()
                        ),
                    ));
                }
                // A stream that does not block may have been emptied by somebody else meanwhile.
                Ok(_) => match self.file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => return outcome,
                },
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads a file from an offset, leaving its position alone.
struct ReadFrom {
    file: Arc<File>,
    offset: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}
