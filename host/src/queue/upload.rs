//! Sending an artifact's bytes to storage, all of them or none: the number of bytes is promised up front, and a source
//! that turns out shorter or longer than promised breaks the request off instead of leaving something truncated.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use reqwest::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Url};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use super::http::{self, Failure};
use super::retry::RetryPolicy;
use super::{Endpoint, QueueError};

/// Read and sent in pieces of this many bytes.
const CHUNK: usize = 256 * 1024;
/// Pieces that are read before they are needed.
const AHEAD: usize = 3;
/// What is read of storage's words, and for how long: they only explain.
const WORDS: usize = 64 * 1024;
const WORDS_TIME: Duration = Duration::from_secs(10);

/// What is sent where.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The signed URL. It is a secret until it ends.
    pub put_url: String,
    /// The `Content-Type`.
    pub content_type: String,
    /// The `Content-Encoding`, for example `gzip`.
    pub content_encoding: Option<String>,
    /// Exactly how many bytes the body has.
    pub length: u64,
}

/// Where the bytes come from.
pub enum UploadBody {
    /// From memory.
    Bytes(Bytes),
    /// From an open file, from its beginning; the file's own position is neither used nor changed.
    File(Arc<File>),
    /// From whatever this opens, once for each attempt.
    Reopen(Box<dyn FnMut() -> io::Result<Reader> + Send>),
    /// From pieces that this begins to read, once for each attempt.
    Pieces(Arc<dyn Fn() -> Pieces + Send + Sync>),
    /// From something that can be read once only, so that there is one attempt only.
    Once(Reader),
}

/// Bytes piece by piece; an empty piece is the end.
pub type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// A source of bytes.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;

impl UploadBody {
    /// The same bytes for another upload, if they can be had again.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Bytes(bytes) => Some(Self::Bytes(bytes.clone())),
            Self::File(file) => Some(Self::File(Arc::clone(file))),
            Self::Pieces(begin) => Some(Self::Pieces(Arc::clone(begin))),
            Self::Reopen(_) | Self::Once(_) => None,
        }
    }
}

impl std::fmt::Debug for UploadBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes(_) => "Bytes",
            Self::File(_) => "File",
            Self::Reopen(_) => "Reopen",
            Self::Pieces(_) => "Pieces",
            Self::Once(_) => "Once",
        })
    }
}

/// Sends the body. Anything but 2xx is an error; 5xx, 429 and failures of the network are tried again if the body can
/// be read again.
pub(super) async fn upload(
    http: &reqwest::Client,
    upload: &Upload,
    body: UploadBody,
    policy: &RetryPolicy,
) -> Result<(), QueueError> {
    let url = Url::parse(&upload.put_url).map_err(|error| QueueError::Setup {
        message: format!("the upload URL is not a URL: {error}"),
    })?;
    let at = http::endpoint(&Method::PUT, &url);
    let mut body = Some(body);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let source = match Source::open(&mut body) {
            Ok(source) => source,
            Err(error) => {
                return Err(QueueError::Content {
                    at,
                    message: format!("it cannot be opened: {error}"),
                });
            }
        };
        let failure = match attempt(http, &url, &at, upload, source, policy.stall).await? {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if !failure.is_transient() || attempts >= policy.attempts || body.is_none() {
            return Err(failure.into_error(at, attempts));
        }
        let pause = policy.pause(attempts, failure.retry_after());
        tracing::debug!(at, attempts, ?pause, "uploading again");
        tokio::time::sleep(pause).await;
    }
}

async fn attempt(
    http: &reqwest::Client,
    url: &Url,
    at: &Endpoint,
    upload: &Upload,
    source: Source,
    stall: Duration,
) -> Result<Result<(), Failure>, QueueError> {
    let progress = Arc::new(Progress::default());
    let mut request = http
        .put(url.clone())
        .header(CONTENT_TYPE, &upload.content_type)
        .header(CONTENT_LENGTH, upload.length)
        .body(counted(source, upload.length, Arc::clone(&progress)));
    if let Some(encoding) = &upload.content_encoding {
        request = request.header(CONTENT_ENCODING, encoding);
    }
    let answer = async {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status.is_success() {
            // Who has stored it need not say anything.
            return Ok((status, headers, Bytes::new()));
        }
        let words = tokio::time::timeout(WORDS_TIME, http::bounded(response, WORDS)).await;
        let words = words.ok().and_then(Result::ok).unwrap_or_default();
        Ok::<_, reqwest::Error>((status, headers, words))
    };
    let outcome = tokio::select! {
        outcome = answer => Some(outcome),
        () = stalled(&progress, stall) => None,
    };
    // The source's own fault explains whatever the connection then reported.
    if let Some(message) = progress.fault() {
        return Err(QueueError::Content {
            at: at.clone(),
            message,
        });
    }
    Ok(match outcome {
        Some(Ok((status, headers, body))) => {
            if !status.is_success() {
                return Ok(Err(Failure::of_storage(status, &headers, &body)));
            }
            let sent = progress.sent.load(Ordering::Acquire);
            if sent != upload.length {
                let message = format!("the server took {sent} of {} bytes for all", upload.length);
                return Ok(Err(Failure::of_transport(message)));
            }
            Ok(())
        }
        Some(Err(error)) => Err(Failure::of_transport(http::with_causes(&error.without_url()))),
        None => Err(Failure::of_transport(format!(
            "nothing moved for {:.1} s",
            stall.as_secs_f64()
        ))),
    })
}

/// What the body tells about itself while the connection consumes it.
#[derive(Default)]
struct Progress {
    sent: AtomicU64,
    fault: Mutex<Option<String>>,
}

impl Progress {
    fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, message: String) -> io::Error {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
        io::Error::other(message)
    }
}

/// Ends when the body has not moved for so long.
async fn stalled(progress: &Progress, stall: Duration) {
    let mut last = None;
    loop {
        let now = progress.sent.load(Ordering::Acquire);
        if last == Some(now) {
            return;
        }
        last = Some(now);
        tokio::time::sleep(stall).await;
    }
}

/// A body of exactly `length` bytes. The last piece is held back until the source has been seen to end there, so that
/// a source that has grown breaks the request off too.
fn counted(source: Source, length: u64, progress: Arc<Progress>) -> reqwest::Body {
    let start = (source, None::<Bytes>, 0_u64);
    reqwest::Body::wrap_stream(stream::try_unfold(start, move |(mut source, held, mut read)| {
        let progress = Arc::clone(&progress);
        async move {
            let mut held = held;
            loop {
                let next = source
                    .next()
                    .await
                    .map_err(|error| progress.fail(format!("reading it failed: {error}")))?;
                read += next.len() as u64;
                if read > length {
                    return Err(progress.fail(format!("it is longer than the {length} bytes it had before")));
                }
                if next.is_empty() && read < length {
                    return Err(progress.fail(format!("it ended after {read} of {length} bytes")));
                }
                let ended = next.is_empty();
                let ready = held.replace(next);
                match ready {
                    Some(piece) if !piece.is_empty() => {
                        progress.sent.fetch_add(piece.len() as u64, Ordering::AcqRel);
                        return Ok::<_, io::Error>(Some((piece, (source, held, read))));
                    }
                    _ if ended => return Ok(None),
                    _ => {}
                }
            }
        }
    }))
}

/// One reading of a body, from its beginning.
enum Source {
    Bytes(Option<Bytes>),
    Pieces(Pieces),
    Reader(Reader),
}

impl Source {
    /// Takes the body if it can be read once only.
    fn open(body: &mut Option<UploadBody>) -> io::Result<Self> {
        match body.take() {
            Some(UploadBody::Bytes(bytes)) => {
                *body = Some(UploadBody::Bytes(bytes.clone()));
                Ok(Self::Bytes(Some(bytes)))
            }
            Some(UploadBody::File(file)) => {
                *body = Some(UploadBody::File(Arc::clone(&file)));
                Ok(Self::Pieces(read_ahead(file, 0, |_| ())))
            }
            Some(UploadBody::Pieces(begin)) => {
                let pieces = begin();
                *body = Some(UploadBody::Pieces(begin));
                Ok(Self::Pieces(pieces))
            }
            Some(UploadBody::Reopen(mut open)) => {
                let reader = open()?;
                *body = Some(UploadBody::Reopen(open));
                Ok(Self::Reader(reader))
            }
            Some(UploadBody::Once(reader)) => Ok(Self::Reader(reader)),
            None => Err(io::Error::other("it has been read already")),
        }
    }

    /// The next piece; an empty one is the end.
    async fn next(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.take().unwrap_or_default()),
            Self::Pieces(pieces) => match pieces.recv().await {
                Some(piece) => piece,
                None => Err(io::Error::other("who reads it has stopped")),
            },
            Self::Reader(reader) => {
                let mut piece = BytesMut::with_capacity(CHUNK);
                reader.read_buf(&mut piece).await?;
                Ok(piece.freeze())
            }
        }
    }
}

/// Reads a file from an offset to its end, on a thread for that, a few pieces ahead of whoever takes them. `each` sees
/// every piece before it is taken, the empty one at the end too.
pub(crate) fn read_ahead(
    file: Arc<File>,
    mut offset: u64,
    mut each: impl FnMut(&[u8]) + Send + 'static,
) -> Pieces {
    let (sender, pieces) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let piece = read_at(&file, offset);
            if let Ok(piece) = &piece {
                each(piece);
                offset += piece.len() as u64;
            }
            let ended = piece.as_ref().map_or(true, Bytes::is_empty);
            // Nobody takes it any more: the attempt is over.
            if sender.blocking_send(piece).is_err() || ended {
                return;
            }
        }
    });
    pieces
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64) -> io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), offset) {
            Ok(_) => return Ok(Bytes::from(buffer)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(windows)]
fn read_at(file: &File, offset: u64) -> io::Result<Bytes> {
    use std::os::windows::fs::FileExt as _;

    let mut buffer = vec![0; CHUNK];
    let length = file.seek_read(&mut buffer, offset)?;
    buffer.truncate(length);
    Ok(Bytes::from(buffer))
}
