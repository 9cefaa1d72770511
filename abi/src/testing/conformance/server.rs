//! What a proxy leads to: a small HTTP server on a unix socket, on threads of its own.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Failure;

/// Longer requests are not read to their end.
const LONGEST_REQUEST: usize = 64 * 1024;

/// A task that keeps a connection open and sends nothing has no more time than this.
const SILENCE: Duration = Duration::from_secs(30);

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
}

/// Status and body.
pub(super) type Answer = (u16, String);

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

struct Shared {
    requests: Mutex<Vec<Request>>,
    handler: Box<Handler>,
    stopping: AtomicBool,
}

/// Serves until it is dropped.
pub(super) struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves at `name` in `directory`. The handler may block: each connection has a thread.
    pub(super) fn start(
        directory: &Path,
        name: &str,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Result<Server, Failure> {
        let path = directory.join(format!("{name}.sock"));
        let trouble = |error: std::io::Error| {
            Failure::new(format!(
                "the check cannot serve at {}: {error}; a shorter place can be chosen with TMPDIR",
                path.display()
            ))
        };
        let listener = UnixListener::bind(&path).map_err(trouble)?;
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            handler: Box::new(handler),
            stopping: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let listening = std::thread::Builder::new()
            .name("check-server".into())
            .spawn(move || listen(&listener, &serving))
            .map_err(trouble)?;
        Ok(Server {
            path,
            shared,
            listening: Some(listening),
        })
    }

    /// Where it serves.
    pub(super) fn endpoint(&self) -> String {
        self.path.display().to_string()
    }

    /// What was asked for so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.shared
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // It waits for connections; this is the last one.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let (Some(listening), true) = (self.listening.take(), woken) {
            // It has panicked, or it has not: it has ended.
            let _ = listening.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let (Ok(stream), serving) = (stream, Arc::clone(shared)) else {
            continue;
        };
        // Without a thread nobody answers, and the case says what it misses.
        let _ = std::thread::Builder::new()
            .name("check-request".into())
            .spawn(move || {
                // Whoever asked sees a broken connection.
                let _ = serve(stream, &serving);
            });
    }
}

fn serve(mut stream: UnixStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut head = Vec::new();
    let mut chunk = [0_u8; 4096];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let length = stream.read(&mut chunk)?;
        if length == 0 || head.len() > LONGEST_REQUEST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&chunk[..length]);
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.split_ascii_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let request = Request {
        method: word(),
        path: word(),
    };
    shared
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request.clone());
    let (status, body) = (shared.handler)(&request);
    let answer = format!(
        "HTTP/1.1 {status} Answer\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes())
}
