//! What a worker is doing, for whoever asks on its machine.
//!
//! The worker answers on a unix socket in its own directory, which only its user can enter: each connection gets one
//! JSON document. So `tcw-host status` works beside any running worker and needs no credentials.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch::Receiver;

use crate::queue::{RunId, TaskId, format_time};
use crate::task::TaskControl;

/// How long somebody who asks, or is asked, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tasks that hold a slot, and how many were claimed. Cheap to clone; the dispatcher keeps it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    entries: Arc<Mutex<BTreeMap<(String, u32), Entry>>>,
    claimed: Arc<AtomicU64>,
    pauses: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    control: TaskControl,
}

impl Board {
    pub(super) fn add(&self, task: &TaskId, run: RunId, name: &str, control: TaskControl) {
        let entry = Entry {
            name: name.to_owned(),
            control,
        };
        self.entries().insert((task.to_string(), run.0), entry);
    }

    pub(super) fn count(&self, claims: u64) {
        self.claimed.fetch_add(claims, Ordering::Relaxed);
    }

    pub(super) fn claimed(&self) -> u64 {
        self.claimed.load(Ordering::Relaxed)
    }

    /// Why nothing is claimed at the moment; empty if there is no reason.
    pub(super) fn set_pauses(&self, pauses: Vec<String>) {
        *self.pauses() = pauses;
    }

    fn pauses(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remove(&self, task: &TaskId, run: RunId) {
        self.entries().remove(&(task.to_string(), run.0));
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, u32), Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> Vec<Value> {
        self.entries()
            .iter()
            .map(|((task, run), entry)| {
                let status = entry.control.status();
                json!({
                    "taskId": task,
                    "runId": run,
                    "name": entry.name,
                    "state": status.state,
                    "since": format_time(status.since),
                })
            })
            .collect()
    }
}

/// Where a worker with this directory answers.
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("status.sock")
}

/// Answers until the task is aborted. `about` is what changes only with the libraries, an object.
pub fn serve(
    directory: &Path,
    board: Board,
    about: Receiver<Value>,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let path = socket(directory);
    // What an earlier process left; the caller holds the directory's lock.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    Ok(tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: it passes.
                    tracing::warn!(%error, "somebody who asks for the worker's status cannot be answered");
                    tokio::time::sleep(PATIENCE).await;
                    continue;
                }
            };
            let mut answer = about.borrow().clone();
            answer["tasks"] = board.tasks().into();
            answer["claimingPaused"] = board.pauses().clone().into();
            tokio::spawn(async move {
                // Who does not read the answer does not need it.
                let _ = tokio::time::timeout(PATIENCE, write(stream, answer)).await;
            });
        }
    }))
}

async fn write(mut stream: UnixStream, answer: Value) -> io::Result<()> {
    stream.write_all(answer.to_string().as_bytes()).await?;
    stream.shutdown().await
}

/// Asks the worker that has this directory.
pub async fn ask(directory: &Path) -> io::Result<Value> {
    let asked = async {
        let mut stream = UnixStream::connect(socket(directory)).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        serde_json::from_str(&text).map_err(io::Error::other)
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::task_control;

    #[tokio::test]
    async fn a_worker_says_what_runs() {
        let directory = tempfile::tempdir().unwrap();
        let board = Board::default();
        let (_about, about) = tokio::sync::watch::channel(json!({ "pid": 7 }));
        let server = serve(directory.path(), board.clone(), about).unwrap();
        let (control, _receiver) = task_control();
        let since = format_time(control.status().since);
        let task: TaskId = "fN1SbArXTPSVFNUvaOlinQ".parse().unwrap();
        board.add(&task, RunId(1), "hello", control);
        assert_eq!(
            ask(directory.path()).await.unwrap(),
            json!({
                "pid": 7,
                "claimingPaused": [],
                "tasks": [{
                    "taskId": "fN1SbArXTPSVFNUvaOlinQ", "runId": 1, "name": "hello", "state": "claimed", "since": since,
                }],
            })
        );
        board.remove(&task, RunId(1));
        board.set_pauses(vec!["no reason".to_owned()]);
        assert_eq!(
            ask(directory.path()).await.unwrap(),
            json!({ "pid": 7, "claimingPaused": ["no reason"], "tasks": [] })
        );
        server.abort();
        let _ = server.await;
        assert!(ask(directory.path()).await.is_err());
    }
}
