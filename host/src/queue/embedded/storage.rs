//! Where artifacts' bytes are: files in the state directory, reached through signed URLs that end.
//!
//! A file is written under a temporary name and gets its own, random one when it is complete; the database then says
//! that it is this artifact's content. So readers see all of one upload or all of another, whatever is going on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::error::ApiError;
use super::record::Millis;
use super::server::{Server, is_head};
use super::store_artifacts::ObjectRow;

/// What storage URLs begin with.
pub(super) const PREFIX: &str = "/storage/";
/// Bodies up to this size are taken at once and written in one go.
const SMALL: u64 = 256 * 1024;
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Whose content it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectId {
    pub(super) task: String,
    pub(super) run: u32,
    pub(super) name: String,
}

impl ObjectId {
    /// What is signed: the path once decoded, since clients differ in how they encode it.
    fn canonical(&self) -> String {
        format!("{}/{}/{}", self.task, self.run, self.name)
    }

    fn parse(path: &str) -> Option<Self> {
        let path = percent_decode_str(path.strip_prefix(PREFIX)?)
            .decode_utf8()
            .ok()?;
        let (task, rest) = path.split_once('/')?;
        let (run, name) = rest.split_once('/')?;
        Some(Self {
            task: task.to_owned(),
            run: run.parse().ok()?,
            name: name.to_owned(),
        })
    }
}

/// The folder and how full it is.
pub(super) struct Storage {
    folder: PathBuf,
    used: AtomicU64,
    most: u64,
    started: Instant,
}

impl Storage {
    /// The folders have to exist.
    pub(super) fn new(folder: PathBuf, used: u64, most: u64) -> Self {
        Self {
            folder,
            used: AtomicU64::new(used),
            most,
            started: Instant::now(),
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where complete files are.
    pub(super) fn objects(folder: &Path) -> PathBuf {
        folder.join("objects")
    }

    /// Where files are written.
    pub(super) fn incoming(folder: &Path) -> PathBuf {
        folder.join("incoming")
    }

    fn file(&self, name: &str) -> PathBuf {
        Self::objects(&self.folder).join(name)
    }

    fn reserve(&self, length: u64) -> Result<Reserved<'_>, ApiError> {
        let fits = |used: u64| used.checked_add(length).filter(|sum| *sum <= self.most);
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(Reserved {
                storage: self,
                length,
            }),
            Err(used) => Err(ApiError::with_status(
                StatusCode::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                format!(
                    "the artifact's {length} bytes do not fit: {used} of {} bytes are used; raise the limit or let old tasks \
                     expire",
                    self.most
                ),
            )),
        }
    }

    /// Deletes the files of objects that are no more. Blocks.
    pub(super) fn delete(&self, objects: &[ObjectRow]) {
        for object in objects {
            self.used.fetch_sub(object.length, Ordering::AcqRel);
            let path = self.file(&object.file);
            super::fault::point("object forgotten");
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an artifact's file could not be deleted");
            }
        }
    }
}

/// Bytes that are counted as used until it is clear whether they are.
struct Reserved<'a> {
    storage: &'a Storage,
    length: u64,
}

impl Reserved<'_> {
    fn keep(mut self) {
        self.length = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.storage.used.fetch_sub(self.length, Ordering::AcqRel);
    }
}

/// A URL that allows one method on one object for a while.
pub(super) fn signed_url(
    server: &Server,
    base_url: &str,
    method: &str,
    object: &ObjectId,
    expires: Millis,
) -> Result<String, ApiError> {
    let signature = server
        .authority
        .sign_storage(method, &object.canonical(), expires)?;
    let name = utf8_percent_encode(&object.name, SEGMENT);
    let ObjectId { task, run, .. } = object;
    Ok(format!(
        "{base_url}{PREFIX}{task}/{run}/{name}?expires={expires}&signature={signature}"
    ))
}

pub(super) async fn handle(server: Arc<Server>, request: Request) -> Result<Response, ApiError> {
    let method = request.method().clone();
    let object = ObjectId::parse(request.uri().path())
        .ok_or_else(|| ApiError::not_found("this is no storage URL; ask the queue for one"))?;
    let signed_method = match method {
        Method::PUT => "PUT",
        Method::GET | Method::HEAD => "GET",
        _ => {
            let message = "storage knows GET, HEAD and PUT";
            return Err(ApiError::with_status(
                StatusCode::METHOD_NOT_ALLOWED,
                "InvalidRequestArguments",
                message,
            ));
        }
    };
    let (mut expires, mut signature) = (0, String::new());
    for (key, value) in url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match &*key {
            "expires" => expires = value.parse().unwrap_or(0),
            "signature" => signature = value.into_owned(),
            _ => {}
        }
    }
    server
        .authority
        .check_storage(signed_method, &object.canonical(), expires, &signature)?;
    if signed_method == "PUT" {
        put(&server, object, request).await
    } else {
        get(&server, object, request).await
    }
}

async fn put(server: &Arc<Server>, object: ObjectId, request: Request) -> Result<Response, ApiError> {
    // In a task of its own: with its client gone, a call is dropped wherever it is, and between the file and the database
    // that would leave a file that nobody knows, or bytes that nobody counts.
    let receiving = tokio::spawn(receive(Arc::clone(server), object, request));
    receiving.await.map_err(ApiError::internal)?
}

async fn receive(server: Arc<Server>, object: ObjectId, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let text = |name: header::HeaderName| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let length: u64 = text(header::CONTENT_LENGTH).parse().map_err(|_| {
        let message = "an upload has to say its Content-Length";
        ApiError::with_status(StatusCode::LENGTH_REQUIRED, "MissingContentLength", message)
    })?;
    let largest = server.config.max_artifact_size;
    if length > largest {
        return Err(ApiError::too_large(format!(
            "the artifact has {length} bytes, and {largest} are the most allowed"
        )));
    }
    let (content_type, content_encoding) = (text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING));
    let reserved = server.storage.reserve(length)?;
    let file = slugid::v4();
    let incoming = Incoming {
        path: Some(Storage::incoming(&server.storage.folder).join(&file)),
    };
    let target = server.storage.file(&file);
    incoming.receive(body, length, &target).await?;
    super::fault::point("upload stored");

    let row = ObjectRow {
        file,
        content_type,
        content_encoding,
        length,
        stored: server.core.now(),
    };
    let written = row.clone();
    let replaced = server.core.write(move |core| {
        let ObjectId { task, run, name } = &object;
        let artifact = core.store.artifact(task, *run, name)?;
        if artifact.is_none_or(|artifact| artifact.storage != "s3") {
            return Err(ApiError::not_found(format!(
                "there is no artifact {name:?} any more that takes content"
            )));
        }
        let replaced = core.store.object(task, *run, name)?;
        core.store.put_object(task, *run, name, &row)?;
        Ok(replaced)
    });
    match replaced.await {
        Ok(replaced) => {
            reserved.keep();
            if let Some(old) = replaced {
                let server = Arc::clone(&server);
                tokio::task::spawn_blocking(move || server.storage.delete(&[old]));
            }
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(header::ETAG, etag(&written)?);
            Ok(response)
        }
        Err(error) => {
            drop(reserved);
            let _ = tokio::fs::remove_file(target).await;
            Err(error)
        }
    }
}

/// A file that is being written, and that goes away unless it is completed.
struct Incoming {
    path: Option<PathBuf>,
}

impl Incoming {
    async fn receive(mut self, body: Body, length: u64, target: &Path) -> Result<(), ApiError> {
        let path = self.path.clone().unwrap_or_default();
        if length <= SMALL {
            let most = usize::try_from(length).unwrap_or(usize::MAX);
            let bytes = axum::body::to_bytes(body, most)
                .await
                .map_err(|error| broken_off(&error))?;
            check_length(bytes.len() as u64, length)?;
            let target = target.to_owned();
            let write = tokio::task::spawn_blocking(move || write_at_once(&path, &bytes, &target));
            write
                .await
                .map_err(ApiError::internal)?
                .map_err(|error| not_written(&error))?;
        } else {
            let received = stream_to(&path, body, length).await?;
            check_length(received, length)?;
            tokio::fs::rename(&path, target)
                .await
                .map_err(|error| not_written(&error))?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Mostly there is none: the upload broke off before the first byte.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn write_at_once(path: &Path, bytes: &[u8], target: &Path) -> io::Result<()> {
    io::Write::write_all(&mut super::files::create_private(path)?, bytes)?;
    std::fs::rename(path, target)
}

async fn stream_to(path: &Path, body: Body, length: u64) -> Result<u64, ApiError> {
    let file = super::files::create_private(path).map_err(|error| not_written(&error))?;
    let mut file = tokio::io::BufWriter::with_capacity(256 * 1024, tokio::fs::File::from_std(file));
    let mut body = body.into_data_stream();
    let mut received = 0;
    while let Some(piece) = body.next().await {
        let piece: Bytes = piece.map_err(|error| broken_off(&error))?;
        received += piece.len() as u64;
        if received > length {
            break;
        }
        file.write_all(&piece)
            .await
            .map_err(|error| not_written(&error))?;
    }
    file.flush().await.map_err(|error| not_written(&error))?;
    Ok(received)
}

fn check_length(received: u64, promised: u64) -> Result<(), ApiError> {
    if received == promised {
        return Ok(());
    }
    Err(ApiError::with_status(
        StatusCode::BAD_REQUEST,
        "IncompleteBody",
        format!("the upload has {received} bytes and promised {promised}"),
    ))
}

fn broken_off(error: &dyn std::error::Error) -> ApiError {
    ApiError::with_status(
        StatusCode::BAD_REQUEST,
        "IncompleteBody",
        format!("the upload broke off: {error}"),
    )
}

fn not_written(error: &io::Error) -> ApiError {
    if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        let message = "the disk of the embedded queue is full; make room and try again";
        return ApiError::with_status(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", message);
    }
    ApiError::internal(format_args!("an artifact could not be written ({error})"))
}

/// The content as of now. Between looking it up and opening its file, another upload may have taken its place.
async fn open(
    server: &Arc<Server>,
    object: ObjectId,
) -> Result<(ObjectRow, tokio::fs::File, PathBuf), ApiError> {
    let object = Arc::new(object);
    let mut last = None;
    loop {
        let wanted = Arc::clone(&object);
        let found = server.core.read(move |core| {
            let ObjectId { task, run, name } = &*wanted;
            let row = core.store.object(task, *run, name)?;
            row.ok_or_else(|| {
                ApiError::not_found(format!("nothing has been uploaded for artifact {name:?} yet"))
            })
        });
        let row = found.await?;
        let path = server.storage.file(&row.file);
        match tokio::fs::File::open(&path).await {
            Ok(file) => return Ok((row, file, path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && last.as_ref() != Some(&row.file) => {
                last = Some(row.file);
            }
            Err(error) => {
                return Err(ApiError::internal(format_args!(
                    "an artifact's file {} cannot be read ({error})",
                    path.display()
                )));
            }
        }
    }
}

async fn get(server: &Arc<Server>, object: ObjectId, request: Request) -> Result<Response, ApiError> {
    let (object, mut file, path) = open(server, object).await?;
    let actual = file.metadata().await.map_err(ApiError::internal)?.len();
    if actual != object.length {
        // A machine that lost power right after the upload; never served short.
        return Err(ApiError::internal(format_args!(
            "an artifact's file {} has {actual} bytes instead of {}",
            path.display(),
            object.length
        )));
    }
    let range = if is_about_another(request.headers(), &etag(&object)?) {
        Range::Whole
    } else {
        requested_range(request.headers(), object.length)
    };
    let (status, start, length) = match range {
        Range::Whole => (StatusCode::OK, 0, object.length),
        Range::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
        Range::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
    };
    let body = if is_head(request.method()) || length == 0 {
        Body::empty()
    } else {
        file.seek(io::SeekFrom::Start(start))
            .await
            .map_err(ApiError::internal)?;
        let piece = usize::try_from(length.min(SMALL)).unwrap_or(1).max(1);
        Body::from_stream(ReaderStream::with_capacity(file.take(length), piece))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let text = |value: &str| HeaderValue::from_str(value).map_err(ApiError::internal);
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::ETAG, etag(&object)?);
    if !object.content_type.is_empty() {
        headers.insert(header::CONTENT_TYPE, text(&object.content_type)?);
    }
    if !object.content_encoding.is_empty() {
        headers.insert(header::CONTENT_ENCODING, text(&object.content_encoding)?);
    }
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let value = format!("bytes {start}-{}/{}", start + length - 1, object.length);
            headers.insert(header::CONTENT_RANGE, text(&value)?);
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            headers.insert(
                header::CONTENT_RANGE,
                text(&format!("bytes */{}", object.length))?,
            );
        }
        _ => {}
    }
    Ok(response)
}

fn etag(object: &ObjectRow) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(&format!("\"{}\"", object.file)).map_err(ApiError::internal)
}

/// Whether a range is wanted only of a content that is not this one: the rest of what the client has had before.
fn is_about_another(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    headers.get(header::IF_RANGE).is_some_and(|wanted| wanted != etag)
}

/// Which part of an object a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    Whole,
    Part { start: u64, length: u64 },
    Unsatisfiable,
}

/// One range of bytes is understood; several at once, or other units, are answered with the whole.
pub(super) fn requested_range(headers: &HeaderMap, length: u64) -> Range {
    let value = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = value.and_then(|value| value.strip_prefix("bytes=")?.split_once('-')) else {
        return Range::Whole;
    };
    let (start, end) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.saturating_add(1).min(length)),
        (Ok(start), Err(_)) if last.trim().is_empty() => (start, length),
        (Err(_), Ok(tail)) if first.trim().is_empty() => (length.saturating_sub(tail), length),
        _ => return Range::Whole,
    };
    if start >= end {
        Range::Unsatisfiable
    } else {
        Range::Part {
            start,
            length: end - start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_what_was_there_before_is_not_cut_out_of_this() {
        let ours = HeaderValue::from_static("\"file\"");
        for (sent, another) in [(None, false), (Some("\"file\""), false), (Some("\"old\""), true)] {
            let sent = sent.map(|etag| (header::IF_RANGE, HeaderValue::from_static(etag)));
            assert_eq!(is_about_another(&HeaderMap::from_iter(sent), &ours), another);
        }
    }

    #[test]
    fn ranges_are_single_and_within_the_object() {
        let range = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(text))]);
            requested_range(&headers, 10)
        };
        for (text, expected) in [
            ("bytes=0-3", Range::Part { start: 0, length: 4 }),
            ("bytes=4-", Range::Part { start: 4, length: 6 }),
            ("bytes=4-99", Range::Part { start: 4, length: 6 }),
            ("bytes=-3", Range::Part { start: 7, length: 3 }),
            ("bytes=-99", Range::Part { start: 0, length: 10 }),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=0-1,3-4", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("bytes=5-4", Range::Whole),
        ] {
            assert_eq!(range(text), expected, "{text}");
        }
    }
}
