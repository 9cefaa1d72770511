//! Where a log's bytes go: a file that readers follow, and the same compressed.
//!
//! Most logs are small. As long as one is, it is held in memory: there is a file only if somebody follows it, and it is
//! compressed at once when it is asked for. Making and removing files is most of what a short task costs otherwise.
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
use crate::services::scratch;

/// What is held in memory.
const SMALL: usize = 64 * 1024;

/// The store of one log.
pub(super) struct Sink {
    options: LogOptions,
    path: PathBuf,
    /// The whole log, while it is small.
    small: Option<Vec<u8>>,
    file: Option<File>,
    compressed: Compressed,
    length: u64,
    mid_line: bool,
    bounded: bool,
    failure: Option<String>,
}

enum Compressed {
    /// Not begun: the log is small, or not to be compressed.
    Not,
    /// On its way into the file.
    Streaming(Box<GzEncoder<BufWriter<File>>>),
    /// All there, in memory.
    Small(Vec<u8>),
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
            small: Some(Vec::new()),
            file: None,
            compressed: Compressed::Not,
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
        let made = self.file();
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
                    self.fail(&error);
                    Compressed::Failed
                }
            },
            other => other,
        };
    }

    /// The whole log, after [`Sink::finish`].
    pub(super) fn closed(&mut self) -> Result<ClosedLog> {
        let made = if self.options.compress {
            self.closed_compressed()
        } else {
            self.closed_plain()
        };
        let (file, content_encoding, encoded_length) = made.map_err(|error| self.unavailable(&error))?;
        Ok(ClosedLog {
            content: file.into(),
            info: ClosedLogInfo {
                content_encoding: content_encoding.to_owned(),
                encoded_length,
                length: self.length,
                complete: self.failure.is_none() && !self.bounded,
            },
        })
    }

    fn closed_compressed(&mut self) -> io::Result<(File, &'static str, u64)> {
        if let (Compressed::Not, Some(small)) = (&self.compressed, &self.small) {
            self.compressed = Compressed::Small(compress(small, self.options.level)?);
        }
        match &self.compressed {
            Compressed::Small(bytes) => Ok((self.in_memory(bytes)?, "gzip", bytes.len() as u64)),
            Compressed::Done { length } => Ok((File::open(self.compressed_path())?, "gzip", *length)),
            Compressed::Not | Compressed::Streaming(_) | Compressed::Failed => {
                let why = self.failure.clone();
                Err(io::Error::other(
                    why.unwrap_or_else(|| "it was not finished".to_owned()),
                ))
            }
        }
    }

    fn closed_plain(&self) -> io::Result<(File, &'static str, u64)> {
        let file = match &self.small {
            Some(small) => self.in_memory(small)?,
            None => File::open(&self.path)?,
        };
        Ok((file, "identity", self.length))
    }

    fn in_memory(&self, bytes: &[u8]) -> io::Result<File> {
        let directory = self.path.parent().unwrap_or(&self.path);
        scratch::of_bytes(directory, bytes)
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        if let Err(error) = self.keep(bytes) {
            self.compressed = Compressed::Failed;
            return self.fail(&error);
        }
        self.length += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
        }
        if let Some(mirror) = &self.options.mirror {
            mirror(bytes);
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self
            .small
            .as_ref()
            .is_some_and(|small| small.len() + bytes.len() > SMALL)
        {
            self.file()?;
            let small = self.small.take().unwrap_or_default();
            if self.options.compress {
                let file = BufWriter::with_capacity(256 * 1024, create(&self.compressed_path())?);
                let mut encoder = GzEncoder::new(file, Compression::new(self.options.level));
                encoder.write_all(&small)?;
                self.compressed = Compressed::Streaming(Box::new(encoder));
            }
        }
        if let Some(small) = &mut self.small {
            small.extend_from_slice(bytes);
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        if let Compressed::Streaming(encoder) = &mut self.compressed {
            encoder.write_all(bytes)?;
        }
        Ok(())
    }

    /// Makes the file, with what there is so far.
    fn file(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let mut file = create(&self.path)?;
            file.write_all(self.small.as_deref().unwrap_or_default())?;
            self.file = Some(file);
        }
        Ok(())
    }

    fn compressed_path(&self) -> PathBuf {
        self.path.with_extension("log.gz")
    }

    fn fail(&mut self, error: &io::Error) {
        if self.failure.is_none() {
            let text = format!("writing the task's log {} failed: {error}", self.path.display());
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

fn compress(bytes: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let compressed = Vec::with_capacity(64 + bytes.len() / 2);
    let mut encoder = GzEncoder::new(compressed, Compression::new(level));
    encoder.write_all(bytes)?;
    encoder.finish()
}
