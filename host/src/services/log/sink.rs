//! Where a log's bytes go: a file that readers follow, and the same compressed.
//!
//! Everything here blocks, but only on files. A disk that is full does not stop the task's output from being taken out
//! of the pipe: bytes are dropped, and the log says that it is not complete.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::Utc;
use flate2::Compression;
use flate2::write::GzEncoder;
use tcw_abi::services::{ClosedLog, ClosedLogInfo, LogLevel};
use tcw_abi::{Error, ErrorKind, Result};

use super::{LogOptions, line};

/// A log up to this size is compressed at once when somebody asks for it, in memory: most logs are small, and setting
/// up a compressor costs more than they do.
const SMALL: usize = 64 * 1024;

/// The store of one log.
pub(super) struct Sink {
    options: LogOptions,
    path: PathBuf,
    file: Option<File>,
    compressed: Compressed,
    length: u64,
    mid_line: bool,
    bounded: bool,
    failure: Option<String>,
}

enum Compressed {
    /// The log itself, while it is small. Stays empty if the log is not to be compressed.
    Small(Vec<u8>),
    /// On its way into the file.
    Streaming(Box<GzEncoder<BufWriter<File>>>),
    /// All there, in the file.
    Done { length: u64 },
    /// Given up, for the reason in [`Sink::failure`].
    Failed,
}

impl Sink {
    pub(super) fn new(directory: &Path, options: LogOptions) -> Self {
        Sink {
            options,
            path: directory.join("live.log"),
            file: None,
            compressed: Compressed::Small(Vec::new()),
            length: 0,
            mid_line: false,
            bounded: false,
            failure: None,
        }
    }

    /// Bytes that readers can see.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Why bytes were lost that should not have been.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The task's output.
    pub(super) fn output(&mut self, bytes: &[u8]) {
        let room = match self.options.max_size {
            None => u64::MAX,
            Some(bound) => bound.saturating_sub(self.length),
        };
        let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if fits > 0 && !self.bounded {
            self.append(&bytes[..fits]);
        }
        if fits < bytes.len() && !self.bounded {
            self.bounded = true;
            let bound = self.options.max_size.unwrap_or_default();
            self.line(
                LogLevel::Warning,
                &format!(
                    "This log has reached its bound of {bound} bytes: output after this line is not kept."
                ),
            );
        }
    }

    /// A line of the worker's own, on a line of its own. The bound does not apply: these are few, and say how it ended.
    pub(super) fn line(&mut self, level: LogLevel, text: &str) {
        let mut lines = line::format(level, text, Utc::now());
        if self.mid_line {
            lines.insert(0, '\n');
        }
        self.append(lines.as_bytes());
    }

    /// A file to read the log from, at a position of its own.
    pub(super) fn reader(&mut self) -> Result<File> {
        let made = self.file().map(drop);
        made.and_then(|()| File::open(&self.path))
            .map_err(|error| self.unavailable(&error))
    }

    /// No byte comes after this.
    pub(super) fn finish(&mut self) {
        let compressed = std::mem::replace(&mut self.compressed, Compressed::Failed);
        self.compressed = match compressed {
            Compressed::Streaming(encoder) => match finish(*encoder) {
                Ok(length) => Compressed::Done { length },
                Err(error) => {
                    self.fail("compressing", &error);
                    Compressed::Failed
                }
            },
            other => other,
        };
    }

    /// The whole log, after [`Sink::finish`].
    pub(super) fn closed(&mut self) -> Result<ClosedLog> {
        let (encoding, path, encoded_length) = if self.options.compress {
            let path = self.compressed_path();
            if let Compressed::Small(bytes) = &self.compressed {
                let length =
                    compress(bytes, self.options.level, &path).map_err(|error| self.unavailable(&error))?;
                self.compressed = Compressed::Done { length };
            }
            let Compressed::Done { length } = self.compressed else {
                return Err(Error::new(
                    ErrorKind::ResourceUnavailable,
                    self.failure
                        .clone()
                        .unwrap_or_else(|| "the log could not be compressed".to_owned()),
                ));
            };
            ("gzip", path, length)
        } else {
            let made = self.file().map(drop);
            made.map_err(|error| self.unavailable(&error))?;
            ("identity", self.path.clone(), self.length)
        };
        let file = File::open(&path).map_err(|error| self.unavailable(&error))?;
        Ok(ClosedLog {
            content: file.into(),
            info: ClosedLogInfo {
                content_encoding: encoding.to_owned(),
                encoded_length,
                length: self.length,
                complete: self.failure.is_none() && !self.bounded,
            },
        })
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        let mut file = match self.file() {
            Ok(file) => file,
            Err(error) => return self.fail("creating", &error),
        };
        if let Err(error) = file.write_all(bytes) {
            return self.fail("writing", &error);
        }
        self.length += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
        }
        if let Some(mirror) = &self.options.mirror {
            mirror(bytes);
        }
        if self.options.compress
            && let Err(error) = self.compress_more(bytes)
        {
            self.compressed = Compressed::Failed;
            self.fail("compressing", &error);
        }
    }

    fn compress_more(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.compressed {
            Compressed::Small(small) if small.len() + bytes.len() <= SMALL => {
                small.extend_from_slice(bytes);
                Ok(())
            }
            Compressed::Small(small) => {
                let small = std::mem::take(small);
                let file = BufWriter::with_capacity(256 * 1024, create(&self.compressed_path())?);
                let mut encoder = GzEncoder::new(file, Compression::new(self.options.level));
                encoder.write_all(&small)?;
                encoder.write_all(bytes)?;
                self.compressed = Compressed::Streaming(Box::new(encoder));
                Ok(())
            }
            Compressed::Streaming(encoder) => encoder.write_all(bytes),
            Compressed::Done { .. } | Compressed::Failed => Ok(()),
        }
    }

    fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(create(&self.path)?);
        }
        self.file
            .as_ref()
            .ok_or_else(|| io::Error::other("the log's file is gone"))
    }

    fn compressed_path(&self) -> PathBuf {
        self.path.with_extension("log.gz")
    }

    fn fail(&mut self, what: &str, error: &io::Error) {
        if self.failure.is_none() {
            let text = format!("{what} the task's log {} failed: {error}", self.path.display());
            tracing::error!("{text}; free space on that disk, or give the worker another state directory");
            self.failure = Some(text);
        }
    }

    fn unavailable(&self, error: &io::Error) -> Error {
        Error::new(
            ErrorKind::ResourceUnavailable,
            format!(
                "the task's log {} cannot be read back: {error}",
                self.path.display()
            ),
        )
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn finish(encoder: GzEncoder<BufWriter<File>>) -> io::Result<u64> {
    let file = encoder
        .finish()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    Ok(file.metadata()?.len())
}

fn compress(bytes: &[u8], level: u32, path: &Path) -> io::Result<u64> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(64 + bytes.len() / 2), Compression::new(level));
    encoder.write_all(bytes)?;
    let compressed = encoder.finish()?;
    create(path)?.write_all(&compressed)?;
    Ok(compressed.len() as u64)
}
