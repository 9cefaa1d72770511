//! Content from elsewhere, as files: artifacts of tasks, what an index names, URLs, and content given as it is.
//!
//! A download is checked while it arrives and tried again from its beginning when the network fails. Those who ask for
//! one public URL at one time share one download; what is fetched with a task's scopes is never shared.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand::Rng as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tcw_abi::services::{FetchRequest, FetchSource, Fetched, FetchedInfo};
use tcw_abi::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use super::http::{self, Http, SignedHttp, no_answer};
use super::scratch;
use crate::queue::{Unread, bounded, retry_after};

/// How often a download is begun.
const ATTEMPTS: u32 = 6;
/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A download that has not moved for this long has failed.
const STALL: Duration = Duration::from_secs(60);
/// The longest content that is fetched, if nothing else is said: a server must not be able to fill the disk.
pub const LONGEST: u64 = 16 << 30;
/// The longest pause, also when the server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The most bytes that the answer of an index may have.
const INDEX_ANSWER: usize = 1 << 20;
/// What is hashed and written at one time.
const BATCH: usize = 1 << 20;

/// What stays as it is in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Gets content for all libraries.
pub struct Fetcher {
    root_url: String,
    longest: u64,
    stall: Duration,
    in_flight: Mutex<HashMap<String, Weak<OnceCell<Arc<Stored>>>>>,
}

impl Fetcher {
    /// Artifacts and indexes are those of the deployment at `root_url`.
    pub fn new(root_url: impl Into<String>) -> Self {
        Fetcher {
            root_url: root_url.into().trim_end_matches('/').to_owned(),
            longest: LONGEST,
            stall: STALL,
            in_flight: Mutex::default(),
        }
    }

    /// Refuses content of more than so many bytes.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.longest = bytes;
        self
    }

    /// Gives a server that sends nothing up after so long.
    #[must_use]
    pub fn stalling_at_most(mut self, time: Duration) -> Self {
        self.stall = time;
        self
    }

    /// Gets the content, and refuses it if it is not what was asked for.
    pub async fn fetch(
        &self,
        request: FetchRequest,
        http: &Http,
        signed: &dyn SignedHttp,
    ) -> Result<Fetched> {
        let stored = match &request.source {
            FetchSource::Raw { text } => {
                Arc::new(Stored::of_bytes(http.scratch(), text.clone().into()).await?)
            }
            FetchSource::Base64 { text } => {
                let bytes = BASE64.decode(text.trim()).map_err(|error| {
                    Error::malformed(format!("content given as base64 is not base64: {error}"))
                })?;
                Arc::new(Stored::of_bytes(http.scratch(), bytes.into()).await?)
            }
            FetchSource::Url { url } => {
                // What cannot be parsed is not shown: nobody can tell what in it is secret.
                let parsed = Url::parse(url).map_err(|error| {
                    Error::malformed(format!("the URL of something to fetch is not one: {error}"))
                })?;
                let what = http::shown(&parsed);
                if !matches!(parsed.scheme(), "http" | "https") {
                    return Err(Error::malformed(format!(
                        "{what} cannot be fetched: only http and https URLs can"
                    )));
                }
                self.shared(url, || self.download(http, parsed.clone(), &what))
                    .await?
            }
            FetchSource::Artifact { task_id, artifact } => {
                Arc::new(self.artifact(task_id, artifact, http, signed).await?)
            }
            FetchSource::Index { namespace, artifact } => {
                let task_id = self.indexed(namespace, signed).await?;
                Arc::new(self.artifact(&task_id, artifact, http, signed).await?)
            }
        };
        if let Some(wanted) = &request.sha256
            && !wanted.eq_ignore_ascii_case(&stored.info.sha256)
        {
            return Err(Error::new(
                ErrorKind::TaskFailed,
                format!(
                    "{} has the SHA-256 {}, not {wanted}: it has changed, or the task names the wrong hash",
                    shown(&request.source),
                    stored.info.sha256
                ),
            ));
        }
        Ok(Fetched {
            content: File::open(&stored.path)?.into(),
            info: stored.info.clone(),
        })
    }

    /// One download for all who ask for `key` before it is there.
    async fn shared<F, D>(&self, key: &str, download: F) -> Result<Arc<Stored>>
    where
        F: FnOnce() -> D,
        D: Future<Output = Result<Stored>>,
    {
        let cell = {
            let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.retain(|_, cell| cell.strong_count() > 0);
            match in_flight.get(key).and_then(Weak::upgrade) {
                Some(cell) => cell,
                None => {
                    let cell = Arc::new(OnceCell::new());
                    in_flight.insert(key.to_owned(), Arc::downgrade(&cell));
                    cell
                }
            }
        };
        cell.get_or_try_init(|| async { download().await.map(Arc::new) })
            .await
            .cloned()
    }

    async fn artifact(
        &self,
        task_id: &str,
        artifact: &str,
        http: &Http,
        signed: &dyn SignedHttp,
    ) -> Result<Stored> {
        let what = format!("artifact {artifact} of task {task_id}");
        let url = self.api("queue", &["task", task_id, "artifacts", artifact])?;
        let found = retried(&what, || async {
            let response = self.get(signed, &url).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(Found::Here(self.store(http.scratch(), response, &what).await?));
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            match location {
                Some(location) if status.is_redirection() => {
                    let location = url.join(location).map_err(|error| {
                        Error::internal(format!("{what}: the queue redirects to no URL: {error}"))
                    })?;
                    Ok(Found::Elsewhere(location))
                }
                _ => Err(Unfetched::answered(&what, &response)),
            }
        });
        match found.await? {
            Found::Here(stored) => Ok(stored),
            Found::Elsewhere(location) => self.download(http, location, &what).await,
        }
    }

    async fn indexed(&self, namespace: &str, signed: &dyn SignedHttp) -> Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Indexed {
            task_id: String,
        }
        let what = format!("index {namespace}");
        let url = self.api("index", &["task", namespace])?;
        retried(&what, || async {
            let response = self.get(signed, &url).await?;
            if !response.status().is_success() {
                return Err(Unfetched::answered(&what, &response));
            }
            let body = match tokio::time::timeout(self.stall, bounded(response, INDEX_ANSWER)).await {
                Ok(Ok(body)) => body,
                Ok(Err(Unread::Failed(error))) => return Err(no_answer(error).into()),
                Ok(Err(Unread::TooLong)) => return Err(not_an_index("it is too long").into()),
                Err(_) => return Err(self.stalled().into()),
            };
            // What cannot be read comes from somebody in between, or got damaged.
            let indexed: Indexed = serde_json::from_slice(&body).map_err(not_an_index)?;
            Ok(indexed.task_id)
        })
        .await
    }

    /// A signed request that is answered in time.
    async fn get(&self, signed: &dyn SignedHttp, url: &Url) -> Result<Response> {
        let sent = signed.send(Method::GET, url.clone(), HeaderMap::new(), Body::default());
        match tokio::time::timeout(self.stall, sent).await {
            Ok(answer) => answer,
            Err(_) => Err(self.stalled()),
        }
    }

    async fn download(&self, http: &Http, url: Url, what: &str) -> Result<Stored> {
        retried(what, || async {
            let sent = http.plain(&url).get(url.clone()).send();
            let response = match tokio::time::timeout(self.stall, sent).await {
                Ok(answer) => answer.map_err(no_answer)?,
                Err(_) => return Err(self.stalled().into()),
            };
            if !response.status().is_success() {
                return Err(Unfetched::answered(what, &response));
            }
            Ok(self.store(http.scratch(), response, what).await?)
        })
        .await
    }

    fn stalled(&self) -> Error {
        Error::new(
            ErrorKind::ResourceUnavailable,
            format!("nothing arrived for {:.1} s", self.stall.as_secs_f64()),
        )
    }

    async fn store(&self, directory: &Path, mut response: Response, what: &str) -> Result<Stored> {
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        if response
            .content_length()
            .is_some_and(|length| length > self.longest)
        {
            return Err(self.too_long(what));
        }
        let mut storing = Storing::new(directory).await?;
        let (mut batch, mut waiting, mut length) = (Vec::new(), 0, 0_u64);
        loop {
            // A body that ends before its Content-Length is an error of the transport.
            let chunk = match tokio::time::timeout(self.stall, response.chunk()).await {
                Ok(chunk) => chunk.map_err(no_answer)?,
                Err(_) => return Err(self.stalled()),
            };
            let Some(chunk) = chunk else { break };
            length += chunk.len() as u64;
            if length > self.longest {
                return Err(self.too_long(what));
            }
            waiting += chunk.len();
            batch.push(chunk);
            if waiting >= BATCH {
                storing = storing.write(std::mem::take(&mut batch)).await?;
                waiting = 0;
            }
        }
        Ok(storing.write(batch).await?.finish(content_type))
    }

    /// Not tried again: it would be as long the next time.
    fn too_long(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::TaskFailed,
            format!(
                "{what} is longer than the {} bytes that this worker fetches at most; split it, or have something \
                 smaller made for this task",
                self.longest
            ),
        )
    }

    fn api(&self, service: &str, path: &[&str]) -> Result<Url> {
        let path: Vec<String> = path
            .iter()
            .map(|part| utf8_percent_encode(part, SEGMENT).to_string())
            .collect();
        let url = format!("{}/api/{service}/v1/{}", self.root_url, path.join("/"));
        Url::parse(&url).map_err(|error| Error::internal(format!("{url} is not a URL: {error}")))
    }
}

/// Content in a file of the host's.
struct Stored {
    path: PathBuf,
    info: FetchedInfo,
}

impl Stored {
    async fn of_bytes(directory: &Path, bytes: Bytes) -> Result<Self> {
        let storing = Storing::new(directory).await?;
        Ok(storing.write(vec![bytes]).await?.finish(None))
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // Those who fetched it have descriptors of their own.
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a fetched file is left until the next start");
    }
}

/// A file on its way. What blocks or takes time is done on the threads for that.
struct Storing {
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
    kept: bool,
}

impl Storing {
    async fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("fetched-{}", slugid::nice()));
        blocking(move || {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            Ok(Storing {
                path,
                file,
                hash: Sha256::new(),
                length: 0,
                kept: false,
            })
        })
        .await
    }

    async fn write(mut self, chunks: Vec<Bytes>) -> io::Result<Self> {
        blocking(move || {
            for chunk in chunks {
                self.hash.update(&chunk);
                self.length += chunk.len() as u64;
                self.file.write_all(&chunk)?;
            }
            Ok(self)
        })
        .await
    }

    fn finish(mut self, content_type: Option<String>) -> Stored {
        self.kept = true;
        Stored {
            path: std::mem::take(&mut self.path),
            info: FetchedInfo {
                length: self.length,
                sha256: scratch::hex(&std::mem::take(&mut self.hash).finalize()),
                content_type,
            },
        }
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.path);
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Where an artifact is.
enum Found {
    Here(Stored),
    Elsewhere(Url),
}

/// An attempt that failed, and how long the server asks to be left alone.
struct Unfetched {
    error: Error,
    asked: Option<Duration>,
}

impl From<Error> for Unfetched {
    fn from(error: Error) -> Self {
        Unfetched { error, asked: None }
    }
}

impl Unfetched {
    fn answered(what: &str, response: &Response) -> Self {
        Unfetched {
            error: answered(what, response.status()),
            asked: retry_after(response.headers(), SystemTime::now()),
        }
    }
}

/// Tries again while the server does not answer or says that it cannot.
async fn retried<T, F, R>(what: &str, work: F) -> Result<T>
where
    F: Fn() -> R,
    R: Future<Output = std::result::Result<T, Unfetched>>,
{
    let mut attempt = 1;
    loop {
        let Unfetched { error, asked } = match work().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        if error.kind() != ErrorKind::ResourceUnavailable {
            return Err(error);
        }
        if attempt >= ATTEMPTS {
            return Err(error.context(format!("{what}, after {attempt} attempts")));
        }
        let pause = FIRST_PAUSE * 2_u32.pow(attempt - 1);
        let pause = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
        let pause = pause + asked.unwrap_or_default().min(LONGEST_PAUSE);
        tracing::debug!(what, attempt, %error, ?pause, "fetching again");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

fn answered(what: &str, status: StatusCode) -> Error {
    let kind = match status {
        status if is_transient(status) => ErrorKind::ResourceUnavailable,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::MalformedPayload,
        _ => ErrorKind::ResourceNotFound,
    };
    let advice = match kind {
        ErrorKind::MalformedPayload => "; give the task the scopes that this needs",
        ErrorKind::ResourceNotFound => "; check the name, and whether it has expired",
        _ => "",
    };
    Error::new(kind, format!("{what}: the server answered {status}{advice}"))
}

fn not_an_index(problem: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::ResourceUnavailable,
        format!("what answers for the index is not one: {problem}"),
    )
}

fn shown(source: &FetchSource) -> String {
    match source {
        FetchSource::Artifact { task_id, artifact } => format!("artifact {artifact} of task {task_id}"),
        FetchSource::Index { namespace, artifact } => format!("artifact {artifact} of index {namespace}"),
        FetchSource::Url { url } => {
            Url::parse(url).map_or_else(|_| "the content of a URL".to_owned(), |url| http::shown(&url))
        }
        FetchSource::Raw { .. } => "the content given as text".to_owned(),
        FetchSource::Base64 { .. } => "the content given as base64".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body as Answer;
    use axum::routing::get;

    use super::*;
    use crate::services::http::WorkerSigned;

    /// A server of ten bytes, with and without saying that they are ten.
    async fn ten_bytes() -> String {
        let stream = || async {
            let pieces = [Ok::<_, io::Error>("01234"), Ok("56789")];
            Answer::from_stream(futures_util::stream::iter(pieces))
        };
        let router = Router::new()
            .route("/known", get(|| async { "0123456789" }))
            .route("/unknown", get(stream));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    #[tokio::test]
    async fn nothing_is_longer_than_it_may_be() {
        let root = ten_bytes().await;
        let scratch = tempfile::tempdir().unwrap();
        for (longest, fits) in [(9, false), (10, true)] {
            let http = Http::new(Arc::new(|| None), scratch.path().to_owned())
                .unwrap()
                .at_most(longest);
            let fetcher = Fetcher::new(&root).at_most(longest);
            let signed: &WorkerSigned = http.worker();
            for path in ["known", "unknown"] {
                let url = format!("{root}/{path}");
                let request = FetchRequest {
                    source: FetchSource::Url { url: url.clone() },
                    sha256: None,
                };
                match fetcher.fetch(request, &http, signed).await {
                    Ok(fetched) => assert!(fits && fetched.info.length == 10),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::TaskFailed, "{error}");
                        assert!(error.message().contains("9 bytes") && !fits, "{error}");
                    }
                }
                let head = tcw_abi::services::HttpHead {
                    method: "GET".to_owned(),
                    url,
                    ..Default::default()
                };
                let request = tcw_abi::services::HttpRequest { head, body: None };
                match http.request(request, signed).await {
                    Ok(_) => assert!(fits),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ResourceUnavailable, "{error}");
                        assert!(error.message().contains("9 bytes") && !fits, "{error}");
                    }
                }
            }
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
